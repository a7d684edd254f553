"""Official checkpoints to this package's models and back, every tensor accounted for.

Reads pre-training and classification checkpoints of AMD, VideoMAE, VideoMAEv2 and MAE, action detectors of VideoMAE's
code for AVA, and folders of Transformers' `videomae` and `vit_mae`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..modeling_amd import (
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDPreTrainedModel,
)
from ..modeling_amd_detection import AMDForActionDetection
from .files import Checkpoint
from .geometry import assumptions, config_from_tensors
from .keys import (
    PATCH_EMBEDDING,
    join_biases,
    rename,
    rename_back,
    split_biases,
    to_convolution_embedding,
    to_linear_embedding,
)
from .layouts import is_by_first_token, keep_encoder, read_source, told_task
from .positions import export_tables, is_table, place_table
from .report import ConversionReport
from .views import find_views


logger = logging.get_logger(__name__)

_MODELS: dict[str, type[AMDPreTrainedModel]] = {
    "pretraining": AMDForPreTraining,
    "classification": AMDForVideoClassification,
    "detection": AMDForActionDetection,
}
_FIRST_PROJECTION = "encoder.projection_heads.0.weight"
_TASKS = (*_MODELS, "encoder")
# Mean and deviation of VideoMAE's code for AVA, which count from 0 to 255: no file of it says so.
_AVA_STATISTICS = {
    "image_mean": [value / 255 for value in (122.7717, 115.9465, 102.9801)],
    "image_std": [57.375 / 255] * 3,
}
_DROPPED_NAMES = (
    (r"generators\.\d+\.norm\.(weight|bias)", "in every official file, used and trained by nothing"),
    (r".*attn\.k_bias", "a key bias adds the same number to all scores of a query: the softmax ignores it"),
)
_DROPPED_NAMES_OF_TASK = {
    "classification": ((r"norm\.(weight|bias)", "a classifier takes the encoder without its final norm"),),
}
_NEW_AROUND_AN_ENCODER = ((r"(?!amd\.).+", "the checkpoint holds an encoder alone"),)
_NEW_NAMES = ((r"alignment\.generators\.\d+\.mask_token", "the released code never saves it"),)


def convert_checkpoint(
    source: str | Path | Mapping[str, Any] | Checkpoint,
    config: AMDConfig | None = None,
    task: str | None = None,
    projection_by_position: bool = False,
    dataset: str | None = None,
    **config_overrides: Any,
) -> AMDPreTrainedModel:
    """Converts a checkpoint to one of this package's models.

    Args:
        source (`str`, `Path` or `Mapping`):
            An official `.pth`, a state dict with official names, or a folder of a Transformers `videomae` or `vit_mae`
            model (or what [`read_source`] made of one).
        config ([`AMDConfig`], *optional*): The whole config; by default it is read from the tensors.
        task (`"pretraining"`, `"classification"`, `"detection"` or `"encoder"`, *optional*):
            Where the keys leave it open (an encoder alone), what to build around it, newly initialised. `"encoder"`
            takes the encoder alone of whatever the checkpoint holds, and says what it leaves.
        projection_by_position (`bool`, *optional*, defaults to `False`):
            The released code picks projections by their position in the layer lists. Where one of them would so serve
            two student layers, copy it to both.
        dataset (`str`, *optional*):
            What the model was trained on: `k400`, `ssv2`, `ucf101`, `hmdb51`, `ava` or `in1k`, which says how it looks
            at videos. By default what the arguments of the authors' run say, where the file holds them.
        **config_overrides: Options of [`AMDConfig`] that the tensors do not tell, or that should differ.

    Returns:
        [`AMDForPreTraining`], [`AMDForVideoClassification`], [`AMDForImageClassification`] (for one frame),
        [`AMDForActionDetection`] or [`AMDModel`] in eval mode, with the [`ConversionReport`] as `conversion_report`. A
        detector gets the mean and deviation of VideoMAE's code for AVA unless others are given.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        ValueError: If the file is unsafe or no checkpoint, a tensor has no place, is missing, has the wrong shape or
            is not finite, or a size is neither told by the tensors nor given.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_source(source)
    told = told_task(checkpoint)
    task = _choose_task(checkpoint, told, task)
    beside: dict[str, str] = keep_encoder(checkpoint) if task == "encoder" else {}
    if task == "pretraining" and not any(key.startswith("encoder.") for key in checkpoint.tensors):
        checkpoint.tensors = {f"encoder.{key}": tensor for key, tensor in checkpoint.tensors.items()}
    if told == "detection" and config is None and checkpoint.run_arguments.get("model_type") != "amd":
        config_overrides = {**_AVA_STATISTICS, **config_overrides}
    config, sizes = config_from_tensors(checkpoint, task, config, config_overrides)
    report = ConversionReport(
        checkpoint.source, task, checkpoint.wrapper, checkpoint.prefixes, sizes,
        assumptions(built=config, task=task, sizes=sizes, checkpoint=checkpoint), dropped=beside,
        ignored_entries=checkpoint.left_out,
    )  # fmt: skip
    of_task = (told or "classification") if task == "encoder" else task
    report.views, report.views_origin = find_views(checkpoint, of_task, config, dataset)
    state_dict = _rename_all(checkpoint, task, config, report)
    if _FIRST_PROJECTION in checkpoint.tensors and config.teacher_hidden_size is not None:
        state_dict = _place_by_layer(state_dict, config, projection_by_position)
    is_image_classifier = task == "classification" and config.num_frames == 1
    kind = AMDForImageClassification if is_image_classifier else _MODELS.get(task, AMDModel)
    model = _load(kind, config, state_dict, report, _new_names(told, task, checkpoint))
    model.conversion_report = report
    logger.info(str(report))
    if report.assumed:
        values = ", ".join(f"{name} {why.partition(':')[0]}" for name, why in report.assumed.items())
        logger.warning(f"{report.source} does not tell, and it was assumed: {values}.")
    return model


def export_checkpoint(
    model: AMDForPreTraining | AMDForVideoClassification | AMDForActionDetection,
    include_generator_mask_tokens: bool = False,
) -> dict[str, torch.Tensor]:
    """The official state dict of a model: the reverse of [`convert_checkpoint`], bit for bit.

    Image models get VideoMAE's names with tubelets of one frame, their class token as `cls_token` and their position
    tables beside the weights; what MAE's own code reads is named otherwise.

    Args:
        model ([`AMDForPreTraining`], [`AMDForVideoClassification`] or [`AMDForActionDetection`]): What to export.
        include_generator_mask_tokens (`bool`, *optional*, defaults to `False`):
            They have no official name. Left out (and logged) unless asked for, as `generator_mask_tokens.{i}`.

    Raises:
        TypeError: For another kind of model.
        ValueError: If direct and generation alignment start with different student layers or have projections of their
            own: the official layout has no place for them.
    """
    task = next((task for task, kind in _MODELS.items() if isinstance(model, kind)), None)
    if task is None:
        raise TypeError(f"Only {', '.join(kind.__name__ for kind in _MODELS.values())} have an official layout.")
    config = model.config
    positions = _positions_for_export(config) if task == "pretraining" else {}
    official: dict[str, torch.Tensor] = {}
    left_out = []
    for key, tensor in split_biases(model.state_dict()).items():
        if is_table(key):
            continue
        key = re.sub(r"^(alignment\.\w+\.)(\d+)", lambda m: m[1] + str(positions[int(m[2])]), key)
        official_key = rename_back(key, task)
        if official_key.startswith("generator_mask_tokens.") and not include_generator_mask_tokens:
            left_out.append(official_key)
            continue
        if key == PATCH_EMBEDDING:
            tensor = to_convolution_embedding(tensor, config.num_channels, config.tubelet_size, config.patch_size)
        official[official_key] = tensor
    official |= export_tables(model, task)
    for position in range(len(config.student_generation_layers) if positions else 0):
        width = config.teacher_hidden_size  # unused there, but every official file has them
        official[f"generators.{position}.norm.weight"] = torch.ones(width, dtype=model.dtype)
        official[f"generators.{position}.norm.bias"] = torch.zeros(width, dtype=model.dtype)
    if left_out:
        logger.warning(f"Left out of the export, as they have no official name: {', '.join(left_out)}.")
    return official


def _choose_task(checkpoint: Checkpoint, told: str | None, asked: str | None) -> str:
    if asked is not None and asked not in _TASKS:
        raise ValueError(f"`task` must be one of {', '.join(_TASKS)}, got {asked!r}.")
    if told is None and asked is None:
        raise ValueError(
            f"{checkpoint.source} holds an encoder alone: say what to build with `task` ({', '.join(_TASKS)})."
        )
    if asked == "encoder":
        return asked
    if told == "classification" and is_by_first_token(checkpoint):
        raise ValueError(
            f"{checkpoint.source} classifies by its first token (`use_mean_pooling` false), classifiers of this "
            "package by the mean over all: it cannot be used whole. Its encoder can: as a teacher, or as the start of "
            "fine-tuning."
        )
    if told is not None and asked not in (None, told):
        raise ValueError(f"{checkpoint.source} is a {told} checkpoint, but `task` is {asked!r}.")
    return told or str(asked)


def _new_names(told: str | None, task: str, checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    """(pattern, reason) of our tensors that the checkpoint may lack."""
    if task == "encoder":
        return ()
    names = list(_NEW_NAMES if told else _NEW_AROUND_AN_ENCODER)
    if task == "pretraining" and told:
        if _FIRST_PROJECTION not in checkpoint.tensors:
            names.append((r"alignment\..+", "the checkpoint was not aligned with a teacher"))
    has_norm = any(key.startswith("encoder.norm.") for key in checkpoint.tensors)
    settings = checkpoint.run_arguments
    is_normless = settings.get("model_type") == "videomae" and settings.get("use_mean_pooling", True)
    if task == "pretraining" and not has_norm and (told is None or is_normless):
        names.append((r"amd\.norm\..+", "the encoder of the checkpoint ends without a norm"))
    return tuple(names)


def _rename_all(
    checkpoint: Checkpoint, task: str, config: AMDConfig, report: ConversionReport
) -> dict[str, torch.Tensor]:
    """Tensors under our names; what has none must be on the list of those that are dropped."""
    state_dict: dict[str, torch.Tensor] = {}
    unknown = []
    for key, tensor in checkpoint.tensors.items():
        if key.endswith("pos_embed"):
            placed = place_table(key, tensor, config)
            state_dict |= placed
            if placed:
                report.used[key] = next(iter(placed))
            else:
                report.dropped[key] = "a fixed sine-cosine table, which is computed"
            continue
        dropped = (*_DROPPED_NAMES, *_DROPPED_NAMES_OF_TASK.get(task, ()))
        if reason := next((reason for pattern, reason in dropped if re.fullmatch(pattern, key)), None):
            report.dropped[key] = reason + _unusual_values(key, tensor)
        elif ours := rename(key, task):
            # Copies: the source may be the caller's, or a memory-mapped file that is overwritten later.
            state_dict[ours] = to_linear_embedding(tensor) if ours == PATCH_EMBEDDING else tensor.clone()
            report.used[key] = ours
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"{report.source}: no place for {len(unknown)} tensor(s) of a {task} checkpoint: "
            f"{', '.join(unknown[:10])}."
        )
    return state_dict


def _unusual_values(key: str, tensor: torch.Tensor) -> str:
    """Says so where a dropped tensor is not what it is dropped for."""
    if re.fullmatch(r"generators\.\d+\.norm\.(weight|bias)", key):
        expected = 1.0 if key.endswith("weight") else 0.0
        return "" if bool((tensor == expected).all()) else f" (here not {expected:g} everywhere)"
    return ""


def _place_by_layer(
    state_dict: dict[str, torch.Tensor], config: AMDConfig, projection_by_position: bool
) -> dict[str, torch.Tensor]:
    """Moves projections and generators from their position in the layer lists to their student layer."""
    owners = _projection_owners(config, projection_by_position)
    placed: dict[str, torch.Tensor] = {}
    for key, tensor in state_dict.items():
        match = re.match(r"alignment\.(projections|generators)\.(\d+)\.(.+)", key)
        if match is None:
            placed[key] = tensor
            continue
        position = int(match[2])
        layers = (
            owners.get(position, []) if match[1] == "projections" else config.student_generation_layers[position:][:1]
        )
        if not layers:
            raise ValueError(
                f"The checkpoint has {match[1]} for layer number {position + 1}, but the config aligns fewer layers: "
                "give `student_direct_layers`, `student_generation_layers` and the teacher's."
            )
        # One that serves several layers is copied: from here on each layer's projection is trained for itself.
        for layer in layers:
            placed[f"alignment.{match[1]}.{layer}.{match[3]}"] = tensor.clone() if len(layers) > 1 else tensor
    return placed


def _projection_owners(config: AMDConfig, projection_by_position: bool) -> dict[int, list[int]]:
    """Position of a projection -> the student layers that it serves in the released code."""
    owners: dict[int, list[int]] = {}
    for layers in (config.student_direct_layers, config.student_generation_layers):
        for position, layer in enumerate(layers):
            if layer not in owners.setdefault(position, []):
                owners[position].append(layer)
    shared = {position: layers for position, layers in owners.items() if len(layers) > 1}
    if shared and not projection_by_position:
        raise ValueError(
            "The released code picks projections by position, so with these layer lists one projection serves several "
            f"student layers ({', '.join(map(str, shared.values()))}), which this package keeps apart. Pass "
            "`projection_by_position=True` to copy it to each of them."
        )
    served = [layer for layers in owners.values() for layer in layers]
    if twice := sorted({layer for layer in served if served.count(layer) > 1}):
        raise ValueError(
            f"Student layer(s) {twice} would need two projections: these layer lists cannot be converted."
        )
    return owners


def _positions_for_export(config: AMDConfig) -> dict[int, int]:
    if config.teacher_hidden_size is None:
        return {}
    if config.alignment_mode != "serial":
        raise ValueError("The official layout knows serial alignment only; this model aligns in parallel.")
    shorter, longer = sorted([config.student_direct_layers, config.student_generation_layers], key=len)
    if longer[: len(shorter)] != shorter:
        raise ValueError(
            "The official layout has one projection per position, so direct and generation alignment must start with "
            f"the same student layers; they use {config.student_direct_layers} and {config.student_generation_layers}."
        )
    return {layer: position for position, layer in enumerate(longer)}


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keeps Transformers' table of missing weights ("LOAD REPORT from: None") from standing beside our own report."""
    loader = logging.get_logger("transformers.modeling_utils")

    def is_no_report(record: LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loader.addFilter(is_no_report)
    try:
        yield
    finally:
        loader.removeFilter(is_no_report)


def _load(
    model_class: type[AMDPreTrainedModel],
    config: AMDConfig,
    state_dict: dict[str, torch.Tensor],
    report: ConversionReport,
    new_names: tuple[tuple[str, str], ...],
) -> AMDPreTrainedModel:
    if model_class is AMDModel:
        state_dict = {key.removeprefix("amd."): tensor for key, tensor in state_dict.items()}
        report.used = {theirs: ours.removeprefix("amd.") for theirs, ours in report.used.items()}
    _check_shapes(model_class, config, state_dict, report, new_names)
    join_biases(state_dict)
    report.used = {theirs: re.sub(r"\.qkv\.[qv]_bias$", ".qkv.bias", ours) for theirs, ours in report.used.items()}
    with without_load_report():
        model, info = model_class.from_pretrained(None, config=config, state_dict=state_dict, output_loading_info=True)
    for key in sorted(info["missing_keys"]):
        report.new[key] = next(reason for pattern, reason in new_names if re.fullmatch(pattern, key))
    return model.eval()


def _check_shapes(
    model_class: type[AMDPreTrainedModel],
    config: AMDConfig,
    state_dict: dict[str, torch.Tensor],
    report: ConversionReport,
    new_names: tuple[tuple[str, str], ...],
) -> None:
    """Every tensor of the model is there in its shape, but for those that official files never hold."""
    with torch.device("meta"):
        tensors = split_biases(model_class(config).state_dict())  # as official files hold them
    expected = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    official = {ours: theirs for theirs, ours in report.used.items()}
    faults = [
        f"{key} is missing"
        for key in expected.keys() - state_dict.keys()
        if not any(re.fullmatch(pattern, key) for pattern, _ in new_names)
    ]
    faults += [f"{official.get(key, key)} has no place in this model" for key in state_dict.keys() - expected.keys()]
    faults += [
        f"{official.get(key, key)} has shape {tuple(tensor.shape)}, {expected[key]} needed"
        for key, tensor in state_dict.items()
        if key in expected and tuple(tensor.shape) != expected[key]
    ]
    if faults:
        raise ValueError(f"{report.source} does not fit: {'; '.join(sorted(faults)[:10])}.")
