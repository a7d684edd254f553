"""Which layout a path has, told by the names of its files and, for csv, by the first line."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from .layouts.hmdb51 import find_lists
from .layouts.kinetics import COLUMNS, has_kinetics_annotations
from .layouts.something_something import is_something_something
from .layouts.ucf101 import LIST_FOLDER
from .layouts.videofolder import check_metadata, find_metadata, is_metadata, unusable_metadata
from .listing import METADATA_NAMES, folder_names, video_names
from .rows import MEDIA_SUFFIXES, is_video_file
from .text_files import csv_header


def guess_layout(path: Path, split: str | None = None, unlabelled: bool = False) -> str:
    """The name of the layout of what lies at `path`.

    Args:
        unlabelled (`bool`, defaults to `False`): no labels are wanted, so metadata that cannot be used is no fault.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: both archives and videos lie there, or metadata that cannot be used.
    """
    if path.is_dir():
        layout = _guess_folder(path, split)
        if layout in ("videofolder", "class_folders") and not unlabelled:
            check_metadata(path, split)
        return layout
    if path.is_file():
        return _guess_file(path)
    if path.name.endswith(".tar"):  # a glob, or a missing shard
        return "webdataset"
    raise FileNotFoundError(
        f"There is no file or folder {str(path)!r}. Give a folder of class folders, a folder of videos, a list "
        "file with one `path label` per line, or another layout of docs/data.md; for a data set of the Hub say "
        "layout='hub'."
    )


def _guess_folder(folder: Path, split: str | None) -> str:
    if folder.name == LIST_FOLDER or (folder / LIST_FOLDER).is_dir():
        return "ucf101"
    if is_something_something(folder):
        return "something_something"
    if has_kinetics_annotations(folder):
        return "kinetics"
    if find_metadata(folder, split):
        return "videofolder"
    places = [folder, *(folder / name for name in (split, "data") if name and (folder / name).is_dir())]
    for suffix, layout in ((".tar", "webdataset"), (".parquet", "parquet")):
        archive = next((file for place in places for file in place.glob(f"*{suffix}")), None)
        if archive is not None:
            _check_no_videos(folder, places, archive, layout)
            return layout
    return "hmdb51" if find_lists(folder) is not None else "class_folders"


def _check_no_videos(folder: Path, places: list[Path], archive: Path, layout: str) -> None:
    """A folder may hold the archive that its videos came in."""
    for place in places:
        if any(video_names(directory) for directory in (place, *(place / name for name in folder_names(place)))):
            if archive.name in METADATA_NAMES:
                raise unusable_metadata(archive)
            raise ValueError(
                f"{folder} holds {archive.name} and videos: it is unclear which to read. Say layout={layout!r} or "
                "layout='class_folders'."
            )


def _guess_file(path: Path) -> str:
    if is_metadata(path):
        return "videofolder"
    suffix = path.suffix.lower()
    by_suffix = {".tar": "webdataset", ".parquet": "parquet", ".jsonl": "table", ".json": "something_something"}
    if suffix in by_suffix:
        return by_suffix[suffix]
    if any(is_video_file(path.name, media) for media in MEDIA_SUFFIXES):
        raise ValueError(
            f"{path} is one video or image by itself: give the folder that it lies in, or a list file with one "
            "`path label` per line."
        )
    if suffix == ".csv":
        header = set(csv_header(path))
        if header >= COLUMNS:
            return "kinetics"
        if "path" in header:
            return "table"
    if suffix in (".csv", ".tsv"):
        if path.name in METADATA_NAMES:
            raise unusable_metadata(path)
        # The reader of tables says what is missing, and which separator is none.
        if {"path", "label"} & set(re.split("[,;\t|]", ",".join(csv_header(path)).lower())):
            return "table"
    return "frame_list" if _lists_folders_of_frames(path) else "list_file"


def _lists_folders_of_frames(path: Path) -> bool:
    """Whether the first lines end in two numbers: no video file is named like that."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.split() for line in islice((line for line in file if line.strip()), 10)]
    return bool(lines) and all(
        len(fields) >= 3 and fields[-1].isdecimal() and fields[-2].isdecimal() and "." not in fields[-3]
        for fields in lines
    )
