"""Boxes under the transforms of their clip, with the pixel conventions of VideoMAE's code for AVA.

A box is x1 y1 x2 y2. In pixels, x2 and y2 are the last ones inside, so a box is x2 - x1 + 1 wide. The functions take
and return float arrays (n, 4). Only `extend_boxes`, which makes the boxes for testing, takes tensors: it is part of
the model's file, which travels as remote code.
"""

from __future__ import annotations

import numpy as np

from ..modeling_amd_detection import extend_boxes


JITTER_X = (0.2, 0.1)
"""Fractions of the width by which a side may move outwards and inwards in training."""
JITTER_Y = (0.1, 0.05)
"""The same for the height."""


def fractions_to_pixels(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Convert boxes from fractions of a frame's width and height to pixels."""
    pixels = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * [width, height, width, height]
    pixels[:, 2:] -= 1  # from the border of a box to its last pixel inside
    return pixels.clip(0, [width - 1, height - 1, width - 1, height - 1])


def resize_boxes(boxes: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Resize the boxes of a frame of the size `old` (height, width) to the size `new`."""
    scale_y, scale_x = (to / of for to, of in zip(new, old, strict=True))
    return boxes * [scale_x, scale_y, scale_x, scale_y]


def crop_boxes(boxes: np.ndarray, top: int, left: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes to a region of the frame.

    Returns:
        The boxes that overlap the region, (m, 4), and a mask of which boxes these are, bool (n,).
    """
    # Cut off at width and height, one pixel further than elsewhere, as VideoMAE's code does.
    cropped = (boxes - [left, top, left, top]).clip(0, [width, height, width, height])
    is_inside = (cropped[:, 2] > cropped[:, 0]) & (cropped[:, 3] > cropped[:, 1])
    return cropped[is_inside], is_inside


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Mirror the boxes of a frame left to right."""
    flipped = boxes.copy()
    flipped[:, [0, 2]] = width - 1 - boxes[:, [2, 0]]
    return flipped


def jitter_boxes(boxes: np.ndarray, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Move each side at random, uniformly between the inward and outward limits of `JITTER_X` and `JITTER_Y`.

    Args:
        boxes (`np.ndarray` of shape (n, 4)): In pixels.
        height, width (`int`): Size of the frame, in which the boxes stay; each stays at least a pixel long.
        generator (`np.random.Generator`): Source of the random numbers.
    """
    outwards, inwards = np.array([JITTER_X, JITTER_Y, JITTER_X, JITTER_Y]).T
    # Outwards is towards 0 for x1 and y1 and away from it for x2 and y2: hence the signs.
    moves = generator.uniform(-inwards, outwards, size=(len(boxes), 4)) * [-1, -1, 1, 1]
    lengths = boxes[:, 2:] - boxes[:, :2] + 1
    jittered = boxes + moves * np.tile(lengths, 2)
    # The first side leaves room for the last one, which is at least one pixel further: no box vanishes.
    limits = np.array([width - 1, height - 1])
    first = jittered[:, :2].clip(0, limits - 1)
    last = np.maximum(np.minimum(jittered[:, 2:], limits), first + 1)
    return np.concatenate([first, last], axis=1)


__all__ = [
    "crop_boxes",
    "extend_boxes",
    "flip_boxes",
    "fractions_to_pixels",
    "jitter_boxes",
    "resize_boxes",
]
