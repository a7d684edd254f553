"""List files: one video per line, fields separated by spaces or tabs.

archery/clip one.mp4 0          `path label`; or `path` alone where no video has a label
frames/78687 42 13              `frame_dir total_frames label`; or without the label, for folders of image files
"""

from __future__ import annotations

import os
from pathlib import Path

from ..label_names import MAX_LABEL
from ..list_columns import list_columns
from ..problems import Kind, Problems
from ..rows import VIDEO_SUFFIXES, Entry, VideoRows, is_video_file, make_rows
from ..text_files import read_lines


FRAME_PATTERN = "img_%05d.jpg"

_MAX_COUNT = 2**63 - 1  # what a column of the table holds; whether a video may have so many frames says its reader

_BAD_VIDEO_LINE = Kind(
    "cannot be read",
    "cannot be read",
    f"Expected a path and an integer label from 0 (at most {MAX_LABEL}), separated by a space, or only the path of a "
    f"video ({', '.join(VIDEO_SUFFIXES)}).",
)
_BAD_FRAME_LINE = Kind(
    "cannot be read",
    "cannot be read",
    "Expected a folder of frames, the number of frames in it and an integer label from 0, separated by spaces.",
)
_NO_FRAMES = Kind("has no frames", "have no frames", "Give the number of image files in the folder, at least 1.")


def read_list_file(
    list_file: Path, problems: Problems, root: Path | None = None, label_names: list[str] | None = None
) -> VideoRows:
    """Read the videos named by a list file, in its order.

    Args:
        list_file (`Path`): UTF-8 text. The label is an integer from 0 and comes last, so a path may hold spaces.
        problems (`Problems`): where bad lines go.
        root (`Path`, *optional*): folder that relative paths start from; by default the list file's own.
        label_names (list of `str`, *optional*): name of each label, in their order.

    Returns:
        `VideoRows`. A `video_id` is the path relative to the root, with forward slashes (absolute outside of it).

    Raises:
        FileNotFoundError: the list file, the root or all of the first videos are missing.
        ValueError: an empty list.
    """
    if not problems.check_files and list_file.is_file():
        quick = list_columns(list_file, root, label_names, _video_entry, lambda text: _number(text, MAX_LABEL))
        if quick is not None:
            rows, num_lines = quick
            problems.start(list_file, num_lines)
            return rows
    return make_rows(_parse(list_file, None, problems), list_file, root, label_names, problems)


def read_frame_list(
    list_file: Path,
    problems: Problems,
    root: Path | None = None,
    label_names: list[str] | None = None,
    frame_pattern: str | None = None,
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
    return make_rows(_parse(list_file, pattern, problems), list_file, root, label_names, problems, pattern)


def _parse(list_file: Path, frame_pattern: str | None, problems: Problems) -> list[Entry]:
    if not list_file.is_file():
        raise FileNotFoundError(f"There is no list file {str(list_file)!r}.")
    lines = read_lines(list_file, problems)
    if not lines and not problems.found:
        form = "path label" if frame_pattern is None else "frame_dir total_frames label"
        raise ValueError(f"The list file {list_file} is empty. Write one `{form}` per line.")
    parse, bad = (_video_entry, _BAD_VIDEO_LINE) if frame_pattern is None else (_frame_entry, _BAD_FRAME_LINE)
    entries = []
    for number, line in lines:
        entry = parse(number, line)
        if entry is None:
            problems.add(list_file, number, bad, line)
            continue
        if entry.num_frames == 0:
            problems.add(list_file, number, _NO_FRAMES, f"{entry.path} 0")
        entries.append(entry)
    return entries


def _video_entry(number: int, line: str) -> Entry | None:
    path, _, last = line.replace("\t", " ").rpartition(" ")
    if path and last.isascii() and last.isdecimal():
        label = _number(last, MAX_LABEL)
        return None if label is None else Entry(number, path.strip(), label)
    return Entry(number, line, None) if is_video_file(os.path.basename(line)) else None


def _frame_entry(number: int, line: str) -> Entry | None:
    fields = line.replace("\t", " ").rsplit(maxsplit=2)
    if len(fields) == 3 and all(field.isascii() and field.isdecimal() for field in fields[1:]):
        num_frames, label = _number(fields[1], _MAX_COUNT), _number(fields[2], MAX_LABEL)
        return None if num_frames is None or label is None else Entry(number, fields[0], label, num_frames)
    path, _, last = line.replace("\t", " ").rpartition(" ")
    num_frames = _number(last, _MAX_COUNT)
    return Entry(number, path.strip(), None, num_frames) if path and num_frames is not None else None


def _number(text: str, largest: int) -> int | None:
    """Return the number that digits are, None for other text and above the largest; there may be endless digits."""
    digits = text.lstrip("0") or text[-1:]
    is_number = text.isascii() and text.isdecimal() and len(digits) <= len(str(largest))
    return int(digits) if is_number and int(digits) <= largest else None
