"""Quantisers and adapters of others on our classifier and on Transformers' VideoMAE: same weights, biases of std 1.

python benchmarks/quantisation.py

A ViT-S at 16 x 224 x 224. Of each quantiser: the size of what it saves, milliseconds per clip (ours, theirs and ours
in float32 take turns), and how far the logits move, in units of their std. Of each of PEFT's methods, on smaller
clips: how many weights it trains, what a fresh adapter changes, and what merging does to one that is not. Prints two
tables and writes them to `benchmarks/results/`. Quantisers that are not installed are left out with a line;
`make test-quantisation` puts them into `build/quantisers`, for `PYTHONPATH`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from common import keep, machine_line
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from amd_hf import AMDForVideoClassification, convert_checkpoint, optimize_for_cpu


OURS, THEIRS = "amd_hf", "transformers"
CLASSES = {OURS: AMDForVideoClassification, THEIRS: VideoMAEForVideoClassification}
_WIDTHS = {
    "small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "tiny": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "num_hidden_layers": 2},
}
_SMALL_CLIPS = {"num_frames": 4, "image_size": 64}


def make_models(folder: Path, size: str, **options: Any) -> None:
    """Saves one classifier in both forms; biases have std 1, so that nobody loses one unnoticed.

    Raises:
        RuntimeError: If the two do not give the same logits.
    """
    generator = torch.Generator().manual_seed(0)
    config = VideoMAEConfig(num_labels=400, use_mean_pooling=True, **_WIDTHS[size], **options)
    theirs = VideoMAEForVideoClassification(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:  # what goes through keeps its size
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(noise if name.endswith("bias") else 1 + 0.1 * noise)
    theirs.save_pretrained(folder / THEIRS)
    ours = convert_checkpoint(folder / THEIRS).eval()
    ours.save_pretrained(folder / OURS)
    clips = _clips(1, config)
    with torch.inference_mode():
        off = (ours(clips).logits - theirs(clips).logits).abs().max() / theirs(clips).logits.std()
    if off > 1e-3:
        raise RuntimeError(f"The classifiers differ by {off:.2g} of the logits' std: nothing to compare.")


def _clips(batch_size: int, config: Any) -> torch.Tensor:
    """Normalised clips, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    size = config.image_size if isinstance(config.image_size, list) else [config.image_size] * 2
    return torch.randn(batch_size, config.num_frames, 3, *size, generator=generator)


# ---------------------------------------------------------------------------------------------------------------------
# Quantisers
# ---------------------------------------------------------------------------------------------------------------------


def _quanto(model: nn.Module, weights: str) -> nn.Module:
    from optimum import quanto

    quanto.quantize(model, weights=getattr(quanto, weights))
    quanto.freeze(model)
    return model


def _torchao(model: nn.Module, config: str) -> nn.Module:
    from torchao import quantization

    quantization.quantize_(model, getattr(quantization, config)())
    return model


def _torch_dynamic(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def _bitsandbytes(model: nn.Module) -> nn.Module:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)
    return type(model).from_pretrained(model.name_or_path, quantization_config=config, device_map="cpu")


# What is done to a model in float32, and the package that it needs.
ARMS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "float32": (lambda model: model, "torch"),
    "float32, `optimize_for_cpu`": (optimize_for_cpu, "torch"),
    "bf16": (lambda model: model.to(torch.bfloat16), "torch"),
    "torchao, int8 weights": (partial(_torchao, config="Int8WeightOnlyConfig"), "torchao"),
    "torchao, int8 dynamic": (partial(_torchao, config="Int8DynamicActivationInt8WeightConfig"), "torchao"),
    "torch.ao dynamic": (_torch_dynamic, "torch"),
    "quanto, int8 weights": (partial(_quanto, weights="qint8"), "optimum"),
    "quanto, float8 weights": (partial(_quanto, weights="qfloat8"), "optimum"),
    "quanto, int4 weights": (partial(_quanto, weights="qint4"), "optimum"),
    "bitsandbytes, 8-bit": (_bitsandbytes, "bitsandbytes"),
}


def _load(library: str, folder: Path, arm: str) -> nn.Module:
    return ARMS[arm][0](CLASSES[library].from_pretrained(folder / library).eval()).eval()


@torch.no_grad()
def _run(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=clips.to(model.dtype)).logits


def _take_turns(models: dict[str, nn.Module], clip: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each model, pass by pass in turns, so that whatever else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):  # the first warms up
        for name in list(models) if number % 2 == 0 else reversed(list(models)):
            start = time.perf_counter()
            _run(models[name], clip)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def _megabytes(model: nn.Module) -> float:
    """What a file of its weights takes."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell() / 1e6


def measure_quantisers(folder: Path, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The table of quantisers, and all that was measured."""
    found: dict[str, Any] = {}
    lines = [
        "| | MB | ms per clip | VideoMAE | times as fast as float32 | logits off by | VideoMAE |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = _load(OURS, folder, "float32")
    clips = _clips(options.clips, plain.config)
    logits = _run(plain, clips)
    for arm, (_, package) in ARMS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{arm}: {package} is not installed")
            continue
        models = {library: _load(library, folder, arm) for library in CLASSES}
        seconds = _take_turns({**models, "float32": plain}, clips[:1], options.rounds)
        cell: dict[str, Any] = {"seconds": seconds}
        for library, model in models.items():
            off = (_run(model, clips).float() - logits).abs().max() / logits.std()
            cell[library] = {"megabytes": _megabytes(model), "off": float(off)}
        found[arm] = cell
        ours, theirs = (1000 * statistics.median(seconds[library]) for library in CLASSES)
        ratio = statistics.median(
            theirs / ours for ours, theirs in zip(seconds[OURS], seconds["float32"], strict=True)
        )
        lines.append(
            f"| {arm} | {cell[OURS]['megabytes']:.1f} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} | "
            f"{cell[OURS]['off']:.1e} | {cell[THEIRS]['off']:.1e} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines), found


# ---------------------------------------------------------------------------------------------------------------------
# Adapters
# ---------------------------------------------------------------------------------------------------------------------

# The linear layers of the blocks, and those behind an activation.
_TARGETS = {
    OURS: (r"amd\.layers.*\.(qkv|proj|fc1|fc2)", r"amd\.layers.*\.(proj|fc2)"),
    THEIRS: (r".*encoder.*\.(query|key|value|dense)", r".*encoder.*output\.dense"),
}
METHODS: dict[str, Callable[[str, str], Any]] = {
    "LoRA": lambda all_, _: peft.LoraConfig(target_modules=all_, r=16),
    "LoRA with `lora_bias`": lambda all_, _: peft.LoraConfig(target_modules=all_, r=16, lora_bias=True),
    "rsLoRA": lambda all_, _: peft.LoraConfig(target_modules=all_, r=16, use_rslora=True),
    "DoRA": lambda all_, _: peft.LoraConfig(target_modules=all_, r=16, use_dora=True),
    "IA3": lambda all_, behind: peft.IA3Config(target_modules=all_, feedforward_modules=behind),
    "OFT": lambda all_, _: peft.OFTConfig(target_modules=all_, oft_block_size=32),
    "BOFT": lambda all_, _: peft.BOFTConfig(target_modules=all_, boft_block_size=16),
    "VeRA": lambda all_, _: peft.VeraConfig(target_modules=all_, r=64),
    "HRA": lambda all_, _: peft.HRAConfig(target_modules=all_, r=8),
    "SHiRA": lambda all_, _: peft.ShiraConfig(target_modules=all_, r=16),
    "LoHa": lambda all_, _: peft.LoHaConfig(target_modules=all_, r=16),
    "LoKr": lambda all_, _: peft.LoKrConfig(target_modules=all_, r=16),
    "Road": lambda all_, _: peft.RoadConfig(target_modules=all_, group_size=32),
}


@torch.no_grad()
def _adapter(library: str, folder: Path, method: str) -> dict[str, float | str]:
    model = CLASSES[library].from_pretrained(folder / library).eval()
    clips = _clips(4, model.config)
    before = _run(model, clips)
    adapted = peft.get_peft_model(model, METHODS[method](*_TARGETS[library])).eval()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(2)
    found: dict[str, float | str] = {"trained": sum(parameter.numel() for parameter in trained)}
    found["fresh"] = float((_run(adapted, clips) - before).abs().max() / before.std())
    for parameter in trained:
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    logits = _run(adapted, clips)
    try:
        merged = _run(adapted.merge_and_unload(), clips)
    except RuntimeError as error:
        return {**found, "merged": "raises", "error": str(error)}
    return {**found, "merged": float((merged - logits).abs().max() / before.std())}


def measure_adapters(folder: Path) -> tuple[str, dict[str, Any]]:
    """The table of adapters, and all that was measured."""
    lines = [
        "| | trained weights | fresh | merged | VideoMAE: trained | fresh | merged |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[str, Any] = {}
    for method in METHODS:
        cells = {}
        for library in CLASSES:
            try:
                cells[library] = _adapter(library, folder, method)
            except RuntimeError as error:
                cells[library] = {"trained": 0, "fresh": "raises", "merged": "raises", "error": str(error)}
        found[method] = cells
        lines.append(f"| {method} | " + " | ".join(_row(cells[library]) for library in CLASSES) + " |")
    return "\n".join(lines), found


def _row(cell: dict[str, Any]) -> str:
    texts = (cell[name] if isinstance(cell[name], str) else f"{cell[name]:.0e}" for name in ("fresh", "merged"))
    return " | ".join([f"{cell['trained']:,}", *texts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(_WIDTHS), default="small", help="tiny: to try the benchmark itself")
    parser.add_argument("--parts", nargs="+", choices=["quantisers", "adapters"], default=["quantisers", "adapters"])
    parser.add_argument("--rounds", type=int, default=5, help="passes that count, of each model")
    parser.add_argument("--clips", type=int, default=4, help="clips whose logits are compared")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; by default its own choice")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "quantisers" in options.parts:
            make_models(folder / "full", options.size)
            table, found = measure_quantisers(folder / "full", options)
            title = f"Quantised classifiers, ViT-{options.size} at 16 x 224 x 224, {machine_line('cpu')}"
            keep(f"quantisers_{options.size}_cpu", title, table, {**vars(options), "cells": found})
        if "adapters" in options.parts:
            make_models(folder / "short", options.size, **_SMALL_CLIPS)
            table, found = measure_adapters(folder / "short")
            title = f"Adapters of PEFT {peft.__version__}, ViT-{options.size}: logits off by, of their std"
            keep(f"adapters_{options.size}", title, table, {**vars(options), "cells": found})


if __name__ == "__main__":
    main()
