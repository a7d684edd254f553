"""Options in YAML files: recipes and grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


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


__all__ = ["load_yaml", "read_options"]
