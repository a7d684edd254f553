"""Models from wherever people have them: Hub ids and folders of `amd`, `videomae` and `vit_mae` models, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from .configuration_amd import AMDConfig
from .conversion import convert_checkpoint, read_source, told_task
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
    if not isinstance(source, Mapping) and not Path(source).is_file():
        if PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "amd":
            return _load_amd(str(source), config_options)
        source = source if Path(source).is_dir() else download_transformers(str(source))
    checkpoint = read_source(source)
    task = None if told_task(checkpoint) else "classification"
    return convert_checkpoint(checkpoint, task=task, **config_options)


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
