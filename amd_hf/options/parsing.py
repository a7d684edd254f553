"""Command-line programs: a YAML recipe gives defaults, the command line overrides any of them.

A recipe is a flat mapping of options; the section `model` holds options of [`AMDConfig`], which the command line
overrides as `--model.hidden_size 192`.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from transformers import HfArgumentParser

from ..hub.privacy import redact_command
from .programs import remember_names, run_program  # the latter for `from amd_hf.recipes import run_program`
from .recipe_files import load_yaml, read_options


# What people type who come from other programs, and what it is called here.
_OTHER_NAMES = {
    "device": "a GPU is used where there is one, `CUDA_VISIBLE_DEVICES=1` in front of the command chooses it, and "
    "`--use_cpu true` stays on the CPU",
    "gpu": "a GPU is used where there is one; `CUDA_VISIBLE_DEVICES=1` in front of the command chooses it",
    "gpus": "`torchrun --nproc_per_node N` or `accelerate launch --num_processes N` in front of the program",
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


class _Parser(HfArgumentParser):
    """Raises what it finds wrong instead of printing pages of usage; takes no shortened option names."""

    def __init__(self, option_types: Sequence[type], **kwargs: Any):
        super().__init__(option_types, allow_abbrev=False, **kwargs)
        hints = {name: hint for option_type in option_types for name, hint in get_type_hints(option_type).items()}
        for action in self._actions:
            if callable(action.type) and type(None) in get_args(hints.get(action.dest)):
                action.type = _nullable(action.type)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (`--help` lists the options).")


def parse_recipe(
    option_types: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    has_model_options: bool = True,
    has_teacher_options: bool = False,
) -> tuple[Any, ...]:
    """Reads `--recipe FILE` and the command line into option dataclasses.

    Args:
        option_types (`Sequence[type]`): Dataclasses whose fields are the options.
        argv (`Sequence[str]`, *optional*): Arguments; those of the process when not given.
        description (`str`, *optional*): First lines of `--help`.
        has_model_options (`bool`, *optional*, defaults to `True`): Whether the program builds a model by options.
        has_teacher_options (`bool`, *optional*, defaults to `False`): Whether it loads a teacher, which may need some.

    Returns:
        One instance per option type, then a `dict` with the options of the model's config and, where there are any,
        one with those of the teacher's.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the recipe is no mapping, an option is unknown (names it and the nearest known one), or a value
            does not fit its option.
    """
    arguments, model_options = _split_section("model", list(sys.argv[1:] if argv is None else argv))
    teacher_options: dict[str, Any] = {}
    if has_teacher_options:
        arguments, teacher_options = _split_section("teacher_config", arguments)
    # Trackers and cards write the command line down: an option that is a secret must be in nobody's files.
    sys.argv[1:] = redact_command(sys.argv[1:])[0]
    parser = _Parser(option_types, description=description)
    remember_names((), False)  # a recipe's errors name its own keys
    notes: dict[type, list[str]] = {}
    parser.add_argument("--recipe", metavar="FILE", help="YAML file with defaults for any of these options.")
    if has_model_options:
        parser.epilog = "Options of the model's config (AMDConfig) are given as --model.NAME VALUE"
        parser.epilog += ", those of the teacher's as --teacher_config.NAME VALUE." if has_teacher_options else "."
    arguments = _with_flag_values(arguments)
    recipe_path = _find_recipe(arguments)
    if recipe_path is not None:
        recipe = read_options(recipe_path, "recipe")
        model_options = {**_section("model", recipe, recipe_path), **model_options}
        if has_teacher_options:
            teacher_options = {**_section("teacher_config", recipe, recipe_path), **teacher_options}
        _check_keys(recipe, parser, recipe_path)
        recipe, notes = _fit_recipe(recipe, parser, option_types, arguments)
        arguments = [*_as_arguments(recipe, parser), *arguments]  # of two values the later one wins
    remember_names(option_types, has_model_options)
    if model_options and not has_model_options:
        raise ValueError(f"This program loads its model as it is: it takes no model options, got {model_options}.")
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        models = [name for name in _OTHER_NAMES.values() if name.startswith("--model.")] if has_model_options else []
        known = [*parser._option_string_actions, *models]
        raise ValueError(f"Unknown on the command line: {_with_hints(unknown, known)}.")
    for options in parsed:
        if type(options) in notes:
            options.notes = notes[type(options)]
    return *parsed, model_options, *([teacher_options] if has_teacher_options else [])


def is_on_command_line(option: str, argv: Sequence[str] | None = None) -> bool:
    """Whether an option (`teacher`, `model.hidden_size`) is given there, and not by a recipe or a default."""
    arguments = sys.argv[1:] if argv is None else argv
    return any(argument.partition("=")[0] == f"--{option}" for argument in arguments)


def read_task(argv: Sequence[str] | None, tasks: Sequence[str]) -> str:
    """What a program is to do, read before its other options are, which depend on it.

    Args:
        argv (`Sequence[str]`, *optional*): Arguments; those of the process when not given.
        tasks (`Sequence[str]`): What there is, the default first.

    Returns:
        The value of `--task`, else that of `task` in the recipe, else the default.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If there is no such task.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task", nargs="?")
    task, recipe_path = parser.parse_known_args(arguments)[0].task, _find_recipe(arguments)
    if task is None and recipe_path is not None:
        task = read_options(recipe_path, "recipe").get("task")
    if task is not None and task not in tasks:
        raise ValueError(f"`--task` must be one of {', '.join(tasks)}, got {task!r}.")
    return task or tasks[0]


def check_model_source(source: str | None, option: str) -> None:
    """Checks that a folder of a model exists, before the name goes to the Hub, whose answer says nothing of folders.

    Raises:
        FileNotFoundError: If `source` is no folder here and cannot be a Hub id (`name` or `owner/name`).
    """
    if source is None or Path(source).exists():
        return
    owner, slash, _ = source.partition("/")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) or (slash and Path(owner).is_dir()):
        raise FileNotFoundError(f"There is no folder {source!r}, given as `--{option}`.")


def _split_section(section: str, arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes `--SECTION.NAME VALUE` and `--SECTION.NAME=VALUE` out of the arguments; values are read as YAML."""
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
        options[name] = _number(load_yaml(value, f"The value of `--{section}.{name}`"))
    return rest, options


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-6 as text: make it the number that was meant, also inside lists and mappings."""
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str) and value[:1] in "0123456789.+-" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _find_recipe(arguments: list[str]) -> Path | None:
    for position, argument in enumerate(arguments):
        if argument == "--recipe" and position + 1 < len(arguments):
            return Path(arguments[position + 1])
        if argument.startswith("--recipe="):
            return Path(argument.removeprefix("--recipe="))
    return None


def _section(name: str, recipe: dict[str, Any], path: Path) -> dict[str, Any]:
    section = recipe.pop(name, None) or {}
    if not isinstance(section, dict):
        raise ValueError(f"The section `{name}` of the recipe {path} must be a mapping of options, it is {section!r}.")
    return _number(section)


def _check_keys(recipe: dict[str, Any], parser: HfArgumentParser, path: Path) -> None:
    known = {action.dest for action in parser._actions} - {"help", "recipe"}
    unknown = [str(key) for key in recipe if key not in known]
    if unknown:
        raise ValueError(f"The recipe {path} has unknown option(s): {_with_hints(unknown, known)}.")


def _fit_recipe(
    recipe: dict[str, Any], parser: HfArgumentParser, option_types: Sequence[type], arguments: list[str]
) -> tuple[dict[str, Any], dict[type, list[str]]]:
    """Lets option types leave out of a recipe what has no meaning beside the options that were given.

    A type does so by `fit_recipe(recipe, values, given) -> (recipe, notes)`; its notes go to the attribute `notes`.
    """
    given = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in arguments if word.startswith("--")}
    notes: dict[type, list[str]] = {}
    for option_type in option_types:
        if hasattr(option_type, "fit_recipe"):
            values, _ = parser.parse_known_args([*_as_arguments(recipe, parser), *arguments])
            recipe, notes[option_type] = option_type.fit_recipe(recipe, vars(values), given)
    return recipe, notes


def _with_hints(unknown: list[str], known: Iterable[str]) -> str:
    """Names what is unknown, each with the nearest known name."""
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


def _as_arguments(recipe: dict[str, Any], parser: HfArgumentParser) -> list[str]:
    """A recipe's options as they would stand on the command line, so that values are checked and converted alike."""
    takes_many = {action.dest for action in parser._actions if action.nargs in ("+", "*")}
    arguments: list[str] = []
    for name, value in recipe.items():
        if isinstance(value, list) and name not in takes_many:
            parser.set_defaults(**{name: value})  # some options of the Trainer are one word or a list of them
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is None:
            arguments.append(f"--{name}=null")
        else:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def _nullable(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A converter that can unset an option: by `null`, as in YAML, and where words mean nothing else by `none`."""

    @functools.wraps(convert)
    def convert_or_unset(text: str) -> Any:
        is_null = text == "null" or (convert in (int, float) and text.lower() == "none")
        return None if is_null else convert(text)

    return convert_or_unset


def _with_flag_values(arguments: list[str]) -> list[str]:
    """Lets `--resume_from_checkpoint` stand alone: from the last checkpoint of the output folder."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[position + 1 : position + 2]
        is_flag = argument in ("--resume_from_checkpoint", "--resume-from-checkpoint")
        if is_flag and (not following or following[0].startswith("--")):
            result.append("last")
    return result


__all__ = ["check_model_source", "is_on_command_line", "parse_recipe", "read_task", "run_program"]
