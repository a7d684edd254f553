"""What the tests of training share: rows of ready clips, arguments, and a plain reading of the losses."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from amd_hf import AMDConfig, AMDFineTuningArguments, AMDForPreTraining, AMDModel, AMDTrainingArguments
from amd_hf.cli import COMMANDS
from amd_hf.options.programs import run_program
from amd_hf.training.precision import cpu_bf16_speedup
from tests.helpers.models import nested_masks, random_clips
from tests.helpers.warm import start_warm


ROOT = Path(__file__).parents[2]
_PROGRAM_FOLDERS = ("scripts", "examples", "studies", "tools")
# Nothing that mixes or changes clips: what the augmentations do is tested where they are.
_PLAIN = {
    "rand_augment": None, "erase_probability": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0,
    "label_smoothing_factor": 0.0,
}  # fmt: skip
_QUIET = {
    "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
}  # fmt: skip


def pretraining_args(output_dir: Path, **changes: Any) -> AMDTrainingArguments:
    """Arguments of a short, silent run on the CPU that logs every step and starts at the full rate."""
    options = {"num_repetitions": 1, "warmup_epochs": 0, "max_grad_norm": 1.0, **_QUIET, **changes}
    return AMDTrainingArguments(output_dir=str(output_dir), **options)


def finetuning_args(output_dir: Path, **changes: Any) -> AMDFineTuningArguments:
    """The same for fine-tuning, without augmentation or mixing."""
    options = {"num_repetitions": 1, "warmup_epochs": 0, **_PLAIN, **_QUIET, **changes}
    return AMDFineTuningArguments(output_dir=str(output_dir), **options)


def masked_rows(config: AMDConfig, num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one uint8 clip and its masks, numbered."""
    clips = random_clips(config, num_rows, seed)
    counts = [config.num_masked_patches(ratio) for ratio in (config.student_mask_ratio, config.teacher_mask_ratio)]
    student, teacher = nested_masks(config.num_patches, *counts, batch_size=num_rows, seed=seed)
    columns = {"pixel_values": clips, "bool_masked_pos": student, "teacher_bool_masked_pos": teacher}
    return [{name: column[row] for name, column in columns.items()} | {"number": row} for row in range(num_rows)]


def labelled_rows(config: AMDConfig, num_rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one uint8 clip and its class, numbered."""
    clips = random_clips(config, num_rows, seed)
    return [
        {"pixel_values": clips[row], "labels": torch.tensor(row % config.num_labels), "number": row}
        for row in range(num_rows)
    ]


class StackRows:
    """Collator that stacks the tensors of ready rows and remembers the numbers of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        self.batches.append([row["number"] for row in rows])
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "number"}


class GradientRecorder(TrainerCallback):
    """Keeps the gradients that each optimizer step is made with."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor | None]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.gradients.append(
            {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        )


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def logged(trainer: Any, name: str) -> list[float]:
    """What was logged under a name, in the order of the steps."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def plain_losses(
    student: AMDForPreTraining,
    teacher: AMDModel,
    batch: Mapping[str, torch.Tensor],
    kind: str = "l2",
    normalize: bool = False,
) -> dict[str, torch.Tensor]:
    """The parts of the distillation loss, clip by clip with boolean indices, from the paper's description."""
    config = student.config
    distance = {
        "l2": lambda x: x.square(),
        "l1": lambda x: x.abs(),
        "smooth_l1": lambda x: torch.where(x.abs() < 1, 0.5 * x.square(), x.abs() - 0.5),
    }[kind]
    outputs = student(**{name: batch[name] for name in batch})
    with torch.no_grad():
        raw = teacher.eval()(batch["pixel_values"], batch["teacher_bool_masked_pos"], output_hidden_states=True)
    parts: dict[str, list[torch.Tensor]] = {"direct": [], "generation": []}
    for row, (hidden, teacher_hidden) in enumerate(
        zip(batch["bool_masked_pos"], batch["teacher_bool_masked_pos"], strict=True)
    ):
        only_teacher = hidden[~teacher_hidden]  # among the tokens that the teacher sees
        for part, features, layers, wanted in (
            ("direct", outputs.direct_features, config.teacher_direct_layers, ~only_teacher),
            ("generation", outputs.generated_features, config.teacher_generation_layers, only_teacher),
        ):
            for ours, layer in zip(features, layers, strict=True):
                target = raw.hidden_states[layer][row][wanted]
                if normalize:
                    deviation = (target.var(dim=-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                    target = (target - target.mean(dim=-1, keepdim=True)) / deviation
                parts[part].append(distance(ours[row] - target).mean())
    return {"reconstruction": outputs.loss} | {name: torch.stack(values).mean() for name, values in parts.items()}


def script_path(name: str) -> Path:
    """The file of a program, wherever in the repository it lies."""
    return next(path for path in ROOT.glob(f"*/{name}.py") if path.parent.name in _PROGRAM_FOLDERS)


def run_script(
    name: str, *arguments: str, check: bool = True, timeout: float = 200, is_warm: bool = True
) -> subprocess.CompletedProcess[str]:
    """One of the programs as a process of its own, as a user starts it; `is_warm`: what it imports is there."""
    if is_warm:
        outcome = start_warm(script_path(name), *arguments).wait(timeout)
    else:
        command = [sys.executable, str(script_path(name)), *arguments]
        outcome = subprocess.run(command, capture_output=True, text=True, env=script_environment(), timeout=timeout)
    assert not check or outcome.returncode == 0, outcome.stderr[-3000:]
    return outcome


def fast_precision() -> list[str]:
    """`--bf16` as this CPU is fast: emulated it takes minutes for a step of a model of true size."""
    return ["--bf16", str(cpu_bf16_speedup() > 1).lower()]


def load_script(name: str) -> ModuleType:
    """One of the programs as a module, by the name of its file or of its command.

    It is the module of the command where the file in `scripts/` only starts that.
    """
    if name in COMMANDS:
        return importlib.import_module(f"amd_hf.cli.{name}")
    path = script_path(name)
    if path.parent.name != "scripts":
        return importlib.import_module(f"{path.parent.name}.{name}")
    command = re.search(r'start\("(\w+)"', path.read_text())
    assert command is not None
    return importlib.import_module(f"amd_hf.cli.{command[1]}")


def script_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def one_error_line(stderr: str) -> str:
    """The one line in which a program says what is wrong, without a traceback."""
    assert "Traceback" not in stderr
    (line,) = re.findall(r"^error: .*$", stderr, flags=re.MULTILINE)
    return line


def ends_with_one_line(main: Callable[[], Any], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line with which a program refuses to go on."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as outcome:
        run_program(main)
    assert outcome.value.code == code
    return one_error_line(capsys.readouterr().err)
