"""Names of tensors in official checkpoints and in ours, both ways, and those of Transformers' `videomae`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch


# (official name, our name). {rest} is what a block's parameters are called, the same in both but for `attn` and the
# place of its biases.
_PRETRAINING_NAMES = (
    ("encoder.patch_embed.proj.{leaf}", "amd.embeddings.projection.{leaf}"),
    ("encoder.blocks.{layer}.{rest}", "amd.layers.{layer}.{rest}"),
    ("encoder.norm.{leaf}", "amd.norm.{leaf}"),
    ("encoder.cls_token", "amd.embeddings.class_token"),
    ("encoder_to_decoder.{leaf}", "decoder.embed.{leaf}"),
    ("mask_token", "decoder.mask_token"),
    ("decoder.blocks.{layer}.{rest}", "decoder.layers.{layer}.{rest}"),
    ("decoder.norm.{leaf}", "decoder.norm.{leaf}"),
    ("decoder.head.{leaf}", "decoder.head.{leaf}"),
    ("encoder.projection_heads.{position}.weight", "alignment.projections.{position}.weight"),
    ("generators.{position}.blocks.{layer}.{rest}", "alignment.generators.{position}.layers.{layer}.{rest}"),
    ("generator_mask_tokens.{position}", "alignment.generators.{position}.mask_token"),
)
_CLASSIFICATION_NAMES = (
    ("cls_token", "amd.embeddings.class_token"),
    ("patch_embed.proj.{leaf}", "amd.embeddings.projection.{leaf}"),
    ("blocks.{layer}.{rest}", "amd.layers.{layer}.{rest}"),
    ("fc_norm.{leaf}", "fc_norm.{leaf}"),
    ("head.{leaf}", "classifier.{leaf}"),
)
_DETECTION_NAMES = (
    ("cls_token", "amd.embeddings.class_token"),
    ("patch_embed.proj.{leaf}", "amd.embeddings.projection.{leaf}"),
    ("blocks.{layer}.{rest}", "amd.layers.{layer}.{rest}"),
    ("norm.{leaf}", "amd.norm.{leaf}"),
    ("head.{leaf}", "classifier.{leaf}"),
)
NAMES = {
    "pretraining": _PRETRAINING_NAMES,
    "classification": _CLASSIFICATION_NAMES,
    "detection": _DETECTION_NAMES,
    "encoder": _DETECTION_NAMES,
}
_PLACEHOLDERS = {"leaf": "weight|bias", "rest": ".+", "layer": r"\d+", "position": r"\d+"}

PATCH_EMBEDDING = "amd.embeddings.projection.weight"


def rename(key: str, task: str) -> str | None:
    """Our name of an official key, or `None` where it has none; projections and generators keep their position."""
    for official, ours in NAMES[task]:
        if match := _match(official, key):
            name = re.sub(r"(\.layers\.\d+\.)attn\.", r"\1attention.", ours.format(**match.groupdict()))
            return re.sub(r"\.attention\.([qv])_bias$", r".attention.qkv.\1_bias", name)
    return None


def rename_back(key: str, task: str) -> str:
    """Official name of one of our keys; the reverse of [`rename`].

    Raises:
        ValueError: If it has none, such as an adapter's.
    """
    key = re.sub(r"\.attention\.qkv\.([qv])_bias$", r".attention.\1_bias", key)
    key = re.sub(r"(\.layers\.\d+\.)attention\.", r"\1attn.", key)
    for official, ours in NAMES[task]:
        if match := _match(ours, key):
            return official.format(**match.groupdict())
    raise ValueError(f"`{key}` has no official name.")


def join_biases(state_dict: dict[str, torch.Tensor]) -> None:
    """Join the biases of query and value of each layer, in place, to the one of the fused product: 0 for the keys."""
    for query_key in [key for key in state_dict if key.endswith(".qkv.q_bias")]:
        prefix = query_key.removesuffix("q_bias")
        query, value = state_dict.pop(query_key), state_dict.pop(f"{prefix}v_bias")
        state_dict[f"{prefix}bias"] = torch.cat([query, torch.zeros_like(query), value])


def split_biases(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reverse of `join_biases`, as a new dict: the biases of query and value; that of the keys, without effect, is
    left out."""
    split: dict[str, torch.Tensor] = {}
    for key, tensor in state_dict.items():
        if not key.endswith(".qkv.bias"):
            split[key] = tensor
            continue
        query, _, value = tensor.chunk(3)
        prefix = key.removesuffix("bias")
        split |= {f"{prefix}q_bias": query.clone(), f"{prefix}v_bias": value.clone()}
    return split


def _match(template: str, key: str) -> re.Match[str] | None:
    pattern = re.sub(r"\\{(\w+)\\}", lambda name: f"(?P<{name[1]}>{_PLACEHOLDERS[name[1]]})", re.escape(template))
    return re.fullmatch(pattern, key)


def to_linear_embedding(weight: torch.Tensor) -> torch.Tensor:
    """Convolution weight (D, channel, frame, row, column) to the linear one (D, frame * row * column * channel)."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1).clone(memory_format=torch.contiguous_format)


def to_convolution_embedding(weight: torch.Tensor, channels: int, tubelet: int, patch: int) -> torch.Tensor:
    """The reverse of [`to_linear_embedding`]."""
    convolution = weight.view(-1, tubelet, patch, patch, channels).permute(0, 4, 1, 2, 3)
    return convolution.clone(memory_format=torch.contiguous_format)


def adapt_input_channels(weight: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """A linear patch embedding (D, frame * row * column * old) for clips of `new` channels.

    Channels are taken in turn, each scaled by how often it is taken, so that a clip that is alike in all channels
    gives the same tokens as before; one channel gets the sum of the old ones (as timm does for image models).
    """
    pixels = weight.unflatten(1, (-1, old))
    if new < old:
        groups = [pixels[..., channel::new].sum(dim=-1) for channel in range(new)]
        return torch.stack(groups, dim=-1).flatten(1)
    taken = torch.arange(new) % old
    return (pixels[..., taken] / torch.bincount(taken)[taken]).flatten(1)


_VIDEOMAE_NAMES = (
    ("attention.output.dense.", "attn.proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
)


def is_videomae(keys: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are the names of Transformers' `videomae` models."""
    # `encoder.` has been taken off where the file holds an encoder alone.
    return any(re.search(r"(^|\.)layer\.0\.attention\.attention\.query\.weight$", key) for key in keys)


def videomae_to_official(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames a Transformers `videomae` state dict to official names and fuses query, key and value.

    Both spellings of the attention biases are read: `q_bias` / `v_bias`, as published files have them, and
    `query.bias` / `value.bias`. Keys that have no official name keep theirs, so that the caller sees them.
    """
    is_pretraining = any(key.startswith("decoder.") for key in tensors)
    official: dict[str, torch.Tensor] = {}
    attention: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        prefix, rest = _split_videomae_key(key, is_pretraining)
        if match := re.fullmatch(r"attention\.attention\.(.+)", rest):
            attention.setdefault(prefix, {})[match[1]] = tensor
            continue
        for theirs, ours in _VIDEOMAE_NAMES:
            if prefix and rest.startswith(theirs):
                rest = ours + rest.removeprefix(theirs)
                break
        official[prefix + rest] = tensor
    for prefix, parts in attention.items():
        official |= {f"{prefix}attn.{name}": tensor for name, tensor in _fuse_attention(parts).items()}
    return official


def _split_videomae_key(key: str, is_pretraining: bool) -> tuple[str, str]:
    """(official prefix of the block, rest of the key); an empty prefix and the official name outside blocks."""
    encoder = "encoder." if is_pretraining else ""
    key = key.removeprefix("videomae.")
    if match := re.fullmatch(r"(?:encoder\.)?layer\.(\d+)\.(.+)", key):
        return f"{encoder}blocks.{match[1]}.", match[2]
    if match := re.fullmatch(r"decoder\.decoder_layers\.(\d+)\.(.+)", key):
        return f"decoder.blocks.{match[1]}.", match[2]
    key = re.sub(r"^embeddings\.patch_embeddings\.projection\.", f"{encoder}patch_embed.proj.", key)
    key = re.sub(r"^layernorm\.", f"{encoder}norm.", key)
    return "", re.sub(r"^classifier\.", "head.", key)


def _fuse_attention(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    fused: dict[str, torch.Tensor] = {name: parts.pop(name) for name in ("q_bias", "v_bias") if name in parts}
    for ours, theirs in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
        if theirs in parts and ours not in fused:
            fused[ours] = parts.pop(theirs)
    if all(f"{name}.weight" in parts for name in ("query", "key", "value")):
        fused["qkv.weight"] = torch.cat([parts.pop(f"{name}.weight") for name in ("query", "key", "value")])
    if "key.bias" in parts:
        fused["k_bias"] = parts.pop("key.bias")
    return fused | parts  # what is left has no official name and will be refused
