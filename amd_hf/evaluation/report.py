"""The files of a multi-view test: metrics, a table per class, the confusion matrix and every prediction."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..outputs.csv_text import csv_line
from .metrics import likeliest_classes
from .multiview import MultiViewResult


METRICS_FILE = "test_results.json"
CLASSES_FILE = "per_class.csv"
MATRIX_FILE = "confusion_matrix.png"
PREDICTIONS_FILE = "predictions.parquet"

_MAX_CLASSES_WITH_COUNTS = 30


def describe_test(
    model: str | None, data: str | None, split: str | None, num_views: int | None, **more: Any
) -> dict[str, Any]:
    """Return the entry `tested` of `test_results.json`: what a result was measured on.

    Args:
        model (`str`): Hub id or folder of the model.
        data (`str`): The data, as the user named it.
        split (`str`): Its split.
        num_views (`int`): Views of each video.
        more: Further entries, as `train_split` or `fold`.
    """
    described = {"model": model, "data": data, "split": split, "num_views": num_views, **more}
    # The version of the package that runs, installed or not; importing it here would be a cycle.
    return {**described, "amd_hf_version": sys.modules[__name__.partition(".")[0]].__version__}


def write_report(
    result: MultiViewResult, folder: str | Path, tested: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write metrics, table of classes and predictions to a folder, replacing those of an earlier test.

    Args:
        result ([`MultiViewResult`]): The outcome.
        folder (`str` or `Path`): Made where it does not exist.
        tested (`Mapping[str, Any]`, *optional*): Model and data of the test; see [`describe_test`].

    Returns:
        What `test_results.json` holds: the metrics, under `tested` what they were measured on, and under `unreadable`
        each video that could not be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unreadable = [{"video_id": video_id, "reason": reason} for video_id, reason in result.unreadable]
    summary = {**({"tested": dict(tested)} if tested else {}), **result.metrics(), "unreadable": unreadable}
    (folder / METRICS_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    write_class_table(result, folder / CLASSES_FILE)
    write_predictions(result, folder / PREDICTIONS_FILE)
    return summary


def confusion_counts(result: MultiViewResult) -> np.ndarray:
    """Return counts of videos (classes, classes + 1), int64: by class and prediction, last the unreadable."""
    num_classes = len(result.label_names)
    counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    for outcome in result.outcomes:
        is_read = "probabilities" in outcome
        counts[outcome["label"], int(np.argmax(outcome["probabilities"])) if is_read else num_classes] += 1
    return counts


def write_class_table(result: MultiViewResult, path: str | Path) -> None:
    """Write one line per class of the model: its videos, how many were read and correct, its most common confusion.

    Names that a spreadsheet could take for a formula have a `'` in front: see [`amd_hf.outputs.csv_text`].
    """
    counts = confusion_counts(result)
    with open(path, "w", newline="", encoding="utf-8") as file:
        header = ("class", "name", "videos", "read", "correct", "accuracy", "most_confused_with", "times_confused")
        file.write(csv_line(header))
        for number, (name, row) in enumerate(zip(result.label_names, counts, strict=True)):
            videos, correct = int(row.sum()), int(row[number])
            wrong = row[:-1].copy()
            wrong[number] = 0
            other = int(wrong.argmax())
            confused = (result.label_names[other], int(wrong[other])) if wrong.any() else ("", 0)
            accuracy = f"{correct / videos:.4f}" if videos else ""
            file.write(csv_line([number, name, videos, videos - int(row[-1]), correct, accuracy, *confused]))


def write_predictions(result: MultiViewResult, path: str | Path) -> None:
    """Write one row per video of the list, in its order, as parquet.

    Columns: `video_id`; `label` and `label_name`; `readable`, `present`, and `reason` where it was not readable;
    `predicted` and `predicted_name`; `top5`, class numbers, best first; `scores`, float32 of every class (mean of the
    views' softmax); and where they were kept `view_logits`, float32, a list of lists. What an unreadable video lacks
    is null. The names of all classes are in the file's metadata under `label_names`, as JSON.
    """
    names = result.label_names
    rows = []
    for outcome in result.outcomes:
        row = {
            "video_id": outcome["video_id"],
            "label": outcome["label"],
            "label_name": names[outcome["label"]],
            "readable": "reason" not in outcome,
            "present": outcome.get("is_present", True),
            "reason": outcome.get("reason"),
        }
        if row["readable"]:
            scores = outcome["probabilities"]
            top = likeliest_classes(scores)
            row |= {"predicted": top[0], "predicted_name": names[top[0]], "top5": top, "scores": scores}
            row["view_logits"] = list(outcome["view_logits"]) if "view_logits" in outcome else None
        rows.append(row)
    schema = pa.schema(
        {
            "video_id": pa.string(),
            "label": pa.int64(),
            "label_name": pa.string(),
            "readable": pa.bool_(),
            "present": pa.bool_(),
            "reason": pa.string(),
            "predicted": pa.int64(),
            "predicted_name": pa.string(),
            "top5": pa.list_(pa.int64()),
            "scores": pa.list_(pa.float32()),
        },
        metadata={"label_names": json.dumps(list(names))},
    )
    if any("view_logits" in outcome for outcome in result.outcomes):
        schema = schema.append(pa.field("view_logits", pa.list_(pa.list_(pa.float32()))))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def draw_confusion_matrix(result: MultiViewResult, path: str | Path) -> None:
    """Draw the ratios of each class' videos by prediction as a PNG that grows with the number of classes.

    Every class is named on both axes, also 400 of them (then the picture has some 5,000 x 5,000 pixels: zoom in); the
    counts stand in the cells of up to 30. A last column shows the unreadable videos where there are any.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'The picture of a confusion matrix needs matplotlib: `pip install "amd_hf[plots]"`.'
        ) from error
    counts = confusion_counts(result)
    columns = [*result.label_names, "(unreadable)"]
    if not counts[:, -1].any():
        counts, columns = counts[:, :-1], columns[:-1]
    cell = min(0.6, max(0.085, 12 / len(columns)))  # inches; 0.085 holds a line of 5 points
    font_size = min(10.0, cell * 72 * 0.8)
    margin = 0.6 + max(map(len, columns)) * font_size * 0.6 / 72
    width, height = cell * len(columns), cell * len(counts)
    size = (margin + width + 1.2, margin + height + 0.5)
    # Without pyplot: no display, no global state. Arranged by hand: a layout engine takes minutes for 400 classes.
    figure = Figure(figsize=size)
    axes = figure.add_axes((margin / size[0], margin / size[1], width / size[0], height / size[1]))
    ratios = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(ratios, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    plain: dict[str, Any] = {"fontsize": font_size, "parse_math": False}  # a name with two dollar signs is no formula
    axes.set_xticks(range(len(columns)), columns, rotation=90, **plain)
    axes.set_yticks(range(len(counts)), result.label_names, **plain)
    axes.tick_params(length=2)
    axes.set(xlabel="predicted", ylabel="class", title=f"{len(result.outcomes):,} videos, ratios by row")
    if len(columns) <= _MAX_CLASSES_WITH_COUNTS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if ratios[row, column] > 0.5 else "black"
            small = font_size * 0.9
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=small)
    else:
        axes.grid(color="0.9", linewidth=0.2)
        axes.set_axisbelow(False)
    bar = figure.add_axes(
        ((margin + width + 0.3) / size[0], margin / size[1], 0.15 / size[0], min(height, 4) / size[1])
    )
    figure.colorbar(image, cax=bar)
    figure.savefig(path, dpi=150 if len(columns) > _MAX_CLASSES_WITH_COUNTS else 100)


__all__ = [
    "confusion_counts",
    "describe_test",
    "draw_confusion_matrix",
    "write_class_table",
    "write_predictions",
    "write_report",
]
