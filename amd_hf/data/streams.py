"""Streams: the rows of a `datasets.IterableDataset` in an order of (seed, epoch), and where in it reading stopped.

Each process reads shards of its own with one reader; the workers of the data loader only decode. So neither the order
nor the position to go on from depends on the number of workers. Rows are shuffled in blocks that are read again after
a resume, because a shuffle buffer would be lost with the process.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa


NUM_OPEN_SHARDS = 4

# Held while a row is read, so that no process forks in the middle of it: the child would inherit locks of the reading
# thread, and nobody there would ever release them.
_reading = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_reading.acquire, after_in_parent=_reading.release, after_in_child=_reading.release
    )  # fmt: skip


# What `datasets` makes of sources that can be divided anywhere: each row comes of one source, and of no row count.
_DIVISIBLE = frozenset(("ExamplesIterable", "ArrowExamplesIterable"))
_BY_ROW = frozenset(
    ("MappedExamplesIterable", "FilteredExamplesIterable", "FormattedExamplesIterable", "SelectColumnsIterable")
)
_MOST_SHARDS_OF_A_PART = 32
_NUM_PARTS = 8


class _Unit(NamedTuple):
    """A shard, or every `num_stripes`-th row of one from row `stripe` on."""

    shard: int
    stripe: int
    num_stripes: int


def stream_length(dataset: datasets.IterableDataset) -> int | None:
    """Return the number of rows of a stream where its `info.splits` says it, as for data sets of the Hub."""
    splits = dataset.info.splits or {}
    name = str(dataset.split) if dataset.split is not None else None
    if name not in splits:
        if name is not None or len(splits) != 1:
            return None
        (name,) = splits
    return round((splits[name].num_examples or 0) * getattr(dataset, "_amd_hf_part", 1.0)) or None


def note_entries(dataset: datasets.IterableDataset, entries: Iterable[Sequence[str]]) -> datasets.IterableDataset:
    """Note the contents of a stream on this object; streams derived from it do not inherit the note.

    Args:
        dataset (`datasets.IterableDataset`): the stream.
        entries: its shards, or its rows if they are known: names, and what else identifies them (sizes, labels).
    """
    dataset._amd_hf_entries = [list(entry) for entry in entries]
    return dataset


def thin_out(
    dataset: datasets.IterableDataset, filtered: datasets.IterableDataset, part: float
) -> datasets.IterableDataset:
    """Note with a filtered stream which part of `dataset` is left of it, about; it keeps the entries noted there."""
    filtered._amd_hf_part = part
    entries = noted_entries(dataset)
    return filtered if entries is None else note_entries(filtered, [*entries, [f"of these {part:g}", ""]])


def noted_entries(dataset: datasets.IterableDataset) -> list[list[str]] | None:
    """Return what [`note_entries`] noted; None if there is no note."""
    return getattr(dataset, "_amd_hf_entries", None)


class SingleShards:
    """The shards of a stream one by one, in any order: `shards[index]` is `dataset.shard(dataset.num_shards, index)`.

    That call lists all sources anew, so a pass over n shards would take n * n steps. Here it goes by way of parts,
    which stay and are divided further: about log n steps for a shard.

    Args:
        dataset (`datasets.IterableDataset`): the stream.
    """

    def __init__(self, dataset: datasets.IterableDataset) -> None:
        self._dataset = dataset
        self._parts: dict[tuple[int, int], datasets.IterableDataset] = {}
        self._can_divide = _can_divide(dataset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}}

    def __getitem__(self, index: int) -> datasets.IterableDataset:
        part, start, count = self._dataset, 0, self._dataset.num_shards
        while self._can_divide and count > _MOST_SHARDS_OF_A_PART:
            # `shard` gives each of the first `rest` parts one source more than the others.
            size, rest = divmod(count, _NUM_PARTS)
            inside = index - start
            number = inside // (size + 1) if inside < rest * (size + 1) else (inside - rest) // size
            start, count = start + number * size + min(number, rest), size + (number < rest)
            if (start, count) not in self._parts:
                self._parts[start, count] = part.shard(num_shards=_NUM_PARTS, index=number)
            part = self._parts[start, count]
        return part.shard(num_shards=count, index=index - start)


def _can_divide(dataset: datasets.IterableDataset) -> bool:
    """Return whether a shard of a part is that shard of the whole; `take` and `interleave_datasets` count otherwise.

    Only private names of `datasets` say what a stream is made of. Without them the answer is no: right, but slow.
    """
    if getattr(dataset, "_distributed", None) is not None:
        return False
    source: Any = getattr(dataset, "_ex_iterable", None)
    while type(source).__name__ in _BY_ROW:
        source = source.ex_iterable
        if type(source).__name__ == "RebatchedArrowExamplesIterable":  # rows of Arrow tables, on the way to a row
            source = source.ex_iterable
    return type(source).__name__ in _DIVISIBLE


def share_out(num_shards: int, num_processes: int, process_index: int, order: np.ndarray) -> list[_Unit]:
    """Return the units that a process reads, in this order: disjoint, and complete over all processes.

    Shards are dealt out whole; of those left over, too few for one each, every process takes each `num_processes`-th
    row.
    """
    num_whole = num_shards // num_processes * num_processes
    whole = [_Unit(int(shard), 0, 1) for shard in order[:num_whole][process_index::num_processes]]
    return whole + [_Unit(int(shard), process_index, num_processes) for shard in order[num_whole:]]


class StreamReader:
    """The rows that one process reads of a stream, pass after pass, from a position that can be saved.

    A pass begins with `start_pass(epoch)`; `rows()` then gives what is left of it. After `load_state_dict` the rows go
    on behind the last one read: shards read to their end are not opened again, of open ones and of the last block the
    rows are read again but not decoded.

    Args:
        dataset (`datasets.IterableDataset`): rows, in at least one shard.
        seed (`int`): of the order. Passes of one seed and epoch give the same rows in the same order.
        num_processes, process_index (`int`, default to 1 and 0): the processes that divide the rows among them.
        shuffle (`bool`, defaults to `True`): draw the order of the shards and of the rows in each block.
        buffer_rows (`int`, defaults to 256): rows of a block, held in memory.

    Raises:
        ValueError: `buffer_rows` is less than 1.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        seed: int,
        num_processes: int = 1,
        process_index: int = 0,
        shuffle: bool = True,
        buffer_rows: int = 256,
    ) -> None:
        if buffer_rows < 1:
            raise ValueError(f"`buffer_rows` must be at least 1, not {buffer_rows}.")
        self.dataset = dataset
        self._shards = SingleShards(dataset)
        self.seed = seed
        self.num_processes = num_processes
        self.process_index = process_index
        self.shuffle = shuffle
        self.buffer_rows = buffer_rows
        self.start_pass(0)

    def start_pass(self, epoch: int) -> None:
        """Go to the beginning of a pass."""
        self.epoch = epoch
        order = np.arange(self.dataset.num_shards)
        if self.shuffle:
            order = _generator(self.seed, epoch).permutation(order)
        self._units = share_out(self.dataset.num_shards, self.num_processes, self.process_index, order)
        self._open: list[_ShardCursor] = []
        self._next_unit = self._turn = self._block = self._num_taken = 0
        self._block_start = self._position()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what is left of the pass, each row with its `epoch`."""
        while block := self._read_block():
            order: Any = range(len(block))
            if self.shuffle:
                order = _generator(self.seed, self.epoch, self.process_index, self._block).permutation(len(block))
            while self._num_taken < len(block):
                self._num_taken += 1
                yield {**block[order[self._num_taken - 1]], "epoch": self.epoch}
            self._block, self._num_taken = self._block + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last row, as numbers and strings that JSON can hold."""
        return {**self._fixed(), **self._block_start, "epoch": self.epoch, "num_taken": self._num_taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position that `state_dict` gave.

        Raises:
            ValueError: the position is one of another stream, seed, buffer or number of processes.
        """
        fixed = self._fixed()
        changed = [
            f"{name} {state.get(name)!r}, now {fixed[name]!r}" for name in fixed if state.get(name) != fixed[name]
        ]
        if changed:
            raise ValueError(
                f"The stream cannot go on where it stopped: it was read with {'; '.join(changed)}. Resume with the "
                "settings and the number of processes of the run that was saved."
            )
        self.start_pass(state["epoch"])
        self._next_unit, self._turn, self._block = state["next_unit"], state["turn"], state["block"]
        self._open = [
            _ShardCursor(self._shards, self._units[unit], unit, row, position) for unit, row, position in state["open"]
        ]
        self._num_taken = state["num_taken"]
        self._block_start = self._position()

    def _fixed(self) -> dict[str, Any]:
        return {
            "num_shards": self.dataset.num_shards, "seed": self.seed, "num_processes": self.num_processes,
            "process_index": self.process_index, "shuffle": self.shuffle, "buffer_rows": self.buffer_rows,
        }  # fmt: skip

    def _position(self) -> dict[str, Any]:
        return {
            "open": [cursor.position() for cursor in self._open],
            "next_unit": self._next_unit, "turn": self._turn, "block": self._block,
        }  # fmt: skip

    def _read_block(self) -> list[dict[str, Any]]:
        """Read rows of the open shards in turn; none at the end of the pass."""
        self._block_start = self._position()
        block: list[dict[str, Any]] = []
        num_open = NUM_OPEN_SHARDS if self.shuffle else 1
        while len(block) < self.buffer_rows:
            while len(self._open) < num_open and self._next_unit < len(self._units):
                unit = self._next_unit
                self._open.append(_ShardCursor(self._shards, self._units[unit], unit))
                self._next_unit += 1
            if not self._open:
                break
            cursor = self._open[self._turn % len(self._open)]
            with _reading:
                row = cursor.next_row()
            if row is None:
                self._open.remove(cursor)
            else:
                block.append(row)
                self._turn += 1
        return block


class _ShardCursor:
    """A reader of one unit that knows how many rows of its shard were read."""

    def __init__(
        self,
        shards: SingleShards,
        unit: _Unit,
        number: int,
        row: int = 0,
        position: dict[str, Any] | None = None,
    ) -> None:
        self._shards, self._unit, self._number, self._row = shards, unit, number, row
        self._shard = shards[unit.shard]
        if position is not None:
            self._shard.load_state_dict(position)
        self._position = position
        self._rows: Iterator[dict[str, Any]] | None = None

    def next_row(self) -> dict[str, Any] | None:
        """Return the next row of the unit, or None at its end."""
        try:
            if self._rows is None:
                self._rows = self._start()
            for row in self._rows:
                self._row += 1
                if (self._row - 1) % self._unit.num_stripes == self._unit.stripe:
                    return row
        except (pa.ArrowException, UnicodeError, OSError) as error:
            if isinstance(error, OSError) and not _is_of_arrow(error):  # a disk or a network that fails ends the run
                raise
            self._rows = iter(())  # the shard ends here
            reason = f"the shard is damaged after its row {self._row}, the rest is lost: {str(error)[:300]}"
            name = f"shard {self._unit.shard}, row {self._row + 1} and after"
            return {"video": {"fault": reason}, "label": -1, "video_id": name}
        return None

    def _start(self) -> Iterator[dict[str, Any]]:
        rows = iter(self._shard)
        if self._position is None:
            return rows
        try:
            first = list(itertools.islice(rows, 1))
        except KeyError:  # a position of a release that read this layout another way: the rows are counted instead
            self._shard = self._shards[self._unit.shard]
            return itertools.islice(self._shard, self._row, None)
        return itertools.chain(first, rows)

    def position(self) -> tuple[int, int, dict[str, Any] | None]:
        """Return the number of the unit, rows read, and the state of the shard's own reading."""
        return self._number, self._row, self._position if self._rows is None else self._shard.state_dict()


def _is_of_arrow(error: OSError) -> bool:
    """Return whether PyArrow raised it for the content of a file: a damaged page is an `OSError` without a number."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return error.errno is None and innermost is not None and "pyarrow" in innermost.tb_frame.f_code.co_filename


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(entropy))
