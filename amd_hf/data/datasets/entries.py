"""From the entries of an annotation file to rows: labels, duplicates and missing files are checked here for all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .label_names import near_name
from .problems import DUPLICATE, MISSING, NO_LABEL, Kind, Problems
from .rows import VideoRows


_NUM_PATHS_TRIED = 10

MIXED_LABELS = Kind(
    "has a label of another kind than most lines (names and numbers are mixed)",
    "have a label of another kind than most lines (names and numbers are mixed)",
    "Write all labels as names or all as numbers; where numbers are names, give all names as `label_names`.",
)
NO_FRAMES = Kind("has no frames", "have no frames", "Give the number of image files in the folder, at least 1.")


class Entry(NamedTuple):
    """One video of an annotation file.

    `label` is a number from 0, a name, or None. `num_frames` is set where `path` is a folder of frames.
    """

    number: int
    path: str
    label: int | str | None
    num_frames: int | None = None


def find_root(root: Path | None, annotation_file: Path) -> str:
    """The absolute folder that relative paths start from: by default that of the annotation file."""
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}, given as `root` of the list {annotation_file}.")
    return os.path.abspath(annotation_file.parent if root is None else root)


def make_rows(
    entries: Sequence[Entry],
    file: Path,
    root: str,
    label_names: Sequence[str] | None,
    problems: Problems,
    frame_pattern: str | None = None,
    named_in_file: bool = False,
) -> VideoRows:
    """Check entries and turn them into rows; what is wrong goes to `problems`.

    Args:
        entries (sequence of `Entry`): paths are relative to `root` or absolute.
        file (`Path`): the annotation file, for messages.
        root (`str`): absolute folder. A `video_id` is a path relative to it, with forward slashes.
        label_names (sequence of `str`, *optional*): name of each label, in their order. Without them labels that are
            words are numbered in sorted order, and numbers have no names.
        problems (`Problems`): what was found so far.
        frame_pattern (`str`, *optional*): see `VideoRows`.
        named_in_file (`bool`, defaults to `False`): labels are names even where they are numbers.

    Raises:
        FileNotFoundError: none of the first videos exists (with `problems.check_files` each missing one is listed).
    """
    paths = [os.path.normpath(os.path.join(root, entry.path)) for entry in entries]
    video_ids = [_video_id(path, root) for path in paths]
    _check_unique(video_ids, entries, file, problems)
    _check_frames(entries, file, problems)
    labels, names = _label_numbers(entries, file, label_names, problems, named_in_file)
    if problems.check_files or not problems.found:  # a bad line may be why nothing is found, and says more
        _check_files(paths, entries, file, root, problems)
    num_frames = None if frame_pattern is None else [entry.num_frames or 0 for entry in entries]
    return VideoRows(paths, video_ids, labels, names, num_frames, frame_pattern)


def _check_files(paths: list[str], entries: Sequence[Entry], file: Path, root: str, problems: Problems) -> None:
    if problems.check_files:
        for path, entry in zip(paths, entries, strict=True):
            if not os.path.exists(path):
                problems.add(file, entry.number, MISSING, path)
        return
    # A wrong root makes every video unreadable; single missing files are the data loader's to count.
    tried = paths[:_NUM_PATHS_TRIED]
    if tried and not any(os.path.exists(path) for path in tried):
        raise FileNotFoundError(
            f"None of the first {len(tried)} videos of {file} exists; the first is {tried[0]!r}. Relative paths "
            f"start from {root!r}: set `root` to the folder they are relative to."
        )


def _check_unique(video_ids: list[str], entries: Sequence[Entry], file: Path, problems: Problems) -> None:
    first: dict[str, int] = {}
    for video_id, entry in zip(video_ids, entries, strict=True):
        if first.setdefault(video_id, entry.number) != entry.number:
            problems.add(file, entry.number, DUPLICATE, f"{video_id} (first: {first[video_id]})")


def _check_frames(entries: Sequence[Entry], file: Path, problems: Problems) -> None:
    for entry in entries:
        if entry.num_frames is not None and entry.num_frames < 1:
            problems.add(file, entry.number, NO_FRAMES, f"{entry.path} {entry.num_frames}")


def _label_numbers(
    entries: Sequence[Entry], file: Path, names: Sequence[str] | None, problems: Problems, named_in_file: bool
) -> tuple[list[int] | None, Sequence[str] | None]:
    """The label of each entry as a number, and the names of the labels. No labels where no entry has one."""
    labelled = [entry for entry in entries if entry.label is not None]
    if not labelled:
        return None, names
    for entry in entries:
        if entry.label is None:
            problems.add(file, entry.number, NO_LABEL, entry.path)
    has_names = any(isinstance(entry.label, str) for entry in labelled)
    if has_names and names is None and not named_in_file:
        _check_one_kind(labelled, file, problems)
    if named_in_file or has_names:
        names = sorted({str(entry.label) for entry in labelled}) if names is None else names
        number_of = {name: number for number, name in enumerate(names)}
        for entry in labelled:
            if str(entry.label) not in number_of:
                problems.add(
                    file, entry.number, _unknown_name(names), f"{entry.label}{near_name(str(entry.label), names)}"
                )
        return [number_of.get(str(entry.label), -1) for entry in labelled], names
    for entry in labelled if names is not None else []:
        assert names is not None
        if int(entry.label or 0) >= len(names):
            problems.add(file, entry.number, _out_of_range(len(names)), entry.label)
    return [int(entry.label or 0) for entry in labelled], names


def _check_one_kind(labelled: Sequence[Entry], file: Path, problems: Problems) -> None:
    """Names beside numbers: the rarer kind is at fault."""
    numbers = [entry for entry in labelled if not isinstance(entry.label, str)]
    names = [entry for entry in labelled if isinstance(entry.label, str)]
    for entry in min(numbers, names, key=len):
        problems.add(file, entry.number, MIXED_LABELS, entry.label)


def _unknown_name(names: Sequence[str]) -> Kind:
    return Kind(
        "has a label that is none of the label names",
        "have a label that is none of the label names",
        f"Correct the labels, or complete the {len(names)} label names.",
    )


def _out_of_range(num_names: int) -> Kind:
    text = f"a label above {num_names - 1}, the last one with a name"
    return Kind(f"has {text}", f"have {text}", "Correct the labels or complete `label_names`.")


def _video_id(path: str, root: str) -> str:
    inside = path.startswith(root.rstrip(os.sep) + os.sep)
    return (path[len(root.rstrip(os.sep)) + 1 :] if inside else path).replace(os.sep, "/")
