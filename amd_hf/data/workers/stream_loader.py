"""The data loader of a stream: one thread reads rows ahead, workers decode them, each batch knows its place."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ..streams import StreamReader
from .loader import VideoDataLoader


_NUM_BATCHES_AHEAD = 2


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
            collate_fn=_SkipPassEnd(collator),
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
        """The next batch of the pass."""
        if (batch := self.next_batch()) is None:
            raise StopIteration
        return batch

    def next_batch(self) -> Any | None:
        """The next batch, or None at the end of the pass, again and again until `start_next_pass`."""
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
    """Loader of one pass over the rows of this process, the last batch with what is left, for evaluation."""
    return VideoDataLoader(
        _RowsAsTheyAre(), batch_sampler=_OnePass(reader, batch_size), collate_fn=collator, **loader_options
    )


class _RowsAsTheyAre(Dataset):
    """The batch sampler hands out rows in place of indices."""

    def __getitem__(self, row: Any) -> Any:
        return row


class _SkipPassEnd:
    """Turns the empty batch that marks the end of a pass into None; a class, so that workers can be spawned."""

    def __init__(self, collator: Callable) -> None:
        self._collator = collator

    def __call__(self, rows: Sequence[Any]) -> Any:
        return self._collator(rows) if rows else None


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
    """Batches of rows, an empty one between passes; `positions` holds the place behind each batch handed out."""

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
    """`items`, up to `num_ahead` of them read by a thread while the caller works. Its exceptions come out here."""
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
