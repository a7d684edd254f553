"""The text of `--help`: options in groups, one line each; `--help_all` shows every option with its whole text."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence

from .declared import UNKNOWN, Option


def format_help(
    program: str, description: str, groups: Mapping[str, Sequence[Option]], notes: Sequence[str] = (), *,
    in_full: bool = True,
) -> str:  # fmt: skip
    """Return the text of a help.

    Args:
        program (`str`): Name of the program.
        description (`str`): What it does.
        groups (mapping of `str` to sequences of `Option`): Options under their headings.
        notes (sequence of `str`): Last lines.
        in_full (`bool`): Whether each option has all of its text, or as much as one line holds.
    """
    columns = max(80, min(shutil.get_terminal_size((100, 24)).columns, 119))
    lines = [f"usage: {program} [options]", "", *_wrap(description, columns)]
    for heading, options in groups.items():
        lines += ["", f"{heading}:"]
        for option in options:
            lines += _format_option(option, columns, in_full)
    closing = [line for note in notes for line in textwrap.wrap(note, columns)]
    return "\n".join([*lines, *(["", *closing] if closing else [])]) + "\n"


def _wrap(description: str, columns: int) -> list[str]:
    """Wrap paragraphs. Commands keep their line breaks, of which a docstring has only the indentation left."""
    lines: list[str] = []
    for paragraph in description.strip().split("\n\n"):
        if paragraph.startswith(("amd-hf ", "python ")):
            lines += re.sub(r" {5,}", " \\\n    ", paragraph).splitlines()
        else:
            lines += textwrap.wrap(paragraph, columns)
        lines.append("")
    return lines[:-1]


def _format_option(option: Option, columns: int, in_full: bool) -> list[str]:
    is_flag = option.kind == "bool" and option.default is False
    kind = "" if is_flag else {"bool": " BOOL", "int": " N", "float": " X"}.get(option.kind, " TEXT")
    if option.is_list:
        kind += " ..."
    start = f"  --{option.name}{kind}"
    default = option.default
    # A list as the user types it: words separated by spaces.
    value = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    shown = "" if default is UNKNOWN or default in (None, False, "", []) else f" (default {value})"
    choices = "" if option.choices is None else f" [{', '.join(map(str, option.choices))}]"
    text = option.help.replace("%%", "%")
    if in_full:
        lines = textwrap.wrap(f"{text.removesuffix('.')}.{choices}{shown}", columns - 8)
        return [start, *(f"        {line}" for line in lines)]
    indent = max(30, len(start) + 2)
    room = columns - indent - len(shown)
    # The first sentence; where it is too long for the line, its first clause says the most.
    first = re.split(r"(?<=[^.])[.] ", text)[0].removesuffix(".")
    if len(first) > room:
        first = first.partition("; ")[0]
    if len(first) + len(choices) <= room:
        first += choices
    if len(first) > room:
        first = f"{first[: room - 1].rpartition(' ')[0]}…"
    return [f"{start:<{indent}}{first}{shown}"]


__all__ = ["format_help"]
