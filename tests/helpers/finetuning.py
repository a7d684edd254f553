"""What the tests of the fine-tuning recipe share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from amd_hf.finetuning.mixing import MixDraw


# Nothing that changes clips or targets: what a plain loop is compared with.
PLAIN: dict[str, Any] = {
    "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing_factor": 0.0, "rand_augment": None,
    "erase_probability": 0.0,
}  # fmt: skip

# What the released recipe does to a batch.
MIXED: dict[str, Any] = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing_factor": 0.1}


def plain_draw(seed: int, step: int, micro_batch: int, height: int, width: int) -> MixDraw:
    """The recipe's draw, written out: always mixed, one half by blending (0.8), one half by a box (1.0)."""
    numbers = np.random.Generator(np.random.PCG64([seed, step, micro_batch]))
    assert numbers.random() < 1.0
    if numbers.random() >= 0.5:
        return MixDraw(numbers.beta(0.8, 0.8))
    share = numbers.beta(1.0, 1.0)
    halves = [int(side * (1 - share) ** 0.5) // 2 for side in (height, width)]
    row, column = numbers.integers(height), numbers.integers(width)
    top, bottom = max(row - halves[0], 0), min(row + halves[0], height)
    left, right = max(column - halves[1], 0), min(column + halves[1], width)
    return MixDraw(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def plain_mix(
    clips: torch.Tensor, labels: list[int], num_labels: int, smoothing: float, draw: MixDraw
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips and targets mixed clip by clip and frame by frame, from the recipe's description."""
    mixed, targets = clips.clone(), torch.empty(len(clips), num_labels)
    height, width = clips.shape[-2:]
    own = draw.ratio
    if draw.box is not None:
        top, bottom, left, right = draw.box
        own = 1 - (bottom - top) * (right - left) / (height * width)
    for number in range(len(clips)):
        partner = len(clips) - 1 - number
        for frame in range(clips.shape[1]):
            if draw.box is not None:
                pasted = clips[partner, frame, :, top:bottom, left:right]
                mixed[number, frame, :, top:bottom, left:right] = pasted
            else:
                mixed[number, frame] = own * clips[number, frame] + (1 - own) * clips[partner, frame]
        for label in range(num_labels):
            weight = own * (labels[number] == label) + (1 - own) * (labels[partner] == label)
            targets[number, label] = (1 - smoothing) * weight + smoothing / num_labels
    return mixed, targets


class NumpyLegacyDraws:
    """The draws of numpy's global generator behind the names of a `numpy.random.Generator`: timm draws from it."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def random(self) -> float:
        return self._state.rand()

    def beta(self, a: float, b: float) -> float:
        return self._state.beta(a, b)

    def integers(self, high: int) -> int:
        return self._state.randint(0, high)


class RandomStates(TrainerCallback):
    """Keeps the state of PyTorch's generator at the start of each step: drop path and dropout draw from it."""

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.states.append(torch.get_rng_state())
