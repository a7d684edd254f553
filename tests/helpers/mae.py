"""Tiny models of Transformers' `vit_mae`, the same weights under MAE's own names, and what the model computes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from tests.helpers.models import randomize


NUM_PATCHES = 16
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def mae_model(with_fixed_tables: bool = True, **changes: Any) -> ViTMAEForPreTraining:
    """4 x 4 patches of 8 pixels, 3 blocks of width 48; random weights, biases and class token.

    Args:
        with_fixed_tables (`bool`): Position tables as in published files, sine-cosine with the column's half first,
            in code of its own; else random ones, the class tokens' rows too.
        **changes: Options of `ViTMAEConfig`.
    """
    options: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 192,
        "decoder_hidden_size": 20,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 80,
        "norm_pix_loss": True,
    }
    model = randomize(ViTMAEForPreTraining(ViTMAEConfig(**{**options, **changes}))).eval()
    if with_fixed_tables:
        tables = (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed)
        with torch.no_grad():
            for table in tables:
                table.copy_(_fixed_table(table.shape[-1]))
    return model


def _fixed_table(width: int) -> torch.Tensor:
    """MAE's table, number by number: (1, 1 + 16, width), zeros for the class token."""
    quarter = width // 4
    table = torch.zeros(1, 1 + NUM_PATCHES, width, dtype=torch.float64)
    for patch in range(NUM_PATCHES):
        row, column = divmod(patch, 4)
        for j in range(quarter):
            rate = 10000.0 ** -(j / quarter)
            angles = torch.tensor([column * rate, row * rate], dtype=torch.float64)
            for part, value in enumerate((angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos())):
                table[0, 1 + patch, part * quarter + j] = value
    return table.float()


def mae_state_dict(model: ViTMAEForPreTraining) -> dict[str, torch.Tensor]:
    """The weights under the names of MAE's own code, query, key and value fused."""
    ours: dict[str, torch.Tensor] = {
        "cls_token": model.vit.embeddings.cls_token,
        "pos_embed": model.vit.embeddings.position_embeddings,
        "mask_token": model.decoder.mask_token,
        "decoder_pos_embed": model.decoder.decoder_pos_embed,
    }
    modules = {
        "patch_embed.proj": model.vit.embeddings.patch_embeddings.projection,
        "norm": model.vit.layernorm,
        "decoder_embed": model.decoder.decoder_embed,
        "decoder_norm": model.decoder.decoder_norm,
        "decoder_pred": model.decoder.decoder_pred,
    }
    for name, blocks in (("blocks", model.vit.layers), ("decoder_blocks", model.decoder.decoder_layers)):
        for number, block in enumerate(blocks):
            start, attention = f"{name}.{number}", block.attention
            for leaf in ("weight", "bias"):
                parts = [getattr(part, leaf) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
                ours[f"{start}.attn.qkv.{leaf}"] = torch.cat(parts)
            modules |= {
                f"{start}.attn.proj": attention.o_proj,
                f"{start}.norm1": block.layernorm_before,
                f"{start}.norm2": block.layernorm_after,
                f"{start}.mlp.fc1": block.mlp.fc1,
                f"{start}.mlp.fc2": block.mlp.fc2,
            }
    for name, module in modules.items():
        ours |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return {name: tensor.detach().clone() for name, tensor in ours.items()}


def encoder_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What MAE publishes for fine-tuning: the encoder without the decoder."""
    return {name: tensor for name, tensor in tensors.items() if not re.match(r"decoder_|mask_token", name)}


def save_published(model: ViTMAEForPreTraining, folder: Path) -> Path:
    """A folder as published: `decoder.decoder_layers` is what recent releases no longer write."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = {name.replace(".decoder_encoder.layer.", ".decoder_layers."): t for name, t in load_file(file).items()}
    assert any("decoder.decoder_layers.1." in name for name in tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def images_and_masks(ratio: float = 0.75) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 images (2, 3, 32, 32), masks (2, 16), and the noise that makes `vit_mae` draw the same masks."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    noise = torch.rand(2, NUM_PATCHES, generator=generator)
    kept = int(NUM_PATCHES * (1 - ratio))
    # vit_mae keeps the smallest; sorted by place, so that visible patches stand in raster order as ours do.
    masks = torch.ones(2, NUM_PATCHES, dtype=torch.bool)
    for row in range(2):
        masks[row, noise[row].argsort()[:kept]] = False
    return images, masks, masks.float() + torch.arange(NUM_PATCHES) / 1000


def normalized_images(images: torch.Tensor) -> torch.Tensor:
    return (images / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
