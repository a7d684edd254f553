"""Lines of annotation files: bounded, numbered, and each to be blamed by itself for what it holds."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from .label_names import shorten
from .problems import Kind, Problems


MAX_LINE_LENGTH = 1 << 20
"""Characters of a line that are kept; a longer one is a fault."""

BAD_TEXT = Kind(
    "is no UTF-8 text of usual length",
    "are no UTF-8 text of usual length",
    "Write the file in UTF-8, one video per line.",
)
BAD_JSON = Kind("is no JSON object", "are no JSON objects", 'Write one per line: {"path": "a.mp4", "label": 0}.')
BAD_FIELDS = Kind(
    "has another number of fields than the header",
    "have another number of fields than the header",
    "Put values that hold a comma in double quotes.",
)


def read_lines(file: Path, problems: Problems) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not empty, stripped, with their numbers from 1.

    The number of lines, and lines that are no text, go to `problems`.
    """
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as stream:
        lines = [(number, line.strip()) for number, line in enumerate(_bounded(stream), start=1) if line.strip()]
    problems.start(file, len(lines))
    bad = [(number, line) for number, line in lines if not is_text(line)]
    for number, line in bad:
        problems.add(file, number, BAD_TEXT, line)
    return [(number, line) for number, line in lines if is_text(line)] if bad else lines


def read_csv(file: Path, problems: Problems) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the first line of a csv file, and (line number, fields) of the others that are not empty.

    The number of lines, lines that the csv module refuses, and lines that are no text go to `problems`.
    """
    lines, bad = _parse_csv(file)
    header = [name.strip() for name in lines.pop(0)[1]] if lines else []
    _tell(file, lines, bad, problems)
    return header, lines


def read_csv_without_header(file: Path, problems: Problems) -> list[tuple[int, list[str]]]:
    """Return (line number, fields) of all lines of a csv file that are not empty; else as `read_csv`."""
    lines, bad = _parse_csv(file)
    _tell(file, lines, bad, problems)
    return lines


_BadLines = list[tuple[int, Kind, str]]


def _tell(file: Path, lines: Sequence[Any], bad: _BadLines, problems: Problems) -> None:
    problems.start(file, len(lines) + len(bad))
    for number, kind, value in bad:
        problems.add(file, number, kind, value)


def _parse_csv(file: Path) -> tuple[list[tuple[int, list[str]]], _BadLines]:
    bad: _BadLines = []
    lines: list[tuple[int, list[str]]] = []
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(_bounded(stream))
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:  # a field above the module's limit; the next line is read as usual
                bad.append((reader.line_num, BAD_TEXT, str(error)))
                continue
            if not all(is_text(field) for field in fields):
                bad.append((reader.line_num, BAD_TEXT, ",".join(fields)))
            elif any(field.strip() for field in fields):
                lines.append((reader.line_num, fields))
    return lines, bad


def csv_header(file: Path) -> list[str]:
    """Return the column names of a csv file: its first line; none where that is no csv."""
    with open(file, encoding="utf-8-sig", newline="", errors="replace") as stream:
        try:
            return [name.strip() for name in next(csv.reader(_bounded(stream)), [])]
        except csv.Error:
            return []


def separator_hint(header: Sequence[str]) -> str:
    """Say what to do about a header that is one column because something else than commas separates its names."""
    if len(header) == 1:
        for character, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
            if character in header[0]:
                return f" Its columns are separated by {name}: write them with commas (CSV, UTF-8)."
    return ""


def csv_records(file: Path, required: set[str], problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a csv file with a header as (line number, record); lines of a wrong width go to `problems`.

    Raises:
        ValueError: a required column is absent, or nothing follows the header.
    """
    header, lines = read_csv(file, problems)
    if not required <= set(header):
        missing = ", ".join(f"`{name}`" for name in sorted(required - set(header)))
        raise ValueError(
            f"The header of {file} has no column {missing}: its first line is {shorten(','.join(header), 500)}."
            f"{separator_hint(header)}"
        )
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise ValueError(f"The header of {file} names columns twice: {', '.join(map(repr, twice))}.")
    if not lines and not problems.found:
        raise ValueError(f"The table {file} is empty: nothing follows its header.")
    for number, fields in lines:
        if len(fields) != len(header):
            problems.add(file, number, BAD_FIELDS, ",".join(fields))
        else:
            yield number, dict(zip(header, fields, strict=True))


def json_records(file: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read JSON lines as (line number, object); lines that are no objects go to `problems`.

    Raises:
        ValueError: the file is empty.
    """
    lines = read_lines(file, problems)
    if not lines and not problems.found:
        raise ValueError(f'The table {file} is empty. Write one {{"path": ..., "label": ...}} per line.')
    for number, line in lines:
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield number, record
        else:
            problems.add(file, number, BAD_JSON, line)


def parse_json(text: str) -> Any:
    """Parse JSON from a stranger.

    Raises:
        ValueError: it is no JSON, is nested too deep, names a key twice, or holds a number of endless digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None


def read_json_file(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: it is no JSON; names the file.
    """
    try:
        return parse_json(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON file: {error}") from error


def is_text(line: str) -> bool:
    """Return whether a line is UTF-8, of usual length, and without NUL bytes."""
    if len(line) > MAX_LINE_LENGTH or "\0" in line:
        return False
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the JSON names the key {shorten(name)} twice")
    return record


def _bounded(stream: TextIO) -> Iterator[str]:
    """Yield the lines of a stream; of one above the limit its beginning, a character longer than the limit."""
    while line := stream.readline(MAX_LINE_LENGTH + 1):
        rest = line
        while len(rest) > MAX_LINE_LENGTH and not rest.endswith("\n"):
            rest = stream.readline(MAX_LINE_LENGTH + 1)
        yield line
