"""VideoPrism: blocks that look at every frame by itself, then blocks that look at every place over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..modeling_amd import gather_tokens
from .encoders import FramePatches, TeacherEncoder, embed_patches, run_blocks


class VideoPrismTeacher(TeacherEncoder):
    """VideoPrism's vision encoder. See [`TeacherEncoder`].

    Its layers count on from the blocks over space to those over time. Each frame has tokens of its own; a token of the
    student gets the mean over its frames. Pixels enter as they are, between 0 and 1.
    """

    classes = {"videoprism": "VideoPrismClipModel", "videoprism_vision_model": "VideoPrismVisionModel"}
    statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    masks = "tube"

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        encoder = _vision_model(encoder)
        super().__init__(encoder, statistics)
        self.spatial_embeddings = encoder.spatial_embeddings
        self.temporal_embeddings = encoder.temporal_embeddings
        self.norm = encoder.layernorm1
        self.num_spatial = len(encoder.spatial_layers)

    @staticmethod
    def blocks_of(encoder: Any) -> Iterable[nn.Module]:
        return [*encoder.spatial_layers, *encoder.temporal_layers]

    @staticmethod
    def geometry_of(encoder: Any) -> dict[str, Any]:
        config = encoder.config
        size = config.image_size
        return {
            "patch_size": (config.tubelet_size[1], config.tubelet_size[2]),
            "tubelet_size": config.tubelet_size[0],
            "image_size": (size, size) if isinstance(size, int) else tuple(size),
            "num_frames": config.num_frames,
            "num_channels": config.num_channels,
        }

    def sequences(self, layer: int, num_tokens: int, num_frames: int, time: int) -> tuple[int, int]:
        patches = num_tokens // time
        return (num_frames, patches) if layer <= self.num_spatial else (patches, num_frames)

    def features(
        self,
        pixel_values: torch.Tensor,
        visible_ids: torch.Tensor | None,
        layers: Sequence[int],
        grid: tuple[int, int, int],
    ) -> dict[int, torch.Tensor]:
        space, time = self.spatial_embeddings, self.temporal_embeddings
        num_frames = pixel_values.shape[1]
        patches = FramePatches.of(pixel_values, visible_ids, grid)
        tokens = embed_patches(
            space.patch_embeddings.projection, pixel_values.flatten(0, 1).unsqueeze(1), patches.ids
        )  # (B * T, m, D)
        height, width = (n * side for n, side in zip(grid[1:], self.facts.patch_size, strict=True))
        one = space.position_embeddings[:, :1].expand(1, grid[1] * grid[2], -1)  # read for its shape alone
        table = space.interpolate_pos_encoding(one, height, width)
        tokens = tokens + gather_tokens(table.expand(len(tokens), -1, -1), patches.ids)
        last = max(layers)
        of_space = [layer for layer in layers if layer <= self.num_spatial]
        if last > self.num_spatial:  # which read the last of those
            of_space = [*{*of_space, self.num_spatial}]
        found = run_blocks(self.layers[: self.num_spatial], tokens, of_space, lambda block, tokens: block(tokens))
        if last > self.num_spatial:
            tokens = self.norm(found[self.num_spatial]).unflatten(0, (-1, num_frames)).transpose(1, 2)  # (B, m, T, D)
            of_time = [layer - self.num_spatial for layer in layers if layer > self.num_spatial]
            tokens = tokens.flatten(0, 1)
            tokens = tokens + time.interpolate_pos_encoding(tokens)
            outputs = run_blocks(self.layers[self.num_spatial :], tokens, of_time, lambda block, tokens: block(tokens))
            for layer, output in outputs.items():  # (B * m, T, D) -> (B * T, m, D)
                by_frame = output.unflatten(0, (-1, patches.ids.shape[1])).transpose(1, 2).flatten(0, 1)
                found[self.num_spatial + layer] = by_frame
        return {layer: patches.to_tokens(found[layer]) for layer in layers}


def _vision_model(encoder: Any) -> Any:
    """Return the encoder of frames and clips alone, of whatever model of VideoPrism is given."""
    encoder = getattr(encoder, "video_model", encoder)
    return getattr(encoder, "vision_model", encoder)
