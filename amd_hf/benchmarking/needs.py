"""How many cores a GPU needs to be fed, and what would make loading cheaper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_amd import AMDConfig
from ..flops import encoder_flops, finetuning_flops, pretraining_flops
from .loading import Profile


UTILIZATION = 0.45
"""Fraction of a GPU's rate that a good training step reaches."""

# Dense bf16 with float32 sums, 10^12 operations a second, by the vendors' data sheets. Where a sheet gives the rate
# with sparsity, half of it stands here. A name is looked for in that of the machine's GPU, the longest first.
BF16_TFLOPS = {
    "B200": 2250.0,  # NVIDIA Blackwell data sheet
    "H200": 989.0,  # NVIDIA H200 data sheet
    "H100": 989.0,  # NVIDIA H100 data sheet, SXM
    "H100 PCIe": 756.0,  # the same, PCIe
    "H100 NVL": 835.0,  # the same, NVL
    "A100": 312.0,  # NVIDIA A100 data sheet
    "L40S": 362.0,  # NVIDIA L40S data sheet
    "L4": 121.0,  # NVIDIA L4 data sheet
    "A10": 125.0,  # NVIDIA A10 data sheet
    "RTX 4090": 165.2,  # NVIDIA Ada architecture paper, appendix A
    "RTX 3090": 71.0,  # NVIDIA GA102 architecture paper, appendix A
    "MI300X": 1307.4,  # AMD Instinct MI300X data sheet
    "MI250X": 383.0,  # AMD Instinct MI250X data sheet, both dies
}
_SHOWN = ("H100", "A100", "L4", "RTX 4090")


@dataclass(frozen=True)
class Need:
    """What a device needs: clips per second at `UTILIZATION` of its rate, and the cores that load them."""

    device: str
    tflops: float
    clips_per_second: float
    num_cores: float


def flops_per_clip(config: AMDConfig, task: str) -> int:
    """Count the operations of a training step on one clip, or of the test on one view.

    The teacher of pre-training is counted by the width and the layers that the student is aligned with.
    """
    if task == "pretraining":
        teacher = None
        if config.teacher_hidden_size is not None:
            layers = max({*config.teacher_direct_layers, *config.teacher_generation_layers})
            teacher = AMDConfig(
                image_size=config.image_size, patch_size=config.patch_size, num_frames=config.num_frames,
                tubelet_size=config.tubelet_size, hidden_size=config.teacher_hidden_size, num_hidden_layers=layers,
                num_attention_heads=1, intermediate_size=4 * config.teacher_hidden_size, teacher_hidden_size=None,
            )  # fmt: skip
        return pretraining_flops(config, teacher)
    return finetuning_flops(config) if task == "finetuning" else encoder_flops(config, config.num_patches)


def devices(gpu: str | None, tflops: float | None) -> dict[str, float]:
    """Return devices and their rates: the one asked for, this machine's GPU, or some that people have.

    Raises:
        ValueError: an unknown name without `tflops`.
    """
    if tflops is not None:
        return {gpu or "your device": tflops}
    if gpu is None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    if gpu is None:
        return {name: BF16_TFLOPS[name] for name in _SHOWN}
    words = gpu.lower().replace("-", " ")
    known = max((name for name in BF16_TFLOPS if name.lower() in words), key=len, default=None)
    if known is None:
        raise ValueError(
            f"The rate of the GPU {gpu!r} is not known here: give it as `--device_tflops N`, in 10^12 bf16 operations "
            f"a second without sparsity; or name one of {', '.join(BF16_TFLOPS)} as `--gpu`."
        )
    return {gpu: BF16_TFLOPS[known]}


def needs(rates: Mapping[str, float], flops: int, clips_per_core: float) -> list[Need]:
    """Return what each device needs, if a core loads `clips_per_core` clips a second."""
    found = []
    for device, tflops in rates.items():
        clips = UTILIZATION * tflops * 1e12 / flops
        found.append(Need(device, tflops, clips, clips / clips_per_core if clips_per_core else float("inf")))
    return found


@dataclass(frozen=True)
class Setting:
    """What is measured: the settings that advice depends on.

    Args:
        task (`str`): `pretraining`, `finetuning` or `test`.
        decoder (`str`): the one that the run would take.
        repetitions (`int`): clips of each video in a step; `are_frames_shared`: whether they show the same frames.
        image_size (`int`): pixels of a clip's side.
        can_augment_on_device (`bool`): whether the run could, and does not yet.
    """

    task: str
    decoder: str
    repetitions: int
    are_frames_shared: bool
    image_size: int
    can_augment_on_device: bool


def advice(setting: Setting, profiles: Mapping[str, Profile], videos: Mapping[str, Any]) -> list[str]:
    """Return what would make loading cheaper, each with the figure that says so; the largest gain first."""
    own = profiles[setting.decoder]
    found: list[tuple[float, str]] = []

    def suggest(gain: float, option: str, why: str) -> None:
        found.append((gain, f"`{option}`: {why}; about {gain:.1f} times as many clips per core"))

    fastest = max(profiles, key=lambda name: profiles[name].clips_per_core)
    gain = profiles[fastest].clips_per_core / max(own.clips_per_core, 1e-9)
    if gain > 1.05:
        suggest(gain, f"--decoder {fastest}", f"measured above, beside {setting.decoder}")
    # A frame's cost is about that of its pixels; prepared videos need a short side little above the crop.
    decoding, short_side, enough = own.ratio("decode"), videos.get("short_side", 0), setting.image_size * 8 / 7
    if short_side > 1.25 * enough:
        why = f"the videos' short side is {short_side:g} pixels, more than clips of {setting.image_size} need"
        gain = 1 / (1 - decoding + decoding * (enough / short_side) ** 2)
        suggest(gain, f"amd-hf prepare --short_side {round(enough / 2) * 2}", why)
    elif (opening := own.ratio("open")) > 0.25:
        why = f"opening takes {opening:.0%} of the CPU time, and shorter films with close key frames open faster"
        suggest(1 / (1 - opening / 2), "amd-hf prepare", why)
    reading = own.ratio("fetch", "open", "decode")
    is_training = setting.task != "test"
    if is_training and setting.repetitions > 1 and not setting.are_frames_shared:
        why = f"one decoding serves {setting.repetitions} clips"
        suggest(1 / (1 - reading + reading / setting.repetitions), "--repetitions_share_frames true", why)
    elif is_training and reading > 0.4:
        number = 2 * setting.repetitions
        why = f"{number} clips of each video that is decoded instead of {setting.repetitions}, and fewer videos a step"
        suggest(1 / (1 - reading / 2), f"--num_repetitions {number}", why)
    augmenting = own.ratio("augment")
    if setting.can_augment_on_device and augmenting > 0.2:
        why = f"augmentation takes {augmenting:.0%} of the CPU time"
        suggest(1 / (1 - augmenting), "--augment_on_device true", why)
    if (fetching := own.ratio("fetch")) > 0.2:
        suggest(1 / (1 - fetching), "--cache_dir FOLDER", f"{fetching:.0%} of the CPU time goes into fetching")
    return [text for _, text in sorted(found, reverse=True)]
