"""The image operations of RandAugment on whole uint8 clips, with the results of PIL, which timm calls frame by frame.

Each takes and gives uint8 (T, C, H, W) and is fastest on contiguous clips. What depends on a picture's statistics
(`auto_contrast`, `equalize`, `contrast`) takes those of each frame. `box` (top, left, height, width) names the part of
the result that is wanted: the rest is not computed, and the part is what it would be in the whole result.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .transforms import Box, cut


FILL = 128
"""Grey level of what comes in from outside the frame, in all channels."""

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel at (x, y) of the result is taken from (a x + b y + c, d x + e y + f)."""


# ---------------------------------------------------------------------------------------------------------------------
# Tables: each grey level becomes another one
# ---------------------------------------------------------------------------------------------------------------------

_LEVELS = np.arange(256)

POINTWISE_TABLES = ("invert", "posterize", "solarize", "solarize_add", "brightness")


def level_table(name: str, argument: float) -> np.ndarray:
    """Return the table, uint8 (256,), of an operation that changes each grey level by itself.

    Args:
        name (`str`): one of `POINTWISE_TABLES`.
        argument (`float`): bits that `posterize` keeps (0 to 8), first level that `solarize` inverts (0 to 256), what
            `solarize_add` adds to levels below 128, the factor of `brightness` (0 is black, 1 no change); `invert` has
            no use for one.
    """
    if name == "brightness":
        return _blend_table(0, argument)
    if name == "invert":
        table = 255 - _LEVELS
    elif name == "posterize":
        table = _LEVELS & (256 - 2 ** (8 - int(argument)))
    elif name == "solarize":
        table = np.where(_LEVELS < int(argument), _LEVELS, 255 - _LEVELS)
    else:
        table = np.where(_LEVELS < 128, np.minimum(_LEVELS + int(argument), 255), _LEVELS)
    return table.astype(np.uint8)


def look_up(clip: torch.Tensor, table: np.ndarray) -> torch.Tensor:
    """Replace every value of a clip by its entry in `table`, uint8 (256,)."""
    # Indexing an array with uint8 first makes 8-byte indices of them; `translate` needs a quarter of the time.
    translated = bytearray(clip.contiguous().numpy()).translate(table.tobytes())
    return torch.frombuffer(translated, dtype=torch.uint8).view(clip.shape)


def _look_up_each(clip: torch.Tensor, tables: np.ndarray) -> torch.Tensor:
    """Replace the values of part i of a clip (parts, ...) by the entries of row i of `tables` (parts, 256)."""
    return torch.stack([look_up(part, table) for part, table in zip(clip, tables, strict=True)])


def _blend_table(degenerate: int, factor: float) -> np.ndarray:
    table = degenerate + np.float32(factor) * (_LEVELS.astype(np.float32) - degenerate)
    return table.clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Colours
# ---------------------------------------------------------------------------------------------------------------------


def auto_contrast(clip: torch.Tensor, box: Box) -> torch.Tensor:
    """Stretch each channel of each frame to 0..255."""
    planes = clip.flatten(0, 1)
    lowest = planes.amin((-2, -1)).numpy().astype(np.float64)[:, None]
    highest = planes.amax((-2, -1)).numpy().astype(np.float64)[:, None]
    is_flat = highest <= lowest
    scale = 255 / np.where(is_flat, 1, highest - lowest)
    levels = np.arange(256)
    tables = np.where(is_flat, levels, (levels * scale - lowest * scale).clip(0, 255)).astype(np.uint8)
    return _look_up_each(cut(clip, box).flatten(0, 1), tables).unflatten(0, clip.shape[:2])


def equalize(clip: torch.Tensor, box: Box) -> torch.Tensor:
    """Make the levels of each channel of each frame equally frequent."""
    planes = clip.flatten(0, 1).flatten(1).numpy()
    tables = np.stack([_equalizing_table(np.bincount(plane, minlength=256)) for plane in planes])
    return _look_up_each(cut(clip, box).flatten(0, 1), tables).unflatten(0, clip.shape[:2])


def _equalizing_table(histogram: np.ndarray) -> np.ndarray:
    last = histogram[np.flatnonzero(histogram)[-1]]
    # As in Pillow, the brightest level that occurs does not count.
    step = (histogram.sum() - last) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    below = np.cumsum(histogram) - histogram
    return ((step // 2 + below) // step).clip(0, 255).astype(np.uint8)


def contrast(clip: torch.Tensor, factor: float, box: Box) -> torch.Tensor:
    """Move each frame away from (`factor` above 1) or towards its mean grey."""
    means = [int(_grey(frame).mean(dtype=torch.float64) + 0.5) for frame in clip]
    return _look_up_each(cut(clip, box), np.stack([_blend_table(mean, factor) for mean in means]))


def color(clip: torch.Tensor, factor: float, box: Box) -> torch.Tensor:
    """Move colours away from (`factor` above 1) or towards grey."""
    # Frame by frame, here and below: what is computed on the way stays in the cache and needs no fresh memory.
    return torch.stack([_blend(frame, _grey(frame), factor) for frame in cut(clip, box)])


def sharpness(clip: torch.Tensor, factor: float, box: Box) -> torch.Tensor:
    """Move each frame away from (`factor` above 1) or towards itself smoothed by a 3 x 3 filter.

    The filter weighs the centre 5 and its neighbours 1; the border of the frame stays as it is.
    """
    top, left, height, width = box
    above, before = min(top, 1), min(left, 1)  # neighbours of the box that lie inside the frame
    part = clip[..., top - above : top + height + 1, left - before : left + width + 1]
    inner = (above, before, height, width)
    return torch.stack([cut(_blend(frame, _smooth(frame), factor), inner) for frame in part])


def _blend(frame: torch.Tensor, degenerate: torch.Tensor, factor: float) -> torch.Tensor:
    """Mix a frame with `degenerate` (float32), which it is at factor 0, and cut to uint8 as PIL does."""
    return torch.add(degenerate, frame - degenerate, alpha=factor).clamp_(0, 255).to(torch.uint8)


def _smooth(frame: torch.Tensor) -> torch.Tensor:
    smooth = frame.float()
    if min(frame.shape[-2:]) > 2:
        rows = smooth[..., :-2, :] + smooth[..., 1:-1, :] + smooth[..., 2:, :]
        sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        sums.add_(smooth[..., 1:-1, 1:-1], alpha=4)
        smooth[..., 1:-1, 1:-1] = sums.div_(13).add_(0.5).floor_()
    return smooth


def _grey(frame: torch.Tensor) -> torch.Tensor:
    """Compute the luma of a frame (3, H, W) as PIL rounds it, float32 (1, H, W)."""
    weights = torch.tensor([[19595.0, 38470.0, 7471.0]])
    luma = torch.matmul(weights, frame.float().flatten(1))  # all sums stay below 2 ** 24: they are exact
    return luma.add_(32768).div_(65536).floor_().view(1, *frame.shape[-2:])


# ---------------------------------------------------------------------------------------------------------------------
# Geometry
# ---------------------------------------------------------------------------------------------------------------------


def rotation(degrees: float, height: int, width: int) -> Affine:
    """Return the map of a rotation about the centre, counter-clockwise."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


def warp(clip: torch.Tensor, affine: Affine, box: Box) -> torch.Tensor:
    """Move all frames by an affine map, with PIL's bicubic interpolation; outside lies `FILL`.

    PIL's cubic has the parameter -1 (torch's: -0.75), repeats the border pixels and cuts decimals off.

    Args:
        clip (`torch.Tensor` of shape (T, C, H, W), uint8): the frames.
        affine (`tuple[float, ...]`): where the result's points come from; pixel centres lie at .5.
        box (`tuple[int, int, int, int]`): the part of the result that is wanted.

    Returns:
        `torch.Tensor` of shape (T, C, box height, box width), uint8.
    """
    if affine == (1, 0, 0, 0, 1, 0):
        return cut(clip, box)
    num_frames, channels, height, width = clip.shape
    region = _source_region(affine, height, width, box)
    # All frames move alike: each result is the same weighted sum of pixels of T * C values. As a sum of embeddings it
    # takes a tenth of the time of `grid_sample`.
    pixels = cut(clip, region).reshape(1, num_frames * channels, *region[2:])
    table = pixels.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(0, 2).float()
    moved = torch.empty(box[2], box[3], num_frames * channels, dtype=torch.uint8)
    for start in range(0, len(moved), _WARP_ROWS):
        rows = moved[start : start + _WARP_ROWS]
        rows.copy_(_warp_rows(table, region, affine, (height, width), (box[0] + start, box[1], *rows.shape[:2])))
    planes = moved[None].permute(0, 3, 1, 2).contiguous()
    return planes.view(num_frames, channels, *box[2:])


_WARP_ROWS = 32
"""Rows of the result computed at once: few enough for the cache."""


def _source_region(affine: Affine, height: int, width: int, box: Box) -> Box:
    """Return the smallest part of the frame that holds all pixels from which `box` of the result is made."""
    top, left, box_height, box_width = box
    a, b, c, d, e, f = affine
    corners = [(x, y) for x in (left + 0.5, left + box_width - 0.5) for y in (top + 0.5, top + box_height - 0.5)]
    columns = [math.floor(a * x + b * y + c - 0.5) for x, y in corners]
    rows = [math.floor(d * x + e * y + f - 0.5) for x, y in corners]
    first_row, last_row = (min(max(row, 0), height - 1) for row in (min(rows) - 1, max(rows) + 2))
    first_column, last_column = (min(max(column, 0), width - 1) for column in (min(columns) - 1, max(columns) + 2))
    return first_row, first_column, last_row - first_row + 1, last_column - first_column + 1


def _warp_rows(table: torch.Tensor, region: Box, affine: Affine, size: tuple[int, int], box: Box) -> torch.Tensor:
    """Compute a part of the result, float32 (box height, box width, T * C), from the pixels of a region."""
    height, width = size
    top, left, box_height, box_width = box
    a, b, c, d, e, f = affine
    y = torch.arange(top, top + box_height, dtype=torch.float64)[:, None] + 0.5
    x = torch.arange(left, left + box_width, dtype=torch.float64)[None, :] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
    columns, column_weights = _cubic_taps(source_x, width, is_moved=(a, b, c) != (1, 0, 0))
    rows, row_weights = _cubic_taps(source_y, height, is_moved=(d, e, f) != (0, 1, 0))
    indices = (rows[..., :, None] - region[0]) * region[3] + columns[..., None, :] - region[1]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    moved = torch.nn.functional.embedding_bag(
        indices.reshape(box_height * box_width, -1), table, mode="sum",
        per_sample_weights=weights.reshape(box_height * box_width, -1),
    )  # fmt: skip
    moved[outside.flatten()] = FILL
    # Sums that are whole numbers but for rounding must not lose one when decimals are cut off.
    return moved.add_(1e-3).clamp_(0, 255).view(box_height, box_width, -1)


def _cubic_taps(source: torch.Tensor, size: int, is_moved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Find source pixels on one axis, int32 (h, w, taps), and their float32 weights; one tap where nothing moves."""
    if not is_moved:
        return source.int()[..., None], torch.ones(1, 1, 1)
    first = torch.floor(source - 0.5)
    t = (source - 0.5 - first).float()[..., None]
    indices = (first.int()[..., None] + torch.arange(-1, 3, dtype=torch.int32)).clamp_(0, size - 1)
    t2, t3 = t * t, t * t * t
    return indices, torch.cat([-t + 2 * t2 - t3, 1 - 2 * t2 + t3, t + t2 - t3, t3 - t2], dim=-1)
