"""Models from wherever people have them: Hub ids and folders of `amd` and `videomae` models, official files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import PreTrainedConfig

from .configuration_amd import AMDConfig
from .conversion import convert_checkpoint, read_source, told_task
from .modeling_amd import AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDPreTrainedModel
from .modeling_amd_detection import AMDForActionDetection
from .video_processing_amd import AMDVideoProcessor


_CLASSES = {
    kind.__name__: kind for kind in (AMDModel, AMDForPreTraining, AMDForVideoClassification, AMDForActionDetection)
}


def load_model(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDPreTrainedModel:
    """Loads a model with all the weights that its source has, as the kind of model that the source is.

    Args:
        source (`str`, `Path` or `Mapping`):
            Hub id or folder of an `amd` or Transformers `videomae` model, an official file, or an official state dict.
        **config_options: Options of [`AMDConfig`] that differ from the source's or that it does not tell.

    Returns:
        [`AMDForPreTraining`], [`AMDForVideoClassification`], [`AMDForActionDetection`] or [`AMDModel`]. An official
        encoder alone becomes a classifier whose head is new: see its `conversion_report`.

    Raises:
        OSError: If there is nothing at `source`.
        ValueError: If weights are missing, have no place or do not fit.
    """
    if not isinstance(source, Mapping) and not Path(source).is_file():
        if PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "amd":
            return _load_amd(str(source), config_options)
        source = source if Path(source).is_dir() else download_videomae(str(source))
    checkpoint = read_source(source)
    task = None if told_task(checkpoint) else "classification"
    return convert_checkpoint(checkpoint, task=task, **config_options)


def _load_amd(source: str, config_options: dict[str, Any]) -> AMDPreTrainedModel:
    config = AMDConfig.from_pretrained(source)
    name = (config.architectures or ["AMDModel"])[0]
    if name not in _CLASSES:
        raise ValueError(f"{source} holds a {name}, which is none of {', '.join(_CLASSES)}.")
    config = AMDConfig.from_dict({**config.to_dict(), **config_options})
    model, info = _CLASSES[name].from_pretrained(source, config=config, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{source} lacks {len(missing)} weights of {name}: {', '.join(missing[:10])}.")
    return model.eval()


def download_videomae(name: str) -> Path:
    """Folder with the config and the weights of a `videomae` model of the Hub."""
    folder = Path(snapshot_download(name, allow_patterns=["*config.json", "*.safetensors"]))
    if not any(folder.glob("*.safetensors")):  # older repositories
        folder = Path(snapshot_download(name, allow_patterns=["pytorch_model*.bin"]))
    return folder


def load_processor(source: str | Path, config: AMDConfig) -> AMDVideoProcessor:
    """The video processor saved beside a model, or the usual one for models that come without.

    Raises:
        ValueError: If its mean and deviation are not those of the model's config.
    """
    if Path(source).is_file() or PreTrainedConfig.get_config_dict(source)[0].get("model_type") != "amd":
        return AMDVideoProcessor.for_model(config)
    processor = AMDVideoProcessor.from_pretrained(source)
    check_processor(processor, config)
    return processor


def check_processor(processor: AMDVideoProcessor, config: AMDConfig) -> None:
    """Raises `ValueError` where a processor normalises with another mean or deviation than the model expects."""
    for name in ("image_mean", "image_std"):
        theirs, ours = list(getattr(processor, name)), list(getattr(config, name))
        if theirs != ours:
            raise ValueError(f"`{name}` is {theirs} in the video processor, but {ours} in the model's config.")
