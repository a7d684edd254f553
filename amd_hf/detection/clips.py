"""From a row of an action data set to a clip, its boxes and their actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.augment.hsv import draw_hsv_shift, shift_hsv
from ..data.augment.transforms import resize_short_side
from ..data.clips import sample_generator
from ..data.video.decoding import DecodedVideoCache
from ..data.video.key_frames import clip_offsets, read_around
from .boxes import crop_boxes, extend_boxes, flip_boxes, jitter_boxes, resize_boxes, shares_to_pixels


class Regions(NamedTuple):
    """Boxes of a training clip in pixels, (n, 4), and their actions, (n, classes), both float32."""

    boxes: torch.Tensor
    labels: torch.Tensor


class EvaluationClip(NamedTuple):
    """A clip as it is tested: uint8 (T, C, H, W), and its boxes, extended, in pixels, (n, 4), float32."""

    pixel_values: torch.Tensor
    boxes: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class DetectionClipLoader:
    """Reads the clip around a key frame. Runs in the workers of a data loader and holds no open file.

    In training: the short side is resized to `short_side`, a region of `crop_size` x `crop_size` is cut at random and
    boxes with it (those outside are left out), colours are shifted, the clip is mirrored or not, at most `max_boxes`
    boxes are taken and each is jittered. In testing the whole frame is taken and boxes are extended. All draws depend
    on (`seed`, the row's `epoch` and `video_id`, the repetition) alone.

    Args:
        num_frames, sampling_rate (`int`): frames of a clip, and the distance between them.
        num_labels (`int`): classes.
        crop_size (`int`): side of training clips, in pixels.
        short_side (`int`, defaults to 256): short side that frames are resized to; the long one has no limit.
        flip_probability (`float`, defaults to 0.5): share of training clips mirrored left to right.
        hue_shift, saturation_shift, value_shift (`float`): largest shift of the colours, in degrees and shares.
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
        self, row: Mapping[str, Any], repetitions: Sequence[int] | None = None, training: bool = True
    ) -> tuple[torch.Tensor, list[Regions]]:
        """Read a row's clip once and make training clips of it.

        Args:
            row (mapping): `video`, `video_id`, `timestamp`, `boxes` (n, 4) as shares of the frame, `actions` (for each
                box the numbers of its classes), and perhaps `epoch`.
            repetitions (sequence of `int`, *optional*): numbers of the repetitions; by default 0..K - 1.
            training (`bool`, defaults to `True`): must stay true; [`load_for_evaluation`] makes the others.

        Returns:
            uint8 (K, T, C, S, S), and the [`Regions`] of each.

        Raises:
            VideoReadError: the video cannot be read.
        """
        if not training:
            raise ValueError("Clips for testing have sizes of their own: see `load_for_evaluation`.")
        frames = self._frames(row)
        numbers = range(self.repetitions) if repetitions is None else repetitions
        clips, regions = zip(*(self._augment(frames, row, number) for number in numbers), strict=True)
        return torch.stack(clips), list(regions)

    def load_for_evaluation(self, row: Mapping[str, Any]) -> EvaluationClip:
        """Read a row's clip and the boxes to test: `person_boxes` where it has them, else the true ones.

        Raises:
            VideoReadError: the video cannot be read.
        """
        frames = self._frames(row)
        clip = self._resized(frames)
        boxes = self._boxes(boxes_to_test(row)[0], frames, clip)
        height, width = clip.shape[-2:]
        return EvaluationClip(clip.contiguous(), extend_boxes(torch.from_numpy(boxes).float(), height, width))

    def generator(self, row: Mapping[str, Any], repetition: int, purpose: str) -> np.random.Generator:
        """Make the random generator of one repetition of a row for one purpose."""
        return sample_generator(self.seed, row.get("epoch", 0), row["video_id"], repetition, purpose)

    def _frames(self, row: Mapping[str, Any]) -> np.ndarray:
        return read_around(
            row["video"],
            row["timestamp"],
            clip_offsets(self.num_frames, self.sampling_rate),
            video_id=row["video_id"],
            decoder=self.decoder,
            num_threads=self.num_threads,
            cache=self.cache,
            time_limit=self.decode_time_limit,
        )

    def _resized(self, frames: np.ndarray) -> torch.Tensor:
        clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return clip if min(clip.shape[-2:]) == self.short_side else resize_short_side(clip, self.short_side)

    def _boxes(self, shares: np.ndarray, frames: np.ndarray, clip: torch.Tensor) -> np.ndarray:
        old, new = frames.shape[1:3], clip.shape[-2:]
        return resize_boxes(shares_to_pixels(shares, *old), (old[0], old[1]), (new[0], new[1]))

    def _augment(self, frames: np.ndarray, row: Mapping[str, Any], repetition: int) -> tuple[torch.Tensor, Regions]:
        clip = self._resized(frames)
        boxes = self._boxes(np.array(row["boxes"], dtype=np.float64), frames, clip)
        generator = self.generator(row, repetition, "crop")
        size = self.crop_size
        # Never at the last place but where there is only one, as that code draws.
        top, left = (int(generator.random() * (side - size)) for side in clip.shape[-2:])
        clip = clip[..., top : top + size, left : left + size]
        boxes, is_inside = crop_boxes(boxes, top, left, size, size)
        labels = multi_hot(row["actions"], self.num_labels)[is_inside]

        shifts = (self.hue_shift, self.saturation_shift, self.value_shift)
        if any(shifts):
            clip = shift_hsv(clip, draw_hsv_shift(*shifts, self.generator(row, repetition, "colour")))
        if self.generator(row, repetition, "flip").random() < self.flip_probability:
            clip, boxes = clip.flip(-1), flip_boxes(boxes, size)

        generator = self.generator(row, repetition, "boxes")
        if len(boxes) > self.max_boxes:
            chosen = generator.permutation(len(boxes))[: self.max_boxes]
            boxes, labels = boxes[chosen], labels[chosen]
        boxes = jitter_boxes(boxes, size, size, generator)
        return clip.contiguous(), Regions(torch.from_numpy(boxes).float(), torch.from_numpy(labels))


def multi_hot(actions: Sequence[Sequence[int]], num_labels: int) -> np.ndarray:
    """Lists of class numbers as float32 (boxes, classes), 1 for each class of a box and else 0."""
    labels = np.zeros((len(actions), num_labels), dtype=np.float32)
    for row, classes in zip(labels, actions, strict=True):
        row[list(classes)] = 1
    return labels


def boxes_to_test(row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The boxes to test, (n, 4), as shares of the frame, and the person scores, (n,): the true boxes score 1."""
    boxes, scores = row.get("person_boxes"), row.get("person_scores")
    if boxes is None:
        boxes, scores = row["boxes"], [1.0] * len(row["boxes"])
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)
