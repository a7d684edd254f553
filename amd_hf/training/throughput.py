"""How fast a run is: clips per second, share of time waiting for data, arithmetic, time left.

All times are read on the host. Nothing waits for the device: a log reads the losses back anyway, so the time from one
log to the next is the device's time too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class ThroughputMeter(TrainerCallback):
    """Counts clips and seconds between logs, without evaluations and saves, which only the time left includes.

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
        """Starts again: what happens before the first step of a run, or of a resumed one, is not its speed."""
        self._reset()

    @contextmanager
    def waiting(self, step: int) -> Iterator[None]:
        """Around the fetching of the batches of a step that follows `step` others."""
        start = self._clock()
        if self._window_start is None:
            self._window_start = start
        if self._anchor is None:
            self._anchor = (start, step)
        yield
        self._seconds_waiting += self._clock() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around work that is no training."""
        start = self._clock()
        yield
        if self._window_start is not None:
            self._seconds_paused += self._clock() - start

    def count(self, num_clips: int) -> None:
        """Adds clips that all processes together train on."""
        self._num_clips += num_clips

    def read(self, step: int, num_steps: int, flops_per_clip: int | None, num_devices: int) -> dict[str, float]:
        """Speed since the last call, which must come after the losses were read back.

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
    """A time as people say it: "13 s", "42 min", "5 h 07 min", "3 days 4 h"."""
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
    """Lets a callback that prints logs say `time_left` in words; trackers and the history get `hours_left`."""

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
    """Lets what a Trainer prints name the time left in words; a notebook's table stays as it is."""
    kinds: tuple[tuple[type, type], ...] = ((ProgressCallback, _Progress), (PrinterCallback, _Printer))
    for theirs, ours in kinds:
        if any(type(callback) is theirs for callback in trainer.callback_handler.callbacks):
            trainer.remove_callback(theirs)
            trainer.add_callback(ours)
