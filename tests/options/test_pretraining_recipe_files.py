"""The recipes of pre-training: numbers against the released ones, where runs leave them, and short runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import AMDConfig, AMDForPreTraining, AMDModel, AMDTrainer, AMDTrainingArguments
from amd_hf.data.arguments import TrainingDataArguments
from amd_hf.finetuning.recipe_check import departures
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.recipe_files import read_recipe
from amd_hf.pretraining.trainer import pretraining_collator
from amd_hf.training.summary import describe_run
from tests.helpers import miniatures
from tests.helpers.models import tiny_config, tiny_teacher_config
from tests.helpers.slurm import play_slurm
from tests.helpers.training import ROOT, StackRows, fast_precision, load_script, masked_rows


CONFIGS = ROOT / "configs"

# As released. Columns: width, heads, decoder width, decoder heads, rate, sampling, teacher.
_TABLE: dict[str, tuple[Any, ...]] = {
    "amd_vit_small_k400": (384, 6, 192, 3, 4, "dense", "MCG-NJU/videomae-large"),
    "amd_vit_base_k400": (768, 12, 384, 6, 4, "dense", "MCG-NJU/videomae-large"),
    "amd_vit_small_ssv2": (384, 6, 192, 3, 2, "spread", None),
    "amd_vit_base_ssv2": (768, 12, 384, 6, 2, "spread", None),
}
_COMMON = {
    "base_learning_rate": 1.2e-3, "min_base_learning_rate": 1e-5, "adam_beta1": 0.9, "adam_beta2": 0.95,
    "max_grad_norm": 0.02, "weight_decay": 0.05, "warmup_epochs": 10, "num_train_epochs": 200, "num_repetitions": 4,
    "recipe_videos_per_step": 512, "per_device_train_batch_size": 16, "train_crop": "multi_scale_crop",
    "alignment_loss": "l2", "reconstruction_weight": 1.0, "direct_weight": 1.0, "generation_weight": 1.0,
    "teacher_feature_norm": False, "warmup_steps": 0, "max_steps": -1,
}  # fmt: skip
_MODEL = {
    "image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2, "num_hidden_layers": 12,
    "drop_path_rate": 0.0, "decoder_num_hidden_layers": 4, "generator_num_hidden_layers": 2,
    "teacher_hidden_size": 1024, "student_mask_ratio": 0.9, "teacher_mask_ratio": 0.75, "mask_type": "tube",
    "student_direct_layers": [6, 12], "student_generation_layers": [6, 12], "teacher_direct_layers": [12, 24],
    "teacher_generation_layers": [12, 24], "norm_pix_loss": True,
}  # fmt: skip


def _recipe(name: str) -> Path:
    return CONFIGS / "pretrain" / f"{name}.yaml"


def _parse(name: str, output_dir: Path, *overrides: str) -> tuple[Any, Any, AMDTrainingArguments, dict[str, Any]]:
    types = (TrainingDataArguments, load_script("pretrain").PretrainOptions, AMDTrainingArguments)
    argv = ["--recipe", str(_recipe(name)), "--output_dir", str(output_dir), "--use_cpu", "true"]
    return parse_recipe(types, [*argv, *overrides])


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(_TABLE))
def test_recipe_of_the_paper_has_the_numbers_of_the_design(name: str, tmp_path: Path) -> None:
    width, heads, decoder_width, decoder_heads, rate, sampling, teacher = _TABLE[name]
    data, options, args, model_options = _parse(name, tmp_path)
    for option, value in {**_COMMON, "sampling_rate": rate, "sampling_mode": sampling}.items():
        assert getattr(args, option) == value, option
    config = AMDConfig(**model_options)
    sizes = {
        "hidden_size": width, "num_attention_heads": heads, "decoder_hidden_size": decoder_width,
        "decoder_num_attention_heads": decoder_heads,
    }  # fmt: skip
    for option, value in {**_MODEL, **sizes}.items():
        assert getattr(config, option) == value, option
    assert options.teacher == teacher
    assert (data.train_split, data.eval_split) == ("train", "validation")
    assert args.recipe_videos_per_step % args.per_device_train_batch_size == 0


@pytest.mark.parametrize("name", list(_TABLE))
def test_every_number_of_a_recipe_of_the_paper_names_its_source(name: str) -> None:
    recipe_part, running_part = _recipe(name).read_text().split("# No part of the recipe")
    lines = [line for line in recipe_part.splitlines() if ":" in line and not line.startswith("#")]
    numbers = [line for line in lines if not line.startswith("model:") and "_split:" not in line]
    assert len(numbers) > 30
    sources = ("[A]", "[D]", "[C]", "paper", "the same")
    assert [line for line in numbers if not any(source in line.partition("#")[2] for source in sources)] == []
    words = " ".join(recipe_part.replace("\n#", "\n").split())
    assert "reported by the authors, not measured here" in words
    assert "CC-BY-NC 4.0" in words
    assert "bf16" in running_part


@pytest.mark.parametrize("path", sorted((CONFIGS / "pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_one_that_the_program_takes(path: Path, tmp_path: Path) -> None:
    _, _, args, model_options = _parse(path.stem, tmp_path, "--bf16", "false")
    config = AMDConfig(**model_options)
    pretraining_collator(config, args, has_teacher=True, training=True)
    assert args.learning_rate == pytest.approx(args.base_learning_rate * args.videos_per_step / 256)
    lines = path.read_text().splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) < 120


def test_clips_are_sampled_by_the_mode_of_the_recipe(tmp_path: Path) -> None:
    _, _, args, model_options = _parse("amd_vit_small_ssv2", tmp_path, "--bf16", "false")
    collator = pretraining_collator(AMDConfig(**model_options), args, has_teacher=True, training=True)
    assert (collator.loader.sampling_mode, collator.loader.sampling_rate) == ("spread", 2)


# ---------------------------------------------------------------------------------------------------------------------
# Where a run leaves its recipe
# ---------------------------------------------------------------------------------------------------------------------


def _departures(tmp_path: Path, *overrides: str) -> tuple[list[str], str]:
    _, _, args, _ = _parse("amd_vit_small_k400", tmp_path, "--bf16", "false", *overrides)
    sizes = {name: value for name, value in _MODEL.items() if name.endswith(("ratio", "type", "loss"))}
    config = tiny_config(**sizes, image_size=32)
    rows = masked_rows(config, 1) * 1100
    teacher = AMDModel(tiny_teacher_config(image_size=32))
    trainer = AMDTrainer(AMDForPreTraining(config), args, teacher, data_collator=StackRows(), train_dataset=rows)
    recipe = read_recipe(["--recipe", str(_recipe("amd_vit_small_k400"))])
    model = recipe.sections["model"]
    recipe.sections["model"] = {name: model[name] for name in sizes}  # the tiny model has other widths
    return departures(trainer, recipe), describe_run(trainer)


def test_run_by_the_recipe_has_nothing_to_warn_of(tmp_path: Path) -> None:
    found, text = _departures(tmp_path, "--gradient_accumulation_steps", "32")
    assert found == []
    assert "batch: 512 videos x 4 repetitions = 2048 clips per step" in text
    assert "steps: 400 (200 epochs of 2), 20 of warm-up" in text
    assert "learning rate: 0.0024 down to 2e-05" in text
    assert "GFLOPs per clip, forward and backward" in text


def test_run_that_leaves_the_recipe_says_where(tmp_path: Path) -> None:
    options = ["--num_train_epochs", "100", "--num_repetitions", "1", "--base_learning_rate", "1e-3"]
    found, _ = _departures(tmp_path, "--gradient_accumulation_steps", "4", *options)
    assert found == [
        "64 videos per step, the recipe is made for 512: the learning rate was scaled to 0.00025; "
        "`--gradient_accumulation_steps 32` restores the batch.",
        "`num_repetitions` is 1, in the recipe 4.",
        "`num_train_epochs` is 100.0, in the recipe 200.",
        "`base_learning_rate` is 0.001, in the recipe 0.0012.",
    ]


def test_number_of_videos_that_no_step_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`recipe_videos_per_step` must be at least 1, got 0"):
        AMDTrainingArguments(str(tmp_path), use_cpu=True, recipe_videos_per_step=0)


def test_recipe_that_names_no_teacher_refuses_to_run_without_one(tmp_path: Path) -> None:
    arguments = ["--recipe", str(_recipe("amd_vit_small_ssv2")), "--data", str(tmp_path), "--output_dir", "x"]
    with pytest.raises(ValueError, match=r"aligned with a teacher of width 1024: name it with `--teacher`"):
        load_script("pretrain").main([*arguments, "--use_cpu", "true"])


# ---------------------------------------------------------------------------------------------------------------------
# Slurm
# ---------------------------------------------------------------------------------------------------------------------


def test_slurm_example_launches_pretraining_on_every_node(tmp_path: Path) -> None:
    spooled = tmp_path / "slurm_script"  # what sbatch runs is a copy
    spooled.write_text((CONFIGS / "slurm" / "pretrain.sbatch").read_text())
    calls, _ = play_slurm(spooled, tmp_path, ["node1", "node2"], gpus=8, cwd=ROOT)
    assert len(calls) == 2
    for rank, call in enumerate(calls):
        assert f"--num_machines|2|--num_processes|16|--machine_rank|{rank}|--main_process_ip|node1|" in call
        expected = "-m|amd_hf.cli.pretrain|--recipe|recipe.yaml|--resume_from_checkpoint|last|--data|two words|"
        assert call.endswith(expected)


# ---------------------------------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------------------------------

_MAKERS: dict[str, Callable[[Path], Any]] = {"k400": miniatures.kinetics, "ssv2": miniatures.something_something}
_SHORT = [
    "--use_cpu", "true", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "1",
    "--per_device_eval_batch_size", "2", "--num_repetitions", "2", "--max_steps", "2", "--warmup_steps", "1",
    "--logging_steps", "1", "--save_strategy", "no",
]  # fmt: skip


@pytest.fixture(scope="module")
def large_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-L with random weights as a folder."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    AMDModel(AMDConfig(**sizes), use_xavier_init=True).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("recipe", list(_TABLE))
def test_recipe_of_the_paper_runs_end_to_end_at_the_models_true_size(
    recipe: str, large_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _MAKERS[recipe.rsplit("_", 1)[1]](tmp_path / "data")
    arguments = ["--recipe", str(_recipe(recipe)), "--data", str(tmp_path / "data"), "--teacher", str(large_teacher)]
    trainer = load_script("pretrain").main(
        [*arguments, "--output_dir", str(tmp_path / "out"), *_SHORT, *fast_precision()]
    )
    assert trainer.state.global_step == 2
    model = AMDForPreTraining.from_pretrained(tmp_path / "out")
    width = _TABLE[recipe][0]
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (width, 12)
    # Encoders as in the paper's table 1, without heads.
    assert sum(p.numel() for p in model.amd.parameters()) == pytest.approx({384: 22e6, 768: 86.2e6}[width], rel=0.02)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["eval_videos_expected"] == results["eval_videos_read"] == 2
    assert 0 < results["eval_cka_student_6_teacher_12"] < 1
    found = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert (len(found["student_layers"]), len(found["teacher_layers"])) == (12, 24)
    assert found["num_tokens"] == 2 * 160
    assert (tmp_path / "out" / "similarity.png").is_file()
    assert "the recipe is made for 512" in capsys.readouterr().out
