"""Exponential moving average of the weights during training."""

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

    In a checkpoint the model's file holds the average, since that is what was evaluated. The weights under training
    are in a separate file, from which a resumed run continues.

    Args:
        model (`torch.nn.Module`): The model under training, on its device.
        decay (`float`): Weight of the old average in a step, in (0, 1).

    Raises:
        ValueError: If a trainable weight is not float32: rounding would swallow the steps of the average.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        # Frozen weights equal their average: they are neither copied nor swapped.
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, weight in self._weights.items():
            if weight.dtype != torch.float32:
                raise ValueError(
                    f"The average of the weights needs float32, but {name} is {weight.dtype}: load the model in "
                    "float32 and train with `bf16=True`, or leave `ema_decay` out."
                )
        self._average = [weight.detach().clone() for weight in self._weights.values()]

    @torch.no_grad()
    def reset(self) -> None:
        """Set the average to the current weights."""
        torch._foreach_copy_(self._average, list(self._weights.values()))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights; call this after each optimizer step."""
        # lerp(a, b, w) = a + w * (b - a), in one call for all weights.
        torch._foreach_lerp_(self._average, list(self._weights.values()), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights inside the context, and its own again afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def save_weights(self, folder: Path) -> None:
        """Write the weights under training into the checkpoint `folder`, whose model is the average."""
        weights = {name: weight.detach().contiguous() for name, weight in self._weights.items()}
        save_file(weights, folder / TRAINED_WEIGHTS_NAME, metadata={"format": "pt"})

    @torch.no_grad()
    def resume(self, folder: Path) -> None:
        """Restore average and weights from the checkpoint `folder`, which is already loaded into the model.

        Raises:
            ValueError: If the checkpoint trained other weights than this run does.
        """
        saved = load_file(folder / TRAINED_WEIGHTS_NAME)
        if saved.keys() != self._weights.keys():
            name = sorted(saved.keys() ^ self._weights.keys())[0]
            raise ValueError(
                f"{folder} holds other trained weights than those of this run; the first difference is {name}."
            )
        self.reset()  # the model's file in a checkpoint is the average
        for name, weight in self._weights.items():
            weight.copy_(saved[name])

    @torch.no_grad()
    def _swap(self) -> None:
        # Exchange values, not tensors: wrappers, optimizers and compiled graphs hold references to the tensors. One
        # weight at a time, so that the extra memory is that of the largest weight.
        for weight, average in zip(self._weights.values(), self._average, strict=True):
            old = weight.clone()
            weight.copy_(average)
            average.copy_(old)


class AverageWeights(TrainerCallback):
    """Callback that updates a trainer's `weight_average` after each optimizer step."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:  # a resumed run has its average already
            self.trainer.start_average()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # With fp16 the gradient scaler skips steps whose gradients overflow: the weights have not moved then.
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.weight_average.update()
