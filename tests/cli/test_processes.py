"""`--num_processes`: a command in several real processes; exit codes and the one line of an error are those of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amd_hf.options.processes import start_processes
from tests.helpers.training import ROOT, one_error_line
from tests.helpers.videos import write_video


# A program as light as can be: what it does is its only argument.
_PROGRAM = """
import os, signal, sys, time
from amd_hf.options.programs import run_program

def main():
    rank, what = os.environ["RANK"], sys.argv[1]
    if what == "fine":
        print(f"process {rank} of {os.environ['WORLD_SIZE']}, {' '.join(sys.argv[2:])}")
    elif what == "refused":
        raise ValueError("`num_clips` must be at least 1, got 0.")
    elif rank == "0":
        print("waiting", flush=True)
        time.sleep(60)
    elif what == "one refused":
        raise ValueError("`num_clips` must be at least 1, got 0.")
    elif what == "one killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "one stopped":
        raise SystemExit(3)
    else:
        time.sleep(60)

run_program(main)
"""
_START = (
    "import sys\n"
    "from amd_hf.options.processes import start_processes\n"
    "from amd_hf.options.programs import run_program\n"
    "run_program(lambda: start_processes('light_program', sys.argv[1:], 2))"
)


def _start(what: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "light_program.py").write_text(_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.Popen(
        [sys.executable, "-c", _START, what], cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_processes_know_each_other_and_use_the_cpu_where_there_is_no_gpu(tmp_path: Path) -> None:
    said, errors = _start("fine", tmp_path).communicate(timeout=100)
    assert sorted(said.splitlines()) == ["process 0 of 2, --use_cpu true", "process 1 of 2, --use_cpu true"], errors


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("refused", 2, "error: `num_clips` must be at least 1, got 0."),
        ("one refused", 2, "error: `num_clips` must be at least 1, got 0."),
        ("one killed", 137, "error: process 1 of 2 was killed by SIGKILL"),
        ("one stopped", 3, None),
    ],
)
def test_failure_of_a_process_ends_all_with_its_code_and_one_line(
    what: str, code: int, line: str | None, tmp_path: Path
) -> None:
    started = _start(what, tmp_path)
    _, errors = started.communicate(timeout=50)  # the other process, which would wait for longer, was ended
    assert started.returncode == code, errors
    assert "Traceback" not in errors
    assert line is None or one_error_line(errors) == line


def test_processes_of_a_launcher_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="A launcher started this process already"):
        start_processes("light_program", [], 2)


def test_interrupt_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    started = _start("wait", tmp_path)
    assert started.stdout is not None
    assert started.stdout.readline() == "waiting\n"
    time.sleep(0.5)  # the other process may still be starting
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    _, errors = started.communicate(timeout=50)
    assert started.returncode == 130, errors
    assert errors.strip() == "interrupted"


def test_fine_tuning_in_two_processes_started_by_the_command(tmp_path: Path) -> None:
    for label in ("left", "right"):
        for number in range(2):
            write_video(tmp_path / "videos" / label / f"{number}.mp4", 8, 16, 16)
    (tmp_path / "recipe.yaml").write_text(
        "model: {image_size: 16, patch_size: 8, num_frames: 2, hidden_size: 16, num_hidden_layers: 1,"
        " num_attention_heads: 2}\nper_device_train_batch_size: 2\nnum_repetitions: 1\nmax_steps: 1\n"
        "warmup_epochs: 0\nsave_strategy: 'no'\ndecode_time_limit: null\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "amd_hf", "finetune", "--recipe", "recipe.yaml", "--data", "videos", "--output_dir",
         "out", "--num_processes", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "x 2 processes)" in done.stdout
    assert done.stdout.count("The fine-tuned model is in") == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()
