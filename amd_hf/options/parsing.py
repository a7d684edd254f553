"""The command line of a program: a YAML recipe gives defaults, the command line overrides any of them.

A recipe is a flat mapping of options; the section `model` holds options of [`AMDConfig`], which the command line
overrides as `--model.hidden_size 192`, and `teacher_config` those of the teacher's.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .declared import UNKNOWN, Option, class_options
from .help import format_help
from .programs import remember_names, run_program  # the latter for `from amd_hf.recipes import run_program`
from .recipe_files import Recipe, as_number, load_yaml, read_recipe


# Option names of other programs, and our names for them.
_OTHER_NAMES = {
    "device": "a GPU is used where there is one, `CUDA_VISIBLE_DEVICES=1` in front of the command chooses it, and "
    "`--use_cpu true` stays on the CPU",
    "gpu": "a GPU is used where there is one; `CUDA_VISIBLE_DEVICES=1` in front of the command chooses it",
    "gpus": "--num_processes",
    "nproc_per_node": "--num_processes",
    "cpu": "--use_cpu",
    "no_cuda": "--use_cpu",
    "model": "--model_name_or_path",
    "checkpoint": "--model_name_or_path",
    "finetune": "--model_name_or_path",
    "pretrained": "--model_name_or_path",
    "config": "--recipe",
    "data_path": "--data",
    "data_dir": "--data",
    "dataset": "--data",
    "video": "--videos",
    "input": "--videos",
    "label_names": "--class_names",
    "root": "--data_root",
    "out": "--output_dir",
    "output": "--output_dir",
    "epochs": "--num_train_epochs",
    "lr": "--base_learning_rate",
    "min_lr": "--min_base_learning_rate",
    "batch_size": "--per_device_train_batch_size",
    "num_workers": "--dataloader_num_workers",
    "num_sample": "--num_repetitions",
    "clip_grad": "--max_grad_norm",
    "resume": "--resume_from_checkpoint",
    "auto_resume": "--resume_from_checkpoint",
    "num_frames": "--model.num_frames",
    "teacher_dim": "--model.teacher_hidden_size",
    "path_teacher_model": "--teacher",
    "model_teacher": "--teacher",
}

RECIPE_OPTION = Option(
    "recipe",
    "str",
    None,
    "Defaults for these options: a YAML file, or a recipe of the package by its name (`amd-hf recipes` lists them).",
    is_nullable=True,
)


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


def _read_bool(text: str) -> bool:
    word = text.lower()
    if word not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
        raise argparse.ArgumentTypeError(f"invalid truth value: {text!r} (true or false)")
    return word in ("yes", "true", "t", "y", "1")


_READ: dict[str, Callable[[str], Any]] = {"bool": _read_bool, "int": int, "float": float, "str": str}


def read_text(option: Option, text: str) -> Any:
    """Convert a word of the command line to the type of its option.

    `null` unsets an option that may be None, as in YAML; so does `none` for numbers.

    Raises:
        argparse.ArgumentTypeError: If it is no such value.
    """
    is_number = option.kind in ("int", "float")
    if option.is_nullable and (text == "null" or (is_number and text.lower() == "none")):
        return None
    try:
        return _READ[option.kind](text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid {option.kind} value: {text!r}") from None


def read_yaml_value(option: Option, value: Any) -> Any:
    """Convert a value of a recipe to the type of its option.

    Raises:
        argparse.ArgumentTypeError: If it is no such value.
    """
    if option.is_list and value is not None:
        one = dataclasses.replace(option, is_list=False)
        return [read_yaml_value(one, item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, (list, dict)):
        if option.is_structured:
            return value  # some options of the Trainer are one word or a list of them, or a mapping
        raise argparse.ArgumentTypeError(f"invalid {option.kind} value: {value!r}")
    if value is None:
        if option.is_nullable:
            return None
        value = "null"
    # 3 may be a float, or the name of a folder; true is no number, although Python's bool is an int.
    kept = {"bool": (bool,), "float": (float, int), "int": (int,)}.get(option.kind, ())
    if isinstance(value, kept) and (option.kind == "bool") == isinstance(value, bool):
        return float(value) if option.kind == "float" else value
    if value is False and option.name.endswith("_strategy"):
        value = "no"  # which YAML 1.1 reads as false
    found = read_text(option, str(value))
    if option.choices is not None and found is not None and found not in option.choices:
        known = ", ".join(map(str, option.choices))
        raise argparse.ArgumentTypeError(f"invalid choice: {found!r} (choose from {known})")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The parser
# ---------------------------------------------------------------------------------------------------------------------


class OptionParser(argparse.ArgumentParser):
    """Parser that returns only the options that are given: the dataclasses have the defaults.

    It raises errors instead of printing pages of usage, and accepts no abbreviated option names.
    """

    def __init__(self, options: Iterable[Option], **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS, **kwargs)
        self.options = {option.name: option for option in options}
        for option in self.options.values():
            self._add(option)
        self.add_argument("--help", "-h", action="store_true")
        self.add_argument("--help_all", action="store_true")

    def _add(self, option: Option) -> None:
        name = option.name
        settings: dict[str, Any] = {"dest": name, "type": functools.partial(read_text, option)}
        if option.choices is not None:
            settings["choices"] = option.choices
        if option.is_list:
            settings["nargs"] = "+"
        elif option.kind == "bool" and option.default is not None:
            settings |= {"nargs": "?", "const": True}
        if option.nargs is not None:
            settings |= {"nargs": option.nargs, "const": option.const}
        self.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **settings)
        if option.kind == "bool" and option.default is True:
            self.add_argument(f"--no_{name}", f"--no-{name.replace('_', '-')}", action="store_false", dest=name)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (`--help` lists the options).")

    def read_recipe(self, recipe: Recipe) -> dict[str, Any]:
        """Return the options of a recipe, each of the type of its option.

        Raises:
            ValueError: If an option is unknown (names it and the nearest known one), or a value does not fit it.
        """
        known = self.options.keys() - {RECIPE_OPTION.name, "num_processes"}
        if unknown := [str(name) for name in recipe.options if name not in known]:
            raise ValueError(f"The recipe {recipe.path} has unknown option(s): {_with_hints(unknown, known)}.")
        found = {}
        for name, value in recipe.options.items():
            try:
                found[name] = read_yaml_value(self.options[name], value)
            except argparse.ArgumentTypeError as error:
                raise ValueError(f"The recipe {recipe.path}: `{name}`: {error}.") from None
        return found

    def read_words(self, words: Sequence[str], more_known: Iterable[str] = ()) -> dict[str, Any]:
        """Return the options that a command line gives.

        Raises:
            ValueError: If a word belongs to no option (names it and the nearest known one), or a value does not fit.
        """
        given, unknown = self.parse_known_args(list(words))
        if unknown:
            known = [*self._option_string_actions, *more_known]
            raise ValueError(f"Unknown on the command line: {_with_hints(unknown, known)}.")
        # A list of words that is unset is one word.
        return {name: None if value == [None] else value for name, value in vars(given).items()}


def parse(
    options: Iterable[Option],
    arguments: Sequence[str],
    command: str | None = None,
    has_model_options: bool = True,
    has_teacher_options: bool = False,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read a command line and the recipe that it names, without importing the classes that declare the options.

    Returns:
        Options that the recipe gives, those that the command line gives, those of the model's config, and those of
        the teacher's.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: See [`parse_recipe`].
    """
    remember_names((), has_model_options=False)  # a recipe's errors name its own keys
    words, model_options = _split_section("model", list(arguments))
    teacher_options: dict[str, Any] = {}
    if has_teacher_options:
        words, teacher_options = _split_section("teacher_config", words)
    words = _with_flag_values(words)
    parser = OptionParser([*options, RECIPE_OPTION], prog=f"amd-hf {command}" if command else None)
    recipe = read_recipe(words, command)
    if not has_teacher_options and recipe.sections.get("teacher_config"):
        recipe.options["teacher_config"] = recipe.sections["teacher_config"]  # unknown here
    of_recipe = parser.read_recipe(recipe)
    model_options = {**recipe.sections.get("model", {}), **model_options}
    if has_teacher_options:
        teacher_options = {**recipe.sections.get("teacher_config", {}), **teacher_options}
    remember_names(parser.options, has_model_options)
    if model_options and not has_model_options:
        raise ValueError(f"This program loads its model as it is: it takes no model options, got {model_options}.")
    models = [name for name in _OTHER_NAMES.values() if name.startswith("--model.")] if has_model_options else []
    given = parser.read_words(words, models)
    given.pop(RECIPE_OPTION.name, None)
    return of_recipe, given, model_options, teacher_options


def parse_recipe(
    option_types: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    has_model_options: bool = True,
    has_teacher_options: bool = False,
    command: str | None = None,
) -> tuple[Any, ...]:
    """Read `--recipe FILE` and the command line into option dataclasses.

    Args:
        option_types (`Sequence[type]`): Dataclasses whose fields are the options.
        argv (`Sequence[str]`, *optional*): Arguments; those of the process when not given.
        description (`str`, *optional*): First lines of `--help`.
        has_model_options (`bool`, *optional*, defaults to `True`): Whether the program builds a model by options.
        has_teacher_options (`bool`, *optional*, defaults to `False`): Whether it loads a teacher, which may need some.
        command (`str`, *optional*): The sub-command of `amd-hf`, whose own recipes are found by name first.

    Returns:
        One instance per option type, then a `dict` with the options of the model's config and, where there are any,
        one with those of the teacher's.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the recipe is no mapping, an option is unknown (names it and the nearest known one), or a value
            does not fit its option.
    """
    from ..hub.privacy import redact_command  # takes a third of a second, which an early check does without

    arguments = list(sys.argv[1:] if argv is None else argv)
    # Trackers and cards record the command line: options that are secrets must not appear in their files.
    sys.argv[1:] = redact_command(sys.argv[1:])[0]
    by_type = {option_type: class_options(option_type) for option_type in option_types}
    options = [option for found in by_type.values() for option in found.values()]
    if {"--help", "-h", "--help_all"} & {*arguments}:
        print_help(format_help(Path(sys.argv[0]).name, description or "", {"options": [RECIPE_OPTION, *options]}))
    of_recipe, given, model_options, teacher_options = parse(
        options, arguments, command, has_model_options, has_teacher_options
    )
    of_recipe, notes = _fit_recipe(of_recipe, given, by_type)
    aliases = {
        argument: name
        for option_type in option_types
        for argument, name in getattr(option_type, "option_of_argument", {}).items()
    }
    remember_names([option.name for option in options], has_model_options, aliases)
    values = {**of_recipe, **given}
    parsed = []
    for option_type, found in by_type.items():
        parsed.append(option_type(**{name: values[name] for name in found if name in values}))
        if option_type in notes:
            parsed[-1].notes = notes[option_type]
    return *parsed, model_options, *([teacher_options] if has_teacher_options else [])


def print_help(text: str) -> NoReturn:
    """Print a help and end the program."""
    sys.stdout.write(text)
    raise SystemExit(0)


def _fit_recipe(
    of_recipe: dict[str, Any], given: Mapping[str, Any], by_type: Mapping[type, Mapping[str, Option]]
) -> tuple[dict[str, Any], dict[type, list[str]]]:
    """Let option types drop options of a recipe that have no meaning beside the options that were given.

    A type does so by `fit_recipe(recipe, values, given) -> (recipe, notes)`; its notes go to the attribute `notes`.
    """
    defaults = {
        option.name: None if option.default is UNKNOWN else option.default
        for found in by_type.values()
        for option in found.values()
    }
    notes: dict[type, list[str]] = {}
    for option_type in by_type:
        if hasattr(option_type, "fit_recipe"):
            values = {**defaults, **of_recipe, **given}
            of_recipe, notes[option_type] = option_type.fit_recipe(of_recipe, values, given.keys())
    return of_recipe, notes


# ---------------------------------------------------------------------------------------------------------------------
# Words of a command line
# ---------------------------------------------------------------------------------------------------------------------


def is_on_command_line(option: str, argv: Sequence[str] | None = None) -> bool:
    """Return whether an option (`teacher`, `model.hidden_size`) is given there, not by a recipe or a default."""
    arguments = sys.argv[1:] if argv is None else argv
    return any(argument.partition("=")[0] == f"--{option}" for argument in arguments)


def read_task(argv: Sequence[str] | None, tasks: Sequence[str], command: str | None = None) -> str:
    """Read the task of a program, before its other options, which depend on it.

    Args:
        argv (`Sequence[str]`, *optional*): Arguments; those of the process when not given.
        tasks (`Sequence[str]`): The tasks, the default first.
        command (`str`, *optional*): The sub-command of `amd-hf`, whose own recipes are found by name first.

    Returns:
        The value of `--task`, else that of `task` in the recipe, else the default.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If there is no such task.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task", nargs="?")
    task = parser.parse_known_args(arguments)[0].task
    if task is None:
        task = read_recipe(arguments, command).options.get("task")
    if task is not None and task not in tasks:
        raise ValueError(f"`--task` must be one of {', '.join(tasks)}, got {task!r}.")
    return task or tasks[0]


def check_model_source(source: str | None, option: str) -> None:
    """Check that a model's folder exists, before the name goes to the Hub, whose error would not mention folders.

    Raises:
        FileNotFoundError: If `source` is no folder here and cannot be a Hub id (`name` or `owner/name`).
    """
    if source is None or Path(source).exists():
        return
    owner, slash, _ = source.partition("/")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) or (slash and Path(owner).is_dir()):
        raise FileNotFoundError(f"There is no folder {source!r}, given as `--{option}`.")


def _split_section(section: str, arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--SECTION.NAME VALUE` and `--SECTION.NAME=VALUE` out of the arguments; values are read as YAML."""
    rest: list[str] = []
    options: dict[str, Any] = {}
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith(f"--{section}."):
            rest.append(argument)
            continue
        name, has_value, value = argument.removeprefix(f"--{section}.").partition("=")
        if not has_value:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise ValueError(f"`--{section}.{name}` needs a value.")
        options[name] = as_number(load_yaml(value, f"The value of `--{section}.{name}`"))
    return rest, options


def _with_flag_values(arguments: list[str]) -> list[str]:
    """Let `--resume_from_checkpoint` stand alone: from the last checkpoint of the output folder."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[position + 1 : position + 2]
        is_flag = argument in ("--resume_from_checkpoint", "--resume-from-checkpoint")
        if is_flag and (not following or following[0].startswith("--")):
            result.append("last")
    return result


def _with_hints(unknown: list[str], known: Iterable[str]) -> str:
    """Name what is unknown, each with the nearest known name."""
    known, hints = list(known), []
    for name in unknown:
        word = name.partition("=")[0]
        other = _OTHER_NAMES.get(word.lstrip("-").replace("-", "_")) if word.startswith("--") else None
        match = [other] if other in known else difflib.get_close_matches(word, known, n=1)
        if other is not None and not other.startswith("--"):
            hints.append(f"`{name}` ({other})")
        else:
            hints.append(f"`{name}`" + (f" (did you mean `{match[0]}`?)" if match else ""))
    return ", ".join(hints)


__all__ = [
    "OptionParser",
    "check_model_source",
    "is_on_command_line",
    "parse",
    "parse_recipe",
    "print_help",
    "read_task",
    "run_program",
]
