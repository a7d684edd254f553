"""Frozen teachers: loading one, checking that it fits the student, and its features on the tokens it sees."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..errors import UntoldSizeError
from ..modeling_amd import AMDModel, AMDPreTrainedModel, gather_tokens, split_tokens
from ..models import load_encoder


logger = logging.get_logger(__name__)

# What a config says of an encoder. Of a checkpoint's other parts a teacher uses nothing.
_ENCODER_OPTIONS = (
    "image_size patch_size num_frames tubelet_size num_channels hidden_size num_hidden_layers num_attention_heads "
    "intermediate_size layer_norm_eps image_mean image_std position_embedding use_class_token"
).split()


def load_teacher(
    source: str | Path | Mapping[str, Any] | nn.Module,
    *,
    layers: Sequence[int],
    config: AMDConfig | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Loads a teacher: frozen, in eval mode, cut off after the last layer that is needed.

    Args:
        source (`str`, `Path`, `Mapping` or `torch.nn.Module`):
            A Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, an official `.pth` file
            or state dict (see [`convert_checkpoint`]), a loaded AMD model, or a module of one's own with
            `forward(pixel_values, bool_masked_pos) -> {layer: (B, visible, D)}`: clips `(B, T, C, H, W)`, floats
            normalised with the student's mean and deviation, and a bool mask `(B, N)`, `True` = hidden, to raw block
            outputs on the visible tokens in raster order, for each layer (from 1) that is aligned. A module is copied,
            as far as it is needed, and the copy is frozen: the caller's stays as it is.
        layers (`Sequence[int]`): Layers whose outputs are needed; they count from 1.
        config ([`AMDConfig`] or `Mapping`, *optional*):
            Replaces the config that the source comes with, as far as the encoder is concerned; a mapping holds the
            options of [`AMDConfig`] that differ. Of an official checkpoint it tells what leaves no trace in the
            tensors (heads, frames, image size, another position table). Of no use beside a module.
        dtype (`torch.dtype`, *optional*): Of the weights; as stored when not given.

    Returns:
        [`AMDModel`] without its final LayerNorm, or the module of one's own.

    Raises:
        ValueError: If the teacher has fewer layers than asked for, or its weights were not all loaded: one is missing,
            has no place, or is the same number everywhere; or a size of an official checkpoint is not known.
        TypeError: If a module cannot be copied, or options are given beside it.
        OSError: If there is no model at `source`.

    Example:

    ```python
    >>> from amd_hf import load_teacher

    >>> teacher = load_teacher("MCG-NJU/videomae-large", layers=[12, 24])
    ```"""
    return _load_teacher(source, layers, config, dtype, None)


def _load_teacher(
    source: str | Path | Mapping[str, Any] | nn.Module,
    layers: Sequence[int],
    config: AMDConfig | Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    student: AMDConfig | None,
) -> nn.Module:
    """See [`load_teacher`]; a `student` that does not fit is refused before anything is cut off."""
    if isinstance(source, nn.Module):
        if config is not None:
            raise TypeError("A teacher that is given as a module has its own config: leave `config` out.")
        model = source
    else:
        model = _read_encoder(source, config)
    if isinstance(model, AMDPreTrainedModel):
        if student is not None:
            _check_fit(model.base_model.config, student)
        model = _cut_after(model.base_model, max(layers))
    if isinstance(source, nn.Module):
        model = _copied(model)
    model = model.eval().requires_grad_(False)
    logger.info(f"Teacher: {_describe(model, _name_of(source), layers)}")
    if dtype is not None:
        for parameter in model.parameters():  # not the buffers: mean and deviation must stay exact
            parameter.data = parameter.data.to(dtype)
    return model


def _read_encoder(
    source: str | Path | Mapping[str, Any], config: AMDConfig | Mapping[str, Any] | None
) -> AMDPreTrainedModel:
    """Reads the encoder of a model of any supported layout and proves that its weights were loaded."""
    options = {name: getattr(config, name) for name in _ENCODER_OPTIONS} if isinstance(config, AMDConfig) else config
    try:
        model = load_encoder(source, **(options or {}))
    except UntoldSizeError as error:
        raise ValueError(
            f"The teacher {_name_of(source)}: {error.reason}: give `--teacher_config.{error.option} VALUE` (from "
            f'Python `{{"{error.option}": VALUE}}` as its config).'
        ) from error
    _check_loaded(model, _name_of(source))
    return model


def _copied(module: nn.Module) -> nn.Module:
    """A copy to freeze, cast and move, so that the caller can go on using the module."""
    try:
        return copy.deepcopy(module)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise TypeError(
            f"The teacher, a {type(module).__name__}, cannot be copied ({error}), and it is not frozen as it is, "
            "since you may go on using it: give it a `__deepcopy__`, or name its folder or file instead."
        ) from error


def check_is_no_student(teacher: nn.Module, student: nn.Module) -> None:
    """Raises `ValueError` where a teacher is the student itself or shares some of its parameters."""
    places = {_place(parameter) for parameter in student.parameters()} - {0}
    shared = [name for name, parameter in teacher.named_parameters() if _place(parameter) in places]
    if shared:
        who = "is the student itself" if teacher is student else f"shares {len(shared)} parameters with the student"
        raise ValueError(
            f"The teacher {who} ({', '.join([*shared[:3], *(['...'] if shared[3:] else [])])}): it would be frozen, "
            "or learn with it. Give another model, or `copy.deepcopy` of the student as it is now."
        )


def _place(parameter: torch.Tensor) -> int:
    """Where the numbers lie in memory; 0 for those that lie nowhere."""
    return 0 if parameter.is_meta else parameter.untyped_storage().data_ptr()


def _check_loaded(model: AMDPreTrainedModel, source: str) -> None:
    """Raises where a weight matrix is constant, which no training leaves; warns where biases look lost."""
    weights = model.base_model.state_dict()
    constant = [
        name
        for name, tensor in weights.items()
        if tensor.ndim > 1 and "position." not in name and bool((tensor == tensor.flatten()[0]).all())
    ]
    if constant:
        raise ValueError(
            f"The teacher {source} was not loaded: {', '.join(constant[:10])} hold the same number everywhere."
        )
    if not any(bool(tensor.any()) for name, tensor in weights.items() if name.endswith(".qkv.bias")):
        logger.warning(
            f"All query and value biases of the teacher {source} are 0. Some releases of Transformers lose those of "
            "`videomae` checkpoints when they load and save them: take the file as it was published."
        )


def _name_of(source: str | Path | Mapping[str, Any] | nn.Module) -> str:
    if isinstance(source, nn.Module):
        return "given as a module"
    return "state dict" if isinstance(source, Mapping) else str(source)


def _describe(model: nn.Module, source: str, layers: Sequence[int], width: int | None = None) -> str:
    """One line: source, parameters, layers used, where it stops."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{type(model).__name__} ({source})" + (f" of width {width}" if width else "") + ", "
        f"{num_parameters / 1e6:.2f}M parameters, layers {', '.join(map(str, sorted(layers)))} used, "
        f"stops after layer {max(layers)}"
    )


def _cut_after(model: AMDModel, last_layer: int) -> AMDModel:
    depth = len(model.layers)
    if last_layer > depth:
        raise ValueError(f"The teacher has {depth} layers, but layer {last_layer} is to be aligned.")
    if last_layer == depth and not model.config.use_final_norm:
        return model
    changes = {"num_hidden_layers": last_layer, "use_final_norm": False, "teacher_hidden_size": None}
    config = AMDConfig.from_dict({**model.config.to_dict(), **changes})
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        cut = AMDModel(config)
    # Shares the weights it keeps: the source model stays whole.
    cut.embeddings = model.embeddings
    cut.layers = model.layers[:last_layer]
    return cut


class FrozenTeacher(nn.Module):
    """A teacher beside its student: checks that they fit and sorts its features into common and teacher-only tokens.

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
            _check_fit(model.config, student_config)

    @classmethod
    def fit(
        cls, source: str | Path | nn.Module, student_config: AMDConfig, config: Mapping[str, Any] | None = None
    ) -> FrozenTeacher:
        """Loads `source` with [`load_teacher`] for the layers that the student's config aligns.

        Args:
            source (`str`, `Path` or `torch.nn.Module`): Who the teacher is.
            student_config ([`AMDConfig`]): Of the student.
            config (`Mapping`, *optional*): Options of the teacher's that its source does not tell.

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
        model = _load_teacher(source, layers, config or None, None, student_config)
        return cls(model, student_config, _name_of(source))

    def forward(
        self,
        pixel_values: torch.Tensor,
        student_mask: torch.Tensor,
        teacher_mask: torch.Tensor,
        num_masked: int,
        num_teacher_masked: int,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Features of the layers to align.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): uint8, or floats normalised for the student.
            student_mask, teacher_mask (`torch.BoolTensor` of shape `(B, N)`): `True` = hidden.
            num_masked, num_teacher_masked (`int`): Tokens that each row of the masks hides.

        Returns:
            Per direct layer the features `(B, V, D)` of tokens both see, and per generation layer those `(B, X, D)` of
            tokens only the teacher sees, each in raster order.
        """
        layers = {*self.direct_layers, *self.generation_layers}
        features = self._features(pixel_values, teacher_mask, num_teacher_masked, layers)
        common, teacher_only = _split_visible(student_mask, teacher_mask, num_masked, num_teacher_masked)
        direct = [gather_tokens(features[layer], common) for layer in self.direct_layers]
        generation = [gather_tokens(features[layer], teacher_only) for layer in self.generation_layers]
        return direct, generation

    def common_features(
        self,
        pixel_values: torch.Tensor,
        student_mask: torch.Tensor,
        teacher_mask: torch.Tensor,
        num_masked: int,
        num_teacher_masked: int,
    ) -> dict[int, torch.Tensor]:
        """Features `(B, V, D)` of every layer up to the last aligned, on the tokens both see, in raster order.

        Layers count from 1. Of a module of one's own: of the layers that are aligned. Arguments as for `forward`.
        """
        layers = {*self.direct_layers, *self.generation_layers}
        if isinstance(self.model, AMDModel):
            layers = {*range(1, len(self.model.layers) + 1)}
        features = self._features(pixel_values, teacher_mask, num_teacher_masked, layers)
        common, _ = _split_visible(student_mask, teacher_mask, num_masked, num_teacher_masked)
        return {layer: gather_tokens(features[layer], common) for layer in sorted(layers)}

    def _features(
        self, pixel_values: torch.Tensor, mask: torch.Tensor, num_masked: int, layers: set[int]
    ) -> dict[int, torch.Tensor]:
        if isinstance(self.model, AMDModel):
            clips = self._renormalized(pixel_values)
            return self.model(clips, mask, num_masked=num_masked, feature_layers=layers).layer_features
        features = self.model(self._normalized(pixel_values), mask)
        visible = mask.shape[1] - num_masked
        for layer in sorted(layers):
            shape = tuple(features[layer].shape) if layer in features else None
            if shape != (mask.shape[0], visible, self.width):
                raise ValueError(
                    f"The teacher must return layer {layer} with shape (clips, visible tokens, width) = "
                    f"({mask.shape[0]}, {visible}, {self.width}), got {shape or f'only layers {sorted(features)}'}."
                )
        return features

    def _normalized(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return (pixel_values / 255 - self.mean) / self.std if pixel_values.dtype == torch.uint8 else pixel_values

    def _renormalized(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Floats normalised for the student, now for the teacher; the teacher's encoder takes uint8 as it is."""
        config, embeddings = self.model.config, self.model.embeddings
        if pixel_values.dtype == torch.uint8 or self._statistics == (config.image_mean, config.image_std):
            return pixel_values
        pixels = pixel_values * self.std + self.mean
        return (pixels - embeddings.mean.view(-1, 1, 1)) / embeddings.std.view(-1, 1, 1)

    def describe(self) -> str:
        """One line: source, parameters, layers used, where it stops."""
        return _describe(self.model, self.source, [*{*self.direct_layers, *self.generation_layers}], self.width)

    def fingerprint(self) -> str:
        """BLAKE2b hash of the weights in use, by name, dtype and shape: tells one teacher from another."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in eval mode whatever is asked."""
        return super().train(False)


def _split_visible(
    student_mask: torch.Tensor, teacher_mask: torch.Tensor, num_masked: int, num_teacher_masked: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where, among the tokens the teacher sees, are those the student sees too (B, V), and the others (B, X)?"""
    teacher_ids, _ = split_tokens(teacher_mask, num_teacher_masked)
    return split_tokens(student_mask.gather(1, teacher_ids), num_masked - num_teacher_masked)


# What must be the same in teacher and student, and the student's option that says it.
_SHARED = {
    "image_height_width": "image_size",
    "num_frames": "num_frames",
    "tubelet_size": "tubelet_size",
    "patch_size": "patch_size",
    "num_channels": "num_channels",
}


def _check_fit(teacher: AMDConfig, student: AMDConfig) -> None:
    """Raises `ValueError` with all in which they do not fit, and the student's options with which they would."""
    faults, options = [], {}
    for name, option in _SHARED.items():
        ours, theirs = getattr(teacher, name), getattr(student, name)
        if ours != theirs:
            faults.append(f"{name}: teacher {ours}, student {theirs}")
            options[option] = getattr(teacher, option)
    if teacher.hidden_size != student.teacher_hidden_size:
        faults.append(
            f"width (`teacher_hidden_size`): teacher {teacher.hidden_size}, student {student.teacher_hidden_size}"
        )
        options["teacher_hidden_size"] = teacher.hidden_size
    depth, lists = teacher.num_hidden_layers, ("teacher_direct_layers", "teacher_generation_layers")
    last = max(layer for name in lists for layer in [*getattr(student, name), 0])
    if last > depth:
        faults.append(f"the teacher has {depth} layers, but layer {last} is to be aligned")
        for name in lists:  # as deep in this teacher as in the one that was thought of
            layers = [round(layer * depth / last) for layer in getattr(student, name)]
            if layers == sorted({layer for layer in layers if layer > 0}):
                options[name] = layers
    if faults:
        advice = ", ".join(f"`{name}` {_as_word(value)}" for name, value in options.items())
        raise ValueError(
            f"Teacher and student do not fit: {'; '.join(faults)}. Of the student set together: {advice}."
        )


def _as_word(value: Any) -> str:
    """A value as it is typed on a command line."""
    return f'"{value}"' if isinstance(value, list | tuple) else str(value)
