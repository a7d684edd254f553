"""Random erasing: a box of noise, drawn in the loading worker and painted on the device after normalisation.

The uint8 clip travels with a box and a seed. The noise is computed from the seed by a hash, element by element, so it
is the same on every device and nothing waits for the device.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .transforms import Box


NO_BOX: Box = (0, 0, 0, 0)

_NUM_TRIES = 100


def draw_erase_box(
    height: int,
    width: int,
    probability: float,
    generator: np.random.Generator,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Box:
    """Draw the box that is erased from a clip.

    Args:
        height (`int`): height of the clip, in pixels.
        width (`int`): width of the clip, in pixels.
        probability (`float`): fraction of clips that lose a box.
        generator (`np.random.Generator`): what it is drawn from.
        area (`tuple[float, float]`): fraction of the frame's area, drawn uniformly.
        aspect (`tuple[float, float]`): height / width, drawn log-uniformly.

    Returns:
        (top, left, height, width), smaller than the frame on both sides; `NO_BOX` for no erasing.
    """
    if generator.random() >= probability:
        return NO_BOX
    for _ in range(_NUM_TRIES):
        box_area = height * width * generator.uniform(*area)
        ratio = math.exp(generator.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_height, box_width = round(math.sqrt(box_area * ratio)), round(math.sqrt(box_area / ratio))
        if 0 < box_height < height and 0 < box_width < width:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, box_height, box_width
    return NO_BOX


def erase_clips(pixel_values: torch.Tensor, boxes: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Fill a box of each clip with standard normal noise, another value for each pixel, channel and frame.

    Args:
        pixel_values (`torch.Tensor` of shape (B, T, C, H, W), floating point): normalised clips; changed in place.
        boxes (`torch.Tensor` of shape (B, 4), int64): (top, left, height, width), the same in all frames; a height or
            width of 0 erases nothing.
        seeds (`torch.Tensor` of shape (B,), int64): what the noise of each clip depends on.

    Returns:
        `pixel_values`.

    Raises:
        TypeError: `pixel_values` is not floating point.
        ValueError: the shapes do not fit together.
    """
    if not pixel_values.is_floating_point():
        raise TypeError(f"Erasing follows normalisation: `pixel_values` must be floating, not {pixel_values.dtype}.")
    batch_size = len(pixel_values)
    if pixel_values.ndim != 5 or boxes.shape != (batch_size, 4) or seeds.shape != (batch_size,):
        raise ValueError(
            "`pixel_values` (B, T, C, H, W), `boxes` (B, 4) and `seeds` (B,) do not fit together: "
            f"{tuple(pixel_values.shape)}, {tuple(boxes.shape)} and {tuple(seeds.shape)}."
        )
    boxes, seeds = boxes.to(pixel_values.device), seeds.to(pixel_values.device)
    erase = _erase_known_box if pixel_values.device.type == "cpu" else _erase_unknown_box
    for clip, box, seed in zip(pixel_values, boxes, seeds, strict=True):
        erase(clip, box, seed)
    return pixel_values


def _erase_known_box(clip: torch.Tensor, box: torch.Tensor, seed: torch.Tensor) -> None:
    top, left, height, width = box.tolist()
    if height and width:
        indices = torch.arange(clip.numel(), dtype=torch.int32).view(clip.shape)
        indices = indices[..., top : top + height, left : left + width]
        clip[..., top : top + height, left : left + width] = _noise(indices, seed).to(clip.dtype)


def _erase_unknown_box(clip: torch.Tensor, box: torch.Tensor, seed: torch.Tensor) -> None:
    """Return the same where the box lies in the memory of a device: asking for it would wait for the device."""
    top, left, height, width = box.unbind()
    # (H, 1) and (W,): one box for all frames and channels.
    y = torch.arange(clip.shape[-2], device=clip.device)[:, None]
    x = torch.arange(clip.shape[-1], device=clip.device)
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    indices = torch.arange(clip.numel(), dtype=torch.int32, device=clip.device).view(clip.shape)
    clip.copy_(torch.where(inside, _noise(indices, seed).to(clip.dtype), clip))


def _noise(indices: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Compute standard normal float32 numbers for int32 `indices` into a clip and an int64 seed of no dimensions."""
    low, high = (seed & 0xFFFFFFFF).to(torch.int32), (seed >> 32).to(torch.int32)
    bits = _mix(_mix(indices ^ low) + high)
    # 24 of the bits as the middles of 2 ** 24 equal parts of (-1, 1), then the normal distribution's inverse.
    uniform = ((bits >> 8).float() + 0.5) * 2.0**-23
    return torch.erfinv(uniform) * math.sqrt(2)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """Scramble int32 values one to one: C. Wellons' `lowbias32` (products keep their lowest 32 bits)."""
    bits = (bits ^ _shifted(bits, 16)) * 0x7FEB352D
    bits = (bits ^ _shifted(bits, 15)) * (0x846CA68B - 2**32)
    return bits ^ _shifted(bits, 16)


def _shifted(bits: torch.Tensor, num_bits: int) -> torch.Tensor:
    return (bits >> num_bits) & (2 ** (32 - num_bits) - 1)  # int32 shifts copy the sign
