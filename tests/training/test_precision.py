"""The choice of precision on a CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import AMDForVideoClassification
from amd_hf.finetuning.trainer import AMDFineTuningTrainer
from amd_hf.training import summary
from amd_hf.training.precision import cpu_bf16_speedup
from amd_hf.training.summary import describe_run
from tests.helpers.models import tiny_config
from tests.helpers.training import finetuning_args, labelled_rows


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(768, 768, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(a, a)
        best = min(best, time.perf_counter() - start)
    return best


def test_speedup_tells_which_precision_is_faster_here() -> None:
    plain = _seconds(torch.float32) / _seconds(torch.bfloat16)
    if 0.7 < plain < 1.5:
        pytest.skip(f"bf16 and float32 are about as fast on this CPU ({plain:.2f})")
    assert (cpu_bf16_speedup() > 1) == (plain > 1)


@pytest.mark.parametrize(("speedup", "says"), [(0.05, "20 times slower than fp32"), (4.0, "")])
def test_emulated_bf16_is_told_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, says: str
) -> None:
    monkeypatch.setattr(summary, "cpu_bf16_speedup", lambda: speedup)
    config = tiny_config(num_labels=8)
    options: dict[str, Any] = {"bf16": True, "max_steps": 1, "per_device_train_batch_size": 4}
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), finetuning_args(tmp_path, **options), data_collator=list,
        train_dataset=labelled_rows(config, 8),
    )  # fmt: skip
    device = next(line for line in describe_run(trainer).splitlines() if "device:" in line)
    assert device.endswith("cpu, bf16") if not says else says in device
