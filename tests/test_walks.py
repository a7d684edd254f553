"""How many files of ours a reader goes through who follows a step, a video or a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer, export_checkpoint, load_teacher, load_video_dataset
from amd_hf.data import open_video
from examples.motion_shapes import write_motion_shapes
from tests.helpers.models import tiny_config, tiny_teacher_config
from tests.helpers.training import pretraining_args
from tests.helpers.walks import Walk, starts_package_hooks, walked


# Upper bounds, to be lowered and never raised.
MOST_FILES_OF_A_STEP = 15
MOST_FILES_OF_A_VIDEO = 4
MOST_FILES_OF_A_TEACHER = 6
MOST_RETURNS_OF_A_TEACHER = 0


class _WalkOfASecondStep(TrainerCallback):
    """From the end of the first step to that of the second: fetching the batch, forward, backward, update."""

    def __init__(self) -> None:
        self.walk = Walk()
        self._tracing: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self._tracing = walked()
            self.walk = self._tracing.__enter__()
        elif state.global_step == 2:
            self._tracing.__exit__(None, None, None)


def test_a_training_step_enters_few_files(tmp_path: Path) -> None:
    write_motion_shapes(tmp_path, "train", 16, seed=0, num_frames=10, num_workers=0)
    config = tiny_config(image_size=16)
    teacher = AMDModel(tiny_teacher_config(image_size=16))
    watching = _WalkOfASecondStep()
    args = pretraining_args(tmp_path / "out", max_steps=2, per_device_train_batch_size=4, logging_steps=10)
    rows = load_video_dataset(tmp_path, split="train")
    trainer = AMDTrainer(
        AMDForPreTraining(config), args=args, train_dataset=rows, teacher_model=teacher, callbacks=[watching]
    )
    trainer.train()
    files = [name for name in watching.walk.files if not starts_package_hooks(name)]
    assert "modeling_amd.py" in files
    assert any(name.startswith("data/") for name in files)
    assert len(files) <= MOST_FILES_OF_A_STEP, " ".join(sorted(files))


@pytest.mark.parametrize("time_limit", [None, 60.0], ids=["here", "in a process of its own"])
def test_opening_a_video_enters_few_files(time_limit: float | None, tmp_path: Path) -> None:
    write_motion_shapes(tmp_path, "train", 8, seed=0, num_frames=10, num_workers=0)
    path = next((tmp_path / "train").rglob("*.mp4"))
    with walked() as walk, open_video(path, time_limit=time_limit) as video:
        video.frames([0, 4])
    assert "video_reading_amd.py" in walk.files
    assert len(walk.files) <= MOST_FILES_OF_A_VIDEO, walk.files


@pytest.mark.parametrize("kind", ["folder", "official file"])
def test_loading_a_teacher_enters_few_files_and_is_called_back_by_none(kind: str, tmp_path: Path) -> None:
    config = tiny_teacher_config()
    if kind == "folder":
        AMDModel(config).save_pretrained(tmp_path / "teacher")
        source, options = tmp_path / "teacher", {}
    else:
        model = AMDForPreTraining(tiny_teacher_config(decoder_hidden_size=20, decoder_num_attention_heads=2))
        torch.save({"model": export_checkpoint(model)}, tmp_path / "teacher.pth")
        source, options = tmp_path / "teacher.pth", {"config": config}
    with walked() as walk:
        teacher = load_teacher(source, layers=[2, 4], **options)
    assert not teacher.training
    assert len(walk.files) <= MOST_FILES_OF_A_TEACHER, walk.files
    assert len(walk.returns) <= MOST_RETURNS_OF_A_TEACHER, walk.returns
