"""Processes that need not import PyTorch and Transformers: forked from one that has, they cost 1 s of CPU and not 7.

They are processes of their own in all that a program sees of itself: command line, environment, folder, output, exit
code. Only what libraries read from the environment while they are imported is that of the tests.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from torch.distributed import TCPStore


ROOT = Path(__file__).parents[2]
_PRELOADED = ["tests.helpers.preloaded"]


@dataclasses.dataclass
class WarmProcess:
    """A program that runs; `wait` for it, or end it by `kill`."""

    arguments: list[str]
    process: BaseProcess
    said: tempfile.TemporaryDirectory[str]

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self.process.kill()
        self.process.join()

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """What it said and how it ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, stderr=self._text("err"))
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, self._text("out"), self._text("err"))

    def _text(self, stream: str) -> str:
        return Path(self.said.name, stream).read_text()


def start_warm(
    program: Path | str, *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> WarmProcess:
    """Starts a file as `python FILE ...` does, or code as `python -c CODE ...`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)  # heeded by the first process alone
    said = tempfile.TemporaryDirectory()
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
    process = context.Process(
        target=_become, args=(program, arguments, variables, str(cwd or Path.cwd()), said.name), daemon=False
    )
    process.start()
    return WarmProcess([str(program), *arguments], process, said)


def run_warm_group(
    num_processes: int, program: Path | str, *arguments: str, check: bool = True, timeout: float = 200
) -> list[subprocess.CompletedProcess[str]]:
    """Runs a program in processes that find each other, as `torchrun` starts them."""
    # This process holds the store in which they find each other, as the agent of `torchrun` does.
    store = TCPStore("127.0.0.1", 0, num_processes, is_master=True, wait_for_workers=False)
    group = {
        "WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    started = [
        start_warm(program, *arguments, environment={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(num_processes)
    ]
    deadline = time.monotonic() + timeout
    outcomes = [process.wait(max(1, deadline - time.monotonic())) for process in started]
    assert not check or all(outcome.returncode == 0 for outcome in outcomes), [
        outcome.stderr[-3000:] for outcome in outcomes
    ]
    return outcomes


def _become(program: Path | str, arguments: Sequence[str], variables: Mapping[str, str], cwd: str, said: str) -> None:
    multiprocessing.set_start_method(None, force=True)  # not the way in which this one was started: data loaders fork
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(os.path.join(said, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    if isinstance(program, Path):
        sys.argv = [str(program), *arguments]
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
