"""Training a part of a classifier: frozen layers, linear probes, and LoRA adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..modeling_amd import AMDForVideoClassification


_HEAD_MODULES = ["fc_norm", "classifier"]  # new for each data set: trained whole and saved beside the adapters


def freeze_modules(model: AMDForVideoClassification, freeze: str) -> list[nn.Module]:
    """Freeze the whole encoder (`encoder`), or the patch embedding and a number of first blocks; return those modules.

    Raises:
        ValueError: If the model has fewer blocks.
    """
    encoder = model.amd
    modules: list[nn.Module] = [encoder]
    if freeze != "encoder":
        num_layers = int(freeze)
        if num_layers > len(encoder.layers):
            raise ValueError(f"`freeze` {num_layers} is more than the {len(encoder.layers)} layers of the model.")
        modules = [encoder.embeddings, *encoder.layers[:num_layers]]
    for module in modules:
        module.requires_grad_(False)  # without a gradient the optimizer does not decay the weights either
    return modules


def add_lora(model: AMDForVideoClassification, rank: int, alpha: int, targets: Sequence[str], dropout: float) -> Any:
    """Wrap `model` in a `peft.PeftModel` with adapters on the encoder's linear layers; the head is trained whole.

    Args:
        model ([`AMDForVideoClassification`]): The classifier; its own weights are frozen.
        rank (`int`): Rank of the adapters.
        alpha (`int`): The output of the adapters is scaled by `alpha / rank`.
        targets (`Sequence[str]`): Names of linear layers in the blocks: `qkv`, `proj`, `fc1`, `fc2`.
        dropout (`float`): Dropout before the adapters.

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
        # Only layers of the encoder's blocks: a head may have layers of the same names.
        target_modules=rf"amd\.layers\.\d+\.\w+\.({'|'.join(targets)})",
        lora_dropout=dropout,
        modules_to_save=_HEAD_MODULES,
    )
    return peft.get_peft_model(model, config)
