"""The image operations of RandAugment on whole clips, with the results of PIL, which timm calls frame by frame.

They take and give a `Part` of the frames, whose pixels they may change. What depends on a picture's statistics
(`auto_contrast`, `equalize`, `contrast`) takes those of each frame: it needs whole ones, and gives a part of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from .geometry import FILL, Affine, cubic_weights, is_shift_of_columns, is_shift_of_rows, source_region
from .transforms import SIZE_OF_PIXEL, Box, Part


_FILL_WORD = np.uint32(FILL * 0x01010101)


# ---------------------------------------------------------------------------------------------------------------------
# Levels: what a pixel becomes depends on it alone
# ---------------------------------------------------------------------------------------------------------------------


def invert(part: Part) -> Part:
    """Turn every level around."""
    np.bitwise_not(part.pixels, out=part.pixels)
    return part


def posterize(part: Part, bits: float) -> Part:
    """Keep the upper `bits` (0 to 8) of every level."""
    np.bitwise_and(part.pixels, np.uint8(256 - 2 ** (8 - int(bits)) & 0xFF), out=part.pixels)
    return part


def solarize(part: Part, first: float) -> Part:
    """Turn the levels from `first` (0 to 256) around."""
    if int(first) < 256:
        for frame in part.pixels:
            # 255 where inverted: exclusive or turns around there, and nothing else.
            np.bitwise_xor(frame, -(frame >= np.uint8(int(first))).view(np.uint8), out=frame)
    return part


def solarize_add(part: Part, amount: float) -> Part:
    """Add `amount` (0 to 127) to the levels below 128."""
    for frame in part.pixels:
        frame += (frame < np.uint8(128)).view(np.uint8) * np.uint8(int(amount))
    return part


def brightness(part: Part, factor: float) -> Part:
    """Multiply every level."""
    return _by_frame(part, lambda frame, values: values.mul_(factor))


def color(part: Part, factor: float) -> Part:
    """Move colours away from (`factor` above 1) or towards grey."""

    def move(frame: np.ndarray, values: torch.Tensor) -> torch.Tensor:
        luma = np.frombuffer(_image(frame).convert("L").tobytes(), np.uint8)
        in_all_channels = (luma.astype(np.uint32) * np.uint32(0x01010101)).view(np.uint8)
        grey = torch.from_numpy(in_all_channels).float().view_as(values)
        return values.sub_(grey).mul_(factor).add_(grey)

    return _by_frame(part, move)


def _by_frame(part: Part, change: Callable[[np.ndarray, torch.Tensor], torch.Tensor]) -> Part:
    """Let `change` compute new levels from each frame (h, w, 4), uint8, and its levels in float32, in place."""
    # One frame after the other: what is computed on the way stays in the cache.
    values = torch.empty(part.pixels.shape[1:], dtype=torch.float32)
    for frame in part.pixels:
        values.copy_(torch.from_numpy(frame))
        _write_levels(change(frame, values), frame)
    return part


def _write_levels(values: torch.Tensor, levels: np.ndarray) -> None:
    """Write float32 values as uint8, decimals cut off as PIL does."""
    # numpy needs a third of torch's time for it.
    np.copyto(levels, values.clamp_(0, 255).numpy(), casting="unsafe")


# ---------------------------------------------------------------------------------------------------------------------
# Levels by the statistics of a frame, and neighbours
# ---------------------------------------------------------------------------------------------------------------------


def contrast(part: Part, factor: float, box: Box) -> Part:
    """Move each whole frame away from (`factor` above 1) or towards its mean grey."""
    counts = np.array([_image(frame).convert("L").histogram() for frame in part.pixels])
    means = iter((counts @ np.arange(256) / counts.sum(1) + 0.5).astype(int).tolist())

    def move(frame: np.ndarray, values: torch.Tensor) -> torch.Tensor:
        mean = next(means)
        return values.sub_(mean).mul_(factor).add_(mean)

    return _by_frame(part.cut(box), move)


def auto_contrast(part: Part, box: Box) -> Part:
    """Stretch each channel of each whole frame to 0..255."""
    num_frames, height, width, _ = part.pixels.shape
    # Rows first: numpy compares whole rows at once, and four channels one by one.
    rows = part.pixels.reshape(num_frames, height, width * SIZE_OF_PIXEL)
    lowest, highest = (
        extreme(extreme(rows, axis=1).reshape(num_frames, width, SIZE_OF_PIXEL), axis=1).astype(np.float64)[..., None]
        for extreme in (np.min, np.max)
    )
    is_flat = highest <= lowest
    scale = 255 / np.where(is_flat, 1, highest - lowest)
    levels = np.arange(256)
    tables = np.where(is_flat, levels, (levels * scale - lowest * scale).clip(0, 255)).astype(np.uint8)
    return _look_up(part.cut(box), tables)


def equalize(part: Part, box: Box) -> Part:
    """Make the levels of each channel of each whole frame equally frequent."""
    counts = np.array([_image(frame).histogram() for frame in part.pixels]).reshape(-1, SIZE_OF_PIXEL, 256)
    levels = np.arange(256)
    brightest = np.where(counts > 0, levels, 0).max(-1, keepdims=True)
    # As in Pillow, the brightest level that occurs does not count.
    step = (counts.sum(-1, keepdims=True) - np.take_along_axis(counts, brightest, -1)) // 255
    below = np.cumsum(counts, -1) - counts
    tables = ((step // 2 + below) // np.maximum(step, 1)).clip(0, 255)
    return _look_up(part.cut(box), np.where(step > 0, tables, levels).astype(np.uint8))


def _image(frame: np.ndarray) -> Image.Image:
    """View a frame as an image of PIL."""
    return Image.frombuffer("RGBA", frame.shape[1::-1], frame, "raw", "RGBA", 0, 1)


def _look_up(part: Part, tables: np.ndarray) -> Part:
    """Replace the levels of each channel of each frame by the entries of its table, uint8 (T, 4, 256)."""
    for frame, table in zip(part.pixels, tables, strict=True):
        # An index of numpy has 8 bytes: PIL needs a quarter of the time.
        looked_up = _image(frame).point(table.ravel().tolist())
        frame[:] = np.frombuffer(looked_up.tobytes(), np.uint8).reshape(frame.shape)
    return part


def sharpness(part: Part, factor: float) -> Part:
    """Move each frame away from (`factor` above 1) or towards itself smoothed by a 3 x 3 filter.

    The filter weighs the centre 5 and its neighbours 1; the border of the whole frame stays as it is. Where the part
    ends inside the frame, its outermost pixels are wrong: they lack neighbours.
    """
    if min(part.pixels.shape[1:3]) <= 2:
        return part
    step = SIZE_OF_PIXEL  # rows are flat: the neighbour's channel is four values away

    def move(frame: np.ndarray, values: torch.Tensor) -> torch.Tensor:
        levels = frame.reshape(len(frame), -1).astype(np.int16)  # sums stay below 256 * 13
        rows = levels[:-2] + levels[1:-1]
        rows += levels[2:]
        sums = rows[:, : -2 * step] + rows[:, step:-step]
        sums += rows[:, 2 * step :]
        sums += levels[1:-1, step:-step] << 2
        smooth = torch.from_numpy(sums).float().div_(13).add_(0.5).floor_()
        inner = values.flatten(1)[1:-1, step:-step]
        inner.sub_(smooth).mul_(factor).add_(smooth)
        return values

    return _by_frame(part, move)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry
# ---------------------------------------------------------------------------------------------------------------------


def warp(part: Part, affine: Affine, box: Box) -> Part:
    """Move all frames by an affine map, with PIL's bicubic interpolation; outside lies `FILL`.

    PIL's cubic has the parameter -1 (torch's: -0.75), repeats the border pixels and cuts decimals off.

    Args:
        part (`Part`): holds `geometry.source_region` of the box.
        affine (`tuple[float, ...]`): where the result's points come from; pixel centres lie at .5.
        box (`tuple[int, int, int, int]`): the part of the result that is wanted.
    """
    if affine == (1, 0, 0, 0, 1, 0):
        return part.cut(box)
    if is_shift_of_rows(affine):
        moved = _shift_rows(part, affine[1], affine[2], box)
    elif is_shift_of_columns(affine):
        moved = _shift_columns(part, affine[3], affine[5], box)
    else:
        moved = _warp_freely(part, affine, box)
    return Part(moved.view(np.uint8).reshape(*moved.shape, SIZE_OF_PIXEL), box, part.size)


def _shift_rows(part: Part, shear: float, shift: float, box: Box) -> np.ndarray:
    """Move row y by `shear * y + shift` to the left; return words (T, h, w)."""
    top, left, height, width = box
    offsets = shear * (np.arange(top, top + height) + 0.5) + shift  # as far from the pixel is what it becomes
    first = np.floor(offsets).astype(np.int64)
    x = np.arange(left, left + width)
    rows = np.arange(top, top + height) - part.box[0]
    columns = (np.arange(left - 1, left + width + 2) + first[:, None]).clip(0, part.size[1] - 1) - part.box[1]
    taps = _take(part, rows[:, None] * part.box[3] + columns).view(np.uint8)  # (T, h, (w + 3) * 4)
    weights = torch.from_numpy(cubic_weights(offsets - first)).unsqueeze(-1)  # (4, h, 1)
    step = SIZE_OF_PIXEL
    moved = _weigh(taps, [(slice(None), slice(tap * step, (tap + width) * step)) for tap in range(4)], weights)
    source = x + 0.5 + offsets[:, None]
    return _fill(moved.view(np.uint32), (source < 0) | (source >= part.size[1]))


def _shift_columns(part: Part, shear: float, shift: float, box: Box) -> np.ndarray:
    """Move column x by `shear * x + shift` upwards; return words (T, h, w)."""
    top, left, height, width = box
    offsets = shear * (np.arange(left, left + width) + 0.5) + shift
    first = np.floor(offsets).astype(np.int64)
    y = np.arange(top, top + height)
    columns = np.arange(left, left + width) - part.box[1]
    rows = (np.arange(top - 1, top + height + 2)[:, None] + first).clip(0, part.size[0] - 1) - part.box[0]
    taps = _take(part, rows * part.box[3] + columns).view(np.uint8)  # (T, h + 3, w * 4)
    weights = torch.from_numpy(np.repeat(cubic_weights(offsets - first), SIZE_OF_PIXEL, axis=-1)).unsqueeze(1)
    moved = _weigh(taps, [(slice(tap, tap + height), slice(None)) for tap in range(4)], weights)
    source = y[:, None] + 0.5 + offsets
    return _fill(moved.view(np.uint32), (source < 0) | (source >= part.size[0]))


def _take(part: Part, indices: np.ndarray) -> np.ndarray:
    return part.words().reshape(len(part.pixels), -1).take(indices, axis=1)


def _weigh(taps: np.ndarray, places: list[tuple[slice, slice]], weights: torch.Tensor) -> np.ndarray:
    """Sum four parts of frames, uint8 (T, h', w'), which lie at `places`, by their weights (4, h or 1, w or 1)."""
    values = torch.empty(taps.shape[1:], dtype=torch.float32)
    sums = torch.empty(values[places[0]].shape, dtype=torch.float32)
    moved = np.empty((len(taps), *sums.shape), np.uint8)
    for frame, tap in zip(moved, taps, strict=True):
        values.copy_(torch.from_numpy(tap))
        torch.mul(values[places[0]], weights[0], out=sums)
        for place, weight in zip(places[1:], weights[1:], strict=True):
            sums.addcmul_(values[place], weight)
        # Sums that are whole numbers but for rounding must not lose one when decimals are cut off.
        _write_levels(sums.add_(1e-3), frame)
    return moved


def _fill(words: np.ndarray, is_outside: np.ndarray) -> np.ndarray:
    for frame in words if is_outside.any() else ():
        np.copyto(frame, _FILL_WORD, where=is_outside)
    return words


_WARP_ROWS = 32
"""Rows of the result computed at once: few enough for the cache."""


def _warp_freely(part: Part, affine: Affine, box: Box) -> np.ndarray:
    """Move frames by any map; return words (T, h, w)."""
    # All frames move alike: each result is the same weighted sum of pixels of T * 4 values. As a sum of embeddings it
    # takes a tenth of the time of `grid_sample`.
    region = source_region(affine, *part.size, box)
    top, left = region[0] - part.box[0], region[1] - part.box[1]
    by_frame = part.words()[:, top : top + region[2], left : left + region[3]]
    by_pixel = np.ascontiguousarray(by_frame.transpose(1, 2, 0)).reshape(-1, len(by_frame))
    table = torch.from_numpy(by_pixel.view(np.uint8)).float()
    moved = np.empty((len(by_frame), box[2], box[3]), np.uint32)
    for start in range(0, box[2], _WARP_ROWS):
        rows = moved[:, start : start + _WARP_ROWS]
        rows[:] = _warp_rows(table, region, affine, part.size, (box[0] + start, box[1], *rows.shape[1:]))
    return moved


def _warp_rows(table: torch.Tensor, region: Box, affine: Affine, size: tuple[int, int], box: Box) -> np.ndarray:
    """Compute a part of the result from the pixels of `region`, float32 (pixels, T * 4); return words (T, h, w)."""
    top, left, height, width = box
    a, b, c, d, e, f = affine
    y, x = np.arange(top, top + height)[:, None] + 0.5, np.arange(left, left + width) + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    is_outside = (source_x < 0) | (source_x >= size[1]) | (source_y < 0) | (source_y >= size[0])
    columns, column_weights = _cubic_taps(source_x, size[1], region[1])
    rows, row_weights = _cubic_taps(source_y, size[0], region[0])
    # (16, h * w), then in the order that `embedding_bag` takes.
    indices = (rows[:, None] * region[3] + columns).reshape(16, -1).T
    weights = (row_weights[:, None] * column_weights).reshape(16, -1).T
    moved = torch.nn.functional.embedding_bag(
        torch.from_numpy(np.ascontiguousarray(indices)), table, mode="sum",
        per_sample_weights=torch.from_numpy(np.ascontiguousarray(weights)),
    )  # fmt: skip
    levels = np.empty(moved.shape, np.uint8)
    _write_levels(moved.add_(1e-3), levels)
    words = levels.view(np.uint32)
    words[is_outside.ravel()] = _FILL_WORD
    return words.T.reshape(-1, height, width)


def _cubic_taps(source: np.ndarray, size: int, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Find source pixels on one axis, int32 (4, h * w), counted from `start`, and their float32 weights."""
    source = source.ravel() - 0.5
    first = np.floor(source)
    indices = first.astype(np.int32) + np.arange(-1, 3, dtype=np.int32)[:, None]
    return indices.clip(0, size - 1) - np.int32(start), cubic_weights(source - first)
