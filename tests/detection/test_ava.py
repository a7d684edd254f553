"""AVA's files: rows of a miniature in each layout, the lists, person boxes, and what the validator finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import load_action_dataset
from amd_hf.data.datasets.problems import Problems
from amd_hf.detection.clips import DetectionClipLoader
from amd_hf.detection.datasets.ava import action_names, validate_action_annotations
from amd_hf.detection.datasets.ava_files import KeyFrame, read_action_list, read_excluded, read_person_boxes
from examples.motion_people import PEOPLE_ACTIONS, PeopleFiles, write_action_list
from tests.helpers.ava import write_miniature
from tests.helpers.videos import write_video


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> PeopleFiles:
    return write_miniature(tmp_path_factory.mktemp("ava"), "val", num_videos=2, seconds=3, seed=0)


def _lines(miniature: PeopleFiles) -> list[list[str]]:
    return [line.split(",") for line in miniature.annotations.read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------


def test_rows_hold_the_boxes_and_actions_of_the_lines(miniature: PeopleFiles) -> None:
    rows = load_action_dataset(miniature.annotations, miniature.videos, miniature.action_list)
    assert rows["video_id"][:] == [f"val{video:03d},{second:04d}" for video in range(2) for second in (1, 2, 3)]
    assert action_names(rows) == list(PEOPLE_ACTIONS)
    wanted: dict[tuple[str, str], list] = {}
    for name, time, *box, action, _ in _lines(miniature):
        wanted.setdefault((name, time), []).append(([float(side) for side in box], int(action) - 1))
    for row in rows:
        found = [(box, label) for box, actions in zip(row["boxes"], row["actions"], strict=True) for label in actions]
        assert sorted(found) == sorted(wanted[tuple(row["video_id"].split(","))])
        assert len({tuple(box) for box in row["boxes"]}) == len(row["boxes"])  # a box once, whatever its actions
        assert row["person_boxes"] is None
        assert row["timestamp"] == float(row["video_id"].split(",")[1])


@pytest.mark.parametrize("layout", ["file", "pieces", "frames"])
def test_each_layout_is_told_and_read(layout: str, tmp_path: Path) -> None:
    files = write_miniature(tmp_path, "val", num_videos=1, seconds=3, seed=0, layout=layout)
    options = {"start_seconds": 0.0, "frame_rate": 8.0} if layout == "frames" else {}
    rows = load_action_dataset(files.annotations, files.videos, files.action_list, **options)
    assert {row["video"]["layout"] for row in rows} == {layout}
    loader = DetectionClipLoader(num_frames=4, sampling_rate=2, num_labels=6, crop_size=64, short_side=64)
    for row in rows:
        clip = loader.load_for_evaluation(row)
        assert clip.pixel_values.shape == (4, 3, 64, 64)
        key_frame = clip.pixel_values[2].float().mean(dim=0)
        is_inside = torch.zeros(64, 64, dtype=torch.bool)
        for x1, y1, x2, y2 in clip.boxes.round().int().tolist():
            is_inside[y1 : y2 + 1, x1 : x2 + 1] = True
        # Persons are brighter than the ground, and nowhere but in their boxes.
        assert (key_frame[is_inside] > 128).float().mean() > 0.5
        assert (key_frame[~is_inside] > 128).float().mean() < 0.02
    if layout == "frames":
        assert rows[0]["video"]["frame_pattern"] == "val000_%06d.jpg"


def test_person_boxes_bring_their_own_key_frames_and_exclusion_takes_some_away(
    miniature: PeopleFiles, tmp_path: Path
) -> None:
    box = [0.1, 0.2, 0.5, 0.6]
    persons = [
        {"video": "val000", "timestamp": 1, "box": box, "score": 0.95},
        {"video": "val000", "timestamp": 1, "box": box, "score": 0.79},
        {"video": "val001", "timestamp": 2, "box": box, "score": 0.8},
        {"video": "val001", "timestamp": 4, "box": box, "score": 0.9},  # without annotations
    ]
    (tmp_path / "persons.json").write_text(json.dumps(persons))
    (tmp_path / "excluded.csv").write_text("val001,0002\nval000,0003\n")
    rows = load_action_dataset(
        miniature.annotations, miniature.videos, miniature.action_list,
        excluded=tmp_path / "excluded.csv", person_boxes=tmp_path / "persons.json",
    )  # fmt: skip
    by_id = {row["video_id"]: row for row in rows}
    assert list(by_id) == ["val000,0001", "val000,0002", "val001,0001", "val001,0003", "val001,0004"]
    assert by_id["val000,0001"]["person_boxes"] == [box]
    assert by_id["val000,0001"]["person_scores"] == [0.95]
    assert by_id["val000,0002"]["person_boxes"] == []  # nobody detected: what is there is missed
    assert by_id["val001,0004"]["boxes"] == []
    assert by_id["val001,0004"]["actions"] == []


@pytest.mark.parametrize(
    "line", ["a,0902,0.1,0.2,0.5,0.6,0.9", "a,902,0.1,0.2,0.5,0.6,,0.9", "a,902.0,0.1,0.2,0.5,0.6,1,0.9"]
)
def test_person_boxes_as_csv(line: str, tmp_path: Path) -> None:
    (tmp_path / "persons.csv").write_text(line + "\n")
    (person,) = read_person_boxes(tmp_path / "persons.csv", Problems())
    assert person == (1, KeyFrame("a", 902.0), (0.1, 0.2, 0.5, 0.6), 0.9)


# ---------------------------------------------------------------------------------------------------------------------
# Lists
# ---------------------------------------------------------------------------------------------------------------------


def test_both_forms_of_action_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pbtxt").write_text(
        'item {\n  name: "bend/bow (at the waist)"\n  id: 1\n}\nitem { name: "run" id: 12 }'
    )
    assert read_action_list(tmp_path / "a.pbtxt") == {1: "bend/bow (at the waist)", 12: "run"}
    assert read_action_list(write_action_list(tmp_path / "b.pbtxt", ["x", "y"])) == {1: "x", 2: "y"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no action"),
        ('item { name: "run" }', "without a name or a number"),
        ('item { name: "run" id: 0 }', "without a name or a number"),
        ('item { name: "run" id: 1 } item { name: "walk" id: 1 }', "lists action 1, 'walk', twice"),
    ],
)
def test_bad_action_lists_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pbtxt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_action_list(tmp_path / "a.pbtxt")


def test_excluded_key_frames_may_be_none(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("")
    assert read_excluded(tmp_path / "none.csv", Problems()) == set()


# ---------------------------------------------------------------------------------------------------------------------
# Faults
# ---------------------------------------------------------------------------------------------------------------------

_BAD_LINES = {
    2: ("val000,0001,0.1,0.1,1.2,0.5,1,0", "box outside 0-1"),
    3: ("val000,0001,0.5,0.1,0.5,0.5,1,0", "x2 <= x1 or y2 <= y1"),
    4: ("val000,0001,0.1,0.1,0.5,0.5,7,0", "action list does not know"),
    5: ("val000,0001,0.1,0.1,0.5", "another number of fields"),
    6: ("val000,soon,0.1,0.1,0.5,0.5,1,0", "field that is no number"),
    7: ("val000,0009,0.1,0.1,0.5,0.5,1,0", "timestamp without video"),
    8: ("other,0001,0.1,0.1,0.5,0.5,1,0", "timestamp without video"),
    9: ("val000,0001,0.1,nan,0.5,0.5,1,0", "field that is no number"),
}


@pytest.fixture
def faulty(miniature: PeopleFiles, tmp_path: Path) -> Path:
    good = "val000,0001,0.1,0.1,0.5,0.5,1,0"
    lines = [good, *(line for line, _ in _BAD_LINES.values()), good.replace("0001", "0002")]
    (tmp_path / "faulty.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "faulty.csv"


def test_validator_names_every_bad_line(miniature: PeopleFiles, faulty: Path) -> None:
    problems = validate_action_annotations(faulty, miniature.videos, miniature.action_list)
    assert [problem.number for problem in problems.found] == list(_BAD_LINES)
    for problem in problems.found:
        assert _BAD_LINES[problem.number][1] in str(problem)
        assert str(problem).startswith(f"{faulty}:{problem.number}: ")


def test_validator_names_bad_person_boxes(miniature: PeopleFiles, tmp_path: Path) -> None:
    good = {"video": "val000", "timestamp": 1, "box": [0.1, 0.1, 0.5, 0.5], "score": 0.9}
    entries: list[Any] = [
        good, {**good, "score": 1.5}, {**good, "box": [0.1, 0.1, 0.5]}, {**good, "box": [0.5, 0.1, 0.1, 0.5]},
        "person", {**good, "timestamp": None}, {**good, "video": "none"},
    ]  # fmt: skip
    (tmp_path / "persons.json").write_text(json.dumps(entries))
    problems = validate_action_annotations(
        None, miniature.videos, miniature.action_list, person_boxes=tmp_path / "persons.json"
    )
    assert [problem.number for problem in problems.found] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("layout", ["pieces", "frames"])
def test_validator_looks_for_the_moment_in_other_layouts_too(layout: str, tmp_path: Path) -> None:
    files = write_miniature(tmp_path, "val", num_videos=1, seconds=2, seed=0, layout=layout)
    options = {"start_seconds": 0.0, "frame_rate": 8.0} if layout == "frames" else {}
    assert not validate_action_annotations(files.annotations, files.videos, files.action_list, **options).found
    files.annotations.write_text(files.annotations.read_text() + "val000,0007,0.1,0.1,0.5,0.5,1,0\n")
    problems = validate_action_annotations(files.annotations, files.videos, files.action_list, **options)
    assert ["val000,0007" == problem.value for problem in problems.found] == [True]


def test_reader_raises_all_kinds_of_bad_lines_at_once(miniature: PeopleFiles, faulty: Path) -> None:
    with pytest.raises(
        ValueError, match=r"1 of 10 lines of .*faulty\.csv has a box outside|have a box outside"
    ) as error:
        load_action_dataset(faulty, miniature.videos, miniature.action_list)
    for number in (2, 3, 4, 5, 6, 9):
        assert f"line {number}" in str(error.value) or f", {number}" in str(error.value)


def test_wrong_places_and_options_are_refused(miniature: PeopleFiles, tmp_path: Path) -> None:
    arguments = (miniature.annotations, miniature.videos, miniature.action_list)
    with pytest.raises(FileNotFoundError, match="no folder of videos"):
        load_action_dataset(miniature.annotations, tmp_path / "none", miniature.action_list)
    write_video(tmp_path / "other" / "x.mp4", 4)
    with pytest.raises(FileNotFoundError, match="None of the first 2 videos exists"):
        load_action_dataset(miniature.annotations, tmp_path / "other", miniature.action_list)
    with pytest.raises(ValueError, match="`layout` must be one of"):
        load_action_dataset(*arguments, layout="tape")
    with pytest.raises(ValueError, match="`frame_pattern` has no meaning"):
        load_action_dataset(*arguments, frame_pattern="%05d.jpg")
    with pytest.raises(ValueError, match="Set `annotations`, `person_boxes`, or both"):
        load_action_dataset(None, *arguments[1:])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos, pieces or frames"):
        load_action_dataset(miniature.annotations, tmp_path / "empty", miniature.action_list)
