"""Official checkpoints to this package's models and back, every tensor accounted for.

Reads pre-training and classification checkpoints of AMD, VideoMAE, VideoMAEv2 and MAE, action detectors of VideoMAE's
code for AVA, and folders of Transformers' `videomae` and `vit_mae`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..errors import UnknownSizeError
from ..modeling_amd import (
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDPositionTable,
    AMDPreTrainedModel,
)
from ..modeling_amd_detection import AMDForActionDetection
from .families import (
    ASSUMED,
    ASSUMED_OF_ALIGNMENT,
    ASSUMED_OF_TASK,
    AVA_STATISTICS,
    DECODER_HEADS,
    DROPPED_NAMES,
    DROPPED_NAMES_OF_TASK,
    ENCODER_HEADS,
    FAMILIES,
    IN_BLOCKS,
    NAMES,
    OF_ENCODER,
    PLACEHOLDERS,
    RELEASED_RECORD,
    UNUSED_NORM,
)
from .reading import Checkpoint, infer_task, is_by_first_token, keep_encoder, read_source
from .report import ConversionReport, find_views


logger = logging.get_logger(__name__)

PATCH_EMBEDDING = "amd.embeddings.projection.weight"
_MODELS: dict[str, type[AMDPreTrainedModel]] = {
    "pretraining": AMDForPreTraining,
    "classification": AMDForVideoClassification,
    "detection": AMDForActionDetection,
}
_TASKS = (*_MODELS, "encoder")
_FIRST_PROJECTION = "encoder.projection_heads.0.weight"
_ENCODER_TABLE, _DECODER_TABLE = "amd.embeddings.position", "decoder.position"  # where our models keep them
_TABLE_TOLERANCE = 1e-5


def convert_checkpoint(
    source: str | Path | Mapping[str, Any] | Checkpoint,
    config: AMDConfig | None = None,
    task: str | None = None,
    projection_by_position: bool = False,
    dataset: str | None = None,
    **config_overrides: Any,
) -> AMDPreTrainedModel:
    """Convert a checkpoint to one of this package's models.

    Args:
        source (`str`, `Path` or `Mapping`):
            An official `.pth`, a state dict with official names, or a folder of a Transformers `videomae` or `vit_mae`
            model (or what [`read_source`] made of one).
        config ([`AMDConfig`], *optional*): The whole config; by default it is read from the tensors.
        task (`"pretraining"`, `"classification"`, `"detection"` or `"encoder"`, *optional*):
            If the keys do not decide it (an encoder alone), what to build around the encoder, newly initialised.
            `"encoder"` takes only the encoder of any checkpoint, and reports what it drops.
        projection_by_position (`bool`, *optional*, defaults to `False`):
            The released code picks projections by their position in the layer lists. If one projection serves two
            student layers that way, copy it to both.
        dataset (`str`, *optional*):
            The data set that the model was trained on: `k400`, `ssv2`, `ucf101`, `hmdb51`, `ava` or `in1k`. It decides
            how the model reads videos. By default read from the arguments of the authors' run, if the file has them.
        **config_overrides: Options of [`AMDConfig`] that do not follow from the tensors, or that should differ.

    Returns:
        [`AMDForPreTraining`], [`AMDForVideoClassification`], [`AMDForImageClassification`] (for one frame),
        [`AMDForActionDetection`] or [`AMDModel`] in eval mode, with the [`ConversionReport`] as `conversion_report`. A
        detector gets the mean and std of VideoMAE's code for AVA unless others are given.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        ValueError: If the file is unsafe or no checkpoint, a tensor is unknown, missing, of the wrong shape or not
            finite, or a size neither follows from the tensors nor is given.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_source(source)
    of_task = infer_task(checkpoint) or ("classification" if task == "encoder" else task)
    model = _convert(checkpoint, config, task, projection_by_position, config_overrides)
    report = model.conversion_report
    report.views, report.views_origin = find_views(checkpoint, str(of_task), model.config, dataset)
    logger.info("%s", report)
    return model


def convert_encoder(checkpoint: Checkpoint, **config_overrides: Any) -> AMDPreTrainedModel:
    """Convert only the encoder, as [`convert_checkpoint`] does, without inferring how the model reads videos."""
    model = _convert(checkpoint, None, "encoder", False, config_overrides)
    logger.info("%s", model.conversion_report)
    return model


def _convert(
    checkpoint: Checkpoint,
    config: AMDConfig | None,
    task: str | None,
    projection_by_position: bool,
    config_overrides: dict[str, Any],
) -> AMDPreTrainedModel:
    inferred = infer_task(checkpoint)
    task = _choose_task(checkpoint, inferred, task)
    beside: dict[str, str] = keep_encoder(checkpoint) if task == "encoder" else {}
    if task == "pretraining" and not any(key.startswith("encoder.") for key in checkpoint.tensors):
        checkpoint.tensors = {f"encoder.{key}": tensor for key, tensor in checkpoint.tensors.items()}
    if inferred == "detection" and config is None and checkpoint.run_arguments.get("model_type") != "amd":
        config_overrides = {**AVA_STATISTICS, **config_overrides}
    config, sizes = _config_from_tensors(checkpoint, task, config, config_overrides)
    report = ConversionReport(
        checkpoint.source, task, checkpoint.wrapper, checkpoint.prefixes, sizes,
        _assumptions(built=config, task=task, sizes=sizes, checkpoint=checkpoint), dropped=beside,
        ignored_entries=checkpoint.left_out,
    )  # fmt: skip
    state_dict = _rename_all(checkpoint, task, config, report)
    if _FIRST_PROJECTION in checkpoint.tensors and config.teacher_hidden_size is not None:
        state_dict = _place_by_layer(state_dict, config, projection_by_position)
    is_image_classifier = task == "classification" and config.num_frames == 1
    kind = AMDForImageClassification if is_image_classifier else _MODELS.get(task, AMDModel)
    model = _load(kind, config, state_dict, report, _new_names(inferred, task, checkpoint))
    model.conversion_report = report
    if report.assumed:
        values = ", ".join(f"{name} {why.partition(':')[0]}" for name, why in report.assumed.items())
        logger.warning(f"{report.source} does not say, and it was assumed: {values}.")
    return model


def export_checkpoint(
    model: AMDForPreTraining | AMDForVideoClassification | AMDForActionDetection,
    include_generator_mask_tokens: bool = False,
) -> dict[str, torch.Tensor]:
    """Return the official state dict of a model: the reverse of [`convert_checkpoint`], bit for bit.

    Image models get VideoMAE's names with tubelets of one frame, their class token as `cls_token` and their position
    tables beside the weights; what MAE's own code reads is named otherwise.

    Args:
        model ([`AMDForPreTraining`], [`AMDForVideoClassification`] or [`AMDForActionDetection`]): What to export.
        include_generator_mask_tokens (`bool`, *optional*, defaults to `False`):
            They have no official name. Write them as `generator_mask_tokens.{i}`; by default they are left out.

    Raises:
        TypeError: For another kind of model.
        ValueError: If direct and generation alignment start with different student layers or have projections of their
            own: the official layout cannot hold them.
    """
    task = next((task for task, kind in _MODELS.items() if isinstance(model, kind)), None)
    if task is None:
        raise TypeError(f"Only {', '.join(kind.__name__ for kind in _MODELS.values())} have an official layout.")
    config = model.config
    positions = _positions_for_export(config) if task == "pretraining" else {}
    official: dict[str, torch.Tensor] = {}
    left_out = []
    for key, tensor in split_biases(model.state_dict()).items():
        if key.rpartition(".")[0] in (_ENCODER_TABLE, _DECODER_TABLE):
            continue  # stored position tables are written below, with the computed ones
        key = re.sub(r"^(alignment\.\w+\.)(\d+)", lambda m: m[1] + str(positions[int(m[2])]), key)
        official_key = rename(key, task, back=True)
        if official_key is None:
            raise ValueError(f"`{key}` has no official name.")
        if official_key.startswith("generator_mask_tokens.") and not include_generator_mask_tokens:
            left_out.append(official_key)
            continue
        if key == PATCH_EMBEDDING:  # linear (D, frame * row * column * channel) -> (D, channel, frame, row, column)
            patches = tensor.view(-1, config.tubelet_size, config.patch_size, config.patch_size, config.num_channels)
            tensor = patches.permute(0, 4, 1, 2, 3).clone(memory_format=torch.contiguous_format)
        official[official_key] = tensor
    official |= _export_tables(model, task)
    for position in range(len(config.student_generation_layers) if positions else 0):
        width = config.teacher_hidden_size  # the official code does not use them, but every official file has them
        official[f"generators.{position}.norm.weight"] = torch.ones(width, dtype=model.dtype)
        official[f"generators.{position}.norm.bias"] = torch.zeros(width, dtype=model.dtype)
    if left_out:
        logger.warning(f"Left out of the export, as they have no official name: {', '.join(left_out)}.")
    return official


def _choose_task(checkpoint: Checkpoint, inferred: str | None, asked: str | None) -> str:
    if asked is not None and asked not in _TASKS:
        raise ValueError(f"`task` must be one of {', '.join(_TASKS)}, got {asked!r}.")
    if inferred is None and asked is None:
        raise ValueError(
            f"{checkpoint.source} holds an encoder alone: say what to build with `task` ({', '.join(_TASKS)})."
        )
    if asked == "encoder":
        return asked
    if inferred == "classification" and is_by_first_token(checkpoint):
        raise ValueError(
            f"{checkpoint.source} classifies by its first token (`use_mean_pooling` false), classifiers of this "
            "package by the mean over all tokens or by a class token: it cannot be used whole. Its encoder can: as a "
            "teacher, or as the start of fine-tuning."
        )
    if inferred is not None and asked not in (None, inferred):
        raise ValueError(f"{checkpoint.source} is a {inferred} checkpoint, but `task` is {asked!r}.")
    return inferred or str(asked)


# ---------------------------------------------------------------------------------------------------------------------
# Names and tensors
# ---------------------------------------------------------------------------------------------------------------------


def rename(key: str, task: str, back: bool = False) -> str | None:
    """Return our name of an official key, or with `back` the official name of ours; `None` where there is none.

    Projections and generators keep their position.
    """
    for official, ours in NAMES[task]:
        source, target = (ours, official) if back else (official, ours)
        if match := _pattern(source).fullmatch(key):
            parts = match.groupdict()
            for theirs, mine in IN_BLOCKS if "rest" in parts else ():
                start, new_start = (mine, theirs) if back else (theirs, mine)
                if parts["rest"].startswith(start):
                    parts["rest"] = new_start + parts["rest"].removeprefix(start)
                    break
            return target.format(**parts)
    return None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    named = re.sub(r"\\{(\w+)\\}", lambda name: f"(?P<{name[1]}>{PLACEHOLDERS[name[1]]})", re.escape(template))
    return re.compile(named)


def split_biases(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split the bias of each fused product into those of query and value; the keys', without effect, is left out."""
    split: dict[str, torch.Tensor] = {}
    for key, tensor in state_dict.items():
        if not key.endswith(".qkv.bias"):
            split[key] = tensor
            continue
        query, _, value = tensor.chunk(3)
        prefix = key.removesuffix("bias")
        split |= {f"{prefix}q_bias": query.clone(), f"{prefix}v_bias": value.clone()}
    return split


def _rename_all(
    checkpoint: Checkpoint, task: str, config: AMDConfig, report: ConversionReport
) -> dict[str, torch.Tensor]:
    """Return the tensors under our names; what has none must be on the list of those that are dropped."""
    state_dict: dict[str, torch.Tensor] = {}
    unknown = []
    for key, tensor in checkpoint.tensors.items():
        if key.endswith("pos_embed"):
            placed = _place_table(key, tensor, config)
            state_dict |= placed
            if placed:
                report.used[key] = next(iter(placed))
            else:
                report.dropped[key] = "a fixed sine-cosine table, which is computed"
            continue
        dropped = (*DROPPED_NAMES, *DROPPED_NAMES_OF_TASK.get(task, ()))
        if reason := next((reason for pattern, reason in dropped if re.fullmatch(pattern, key)), None):
            if re.fullmatch(UNUSED_NORM, key):  # dropped for being 1 and 0, which is looked at
                expected = 1.0 if key.endswith("weight") else 0.0
                reason += "" if bool((tensor == expected).all()) else f" (here not {expected:g} everywhere)"
            report.dropped[key] = reason
        elif ours := rename(key, task):
            # Copies: the source may be the caller's, or a memory-mapped file that is overwritten later.
            if ours == PATCH_EMBEDDING:  # (D, channel, frame, row, column) -> (D, frame * row * column * channel)
                tensor = tensor.permute(0, 2, 3, 4, 1).flatten(1)
            state_dict[ours] = tensor.clone(memory_format=torch.contiguous_format)
            report.used[key] = ours
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"{report.source}: no place for {len(unknown)} tensor(s) of a {task} checkpoint: "
            f"{', '.join(unknown[:10])}."
        )
    return state_dict


def _place_by_layer(
    state_dict: dict[str, torch.Tensor], config: AMDConfig, projection_by_position: bool
) -> dict[str, torch.Tensor]:
    """Move projections and generators from their position in the layer lists to their student layer."""
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
    """Return, by the position of a projection, the student layers that it serves in the released code."""
    owners: dict[int, list[int]] = {}
    for layers in (config.student_direct_layers, config.student_generation_layers):
        for position, layer in enumerate(layers):
            if layer not in owners.setdefault(position, []):
                owners[position].append(layer)
    shared = {position: layers for position, layers in owners.items() if len(layers) > 1}
    if shared and not projection_by_position:
        raise ValueError(
            "The released code picks projections by position, so with these layer lists one projection serves several "
            f"student layers ({', '.join(map(str, shared.values()))}), which this package keeps separate. Pass "
            "`projection_by_position=True` to copy it to each of them."
        )
    served = [layer for layers in owners.values() for layer in layers]
    if twice := sorted({layer for layer in served if served.count(layer) > 1}):
        raise ValueError(
            f"Student layer(s) {twice} would need two projections: these layer lists cannot be converted."
        )
    return owners


def _positions_for_export(config: AMDConfig) -> dict[int, int]:
    """Return the position of each student layer's projection and generator in the official files."""
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


# ---------------------------------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep Transformers' table of missing weights ("LOAD REPORT from: None") from standing beside our own report."""
    loader = logging.get_logger("transformers.modeling_utils")

    def is_no_report(record: LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loader.addFilter(is_no_report)
    try:
        yield
    finally:
        loader.removeFilter(is_no_report)


def _new_names(inferred: str | None, task: str, checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    """Return (pattern, reason) of those of our tensors that the checkpoint may lack."""
    if task == "encoder":
        return ()
    if inferred:
        names = [(r"alignment\.generators\.\d+\.mask_token", "the released code never saves it")]
    else:
        names = [(r"(?!amd\.).+", "the checkpoint holds an encoder alone")]
    if task == "pretraining" and inferred and _FIRST_PROJECTION not in checkpoint.tensors:
        names.append((r"alignment\..+", "the checkpoint was not aligned with a teacher"))
    has_norm = any(key.startswith("encoder.norm.") for key in checkpoint.tensors)
    settings = checkpoint.run_arguments
    is_normless = settings.get("model_type") == "videomae" and settings.get("use_mean_pooling", True)
    if task == "pretraining" and not has_norm and (inferred is None or is_normless):
        names.append((r"amd\.norm\..+", "the encoder of the checkpoint ends without a norm"))
    return tuple(names)


def _load(
    model_class: type[AMDPreTrainedModel],
    config: AMDConfig,
    state_dict: dict[str, torch.Tensor],
    report: ConversionReport,
    new_names: tuple[tuple[str, str], ...],
) -> AMDPreTrainedModel:
    """Load a model from tensors under our names, biases still apart, once each of them has been accounted for."""
    if model_class is AMDModel:
        state_dict = {key.removeprefix("amd."): tensor for key, tensor in state_dict.items()}
        report.used = {theirs: ours.removeprefix("amd.") for theirs, ours in report.used.items()}
    _check_shapes(model_class, config, state_dict, report, new_names)
    # The bias of the fused product: 0 for the keys, which have none.
    for query_key in [key for key in state_dict if key.endswith(".qkv.q_bias")]:
        prefix = query_key.removesuffix("q_bias")
        query, value = state_dict.pop(query_key), state_dict.pop(f"{prefix}v_bias")
        state_dict[f"{prefix}bias"] = torch.cat([query, torch.zeros_like(query), value])
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
    """Refuse a state dict unless all tensors of the model are there in their shapes, but those that may be new."""
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


# ---------------------------------------------------------------------------------------------------------------------
# Sizes: inferred from the tensors, looked up by width, or given
# ---------------------------------------------------------------------------------------------------------------------


def _config_from_tensors(
    checkpoint: Checkpoint, task: str, config: AMDConfig | None, overrides: Mapping[str, Any]
) -> tuple[AMDConfig, dict[str, str]]:
    """Return the config of a checkpoint under official names, and for each option where its value comes from.

    A `config` is taken as it is, with the overrides; overrides win over what is read and looked up too.
    """
    if config is not None:
        given = {name: f"{value!r} (given)" for name, value in overrides.items()}
        return config.with_options(**overrides), given | {"everything else": "as in `config`"}
    tensors = checkpoint.tensors
    read = _read_encoder(tensors, "encoder." if task == "pretraining" else "")
    if task == "pretraining":
        read |= _read_decoder(tensors) | _read_alignment(tensors)
    elif "head.weight" in tensors:
        read["num_labels"] = tensors["head.weight"].shape[0]
    from_file = _read_record(checkpoint.run_arguments, read)
    if task == "encoder" and checkpoint.run_arguments.get("model_type") != "amd":
        from_file = {name: value for name, value in from_file.items() if name in OF_ENCODER}
    read |= _read_positions(tensors, {**from_file, **overrides}, read["patch_size"])
    looked_up = _look_up_heads(read, {**from_file, **overrides})
    sizes = {name: f"{value!r} (read from the tensors)" for name, value in read.items()}
    sizes |= {name: f"{value!r} (from the file's own record)" for name, value in from_file.items()}
    sizes |= {name: f"{value!r} (looked up by width)" for name, value in looked_up.items()}
    sizes |= {name: f"{value!r} (given)" for name, value in overrides.items()}
    wrong = [
        f"`{name}` is {read[name]} in the tensors, {value} was given"
        for name, value in overrides.items()
        if name in read and read[name] is not None and read[name] != value
    ]
    if wrong:
        raise ValueError("; ".join(wrong) + ".")
    has_final_norm = "norm.weight" in tensors if task == "encoder" else task == "pretraining"
    built = AMDConfig(**{"use_final_norm": has_final_norm, **read, **looked_up, **from_file, **overrides})
    for name in ("image_size", "num_frames"):
        sizes.setdefault(name, f"{getattr(built, name)!r} (default: the tensors do not say)")
    return built, sizes


def _assumptions(built: AMDConfig, task: str, sizes: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, str]:
    """Return the options that follow from neither the tensors nor the arguments: option -> "value: why".

    A Transformers folder or a file of ours has them all.
    """
    model_type = checkpoint.run_arguments.get("model_type")
    if "everything else" in sizes or model_type == "amd":
        return {}
    names = {**ASSUMED, **ASSUMED_OF_TASK.get(task, {})}
    if task == "pretraining" and built.teacher_hidden_size is not None:
        names |= ASSUMED_OF_ALIGNMENT
    # A state dict of Transformers' leaves open what its config would say; tables and pooling are those of its code.
    said_by_code = ("position", "pooling", "norm_pix_loss", "mask_type") if model_type else ()
    return {
        name: f"{getattr(built, name)!r}: {why}"
        for name, why in names.items()
        if any(origin in sizes.get(name, "(default") for origin in ("(looked up", "(default"))
        and not any(part in name for part in said_by_code)
    }


def _depth(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    found = {int(match[1]) for key in tensors if (match := re.match(re.escape(prefix) + r"blocks\.(\d+)\.", key))}
    if found != set(range(len(found))):
        raise ValueError(f"Blocks `{prefix}blocks.*` are not numbered without gaps: {sorted(found)}.")
    return len(found)


def _read_encoder(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    embedding, mlp = f"{prefix}patch_embed.proj.weight", f"{prefix}blocks.0.mlp.fc1.weight"
    for key, num_dims in ((embedding, 5), (mlp, 2)):
        if key not in tensors:
            raise ValueError(f"The checkpoint has no `{key}`, which gives the sizes: is it renamed or missing?")
        if tensors[key].ndim != num_dims:
            raise ValueError(f"`{key}` must have {num_dims} dimensions, its shape is {tuple(tensors[key].shape)}.")
    width, channels, tubelet, rows, columns = tensors[embedding].shape
    if rows != columns:
        raise ValueError(f"Patches must be square, `{embedding}` has {rows} x {columns} pixels.")
    return {
        "hidden_size": width,
        "num_channels": channels,
        "tubelet_size": tubelet,
        "patch_size": rows,
        "num_hidden_layers": _depth(tensors, prefix),
        "intermediate_size": tensors[mlp].shape[0],
    }


def _read_decoder(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    if "encoder_to_decoder.weight" not in tensors:
        if not any(key.startswith("decoder.") for key in tensors):
            return {}  # an encoder alone: the decoder is new
        raise ValueError("A pre-training checkpoint needs a decoder: `encoder_to_decoder.weight` is missing.")
    width = tensors["encoder_to_decoder.weight"].shape[0]
    first = tensors.get("decoder.blocks.0.mlp.fc1.weight")
    if first is not None and first.shape[0] != 4 * width:
        raise ValueError(
            f"The decoder's blocks are {first.shape[0]} wide inside, not 4 x their width {width}: decoders of this "
            "package have no such option, so the model cannot be converted whole. Its encoder can: as a teacher, as "
            "the start of fine-tuning, or by `task` encoder."
        )
    found: dict[str, Any] = {"decoder_hidden_size": width, "decoder_num_hidden_layers": _depth(tensors, "decoder.")}
    return found | ({"decoder_embed_bias": True} if "encoder_to_decoder.bias" in tensors else {})


def _read_alignment(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    if _FIRST_PROJECTION not in tensors:
        return {"teacher_hidden_size": None}
    found = {"teacher_hidden_size": tensors[_FIRST_PROJECTION].shape[0]}
    depth = _depth(tensors, "generators.0.")
    return found | ({"generator_num_hidden_layers": depth} if depth else {})


def _read_record(arguments: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the authors' training arguments, a Transformers config, or ours say beside the tensors."""
    records = {family.model_type: {**{name: name for name in family.settings}, **family.record} for family in FAMILIES}
    names = dict(records.get(str(arguments.get("model_type")), RELEASED_RECORD))
    if arguments.get("model_type") == "amd":
        head = () if read.get("num_labels") is None else ("id2label", "label2id", "problem_type")
        names = {name: name for name in (*AMDConfig.__annotations__, *head) if name not in (*read, "use_final_norm")}
    return {ours: arguments[theirs] for theirs, ours in names.items() if arguments.get(theirs) is not None}


def _look_up_heads(read: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, int]:
    heads: dict[str, int] = {}
    tables = (
        ("hidden_size", "num_attention_heads", ENCODER_HEADS),
        ("decoder_hidden_size", "decoder_num_attention_heads", DECODER_HEADS),
    )
    for width_name, heads_name, table in tables:
        if width_name not in read or heads_name in given:
            continue
        width = read[width_name]
        if width not in table:
            raise UnknownSizeError(
                heads_name,
                f"The number of attention heads leaves no trace in the tensors, and width {width} is none of "
                f"{sorted(table)}",
            )
        heads[heads_name] = table[width]
    return heads


# ---------------------------------------------------------------------------------------------------------------------
# Position tables: which kind one is, where it goes, and how it is written back
# ---------------------------------------------------------------------------------------------------------------------


def _read_positions(tensors: Mapping[str, torch.Tensor], given: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    """Infer from the tables the kind of each, class tokens, and the image's size where it is square.

    Of the options in `given`, which are known from elsewhere, `image_size` and `num_frames` win over the tables.
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
    size = {**found, **given}.get("image_size", side * patch_size)
    height, width = (size, size) if isinstance(size, int) else size
    grid = (height // patch_size, width // patch_size)
    found["position_embedding"] = _table_kind(encoder, num_patches, *grid)
    if (decoder := tensors.get("decoder.pos_embed")) is not None:
        found["decoder_position_embedding"] = _table_kind(decoder, num_patches, *grid)
        found["use_decoder_class_token"] = decoder.shape[-2] == num_patches + 1
    return found


def _table_kind(tensor: torch.Tensor, num_patches: int, rows: int, columns: int) -> str:
    table, class_position = _split_table(tensor, num_patches)
    if class_position is not None and bool(class_position.any()):
        return "stored"
    width = table.shape[1]
    # Each computed kind asks for a width that its parts divide, and for a grid that gives so many patches.
    grids = {"sincos_1d": (1, 1, num_patches)}
    if rows * columns == num_patches and width % 4 == 0:
        grids["sincos_2d"] = (1, rows, columns)
    if rows * columns and num_patches % (rows * columns) == 0 and width % 8 == 0:
        grids["sincos_3d"] = (num_patches // (rows * columns), rows, columns)
        if width % 16 == 0:
            grids["sincos_3d_mvd"] = grids["sincos_3d"]
    for kind, grid in grids.items():
        if torch.allclose(table, AMDPositionTable(grid, width, kind).computed_table(), atol=_TABLE_TOLERANCE):
            return kind
    return "stored"


def _split_table(tensor: torch.Tensor, num_patches: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the table (N, D) and the class token's position (1, 1, D) or `None`, float32."""
    rows = tensor.reshape(-1, tensor.shape[-1]).float()
    return rows[-num_patches:], rows[:1].view(1, 1, -1) if len(rows) > num_patches else None


def _place_table(key: str, tensor: torch.Tensor, config: AMDConfig) -> dict[str, torch.Tensor]:
    """Return the tensors of our model that an official table fills: none where the model computes the same table.

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
    table, class_position = _split_table(tensor, config.num_patches)
    if kind == "stored":
        where = _DECODER_TABLE if is_decoder else _ENCODER_TABLE
        stored = {f"{where}.table": table.clone()}
        return stored if class_position is None else stored | {f"{where}.class_position": class_position.clone()}
    if _table_kind(tensor, config.num_patches, *config.grid_size[1:]) != kind:
        name = "decoder_position_embedding" if is_decoder else "position_embedding"
        raise ValueError(
            f"`{key}` is not the table that `{name}` {kind!r} computes: leave `{name}` out, or say 'stored'."
        )
    return {}


def _export_tables(model: AMDPreTrainedModel, task: str) -> dict[str, torch.Tensor]:
    """Return the official tables `(1, tokens, D)`; none where they are those that VideoMAE's code computes."""
    config, is_pretraining = model.config, task == "pretraining"
    kinds = {config.position_embedding, *([config.decoder_position_embedding] if is_pretraining else [])}
    if kinds == {"sincos_1d"} and not config.use_class_token:
        return {}
    prefix = "encoder." if is_pretraining else ""
    tables = {f"{prefix}pos_embed": (model.base_model.embeddings.position, config.use_class_token)}
    if is_pretraining:
        tables["decoder.pos_embed"] = (model.decoder.position, config.use_decoder_class_token)
    official = {}
    for name, (position, has_class_token) in tables.items():
        table = position.table[None]
        row = torch.zeros_like(table[:, :1]) if position.class_position is None else position.class_position
        official[name] = torch.cat([row, table], dim=1) if has_class_token else table.clone()
    return official
