"""Tables with a header: csv (`path,label` and perhaps `video_id`) and jsonl (one object of these keys per line)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .entries import Entry, find_root, make_rows
from .label_names import read_label_names
from .problems import Kind, Problems
from .rows import VideoRows


NO_PATH = Kind("has no path", "have no path", "Give the path of the video in the column `path`.")
BAD_FIELDS = Kind(
    "has another number of fields than the header",
    "have another number of fields than the header",
    "Put values that hold a comma in double quotes.",
)
_BAD_JSON = Kind("is no JSON object", "are no JSON objects", 'Write one per line: {"path": "a.mp4", "label": 0}.')
_BAD_LABEL = Kind(
    "has a label that is neither a name nor an integer from 0",
    "have a label that is neither a name nor an integer from 0",
    "Correct them.",
)


def read_table(
    file: Path,
    root: Path | None = None,
    label_names: str | Path | Sequence[str] | None = None,
    problems: Problems | None = None,
) -> VideoRows:
    """Read the videos named by a csv or jsonl file, in its order.

    Args:
        file (`Path`): UTF-8; a name that ends in `.jsonl` means JSON lines, any other one csv with a header. Labels
            are integers from 0, or names if any of them is no integer; none have one for unlabelled videos.
        root, label_names, problems: see `read_list_file`. Without `label_names` named labels are numbered in sorted
            order, so give the names where one file (of a small validation set) may lack some.

    Raises:
        FileNotFoundError: the file, the root, the file of names or all of the first videos are missing.
        ValueError: no column `path`, an empty table, or bad lines.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no table {str(file)!r}.")
    absolute_root = find_root(root, file)
    found = Problems() if problems is None else problems
    records = list(_json_records(file, found) if file.suffix == ".jsonl" else csv_records(file, {"path"}, found))
    entries = []
    for number, record in records:
        path, label = record.get("path"), record.get("label")
        if not isinstance(path, str) or not path.strip():
            found.add(file, number, NO_PATH, record)
        elif not _is_label(label):
            found.add(file, number, _BAD_LABEL, repr(label))
        else:
            entries.append(Entry(number, path.strip(), _label(label)))
    rows = make_rows(entries, file, absolute_root, read_label_names(label_names), found)
    if problems is None:
        found.raise_if_any()
    return rows


def csv_records(file: Path, required: set[str], problems: Problems) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a csv file with a header as (line number, record); lines of a wrong width go to `problems`.

    Raises:
        ValueError: a required column is absent, or nothing follows the header.
    """
    with open(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        header = [name.strip() for name in next(reader, [])]
        if not required <= set(header):
            missing = ", ".join(f"`{name}`" for name in sorted(required - set(header)))
            raise ValueError(f"The header of {file} has no column {missing}: its first line is {','.join(header)!r}.")
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    if not lines:
        raise ValueError(f"The table {file} is empty: nothing follows its header.")
    problems.start(file, len(lines))
    for number, fields in lines:
        if len(fields) != len(header):
            problems.add(file, number, BAD_FIELDS, ",".join(fields))
        else:
            yield number, dict(zip(header, fields, strict=True))


def csv_header(file: Path) -> list[str]:
    """The column names of a csv file: its first line."""
    with open(file, encoding="utf-8-sig", newline="", errors="replace") as stream:
        return [name.strip() for name in next(csv.reader(stream), [])]


def _json_records(file: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig") as stream:
        lines = [(number, line) for number, line in enumerate(stream, start=1) if line.strip()]
    if not lines:
        raise ValueError(f'The table {file} is empty. Write one {{"path": ..., "label": ...}} per line.')
    problems.start(file, len(lines))
    for number, line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            yield number, record
        else:
            problems.add(file, number, _BAD_JSON, line.strip())


def _is_label(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return value is None or isinstance(value, str) or (isinstance(value, int) and value >= 0)


def _label(value: int | str | None) -> int | str | None:
    """csv knows text only: digits are a number, nothing is no label."""
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.isascii() and value.isdecimal() else value or None
    return value
