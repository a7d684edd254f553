"""Floating-point operations: counted by PyTorch for any model, and by formula for training steps.

A multiply and an add count as two. Only matrix products count; they are nearly all of it.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from .configuration_amd import AMDConfig


@torch.no_grad()
def count_flops(model: PreTrainedModel) -> int:
    """Count the operations of one forward pass over one whole clip.

    Args:
        model ([`~transformers.PreTrainedModel`]): [`AMDModel`] or a classifier; its config gives the size of the clip.
    """
    config = model.config
    clip = torch.zeros(1, config.num_frames, config.num_channels, *config.image_height_width)
    was_training, attention = model.training, config._attn_implementation
    device = next(model.parameters()).device
    model.set_attn_implementation("eager")  # PyTorch does not count every kind of fused attention
    try:
        with FlopCounterMode(display=False) as counter:
            model.eval()(clip.to(device))
    finally:
        model.set_attn_implementation(attention)
        model.train(was_training)
    return counter.get_total_flops()


def encoder_flops(config: AMDConfig, num_tokens: int, num_layers: int | None = None) -> int:
    """Count the operations of an encoder over `num_tokens` tokens of one clip, through `num_layers` blocks."""
    layers = config.num_hidden_layers if num_layers is None else num_layers
    embedding = _linear_flops(num_tokens, config.patch_dim, config.hidden_size)
    mlp_width = config.intermediate_size or 4 * config.hidden_size
    return embedding + layers * _block_flops(num_tokens, config.hidden_size, mlp_width)


def pretraining_flops(config: AMDConfig, teacher: AMDConfig | None = None, teacher_flops: int | None = None) -> int:
    """Count the operations of forward and backward pass over one clip of a pre-training step.

    Backward costs twice the forward pass, but for the patch embedding, whose input needs no gradient. The teacher runs
    forward only, up to the last layer that is aligned.

    Args:
        config ([`AMDConfig`]): the student's.
        teacher ([`AMDConfig`], *optional*): the teacher's.
        teacher_flops (`int`, *optional*): in place of it the operations of a teacher of another kind.
    """
    masked = config.num_masked_patches(config.student_mask_ratio)
    visible = config.num_patches - masked
    width = config.decoder_hidden_size
    student = encoder_flops(config, visible)
    student += _linear_flops(visible, config.hidden_size, width)
    student += config.decoder_num_hidden_layers * _block_flops(config.num_patches, width, 4 * width)
    student += _linear_flops(masked, width, config.patch_dim)
    teacher_pass = teacher_flops or 0
    if teacher is not None or teacher_flops is not None:
        assert config.teacher_hidden_size is not None
        seen_by_teacher = config.num_patches - config.num_masked_patches(config.teacher_mask_ratio)
        layers = [*config.student_direct_layers, *config.student_generation_layers]
        projections = len(layers) if config.alignment_mode == "parallel" else len({*layers})
        student += projections * _linear_flops(visible, config.hidden_size, config.teacher_hidden_size)
        if seen_by_teacher > visible:
            blocks = len(config.student_generation_layers) * config.generator_num_hidden_layers
            aligned = config.teacher_hidden_size
            student += blocks * _block_flops(seen_by_teacher, aligned, 4 * aligned)
        last = max({*config.teacher_direct_layers, *config.teacher_generation_layers})
        if teacher is not None:
            teacher_pass = encoder_flops(teacher, seen_by_teacher, last)
    return 3 * student - _linear_flops(visible, config.patch_dim, config.hidden_size) + teacher_pass


def finetuning_flops(config: AMDConfig) -> int:
    """Count the operations of forward and backward pass over one clip where a whole classifier is trained.

    Args:
        config ([`AMDConfig`]): the classifier's; `num_labels` is the width of its head.
    """
    embedding = _linear_flops(config.num_patches, config.patch_dim, config.hidden_size)
    head = _linear_flops(1, config.hidden_size, config.num_labels)
    return 3 * (encoder_flops(config, config.num_patches) + head) - embedding


def _linear_flops(num_tokens: int, width_in: int, width_out: int) -> int:
    return 2 * num_tokens * width_in * width_out


def _block_flops(num_tokens: int, width: int, mlp_width: int) -> int:
    projections = _linear_flops(num_tokens, width, 4 * width)  # query, key, value, output
    attention = 2 * _linear_flops(num_tokens, width, num_tokens)  # scores and weighted sum, all heads together
    return projections + attention + 2 * _linear_flops(num_tokens, width, mlp_width)
