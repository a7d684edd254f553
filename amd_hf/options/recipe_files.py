"""YAML files of options, recipes and grids; and the recipes that the package carries, by name."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


_PACKAGE = Path(__file__).parents[1]
_IN_WHEEL = _PACKAGE / "configs"
_IN_CLONE = _PACKAGE.parent / "configs"

# Folders of recipes, and for which commands a name alone is looked for there first.
RECIPE_GROUPS: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain",),
    "finetune": ("finetune",),
    "detect": ("finetune",),
    "demo": (),
}

# Parts of a recipe that hold options of something else: the model's config and the teacher's.
SECTIONS = ("model", "teacher_config")


def _asks(recipe: str) -> tuple[str, ...]:
    return RECIPE_GROUPS[recipe.partition("/")[0]]


def recipes_folder() -> Path:
    """Return the folder with the recipes: inside an installed package, beside the package in a clone.

    Raises:
        FileNotFoundError: the installation is not whole.
    """
    for folder in (_IN_WHEEL, _IN_CLONE):
        if (folder / "finetune" / "custom.yaml").is_file():
            return folder
    raise FileNotFoundError(f"The recipes of amd_hf are missing ({_IN_WHEEL}): install the package again.")


def list_recipes() -> list[str]:
    """Return the names of all recipes, as `finetune/custom`, in the order of `RECIPE_GROUPS`."""
    folder = recipes_folder()
    return [f"{group}/{path.stem}" for group in RECIPE_GROUPS for path in sorted((folder / group).glob("*.yaml"))]


def describe_recipe(name: str) -> str:
    """Return the first sentence of a recipe's opening comment."""
    comment: list[str] = []
    for line in find_recipe(name).read_text().splitlines():
        if not line.startswith("# "):
            break
        comment.append(line.removeprefix("# ").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".") + "."


def find_recipe(name: str, command: str | None = None) -> Path:
    """Find a recipe's file.

    Args:
        name (`str`): path of a YAML file; or the name of a recipe of the package, with its folder (`finetune/custom`)
            or without (`custom`).
        command (`str`, *optional*): the command that asks, whose own recipes win where several have the name.

    Returns:
        An existing file.

    Raises:
        FileNotFoundError: nothing has that name; the message names what is near.
        ValueError: recipes in several folders have the name.
    """
    if Path(name).is_file():
        return Path(name)
    folder, known = recipes_folder(), list_recipes()
    wanted = name.removesuffix(".yaml").removeprefix("configs/")
    if wanted in known:
        return folder / f"{wanted}.yaml"
    matches = [recipe for recipe in known if recipe.partition("/")[2] == wanted]
    own = [recipe for recipe in matches if command in _asks(recipe)]
    matches = own or matches
    if len(matches) == 1:
        return folder / f"{matches[0]}.yaml"
    if matches:
        raise ValueError(f"Several recipes are called {name!r}: say which of {', '.join(matches)}.")
    own = [recipe for recipe in reversed(known) if command in (None, *_asks(recipe))]
    by_short_name = {recipe.partition("/")[2]: recipe for recipe in own}
    close = difflib.get_close_matches(wanted, [*known, *by_short_name], n=3)
    near = dict.fromkeys(by_short_name.get(name, name) for name in close)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise FileNotFoundError(
        f"There is no recipe {name}, neither as a file nor in the package: {hint}`amd-hf recipes` lists them."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Recipe:
    """What a recipe says. Empty where a command names none.

    Args:
        path (`Path`, *optional*): The file.
        options (`dict`): Options by name, as YAML reads them.
        sections (`dict`): The options of the sections `model` and `teacher_config`, by section; numbers are as meant.
    """

    path: Path | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def read_recipe(argv: Sequence[str] | None = None, command: str | None = None) -> Recipe:
    """Read the recipe that a command line names by `--recipe`.

    Args:
        argv (sequence of `str`, *optional*): The command line; by default that of the process.
        command (`str`, *optional*): The command, whose own recipes win where several have the name.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If it is no valid YAML, no mapping, or one of its sections is none.
    """
    arguments = sys.argv[1:] if argv is None else argv
    named = None
    for position, argument in enumerate(arguments):
        if argument == "--recipe" and position + 1 < len(arguments):
            named = arguments[position + 1]
        elif argument.startswith("--recipe="):
            named = argument.removeprefix("--recipe=")
    if named is None:
        return Recipe()
    path = find_recipe(named, command)
    recipe = Recipe(path, read_options(path, "recipe"))
    for section in SECTIONS:
        options = recipe.options.pop(section, None) or {}
        if not isinstance(options, dict):
            raise ValueError(
                f"The section `{section}` of the recipe {path} must be a mapping of options, it is {options!r}."
            )
        recipe.sections[section] = as_number(options)
    return recipe


def as_number(value: Any) -> Any:
    """Return the number that text like 1e-6 means, which YAML 1.1 takes for a word; also in lists and mappings."""
    if isinstance(value, dict):
        return {key: as_number(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_number(item) for item in value]
    if isinstance(value, str) and value[:1] in "0123456789.+-" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def read_options(path: Path, kind: str) -> dict[str, Any]:
    """Read a file of options.

    Args:
        path (`Path`): The file.
        kind (`str`): What it is, `recipe` or `grid`, for errors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not valid YAML or no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {kind} {path}.")
    options = load_yaml(path.read_text(), f"The {kind} {path}")
    if not isinstance(options, dict):
        raise ValueError(f"The {kind} {path} must be a mapping of options, it is a {type(options).__name__}.")
    return options


def load_yaml(text: str, what: str) -> Any:
    """Return what `text` says; `what` names it where it is no YAML, which is a `ValueError`."""
    import yaml  # half of the time of `amd-hf --help`, which needs none of it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not valid YAML: {error}") from error


__all__ = [
    "RECIPE_GROUPS",
    "SECTIONS",
    "Recipe",
    "as_number",
    "describe_recipe",
    "find_recipe",
    "list_recipes",
    "load_yaml",
    "read_options",
    "read_recipe",
    "recipes_folder",
]
