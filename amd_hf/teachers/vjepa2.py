"""V-JEPA 2: the encoder of Transformers' `VJEPA2Model`, without its predictor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .encoders import TeacherEncoder, embed_patches, run_blocks


class VJEPA2Teacher(TeacherEncoder):
    """The encoder of V-JEPA 2 on the visible tokens alone. See [`TeacherEncoder`].

    Its rotary positions count tokens along time, rows and columns, so a clip of another size keeps the positions that
    the encoder has learned near the first corner. Transformers' class takes them from the index of a token in the
    grid of `crop_size`; here every token gets the index that it would have in that grid.
    """

    classes = {"vjepa2": "VJEPA2Model"}
    statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__(encoder, statistics)
        self.projection = encoder.base_model.encoder.embeddings.patch_embeddings.proj

    @staticmethod
    def blocks_of(encoder: Any) -> Iterable[nn.Module]:
        return encoder.base_model.encoder.layer

    @staticmethod
    def geometry_of(encoder: Any) -> dict[str, Any]:
        config = encoder.config
        return {
            "patch_size": (config.patch_size, config.patch_size),
            "tubelet_size": config.tubelet_size,
            "image_size": (config.crop_size, config.crop_size),
            "num_frames": config.frames_per_clip,
            "num_channels": config.in_chans,
        }

    def place(self, grid: tuple[int, int, int]) -> None:
        for block in self.layers:  # an index must not run over into the next row
            block.attention.grid_size = max(block.attention.grid_size, *grid[1:])

    def features(
        self,
        pixel_values: torch.Tensor,
        visible_ids: torch.Tensor | None,
        layers: Sequence[int],
        grid: tuple[int, int, int],
    ) -> dict[int, torch.Tensor]:
        time, rows, columns = grid
        side = self.layers[0].attention.grid_size
        if max(rows, columns) > side:
            raise ValueError(f"The grid {grid} is larger than {side} x {side}: call `place` with it first.")
        ids = visible_ids
        if ids is None:
            ids = torch.arange(time * rows * columns, device=pixel_values.device).expand(len(pixel_values), -1)
        patches, row, column = ids // (rows * columns), ids // columns % rows, ids % columns
        positions = (patches * side + row) * side + column
        tokens = embed_patches(self.projection, pixel_values, visible_ids)
        return run_blocks(self.layers, tokens, layers, lambda block, tokens: block(tokens, positions)[0])
