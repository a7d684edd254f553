"""List files: one `path label` per line, separated by spaces or tabs, or one `path` per line where none has a label.

archery/clip one.mp4 0
bowling/b.mp4 1
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .rows import VIDEO_SUFFIXES, VideoRows, is_video_file


MAX_LINES_NAMED = 20
_NUM_PATHS_TRIED = 10


class _Line(NamedTuple):
    number: int
    path: str
    label: int | None


def read_list_file(
    list_file: Path, root: Path | None = None, label_names: str | Path | Sequence[str] | None = None
) -> VideoRows:
    """Read the videos named by a list file, in its order.

    Args:
        list_file (`Path`): UTF-8 text. The label is an integer from 0 and comes last, so a path may hold spaces.
        root (`Path`, *optional*): folder that relative paths start from; by default the list file's own.
        label_names (`str`, `Path` or sequence of `str`, *optional*): name of each label, in their order, or a file
            with one name per line.

    Returns:
        `VideoRows`. A `video_id` is the path relative to the root, with forward slashes (absolute outside of it).

    Raises:
        FileNotFoundError: the list file, the root, the file of names or all of the first videos are missing.
        ValueError: an empty list, lines without a label beside lines with one, a label that is not an integer from 0
            or has no name, a video named twice.
    """
    if not list_file.is_file():
        raise FileNotFoundError(f"There is no list file {str(list_file)!r}.")
    root = list_file.parent if root is None else root
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}, given as `root` of the list {list_file}.")
    lines = _parse(list_file)
    has_labels = _check_labels(lines, list_file)
    names = _read_label_names(label_names)
    if names is not None:
        _check_names(lines, list_file, len(names))
    absolute_root = os.path.abspath(root)
    paths = [os.path.normpath(os.path.join(absolute_root, line.path)) for line in lines]
    _check_some_exist(paths, list_file, absolute_root)
    video_ids = [_video_id(path, absolute_root) for path in paths]
    _check_unique(video_ids, lines, list_file)
    labels = [line.label for line in lines if line.label is not None] if has_labels else None
    return VideoRows(paths, video_ids, labels, names)


def _parse(list_file: Path) -> list[_Line]:
    # utf-8-sig: spreadsheets put a mark in front of the first path.
    with open(list_file, encoding="utf-8-sig") as file:
        numbered = [(number, line.strip()) for number, line in enumerate(file, start=1)]
    if not any(line for _, line in numbered):
        raise ValueError(f"The list file {list_file} is empty. Write one `path label` per line.")
    lines = [(number, line, _parse_line(number, line)) for number, line in numbered if line]
    bad = [(number, line) for number, line, parsed in lines if parsed is None]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(lines)} lines of {list_file} cannot be read: {_number_list([n for n, _ in bad])}; "
            f"the first is {bad[0][1]!r}. Expected a path and an integer label from 0, separated by a space, or only "
            f"the path of a video ({', '.join(VIDEO_SUFFIXES)})."
        )
    return [parsed for _, _, parsed in lines if parsed is not None]


def _parse_line(number: int, line: str) -> _Line | None:
    path, _, last = line.replace("\t", " ").rpartition(" ")
    if path and last.isdecimal():
        return _Line(number, path.strip(), int(last))
    return _Line(number, line, None) if is_video_file(os.path.basename(line)) else None


def _check_labels(lines: list[_Line], list_file: Path) -> bool:
    """Tell whether the lines have labels; some with and some without are an error."""
    without = [line.number for line in lines if line.label is None]
    if without and len(without) < len(lines):
        raise ValueError(
            f"{len(without)} of {len(lines)} lines of {list_file} have no label: {_number_list(without)}. Add "
            "` label` at their end, or take the labels off all lines for pre-training."
        )
    return not without


def _check_names(lines: list[_Line], list_file: Path, num_names: int) -> None:
    nameless = [line.number for line in lines if line.label is not None and line.label >= num_names]
    if nameless:
        raise ValueError(
            f"{len(nameless)} lines of {list_file} have a label above {num_names - 1}, the last one with a name: "
            f"{_number_list(nameless)}. Correct the labels or complete `label_names`."
        )


def _check_some_exist(paths: list[str], list_file: Path, root: str) -> None:
    # A wrong root makes every video unreadable; single missing files are the data loader's to count.
    tried = paths[:_NUM_PATHS_TRIED]
    if not any(os.path.exists(path) for path in tried):
        raise FileNotFoundError(
            f"None of the first {len(tried)} videos of {list_file} exists; the first is {tried[0]!r}. Relative paths "
            f"start from {root!r}: set `root` to the folder they are relative to."
        )


def _check_unique(video_ids: list[str], lines: list[_Line], list_file: Path) -> None:
    first_line: dict[str, int] = {}
    for video_id, line in zip(video_ids, lines, strict=True):
        if video_id in first_line:
            raise ValueError(
                f"Lines {first_line[video_id]} and {line.number} of {list_file} name the same video, {video_id!r}. "
                "Remove one: a video counts once."
            )
        first_line[video_id] = line.number


def _video_id(path: str, root: str) -> str:
    inside = os.path.commonpath([path, root]) == root
    return Path(os.path.relpath(path, root) if inside else path).as_posix()


def _read_label_names(label_names: str | Path | Sequence[str] | None) -> list[str] | None:
    if label_names is None:
        return None
    if not isinstance(label_names, str | Path):
        return list(label_names)
    if not Path(label_names).is_file():
        raise FileNotFoundError(f"There is no file of label names {str(label_names)!r}.")
    names = [line.strip() for line in Path(label_names).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"The file of label names {label_names} names {len(names) - len(set(names))} label(s) twice.")
    return names


def _number_list(numbers: list[int]) -> str:
    more = f" and {len(numbers) - MAX_LINES_NAMED} more" if len(numbers) > MAX_LINES_NAMED else ""
    return "line " + ", ".join(map(str, numbers[:MAX_LINES_NAMED])) + more
