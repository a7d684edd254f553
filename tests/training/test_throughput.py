"""What a run says of its speed: by a clock of the test's own, and in the logs of real runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from amd_hf import AMDFineTuningTrainer, AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDTrainer
from amd_hf.flops import finetuning_flops, pretraining_flops
from amd_hf.training.monitoring import ThroughputMeter
from tests.helpers.models import tiny_config, tiny_teacher_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows, masked_rows, pretraining_args


class _Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def _train(meter: ThroughputMeter, clock: _Clock, step: int, waiting: float, computing: float, clips: int) -> None:
    with meter.waiting(step):
        clock.seconds += waiting
    meter.count(clips)
    clock.seconds += computing


# ---------------------------------------------------------------------------------------------------------------------
# The meter
# ---------------------------------------------------------------------------------------------------------------------


def test_speed_is_that_of_the_time_since_the_last_log() -> None:
    clock = _Clock()
    meter = ThroughputMeter(clock)
    for step in range(2):
        _train(meter, clock, step, waiting=1.0, computing=3.0, clips=16)
    first = meter.read(2, 10, flops_per_clip=5 * 10**12, num_devices=2)
    assert first == pytest.approx(
        {"clips_per_second": 4.0, "data_wait_fraction": 0.25, "tflops_per_device": 10.0, "hours_left": 8 * 4 / 3600}
    )
    _train(meter, clock, 2, waiting=0.5, computing=1.5, clips=16)
    second = meter.read(3, 10, flops_per_clip=None, num_devices=2)
    assert second == pytest.approx({"clips_per_second": 8.0, "data_wait_fraction": 0.25, "hours_left": 7 * 2 / 3600})


def test_evaluation_and_saving_count_for_the_time_left_alone() -> None:
    clock = _Clock()
    meter = ThroughputMeter(clock)
    _train(meter, clock, 0, waiting=0.0, computing=1000.0, clips=8)  # compiles: no measure of what comes
    meter.read(1, 11, None, 1)
    with meter.paused():
        clock.seconds += 6.0
    _train(meter, clock, 1, waiting=1.0, computing=1.0, clips=8)
    _train(meter, clock, 2, waiting=1.0, computing=1.0, clips=8)
    found = meter.read(3, 11, None, 1)
    assert found == pytest.approx({"clips_per_second": 4.0, "data_wait_fraction": 0.5, "hours_left": 8 * 5 / 3600})


def test_resumed_run_starts_anew() -> None:
    clock = _Clock()
    meter = ThroughputMeter(clock)
    _train(meter, clock, 0, waiting=1.0, computing=1.0, clips=8)
    meter.on_train_begin(None, None, None)  # type: ignore[arg-type]
    clock.seconds += 50.0  # loads a checkpoint
    _train(meter, clock, 40, waiting=1.0, computing=1.0, clips=8)
    assert meter.read(41, 51, None, 1) == pytest.approx(
        {"clips_per_second": 4.0, "data_wait_fraction": 0.5, "hours_left": 10 * 2 / 3600}
    )


def test_nothing_is_said_where_no_step_was_made() -> None:
    assert ThroughputMeter().read(0, 10, 1, 1) == {}


# ---------------------------------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------------------------------


class _SlowRows(StackRows):
    """A collator that takes its time, by the clock of the test."""

    def __init__(self, clock: _Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def __call__(self, rows: Sequence[Any]) -> dict[str, torch.Tensor]:
        self.clock.seconds += self.seconds
        return super().__call__(rows)


class _Tracker(TrainerCallback):
    """Stands where TensorBoard and trackio stand, and lets an optimizer step take 6 seconds."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock
        self.logs: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.seconds += 6.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.logs.append({**logs, "step": state.global_step})


class _SlowSaves(AMDTrainer):
    clock: _Clock

    def save_extras(self, checkpoint: Path) -> None:
        self.clock.seconds += 500.0
        super().save_extras(checkpoint)


def test_logs_of_distillation_tell_its_speed(tmp_path: Path) -> None:
    config, teacher_config, clock = tiny_config(), tiny_teacher_config(), _Clock()
    args = pretraining_args(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=4, logging_steps=2,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    tracker, rows = _Tracker(clock), masked_rows(config, 16)
    trainer = _SlowSaves(
        AMDForPreTraining(config), args, AMDModel(teacher_config), data_collator=_SlowRows(clock, 1.0),
        eval_collator=_SlowRows(clock, 1000.0), train_dataset=rows, eval_dataset=rows[:1], callbacks=[tracker],
    )  # fmt: skip
    trainer.clock = trainer._throughput._clock = clock  # type: ignore[assignment]
    trainer.train()
    first, second = (logs for logs in tracker.logs if "loss" in logs)
    flops = pretraining_flops(config, teacher_config)
    for logs in (first, second):
        assert {"loss_direct", "loss_generation", "loss_reconstruction", "grad_norm", "learning_rate"} <= logs.keys()
        # A window is two steps of 2 x 4 clips: 2 x 1 s of waiting and 6 s of computing each.
        assert logs["clips_per_second"] == pytest.approx(16 / 16)
        assert logs["data_wait_fraction"] == pytest.approx(2 / 8)
        assert logs["tflops_per_device"] == pytest.approx(flops / 1e12)
    # The first window has an evaluation and a save between its steps; as many steps are left.
    assert first["hours_left"] * 3600 == pytest.approx(16 + 1000 + 500)
    assert second["hours_left"] == 0
    assert trainer.state.log_history[-1]["step"] == 4


def test_arithmetic_of_a_teacher_of_ones_own_is_not_guessed(tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> dict[int, torch.Tensor]:
            raise NotImplementedError

    trainer = AMDTrainer(AMDForPreTraining(tiny_config()), pretraining_args(tmp_path), Own(), data_collator=list)
    assert trainer.flops_per_clip() is None


def test_fine_tuning_counts_its_clips_too(tmp_path: Path) -> None:
    config = tiny_config()
    args = finetuning_args(tmp_path, per_device_train_batch_size=3, max_steps=1)
    model = AMDForVideoClassification(config)
    trainer = AMDFineTuningTrainer(model, args, data_collator=StackRows(), train_dataset=labelled_rows(config, 3))
    trainer.train()
    (logs,) = [logs for logs in trainer.state.log_history if "loss" in logs]
    assert logs["tflops_per_device"] == pytest.approx(logs["clips_per_second"] * finetuning_flops(model.config) / 1e12)
    args = finetuning_args(tmp_path, freeze="encoder")
    frozen = AMDFineTuningTrainer(AMDForVideoClassification(config), args, data_collator=StackRows())
    assert frozen.flops_per_clip() is None
