"""`kill -9` at any moment: the run that goes on leaves the very bytes of one that was never stopped."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.killing import NUM_STEPS, KilledRun, Kind, save_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher")


def _whole_run(kind: Kind, folder: Path) -> tuple[str, float]:
    """Hash of the weights of a run never stopped, and how long it takes."""
    start = time.monotonic()
    return KilledRun(kind, folder / "whole", random.Random(0)).finish(), time.monotonic() - start


def test_two_processes_on_a_stream_killed_twice(motion_videos: Path, teacher: Path, tmp_path: Path) -> None:
    kind = Kind(motion_videos, teacher, is_streaming=True, num_processes=2)
    expected, seconds = _whole_run(kind, tmp_path)
    run = KilledRun(kind, tmp_path / "killed", random.Random(1))
    run.kill_in_save(5)
    run.kill_after(seconds / 2)
    assert run.num_kills
    assert run.finish() == expected


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("is_streaming", [False, True], ids=["map-style", "streaming"])
def test_killed_runs_leave_the_bytes_of_one_never_stopped(
    motion_videos: Path, teacher: Path, tmp_path: Path, is_streaming: bool, num_processes: int
) -> None:
    kind = Kind(motion_videos, teacher, is_streaming, num_processes)
    start = time.monotonic()
    expected, seconds = _whole_run(kind, tmp_path)
    chance = random.Random(10 * num_processes + is_streaming)
    runs: list[KilledRun] = []
    while sum(run.num_kills for run in runs) < 6 or sum(run.num_kills_in_save for run in runs) < 2:
        assert len(runs) < 15, "kills come too late: the runs end before them"
        run = KilledRun(kind, tmp_path / f"run{len(runs)}", chance)
        runs.append(run)
        for _ in range(len(runs) % 3 + 1):  # killed once, twice, three times
            if chance.random() < 0.4:
                was_killed = run.kill_in_save(chance.randrange(2, NUM_STEPS, 2))
            else:
                was_killed = run.kill_after(chance.uniform(0, seconds))
            if not was_killed:
                break
        assert was_killed is False or run.finish() == expected
    kills, in_save = (sum(getattr(run, name) for run in runs) for name in ("num_kills", "num_kills_in_save"))
    waits = [wait for run in runs for wait in run.survivors_seconds]
    assert not waits or max(waits) < 60
    sys.stdout.write(
        f"\n{'streaming' if is_streaming else 'map-style'}, {num_processes} process(es): {kills} kills in {len(runs)} "
        f"runs, {in_save} during a save, {len(waits)} of one process alone (the other ended within "
        f"{max(waits, default=0):.1f} s); a whole run takes {seconds:.1f} s, all of this "
        f"{time.monotonic() - start:.0f} s\n"
    )
