"""HMDB51 by its official split files and class folders of `.avi`.

testTrainMulti_7030_splits/brush_hair_test_split1.txt     `clip.avi 1`: 1 train, 2 test, 0 neither
hmdb51_org/brush_hair/clip.avi                            (or the class folders in the folder itself)
"""

from __future__ import annotations

import re
from pathlib import Path

from ..listing import folder_names
from ..problems import Kind, Problems
from ..rows import Entry, VideoRows, make_rows
from ..text_files import read_lines
from .ucf101 import check_fold, choose_split


_LIST_NAME = re.compile(r"(.+)_test_split([123])\.txt")
_MARKS = {"train": "1", "test": "2"}
_VIDEO_FOLDERS = ("hmdb51_org", "hmdb51", "videos")

_BAD_LINE = Kind(
    "cannot be read", "cannot be read", "Expected a file name and 0 (unused), 1 (train) or 2 (test), with a space."
)


def read_hmdb51(
    folder: Path, problems: Problems, split: str | None, fold: int | None = None, root: Path | None = None
) -> VideoRows:
    """Read one of the three official splits of HMDB51.

    Args:
        folder (`Path`): holds the files `<class>_test_split<fold>.txt`, or the folder of them.
        problems (`Problems`): where bad lines go.
        split (`str`): `train` or `test`; `validation` reads the test list, with a warning (see `read_ucf101`).
        fold (`int`, defaults to 1): which of the splits 1 to 3.
        root (`Path`, *optional*): folder of the class folders; by default `hmdb51_org`, `hmdb51` or `videos` in
            `folder` or beside the lists, else the folder itself.

    Returns:
        `VideoRows`, class by class; labels number the classes in sorted order.

    Raises:
        FileNotFoundError: the split files or the folder of videos are missing.
        ValueError: an unknown split or fold.
    """
    mark = _MARKS[choose_split(split, "HMDB51")]
    fold = check_fold(fold, "HMDB51")
    lists = find_lists(folder)
    if lists is None:
        raise FileNotFoundError(f"There is no `<class>_test_split{fold}.txt` in {folder} or in its folders.")
    files = {match[1]: lists / match[0] for match in _list_names(lists) if match[2] == str(fold)}
    names = sorted(files)
    if root is None:
        candidates = [top / name for top in (folder, lists.parent) for name in _VIDEO_FOLDERS]
        root = next((candidate for candidate in candidates if candidate.is_dir()), folder)
    paths: list[str] = []
    video_ids: list[str] = []
    labels: list[int] = []
    for name in names:
        entries = _read_list(files[name], name, mark, problems)
        rows = make_rows(entries, files[name], root, names, problems)
        paths += rows.paths
        video_ids += rows.video_ids
        labels += rows.labels or []
    return VideoRows(paths, video_ids, labels, names)


def find_lists(folder: Path) -> Path | None:
    """Find the folder of the official split files: `folder` or one in it that has `split` in its name."""
    candidates = [folder, *(folder / name for name in folder_names(folder) if "split" in name.lower())]
    return next((candidate for candidate in candidates if _list_names(candidate)), None)


def _list_names(folder: Path) -> list[re.Match[str]]:
    return [match for file in sorted(folder.iterdir()) if (match := _LIST_NAME.fullmatch(file.name))]


def _read_list(file: Path, class_name: str, mark: str, problems: Problems) -> list[Entry]:
    lines = read_lines(file, problems)
    entries = []
    for number, line in lines:
        name, _, last = line.rpartition(" ")
        if not name or last not in ("0", "1", "2"):
            problems.add(file, number, _BAD_LINE, line)
        elif last == mark:
            entries.append(Entry(number, f"{class_name}/{name.strip()}", class_name))
    return entries
