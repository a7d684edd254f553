"""Results of a study's stages in files: each computed once, whatever is killed in between."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from amd_hf.errors import RunStopped
from amd_hf.outputs.folders import replace_file
from studies.grid import Stage


Compute = Callable[[Stage, Path, dict[str, Path]], dict[str, Any]]
"""Computes a stage into a folder from the folders of its inputs, by kind; returns its result."""


class StageStore:
    """Store of stages, which computes what is missing and what that needs.

    `results/<key>.json` holds a stage's settings and result. `work/<key>/` holds its files (videos, weights), made
    again when a later stage needs them: results can be kept, and published, without them. What it prints goes to
    `logs/<key>.log`. Processes can share a study: `locks/<key>.lock` is held by the one that computes a stage.

    Args:
        folder (`Path`): Of the study.
        compute (`dict` of `Compute`): By kind of stage.

    Raises:
        RunStopped: From what computes a stage, if it fails.
    """

    def __init__(self, folder: Path, compute: dict[str, Compute]) -> None:
        self.folder = folder
        self._compute = compute

    def find(self, stage: Stage) -> dict[str, Any] | None:
        """Return the result of a stage, or `None` where it was not computed."""
        path = self._result_file(stage)
        return json.loads(path.read_text())["result"] if path.exists() else None

    def result(self, stage: Stage) -> dict[str, Any]:
        """Return the result of a stage; compute it where it is missing."""
        found = self.find(stage)
        if found is not None:
            return found
        self._run(stage)
        return json.loads(self._result_file(stage).read_text())["result"]

    def is_ready(self, stage: Stage) -> bool:
        """Return whether what a stage needs was computed."""
        return all(self.find(needed) is not None for needed in stage.inputs)

    def compute_if_free(self, stage: Stage) -> bool:
        """Compute a stage where it is missing; return `False` where another process is at it."""
        lock = self._lock(stage)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self._run(stage)
        finally:
            lock.release()
        return True

    def files(self, stage: Stage) -> Path:
        """Return the folder of a stage's files; compute it where it is missing or not complete."""
        folder = self._work_folder(stage)
        if not folder.exists():
            self._run(stage)
        return folder

    def _lock(self, stage: Stage) -> FileLock:
        """Return a lock that the system frees where its process dies; one process may take it twice."""
        path = self.folder / "locks" / f"{stage.key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, is_singleton=True)

    def _run(self, stage: Stage) -> None:
        with self._lock(stage):
            if not (self._work_folder(stage).exists() and self._result_file(stage).exists()):  # by another process
                self._compute_into_files(stage)

    def _compute_into_files(self, stage: Stage) -> None:
        inputs = {needed.kind: self.files(needed) for needed in stage.inputs}
        folder = self._work_folder(stage)
        unfinished = folder.with_name(f"{folder.name}.part")
        for earlier in (folder, unfinished):
            remove_work(earlier)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        for made in (folder, unfinished):
            _marker_of(made).touch()
        unfinished.mkdir()
        start = time.perf_counter()
        result = self._compute_with_log(stage, unfinished, inputs)
        result["seconds"] = round(time.perf_counter() - start, 1)
        unfinished.rename(folder)
        if not self._result_file(stage).exists():  # an earlier result stays: only the files were asked for
            content = {"kind": stage.kind, "settings": json.loads(stage.settings), "result": result}
            content["inputs"] = [needed.key for needed in stage.inputs]
            self._write(self._result_file(stage), json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _compute_with_log(self, stage: Stage, folder: Path, inputs: dict[str, Path]) -> dict[str, Any]:
        path = self.folder / "logs" / f"{stage.key}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                return self._compute[stage.kind](stage, folder, inputs)
            except Exception as error:
                traceback.print_exc()
                reason = " ".join(str(error).split()) or type(error).__name__
                raise RunStopped(f"The stage {stage.key} failed, see {path}: {reason}") from error

    def _result_file(self, stage: Stage) -> Path:
        return self.folder / "results" / f"{stage.key}.json"

    def _work_folder(self, stage: Stage) -> Path:
        return self.folder / "work" / stage.key

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())


def _marker_of(folder: Path) -> Path:
    """Return the file beside a stage's folder that says, before anything is in it, that we made it."""
    return folder.with_name(f".{folder.name}.amd_hf_stage")


def remove_work(folder: Path) -> None:
    """Remove a folder of a stage's files that a process which died has left.

    Raises:
        RunStopped: If it is none of ours: it lacks the marker that every such folder has beside it, or is a link.
    """
    if not os.path.lexists(folder):
        return
    marker = _marker_of(folder)
    if folder.is_symlink() or not marker.is_file():
        raise RunStopped(f"{folder} is in the way and was not made by a study (there is no {marker}): move it away.")
    shutil.rmtree(folder)  # links inside are removed, not followed


__all__ = ["Compute", "StageStore"]
