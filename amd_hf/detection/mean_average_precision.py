"""AVA's frame mAP at IoU 0.5, vectorised: the numbers of the official evaluation (ActivityNet, Evaluation/ava).

Within a key frame and class the detections, best first, take the ground-truth box that they overlap most; the first to
take one is right if the overlap is at least 0.5, all others are wrong. Precision is made monotone and integrated over
recall (VOC). Equal scores are ordered by key frame and then by index, read from the end, as in the official code when
its sort is stable.

metric = FrameMeanAveragePrecision()                                                      # one process
metric = FrameMeanAveragePrecision(num_process=2, process_id=rank, experiment_id="run")   # several, a shared disk
metric.add_batch(predictions=[{"key_frame": "movie,0902", "boxes": ..., "scores": ...}], references=[...])
metric.compute(class_names={0: "bend", 3: "dance"})                                       # on process 0
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ..data.datasets.problems import Problems
from ..evaluation.metrics import _Metric, evaluate
from ..outputs.csv_text import original_cell
from .datasets.ava_files import format_timestamp, read_action_list, read_excluded


IOU_THRESHOLD = 0.5
_SIDES = ("x1", "y1", "x2", "y2")
_BOXES_AT_ONCE = 2**18  # compared with the true boxes of their key frames


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes with classes, of detections or of the ground truth. An entry is one class of one box.

    Args:
        frames (`np.ndarray` of shape (boxes,), int64): Index of each box's key frame in the sorted frame names.
        boxes (`np.ndarray` of shape (boxes, 4), float64): x1 y1 x2 y2 as fractions of the frame.
        box_of_entry (`np.ndarray` of shape (entries,), int64): The box of each entry.
        classes (`np.ndarray` of shape (entries,), int64): The class of each entry.
        scores (`np.ndarray` of shape (entries,), float64, *optional*): Scores of detections.
    """

    frames: np.ndarray
    boxes: np.ndarray
    box_of_entry: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    def of_classes(self) -> dict[int, np.ndarray]:
        """Return the entries of each class, in their order."""
        if not len(self.classes):
            return {}
        # numpy's stable sort is a radix sort for 16-bit numbers: a tenth of the time for 24 million.
        narrow = self.classes.astype(np.int16 if self.classes.max() < 2**15 else np.int64)
        order = np.argsort(narrow, kind="stable")
        numbers, starts = np.unique(narrow[order], return_index=True)
        return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


def average_precisions(
    detections: FrameBoxes, truth: FrameBoxes, max_per_frame: int | None = None
) -> dict[int, float]:
    """Return the average precision of each class that occurs in the ground truth.

    Args:
        detections, truth ([`FrameBoxes`]): Both with the same indices of key frames.
        max_per_frame (`int`, *optional*): Count only this many entries per key frame, those with the highest scores.
            The current official program takes 50; earlier ones, and VideoMAE's code, take all.

    Raises:
        ValueError: If a score is not finite.
    """
    if detections.scores is None:
        raise ValueError("Detections need scores.")
    if not np.isfinite(detections.scores).all():
        raise ValueError("A score of a detection is not finite: the model's weights are bad.")
    if max_per_frame is not None:
        frames = detections.frames[detections.box_of_entry]
        order = np.lexsort((-detections.scores, frames))  # key frame by key frame, best first
        rank = np.arange(len(order)) - np.searchsorted(frames[order], frames[order])  # within the key frame
        kept = np.sort(order[rank < max_per_frame])
        detections = replace(
            detections,
            box_of_entry=detections.box_of_entry[kept],
            classes=detections.classes[kept],
            scores=detections.scores[kept],
        )
    pairs = _overlapping_pairs(detections, truth)
    entries = detections.of_classes()
    nothing = np.empty(0, dtype=np.int64)
    return {
        number: _average_precision(detections, entries.get(number, nothing), truth, true_entries, pairs)
        for number, true_entries in truth.of_classes().items()
    }


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a detected and a true box of one key frame that overlap enough, sorted by detected box."""

    detected: np.ndarray
    true: np.ndarray
    iou: np.ndarray


def _overlapping_pairs(detections: FrameBoxes, truth: FrameBoxes) -> _Pairs:
    # Compare each detected box with all true boxes of its key frame, which are `counts` boxes from `starts` on in
    # `order`. In slices, since the pairs of all boxes at once would not fit in memory.
    order = np.argsort(truth.frames, kind="stable")
    starts = np.searchsorted(truth.frames[order], detections.frames, side="left")
    counts = np.searchsorted(truth.frames[order], detections.frames, side="right") - starts
    parts = []
    for first in range(0, len(counts), _BOXES_AT_ONCE):
        part = slice(first, first + _BOXES_AT_ONCE)
        detected = np.repeat(np.arange(first, first + len(counts[part])), counts[part])
        index = np.arange(len(detected)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        true = order[np.repeat(starts[part], counts[part]) + index]
        iou = box_iou(detections.boxes[detected], truth.boxes[true])
        enough = iou >= IOU_THRESHOLD
        parts.append((detected[enough], true[enough], iou[enough]))
    if not parts:
        return _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return _Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (n, 4), pair by pair; 0 where both are empty."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _average_precision(
    detections: FrameBoxes, entries: np.ndarray, truth: FrameBoxes, true_entries: np.ndarray, pairs: _Pairs
) -> float:
    """Return the average precision of one class, from its entries."""
    assert detections.scores is not None
    boxes = detections.boxes[detections.box_of_entry[entries]]
    entries = entries[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]  # empty boxes are not detections
    frames = detections.frames[detections.box_of_entry[entries]]
    entries = entries[np.lexsort((-detections.scores[entries], frames))]  # frame by frame, best first

    # If a true box is listed several times with this class, only its first entry can be found.
    true_boxes = truth.box_of_entry[true_entries]
    entry_of_true_box = np.full(len(truth.frames), -1)
    entry_of_true_box[true_boxes[::-1]] = true_entries[::-1]
    is_of_class = entry_of_true_box[pairs.true] >= 0
    detected, iou, target = (
        pairs.detected[is_of_class],
        pairs.iou[is_of_class],
        entry_of_true_box[pairs.true[is_of_class]],
    )
    # The target of a detected box is the true box that it overlaps most; the first of equal ones.
    best_first = np.lexsort((target, -iou, detected))
    _, first = np.unique(detected[best_first], return_index=True)
    best = best_first[first]
    target_of_box = np.full(len(detections.frames), -1)
    target_of_box[detected[best]] = target[best]
    # Of the entries with the same target only the best is right; `np.unique` returns the first, and best come first.
    targets = target_of_box[detections.box_of_entry[entries]]
    is_right = np.zeros(len(entries), dtype=bool)
    candidates = np.flatnonzero(targets >= 0)
    _, first = np.unique(targets[candidates], return_index=True)
    is_right[candidates[first]] = True

    # The reverse of an ascending stable sort, as in the official code: it decides the order of equal scores.
    ranking = np.argsort(detections.scores[entries], kind="stable")[::-1]
    return integrate_precision(is_right[ranking], len(true_entries))


def integrate_precision(is_right: np.ndarray, num_true: int) -> float:
    """Return the area under the monotone precision-recall curve of detections (n,), best first; `num_true` to find."""
    found = np.cumsum(is_right)
    precision = found / np.arange(1, len(found) + 1)
    recall = np.concatenate([[0.0], found / num_true])
    highest_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * highest_from_here))


# ---------------------------------------------------------------------------------------------------------------------
# As a metric
# ---------------------------------------------------------------------------------------------------------------------

_INPUTS = """
Args:
    predictions: per key frame `key_frame` (a name of its own), `boxes` (n, 4) as fractions of the frame, and `scores`
        (n, classes), NaN for a class that is not detected. A video that cannot be read has no boxes.
    references: per key frame `boxes` (m, 4) and `actions`, for each box the numbers of its classes.
    class_names: the names of the classes that are scored, by their numbers.
"""
_BOXES = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))


class FrameMeanAveragePrecision(_Metric):
    """Frame mAP at IoU 0.5 over key frames: `map`, and `average_precision`, a dict by the names of the classes.

    A class that the ground truth lacks has no average precision (NaN) and no part in the mean.
    """

    def _info(self) -> Any:
        features = {
            "predictions": {"key_frame": datasets.Value("string"), "boxes": _BOXES, "scores": _BOXES},
            "references": {"boxes": _BOXES, "actions": datasets.Sequence(datasets.Sequence(datasets.Value("int64")))},
        }
        return evaluate.MetricInfo(
            description="Mean average precision of actions in the boxes of key frames at IoU 0.5.",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        class_names: Mapping[int, str],
        max_per_frame: int | None = None,
    ) -> dict[str, Any]:
        table = self.data.with_format("arrow")[:]  # 24 million scores as Python lists would take gigabytes
        structs = (table[name].combine_chunks() for name in ("predictions", "references"))
        detected, true = ({field.name: struct.field(field.name) for field in struct.type} for struct in structs)
        names = detected["key_frame"].to_pylist()
        if len(set(names)) != len(names):
            raise ValueError("A key frame was added twice.")
        rank = np.empty(len(names), dtype=np.int64)
        rank[np.argsort(np.array(names, dtype=str), kind="stable")] = np.arange(len(names))

        frames, boxes = _boxes_of(detected["boxes"], rank)
        scores, num_scores = _flat(detected["scores"])
        if len(num_scores) != len(frames):
            raise ValueError(f"There are {len(frames)} boxes but {len(num_scores)} rows of scores.")
        box_of_entry = np.repeat(np.arange(len(frames)), num_scores)
        classes = np.arange(len(scores)) - np.repeat(np.cumsum(num_scores) - num_scores, num_scores)
        is_given = ~np.isnan(scores)
        if not is_given.all():
            box_of_entry, classes, scores = box_of_entry[is_given], classes[is_given], scores[is_given]
        detections = FrameBoxes(frames, boxes, box_of_entry, classes, scores)

        frames, boxes = _boxes_of(true["boxes"], rank)
        actions, num_actions = _flat(true["actions"])
        if len(num_actions) != len(frames):
            raise ValueError(f"There are {len(frames)} true boxes but {len(num_actions)} lists of actions.")
        box_of_entry = np.repeat(np.arange(len(frames)), num_actions)
        truth = FrameBoxes(frames, boxes, box_of_entry, actions.astype(np.int64))
        return mean_of(average_precisions(detections, truth, max_per_frame), class_names)


def mean_of(found: Mapping[int, float], class_names: Mapping[int, str]) -> dict[str, Any]:
    """Return the result of the metric, given the average precision of each class."""
    of_classes = {name: found.get(number, float("nan")) for number, name in class_names.items()}
    known = [value for value in of_classes.values() if not np.isnan(value)]
    return {"map": float(np.mean(known)) if known else float("nan"), "average_precision": of_classes}


def _boxes_of(lists: Any, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frame of each box (n,), and boxes (n, 4)."""
    sides, num_sides = _flat(lists)
    if (num_sides != 4).any():
        raise ValueError("A box does not have four sides x1 y1 x2 y2.")
    counts = lists.value_lengths().to_numpy(zero_copy_only=False)
    return np.repeat(rank, counts), sides.reshape(-1, 4)


def _flat(lists: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers of lists of lists, and how many each inner list holds."""
    inner = lists.flatten()
    return inner.flatten().to_numpy(zero_copy_only=False), inner.value_lengths().to_numpy(zero_copy_only=False)


# ---------------------------------------------------------------------------------------------------------------------
# From files
# ---------------------------------------------------------------------------------------------------------------------


def score_submission(
    detections: str | os.PathLike[str],
    ground_truth: str | os.PathLike[str],
    action_list: str | os.PathLike[str],
    excluded: str | os.PathLike[str] | None = None,
    max_per_frame: int | None = None,
) -> dict[str, Any]:
    """Return the frame mAP at IoU 0.5 of a submission, as the official program gives it.

    Args:
        detections (path): csv of `video,timestamp,x1,y1,x2,y2,action,score`.
        ground_truth (path): The same csv without the score; a person after the action is ignored.
        action_list (path): `.pbtxt` list of the actions that are scored; other actions in the files are left out.
        excluded (path, *optional*): csv of key frames to leave out.
        max_per_frame (`int`, *optional*): Count only this many detections per key frame, best first. The current
            official program takes 50; by default all count.

    Returns:
        `map`, and `average_precision` by the names of the actions, as [`FrameMeanAveragePrecision`].

    Raises:
        FileNotFoundError, ValueError: A file is missing or has bad lines.
    """
    names = read_action_list(Path(action_list))
    problems = Problems()
    left_out = {str(key) for key in read_excluded(Path(excluded), problems)} if excluded is not None else set()
    problems.raise_if_any()
    tables = [
        _read(Path(file), list(names), left_out, has_scores)
        for file, has_scores in ((detections, True), (ground_truth, False))
    ]
    frames = sorted({name for table in tables for name in pc.unique(table["key_frame"]).to_pylist()})
    detected, true = (_frame_boxes(table, pa.array(frames, pa.string())) for table in tables)
    return mean_of(average_precisions(detected, true, max_per_frame), names)


def _read(file: Path, actions: list[int], left_out: set[str], has_scores: bool) -> pa.Table:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    columns = ["video", "timestamp", *_SIDES, "action"]
    with open(file, encoding="utf-8-sig", newline="") as stream:
        width = len(next(csv.reader(stream), [""]))
    if has_scores and width != 8 or width not in (7, 8):
        raise ValueError(f"{file} has {width} fields a line, {8 if has_scores else '7 or 8'} are needed.")
    columns += (["score"] if has_scores else ["person"])[: width - 7]
    types = {"video": pa.string(), "timestamp": pa.float64(), "action": pa.int64(), "person": pa.string()}
    types |= dict.fromkeys((*_SIDES, "score"), pa.float64())
    try:
        table = arrow_csv.read_csv(
            file,
            read_options=arrow_csv.ReadOptions(column_names=columns),
            convert_options=arrow_csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no file of AVA's form: {error}") from error
    if has_scores:  # written by us, perhaps with names guarded
        names = table["video"].combine_chunks().dictionary_encode()
        originals = pa.array([original_cell(name) for name in names.dictionary.to_pylist()], pa.string())
        table = table.set_column(0, "video", originals.take(names.indices))
    table = table.filter(pc.is_in(table["action"], pa.array(actions, pa.int64())))
    times = table["timestamp"].to_numpy()
    unique, indices = np.unique(times, return_inverse=True)
    texts = pa.array([format_timestamp(float(time)) for time in unique], pa.string()).take(pa.array(indices))
    keys = pc.binary_join_element_wise(table["video"], pa.chunked_array([texts]), ",")
    table = table.append_column("key_frame", keys)
    return table.filter(pc.invert(pc.is_in(table["key_frame"], pa.array(sorted(left_out), pa.string()))))


def _frame_boxes(table: pa.Table, frames: pa.Array) -> FrameBoxes:
    numbers = pc.index_in(table["key_frame"], frames).to_numpy().astype(np.int64)
    boxes = np.stack([table[side].to_numpy() for side in _SIDES], axis=1)
    scores = table["score"].to_numpy() if "score" in table.column_names else None
    # Lines of one box with several actions usually follow each other: merge them, to compare the box only once.
    is_new = np.ones(len(numbers), dtype=bool)
    is_new[1:] = (numbers[1:] != numbers[:-1]) | (boxes[1:] != boxes[:-1]).any(axis=1)
    box_of_entry = np.cumsum(is_new) - 1
    return FrameBoxes(numbers[is_new], boxes[is_new], box_of_entry, table["action"].to_numpy(), scores)


__all__ = ["FrameBoxes", "FrameMeanAveragePrecision", "average_precisions", "integrate_precision", "score_submission"]
