"""YAML files of options, recipes and grids; and the recipes that the package carries, by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml


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


def recipes_folder() -> Path:
    """The folder with the recipes: inside an installed package, beside the package in a clone.

    Raises:
        FileNotFoundError: the installation is not whole.
    """
    for folder in (_IN_WHEEL, _IN_CLONE):
        if (folder / "finetune" / "custom.yaml").is_file():
            return folder
    raise FileNotFoundError(f"The recipes of amd_hf are missing ({_IN_WHEEL}): install the package again.")


def list_recipes() -> list[str]:
    """Names of all recipes, as `finetune/custom`, in the order of `RECIPE_GROUPS`."""
    folder = recipes_folder()
    return [f"{group}/{path.stem}" for group in RECIPE_GROUPS for path in sorted((folder / group).glob("*.yaml"))]


def describe_recipe(name: str) -> str:
    """The first sentence of a recipe's opening comment."""
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
    own = [recipe for recipe in matches if command in RECIPE_GROUPS[recipe.partition("/")[0]]]
    matches = own or matches
    if len(matches) == 1:
        return folder / f"{matches[0]}.yaml"
    if matches:
        raise ValueError(f"Several recipes are called {name!r}: say which of {', '.join(matches)}.")
    near = difflib.get_close_matches(wanted, [*known, *(recipe.partition("/")[2] for recipe in known)], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise FileNotFoundError(
        f"There is no recipe {name!r}, neither as a file nor in the package: {hint}`amd-hf recipes` lists them."
    )


def load_yaml(text: str, what: str) -> Any:
    """What `text` says; `what` names it where it is no YAML, which is a `ValueError`."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not valid YAML: {error}") from error


def read_options(path: Path, kind: str) -> dict[str, Any]:
    """Reads a file of options.

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


__all__ = [
    "RECIPE_GROUPS",
    "describe_recipe",
    "find_recipe",
    "list_recipes",
    "load_yaml",
    "read_options",
    "recipes_folder",
]
