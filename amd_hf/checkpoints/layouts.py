"""Checkpoints of every supported layout, under the official names of AMD and VideoMAE."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .files import Checkpoint, load_tensor_file, read_checkpoint
from .keys import is_videomae, videomae_to_official
from .mae import is_mae, is_vit_mae, mae_settings, mae_to_official, vit_mae_to_mae


TRANSFORMERS_TYPES = ("videomae", "vit_mae")
"""Model types of Transformers whose folders are converted."""
_BESIDE_THE_ENCODER = (
    r"(decoder|encoder_to_decoder|generators|generator_mask_tokens|encoder\.projection_heads|fc_norm|head)\..+"
    r"|mask_token"
)


def read_source(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Reads a checkpoint for [`convert_checkpoint`]: tensors under official names, whatever the layout.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        ValueError: As for [`convert_checkpoint`].
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        checkpoint = _read_folder(Path(source))
    else:
        checkpoint = read_checkpoint(source)
    if is_vit_mae(checkpoint.tensors):
        checkpoint.tensors = vit_mae_to_mae(checkpoint.tensors)
        checkpoint.run_arguments = {"layer_norm_eps": 1e-12, **checkpoint.run_arguments}
    if is_mae(checkpoint.tensors):
        settings = {**mae_settings(checkpoint.tensors), **checkpoint.run_arguments}
        # A mask for a teacher is our addition: it hides no more than the student's, whatever that is.
        settings["teacher_mask_ratio"] = min(settings["teacher_mask_ratio"], settings["mask_ratio"])
        checkpoint.run_arguments = settings
        checkpoint.tensors = mae_to_official(checkpoint.tensors)
    if is_videomae(checkpoint.tensors):
        checkpoint.tensors = videomae_to_official(checkpoint.tensors)
        # A state dict alone says nothing of the epsilon; that of all `videomae` models differs from the official 1e-6.
        checkpoint.run_arguments = {"model_type": "videomae", "layer_norm_eps": 1e-12, **checkpoint.run_arguments}
    return checkpoint


def _read_folder(folder: Path) -> Checkpoint:
    """Tensors of a Transformers folder, read from the files: some releases lose biases when they load the model."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is no folder of a Transformers model.")
    settings = json.loads((folder / "config.json").read_text())
    if settings.get("model_type") not in TRANSFORMERS_TYPES:
        raise ValueError(
            f"{folder} holds a `{settings.get('model_type')}` model; only `videomae` and `vit_mae` folders are "
            "converted (`amd` folders load with `from_pretrained`)."
        )
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        tensors |= load_tensor_file(path)
    if not tensors:
        raise FileNotFoundError(f"{folder} has neither *.safetensors nor pytorch_model*.bin.")
    checkpoint = read_checkpoint(tensors)
    checkpoint.source = str(folder)
    checkpoint.run_arguments = {**settings, **_read_statistics(folder)}
    return checkpoint


def _read_statistics(folder: Path) -> dict[str, list[float]]:
    """Mean and deviation of a folder's input, if it has a file of its preprocessor."""
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text())
            return {key: settings[key] for key in ("image_mean", "image_std") if key in settings}
    return {}


def is_by_first_token(checkpoint: Checkpoint) -> bool:
    """Whether it is a VideoMAE classifier that looks at its first token instead of the mean over all."""
    names = {"head.weight", "norm.weight"}
    is_transformers = checkpoint.run_arguments.get("model_type") == "videomae"
    return is_transformers and names <= checkpoint.tensors.keys() and "fc_norm.weight" not in checkpoint.tensors


def keep_encoder(checkpoint: Checkpoint) -> dict[str, str]:
    """Takes all that is no part of the encoder out of a checkpoint under official names, and returns why, by name.

    Names that are no part of any known model stay, so that the caller sees them.
    """
    dropped = {
        key: "no part of the encoder, which alone is wanted"
        for key in checkpoint.tensors
        if re.fullmatch(_BESIDE_THE_ENCODER, key)
    }
    is_pretraining = any(key.startswith("encoder.") for key in checkpoint.tensors)
    checkpoint.tensors = {
        key.removeprefix("encoder.") if is_pretraining else key: tensor
        for key, tensor in checkpoint.tensors.items()
        if key not in dropped
    }
    return dropped


def told_task(checkpoint: Checkpoint) -> str | None:
    """What the keys say the checkpoint is, or `None` for an encoder alone."""
    if any(key.startswith(("decoder.", "encoder_to_decoder.")) for key in checkpoint.tensors):
        return "pretraining"
    if "head.weight" not in checkpoint.tensors:
        return None
    # The code for AVA ends its encoder in a norm; classifiers have theirs behind the mean. (A classifier of
    # Transformers by its first token looks alike, and is refused as one that lacks `fc_norm`.)
    is_detector = "norm.weight" in checkpoint.tensors and "fc_norm.weight" not in checkpoint.tensors
    is_transformers = checkpoint.run_arguments.get("model_type") in TRANSFORMERS_TYPES
    return "detection" if is_detector and not is_transformers else "classification"
