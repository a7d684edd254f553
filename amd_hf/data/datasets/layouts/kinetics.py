"""Kinetics as its csv files name it: `label,youtube_id,time_start,time_end,split`, files `<id>_<start>_<end>.mp4`.

A folder as the CVDF copy unpacks it:

    k400/annotations/{train,val,test}.csv
    k400/{train,val,test}/0AbJzTPyUHk_000008_000018.mp4      (or in class folders below, with spaces or `_`)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..listing import list_folder
from ..problems import Kind, Problems
from ..rows import Entry, VideoRows, find_root, make_rows
from ..text_files import csv_header, csv_records


COLUMNS = {"youtube_id", "time_start", "time_end"}

_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "validate", "valid"),
    "test": ("test", "testing"),
}
BAD_TIME = Kind("has no start and end in seconds", "have no start and end in seconds", "Correct them.")


def read_kinetics(
    path: Path,
    problems: Problems,
    split: str | None = None,
    root: Path | None = None,
    label_names: list[str] | None = None,
) -> VideoRows:
    """Read the videos that a Kinetics csv names.

    Args:
        path (`Path`): the csv, or the folder of `annotations/` and the videos.
        problems (`Problems`): where bad lines go.
        split (`str`, *optional*): `train`, `validation` or `test`: the csv of a folder (required there), or the lines
            of one csv whose column `split` says so.
        root (`Path`, *optional*): folder of the videos, flat, in class folders, or in folders named after the splits
            with either of them inside. By default the csv's folder, or `path`.
        label_names (list of `str`, *optional*): by default the sorted names of all labels in the csv
            files of the folder, so that each split numbers them alike.

    Returns:
        `VideoRows`; a video that is not there has the path where it would lie flat, and fails when it is read.

    Raises:
        FileNotFoundError: the csv, the root or all of the first videos are missing.
        ValueError: an unknown split.
    """
    named = read_kinetics_csv(path, problems, split, root, label_names)
    files = find_by_stem(named.searched)
    entries = []
    for number, record in named.records:
        if (stem := clip_stem(record)) is None:
            problems.add(named.file, number, BAD_TIME, f"{record['time_start']},{record['time_end']}")
            continue
        video = files.get(stem, os.path.join(named.searched, f"{stem}.mp4"))
        entries.append(Entry(number, video, record.get("label", "").strip() or None))
    return make_rows(entries, named.file, Path(named.folder), named.label_names, problems)


class KineticsCsv(NamedTuple):
    """What a csv of Kinetics says of a split.

    Args:
        file (`Path`): the csv.
        folder (`str`): the data set's folder, to which ids are relative.
        searched (`str`): the folder in it where the videos of the split lie.
        records (list): line number and fields of each clip.
        label_names (list of `str`, *optional*): names of the labels of all splits.
    """

    file: Path
    folder: str
    searched: str
    records: list[tuple[int, dict[str, str]]]
    label_names: list[str] | None


def read_kinetics_csv(
    path: Path, problems: Problems, split: str | None, root: Path | None, label_names: list[str] | None
) -> KineticsCsv:
    """Read the lines of a split; the arguments are those of `read_kinetics`."""
    words = _words_of(split)
    file, csv_files = _find_csv(path, words)
    folder = find_root(root if root is not None or path.is_file() else path, file)
    records = [
        (number, record)
        for number, record in csv_records(file, COLUMNS, problems)
        if words is None or path.is_dir() or record.get("split", "").strip().lower() in words
    ]
    if not records and not problems.found:
        raise ValueError(f"No line of {file} belongs to the split {split!r} by its column `split`.")
    if label_names is None and len(csv_files) > 1:
        label_names = _names_in(csv_files)
    if words is None:  # a csv whose lines are all of one split
        given = {record.get("split", "").strip().lower() for _, record in records}
        known = {word for group in _SPLIT_WORDS.values() for word in group}
        words = _words_of(given.pop()) if len(given) == 1 and given <= known else ()
    candidates = [os.path.join(folder, word) for word in words or ()]
    searched = next((candidate for candidate in candidates if os.path.isdir(candidate)), folder)
    return KineticsCsv(file, folder, searched, records, label_names)


def find_by_stem(folder: str) -> dict[str, str]:
    """Return the videos below a folder by their names without suffix; of two of one name the one less deep."""
    files: dict[str, str] = {}
    for parts in sorted(list_folder(folder).files, key=len):
        files.setdefault(os.path.splitext(parts[-1])[0], os.path.join(folder, *parts))
    return files


def clip_stem(record: Mapping[str, str]) -> str | None:
    """Return the name of a clip's file without suffix; None if the record has no times."""
    try:
        start, end = (int(float(record[name])) for name in ("time_start", "time_end"))
    except (ValueError, OverflowError):  # no number, or an infinite one
        return None
    return f"{record['youtube_id'].strip()}_{start:06d}_{end:06d}"


def has_kinetics_annotations(folder: Path) -> bool:
    """Return whether `folder/annotations/` holds a Kinetics csv."""
    return any(COLUMNS <= set(csv_header(file)) for file in sorted((folder / "annotations").glob("*.csv")))


def _words_of(split: str | None) -> tuple[str, ...] | None:
    if split is None:
        return None
    for words in _SPLIT_WORDS.values():
        if split.lower() in words:
            return words
    raise ValueError(f"Kinetics has the splits {list(_SPLIT_WORDS)}, not {split!r}.")


def _find_csv(path: Path, words: tuple[str, ...] | None) -> tuple[Path, list[Path]]:
    """Return the csv to read, and all that number their labels together with it."""
    if path.is_file():
        return path, [path]
    csv_files = [file for file in sorted((path / "annotations").glob("*.csv")) if COLUMNS <= set(csv_header(file))]
    if not csv_files:
        raise FileNotFoundError(f"There is no Kinetics csv in {path / 'annotations'}: name the csv itself.")
    if words is None:
        raise ValueError(f"{path} holds several splits: choose one with `split`, of {list(_SPLIT_WORDS)}.")
    chosen = [file for file in csv_files if file.stem.lower().rsplit("_", 1)[-1] in words]
    if len(chosen) != 1:
        raise FileNotFoundError(
            f"{len(chosen)} csv files of {path / 'annotations'} are named after the split {words[0]!r}, of "
            f"{[file.name for file in csv_files]}. Name the csv itself and set `root`."
        )
    return chosen[0], csv_files


def _names_in(csv_files: Sequence[Path]) -> list[str] | None:
    names: set[str] = set()
    for file in csv_files:
        if "label" in csv_header(file):
            names |= {record["label"].strip() for _, record in csv_records(file, {"label"}, Problems())}
    return sorted(names - {""}) or None
