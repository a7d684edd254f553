"""Crops and resizing of uint8 clips: a box is drawn once and holds for all frames, so that motion stays what it was.

A box is (top, left, height, width) in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional


Box = tuple[int, int, int, int]

INTERPOLATIONS = ("bilinear", "bicubic")
MULTI_SCALE_FACTORS = (1.0, 0.875, 0.75, 0.66)
# (row, column) of the crop's corner in quarters of the free room: 4 corners, centre, 4 edge middles, 4 quarter points.
_CORNER_QUARTERS = (
    (0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3),
)  # fmt: skip
SIZE_OF_PIXEL = 4


@dataclass(frozen=True)
class Part:
    """A part of the frames of a clip, as pixels of four bytes: red, green, blue and one without meaning.

    A pixel is then a word of 32 bits, which numpy moves several times as fast as three bytes, and torchvision resizes
    this order fastest.

    Args:
        pixels (`np.ndarray` of shape (T, h, w, 4), uint8): the part, C-contiguous; operations may change it in place.
        box (`tuple[int, int, int, int]`): which part it is: (top, left, h, w).
        size (`tuple[int, int]`): height and width of the whole frames.
    """

    pixels: np.ndarray
    box: Box
    size: tuple[int, int]

    @classmethod
    def of_frames(cls, frames: np.ndarray, box: Box, picked: np.ndarray | None = None) -> Part:
        """Copy a part of frames, uint8 (n, H, W, 3): of all, or of those with the indices `picked` (T,)."""
        frames = np.ascontiguousarray(frames)
        num_frames, height, width, _ = frames.shape
        top, left, box_height, box_width = box
        picked = np.arange(num_frames) if picked is None else picked
        words = np.empty((len(picked), box_height, box_width), np.uint32)
        # Read as a word, three bytes bring the first one of the next pixel with them: nine times as fast as copying
        # three bytes to every four. After the very last pixel there is no such byte.
        ends_memory = top + box_height == height and left + box_width == width
        for copy, index in zip(words, picked.tolist(), strict=True):
            rows = box_height - (ends_memory and index == num_frames - 1)
            offset = ((index * height + top) * width + left) * 3
            copy[:rows] = np.ndarray((rows, box_width), np.uint32, frames, offset, (width * 3, 3))
            if rows < box_height:
                copy[-1:].view(np.uint8).reshape(box_width, SIZE_OF_PIXEL)[:, :3] = frames[index, -1, left:]
        return cls(words.view(np.uint8).reshape(*words.shape, SIZE_OF_PIXEL), box, (height, width))

    def words(self) -> np.ndarray:
        """View the pixels as words, uint32 (T, h, w)."""
        return self.pixels.view(np.uint32)[..., 0]

    def cut(self, box: Box) -> Part:
        """Return the part `box` of the frames, which must lie in this one."""
        if box == self.box:
            return self
        top, left = box[0] - self.box[0], box[1] - self.box[1]
        part = self.pixels[:, top : top + box[2], left : left + box[3]]
        return Part(np.ascontiguousarray(part), box, self.size)

    def planes(self, is_flipped: bool) -> torch.Tensor:
        """Copy the colours into a clip, uint8 (T, 3, h, w), mirrored left to right if `is_flipped`."""
        num_frames, height, width, _ = self.pixels.shape
        clip = np.empty((num_frames, 3, height, width), np.uint8)
        for planes, frame in zip(clip, self.words(), strict=True):
            frame = np.ascontiguousarray(frame[:, ::-1]) if is_flipped else frame
            # The lowest byte of a word is its first: a quarter of the time of copying every fourth byte.
            np.copyto(planes[0], frame, casting="unsafe")
            np.copyto(planes[1], frame >> np.uint32(8), casting="unsafe")
            np.copyto(planes[2], frame >> np.uint32(16), casting="unsafe")
        return torch.from_numpy(clip)


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """How a clip is made from frames of `height` x `width` pixels.

    Args:
        height, width (`int`): size of the frames.
        drawn (`list[tuple[str, float]]`): operations of RandAugment on whole frames, and their arguments.
        box (`tuple[int, int, int, int]`): the part of the frames that is resized: (top, left, height, width).
        resized_to (`tuple[int, int]`): height and width after it.
        crop (`tuple[int, int, int, int]`): the part of the resized frames that is the clip.
        antialias (`bool`): see `resize`.
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


def multi_scale_crop_box(height: int, width: int, crop_size: int, generator: np.random.Generator) -> Box:
    """Draw the crop of pre-training: one of four sizes per side and one of 13 positions.

    With short side b the sides come from int(b * s) for s in 1, .875, .75, .66 (a side less than 3 pixels from
    `crop_size` becomes it); height and width are at most one step of that list apart.

    Args:
        height (`int`): height of the frames, in pixels.
        width (`int`): width of the frames, in pixels.
        crop_size (`int`): side of the model's input, in pixels.
        generator (`np.random.Generator`): what the box is drawn from.

    Returns:
        (top, left, height, width) inside the frame.
    """
    sides = [int(min(height, width) * factor) for factor in MULTI_SCALE_FACTORS]
    sides = [crop_size if abs(side - crop_size) < 3 else side for side in sides]
    # Becoming `crop_size` may push a side past the frame (222 pixels, input 224), and tiny frames give sides of 0.
    heights = [max(min(side, height), 1) for side in sides]
    widths = [max(min(side, width), 1) for side in sides]
    steps = range(len(sides))
    pairs = [(heights[row], widths[column]) for row in steps for column in steps if abs(row - column) <= 1]
    box_height, box_width = pairs[generator.integers(len(pairs))]
    row_quarters, column_quarters = _CORNER_QUARTERS[generator.integers(len(_CORNER_QUARTERS))]
    top = row_quarters * ((height - box_height) // 4)
    left = column_quarters * ((width - box_width) // 4)
    return top, left, box_height, box_width


def random_resized_crop_box(
    height: int,
    width: int,
    generator: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw the crop of fine-tuning, by torchvision's law: ten tries at an area and an aspect ratio, else the centre.

    Args:
        height (`int`): height of the frames, in pixels.
        width (`int`): width of the frames, in pixels.
        generator (`np.random.Generator`): what the box is drawn from.
        scale (`tuple[float, float]`): fraction of the frame's area, drawn uniformly.
        ratio (`tuple[float, float]`): width / height, drawn log-uniformly.

    Returns:
        (top, left, height, width) inside the frame.
    """
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, box_height, box_width
    # The largest centred box whose aspect is allowed.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_width = min(width, round(height * aspect))
    box_height = min(height, round(width / aspect))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def cut(clip: torch.Tensor, box: Box) -> torch.Tensor:
    """Return a view of the part `box` of all frames of a clip (..., H, W)."""
    top, left, height, width = box
    return clip[..., top : top + height, left : left + width]


def resize(
    clip: torch.Tensor, size: tuple[int, int], antialias: bool, interpolation: str = "bilinear"
) -> torch.Tensor:
    """Resize all frames.

    Args:
        clip (`torch.Tensor` of shape (T, C, H, W), uint8): the frames; fastest with up to 4 channels in the memory
            order (T, H, W, C), which the result then has too.
        size (`tuple[int, int]`): height and width of the result, in pixels.
        antialias (`bool`): average over what a smaller pixel covers, as PIL does, or take 2 x 2 neighbours.
        interpolation (`str`, defaults to `"bilinear"`): or `bicubic`, which is always antialiased.

    Returns:
        `torch.Tensor` of shape (T, C, *size), uint8.
    """
    is_bicubic = interpolation == "bicubic"
    mode = InterpolationMode.BICUBIC if is_bicubic else InterpolationMode.BILINEAR
    return functional.resize(clip, list(size), interpolation=mode, antialias=antialias or is_bicubic)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the size in which the short side is `short_side` and the long one int(short_side * long / short)."""
    long_side = int(short_side * max(height, width) / min(height, width))
    return (long_side, short_side) if height > width else (short_side, long_side)


def resize_short_side(clip: torch.Tensor, size: int, interpolation: str = "bilinear") -> torch.Tensor:
    """Resize so that the short side becomes `size` and the long one int(size * long / short).

    Bilinear: not antialiased, as in the released test of videos. Bicubic: antialiased, as Pillow resizes images.

    Args:
        clip (`torch.Tensor` of shape (T, C, H, W), uint8): the frames.
        size (`int`): the new short side, in pixels.
        interpolation (`str`, defaults to `"bilinear"`): or `bicubic`.

    Returns:
        `torch.Tensor` of shape (T, C, H', W'), uint8.
    """
    return resize(clip, short_side_size(clip.shape[-2], clip.shape[-1], size), False, interpolation)


def center_box(height: int, width: int, size: int) -> Box:
    """Return the central square; of odd free room the larger part lies below and to the right (`evaluation_views`).

    Args:
        height, width (`int`): size of the frames, at least `size` each.
        size (`int`): side of the square, in pixels.

    Raises:
        ValueError: the frames are smaller than `size`.
    """
    if min(height, width) < size:
        raise ValueError(
            f"A crop of {size} does not fit into frames of {height} x {width}: resize the short side first."
        )
    return (height - size) // 2, (width - size) // 2, size, size
