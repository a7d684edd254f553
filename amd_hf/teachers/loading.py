"""Load a teacher: frozen, proven to be loaded whole, and cut off after the last layer that is needed.

Three kinds of teachers stand behind one protocol, [`Teacher`]: encoders of this package (its own, VideoMAE's and
MAE's, from any source that `models.py` reads), encoders of Transformers through the adapters of `encoders.py`, which
are found by the `model_type` of the source's config, and modules of one's own.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import cached_file, logging

from ..checkpoints.conversion import without_load_report
from ..checkpoints.reading import model_type_of, model_types
from ..configuration_amd import AMDConfig
from ..errors import UnknownSizeError
from ..modeling_amd import AMDModel, AMDPreTrainedModel
from ..models import load_encoder
from .encoders import ADAPTERS, TeacherEncoder, TeacherFacts, facts_of
from .geometry import check_fit


logger = logging.get_logger(__name__)

# What a config says of an encoder. Of a checkpoint's other parts a teacher uses nothing.
_ENCODER_OPTIONS = (
    "image_size patch_size num_frames tubelet_size num_channels hidden_size num_hidden_layers num_attention_heads "
    "intermediate_size layer_norm_eps image_mean image_std position_embedding use_class_token"
).split()

PROTOCOL = """\
Any other encoder can teach as a module of your own, given from Python as `teacher_model`:

    class MyTeacher(torch.nn.Module):
        def forward(self, pixel_values, bool_masked_pos):
            # pixel_values (B, T, C, H, W): floats, normalised with the student's mean and std
            # bool_masked_pos (B, N): True where a token is hidden from the teacher; as many in each row
            # return {layer: (B, visible, D)} for each layer to align, counted from 1: its raw output on the
            # visible tokens, in raster order (time, row, column)
            return {6: middle, 12: last}

A family that many need is a file beside `amd_hf/teachers/vjepa2.py` and a line in `ADAPTERS`."""


class Teacher(Protocol):
    """What a teacher is: a module that gives the raw block outputs of its layers on the tokens that it sees."""

    def __call__(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> Mapping[int, torch.Tensor]:
        """Encode clips `(B, T, C, H, W)`, floats normalised with the student's mean and std.

        `bool_masked_pos` `(B, N)` hides tokens where it is `True`. Returned is for each layer that is aligned, counted
        from 1, its output `(B, visible, D)` on the visible tokens, in raster order.
        """


@dataclass
class ReadTeacher:
    """A teacher with all its layers, before it is known which of them a student needs.

    Args:
        model (`torch.nn.Module`): [`AMDModel`], an adapter, or a module of the user's.
        name (`str`): Where it comes from.
        is_given (`bool`): Whether somebody else holds the module, too: what is used of it must be copied.
    """

    model: nn.Module
    name: str
    is_given: bool

    @property
    def facts(self) -> TeacherFacts | None:
        """What is known of it; `None` for a module of the user's."""
        return facts_of(self.model)


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
            A Hub id or folder of an `amd` model, of Transformers' `videomae` or `vit_mae`, or of V-JEPA 2, DINOv2,
            DINOv3, SigLIP, SigLIP 2, CLIP or VideoPrism; such a model as an object; an official `.pth` file or state
            dict (see [`convert_checkpoint`]); or your own module with
            `forward(pixel_values, bool_masked_pos) -> {layer: (B, visible, D)}`: clips `(B, T, C, H, W)`, floats
            normalised with the student's mean and std, and a bool mask `(B, N)`, `True` = hidden, to raw block
            outputs on the visible tokens in raster order, for each layer (from 1) that is aligned. A module is copied,
            as far as it is needed, and the copy is frozen: the caller's stays as it is.
        layers (`Sequence[int]`): Layers whose outputs are needed; they count from 1.
        config ([`AMDConfig`] or `Mapping`, *optional*):
            Replaces the config that the source comes with, as far as the encoder is concerned; a mapping holds the
            options of [`AMDConfig`] that differ. Of an official checkpoint it says what leaves no trace in the
            tensors (heads, frames, image size, another position table). Of the other families of Transformers it may
            only replace `image_mean` and `image_std`. Refused beside a module.
        dtype (`torch.dtype`, *optional*): Of the weights; as stored when not given.

    Returns:
        [`AMDModel`] without its final LayerNorm, an adapter over the encoder of Transformers (see
        `amd_hf.teachers.encoders.TeacherEncoder`), or your own module.

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


def read_teacher(
    source: str | Path | Mapping[str, Any] | nn.Module, config: AMDConfig | Mapping[str, Any] | None = None
) -> ReadTeacher:
    """Read a teacher with all its layers. Arguments, and what is raised, as for [`load_teacher`]."""
    if isinstance(source, nn.Module):
        if config is not None:
            raise TypeError("A teacher that is given as a module has its own config: leave `config` out.")
        model = source.base_model if isinstance(source, AMDPreTrainedModel) else source
        if isinstance(source, transformers.PreTrainedModel) and source.config.model_type in ADAPTERS:
            model = _find_adapter(source.config.model_type)(source)
        return ReadTeacher(model, "given as a module", is_given=True)
    name = "state dict" if isinstance(source, Mapping) else str(source)
    if not isinstance(source, Mapping) and not Path(source).is_file():
        model_type = model_type_of(PreTrainedConfig.get_config_dict(source)[0])
        if model_type in ADAPTERS:
            return ReadTeacher(_read_adapter(name, model_type, config), name, is_given=False)
        if model_type not in (None, "amd", *model_types()):  # none: no config, of which `models.py` knows more to say
            known = "`, `".join(sorted({"amd", *model_types(), *ADAPTERS}, key=str.lower))
            raise ValueError(f"{name} holds a `{model_type}` model, and teachers are `{known}`.\n{PROTOCOL}")
    return ReadTeacher(_read_encoder(source, name, config), name, is_given=False)


def load_fitting(
    source: str | Path | Mapping[str, Any] | nn.Module | ReadTeacher,
    layers: Sequence[int],
    config: AMDConfig | Mapping[str, Any] | None,
    dtype: torch.dtype | None,
    student: AMDConfig | None,
) -> nn.Module:
    """Load a teacher as [`load_teacher`] does; a `student` that does not fit is refused before anything is cut off."""
    read = source if isinstance(source, ReadTeacher) else read_teacher(source, config)
    model = read.model
    if student is not None and (facts := read.facts) is not None:
        check_fit(facts, student)
    if isinstance(model, AMDModel):
        model = _cut_after(model, max(layers))
    elif isinstance(model, TeacherEncoder):
        model = copy.copy(model)  # shares the weights it keeps: the whole encoder stays as it is
        model._modules = dict(model._modules)
        model.cut_after(max(layers))
    if read.is_given:  # a copy to freeze, cast and move, so that the caller can go on using his own
        try:
            model = copy.deepcopy(model)
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise TypeError(
                f"The teacher, a {type(model).__name__}, cannot be copied ({error}), and it is not frozen as it is, "
                "since you may go on using it: give it a `__deepcopy__`, or name its folder or file instead."
            ) from error
    model = model.eval().requires_grad_(False)
    logger.info(f"Teacher: {describe(model, read.name, layers)}")
    if dtype is not None:
        for parameter in model.parameters():  # not the buffers: mean and std must stay exact
            parameter.data = parameter.data.to(dtype)
    return model


def _find_adapter(model_type: str) -> type[TeacherEncoder]:
    file, name = ADAPTERS[model_type].split(".")
    return getattr(importlib.import_module(f".{file}", __package__), name)


def _read_adapter(source: str, model_type: str, config: AMDConfig | Mapping[str, Any] | None) -> TeacherEncoder:
    """Read an encoder of Transformers by its own class and prove that its weights were loaded."""
    options = dict(config) if isinstance(config, Mapping) else {}
    unknown = {*options} - {"image_mean", "image_std"}
    if unknown or isinstance(config, AMDConfig):
        raise ValueError(
            f"The teacher {source}, a `{model_type}`, comes with its own config: of it only `image_mean` and "
            f"`image_std` can be given, not {', '.join(sorted(unknown)) or 'an AMDConfig'}."
        )
    adapter_class = _find_adapter(model_type)
    kind = getattr(transformers, adapter_class.classes[model_type])
    with without_load_report():  # of heads and text encoders, which a teacher does not need
        encoder, info = kind.from_pretrained(source, output_loading_info=True)
    adapter = adapter_class(encoder, _read_statistics(source, options, adapter_class.statistics))
    used = {id(parameter) for parameter in adapter.parameters()}
    lost = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    lost = {name for name, parameter in encoder.named_parameters() if id(parameter) in used and name in lost}
    if lost:
        raise ValueError(f"{source} lacks {len(lost)} weights of {kind.__name__}: {', '.join(sorted(lost)[:10])}.")
    _refuse_constant(adapter.layers.state_dict(), source)
    return adapter


def _read_statistics(
    source: str, options: Mapping[str, Any], default: tuple[Sequence[float], Sequence[float]]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and std as given, else as a processor beside the weights says, else the family's."""
    found: dict[str, Any] = {}
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        file = cached_file(
            source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if file is not None:
            found = json.loads(Path(file).read_text())
            break
    if found.get("do_normalize") is False:
        found |= {"image_mean": [0.0] * len(default[0]), "image_std": [1.0] * len(default[1])}
    said = {**found, **options}
    return said.get("image_mean") or default[0], said.get("image_std") or default[1]


def _read_encoder(
    source: str | Path | Mapping[str, Any], name: str, config: AMDConfig | Mapping[str, Any] | None
) -> AMDModel:
    """Read the encoder of a model of any supported layout and prove that its weights were loaded."""
    options = {name: getattr(config, name) for name in _ENCODER_OPTIONS} if isinstance(config, AMDConfig) else config
    try:
        model = load_encoder(source, **(options or {}))
    except UnknownSizeError as error:
        raise ValueError(
            f"The teacher {name}: {error.reason}: give `--teacher_config.{error.option} VALUE` (from "
            f'Python `{{"{error.option}": VALUE}}` as its config).'
        ) from error
    weights = model.state_dict()
    _refuse_constant({key: tensor for key, tensor in weights.items() if "position." not in key}, name)
    if not any(bool(tensor.any()) for key, tensor in weights.items() if key.endswith(".qkv.bias")):
        logger.warning(
            f"All query and value biases of the teacher {name} are 0. Some releases of Transformers lose those of "
            "`videomae` checkpoints when they load and save them: take the file as it was published."
        )
    return model


def _refuse_constant(weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse weights with a constant matrix, which no training leaves."""
    constant = [
        name for name, tensor in weights.items() if tensor.ndim > 1 and bool((tensor == tensor.flatten()[0]).all())
    ]
    if constant:
        raise ValueError(
            f"The teacher {source} was not loaded: {', '.join(constant[:10])} hold the same number everywhere."
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
