"""A model trained on segments tells early flashes from late ones, whoever asks it, with or without the package."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from amd_hf.evaluation.features import read_features
from amd_hf.evaluation.probes import linear_probe_accuracy
from tests.helpers.training import ROOT, load_script
from tests.helpers.videos import write_video
from tests.helpers.without_package import python_without_package


_SIZES = {
    "image_size": 32, "patch_size": 8, "num_frames": 16, "tubelet_size": 2, "hidden_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "teacher_hidden_size": "null",
    "decoder_hidden_size": 24, "decoder_num_attention_heads": 2, "student_direct_layers": "[1]",
    "student_generation_layers": "[1]", "teacher_direct_layers": "[1]", "teacher_generation_layers": "[1]",
    "drop_path_rate": 0, "classifier_init_scale": 1,
}  # fmt: skip
# What the recipe for one's own videos needs to learn this in half a minute.
_TRAINING = {
    "use_cpu": "true", "bf16": "false", "dataloader_num_workers": 0, "save_strategy": "no", "num_repetitions": 1,
    "train_crop": "center_crop", "cache_decoded_bytes": 1_000_000_000, "gradient_accumulation_steps": 1,
    "base_learning_rate": 9.6e-2, "label_smoothing_factor": 0, "layer_decay": 1, "per_device_eval_batch_size": 48,
}  # fmt: skip
_REMOTE = """
import importlib.util, json, sys
assert importlib.util.find_spec("amd_hf") is None
from transformers import pipeline
classify = pipeline("video-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
print("OUTCOME" + json.dumps([classify(path)[0]["label"] for path in sys.argv[2:]]))
"""


def _write_flashes(root: Path, count: int, seed: int) -> None:
    """Ten seconds of grey noise with a bright square for one second, in the first or in the last quarter."""
    generator = np.random.default_rng(seed)
    for name, share in (("early", 0.1), ("late", 0.8)):
        for number in range(count):
            frames = generator.integers(60, 90, (250, 64, 64, 3)).astype(np.uint8)
            start = int(share * 250) + int(generator.integers(-10, 10))
            top, left = generator.integers(8, 40, 2)
            frames[start : start + 25, top : top + 16, left : left + 16] = 240
            write_video(root / name / f"{number:03d}.mp4", frames=frames)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_way_of_asking_gives_what_the_runs_own_test_gave(tmp_path: Path) -> None:
    videos, folder = tmp_path / "videos", str(tmp_path / "model")
    _write_flashes(videos / "train", 24, seed=0)
    _write_flashes(videos / "validation", 8, seed=1)
    options = [f"--model.{name}={value}" for name, value in _SIZES.items()]
    options += [f"--{name}={value}" for name, value in _TRAINING.items()]
    load_script("finetune").main(
        ["--recipe", str(ROOT / "configs/finetune/custom.yaml"), "--data", str(videos), "--train_split", "train",
         "--eval_split", "validation", "--test_split", "validation", "--output_dir", folder, *options]
    )  # fmt: skip
    accuracies = {"own test": json.loads(Path(folder, "test_results.json").read_text())["accuracy"]}

    paths = sorted(map(str, (videos / "validation").rglob("*.mp4")))
    truth = [Path(path).parent.name for path in paths]

    def share_right(found: list[str]) -> float:
        return float(np.mean([one == other for one, other in zip(found, truth, strict=True)]))

    model = ["--model_name_or_path", folder, "--use_cpu"]
    (tested,) = load_script("evaluate").main(
        [*model, "--data", str(videos), "--split", "validation", "--output_dir", str(tmp_path / "results")]
    )
    accuracies["evaluate"] = tested.metrics()["accuracy"]
    predicted = load_script("predict").main([*model, "--videos", *paths])
    accuracies["predict"] = share_right([found["predictions"][0]["label"] for found in predicted])
    classify = pipeline("video-classification", model=folder, device="cpu")
    accuracies["pipeline"] = share_right([classify(path)[0]["label"] for path in paths])
    accuracies["remote code"] = share_right(_ask_without_the_package(folder, paths, tmp_path))
    features = {split: _features(model, videos, split, tmp_path) for split in ("train", "validation")}
    accuracies["features"] = linear_probe_accuracy(features["train"], features["validation"], num_classes=2)
    (probed,) = load_script("evaluate").main(
        [*model, "--data", str(videos), "--linear_probe", "true", "--train_split", "train", "--split", "validation",
         "--output_dir", str(tmp_path / "probe")]
    )  # fmt: skip
    accuracies["linear probe"] = probed["accuracy"]
    assert min(accuracies.values()) >= 0.95, accuracies


def _ask_without_the_package(folder: str, paths: list[str], tmp_path: Path) -> list[str]:
    python = python_without_package(tmp_path / "venv")
    environment: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", _REMOTE, folder, *paths],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("OUTCOME")[1])


def _features(model: list[str], videos: Path, split: str, tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The `pooled` features of a split and its labels."""
    folder = tmp_path / f"features_{split}"
    load_script("extract_features").main(
        [*model, "--data", str(videos), "--split", split, "--output_dir", str(folder)]
    )
    entries = list(read_features(folder))
    return torch.cat([entry["pooled"] for entry in entries]), torch.tensor([entry["label"] for entry in entries])
