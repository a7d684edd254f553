"""Checkpoints as the authors write them: names and shapes spelt out, numbers at random or by a formula."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch


Shapes = dict[str, tuple[int, ...]]

TINY_CLASSIFIER: dict[str, Any] = {"num_attention_heads": 2, "image_size": 16, "num_frames": 4}
"""What the file of the fixture `classifier_file` does not tell of itself."""


def _block_shapes(prefix: str, width: int) -> Shapes:
    return {
        f"{prefix}norm1.weight": (width,),
        f"{prefix}norm1.bias": (width,),
        f"{prefix}attn.q_bias": (width,),
        f"{prefix}attn.v_bias": (width,),
        f"{prefix}attn.qkv.weight": (3 * width, width),
        f"{prefix}attn.proj.weight": (width, width),
        f"{prefix}attn.proj.bias": (width,),
        f"{prefix}norm2.weight": (width,),
        f"{prefix}norm2.bias": (width,),
        f"{prefix}mlp.fc1.weight": (4 * width, width),
        f"{prefix}mlp.fc1.bias": (4 * width,),
        f"{prefix}mlp.fc2.weight": (width, 4 * width),
        f"{prefix}mlp.fc2.bias": (width,),
    }


def _encoder_shapes(prefix: str, width: int, depth: int, patch: tuple[int, int, int, int]) -> Shapes:
    shapes: Shapes = {f"{prefix}patch_embed.proj.weight": (width, *patch), f"{prefix}patch_embed.proj.bias": (width,)}
    for layer in range(depth):
        shapes |= _block_shapes(f"{prefix}blocks.{layer}.", width)
    return shapes


def classifier_shapes(
    width: int, depth: int, num_labels: int, patch: tuple[int, int, int, int] = (3, 2, 16, 16)
) -> Shapes:
    """A fine-tuned classifier; `patch` is (channels, frames, rows, columns)."""
    shapes = _encoder_shapes("", width, depth, patch)
    shapes |= {"fc_norm.weight": (width,), "fc_norm.bias": (width,)}
    return shapes | {"head.weight": (num_labels, width), "head.bias": (num_labels,)}


def pretraining_shapes(
    width: int,
    depth: int,
    decoder_width: int,
    decoder_depth: int,
    teacher_width: int | None = None,
    num_projections: int = 2,
    num_generators: int = 2,
    generator_depth: int = 2,
    patch: tuple[int, int, int, int] = (3, 2, 16, 16),
) -> Shapes:
    """A pre-training checkpoint: VideoMAE's without `teacher_width`, AMD's with it."""
    channels, frames, rows, columns = patch
    shapes: Shapes = {"mask_token": (1, 1, decoder_width)}
    shapes |= _encoder_shapes("encoder.", width, depth, patch)
    shapes |= {"encoder.norm.weight": (width,), "encoder.norm.bias": (width,)}
    if teacher_width is not None:
        shapes |= {f"encoder.projection_heads.{i}.weight": (teacher_width, width) for i in range(num_projections)}
    for layer in range(decoder_depth):
        shapes |= _block_shapes(f"decoder.blocks.{layer}.", decoder_width)
    shapes |= {"decoder.norm.weight": (decoder_width,), "decoder.norm.bias": (decoder_width,)}
    pixels = channels * frames * rows * columns
    shapes |= {"decoder.head.weight": (pixels, decoder_width), "decoder.head.bias": (pixels,)}
    shapes |= {"encoder_to_decoder.weight": (decoder_width, width)}
    for position in range(num_generators if teacher_width is not None else 0):
        for layer in range(generator_depth):
            shapes |= _block_shapes(f"generators.{position}.blocks.{layer}.", teacher_width)
        shapes |= {f"generators.{position}.norm.{leaf}": (teacher_width,) for leaf in ("weight", "bias")}
    return shapes


def random_state_dict(shapes: Shapes, seed: int = 0, std: float = 0.1) -> dict[str, torch.Tensor]:
    """Random tensors, norm weights around 1; the generators' unused norms at 1 and 0, as official files have them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if re.fullmatch(r"generators\.\d+\.norm\.\w+", name):
            tensors[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
            continue
        tensors[name] = std * torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1
    return tensors


def formula_state_dict(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensor i of the sorted names is 0.08 * sin(0.37 * n + i), norm weights 1 more (golden/README)."""
    tensors = {}
    for number, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        values = 0.08 * torch.sin(0.37 * index + number)
        if "norm" in name and name.endswith("weight"):
            values += 1
        tensors[name] = values.reshape(shape).to(torch.float32)
    return tensors


def official_name(ours: str, layer_lists: Mapping[str, list[int]] | None = None, is_pretraining: bool = True) -> str:
    """Official name of one of our parameters; `layer_lists` says which student layers the positions stand for."""
    encoder = "encoder." if is_pretraining else ""
    rules = [
        (r"^amd\.embeddings\.projection\.", f"{encoder}patch_embed.proj."),
        (r"^amd\.layers\.", f"{encoder}blocks."),
        (r"^amd\.norm\.", "encoder.norm."),
        (r"^decoder\.embed\.", "encoder_to_decoder."),
        (r"^decoder\.mask_token$", "mask_token"),
        (r"^decoder\.layers\.", "decoder.blocks."),
        (r"^classifier\.", "head."),
        (r"\.attention\.(qkv\.(?=[qv]_bias$))?", ".attn."),
    ]
    if match := re.match(r"alignment\.(projections|generators)\.(\d+)\.(.+)", ours):
        position = (layer_lists or {})[match[1]].index(int(match[2]))
        if match[1] == "projections":
            return f"encoder.projection_heads.{position}.{match[3]}"
        if match[3] == "mask_token":
            return f"generator_mask_tokens.{position}"
        ours = f"generators.{position}." + match[3].replace("layers.", "blocks.", 1)
    for pattern, replacement in rules:
        ours = re.sub(pattern, replacement, ours)
    return ours


def strip(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
