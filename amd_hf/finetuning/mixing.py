"""Mixup and cutmix of a micro-batch, as in the released recipe: drawn on the CPU, applied on the device.

Clips are paired from both ends of the micro-batch: the first with the last, and so on. One draw serves the whole
micro-batch: either every clip is blended with its partner, or the same box of the partner is pasted into all frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class MixDraw:
    """How one micro-batch is mixed.

    Args:
        ratio (`float`): Fraction of a clip that is its own, and weight of its own label; the rest is its partner's.
        box (`tuple[int, int, int, int]`, *optional*): Top, bottom, left and right of the pasted box in pixels, ends
            excluded; `None` if clips are blended.
    """

    ratio: float = 1.0
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class BatchMixer:
    """Mixup / cutmix, drawn and applied (timm's `Mixup` with `mode="batch"`, whose settings the recipe gives).

    Args:
        mixup_alpha, cutmix_alpha (`float`): Both parameters of the beta distribution of the ratio; 0 turns that kind
            off.
        probability (`float`, defaults to 1.0): Probability of mixing a micro-batch at all.
        switch_probability (`float`, defaults to 0.5): Probability of cutmix if both kinds are on.
    """

    mixup_alpha: float
    cutmix_alpha: float
    probability: float = 1.0
    switch_probability: float = 0.5

    def __bool__(self) -> bool:
        return self.probability > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def draw(self, generator: np.random.Generator, height: int, width: int) -> MixDraw:
        """Draw how to mix clips of `height` x `width` pixels."""
        if not self or generator.random() >= self.probability:
            return MixDraw()
        is_cutmix = self.cutmix_alpha > 0
        if is_cutmix and self.mixup_alpha > 0:
            is_cutmix = generator.random() < self.switch_probability
        alpha = self.cutmix_alpha if is_cutmix else self.mixup_alpha
        ratio = float(generator.beta(alpha, alpha))
        if not is_cutmix:
            return MixDraw(ratio)
        # A box of area (1 - ratio) with the frame's aspect ratio: each side shrinks by the square root.
        half_sides = [int(side * math.sqrt(1 - ratio)) // 2 for side in (height, width)]
        center = int(generator.integers(height)), int(generator.integers(width))
        # The frame may cut the box off, since its centre is anywhere. An odd side loses a pixel (as in timm 0.4.12).
        (top, bottom), (left, right) = (
            (max(middle - half, 0), min(middle + half, limit))
            for middle, half, limit in zip(center, half_sides, (height, width), strict=True)
        )
        # What is left of the box decides the ratio, so that labels are weighted by the pixels that are visible.
        return MixDraw(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mix_generator(seed: int, step: int, micro_batch: int) -> np.random.Generator:
    """Return the random generator of one micro-batch; it depends on nothing but the arguments.

    Args:
        seed (`int`): The run's seed.
        step (`int`): Optimizer steps done before.
        micro_batch (`int`): Index of the micro-batch in the step, over accumulation and processes.
    """
    return np.random.Generator(np.random.PCG64([seed, step, micro_batch]))


def mix_clips(pixel_values: torch.Tensor, draw: MixDraw) -> torch.Tensor:
    """Mix float clips `(B, T, C, H, W)` as drawn; the result is a new tensor unless there is nothing to mix."""
    if draw.box is not None:
        top, bottom, left, right = draw.box
        mixed = pixel_values.clone()
        mixed[..., top:bottom, left:right] = pixel_values[..., top:bottom, left:right].flip(0)
        return mixed
    if draw.ratio == 1.0:
        return pixel_values
    return pixel_values * draw.ratio + pixel_values.flip(0) * (1 - draw.ratio)


def soft_targets(labels: torch.Tensor, num_labels: int, smoothing: float, draw: MixDraw) -> torch.Tensor:
    """Turn class indices `(B,)`, int64, into float32 targets `(B, num_labels)`, smoothed and mixed like the clips.

    The smoothing is spread over all classes: the true class gets `1 - smoothing + smoothing / num_labels`.
    """
    targets = F.one_hot(labels, num_labels).to(torch.float32) * (1 - smoothing) + smoothing / num_labels
    return targets * draw.ratio + targets.flip(0) * (1 - draw.ratio)
