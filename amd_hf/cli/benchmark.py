"""Measure how fast your videos load, where the time goes, how many cores a GPU needs, and what to change.

amd-hf benchmark data --data videos/ --train_split train --recipe pretrain/amd_vit_small_k400
amd-hf benchmark data --data videos/ --task finetuning --model_name_or_path pretrained/
amd-hf benchmark data --data videos/ --task test --output_json speed.json

It takes about a minute (`--seconds`), loads some of the videos with the collator of the run, and trains nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..benchmarking.loading import (
    STAGES,
    Collator,
    Profile,
    Row,
    Throughput,
    describe_videos,
    measure_workers,
    profile_loading,
)
from ..benchmarking.needs import UTILIZATION, Need, Setting, advice, devices, flops_per_clip, needs
from ..configuration_amd import AMDConfig
from ..data.video.decoding import available_decoders
from ..evaluation.multiview import ViewCollator, ViewOptions
from ..finetuning.trainer import finetuning_collator
from ..models import import_function
from ..options.commands import parse_command
from ..options.parsing import read_task
from ..outputs.files import OutputFiles
from ..pretraining.trainer import pretraining_collator


_NUM_DESCRIBED = 8  # videos whose size is looked at
_FRACTION_FOR_DECODERS = 0.45  # of the seconds; the rest is for the workers


@dataclass
class BenchmarkOptions:
    """What to measure."""

    task: str = field(
        default="pretraining",
        metadata={"help": "What the clips are for.", "choices": ["pretraining", "finetuning", "test"]},
    )
    seconds: float = field(default=40.0, metadata={"help": "Seconds to measure for, about."})
    num_videos: int = field(default=128, metadata={"help": "Videos to load, drawn at random; they are loaded again."})
    decoders: list[str] = field(
        default_factory=list, metadata={"help": "Decoders to compare; by default all that work here."}
    )
    workers: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of workers to try; by default 1, 2, 4, ... up to the cores."}
    )
    gpu: str | None = field(default=None, metadata={"help": "GPU to feed, such as H100; by default the one here."})
    device_tflops: float | None = field(
        default=None, metadata={"help": "Rate of the device to feed: 10^12 bf16 operations a second, not sparse."}
    )
    output_json: str | None = field(default=None, metadata={"help": "File for all figures."})
    overwrite: bool = field(
        default=False, metadata={"help": "Replace an existing file even if another program wrote it."}
    )

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"`seconds` must be above 0, got {self.seconds}.")
        if self.num_videos < 1 or any(number < 1 for number in self.workers):
            raise ValueError("`num_videos` and `workers` must be at least 1.")


@dataclass
class PretrainingBenchmarkOptions(BenchmarkOptions):
    """What to measure, and the model that is pre-trained."""

    teacher: str | None = field(default=None, metadata={"help": "As for `amd-hf pretrain`; it is not loaded."})
    init_from: str | None = field(default=None, metadata={"help": "As for `amd-hf pretrain`; it is not loaded."})


@dataclass
class FineTuningBenchmarkOptions(BenchmarkOptions):
    """What to measure, and the model that is fine-tuned or tested."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A model of ours, for its config; by default ViT-S."}
    )
    clip_augmentation: str | None = field(
        default=None, metadata={"help": "Your own augmentation of training clips, as `module:function`."}
    )


@dataclass
class _Job:
    """What is measured: `collator(decoder, is_supervised)` makes a collator, and each row becomes so many clips."""

    collator: Callable[[str | None, bool], Collator]
    clips_per_video: int
    rows: list[Row]
    config: AMDConfig
    setting: Setting


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure how fast the data load; return the report."""
    task = read_task(argv, ["pretraining", "finetuning", "test"], "benchmark")
    data, options, args, model_options = parse_command("benchmark", argv, task)
    if data.data is None:
        raise ValueError("Say what to load: `--data FOLDER_OR_FILE`.")
    outputs = OutputFiles(
        [Path(options.output_json)] if options.output_json else [], "amd-hf benchmark", options.overwrite
    )
    rates = devices(options.gpu, options.device_tflops)
    names = options.decoders or available_decoders()
    job = _make_job(task, data, options, args, model_options, names)
    own = job.setting.decoder
    torch.set_num_threads(1)  # as in the workers of a loader
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    videos = describe_videos(job.rows[:_NUM_DESCRIBED], own, args.decode_time_limit)
    profiles, throughputs = _measure(job, names, cores, options)
    if not any(profile.num_clips for profile in profiles.values()):
        raise ValueError(f"None of {len(job.rows)} videos of {data.data} can be read: `amd-hf check` says why.")
    flops = flops_per_clip(job.config, task)
    needed = needs(rates, flops, profiles[own].clips_per_core)
    report = {
        "data": data.data,
        "task": task,
        "machine": {"cpu": _cpu_name(), "num_cores": cores},
        "videos": {"num_drawn": len(job.rows), **videos},
        "setting": dataclasses.asdict(job.setting),
        "gflops_per_clip": flops / 1e9,
        "decoders": {
            name: {**dataclasses.asdict(profile), "clips_per_core": profile.clips_per_core}
            for name, profile in profiles.items()
        },
        "workers": [{**dataclasses.asdict(it), "clips_per_second": it.clips_per_second} for it in throughputs],
        "needs": [dataclasses.asdict(need) for need in needed],
        "advice": advice(job.setting, profiles, videos),
    }
    print(describe(report, profiles, throughputs, needed), flush=True)
    with outputs:
        if options.output_json:
            Path(options.output_json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _measure(
    job: _Job, names: Sequence[str], cores: int, options: BenchmarkOptions
) -> tuple[dict[str, Profile], list[Throughput]]:
    """Measure each decoder in this process, then the run's own in the workers of a loader."""
    own = job.setting.decoder
    decoders = list(dict.fromkeys([own, *names]))
    counts = options.workers or [2**power for power in range(cores.bit_length()) if 2**power < cores] + [cores]
    profiles, throughputs = {}, []
    with tqdm(total=len(decoders) + len(counts), desc="benchmark", unit="part") as progress:
        for name in decoders:
            progress.set_postfix_str(name)
            seconds = _FRACTION_FOR_DECODERS * options.seconds / len(decoders)
            profiles[name] = profile_loading(job.collator(name, False), job.rows, job.clips_per_video, seconds)
            progress.update()
        for number in counts:
            progress.set_postfix_str(f"{own}, {number} workers")
            seconds = (1 - _FRACTION_FOR_DECODERS) * options.seconds / len(counts)
            collate = job.collator(own, True)
            throughputs.append(measure_workers(collate, job.rows, job.clips_per_video, number, seconds))
            progress.update()
    return profiles, throughputs


def _make_job(
    task: str, data: Any, options: Any, args: Any, model_options: Mapping[str, Any], decoders: Sequence[str]
) -> _Job:
    train = data.load_training()
    if task == "pretraining":
        config = _config_of(options.init_from, model_options)
        has_teacher = config.teacher_hidden_size is not None
    else:
        config = _config_of(options.model_name_or_path, model_options)
    if task == "test":
        views = ViewOptions.for_model(
            config, sampling_rate=args.sampling_rate, short_side=args.short_side, interpolation=args.interpolation,
            num_segments=args.test_num_segments, num_crops=args.test_num_crops, mode=args.test_mode,
        )  # fmt: skip
    own_augmentation = getattr(options, "clip_augmentation", None)

    def collator(decoder: str | None, is_supervised: bool) -> Collator:
        if task == "test":
            return ViewCollator(views, decoder, time_limit=args.decode_time_limit if is_supervised else None)
        if task == "pretraining":
            made: Any = pretraining_collator(config, args, has_teacher, training=True)
        else:
            augmentation = import_function(own_augmentation) if own_augmentation else None
            made = dataclasses.replace(finetuning_collator(config, args, True, augmentation), num_labels=None)
        # Whole videos in memory would be measured in place of their decoding.
        changes: dict[str, Any] = {"decoder": decoder, "cache": None}
        if not is_supervised:
            changes["decode_time_limit"] = None  # so that decoding counts as this process's
        return dataclasses.replace(made, loader=dataclasses.replace(made.loader, **changes))

    own = args.decoder or (decoders[0] if decoders else available_decoders()[0])
    setting = Setting(
        task=task, decoder=own, repetitions=args.num_repetitions, are_frames_shared=args.repetitions_share_frames,
        image_size=config.image_height_width[0],
        can_augment_on_device=task == "finetuning" and getattr(args, "augment_on_device", None) is False,
    )  # fmt: skip
    clips = views.num_views if task == "test" else args.num_repetitions
    return _Job(collator, clips, _draw_rows(train, options.num_videos, args.seed), config, setting)


def _config_of(source: str | None, model_options: Mapping[str, Any]) -> AMDConfig:
    """Return the config of a model of ours without loading its weights, changed by the options of the command."""
    if source is None:
        return AMDConfig(**model_options)
    return AMDConfig.from_pretrained(source, **model_options)


def _draw_rows(rows: Any, num_videos: int, seed: int) -> list[Row]:
    if isinstance(rows, datasets.IterableDataset):
        return [dict(row) for row in islice(rows, num_videos)]
    order = np.random.default_rng(seed).permutation(len(rows))[:num_videos]
    return [dict(rows[int(index)]) for index in order]


def describe(
    report: Mapping[str, Any],
    profiles: Mapping[str, Profile],
    throughputs: Sequence[Throughput],
    needed: Sequence[Need],
) -> str:
    """Return the report as text."""
    videos, setting = report["videos"], report["setting"]
    shape = ""
    if videos["num_opened"]:
        sides = f"{videos['short_side']:g} x {videos['long_side']:g}"
        shape = f", {sides} pixels and {videos['num_frames']:g} frames (medians)"
    lines = [
        f"{report['task']}: {videos['num_drawn']} videos of {report['data']}{shape}; {report['machine']['cpu']}, "
        f"{report['machine']['num_cores']} cores. Files that were read before come from memory.",
        "",
        "One process, by decoder (CPU time; the run takes " + setting["decoder"] + "):",
        f"  {'decoder':<12}{'clips/s of a core':>18}{'ms a clip':>11}" + "".join(f"{name:>17}" for name in STAGES),
    ]
    for name, profile in profiles.items():
        cost = 1000 / profile.clips_per_core if profile.clips_per_core else float("nan")
        ratios = "".join(f"{profile.ratio(stage):>17.0%}" for stage in STAGES)
        bad = f"  ({profile.num_unreadable} unreadable)" if profile.num_unreadable else ""
        lines.append(f"  {name:<12}{profile.clips_per_core:>18.1f}{cost:>11.1f}{ratios}{bad}")
    lines += ["", "A loader, by workers:", f"  {'workers':<12}{'clips/s':>18}{'cores busy':>12}"]
    for one in throughputs:
        busy = "" if one.cpu_seconds is None or not one.seconds else f"{one.cpu_seconds / one.seconds:.1f}"
        lines.append(f"  {one.num_workers:<12}{one.clips_per_second:>18.1f}{busy:>12}")
    lines += [
        "",
        f"A GPU at {UTILIZATION:.0%} of its rate, {report['gflops_per_clip']:,.0f} GFLOPs a clip:",
        f"  {'device':<24}{'bf16 TFLOP/s':>14}{'clips/s':>10}{'cores to feed it':>18}",
    ]
    for need in needed:
        lines.append(f"  {need.device:<24}{need.tflops:>14g}{need.clips_per_second:>10,.0f}{need.num_cores:>18,.1f}")
    lines += ["", "What would help:", *(f"  - {text}" for text in report["advice"] or ["nothing that is known here"])]
    return "\n".join(lines)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


if __name__ == "__main__":
    from . import start

    start("benchmark")
