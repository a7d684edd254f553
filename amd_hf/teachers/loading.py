"""Load a teacher: frozen, proven to be loaded whole, and cut off after the last layer that is needed.

Every teacher stands behind one protocol, [`Teacher`]. Two kinds do so today: encoders of this package (its own,
VideoMAE's and MAE's, from any source that `models.py` reads), and modules of one's own. A further family whose weights
fit an encoder of ours is an entry in `checkpoints/families.py`; any other gets a file beside this one with a module
that speaks the protocol, and a line in [`load_fitting`] that makes it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..errors import UnknownSizeError
from ..modeling_amd import AMDModel, AMDPreTrainedModel
from ..models import load_encoder


logger = logging.get_logger(__name__)

# What a config says of an encoder. Of a checkpoint's other parts a teacher uses nothing.
_ENCODER_OPTIONS = (
    "image_size patch_size num_frames tubelet_size num_channels hidden_size num_hidden_layers num_attention_heads "
    "intermediate_size layer_norm_eps image_mean image_std position_embedding use_class_token"
).split()


class Teacher(Protocol):
    """What a teacher is: a module that gives the raw block outputs of its layers on the tokens that it sees."""

    def __call__(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> Mapping[int, torch.Tensor]:
        """Encode clips `(B, T, C, H, W)`, floats normalised with the student's mean and std.

        `bool_masked_pos` `(B, N)` hides tokens where it is `True`. Returned is for each layer that is aligned, counted
        from 1, its output `(B, visible, D)` on the visible tokens, in raster order.
        """


def load_teacher(
    source: str | Path | Mapping[str, Any] | nn.Module,
    *,
    layers: Sequence[int],
    config: AMDConfig | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Load a teacher: frozen, in eval mode, cut off after the last layer that is needed.

    Args:
        source (`str`, `Path`, `Mapping` or `torch.nn.Module`):
            A Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, an official `.pth` file
            or state dict (see [`convert_checkpoint`]), a loaded AMD model, or your own module with
            `forward(pixel_values, bool_masked_pos) -> {layer: (B, visible, D)}`: clips `(B, T, C, H, W)`, floats
            normalised with the student's mean and std, and a bool mask `(B, N)`, `True` = hidden, to raw block
            outputs on the visible tokens in raster order, for each layer (from 1) that is aligned. A module is copied,
            as far as it is needed, and the copy is frozen: the caller's stays as it is.
        layers (`Sequence[int]`): Layers whose outputs are needed; they count from 1.
        config ([`AMDConfig`] or `Mapping`, *optional*):
            Replaces the config that the source comes with, as far as the encoder is concerned; a mapping holds the
            options of [`AMDConfig`] that differ. Of an official checkpoint it says what leaves no trace in the
            tensors (heads, frames, image size, another position table). Refused beside a module.
        dtype (`torch.dtype`, *optional*): Of the weights; as stored when not given.

    Returns:
        [`AMDModel`] without its final LayerNorm, or your own module.

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
    return load_fitting(source, layers, config, dtype, None)


def load_fitting(
    source: str | Path | Mapping[str, Any] | nn.Module,
    layers: Sequence[int],
    config: AMDConfig | Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    student: AMDConfig | None,
) -> nn.Module:
    """Load a teacher as [`load_teacher`] does; a `student` that does not fit is refused before anything is cut off."""
    name = "given as a module" if isinstance(source, nn.Module) else str(source)
    if isinstance(source, nn.Module):
        if config is not None:
            raise TypeError("A teacher that is given as a module has its own config: leave `config` out.")
        model = source
    else:
        name = "state dict" if isinstance(source, Mapping) else name
        model = _read_encoder(source, name, config)
    if isinstance(model, AMDPreTrainedModel):
        if student is not None:
            check_fit(model.base_model.config, student)
        model = _cut_after(model.base_model, max(layers))
    if isinstance(source, nn.Module):  # a copy to freeze, cast and move, so that the caller can go on using his own
        try:
            model = copy.deepcopy(model)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise TypeError(
                f"The teacher, a {type(model).__name__}, cannot be copied ({error}), and it is not frozen as it is, "
                "since you may go on using it: give it a `__deepcopy__`, or name its folder or file instead."
            ) from error
    model = model.eval().requires_grad_(False)
    logger.info(f"Teacher: {describe(model, name, layers)}")
    if dtype is not None:
        for parameter in model.parameters():  # not the buffers: mean and std must stay exact
            parameter.data = parameter.data.to(dtype)
    return model


def _read_encoder(
    source: str | Path | Mapping[str, Any], name: str, config: AMDConfig | Mapping[str, Any] | None
) -> AMDPreTrainedModel:
    """Read the encoder of a model of any supported layout and prove that its weights were loaded."""
    options = {name: getattr(config, name) for name in _ENCODER_OPTIONS} if isinstance(config, AMDConfig) else config
    try:
        model = load_encoder(source, **(options or {}))
    except UnknownSizeError as error:
        raise ValueError(
            f"The teacher {name}: {error.reason}: give `--teacher_config.{error.option} VALUE` (from "
            f'Python `{{"{error.option}": VALUE}}` as its config).'
        ) from error
    _check_loaded(model, name)
    return model


def _check_loaded(model: AMDPreTrainedModel, source: str) -> None:
    """Refuse a model with a constant weight matrix, which no training leaves; warn where biases look lost."""
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


def _cut_after(model: AMDModel, last_layer: int) -> AMDModel:
    depth = len(model.layers)
    if last_layer > depth:
        raise ValueError(f"The teacher has {depth} layers, but layer {last_layer} is to be aligned.")
    if last_layer == depth and not model.config.use_final_norm:
        return model
    changes = {"num_hidden_layers": last_layer, "use_final_norm": False, "teacher_hidden_size": None}
    config = model.config.with_options(**changes)
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        cut = AMDModel(config)
    # Shares the weights it keeps: the source model stays whole.
    cut.embeddings = model.embeddings
    cut.layers = model.layers[:last_layer]
    return cut


def describe(model: nn.Module, source: str, layers: Sequence[int], width: int | None = None) -> str:
    """Return one line: source, parameters, layers used, where the teacher stops."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{type(model).__name__} ({source})" + (f" of width {width}" if width else "") + ", "
        f"{num_parameters / 1e6:.2f}M parameters, layers {', '.join(map(str, sorted(layers)))} used, "
        f"stops after layer {max(layers)}"
    )


# What must be the same in teacher and student, and the student's option that says it.
_SHARED = {
    "image_height_width": "image_size",
    "num_frames": "num_frames",
    "tubelet_size": "tubelet_size",
    "patch_size": "patch_size",
    "num_channels": "num_channels",
}


def check_fit(teacher: AMDConfig, student: AMDConfig) -> None:
    """Refuse a pair with a `ValueError` that names all in which they differ, and the student's options that fit."""
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
        words = {name: f'"{value}"' if isinstance(value, list | tuple) else value for name, value in options.items()}
        advice = ", ".join(f"`{name}` {word}" for name, word in words.items())  # as they are typed on a command line
        raise ValueError(
            f"Teacher and student do not fit: {'; '.join(faults)}. Of the student set together: {advice}."
        )
