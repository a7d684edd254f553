"""The command `amd-hf`: one module per sub-command, imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__


# Sub-command -> what it does. Each is a module of this folder with a `run(argv)`.
COMMANDS = {
    "pretrain": "pre-train a student, guided by a teacher or alone",
    "finetune": "fine-tune a classifier or an action detector, and test it",
    "evaluate": "test a model on labelled videos, over several views",
    "predict": "classify videos, or detect actions in one",
    "features": "write features of videos",
    "convert": "read an official checkpoint, or write one",
    "check": "decode every video of a data set and list those that cannot be read",
    "validate": "check annotation files line by line",
    "visualize": "draw what a pre-trained model sees and reconstructs",
    "push": "check a model's folder and publish it on the Hub",
    "recipes": "list the recipes that come with the package, or print one",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command.

    Args:
        argv (sequence of `str`, *optional*): its name and its options; by default those of the process.
    """
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of `amd-hf recipes | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        raise SystemExit(1) from None


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
    elif arguments[0] in ("-V", "--version"):
        print(f"amd_hf {__version__}")
    elif arguments[0] in COMMANDS:
        importlib.import_module(f".{arguments[0]}", __name__).run(arguments[1:])
    else:
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        sys.stderr.write(f"error: `{arguments[0]}` is no command of amd-hf{hint}; `amd-hf --help` lists them\n")
        raise SystemExit(2)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: amd-hf COMMAND [options]",
            "",
            "Small video transformers, distilled from large masked autoencoders.",
            "",
            *lines,
            "",
            "`amd-hf COMMAND --help` lists the options of a command.",
        ]
    )
