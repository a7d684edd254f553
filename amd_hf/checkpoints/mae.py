"""Names of tensors in MAE's official checkpoints and in Transformers' `vit_mae`, to the official names of VideoMAE.

An image is a clip of one frame: the 2-D convolution of the patches becomes a 3-D one of tubelets of one frame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch


# (name in MAE's file, official name); the encoder's names get `encoder.` in front where there is a decoder.
_DECODER_NAMES = (
    (r"decoder_embed\.", "encoder_to_decoder."),
    (r"decoder_blocks\.", "decoder.blocks."),
    (r"decoder_norm\.", "decoder.norm."),
    (r"decoder_pred\.", "decoder.head."),
    (r"decoder_pos_embed$", "decoder.pos_embed"),
    (r"mask_token$", "mask_token"),
    (r"generators\.", "generators."),  # of AMD's students
)
# (name in a `vit_mae` file or in memory, name in MAE's file), applied in turn.
_VIT_MAE_NAMES = (
    (r"^vit\.", ""),
    (r"^decoder\.(?=decoder_|mask_token)", ""),
    (r"^(?:(?:encoder\.)?layer|layers)\.", "blocks."),  # `encoder.` is taken off where there is no decoder
    (r"^decoder_(?:layers|encoder\.layer)\.", "decoder_blocks."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(\w*blocks\.\d+)\.attention\.attention\.", r"\1.attn."),
    (r"^(\w*blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
    (r"^(\w*blocks\.\d+)\.attention\.([qkv])_proj\.", r"\1.attn.\2."),
    (r"^(\w*blocks\.\d+)\.attn\.(q|k|v)(?:uery|ey|alue)\.", r"\1.attn.\2."),
    (r"^(\w*blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(\w*blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^(\w*blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"^(\w*blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
)
_PATCH_EMBEDDING = "patch_embed.proj.weight"


def is_mae(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are tensors of MAE's code: patches are embedded by a 2-D convolution."""
    return _PATCH_EMBEDDING in tensors and tensors[_PATCH_EMBEDDING].ndim == 4


def is_vit_mae(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are the names of Transformers' `vit_mae` models, as they are saved or in memory."""
    names = {key.removeprefix("vit.") for key in tensors}
    return {"embeddings.cls_token", "embeddings.position_embeddings"} <= names


def vit_mae_to_mae(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames a Transformers `vit_mae` state dict to MAE's names and fuses query, key and value.

    Keys that have no such name keep what is left of theirs, so that the caller sees them.
    """
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        for theirs, ours in _VIT_MAE_NAMES:
            key = re.sub(theirs, ours, key)
        renamed[key] = tensor
    for key in [key for key in renamed if re.search(r"\.attn\.q\.(weight|bias)$", key)]:
        start, leaf = key.rsplit(".q.", 1)
        names = [f"{start}.{part}.{leaf}" for part in "qkv"]
        if all(name in renamed for name in names):
            renamed[f"{start}.qkv.{leaf}"] = torch.cat([renamed.pop(name) for name in names])
    return renamed


def mae_settings(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What is known of a checkpoint with MAE's names beside its tensors, under the names of a Transformers config."""
    settings = {
        "model_type": "vit_mae",
        "num_frames": 1,
        "reconstruction_target": "mae",
        "mask_type": "random",
        "mask_ratio": 0.75,
        "teacher_mask_ratio": 0.5,
    }
    if "decoder_embed.weight" in tensors and len(tensors["decoder_embed.weight"]) == 512:
        settings["decoder_num_attention_heads"] = 16  # of all of MAE's models; VideoMAE has 8 at this width
    if _is_classifier_by_class_token(tensors):
        settings["pooling"] = "class_token"
    return settings


def _is_classifier_by_class_token(tensors: Mapping[str, torch.Tensor]) -> bool:
    return "head.weight" in tensors and "fc_norm.weight" not in tensors


def mae_to_official(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames MAE's tensors: pre-trained with or without the decoder, or fine-tuned.

    A classifier by the class token has a norm in front of its head where one by the mean has `fc_norm`: it gets that
    name, since a LayerNorm of all tokens gives each the same as of it alone.
    """
    has_decoder = any(key.startswith("decoder_") for key in tensors)
    takes_class_token = _is_classifier_by_class_token(tensors)
    official: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        name = _official_name(key, has_decoder)
        if takes_class_token:
            name = re.sub(r"^norm\.", "fc_norm.", name)
        if key == _PATCH_EMBEDDING:
            tensor = tensor.unsqueeze(2)  # (D, channels, 1 frame, rows, columns)
        if name.endswith("attn.qkv.bias"):
            parts = zip(("q_bias", "k_bias", "v_bias"), tensor.chunk(3), strict=True)
            official |= {name.replace("qkv.bias", part): bias for part, bias in parts}
        else:
            official[name] = tensor
    return official


def _official_name(key: str, has_decoder: bool) -> str:
    for theirs, ours in _DECODER_NAMES:
        if match := re.match(theirs, key):
            return ours + key[match.end() :]
    return f"encoder.{key}" if has_decoder else key
