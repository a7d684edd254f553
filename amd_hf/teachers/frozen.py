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
from .encoders import FramePatches, TeacherEncoder, facts_of
from .geometry import check_fit, fit_view
from .loading import ReadTeacher, describe, load_fitting


class FrozenTeacher(nn.Module):
    """A teacher beside its student: checks that they fit and gives its features on the tokens of V and of X.

    Args:
        model (`torch.nn.Module`): What [`load_teacher`] returns.
        student_config ([`AMDConfig`]): Names the layers to align and the teacher's width.
        source (`str`, *optional*): Where the model comes from, for `describe`.
        view, frames, grid (`str`, *optional*): How clips reach it: see [`~amd_hf.teachers.geometry.fit_view`].

    Raises:
        ValueError: If the teacher's width, layers or channels do not fit, which names every difference, or it cannot
            see clips as `view` and `grid` say.
    """

    def __init__(
        self,
        model: nn.Module,
        student_config: AMDConfig,
        source: str = "given as a module",
        *,
        view: str | None = None,
        frames: str = "mean",
        grid: str | None = None,
    ):
        super().__init__()
        self.model = model
        self.source = source
        self.direct_layers = tuple(student_config.teacher_direct_layers)
        self.generation_layers = tuple(student_config.teacher_generation_layers)
        self.width = student_config.teacher_hidden_size
        self.register_buffer("mean", torch.tensor(student_config.image_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(student_config.image_std).view(-1, 1, 1), persistent=False)
        self.num_seen = student_config.num_patches - student_config.num_masked_patches(
            student_config.teacher_mask_ratio
        )
        self.num_visible = student_config.num_patches - student_config.num_masked_patches(
            student_config.student_mask_ratio
        )
        self.facts = facts_of(model)
        self.view = None
        if self.facts is None:
            return
        check_fit(self.facts, student_config)
        self.view = fit_view(self.facts, student_config, view, frames, grid)
        if isinstance(model, TeacherEncoder):
            model.place(self.view.grid)
        self.register_buffer("teacher_mean", torch.tensor(self.facts.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("teacher_std", torch.tensor(self.facts.std).view(-1, 1, 1), persistent=False)
        # Clips that an encoder of ours takes as they are: it normalises uint8 itself.
        self._same_clips = self.view.frames == (*range(student_config.num_frames),)
        self._same_clips &= self.view.size == student_config.image_height_width
        # An encoder of ours for images, in front of a student of clips.
        self._looks_at_frames = self.facts.is_image and self.view.grid[0] > 1
        self._same_statistics = (*self.facts.mean, *self.facts.std) == (
            *student_config.image_mean,
            *student_config.image_std,
        )

    @classmethod
    def fit(
        cls,
        source: str | Path | nn.Module | ReadTeacher,
        student_config: AMDConfig,
        config: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> FrozenTeacher:
        """Load `source` with [`load_teacher`] for the layers that the student's config aligns.

        Args:
            source (`str`, `Path`, `torch.nn.Module` or `ReadTeacher`): Who the teacher is.
            student_config ([`AMDConfig`]): Of the student.
            config (`Mapping`, *optional*): Options of the teacher's that its source does not say.
            dtype (`torch.dtype`, *optional*): Of its weights; as stored when not given.
            **options: `view`, `frames` and `grid`.

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
        model = load_fitting(source, layers, config or None, dtype, student_config)
        name = source.name if isinstance(source, ReadTeacher) else str(source)
        name = "given as a module" if isinstance(source, nn.Module) else name
        return cls(model, student_config, name, **options)

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
        if isinstance(self.model, AMDModel | TeacherEncoder):
            layers = {*range(1, len(self.model.layers) + 1)}
        features = self._features(pixel_values, split, layers)
        return {layer: features[layer][:, : split.visible.shape[1]] for layer in sorted(layers)}

    def _features(self, pixel_values: torch.Tensor, split: TokenSplit, layers: set[int]) -> dict[int, torch.Tensor]:
        """Return layer -> (B, V + X, D): V first, then X, each in raster order."""
        if split.teacher_only is None or split.hidden is None:
            raise ValueError("The teacher needs a mask of its own: `teacher_bool_masked_pos`.")
        seen_ids = torch.cat([split.visible, split.teacher_only], dim=1)
        if self.facts is None:
            return self._features_of_own_module(pixel_values, seen_ids, split.hidden.shape[1], layers)
        assert self.view is not None
        clips = pixel_values
        is_ours = isinstance(self.model, AMDModel)
        if not (is_ours and self._same_clips and (clips.dtype == torch.uint8 or self._same_statistics)):
            given, wanted = (self.mean, self.std), (self.teacher_mean, self.teacher_std)
            clips = self.view.prepare(clips, given, wanted)
        visible_ids = None if self.view.is_full else seen_ids  # attention does not mind the order: no sort, no gather
        if not is_ours:
            features = self.model(clips, visible_ids=visible_ids, feature_layers=layers, grid=self.view.grid)
        elif self._looks_at_frames:
            patches = FramePatches.of(clips, visible_ids, self.view.grid)
            frames = clips.flatten(0, 1).unsqueeze(1)  # (B * T, 1, C, H, W)
            outputs = self.model(frames, visible_ids=patches.ids, feature_layers=layers).layer_features
            features = {layer: patches.to_tokens(output) for layer, output in outputs.items()}
        else:
            features = self.model(clips, visible_ids=visible_ids, feature_layers=layers).layer_features
        if not self.view.is_full:
            return features
        return {layer: gather_tokens(self.view.to_student(features[layer]), seen_ids) for layer in layers}

    def _features_of_own_module(
        self, clips: torch.Tensor, seen_ids: torch.Tensor, num_hidden: int, layers: set[int]
    ) -> dict[int, torch.Tensor]:
        """Return features of the user's module: masks and raster order there, ids in any order here."""
        batch, num_seen = seen_ids.shape
        # Token i is the n-th visible one, n counted along the mask.
        is_seen = torch.zeros(batch, num_seen + num_hidden, dtype=torch.bool, device=seen_ids.device)
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
        """Return one line: source, parameters, layers used, where it stops, and what it sees of a clip."""
        layers = [*{*self.direct_layers, *self.generation_layers}]
        text = describe(self.model, self.source, layers, self.width)
        return text if self.view is None else f"{text}; {self.view.describe()}"

    def flops_per_clip(self) -> int:
        """Count the operations of one clip by an encoder of Transformers, of which the mask hides a part."""
        assert isinstance(self.model, TeacherEncoder)
        assert self.view is not None
        time, rows, columns = self.view.grid
        num_tokens = time * rows * columns if self.view.is_full else self.num_seen
        return self.model.flops_per_clip(num_tokens, len(self.view.frames), time)

    def settings(self) -> dict[str, str]:
        """Return how clips reach the teacher and the type of its weights, by the names of the options."""
        dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in self.model.parameters()})
        found = {"teacher_dtype": ", ".join(dtypes)}
        if self.view is not None:
            (height, width), grid = self.view.size, " x ".join(map(str, self.view.grid))
            found["teacher_view"] = "full" if self.view.is_full else "asymmetric"
            found["teacher_grid"] = f"{grid} tokens of {height} x {width} pixels"
            found["teacher_frames"] = ", ".join(map(str, self.view.frames))
        return found

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
