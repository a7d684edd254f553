"""DINOv2, DINOv3, SigLIP, SigLIP 2 and CLIP: encoders of images, on the frames of a clip.

Every frame is encoded by itself. The visible patches of a frame attend to one another and to its class and register
tokens, which are left out of the features; a token of the student gets the mean over its frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from ..modeling_amd import gather_tokens
from .encoders import FramePatches, TeacherEncoder, embed_patches, run_blocks


class ImageTeacher(TeacherEncoder):
    """Base of the encoders of images. See [`TeacherEncoder`]."""

    masks = "tube"
    num_prefix_tokens = 0
    """Class and register tokens in front of the patches."""

    @staticmethod
    def blocks_of(encoder: Any) -> Iterable[nn.Module]:
        return encoder.encoder.layers

    @staticmethod
    def geometry_of(encoder: Any) -> dict[str, Any]:
        config = encoder.config
        return {
            "patch_size": _pair(config.patch_size),
            "tubelet_size": 1,
            "image_size": _pair(config.image_size),
            "num_frames": 1,
            "num_channels": config.num_channels,
        }

    def embed(
        self, frames: torch.Tensor, patch_ids: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, Mapping[str, Any]]:
        """Return what enters the first block, the patches last, and what else every block gets.

        Args:
            frames (`torch.Tensor` of shape `(B * T, 1, C, H, W)`): The frames.
            patch_ids (`torch.LongTensor` of shape `(B * T, m)`): Their visible patches.
            grid (`tuple[int, int]`): Patches along rows and columns.
        """
        raise NotImplementedError

    def sequences(self, layer: int, num_tokens: int, num_frames: int, time: int) -> tuple[int, int]:
        return num_frames, num_tokens // time + self.num_prefix_tokens

    def features(
        self,
        pixel_values: torch.Tensor,
        visible_ids: torch.Tensor | None,
        layers: Sequence[int],
        grid: tuple[int, int, int],
    ) -> dict[int, torch.Tensor]:
        patches = FramePatches.of(pixel_values, visible_ids, grid)
        tokens, options = self.embed(pixel_values.flatten(0, 1).unsqueeze(1), patches.ids, grid[1:])
        num_patches = patches.ids.shape[1]
        found = run_blocks(self.layers, tokens, layers, lambda block, tokens: block(tokens, None, **options))
        return {layer: patches.to_tokens(output[:, -num_patches:]) for layer, output in found.items()}


class Dinov2Teacher(ImageTeacher):
    """DINOv2: a class token, and a table of positions that its class stretches to the grid."""

    classes = {"dinov2": "Dinov2Model"}
    statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__(encoder, statistics)
        self.embeddings = encoder.base_model.embeddings
        self.num_prefix_tokens = 1 + getattr(encoder.config, "num_register_tokens", 0)

    @staticmethod
    def blocks_of(encoder: Any) -> Iterable[nn.Module]:
        return encoder.base_model.encoder.layer

    def embed(
        self, frames: torch.Tensor, patch_ids: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, Mapping[str, Any]]:
        embeddings, (rows, columns) = self.embeddings, grid
        height, width = (n * side for n, side in zip(grid, self.facts.patch_size, strict=True))
        one = embeddings.cls_token.expand(1, 1 + rows * columns, -1)  # of which its class reads the shape alone
        table = embeddings.interpolate_pos_encoding(one, height, width)  # (1, 1 + rows * columns, D)
        tokens = embed_patches(embeddings.patch_embeddings.projection, frames, patch_ids)
        tokens = tokens + gather_tokens(table[:, 1:].expand(len(frames), -1, -1), patch_ids)
        prefix = [(embeddings.cls_token + table[:, :1]).expand(len(frames), -1, -1)]
        if (registers := getattr(embeddings, "register_tokens", None)) is not None:  # which have no position
            prefix.append(registers.expand(len(frames), -1, -1))
        return torch.cat([*prefix, tokens], dim=1), {}


class Dinov2WithRegistersTeacher(Dinov2Teacher):
    """DINOv2 with register tokens behind its class token."""

    classes = {"dinov2_with_registers": "Dinov2WithRegistersModel"}


class Dinov3Teacher(ImageTeacher):
    """DINOv3: class and register tokens, and rotary positions between -1 and 1 over the frame, whatever its size."""

    classes = {"dinov3_vit": "DINOv3ViTModel"}
    statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__(encoder, statistics)
        self.embeddings = encoder.embeddings
        self.num_prefix_tokens = 1 + encoder.config.num_register_tokens
        self.rope_embeddings = encoder.rope_embeddings

    @staticmethod
    def blocks_of(encoder: Any) -> Iterable[nn.Module]:
        return encoder.model.layer

    def embed(
        self, frames: torch.Tensor, patch_ids: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, Mapping[str, Any]]:
        embeddings = self.embeddings
        tokens = embed_patches(embeddings.patch_embeddings, frames, patch_ids)
        prefix = (embeddings.cls_token, embeddings.register_tokens)
        tokens = torch.cat([*(part.expand(len(frames), -1, -1) for part in prefix), tokens], dim=1)
        tables = self.rope_embeddings(frames[:, 0].to(tokens.dtype))  # cosines and sines, (rows * columns, head size)
        of_patches = (gather_tokens(table.expand(len(frames), -1, -1), patch_ids)[:, None] for table in tables)
        return tokens, {"position_embeddings": tuple(of_patches)}  # (B * T, 1, m, head size): alike in all heads


class SiglipTeacher(ImageTeacher):
    """SigLIP, and those of SigLIP 2 for one size of images, which have the same class: patch tokens alone."""

    classes = {"siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel"}
    statistics = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__(encoder, statistics)
        self.embeddings = encoder.embeddings

    def embed(
        self, frames: torch.Tensor, patch_ids: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, Mapping[str, Any]]:
        embeddings, (rows, columns) = self.embeddings, grid
        height, width = (n * side for n, side in zip(grid, self.facts.patch_size, strict=True))
        # Of the first argument the class reads the shape alone.
        one = embeddings.position_embedding.weight[:1].expand(1, rows * columns, -1)
        table = embeddings.interpolate_pos_encoding(one, height, width)
        tokens = embed_patches(embeddings.patch_embedding, frames, patch_ids)
        return tokens + gather_tokens(table.expand(len(frames), -1, -1), patch_ids), {}


class Siglip2Teacher(ImageTeacher):
    """SigLIP 2 for images of any size (NaFlex): its patches come flattened, row, column, channel."""

    classes = {"siglip2": "Siglip2VisionModel", "siglip2_vision_model": "Siglip2VisionModel"}
    statistics = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__(encoder, statistics)
        self.embeddings = encoder.embeddings

    @staticmethod
    def geometry_of(encoder: Any) -> dict[str, Any]:
        config = encoder.config
        side = int(config.num_patches**0.5) * config.patch_size
        return {
            "patch_size": _pair(config.patch_size),
            "tubelet_size": 1,
            "image_size": (side, side),
            "num_frames": 1,
            "num_channels": config.num_channels,
        }

    def embed(
        self, frames: torch.Tensor, patch_ids: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, Mapping[str, Any]]:
        embeddings, (rows, columns) = self.embeddings, grid
        height, width = self.facts.patch_size
        patches = frames[:, 0].unflatten(-1, (columns, width)).unflatten(-3, (rows, height))
        # (B * T, C, rows, height, columns, width) -> (B * T, rows * columns, height * width * C)
        patches = gather_tokens(patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2), patch_ids)
        tokens = embeddings.patch_embedding(patches.to(embeddings.patch_embedding.weight.dtype))
        side = embeddings.position_embedding_size
        table = embeddings.resize_positional_embeddings(
            embeddings.position_embedding.weight.view(side, side, -1),
            torch.tensor([grid], device=frames.device),
            max_length=rows * columns,
        )
        return tokens + gather_tokens(table.expand(len(frames), -1, -1), patch_ids), {}


class ClipTeacher(ImageTeacher):
    """CLIP: a class token, a table of positions that its class stretches to the grid, and a norm in front."""

    classes = {"clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel"}
    statistics = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)

    def __init__(self, encoder: Any, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__(encoder, statistics)
        self.embeddings = encoder.embeddings
        self.num_prefix_tokens = 1
        self.norm = encoder.pre_layrnorm

    def embed(
        self, frames: torch.Tensor, patch_ids: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, Mapping[str, Any]]:
        embeddings, (rows, columns) = self.embeddings, grid
        height, width = (n * side for n, side in zip(grid, self.facts.patch_size, strict=True))
        one = embeddings.class_embedding.expand(1, 1 + rows * columns, -1)
        table = embeddings.interpolate_pos_encoding(one, height, width)
        tokens = embed_patches(embeddings.patch_embedding, frames, patch_ids)
        tokens = tokens + gather_tokens(table[:, 1:].expand(len(frames), -1, -1), patch_ids)
        first = (embeddings.class_embedding + table[:, :1]).expand(len(frames), -1, -1)
        return self.norm(torch.cat([first, tokens], dim=1)), {}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
