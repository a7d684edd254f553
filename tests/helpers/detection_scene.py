"""Fine-tuning of a detector as a scene of `processes.py`: on rendered videos with made-up boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from amd_hf import AMDDetectionTrainer, AMDForActionDetection
from tests.helpers.ava import detection_args
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import logged, weights_of


def people_rows(folder: Path) -> datasets.Dataset:
    """A key frame in the middle of each video, with 0 to 3 boxes: devices and steps have different numbers of them."""
    rows = []
    for number, path in enumerate(sorted(folder.glob("*/*.mp4"))):
        rng = np.random.default_rng(number)
        corners = rng.uniform(0, 0.5, (number % 4, 2))
        rows.append(
            {
                "video": {"path": str(path), "layout": "file", "start_seconds": 0.0, "frame_rate": None},
                "video_id": f"{path.stem},{path.parent.name}",
                "timestamp": 0.5,
                "boxes": np.concatenate([corners, corners + rng.uniform(0.2, 0.5, corners.shape)], axis=1).tolist(),
                "actions": [rng.choice(3, rng.integers(1, 3), replace=False).tolist() for _ in corners],
            }
        )
    boxes = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
    label = datasets.ClassLabel(names=["run", "jump", "sit"])
    video = {"path": "string", "layout": "string", "start_seconds": "float64", "frame_rate": "float64"}
    features = {
        "video": {name: datasets.Value(kind) for name, kind in video.items()},
        "video_id": datasets.Value("string"),
        "timestamp": datasets.Value("float64"),
        "boxes": boxes,
        "actions": datasets.Sequence(datasets.Sequence(label)),
    }
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def detection(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Training with accumulation, evaluation and test of an odd number of key frames, one of which is bad."""
    config = tiny_config(image_size=16, num_labels=3)
    config.id2label = {0: "run", 1: "jump", 2: "sit"}
    args = detection_args(
        output / "detector", per_device_train_batch_size=batch_size // 2, gradient_accumulation_steps=2, max_steps=3,
        adam_epsilon=1e-4, per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer = AMDDetectionTrainer(
        randomize(AMDForActionDetection(config)), args, train_dataset=people_rows(videos / "train")
    )
    trainer.train()
    rows = people_rows(videos / "test")
    return {
        "logs": {name: logged(trainer, name) for name in ("loss", "learning_rate")},
        "weights": weights_of(trainer.model),
        "steps": trainer.state.global_step,
        "metrics": trainer.evaluate(rows),
        "test": trainer.test(rows),
    }
