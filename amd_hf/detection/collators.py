"""Collators of action detection: rows of key frames in, batches out. They run inside the loading workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data.clips import load_batch
from ..data.video.decoding import VideoReadError
from .clips import DetectionClipLoader, boxes_to_test


Row = Mapping[str, Any]


@dataclass(frozen=True)
class DetectionCollator:
    """Makes training batches: clips of one size, their boxes and actions.

    An unreadable video leaves a hole that further repetitions of the batch's other clips fill, as in the other
    collators.

    Args:
        loader (`DetectionClipLoader`): reads the clips.

    Calling it on rows returns a dict:
        - `pixel_values`: (B * K, T, C, S, S), uint8. None when no video could be read; then only the counts follow.
        - `boxes`: list of B * K tensors (n, 4), float32, in pixels; n may be 0.
        - `labels`: list of B * K tensors (n, classes), float32, multi-hot.
        - `num_tried`: `int`, key frames tried. `unreadable`: list of (video_id, reason).

    Raises:
        ValueError: a row without actions.
    """

    loader: DetectionClipLoader

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        for row in rows:
            if row.get("actions") is None:
                raise ValueError(f"Key frame {row['video_id']!r} has no actions: training needs annotated boxes.")
        batch = load_batch(self.loader, rows, True)  # type: ignore[arg-type]  # a loader by its `load_with_labels`
        outcome = batch.outcome()
        if batch.samples:
            outcome["boxes"] = [sample.label.boxes for sample in batch.samples]
            outcome["labels"] = [sample.label.labels for sample in batch.samples]
        return outcome


@dataclass(frozen=True)
class DetectionTestCollator:
    """Makes evaluation batches, clips of their own sizes; each row is there once, readable or not.

    Calling it on rows returns a dict:
        - `samples`: for each row a dict of `video_id`, `test_boxes` (n, 4) and `person_scores` (n,), `boxes` (m, 4)
          and `actions` of the ground truth, and either `clip`, the `EvaluationClip`, or `reason`, why it cannot be
          read. A key frame without boxes to test is not read and has neither.
        - `num_tried`: `int`, key frames tried. `unreadable`: list of (video_id, reason).
    """

    loader: DetectionClipLoader

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        samples = [self._load(row) for row in rows]
        unreadable = [(sample["video_id"], sample["reason"]) for sample in samples if "reason" in sample]
        return {"samples": samples, "num_tried": len(rows), "unreadable": unreadable}

    def _load(self, row: Row) -> dict[str, Any]:
        boxes, scores = boxes_to_test(row)
        sample = {"video_id": row["video_id"], "test_boxes": boxes, "person_scores": scores}
        sample |= {"boxes": row.get("boxes") or [], "actions": row.get("actions") or []}
        if not len(boxes):
            return sample
        try:
            return sample | {"clip": self.loader.load_for_evaluation(row)}
        except VideoReadError as error:
            return sample | {"reason": error.reason}


def pad_to_multiple(clip: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros to the right of and below float frames (..., H, W), up to multiples of `multiple` pixels."""
    height, width = clip.shape[-2:]
    return torch.nn.functional.pad(clip, (0, -width % multiple, 0, -height % multiple))
