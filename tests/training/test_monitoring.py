"""Means of loss parts over a run, and losses that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from amd_hf.errors import RunStopped
from amd_hf.training.monitoring import FiniteLossGuard, LossMeter


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_means_are_weighted_by_the_clips_behind_each_value(accelerator: Accelerator) -> None:
    meter = LossMeter()
    meter.add({"pixels": torch.tensor(1.0), "direct": torch.tensor(10.0)}, weight=3)
    meter.add({"pixels": torch.tensor(5.0)}, weight=1)
    assert meter.reduce(accelerator) == {"direct": 10.0, "pixels": 2.0}


def test_means_start_again_after_they_are_read(accelerator: Accelerator) -> None:
    meter = LossMeter()
    assert not meter
    meter.add({"pixels": torch.tensor(1.0)})
    assert meter
    meter.reduce(accelerator)
    assert not meter
    meter.add({"pixels": torch.tensor(7.0)})
    assert meter.reduce(accelerator) == {"pixels": 7.0}


def test_name_that_nobody_added_has_no_mean(accelerator: Accelerator) -> None:
    meter = LossMeter()
    meter.add({"pixels": torch.tensor(1.0)})
    means = meter.reduce(accelerator, ["pixels", "direct"])
    assert list(means) == ["pixels", "direct"]
    assert means["pixels"] == 1.0
    assert math.isnan(means["direct"])


def test_many_small_values_keep_their_mean(accelerator: Accelerator) -> None:
    """In float32 a running sum of this length would be off by 1e-3."""
    meter = LossMeter()
    for _ in range(3000):
        meter.add({"pixels": torch.tensor(0.1)}, weight=10_000)
    assert meter.reduce(accelerator)["pixels"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_values_are_detached() -> None:
    meter = LossMeter()
    meter.add({"pixels": torch.tensor(1.0, requires_grad=True) * 2})
    assert not meter._sums["pixels"].requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_stops_the_run_and_names_step_and_part(value: float) -> None:
    guard = FiniteLossGuard()
    guard.watch(6, {"pixels": torch.tensor(1.0)})
    with pytest.raises(RunStopped, match=rf"not finite at step 7: direct = {value}, total = {value}\."):
        guard.watch(7, {"pixels": torch.tensor(1.0), "direct": torch.tensor(value), "total": torch.tensor(value)})


def test_guard_forgets_what_it_looked_at() -> None:
    guard = FiniteLossGuard()
    with pytest.raises(RunStopped, match="step 1"):
        guard.watch(1, {"total": torch.tensor(math.nan)})
    guard.check()
    guard.watch(2, {"total": torch.tensor(3.0)})
    guard.check()
