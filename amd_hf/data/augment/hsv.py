"""Colour jitter of whole clips, additive in HSV: one draw for all frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch


class HSVShift(NamedTuple):
    """What is added to hue (degrees), saturation and value (both 0 to 1) of every pixel."""

    hue: float
    saturation: float
    value: float


def draw_hsv_shift(hue: float, saturation: float, value: float, generator: np.random.Generator) -> HSVShift:
    """Draw each shift uniformly between minus and plus its bound, on the grid of 8-bit HSV pictures.

    That is steps of 2 degrees and of 1 / 255, as in VideoMAE's code for AVA.
    """
    bounds = (round(hue / 2), round(saturation * 255), round(value * 255))
    steps = [int(generator.integers(-bound, bound + 1)) for bound in bounds]
    return HSVShift(2.0 * steps[0], steps[1] / 255, steps[2] / 255)


def shift_hsv(clip: torch.Tensor, shift: HSVShift) -> torch.Tensor:
    """Add a shift to all pixels; hue goes round the circle, saturation and value stay within 0 and 1.

    Grey pixels have hue 0, as in OpenCV: more saturation makes them reddish.

    Args:
        clip (`torch.Tensor` of shape (T, 3, H, W), uint8): RGB frames.
        shift ([`HSVShift`]): What is added.

    Returns:
        `torch.Tensor` of the same shape, uint8.
    """
    red, green, blue = (clip.to(torch.float32) / 255).unbind(dim=1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    spread = highest - torch.minimum(torch.minimum(red, green), blue)
    divisor = spread.clamp_min(1e-6)
    sector = torch.where(
        highest == red,
        (green - blue) / divisor,
        torch.where(highest == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )  # hue / 60 degrees
    sector = torch.where(spread > 0, sector, 0.0) + shift.hue / 60
    saturation = (spread / highest.clamp_min(1e-6) + shift.saturation).clamp_(0, 1)
    value = (highest + shift.value).clamp_(0, 1)
    channels = []
    for offset in (5, 3, 1):
        position = (sector + offset) % 6
        ramp = torch.minimum(position, 4 - position).clamp_(0, 1)
        channels.append(value * (1 - saturation * ramp))
    return torch.stack(channels, dim=1).mul_(255).round_().to(torch.uint8)
