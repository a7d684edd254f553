"""The order of training rows, their share among processes, and loaders whose workers start clean."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amd_hf.data.loaders import (
    EpochBatchSampler,
    EpochRows,
    build_eval_loader,
    build_train_loader,
)


def _as_is(rows: list[Any]) -> list[Any]:
    return rows


_pressed_in_fork: list[int] = []


def _press_ctrl_c() -> None:
    """What a user may do while a process is forked, where Python ignores exceptions."""
    if _pressed_in_fork:
        signal.raise_signal(_pressed_in_fork.pop())


os.register_at_fork(after_in_parent=_press_ctrl_c)


def test_epoch_holds_every_row_once_in_an_order_of_seed_and_epoch() -> None:
    orders = {}
    for seed in (0, 1):
        sampler = EpochBatchSampler(12, batch_size=3, seed=seed)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert list(sampler) == batches  # the same every time it is asked
            assert {number for batch in batches for number, _ in batch} == {epoch}
            orders[seed, epoch] = [index for batch in batches for _, index in batch]
            assert sorted(orders[seed, epoch]) == list(range(12))
    assert len({tuple(order) for order in orders.values()}) == 4


@pytest.mark.parametrize(
    ("batch_size", "batches_per_step", "num_processes"), [(4, 1, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2)]
)
def test_step_holds_the_same_rows_however_it_is_divided(
    batch_size: int, batches_per_step: int, num_processes: int
) -> None:
    reference = [{index for _, index in batch} for batch in EpochBatchSampler(14, batch_size=4, seed=5)]
    assert len(reference) == 3  # what does not fill a step is dropped
    samplers = [
        EpochBatchSampler(14, batch_size, 5, batches_per_step, num_processes, process)
        for process in range(num_processes)
    ]
    assert {len(sampler) for sampler in samplers} == {3 * batches_per_step}
    steps: list[set[int]] = [set() for _ in reference]
    for sampler in samplers:
        for position, batch in enumerate(sampler):
            steps[position // batches_per_step] |= {index for _, index in batch}
    assert steps == reference


def test_too_few_rows_for_a_step_raise() -> None:
    with pytest.raises(
        ValueError, match=r"5 videos, fewer than the 6 .* \(1 per device x 2 accumulation steps x 3 proc"
    ):
        EpochBatchSampler(5, batch_size=1, seed=0, batches_per_step=2, num_processes=3)


@pytest.mark.parametrize(("num_rows", "num_processes"), [(7, 1), (7, 2), (7, 3), (1, 2), (0, 2)])
def test_each_row_of_an_evaluation_set_falls_to_one_process(num_rows: int, num_processes: int) -> None:
    rows = list(range(num_rows))
    loaders = [build_eval_loader(rows, 2, list, num_processes, process) for process in range(num_processes)]
    assert sorted(row for loader in loaders for batch in loader for row in batch) == rows
    assert [len(list(loader)) for loader in loaders] == [len(loader) for loader in loaders]


def test_rows_of_videos_are_told_their_epoch_and_others_left_alone() -> None:
    rows = EpochRows([{"video": "a", "label": 1}, {"pixel_values": 0}, "text"])
    assert rows[3, 0] == {"video": "a", "label": 1, "epoch": 3}
    assert rows[3, 1] == {"pixel_values": 0}
    assert rows[3, 2] == "text"


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_follows_the_epoch_with_any_number_of_workers(workers: int) -> None:
    sampler = EpochBatchSampler(6, batch_size=2, seed=0)
    loader = build_train_loader([{"video": n} for n in range(6)], sampler, _as_is, num_workers=workers)
    for epoch in (4, 5):
        loader.set_epoch(epoch)
        rows = [row for batch in loader for row in batch]
        sampler.set_epoch(epoch)
        assert [(row["epoch"], row["video"]) for row in rows] == [pair for batch in sampler for pair in batch]


class _Marker:
    """Garbage (a cycle) that writes down which process frees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cycle = self

    def __del__(self) -> None:
        (self.folder / f"{os.getpid()}").touch()


def _collect_garbage(rows: list[Any]) -> list[Any]:
    gc.collect()
    return rows


def test_worker_never_frees_what_its_parent_left_behind(tmp_path: Path) -> None:
    # A PyAV object freed in a forked worker waits for threads that are not there: a crash, or a run that hangs.
    gc.disable()
    try:
        _Marker(tmp_path)
        assert list(build_eval_loader(range(4), 2, _collect_garbage, num_workers=2)) == [[0, 1], [2, 3]]
    finally:
        gc.enable()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_receiver_that_goes_while_it_takes_a_tensor_is_no_news_of_a_worker() -> None:
    # As after Ctrl-C: the thread of a worker that hands over tensors reports whatever breaks by `sys.excepthook`.
    code = """if True:
        import sys, threading
        from amd_hf.data.loaders import build_eval_loader
        def report(rows):
            for error in (ConnectionResetError("gone"), EOFError(), ValueError("a real fault")):
                thread = threading.Thread(target=sys.excepthook, args=(type(error), error, None))
                thread.start()
                thread.join()
            return rows
        list(build_eval_loader(range(2), 2, report, num_workers=1))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.splitlines() == ["ValueError: a real fault"]


def test_interrupt_while_workers_are_forked_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT)
    loader = build_eval_loader(list(range(4)), 2, _as_is, num_workers=1)
    _pressed_in_fork.append(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        iter(loader)
    assert signal.getsignal(signal.SIGINT) == before
    gc.collect()
    assert not multiprocessing.active_children()


def test_workers_leave_ctrl_c_to_the_process_that_asks_for_batches() -> None:
    batches = iter(build_eval_loader(list(range(40)), 1, _as_is, num_workers=1))
    assert next(batches) == [0]
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert [row for batch in batches for row in batch] == list(range(1, 40))
