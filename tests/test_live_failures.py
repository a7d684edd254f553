"""A run of the tests that is cut off has said what failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.training import script_environment


_TESTS = """
import os, time
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("the fixture broke")

def test_good(): pass
def test_bad(): assert 1 + 1 == 3, "the sum is wrong"
def test_without_fixture(broken): pass
def test_cut_off():
    time.sleep(0.5)  # with two processes the other one reports meanwhile
    os.kill(os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid(), 9)
"""


@pytest.mark.parametrize("processes", [[], ["-n", "2"]])
def test_failures_are_named_when_they_happen(processes: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.helpers.live_failures", *processes, "test_some.py"]
    environment = {name: value for name, value in script_environment().items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=60)
    assert run.returncode == -9
    lines = run.stdout.splitlines()
    assert lines[lines.index("FAILED test_some.py::test_bad (call)") + 1] == "    AssertionError: the sum is wrong"
    failure = lines.index("FAILED test_some.py::test_without_fixture (setup)")
    assert lines[failure + 1] == "    RuntimeError: the fixture broke"
    assert "test_good" not in run.stdout
