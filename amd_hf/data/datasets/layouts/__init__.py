"""The ways in which data sets lie on a disk, one module each: `load_video_dataset` looks them up in the table below.

To add a layout:

1. Write `layouts/NAME.py` with `read_NAME(path, problems, ...)`. It turns annotations into entries (a path and a label
   each), gives what is wrong with single lines to `problems`, and ends with `rows.make_rows`, which checks and numbers
   the labels. `table.py` is a short example. The readers of `text_files.py` for lines and csv introduce a file to
   `problems`; after `read_json_file` call `problems.start(file, number_of_entries, "entry")`, as
   `something_something.py` does. Further parameters are those of `load_video_dataset` that mean something for this
   layout (`split`, `root`, `label_names`, `media`, ...), by the same names: a user who gives another one gets an
   error. A parameter without a default is given as None if the user leaves it out. A layout without annotations takes
   no `problems`. One with `streaming` gets `path` as text, and returns a `datasets` object itself. A parameter that no
   layout has yet also needs a place in `load_video_dataset` and a field in `data/arguments.py`.
2. Import `read_NAME` below and add a line to `LAYOUTS`. If its annotations name files, which may be videos or images
   whatever `media` says, add it to `NAMES_ANY_FILE` too.
3. Teach `guess_layout` the files by which it is recognised. Until then users name it: `layout="NAME"`.
4. If it takes `split`, teach `has_splits` whether some data has any: if a single file is always one split, add the
   layout to `_SPLIT_BY_FILE`.
5. Show it in `docs/data.md`, whose examples a test runs: give it a miniature in `tests/helpers/miniatures.py` and a
   line in `_COPIES` of `tests/data/datasets/test_docs_page.py`, and the layout a case in `test_layouts.py` beside it.

A benchmark needs no more to be read. Recipes are in `configs/`, its number of views in `DATA_SETS` of
`view_settings.py`. Videos with boxes of persons are in `detection/datasets/`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ..listing import METADATA_NAMES, folder_names, video_names
from ..rows import MEDIA_SUFFIXES, is_video_file
from ..text_files import csv_header
from .class_folders import SPLIT_NAMES, read_class_folders
from .hmdb51 import find_lists, read_hmdb51
from .kinetics import COLUMNS, has_kinetics_annotations, read_kinetics
from .list_file import read_frame_list, read_list_file
from .parquet import read_hub, read_parquet
from .something_something import is_something_something, read_something_something
from .table import read_table
from .ucf101 import LIST_FOLDER, read_ucf101
from .videofolder import check_metadata, find_metadata, is_metadata, read_videofolder, unusable_metadata
from .webdataset import read_webdataset


LAYOUTS: Mapping[str, Callable[..., Any]] = {
    "class_folders": read_class_folders,  # <class>/.../x.mp4, below a split or not; or videos without labels
    "list_file": read_list_file,  # a text file of lines `path label`
    "frame_list": read_frame_list,  # a text file of lines `folder number_of_frames label`
    "table": read_table,  # csv or jsonl with the columns `path` and `label`
    "videofolder": read_videofolder,  # videos beside `metadata.csv` (.jsonl, .parquet), as `datasets` has it
    "kinetics": read_kinetics,  # csv files of YouTube ids and seconds, videos named by them
    "something_something": read_something_something,  # official JSON files and <id>.webm
    "ucf101": read_ucf101,  # `ucfTrainTestlist/` and class folders
    "hmdb51": read_hmdb51,  # `<class>_test_split1.txt` and class folders
    "webdataset": read_webdataset,  # tar shards
    "parquet": read_parquet,  # Parquet files with a column of videos
    "hub": read_hub,  # a data set of the Hub
}

NAMES_ANY_FILE = ("list_file", "table")
"""Layouts that name files, which may be videos or images whatever `media` says."""

# Layouts of which one file (or pattern of files) is one split by itself; a folder of them may hold several.
_SPLIT_BY_FILE = ("something_something", "webdataset", "parquet")


def has_splits(path: Path, layout: str) -> bool:
    """Return whether a name of a split means anything for what lies at `path` in a layout that takes such names.

    Class folders and tar shards have splits where a folder or a shard is named like one (`train`, `val`, ...), a csv
    of Kinetics where its column `split` names two or more.
    """
    if layout == "hub":
        return True
    if layout == "kinetics" and path.is_file():
        with path.open(newline="", encoding="utf-8-sig") as file:
            return len({record.get("split") for record in csv.DictReader(file)}) > 1
    if not path.is_dir():
        return layout not in _SPLIT_BY_FILE
    if layout in ("class_folders", "videofolder"):
        # `Train` and `k400_val` are splits of another name, about which the layout says more, and no classes.
        return any(name.lower().rsplit("_", 1)[-1] in SPLIT_NAMES for name in folder_names(path))
    if layout == "webdataset":
        return any(entry.name.startswith(SPLIT_NAMES) for entry in path.iterdir())
    return True


def guess_layout(path: Path, split: str | None = None, unlabelled: bool = False) -> str:
    """Return the name of the layout that the files at `path` are recognised by.

    Args:
        path (`Path`): A file, a folder, or a pattern of tar shards.
        split (`str`, *optional*): The split that is wanted: a folder of metadata may hold it as one of several.
        unlabelled (`bool`, defaults to `False`): No labels are wanted, so metadata that cannot be used is no fault.

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
    folders = [folder, *(folder / name for name in (split, "data") if name and (folder / name).is_dir())]
    for suffix, layout in ((".tar", "webdataset"), (".parquet", "parquet")):
        archive = next((file for candidate in folders for file in candidate.glob(f"*{suffix}")), None)
        if archive is not None:
            _check_no_videos(folder, folders, archive, layout)
            return layout
    return "hmdb51" if find_lists(folder) is not None else "class_folders"


def _check_no_videos(folder: Path, folders: list[Path], archive: Path, layout: str) -> None:
    """Refuse a folder that holds videos beside an archive, which may be the one that they came in."""
    for candidate in folders:
        if any(
            video_names(directory)
            for directory in (candidate, *(candidate / name for name in folder_names(candidate)))
        ):
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
    """Return whether the first lines end in two numbers: no video file is named like that."""
    # Ten lines are enough, of millions that there may be.
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.split() for line in islice((line for line in file if line.strip()), 10)]
    return bool(lines) and all(
        len(fields) >= 3 and fields[-1].isdecimal() and fields[-2].isdecimal() and "." not in fields[-3]
        for fields in lines
    )


__all__ = ["LAYOUTS", "NAMES_ANY_FILE", "guess_layout", "has_splits"]
