"""Models from wherever people have them: Hub ids and folders of `amd`, `videomae` and `vit_mae` models, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.image_utils import PILImageResampling

from .configuration_amd import AMDConfig
from .conversion import convert_checkpoint, read_source, told_task
from .image_processing import build_image_processor
from .modeling_amd import (
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDPreTrainedModel,
)
from .modeling_amd_detection import AMDForActionDetection
from .video_processing_amd import AMDVideoProcessor


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


def build_processor(config: AMDConfig, sampling_rate: int = 4, short_side: int | None = None) -> Any:
    """What belongs beside a model: [`AMDVideoProcessor`], or for models of one frame an image processor.

    Args:
        config ([`AMDConfig`]): The model's.
        sampling_rate (`int`, *optional*, defaults to 4): Step between the frames of a video.
        short_side (`int`, *optional*): Of resized images; see [`build_image_processor`].
    """
    if config.num_frames == 1:
        return build_image_processor(config, short_side)
    return AMDVideoProcessor.for_model(config, sampling_rate=sampling_rate)


def load_processor(source: str | Path, config: AMDConfig) -> Any:
    """The processor saved beside a model, or the usual one for models that come without.

    Raises:
        ValueError: If its mean and deviation are not those of the model's config.
    """
    if Path(source).is_file() or PreTrainedConfig.get_config_dict(source)[0].get("model_type") != "amd":
        return build_processor(config)
    if config.num_frames == 1:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        vars(processor).pop("auto_map", None)  # saved again, it must not name somebody's code
    else:
        processor = AMDVideoProcessor.from_pretrained(source)
    check_processor(processor, config)
    return processor


def view_settings(source: str | Path, config: AMDConfig, sampling_rate: int | None = None) -> dict[str, Any]:
    """What the processor beside a model says of the views of a test; a given `sampling_rate` wins over its own.

    Returns:
        `sampling_rate`, and for images `short_side` and `interpolation`, as [`ViewOptions`] takes them.
    """
    processor = load_processor(source, config)
    if isinstance(processor, AMDVideoProcessor):
        return {"sampling_rate": sampling_rate or processor.sampling_rate}
    is_bicubic = processor.resample == PILImageResampling.BICUBIC
    return {
        "sampling_rate": 1,
        "short_side": processor.size["shortest_edge"],
        "interpolation": "bicubic" if is_bicubic else "bilinear",
    }


def check_processor(processor: Any, config: AMDConfig) -> None:
    """Raises `ValueError` where a processor normalises with another mean or deviation than the model expects."""
    for name in ("image_mean", "image_std"):
        theirs, ours = list(getattr(processor, name)), list(getattr(config, name))
        if theirs != ours:
            raise ValueError(f"`{name}` is {theirs} in the processor, but {ours} in the model's config.")
