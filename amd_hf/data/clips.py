"""From a row to clips: one decode serves all repetitions of a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from .decoding import DecodedVideoCache, open_video
from .sampling import SAMPLING_MODES, sample_clip, sample_generator
from .transforms import (
    center_crop_clip,
    multi_scale_crop_box,
    random_resized_crop_box,
    resize_crop,
    resize_short_side,
)


AUGMENTATIONS = ("multi_scale_crop", "random_resized_crop", "center_crop")

ClipAugmentation = Callable[[torch.Tensor, Any, np.random.Generator], tuple[torch.Tensor, Any]]
"""`(clip, label, generator) -> (clip, label)`, the clip uint8 (T, C, H, W) before the crop."""


@dataclass(frozen=True, kw_only=True)
class ClipLoader:
    """Turns a row into uint8 clips. Runs in the workers of a data loader and holds no open file.

    What a training clip looks like depends on (`seed`, the row's `epoch` and `video_id`, the repetition) alone.

    Args:
        num_frames (`int`): frames of a clip.
        sampling_rate (`int`): distance between them; see `sampling`.
        image_size (`int`): height and width of the clips, in pixels.
        sampling_mode (`str`, defaults to `"dense"`): `dense`, `spread` or `segments`.
        augmentation (`str`, defaults to `"multi_scale_crop"`): crop of training clips: `multi_scale_crop`
            (pre-training), `random_resized_crop` (fine-tuning) or `center_crop` (none).
        flip_probability (`float`, defaults to 0): share of training clips mirrored left to right, after the crop.
        clip_augmentation (callable, *optional*): `(clip, label, generator) -> (clip, label)`, applied to training
            clips before the crop; may change the label, as a mirrored motion to the left is one to the right.
        repetitions (`int`, defaults to 1): training clips per video and epoch, K.
        seed (`int`, defaults to 0): the run's seed.
        decoder (`str`, *optional*): see `decoding.open_video`.
        num_threads (`int`, defaults to 1): decoder threads.
        cache (`DecodedVideoCache`, *optional*): keeps the decoded videos of a small data set.
    """

    num_frames: int
    sampling_rate: int
    image_size: int
    sampling_mode: str = "dense"
    augmentation: str = "multi_scale_crop"
    flip_probability: float = 0.0
    clip_augmentation: ClipAugmentation | None = None
    repetitions: int = 1
    seed: int = 0
    decoder: str | None = None
    num_threads: int = 1
    cache: DecodedVideoCache | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "sampling_rate", "image_size", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not {getattr(self, name)}.")
        if self.sampling_mode not in SAMPLING_MODES:
            raise ValueError(f"`sampling_mode` must be one of {list(SAMPLING_MODES)}, not {self.sampling_mode!r}.")
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"`augmentation` must be one of {list(AUGMENTATIONS)}, not {self.augmentation!r}.")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"`flip_probability` must lie between 0 and 1, not {self.flip_probability}.")

    def load(
        self, row: Mapping[str, Any], repetitions: Sequence[int] | None = None, training: bool = True
    ) -> torch.Tensor:
        """Decode a row's video once and make its clips.

        Args:
            row (mapping): `video`, `video_id` and, if it is there, `label` and `epoch` (0 where absent).
            repetitions (sequence of `int`, *optional*): numbers of the repetitions; by default 0..K - 1.
            training (`bool`, defaults to `True`): draw frames and crop. False takes the middle clip and the centre
                crop, whatever the repetition.

        Returns:
            `torch.Tensor` of shape (K, T, C, H, W), uint8.

        Raises:
            VideoReadError: the video cannot be read.
        """
        return self.load_with_labels(row, repetitions, training)[0]

    def load_with_labels(
        self, row: Mapping[str, Any], repetitions: Sequence[int] | None = None, training: bool = True
    ) -> tuple[torch.Tensor, list[Any]]:
        """Like `load`, with the label of each clip, which `clip_augmentation` may have changed."""
        if repetitions is None:
            repetitions = range(self.repetitions if training else 1)
        clips, labels = [], []
        for repetition, clip in zip(repetitions, self._decode(row, repetitions, training), strict=True):
            label = row.get("label")
            if training and self.clip_augmentation is not None:
                clip, label = self.clip_augmentation(clip, label, self.generator(row, repetition, "clip_augmentation"))
            clips.append(self._crop(clip, self.generator(row, repetition, "crop") if training else None))
            labels.append(label)
        return torch.stack(clips), labels

    def generator(self, row: Mapping[str, Any], repetition: int, purpose: str) -> np.random.Generator:
        """Make the random generator of one repetition of a row for one purpose."""
        return sample_generator(self.seed, row.get("epoch", 0), row["video_id"], repetition, purpose)

    def _decode(self, row: Mapping[str, Any], repetitions: Sequence[int], training: bool) -> list[torch.Tensor]:
        """Read the union of the frames of all repetitions; returns a view or copy (T, C, H, W) for each."""
        with open_video(
            row["video"], self.decoder, self.num_threads, video_id=row["video_id"], cache=self.cache
        ) as video:
            indices = np.stack([self._frame_indices(len(video), row, number, training) for number in repetitions])
            unique, positions = np.unique(indices, return_inverse=True)
            frames = torch.from_numpy(np.ascontiguousarray(video.frames(unique)))
        frames = frames.permute(0, 3, 1, 2)  # (n, H, W, C) -> (n, C, H, W); the resize is faster without a copy here
        return [frames[torch.from_numpy(picked)] for picked in positions.reshape(indices.shape)]

    def _frame_indices(self, total_frames: int, row: Mapping[str, Any], repetition: int, training: bool) -> np.ndarray:
        return sample_clip(
            total_frames,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            mode=self.sampling_mode,
            generator=self.generator(row, repetition, "frames") if training else None,
        )

    def _crop(self, clip: torch.Tensor, generator: np.random.Generator | None) -> torch.Tensor:
        if generator is None or self.augmentation == "center_crop":
            clip = center_crop_clip(resize_short_side(clip, self.image_size), self.image_size)
        else:
            is_multi_scale = self.augmentation == "multi_scale_crop"
            height, width = clip.shape[-2:]
            if is_multi_scale:
                box = multi_scale_crop_box(height, width, self.image_size, generator)
            else:
                box = random_resized_crop_box(height, width, generator)
            clip = resize_crop(clip, box, self.image_size, antialias=is_multi_scale)  # DESIGN section 7
        if generator is not None and generator.random() < self.flip_probability:
            clip = functional.horizontal_flip(clip)
        return clip
