"""Tiny folders of Transformers' own `videomae` models, in both spellings of the attention biases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from amd_hf import AMDForVideoClassification, convert_checkpoint
from tests.helpers.models import randomize


SPELLINGS = {"published": ("q_bias", "v_bias"), "in memory": ("query.bias", "value.bias")}
MODELS = {"pretraining": VideoMAEForPreTraining, "classification": VideoMAEForVideoClassification}


def videomae_config(**changes: Any) -> VideoMAEConfig:
    """4 frames of 16 x 24 in tubelets of 2 and patches of 8, as in tests/helpers/models.py; LayerNorm eps 1e-12."""
    options: dict[str, Any] = {
        "image_size": [16, 24],
        "patch_size": 8,
        "num_frames": 4,
        "hidden_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "intermediate_size": 192,
        "decoder_hidden_size": 20,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 80,
        "use_mean_pooling": False,
    }
    return VideoMAEConfig(**{**options, **changes})


def save_videomae(
    folder: Path, task: str = "pretraining", spelling: str = "published", **changes: Any
) -> VideoMAEModel:
    """Saves a random model with non-zero biases and returns it, in eval mode."""
    if task == "classification":  # as published: mean pooling and `fc_norm` in place of the final norm
        changes = {"use_mean_pooling": True, "id2label": {0: "left", 1: "right", 2: "up"}, **changes}
    model = randomize(MODELS[task](videomae_config(**changes))).eval()
    model.save_pretrained(folder)
    respell_file(folder / "model.safetensors", spelling)
    return model


def respell_file(file: Path, spelling: str) -> None:
    """Gives the query and value biases of a file their names in this spelling."""
    tensors = {_respell(name, SPELLINGS[spelling]): tensor for name, tensor in load_file(file).items()}
    biases = [name for name in tensors if re.search(r"attention\.attention\.(?!key).*bias", name)]
    assert biases
    assert all(name.endswith(SPELLINGS[spelling]) for name in biases)
    assert all(bool(tensors[name].any()) for name in biases)
    save_file(tensors, file, metadata={"format": "pt"})


def _respell(name: str, spelling: tuple[str, str]) -> str:
    name = re.sub(r"attention\.attention\.(q_bias|query\.bias)$", f"attention.attention.{spelling[0]}", name)
    return re.sub(r"attention\.attention\.(v_bias|value\.bias)$", f"attention.attention.{spelling[1]}", name)


def hidden_states(model: torch.nn.Module, frames: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Raw outputs of all blocks of Transformers' own model."""
    with torch.no_grad():
        return model.videomae(frames, bool_masked_pos=mask, output_hidden_states=True).hidden_states[1:]


def twin_classifiers(folder: Path, **changes: Any) -> tuple[VideoMAEForVideoClassification, AMDForVideoClassification]:
    """One classifier as Transformers' model and as ours, in eval mode: the same weights and the same logits.

    Weights keep what passes through at about its size; biases have std 1, as those of trained models nearly have.
    """
    options = {"use_mean_pooling": True, "num_labels": 5, **changes}
    theirs = VideoMAEForVideoClassification(videomae_config(**options)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:  # scales of a LayerNorm stay near 1
                parameter.copy_(noise if name.endswith("bias") else 1 + 0.1 * noise)
    theirs.save_pretrained(folder)
    return theirs, convert_checkpoint(folder).eval()
