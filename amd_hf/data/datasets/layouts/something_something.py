"""Something-Something V2 by its official JSON files and `.webm` videos.

    something-something-v2-train.json     [{"id": "78687", "template": "Holding [something] next to [something]", ...}]
    something-something-v2-test.json      [{"id": "1420"}, ...]           no labels
    something-something-v2-labels.json    {"Holding something next to something": "44", ...}

The newer release has the same in `labels/train.json`, `labels/validation.json`, `labels/test.json`,
`labels/labels.json`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..problems import Kind, Problems
from ..rows import Entry, VideoRows, make_rows
from ..text_files import is_text, read_json_file


SPLITS = ("train", "validation", "test")

_PREFIXES = ("something-something-v2-", "")
_FOLDERS = ("", "labels", "annotations")
_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", "")

_MAX_ID_LENGTH = 100
_NO_ID = Kind("has no `id`", "have no `id`", "Give the number of the video, as in the official file.")


def read_something_something(
    path: Path,
    problems: Problems,
    split: str | None = None,
    root: Path | None = None,
    label_names: list[str] | None = None,
) -> VideoRows:
    """Read the videos that an official JSON file of Something-Something V2 names.

    Args:
        path (`Path`): the JSON file of a split, or the folder that holds the JSON files (there, in `labels/` or in
            `annotations/`).
        problems (`Problems`): where bad entries go.
        split (`str`, *optional*): `train`, `validation` or `test`; required for a folder, not allowed for a file.
        root (`Path`, *optional*): folder of the videos `<id>.webm`; by default `20bn-something-something-v2` or
            `videos` beside the JSON files or in `path`, else the folder itself.
        label_names (list of `str`, *optional*): by default those of the labels file beside the JSON file.

    Returns:
        `VideoRows`: a label is the number that the labels file gives to the template without its brackets. The test
        set has none.

    Raises:
        FileNotFoundError: a file, the root or all of the first videos are missing.
        ValueError: an unknown split, or a file of another form.
    """
    file = _find_file(path, split)
    names = label_names or _official_names(file.parent)
    records = _read_json(file, list)
    problems.start(file, len(records), "entry")
    entries = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not _has_id(record):
            problems.add(file, number, _NO_ID, record)
        else:
            template = record.get("template")  # its brackets hold what the sentence is about: "Pushing [something]"
            label = template.replace("[", "").replace("]", "").strip() if isinstance(template, str) else None
            entries.append(Entry(number, f"{record['id']}.webm", label))
    if names is None and any(entry.label is not None for entry in entries):
        raise FileNotFoundError(
            f"There is no labels file beside {file}: neither {' nor '.join(f'{p}labels.json' for p in _PREFIXES)}. "
            "The numbers of the labels come from it."
        )
    return make_rows(entries, file, root or _find_videos(path, file), names, problems)


def is_something_something(folder: Path) -> bool:
    """Return whether a folder holds the official JSON files: one of a split, and that of the labels beside it."""
    files = [_split_file(folder, split) for split in SPLITS]
    return any(file is not None and _labels_file(file.parent) is not None for file in files)


def _has_id(record: dict[str, Any]) -> bool:
    name = record.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):
        return False
    return bool(str(name).strip()) and len(str(name)) < _MAX_ID_LENGTH and is_text(str(name))


def _find_file(path: Path, split: str | None) -> Path:
    if path.is_file():
        if split is not None:
            raise ValueError(f"`split` has no meaning for one file, but is {split!r}: {path} is one split by itself.")
        return path
    if split not in SPLITS:
        raise ValueError(f"Something-Something V2 has the splits {list(SPLITS)}, not {split!r}: choose one of them.")
    file = _split_file(path, split)
    if file is None:
        raise FileNotFoundError(f"There is no something-something-v2-{split}.json or labels/{split}.json in {path}.")
    return file


def _split_file(folder: Path, split: str) -> Path | None:
    candidates = [folder / name / f"{prefix}{split}.json" for name in _FOLDERS for prefix in _PREFIXES]
    return next((file for file in candidates if file.is_file()), None)


def _find_videos(path: Path, file: Path) -> Path:
    """Find the folder of the videos beside the JSON files or in `path`, else take the folder itself."""
    tops = [file.parent, *([path] if path.is_dir() else [file.parent.parent])]
    folders = [top / name for name in _VIDEO_FOLDERS[:-1] for top in tops]
    return next((folder for folder in folders if folder.is_dir()), tops[-1] if path.is_dir() else file.parent)


def _labels_file(folder: Path) -> Path | None:
    files = [folder / f"{prefix}labels.json" for prefix in _PREFIXES]
    return next((file for file in files if file.is_file()), None)


def _official_names(folder: Path) -> list[str] | None:
    file = _labels_file(folder)
    if file is None:
        return None
    content = _read_json(file, dict)
    try:
        numbers = {name: int(number) for name, number in content.items()}
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{file} gives a label something else than a number, 0 to {len(content) - 1}.") from None
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ValueError(f"The labels of {file} are not numbered 0 to {len(numbers) - 1}, each once.")
    return sorted(numbers, key=lambda name: numbers[name])


def _read_json(file: Path, form: type) -> Any:
    content = read_json_file(file)
    if not isinstance(content, form) or not content:
        kind = "list of videos" if form is list else "mapping of labels to numbers"
        raise ValueError(f"{file} holds no {kind}, but {os.path.getsize(file)} bytes of {type(content).__name__}.")
    return content
