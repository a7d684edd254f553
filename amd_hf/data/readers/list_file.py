"""List files: one video per line, fields separated by spaces or tabs.

archery/clip one.mp4 0          `path label`; or `path` alone where no video has a label
frames/78687 42 13              `frame_dir total_frames label`; or without the label, for folders of image files
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .entries import Entry, find_root, make_rows
from .label_names import read_label_names
from .problems import Kind, Problems
from .rows import VIDEO_SUFFIXES, VideoRows, is_video_file


FRAME_PATTERN = "img_%05d.jpg"

_BAD_VIDEO_LINE = Kind(
    "cannot be read",
    "cannot be read",
    "Expected a path and an integer label from 0, separated by a space, or only the path of a video "
    f"({', '.join(VIDEO_SUFFIXES)}).",
)
_BAD_FRAME_LINE = Kind(
    "cannot be read",
    "cannot be read",
    "Expected a folder of frames, the number of frames in it and an integer label from 0, separated by spaces.",
)


def read_list_file(
    list_file: Path,
    root: Path | None = None,
    label_names: str | Path | Sequence[str] | None = None,
    problems: Problems | None = None,
) -> VideoRows:
    """Read the videos named by a list file, in its order.

    Args:
        list_file (`Path`): UTF-8 text. The label is an integer from 0 and comes last, so a path may hold spaces.
        root (`Path`, *optional*): folder that relative paths start from; by default the list file's own.
        label_names (`str`, `Path` or sequence of `str`, *optional*): name of each label, in their order, or a file
            with one name per line.
        problems (`Problems`, *optional*): where bad lines are collected; without it they are raised.

    Returns:
        `VideoRows`. A `video_id` is the path relative to the root, with forward slashes (absolute outside of it).

    Raises:
        FileNotFoundError: the list file, the root, the file of names or all of the first videos are missing.
        ValueError: an empty list, lines without a label beside lines with one, a label that is not an integer from 0
            or has no name, a video named twice.
    """
    return _read(list_file, root, label_names, problems, None)


def read_frame_list(
    list_file: Path,
    root: Path | None = None,
    label_names: str | Path | Sequence[str] | None = None,
    frame_pattern: str | None = None,
    problems: Problems | None = None,
) -> VideoRows:
    """Read the folders of image files named by a list file, in its order; see `read_list_file`.

    Args:
        frame_pattern (`str`, defaults to `img_%05d.jpg`): file name of a frame by its number, which counts from 1.

    Raises:
        ValueError: also for a `frame_pattern` without a number.
    """
    pattern = FRAME_PATTERN if frame_pattern is None else frame_pattern
    try:
        is_pattern = pattern % 1 != pattern % 2
    except (TypeError, ValueError):
        is_pattern = False
    if not is_pattern:
        raise ValueError(f"`frame_pattern` must hold a number, as {FRAME_PATTERN} does with `%05d`: got {pattern!r}.")
    return _read(list_file, root, label_names, problems, pattern)


def _read(
    list_file: Path,
    root: Path | None,
    label_names: str | Path | Sequence[str] | None,
    problems: Problems | None,
    frame_pattern: str | None,
) -> VideoRows:
    if not list_file.is_file():
        raise FileNotFoundError(f"There is no list file {str(list_file)!r}.")
    absolute_root = find_root(root, list_file)
    found = Problems() if problems is None else problems
    entries = _parse(list_file, frame_pattern, found)
    names = read_label_names(label_names)
    rows = make_rows(entries, list_file, absolute_root, names, found, frame_pattern)
    if problems is None:
        found.raise_if_any()
    return rows


def _parse(list_file: Path, frame_pattern: str | None, problems: Problems) -> list[Entry]:
    # utf-8-sig: spreadsheets put a mark in front of the first path.
    with open(list_file, encoding="utf-8-sig") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
    if not lines:
        form = "path label" if frame_pattern is None else "frame_dir total_frames label"
        raise ValueError(f"The list file {list_file} is empty. Write one `{form}` per line.")
    problems.start(list_file, len(lines))
    parse, bad = (_video_entry, _BAD_VIDEO_LINE) if frame_pattern is None else (_frame_entry, _BAD_FRAME_LINE)
    entries = [(number, line, parse(number, line)) for number, line in lines]
    for number, line, entry in entries:
        if entry is None:
            problems.add(list_file, number, bad, line)
    return [entry for _, _, entry in entries if entry is not None]


def _video_entry(number: int, line: str) -> Entry | None:
    path, _, last = line.replace("\t", " ").rpartition(" ")
    if path and _is_number(last):
        return Entry(number, path.strip(), int(last))
    return Entry(number, line, None) if is_video_file(os.path.basename(line)) else None


def _frame_entry(number: int, line: str) -> Entry | None:
    fields = line.replace("\t", " ").rsplit(maxsplit=2)
    if len(fields) == 3 and _is_number(fields[1]) and _is_number(fields[2]):
        return Entry(number, fields[0], int(fields[2]), int(fields[1]))
    path, _, last = line.replace("\t", " ").rpartition(" ")
    return Entry(number, path.strip(), None, int(last)) if path and _is_number(last) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
