"""AVA 2.2, and other videos in its formats: a row for each key frame, with the boxes of persons and their actions.

rows = load_action_dataset(
    "ava_val_v2.2.csv", "videos/", "ava_action_list_v2.2.pbtxt",
    excluded="ava_val_excluded_timestamps_v2.2.csv", person_boxes="ava_val_predicted_boxes.csv",
)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from ...data.datasets.problems import Kind, Problems
from .action_videos import ActionVideos
from .ava_files import Action, KeyFrame, PersonBox, read_action_list, read_actions, read_excluded, read_person_boxes


MIN_PERSON_SCORE = 0.8
_PathLike = str | os.PathLike[str]
_Person = tuple[str, tuple[float, ...]]  # AVA's number of the person in the video, and the box
# float64: AVA writes three decimals, which float32 would not return unchanged.
_BOXES = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))

NO_VIDEO = Kind(
    "has a timestamp without video", "have a timestamp without video", "Correct the name or time, or remove them."
)


def load_action_dataset(
    annotations: _PathLike | None,
    videos: _PathLike,
    action_list: _PathLike,
    *,
    excluded: _PathLike | None = None,
    person_boxes: _PathLike | None = None,
    min_person_score: float = MIN_PERSON_SCORE,
    layout: str | None = None,
    start_seconds: float | None = None,
    frame_rate: float | None = None,
    frame_pattern: str | None = None,
    problems: Problems | None = None,
) -> datasets.Dataset:
    """List the key frames of AVA or of videos annotated in its formats (`docs/detection.md`), without decoding.

    Args:
        annotations (path, *optional*): `ava_train_v2.2.csv` or a file like it. Without it only persons are listed.
        videos (path): folder of the videos: files `<name>.mp4` (or another suffix), folders `<name>/` of one-second
            pieces `<second>.mp4`, or folders `<name>/` of frames.
        action_list (path): the `.pbtxt` list of all actions (for AVA the one with 80), which gives the classes: action
            i is class i - 1. The evaluation takes the list of those that are scored.
        excluded (path, *optional*): csv of key frames to leave out.
        person_boxes (path, *optional*): boxes of a person detector, csv or JSON, to test on.
        min_person_score (`float`, defaults to 0.8): person boxes with a lower score are left out.
        layout (`file`, `pieces` or `frames`, *optional*): layout of the videos; by default inferred from the folder.
        start_seconds (`float`, *optional*): time of the first frame; by default 0 for files, 900 for frame folders.
        frame_rate (`float`, *optional*): frames per second; by default read from each file, 30 for frame folders.
        frame_pattern (`str`, *optional*): name of a frame, such as `img_%05d.jpg`; numbers count from 1. By default
            inferred from the first folder.
        problems (`Problems`, *optional*): collects bad lines; without it they raise an error.

    Returns:
        A row per key frame, in the order of the annotations: `video` (see `key_frames.read_around`), `video_id`
        (`name,0902`), `name`, `timestamp` (seconds), `boxes` (n, 4) as fractions of the frame, `actions` (for each box
        the indices of its classes, whose names are in the features), `person_boxes` and `person_scores` (None without
        `person_boxes`). With person boxes, key frames without annotations are included.

    Raises:
        FileNotFoundError: a file or folder does not exist, or none of the first videos does.
        ValueError: there are bad lines (the error shows the first 20), or nothing to read.
    """
    found = Problems() if problems is None else problems
    names = read_action_list(Path(action_list))
    left_out = read_excluded(Path(excluded), found) if excluded is not None else set()
    actions = read_actions(Path(annotations), list(names), found) if annotations is not None else []
    persons = read_person_boxes(Path(person_boxes), found) if person_boxes is not None else None
    if annotations is None and persons is None:
        raise ValueError("Set `annotations`, `person_boxes`, or both: they list the key frames.")
    folder = ActionVideos(
        Path(videos).expanduser(), layout, start_seconds=start_seconds, frame_rate=frame_rate, pattern=frame_pattern
    )
    lines = [(annotations, action.line, action.key_frame) for action in actions]
    lines += [(person_boxes, person.line, person.key_frame) for person in persons or []]
    if found.check_files:
        _find_missing(folder, lines, found)
    if problems is None:
        found.raise_if_any()
    folder.check_first([key_frame.video for _, _, key_frame in lines])

    grouped, detected = _by_key_frame(actions, persons or [], min_person_score)
    # Annotated key frames first, in their order; then those with detected persons only.
    key_frames = [key for key in dict.fromkeys([*grouped, *detected]) if key not in left_out]
    columns: dict[str, list[Any]] = {
        "video": [folder.pointer(key.video) for key in key_frames],
        "video_id": [str(key) for key in key_frames],
        "name": [key.video for key in key_frames],
        "timestamp": [key.timestamp for key in key_frames],
        "boxes": [[list(box) for _, box in grouped.get(key, {})] for key in key_frames],
        "actions": [list(grouped.get(key, {}).values()) for key in key_frames],
        "person_boxes": [_field(detected, key, "box", persons) for key in key_frames],
        "person_scores": [_field(detected, key, "score", persons) for key in key_frames],
    }
    return datasets.Dataset.from_dict(columns, features=_features(names))


def validate_action_annotations(
    annotations: _PathLike | None, videos: _PathLike, action_list: _PathLike, **options: Any
) -> Problems:
    """Read a data set as [`load_action_dataset`] does and list everything that is wrong with its files.

    Returns:
        `Problems`: `found` lists each bad line with its number: boxes outside 0-1 or without area, unknown actions,
        fields that are missing or no numbers, and timestamps without video.
    """
    problems = Problems(check_files=True)
    load_action_dataset(annotations, videos, action_list, problems=problems, **options)
    problems.found.sort(key=lambda problem: (problem.file, problem.number))
    return problems


def action_names(rows: datasets.Dataset) -> list[str]:
    """Return the class names of an action data set, in their order."""
    return list(rows.features["actions"].feature.feature.names)


def class_names(actions: dict[int, str]) -> list[str]:
    """Return the names of all classes, given those of actions by number; numbers count from 1 and may have gaps."""
    return [actions.get(number, f"action {number}") for number in range(1, max(actions) + 1)]


def _features(names: dict[int, str]) -> datasets.Features:
    label = datasets.ClassLabel(names=class_names(names))
    return datasets.Features(
        {
            "video": {
                "path": datasets.Value("string"),
                "layout": datasets.Value("string"),
                "start_seconds": datasets.Value("float64"),
                "frame_rate": datasets.Value("float64"),
                "frame_pattern": datasets.Value("string"),
            },
            "video_id": datasets.Value("string"),
            "name": datasets.Value("string"),
            "timestamp": datasets.Value("float64"),
            "boxes": _BOXES,
            "actions": datasets.Sequence(datasets.Sequence(label)),
            "person_boxes": _BOXES,
            "person_scores": datasets.Sequence(datasets.Value("float64")),
        }
    )


def _by_key_frame(
    actions: Sequence[Action], persons: Sequence[PersonBox], min_score: float
) -> tuple[dict[KeyFrame, dict[_Person, list[int]]], dict[KeyFrame, list[PersonBox]]]:
    """Return the annotated persons of each key frame with their classes, and its detected persons."""
    annotated: dict[KeyFrame, dict[_Person, list[int]]] = {}
    for action in actions:
        # A file has a line per action: lines with the same person and box are one box of the row. The person counts
        # too, since two persons may have the same box.
        classes = annotated.setdefault(action.key_frame, {}).setdefault((action.person, action.box), [])
        if action.action - 1 not in classes:  # AVA's actions count from 1, classes from 0
            classes.append(action.action - 1)
    detected: dict[KeyFrame, list[PersonBox]] = {}
    for person in persons:
        if person.score >= min_score:
            detected.setdefault(person.key_frame, []).append(person)
    return annotated, detected


def _field(
    detected: dict[KeyFrame, list[PersonBox]], key: KeyFrame, name: str, persons: list[PersonBox] | None
) -> list[Any] | None:
    # None means that there was no detector, and the test uses true boxes; an empty list that it found nobody.
    return None if persons is None else [getattr(person, name) for person in detected.get(key, [])]


def _find_missing(
    folder: ActionVideos, lines: Sequence[tuple[_PathLike | None, int, KeyFrame]], problems: Problems
) -> None:
    # A key frame has a line per person and action: look for its files only once, since disks may be slow.
    is_there: dict[KeyFrame, bool] = {}
    for file, line, key in lines:
        if key not in is_there:
            is_there[key] = folder.has(key.video, key.timestamp)
        if not is_there[key]:
            problems.add(file, line, NO_VIDEO, key)
