"""Fixtures of the program tests: a small labelled data set, and every program run once on it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.motion_shapes import write_motion_shapes
from tests.helpers.shared import made_once
from tests.helpers.training import load_script, run_script


_RECIPE = """
model:
  image_size: 16
  patch_size: 4
  num_frames: 4
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  decoder_hidden_size: 16
  decoder_num_hidden_layers: 1
  decoder_num_attention_heads: 2
  student_mask_ratio: 0.75
  teacher_mask_ratio: 0.5
  student_direct_layers: [1, 2]
  student_generation_layers: [1, 2]
  teacher_direct_layers: [1, 2]
  teacher_generation_layers: [1, 2]
train_split: train
eval_split: validation
"""
_TRAINING = """
sampling_rate: 2
per_device_train_batch_size: 4
num_repetitions: 2
max_steps: 3
warmup_epochs: 0
logging_steps: 1
save_strategy: "no"
use_cpu: true
bf16: false
"""


@dataclass(frozen=True)
class Work:
    """Folders of the tests, and what the programs said."""

    root: Path
    said: dict[str, str]

    @property
    def data(self) -> Path:
        return self.root / "data"

    def video(self) -> str:
        return str(sorted((self.data / "validation").rglob("*.mp4"))[0])

    def pretraining(self, *more: str) -> list[str]:
        return ["--recipe", str(self.root / "pretrain.yaml"), "--data", str(self.data), *more]

    def finetuning(self, *more: str) -> list[str]:
        return ["--recipe", str(self.root / "finetune.yaml"), "--data", str(self.data), *more]


@pytest.fixture(scope="session")
def program() -> Callable[[str], Any]:
    """A program as a module, to be run in this process."""
    return load_script


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Teacher, distilled student, classifier, results: all but the first by a program in a process of its own."""
    root = made_once(tmp_path_factory, "work", _make_work)
    return Work(root, json.loads((root / "said.json").read_text()))


def _make_work(root: Path) -> None:
    for split, num_videos in (("train", 16), ("validation", 9)):
        write_motion_shapes(root / "data", split, num_videos, seed=0, num_frames=10, num_workers=0)
    (root / "pretrain.yaml").write_text(_RECIPE + _TRAINING)
    splits = "train_split: train\neval_split: validation\ntest_split: validation\n"
    (root / "finetune.yaml").write_text(splits + _TRAINING + "test_num_segments: 2\ntest_num_crops: 1\n")
    work = Work(root, {})
    with contextlib.redirect_stdout(io.StringIO()) as said:
        load_script("pretrain").main(work.pretraining("--output_dir", f"{root}/teacher"))
    work.said["teacher"] = said.getvalue()
    commands = {
        "student": ("pretrain", work.pretraining("--teacher", f"{root}/teacher", "--model.teacher_hidden_size", "16")),
        "classifier": ("finetune", work.finetuning("--model_name_or_path", f"{root}/student")),
        "results": (
            "evaluate",
            ["--model_name_or_path", f"{root}/classifier", "--data", str(work.data), "--split", "validation",
             "--num_segments", "2", "--num_crops", "1", "--use_cpu", "--mixed_precision", "no"],
        ),
    }  # fmt: skip
    for name, (script, arguments) in commands.items():
        outcome = run_script(script, *arguments, "--output_dir", str(root / name))
        work.said[name] = outcome.stdout
    outcome = run_script(
        "predict", "--model_name_or_path", f"{root}/classifier", "--videos", work.video(), "--use_cpu"
    )
    work.said["prediction"] = outcome.stdout
    (root / "said.json").write_text(json.dumps(work.said))
