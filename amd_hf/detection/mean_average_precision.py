"""AVA's frame mAP at IoU 0.5, vectorised: the numbers of the official evaluation (ActivityNet, Evaluation/ava).

Within a key frame and class the detections, best first, take the ground-truth box that they overlap most; the first to
take one is right if the overlap is at least 0.5, all others are wrong. Precision is made monotone and integrated over
recall (VOC). Of equal scores the order is by key frame and then by place, read from the end, as the official code does
where its sort keeps the order.

metric = FrameMeanAveragePrecision()                                                      # one process
metric = FrameMeanAveragePrecision(num_process=2, process_id=rank, experiment_id="run")   # several, a shared disk
metric.add_batch(predictions=[{"key_frame": "movie,0902", "boxes": ..., "scores": ...}], references=[...])
metric.compute(class_names={0: "bend", 3: "dance"})                                       # on process 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..evaluation.metrics import _evaluate, _Metric


IOU_THRESHOLD = 0.5
_BOXES_AT_ONCE = 2**18  # compared with the true boxes of their key frames


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes with classes, of detections or of the ground truth. An entry is one class of one box.

    Args:
        frames (`np.ndarray` of shape (boxes,), int64): Number of the key frame of each box, counted in the order of
            the frames' names.
        boxes (`np.ndarray` of shape (boxes, 4), float64): x1 y1 x2 y2 as shares of the frame.
        box_of_entry (`np.ndarray` of shape (entries,), int64): The box of each entry.
        classes (`np.ndarray` of shape (entries,), int64): The class of each entry.
        scores (`np.ndarray` of shape (entries,), float64, *optional*): Of detections.
    """

    frames: np.ndarray
    boxes: np.ndarray
    box_of_entry: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    def of_classes(self) -> dict[int, np.ndarray]:
        """The entries of each class, in their order."""
        if not len(self.classes):
            return {}
        # Of 16-bit numbers numpy's stable sort is a radix sort: a tenth of the time for 24 million.
        narrow = self.classes.astype(np.int16 if self.classes.max() < 2**15 else np.int64)
        order = np.argsort(narrow, kind="stable")
        numbers, starts = np.unique(narrow[order], return_index=True)
        return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))

    def without_excess(self, max_per_frame: int) -> FrameBoxes:
        """Only the entries of the highest scores of each key frame."""
        frames = self.frames[self.box_of_entry]
        order = np.lexsort((-_scores(self), frames))
        starts = np.searchsorted(frames[order], frames[order])
        kept = np.sort(order[np.arange(len(order)) - starts < max_per_frame])
        return FrameBoxes(self.frames, self.boxes, self.box_of_entry[kept], self.classes[kept], _scores(self)[kept])


def average_precisions(
    detections: FrameBoxes, truth: FrameBoxes, max_per_frame: int | None = None
) -> dict[int, float]:
    """Average precision of each class that occurs in the ground truth.

    Args:
        detections, truth ([`FrameBoxes`]): With key frames of the same numbering.
        max_per_frame (`int`, *optional*): Only so many entries of a key frame count, those of the highest scores. The
            current official program takes 50; earlier ones, and VideoMAE's code, took all.

    Raises:
        ValueError: If a score is not finite.
    """
    if not np.isfinite(_scores(detections)).all():
        raise ValueError("A score of a detection is not finite: the model's weights are bad.")
    if max_per_frame is not None:
        detections = detections.without_excess(max_per_frame)
    pairs = _overlapping_pairs(detections, truth)
    entries = detections.of_classes()
    nothing = np.empty(0, dtype=np.int64)
    return {
        number: _average_precision(detections, entries.get(number, nothing), truth, true_entries, pairs)
        for number, true_entries in truth.of_classes().items()
    }


def _scores(boxes: FrameBoxes) -> np.ndarray:
    if boxes.scores is None:
        raise ValueError("Detections need scores.")
    return boxes.scores


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a detected and a true box of one key frame that overlap enough, sorted by detected box."""

    detected: np.ndarray
    true: np.ndarray
    iou: np.ndarray


def _overlapping_pairs(detections: FrameBoxes, truth: FrameBoxes) -> _Pairs:
    order = np.argsort(truth.frames, kind="stable")
    starts = np.searchsorted(truth.frames[order], detections.frames, side="left")
    counts = np.searchsorted(truth.frames[order], detections.frames, side="right") - starts
    parts = []
    for first in range(0, len(counts), _BOXES_AT_ONCE):
        part = slice(first, first + _BOXES_AT_ONCE)
        detected = np.repeat(np.arange(first, first + len(counts[part])), counts[part])
        place = np.arange(len(detected)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        true = order[np.repeat(starts[part], counts[part]) + place]
        iou = box_iou(detections.boxes[detected], truth.boxes[true])
        enough = iou >= IOU_THRESHOLD
        parts.append((detected[enough], true[enough], iou[enough]))
    if not parts:
        return _Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return _Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4), pair by pair; 0 where both are empty."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _average_precision(
    detections: FrameBoxes, entries: np.ndarray, truth: FrameBoxes, true_entries: np.ndarray, pairs: _Pairs
) -> float:
    """Average precision of one class, from the entries of it."""
    boxes = detections.boxes[detections.box_of_entry[entries]]
    entries = entries[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]  # empty boxes are not detections
    frames = detections.frames[detections.box_of_entry[entries]]
    entries = entries[np.lexsort((-_scores(detections)[entries], frames))]  # frame by frame, best first
    is_right = _right_entries(detections, entries, truth, true_entries, pairs)
    ranking = np.argsort(_scores(detections)[entries], kind="stable")[::-1]
    return integrate_precision(is_right[ranking], len(true_entries))


def _right_entries(
    detections: FrameBoxes, entries: np.ndarray, truth: FrameBoxes, true_entries: np.ndarray, pairs: _Pairs
) -> np.ndarray:
    """Which of the entries of a class, frame by frame and best first, are right: bool (entries,)."""
    # One true box may be listed several times with the same class: each entry is to be found.
    true_boxes = truth.box_of_entry[true_entries]
    taken = np.full(len(truth.frames), -1)
    taken[true_boxes[::-1]] = true_entries[::-1]  # the first entry of each box
    relevant = taken[pairs.true] >= 0
    detected, iou, target = pairs.detected[relevant], pairs.iou[relevant], taken[pairs.true[relevant]]
    best_first = np.lexsort((target, -iou, detected))
    _, first = np.unique(detected[best_first], return_index=True)
    best = best_first[first]
    target_of_box = np.full(len(detections.frames), -1)
    target_of_box[detected[best]] = target[best]
    targets = target_of_box[detections.box_of_entry[entries]]
    is_right = np.zeros(len(entries), dtype=bool)
    candidates = np.flatnonzero(targets >= 0)
    _, first = np.unique(targets[candidates], return_index=True)
    is_right[candidates[first]] = True
    return is_right


def integrate_precision(is_right: np.ndarray, num_true: int) -> float:
    """Area under the monotone precision over recall, of detections (n,) best first, `num_true` to be found."""
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
    predictions: per key frame `key_frame` (a name of its own), `boxes` (n, 4) as shares of the frame, and `scores`
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
        return _evaluate.MetricInfo(
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
        table = self.data.with_format("arrow")[:]  # as Python lists 24 million scores would take gigabytes
        detected, true = (_struct_columns(table[name]) for name in ("predictions", "references"))
        names = detected["key_frame"].to_pylist()
        if len(set(names)) != len(names):
            raise ValueError("A key frame was added twice: each counts once.")
        rank = np.empty(len(names), dtype=np.int64)
        rank[np.argsort(np.array(names, dtype=str), kind="stable")] = np.arange(len(names))
        detections = _detections_of(detected, rank)
        truth = _truth_of(true, rank)
        return mean_of(average_precisions(detections, truth, max_per_frame), class_names)


def mean_of(found: Mapping[int, float], class_names: Mapping[int, str]) -> dict[str, Any]:
    """The result of the metric from the average precisions of classes."""
    of_classes = {name: found.get(number, float("nan")) for number, name in class_names.items()}
    known = [value for value in of_classes.values() if not np.isnan(value)]
    return {"map": float(np.mean(known)) if known else float("nan"), "average_precision": of_classes}


def _struct_columns(column: Any) -> dict[str, Any]:
    struct = column.combine_chunks()
    return {field.name: struct.field(field.name) for field in struct.type}


def _detections_of(columns: dict[str, Any], rank: np.ndarray) -> FrameBoxes:
    frames, boxes = _boxes_of(columns["boxes"], rank)
    scores, num_scores = _flat(columns["scores"])
    if len(num_scores) != len(frames):
        raise ValueError(f"There are {len(frames)} boxes but {len(num_scores)} rows of scores.")
    box_of_entry = np.repeat(np.arange(len(frames)), num_scores)
    classes = np.arange(len(scores)) - np.repeat(np.cumsum(num_scores) - num_scores, num_scores)
    told = ~np.isnan(scores)
    if told.all():
        return FrameBoxes(frames, boxes, box_of_entry, classes, scores)
    return FrameBoxes(frames, boxes, box_of_entry[told], classes[told], scores[told])


def _truth_of(columns: dict[str, Any], rank: np.ndarray) -> FrameBoxes:
    frames, boxes = _boxes_of(columns["boxes"], rank)
    actions, num_actions = _flat(columns["actions"])
    if len(num_actions) != len(frames):
        raise ValueError(f"There are {len(frames)} true boxes but {len(num_actions)} lists of actions.")
    return FrameBoxes(frames, boxes, np.repeat(np.arange(len(frames)), num_actions), actions.astype(np.int64))


def _boxes_of(lists: Any, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame of each box (n,), and boxes (n, 4)."""
    sides, num_sides = _flat(lists)
    if (num_sides != 4).any():
        raise ValueError("A box does not have four sides x1 y1 x2 y2.")
    counts = lists.value_lengths().to_numpy(zero_copy_only=False)
    return np.repeat(rank, counts), sides.reshape(-1, 4)


def _flat(lists: Any) -> tuple[np.ndarray, np.ndarray]:
    """Lists of lists of numbers as all numbers, and how many each inner list holds."""
    inner = lists.flatten()
    return inner.flatten().to_numpy(zero_copy_only=False), inner.value_lengths().to_numpy(zero_copy_only=False)


__all__ = ["FrameBoxes", "FrameMeanAveragePrecision", "average_precisions", "integrate_precision"]
