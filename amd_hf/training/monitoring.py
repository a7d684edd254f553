"""What a run says of itself while it trains: losses, unreadable videos, speed.

All times are read on the host. Nothing waits for the device: a log reads the losses back anyway, so the time from one
log to the next is the device's time too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from ..errors import RunStopped


logger = logging.get_logger(__name__)

_MIN_TRIED = 100  # unreadable videos are judged from here on: one bad file among the first ten says nothing


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


class LossMeter:
    """Running weighted means by name, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, values: dict[str, torch.Tensor], weight: int = 1) -> None:
        """Add scalars, each counted `weight` times; nothing is read back from the device."""
        for name, value in values.items():
            entry = torch.stack([value.detach().double() * weight, value.new_tensor(weight, dtype=torch.float64)])
            self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def reduce(self, accelerator: Accelerator, names: list[str] | None = None) -> dict[str, float]:
        """Return the means over all that was added on all processes since the last call; every process must call it.

        `names` must be given where a process may have added nothing; a name that nobody added has no mean (NaN).
        """
        names = sorted(self._sums) if names is None else names
        nothing = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        sums = accelerator.reduce(torch.stack([self._sums.get(name, nothing) for name in names]), "sum")
        self._sums.clear()
        return {
            name: total / count if count else float("nan")
            for name, (total, count) in zip(names, sums.tolist(), strict=True)
        }


class FiniteLossGuard:
    """Guard that stops a run whose loss is not finite, naming the step and the parts.

    On an accelerator the values are copied to the host without waiting and looked at one step later, so that the check
    does not stall the device; on the CPU they are looked at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, list[str], torch.Tensor, torch.cuda.Event | None] | None = None

    def watch(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        """Remember the losses of a step after checking those of the step before."""
        self.check()
        values = torch.stack([loss.detach() for loss in losses.values()])
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending = (step, list(losses), values, event)
        if event is None:
            self.check()

    def check(self) -> None:
        """Check the losses that are remembered.

        Raises:
            RunStopped: If a loss is NaN or infinite.
        """
        if self._pending is None:
            return
        step, names, values, event = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        bad = [
            f"{name} = {value}" for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)
        ]
        if bad:
            raise RunStopped(
                f"The loss is not finite at step {step}: {', '.join(bad)}. Training stops before weights are saved. "
                "Lower the learning rate, lengthen the warm-up, or check the data and the teacher."
            )


# ---------------------------------------------------------------------------------------------------------------------
# Videos that cannot be read
# ---------------------------------------------------------------------------------------------------------------------


class ReadingLog:
    """Videos tried and found unreadable in training, over all processes.

    Args:
        max_share (`float`): Largest share of unreadable videos that is borne, judged after 100 tried.
    """

    def __init__(self, max_share: float):
        self.max_share = max_share
        self.num_tried = 0
        self.num_unreadable = 0
        self.reasons: dict[str, str] = {}

    def name(self, unreadable: Iterable[tuple[str, str]]) -> None:
        """Log (video_id, reason) pairs, each video once."""
        for video_id, reason in unreadable:
            if video_id not in self.reasons:
                self.reasons[video_id] = reason
                logger.warning(f"Skipping unreadable video {video_id}: {reason}")

    def count(self, num_tried: int, num_unreadable: int) -> None:
        """Add counts of all processes.

        Raises:
            RunStopped: If too large a share cannot be read.
        """
        self.num_tried += num_tried
        self.num_unreadable += num_unreadable
        if self.num_tried >= _MIN_TRIED and self.num_unreadable > self.max_share * self.num_tried:
            examples = "; ".join(f"{video_id} ({reason})" for video_id, reason in list(self.reasons.items())[:5])
            raise RunStopped(
                f"{self.num_unreadable} of {self.num_tried} videos tried cannot be read, more than "
                f"`max_unreadable_share` {self.max_share:.2%} allows. For example: {examples}. "
                "Repair or remove these files, or raise the share if you can do without them."
            )

    def summary(self) -> dict[str, int]:
        """Return what to log: nothing while every video could be read."""
        return {"unreadable_videos": self.num_unreadable} if self.num_unreadable else {}


# ---------------------------------------------------------------------------------------------------------------------
# Speed
# ---------------------------------------------------------------------------------------------------------------------


class ThroughputMeter(TrainerCallback):
    """Counter of clips and seconds between logs, without evaluations and saves, which only the time left includes.

    Args:
        clock (`Callable[[], float]`, *optional*): Seconds; `time.perf_counter` by default.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._window_start: float | None = None
        self._num_clips = 0
        self._seconds_waiting = 0.0
        self._seconds_paused = 0.0
        self._anchor: tuple[float, int] | None = None  # time and step from which the time left is estimated
        self._is_warm = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start again: what happens before the first step of a run, or of a resumed one, is not its speed."""
        self._reset()

    @contextmanager
    def waiting(self, step: int) -> Iterator[None]:
        """Time the fetching of the batches of a step that follows `step` others."""
        start = self._clock()
        if self._window_start is None:
            self._window_start = start
        if self._anchor is None:
            self._anchor = (start, step)
        yield
        self._seconds_waiting += self._clock() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of work that is no training."""
        start = self._clock()
        yield
        if self._window_start is not None:
            self._seconds_paused += self._clock() - start

    def count(self, num_clips: int) -> None:
        """Add clips that all processes together train on."""
        self._num_clips += num_clips

    def read(self, step: int, num_steps: int, flops_per_clip: int | None, num_devices: int) -> dict[str, float]:
        """Return the speed since the last call, which must come after the losses were read back.

        Args:
            step, num_steps (`int`): Optimizer steps done and to be done in all.
            flops_per_clip (`int`, *optional*): Operations of forward and backward pass over a clip, where known.
            num_devices (`int`): Processes that share the clips.

        Returns:
            `clips_per_second` of all processes together; `data_wait_share`, the part of the time in which this process
            waited for data; `tflops_per_device`, 1e12 operations per second and process, where `flops_per_clip` is
            known; `hours_left`. Empty where no step was made.
        """
        now = self._clock()
        if self._window_start is None or self._anchor is None:
            return {}
        seconds = max(now - self._window_start - self._seconds_paused, 1e-9)
        clips_per_second = self._num_clips / seconds
        found = {"clips_per_second": clips_per_second, "data_wait_share": self._seconds_waiting / seconds}
        if flops_per_clip is not None:
            found["tflops_per_device"] = clips_per_second * flops_per_clip / num_devices / 1e12
        first_time, first_step = self._anchor
        if step > first_step:
            seconds_per_step = (now - first_time) / (step - first_step)
            found["hours_left"] = seconds_per_step * (num_steps - step) / 3600
        if not self._is_warm:  # the first steps compile, fill caches and start workers: no measure of those to come
            self._anchor, self._is_warm = (now, step), True
        self._window_start, self._num_clips = now, 0
        self._seconds_waiting = self._seconds_paused = 0.0
        return found


def in_words(hours: float) -> str:
    """Say a time as people do: "13 s", "42 min", "5 h 07 min", "3 days 4 h"."""
    seconds = round(hours * 3600)
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{round(minutes / 60) // 24} days {round(minutes / 60) % 24} h"


class _TimeLeftInWords(TrainerCallback):
    """Stand-in for a callback that prints logs, with `time_left` in words; all others get `hours_left`."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is not None and "hours_left" in logs:
            logs = {
                "time_left" if name == "hours_left" else name: in_words(value) if name == "hours_left" else value
                for name, value in logs.items()
            }
        super().on_log(args, state, control, logs=logs, **kwargs)


class _Progress(_TimeLeftInWords, ProgressCallback):
    pass


class _Printer(_TimeLeftInWords, PrinterCallback):
    pass


def speak_of_time_left(trainer: Trainer) -> None:
    """Have what a Trainer prints name the time left in words; a notebook's table stays as it is."""
    kinds: tuple[tuple[type, type], ...] = ((ProgressCallback, _Progress), (PrinterCallback, _Printer))
    for theirs, ours in kinds:
        if any(type(callback) is theirs for callback in trainer.callback_handler.callbacks):
            trainer.remove_callback(theirs)
            trainer.add_callback(ours)
