"""How a program runs and ends: one line for what its user can mend, silence where nobody reads it any more."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..configuration_amd import AMDConfig
from ..errors import RunStopped, error_line, is_disk_full


# What a user can mend: shown as one line. Anything else is a bug and keeps its traceback.
_USER_ERRORS = (ValueError, TypeError, OSError, ImportError, RunStopped, StrictDataclassError, SafetensorError)
_BROKEN_PIPE_EXIT_CODE = 128 + 13  # SIGPIPE, as the shell reports programs whose reader has gone

# Names of Python's arguments and the options of the program that runs, for its errors; set by `remember_names`.
_names_of_options: dict[str, str] = {}


def run_program(main: Callable[[], Any]) -> None:
    """Runs a program's `main`; what a user can mend ends it with one line and exit code 2, not with a traceback.

    A reader of the output that goes (`| head`) ends it silently, as it does other programs; Ctrl-C with one line.
    """
    try:
        main()
        sys.stdout.flush()
    except _USER_ERRORS as error:
        if isinstance(error, BrokenPipeError) and _has_lost_its_reader():
            raise SystemExit(_BROKEN_PIPE_EXIT_CODE) from None
        if os.environ.get("AMD_HF_TRACEBACK"):
            raise
        line = f"error: {error_line(error, _names_of_options)}"
        _tell_torchrun(line)
        sys.stderr.write(f"\n{line}\n(set AMD_HF_TRACEBACK=1 to see where it was raised)\n{_launcher_note()}")
        raise SystemExit(error.exit_code if isinstance(error, RunStopped) else 2) from None
    except RuntimeError as error:
        if not is_disk_full(error):
            raise
        sys.stderr.write(f"\nerror: {error_line(error)}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        goes_on = "; with checkpoints it goes on by the same command and --resume_from_checkpoint"
        sys.stderr.write(f"\ninterrupted{goes_on if 'resume_from_checkpoint' in _names_of_options else ''}\n")
        raise SystemExit(130) from None


def _has_lost_its_reader() -> bool:
    """Whether nobody reads what this program prints; what is left of it, Python's exit must not try to print."""
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


def _tell_torchrun(line: str) -> None:
    """Leaves an error where `torchrun` looks for it: its report of failed processes then ends with this line."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    try:
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(
            json.dumps({"message": line, "timestamp": int(time.time())})
        )
    except OSError:  # such as a full disk, of which the error itself may tell
        sys.stderr.write("(torchrun could not be told of the error)\n")


def _launcher_note() -> str:
    """What to make of the traceback that `accelerate launch` prints after a program that ended with an error."""
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


def remember_names(option_types: Sequence[type], has_model_options: bool) -> None:
    """Notes under which names errors speak of the options of these types."""
    _names_of_options.clear()
    if has_model_options:
        _names_of_options.update({option.name: f"--model.{option.name}" for option in dataclasses.fields(AMDConfig)})
    for option_type in option_types:
        _names_of_options.update(
            {field.name: f"--{field.name}" for field in dataclasses.fields(option_type) if field.init}
        )
    for option_type in option_types:
        for argument, name in getattr(option_type, "option_of_argument", {}).items():
            _names_of_options[argument] = f"--{name}"


__all__ = ["remember_names", "run_program"]
