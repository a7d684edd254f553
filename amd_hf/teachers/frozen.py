"""A frozen teacher beside its student: the features that the student learns from (paper, section 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..configuration_amd import AMDConfig
from ..modeling_amd import AMDModel, TokenSplit, gather_tokens
from .loading import check_fit, describe, load_fitting


class FrozenTeacher(nn.Module):
    """A teacher beside its student: checks that they fit and gives its features on the tokens of V and of X.

    Args:
        model (`torch.nn.Module`): What [`load_teacher`] returns.
        student_config ([`AMDConfig`]): Names the layers to align and the teacher's width.
        source (`str`, *optional*): Where the model comes from, for `describe`.

    Raises:
        ValueError: If the teacher's width, layers, or grid of tokens do not fit; names every difference.
    """

    def __init__(self, model: nn.Module, student_config: AMDConfig, source: str = "given as a module"):
        super().__init__()
        self.model = model
        self.source = source
        self.direct_layers = tuple(student_config.teacher_direct_layers)
        self.generation_layers = tuple(student_config.teacher_generation_layers)
        self.width = student_config.teacher_hidden_size
        self._statistics = (student_config.image_mean, student_config.image_std)
        self.register_buffer("mean", torch.tensor(student_config.image_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(student_config.image_std).view(-1, 1, 1), persistent=False)
        if isinstance(model, AMDModel):
            check_fit(model.config, student_config)

    @classmethod
    def fit(
        cls, source: str | Path | nn.Module, student_config: AMDConfig, config: Mapping[str, Any] | None = None
    ) -> FrozenTeacher:
        """Load `source` with [`load_teacher`] for the layers that the student's config aligns.

        Args:
            source (`str`, `Path` or `torch.nn.Module`): Who the teacher is.
            student_config ([`AMDConfig`]): Of the student.
            config (`Mapping`, *optional*): Options of the teacher's that its source does not say.

        Raises:
            ValueError: If the student has no alignment modules, or the teacher does not fit.
        """
        if student_config.teacher_hidden_size is None:
            raise ValueError(
                "The student has no alignment modules: build it with `teacher_hidden_size` set to the teacher's width."
            )
        layers = sorted({*student_config.teacher_direct_layers, *student_config.teacher_generation_layers})
        if not layers:
            raise ValueError("No layer is aligned: `teacher_direct_layers` and `teacher_generation_layers` are empty.")
        model = load_fitting(source, layers, config or None, None, student_config)
        return cls(model, student_config, "given as a module" if isinstance(source, nn.Module) else str(source))

    def forward(self, pixel_values: torch.Tensor, split: TokenSplit) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the features of the layers to align.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): uint8, or floats normalised for the student.
            split ([`TokenSplit`]): V, X and M of the clips, as the student's outputs hold them.

        Returns:
            Per direct layer the features `(B, V, D)` of tokens both see, and per generation layer those `(B, X, D)` of
            tokens only the teacher sees, each in raster order.
        """
        features = self._features(pixel_values, split, {*self.direct_layers, *self.generation_layers})
        num_visible = split.visible.shape[1]  # (B, V + X, D): V comes first
        direct = [features[layer][:, :num_visible] for layer in self.direct_layers]
        generation = [features[layer][:, num_visible:] for layer in self.generation_layers]
        return direct, generation

    def common_features(self, pixel_values: torch.Tensor, split: TokenSplit) -> dict[int, torch.Tensor]:
        """Return the features `(B, V, D)` of every layer up to the last aligned, on the tokens both see.

        Layers count from 1. For your own module: only the aligned layers. Arguments as for `forward`.
        """
        layers = {*self.direct_layers, *self.generation_layers}
        if isinstance(self.model, AMDModel):
            layers = {*range(1, len(self.model.layers) + 1)}
        features = self._features(pixel_values, split, layers)
        return {layer: features[layer][:, : split.visible.shape[1]] for layer in sorted(layers)}

    def _features(self, pixel_values: torch.Tensor, split: TokenSplit, layers: set[int]) -> dict[int, torch.Tensor]:
        """Return layer -> (B, V + X, D): V first, then X, each in raster order."""
        if split.teacher_only is None or split.hidden is None:
            raise ValueError("The teacher needs a mask of its own: `teacher_bool_masked_pos`.")
        clips = pixel_values
        seen_ids = torch.cat([split.visible, split.teacher_only], dim=1)
        if isinstance(self.model, AMDModel):  # attention does not mind the order: no sort, no gather
            # Its embeddings take uint8 as it is; floats are normalised for the student.
            config, embeddings = self.model.config, self.model.embeddings
            if clips.dtype != torch.uint8 and self._statistics != (config.image_mean, config.image_std):
                pixels = clips * self.std + self.mean
                clips = (pixels - embeddings.mean.view(-1, 1, 1)) / embeddings.std.view(-1, 1, 1)
            return self.model(clips, visible_ids=seen_ids, feature_layers=layers).layer_features
        batch, num_seen = seen_ids.shape
        # The protocol speaks of masks and raster order: token i is the n-th visible one, n counted along the mask.
        is_seen = torch.zeros(batch, num_seen + split.hidden.shape[1], dtype=torch.bool, device=seen_ids.device)
        is_seen = is_seen.scatter(1, seen_ids, True)
        ranks = (is_seen.cumsum(dim=1) - 1).gather(1, seen_ids)
        if clips.dtype == torch.uint8:
            clips = (clips / 255 - self.mean) / self.std
        features = self.model(clips, ~is_seen)
        for layer in sorted(layers):
            shape = tuple(features[layer].shape) if layer in features else None
            if shape != (batch, num_seen, self.width):
                raise ValueError(
                    f"The teacher must return layer {layer} with shape (clips, visible tokens, width) = "
                    f"({batch}, {num_seen}, {self.width}), got {shape or f'only layers {sorted(features)}'}."
                )
        return {layer: gather_tokens(features[layer], ranks) for layer in layers}

    def describe(self) -> str:
        """Return one line: source, parameters, layers used, where it stops."""
        return describe(self.model, self.source, [*{*self.direct_layers, *self.generation_layers}], self.width)

    def fingerprint(self) -> str:
        """Return the BLAKE2b hash of the weights in use, with names, dtypes and shapes: it identifies the teacher."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in eval mode whatever is asked."""
        return super().train(False)
