"""The recipes for AVA: every number against the published ones, and runs of a few steps at the models' true size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import (
    AMDConfig,
    AMDDetectionArguments,
    AMDForActionDetection,
    AMDForPreTraining,
    AMDForVideoClassification,
)
from amd_hf.detection.arguments import ActionTrainingArguments
from amd_hf.options.parsing import parse_recipe, read_task
from examples.motion_people import PEOPLE_ACTIONS
from tests.helpers.ava import write_miniature
from tests.helpers.training import ROOT, load_script, run_script


CONFIGS = ROOT / "configs" / "detect"

# VideoMAE's rates for AVA: base rate without and with the labels of Kinetics-400.
_RATES = {"amd_vit_base_ava": 2.5e-4, "amd_vit_base_ava_k400_labels": 5e-4}
_START = {"amd_vit_base_ava": AMDForPreTraining, "amd_vit_base_ava_k400_labels": AMDForVideoClassification}
_NUMBERS = {
    "num_train_epochs": 30, "warmup_epochs": 5, "recipe_videos_per_step": 128, "layer_decay": 0.75,
    "weight_decay": 0.05, "adam_beta1": 0.9, "adam_beta2": 0.999, "max_grad_norm": 0.0,
    "min_base_learning_rate": 1e-6, "sampling_rate": 4, "num_repetitions": 1, "short_side": 256,
    "flip_probability": 0.5, "hue_shift": 20.0, "saturation_shift": 0.1, "value_shift": 0.1, "ema_decay": None,
    "freeze": None, "lora_rank": None, "warmup_steps": 0, "max_steps": -1, "rand_augment": None,
    "erase_probability": 0.0, "label_smoothing_factor": 0.0,
}  # fmt: skip
_MODEL = {
    "image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "drop_path_rate": 0.2, "head_dropout": 0.0,
    "classifier_init_scale": 0.001,
}  # fmt: skip


def _parse(name: str, output_dir: Path) -> tuple[Any, AMDDetectionArguments, dict[str, Any]]:
    argv = ["--recipe", str(CONFIGS / f"{name}.yaml"), "--output_dir", str(output_dir), "--use_cpu", "true"]
    assert read_task(argv, ["classification", "detection"]) == "detection"
    types = (ActionTrainingArguments, load_script("finetune").StartOptions, AMDDetectionArguments)
    data, _, args, model_options = parse_recipe(types, [*argv, "--bf16", "false"])
    return data, args, model_options


@pytest.mark.parametrize("name", list(_RATES))
def test_recipe_has_the_numbers_of_the_design(name: str, tmp_path: Path) -> None:
    data, args, model_options = _parse(name, tmp_path)
    for option, value in {**_NUMBERS, "base_learning_rate": _RATES[name]}.items():
        assert getattr(args, option) == value, option
    config = AMDConfig(**model_options)
    for option, value in _MODEL.items():
        assert getattr(config, option) == value, option
    assert data.min_person_score == 0.8
    assert 128 % args.per_device_train_batch_size == 0


def test_recipes_are_those_tested_and_every_number_names_its_source() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == set(_RATES)
    for path in CONFIGS.iterdir():
        text = path.read_text()
        recipe_part, running_part = text.split("# No part of the recipe")
        lines = [line for line in recipe_part.splitlines() if ":" in line and not line.startswith("#")]
        numbers = [line for line in lines if not line.startswith(("model:", "task:"))]
        assert len(numbers) > 20
        sources = ("[D]", "[C]", "[V]", "paper", "the same")
        assert [line for line in numbers if not any(source in line.partition("#")[2] for source in sources)] == []
        assert "reported by the authors" in text
        assert running_part


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", list(_RATES))
def test_recipe_runs_at_the_models_true_size_on_a_miniature(name: str, tmp_path: Path) -> None:
    files = write_miniature(tmp_path / "ava", "val", num_videos=2, seconds=3, seed=0)
    encoder = {option: value for option, value in _MODEL.items() if option != "drop_path_rate"}
    source = _START[name](AMDConfig(**encoder, decoder_num_hidden_layers=1))
    source.save_pretrained(tmp_path / "start")
    trainer = load_script("finetune").main(
        ["--recipe", str(CONFIGS / f"{name}.yaml"), "--model_name_or_path", str(tmp_path / "start"),
         "--video_root", str(files.videos), "--annotations", str(files.annotations), "--action_list",
         str(files.action_list), "--eval_annotations", str(files.annotations), "--person_boxes",
         str(files.person_boxes), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--bf16", "false",
         "--dataloader_num_workers", "0", "--per_device_train_batch_size", "2", "--max_steps", "2",
         "--warmup_steps", "1", "--logging_steps", "1", "--save_strategy", "no"]
    )  # fmt: skip
    assert trainer.state.global_step == 2
    model = AMDForActionDetection.from_pretrained(tmp_path / "out")
    assert [model.config.id2label[number] for number in range(6)] == list(PEOPLE_ACTIONS)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(86.2e6, rel=0.01)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    moved = (model.amd.layers[0].mlp.fc1.weight - source.amd.layers[0].mlp.fc1.weight).abs().max()
    assert 0 < moved < 1e-3  # it started from there
    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert results["videos_expected"] == results["videos_read"] == 6


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_demo_learns_the_actions_of_each_box(tmp_path: Path) -> None:
    outcome = run_script("demo_detection", "--output_dir", str(tmp_path / "demo"), timeout=2900)
    found = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert found["detector"] >= 0.8
    assert found["the same with boxes shuffled within each key frame"] - found["constant scores"] <= 0.1
    assert (tmp_path / "demo" / "actions.mp4").stat().st_size > 10_000
    assert "FAILED" not in outcome.stdout
