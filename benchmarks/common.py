"""What the speed benchmarks share: arms that take turns, each in its process, the machine's rate, result files."""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from amd_hf.export.measuring import peak_mebibytes


RESULTS = Path(__file__).parent / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Work = Callable[[], Any]
"""Something to be timed."""


@dataclass
class Turns:
    """What arms that took turns needed, by name."""

    seconds: dict[str, list[float]]
    peak_bytes: dict[str, int] = field(default_factory=dict)
    cpu_seconds: dict[str, list[float]] = field(default_factory=dict)  # of all threads; others' work is not in it
    failures: dict[str, str] = field(default_factory=dict)

    def ratio(self, arm: str, to: str) -> list[float]:
        """How many times as fast as the arm `to` an arm was, round by round."""
        return [theirs / ours for ours, theirs in zip(self.seconds[arm], self.seconds[to], strict=True)]

    def add(self, more: Turns) -> None:
        """Take in the rounds of other processes of the same arms."""
        for arm, seconds in more.seconds.items():
            self.seconds.setdefault(arm, []).extend(seconds)
        for arm, seconds in more.cpu_seconds.items():
            self.cpu_seconds.setdefault(arm, []).extend(seconds)
        for arm, num_bytes in more.peak_bytes.items():
            self.peak_bytes[arm] = max(self.peak_bytes.get(arm, 0), num_bytes)
        self.failures.update(more.failures)


def take_turns(
    makers: dict[str, Callable[[], Work]],
    *,
    device: str,
    threads: int | None,
    rounds: int,
    warmup: int,
    between: Work | None = None,
) -> Turns:
    """Time arms, each in a process of its own, so that its peak memory is its own, one after the other.

    Whatever else the machine does falls on all of them. Every second round goes through the arms backwards.

    Args:
        makers: By name of the arm, what makes its work; can be pickled.
        device: `cpu` or `cuda`.
        threads: Threads of PyTorch; its own choice where None.
        rounds, warmup: Rounds that count and rounds before them that do not.
        between: Called in this process before each round.
    """
    context = multiprocessing.get_context("spawn")
    channels: dict[str, Connection] = {}
    for arm, make in makers.items():
        channels[arm], theirs = context.Pipe()
        context.Process(target=_live, args=(make, device, threads, theirs), daemon=True).start()
        theirs.close()  # or nobody would notice that an arm died
    turns = Turns({arm: [] for arm in makers})
    for number in tqdm(range(warmup + rounds), desc="rounds"):
        if between is not None:
            between()
        for arm in list(makers) if number % 2 == 0 else reversed(list(makers)):
            if arm in turns.failures:
                continue
            channels[arm].send("go")
            answer = channels[arm].recv()
            if isinstance(answer, Exception):
                turns.failures[arm] = "out of memory"
                continue
            turns.peak_bytes[arm] = answer[1]
            if number >= warmup:
                turns.seconds[arm].append(answer[0])
                turns.cpu_seconds.setdefault(arm, []).append(answer[2])
    for arm, channel in channels.items():
        if arm not in turns.failures:
            channel.send("stop")
    return turns


def _live(make: Callable[[], Work], device: str, threads: int | None, channel: Connection) -> None:
    """A process that does its work each time it is asked to and says how long it took."""
    if threads:
        torch.set_num_threads(threads)
    try:
        work = make()
        while channel.recv() == "go":
            synchronize(device)
            start, start_of_cpu = time.perf_counter(), time.process_time()
            work()
            synchronize(device)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_of_cpu
            channel.send((seconds, peak_bytes(device), cpu_seconds))
    except torch.OutOfMemoryError as error:
        channel.send(error)


def synchronize(device: str) -> None:
    """Wait for what the device still has to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device: str) -> int:
    """The most memory that this process has held: of the GPU, or on the CPU of the machine (peak RSS)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return int(peak_mebibytes() * 2**20)


class MatrixProductRates:
    """The machine's rate of matrix products by precision, measured again and again during a run."""

    def __init__(self, device: str, precisions: set[str]) -> None:
        self._device = device
        self._rates: dict[str, list[float]] = {name: [] for name in sorted(precisions)}

    def measure(self) -> None:
        """Take one more measurement of each."""
        for name, rates in self._rates.items():
            rates.append(matrix_product_rate(self._device, DTYPES[name]))

    def medians(self) -> dict[str, float]:
        """Operations per second by precision."""
        return {name: statistics.median(rates) for name, rates in self._rates.items()}


def matrix_product_rate(device: str, dtype: torch.dtype) -> float:
    """The best rate of PyTorch's square matrix products, laid out as in a linear layer, in operations per second.

    In float32 they go to MKL, which takes half of an AMD CPU with AVX-512.

    Stops after a product that takes long: a CPU without instructions for bf16 would need minutes for the larger ones.
    """
    warm = torch.ones(256, 256, device=device, dtype=dtype)
    warm @ warm.T
    best = 0.0
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(4):
            synchronize(device)
            start = time.perf_counter()
            a @ b.T
            synchronize(device)
            seconds = time.perf_counter() - start
            best = max(best, 2 * size**3 / seconds)
            if seconds > 0.5:
                return best
    return best


def machine_line(device: str) -> str:
    """The machine and the versions, for the title of a result."""
    machine = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    return f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep(name: str, title: str, table: str, found: dict[str, Any]) -> None:
    """Print a table and write it, with all that was found, under `benchmarks/results/`."""
    print(f"\n{title}\n\n{table}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"{title}\n\n{table}\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"title": title, **found}, indent=1) + "\n")
