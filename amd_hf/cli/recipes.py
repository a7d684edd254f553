"""`amd-hf recipes`: list the recipes that come with the package; `amd-hf recipes NAME` prints one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..options.recipe_files import describe_recipe, find_recipe, list_recipes


def main(argv: Sequence[str] | None = None) -> None:
    """List the recipes, or print one."""
    parser = argparse.ArgumentParser(
        prog="amd-hf recipes",
        description="List the recipes that come with the package, or print one: "
        "`amd-hf recipes finetune/custom > my.yaml`, then `amd-hf finetune --recipe my.yaml ...`.",
    )
    parser.add_argument("name", nargs="?", help="recipe to print, as finetune/custom")
    name = parser.parse_args(argv).name
    if name is None:
        names = list_recipes()
        width = max(map(len, names))
        print("\n".join(f"{recipe:<{width}}  {describe_recipe(recipe)}" for recipe in names))
        return
    sys.stdout.write(find_recipe(name).read_text())
