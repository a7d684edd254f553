"""Mixup and cutmix of a device batch: drawn on the CPU, applied on the device, as the released recipe does.

A clip is paired with its mirror in the batch (the first with the last). One draw serves the whole batch: either every
clip is blended with its partner, or one box of its partner is pasted through all of its frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class MixDraw:
    """What happens to one device batch.

    Args:
        share (`float`): Part of a clip that is its own, and weight of its own label; the rest is its partner's.
        box (`tuple[int, int, int, int]`, *optional*): Top, bottom, left and right of the pasted box in pixels, ends
            excluded; `None` where clips are blended.
    """

    share: float = 1.0
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class BatchMixer:
    """Mixup / cutmix, drawn and applied (timm's `Mixup` with `mode="batch"`, whose settings the recipe gives).

    Args:
        mixup_alpha, cutmix_alpha (`float`): Both parameters of the beta distribution that the share is drawn from; 0
            switches that kind off.
        probability (`float`, defaults to 1.0): Share of batches that are mixed at all.
        switch_probability (`float`, defaults to 0.5): Share of cutmix where both kinds are on.
    """

    mixup_alpha: float
    cutmix_alpha: float
    probability: float = 1.0
    switch_probability: float = 0.5

    def __bool__(self) -> bool:
        return self.probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def draw(self, generator: np.random.Generator, height: int, width: int) -> MixDraw:
        """Draw what happens to a batch of clips of `height` x `width` pixels."""
        if not self or generator.random() >= self.probability:
            return MixDraw()
        is_cutmix = self.cutmix_alpha > 0
        if is_cutmix and self.mixup_alpha > 0:
            is_cutmix = generator.random() < self.switch_probability
        alpha = self.cutmix_alpha if is_cutmix else self.mixup_alpha
        share = float(generator.beta(alpha, alpha))
        if not is_cutmix:
            return MixDraw(share)
        box_height, box_width = (int(side * math.sqrt(1 - share)) for side in (height, width))
        # The centre is anywhere, so the frame may cut the box off: its true area counts.
        center_row, center_column = int(generator.integers(height)), int(generator.integers(width))
        top, bottom = _clip_side(center_row, box_height, height)
        left, right = _clip_side(center_column, box_width, width)
        return MixDraw(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mix_generator(seed: int, step: int, device_batch: int) -> np.random.Generator:
    """Return the random generator of one micro-batch; it depends on the arguments alone.

    Args:
        seed (`int`): The run's seed.
        step (`int`): Optimizer steps done before.
        device_batch (`int`): Number of the batch among those of the step, over accumulation and processes.
    """
    return np.random.Generator(np.random.PCG64([seed, step, device_batch]))


def mix_clips(pixel_values: torch.Tensor, draw: MixDraw) -> torch.Tensor:
    """Mix float clips `(B, T, C, H, W)` as drawn; a new tensor unless there is nothing to mix."""
    if draw.box is not None:
        top, bottom, left, right = draw.box
        mixed = pixel_values.clone()
        mixed[..., top:bottom, left:right] = pixel_values[..., top:bottom, left:right].flip(0)
        return mixed
    if draw.share == 1.0:
        return pixel_values
    return pixel_values * draw.share + pixel_values.flip(0) * (1 - draw.share)


def soft_targets(labels: torch.Tensor, num_labels: int, smoothing: float, draw: MixDraw) -> torch.Tensor:
    """Turn classes `(B,)`, int64, into float32 targets `(B, num_labels)`: smoothed, and mixed as the clips are.

    The smoothing is spread over all classes: the true one gets `1 - smoothing + smoothing / num_labels`.
    """
    targets = F.one_hot(labels, num_labels).to(torch.float32) * (1 - smoothing) + smoothing / num_labels
    return targets * draw.share + targets.flip(0) * (1 - draw.share)


def _clip_side(center: int, length: int, limit: int) -> tuple[int, int]:
    """Return both ends of a side of the box, cut off at the frame; an odd length loses a pixel (as in timm 0.4.12)."""
    return max(center - length // 2, 0), min(center + length // 2, limit)
