"""The validator: all bad lines of every annotation format, with their numbers; the readers raise the first of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amd_hf.data.datasets import layouts
from amd_hf.data.loading import load_video_dataset, validate_annotations
from tests.helpers import miniatures
from tests.helpers.training import load_script, run_script
from tests.helpers.videos import write_list


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


Damage = Callable[[Path], tuple[Path, dict[str, Any], dict[int, str]]]


def _list(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    _touch(root, "a.mp4", "b c.mp4")
    lines = ["a.mp4 0", "b c.mp4 1", "", "gone.mp4 0", "a.mp4 7", "b c.mp4", "what 1.5", "./a.mp4 1"]
    return (
        write_list(root / "l.txt", lines),
        {"label_names": ["x", "y"]},
        {
            4: "names a missing file: .*gone",
            5: "names a video that an earlier one names: a.mp4 .first: 1.|a label above 1",
            6: "has no label|earlier one names",
            7: "cannot be read: what 1.5",
            8: "earlier one names",
        },
    )


def _frames(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    (root / "f").mkdir()
    (root / "g").mkdir()
    lines = ["f 4 0", "f 4", "g 0 1", "h 3 1", "f 3 0", "f x 0", "f"]
    faults = {2: "no label|earlier", 3: "has no frames: g 0", 4: "missing file", 5: "earlier"}
    faults |= {6: "has no frames", 7: "cannot be read: f"}
    return write_list(root / "l.txt", lines), {"layout": "frame_list"}, faults


def _csv(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    _touch(root, "a.mp4", "b, c.mp4")
    lines = ["label,path", "left,a.mp4", 'right,"b, c.mp4"', "left,b, c.mp4", "left,"]
    lines += ["up,gone.mp4", ",a.mp4", "", "x"]
    faults = {
        4: "another number of fields than the header: left,b, c.mp4",
        5: "has no path",
        6: "none of the label names: up|missing file",
        7: "has no label|earlier",
        9: "another number of fields",
    }
    return write_list(root / "t.csv", lines), {"label_names": ["left", "right"]}, faults


def _jsonl(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    _touch(root, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    records = [{"path": "a.mp4", "label": 0}, [1], {"label": 1}, {"path": "b.mp4", "label": -1}]
    records += [{"path": "c.mp4", "label": True}, {"path": "d.mp4", "label": 1.5}]
    lines = [*map(json.dumps, records), "{"]
    faults = {2: "no JSON object", 3: "has no path", 4: "integer from 0: -1", 5: "0: True", 6: "0: 1.5", 7: "no JSON"}
    return write_list(root / "t.jsonl", lines), {}, faults


def _kinetics(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    miniatures.kinetics(root)
    file = root / "annotations" / "train.csv"
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace(",7,17,", ",7,,")
    lines += [lines[1], "zumba,xyz,1,11", "zumba,xyz,1,11,train", ",-train_Id3,21,31,train"]
    faults = {
        3: "no start and end in seconds: 7,",
        6: "earlier one names",
        7: "another number of fields",
        8: "missing file: .*train/xyz_000001_000011.mp4",
        9: "has no label|earlier",
    }
    return write_list(file, lines), {"root": root}, faults


def _something(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    miniatures.something_something(root)
    file = root / "something-something-v2-train.json"
    records = json.loads(file.read_text())
    records[1]["template"] = "Eating [something]"
    records += [{"template": records[0]["template"]}, records[0], {"id": "1", "template": records[0]["template"]}]
    file.write_text(json.dumps(records))
    faults = {2: "label names: Eating something", 5: "has no `id`", 6: "earlier", 7: "missing file: .*/1.webm"}
    return file, {}, faults


def _ucf101(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    miniatures.ucf101(root)
    file = root / "ucfTrainTestlist" / "trainlist01.txt"
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:-1] + "3"
    lines += ["Dancing/v_Dancing_g01_c01.avi 102", lines[0], "Archery/v_Archery_g09_c01.avi 3"]
    faults = {2: "another number than classInd", 7: "a class that classInd", 8: "earlier", 9: "missing file"}
    write_list(file, lines)
    return root, {"split": "train"}, faults


def _hmdb51(root: Path) -> tuple[Path, dict[str, Any], dict[int, str]]:
    miniatures.hmdb51(root)
    file = root / "testTrainMulti_7030_splits" / "cartwheel_test_split2.txt"
    lines = file.read_text().splitlines()
    write_list(file, [*lines, "x.avi", "x.avi 3", "x y.avi 1", lines[0]])
    faults = {5: "cannot be read: x.avi", 6: "cannot be read", 7: "missing file: .*cartwheel/x y.avi", 8: "earlier"}
    return root, {"split": "train", "fold": 2}, faults


_ALL = [_list, _frames, _csv, _jsonl, _kinetics, _something, _ucf101, _hmdb51]


@pytest.mark.parametrize("damage", _ALL)
def test_every_bad_line_is_found_with_its_number(tmp_path: Path, damage: Damage) -> None:
    source, arguments, faults = damage(tmp_path)
    problems = validate_annotations(source, **arguments)
    said: dict[int, str] = {}
    for problem in problems.found:
        said[problem.number] = said.get(problem.number, "") + str(problem)
    assert set(said) == set(faults)
    for number, pattern in faults.items():
        for part in pattern.split("|"):
            assert re.search(part, said[number]), (number, part, said[number])
    lines = [(problem.file, problem.number) for problem in problems.found]
    assert lines == sorted(lines)
    with pytest.raises(ValueError, match=r"\d of \d+ (lines|entries) of .*: (line|entry) \d"):
        load_video_dataset(source, **arguments)


@pytest.mark.parametrize("name", ["kinetics", "something_something", "ucf101", "hmdb51"])
def test_sound_annotations_have_no_problem(tmp_path: Path, name: str) -> None:
    getattr(miniatures, name)(tmp_path)
    problems = validate_annotations(tmp_path, split="train")
    assert problems.found == []
    assert problems.num_checked == {"kinetics": 4, "something_something": 4, "ucf101": 6, "hmdb51": 8}[name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,label\n", "is empty: nothing follows its header"),
        ("a.jsonl", "\n", "is empty. Write one"),
        ("a.json", "{}", "holds no list of videos"),
        ("a.json", "[", "is no JSON file"),
        ("a.txt", "", "is empty. Write one `path label`"),
    ],
)
def test_empty_or_foreign_file_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    for function in (load_video_dataset, validate_annotations):
        with pytest.raises(ValueError, match=message):
            function(tmp_path / name)


def test_csv_without_its_columns_is_refused(tmp_path: Path) -> None:
    write_list(tmp_path / "a.csv", ["file,label", "a.mp4,0"])
    with pytest.raises(ValueError, match="header of .* has no column `path`: its first line is 'file,label'"):
        load_video_dataset(tmp_path / "a.csv", layout="table")
    with pytest.raises(ValueError, match="no column `time_end`, `time_start`, `youtube_id`"):
        load_video_dataset(tmp_path / "a.csv", layout="kinetics")


def test_something_labels_file_is_required_and_checked(tmp_path: Path) -> None:
    miniatures.something_something(tmp_path)
    labels = tmp_path / "something-something-v2-labels.json"
    labels.write_text(json.dumps({"a": "0", "b": "2"}))
    with pytest.raises(ValueError, match="are not numbered 0 to 1, each once"):
        load_video_dataset(tmp_path, split="train")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="There is no labels file beside"):
        load_video_dataset(tmp_path / "something-something-v2-train.json")


def test_readers_name_the_first_20_of_many_bad_lines(tmp_path: Path) -> None:
    lines = ["path,label", *(f"{number}.mp4,{number}" for number in range(30)), *["x"] * 30]
    with pytest.raises(ValueError, match=r"30 of 60 lines .* line 32, .*, 51 and 10 more.* lists all of them"):
        load_video_dataset(write_list(tmp_path / "a.csv", lines), label_names=[str(n) for n in range(29)])


def test_program_prints_each_line_and_ends_with_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _, faults = _jsonl(tmp_path)
    run = run_script("validate_annotations", "--data", str(source), check=False)
    assert run.returncode == 1, run.stderr
    *lines, summary = run.stdout.splitlines()
    assert [int(line.removeprefix(f"{source}:").partition(":")[0]) for line in lines] == list(faults)
    assert summary == f"7 lines checked, {len(faults)} of them bad"
    good = write_list(tmp_path / "good.csv", ["path", "a.mp4"])
    assert load_script("validate_annotations").main(["--data", str(good)]).found == []
    assert capsys.readouterr().out == "1 line checked, 0 of them bad\n"


def test_class_folders_have_nothing_to_validate(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.mp4")
    with pytest.raises(ValueError, match="'class_folders', a layout without annotation files.*amd-hf check"):
        validate_annotations(tmp_path)
    _touch(tmp_path / "flat", "1.mp4")
    with pytest.raises(ValueError, match="flat is read as 'class_folders', a layout without annotation files"):
        validate_annotations(tmp_path / "flat", unlabelled=True)


def test_layout_of_ones_own_without_annotations_is_not_called_class_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layouts.LAYOUTS, "by_name", lambda folder, split=None: None)
    with pytest.raises(ValueError, match="is read as 'by_name', a layout without annotation files"):
        validate_annotations(tmp_path, layout="by_name")


def test_summary_counts_in_the_unit_of_the_files(tmp_path: Path) -> None:
    miniatures.parquet(tmp_path / "p")
    problems = validate_annotations(tmp_path / "p", split="train")
    assert problems.num_checked > 1
    assert problems.summary() == f"{problems.num_checked} rows checked, 0 of them bad"
