"""Collators: rows in, batches out. They run inside the workers, so decoding is done there too.

An unreadable video leaves a hole in a training batch. Further repetitions of the batch's other videos fill it, so
shapes stay; in evaluation nothing is replaced. This module is the one place of training where `VideoReadError` is
caught and counted.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .clips import ClipLoader
from .video.decoding import VideoReadError


Row = Mapping[str, Any]
MaskFunction = Callable[[np.random.Generator], tuple[torch.Tensor, "torch.Tensor | None"]]


@dataclass(frozen=True)
class _Sample:
    """One clip of a batch and where it comes from."""

    row: Row
    repetition: int
    clip: torch.Tensor  # (T, C, H, W), uint8
    label: Any


@dataclass
class _Batch:
    samples: list[_Sample] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # (video_id, reason)


def _load_batch(loader: ClipLoader, rows: Sequence[Row], training: bool) -> _Batch:
    """Load the clips of all rows in order, K each, holes filled when training; no samples where that is impossible."""
    batch = _Batch()
    repetitions = range(loader.repetitions if training else 1)
    per_row = [_load_row(loader, row, repetitions, training, batch.unreadable) for row in rows]
    if training:
        _fill_holes(loader, rows, per_row, batch.unreadable)
    batch.samples = [sample for samples in per_row for sample in samples]
    if training and len(batch.samples) < len(rows) * loader.repetitions:
        batch.samples = []
    return batch


def _load_row(
    loader: ClipLoader, row: Row, repetitions: Sequence[int], training: bool, unreadable: list[tuple[str, str]]
) -> list[_Sample]:
    try:
        clips, labels = loader.load_with_labels(row, repetitions, training)
    except VideoReadError as error:
        unreadable.append((row["video_id"], error.reason))
        return []
    return [_Sample(row, *parts) for parts in zip(repetitions, clips, labels, strict=True)]


def _fill_holes(
    loader: ClipLoader, rows: Sequence[Row], per_row: list[list[_Sample]], unreadable: list[tuple[str, str]]
) -> None:
    """Fill the empty lists of `per_row` with repetitions K, K + 1, ... of the readable videos, taken in turn."""
    donors = deque((row, loader.repetitions) for row, samples in zip(rows, per_row, strict=True) if samples)
    for samples in per_row:
        while len(samples) < loader.repetitions and donors:
            row, repetition = donors.popleft()
            filling = _load_row(loader, row, [repetition], True, unreadable)
            samples.extend(filling)
            if filling:  # a video that has become unreadable since gives no more
                donors.append((row, repetition + 1))


def _outcome(rows: Sequence[Row], batch: _Batch) -> dict[str, Any]:
    """The part that all batches share. `pixel_values` is None where nothing could be read: skip such a batch."""
    clips = torch.stack([sample.clip for sample in batch.samples]) if batch.samples else None
    return {"pixel_values": clips, "num_tried": len(rows), "unreadable": batch.unreadable}


@dataclass(frozen=True)
class PreTrainingCollator:
    """Makes batches for masked pre-training: uint8 clips and their masks.

    Args:
        loader (`ClipLoader`): reads the clips.
        mask_generator (callable): `masking.MaskGenerator` or the like: `(generator) -> (student mask, teacher mask or
            None)`, bool (N,), True = masked, with the attributes `num_masked` and `num_teacher_masked`.
        training (`bool`, defaults to `True`): False takes the middle clip, the centre crop, and masks that stay the
            same from epoch to epoch, and replaces no unreadable video.

    Calling it on rows returns a dict:
        - `pixel_values`: (B * K, T, C, H, W), uint8. None when no video could be read; then only the counts follow.
        - `bool_masked_pos`: (B * K, N), bool; `teacher_bool_masked_pos` likewise, absent without a teacher.
        - `num_masked`, `num_teacher_masked`: `int`, masked tokens in each row of the masks.
        - `num_tried`: `int`, videos tried. `unreadable`: list of (video_id, reason).
    """

    loader: ClipLoader
    mask_generator: MaskFunction
    training: bool = True

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch = _load_batch(self.loader, rows, self.training)
        return _outcome(rows, batch) | (self._masks(batch.samples) if batch.samples else {})

    def _masks(self, samples: list[_Sample]) -> dict[str, Any]:
        student_masks, teacher_masks = zip(*(self.mask_generator(self._generator(s)) for s in samples), strict=True)
        masks: dict[str, Any] = {
            "bool_masked_pos": torch.stack(student_masks),
            "num_masked": self.mask_generator.num_masked,  # type: ignore[attr-defined]
        }
        _check_count("bool_masked_pos", masks["bool_masked_pos"], masks["num_masked"])
        if teacher_masks[0] is None:
            return masks
        masks["teacher_bool_masked_pos"] = torch.stack(teacher_masks)
        masks["num_teacher_masked"] = self.mask_generator.num_teacher_masked  # type: ignore[attr-defined]
        _check_count("teacher_bool_masked_pos", masks["teacher_bool_masked_pos"], masks["num_teacher_masked"])
        _check_nested(masks["bool_masked_pos"], masks["teacher_bool_masked_pos"])
        return masks

    def _generator(self, sample: _Sample) -> np.random.Generator:
        row = sample.row if self.training else {**sample.row, "epoch": 0}
        return self.loader.generator(row, sample.repetition, "mask")


def _check_count(name: str, masks: torch.Tensor, num_masked: int) -> None:
    for row, count in enumerate(masks.sum(dim=1).tolist()):
        if count != num_masked:
            raise ValueError(
                f"Row {row} of `{name}` masks {count} tokens, but the mask generator promises "
                f"{num_masked} in each row."
            )


def _check_nested(student_masks: torch.Tensor, teacher_masks: torch.Tensor) -> None:
    for row, count in enumerate((teacher_masks & ~student_masks).sum(dim=1).tolist()):
        if count:
            raise ValueError(
                f"Row {row} of `teacher_bool_masked_pos` masks {count} tokens that the student sees. What the teacher "
                "hides the student must hide too."
            )


@dataclass(frozen=True)
class ClassificationCollator:
    """Makes batches for classification: uint8 clips and their labels.

    Args:
        loader (`ClipLoader`): reads the clips.
        training (`bool`, defaults to `True`): False takes the middle clip and the centre crop once per video, and
            leaves unreadable videos out.
        num_labels (`int`, *optional*): classes of the model. A row with another label counts as unreadable: in a
            stream nobody sees the labels beforehand.

    Calling it on rows returns a dict:
        - `pixel_values`: (B * K, T, C, H, W), uint8. None when no video could be read; then only the counts follow.
        - `labels`: (B * K,), int64.
        - `erase_boxes`: (B * K, 4), int64, and `erase_seeds`: (B * K,), int64, for `erasing.erase_clips`; only when
          training with an `erase_probability`.
        - `num_tried`: `int`, videos tried. `unreadable`: list of (video_id, reason).

    Raises:
        ValueError: a row without a label.
    """

    loader: ClipLoader
    training: bool = True
    num_labels: int | None = None

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        unlabelled = [row["video_id"] for row in rows if row.get("label") is None]
        if unlabelled:
            raise ValueError(
                f"{len(unlabelled)} of {len(rows)} videos of a batch have no label, the first is {unlabelled[0]!r}. "
                "Classification needs class folders, a list file with labels, or the column that holds them: "
                "`--label_column NAME` (Python: `label_column=`)."
            )
        if self.num_labels is not None:
            rows = [_with_fault(row, self.num_labels) for row in rows]
        batch = _load_batch(self.loader, rows, self.training)
        outcome = _outcome(rows, batch)
        if batch.samples:
            outcome["labels"] = torch.tensor([int(sample.label) for sample in batch.samples], dtype=torch.int64)
            if self.training and self.loader.erase_probability > 0:
                outcome |= self._erasing(batch.samples)
        return outcome

    def _erasing(self, samples: list[_Sample]) -> dict[str, torch.Tensor]:
        drawn = [self.loader.draw_erasing(sample.row, sample.repetition) for sample in samples]
        return {
            "erase_boxes": torch.tensor([box for box, _ in drawn], dtype=torch.int64),
            "erase_seeds": torch.tensor([seed for _, seed in drawn], dtype=torch.int64),
        }


def _with_fault(row: Row, num_labels: int) -> Row:
    """The row; where its label is none of the model's, as one whose video cannot be read."""
    label, video = row["label"], row["video"]
    if isinstance(video, Mapping) and video.get("fault") is not None:
        return row
    try:
        is_one = not isinstance(label, bool) and 0 <= operator.index(label) < num_labels
    except (TypeError, ValueError):  # a text, a fraction, a list
        is_one = False
    return row if is_one else {**row, "video": {"fault": f"the label {label!r:.100} is none of {num_labels} classes"}}


BUILT_IN_COLLATORS = (PreTrainingCollator, ClassificationCollator)
"""Those that take rows of videos; another one may want rows of its own."""
