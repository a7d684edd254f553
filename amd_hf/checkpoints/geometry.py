"""The sizes of a model from its tensors: read where they leave a trace, looked up by width, or given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..configuration_amd import AMDConfig
from ..errors import UntoldSizeError
from .files import Checkpoint
from .positions import read_positions


# Heads leave no trace in the tensors: every published ViT of these widths has these (DESIGN section 1).
_ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
_DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}


# What says something of an encoder in the records of other families.
_OF_ENCODER = {
    *("num_frames", "image_size", "num_attention_heads", "layer_norm_eps", "image_mean", "image_std"),
}
_BY_WIDTH = "what published models of this width have"
_USUAL_CLIP = "VideoMAE's and AMD's"
# What leaves no trace in the tensors of an official file, for every task or for one, and why it is taken to be so.
_ASSUMED = {
    "num_attention_heads": _BY_WIDTH,
    "layer_norm_eps": "the official code's; Transformers' models have 1e-12",
    "position_embedding": "VideoMAE's and AMD's table, over all tokens in a row; MVD's models have sincos_3d_mvd",
    "image_size": _USUAL_CLIP,
    "num_frames": _USUAL_CLIP,
    "image_mean": "ImageNet's",
    "image_std": "ImageNet's",
}
_ASSUMED_OF_TASK = {
    "classification": {"pooling": "the head looks at the mean over all tokens"},
    "pretraining": {
        "decoder_num_attention_heads": _BY_WIDTH,
        "decoder_position_embedding": "as the encoder's",
        "student_mask_ratio": "AMD's",
        "mask_type": "AMD's and VideoMAE's",
        "norm_pix_loss": "AMD's and VideoMAE's",
    },
}
_ASSUMED_OF_ALIGNMENT = {
    "student_direct_layers": "AMD's",
    "student_generation_layers": "AMD's",
    "teacher_direct_layers": "AMD's",
    "teacher_generation_layers": "AMD's",
    "teacher_mask_ratio": "AMD's",
}
# Names in the released scripts -> ours.
_RUN_ARGUMENTS = {
    "num_frames": "num_frames",
    "input_size": "image_size",
    "mask_ratio": "student_mask_ratio",
    "mask_ratio_teacher": "teacher_mask_ratio",
    "student_layer_direct_align": "student_direct_layers",
    "student_layer_gen_align": "student_generation_layers",
    "teacher_layer_direct_align": "teacher_direct_layers",
    "teacher_layer_gen_align": "teacher_generation_layers",
}


def config_from_tensors(
    checkpoint: Checkpoint, task: str, config: AMDConfig | None, overrides: Mapping[str, Any]
) -> tuple[AMDConfig, dict[str, str]]:
    """The config of a checkpoint with official names, and for each size where it comes from.

    Args:
        checkpoint ([`Checkpoint`]): Tensors under official names, and what their file says of the run.
        task (`str`): `"pretraining"`, `"classification"`, `"detection"` or `"encoder"`.
        config ([`AMDConfig`], *optional*): Taken as it is, with the overrides.
        overrides (`Mapping`): Options of [`AMDConfig`] that win over what is read and looked up.

    Raises:
        ValueError: If a size is impossible, or is neither told by the tensors nor given.
    """
    if config is not None:
        given = {name: f"{value!r} (given)" for name, value in overrides.items()}
        return AMDConfig.from_dict({**config.to_dict(), **overrides}), given | {"everything else": "as in `config`"}
    read = _read_encoder(checkpoint.tensors, "encoder." if task == "pretraining" else "")
    if task == "pretraining":
        read |= _read_decoder(checkpoint.tensors) | _read_alignment(checkpoint.tensors)
    elif "head.weight" in checkpoint.tensors:
        read["num_labels"] = checkpoint.tensors["head.weight"].shape[0]
    from_file = _read_run_arguments(checkpoint.run_arguments, read)
    if task == "encoder" and checkpoint.run_arguments.get("model_type") != "amd":
        from_file = {name: value for name, value in from_file.items() if name in _OF_ENCODER}
    read |= read_positions(checkpoint.tensors, {**from_file, **overrides}, read["patch_size"])
    looked_up = _look_up_heads(read, {**from_file, **overrides})
    sizes = {name: f"{value!r} (read from the tensors)" for name, value in read.items()}
    sizes |= {name: f"{value!r} (from the file's own record)" for name, value in from_file.items()}
    sizes |= {name: f"{value!r} (looked up by width)" for name, value in looked_up.items()}
    sizes |= {name: f"{value!r} (given)" for name, value in overrides.items()}
    has_final_norm = "norm.weight" in checkpoint.tensors if task == "encoder" else task == "pretraining"
    options = {"use_final_norm": has_final_norm, **read, **looked_up, **from_file, **overrides}
    _check_given(read, overrides)
    built = AMDConfig(**options)
    for name in ("image_size", "num_frames"):
        sizes.setdefault(name, f"{getattr(built, name)!r} (default: the tensors do not tell)")
    return built, sizes


def assumptions(built: AMDConfig, task: str, sizes: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, str]:
    """What a config says that neither the tensors nor anybody else told: option -> "value: why".

    Args:
        built ([`AMDConfig`]): The config that was made.
        task (`str`): As in [`config_from_tensors`].
        sizes (`Mapping`): Option -> where it comes from, as [`config_from_tensors`] returns it.
        checkpoint ([`Checkpoint`]): What it was made of. A Transformers folder or a file of ours tells everything.
    """
    model_type = checkpoint.run_arguments.get("model_type")
    if "everything else" in sizes or model_type == "amd":
        return {}
    names = {**_ASSUMED, **_ASSUMED_OF_TASK.get(task, {})}
    if task == "pretraining" and built.teacher_hidden_size is not None:
        names |= _ASSUMED_OF_ALIGNMENT
    # A state dict of Transformers' leaves open what its config would say; tables and pooling are those of its code.
    told_by_code = ("position", "pooling", "norm_pix_loss", "mask_type") if model_type else ()
    return {
        name: f"{getattr(built, name)!r}: {why}"
        for name, why in names.items()
        if ("(looked up" in sizes.get(name, "(default") or "(default" in sizes.get(name, "(default"))
        and not any(part in name for part in told_by_code)
    }


def _depth(tensors: Mapping[str, torch.Tensor], prefix: str) -> int:
    found = {int(match[1]) for key in tensors if (match := re.match(re.escape(prefix) + r"blocks\.(\d+)\.", key))}
    if found != set(range(len(found))):
        raise ValueError(f"Blocks `{prefix}blocks.*` are not numbered without gaps: {sorted(found)}.")
    return len(found)


def _tensor(tensors: Mapping[str, torch.Tensor], key: str, num_dims: int) -> torch.Tensor:
    if key not in tensors:
        raise ValueError(f"The checkpoint has no `{key}`, which tells the sizes: is it renamed or missing?")
    if tensors[key].ndim != num_dims:
        raise ValueError(f"`{key}` must have {num_dims} dimensions, its shape is {tuple(tensors[key].shape)}.")
    return tensors[key]


def _read_encoder(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    embedding = _tensor(tensors, f"{prefix}patch_embed.proj.weight", 5)
    width, channels, tubelet, rows, columns = embedding.shape
    if rows != columns:
        raise ValueError(f"Patches must be square, `{prefix}patch_embed.proj.weight` has {rows} x {columns} pixels.")
    return {
        "hidden_size": width,
        "num_channels": channels,
        "tubelet_size": tubelet,
        "patch_size": rows,
        "num_hidden_layers": _depth(tensors, prefix),
        "intermediate_size": _tensor(tensors, f"{prefix}blocks.0.mlp.fc1.weight", 2).shape[0],
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
    return {
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": _depth(tensors, "decoder."),
        **({"decoder_embed_bias": True} if "encoder_to_decoder.bias" in tensors else {}),
    }


def _read_alignment(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    projection = tensors.get("encoder.projection_heads.0.weight")
    if projection is None:
        return {"teacher_hidden_size": None}
    generator_depth = _depth(tensors, "generators.0.")
    return {
        "teacher_hidden_size": projection.shape[0],
        **({"generator_num_hidden_layers": generator_depth} if generator_depth else {}),
    }


def _read_run_arguments(arguments: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, Any]:
    """What the tensors do not tell, from the authors' training arguments, a Transformers config, or one of ours."""
    names = _RUN_ARGUMENTS
    if arguments.get("model_type") == "amd":
        names = {name: name for name in AMDConfig.__annotations__ if name not in (*read, "use_final_norm")}
        names |= {} if read.get("num_labels") is None else {"id2label": "id2label", "label2id": "label2id"}
    if arguments.get("model_type") == "videomae":
        same = ("num_frames", "image_size", "num_attention_heads", "decoder_num_attention_heads", "layer_norm_eps")
        more = ("norm_pix_loss", "image_mean", "image_std", "id2label", "label2id")
        names = {name: name for name in (*same, *more)}
    if arguments.get("model_type") == "vit_mae":
        same = ("num_frames", "image_size", "num_attention_heads", "decoder_num_attention_heads", "layer_norm_eps")
        statistics = ("norm_pix_loss", "image_mean", "image_std")
        of_images = ("reconstruction_target", "mask_type", "teacher_mask_ratio", "pooling")
        names = {name: name for name in (*same, *statistics, *of_images)} | {"mask_ratio": "student_mask_ratio"}
    return {ours: arguments[theirs] for theirs, ours in names.items() if arguments.get(theirs) is not None}


def _look_up_heads(read: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, int]:
    heads: dict[str, int] = {}
    tables = (
        ("hidden_size", "num_attention_heads", _ENCODER_HEADS),
        ("decoder_hidden_size", "decoder_num_attention_heads", _DECODER_HEADS),
    )
    for width_name, heads_name, table in tables:
        if width_name not in read or heads_name in given:
            continue
        width = read[width_name]
        if width not in table:
            raise UntoldSizeError(
                heads_name,
                f"The number of attention heads leaves no trace in the tensors, and width {width} is none of "
                f"{sorted(table)}",
            )
        heads[heads_name] = table[width]
    return heads


def _check_given(read: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    wrong = [
        f"`{name}` is {read[name]} in the tensors, {value} was given"
        for name, value in overrides.items()
        if name in read and read[name] is not None and read[name] != value
    ]
    if wrong:
        raise ValueError("; ".join(wrong) + ".")
