"""What data of many rows and shards cost: CPU seconds, peak memory, and how both grow.

    python benchmarks/scale.py                                # sizes of a minute
    python benchmarks/scale.py --shards 1000 10000 --rows 1000000 --lines 1000000 10000000 --classes 1000

Every figure is of a process of its own: CPU seconds from the call on, and the memory that it held at most (`VmHWM`)
beyond what importing takes. `rank` 1 to 3 start together with rank 0, as on a node; `again`
is a second start. A growth exponent of 1 is linear. All files are made up, in `--folder`, and stay there.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


NUM_RANKS = 4
NUM_CLASSES = 400
LONG_AGO = 1_000_000_000  # seconds: a list of this moment is not cached

# ---------------------------------------------------------------------------------------------------------------------
# Made-up data
# ---------------------------------------------------------------------------------------------------------------------


def make_tars(folder: Path, count: int) -> Path:
    """Write `count` tars of two samples."""
    folder = folder / f"tars-{count}"
    if not folder.is_dir():
        folder.mkdir()
        for number in range(count):
            with tarfile.open(folder / f"train-{number:06d}.tar", "w") as archive:
                for name, data in (("0.mp4", b"video"), ("0.cls", b"1"), ("1.mp4", b"video"), ("1.cls", b"0")):
                    header = tarfile.TarInfo(name)
                    header.size = len(data)
                    archive.addfile(header, io.BytesIO(data))
    return folder


def make_parquet(folder: Path, num_rows: int, rows_per_group: int, video_bytes: int = 100) -> Path:
    """Write a Parquet file of videos that are bytes."""
    path = folder / f"rows-{num_rows}-{rows_per_group}.parquet"
    if not path.is_file():
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        schema = pa.schema({"video": kind, "label": pa.int64(), "video_id": pa.string()})
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, num_rows, max(rows_per_group, 1000)):
                numbers = range(start, min(start + max(rows_per_group, 1000), num_rows))
                videos = [{"bytes": bytes(video_bytes), "path": f"{number}.mp4"} for number in numbers]
                rows = [videos, [number % NUM_CLASSES for number in numbers], [str(number) for number in numbers]]
                table = pa.table(
                    [pa.array(values, field.type) for values, field in zip(rows, schema, strict=True)], schema
                )
                writer.write_table(table, row_group_size=rows_per_group)
    return path


def make_list(folder: Path, num_lines: int, suffix: str) -> Path:
    """Write a list or a csv; the first video is there, or the reader would take the root for wrong."""
    path = folder / f"list-{num_lines}{suffix}"
    if not path.is_file():
        (folder / "clips").mkdir(exist_ok=True)
        (folder / "clips" / "00000000.mp4").touch()
        separator = "," if suffix == ".csv" else " "
        with open(path, "w") as file:
            file.write("path,label\n" if suffix == ".csv" else "")
            file.writelines(
                f"clips/{number:08d}.mp4{separator}{number % NUM_CLASSES}\n" for number in range(num_lines)
            )
        os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def make_folders(folder: Path, num_files: int) -> Path:
    """Make class folders of empty files."""
    folder = folder / f"folders-{num_files}"
    for number in range(0 if folder.is_dir() else num_files):
        parent = folder / f"class{number % NUM_CLASSES:03d}"
        if number < NUM_CLASSES:
            parent.mkdir(parents=True)
        (parent / f"{number:08d}.mp4").touch()
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------------------------------


def read_pass(path: str) -> int:
    """Read one pass of a stream; return the number of its rows."""
    from amd_hf.data.loading import load_video_dataset
    from amd_hf.data.streams import StreamReader

    return sum(1 for _ in StreamReader(load_video_dataset(path, streaming=True), seed=0).rows())


def start(path: str) -> int:
    """List a data set, as each process of a run does first."""
    from amd_hf.data.loading import load_video_dataset

    return len(load_video_dataset(path))


def write_logits(num_videos: str) -> int:
    """Write the logits of 15 views of 400 classes; they are 24 kB a video themselves."""
    from amd_hf.evaluation.multiview import MultiViewResult
    from amd_hf.evaluation.report import write_predictions

    logits = np.zeros((15, NUM_CLASSES), dtype=np.float32)  # of one video: what is measured is the writing
    scores = np.zeros(NUM_CLASSES, dtype=np.float32)
    outcomes = [
        {"video_id": str(number), "label": 0, "probabilities": scores, "view_logits": logits}
        for number in range(int(num_videos))
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(MultiViewResult(outcomes, list(map(str, range(NUM_CLASSES)))), Path(folder, "p.parquet"))
    return len(outcomes)


def draw(num_classes: str) -> int:
    """Draw the confusion of 20 videos of each class."""
    from amd_hf.evaluation.multiview import MultiViewResult
    from amd_hf.evaluation.report import draw_confusion_matrix

    scores = np.eye(int(num_classes), dtype=np.float32)
    outcomes = [
        {"video_id": str(number), "label": number % len(scores), "probabilities": scores[number * 7 % len(scores)]}
        for number in range(20 * len(scores))
    ]
    with tempfile.TemporaryDirectory() as folder:
        draw_confusion_matrix(
            MultiViewResult(outcomes, [f"class {n}" for n in range(len(scores))]), Path(folder, "m.png")
        )
    return len(scores)


JOBS: dict[str, Callable[[str], int]] = {job.__name__: job for job in (read_pass, start, write_logits, draw)}


def run_job(name: str, argument: str) -> None:
    """Run a job in this process and print its figures as JSON."""
    for module in ("amd_hf.data.loading", "amd_hf.data.streams", "amd_hf.evaluation.report"):
        importlib.import_module(module)
    from amd_hf.export.measuring import peak_mebibytes

    imported, begun = peak_mebibytes(), time.process_time()
    count = JOBS[name](argument)
    seconds = time.process_time() - begun
    print(
        json.dumps(
            {"count": count, "seconds": seconds, "imported": imported, "mebibytes": peak_mebibytes() - imported}
        )
    )


def measure(name: str, argument: object, cache: Path, num_processes: int = 1) -> list[dict[str, Any]]:
    """Run a job in processes that start together; return the figures of each, the one that worked most first."""
    command = [sys.executable, __file__, "--job", name, str(argument)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(num_processes)
    ]
    answers = [process.communicate()[0] for process in running]
    if failed := [process.returncode for process in running if process.returncode]:
        raise RuntimeError(f"{name} {argument} ended with {failed[0]}: see above.")
    return sorted((json.loads(answer.splitlines()[-1]) for answer in answers), key=lambda one: -one["seconds"])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size."""
    return float(np.polyfit([math.log(size) for size in sizes], [math.log(max(cost, 1e-4)) for cost in costs], 1)[0])


# ---------------------------------------------------------------------------------------------------------------------
# The tables
# ---------------------------------------------------------------------------------------------------------------------


def show(what: str, size: int, figures: dict[str, Any]) -> None:
    print(f"{what:40} {size:>12,} {figures['seconds']:>9.2f} s {figures['mebibytes']:>8.0f} MiB", flush=True)


def measure_streams(folder: Path, cache: Path, sizes: Sequence[int]) -> None:
    makers: dict[str, Callable[[int], Path]] = {
        "pass over tars": lambda count: make_tars(folder, count),
        "pass over Parquet row groups": lambda count: make_parquet(folder, 2 * count, 2),
    }
    for what, make in makers.items():
        costs = []
        for size in sizes:
            (figures,) = measure("read_pass", make(size), cache)
            assert figures["count"] == 2 * size
            costs.append(figures["seconds"])
            show(what, size, figures)
        if len(sizes) > 1:
            print(f"  growth exponent {exponent(sizes, costs):.2f}")


def measure_starts(what: str, make: Callable[[int], Path], sizes: Sequence[int], cache: Path) -> None:
    costs = []
    for size in sizes:
        path = make(size)
        ranks = measure("start", path, cache, NUM_RANKS)
        assert all(figures["count"] == size for figures in ranks)
        show(f"start: {what}, rank 0", size, ranks[0])
        show(f"start: {what}, the dearest other rank", size, ranks[1])
        (again,) = measure("start", path, cache)
        show(f"start: {what}, again", size, again)
        costs.append(ranks[0]["seconds"])
    if len(sizes) > 1:
        print(f"  growth exponent {exponent(sizes, costs):.2f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the made-up files lie; by default a temporary folder")
    parser.add_argument("--shards", type=int, nargs="*", default=[250, 500, 1000], help="tars, and Parquet row groups")
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 80_000], help="of each layout, for a start")
    parser.add_argument("--lines", type=int, nargs="*", default=[], help="of a list, for a start")
    parser.add_argument("--videos", type=int, default=2000, help="whose view logits are written")
    parser.add_argument("--classes", type=int, default=400, help="of the picture of a confusion matrix")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.job:
        run_job(*options.job)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cache = Path(temporary, "cache")  # a new one: the first start is one
        measure_streams(folder, cache, options.shards)
        measure_starts("list", lambda size: make_list(folder, size, ".txt"), options.rows, cache)
        measure_starts("csv", lambda size: make_list(folder, size, ".csv"), options.rows, cache)
        measure_starts("Parquet", lambda size: make_parquet(folder, size, 1000), options.rows, cache)
        measure_starts("class folders", lambda size: make_folders(folder, size), options.rows, cache)
        measure_starts(
            "long list", lambda size: make_list(folder, size, ".txt"), options.lines, Path(temporary, "long")
        )
        if options.videos:
            show("view logits written", options.videos, measure("write_logits", options.videos, cache)[0])
        if options.classes:
            show("picture of a confusion matrix", options.classes, measure("draw", options.classes, cache)[0])


if __name__ == "__main__":
    main()
