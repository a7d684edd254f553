"""The files of a multi-view test: metrics, a table per class, the confusion matrix and every prediction."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from ..outputs.csv_text import csv_line
from .metrics import likeliest_classes
from .multiview import MultiViewResult


METRICS_FILE = "test_results.json"
CLASSES_FILE = "per_class.csv"
MATRIX_FILE = "confusion_matrix.png"
PREDICTIONS_FILE = "predictions.parquet"

_MAX_CLASSES_WITH_COUNTS = 30
_MAX_CLASSES_OF_MATPLOTLIB = 100  # it takes 18 s for 1,000, mostly for the text
_LARGEST_SIDE = 12_000  # pixels of the matrix
_CELL = 12  # pixels of a class: a line of text
_BLUES = (  # from few to many; ColorBrewer's, as matplotlib's map of that name
    (247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214), (66, 146, 198),
    (33, 113, 181), (8, 81, 156), (8, 48, 107),
)  # fmt: skip
_LIGHT_GRAY = 243
_MAX_NAME_LENGTH = 100  # characters of a name
_VIDEOS_PER_ROW_GROUP = 512  # with the logits of 15 views of 400 classes 12 MB


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
    with pq.ParquetWriter(path, schema, use_dictionary=["label_name", "predicted_name", "reason"]) as writer:
        for start in range(0, max(len(result.outcomes), 1), _VIDEOS_PER_ROW_GROUP):
            outcomes = result.outcomes[start : start + _VIDEOS_PER_ROW_GROUP]
            writer.write_table(_predictions_table(outcomes, names, schema))


def _predictions_table(outcomes: Sequence[Mapping[str, Any]], names: Sequence[str], schema: pa.Schema) -> pa.Table:
    top = [likeliest_classes(o["probabilities"]) if "reason" not in o else None for o in outcomes]
    predicted = [classes[0] if classes else None for classes in top]
    columns: dict[str, Any] = {
        "video_id": [outcome["video_id"] for outcome in outcomes],
        "label": [outcome["label"] for outcome in outcomes],
        "label_name": [names[outcome["label"]] for outcome in outcomes],
        "readable": ["reason" not in outcome for outcome in outcomes],
        "present": [outcome.get("is_present", True) for outcome in outcomes],
        "reason": [outcome.get("reason") for outcome in outcomes],
        "predicted": predicted,
        "predicted_name": [None if number is None else names[number] for number in predicted],
        "top5": top,
        "scores": _lists([o["probabilities"] if "reason" not in o else None for o in outcomes]),
    }
    if "view_logits" in schema.names:
        logits = [outcome.get("view_logits") for outcome in outcomes]
        views = _lists([view for of_video in logits if of_video is not None for view in of_video])
        columns["view_logits"] = _lists(logits, views)
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _lists(values: Sequence[np.ndarray | None], elements: pa.Array | None = None) -> pa.ListArray:
    """Return a list for each array, None for None, without a Python object for each number.

    `elements` stands for the numbers where each element of an array is a list itself.
    """
    if elements is None:
        known = [np.asarray(value, dtype=np.float32) for value in values if value is not None]
        elements = pa.array(np.concatenate(known) if known else np.empty(0, dtype=np.float32))
    ends = np.cumsum([0 if value is None else len(value) for value in values])
    offsets = [None if value is None else int(end) - len(value) for value, end in zip(values, ends, strict=True)]
    return pa.ListArray.from_arrays(pa.array([*offsets, len(elements)], pa.int32()), elements)


def draw_confusion_matrix(result: MultiViewResult, path: str | Path) -> None:
    """Draw the ratios of each class' videos by prediction as a PNG that grows with the number of classes.

    Every class is named on both axes, also 1,000 of them (then the picture has some 13,000 x 13,000 pixels: zoom in);
    the counts stand in the cells of up to 30. A last column shows the unreadable videos where there are any.

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
    ratios = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    title = f"{len(result.outcomes):,} videos, ratios by row"
    if len(columns) > _MAX_CLASSES_OF_MATPLOTLIB:
        _draw_large_matrix(ratios, result.label_names, columns, title, path)
        return
    cell = min(0.6, max(0.085, 12 / len(columns)))  # inches; 0.085 holds a line of 5 points
    font_size = min(10.0, cell * 72 * 0.8)
    margin = 0.6 + max(map(len, columns)) * font_size * 0.6 / 72
    width, height = cell * len(columns), cell * len(counts)
    size = (margin + width + 1.2, margin + height + 0.5)
    # Without pyplot: no display, no global state. Arranged by hand: a layout engine takes minutes for 400 classes.
    figure = Figure(figsize=size)
    axes = figure.add_axes((margin / size[0], margin / size[1], width / size[0], height / size[1]))
    image = axes.imshow(ratios, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    plain: dict[str, Any] = {"fontsize": font_size, "parse_math": False}  # a name with two dollar signs is no formula
    axes.set_xticks(range(len(columns)), columns, rotation=90, **plain)
    axes.set_yticks(range(len(counts)), result.label_names, **plain)
    axes.tick_params(length=2)
    axes.set(xlabel="predicted", ylabel="class", title=title)
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


def _draw_large_matrix(
    ratios: np.ndarray, names: Sequence[str], columns: Sequence[str], title: str, path: str | Path
) -> None:
    """Draw a matrix of many classes pixel by pixel, a byte for each: 0 to 127 are blue, 128 to 255 black to white."""
    from matplotlib import get_data_path

    cell = min(_CELL, max(_LARGEST_SIDE // len(columns), 1))
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 10)
    left, below = _names_strip(names, cell, font), _names_strip(columns, cell, font)
    cells = np.rint(ratios * 127).astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    if cell == _CELL:
        cells[::cell], cells[:, ::cell] = _LIGHT_GRAY, _LIGHT_GRAY
    head, bar = 3 * _CELL, 20 * _CELL
    canvas = np.full((head + len(cells) + below.shape[1], left.shape[1] + cells.shape[1] + bar), 255, np.uint8)
    body = slice(head, head + len(cells))
    canvas[body, : left.shape[1]] = left
    canvas[body, left.shape[1] : -bar] = cells
    canvas[body.stop :, left.shape[1] : -bar] = np.rot90(below)  # read from below, as their ends touch the cells
    length = min(len(cells), 50 * _CELL)
    canvas[head : head + length, 2 * _CELL - bar : 3 * _CELL - bar] = np.linspace(127, 0, length)[:, None]
    for text, row, column in (
        (f"{title}; down: class, across: predicted", _CELL, left.shape[1]),
        ("1", head, canvas.shape[1] - bar + 4 * _CELL),
        ("0", head + length - _CELL, canvas.shape[1] - bar + 4 * _CELL),
    ):
        written = _written(text, font)[:, : canvas.shape[1] - column]
        canvas[row : row + len(written), column : column + written.shape[1]] = written
    steps = np.linspace(0, len(_BLUES) - 1, 128)
    blues = np.stack([np.interp(steps, range(len(_BLUES)), channel) for channel in zip(*_BLUES, strict=True)], axis=1)
    image = Image.fromarray(canvas, "P")
    image.putpalette([*map(int, blues.ravel()), *(gray for level in range(128) for gray in 3 * [2 * level + 1])])
    image.save(path, format="PNG", compress_level=1)


def _names_strip(names: Sequence[str], cell: int, font: Any) -> np.ndarray:
    """Return the pixels of names one below the other, their ends at the right; each n-th where lines are too low."""
    step = -(-_CELL // cell)
    shown = [(number, _written(names[number][:_MAX_NAME_LENGTH], font)) for number in range(0, len(names), step)]
    strip = np.full((len(names) * cell, max(pixels.shape[1] for _, pixels in shown) + 8), 255, np.uint8)
    for number, pixels in shown:
        rows = strip[number * cell : number * cell + _CELL]
        rows[: len(pixels), strip.shape[1] - 4 - pixels.shape[1] : -4] = pixels[: len(rows)]
    return strip


def _written(text: str, font: Any) -> np.ndarray:
    """Return the pixels of a line of text: 128 is black, 255 white; (12, width)."""
    image = Image.new("L", (max(int(font.getlength(text)), 0) + 2, _CELL), 255)
    ImageDraw.Draw(image).text((1, 0), text, fill=0, font=font)
    return 128 + np.asarray(image) // 2


__all__ = [
    "confusion_counts",
    "describe_test",
    "draw_confusion_matrix",
    "write_class_table",
    "write_predictions",
    "write_report",
]
