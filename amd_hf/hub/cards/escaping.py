"""Text of others inside a card: whatever a name says, it is shown as that text and is no Markdown, HTML or code."""

from __future__ import annotations

import json
import re
import unicodedata
from importlib.resources import files
from typing import Any

import jinja2


class Markdown(str):
    """Text that is Markdown already: a template takes it as it is."""

    __slots__ = ()


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;"}
# Underscores inside of words mean nothing, and names are full of them; "#" counts only behind a blank or first.
_SIGNS = re.compile(r"[\\`*~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<!\S)#")
_JOINERS = "\u200c\u200d"  # inside words of some scripts, and of emoji


def escape_markdown(value: Any) -> Markdown:
    """A value as text of one line, for running text, list items, headings and cells of tables.

    Characters that cannot be seen (control characters, changes of direction) are written as `\\u202e`, line breaks as
    blanks.
    """
    if isinstance(value, Markdown):
        return value
    text = _SIGNS.sub(r"\\\g<0>", _visible(re.sub(r"\s+", " ", str(value))))
    return Markdown("".join(_ENTITIES.get(letter, letter) for letter in text))


def _visible(text: str) -> str:
    return "".join(
        f"\\u{ord(letter):04x}"
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS
        else letter
        for letter in text
    )


def code_span(value: Any) -> Markdown:
    """A name in code type; one that is no plain name as escaped text, since code in a table cannot hold every sign."""
    text = str(value)
    return Markdown(f"`{text}`") if re.fullmatch(r"[\w.+/-]+", text, re.ASCII) else escape_markdown(text)


def code_block(text: str, language: str) -> Markdown:
    """A fenced block whose fence is longer than any that the text holds."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def python_string(text: str) -> Markdown:
    """A text as a literal of Python, in double quotes, for a block of code."""
    return Markdown(json.dumps(_visible(text), ensure_ascii=False))


def read_template(name: str) -> jinja2.Template:
    """A template of this package; a name that it does not know is an error, not an empty string.

    Whatever stands between its braces is escaped by [`escape_markdown`], but for [`Markdown`].
    """
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_escape_expression
    )
    return environment.from_string(text)


def _escape_expression(value: Any) -> Any:
    # An undefined name must reach Jinja, which raises.
    return value if isinstance(value, jinja2.Undefined) else escape_markdown(value)


__all__ = ["Markdown", "code_block", "code_span", "escape_markdown", "python_string", "read_template"]
