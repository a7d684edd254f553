"""Files of a test: read back and compared with counts made by hand; the picture for 8 to 400 classes."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from amd_hf.evaluation.multiview import MultiViewResult
from amd_hf.evaluation.report import (
    confusion_counts,
    draw_confusion_matrix,
    write_predictions,
    write_report,
)


def _outcome(video_id: str, label: int, predicted: int, num_classes: int = 3) -> dict[str, Any]:
    scores = np.full(num_classes, 0.1, dtype=np.float32)
    scores[predicted] = 0.8
    return {"video_id": video_id, "label": label, "probabilities": scores, "view_predictions": np.array([predicted])}


@pytest.fixture
def result() -> MultiViewResult:
    outcomes = [
        _outcome("a", 0, 0),
        _outcome("b", 0, 2),
        {"video_id": "c", "label": 0, "reason": "there is no file", "is_present": False},
        _outcome("d", 0, 2),
        _outcome("e", 1, 1),
    ]
    return MultiViewResult(outcomes, ["left", "right", "up, or down"])


def test_counts_have_a_row_per_class_and_a_last_column_for_the_unreadable(result: MultiViewResult) -> None:
    assert confusion_counts(result).tolist() == [[1, 0, 2, 1], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_table_of_classes(result: MultiViewResult, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    with open(tmp_path / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row.values()) for row in rows] == [
        ["0", "left", "4", "3", "1", "0.2500", "up, or down", "2"],
        ["1", "right", "1", "1", "1", "1.0000", "", "0"],
        ["2", "up, or down", "0", "0", "0", "", "", "0"],
    ]


def test_predictions_are_in_the_order_of_the_list_with_the_unreadable_among_them(
    result: MultiViewResult, tmp_path: Path
) -> None:
    write_report(result, tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet")
    rows = table.to_pylist()
    assert [row["video_id"] for row in rows] == list("abcde")
    assert [row["predicted"] for row in rows] == [0, 2, None, 2, 1]
    assert [row["readable"] for row in rows] == [True, True, False, True, True]
    assert [row["present"] for row in rows] == [True, True, False, True, True]
    assert rows[1]["top5"] == [2, 0, 1]
    assert rows[1]["scores"] == pytest.approx([0.1, 0.1, 0.8])
    assert (rows[1]["label_name"], rows[1]["predicted_name"]) == ("left", "up, or down")
    assert (rows[2]["reason"], rows[2]["scores"]) == ("there is no file", None)
    assert json.loads(table.schema.metadata[b"label_names"]) == ["left", "right", "up, or down"]
    assert "view_logits" not in table.column_names


def test_view_logits_go_along_where_they_were_kept(result: MultiViewResult, tmp_path: Path) -> None:
    result.outcomes[4]["view_logits"] = np.array([[1.0, 2, 3], [4, 5, 6]], dtype=np.float32)
    write_report(result, tmp_path)
    column = pq.read_table(tmp_path / "predictions.parquet")["view_logits"].to_pylist()
    assert column == [None, None, None, None, [[1, 2, 3], [4, 5, 6]]]


def test_logits_of_many_videos_are_written_as_they_are_without_an_object_for_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes: list[dict[str, Any]] = []
    for number in range(1200):
        if number % 7 == 3:
            outcomes.append({"video_id": str(number), "label": 0, "reason": "broken", "is_present": True})
        else:
            logits = rng.standard_normal((15, 100), dtype=np.float32)
            outcomes.append({**_outcome(str(number), 1, 2, 100), "view_logits": logits})
    tracemalloc.start()
    write_predictions(MultiViewResult(outcomes, [f"class {n}" for n in range(100)]), tmp_path / "p.parquet")
    (_, peak), _ = tracemalloc.get_traced_memory(), tracemalloc.stop()
    assert peak < 8 * 2**20  # objects of 1,028 x 15 x 100 numbers take 48 MB
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert len(rows) == 1200
    for outcome, row in zip(outcomes, rows, strict=True):
        assert (row["video_id"], row["label"]) == (outcome["video_id"], outcome["label"])
        expected = outcome.get("view_logits")
        assert row["view_logits"] == (None if expected is None else expected.tolist())
        assert row["scores"] == (None if expected is None else outcome["probabilities"].tolist())


def test_metrics_file_names_the_unreadable(result: MultiViewResult, tmp_path: Path) -> None:
    summary = write_report(result, tmp_path)
    assert json.loads((tmp_path / "test_results.json").read_text()) == summary
    assert summary["accuracy"] == pytest.approx(2 / 5)
    assert summary["unreadable"] == [{"video_id": "c", "reason": "there is no file"}]


@pytest.mark.parametrize("num_classes", [8, 40, 100, 400])
def test_picture_shows_the_diagonal_and_gives_every_class_a_line_of_text(tmp_path: Path, num_classes: int) -> None:
    outcomes = [_outcome(str(number), number, number, num_classes) for number in range(num_classes)]
    draw_confusion_matrix(MultiViewResult(outcomes, [f"class {n}" for n in range(num_classes)]), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # Cells of the diagonal are dark blue: as many as classes, apart from the bar, and each as high as a line of text.
    is_dark = (np.abs(pixels - [8, 48, 107]) < 12).all(axis=2)[:, : int(pixels.shape[1] * 0.9)]
    matrix_rows, matrix_columns = is_dark.any(axis=1).nonzero()[0], is_dark.any(axis=0).nonzero()[0]
    height = (matrix_rows[-1] - matrix_rows[0] + 1) / num_classes
    width = (matrix_columns[-1] - matrix_columns[0] + 1) / num_classes
    assert height == pytest.approx(width, rel=0.1)
    assert height >= 11
    assert max(pixels.shape) < 6000
