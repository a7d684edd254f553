"""Data loaders: which rows make a batch, in an order of (seed, epoch) alone, and the workers that decode them.

A map-style dataset is shuffled whole ([`EpochBatchSampler`]). Of a stream one thread reads rows ahead while the
workers decode, and each batch knows where in the stream it ends ([`StreamDataLoader`]).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import queue
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import context
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .streams import StreamReader


_SECONDS_AFTER_SIGTERM = 60
_NUM_BATCHES_AHEAD = 2


# ---------------------------------------------------------------------------------------------------------------------
# What every loader here does
# ---------------------------------------------------------------------------------------------------------------------


class VideoDataLoader(DataLoader):
    """A `DataLoader` whose workers inherit no garbage of their parent, ignore Ctrl-C, and outlive SIGTERM a while.

    Freeing a PyAV object waits for threads that exist in its own process only: a worker whose garbage collector did so
    would crash or hang.

    All of that is in options of `DataLoader`: a run that resumes within an epoch gets a plain one, which accelerate
    makes of the options of this one.
    """

    def __init__(self, *args: Any, num_workers: int = 0, **kwargs: Any):
        options = {"worker_init_fn": _prepare_worker, **kwargs}
        if num_workers > 0 and options.get("multiprocessing_context") is None:
            options["multiprocessing_context"] = _CONTEXTS[multiprocessing.get_start_method()]()
        super().__init__(*args, num_workers=num_workers, **options)


class _Worker(BaseProcess):
    """A worker that ends at once where its parent ends with an error."""

    def start(self) -> None:
        with _sigint_held_back(self):
            super().start()
            # Python would send it SIGTERM at the end of the parent, and wait for it.
            Finalize(self, _kill, (weakref.ref(self),), exitpriority=10)

    def terminate(self) -> None:
        """Kill the worker: whoever ends it has waited for it already."""
        self.kill()


def _kill(reference: weakref.ref[_Worker]) -> None:
    worker = reference()
    if worker is not None and worker.is_alive():  # this process ends
        if hasattr(signal, "SIGCHLD"):
            # PyTorch's handler would report the end of the worker as an error, behind the one that ends the program.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker.kill()


class _Context(context.BaseContext):
    def Event(self) -> Any:
        """Make an event; a loader does so once, before its first worker starts."""
        gc.collect()
        return super().Event()


class _SpawnedWorker(_Worker, context.SpawnProcess):
    pass


class _SpawnContext(_Context, context.SpawnContext):
    Process = _SpawnedWorker


_CONTEXTS: dict[str, type[context.BaseContext]] = {"spawn": _SpawnContext}

if sys.platform != "win32":

    class _ForkedWorker(_Worker, context.ForkProcess):
        pass

    class _ForkContext(_Context, context.ForkContext):
        Process = _ForkedWorker

    class _ForkServerWorker(_Worker, context.ForkServerProcess):
        pass

    class _ForkServerContext(_Context, context.ForkServerContext):
        Process = _ForkServerWorker

    _CONTEXTS |= {"fork": _ForkContext, "forkserver": _ForkServerContext}


@contextlib.contextmanager
def _sigint_held_back(worker: BaseProcess) -> Iterator[None]:
    """Hold Ctrl-C back while a worker is forked; it ends then, since nobody else knows of it yet.

    `os.fork` runs hooks whose exceptions Python ignores: a `KeyboardInterrupt` that is raised in one is lost, and the
    training goes on. In a worker that has just begun it would run the clean-up of its parent.
    """
    received: list[FrameType | None] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: received.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            worker.kill()
            worker.join()
            before(signal.SIGINT, received[0])


def _prepare_worker(worker_id: int) -> None:
    # Ctrl-C reaches all processes; the one that trains decides, and ends its workers. One that it ended in the middle
    # of a check of a shared lock would leave that locked, and its parent waiting for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    # Clusters send SIGTERM to all processes of a job: the one that trains needs the rest of its step to save it.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_AFTER_SIGTERM))
    sys.excepthook = _report_unless_the_receiver_has_gone


def _report_unless_the_receiver_has_gone(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Report errors of a worker, as its `sys.excepthook`: its thread that hands over tensors reports through it.

    A main process that ends (Ctrl-C) while it takes one breaks that connection: it has said why it ends, and the
    worker ends with it.
    """
    is_of_main_thread = threading.current_thread() is threading.main_thread()
    if is_of_main_thread or not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


# ---------------------------------------------------------------------------------------------------------------------
# Map-style: rows by their index
# ---------------------------------------------------------------------------------------------------------------------


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one process, shuffled by (seed, epoch).

    All processes draw the same order and take every `num_processes`-th batch of it, so the batches of one step hold
    the same videos whatever the number of processes. What does not fill a whole optimizer step is dropped, as
    in the released code: steps per epoch = videos // videos per step.

    Args:
        num_rows (`int`): Rows of the dataset.
        batch_size (`int`): Rows per batch and process.
        seed (`int`): Seed of the order.
        batches_per_step (`int`, *optional*, defaults to 1): Gradient accumulation steps.
        num_processes, process_index (`int`, *optional*, default to 1 and 0): Of those that divide the rows.

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
            fitting = max(min(num_rows // num_processes, batch_size), 1)
            raise ValueError(
                f"The training set has {num_rows} videos, fewer than the {rows_per_step} of one optimizer step "
                f"({batch_size} per device x {batches_per_step} accumulation steps x {num_processes} processes). "
                f"Add videos, or say `--per_device_train_batch_size {fitting} --gradient_accumulation_steps 1`."
            )
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.epoch = 0
        self._num_batches = num_rows // rows_per_step * batches_per_step

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(self.num_rows)
        for step in range(self._num_batches):
            start = (step * self.num_processes + self.process_index) * self.batch_size
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]


class EpochRows(Dataset):
    """Rows of a map-style dataset by (epoch, index); rows that hold a video get their `epoch`."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> Any:
        epoch, index = epoch_and_index
        row = self.rows[index]
        return {**row, "epoch": epoch} if isinstance(row, dict) and "video" in row else row


class EpochDataLoader(VideoDataLoader):
    """A loader that passes `set_epoch` on to its [`EpochBatchSampler`], as the Trainer expects."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


def build_train_loader(
    rows: Sequence[Any], batch_sampler: EpochBatchSampler, collator: Callable, **loader_options: Any
) -> EpochDataLoader:
    """Build the loader of training batches; `loader_options` are those of `torch.utils.data.DataLoader`."""
    return EpochDataLoader(EpochRows(rows), batch_sampler=batch_sampler, collate_fn=collator, **loader_options)


def build_eval_loader(
    rows: Sequence[Any],
    batch_size: int,
    collator: Callable,
    num_processes: int = 1,
    process_index: int = 0,
    **loader_options: Any,
) -> DataLoader:
    """Build the loader of this process' part of an evaluation set, in order, nothing repeated and nothing dropped."""
    own = [(0, index) for index in range(process_index, len(rows), num_processes)]  # each row on exactly one process
    return VideoDataLoader(EpochRows(rows), batch_size=batch_size, sampler=own, collate_fn=collator, **loader_options)


# ---------------------------------------------------------------------------------------------------------------------
# Streams: rows as they come
# ---------------------------------------------------------------------------------------------------------------------


class StreamDataLoader(VideoDataLoader):
    """Endless batches of a stream, pass after pass.

    `iter` gives a [`StreamIterator`], which stops between passes. A pass ends with the rows that are left over, so
    that each row comes once in every pass.

    Args:
        reader (`StreamReader`): the rows of this process.
        batch_size (`int`): rows of a batch.
        collator (`Callable`): rows in, batch out; runs in the workers.
        num_batches (`int`): what `len` says: the batches that training will take.
        loader_options: those of `torch.utils.data.DataLoader`.
    """

    def __init__(
        self, reader: StreamReader, batch_size: int, collator: Callable, num_batches: int, **loader_options: Any
    ) -> None:
        self.reader = reader
        self.position = reader.state_dict()
        self.batches = _StreamBatches(reader, batch_size, num_batches)
        # A generator of its own: the workers' seed would be drawn from the global one, once more after a resume.
        super().__init__(
            _RowsAsTheyAre(),
            batch_sampler=self.batches,
            collate_fn=functools.partial(_collate_unless_end, collator),
            generator=torch.Generator(),
            **loader_options,
        )

    def load_position(self, position: dict[str, Any]) -> None:
        """Go on from a `position` that was saved; before `iter`."""
        self.reader.load_state_dict(position)
        self.position = position

    def __iter__(self) -> StreamIterator:
        return StreamIterator(self, super().__iter__())


class StreamIterator:
    """Batches of a pass until it ends, then, on request, those of the next one."""

    def __init__(self, loader: StreamDataLoader, batches: Iterator[Any]) -> None:
        self._loader = loader
        self._batches = batches
        self._held: tuple[Any, dict[str, Any]] | None = None

    def __iter__(self) -> StreamIterator:
        return self

    def __next__(self) -> Any:
        """Return the next batch of the pass."""
        if (batch := self.next_batch()) is None:
            raise StopIteration
        return batch

    def next_batch(self) -> Any | None:
        """Return the next batch, or None at the end of the pass, again and again until `start_next_pass`."""
        if self._held is None:
            batch = next(self._batches)  # errors of readers and workers come out here
            self._held = batch, self._loader.batches.positions.popleft()
        batch, position = self._held
        if batch is None:
            return None
        self._held, self._loader.position = None, position
        return batch

    def start_next_pass(self) -> None:
        """Leave the end of a pass behind."""
        if self._held is None or self._held[0] is not None:
            raise RuntimeError("The pass has not ended yet.")
        self._loader.position = self._held[1]
        self._held = None


def iterate_once(reader: StreamReader, batch_size: int, collator: Callable, **loader_options: Any) -> VideoDataLoader:
    """Build a loader of one pass over the rows of this process, the last batch with what is left, for evaluation."""
    return VideoDataLoader(
        _RowsAsTheyAre(), batch_sampler=_OnePass(reader, batch_size), collate_fn=collator, **loader_options
    )


class _RowsAsTheyAre(Dataset):
    """The batch sampler hands out rows instead of indices."""

    def __getitem__(self, row: Any) -> Any:
        return row


def _collate_unless_end(collator: Callable, rows: Sequence[Any]) -> Any:
    """Turn the empty batch that marks the end of a pass into None."""
    return collator(rows) if rows else None


def _batches_of_pass(reader: StreamReader, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    batch = []
    for row in reader.rows():
        batch.append(row)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


class _OnePass(Sampler[list[dict[str, Any]]]):
    def __init__(self, reader: StreamReader, batch_size: int) -> None:
        self._reader, self._batch_size = reader, batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        self._reader.start_pass(0)
        yield from _batches_of_pass(self._reader, self._batch_size)


class _StreamBatches(Sampler[list[dict[str, Any]]]):
    """Batches of rows, an empty one between passes; `positions` holds the position behind each batch handed out."""

    def __init__(self, reader: StreamReader, batch_size: int, num_batches: int) -> None:
        self._reader, self._batch_size, self._num_batches = reader, batch_size, num_batches
        self.positions: deque[dict[str, Any]] = deque()

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        self.positions.clear()
        for batch, position in _read_ahead(self._read(), _NUM_BATCHES_AHEAD):
            self.positions.append(position)
            yield batch

    def _read(self) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
        while True:
            for batch in _batches_of_pass(self._reader, self._batch_size):
                yield batch, self._reader.state_dict()
            self._reader.start_pass(self._reader.epoch + 1)
            yield [], self._reader.state_dict()


def _read_ahead(items: Iterator[Any], num_ahead: int) -> Iterator[Any]:
    """Yield `items`, of which a thread reads `num_ahead` while the caller works. Its exceptions come out here."""
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(num_ahead)
    stopped = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that asks for rows
            put((None, error))

    thread = threading.Thread(target=read, name="stream reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
