"""Parameter groups and the learning-rate schedule of the released code."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.utils import logging


logger = logging.get_logger(__name__)


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is decayed: biases, 1-D weights, mask tokens and class tokens are not (DESIGN section 7)."""
    last = name.rsplit(".", 1)[-1]
    return parameter.ndim > 1 and not last.endswith("bias") and last not in ("mask_token", "class_token")


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float | None = None, layer_decay: float = 1.0
) -> list[dict]:
    """The trainable parameters of `model`, grouped by weight decay and, with `layer_decay`, by layer.

    Args:
        model (`torch.nn.Module`): An AMD model.
        weight_decay (`float`): For the parameters of [`has_weight_decay`]; the others get 0.
        learning_rate (`float`, *optional*): Rate of the last layer; needed with `layer_decay`.
        layer_decay (`float`, *optional*, defaults to 1.0):
            The rate of layer i is `learning_rate * layer_decay ** (num_hidden_layers + 1 - i)`: layer 0 is the patch
            embedding, i the i-th block, and `num_hidden_layers + 1` all that follows.

    Returns:
        `list[dict]`: Groups for a `torch.optim` optimizer, early layers first.
    """
    num_layers = model.config.num_hidden_layers
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_number(name, num_layers) if layer_decay != 1.0 else num_layers + 1
        is_decayed = has_weight_decay(name, parameter)
        group = groups.setdefault((layer, not is_decayed), {"params": []})
        group["params"].append(parameter)
        group["weight_decay"] = weight_decay if is_decayed else 0.0
        if layer_decay != 1.0:
            group["lr"] = learning_rate * layer_decay ** (num_layers + 1 - layer)
    return [groups[key] for key in sorted(groups)]


def layer_number(name: str, num_layers: int) -> int:
    """Layer of a parameter: 0 for the patch embedding, i for block i, `num_layers + 1` for whatever follows."""
    name = name.split("amd.", 1)[-1]  # adapters put prefixes of their own in front
    if name.startswith("embeddings."):
        return 0
    match = re.match(r"layers\.(\d+)\.", name)
    return int(match[1]) + 1 if match else num_layers + 1


def keep_key_biases(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Have an optimizer leave the biases of the attention's keys as they are: 0, as in every official checkpoint.

    The softmax is blind to them, so their gradient is rounding alone, which Adam would make steps of full size of.

    Args:
        optimizer (`torch.optim.Optimizer`): Of the model's parameters.
        model (`torch.nn.Module`): An AMD model; FSDP2 may split its parameters later.
    """
    products = [module for name, module in model.named_modules() if name.endswith("attention.qkv")]

    def clear(*_: Any) -> None:
        for product in products:
            gradient = getattr(getattr(product, "bias", None), "grad", None)
            if gradient is None:
                continue
            if not hasattr(gradient, "device_mesh"):
                gradient.chunk(3)[1].zero_()
                continue
            # FSDP2: each process has a part of it. Imported here since it takes a second.
            from torch.distributed.tensor import distribute_tensor

            mask = torch.ones(gradient.shape, dtype=gradient.dtype, device=gradient.device)
            mask.chunk(3)[1].zero_()
            gradient.mul_(distribute_tensor(mask, gradient.device_mesh, gradient.placements))

    optimizer.register_step_pre_hook(clear)


def cosine_factor(num_training_steps: int, num_warmup_steps: int, final_share: float) -> Callable[[int], float]:
    """Factor on the learning rate by step: linear warm-up from 0, then cosine to `final_share`.

    As the released code counts: the last warm-up step and the first cosine step both have the full rate, and the last
    step of all stays one step above the final rate.
    """

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(num_warmup_steps - 1, 1)
        progress = min((step - num_warmup_steps) / max(num_training_steps - num_warmup_steps, 1), 1.0)
        return final_share + 0.5 * (1 - final_share) * (1 + math.cos(math.pi * progress))

    return factor


def cosine_schedule(
    optimizer: torch.optim.Optimizer, num_training_steps: int, num_warmup_steps: int, final_share: float
) -> LambdaLR:
    """Schedule of [`cosine_factor`] for every parameter group: each ends at its own share of its own rate."""
    if num_warmup_steps > num_training_steps:
        logger.warning(
            f"The warm-up takes {num_warmup_steps} steps, but the run has only {num_training_steps}: the learning "
            "rate never reaches its full height. Lower `warmup_epochs` (or `warmup_steps`) or train longer."
        )
    return LambdaLR(optimizer, cosine_factor(num_training_steps, num_warmup_steps, final_share))
