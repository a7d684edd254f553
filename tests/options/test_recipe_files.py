"""The recipe files and launcher files: every number against a table of the published ones, and runs of a few steps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from amd_hf import AMDConfig, AMDFineTuningArguments, AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.data.arguments import FineTuningDataArguments
from amd_hf.finetuning.recipe_check import departures
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.recipe_files import Recipe, read_recipe
from amd_hf.training.summary import describe_run
from tests.helpers import miniatures
from tests.helpers.models import tiny_config
from tests.helpers.slurm import play_slurm
from tests.helpers.training import ROOT, StackRows, fast_precision, labelled_rows, load_script
from tests.helpers.videos import write_video


CONFIGS = ROOT / "configs"

# As released. Columns: width, heads, base rate, epochs, videos per step, test segments x crops.
_TABLE = {
    "amd_vit_small_ssv2": (384, 6, 1e-3, 40, 256, 2, 3),
    "amd_vit_base_ssv2": (768, 12, 5e-4, 30, 256, 2, 3),
    "amd_vit_small_k400": (384, 6, 1e-3, 150, 512, 5, 3),
    "amd_vit_base_k400": (768, 12, 7e-4, 90, 512, 5, 3),
    "amd_vit_base_ucf101": (768, 12, 5e-4, 100, 128, 5, 3),
    "amd_vit_base_hmdb51": (768, 12, 5e-4, 50, 128, 5, 3),
}
_COMMON = {
    "adam_beta1": 0.9, "adam_beta2": 0.999, "weight_decay": 0.05, "max_grad_norm": 0.0, "warmup_epochs": 5,
    "min_base_learning_rate": 1e-6, "layer_decay": 0.75, "rand_augment": "rand-m7-n4-mstd0.5-inc1",
    "train_crop": "random_resized_crop", "flip_probability": 0.5, "erase_probability": 0.25, "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0, "mix_probability": 1.0, "mix_switch_probability": 0.5, "label_smoothing_factor": 0.1,
    "num_repetitions": 2, "sampling_rate": 4, "sampling_mode": "spread", "test_mode": "dense", "ema_decay": None,
    "freeze": None, "lora_rank": None, "warmup_steps": 0, "max_steps": -1,
}  # fmt: skip
_MODEL = {"drop_path_rate": 0.1, "head_dropout": 0.0, "classifier_init_scale": 0.001}
_FIXED_MODEL = {"image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2, "num_hidden_layers": 12}
_SSV2 = {"flip_probability": 0.0, "sampling_mode": "segments", "test_mode": "uniform"}
_VIDEOMAE = {"layer_decay": 0.7, "min_base_learning_rate": 1e-5}
_VIDEOMAE_MODEL = {"drop_path_rate": 0.2, "head_dropout": 0.5}


def _parse(name: str, output_dir: Path, *overrides: str) -> tuple[Any, AMDFineTuningArguments, dict[str, Any]]:
    types = (FineTuningDataArguments, AMDFineTuningArguments)
    argv = [
        "--recipe",
        str(CONFIGS / "finetune" / f"{name}.yaml"),
        "--output_dir",
        str(output_dir),
        "--use_cpu",
        "true",
    ]
    return parse_recipe(types, [*argv, *overrides])


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(_TABLE))
def test_recipe_of_the_paper_has_the_numbers_of_the_design(name: str, tmp_path: Path) -> None:
    width, heads, base_rate, epochs, videos, segments, crops = _TABLE[name]
    _, args, model_options = _parse(name, tmp_path)
    expected = {
        **_COMMON, "base_learning_rate": base_rate, "num_train_epochs": epochs, "recipe_videos_per_step": videos,
        "test_num_segments": segments, "test_num_crops": crops,
    }  # fmt: skip
    model = {**_FIXED_MODEL, **_MODEL, "hidden_size": width, "num_attention_heads": heads}
    if name.endswith("ssv2"):
        expected |= _SSV2
    if name.endswith(("ucf101", "hmdb51")):
        expected |= _VIDEOMAE
        model |= _VIDEOMAE_MODEL
    for option, value in expected.items():
        assert getattr(args, option) == value, option
    config = AMDConfig(**model_options)
    for option, value in model.items():
        assert getattr(config, option) == value, option
    assert videos % args.per_device_train_batch_size == 0


@pytest.mark.parametrize("name", list(_TABLE))
def test_every_number_of_a_recipe_of_the_paper_names_its_source(name: str) -> None:
    text = (CONFIGS / "finetune" / f"{name}.yaml").read_text()
    recipe_part, running_part = text.split("# No part of the recipe")
    lines = [line for line in recipe_part.splitlines() if ":" in line and not line.startswith("#")]
    numbers = [line for line in lines if not line.startswith("model:") and "_split:" not in line]
    assert len(numbers) > 25
    sources = ("[A]", "[D]", "[C]", "[V]", "paper", "the same")
    assert [line for line in numbers if not any(source in line.partition("#")[2] for source in sources)] == []
    assert "reported by the authors" in text
    assert running_part


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetune").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_one_that_the_program_takes(path: Path, tmp_path: Path) -> None:
    _, args, model_options = _parse(path.stem, tmp_path, "--bf16", "false")
    AMDConfig(**model_options)
    assert args.learning_rate == pytest.approx(args.base_learning_rate * args.videos_per_step / 256)
    assert len(path.read_text().splitlines()) < 100
    assert max(map(len, path.read_text().splitlines())) < 120


# ---------------------------------------------------------------------------------------------------------------------
# Where a run leaves its recipe
# ---------------------------------------------------------------------------------------------------------------------


def _departures(tmp_path: Path, name: str, *overrides: str, num_rows: int = 600) -> tuple[list[str], str]:
    argv = ["--recipe", str(CONFIGS / "finetune" / f"{name}.yaml")]
    _, args, _ = _parse(name, tmp_path, "--bf16", "false", *overrides)
    model = AMDForVideoClassification(
        tiny_config(
            drop_path_rate=0.1, hidden_size=384, num_attention_heads=6, num_hidden_layers=1, teacher_hidden_size=None
        )
    )
    rows = labelled_rows(tiny_config(num_frames=2, image_size=8), 1) * num_rows
    trainer = AMDFineTuningTrainer(model, args, data_collator=StackRows(), train_dataset=rows, eval_dataset=rows[:2])
    return departures(trainer, read_recipe(argv)), describe_run(trainer)


def test_run_by_the_recipe_has_nothing_to_warn_of(tmp_path: Path) -> None:
    found, text = _departures(tmp_path, "amd_vit_small_ssv2", "--gradient_accumulation_steps", "16")
    assert found == []
    assert "batch: 256 videos x 2 repetitions = 512 clips per step" in text
    assert "steps: 80 (40 epochs of 2), 10 of warm-up" in text
    assert "learning rate: 0.001 down to 1e-06" in text


def test_run_that_leaves_the_recipe_says_where(tmp_path: Path) -> None:
    options = ["--max_steps", "3", "--flip_probability", "0.5", "--bf16", "false", "--warmup_steps", "2"]
    found, _ = _departures(tmp_path, "amd_vit_small_ssv2", "--gradient_accumulation_steps", "4", *options)
    assert found == [
        "64 videos per step, the recipe is made for 256: the learning rate was scaled to 0.00025; "
        "`--gradient_accumulation_steps 16` restores the batch.",
        "`max_steps` ends the run after 0.333 epochs, the recipe takes 40.",
        "`warmup_steps` 2 replaces the recipe's 5 epochs.",
        "`flip_probability` is 0.5, in the recipe 0.0.",
    ]


def test_device_batch_of_one_clip_is_warned_about(tmp_path: Path) -> None:
    options = ["--per_device_train_batch_size", "1", "--num_repetitions", "1", "--learning_rate", "1e-4"]
    found, _ = _departures(tmp_path, "amd_vit_small_ssv2", *options, "--base_learning_rate", "null")
    assert "A micro-batch holds one clip, which mixup and cutmix can only mix with itself." in found
    assert "`learning_rate` 0.0001 replaces the recipe's rate." in found
    assert "`num_repetitions` is 1, in the recipe 2." in found


def test_no_recipe_leaves_nothing() -> None:
    assert read_recipe(["--output_dir", "x"]) == Recipe()


# ---------------------------------------------------------------------------------------------------------------------
# Launchers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "machines", "use_cpu"),
    [
        ("cpu", DistributedType.NO, 1, True),
        ("single_gpu", DistributedType.NO, 1, False),
        ("multi_gpu", DistributedType.MULTI_GPU, 1, False),
        ("multi_node", DistributedType.MULTI_GPU, 2, False),
        ("fsdp2", DistributedType.FSDP, 1, False),
    ],
)
def test_accelerate_reads_the_launcher_file(name: str, kind: DistributedType, machines: int, use_cpu: bool) -> None:
    config = load_config_from_file(str(CONFIGS / "accelerate" / f"{name}.yaml"))
    assert (config.distributed_type, config.num_machines, config.use_cpu) == (kind, machines, use_cpu)
    assert config.num_processes % machines == 0
    assert config.num_processes == 1 if kind == DistributedType.NO else config.num_processes > 1
    if kind == DistributedType.FSDP:
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] in AMDForVideoClassification._no_split_modules


def test_all_launcher_files_are_tested() -> None:
    assert {path.stem for path in (CONFIGS / "accelerate").iterdir()} == {
        "cpu", "single_gpu", "multi_gpu", "multi_node", "fsdp2",
    }  # fmt: skip


def test_slurm_example_is_valid_and_starts_the_launcher_of_every_node(tmp_path: Path) -> None:
    script = CONFIGS / "slurm" / "finetune.sbatch"
    calls, environment = play_slurm(script, tmp_path, ["node7", "node8"], gpus=4)
    assert len(calls) == 2
    for rank, call in enumerate(calls):
        assert call.startswith("launch|--config_file|configs/accelerate/multi_node.yaml|--num_machines|2|")
        assert f"--num_processes|8|--machine_rank|{rank}|--main_process_ip|node7|" in call
        assert call.endswith(
            "-m|amd_hf.cli.finetune|--recipe|recipe.yaml|--resume_from_checkpoint|last|--data|two words|"
        )
    missing = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert missing.returncode == 2
    assert missing.stderr.startswith("usage: sbatch")


def test_accelerate_launches_the_program_with_the_cpu_file(tmp_path: Path) -> None:
    arguments = ["--config_file", str(CONFIGS / "accelerate" / "cpu.yaml"), "program.py", "--use_cpu", "true"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert (args.num_processes, args.training_script, args.use_cpu) == (1, "program.py", True)
    assert args.training_script_args == ["--use_cpu", "true"]


# ---------------------------------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------------------------------

_MAKERS: dict[str, Callable[[Path], Any]] = {
    "ssv2": miniatures.something_something,
    "k400": miniatures.kinetics,
    "ucf101": miniatures.ucf101,
    "hmdb51": miniatures.hmdb51,
}
_SHORT = [
    "--use_cpu", "true", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "1",
    "--per_device_eval_batch_size", "2", "--gradient_accumulation_steps", "1", "--max_steps", "2", "--warmup_steps",
    "1", "--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no",
    "--test_num_crops", "1", "--test_num_segments", "1",
]  # fmt: skip


def _run(recipe: str, data: Path, output_dir: Path, *more: str) -> tuple[AMDFineTuningTrainer, dict[str, Any]]:
    arguments = ["--recipe", str(CONFIGS / "finetune" / f"{recipe}.yaml"), "--data", str(data)]
    trainer = load_script("finetune").main(
        [*arguments, "--output_dir", str(output_dir), *_SHORT, *fast_precision(), *more]
    )
    return trainer, json.loads((output_dir / "test_results.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", list(_TABLE))
def test_recipe_of_the_paper_runs_end_to_end_at_the_models_true_size(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _MAKERS[recipe.rsplit("_", 1)[1]](tmp_path / "data")
    trainer, results = _run(recipe, tmp_path / "data", tmp_path / "out")
    assert trainer.state.global_step == 2
    model = AMDForVideoClassification.from_pretrained(tmp_path / "out")
    width = _TABLE[recipe][0]
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (width, 12)
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == list(copy.label_names)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx({384: 22e6, 768: 86.2e6}[width], rel=0.02)
    assert results["videos_expected"] == results["videos_read"] > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert f"the recipe is made for {_TABLE[recipe][4]}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", ["custom", "linear_probe", "frozen", "lora"])
def test_recipe_for_ones_own_folder_runs_end_to_end(recipe: str, tmp_path: Path) -> None:
    miniatures.class_folders(tmp_path / "data")
    splits: Sequence[str] = ["--train_split", "train", "--test_split", "test"]
    trainer, results = _run(recipe, tmp_path / "data", tmp_path / "out", *splits)
    assert trainer.state.global_step == 2
    model = AMDForVideoClassification.from_pretrained(tmp_path / "out")
    assert model.config.hidden_size == 384
    assert results["videos_expected"] == results["videos_read"] > 0


def test_program_prints_batch_rate_steps_and_where_it_leaves_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_video(tmp_path / "videos" / f"class{number % 2}" / f"{number}.mp4", 6, 32, 32)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"recipe_videos_per_step": 8, "num_train_epochs": 3, "warmup_epochs": 0}))
    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 2, "hidden_size": 16, "num_hidden_layers": 1}
    options = {
        "recipe": recipe, "data": tmp_path / "videos", "output_dir": tmp_path / "out", "use_cpu": True, "max_steps": 1,
        "per_device_train_batch_size": 2, "save_strategy": "no", "validation_fraction": 0, "base_learning_rate": 0.128,
        **{f"model.{name}": value for name, value in {**sizes, "num_attention_heads": 2}.items()},
    }  # fmt: skip
    load_script("finetune").main([f"--{name}={value}" for name, value in options.items()])
    printed = capsys.readouterr().out
    for expected in (
        "batch: 2 videos x 2 repetitions = 4 clips per step (2 per device x 1 accumulation steps x 1 processes)",
        "steps: 1 (0.5 epochs of 2), 0 of warm-up",
        "learning rate: 0.001 down to",
        "warning: 2 videos per step, the recipe is made for 8: the learning rate was scaled to 0.001; "
        "`--gradient_accumulation_steps 4` restores the batch.",
        "warning: `max_steps` ends the run after 0.5 epochs, the recipe takes 3.",
    ):
        assert expected in printed
