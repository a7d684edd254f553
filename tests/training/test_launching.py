"""Runs that did not get the processes they were started with do not start. Sharding: test_processes.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amd_hf.training.launching import check_processes
from tests.helpers.training import ROOT, pretraining_args, script_environment


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_process_that_does_not_find_the_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    args = pretraining_args(tmp_path)  # finds itself alone
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match=rf"2 processes were started \({name}=2\), but this one knows of 1"):
        check_processes(args)
    monkeypatch.setenv(name, "1")
    check_processes(args)


def test_address_alone_is_no_sign_of_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = pretraining_args(tmp_path)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # as cluster scripts export it
    check_processes(args)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(ValueError, match="`accelerate launch` was asked for several processes"):
        check_processes(args)


def test_accelerate_launch_on_cpus_with_several_processes_is_refused(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
        str(ROOT / "scripts" / "pretrain.py"), "--data", str(tmp_path), "--output_dir", str(tmp_path / "out"),
        "--use_cpu", "true",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, env=script_environment(), timeout=200)
    assert run.returncode != 0
    (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "was asked for several processes (it set MASTER_ADDR) but started one" in said
    assert "torchrun --nproc_per_node N" in said
