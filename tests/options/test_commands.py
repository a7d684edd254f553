"""Help and cheap mistakes: the source of the options says what the commands take, and nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from amd_hf.options.commands import COMMANDS, check_command_line, help_groups, help_of, load_class, options_of
from amd_hf.options.declared import UNKNOWN, class_options
from tests.helpers.training import ROOT, one_error_line


_TASKS = [(command, task) for command, chosen in COMMANDS.items() for task in chosen.tasks]
_HEAVY = ("torch", "transformers", "numpy", "datasets", "accelerate", "huggingface_hub")


@pytest.mark.parametrize(("command", "task"), _TASKS)
def test_options_read_off_the_source_are_those_of_the_classes(command: str, task: str) -> None:
    # Two options of the Trainer have choices that only its import tells: the classes themselves check them later.
    blind = {"log_level", "log_level_replica"}
    for reference, declared in options_of(command, task).items():
        real = class_options(load_class(reference))
        assert list(declared) == list(real)
        for name, option in declared.items():
            expected = real[name]
            if option.default is UNKNOWN:
                expected = replace(expected, default=UNKNOWN)
            if name in blind:
                expected = replace(expected, choices=None)
            assert option == expected, (reference, name)


@pytest.mark.parametrize(("command", "task"), _TASKS)
def test_help_shows_options_that_exist_with_their_defaults_and_all_of_them_in_full(command: str, task: str) -> None:
    real: dict[str, object] = {"recipe": None, "num_processes": None}
    for reference in COMMANDS[command].tasks[task]:
        real |= {name: option.default for name, option in class_options(load_class(reference)).items()}
    shown = [option for found in help_groups(command, task, in_full=False).values() for option in found]
    for option in shown:
        assert option.name in real
        assert option.default in (UNKNOWN, real[option.name])
    assert {option.name for option in shown if option.default is UNKNOWN} <= {"learning_rate"}
    in_full = [option.name for found in help_groups(command, task, in_full=True).values() for option in found]
    assert len(in_full) == len(set(in_full))
    without_processes = real.keys() - ({"num_processes"} if not COMMANDS[command].starts_processes else set())
    assert set(in_full) == without_processes


@pytest.mark.parametrize(("command", "task"), _TASKS)
def test_help_is_under_60_lines_and_starts_with_what_matters(
    command: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(command, task).splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) < 120
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "the options that matter most:"
    matter = help_groups(command, task, in_full=False)["the options that matter most"]
    assert 2 < len(matter) <= 10
    for line in lines:
        assert not line.startswith("  --") or len(line) <= 80
    if COMMANDS[command].often:
        assert "--adam_epsilon" not in "\n".join(lines)
        assert "--adam_epsilon" in help_of(command, task, in_full=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("finetune --help", 0, "--per_device_train_batch_size N"),
        ("finetune --task detection --help", 0, "--action_list TEXT"),
        ("pretrain --recipe custom --help", 0, "--teacher_config.NAME VALUE"),
        ("evaluate --help_all", 0, "--save_view_logits"),
        ("pretrain --num_epochs 3", 2, "`--num_epochs` (did you mean `--num_train_epochs`?)"),
        ("finetune --device cuda", 2, "`CUDA_VISIBLE_DEVICES=1` in front of the command chooses it"),
        ("finetune --num_train_epochs many", 2, "invalid float value: 'many'"),
        ("finetune --recipe custm", 2, "did you mean finetune/custom?"),
        ("finetune --recipe custom --data nowhere/", 2, "no file or folder 'nowhere/', given as `--data`"),
        ("evaluate --model_name_or_path ./nowhere", 2, "no folder './nowhere', given as `--model_name_or_path`"),
        ("evaluate --num_processes 0", 2, "`--num_processes` must be at least 1, got 0"),
        ("predict --num_processes 2", 2, "Unknown on the command line: `--num_processes`"),
    ],
)
def test_answer_comes_before_anything_heavy_is_imported(arguments: str, code: int, said: str, tmp_path: Path) -> None:
    program = (
        "import atexit, sys, time\n"
        "from amd_hf.cli import main\n"
        f"atexit.register(lambda: print('HEAVY', [name for name in {_HEAVY} if name in sys.modules],"
        " time.process_time() < 1.5))\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "HEAVY [] True", done.stdout[-500:]
    assert said in (done.stdout if code == 0 else one_error_line(done.stderr))


def test_data_that_names_no_file_here_is_let_through_where_its_layout_says_so(tmp_path: Path) -> None:
    assert check_command_line("finetune", ["--data", "someone/videos", "--layout", "hub"])["data"] == "someone/videos"
    assert check_command_line("finetune", ["--data", "shards/*.tar"])["data"] == "shards/*.tar"
    with pytest.raises(FileNotFoundError, match="'missing.csv', given as `--eval_data`"):
        check_command_line("finetune", ["--data", str(tmp_path), "--eval_data", "missing.csv"])
