"""The batches of an optimizer step, fetched so that all processes take part in it alike."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from ...data.loaders import StreamIterator
from ...errors import RunStopped
from ..monitoring.reading_log import ReadingLog


@dataclass(frozen=True)
class _Slot:
    """What this process trains on at one place of the step, and how many clips all of them train on there."""

    batch: dict[str, Any]  # empty where there is nothing to train on
    num_clips: int
    total_clips: int
    has_ended_everywhere: bool = False  # the pass over a stream
    clips_to_count: int = 0  # where `total_clips` counts batches


class StepBatches:
    """Fetches the batches of each optimizer step and says by what each loss is to be divided.

    The gradient of a step is the mean over its clips on all processes: the mean of means where every batch is full.
    Batches may be smaller or missing in two cases. No video of a batch could be read on some process: then all leave
    theirs out. A stream ends, on some processes earlier than on others: then those wait for the rest.

    Args:
        reading_log (`ReadingLog`): counts the videos of all processes.
        num_processes (`int`): how many train together.
        host_group (`torch.distributed.ProcessGroup`, *optional*): of the processes' hosts; None for one process.
    """

    def __init__(self, reading_log: ReadingLog, num_processes: int, host_group: dist.ProcessGroup | None) -> None:
        self._reading_log = reading_log
        self._num_processes = num_processes
        self._host_group = host_group
        self._plan: deque[tuple[int, float]] = deque()
        self._stand_in: dict[str, Any] = {}
        self.num_clips = 0
        """Clips of the step fetched last that count, on all processes together."""

    def fetch(self, iterator: Iterator[Any], num_batches: int) -> list[dict[str, Any]]:
        """The batches of one step; empty ones have nothing to train on, and keep their place in the count of steps."""
        if isinstance(iterator, StreamIterator):
            slots = [self._next_of_stream(iterator) for _ in range(num_batches)]
        else:
            slots = [self._next_of_rows(batch) for batch in islice(iterator, num_batches)]
        total_clips = sum(slot.total_clips for slot in slots)
        self.num_clips = sum(slot.clips_to_count or slot.total_clips for slot in slots)
        # Empty ones first: gradients are exchanged between processes with the last batch of a step.
        slots.sort(key=lambda slot: bool(slot.batch))
        self._plan = deque(
            (slot.num_clips, total_clips / (slot.num_clips * self._num_processes) if slot.num_clips else math.inf)
            for slot in slots
        )
        return [slot.batch for slot in slots]

    def next_weight(self) -> tuple[int, float]:
        """Clips of the next batch (0 for one that counts for nothing) and what its mean loss is to be divided by."""
        return self._plan.popleft()

    def _next_of_rows(self, batch: dict[str, Any]) -> _Slot:
        if "num_tried" not in batch:  # a collator of the user's own
            num_clips = _count_clips(batch) * self._num_processes
            return _Slot(batch, 1, self._num_processes, clips_to_count=num_clips)
        return self._agree(batch)

    def _next_of_stream(self, iterator: StreamIterator) -> _Slot:
        for _ in range(2):
            batch = iterator.next_batch()
            slot = self._agree(batch or {}, has_ended=batch is None)
            if slot.batch:
                self._stand_in = slot.batch
            if not slot.has_ended_everywhere:
                return slot if slot.batch or not slot.total_clips else self._idle_slot(slot.total_clips)
            iterator.start_next_pass()
        raise RunStopped("The stream gives no videos: look at the data set's shards and its `split`.")

    def _idle_slot(self, total_clips: int) -> _Slot:
        """A batch of before, of no weight, for a process that must take part in the exchange of gradients."""
        if not self._stand_in:
            raise RunStopped("This process got no video of the stream at all: use fewer processes or more shards.")
        return _Slot(self._stand_in, 0, total_clips)

    def _agree(self, batch: dict[str, Any], has_ended: bool = False) -> _Slot:
        """Takes the reading report out of a batch and agrees with the other processes on what is trained on."""
        num_tried, unreadable = batch.pop("num_tried", 0), batch.pop("unreadable", [])
        self._reading_log.name(unreadable)
        num_clips = _count_clips(batch)
        is_unreadable = not has_ended and num_clips == 0
        counts = torch.tensor([num_tried, len(unreadable), num_clips, int(is_unreadable), int(has_ended)])
        if self._host_group is not None:
            dist.all_reduce(counts, group=self._host_group)
        num_tried, num_unreadable, total_clips, num_without, num_ended = counts.tolist()
        self._reading_log.count(num_tried, num_unreadable)
        if num_without:
            return _Slot({}, 0, 0)
        return _Slot(batch if num_clips else {}, num_clips, total_clips, num_ended == self._num_processes)


def _count_clips(batch: dict[str, Any]) -> int:
    return next((len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim), 0)
