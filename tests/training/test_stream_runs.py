"""Training on a stream: how long it lasts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import SplitDict, SplitInfo
from torch.utils.data import IterableDataset as TorchIterableDataset

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification
from tests.helpers.models import tiny_config
from tests.helpers.processes import NumberedClips, numbered_stream
from tests.helpers.training import finetuning_args


def _trainer(output_dir: Path, stream: Any, **options: Any) -> AMDFineTuningTrainer:
    options = {"per_device_train_batch_size": 2, "base_learning_rate": 0.1, **options}
    model = AMDForVideoClassification(tiny_config())
    return AMDFineTuningTrainer(
        model, finetuning_args(output_dir, **options), data_collator=NumberedClips(9), train_dataset=stream
    )


def _known_length(stream: Any, num_rows: int) -> Any:
    stream.info.splits = SplitDict({"train": SplitInfo("train", num_examples=num_rows)})
    return stream


def test_epochs_over_a_stream_that_says_its_length(tmp_path: Path) -> None:
    stream = _known_length(numbered_stream([0, 1, 2], [3, 4, 5, 6], [7, 8]), 9)
    trainer = _trainer(tmp_path, stream, num_train_epochs=3, warmup_epochs=0.75)
    assert (trainer.num_train_videos, trainer.steps_per_epoch) == (9, 4)
    trainer.train()
    assert trainer.state.global_step == 12
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["learning_rate"] for log in logs][:3] == pytest.approx([0, 0.1 / 256, 0.1 * 2 / 256])
    assert [log["epoch"] for log in logs] == pytest.approx([2 * step / 9 for step in range(1, 13)], abs=1e-3)


def test_stream_that_does_not_say_its_length(tmp_path: Path) -> None:
    def stream() -> Any:
        return numbered_stream([0, 1, 2], [3, 4, 5, 6], [7, 8])

    with pytest.raises(ValueError, match=r"does not say how many videos.*`max_steps`"):
        _trainer(tmp_path, stream(), num_train_epochs=2)
    with pytest.raises(ValueError, match=r"`warmup_epochs` 5 cannot be counted.*`warmup_steps`"):
        _trainer(tmp_path, stream(), max_steps=2, warmup_epochs=5).train()
    trainer = _trainer(tmp_path, stream(), max_steps=7)
    trainer.train()
    assert trainer.state.global_step == 7
    # 5 batches in a pass: 4 of 2 videos and one of the last
    assert [log["epoch"] for log in trainer.state.log_history if "loss" in log] == [0, 0, 0, 0, 0, 1, 1]
    assert sorted(number for epoch, number in trainer.data_collator.seen if epoch == 0) == list(range(9))


def test_stream_shorter_than_a_step_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 1 videos, fewer than the 2 of one optimizer step"):
        _trainer(tmp_path, _known_length(numbered_stream([0]), 1), num_train_epochs=1)


def test_stream_without_videos_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="gives no videos"):
        _trainer(tmp_path, numbered_stream([], []), max_steps=1).train()


@pytest.mark.parametrize("name", ["save_strategy", "logging_strategy"])
def test_what_happens_at_the_end_of_each_epoch_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` cannot be epoch"):
        _trainer(tmp_path, numbered_stream([0]), max_steps=1, **{name: "epoch"})


def test_stream_of_another_library_raises(tmp_path: Path) -> None:
    class Rows(TorchIterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(TypeError, match=r"kind \(Rows\)"):
        _trainer(tmp_path, Rows(), max_steps=1)
