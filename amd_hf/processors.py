"""Processors of models: built from how a model looks at videos, and asked for it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, BitImageProcessor, PreTrainedConfig
from transformers.image_utils import PILImageResampling
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, logging

from .configuration_amd import AMDConfig
from .image_processing import build_image_processor
from .video_processing_amd import AMDVideoProcessor
from .view_settings import ViewSettings


logger = logging.get_logger(__name__)

_RESAMPLE = {"bilinear": PILImageResampling.BILINEAR, "bicubic": PILImageResampling.BICUBIC}
_SAID_BY_NAME = ("sampling_mode", "sampling_rate", "test_mode", "test_num_segments", "test_num_crops")


def build_processor(config: AMDConfig, settings: ViewSettings | None = None) -> Any:
    """What belongs beside a model: [`AMDVideoProcessor`], or for models of one frame an image processor.

    Args:
        config ([`AMDConfig`]): The model's: frames, size, mean and std.
        settings ([`ViewSettings`], *optional*): How it looks at videos; by default dense clips, 4 frames apart, and
            images in bicubic with ImageNet's short side.
    """
    if config.num_frames == 1:
        if settings is None:
            return build_image_processor(config)
        said = {name: getattr(settings, name) for name in _SAID_BY_NAME}
        short_side = settings.short_side or min(config.image_height_width)
        return build_image_processor(config, short_side, settings.interpolation, **said)
    settings = settings or ViewSettings()
    said = {name: getattr(settings, name) for name in _SAID_BY_NAME}
    return AMDVideoProcessor.for_model(
        config,
        size={"shortest_edge": settings.short_side or min(config.image_height_width)},
        do_center_crop=settings.center_crop,
        resample=_RESAMPLE[settings.interpolation],
        **said,
    )


def read_settings(processor: Any) -> ViewSettings:
    """How the model of a processor looks at videos; None where its file does not say.

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
    """The processor saved beside a model, or one that knows nothing of sampling for models that come without.

    Raises:
        ValueError: If its mean and std are not those of the model's config.
    """
    if not _has_processor(source):
        return build_processor(config, None if config.num_frames == 1 else ViewSettings(sampling_mode=None))
    if config.num_frames == 1:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        vars(processor).pop("auto_map", None)  # saved again, it must not name somebody's code
    else:
        processor = AMDVideoProcessor.from_pretrained(source)
    check_processor(processor, config)
    return processor


def _has_processor(source: str | Path) -> bool:
    """Whether a processor of ours lies beside a model: not with official files and Transformers' `videomae`."""
    path = Path(source)
    if path.is_file() or PreTrainedConfig.get_config_dict(source)[0].get("model_type") != "amd":
        return False
    names = (VIDEO_PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
    return not path.is_dir() or any((path / name).is_file() for name in names)


def view_settings(
    source: str | Path, config: AMDConfig, overrides: Mapping[str, Any] | None = None, for_test: bool = False
) -> tuple[ViewSettings, list[str]]:
    """How a model looks at videos, by the processor beside it, and what its user should be told of that.

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
    """A line for each setting given (None: not) that is another than the model's own, under its option's name."""
    return [
        f"{name.removeprefix('test_')} {value} overrides the model's own {getattr(own, name)}"
        for name, value in given.items()
        if value is not None and getattr(own, name) not in (None, value)
    ]


def check_processor(processor: Any, config: AMDConfig) -> None:
    """Raises `ValueError` where a processor normalises with another mean or std than the model expects."""
    for name in ("image_mean", "image_std"):
        theirs, ours = list(getattr(processor, name)), list(getattr(config, name))
        if theirs != ours:
            raise ValueError(f"`{name}` is {theirs} in the processor, but {ours} in the model's config.")


def fit_processor(processor: Any, config: AMDConfig, settings: ViewSettings) -> Any:
    """The processor that is saved beside a model in training: how the run looks at videos rules.

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
    """Sizes as dicts of what they hold, and enumerations as their numbers, to be compared and shown."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    return {name: side for name, side in dict(value).items() if side is not None}
