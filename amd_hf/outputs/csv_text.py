"""Text in csv cells: a spreadsheet must not take a name for a formula, and the name must come back as it was.

The rule of every csv file that this package writes: a text that a spreadsheet could run has one `'` in front.
[`original_cell`] takes it off again; in other programs: drop the `'` where a formula's sign follows it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any


# What spreadsheets take for the start of a formula, also behind blanks and in full width; tabs and line breaks at the
# start move the rest to another cell. A text that is guarded already matches too, so that no two texts become one.
_FORMULA = re.compile(r"[\s']*[=+\-@＝＋－＠]|'*[\t\r\n]")


def guard_cell(value: Any) -> Any:
    """Return a value for a csv cell: text that looks like a formula gets a `'` in front, all else stays as it is."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def original_cell(text: str) -> str:
    """Return the text that [`guard_cell`] was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def csv_line(cells: Iterable[Any]) -> str:
    """Return one line of a csv file, guarded and quoted, with its `\\n`."""
    text = io.StringIO(newline="")
    # The csv module quotes a lone carriage return only where it is part of the line's end.
    csv.writer(text, lineterminator="\r\n").writerow([guard_cell(cell) for cell in cells])
    return text.getvalue().removesuffix("\r\n") + "\n"


__all__ = ["csv_line", "guard_cell", "original_cell"]
