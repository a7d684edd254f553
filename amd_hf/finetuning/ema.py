"""Exponential moving average of the weights while they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback


TRAINED_WEIGHTS_NAME = "trained_weights.safetensors"


class WeightAverage:
    """Average of a model's trainable weights: `average = decay * average + (1 - decay) * weights` after each step.

    A checkpoint holds the average as the model, which is what was evaluated, and the weights under training in a file
    of their own, from which a resumed run goes on.

    Args:
        model (`torch.nn.Module`): The model under training, on its device.
        decay (`float`): What remains of the average in a step, in (0, 1).

    Raises:
        ValueError: If a weight to train is not float32: steps of the average would be lost in its rounding.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, weight in self._weights.items():
            if weight.dtype != torch.float32:
                raise ValueError(
                    f"The average of weights needs them in float32, {name} is {weight.dtype}: load the model in "
                    "float32 and train with `bf16=True`, or leave `ema_decay` out."
                )
        self._average = [weight.detach().clone() for weight in self._weights.values()]

    def reset(self) -> None:
        """Make the average what the weights are now."""
        torch._foreach_copy_(self._average, self._detached())

    def update(self) -> None:
        """Take the weights after an optimizer step into the average."""
        torch._foreach_lerp_(self._average, self._detached(), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the model's weights, which come back at the end."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save_weights(self, folder: Path) -> None:
        """Write the weights under training beside the average that a checkpoint `folder` holds."""
        weights = {name: weight.contiguous() for name, weight in zip(self._weights, self._detached(), strict=True)}
        save_file(weights, folder / TRAINED_WEIGHTS_NAME, metadata={"format": "pt"})

    def resume(self, folder: Path) -> None:
        """Take the average from the model, into which the checkpoint `folder` was loaded, and the weights from it.

        Raises:
            ValueError: If it holds other weights than those under training.
        """
        saved = load_file(folder / TRAINED_WEIGHTS_NAME)
        if saved.keys() != self._weights.keys():
            name = sorted(saved.keys() ^ self._weights.keys())[0]
            raise ValueError(
                f"{folder} holds other weights under training than this run, the first difference is {name}."
            )
        self.reset()
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(saved[name])

    def _detached(self) -> list[torch.Tensor]:
        return [weight.detach() for weight in self._weights.values()]

    def _swap(self) -> None:
        # Value by value: wrappers, optimizers and compiled graphs hold on to the tensors themselves.
        for weight, average in zip(self._detached(), self._average, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


class AverageWeights(TrainerCallback):
    """Callback that keeps the average of a trainer (its `weight_average`) up to date."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:  # a resumed run has its average already
            self.trainer.start_average()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.weight_average.update()
