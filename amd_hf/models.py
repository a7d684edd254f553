"""Any source -> a model of ours, the head on its encoder, and the processor beside it.

A source is a Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, an official file, or an
official state dict.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoImageProcessor, BitImageProcessor, PreTrainedConfig
from transformers.image_utils import PILImageResampling
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, logging

from .checkpoints.conversion import (
    PATCH_EMBEDDING,
    convert_checkpoint,
    convert_encoder,
    without_load_report,
)
from .checkpoints.reading import Checkpoint, infer_task, is_by_first_token, keep_encoder, read_source
from .configuration_amd import AMDConfig
from .modeling_amd import (
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDPreTrainedModel,
)
from .modeling_amd_detection import AMDForActionDetection
from .video_processing_amd import AMDVideoProcessor
from .view_settings import ViewSettings


logger = logging.get_logger(__name__)

EXPORT_MANIFEST_NAME = "export.json"
"""The file of Transformers' exporters beside a program, which `amd-hf export` writes."""

DETECTION_SHORT_SIDE = 256
"""Short side of the frames that detectors see, in pixels (VideoMAE's code for AVA)."""

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
_CHANNEL_OPTIONS = ("num_channels", "image_mean", "image_std")  # the embedding is adapted after it has been read
_RESAMPLE = {"bilinear": PILImageResampling.BILINEAR, "bicubic": PILImageResampling.BICUBIC}
_SAID_BY_NAME = ("sampling_mode", "sampling_rate", "test_mode", "test_num_segments", "test_num_crops")
_IMAGE_SHORT_SIDE_RATIO = 256 / 224  # ImageNet's test: the centre of 224 pixels of a short side of 256


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


def load_model(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDPreTrainedModel:
    """Load a model with all the weights that its source has, as the kind of model that the source is.

    Args:
        source (`str`, `Path` or `Mapping`):
            Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, an official file, or an
            official state dict.
        **config_options: Options of [`AMDConfig`] that differ from the source's or that it does not say.

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
    task = None if infer_task(checkpoint) else "classification"
    return convert_checkpoint(checkpoint, task=task, **config_options)


def load_encoder(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDModel:
    """Load the encoder of a source, whatever else it holds, which need not be what this package could use.

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
    return convert_encoder(checkpoint, **config_options)  # type: ignore[return-value]


def load_start(source: str | Path | Mapping[str, Any], **config_options: Any) -> AMDPreTrainedModel:
    """Load what fine-tuning starts from: a classifier or detector with its head, else the encoder alone.

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
    has_head = infer_task(checkpoint) in ("classification", "detection") and not is_by_first_token(checkpoint)
    return convert_checkpoint(checkpoint, task=None if has_head else "encoder", **config_options)


def load_pretraining_start(source: str | Path, **config_options: Any) -> AMDForPreTraining:
    """Load what pre-training starts from: a pre-trained model, or an encoder, around which all else is new.

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
    if infer_task(checkpoint) != "pretraining":
        keep_encoder(checkpoint)
    return convert_checkpoint(checkpoint, task="pretraining", **config_options)  # type: ignore[return-value]


def _read_foreign(source: str | Path | Mapping[str, Any]) -> Checkpoint | None:
    """Read the tensors of a source that is to be converted; `None` for an `amd` model, which is loaded."""
    if not isinstance(source, Mapping) and not Path(source).is_file():
        if PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "amd":
            return None
        source = source if Path(source).is_dir() else download_transformers(str(source))
    return read_source(source)


def _load_amd(source: str, config_options: dict[str, Any]) -> AMDPreTrainedModel:
    if (Path(source) / EXPORT_MANIFEST_NAME).is_file():
        raise ValueError(
            f"{source} holds an exported model, which has no weights of PyTorch: `amd-hf predict`, `evaluate` and "
            "`features` run it. For anything else give the model that it was exported from."
        )
    config = AMDConfig.from_pretrained(source)
    name = (config.architectures or ["AMDModel"])[0]
    if name not in _CLASSES:
        raise ValueError(f"{source} holds a {name}, which is none of {', '.join(_CLASSES)}.")
    config = config.with_options(**config_options)
    try:
        model, info = _CLASSES[name].from_pretrained(source, config=config, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"The weights in {source} are not a readable checkpoint: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{source} lacks {len(missing)} weights of {name}: {', '.join(missing[:10])}.")
    return model.eval()


def download_transformers(name: str) -> Path:
    """Return a folder with the config and the weights of a `videomae` or `vit_mae` model of the Hub."""
    folder = Path(snapshot_download(name, allow_patterns=["*config.json", "*.safetensors"]))
    if not any(folder.glob("*.safetensors")):  # older repositories
        folder = Path(snapshot_download(name, allow_patterns=["pytorch_model*.bin"]))
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Heads on encoders
# ---------------------------------------------------------------------------------------------------------------------


def build_classifier(
    source: str | None, label_names: Sequence[str], **config_options: Any
) -> AMDForVideoClassification:
    """Build a classifier of these labels on a pre-trained encoder.

    Its head is new, unless the source is a classifier of the very same classes, which is then trained on.

    Args:
        source (`str`, *optional*):
            Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, pre-trained or a
            classifier, or an official file; `None`: from scratch.
        label_names (`Sequence[str]`): Names of the classes in the order of their numbers.
        **config_options: Options of [`AMDConfig`] that differ from the source's: drop path, but also `num_frames`,
            `image_size` (the position table is computed for the new grid) or `num_channels` (with `image_mean` and
            `image_std`; the patch embedding is adapted).

    Returns:
        [`AMDForVideoClassification`], or [`AMDForImageClassification`] for clips of one frame.

    Raises:
        ValueError: For fewer than two classes, an unknown option, or options with which the source's weights do not
            fill the encoder.
        OSError: If there is no model at `source`.
    """
    if len(label_names) < 2:
        raise ValueError(f"A classifier needs at least two classes, the data has {list(label_names)}.")
    return _put_head(AMDForVideoClassification, source, label_names, config_options)


def build_detector(source: str | None, action_names: Sequence[str], **config_options: Any) -> AMDForActionDetection:
    """Build a detector of these actions on a pre-trained encoder.

    Its head is new, unless the source is a detector of the very same actions, which is then trained on. A classifier
    gives its encoder; the final norm that a classifier lacks is new.

    Args:
        source (`str`, *optional*): What [`load_model`] loads; `None`: all is new.
        action_names (`Sequence[str]`): Names of the classes, in the order of their numbers.
        **config_options: Options of [`AMDConfig`]; those of the encoder's size only without a source, or where an
            official file does not say them.

    Raises:
        ValueError: For no actions, an unknown option, or options with which the weights do not fill the encoder.
        OSError: If there is no model at `source`.
    """
    if not action_names:
        raise ValueError("A detector needs at least one action.")
    return _put_head(AMDForActionDetection, source, action_names, config_options)


def _put_head(
    base: type[AMDPreTrainedModel], source: str | None, names: Sequence[str], config_options: dict[str, Any]
) -> Any:
    """Put a head for the classes `names` on a source's encoder, or take the source's own if it is of these classes."""
    is_detector = base is AMDForActionDetection
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if source is None:
        config = AMDConfig(**config_options, **labels)
        return (base if is_detector else classifier_class(config))(config)
    # For an official file these say what leaves no trace in its tensors.
    given = {name: value for name, value in config_options.items() if name not in _CHANNEL_OPTIONS}
    model = load_start(source, **(given if Path(source).is_file() else {}))
    goes_on = isinstance(model, base) and model.config.id2label == labels["id2label"]
    # What the labels of another head meant says nothing of these.
    of_head = {} if goes_on else {"problem_type": None}
    options = {**of_head, **config_options, **labels, "use_final_norm": is_detector}
    config = model.config.with_options(**options)
    encoder = model.base_model.state_dict()
    if not is_detector:  # a classifier has no final norm, but one of its own behind the mean
        encoder = {name: value for name, value in encoder.items() if not name.startswith("norm.")}
    state_dict = {f"amd.{name}": value for name, value in encoder.items()}
    if config.num_channels != model.config.num_channels:
        channels = (model.config.num_channels, config.num_channels)
        state_dict[PATCH_EMBEDDING] = _adapt_input_channels(state_dict[PATCH_EMBEDDING], *channels)
    if goes_on:
        what = "detector of the same actions" if is_detector else "classifier of the same classes"
        logger.warning(f"{source} is a {what}: training continues with its head.")
        state_dict |= {name: value for name, value in model.state_dict().items() if not name.startswith("amd.")}
    with without_load_report():
        built, info = (base if is_detector else classifier_class(config)).from_pretrained(
            None, config=config, state_dict=state_dict, ignore_mismatched_sizes=True, output_loading_info=True
        )
    new = ("classifier.", "amd.norm." if is_detector else "fc_norm.")
    unfilled = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    unfilled = [name for name in unfilled if not name.startswith(new)]
    if unfilled or info["unexpected_keys"]:
        raise ValueError(
            f"{source} does not fill the encoder: {len(unfilled)} weights are missing or of another size and "
            f"{len(info['unexpected_keys'])} have no place, the first is {[*unfilled, *info['unexpected_keys']][0]}. "
            "Leave out the model options that change its size, or train from scratch."
        )
    return built


def _adapt_input_channels(weight: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Adapt a linear patch embedding (D, frame * row * column * old) to clips of `new` channels.

    Channels are taken in turn, each scaled by how often it is taken, so that a clip that is alike in all channels
    gives the same tokens as before; one channel gets the sum of the old ones (as timm does for image models).
    """
    pixels = weight.unflatten(1, (-1, old))  # (D, frame * row * column, old)
    if new < old:
        groups = [pixels[..., channel::new].sum(dim=-1) for channel in range(new)]
        return torch.stack(groups, dim=-1).flatten(1)
    # Each copy of a channel gets an equal part of the weight, so that the sum over equal channels does not change.
    taken = torch.arange(new) % old
    return (pixels[..., taken] / torch.bincount(taken)[taken]).flatten(1)


def classifier_class(config: AMDConfig) -> type[AMDForVideoClassification]:
    """Return the class of a classifier with this config."""
    return AMDForImageClassification if config.num_frames == 1 else AMDForVideoClassification


def load_trained_classifier(
    source: str, allow_untrained_head: bool = False, **config_options: Any
) -> AMDForVideoClassification:
    """Load a classifier whose weights are all in the checkpoint.

    Args:
        source (`str`): Hub id or folder of an `amd` or Transformers `videomae` classifier, or an official file.
        allow_untrained_head (`bool`, *optional*, defaults to `False`): Take a new head where there is none.
        **config_options: Options of [`AMDConfig`] that the source does not say.

    Raises:
        ValueError: If its head was never trained: the checkpoint holds a pre-trained encoder only.
        OSError: If there is no model at `source`.
    """
    model = load_model(source, **config_options)
    report = getattr(model, "conversion_report", None)
    has_head = isinstance(model, AMDForVideoClassification) and not (report and report.new)
    if has_head:
        return model
    if not allow_untrained_head:
        raise ValueError(
            f"{source} is no trained classifier: it holds a pre-trained encoder without a head. Fine-tune it first; "
            "testing a head of random numbers says nothing."
        )
    return build_classifier(source, [str(number) for number in range(model.config.num_labels)], **config_options)


def load_trained_detector(source: str, **config_options: Any) -> AMDForActionDetection:
    """Load a detector with all its weights from a folder, a Hub id, or a file of VideoMAE's code for AVA.

    Raises:
        ValueError: If it is no detector, or its head was never trained.
        OSError: If there is no model at `source`.
    """
    model = load_model(source, **config_options)
    if not isinstance(model, AMDForActionDetection):
        raise ValueError(f"{source} is no action detector, it is a {type(model).__name__}: fine-tune it first.")
    if not model.classifier.bias.any():
        raise ValueError(
            f"The head of {source} was never trained: its biases are all 0, as initialised. Fine-tune the model first."
        )
    return model


def import_function(name: str) -> Callable:
    """Return the function that `module:function` names.

    Raises:
        ValueError: If the name has another form or the module has no such function.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise ValueError(f"Name a function as `module:function`, got {name!r}.")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if not callable(function):
        raise ValueError(f"Module {module_name} has no function {function_name!r}.")
    return function


# ---------------------------------------------------------------------------------------------------------------------
# Processors
# ---------------------------------------------------------------------------------------------------------------------


def build_processor(config: AMDConfig, settings: ViewSettings | None = None) -> AMDVideoProcessor | BitImageProcessor:
    """Build what belongs beside a model: [`AMDVideoProcessor`], or for models of one frame an image processor.

    Images are resized to the short side, their centre is cut out, and they are normalised with the config's mean and
    std. The image processor's class is one of Transformers, so that a saved folder loads through `AutoImageProcessor`
    anywhere.

    Args:
        config ([`AMDConfig`]): The model's: frames, size, mean and std.
        settings ([`ViewSettings`], *optional*): How it looks at videos; by default dense clips, 4 frames apart, and
            images in bicubic with ImageNet's short side.
    """
    height, width = config.image_height_width
    if config.num_frames > 1:
        settings = settings or ViewSettings()
        return AMDVideoProcessor.for_model(
            config,
            size={"shortest_edge": settings.short_side or min(height, width)},
            do_center_crop=settings.center_crop,
            resample=_RESAMPLE[settings.interpolation],
            **{name: getattr(settings, name) for name in _SAID_BY_NAME},
        )
    said: dict[str, Any] = {}
    short_side, interpolation = round(min(height, width) * _IMAGE_SHORT_SIDE_RATIO), "bicubic"
    if settings is not None:
        short_side, interpolation = settings.short_side or min(height, width), settings.interpolation
        said = {name: value for name in _SAID_BY_NAME if (value := getattr(settings, name)) is not None}
    return BitImageProcessor(
        size={"shortest_edge": short_side},
        crop_size={"height": height, "width": width},
        resample=_RESAMPLE[interpolation],
        image_mean=config.image_mean,
        image_std=config.image_std,
        **said,
    )


def read_settings(processor: Any) -> ViewSettings:
    """Return how the model of a processor looks at videos; None where its file does not say.

    Raises:
        ValueError: If it resizes by neither bilinear nor bicubic interpolation, or to a fixed height and width.
    """
    interpolation = next((name for name, value in _RESAMPLE.items() if value == processor.resample), None)
    short_side = dict(processor.size).get("shortest_edge")
    if interpolation is None or short_side is None:
        raise ValueError(
            f"The processor resizes to {dict(processor.size)} by `resample` {processor.resample}: only a "
            "`shortest_edge` and bilinear (2) or bicubic (3) can be tested and trained alike."
        )
    is_image = not isinstance(processor, AMDVideoProcessor)
    said: dict[str, Any] = {name: getattr(processor, name, None) for name in _SAID_BY_NAME}
    if is_image:  # of which a folder of an earlier release says nothing, and nothing has to be said
        said |= {"sampling_mode": said["sampling_mode"] or "dense", "sampling_rate": said["sampling_rate"] or 1}
    return ViewSettings(
        short_side=short_side, interpolation=interpolation, center_crop=bool(processor.do_center_crop), **said
    )


def load_processor(source: str | Path, config: AMDConfig) -> Any:
    """Load the processor saved beside a model; for models without, make one that knows nothing of sampling.

    Raises:
        ValueError: If its mean and std are not those of the model's config.
    """
    # Not with official files and Transformers' `videomae`; a Hub id of ours has one.
    path = Path(source)
    has_processor = not path.is_file() and PreTrainedConfig.get_config_dict(source)[0].get("model_type") == "amd"
    if has_processor and path.is_dir():
        names = (VIDEO_PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
        has_processor = any((path / name).is_file() for name in names)
    if not has_processor:
        return build_processor(config, None if config.num_frames == 1 else ViewSettings(sampling_mode=None))
    if config.num_frames == 1:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        vars(processor).pop("auto_map", None)  # saved again, it must not name somebody's code
    else:
        processor = AMDVideoProcessor.from_pretrained(source)
    check_processor(processor, config)
    return processor


def detection_processor(
    config: AMDConfig, sampling_rate: int = 4, short_side: int = DETECTION_SHORT_SIDE
) -> AMDVideoProcessor:
    """Build the video processor of a detector: frames resized to the short side and not cropped, the config's mean."""
    return AMDVideoProcessor.for_model(
        config, size={"shortest_edge": short_side}, do_center_crop=False, sampling_rate=sampling_rate
    )


def load_detection_processor(source: str | Path, config: AMDConfig) -> AMDVideoProcessor:
    """Load the video processor saved beside a detector; for an official file, which has none, make the usual one.

    Raises:
        ValueError: If its mean and std are not those of the model's config.
    """
    return detection_processor(config) if Path(source).is_file() else load_processor(source, config)


def view_settings(
    source: str | Path, config: AMDConfig, overrides: Mapping[str, Any] | None = None, for_test: bool = False
) -> tuple[ViewSettings, list[str]]:
    """Return how a model reads videos, by the processor beside it, and notes on that for the user.

    Args:
        source (`str` or `Path`): Hub id, folder or file of the model.
        config ([`AMDConfig`]): The model's.
        overrides (`Mapping`, *optional*): Fields of [`ViewSettings`] that the user gave; None where not.
        for_test (`bool`, *optional*, defaults to `False`): Whether the views of a test are wanted, and not one clip.

    Returns:
        The settings, in which nothing is left open, and notes, one line each: every option that overrides what the
        model's own file says, and one line for what nobody says and is assumed.

    Raises:
        ValueError: If the processor's mean and std are not those of the model's config, or a count is below 1.
    """
    own = read_settings(load_processor(source, config))
    for name, value in (overrides or {}).items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"`{name.removeprefix('test_')}` must be at least 1, got {value}.")
    notes = override_notes(own, overrides or {})
    settings = replace(own, **{name: value for name, value in (overrides or {}).items() if value is not None})
    resolved = settings.with_assumptions()
    needed = ("sampling_mode",) if not for_test else ("test_mode", "test_num_segments", "test_num_crops")
    assumed = [name for name in needed if getattr(settings, name) is None]
    if assumed:
        values = ", ".join(f"{name.removeprefix('test_')} {getattr(resolved, name)}" for name in assumed)
        notes.append(f"assumed, as nothing beside {source} says how it samples videos: {values}")
    return resolved, notes


def override_notes(own: ViewSettings, given: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting given (not None) that differs from the model's own, under its option's name."""
    return [
        f"{name.removeprefix('test_')} {value} overrides the model's own {getattr(own, name)}"
        for name, value in given.items()
        if value is not None and getattr(own, name) not in (None, value)
    ]


def check_processor(processor: Any, config: AMDConfig) -> None:
    """Raise `ValueError` where a processor normalises with another mean or std than the model expects."""
    for name in ("image_mean", "image_std"):
        theirs, ours = list(getattr(processor, name)), list(getattr(config, name))
        if theirs != ours:
            raise ValueError(f"`{name}` is {theirs} in the processor, but {ours} in the model's config.")


def fit_processor(processor: Any, config: AMDConfig, settings: ViewSettings) -> Any:
    """Return the processor to save beside a model in training: how the run looks at videos rules.

    Args:
        processor (`AMDVideoProcessor` or `BitImageProcessor`, *optional*): One that the user brings. What the run says
            otherwise is replaced in a copy, and a warning names both values.
        config ([`AMDConfig`]): The model's.
        settings ([`ViewSettings`]): How the run's clips are made and tested.

    Raises:
        ValueError: If its mean and std are not those of the model's config.
    """
    ours = build_processor(config, settings)
    if processor is None:
        return ours
    if not isinstance(processor, AMDVideoProcessor | BitImageProcessor) or type(processor) is not type(ours):
        return processor  # of another kind, which its owner will know how to use
    check_processor(processor, config)
    fitted = copy.deepcopy(processor)
    differences = []
    for name in ("num_frames", "size", "crop_size", "do_center_crop", "resample", *_SAID_BY_NAME):
        theirs, value = _plain(getattr(processor, name, None)), _plain(getattr(ours, name, None))
        if theirs == value or (name == "crop_size" and not ours.do_center_crop):
            continue
        setattr(fitted, name, getattr(ours, name, None))
        if theirs is not None:
            differences.append(f"`{name}` is {theirs!r} in it and {value!r} in the run")
    if differences:
        logger.warning(
            f"`processing_class` disagrees with the run, whose values are saved: {'; '.join(differences)}. Leave "
            "`processing_class` out (the trainer makes it), or set the arguments and the model's config alike."
        )
    return fitted


def _plain(value: Any) -> Any:
    """Return sizes as dicts of what they hold, and enumerations as their numbers, to be compared and shown."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    return {name: side for name, side in dict(value).items() if side is not None}
