"""Floating-point operations of a model, counted by PyTorch."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count_flops(model: nn.Module) -> int:
    """Operations of one forward pass over one whole clip; a multiply and an add count as two.

    Args:
        model (`torch.nn.Module`): [`AMDModel`] or a classifier; its config gives the size of the clip.
    """
    config = model.config
    clip = torch.zeros(1, config.num_frames, config.num_channels, *config.image_height_width)
    was_training = model.training
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter:
        model.eval()(clip.to(device))
    model.train(was_training)
    return counter.get_total_flops()
