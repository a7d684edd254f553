"""The command `amd-hf`: one module per sub-command, imported only when it runs."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..options.commands import COMMANDS as OPTIONS
from ..options.commands import check_command_line
from ..options.processes import start_processes
from ..options.programs import run_program


# Sub-command -> what it does. Each is a module of this folder with a `main(argv)`.
COMMANDS = {
    "pretrain": "pre-train a student, guided by a teacher or alone",
    "finetune": "fine-tune a classifier or an action detector, and test it",
    "evaluate": "test a model on labelled videos, over several views",
    "predict": "classify videos, or detect actions in one",
    "features": "write features of videos",
    "export": "write a model as ONNX, OpenVINO or ExecuTorch, and compare the two",
    "convert": "read an official checkpoint, or write one",
    "check": "decode every video of a data set and list those that cannot be read",
    "prepare": "re-encode a data set so that it loads fast",
    "benchmark": "measure how fast your videos load, and what to change",
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
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        run_program(lambda: print(_usage()))
    elif name in ("-V", "--version"):
        run_program(lambda: print(f"amd_hf {__version__}"))
    elif name in COMMANDS:
        start(name, arguments[1:])
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        sys.stderr.write(f"error: `{name}` is no command of amd-hf{hint}; `amd-hf --help` lists them\n")
        raise SystemExit(2)


def start(command: str, argv: Sequence[str] | None = None, script: str | None = None) -> None:
    """Run a sub-command by its name; mistakes in its options are reported before anything heavy is imported.

    Args:
        command (`str`): Name of the sub-command.
        argv (sequence of `str`, *optional*): Its options; by default those of the process.
        script (`str`, *optional*): The file that Python was started with, to take its folder off the module path.
    """
    # Python puts the script's folder first on the module path, where `import evaluate` would find
    # `scripts/evaluate.py` instead of the library of that name.
    if script is not None:
        folder = os.path.dirname(os.path.abspath(script))
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
    run_program(lambda: _start(command, list(sys.argv[1:] if argv is None else argv)))


def _start(command: str, arguments: list[str]) -> None:
    if command in OPTIONS:
        values = check_command_line(command, arguments)
        if (num_processes := values.get("num_processes")) is not None:
            # Each process gets the same options except this one, or it would start processes itself.
            names = ("--num_processes", "--num-processes")
            arguments = [
                word
                for word, before in zip(arguments, ["", *arguments], strict=False)
                if word not in names and before not in names and word.partition("=")[0] not in names
            ]
            if num_processes < 1:
                raise ValueError(f"`--num_processes` must be at least 1, got {num_processes}.")
            if num_processes > 1:
                # Not the module of the command itself, whose imports would end with a traceback at Ctrl-C.
                package, use_cpu = __name__.partition(".")[0], bool(values.get("use_cpu"))
                start_processes(package, [command, *arguments], num_processes, use_cpu)
                return
    # Imported last: torch and transformers take seconds, which a mistyped option need not wait for.
    module = importlib.import_module(f".{command}", __name__)
    getattr(module, "run", module.main)(arguments)  # commands whose result decides the exit code have `run`


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
            "In a clone the files in scripts/ do the same, for launchers that take a file.",
        ]
    )
