"""What the test of an action detector leaves behind, and what its mAP is to be compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..evaluation.report import CLASSES_FILE, METRICS_FILE
from ..outputs.csv_text import csv_line
from .evaluation import DetectionResult


DETECTIONS_FILE = "detections.csv"


def write_detection_report(
    result: DetectionResult,
    folder: str | Path,
    max_per_frame: int | None = None,
    tested: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write metrics, average precision by class and the scored detections to a folder.

    Args:
        result ([`DetectionResult`]): The outcome.
        folder (`str` or `Path`): Made where it does not exist.
        max_per_frame (`int`, *optional*): Detections of a key frame that count; by default all.
        tested (`Mapping[str, Any]`, *optional*): What was tested on what: see
            [`~amd_hf.evaluation.report.describe_test`].

    Returns:
        What `test_results.json` holds: `map`, the counts, under `tested` what they were measured on, and under
        `unreadable` each key frame that could not be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = result.average_precisions(max_per_frame)
    unreadable = [{"video_id": video_id, "reason": reason} for video_id, reason in result.unreadable]
    summary = {
        **({"tested": dict(tested)} if tested else {}),
        **result.counts(),
        "map": found["map"],
        "unreadable": unreadable,
    }
    (folder / METRICS_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    with open(folder / CLASSES_FILE, "w", encoding="utf-8", newline="") as file:
        file.write(csv_line(["action", "average_precision"]))
        file.writelines(csv_line([name, f"{value:.6f}"]) for name, value in found["average_precision"].items())
    result.write_csv(folder / DETECTIONS_FILE)
    return summary


# ---------------------------------------------------------------------------------------------------------------------
# What a detector that looks at its boxes must beat
# ---------------------------------------------------------------------------------------------------------------------


def constant_scores(result: DetectionResult) -> DetectionResult:
    """The same detections, every one with the score 1 for every class: what boxes alone are worth."""
    outcomes = [outcome | {"scores": np.ones_like(outcome["scores"])} for outcome in result.outcomes]
    return DetectionResult(outcomes, result.class_names, result.scored)


def shuffle_boxes(rows: datasets.Dataset) -> datasets.Dataset:
    """Rows whose tested boxes have changed places within each key frame: each gets what the next one shows.

    Tested like any others; [`unshuffle_boxes`] puts the boxes back, so that each has the scores of another one.
    """
    return rows.map(_rotate, fn_kwargs={"by": 1}, load_from_cache_file=False, keep_in_memory=True)


def unshuffle_boxes(result: DetectionResult) -> DetectionResult:
    """The outcome of [`shuffle_boxes`] with the boxes where they were, and the scores where they are."""
    outcomes = [o | {"test_boxes": np.roll(o["test_boxes"], 1, axis=0)} for o in result.outcomes]
    return DetectionResult(outcomes, result.class_names, result.scored)


def _rotate(row: dict[str, Any], by: int) -> dict[str, Any]:
    boxes, scores = row["person_boxes"], row["person_scores"]
    if boxes is None:
        boxes, scores = row["boxes"], [1.0] * len(row["boxes"])
    return {"person_boxes": [*boxes[by:], *boxes[:by]], "person_scores": [*scores[by:], *scores[:by]]}
