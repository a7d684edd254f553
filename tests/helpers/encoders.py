"""Tiny random encoders of Transformers' own classes, their raw hidden states, and the same with tokens hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.helpers.models import randomize


_BLOCKS = {"num_attention_heads": 2, "num_hidden_layers": 4}
_IMAGES = {**_BLOCKS, "patch_size": 8, "hidden_size": 48}
_CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vjepa2": (
        "VJEPA2Model",
        "VJEPA2Config",
        {
            **_IMAGES, "crop_size": 32, "frames_per_clip": 8, "pred_hidden_size": 24, "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
    ),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**_IMAGES, "image_size": 32}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**_IMAGES, "image_size": 32, "num_register_tokens": 3},
    ),
    "dinov3_vit": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {**_IMAGES, "image_size": 32, "num_register_tokens": 3, "intermediate_size": 64},
    ),
    "siglip_vision_model": (
        "SiglipVisionModel",
        "SiglipVisionConfig",
        {**_IMAGES, "image_size": 32, "intermediate_size": 64},
    ),
    "siglip2_vision_model": (
        "Siglip2VisionModel",
        "Siglip2VisionConfig",
        {**_IMAGES, "num_patches": 16, "intermediate_size": 64},
    ),
    "clip_vision_model": (
        "CLIPVisionModel",
        "CLIPVisionConfig",
        {**_IMAGES, "image_size": 32, "intermediate_size": 64},
    ),
    "videoprism_vision_model": (
        "VideoPrismVisionModel",
        "VideoPrismVisionConfig",
        {
            "image_size": 32, "num_frames": 4, "tubelet_size": (1, 8, 8), "hidden_size": 48, "num_attention_heads": 2,
            "num_spatial_layers": 2, "num_temporal_layers": 2, "intermediate_size": 64,
        },
    ),
}  # fmt: skip
ENCODERS = list(_CONFIGS)
"""Of width 48 and 4 layers, for frames of 32 x 32 in patches of 8."""


def tiny_encoder(model_type: str, **changes: Any) -> transformers.PreTrainedModel:
    model_class, config_class, options = _CONFIGS[model_type]
    config = getattr(transformers, config_class)(**{**options, **changes})
    torch.manual_seed(0)
    return randomize(getattr(transformers, model_class)(config)).eval()


@torch.no_grad()
def raw_hidden_states(model: transformers.PreTrainedModel, clips: torch.Tensor) -> dict[int, torch.Tensor]:
    """Layer -> the outputs of its block by Transformers' own forward pass over whole clips `(B, T, C, H, W)`.

    `(B, N, D)` for V-JEPA 2; for all others `(B, T, patches, D)`, without class and register tokens.
    """
    kind = model.config.model_type
    if kind == "vjepa2":
        states = model(clips, skip_predictor=True, output_hidden_states=True).hidden_states
        return dict(enumerate(states[1:], start=1))
    if kind == "videoprism_vision_model":
        found: dict[int, torch.Tensor] = {}
        blocks = [*model.spatial_layers, *model.temporal_layers]
        hooks = [
            block.register_forward_hook(lambda *seen, layer=layer: found.update({layer: seen[2]}))
            for layer, block in enumerate(blocks, start=1)
        ]
        model(clips, interpolate_pos_encoding=True)
        for hook in hooks:
            hook.remove()
        batch, num_frames = clips.shape[:2]
        for layer, states in found.items():
            if layer <= len(model.spatial_layers):
                found[layer] = states.unflatten(0, (batch, num_frames))
            else:
                found[layer] = states.unflatten(0, (batch, -1)).transpose(1, 2)
        return found
    frames, options = clips.flatten(0, 1), {}
    if kind == "siglip2_vision_model":
        side = model.config.patch_size
        rows, columns = frames.shape[-2] // side, frames.shape[-1] // side
        # As its processor does it, one patch after the other.
        frames = torch.stack(
            [
                frames[:, :, side * r : side * r + side, side * c : side * c + side].permute(0, 2, 3, 1).flatten(1)
                for r in range(rows)
                for c in range(columns)
            ],
            dim=1,
        )
        options["pixel_attention_mask"] = torch.ones(frames.shape[:2], dtype=torch.long)
        options["spatial_shapes"] = torch.tensor([[rows, columns]] * len(frames))
    elif kind in ("siglip_vision_model", "clip_vision_model"):
        options["interpolate_pos_encoding"] = True
    states = model(frames, output_hidden_states=True, **options).hidden_states[1:]
    num_patches = (clips.shape[-2] // 8) * (clips.shape[-1] // 8)
    return {
        layer: output[:, -num_patches:].unflatten(0, clips.shape[:2]) for layer, output in enumerate(states, start=1)
    }


@contextmanager
def hidden_keys(model: nn.Module, is_hidden: torch.Tensor) -> Iterator[None]:
    """Have every query look at keys that are not hidden alone, in a plain softmax: the reference for hidden tokens.

    `is_hidden` `(sequences, patches)` speaks of the last keys of a sequence: those in front (class and register
    tokens) are seen. Sequences of another length (VideoPrism's over time) are seen whole.
    """

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        scaling = options.get("scaling") or 1 / math.sqrt(query.shape[-1])
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
        if (cap := options.get("softcap")) is not None:
            scores = cap * torch.tanh(scores / cap)
        if key.shape[2] >= is_hidden.shape[1] and len(key) == len(is_hidden):
            scores[..., -is_hidden.shape[1] :] += torch.where(is_hidden, -torch.inf, 0.0)[:, None, None]
        return torch.einsum("bhqk,bhkd->bqhd", scores.softmax(dim=-1), value), None

    ALL_ATTENTION_FUNCTIONS.register("hidden_keys", attend)
    before = model.config._attn_implementation
    model.config._attn_implementation = "hidden_keys"
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "hidden_keys"
    try:
        yield
    finally:
        for module in (model, *model.modules()):
            if hasattr(module, "config"):
                module.config._attn_implementation = before
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop("hidden_keys")
