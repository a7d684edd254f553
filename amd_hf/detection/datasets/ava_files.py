"""The files of AVA 2.2: boxes with actions, excluded key frames, the list of actions, boxes of a person detector.

ava_train_v2.2.csv                  `-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1`   one line per action of a box
ava_val_excluded_timestamps_v2.2.csv  `-5KQ66BBWC4,0903`
ava_action_list_v2.2.pbtxt          `label { name: "bend/bow (at the waist)" label_id: 1 }` or `item { name: id: }`
person boxes (csv)                  `-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,0.995`, perhaps with an empty field
                                    or a class in front of the score
person boxes (JSON)                 `[{"video": "-5KQ66BBWC4", "timestamp": 902, "box": [...], "score": 0.995}]`
Boxes are x1 y1 x2 y2 as fractions of the frame's width and height.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...data.datasets.problems import Kind, Problems
from ...data.datasets.text_files import read_csv_without_header, read_json_file


_MAX_DIGITS = 6  # of an action's number: the list of classes is as long as the largest number

_BAD_FIELDS = Kind(
    "has another number of fields",
    "have another number of fields",
    "Lines hold video, timestamp, x1, y1, x2, y2 and then the action and the person, or the score.",
)
_NO_NUMBER = Kind("has a field that is no number", "have a field that is no number", "Correct them.")
_OUTSIDE = Kind(
    "has a box outside 0-1",
    "have a box outside 0-1",
    "Divide x by the width of the frame and y by its height.",
)
_EMPTY = Kind(
    "has a box with x2 <= x1 or y2 <= y1",
    "have a box with x2 <= x1 or y2 <= y1",
    "Boxes are x1 y1 x2 y2, not x y width height.",
)
_UNKNOWN_CLASS = Kind(
    "has an action that the action list does not know",
    "have an action that the action list does not know",
    "Correct the action, or give the action list with all classes.",
)
_BAD_SCORE = Kind("has a score outside 0-1", "have a score outside 0-1", "Give the detector's confidence.")
_BAD_ENTRY = Kind(
    "is no object with video, timestamp, box and score",
    "are no objects with video, timestamp, box and score",
    'Write {"video": "a", "timestamp": 902, "box": [x1, y1, x2, y2], "score": 0.9}.',
)


class KeyFrame(NamedTuple):
    """The name of a video, and a timestamp in seconds from its beginning."""

    video: str
    timestamp: float

    def __str__(self) -> str:
        """Write it as AVA does: `name,0902`."""
        return f"{self.video},{format_timestamp(self.timestamp)}"


class Action(NamedTuple):
    """One action of a box, from one line of an annotation file; `action` counts from 1."""

    line: int
    key_frame: KeyFrame
    box: tuple[float, float, float, float]
    action: int
    person: str


class PersonBox(NamedTuple):
    """One box of a person detector."""

    line: int
    key_frame: KeyFrame
    box: tuple[float, float, float, float]
    score: float


def format_timestamp(timestamp: float) -> str:
    """Write four digits for whole seconds, as in AVA's files, else the number as it is."""
    return f"{int(timestamp):04d}" if timestamp == int(timestamp) else repr(timestamp)


def read_actions(file: Path, known: Sequence[int], problems: Problems) -> list[Action]:
    """Read an annotation file (`ava_train_v2.2.csv`); bad lines go to `problems`.

    Args:
        file (`Path`): The csv file, without a header.
        known (`Sequence[int]`): Numbers of the known actions, from 1.
        problems (`Problems`): Collects bad lines.

    Raises:
        FileNotFoundError, ValueError: The file is missing or empty.
    """
    actions = []
    numbers = set(known)  # a list would be searched for each of hundreds of thousands of lines
    for line, fields in _lines(file, problems):
        if len(fields) not in (7, 8):
            problems.add(file, line, _BAD_FIELDS, ",".join(fields))
            continue
        parsed = _parse_box(file, line, fields, problems)
        if parsed is None:
            continue
        # Only digits, and few of them: `int` accepts "1_0" and "+1" too, and is slow with very long numbers.
        number = fields[6].strip()
        if not number.isdecimal() or len(number) > _MAX_DIGITS or int(number) not in numbers:
            problems.add(file, line, _UNKNOWN_CLASS, number)
            continue
        # Other people's files may lack the last field, which only distinguishes persons with equal boxes.
        person = fields[7].strip() if len(fields) == 8 else ""
        actions.append(Action(line, *parsed, int(number), person))
    return actions


def read_person_boxes(file: Path, problems: Problems, video: str | None = None) -> list[PersonBox]:
    """Read the boxes of a person detector, csv or JSON; bad entries go to `problems`.

    Args:
        file (`Path`): JSON if its suffix is .json, else csv without a header.
        problems (`Problems`): Collects bad lines.
        video (`str`, *optional*): The video that JSON entries without one belong to.

    Raises:
        FileNotFoundError, ValueError: The file is missing, empty, or no JSON list.
    """
    if file.suffix.lower() == ".json":
        return _read_json_boxes(file, problems, video)
    boxes = []
    for line, fields in _lines(file, problems):
        if len(fields) not in (7, 8):
            problems.add(file, line, _BAD_FIELDS, ",".join(fields))
            continue
        parsed = _parse_box(file, line, fields, problems)
        if parsed is None:
            continue
        # The last field: before it there may be an empty field or a class, which is ignored.
        score = _number(fields[-1])
        if score is None or not 0 <= score <= 1:
            problems.add(file, line, _BAD_SCORE, fields[-1])
            continue
        boxes.append(PersonBox(line, *parsed, score))
    return boxes


def read_excluded(file: Path, problems: Problems) -> set[KeyFrame]:
    """Read the key frames that AVA excludes from training or evaluation. The file may be empty."""
    excluded = set()
    for line, fields in _lines(file, problems, may_be_empty=True):
        timestamp = _number(fields[1]) if len(fields) == 2 else None
        if timestamp is None:
            problems.add(file, line, _BAD_FIELDS if len(fields) != 2 else _NO_NUMBER, ",".join(fields))
        else:
            excluded.add(KeyFrame(fields[0].strip(), timestamp))
    return excluded


def read_action_list(file: Path) -> dict[int, str]:
    """Read a `.pbtxt` list of actions: their names by number, counted from 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file lists no action, or a number or name twice.
    """
    _check_exists(file)
    actions: dict[int, str] = {}
    # Not parsed as protobuf, which would need a library for this file alone. A block ends at the first closing brace:
    # AVA's blocks have no inner ones. `utf-8-sig`, since Windows editors write a byte order mark.
    for block in re.findall(r"\{([^}]*)\}", file.read_text(encoding="utf-8-sig")):
        name, number = re.search(r'\bname:\s*"([^"]*)"', block), re.search(r"\b(?:label_)?id:\s*(\d+)", block)
        if name is None or number is None or len(number[1]) > _MAX_DIGITS or int(number[1]) < 1:
            raise ValueError(f"{file} has an action without a name or a number from 1: {' '.join(block.split())!r}.")
        if int(number[1]) in actions or name[1] in actions.values():
            raise ValueError(f"{file} lists action {number[1]}, {name[1]!r}, twice.")
        actions[int(number[1])] = name[1]
    if not actions:
        raise ValueError(f'{file} lists no action: it should hold `item {{ name: "run" id: 1 }}` for each.')
    return actions


def _check_exists(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")


def _lines(file: Path, problems: Problems, may_be_empty: bool = False) -> Iterator[tuple[int, list[str]]]:
    _check_exists(file)
    lines = read_csv_without_header(file, problems)
    if not lines and not problems.found and not may_be_empty:
        raise ValueError(f"{file} is empty.")
    yield from lines


def _parse_box(
    file: Path, line: int, fields: Sequence[str], problems: Problems
) -> tuple[KeyFrame, tuple[float, float, float, float]] | None:
    """Parse key frame and box of the first six fields; None where they are bad, which goes to `problems`."""
    numbers = [_number(field) for field in fields[1:6]]
    if any(number is None for number in numbers):
        problems.add(file, line, _NO_NUMBER, ",".join(fields))
        return None
    # None of them is None here; `or 0` convinces the type checker.
    timestamp, x1, y1, x2, y2 = (float(number or 0) for number in numbers)
    if not _check_box(file, line, (x1, y1, x2, y2), problems):
        return None
    return KeyFrame(fields[0].strip(), timestamp), (x1, y1, x2, y2)


def _check_box(file: Path, line: int, box: Sequence[float], problems: Problems) -> bool:
    x1, y1, x2, y2 = box
    if min(box) < 0 or max(box) > 1:
        problems.add(file, line, _OUTSIDE, list(box))
    elif x2 <= x1 or y2 <= y1:
        problems.add(file, line, _EMPTY, list(box))
    else:
        return True
    return False


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None  # `float` reads "nan" and "inf"


def _read_json_boxes(file: Path, problems: Problems, video: str | None) -> list[PersonBox]:
    _check_exists(file)
    content = read_json_file(file)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{file} holds no list of boxes.")
    problems.start(file, len(content), "entry")
    boxes = []
    for number, entry in enumerate(content, start=1):
        parsed = _json_box(entry, video)
        if parsed is None:
            problems.add(file, number, _BAD_ENTRY, json.dumps(entry)[:1000])
        elif not 0 <= parsed[2] <= 1:
            problems.add(file, number, _BAD_SCORE, parsed[2])
        elif _check_box(file, number, parsed[1], problems):
            boxes.append(PersonBox(number, *parsed))
    return boxes


def _json_box(entry: Any, video: str | None) -> tuple[KeyFrame, tuple[float, float, float, float], float] | None:
    if not isinstance(entry, dict):
        return None
    name, box = entry.get("video", video), entry.get("box")
    if not isinstance(name, str) or not isinstance(box, list) or len(box) != 4:
        return None
    numbers = [entry.get("timestamp"), entry.get("score"), *box]
    # JSON's `true` becomes a bool, which is an int in Python.
    if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        return None
    try:
        timestamp, score, x1, y1, x2, y2 = map(float, numbers)
    except OverflowError:  # an integer of endless digits
        return None
    if not all(map(math.isfinite, (timestamp, score, x1, y1, x2, y2))):
        return None
    return KeyFrame(name, timestamp), (x1, y1, x2, y2), score
