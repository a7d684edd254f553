"""A study computed by several processes side by side, a thread each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence

import torch
import transformers
from torch.multiprocessing.spawn import ProcessException
from tqdm.auto import tqdm

from amd_hf.errors import RunStopped
from studies.grid import Stage
from studies.store import StageStore


_MOST_PROCESSES = 8  # each holds PyTorch and decoded videos, some 1.5 GB


def compute_study(stages: Sequence[Stage], store: StageStore, num_processes: int = 0) -> None:
    """Compute all that is missing of a study.

    Args:
        stages (`Sequence[Stage]`): The study.
        store (`StageStore`): Its results. It goes to other processes: what computes its stages can be pickled.
        num_processes (`int`, *optional*, defaults to 0): Stages side by side; 0: as many as PyTorch takes threads,
            at most 8.

    Raises:
        RunStopped: If a stage fails or a process dies. The others are stopped.
    """
    todo = missing_stages(stages, store)
    num_processes = min(num_processes or min(torch.get_num_threads(), _MOST_PROCESSES), max(1, len(todo)))
    with tqdm(total=len(todo), unit="stage", desc=f"{num_processes} at a time") as progress:

        def show() -> None:
            progress.update(len(todo) - len(missing_stages(todo, store)) - progress.n)

        if num_processes == 1:
            _compute_with_one_thread(stages, store, show)
            return
        workers = torch.multiprocessing.spawn(_work, (stages, store), nprocs=num_processes, join=False)
        try:
            while not workers.join(timeout=1):
                show()
        except ProcessException as error:  # its text is the traceback of the process
            raise RunStopped(str(error).strip().splitlines()[-1].partition("RunStopped: ")[2] or str(error)) from error
        finally:
            for process in workers.processes:
                process.kill()  # what it was at counts for nothing
        show()
    if left := missing_stages(stages, store):
        raise RunStopped(f"{len(left)} stages are missing: the processes were interrupted. Start again to go on.")


def missing_stages(stages: Sequence[Stage], store: StageStore) -> list[Stage]:
    """Return those without a result."""
    return [stage for stage in stages if store.find(stage) is None]


def _work(worker: int, stages: Sequence[Stage], store: StageStore) -> None:
    transformers.logging.set_verbosity_error()  # its warnings do not go to the logs: the new head of every classifier
    _compute_with_one_thread(stages, store, lambda: None)


def _compute_with_one_thread(stages: Sequence[Stage], store: StageStore, after_each: Callable[[], None]) -> None:
    """Compute with one thread: figures depend neither on the number of cores nor on which process computes them."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while (missing := missing_stages(stages, store)) and _has_parent():
            if not any(store.compute_if_free(stage) for stage in missing if store.is_ready(stage)):
                time.sleep(0.2)  # all that is ready is being computed
            after_each()
    finally:
        torch.set_num_threads(num_threads)


def _has_parent() -> bool:
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


__all__ = ["compute_study", "missing_stages"]
