"""What decoding in a process of its own (`decode_time_limit`) costs beside decoding in the loading process.

    python benchmarks/supervised_decoding.py                  # a table; JSON and table under benchmarks/results/
    python benchmarks/supervised_decoding.py --decoders pyav --rounds 5

The jobs of `data_loading.py` (pre-training with 4 repetitions that share their frames, fine-tuning with 2, the test's
15 views) and one clip per video, as `predict.py` takes. Each video is loaded by both ways, one right after the other
and in turns first, so that other work on the machine slows both. CPU time is that of this process and of the decoding
process together; the cost is the median over the pairs of the difference, as a share of the median of loading without
it. The wall time is shown too: the two processes wait for each other, so on an idle machine it is the CPU time.
"""

from __future__ import annotations

import os


os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from common import keep, machine_line  # noqa: E402
from data_loading import _FINE_TUNING, _PRE_TRAINING, _VIEWS  # noqa: E402
from videos import make_videos  # noqa: E402

from amd_hf import AMDConfig  # noqa: E402
from amd_hf.data.clips import ClassificationCollator, PreTrainingCollator  # noqa: E402
from amd_hf.data.video import decoding_process  # noqa: E402
from amd_hf.data.video.decoding import available_decoders  # noqa: E402
from amd_hf.evaluation.multiview import ViewCollator  # noqa: E402
from amd_hf.pretraining.distillation import MaskGenerator  # noqa: E402


Row = dict[str, Any]
_CPU_CLOCK_OF_PROCESS = 2  # see clock_getcpuclockid(3): (~pid << 3) | CPUCLOCK_SCHED


def make_jobs(decoder: str, time_limit: float | None) -> dict[str, tuple[int, Callable[[Row], Any]]]:
    """Job -> clips per video, and what loads them from a row."""
    options = {"decoder": decoder, "decode_time_limit": time_limit, "repetitions_share_frames": True}
    masks = MaskGenerator(AMDConfig(), True)
    collators: dict[str, tuple[int, Callable]] = {
        "pre-training": (4, PreTrainingCollator(replace(_PRE_TRAINING, **options), masks)),
        "fine-tuning": (2, ClassificationCollator(replace(_FINE_TUNING, **options))),
        "test": (15, ViewCollator(_VIEWS, decoder, time_limit=time_limit)),
        "one clip": (1, ViewCollator(replace(_VIEWS, num_segments=1, num_crops=1), decoder, time_limit=time_limit)),
    }
    return {job: (count, lambda row, collate=collate: collate([row])) for job, (count, collate) in collators.items()}


def cpu_seconds() -> float:
    """CPU time of this process and of its decoding processes that live, which are idle between videos."""
    total = time.process_time()
    for process in decoding_process._POOL._idle:
        total += time.clock_gettime((~process._process.pid << 3) | _CPU_CLOCK_OF_PROCESS)
    return total


def measure(
    plain: Callable[[Row], Any], guarded: Callable[[Row], Any], paths: list[Path], rounds: int
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """((CPU, wall) in this process, (CPU, wall) supervised), in seconds, of each pair."""
    for load in (plain, guarded):
        load(_row(paths[0], 0))  # imports, the start of the process
    pairs = []
    for turn in range(rounds):
        for number, path in enumerate(paths):
            taken = {}
            for load in (plain, guarded) if (turn + number) % 2 else (guarded, plain):
                cpu, wall = cpu_seconds(), time.perf_counter()
                load(_row(path, turn + 1))
                taken[load] = (cpu_seconds() - cpu, time.perf_counter() - wall)
            pairs.append((taken[plain], taken[guarded]))
    return pairs


def _row(path: Path, epoch: int) -> Row:
    return {"video": {"path": str(path), "bytes": None}, "label": 0, "video_id": path.name, "epoch": epoch}


def summarize(pairs: list[tuple[tuple[float, float], tuple[float, float]]], clips: int) -> dict[str, float]:
    """Milliseconds per clip, and by how much the supervised process adds to them."""
    found: dict[str, float] = {"pairs": len(pairs)}
    for place, kind in enumerate(("cpu", "wall")):
        plain = statistics.median(one[place] for one, _ in pairs)
        added = statistics.median(other[place] - one[place] for one, other in pairs)
        found[f"{kind}_ms_per_clip"] = 1000 * plain / clips
        found[f"{kind}_ms_added_per_clip"] = 1000 * added / clips
        found[f"{kind}_added_percent"] = 100 * added / plain
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoders", nargs="+", default=None, help="by default all that are installed")
    parser.add_argument("--num_videos", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=8, help="times each video is loaded in both ways")
    parser.add_argument("--no_files", action="store_true", help="print the table only")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    results: dict[str, dict[str, dict[str, float]]] = {}
    lines = ["| decoder | job | CPU ms / clip | added by the process | wall ms / clip | added |"]
    lines.append("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        paths = make_videos(Path(folder), arguments.num_videos)
        for decoder in arguments.decoders or available_decoders():
            plain, guarded = make_jobs(decoder, None), make_jobs(decoder, 60.0)
            results[decoder] = {}
            for job, (clips, load_plain) in plain.items():
                found = summarize(measure(load_plain, guarded[job][1], paths, arguments.rounds), clips)
                results[decoder][job] = found
                lines.append(
                    f"| {decoder} | {job} | {found['cpu_ms_per_clip']:.2f} | {found['cpu_ms_added_per_clip']:+.2f} "
                    f"({found['cpu_added_percent']:+.1f}%) | {found['wall_ms_per_clip']:.2f} "
                    f"| {found['wall_ms_added_per_clip']:+.2f} ({found['wall_added_percent']:+.1f}%) |"
                )
                print(lines[-1], flush=True)
    title = (
        f"Decoding in a process of its own: {machine_line('cpu')}, load {load:.1f} at the start, "
        f"{arguments.num_videos} videos of 340 x 256, {arguments.rounds} rounds"
    )
    if not arguments.no_files:
        keep("supervised_decoding", title, "\n".join(lines), {"load_at_start": load, "results": results})


if __name__ == "__main__":
    main()
