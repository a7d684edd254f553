"""Runs whose clips are augmented on the device, against the same runs with augmentation in the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import (
    AMDFineTuningArguments,
    AMDFineTuningTrainer,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDTrainer,
    load_video_dataset,
)
from amd_hf.detection.training_arguments import AMDDetectionArguments
from tests.helpers.finetuning import MIXED
from tests.helpers.models import tiny_config
from tests.helpers.training import finetuning_args, logged, pretraining_args, weights_of


def _fine_tuned(folder: Path, out: Path, streaming: bool, **changes: Any) -> AMDFineTuningTrainer:
    torch.manual_seed(0)
    args = finetuning_args(
        out, per_device_train_batch_size=2, gradient_accumulation_steps=2, num_repetitions=2, sampling_rate=2,
        max_steps=2, base_learning_rate=0.1, rand_augment="rand-m7-n4-mstd0.5-inc1", flip_probability=0.5,
        erase_probability=0.5, save_strategy="no", **MIXED, **changes,
    )  # fmt: skip
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    rows = load_video_dataset(folder, split="train", streaming=streaming)
    trainer = AMDFineTuningTrainer(AMDForVideoClassification(config), args, train_dataset=rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("streaming", "changes"),
    [(False, {}), (False, {"bf16": True, "dataloader_num_workers": 1}), (True, {"repetitions_share_frames": False})],
    ids=["rows", "bf16, a worker", "stream, own frames"],
)
def test_fine_tuning_is_that_of_clips_augmented_in_the_workers(
    motion_videos: Path, tmp_path: Path, streaming: bool, changes: dict[str, Any]
) -> None:
    expected, trainer = (
        _fine_tuned(motion_videos, tmp_path / str(on_device), streaming, augment_on_device=on_device, **changes)
        for on_device in (False, True)
    )
    assert trainer.data_collator.loader.augment_on_device
    assert not expected.data_collator.loader.augment_on_device
    # A level of 255 in a few values of a clip.
    assert logged(trainer, "loss") == pytest.approx(logged(expected, "loss"), rel=1e-3)
    assert trainer.state.total_flos == expected.state.total_flos
    for name, value in weights_of(expected.model).items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, atol=1e-3, rtol=1e-2, msg=name)


def test_pre_training_is_that_of_clips_cropped_in_the_workers(motion_videos: Path, tmp_path: Path) -> None:
    losses = []
    for on_device in (False, True):
        torch.manual_seed(0)
        args = pretraining_args(
            tmp_path / str(on_device), max_steps=2, per_device_train_batch_size=2, num_repetitions=2,
            augment_on_device=on_device,
        )  # fmt: skip
        config = tiny_config(image_size=16, teacher_hidden_size=None)
        rows = load_video_dataset(motion_videos, split="train")
        trainer = AMDTrainer(AMDForPreTraining(config), args, train_dataset=rows)
        trainer.train()
        assert trainer.data_collator.loader.augment_on_device == on_device
        losses.append(logged(trainer, "loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_detection_augments_in_its_workers_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`augment_on_device` has no meaning for action detection"):
        AMDDetectionArguments(output_dir=str(tmp_path), augment_on_device=True)


def test_device_without_float64_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AMDFineTuningArguments, "device", torch.device("mps"))
    with pytest.raises(ValueError, match="`augment_on_device` needs float64, which Apple's GPUs lack"):
        finetuning_args(tmp_path, augment_on_device=True)
