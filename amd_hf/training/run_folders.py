"""One run per output folder: no run overwrites another's model, and no two runs write at the same time."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainingArguments
from transformers.utils import logging

from ..errors import RunStopped
from ..outputs.folders import LOCK_NAME, RUN_FILES


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


logger = logging.get_logger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_folders_of_this_process: set[Path] = set()


def check_output_folder(args: TrainingArguments, checkpoint: str | Path | None) -> None:
    """Refuse an output folder if the run would replace files there that it did not make.

    A run that resumes from a checkpoint in the folder may replace the model there, which is its own.

    Raises:
        ValueError: If the folder holds a model, a card or results and `overwrite_output_dir` is not set.
    """
    folder = Path(args.output_dir)
    if checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve():
        return
    if getattr(args, "overwrite_output_dir", False) or not folder.is_dir():
        return
    present = sorted({path.name for pattern in RUN_FILES for path in folder.glob(pattern)})
    if present:
        more = f" and {len(present) - 4} more" if len(present) > 4 else ""
        raise ValueError(
            f"{folder} already holds {', '.join(present[:4])}{more}, which this run would replace: another run's "
            "model, or your own files. Choose another `--output_dir`; or continue a run that has checkpoints with "
            "`--resume_from_checkpoint`; or set `--overwrite_output_dir true`."
        )


def claim_output_folder(args: TrainingArguments, checkpoint: str | Path | None) -> None:
    """Check an output folder as `check_output_folder` does, and let this process train in it again.

    Raises:
        ValueError: If the folder holds a model, a card or results that this process did not write, and
            `overwrite_output_dir` is not set.
    """
    folder = Path(args.output_dir).resolve()
    if folder in _folders_of_this_process:
        if any(path.is_file() for pattern in RUN_FILES for path in folder.glob(pattern)):
            logger.warning(f"{folder} holds the model of an earlier run of this process, which this run will replace.")
    else:
        check_output_folder(args, checkpoint)
    _folders_of_this_process.add(folder)


# ---------------------------------------------------------------------------------------------------------------------
# The lock
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Held:
    """A lock that this process holds, and how many of its runs share it."""

    descriptor: int
    process: int
    count: int = 0


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


class RunLock:
    """Lock that keeps a second process out of an output folder while the first one lives.

    It is a POSIX record lock (`fcntl.lockf`) on a file in the folder. The system frees it when the process ends,
    however it ends. Loading workers do not inherit it by fork or exec, so a worker that outlives its killed parent
    does not hold it (a `flock` lock would be shared with forked workers). It works over NFS if the server runs its
    lock service; on a file system without locks there is a warning. A process loses a record lock as soon as it closes
    *any* descriptor of the file, so nothing else may open it.

    Args:
        folder (`str` or `Path`): The output folder; created if it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._free: weakref.finalize | None = None

    def acquire(self) -> None:
        """Take the lock; runs of one process share it.

        Raises:
            RunStopped: If another process holds it. The error says which.
        """
        if self._free is not None and self._free.alive:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder.resolve() / LOCK_NAME
        with _guard:
            held = _held.get(path)
            # A forked process has a copy of the parent's entry, but not its lock.
            if held is None or held.process != os.getpid():
                descriptor = _lock_file(path)
                if descriptor is None:
                    return
                held = _held[path] = _Held(descriptor, os.getpid())
            held.count += 1
        self._free = weakref.finalize(self, _release, path, os.getpid())

    def release(self) -> None:
        """Release the lock; the last run of this process that holds it removes its file."""
        if self._free is not None:
            self._free()


def check_no_run_in(folder: str | Path) -> None:
    """Raise `RunStopped` if another process is running in a folder; write nothing."""
    if (Path(folder) / LOCK_NAME).exists():
        lock = RunLock(folder)
        lock.acquire()
        lock.release()


def _lock_file(path: Path) -> int | None:
    """Open and lock the file, and return its descriptor; None if the file system has no locks."""
    if fcntl is None:
        logger.warning(f"This system has no file locks: a second run in {path.parent} would not be noticed.")
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                logger.warning(f"{path.parent} is on a file system without locks: a second run would not be noticed.")
                return None
            raise RunStopped(
                f"Another run is writing into {path.parent}{_describe(text)}. Wait until it ends, stop it, or choose "
                "another `--output_dir`."
            ) from error
        # The holder may have removed the file after we opened it and before we locked it. Others would then lock a
        # new file of that name, and our lock would keep nobody out: try again.
        if _is_same_file(descriptor, path):
            break
        os.close(descriptor)
    about = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(about).encode(), 0)
    return descriptor


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(text: bytes) -> str:
    try:
        about = json.loads(text)
        return f": process {int(about['process'])} on {about['host']!s:.100}, since {about['since']!s:.30}"
    except (ValueError, KeyError, TypeError):
        return ""


def _release(path: Path, process: int) -> None:
    if os.getpid() != process:
        return  # in a forked copy of the run: its parent holds the lock
    with _guard:
        held = _held.get(path)
        if held is None or held.process != process:
            return
        held.count -= 1
        if held.count:
            return
        del _held[path]
        path.unlink(missing_ok=True)  # while it is still locked
        os.close(held.descriptor)


__all__ = ["RunLock", "check_no_run_in", "check_output_folder", "claim_output_folder"]
