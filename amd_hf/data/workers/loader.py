"""Data loaders whose order depends on (seed, epoch) alone and whose rows know the epoch they are drawn in."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler


_SECONDS_AFTER_SIGTERM = 60


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one process, shuffled by (seed, epoch).

    All processes draw the same order and take every `num_processes`-th batch of it, so the batches of one step hold
    the same videos whatever the number of processes. What does not fill a whole optimizer step is dropped (DESIGN
    section 7: steps per epoch = videos // videos per step).

    Args:
        num_rows (`int`): Rows of the dataset.
        batch_size (`int`): Rows per batch and process.
        seed (`int`): Seed of the order.
        batches_per_step (`int`, *optional*, defaults to 1): Gradient accumulation steps.
        num_processes, process_index (`int`, *optional*, default to 1 and 0): The processes that share the rows.

    Raises:
        ValueError: If the rows do not fill one optimizer step.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        seed: int,
        batches_per_step: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        rows_per_step = batch_size * batches_per_step * num_processes
        if num_rows < rows_per_step:
            raise ValueError(
                f"The training set has {num_rows} videos, fewer than the {rows_per_step} of one optimizer step "
                f"({batch_size} per device x {batches_per_step} accumulation steps x {num_processes} processes). "
                "Lower `per_device_train_batch_size` or `gradient_accumulation_steps`, or add videos."
            )
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.epoch = 0
        self._num_batches = num_rows // rows_per_step * batches_per_step

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(self.num_rows)
        for step in range(self._num_batches):
            start = (step * self.num_processes + self.process_index) * self.batch_size
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]


class EpochRows(Dataset):
    """Rows of a map-style dataset by (epoch, index); rows that hold a video are told their `epoch`."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> Any:
        epoch, index = epoch_and_index
        row = self.rows[index]
        return {**row, "epoch": epoch} if isinstance(row, dict) and "video" in row else row


class VideoDataLoader(DataLoader):
    """A `DataLoader` whose workers inherit no garbage from the process that forks them, and outlive SIGTERM a while.

    Freeing a PyAV object waits for threads that exist in its own process only: a worker whose garbage collector did so
    would crash or hang.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"worker_init_fn": _prepare_worker, **kwargs})

    def __iter__(self) -> Any:
        if self.num_workers == 0:
            return super().__iter__()
        gc.collect()
        iterator = super().__iter__()
        # A run that ends with an error leaves its workers behind. Python would send them SIGTERM and wait for them.
        Finalize(iterator, _kill, (iterator._workers,), exitpriority=10)
        return iterator


def _kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _prepare_worker(worker_id: int) -> None:
    gc.freeze()
    # Clusters send SIGTERM to all processes of a job: the one that trains needs the rest of its step to save it.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_AFTER_SIGTERM))
    sys.excepthook = _report_unless_the_receiver_has_gone


def _report_unless_the_receiver_has_gone(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """`sys.excepthook` of a worker, whose thread that hands over tensors reports through it.

    A main process that ends (Ctrl-C) while it takes one breaks that connection: it has said why it ends, and the
    worker ends with it.
    """
    is_of_main_thread = threading.current_thread() is threading.main_thread()
    if is_of_main_thread or not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


class EpochDataLoader(VideoDataLoader):
    """Passes `set_epoch` on to its [`EpochBatchSampler`], as the Trainer expects."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class ProcessShare(Sampler[tuple[int, int]]):
    """The (epoch 0, index) of this process' share of an evaluation set: each row on exactly one process."""

    def __init__(self, num_rows: int, num_processes: int = 1, process_index: int = 0):
        self._indices = range(process_index, num_rows, num_processes)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, index) for index in self._indices)


def build_train_loader(
    rows: Sequence[Any], batch_sampler: EpochBatchSampler, collator: Callable, **loader_options: Any
) -> EpochDataLoader:
    """Loader of training batches; `loader_options` are those of `torch.utils.data.DataLoader`."""
    return EpochDataLoader(EpochRows(rows), batch_sampler=batch_sampler, collate_fn=collator, **loader_options)


def build_eval_loader(
    rows: Sequence[Any],
    batch_size: int,
    collator: Callable,
    num_processes: int = 1,
    process_index: int = 0,
    **loader_options: Any,
) -> DataLoader:
    """Loader of this process' share of an evaluation set, in order, nothing repeated and nothing dropped."""
    share = ProcessShare(len(rows), num_processes, process_index)
    return VideoDataLoader(
        EpochRows(rows), batch_size=batch_size, sampler=share, collate_fn=collator, **loader_options
    )
