"""The collators that the trainers use when none is given: from a model's config and the training arguments."""

from __future__ import annotations

import functools
from typing import Any

from ..configuration_amd import AMDConfig
from ..data.clips import ClassificationCollator, ClipAugmentation, ClipLoader, PreTrainingCollator
from ..data.video.decoding import DecodedVideoCache, find_decoder
from ..finetuning.arguments import AMDFineTuningArguments
from ..pretraining.arguments import AMDTrainingArguments
from ..pretraining.masking import MaskGenerator
from .arguments import VideoTrainingArguments


def pretraining_collator(
    config: AMDConfig, args: AMDTrainingArguments, has_teacher: bool, training: bool
) -> PreTrainingCollator:
    """The arguments' clips and crop, the config's masks; the middle clip and centre crop in evaluation."""
    loader = clip_loader(
        config,
        args,
        sampling_mode=args.sampling_mode,
        augmentation=args.train_crop,
        flip_probability=args.flip_probability,
    )
    return PreTrainingCollator(loader, MaskGenerator(config, has_teacher), training=training)


def finetuning_collator(
    config: AMDConfig,
    args: AMDFineTuningArguments,
    training: bool,
    clip_augmentation: ClipAugmentation | None = None,
) -> ClassificationCollator:
    """Clips and labels, augmented as the arguments say; the middle clip and centre crop in evaluation."""
    loader = clip_loader(
        config,
        args,
        sampling_mode=args.sampling_mode,
        augmentation=args.train_crop,
        flip_probability=args.flip_probability,
        rand_augment=args.rand_augment,
        erase_probability=args.erase_probability,
        clip_augmentation=clip_augmentation,
    )
    return ClassificationCollator(loader, training=training, num_labels=config.num_labels)


def clip_loader(config: AMDConfig, args: VideoTrainingArguments, **options: Any) -> ClipLoader:
    """A loader of clips as large as the config says, seeded by the arguments.

    Raises:
        ValueError: If frames are not square or there is no such decoder.
        ImportError: If the decoder is not installed.
    """
    return ClipLoader(
        image_size=square_size(config),
        min_crop_area=args.min_crop_area,
        interpolation=args.interpolation,
        repetitions_share_frames=args.repetitions_share_frames,
        **shared_options(config, args),
        **options,
    )


def square_size(config: AMDConfig) -> int:
    """Height and width of clips.

    Raises:
        ValueError: If they are not square.
    """
    height, width = config.image_height_width
    if height != width:
        raise ValueError(f"Clips are cut out square: `image_size` {config.image_size} needs a collator of your own.")
    return height


def shared_options(config: AMDConfig, args: VideoTrainingArguments) -> dict[str, Any]:
    """What loaders of clips of every task take from a model's config and the training arguments.

    Raises:
        ValueError: If there is no such decoder.
        ImportError: If the decoder is not installed.
    """
    if args.decoder is not None:
        find_decoder(args.decoder)  # a wrong name is told now, not by a worker of the loader
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
    """The cache of decoded videos of this process: all stages of a run share it. `None` for 0 bytes."""
    return DecodedVideoCache(max_bytes) if max_bytes else None
