"""Clips per second of the data path on one core, beside the released code's way of loading.

    python benchmarks/data_loading.py                     # a table; JSON and table under benchmarks/results/
    python benchmarks/data_loading.py --decoders pyav --rounds 3

Three jobs on the same files, in one run: pre-training (4 repetitions, multi-scale crop), fine-tuning (2 repetitions,
RandAugment, random resized crop, flip, random erasing) and the test (5 segments x 3 crops). Each is done by the
reference loader (`reference_loader.py`), by this package with each decoder, and as the floor by the decoder alone;
beside these, torchcodec and decord as they are, without this package, read the same frames.
The arms of a job take turns video by video, so that other work on the machine slows all of them. Speed-ups are medians
of the CPU seconds of pairs that ran one after the other; on an idle core CPU seconds are seconds.
"""

from __future__ import annotations

import os


os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse  # noqa: E402
import functools  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import replace  # noqa: E402
from importlib.metadata import PackageNotFoundError, version  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import reference_loader  # noqa: E402
import torch  # noqa: E402
from videos import make_videos  # noqa: E402

from amd_hf import AMDConfig  # noqa: E402
from amd_hf.data.clips import (  # noqa: E402
    ClassificationCollator,
    ClipLoader,  # noqa: E402
    PreTrainingCollator,
)
from amd_hf.data.sampling import evaluation_views, sample_clip  # noqa: E402
from amd_hf.data.video.decoders import why_torchcodec_is_unusable  # noqa: E402
from amd_hf.data.video.decoding import available_decoders, open_video  # noqa: E402
from amd_hf.evaluation.multiview import ViewCollator, ViewOptions  # noqa: E402
from amd_hf.pretraining.distillation import MaskGenerator  # noqa: E402


Row = dict[str, Any]
Arm = Callable[[Row], Any]

_PRE_TRAINING = ClipLoader(num_frames=16, sampling_rate=4, image_size=224, repetitions=4)
_FINE_TUNING = ClipLoader(
    num_frames=16, sampling_rate=4, image_size=224, sampling_mode="spread", augmentation="random_resized_crop",
    flip_probability=0.5, rand_augment="rand-m7-n4-mstd0.5-inc1", erase_probability=0.25, repetitions=2,
)  # fmt: skip
_VIEWS = ViewOptions(num_frames=16, crop_size=224)


# ---------------------------------------------------------------------------------------------------------------------
# The arms
# ---------------------------------------------------------------------------------------------------------------------


def jobs(decoders: list[str]) -> dict[str, tuple[int, dict[str, Arm]]]:
    """Job -> clips per video, and what loads them from a row."""
    masks = MaskGenerator(AMDConfig(), True)
    pre_training: dict[str, Arm] = {"reference": lambda row: reference_loader.pretraining_clips(_path(row), 4)}
    fine_tuning: dict[str, Arm] = {"reference": lambda row: reference_loader.finetuning_clips(_path(row), 2)}
    views: dict[str, Arm] = {"reference": lambda row: reference_loader.test_views(_path(row), 5, 3)}
    for decoder in decoders:
        for arms, base, make in (
            (pre_training, _PRE_TRAINING, lambda loader: PreTrainingCollator(loader, masks)),
            (fine_tuning, _FINE_TUNING, ClassificationCollator),
        ):
            loader = replace(base, decoder=decoder, repetitions_share_frames=False)
            sharing = replace(loader, repetitions_share_frames=True)
            # The worker's part: what the device does is not in these figures.
            planning = replace(sharing, augment_on_device=True)
            options = (("", loader), (", shared frames", sharing), (", shared frames, augment_on_device", planning))
            for suffix, option in options:
                arms[f"{decoder}{suffix}"] = lambda row, collate=make(option): collate([row])  # noqa: B008
                arms[f"{decoder}{suffix}, decoding alone"] = lambda row, loader=option: _decode_clips(loader, row)
        views[decoder] = lambda row, collate=ViewCollator(_VIEWS, decoder): collate([row])  # noqa: B008
        views[f"{decoder}, decoding alone"] = lambda row, decoder=decoder: _decode_views(decoder, row)
    for name, read in _bare_decoders().items():
        for arms, loader in ((pre_training, _PRE_TRAINING), (fine_tuning, _FINE_TUNING)):
            arms[f"bare {name}, shared frames"] = lambda row, loader=loader, read=read: read(
                _path(row), _clip_indices(loader, row, _num_frames(_path(row)))
            )
        views[f"bare {name}"] = lambda row, read=read: read(_path(row), _view_indices(_num_frames(_path(row))))
    return {"pre-training": (4, pre_training), "fine-tuning": (2, fine_tuning), "test": (15, views)}


def _path(row: Row) -> str:
    return row["video"]["path"]


def _bare_decoders() -> dict[str, Callable[[str, np.ndarray], Any]]:
    """Name -> what reads frames by index with a decoder's own package alone."""
    found: dict[str, Callable[[str, np.ndarray], Any]] = {}
    if importlib.util.find_spec("decord") is not None:
        found["decord"] = lambda path, indices: reference_loader.decode(path, indices.tolist())
    if why_torchcodec_is_unusable() is None:
        from torchcodec.decoders import VideoDecoder

        for mode in ("exact", "approximate"):
            found[f"torchcodec ({mode})"] = lambda path, indices, mode=mode: (
                VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode)
                .get_frames_at(indices.tolist())
                .data.numpy()
            )
    return found


@functools.cache
def _num_frames(path: str) -> int:
    """Count the frames beforehand: bare decoders are told which to read."""
    with open_video(path) as video:
        return len(video)


def _clip_indices(loader: ClipLoader, row: Row, num_frames: int) -> np.ndarray:
    """Find the frames that `loader.load` decodes."""
    numbers = [0] if loader.repetitions_share_frames else range(loader.repetitions)
    indices = [
        sample_clip(
            num_frames, num_frames=loader.num_frames, sampling_rate=loader.sampling_rate, mode=loader.sampling_mode,
            generator=loader.generator(row, number, "frames"),
        )
        for number in numbers
    ]  # fmt: skip
    return np.unique(indices)


def _view_indices(num_frames: int) -> np.ndarray:
    views = evaluation_views(
        num_frames, 256, 340, num_frames=16, sampling_rate=4, num_segments=5, num_crops=3, crop_size=224, mode="dense"
    )
    return np.unique([view.frame_indices for view in views])


def _decode_clips(loader: ClipLoader, row: Row) -> np.ndarray:
    with open_video(row["video"], loader.decoder) as video:
        return video.frames(_clip_indices(loader, row, len(video)))


def _decode_views(decoder: str, row: Row) -> np.ndarray:
    with open_video(row["video"], decoder) as video:
        return video.frames(_view_indices(len(video)))


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


def measure(arms: dict[str, Arm], paths: list[Path], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, CPU seconds) per video of each arm; place i of all lists belongs to the same video and round."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for arm in arms.values():
        arm(_row(paths[0], 0))  # imports, first allocations
    names = list(arms)
    for turn in range(rounds):
        for number, path in enumerate(paths):
            first = (turn + number) % len(names)  # none is always the one after the slowest
            for name in names[first:] + names[:first]:
                start, cpu_start = time.perf_counter(), time.process_time()
                arms[name](_row(path, turn + 1))
                times[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
    return dict(times)


def _row(path: Path, epoch: int) -> Row:
    return {"video": {"path": str(path), "bytes": None}, "label": 0, "video_id": path.name, "epoch": epoch}


def summarize(times: dict[str, list[tuple[float, float]]], num_clips: int) -> Iterator[dict[str, Any]]:
    """One line of the table for each arm."""
    for name, taken in times.items():
        floor = times.get(f"{name}, decoding alone")
        yield {
            "loader": name,
            "clips_per_second": num_clips / statistics.median(seconds for seconds, _ in taken),
            "cpu_seconds_per_clip": statistics.median(cpu for _, cpu in taken) / num_clips,
            "times_reference_speed": _paired(times["reference"], taken),
            "times_decoding_alone": None if floor is None else _paired(taken, floor),
        }


def _paired(slower: list[tuple[float, float]], faster: list[tuple[float, float]]) -> float:
    return statistics.median(one / other for (_, one), (_, other) in zip(slower, faster, strict=True))


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| job | loader | clips / s | CPU ms / clip | x reference | x decoding alone |",
        "|---|---|---|---|---|---|",
    ]
    for job, arms in results.items():
        for arm in arms:
            beyond = arm["times_decoding_alone"]
            lines.append(
                f"| {job} | {arm['loader']} | {arm['clips_per_second']:.1f} "
                f"| {1000 * arm['cpu_seconds_per_clip']:.1f} "
                f"| {arm['times_reference_speed']:.2f} | {'' if beyond is None else f'{beyond:.2f}'} |"
            )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = {}
    for name in ("torch", "torchvision", "decord", "torchcodec", "av", "pillow", "timm", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    return {"cpu": model, "cores_used": 1, "load_at_start": load, "python": platform.python_version(), **packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoders", nargs="+", default=None, help="by default all that are installed")
    parser.add_argument("--num_videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6, help="times each video is loaded by each arm (test: a third)")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    about = machine()
    decoders = arguments.decoders or available_decoders()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = make_videos(Path(folder), arguments.num_videos)
        about["bytes_per_video"] = sum(path.stat().st_size for path in paths) // len(paths)
        for job, (num_clips, arms) in jobs(decoders).items():
            rounds = arguments.rounds if job != "test" else max(arguments.rounds // 3, 1)
            results[job] = list(summarize(measure(arms, paths, rounds), num_clips))
    text = table(results)
    print(json.dumps(about))
    print(text)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "data_loading.json").write_text(json.dumps({"machine": about, "jobs": results}, indent=2))
    notes = "\n".join(f"- {key}: {value}" for key, value in about.items())
    (arguments.output_dir / "data_loading.md").write_text(f"{text}\n\n{notes}\n")


if __name__ == "__main__":
    main()
