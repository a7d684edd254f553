"""How a program runs and ends: one line for errors that the user can fix, silence if nobody reads its output."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import RunStopped, error_line, is_disk_full
from .interruption import (
    INTERRUPTED,
    Interruption,
    die_with_parent,
    heed_interrupts,
    heeded_interruption,
    hurry_at_exit,
)


# Errors that a user can fix are shown as one line. Anything else is a bug and keeps its traceback.
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError, RunStopped)
# The same for other packages, looked up only if they are imported: else nothing can have raised them.
_THEIR_USER_ERRORS = (("huggingface_hub.errors", "StrictDataclassError"), ("safetensors", "SafetensorError"))
# Set in the environment of processes whose parent says what went wrong (`--num_processes`): not each of them does.
LAUNCHED = "AMD_HF_LAUNCHED"
_BROKEN_PIPE_EXIT_CODE = 128 + 13  # SIGPIPE, as the shell reports programs whose reader has gone

# Names of Python's arguments and the options of the program that runs, for its errors; set by `remember_names`.
_names_of_options: dict[str, str] = {}
_has_model_options = False


def run_program(main: Callable[[], Any]) -> None:
    """Run a program's `main`; what a user can mend ends it with one line and exit code 2, not with a traceback.

    A reader of the output that goes (`| head`) ends it silently, as it does other programs; Ctrl-C with one line,
    within seconds, and pressed twice at once.
    """
    hurry_at_exit()
    is_launched = LAUNCHED in os.environ
    if is_launched:
        die_with_parent()
    interruption = heeded_interruption() or Interruption(lambda: "" if is_launched else interruption_line())
    try:
        with heed_interrupts(interruption):
            main()
            sys.stdout.flush()
    except Exception as error:
        if interruption.is_received:  # an import or a worker that it breaks off ends with an error of its own
            interruption.say()
            raise SystemExit(INTERRUPTED) from None
        _end_with_error(error, is_launched)
        raise
    except KeyboardInterrupt:
        interruption.say()
        raise SystemExit(INTERRUPTED) from None


def _end_with_error(error: Exception, is_launched: bool) -> None:
    """Say in one line what a user can mend and end; return where the error is a bug and keeps its traceback."""
    if isinstance(error, BrokenPipeError) and _has_lost_its_reader():
        raise SystemExit(_BROKEN_PIPE_EXIT_CODE) from None
    if isinstance(error, _user_errors()):
        if os.environ.get("AMD_HF_TRACEBACK"):
            return
        line = f"error: {error_line(error, _all_names())}"
        is_told = _tell_torchrun(line)
        if not (is_told and is_launched):
            sys.stderr.write(f"\n{line}\n(set AMD_HF_TRACEBACK=1 to see where it was raised)\n{_launcher_note()}")
        raise SystemExit(error.exit_code if isinstance(error, RunStopped) else 2) from None
    if isinstance(error, RuntimeError) and is_disk_full(error):
        sys.stderr.write(f"\nerror: {error_line(error)}\n")
        raise SystemExit(2) from None


def interruption_line() -> str:
    """Return what a program that Ctrl-C ends says."""
    goes_on = "; with checkpoints it goes on by the same command and --resume_from_checkpoint"
    return f"\ninterrupted{goes_on if 'resume_from_checkpoint' in _names_of_options else ''}\n"


def _has_lost_its_reader() -> bool:
    """Return whether the reader of standard output has gone; then Python must not try to flush the rest of it."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file, as in tests and notebooks
        return False
    watched = select.poll()
    watched.register(output, 0)  # errors alone: of a pipe, that its other end is closed
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _tell_torchrun(line: str) -> bool:
    """Leave an error where `torchrun` looks for it, so that its report of failed processes ends with this line."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return False
    try:
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(
            json.dumps({"message": line, "timestamp": int(time.time())})
        )
    except OSError:  # such as a full disk, which may be the error itself
        sys.stderr.write("(the error could not be passed to torchrun)\n")
        return False
    return True


def _launcher_note() -> str:
    """Return what to make of the traceback of `accelerate launch` after a program that ended with an error."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return ""
    try:
        launcher = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # another system than Linux
        launcher = []
    if {"-q", "--quiet"} & set(launcher):
        return ""
    return (
        "(the traceback below, if any, is that of `accelerate launch` and says no more than that this program ended; "
        "`accelerate launch --quiet` leaves it out)\n"
    )


def remember_names(
    options: Iterable[str], has_model_options: bool, arguments: Mapping[str, str] | None = None
) -> None:
    """Note the names that errors use for the options of the running program.

    Args:
        options (iterable of `str`): Names of its options.
        has_model_options (`bool`): Whether it takes options of [`AMDConfig`].
        arguments (mapping of `str` to `str`, *optional*): Arguments of Python whose options have other names.
    """
    global _has_model_options
    _has_model_options = has_model_options
    _names_of_options.clear()
    _names_of_options.update({name: f"--{name}" for name in options})
    _names_of_options.update({argument: f"--{name}" for argument, name in (arguments or {}).items()})


def _all_names() -> dict[str, str]:
    config = sys.modules.get("amd_hf.configuration_amd")  # whose import takes seconds: no errors of it without it
    if not _has_model_options or config is None:
        return _names_of_options
    return {field.name: f"--model.{field.name}" for field in dataclasses.fields(config.AMDConfig)} | _names_of_options


def _user_errors() -> tuple[type[Exception], ...]:
    theirs = [getattr(sys.modules.get(module), name, None) for module, name in _THEIR_USER_ERRORS]
    return (*_USER_ERRORS, *(error for error in theirs if error is not None))


__all__ = ["LAUNCHED", "interruption_line", "remember_names", "run_program"]
