"""How fast clips load from one's own videos: where the CPU time of each goes, and what the workers of a loader give.

Stages are told apart by the call stack: a timer of the process's CPU time interrupts it every 2 ms and counts what has
passed for the stage that is at work. So the real collator is measured, whatever it does inside.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from torch.utils.data import Dataset, Sampler

from ..data.loaders import VideoDataLoader
from ..data.video.decoding import VideoReadError, open_video


Row = dict[str, Any]
Collator = Callable[[Sequence[Row]], Any]

STAGES = ("fetch", "open", "decode", "crop and resize", "augment", "batch")
"""What a clip goes through: bytes of addresses, container and index, frames, and the rest."""

_INTERVAL = 0.002  # seconds of CPU time between two looks at the stack
_ROWS_PER_BATCH = 2  # small batches, so that a short measurement has many
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
# By the innermost function that one of these describes: (file or folder below the package, function or None, stage).
_PLACES = (
    ("data/remote/", None, "fetch"),
    ("data/augment/transforms.py", None, "crop and resize"),
    ("data/augment/", None, "augment"),
    ("data/video/", "frames", "decode"),
    ("video_reading_amd.py", "frames", "decode"),
    ("data/video/", "__len__", "open"),
    ("video_reading_amd.py", "__len__", "open"),
    ("data/video/decoding.py", "open_video", "open"),
)


@dataclass
class Profile:
    """What loading in one process took.

    Args:
        num_clips, num_videos (`int`): what was loaded.
        num_unreadable (`int`): videos of these that could not be read.
        seconds, cpu_seconds (`float`): of all.
        stages (`dict` of `str` to `float`): CPU seconds of each of `STAGES`.
    """

    num_clips: int = 0
    num_videos: int = 0
    num_unreadable: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def clips_per_core(self) -> float:
        """Clips per second of CPU time."""
        return self.num_clips / self.cpu_seconds if self.cpu_seconds else 0.0

    def ratio(self, *stages: str) -> float:
        """Return the fraction of the CPU time that these stages take."""
        return sum(self.stages[name] for name in stages) / max(sum(self.stages.values()), 1e-9)


def profile_loading(collate: Collator, rows: Sequence[Row], clips_per_video: int, seconds: float) -> Profile:
    """Load videos one after the other in this process, for about so many seconds, and tell the stages apart.

    Args:
        collate (`Callable`): the collator of the run: rows in, batch out. It decodes in this process.
        rows (sequence of `dict`): rows to load, from the first on, again and again.
        clips_per_video (`int`): clips that one row becomes.
        seconds (`float`): how long.
    """
    collate(rows[:1])  # imports, first allocations
    profile, counted = Profile(), dict.fromkeys(STAGES, 0.0)
    with _counting(counted):
        start, cpu_start = time.perf_counter(), time.process_time()
        for row in _endless(rows):
            batch = collate([row])
            profile.num_videos += 1
            num_unreadable = _num_unreadable(batch)
            profile.num_unreadable += num_unreadable
            profile.num_clips += clips_per_video * (1 - num_unreadable)
            if time.perf_counter() - start > seconds:
                break
        profile.seconds, profile.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    # What passed before the first look, and after the last one, is spread over all stages.
    scale = profile.cpu_seconds / max(sum(counted.values()), 1e-9)
    profile.stages = {name: counted[name] * scale for name in STAGES}
    return profile


@contextmanager
def _counting(counted: dict[str, float]) -> Iterator[None]:
    last = time.process_time()

    def count(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        # A call into a library may hold the signal back: all of what has passed is that call's.
        counted[_stage_of(frame)] += now - last
        last = now

    before = signal.signal(signal.SIGPROF, count)
    signal.siginterrupt(signal.SIGPROF, False)  # decoders that read files themselves need not know of it
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _stage_of(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            file = code.co_filename.removeprefix(_PACKAGE).replace(os.sep, "/")
            for place, function, stage in _PLACES:
                if file.startswith(place) and function in (None, code.co_name):
                    return stage
        frame = frame.f_back
    return "batch"


# ---------------------------------------------------------------------------------------------------------------------
# Workers
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Throughput:
    """What a loader with so many workers gave: clips in wall seconds, and its processes' CPU seconds where known."""

    num_workers: int
    num_clips: int
    seconds: float
    cpu_seconds: float | None

    @property
    def clips_per_second(self) -> float:
        """Clips per second of wall time."""
        return self.num_clips / self.seconds if self.seconds else 0.0


def measure_workers(
    collate: Collator, rows: Sequence[Row], clips_per_video: int, num_workers: int, seconds: float
) -> Throughput:
    """Load with the workers of a data loader for about so many seconds, from when each has made a batch."""
    loader = VideoDataLoader(
        _AsTheyAre(), batch_sampler=_Batches(rows), collate_fn=collate, num_workers=num_workers, prefetch_factor=2
    )  # fmt: skip
    batches = iter(loader)
    for _ in range(2 * num_workers):  # imports, and what waits ready when the clock starts
        next(batches)
    pids = [worker.pid for worker in batches._workers]
    num_clips, cpu_start, start = 0, _cpu_seconds(pids), time.perf_counter()
    for batch in batches:
        num_clips += clips_per_video * (_ROWS_PER_BATCH - _num_unreadable(batch))
        if time.perf_counter() - start > seconds:
            break
    taken, cpu = time.perf_counter() - start, _cpu_seconds(pids)
    del batches
    return Throughput(num_workers, num_clips, taken, None if cpu is None or cpu_start is None else cpu - cpu_start)


class _AsTheyAre(Dataset):
    def __getitem__(self, row: Any) -> Any:
        return row


class _Batches(Sampler[list[Row]]):
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[list[Row]]:
        rows = _endless(self._rows)
        while True:
            yield [next(rows) for _ in range(_ROWS_PER_BATCH)]


def _endless(rows: Sequence[Row]) -> Iterator[Row]:
    epoch = 0
    while True:
        for row in rows:
            yield {**row, "epoch": epoch}
        epoch += 1


def _num_unreadable(batch: Any) -> int:
    if isinstance(batch, dict):
        return len(batch["unreadable"])
    return sum("reason" in sample for sample in batch)


def _cpu_seconds(pids: Sequence[int | None]) -> float | None:
    """Return the CPU seconds of processes and of the decoding processes below them; None where `/proc` has none."""
    ticks, waiting = 0, [pid for pid in pids if pid is not None]
    try:
        while waiting:
            pid = waiting.pop()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(value) for value in fields[11:15])  # its own and those of children that have ended
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except (OSError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------------------------------------------------------------
# The videos
# ---------------------------------------------------------------------------------------------------------------------


def describe_videos(rows: Sequence[Row], decoder: str | None, time_limit: float | None) -> dict[str, Any]:
    """Return medians over some videos: `short_side`, `long_side` and `num_frames`, and how many were opened."""
    shapes = []
    for row in rows:
        try:
            with open_video(row["video"], decoder, video_id=row["video_id"], time_limit=time_limit) as video:
                shapes.append((min(video.height, video.width), max(video.height, video.width), len(video)))
        except VideoReadError:
            continue
    if not shapes:
        return {"num_opened": 0}
    short, long, frames = (statistics.median(values) for values in zip(*shapes, strict=True))
    return {"num_opened": len(shapes), "short_side": short, "long_side": long, "num_frames": frames}
