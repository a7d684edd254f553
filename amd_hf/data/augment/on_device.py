"""Augmentation on the device that trains: the workers draw it and send decoded frames, here it is done to them.

What is drawn, and from which generators, is the same as on the CPU, and so are the results: uint8, each operation
within 1 of `clip_operations` and nearly always equal. Later operations may make 2 of it for a few values in a million.
Nothing here asks the device for a value, so nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .geometry import FILL, Affine, is_shift_of_columns, is_shift_of_rows
from .rand_augment import AFFINES, parts_needed
from .transforms import Box, ClipPlan, cut


@dataclass(frozen=True)
class PlannedClip:
    """A clip that is not made yet.

    Args:
        frames (`np.ndarray` of shape (n, H, W, 3), uint8): decoded frames; the repetitions of a video share the array.
        picked (`np.ndarray` of shape (T,)): indices of the clip's own.
        plan (`ClipPlan`): what is done to them.
    """

    frames: np.ndarray
    picked: np.ndarray
    plan: ClipPlan


@dataclass(frozen=True)
class _Source:
    """Frames in `PlannedClips.levels`: where they begin, how many there are, and which part of the frames they are."""

    start: int
    num_frames: int
    box: Box


@dataclass(frozen=True)
class PlannedClips:
    """The clips of a batch that are made on the device: `pixel_values` of a batch that the workers send.

    Args:
        levels (`torch.Tensor` of shape (N,), uint8): the frames of all videos one after the other, (n, h, w, 3) each;
            only the part that some clip needs. All in one tensor, which travels in one piece.
        sources (`list[_Source]`): where they lie.
        clips (`list[tuple[int, list[int], ClipPlan]]`): index of the source, indices of the clip's own frames in it,
            and what is done to them.
    """

    levels: torch.Tensor
    sources: list[_Source]
    clips: list[tuple[int, list[int], ClipPlan]]

    @classmethod
    def collate(cls, clips: Sequence[PlannedClip]) -> PlannedClips:
        """Put clips together; frames that several of them share are copied once."""
        by_frames: dict[int, list[PlannedClip]] = {}
        for clip in clips:
            by_frames.setdefault(id(clip.frames), []).append(clip)
        sources, start = [], 0
        for sharing in by_frames.values():
            plans = [clip.plan for clip in sharing]
            box = _hull([parts_needed(plan.drawn, plan.box, plan.height, plan.width)[0] for plan in plans])
            num_frames = len(sharing[0].frames)
            sources.append(_Source(start, num_frames, box))
            start += num_frames * box[2] * box[3] * 3
        levels = np.empty(start, np.uint8)
        for source, sharing in zip(sources, by_frames.values(), strict=True):
            top, left, height, width = source.box
            part = sharing[0].frames[:, top : top + height, left : left + width]
            levels[source.start : source.start + part.size].reshape(part.shape)[:] = part
        places = {key: index for index, key in enumerate(by_frames)}
        planned = [(places[id(clip.frames)], clip.picked.tolist(), clip.plan) for clip in clips]
        return cls(torch.from_numpy(levels), sources, planned)

    def __len__(self) -> int:
        return len(self.clips)

    def numel(self) -> int:
        """Count the values of the clips, as of the tensor that they become; the Trainer counts FLOPs by it."""
        return sum(len(picked) * 3 * plan.crop[2] * plan.crop[3] for _, picked, plan in self.clips)

    def pin_memory(self) -> PlannedClips:
        """Return a copy in pinned memory; the data loader calls it."""
        return replace(self, levels=self.levels.pin_memory())

    @torch.no_grad()
    def make(self, device: torch.device) -> torch.Tensor:
        """Make the clips on a device.

        Returns:
            `torch.Tensor` of shape (B, T, 3, height, width), uint8.
        """
        levels = self.levels.to(device, non_blocking=True)
        made = []
        for index, picked, plan in self.clips:
            source = self.sources[index]
            shape = (source.num_frames, *source.box[2:], 3)
            frames = levels[source.start : source.start + int(np.prod(shape))].view(shape)
            if picked != list(range(source.num_frames)):
                frames = torch.stack([frames[own] for own in picked])  # an index tensor would have to be sent
            made.append(_make_clip(frames.permute(0, 3, 1, 2), source.box, plan))
        return torch.stack(made)


def _hull(boxes: list[Box]) -> Box:
    """Return the smallest box that holds all boxes."""
    top, left = min(box[0] for box in boxes), min(box[1] for box in boxes)
    bottom, right = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return top, left, bottom - top, right - left


def _make_clip(frames: torch.Tensor, box: Box, plan: ClipPlan) -> torch.Tensor:
    """Make a clip from a part of its frames, uint8 (T, 3, h, w)."""
    size = (plan.height, plan.width)
    boxes = parts_needed(plan.drawn, plan.box, *size)
    for (name, argument), before, after in zip(plan.drawn, boxes[:-1], boxes[1:], strict=True):
        frames = _part(frames, box, before).contiguous()
        if name in AFFINES:
            frames, box = _warp(frames, AFFINES[name](argument, *size), size, before, after), after
        else:
            frames, box = _OPERATIONS[name](frames, argument), before
    clip = cut(_resize(_part(frames, box, plan.box), plan), plan.crop)
    return clip.flip(-1) if plan.is_flipped else clip


def _resize(frames: torch.Tensor, plan: ClipPlan) -> torch.Tensor:
    """Resize the rows, then the columns, and round after both, as the CPU's kernel for uint8 does."""
    antialias = plan.antialias or plan.interpolation == "bicubic"
    for size in ((frames.shape[-2], plan.resized_to[1]), plan.resized_to):
        resized = torch.nn.functional.interpolate(
            frames.float(), size, mode=plan.interpolation, antialias=antialias, align_corners=False
        )
        frames = _as_levels(resized.add_(0.5 + 1e-4))  # halves go up, also those that float32 puts just below
    return frames


def _part(frames: torch.Tensor, box: Box, wanted: Box) -> torch.Tensor:
    return cut(frames, (wanted[0] - box[0], wanted[1] - box[1], *wanted[2:]))


# ---------------------------------------------------------------------------------------------------------------------
# Levels; what the operations mean is said in `clip_operations`
# ---------------------------------------------------------------------------------------------------------------------


def _as_levels(values: torch.Tensor) -> torch.Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _posterize(frames: torch.Tensor, bits: float) -> torch.Tensor:
    return frames & (256 - 2 ** (8 - int(bits)))


def _solarize(frames: torch.Tensor, first: float) -> torch.Tensor:
    return torch.where(frames.int() < int(first), frames, ~frames)


def _solarize_add(frames: torch.Tensor, amount: float) -> torch.Tensor:
    return torch.where(frames < 128, frames + int(amount), frames)


def _luma(frames: torch.Tensor) -> torch.Tensor:
    red, green, blue = frames.int().unbind(1)  # whole numbers: a product of floats may be rounded on a GPU (TF32)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768 >> 16).unsqueeze(1)


def _blend(frames: torch.Tensor, degenerate: torch.Tensor, factor: float) -> torch.Tensor:
    # Three steps, which a GPU may not fuse: so each is rounded as on the CPU.
    return _as_levels(frames.float().sub_(degenerate).mul_(factor).add_(degenerate))


def _contrast(frames: torch.Tensor, factor: float) -> torch.Tensor:
    luma = _luma(frames)
    num_pixels = luma[0].numel()
    mean = (2 * luma.sum((1, 2, 3), keepdim=True) + num_pixels) // (2 * num_pixels)
    return _blend(frames, mean.float(), factor)


def _auto_contrast(frames: torch.Tensor, _: float) -> torch.Tensor:
    lowest, highest = (frames.amin((-2, -1)).double()[..., None], frames.amax((-2, -1)).double()[..., None])
    is_flat = highest <= lowest
    # Not `255 / ...`, which torch rounds twice, as 255 times the reciprocal.
    scale = torch.full_like(lowest, 255) / torch.where(is_flat, 1, highest - lowest)
    levels = torch.arange(256, device=frames.device, dtype=torch.float64)
    return _look_up(frames, torch.where(is_flat, levels, (levels * scale - lowest * scale).clamp_(0, 255)))


def _equalize(frames: torch.Tensor, _: float) -> torch.Tensor:
    num_planes = len(frames) * 3
    indices = _table_indices(frames).flatten()
    # `bincount` would wait for the device, and `scatter_add_` is refused where algorithms must be deterministic.
    counts = torch.zeros(num_planes * 256, dtype=torch.int64, device=frames.device)
    ones = torch.ones((), dtype=torch.int64, device=frames.device).expand(len(indices))
    counts = counts.index_add_(0, indices, ones).view(num_planes, 256)
    levels = torch.arange(256, device=frames.device)
    brightest = torch.where(counts > 0, levels, 0).amax(1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, brightest)) // 255
    below = counts.cumsum(1) - counts
    table = ((step // 2 + below) // step.clamp_min(1)).clamp_(0, 255)
    return _look_up(frames, torch.where(step > 0, table, levels))


def _look_up(frames: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Replace the levels of each channel of each frame by the entries of its table (T * 3, 256)."""
    return tables.to(torch.uint8).flatten()[_table_indices(frames)]


def _table_indices(frames: torch.Tensor) -> torch.Tensor:
    planes = torch.arange(len(frames) * 3, dtype=torch.int32, device=frames.device).view(-1, 3, 1, 1)
    return frames.int().add_(planes * 256)


def _sharpness(frames: torch.Tensor, factor: float) -> torch.Tensor:
    if min(frames.shape[-2:]) <= 2:
        return frames
    values = frames.float()
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = frames[..., 1:-1, 1:-1]
    smooth = smooth.add_(inner, alpha=4).div_(13).add_(0.5).floor_()
    frames = frames.clone()
    frames[..., 1:-1, 1:-1] = _blend(inner, smooth, factor)
    return frames


_OPERATIONS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": lambda frames, _: ~frames,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": lambda frames, factor: _blend(frames, _luma(frames).float(), factor),
    "contrast": _contrast,
    "brightness": lambda frames, factor: _as_levels(frames.float().mul_(factor)),
    "sharpness": _sharpness,
}


# ---------------------------------------------------------------------------------------------------------------------
# Geometry
# ---------------------------------------------------------------------------------------------------------------------


def _warp(frames: torch.Tensor, affine: Affine, size: tuple[int, int], box: Box, wanted: Box) -> torch.Tensor:
    """Compute the part `wanted` of the frames moved by an affine map from their part `box`."""
    if affine == (1, 0, 0, 0, 1, 0):
        return _part(frames, box, wanted)
    if is_shift_of_rows(affine):
        moved, is_outside = _shift_rows(frames, affine[1], affine[2], size[1], box, wanted)
    elif is_shift_of_columns(affine):
        # Rows and columns change places.
        turned = frames.transpose(-2, -1), affine[3], affine[5], size[0], _turned(box), _turned(wanted)
        moved, is_outside = (result.transpose(-2, -1) for result in _shift_rows(*turned))
    else:
        moved, is_outside = _warp_freely(frames, affine, size, box, wanted)
    # Sums that are whole numbers but for rounding must not lose one when decimals are cut off.
    return _as_levels(moved.add_(1e-3)).masked_fill_(is_outside, FILL)


def _turned(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]


def _shift_rows(
    frames: torch.Tensor, shear: float, shift: float, width: int, box: Box, wanted: Box
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move row y by `shear * y + shift` to the left; return float32 (T, 3, h, w), and what comes from outside."""
    y, x = _grid(wanted, frames.device)
    offsets = shear * y + shift
    first = offsets.floor()
    rows = (y - 0.5).long() - box[0]
    taps = torch.arange(wanted[1] - 1, wanted[1] + wanted[3] + 2, device=frames.device) + first.long()
    values = frames[..., rows, taps.clamp_(0, width - 1) - box[1]]
    weights = _cubic_weights(offsets - first)
    num_columns = wanted[3]
    moved = values[..., :num_columns] * weights[0]
    for tap in range(1, 4):
        moved.addcmul_(values[..., tap : tap + num_columns].float(), weights[tap])
    source = x + offsets
    return moved, (source < 0) | (source >= width)


def _warp_freely(
    frames: torch.Tensor, affine: Affine, size: tuple[int, int], box: Box, wanted: Box
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b, c, d, e, f = affine
    y, x = _grid(wanted, frames.device)
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    columns, column_weights = _cubic_taps(source_x, size[1], box[1])
    rows, row_weights = _cubic_taps(source_y, size[0], box[0])
    indices = (rows[..., :, None] * box[3] + columns[..., None, :]).view(-1, 16)
    weights = (row_weights[..., :, None] * column_weights[..., None, :]).view(-1, 16)
    # All frames move alike: each result is the same weighted sum of pixels of T * 3 values, one kernel for all.
    table = frames.permute(2, 3, 0, 1).reshape(box[2] * box[3], -1).float()
    moved = torch.nn.functional.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)
    is_outside = (source_x < 0) | (source_x >= size[1]) | (source_y < 0) | (source_y >= size[0])
    return moved.view(*wanted[2:], len(frames), 3).permute(2, 3, 0, 1).contiguous(), is_outside


def _grid(box: Box, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centres of a box's pixels, float64 (h, 1) and (w,)."""
    top, left, height, width = box
    y = torch.arange(top, top + height, dtype=torch.float64, device=device)[:, None]
    x = torch.arange(left, left + width, dtype=torch.float64, device=device)
    return y + 0.5, x + 0.5


def _cubic_taps(source: torch.Tensor, size: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find source pixels on one axis, int32 (h, w, 4), counted from `start`, and their float32 weights."""
    source = source - 0.5
    first = source.floor()
    taps = torch.arange(-1, 3, dtype=torch.int32, device=source.device)
    indices = (first.to(torch.int32)[..., None] + taps).clamp_(0, size - 1) - start
    return indices, _cubic_weights(source - first).movedim(0, -1)


def _cubic_weights(distance: torch.Tensor) -> torch.Tensor:
    """Compute the weights of four neighbours, float32 (4, ...); see `geometry.cubic_weights`."""
    t = distance.float()
    t2 = t * t
    t3 = t2 * t
    return torch.stack([2 * t2 - t - t3, 1 - 2 * t2 + t3, t + t2 - t3, t3 - t2])
