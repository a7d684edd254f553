"""`torch_compile`: the whole step in graphs without a break, and none made after the first steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import TrainerCallback

from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer
from tests.helpers.models import randomize, tiny_config, tiny_teacher_config
from tests.helpers.training import StackRows, logged, masked_rows, pretraining_args


class _WithCounts(StackRows):
    """Says how many tokens the masks hide, as the built-in collator does."""

    def __call__(self, rows: Any) -> dict[str, Any]:
        return super().__call__(rows) | {"num_masked": 8, "num_teacher_masked": 4}


class _GraphsAfterSteps(TrainerCallback):
    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.counts.append(counters["stats"]["unique_graphs"])


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


def _train(output_dir: Path, callback: TrainerCallback, **options: Any) -> AMDTrainer:
    torch.manual_seed(0)
    student = randomize(AMDForPreTraining(tiny_config()))
    teacher = randomize(AMDModel(tiny_teacher_config()))
    args = pretraining_args(
        output_dir, per_device_train_batch_size=3, max_steps=6, base_learning_rate=0.1, adam_epsilon=1e-4, **options
    )
    trainer = AMDTrainer(
        student, args, teacher, data_collator=_WithCounts(), train_dataset=masked_rows(student.config, 9)
    )
    trainer.add_callback(callback)
    trainer.train()
    return trainer


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("bf16", [pytest.param(False, marks=pytest.mark.slow, id="float32"), True])
def test_compiled_training_breaks_no_graph_and_compiles_nothing_after_three_steps(tmp_path: Path, bf16: bool) -> None:
    graphs = _GraphsAfterSteps()
    compiled = _train(tmp_path / "compiled", graphs, bf16=bf16, torch_compile=True, torch_compile_backend="aot_eager")
    assert dict(counters["graph_break"]) == {}
    assert graphs.counts[2] == graphs.counts[-1]
    assert graphs.counts[0] >= 3  # student, teacher, and the alignment losses
    eager = _train(tmp_path / "eager", TrainerCallback(), bf16=bf16)
    for name in ("loss", "loss_reconstruction", "loss_direct", "loss_generation"):
        assert logged(compiled, name) == pytest.approx(logged(eager, name), rel=2e-2 if bf16 else 1e-4), name
