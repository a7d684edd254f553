"""UCF101 by its official split files and class folders of `.avi`.

ucfTrainTestlist/classInd.txt         `1 ApplyEyeMakeup`
ucfTrainTestlist/trainlist01.txt      `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`
ucfTrainTestlist/testlist01.txt       `ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi`
UCF-101/ApplyEyeMakeup/*.avi          (or the class folders beside `ucfTrainTestlist`)
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..problems import Kind, Problems
from ..rows import Entry, VideoRows, make_rows
from ..text_files import read_lines


logger = logging.getLogger(__name__)

LIST_FOLDER = "ucfTrainTestlist"
FOLDS = (1, 2, 3)

_NO_CLASS = Kind(
    "names a class that classInd.txt does not know",
    "name a class that classInd.txt does not know",
    "Correct the folder, or classInd.txt.",
)
_OTHER_NUMBER = Kind(
    "gives a class another number than classInd.txt",
    "give a class another number than classInd.txt",
    "Both files must come from the same release.",
)


def read_ucf101(
    folder: Path, problems: Problems, split: str | None, fold: int | None = None, root: Path | None = None
) -> VideoRows:
    """Read one of the three official splits of UCF101.

    Args:
        folder (`Path`): holds `ucfTrainTestlist/`, or is it.
        problems (`Problems`): where bad lines go.
        split (`str`): `train` or `test`. There is no official validation set: `validation` reads the test list, as
            published results do, with a warning.
        fold (`int`, defaults to 1): which of the splits 1 to 3.
        root (`Path`, *optional*): folder of the class folders; by default `UCF-101` in `folder` or beside the lists.

    Returns:
        `VideoRows`; label i is class i + 1 of `classInd.txt`.

    Raises:
        FileNotFoundError: a list or the folder of videos is missing.
        ValueError: an unknown split or fold.
    """
    list_name = f"{choose_split(split, 'UCF101')}list0{check_fold(fold, 'UCF101')}.txt"
    lists = folder if folder.name == LIST_FOLDER else folder / LIST_FOLDER
    if root is None:
        candidates = (lists.parent / "UCF-101", lists.parent / "UCF101", lists.parent)
        root = next(candidate for candidate in candidates if candidate.is_dir())
    names = _class_names(lists / "classInd.txt")
    numbers = {name: number for number, name in enumerate(names, start=1)}
    file = lists / list_name
    lines = _lines(file, problems)
    entries = []
    for line_number, line in lines:
        path, *given = line.split()
        name = path.partition("/")[0]
        if name not in numbers:
            problems.add(file, line_number, _NO_CLASS, line)
        elif given not in ([], [str(numbers[name])]):
            problems.add(file, line_number, _OTHER_NUMBER, f"{line} (classInd.txt: {numbers[name]})")
        else:
            entries.append(Entry(line_number, path, name))
    return make_rows(entries, file, root, names, problems)


def choose_split(split: str | None, name: str) -> str:
    """Return `train` or `test`, of a data set that has no validation set."""
    if split in ("train", "test"):
        return split
    if split == "validation":
        logger.warning("%s has no validation set: reading its test list, as published results do.", name)
        return "test"
    raise ValueError(f"{name} has the splits 'train' and 'test', not {split!r}: choose one of them with `split`.")


def check_fold(fold: int | None, name: str) -> int:
    """Return the number of the official split, 1 by default."""
    if fold is None:
        return 1
    if fold not in FOLDS:
        raise ValueError(f"{name} has the folds {list(FOLDS)}, not {fold!r}.")
    return fold


def _class_names(file: Path) -> list[str]:
    problems = Problems()
    fields = [line.split() for _, line in _lines(file, problems)]
    problems.raise_if_any()
    if [pair[0] for pair in fields] != [str(number) for number in range(1, len(fields) + 1)] or any(
        len(pair) != 2 for pair in fields
    ):
        raise ValueError(f"{file} does not number its classes 1 to {len(fields)}, one `number name` per line.")
    return [name for _, name in fields]


def _lines(file: Path, problems: Problems) -> list[tuple[int, str]]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r} of UCF101's official splits.")
    lines = read_lines(file, problems)
    if not lines and not problems.found:
        raise ValueError(f"{file} is empty.")
    return lines
