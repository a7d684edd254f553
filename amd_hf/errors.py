"""Errors that end a run for a reason its user can mend, and how a program says them."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping


class RunStopped(RuntimeError):
    """A run that must not go on: too many unreadable videos, a loss that is not finite, a full disk, a signal.

    Args:
        message (`str`): what happened and what to do.
        exit_code (`int`, defaults to 2): what a program that ends so returns to the shell.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnknownSizeError(ValueError):
    """A size that no tensor shows and no argument gives. `option` is its name, `reason` why it is unknown."""

    def __init__(self, option: str, reason: str):
        self.option = option
        self.reason = reason
        super().__init__(f"{reason}: give `{option}` (on the command line `--model.{option}`).")


# The system's errors by number: what is wrong with the file that they name, and what to do.
_SYSTEM_ERRORS = {
    errno.ENOENT: "There is no {}.",
    errno.EISDIR: "{} is a folder where a file is wanted.",
    errno.ENOTDIR: "{} cannot be made or read: a part of this path is a file where a folder is wanted.",
    errno.EEXIST: "{} exists already and is a file where a folder is wanted: choose another name.",
    errno.EACCES: "{} may not be read or written by this user: change its permissions, or choose another place.",
    errno.EPERM: "{} may not be read or written by this user: change its permissions, or choose another place.",
    errno.EROFS: "{} cannot be written: its file system is read-only. Choose another place.",
    errno.ENOSPC: "{} cannot be written: the disk is full. Make room, or choose another place.",
    errno.EDQUOT: "{} cannot be written: the disk quota is used up. Make room, or choose another place.",
    errno.EFBIG: "{} cannot be written: it would be larger than the system allows.",
}
_DISK_IS_FULL = re.compile(
    r"No space left on device|os error 2[78]\b|PytorchStreamWriter failed writing|inline_container.* unexpected pos"
)


def error_line(error: Exception, options: Mapping[str, str] | None = None) -> str:
    """Say in one line what is wrong, as the user of a program is to read it.

    Args:
        error (`Exception`): what was raised.
        options (`Mapping[str, str]`, *optional*): Names of arguments of Python, as they stand between backticks in
            messages, and the options that a program has for them.
    """
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.errno in _SYSTEM_ERRORS:
        file = "A file of the output" if error.filename is None else str(error.filename)
        return _SYSTEM_ERRORS[error.errno].format(file)
    if is_disk_full(error) and not isinstance(error, RunStopped):  # whose own message says more
        what_to_do = "the disk is full, or the file too large. Make room, or choose another place"
        return f"A file cannot be written: {what_to_do}. ({message})"
    if isinstance(error, ModuleNotFoundError) and error.name and message == f"No module named {error.name!r}":
        return f"{message}: `pip install {error.name.partition('.')[0]}`, where it is a package."
    for name, option in (options or {}).items():
        message = re.sub(rf"`{re.escape(name)}`", f"`{option}`", message)
        message = re.sub(rf"`{re.escape(name)}=([^`]*)`", rf"`{option} \1`", message)
    return message


def is_disk_full(error: Exception) -> bool:
    """Return whether the disk was full; PyTorch and safetensors have no error of their own for it."""
    return bool(_DISK_IS_FULL.search(str(error)))


__all__ = ["RunStopped", "UnknownSizeError", "error_line", "is_disk_full"]
