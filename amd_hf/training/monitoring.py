"""What a run measures while it trains: losses, unreadable videos, speed.

All times are read on the host, and nothing waits for the device: each log reads the losses back anyway, so the time
between two logs is the device's time too.
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

_MIN_TRIED = 100  # check the fraction only from here on: one bad file among the first ten means nothing


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
        """Add scalars, each counted `weight` times, without reading them back from the device."""
        for name, value in values.items():
            entry = torch.stack([value.detach().double() * weight, value.new_tensor(weight, dtype=torch.float64)])
            self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def reduce(self, accelerator: Accelerator, names: list[str] | None = None) -> dict[str, float]:
        """Return the means over all that was added on any process since the last call; every process must call this.

        `names` is needed if a process may have added nothing. A name that no process added gets NaN.
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
    """Guard that stops a run when its loss is not finite, and names the step and the parts.

    On an accelerator the values are copied to the host without waiting, and checked one step later so that the check
    does not stall the device. On the CPU they are checked at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, list[str], torch.Tensor, torch.cuda.Event | None] | None = None

    def watch(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        """Check the pending losses, and keep those of this step for the next check."""
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
        """Check the pending losses.

        Raises:
            RunStopped: If a loss is NaN or infinite.
        """
        if self._pending is None:
            return
        step, names, values, event = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()  # a step has passed since the copy began, so this rarely waits
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
    """Log of the videos that training tried and could not read, over all processes.

    Args:
        max_fraction (`float`): Largest fraction of unreadable videos to tolerate, checked from 100 videos on.
    """

    def __init__(self, max_fraction: float):
        self.max_fraction = max_fraction
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
            RunStopped: If too large a fraction cannot be read.
        """
        self.num_tried += num_tried
        self.num_unreadable += num_unreadable
        if self.num_tried >= _MIN_TRIED and self.num_unreadable > self.max_fraction * self.num_tried:
            examples = "; ".join(f"{video_id} ({reason})" for video_id, reason in list(self.reasons.items())[:5])
            raise RunStopped(
                f"{self.num_unreadable} of {self.num_tried} videos tried cannot be read, more than "
                f"`max_unreadable_fraction` {self.max_fraction:.2%} allows. For example: {examples}. "
                "Repair or remove these files, or raise the fraction if you can do without them."
            )

    def summary(self) -> dict[str, int]:
        """Return what to log: nothing as long as every video could be read."""
        return {"unreadable_videos": self.num_unreadable} if self.num_unreadable else {}


# ---------------------------------------------------------------------------------------------------------------------
# Speed
# ---------------------------------------------------------------------------------------------------------------------


class ThroughputMeter(TrainerCallback):
    """Meter of clips per second between logs; evaluations and saves count only in the estimate of the time left.

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
        """Start again: the time before the first step does not count, whether the run is new or resumed."""
        self._reset()

    @contextmanager
    def waiting(self, step: int) -> Iterator[None]:
        """Count the time inside as waiting for data; `step` steps are done."""
        start = self._clock()
        if self._window_start is None:
            self._window_start = start
        if self._anchor is None:
            self._anchor = (start, step)
        yield
        self._seconds_waiting += self._clock() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out of the measurement: it is no training."""
        start = self._clock()
        yield
        if self._window_start is not None:
            self._seconds_paused += self._clock() - start

    def count(self, num_clips: int) -> None:
        """Add clips that all processes together train on."""
        self._num_clips += num_clips

    def read(self, step: int, num_steps: int, flops_per_clip: int | None, num_devices: int) -> dict[str, float]:
        """Return the speed since the last call. Call this after the losses were read back.

        Args:
            step, num_steps (`int`): Optimizer steps done, and of the whole run.
            flops_per_clip (`int`, *optional*): FLOPs of forward and backward pass over a clip, if known.
            num_devices (`int`): Number of processes among which the clips are divided.

        Returns:
            `clips_per_second` of all processes together; `data_wait_fraction`, the fraction of the time that this
            process waited for data; `tflops_per_device`, 1e12 operations per second and process, if `flops_per_clip`
            is known; `hours_left`. Empty if no step was done.
        """
        now = self._clock()
        if self._window_start is None or self._anchor is None:
            return {}
        seconds = max(now - self._window_start - self._seconds_paused, 1e-9)
        clips_per_second = self._num_clips / seconds
        found = {"clips_per_second": clips_per_second, "data_wait_fraction": self._seconds_waiting / seconds}
        if flops_per_clip is not None:
            found["tflops_per_device"] = clips_per_second * flops_per_clip / num_devices / 1e12
        first_time, first_step = self._anchor
        if step > first_step:
            seconds_per_step = (now - first_time) / (step - first_step)
            found["hours_left"] = seconds_per_step * (num_steps - step) / 3600
        # The first steps compile, fill caches and start workers, so the time left is estimated from the steps after.
        if not self._is_warm:
            self._anchor, self._is_warm = (now, step), True
        self._window_start, self._num_clips = now, 0
        self._seconds_waiting = self._seconds_paused = 0.0
        return found


def format_duration(hours: float) -> str:
    """Format a duration for people: "13 s", "42 min", "5 h 07 min", "3 days 4 h"."""
    seconds = round(hours * 3600)
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{round(minutes / 60) // 24} days {round(minutes / 60) % 24} h"


class _PrintsTimeLeft(TrainerCallback):
    """Printing of `hours_left` as a readable `time_left`; trackers and the history keep `hours_left`."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is not None and "hours_left" in logs:
            logs = {
                "time_left" if name == "hours_left" else name: format_duration(value)
                if name == "hours_left"
                else value
                for name, value in logs.items()
            }
        super().on_log(args, state, control, logs=logs, **kwargs)


class _Progress(_PrintsTimeLeft, ProgressCallback):
    pass


class _Printer(_PrintsTimeLeft, PrinterCallback):
    pass


def print_time_left(trainer: Trainer) -> None:
    """Make a Trainer print a readable `time_left` in its logs; a notebook's table stays as it is."""
    kinds: tuple[tuple[type, type], ...] = ((ProgressCallback, _Progress), (PrinterCallback, _Printer))
    for theirs, ours in kinds:
        if any(type(callback) is theirs for callback in trainer.callback_handler.callbacks):
            trainer.remove_callback(theirs)
            trainer.add_callback(ours)
