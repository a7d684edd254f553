"""Linear probes: how well a linear classifier on a frozen encoder's features does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from ..data.datasets.label_names import label_names_of
from ..data.loaders import build_eval_loader
from ..modeling_amd import AMDModel


@torch.no_grad()
def pooled_features(
    encoder: AMDModel,
    rows: Sequence[Mapping[str, Any]],
    collator: Callable,
    accelerator: Accelerator,
    batch_size: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of the encoder's last hidden state over the patch tokens for every readable row.

    Args:
        encoder ([`AMDModel`]): The frozen encoder.
        rows (`Sequence`): Labelled rows.
        collator (`Callable`): Gives `pixel_values` and `labels`, as a `ClassificationCollator` does.
        accelerator (`accelerate.Accelerator`): Device and precision.
        batch_size (`int`, *optional*, defaults to 64): Rows per forward pass.

    Returns:
        Features, float32 `(n, D)`, and labels, int64 `(n,)`, on the CPU.

    Raises:
        ValueError: If none of the rows can be read.
    """
    encoder = encoder.eval().to(accelerator.device)
    features, labels = [], []
    for batch in build_eval_loader(rows, batch_size, collator):
        if batch["pixel_values"] is None:  # no row of the batch could be read
            continue
        with accelerator.autocast():
            tokens = encoder(batch["pixel_values"].to(accelerator.device)).last_hidden_state
        # (B, N, D) -> (B, D). The mean over hundreds of tokens in float32: sums in half precision lose digits.
        features.append(encoder.patch_tokens(tokens).float().mean(dim=1).cpu())
        labels.append(batch["labels"])
    if not labels:
        raise ValueError(f"None of the {len(rows)} videos could be read.")
    return torch.cat(features), torch.cat(labels)


def linear_probe_accuracy(
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    num_classes: int,
    l2: float = 1e-3,
    max_iterations: int = 200,
) -> float:
    """Fit multinomial logistic regression on standardised features by L-BFGS, and return its test accuracy.

    Args:
        train, test (`tuple[torch.Tensor, torch.Tensor]`): Features `(n, D)` and labels `(n,)`.
        num_classes (`int`): Classes.
        l2 (`float`, *optional*, defaults to 1e-3): Weight of half the squared norm of the weights, beside the mean
            loss.
        max_iterations (`int`, *optional*, defaults to 200): Of L-BFGS.

    Returns:
        `float`: Fraction of the test rows that are classified correctly.
    """
    # Mean and std of the training set alone: nothing about the test set may leak into the classifier. The small
    # constant is for features that never change, whose std is 0.
    mean, std = train[0].mean(dim=0), train[0].std(dim=0) + 1e-6
    features, test_features = ((part - mean) / std for part in (train[0], test[0]))
    probe = nn.Linear(features.shape[1], num_classes)
    # The loss is convex, so the start does not matter: zeros need no seed.
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=max_iterations, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # The bias is not penalised: a frequent class is no sign of overfitting.
        value = F.cross_entropy(probe(features), train[1]) + l2 / 2 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (probe(test_features).argmax(dim=-1) == test[1]).float().mean().item()


def run_linear_probe(
    encoder: AMDModel, train: Any, test: Any, collator: Callable, accelerator: Accelerator, batch_size: int = 64
) -> dict[str, float | int]:
    """Fit a linear probe on the features of one labelled set and test it on another, of videos or images.

    Args:
        encoder ([`AMDModel`]): The frozen encoder.
        train, test (`datasets.Dataset`): Labelled rows of the same classes.
        collator (`Callable`): As in [`pooled_features`]; one view of each row, not augmented.
        accelerator (`accelerate.Accelerator`): Device and precision; one process.
        batch_size (`int`, *optional*, defaults to 64): Rows per forward pass.

    Returns:
        `accuracy` in [0, 1], in which unreadable rows of `test` are wrong, `videos_expected` and `videos_read` of
        `test`, `videos_fitted` of `train`.

    Raises:
        ValueError: If there are several processes, the classes differ, or nothing could be read.
    """
    if accelerator.num_processes > 1:
        raise ValueError(f"A linear probe is fitted by one process, not by {accelerator.num_processes}.")
    names = label_names_of(train)
    if unknown := set(label_names_of(test)) - set(names):
        raise ValueError(f"The probe is fitted on {len(names)} classes; the test has others: {sorted(unknown)[:5]}.")
    if getattr(test.features["label"], "names", names) != names:
        raise ValueError("The classes of the two sets stand in another order: give both the same class names.")
    fitted, tested = (pooled_features(encoder, rows, collator, accelerator, batch_size) for rows in (train, test))
    accuracy = linear_probe_accuracy(fitted, tested, len(names))
    return {
        # From the fraction of readable rows to the fraction of all: unreadable rows count as wrong.
        "accuracy": accuracy * len(tested[1]) / len(test),
        "videos_expected": len(test),
        "videos_read": len(tested[1]),
        "videos_fitted": len(fitted[1]),
    }
