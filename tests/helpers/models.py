"""Tiny models, clips and masks. Widths, depths and grids are chosen so that no two sizes are equal by chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from amd_hf import AMDConfig
from amd_hf.modeling_amd import TokenSplit


def tiny_config(**changes: Any) -> AMDConfig:
    """4 frames of 16 x 24, tubelets of 2, patches of 8: 2 x 2 x 3 = 12 tokens; 4 seen by both, 4 by the teacher."""
    options: dict[str, Any] = {
        "image_size": [16, 24],
        "patch_size": 8,
        "num_frames": 4,
        "tubelet_size": 2,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "decoder_hidden_size": 20,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "teacher_hidden_size": 48,
        "generator_num_hidden_layers": 1,
        "generator_num_attention_heads": 3,
        "student_direct_layers": [1, 3],
        "student_generation_layers": [2, 3],
        "teacher_direct_layers": [2, 4],
        "teacher_generation_layers": [1, 4],
        "student_mask_ratio": 0.7,
        "teacher_mask_ratio": 0.4,
        "num_labels": 5,
    }
    return AMDConfig(**{**options, **changes})


def tiny_teacher_config(**changes: Any) -> AMDConfig:
    """The encoder whose layers `tiny_config` aligns with, one block deeper than needed."""
    options: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "teacher_hidden_size": None,
    }
    return tiny_config(**{**options, **changes})


def randomize(model: nn.Module, seed: int = 0, std: float = 0.1) -> nn.Module:
    """Adds noise to every parameter, so that zeros and ones of the initialisation hide no mistake.

    But for the biases of the attention's keys, which are 0 in every model that was trained.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if name.endswith("attention.qkv.bias"):
                parameter.chunk(3)[1].zero_()
    return model


def random_clips(config: AMDConfig, batch_size: int = 2, seed: int = 0) -> torch.Tensor:
    """uint8 clips (B, T, C, H, W)."""
    shape = (batch_size, config.num_frames, config.num_channels, *config.image_height_width)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def normalized(clips: torch.Tensor, config: AMDConfig) -> torch.Tensor:
    """The floats that a video processor makes of uint8 clips."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.image_mean, config.image_std))
    return (clips / 255 - mean) / std


def token_split(student: torch.Tensor, teacher: torch.Tensor | None = None) -> TokenSplit:
    """The ids of V, X and M of masks `(B, N)`, looked up token by token."""

    def ids(wanted: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[token for token, is_in in enumerate(row) if is_in] for row in wanted.tolist()]).long()

    if teacher is None:
        return TokenSplit(ids(~student), ids(student))
    return TokenSplit(ids(~student), ids(student), ids(student & ~teacher), ids(teacher))


def nested_masks(
    num_tokens: int, num_masked: int, num_teacher_masked: int, batch_size: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (B, N) of student and teacher, another order of the tokens in each row."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.zeros(batch_size, num_tokens, dtype=torch.bool)
    teacher = student.clone()
    for row in range(batch_size):
        order = torch.randperm(num_tokens, generator=generator).tolist()
        for token in order[:num_masked]:
            student[row, token] = True
        for token in order[:num_teacher_masked]:
            teacher[row, token] = True
    return student, teacher
