"""Whether a data set has splits at all: a recipe that names some must not fail on one that is a split by itself."""

from __future__ import annotations

import csv
from pathlib import Path

from .layouts.class_folders import SPLIT_NAMES
from .listing import folder_names


# One file or pattern of these is one split by itself; a folder of them may hold several.
_SPLIT_BY_FILE = ("something_something", "webdataset", "parquet")


def has_splits(path: Path, layout: str) -> bool:
    """Whether a name of a split means anything for what lies at `path` in a layout that takes such names.

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
        # `Train` and `k400_val` are splits of another name, about which the reader says more, and no classes.
        return any(name.lower().rsplit("_", 1)[-1] in SPLIT_NAMES for name in folder_names(path))
    if layout == "webdataset":
        return any(entry.name.startswith(SPLIT_NAMES) for entry in path.iterdir())
    return True


__all__ = ["has_splits"]
