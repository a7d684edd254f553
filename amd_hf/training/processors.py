"""The processor that a run saves beside its model: it says how the run's clips are made and tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..configuration_amd import AMDConfig
from ..data.clips import ClipLoader
from ..detection.clips import DetectionClipLoader
from ..detection.training_arguments import AMDDetectionArguments
from ..finetuning.arguments import AMDFineTuningArguments
from ..models import check_processor, fit_processor
from ..video_processing_amd import AMDVideoProcessor
from ..view_settings import ViewSettings
from .arguments import VideoTrainingArguments


def processor_of_run(
    processor: Any, config: AMDConfig, args: VideoTrainingArguments, eval_collator: Callable | None
) -> Any:
    """The processor to save, from what the user brings and how the run makes its clips.

    The run rules, so that the model is used as it was trained. Where the clips come from a collator of the user's own,
    nobody but the user knows how they are made, and a processor that is given stays as it is.

    Args:
        processor (*optional*): What the user gave as `processing_class`.
        config ([`AMDConfig`]): The model's.
        args ([`VideoTrainingArguments`]): The run's.
        eval_collator (`Callable`, *optional*): What makes its evaluation clips.

    Raises:
        ValueError: If the processor's mean and std are not those of the model's config.
    """
    loader = getattr(eval_collator, "loader", None)
    if processor is not None and not isinstance(loader, ClipLoader | DetectionClipLoader):
        if isinstance(processor, AMDVideoProcessor):
            check_processor(processor, config)
        return processor
    return fit_processor(processor, config, settings_of_run(args, loader))


def settings_of_run(args: VideoTrainingArguments, loader: Any = None) -> ViewSettings:
    """How a run looks at videos: by its arguments, and by the loader of its evaluation clips where that is ours.

    Args:
        args ([`VideoTrainingArguments`]): The run's.
        loader ([`ClipLoader`] or [`DetectionClipLoader`], *optional*): What its collator reads clips with.
    """
    if isinstance(args, AMDDetectionArguments):
        settings = ViewSettings(sampling_rate=args.sampling_rate, short_side=args.short_side, center_crop=False)
    else:
        settings = ViewSettings(
            sampling_mode=getattr(args, "sampling_mode", "dense"),
            sampling_rate=args.sampling_rate,
            short_side=args.short_side,
            interpolation=args.interpolation,
        )
        if isinstance(args, AMDFineTuningArguments):
            settings = replace(
                settings,
                test_mode=args.test_mode,
                test_num_segments=args.test_num_segments,
                test_num_crops=args.test_num_crops,
            )
    names: tuple[str, ...] = ()
    if isinstance(loader, ClipLoader):
        names = ("sampling_mode", "sampling_rate", "short_side", "interpolation")
    elif isinstance(loader, DetectionClipLoader):
        names = ("sampling_rate", "short_side")
    return replace(settings, **{name: getattr(loader, name) for name in names})
