"""A run has its output folder to itself: another run's model is not overwritten, and no two runs write at a time."""

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
    """Refuse an output folder in which a run would replace what it did not make.

    A run that goes on from a checkpoint in the folder may replace the model there: it is its own.

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
            "model, or files of your own. Choose another `--output_dir`; go on with a run that has checkpoints by "
            "`--resume_from_checkpoint`; or say `--overwrite_output_dir true`."
        )


def claim_output_folder(args: TrainingArguments, checkpoint: str | Path | None) -> None:
    """Check a folder as `check_output_folder` does, and note that this process may train in it again.

    Raises:
        ValueError: As above; also if a folder named like a checkpoint, which this run may have to replace, is none.
    """
    folder = Path(args.output_dir).resolve()
    if folder in _folders_of_this_process:
        if any(path.is_file() for pattern in RUN_FILES for path in folder.glob(pattern)):
            logger.warning(
                f"{folder} holds the model of an earlier run of this process, which is going to be replaced."
            )
    else:
        check_output_folder(args, checkpoint)
    _folders_of_this_process.add(folder)


# ---------------------------------------------------------------------------------------------------------------------
# The lock
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Held:
    """A lock that this process holds, and how many of its runs do."""

    descriptor: int
    process: int
    count: int = 0


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


class RunLock:
    """Lock that keeps a second process out of an output folder, as long as the first one lives.

    It is a POSIX record lock (`fcntl.lockf`) on a file in the folder. The system frees it when the process ends,
    however it ends; loading workers do not inherit it, neither by fork nor by exec, so one that outlives its killed
    parent holds nothing (a lock by `flock` would be shared with forked workers). It works over NFS where the server's
    lock service runs; a file system without locks is warned about. A process loses a record lock as soon as it closes
    *any* descriptor of the file: nothing else may open it.

    Args:
        folder (`str` or `Path`): The output folder; made where it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._free: weakref.finalize | None = None

    def acquire(self) -> None:
        """Take the lock; runs of one process share it.

        Raises:
            RunStopped: If another process holds it. Says which.
        """
        if self._free is not None and self._free.alive:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder.resolve() / LOCK_NAME
        with _guard:
            held = _held.get(path)
            if held is None or held.process != os.getpid():  # not what a forked process believes to hold
                descriptor = _lock_file(path)
                if descriptor is None:
                    return
                held = _held[path] = _Held(descriptor, os.getpid())
            held.count += 1
        self._free = weakref.finalize(self, _release, path, os.getpid())

    def release(self) -> None:
        """Give the lock back, and remove its file with the last run of this process that holds it."""
        if self._free is not None:
            self._free()


def check_no_run_in(folder: str | Path) -> None:
    """Raise `RunStopped` if another process runs in a folder; leave nothing behind."""
    if (Path(folder) / LOCK_NAME).exists():
        lock = RunLock(folder)
        lock.acquire()
        lock.release()


def _lock_file(path: Path) -> int | None:
    """Lock a file and return its descriptor; None where the file system has no locks."""
    if fcntl is None:
        logger.warning(f"This system has no file locks: nothing keeps a second run out of {path.parent}.")
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                logger.warning(f"{path.parent} lies on a file system without locks: nothing keeps a second run out.")
                return None
            raise RunStopped(
                f"{path.parent} is the output folder of a run that is going on{_describe(text)}. Wait for its end or "
                "stop it; or choose another `--output_dir`."
            ) from error
        # Its holder may have removed the file between our opening and locking it: ours would keep nobody out.
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
        return  # a forked copy of the run: the lock is its parent's
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
