"""What `amd-hf prepare` gains: bytes and clips per second of 1080p videos, before and after, by key frame interval.

    python benchmarks/preparing.py                     # makes two videos of 10 seconds; a table and JSON in results/
    python benchmarks/preparing.py --data films/ --key_frame_intervals 32 --short_sides 256 320

A clip is one of pre-training: 16 frames at stride 4, cropped to 224 x 224, by the package's own loader on one core.
The arms take turns video by video; CPU seconds are counted, so other work on the machine matters little.
"""

from __future__ import annotations

import os


os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from data_loading import machine  # noqa: E402
from videos import make_videos  # noqa: E402

from amd_hf.data.arguments import DataArguments  # noqa: E402
from amd_hf.data.clips import ClipLoader  # noqa: E402
from amd_hf.data.video.decoding import open_video  # noqa: E402
from amd_hf.preparing.arguments import PreparingArguments  # noqa: E402
from amd_hf.preparing.data_set import Outcome, Preparation  # noqa: E402


_LOADER = ClipLoader(num_frames=16, sampling_rate=4, image_size=224)


def prepare(source: Path, output: Path, **options: Any) -> Outcome:
    """Prepares a folder without labels, as the command does."""
    arguments = PreparingArguments(output_dir=str(output), num_workers=1, **options)
    data = DataArguments(data=str(source), unlabelled=True)
    return Preparation(data, arguments).run(lambda verdicts, total: verdicts)


def load_in_turns(arms: dict[str, list[Path]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds of (a clip, its decoding alone), arm by arm; place i of all lists is the same video and draw."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    _LOADER.load(_row(next(iter(arms.values()))[0], 0))  # imports, first allocations
    for turn in range(rounds):
        for number in range(len(next(iter(arms.values())))):
            for name, paths in arms.items():
                row = _row(paths[number], turn)
                started = time.process_time()
                _LOADER.load(row)
                loaded = time.process_time()
                with open_video(row["video"]) as video:
                    start = (29 * turn + 7) % max(len(video) - 60, 1)  # not at key frames more often than elsewhere
                    video.frames(range(start, min(start + 61, len(video)), 4))
                seconds[name].append((loaded - started, time.process_time() - loaded))
    return seconds


def _row(path: Path, epoch: int) -> dict[str, Any]:
    return {"video": {"path": str(path), "bytes": None}, "label": None, "video_id": path.stem, "epoch": epoch}


def summarize(arms: dict[str, list[Path]], seconds: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """One line of the table for each arm; the first one is what the others are compared with."""
    first, lines = next(iter(arms)), []
    for name, paths in arms.items():
        lines.append(
            {
                "videos": name,
                "megabytes": sum(path.stat().st_size for path in paths) / 1e6,
                "clips_per_second": 1 / statistics.mean(clip for clip, _ in seconds[name]),
                "decoding_ms": 1000 * statistics.mean(decoding for _, decoding in seconds[name]),
                "times_as_fast": statistics.median(
                    before / after for (before, _), (after, _) in zip(seconds[first], seconds[name], strict=True)
                ),
            }
        )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    text = ["| videos | MB | clips / s of a core | decoding, CPU ms | x as fast |", "|---|---|---|---|---|"]
    for line in lines:
        text.append(
            f"| {line['videos']} | {line['megabytes']:.2f} | {line['clips_per_second']:.1f} "
            f"| {line['decoding_ms']:.0f} | {line['times_as_fast']:.1f} |"
        )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=None, help="folder of videos; by default 1080p ones are made")
    parser.add_argument("--key_frame_intervals", type=int, nargs="+", default=[8, 16, 32, 64, 250])
    parser.add_argument("--short_sides", type=int, nargs="+", default=[320])
    parser.add_argument("--num_videos", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.data
        if source is None:
            source = Path(folder, "1080p")
            make_videos(source, arguments.num_videos, height=1080, width=1920)
        arms: dict[str, list[Path]] = {}
        for short_side in arguments.short_sides:
            for interval in arguments.key_frame_intervals:
                output = Path(folder, f"{short_side}-{interval}")
                outcome = prepare(source, output, short_side=short_side, key_frame_interval=interval)
                arms.setdefault("originals", [Path(item.video["path"]) for item in outcome.made])
                made = [output / item.name for item in outcome.made]
                arms[f"{short_side} pixels, key frames every {interval}"] = made
        lines = summarize(arms, load_in_turns(arms, arguments.rounds))
    print(table(lines))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "rounds": arguments.rounds, "results": lines}
    (arguments.output_dir / "preparing.json").write_text(json.dumps(record, indent=2) + "\n")
    (arguments.output_dir / "preparing.md").write_text(table(lines) + "\n")


if __name__ == "__main__":
    main()
