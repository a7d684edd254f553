"""Models from wherever people have them: Hub ids and folders of `amd`, `videomae` and `vit_mae` models, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from .checkpoints.conversion import convert_checkpoint
from .checkpoints.files import Checkpoint
from .checkpoints.layouts import is_by_first_token, keep_encoder, read_source, told_task
from .configuration_amd import AMDConfig
from .modeling_amd import (
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDPreTrainedModel,
)
from .modeling_amd_detection import AMDForActionDetection
from .processors import build_processor, check_processor, load_processor, view_settings


# The processors are found here too: people look for them where models are loaded.
__all__ = [
    "build_processor",
    "check_processor",
    "download_transformers",
    "load_model",
    "load_processor",
    "view_settings",
]

_CLASSES = {
    kind.__name__: kind
    for kind in (
        AMDModel,
        AMDForPreTraining,
        AMDForVideoClassification,
        AMDForImageClassification,
        AMDForActionDetection,
    )
}


def load_model(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDPreTrainedModel:
    """Loads a model with all the weights that its source has, as the kind of model that the source is.

    Args:
        source (`str`, `Path` or `Mapping`):
            Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, an official file, or an
            official state dict.
        **config_options: Options of [`AMDConfig`] that differ from the source's or that it does not tell.

    Returns:
        [`AMDForPreTraining`], [`AMDForVideoClassification`], [`AMDForImageClassification`],
        [`AMDForActionDetection`] or [`AMDModel`]. An official encoder alone becomes a classifier whose head is new:
        see its `conversion_report`.

    Raises:
        OSError: If there is nothing at `source`.
        ValueError: If weights are missing, have no place, do not fit or are not finite, or their file is damaged.
    """
    checkpoint = _read_foreign(source)
    if checkpoint is None:
        return _load_amd(str(source), config_options)
    task = None if told_task(checkpoint) else "classification"
    return convert_checkpoint(checkpoint, task=task, **config_options)


def load_encoder(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDModel:
    """Loads the encoder of a source, whatever else it holds, which need not be what this package could use.

    Args:
        source, **config_options: As for [`load_model`].

    Returns:
        [`AMDModel`] in eval mode, with a final norm where the source has one.

    Raises:
        OSError, ValueError: As for [`load_model`], for the weights of the encoder.
    """
    checkpoint = _read_foreign(source)
    if checkpoint is None:
        return _load_amd(str(source), config_options).base_model
    return convert_checkpoint(checkpoint, task="encoder", **config_options)  # type: ignore[return-value]


def load_start(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDPreTrainedModel:
    """Loads what fine-tuning starts from: a classifier or detector with its head, else the encoder alone.

    Args:
        source, **config_options: As for [`load_model`].

    Returns:
        As [`load_model`] for an `amd` model; else [`AMDForVideoClassification`], [`AMDForImageClassification`] or
        [`AMDForActionDetection`] where the head is of a kind that this package has, else [`AMDModel`].

    Raises:
        OSError, ValueError: As for [`load_model`].
    """
    checkpoint = _read_foreign(source)
    if checkpoint is None:
        return _load_amd(str(source), config_options)
    has_head = told_task(checkpoint) in ("classification", "detection") and not is_by_first_token(checkpoint)
    return convert_checkpoint(checkpoint, task=None if has_head else "encoder", **config_options)


def load_pretraining_start(source: str | Path, **config_options: Any) -> AMDForPreTraining:
    """Loads what pre-training starts from: a pre-trained model, or an encoder, around which all else is new.

    Args:
        source (`str` or `Path`): As for [`load_model`].
        **config_options: Options of [`AMDConfig`] that differ from the source's; those of alignment modules, which are
            new where the source has none.

    Raises:
        OSError, ValueError: As for [`load_model`].
    """
    checkpoint = _read_foreign(source)
    if checkpoint is None:
        return AMDForPreTraining.from_pretrained(source, **config_options)
    if told_task(checkpoint) != "pretraining":
        keep_encoder(checkpoint)
    return convert_checkpoint(checkpoint, task="pretraining", **config_options)  # type: ignore[return-value]


def _read_foreign(source: str | Path | Mapping[str, Any]) -> Checkpoint | None:
    """The tensors of a source that is to be converted; None for an `amd` model, which is loaded."""
    if not isinstance(source, Mapping) and not Path(source).is_file():
        if PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "amd":
            return None
        source = source if Path(source).is_dir() else download_transformers(str(source))
    return read_source(source)


def _load_amd(source: str, config_options: dict[str, Any]) -> AMDPreTrainedModel:
    config = AMDConfig.from_pretrained(source)
    name = (config.architectures or ["AMDModel"])[0]
    if name not in _CLASSES:
        raise ValueError(f"{source} holds a {name}, which is none of {', '.join(_CLASSES)}.")
    config = AMDConfig.from_dict({**config.to_dict(), **config_options})
    try:
        model, info = _CLASSES[name].from_pretrained(source, config=config, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"The weights in {source} are not a readable checkpoint: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{source} lacks {len(missing)} weights of {name}: {', '.join(missing[:10])}.")
    return model.eval()


def download_transformers(name: str) -> Path:
    """Folder with the config and the weights of a `videomae` or `vit_mae` model of the Hub."""
    folder = Path(snapshot_download(name, allow_patterns=["*config.json", "*.safetensors"]))
    if not any(folder.glob("*.safetensors")):  # older repositories
        folder = Path(snapshot_download(name, allow_patterns=["pytorch_model*.bin"]))
    return folder
