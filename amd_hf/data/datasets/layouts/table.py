"""Tables with a header: csv (`path,label` and perhaps `video_id`) and jsonl (one object of these keys per line)."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..label_names import as_label, check_label_column
from ..list_columns import csv_columns
from ..problems import Kind, Problems, shorten
from ..rows import Entry, VideoRows, make_rows
from ..text_files import csv_header, csv_records, is_text, json_records


NO_PATH = Kind("has no path", "have no path", "Give the path of the video in the column `path`.")
BAD_LABEL = Kind(
    "has a label that is neither a name nor an integer from 0",
    "have a label that is neither a name nor an integer from 0",
    "Correct them.",
)


_LABEL_LIKE = re.compile(r"(?i)label|class|categor|action|activit|target|^cls$|^y$")

logger = logging.getLogger(__name__)


def read_table(
    file: Path,
    problems: Problems,
    root: Path | None = None,
    label_names: list[str] | None = None,
    label_column: str | None = None,
) -> VideoRows:
    """Read the videos named by a csv or jsonl file, in its order.

    Args:
        file (`Path`): UTF-8; a name that ends in `.jsonl` means JSON lines, any other one csv with a header. Labels
            are integers from 0, or names if any of them is no integer; none have one for unlabelled videos.
        problems, root, label_names: see `read_list_file`. Without `label_names` named labels are numbered in sorted
            order, so give the names where one file (of a small validation set) may lack some. A column `video_id`
            is used where its texts are unique.
        label_column (`str`, *optional*): the column or key of the labels, by default `label`.

    Raises:
        FileNotFoundError: the file, the root or all of the first videos are missing.
        ValueError: no column `path` or `label_column`, or an empty table.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no table {str(file)!r}.")
    records: list[tuple[int, dict[str, Any]]]
    is_json = file.suffix == ".jsonl"
    if not is_json and not problems.check_files:
        header = csv_header(file)
        is_known = label_column in (None, *header)
        quick = csv_columns(file, header, label_column or "label", root, label_names) if is_known else None
        if quick is not None:
            rows, num_rows = quick
            problems.start(file, num_rows)
            if label_column is None:
                warn_of_other_labels(header, file)
            return rows
    records = list(json_records(file, problems) if is_json else csv_records(file, {"path"}, problems))
    columns = list(dict.fromkeys(name for _, record in records for name in record))
    check_label_column(label_column, set(columns), file)
    if label_column is None:
        warn_of_other_labels(columns, file)
    entries = make_entries(records, "path", label_column or "label", file, label_names, problems)
    rows = make_rows(entries, file, root, label_names, problems)
    used = dict(records)
    ids = [name for entry in entries if isinstance(name := used[entry.number].get("video_id"), str) and name]
    is_complete = len(set(ids)) == len(entries)  # else the paths name the videos
    return dataclasses.replace(rows, video_ids=ids) if is_complete else rows


def make_entries(
    records: Sequence[tuple[int, dict[str, Any]]],
    path_column: str,
    label_column: str,
    file: Path,
    names: Sequence[str] | None,
    problems: Problems,
) -> list[Entry]:
    """Make entries of records that hold a path and a label; the others go to `problems`."""
    entries = []
    known = None if names is None else set(names)
    for number, record in records:
        path = record.get(path_column)
        if not isinstance(path, str) or not path.strip() or not is_text(path):
            problems.add(file, number, NO_PATH, record)
            continue
        try:
            label = as_label(record.get(label_column), known)
        except ValueError:
            problems.add(file, number, BAD_LABEL, shorten(record.get(label_column)))
        else:
            entries.append(Entry(number, path.strip(), label))
    return entries


def warn_of_other_labels(columns: Sequence[str], source: object) -> None:
    """Warn where there is no column `label`, but one whose name looks like it."""
    if "label" in columns:
        return
    near = [name for name in columns if _LABEL_LIKE.search(name)]
    if near:
        logger.warning(
            "%s has no column `label`, so its videos have no labels; its columns are %s. Name the one of the labels, "
            "such as %s: `--label_column NAME` (Python: `label_column=`).",
            source, list(columns)[:50], " or ".join(map(repr, near[:5])),
        )  # fmt: skip
