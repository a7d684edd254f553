"""How a run reads videos: the loaders of its clips, and the processor that it saves beside its model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..configuration_amd import AMDConfig
from ..data.clips import ClipLoader
from ..data.video.decoding import DecodedVideoCache, find_decoder
from ..models import check_processor, fit_processor
from ..video_processing_amd import AMDVideoProcessor
from .arguments import VideoTrainingArguments


def clip_loader(config: AMDConfig, args: VideoTrainingArguments, **options: Any) -> ClipLoader:
    """Return a loader of clips of the config's size, seeded by the arguments.

    Raises:
        ValueError: If frames are not square or there is no such decoder.
        ImportError: If the decoder is not installed.
    """
    return ClipLoader(
        image_size=square_size(config),
        min_crop_area=args.min_crop_area,
        interpolation=args.interpolation,
        augment_on_device=args.augment_on_device,
        repetitions_share_frames=args.repetitions_share_frames,
        **common_options(config, args),
        **options,
    )


def square_size(config: AMDConfig) -> int:
    """Return the height of clips, which is also their width.

    Raises:
        ValueError: If they are not square.
    """
    height, width = config.image_height_width
    if height != width:
        raise ValueError(f"Our clips are square: `image_size` {config.image_size} needs a collator of your own.")
    return height


def common_options(config: AMDConfig, args: VideoTrainingArguments) -> dict[str, Any]:
    """Return the options of clip loaders that come from the config and the training arguments for every task.

    Raises:
        ValueError: If there is no such decoder.
        ImportError: If the decoder is not installed.
    """
    if args.decoder is not None:
        find_decoder(args.decoder)  # raises for a wrong name now, not in a worker of the loader
    return {
        "num_frames": config.num_frames,
        "sampling_rate": args.sampling_rate,
        "short_side": args.short_side,
        "repetitions": args.num_repetitions,
        "seed": args.seed if args.data_seed is None else args.data_seed,
        "decoder": args.decoder,
        "decode_time_limit": args.decode_time_limit,
        "cache": process_cache(args.cache_decoded_bytes),
    }


@functools.cache
def process_cache(max_bytes: int) -> DecodedVideoCache | None:
    """Return the process's cache of decoded videos, common to all stages of a run; `None` for 0 bytes."""
    return DecodedVideoCache(max_bytes) if max_bytes else None


def processor_of_run(
    processor: Any,
    config: AMDConfig,
    args: VideoTrainingArguments,
    eval_collator: Callable | None,
    loader_type: type = ClipLoader,
) -> Any:
    """Return the processor to save, made from the user's processor and from how the run makes its clips.

    The run's settings win, so that the model is used as it was trained. If a custom collator makes the clips, only the
    user knows how, and the user's processor stays as it is.

    Args:
        processor (*optional*): The user's `processing_class`.
        config ([`AMDConfig`]): The model's.
        args ([`VideoTrainingArguments`]): The run's.
        eval_collator (`Callable`, *optional*): The collator of the evaluation clips.
        loader_type (`type`, *optional*, defaults to `ClipLoader`): Class of the built-in collators' `loader`.

    Raises:
        ValueError: If the processor's mean and std are not those of the model's config.
    """
    loader = getattr(eval_collator, "loader", None)
    if processor is not None and not isinstance(loader, loader_type):
        if isinstance(processor, AMDVideoProcessor):
            check_processor(processor, config)
        return processor
    settings = args.view_settings()
    if isinstance(loader, loader_type):  # the user may have built the collator with other settings than the arguments
        names = ("sampling_mode", "sampling_rate", "short_side", "interpolation")
        settings = replace(settings, **{name: getattr(loader, name) for name in names if hasattr(loader, name)})
    return fit_processor(processor, config, settings)
