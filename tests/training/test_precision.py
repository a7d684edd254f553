"""The choice of precision on a CPU."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from amd_hf import AMDFineTuningArguments, AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.options.parsing import parse_recipe
from amd_hf.training import precision
from amd_hf.training.precision import cpu_bf16_speedup
from amd_hf.training.summary import describe_run
from tests.helpers.models import tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows
from tests.helpers.warm import run_warm_group


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(768, 768, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(a, a)
        best = min(best, time.perf_counter() - start)
    return best


def test_speedup_tells_which_precision_is_faster_here() -> None:
    plain = _seconds(torch.float32) / _seconds(torch.bfloat16)
    if 0.7 < plain < 1.5:
        pytest.skip(f"bf16 and float32 are about as fast on this CPU ({plain:.2f})")
    assert (cpu_bf16_speedup() > 1) == (plain > 1)


def _described(tmp_path: Path, **options: Any) -> str:
    """The line of a run's description that names its device."""
    config = tiny_config(num_labels=8)
    options = {"max_steps": 1, "per_device_train_batch_size": 4, **options}
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), finetuning_args(tmp_path, **options), data_collator=list,
        train_dataset=labelled_rows(config, 8),
    )  # fmt: skip
    return next(line for line in describe_run(trainer).splitlines() if "device:" in line).split(": ", 1)[1]


@pytest.mark.parametrize(
    ("speedup", "bf16", "says"),
    [
        (4.0, None, "cpu, bf16 (4.0 times as fast as float32 here)"),
        (1.1, None, "cpu, float32 (bf16 is hardly faster here)"),
        (0.8, None, "cpu, float32 (bf16 is 1.2 times as slow here)"),
        (0.05, None, "cpu, float32 (bf16 is 20.0 times as slow here)"),
        (4.0, False, "cpu, float32"),
        (4.0, True, "cpu, bf16"),
        (0.05, True, "cpu, bf16 (20.0 times as slow as float32 here: leave it out)"),
    ],
)
def test_run_takes_what_is_asked_for_or_what_this_cpu_is_fast_in_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, bf16: bool | None, says: str
) -> None:
    monkeypatch.setattr(precision, "cpu_bf16_speedup", lambda: speedup)
    assert _described(tmp_path, bf16=bf16) == says
    args = finetuning_args(tmp_path, bf16=bf16)
    assert args.bf16 == ("bf16" in says.split(" (")[0])
    assert args.mixed_precision == ("bf16" if args.bf16 else "no")


def test_weights_stay_in_float32_and_products_are_those_of_the_precision(tmp_path: Path) -> None:
    config = tiny_config(num_labels=8)
    for bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        model = AMDForVideoClassification(config)
        trainer = AMDFineTuningTrainer(
            model, finetuning_args(tmp_path, bf16=bf16, max_steps=1, per_device_train_batch_size=4),
            data_collator=StackRows(), train_dataset=labelled_rows(config, 8),
        )  # fmt: skip
        seen = []
        model.amd.layers[0].mlp.fc1.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.dtype))
        trainer.train()
        assert set(seen) == {dtype}
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("given", [[], ["--bf16", "true"], ["--bf16", "false"], ["--fp16=false"]])
def test_bf16_of_a_recipe_is_for_machines_that_are_fast_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(precision, "cpu_bf16_speedup", lambda: 0.05)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("bf16: true\ntf32: true\nper_device_train_batch_size: 3\n")
    argv = ["--recipe", str(recipe), "--output_dir", str(tmp_path / "out"), *given]
    args = parse_recipe((AMDFineTuningArguments,), argv)[0]
    assert args.per_device_train_batch_size == 3
    assert args.bf16 == (given != [] and given[-1] == "true" or given == ["--fp16=false"])
    assert args.device.type == "cpu" or torch.cuda.is_available()


@pytest.mark.parametrize("begun_in", ["bf16", "no"])
def test_resumed_run_keeps_the_precision_that_it_was_begun_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begun_in: str
) -> None:
    def trainer(**options: Any) -> AMDFineTuningTrainer:
        config = tiny_config(num_labels=8)
        args = finetuning_args(
            tmp_path, max_steps=2, per_device_train_batch_size=4, save_strategy="steps", save_steps=1, **options
        )
        return AMDFineTuningTrainer(
            AMDForVideoClassification(config), args, data_collator=StackRows(), train_dataset=labelled_rows(config, 8)
        )

    trainer(bf16=begun_in == "bf16").train()
    # By itself this machine would take the other one now.
    monkeypatch.setattr(precision, "cpu_bf16_speedup", lambda: 0.5 if begun_in == "bf16" else 4.0)
    resumed = trainer(bf16=None, resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.args.precision == precision.Precision(begun_in, "cpu", "as the run began")
    (tmp_path / "checkpoint-3").mkdir()  # a kill in the middle of a save
    assert trainer(bf16=None, resume_from_checkpoint="last").args.precision.name == begun_in
    assert trainer(bf16=None).args.precision.name != begun_in
    other = trainer(bf16=begun_in != "bf16")
    monkeypatch.setattr(logging.getLogger("amd_hf.training.trainer"), "handlers", [caplog.handler])
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert f"began in precision '{begun_in}' and continues in" in caplog.text
    caplog.clear()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "began in precision" not in caplog.text


@pytest.mark.parametrize(
    ("asked", "env", "name"), [(None, "no", "bf16"), ("no", "bf16", "no"), (None, "fp16", "fp16")]
)
def test_command_takes_what_is_asked_for_or_launched_and_says_so(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, env: str, name: str
) -> None:
    monkeypatch.setattr(precision, "cpu_bf16_speedup", lambda: 3.0)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", env)
    chosen = precision.choose_precision(torch.device("cpu"), asked or precision.launcher_precision())
    assert chosen.name == name


def test_accelerator_of_a_command_says_what_it_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(precision, "cpu_bf16_speedup", lambda: 3.0)
    said = io.StringIO()
    accelerator = precision.start_accelerator(True, None, said)
    assert said.getvalue() == "device: cpu, bf16 (3.0 times as fast as float32 here)\n"
    assert (accelerator.device.type, accelerator.mixed_precision) == ("cpu", "bf16")
    # What a process computed in before does not stand in the way of the next command.
    assert precision.start_accelerator(True, "no", said).mixed_precision == "no"
    assert precision.start_accelerator(True, None, said).mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)


def test_processes_that_measure_differently_agree_on_float32(tmp_path: Path) -> None:
    program = """
import sys, torch
from amd_hf.training import precision
precision.cpu_bf16_speedup = lambda: 3.0 if torch.distributed.get_rank() else 1.0
from amd_hf import AMDTrainingArguments
args = AMDTrainingArguments(output_dir=sys.argv[1], use_cpu=True, bf16=None, report_to="none")
sys.stdout.write(f"{args.process_index} {args.bf16}\\n")
"""
    runs = run_warm_group(2, program, str(tmp_path / "out"))
    assert [run.stdout.split("\n")[0] for run in runs] == ["0 False", "1 False"]
