"""Clips that a csv cuts out of longer videos by `time_start` and `time_end`, as rows of a data set."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..data.arguments import DataArguments
from ..data.datasets.label_names import read_label_names
from ..data.datasets.layouts.kinetics import BAD_TIME, clip_stem, find_by_stem, read_kinetics_csv
from ..data.datasets.layouts.table import make_entries
from ..data.datasets.problems import Problems
from ..data.datasets.rows import Entry, VideoRows, find_root, make_rows
from ..data.datasets.text_files import csv_records, json_records
from ..data.loading import choose_layout


TIME_COLUMNS = ("time_start", "time_end")


def load_segments(data: DataArguments, split: str | None) -> Any:
    """List the clips of longer videos, with the columns `time_start` and `time_end` (seconds; None takes all of it).

    - A csv of Kinetics: videos `<youtube_id>.mp4`; where the clip lies there as `<id>_<start>_<end>.mp4`, that
      is taken whole.
    - A table (csv or jsonl): `path,label,time_start,time_end`, of each video any number of lines.
    - Other layouts whose rows have both columns, such as a `videofolder`.

    Args:
        data ([`~data.arguments.DataArguments`]): where they are.
        split (`str`, *optional*): which of them.

    Raises:
        ValueError: bad lines, or a layout without times.
    """
    path, problems = Path(str(data.data)).expanduser(), Problems()
    layout = choose_layout(path, split, data.layout)
    names = read_label_names(data.class_names)
    root = None if data.data_root is None else Path(data.data_root).expanduser()
    if layout == "kinetics":
        rows = _kinetics_segments(path, problems, split, root, names)
    elif layout == "table":
        rows = _table_segments(path, problems, root, names, data.label_column)
    else:
        loaded = data.load(split)
        if not set(TIME_COLUMNS) <= set(loaded.column_names):
            raise ValueError(
                f"`trim_by_times` needs the columns {' and '.join(TIME_COLUMNS)}, which {path} does not have: give a "
                "csv of Kinetics, a table with the header `path,label,time_start,time_end`, or a folder whose "
                "metadata has them."
            )
        return loaded
    problems.raise_if_any()
    return rows.to_dataset()


def _kinetics_segments(
    path: Path, problems: Problems, split: str | None, root: Path | None, names: list[str] | None
) -> VideoRows:
    named = read_kinetics_csv(path, problems, split, root, names)
    files = find_by_stem(named.searched)
    entries, sources, times = [], [], []
    for number, record in named.records:
        span, stem = _times(record), clip_stem(record)
        if span is None or stem is None:
            problems.add(named.file, number, BAD_TIME, _told(record))
            continue
        clip = files.get(stem, os.path.join(named.searched, f"{stem}.mp4"))
        entries.append(Entry(number, clip, record.get("label", "").strip() or None))
        sources.append(clip if stem in files else files.get(record["youtube_id"].strip(), clip))
        times.append((None, None) if stem in files else span)
    rows = make_rows(entries, named.file, Path(named.folder), named.label_names, problems, are_files=False)
    return _with_times(rows, sources, times)


def _table_segments(
    file: Path, problems: Problems, root: Path | None, names: list[str] | None, label_column: str | None
) -> VideoRows:
    required = {"path", *TIME_COLUMNS}
    is_json = file.suffix == ".jsonl"
    records = list(json_records(file, problems) if is_json else csv_records(file, required, problems))
    by_number = dict(records)
    top = find_root(root, file)
    entries, sources, times = [], [], []
    for entry in make_entries(records, "path", label_column or "label", file, names, problems):
        span = _times(by_number[entry.number])
        if span is None:
            problems.add(file, entry.number, BAD_TIME, _told(by_number[entry.number]))
            continue
        stem, suffix = os.path.splitext(entry.path)
        # The clip is named after the video and its seconds: a video may have several.
        entries.append(entry._replace(path=f"{stem}_{span[0]:g}_{span[1]:g}{suffix}"))
        sources.append(os.path.normpath(os.path.join(top, entry.path)))
        times.append(span)
    return _with_times(make_rows(entries, file, root, names, problems, are_files=False), sources, times)


def _times(record: Mapping[str, Any]) -> tuple[float, float] | None:
    try:
        start, end = (float(record[name]) for name in TIME_COLUMNS)
    except (KeyError, TypeError, ValueError):
        return None
    return (start, end) if math.isfinite(start + end) and 0 <= start < end else None


def _told(record: Mapping[str, Any]) -> str:
    return ",".join(str(record.get(name)) for name in TIME_COLUMNS)


def _with_times(rows: VideoRows, sources: list[str], times: list[Any]) -> VideoRows:
    columns = {
        name: pa.array([span[index] for span in times], pa.float64()) for index, name in enumerate(TIME_COLUMNS)
    }
    return dataclasses.replace(rows, paths=sources, columns=columns)


__all__ = ["TIME_COLUMNS", "load_segments"]
