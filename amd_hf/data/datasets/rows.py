"""Rows from the entries of any layout, and a dataset from rows.

    layout -> entries (path, label) -> `make_rows` -> `VideoRows` -> `to_dataset` -> `datasets.Dataset`

Labels, duplicates and missing files are checked here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..remote.files import (
    RemoteError,
    current_access,
    folder_of,
    is_remote,
    join_address,
    read_identity,
    shown,
)
from ..video.source import IMAGE_SUFFIXES
from .label_names import near_name
from .problems import DUPLICATE, MISSING, NO_LABEL, Kind, Problems


VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".ts", ".mts", ".m2ts", ".m2t", ".gif", ".ogv", ".ogm", ".asf", ".3g2", ".3gpp", ".mxf", ".vob", ".f4v", ".qt",
    ".divx", ".xvid", ".mpe", ".mpv", ".m1v", ".m2v", ".mp2v", ".m2p", ".mk3d", ".dv", ".mjpg", ".mjpeg", ".rm",
    ".rmvb", ".tod", ".trp", ".wtv", ".nut", ".y4m", ".ivf", ".h264", ".264", ".avc", ".h265", ".265", ".hevc",
)  # fmt: skip

MEDIA_SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
"""The files of each kind of data set, by `media`."""

FRAME_FOLDER_FEATURES = {
    "frame_folder": datasets.Value("string"),
    "num_frames": datasets.Value("int64"),
    "frame_pattern": datasets.Value("string"),
}
"""A video as a folder of image files, numbered from 1: `VideoSource.parse` names the files."""


def is_video_file(name: str, media: str = "video") -> bool:
    """Return whether a file is a video, or an image, by its name. Hidden ones (`._clip.mp4`, of macOS) are neither."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES[media]


# ---------------------------------------------------------------------------------------------------------------------
# Entries to rows
# ---------------------------------------------------------------------------------------------------------------------


_NUM_PATHS_TRIED = 10
_NUM_CONNECTIONS = 16  # that look for files at addresses

MIXED_LABELS = Kind(
    "has a label of another kind than most lines (names and numbers are mixed)",
    "have a label of another kind than most lines (names and numbers are mixed)",
    "Write all labels as names or all as numbers; where numbers are names, give all names as `label_names`.",
)


NOT_ALLOWED = Kind(
    "names an address that you have not allowed",
    "name addresses that you have not allowed",
    "A list may be a stranger's, so say below which addresses videos are fetched: `--allowed_addresses "
    "https://HOST/FOLDER` (Python: `remote=RemoteAccess(allowed=(...,))`).",
)


class Entry(NamedTuple):
    """One video of an annotation file.

    `label` is a number from 0, a name, or None. `num_frames` is set where `path` is a folder of frames.
    """

    number: int
    path: str
    label: int | str | None
    num_frames: int | None = None


def make_rows(
    entries: Sequence[Entry],
    file: Path,
    root: Path | str | None,
    label_names: Sequence[str] | None,
    problems: Problems,
    frame_pattern: str | None = None,
    are_files: bool = True,
) -> VideoRows:
    """Check entries and turn them into rows; what is wrong goes to `problems`, and who asked raises or lists it.

    Args:
        entries (sequence of `Entry`): paths are relative to the root or absolute.
        file (`Path`): the annotation file, for messages.
        root (`Path`, *optional*): folder of the videos, or its address, by default that of the annotation file. A
            `video_id` is a path relative to it, with forward slashes.
        label_names (sequence of `str`, *optional*): name of each label, in their order. Without them labels that are
            words are numbered in sorted order, and numbers have no names.
        problems (`Problems`): what was found so far.
        frame_pattern (`str`, *optional*): see `VideoRows`.
        are_files (`bool`, defaults to `True`): whether the paths should be there; names of clips of longer videos
            are not.

    Raises:
        FileNotFoundError: there is no such root, or none of the first videos exists (with `problems.check_files` each
            missing one is listed).
    """
    top = find_root(root, file)
    if is_remote(top):
        if frame_pattern is not None:
            raise ValueError(f"Frames in image files are not read at addresses ({shown(top)}): pack them into shards.")
        paths = [join_address(top, entry.path) for entry in entries]
        video_ids = [entry.path.removeprefix(f"{top}/").lstrip("/") for entry in entries]
    else:
        paths = [
            entry.path if "://" in entry.path and is_remote(entry.path)
            else os.path.normpath(os.path.join(top, entry.path))
            for entry in entries
        ]  # fmt: skip
        inside = top.rstrip(os.sep) + os.sep
        video_ids = [path.removeprefix(inside).replace(os.sep, "/") for path in paths]
    access = current_access()
    for path, entry in zip(paths, entries, strict=True):
        if "://" in path and is_remote(path) and not access.is_allowed(path):
            problems.add(file, entry.number, NOT_ALLOWED, folder_of(shown(path)))
    first: dict[str, int] = {}
    for video_id, entry in zip(video_ids, entries, strict=True):
        if first.setdefault(video_id, entry.number) != entry.number:
            problems.add(file, entry.number, DUPLICATE, f"{video_id} (first: {first[video_id]})")
    labels, names = _number_labels(entries, file, label_names, problems)
    if are_files and (
        problems.check_files or not problems.found
    ):  # a bad line may be why nothing is found, and says more
        _check_files(paths, entries, file, top, problems)
    num_frames = None if frame_pattern is None else [entry.num_frames or 0 for entry in entries]
    return VideoRows(paths, video_ids, labels, names, num_frames, frame_pattern)


def find_root(root: Path | str | None, annotation_file: Path) -> str:
    """Return the absolute folder, or address, that relative paths start from: by default the annotation file's."""
    if isinstance(root, str):
        if is_remote(root):
            return root.rstrip("/")
        root = Path(root)
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}, given as `root` of the list {annotation_file}.")
    return os.path.abspath(annotation_file.parent if root is None else root)


def _check_files(paths: list[str], entries: Sequence[Entry], file: Path, root: str, problems: Problems) -> None:
    if problems.check_files:
        with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
            faults = pool.map(_why_missing, paths)
            for path, entry, fault in zip(paths, entries, faults, strict=True):
                if fault is not None:
                    problems.add(file, entry.number, MISSING, path)
        return
    check_first_files(paths, len(paths), file, root)


def check_first_files(paths: Sequence[str] | pa.Array, num_paths: int, file: Path, root: str) -> None:
    """Check that any of the first videos is there: a wrong root makes every video unreadable.

    Single missing files are the data loader's to count.

    Raises:
        FileNotFoundError: none is.
    """
    first_fault = None
    first = [str(path) for path in paths[:_NUM_PATHS_TRIED]]
    for path in first:
        fault = _why_missing(path)
        if fault is None:
            return
        first_fault = fault if first_fault is None else first_fault
    if first_fault is not None:
        raise FileNotFoundError(
            f"None of the first {min(num_paths, _NUM_PATHS_TRIED)} videos of {file} exists; the first is {first[0]!r}"
            f"{first_fault}. Relative paths start from {root!r}: set `root` to the folder they are relative to."
        )


def _why_missing(path: str) -> str | None:
    """Return None for a file that is there; else why not, where that says more."""
    if "://" not in path or not is_remote(path):
        return None if os.path.exists(path) else ""
    try:
        read_identity(path, current_access())
    except RemoteError as error:
        return f" ({error.reason})"
    return None


def _number_labels(
    entries: Sequence[Entry], file: Path, names: Sequence[str] | None, problems: Problems
) -> tuple[list[int] | None, Sequence[str] | None]:
    """Return the label of each entry as a number, and the names of the labels. None where no entry has a label."""
    labelled = [entry for entry in entries if entry.label is not None]
    if not labelled:
        return None, names
    for entry in (entry for entry in entries if entry.label is None):
        problems.add(file, entry.number, NO_LABEL, entry.path)
    words = [entry for entry in labelled if isinstance(entry.label, str)]
    if not words:
        text = f"a label above {len(names or ()) - 1}, the last one with a name"
        nameless = Kind(f"has {text}", f"have {text}", "Correct the labels or complete `label_names`.")
        for entry in labelled:
            if names is not None and int(entry.label or 0) >= len(names):
                problems.add(file, entry.number, nameless, entry.label)
        return [int(entry.label or 0) for entry in labelled], names
    if names is None:
        names = sorted({str(entry.label) for entry in labelled})
        # Names beside numbers: the rarer kind is at fault.
        numbers = [entry for entry in labelled if not isinstance(entry.label, str)]
        for entry in min(numbers, words, key=len):
            problems.add(file, entry.number, MIXED_LABELS, entry.label)
    number_of = {name: number for number, name in enumerate(names)}
    unknown = Kind(
        "has a label that is none of the label names",
        "have a label that is none of the label names",
        f"Correct the labels, or complete the {len(names)} label names.",
    )
    for entry in (entry for entry in labelled if str(entry.label) not in number_of):
        problems.add(file, entry.number, unknown, f"{entry.label}{near_name(str(entry.label), names)}")
    return [number_of.get(str(entry.label), -1) for entry in labelled], names


# ---------------------------------------------------------------------------------------------------------------------
# Rows to a dataset
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VideoRows:
    """The rows of a data set as columns.

    Args:
        paths (sequence of `str` or Arrow array): absolute paths of the videos, or of their folders of frames.
        video_ids (sequence of `str` or Arrow array): unique names.
        labels (sequence of `int`, *optional*): None where no video has a label.
        label_names (sequence of `str`, *optional*): name of each label, in their order.
        num_frames (sequence of `int`, *optional*): image files of each folder; None where the paths are video files.
        frame_pattern (`str`, *optional*): file name of a frame, such as `img_%05d.jpg`.
        columns (mapping, *optional*): further columns by name, as Arrow arrays.
    """

    paths: Sequence[str] | pa.ChunkedArray
    video_ids: Sequence[str] | pa.ChunkedArray
    labels: Sequence[int] | np.ndarray | None = None
    label_names: Sequence[str] | None = None
    num_frames: Sequence[int] | None = None
    frame_pattern: str | None = None
    columns: Mapping[str, pa.Array] | None = None

    def to_dataset(self, fingerprint: str | None = None) -> datasets.Dataset:
        """Make a dataset of `video`, `label` (a `ClassLabel` where it has names), `video_id` and `columns`.

        `fingerprint` names its content; without one `datasets` makes a copy of all rows to hash them.
        """
        video_feature: Any = datasets.Video(decode=False)
        num_rows = len(self.paths)
        fields: dict[str, Any] = {"bytes": pa.nulls(num_rows, pa.binary()), "path": _texts(self.paths)}
        if self.num_frames is not None:
            video_feature = FRAME_FOLDER_FEATURES
            fields = {
                "frame_folder": fields["path"],
                "num_frames": pa.array(self.num_frames, pa.int64()),
                "frame_pattern": pa.array([self.frame_pattern] * num_rows, pa.string()),
            }
        labels = pa.nulls(num_rows, pa.int64()) if self.labels is None else pa.array(self.labels, pa.int64())
        features = row_features(video_feature, self.label_names)
        columns = self.columns or {}
        features |= datasets.Features.from_arrow_schema(pa.schema([(n, array.type) for n, array in columns.items()]))
        # Not `Dataset.from_dict`: that would look for each video on the disk.
        videos = pa.table(fields).to_struct_array()
        arrays = [videos, labels, _texts(self.video_ids), *columns.values()]
        table = pa.table(arrays, names=list(features))
        table = table.cast(features.arrow_schema)
        info = datasets.DatasetInfo(features=features)
        return datasets.Dataset(datasets.table.InMemoryTable(table), info=info, fingerprint=fingerprint)


def _texts(values: Sequence[str] | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.string())


def row_features(video_feature: Any, label_names: Sequence[str] | None) -> datasets.Features:
    """Return the features of rows of `video`, `label` and `video_id`."""
    label = datasets.Value("int64") if label_names is None else datasets.ClassLabel(names=list(label_names))
    return datasets.Features({"video": video_feature, "label": label, "video_id": datasets.Value("string")})
