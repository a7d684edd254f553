"""Affine maps of frames, PIL's cubic, and which part of a frame a part of the result comes from."""

from __future__ import annotations

import math

import numpy as np

from .transforms import Box


FILL = 128
"""Grey level of what comes in from outside the frame, in all channels."""

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel at (x, y) of the result is taken from (a x + b y + c, d x + e y + f)."""


def rotation(degrees: float, height: int, width: int) -> Affine:
    """Return the map of a rotation about the centre, counter-clockwise."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


def is_shift_of_rows(affine: Affine) -> bool:
    """Return whether every pixel comes from its own row: the map of `translate_x` and `shear_x`."""
    return affine[0] == 1 and affine[3:] == (0, 1, 0)


def is_shift_of_columns(affine: Affine) -> bool:
    """Return whether every pixel comes from its own column: the map of `translate_y` and `shear_y`."""
    return affine[:3] == (1, 0, 0) and affine[4] == 1


def cubic_weights(distance: np.ndarray) -> np.ndarray:
    """Compute the weights of the four neighbours, float32 (4, ...), of points between the second and the third.

    Args:
        distance (`np.ndarray`): distance from the second, 0 to 1.
    """
    t = distance.astype(np.float32)
    t2 = t * t
    t3 = t2 * t
    return np.stack([2 * t2 - t - t3, 1 - 2 * t2 + t3, t + t2 - t3, t3 - t2])


def source_region(affine: Affine, height: int, width: int, box: Box) -> Box:
    """Return the part of the frame that holds all pixels from which `box` of the result is made."""
    if affine == (1, 0, 0, 0, 1, 0):
        return box
    a, b, c, d, e, f = affine
    top, left, box_height, box_width = box
    corners = [(x, y) for x in (left + 0.5, left + box_width - 0.5) for y in (top + 0.5, top + box_height - 0.5)]
    first_row, num_rows = _source_range([d * x + e * y + f for x, y in corners], height)
    first_column, num_columns = _source_range([a * x + b * y + c for x, y in corners], width)
    if is_shift_of_rows(affine):
        first_row, num_rows = top, box_height
    elif is_shift_of_columns(affine):
        first_column, num_columns = left, box_width
    return first_row, first_column, num_rows, num_columns


def _source_range(positions: list[float], size: int) -> tuple[int, int]:
    """Return the first pixel and the number of pixels on one axis between the outermost of some positions."""
    # One neighbour before and two behind, and one more of each in case that the sums are rounded in another order. The
    # border stands for all that lies outside.
    first, last = math.floor(min(positions) - 0.5) - 2, math.floor(max(positions) - 0.5) + 3
    first, last = (min(max(pixel, 0), size - 1) for pixel in (first, last))
    return first, last - first + 1


def with_neighbours(box: Box, height: int, width: int) -> Box:
    """Return a box with the pixels around it that lie inside the frame."""
    top, left, box_height, box_width = box
    first_row, first_column = max(top - 1, 0), max(left - 1, 0)
    last_row, last_column = min(top + box_height, height - 1), min(left + box_width, width - 1)
    return first_row, first_column, last_row - first_row + 1, last_column - first_column + 1
