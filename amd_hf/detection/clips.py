"""Batches of clips with their boxes and actions, from the rows of an action data set.

The loader reads one clip; the collators make batches. Both run inside the workers of a data loader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.augment.hsv import draw_hsv_shift, shift_hsv
from ..data.augment.transforms import resize_short_side
from ..data.clips import load_batch, sample_generator
from ..data.video.decoding import DecodedVideoCache, VideoReadError
from ..data.video.key_frames import clip_offsets, read_around
from .boxes import crop_boxes, extend_boxes, flip_boxes, fractions_to_pixels, jitter_boxes, resize_boxes


Row = Mapping[str, Any]


class Regions(NamedTuple):
    """Boxes of a training clip in pixels, (n, 4), and their actions, (n, classes), both float32."""

    boxes: torch.Tensor
    labels: torch.Tensor


class EvaluationClip(NamedTuple):
    """A test clip: uint8 (T, C, H, W), and its extended boxes in pixels, (n, 4), float32."""

    pixel_values: torch.Tensor
    boxes: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class DetectionClipLoader:
    """Read the clip around a key frame. Runs in the workers of a data loader and holds no open file.

    Training: resize the short side to `short_side`, cut a random region of `crop_size` x `crop_size`, drop boxes
    outside of it, shift the colours, mirror the clip or not, take at most `max_boxes` boxes and jitter each. Testing:
    take the whole frame and extend the boxes. Random numbers depend only on (`seed`, the row's `epoch` and `video_id`,
    the repetition).

    Args:
        num_frames, sampling_rate (`int`): frames of a clip, and the distance between them.
        num_labels (`int`): classes.
        crop_size (`int`): side of training clips, in pixels.
        short_side (`int`, defaults to 256): short side that frames are resized to; the long one has no limit.
        flip_probability (`float`, defaults to 0.5): fraction of training clips mirrored left to right.
        hue_shift, saturation_shift, value_shift (`float`): largest shift of the colours, in degrees and fractions.
        max_boxes (`int`, defaults to 100): most boxes of a training clip.
        repetitions (`int`, defaults to 1): training clips per key frame and epoch.
        seed (`int`, defaults to 0): the run's seed.
        decoder, num_threads, cache: see `decoding.open_video`.
        decode_time_limit (`float`, *optional*): seconds a file may take: its `time_limit`.
    """

    num_frames: int
    sampling_rate: int
    num_labels: int
    crop_size: int
    short_side: int = 256
    flip_probability: float = 0.5
    hue_shift: float = 20.0
    saturation_shift: float = 0.1
    value_shift: float = 0.1
    max_boxes: int = 100
    repetitions: int = 1
    seed: int = 0
    decoder: str | None = None
    decode_time_limit: float | None = None
    num_threads: int = 1
    cache: DecodedVideoCache | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "sampling_rate", "num_labels", "crop_size", "max_boxes", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not {getattr(self, name)}.")
        if self.crop_size > self.short_side:
            raise ValueError(f"`short_side` {self.short_side} must be at least `crop_size` {self.crop_size}.")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"`flip_probability` must lie between 0 and 1, not {self.flip_probability}.")

    def load_with_labels(
        self, row: Row, repetitions: Sequence[int] | None = None, training: bool = True
    ) -> tuple[torch.Tensor, list[Regions]]:
        """Read a row's clip once and make training clips of it.

        Args:
            row (mapping): `video`, `video_id`, `timestamp`, `boxes` (n, 4) as fractions of the frame, `actions` (for
                each box the numbers of its classes), and perhaps `epoch`.
            repetitions (sequence of `int`, *optional*): numbers of the repetitions; by default 0..K - 1.
            training (`bool`, defaults to `True`): must stay true; [`load_for_evaluation`] makes the others.

        Returns:
            uint8 (K, T, C, S, S), and the [`Regions`] of each.

        Raises:
            VideoReadError: the video cannot be read.
        """
        if not training:
            raise ValueError("Test clips differ in size: use `load_for_evaluation`.")
        clip, boxes = self._read(row, np.array(row["boxes"], dtype=np.float64))
        numbers = range(self.repetitions) if repetitions is None else repetitions
        clips, regions = zip(*(self._augment(clip, boxes, row, number) for number in numbers), strict=True)
        return torch.stack(clips), list(regions)

    def load_for_evaluation(self, row: Row) -> EvaluationClip:
        """Read a row's clip and the boxes to test: `person_boxes` if it has them, else the true boxes.

        Raises:
            VideoReadError: the video cannot be read.
        """
        clip, boxes = self._read(row, boxes_to_test(row)[0])
        height, width = clip.shape[-2:]
        # Copy into memory order here, in the worker, rather than in the process that runs the model.
        return EvaluationClip(clip.contiguous(), extend_boxes(torch.from_numpy(boxes).float(), height, width))

    def generator(self, row: Row, repetition: int, purpose: str) -> np.random.Generator:
        """Make the random generator of one repetition of a row for one purpose."""
        return sample_generator(self.seed, row.get("epoch", 0), row["video_id"], repetition, purpose)

    def _read(self, row: Row, boxes: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Return the resized frames, uint8 (T, C, H, W), and boxes of it in pixels from fractions of the frame."""
        frames = read_around(
            row["video"],
            row["timestamp"],
            clip_offsets(self.num_frames, self.sampling_rate),
            video_id=row["video_id"],
            decoder=self.decoder,
            num_threads=self.num_threads,
            cache=self.cache,
            time_limit=self.decode_time_limit,
        )
        height, width = frames.shape[1:3]
        clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # (T, H, W, C) -> (T, C, H, W)
        if min(height, width) != self.short_side:
            clip = resize_short_side(clip, self.short_side)
        # First to pixels of the decoded frame: x2 and y2 are the last pixels inside, and resizing scales those.
        pixels = fractions_to_pixels(boxes, height, width)
        return clip, resize_boxes(pixels, (height, width), (clip.shape[-2], clip.shape[-1]))

    def _augment(
        self, clip: torch.Tensor, boxes: np.ndarray, row: Row, repetition: int
    ) -> tuple[torch.Tensor, Regions]:
        # One generator per purpose: turning colours or mirroring off does not change the other draws.
        generator = self.generator(row, repetition, "crop")
        size = self.crop_size
        # As in VideoMAE's code: never the last possible corner, unless there is only one.
        top, left = (int(generator.random() * (side - size)) for side in clip.shape[-2:])
        clip = clip[..., top : top + size, left : left + size]
        boxes, is_inside = crop_boxes(boxes, top, left, size, size)
        labels = np.zeros((len(row["actions"]), self.num_labels), dtype=np.float32)  # multi-hot
        for of_box, classes in zip(labels, row["actions"], strict=True):
            of_box[list(classes)] = 1
        labels = labels[is_inside]

        shifts = (self.hue_shift, self.saturation_shift, self.value_shift)
        if any(shifts):
            clip = shift_hsv(clip, draw_hsv_shift(*shifts, self.generator(row, repetition, "colour")))
        if self.generator(row, repetition, "flip").random() < self.flip_probability:
            clip, boxes = clip.flip(-1), flip_boxes(boxes, size)

        # After the crop, so that boxes outside of it do not use up `max_boxes`.
        generator = self.generator(row, repetition, "boxes")
        if len(boxes) > self.max_boxes:
            chosen = generator.permutation(len(boxes))[: self.max_boxes]
            boxes, labels = boxes[chosen], labels[chosen]
        boxes = jitter_boxes(boxes, size, size, generator)
        return clip.contiguous(), Regions(torch.from_numpy(boxes).float(), torch.from_numpy(labels))


def boxes_to_test(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes to test, (n, 4), as fractions of the frame, and person scores, (n,): true boxes score 1."""
    boxes, scores = row.get("person_boxes"), row.get("person_scores")
    if boxes is None:
        boxes, scores = row["boxes"], [1.0] * len(row["boxes"])
    # Reshaped, since an array of no boxes has the shape (0,).
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)


@dataclass(frozen=True)
class DetectionCollator:
    """Make training batches: clips of one size, their boxes and actions.

    Further repetitions of the batch's other clips replace an unreadable video, as in the other collators.

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
    """Make evaluation batches of clips of different sizes; each row is in them once, readable or not.

    Calling it on rows returns a dict:
        - `samples`: for each row a dict of `video_id`, `test_boxes` (n, 4) and `person_scores` (n,), `boxes` (m, 4)
          and `actions` of the ground truth, and either `clip`, the `EvaluationClip`, or `reason`, why it cannot be
          read. A key frame without boxes to test is not read and has neither.
        - `num_tried`: `int`, key frames tried. `unreadable`: list of (video_id, reason).
    """

    loader: DetectionClipLoader

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        samples: list[dict[str, Any]] = []
        for row in rows:
            boxes, scores = boxes_to_test(row)
            sample = {"video_id": row["video_id"], "test_boxes": boxes, "person_scores": scores}
            sample |= {"boxes": row.get("boxes") or [], "actions": row.get("actions") or []}
            if len(boxes):  # without boxes there is nothing to score, so decoding would be wasted
                try:
                    sample["clip"] = self.loader.load_for_evaluation(row)
                except VideoReadError as error:
                    sample["reason"] = error.reason
            samples.append(sample)
        unreadable = [(sample["video_id"], sample["reason"]) for sample in samples if "reason" in sample]
        return {"samples": samples, "num_tried": len(rows), "unreadable": unreadable}
