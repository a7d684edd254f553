"""A `videofolder` of `datasets` with metadata: `metadata.csv`, `.jsonl` or `.parquet` beside or above the videos.

videos/train/metadata.csv      `file_name,label,caption`, a line for each video; any further columns come along
videos/train/clips/0.mp4       named as `clips/0.mp4`
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..label_names import check_label_column
from ..listing import METADATA_NAMES, UNNAMED, folder_names, list_folder
from ..problems import Kind, Problems, shorten
from ..rows import Entry, VideoRows, make_rows
from ..text_files import csv_header, csv_records, json_records, separator_hint
from .class_folders import check_classes_of_splits, check_no_splits, find_split_folder, is_split_name, sibling_splits
from .table import make_entries, warn_of_other_labels


_SUFFIX = "_file_name"
_OWN_COLUMNS = ("video", "label", "video_id")

_OUTSIDE = Kind(
    "names a file outside of its folder",
    "name a file outside of their folder",
    "A `file_name` is a path below the folder of the metadata, as `datasets` wants it.",
)
_Records = list[tuple[int, dict[str, Any]]]


def find_metadata(folder: Path, split: str | None = None) -> list[Path]:
    """Return the metadata files: in the split's folder, else in the folder itself, else in those of its splits."""
    folders = [folder / split] if split is not None else []
    for candidate in (*folders, folder):
        if found := [candidate / name for name in METADATA_NAMES if is_metadata(candidate / name)]:
            return found
    if split is not None or not folder.is_dir():
        return []
    names = [name for name in folder_names(folder) if is_split_name(name)]
    return [folder / name / file for name in names for file in METADATA_NAMES if is_metadata(folder / name / file)]


def check_metadata(folder: Path, split: str | None = None) -> None:
    """Check that what is named as metadata can be used as such: labels that stand in it would be lost silently.

    Raises:
        ValueError: a file of this name lies where metadata is looked for, and has no column of file names.
    """
    folders = {file.parent for file in find_metadata(folder, split)}
    if not folders:
        splits = [name for name in folder_names(folder) if is_split_name(name)] if folder.is_dir() else []
        folders = {folder, *(folder / name for name in (splits if split is None else [split]))}
    for file in (candidate / name for candidate in sorted(folders) for name in METADATA_NAMES):
        if file.is_file() and not is_metadata(file):
            raise unusable_metadata(file)


def unusable_metadata(file: Path) -> ValueError:
    """Return the error about metadata without a column of file names."""
    columns = _columns_of(file)
    if columns is None:
        fault = "it is no Parquet file that can be read."
    elif not any(columns):
        fault = "its first line names no columns." if file.stat().st_size else "it is empty."
    else:
        wanted = ("filename", "filenames", "videofilename", "videofilenames")
        near = next((name for name in columns if _plain(name) in wanted), None)
        fault = f"its columns are {shorten(columns, 500)}.{separator_hint(columns)}"
        fault += f" Rename {near!r}." if near is not None else ""
        fault += " To read it as a table, give the file itself." if "path" in columns else ""
    commas = ", columns separated by commas" if file.suffix == ".csv" else ""
    return ValueError(
        f"The metadata {file} cannot be used: {fault} Expected is a column `file_name` (or one `..._file_name`) with "
        f"the paths of the videos{commas}. To do without it, say layout='class_folders' (`--layout class_folders`), "
        "or for videos without labels, `unlabelled=True` (`--unlabelled true`)."
    )


def is_metadata(file: Path) -> bool:
    """Return whether a file is metadata of a `videofolder`: by its name, and a column `[..._]file_name`."""
    if file.name not in METADATA_NAMES or not file.is_file():
        return False
    return any(_names_files(name) for name in _columns_of(file) or ())


def _columns_of(file: Path) -> list[str] | None:
    """Return the columns, by the first line or record; None of a Parquet file that cannot be read."""
    if file.suffix == ".csv":
        return csv_header(file)
    if file.suffix == ".parquet":
        try:
            return list(pq.read_schema(file).names)
        except (pa.ArrowException, OSError):
            return None
    first = next(iter(json_records(file, Problems())), (0, {})) if file.stat().st_size else (0, {})
    return list(first[1])


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def read_videofolder(
    path: Path,
    problems: Problems,
    split: str | None = None,
    label_names: list[str] | None = None,
    media: str = "video",
    label_column: str | None = None,
) -> VideoRows:
    """Read the videos that the metadata of a folder names, with all their columns.

    As in `datasets`, folders are no classes where there is metadata. Videos that it does not name are left out, which
    one logged line says.

    Args:
        path (`Path`): the folder, or its metadata file.
        split (`str`, *optional*): sub-folder to read: by its own metadata, else by the lines of the folder's own that
            name files in it.
        problems, label_names: see `read_list_file`. Without names, those of all splits are numbered in sorted order.
        media (`str`, defaults to `"video"`): which files are missed where the metadata does not name them.
        label_column (`str`, *optional*): by default `label`, where there is one.

    Returns:
        `VideoRows` in the order of the metadata, with its other columns. A `video_id` is a path relative to the
        folder, or what a column `video_id` says.

    Raises:
        FileNotFoundError: no such folder or split, or none of the first videos exists.
        ValueError: no column of file names, no `label_column`, or a choice of splits.
    """
    root = path if path.is_dir() else path.parent
    files = find_metadata(root, split) if path.is_dir() else [path]
    folder = find_split_folder(root, split)
    if not files:
        check_metadata(root, split)
        raise FileNotFoundError(f"There is no {' or '.join(METADATA_NAMES)} with a column `file_name` in {folder}.")
    if len(files) > 1:
        choice = "Choose one with `split`." if len({file.parent for file in files}) > 1 else "Keep one of them."
        raise ValueError(f"{root} holds several metadata files: {', '.join(map(str, files))}. {choice}")
    (file,) = files
    records = _read_records(file, problems)
    columns = list(dict.fromkeys(name for _, record in records for name in record))
    path_column = _path_column(columns, file)
    check_label_column(label_column, set(columns), file)
    if label_column is None:
        warn_of_other_labels(columns, file)
    label_name = label_column or "label"
    listing = list_folder(folder, media)
    if split is None:
        check_no_splits(root, listing, media)
    if file.parent != folder:  # the metadata of the whole folder: only what lies in the split
        records = [r for r in records if str(r[1].get(path_column)).replace("\\", "/").startswith(f"{split}/")]
        if not records and not problems.found:
            raise ValueError(f"No line of {file} names a file in the folder {split!r}.")
    if label_names is None:
        label_names = _names_of_all_splits(root, split, records, label_name)
    entries = make_entries(records, path_column, label_name, file, label_names, problems)
    entries = [entry for entry in entries if _is_inside(entry, file, problems)]
    rows = make_rows(entries, file, file.parent, label_names, problems)
    if problems.found:  # the caller raises or lists them
        return rows
    _report(listing, rows, file, label_name in columns)
    kept = {entry.number for entry in entries}
    used = [record for number, record in records if number in kept]
    return _with_columns(rows, used, (path_column, label_name, "video_id"), file, root)


def _read_records(file: Path, problems: Problems) -> _Records:
    if file.suffix == ".csv":
        lines = csv_records(file, set(), problems)
        return [(number, {name: value or None for name, value in record.items()}) for number, record in lines]
    if file.suffix == ".jsonl":
        return list(json_records(file, problems))
    try:
        table = pq.read_table(file)
        records = table.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} is no Parquet file that can be read: {error}") from error
    problems.start(file, len(records), "row")
    return list(enumerate(records, start=1))


def _names_files(column: str) -> bool:
    return column == "file_name" or column.endswith(_SUFFIX)


def _path_column(columns: Sequence[str], file: Path) -> str:
    candidates = [name for name in columns if _names_files(name)]
    preferred = [name for name in ("file_name", f"video{_SUFFIX}") if name in candidates]
    if not candidates:
        raise unusable_metadata(file)
    if not preferred and len(candidates) != 1:
        raise ValueError(
            f"{file} must name the videos in a column `file_name` or `video{_SUFFIX}`; its columns are "
            f"{list(columns)}."
        )
    return (preferred or candidates)[0]


def _is_inside(entry: Entry, file: Path, problems: Problems) -> bool:
    path = os.path.normpath(entry.path.replace("\\", "/"))
    if not os.path.isabs(path) and path.split("/")[0] != ".." and "://" not in entry.path:
        return True
    problems.add(file, entry.number, _OUTSIDE, entry.path)
    return False


def _names_of_all_splits(root: Path, split: str | None, records: _Records, label_column: str) -> list[str] | None:
    """Return the sorted names of the labels of all splits; None where labels are numbers or absent."""
    of_splits = {}
    for name in sibling_splits(root, split):
        for file in find_metadata(root, name):
            if file.parent == root / name:
                of_splits[name] = _label_texts(_read_records(file, Problems()), label_column)
    classes = {name: sorted(labels) for name, labels in of_splits.items() if labels}
    own = _label_texts(records, label_column)
    if not own or not classes:
        return None
    if split is not None:
        check_classes_of_splits(root, {**classes, split: sorted(own)})
    return sorted(own.union(*classes.values()))


def _label_texts(records: _Records, label_column: str) -> set[str]:
    texts = {record.get(label_column) for _, record in records if isinstance(record.get(label_column), str)}
    names = {text.strip() for text in texts if isinstance(text, str)} - {""}
    return set() if all(name.isdecimal() for name in names) else names


def _report(listing: Any, rows: VideoRows, file: Path, has_labels: bool) -> None:
    top = os.path.abspath(listing.folder)
    named = set(rows.paths)
    for parts in listing.files:
        if os.path.join(top, *parts) not in named:
            listing.account.add(UNNAMED, "/".join(parts))
    labels = "" if has_labels else ", without labels (`label_column` names another column)"
    listing.report(f"{len(rows.paths):,} videos of {file.name}{labels}")


def _with_columns(
    rows: VideoRows, records: Sequence[Mapping[str, Any]], read: Sequence[str], file: Path, root: Path
) -> VideoRows:
    columns = {}
    for name in dict.fromkeys(name for record in records for name in record):
        if name in read:
            continue
        values = [record.get(name) for record in records]
        if name.endswith(_SUFFIX):  # a second file beside the video, a column of its own in `datasets` too
            name = name.removesuffix(_SUFFIX)
            paths = [None if value is None else os.path.join(file.parent, str(value)) for value in values]
            values = [None if path is None else {"bytes": None, "path": os.path.abspath(path)} for path in paths]
        if name in _OWN_COLUMNS or name in columns:
            raise ValueError(f"{file} has a column {name!r}, which would hide another one of that name: rename it.")
        columns[name] = _as_array(name, values, file.suffix == ".csv")
    ids: list[Any] = [record.get("video_id") for record in records]
    if not all(isinstance(name, str) for name in ids) or len(set(ids)) < len(ids):  # else they are taken as given
        ids = [os.path.relpath(path, os.path.abspath(root)).replace(os.sep, "/") for path in rows.paths]
    return VideoRows(rows.paths, ids, rows.labels, rows.label_names, columns=columns)


def _as_array(name: str, values: Sequence[Any], is_csv: bool) -> pa.Array:
    """Return the values of a column; of a csv, texts that are all numbers become numbers, as `datasets` reads it."""
    if is_csv and all(value is None or isinstance(value, str) for value in values):
        for convert, kind in ((int, pa.int64()), (float, pa.float64())):
            try:
                return pa.array([None if value is None else convert(value) for value in values], kind)
            except (ValueError, OverflowError, pa.ArrowException):
                continue
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"The values of the metadata's column {name!r} are of several kinds: {error}") from error
