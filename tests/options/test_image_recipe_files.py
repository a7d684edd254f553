"""The recipes of ImageNet-1K: every number against the table of the task, and runs of a few steps at true size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEModel

from amd_hf import (
    AMDConfig,
    AMDFineTuningArguments,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDTrainingArguments,
)
from amd_hf.data.arguments import FineTuningDataArguments, TrainingDataArguments
from amd_hf.data.augment.rand_augment import RandAugment
from amd_hf.options.parsing import parse_recipe
from tests.helpers.images import LAYOUTS, NAMES
from tests.helpers.training import ROOT, fast_precision, load_script


CONFIGS = ROOT / "configs"
_WIDTHS = {"small": (384, 6), "base": (768, 12)}
_DECODERS = {"small": (192, 3), "base": (384, 6)}
_PRETRAINING = {
    "base_learning_rate": 1.5e-4, "num_train_epochs": 800, "warmup_epochs": 40, "adam_beta1": 0.9, "adam_beta2": 0.95,
    "weight_decay": 0.05, "min_base_learning_rate": 0.0, "max_grad_norm": 0.0, "train_crop": "random_resized_crop",
    "min_crop_area": 0.2, "interpolation": "bicubic", "flip_probability": 0.5, "num_repetitions": 1,
    "direct_weight": 1.0, "generation_weight": 1.0, "reconstruction_weight": 1.0, "warmup_steps": 0,
}  # fmt: skip
_FINETUNING = {
    "base_learning_rate": 5e-4, "num_train_epochs": 100, "warmup_epochs": 5, "layer_decay": 0.65, "weight_decay": 0.05,
    "adam_beta1": 0.9, "adam_beta2": 0.999, "max_grad_norm": 0.0, "recipe_videos_per_step": 1024,
    "rand_augment": "rand-m9-mstd0.5-inc1", "erase_probability": 0.25, "mixup_alpha": 0.8, "cutmix_alpha": 1.0,
    "mix_probability": 1.0, "label_smoothing_factor": 0.1, "train_crop": "random_resized_crop", "min_crop_area": 0.08,
    "interpolation": "bicubic", "short_side": 256, "flip_probability": 0.5, "num_repetitions": 1,
    "test_num_segments": 1, "test_num_crops": 1, "warmup_steps": 0,
}  # fmt: skip
_IMAGES = {
    "image_size": 224, "patch_size": 16, "num_frames": 1, "tubelet_size": 1, "num_hidden_layers": 12,
    "position_embedding": "sincos_2d",
}  # fmt: skip
_METHOD = {
    "teacher_hidden_size": 1024, "student_direct_layers": [6, 12], "student_generation_layers": [6, 12],
    "teacher_direct_layers": [12, 24], "teacher_generation_layers": [12, 24], "mask_type": "random",
    "student_mask_ratio": 0.75, "teacher_mask_ratio": 0.5, "norm_pix_loss": True, "reconstruction_target": "mae",
    "decoder_num_hidden_layers": 4,
}  # fmt: skip


def _recipe(stage: str, size: str) -> Path:
    return CONFIGS / stage / f"amd_vit_{size}_in1k.yaml"


def _parse(stage: str, size: str, output_dir: Path) -> tuple[Any, Any, AMDConfig]:
    types = {
        "pretrain": (TrainingDataArguments, AMDTrainingArguments),
        "finetune": (FineTuningDataArguments, AMDFineTuningArguments),
    }[stage]
    argv = ["--output_dir", str(output_dir), "--use_cpu", "true", "--bf16", "false"]
    if stage == "pretrain":  # `teacher` is an option of the program
        types = (*types, load_script("pretrain").PretrainOptions)
    data, args, *_, model_options = parse_recipe(types, ["--recipe", str(_recipe(stage, size)), *argv])
    return data, args, AMDConfig(**model_options)


def _check(found: Any, expected: dict[str, Any]) -> None:
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("size", list(_WIDTHS))
def test_pretraining_recipe_has_the_published_numbers(size: str, tmp_path: Path) -> None:
    data, args, config = _parse("pretrain", size, tmp_path)
    _check(args, _PRETRAINING)
    assert args.videos_per_step == 4096
    assert args.learning_rate == pytest.approx(1.5e-4 * 16)
    widths = dict(zip(("hidden_size", "num_attention_heads"), _WIDTHS[size], strict=True))
    decoder = dict(zip(("decoder_hidden_size", "decoder_num_attention_heads"), _DECODERS[size], strict=True))
    _check(config, {**_IMAGES, **_METHOD, **widths, **decoder})
    assert config.num_masked_patches(0.75) == 147  # of 196
    assert (data.media, data.train_split) == ("image", "train")


@pytest.mark.parametrize("size", list(_WIDTHS))
def test_finetuning_recipe_has_the_published_numbers(size: str, tmp_path: Path) -> None:
    data, args, config = _parse("finetune", size, tmp_path)
    _check(args, _FINETUNING)
    assert 1024 % args.per_device_train_batch_size == 0
    assert args.min_base_learning_rate * 1024 / 256 == pytest.approx(1e-6)
    widths = dict(zip(("hidden_size", "num_attention_heads"), _WIDTHS[size], strict=True))
    _check(config, {**_IMAGES, **widths, "drop_path_rate": 0.1, "pooling": "mean", "classifier_init_scale": 0.001})
    assert (data.media, data.train_split, data.test_split) == ("image", "train", "validation")
    RandAugment.parse(args.rand_augment)


@pytest.mark.parametrize("size", list(_WIDTHS))
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_every_number_names_its_source_and_the_open_one_is_owned_up_to(stage: str, size: str) -> None:
    text = _recipe(stage, size).read_text()
    assert "MAE's published settings" in text
    if stage == "pretrain":
        assert "The paper's own value was not at hand" in text
        assert "--model.teacher_mask_ratio" in text
    else:
        assert "reported by the authors, not measured here" in text
    lines = text.partition("# No part of the recipe")[0].splitlines()
    numbers = [line for line in lines if ":" in line and not line.lstrip().startswith("#")]
    unsourced = [line for line in numbers if not any(mark in line for mark in ("[M]", "[P]", "[O]", "#"))]
    assert {line.strip().partition(":")[0] for line in unsourced} <= {
        "model", "media", "train_split", "eval_split", "test_split", "teacher_mask_ratio",
        "per_device_train_batch_size",
    }  # fmt: skip
    assert max(map(len, text.splitlines())) < 120


# ---------------------------------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------------------------------

_SHORT = [
    "--use_cpu", "true", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "2",
    "--gradient_accumulation_steps", "1", "--max_steps", "2", "--warmup_steps", "1", "--logging_steps", "1",
    "--eval_strategy", "no", "--save_strategy", "no", "--report_to", "none",
]  # fmt: skip


@pytest.fixture(scope="module")
def vit_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `vit_mae` of the size of the teacher, with random weights."""
    folder = tmp_path_factory.mktemp("teacher")
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    model = ViTMAEModel(ViTMAEConfig(**sizes))
    for parameter in (model.embeddings.cls_token, model.embeddings.position_embeddings):
        torch.nn.init.normal_(parameter, std=0.02)  # zeros, as it is made
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("layout", ["class_folders", "parquet"])
@pytest.mark.parametrize("size", list(_WIDTHS))
def test_recipes_run_one_after_the_other_at_true_size(
    size: str, layout: str, vit_large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = LAYOUTS[layout](tmp_path / "data")
    options = ["--data", str(data), *_SHORT, *fast_precision()]
    recipe = ["--recipe", str(_recipe("pretrain", size))]
    trainer = load_script("pretrain").main(
        [*recipe, *options, "--teacher", str(vit_large), "--output_dir", str(tmp_path / "pretrained")]
    )
    assert trainer.state.global_step == 2
    assert "AMDModel" in capsys.readouterr().out
    student = AMDForPreTraining.from_pretrained(tmp_path / "pretrained")
    assert (student.config.hidden_size, student.config.num_patches) == (_WIDTHS[size][0], 196)
    recipe = ["--recipe", str(_recipe("finetune", size))]
    trainer = load_script("finetune").main(
        [
            *recipe, *options, "--per_device_eval_batch_size", "2", "--model_name_or_path",
            str(tmp_path / "pretrained"), "--output_dir", str(tmp_path / "finetuned"),
        ]
    )  # fmt: skip
    assert trainer.state.global_step == 2
    assert "the recipe is made for 1024" in capsys.readouterr().out
    model = AMDForImageClassification.from_pretrained(tmp_path / "finetuned")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(
        {384: 21.6e6, 768: 85.8e6}[_WIDTHS[size][0]], rel=0.01
    )
    assert [model.config.id2label[number] for number in range(3)] == NAMES
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    results = json.loads((tmp_path / "finetuned" / "test_results.json").read_text())
    assert results["videos_expected"] == results["videos_read"] == 6
