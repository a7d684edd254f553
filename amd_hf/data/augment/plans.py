"""What is done to a training clip, drawn before it is done: operations, crop, resize and flip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .clip_operations import Part
from .rand_augment import apply_operations, parts_needed
from .transforms import Box, cut, resize


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """How a clip is made from frames of `height` x `width` pixels.

    Args:
        height, width (`int`): size of the frames.
        drawn (`list[tuple[str, float]]`): operations of RandAugment on whole frames, and their arguments.
        box (`tuple[int, int, int, int]`): the part of the frames that is resized: (top, left, height, width).
        resized_to (`tuple[int, int]`): height and width after it.
        crop (`tuple[int, int, int, int]`): the part of the resized frames that is the clip.
        antialias (`bool`): see `transforms.resize`.
        interpolation (`str`): of resizing.
        is_flipped (`bool`): whether left and right change sides at the end.
    """

    height: int
    width: int
    drawn: list[tuple[str, float]]
    box: Box
    resized_to: tuple[int, int]
    crop: Box
    antialias: bool
    interpolation: str
    is_flipped: bool

    def parts(self) -> list[Box]:
        """Return what each operation needs of the frames; see `rand_augment.parts_needed`."""
        return parts_needed(self.drawn, self.box, self.height, self.width)


def make_clip(plan: ClipPlan, frames: np.ndarray, picked: np.ndarray) -> torch.Tensor:
    """Make a clip on the CPU.

    Args:
        plan (`ClipPlan`): what is done.
        frames (`np.ndarray` of shape (n, H, W, 3), uint8): decoded frames.
        picked (`np.ndarray` of shape (T,)): indices of the clip's own.

    Returns:
        `torch.Tensor` of shape (T, 3, height, width) of the plan's crop, uint8.
    """
    parts = plan.parts()
    part = apply_operations(Part.of_frames(frames, parts[0], picked), plan.drawn, parts)
    pixels = torch.from_numpy(part.pixels).permute(0, 3, 1, 2)
    resized = cut(resize(pixels, plan.resized_to, plan.antialias, plan.interpolation), plan.crop)
    words = resized.permute(0, 2, 3, 1).contiguous().numpy().view(np.uint32)[..., 0]
    clip = np.empty((len(words), 3, *plan.crop[2:]), np.uint8)
    for planes, frame in zip(clip, words, strict=True):
        frame = np.ascontiguousarray(frame[:, ::-1]) if plan.is_flipped else frame
        for channel, plane in enumerate(planes):
            # The lowest byte of a word is its first: a quarter of the time of copying every fourth byte.
            np.copyto(plane, frame >> np.uint32(8 * channel), casting="unsafe")
    return torch.from_numpy(clip)
