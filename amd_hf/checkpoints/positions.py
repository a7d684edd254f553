"""Position tables of checkpoints: which kind one is, where it goes, and how it is written back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..configuration_amd import AMDConfig
from ..modeling_amd import AMDPositionTable, AMDPreTrainedModel


_TOLERANCE = 1e-5
_ENCODER, _DECODER = "amd.embeddings.position", "decoder.position"  # where the model keeps them


def read_positions(tensors: Mapping[str, torch.Tensor], given: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    """What the tables of a checkpoint tell: the kind of each, class tokens, and the image's size where it is square.

    Args:
        tensors (`Mapping`): Under official names.
        given (`Mapping`): Options that are known from elsewhere; `image_size` and `num_frames` win over the tables.
        patch_size (`int`): In pixels.
    """
    found: dict[str, Any] = {}
    has_class_token = any(key.endswith("cls_token") for key in tensors)
    if has_class_token:
        found["use_class_token"] = True
    encoder = next((tensors[key] for key in ("encoder.pos_embed", "pos_embed") if key in tensors), None)
    if encoder is None:
        return found
    num_patches = encoder.shape[-2] - has_class_token
    side = math.isqrt(num_patches)
    if "image_size" not in given and given.get("num_frames") == 1 and side**2 == num_patches:
        found["image_size"] = side * patch_size
    rows, columns = _grid({**found, **given}, side, patch_size)
    found["position_embedding"] = _kind(encoder, num_patches, rows, columns)
    if (decoder := tensors.get("decoder.pos_embed")) is not None:
        found["decoder_position_embedding"] = _kind(decoder, num_patches, rows, columns)
        found["use_decoder_class_token"] = decoder.shape[-2] == num_patches + 1
    return found


def _grid(options: Mapping[str, Any], side: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in a frame."""
    size = options.get("image_size", side * patch_size)
    height, width = (size, size) if isinstance(size, int) else size
    return height // patch_size, width // patch_size


def _kind(tensor: torch.Tensor, num_patches: int, rows: int, columns: int) -> str:
    table, class_position = _split(tensor, num_patches)
    if class_position is not None and bool(class_position.any()):
        return "stored"
    width = table.shape[1]
    grids = {"sincos_1d": (1, 1, num_patches)}
    if rows * columns == num_patches and width % 4 == 0:
        grids["sincos_2d"] = (1, rows, columns)
    if rows * columns and num_patches % (rows * columns) == 0 and width % 8 == 0:
        grids["sincos_3d"] = (num_patches // (rows * columns), rows, columns)
        if width % 16 == 0:
            grids["sincos_3d_mvd"] = grids["sincos_3d"]
    for kind, grid in grids.items():
        if torch.allclose(table, AMDPositionTable(grid, width, kind).computed_table(), atol=_TOLERANCE):
            return kind
    return "stored"


def _split(tensor: torch.Tensor, num_patches: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(table, position of the class token or `None`), float32."""
    rows = tensor.reshape(-1, tensor.shape[-1]).float()
    return rows[-num_patches:], rows[:1].view(1, 1, -1) if len(rows) > num_patches else None


def place_table(key: str, tensor: torch.Tensor, config: AMDConfig) -> dict[str, torch.Tensor]:
    """The tensors of our model that an official table fills: none where the model computes the same table.

    Raises:
        ValueError: If the table is of another size than the config's clip, or not the one that the model computes.
    """
    is_decoder = key.startswith("decoder.")
    kind = config.decoder_position_embedding if is_decoder else config.position_embedding
    has_class_token = config.use_decoder_class_token if is_decoder else config.use_class_token
    expected = config.num_patches + has_class_token
    if tensor.shape[-2] != expected:
        raise ValueError(
            f"`{key}` has {tensor.shape[-2]} positions, but the config's clip has {expected} tokens: give "
            "`num_frames` and `image_size`."
        )
    table, class_position = _split(tensor, config.num_patches)
    if kind == "stored":
        where = _DECODER if is_decoder else _ENCODER
        stored = {f"{where}.table": table.clone()}
        return stored if class_position is None else stored | {f"{where}.class_position": class_position.clone()}
    if _kind(tensor, config.num_patches, *config.grid_size[1:]) != kind:
        name = "decoder_position_embedding" if is_decoder else "position_embedding"
        raise ValueError(
            f"`{key}` is not the table that `{name}` {kind!r} computes: leave `{name}` out, or say 'stored'."
        )
    return {}


def is_table(key: str) -> bool:
    """Whether one of our tensors belongs to a stored position table."""
    return key.rpartition(".")[0] in (_ENCODER, _DECODER)


def export_tables(model: AMDPreTrainedModel, task: str) -> dict[str, torch.Tensor]:
    """Official tables `(1, tokens, D)` of a model; none where they are those that VideoMAE's code computes."""
    prefix = "encoder." if task == "pretraining" else ""
    config = model.config
    found: dict[str, torch.Tensor] = {}
    kinds = {config.position_embedding, *([config.decoder_position_embedding] if task == "pretraining" else [])}
    if kinds != {"sincos_1d"} or config.use_class_token:
        embeddings = model.base_model.embeddings
        found[f"{prefix}pos_embed"] = _with_class_row(embeddings.position, config.use_class_token)
        if task == "pretraining":
            found["decoder.pos_embed"] = _with_class_row(model.decoder.position, config.use_decoder_class_token)
    return found


def _with_class_row(position: AMDPositionTable, has_class_token: bool) -> torch.Tensor:
    table = position.table[None]
    if not has_class_token:
        return table.clone()
    row = torch.zeros_like(table[:, :1]) if position.class_position is None else position.class_position
    return torch.cat([row, table], dim=1)
