"""Training a part of a classifier: frozen layers, linear probes, and LoRA adapters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..modeling_amd import AMDForVideoClassification


WHOLE_ENCODER = "encoder"
_HEAD_MODULES = ["fc_norm", "classifier"]  # new for every data set: trained and saved whole beside the adapters


def frozen_modules(model: AMDForVideoClassification, freeze: str) -> list[nn.Module]:
    """Return what `freeze` means in a model: the whole encoder, or the patch embedding and the first so many blocks.

    Raises:
        ValueError: If the model has fewer blocks.
    """
    encoder = model.amd
    if freeze == WHOLE_ENCODER:
        return [encoder]
    num_layers = int(freeze)
    if num_layers > len(encoder.layers):
        raise ValueError(f"`freeze` {num_layers} is more than the {len(encoder.layers)} layers of the model.")
    return [encoder.embeddings, *encoder.layers[:num_layers]]


def freeze_modules(modules: Sequence[nn.Module]) -> None:
    """Keep the weights of modules as they are: no gradient, no weight decay."""
    for module in modules:
        module.requires_grad_(False)


def add_lora(model: AMDForVideoClassification, rank: int, alpha: int, targets: Sequence[str], dropout: float) -> Any:
    """Wrap `model` in a `peft.PeftModel`: adapters on the encoder's linear layers, the head trained whole.

    Args:
        model ([`AMDForVideoClassification`]): The classifier; its own weights are frozen.
        rank (`int`): Rank of the adapters.
        alpha (`int`): Their output is scaled by `alpha / rank`.
        targets (`Sequence[str]`): Names of linear layers in the blocks: `qkv`, `proj`, `fc1`, `fc2`.
        dropout (`float`): Dropout in front of the adapters.

    Raises:
        ImportError: If PEFT is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError('`lora_rank` needs PEFT: `pip install "amd_hf[lora]"`.') from error
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # Of the encoder's blocks only: a head may have layers of the same names.
        target_modules=rf"amd\.layers\.\d+\.\w+\.({'|'.join(targets)})",
        lora_dropout=dropout,
        modules_to_save=_HEAD_MODULES,
    )
    return peft.get_peft_model(model, config)


def is_lora(model: nn.Module) -> bool:
    """Return whether a model is wrapped by PEFT."""
    return hasattr(model, "peft_config")


def merge_lora(model: Any) -> PreTrainedModel:
    """Copy the classifier inside a `peft.PeftModel` with its adapters added to the weights, as a plain model."""
    return copy.deepcopy(model).merge_and_unload()
