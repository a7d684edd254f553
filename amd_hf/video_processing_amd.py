# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Video processor of AMD models: samples frames, resizes, crops and normalises.

Its saved settings say how a model looks at a video; whatever uses the model takes them from there. This file travels
with published checkpoints as Hub remote code, beside `video_reading_amd.py`, which decodes with PyAV: its wheels bring
their own FFmpeg, and the video-classification pipeline needs it anyway.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, is_pil_image
from transformers.processing_utils import VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .video_fetching_amd import fetch_video, is_url
from .video_reading_amd import MediaFile, PyAVDecoder
from .video_sampling_amd import SAMPLING_MODES, sample_clip


logger = logging.get_logger(__name__)

TEST_MODES = ("dense", "uniform")
_INTERPOLATIONS = {
    PILImageResampling.BILINEAR: InterpolationMode.BILINEAR,
    PILImageResampling.BICUBIC: InterpolationMode.BICUBIC,
}


# What the library writes into a processor's file beside the options.
_NOTES_OF_FILES = {
    "auto_map",
    "feature_extractor_type",
    "image_processor_type",
    "processor_class",
    "video_processor_type",
}


class AMDVideoProcessorKwargs(VideosKwargs, total=False):
    """Options of [`AMDVideoProcessor`] beside those of every video processor."""

    sampling_mode: str | None
    sampling_rate: int


class AMDVideoProcessor(BaseVideoProcessor):
    r"""Processor that turns videos into `pixel_values` `(B, T, C, H, W)`.

    A video is a path (`str` or `Path`), an http or https address, an array or tensor `(T, H, W, C)` or `(T, C, H, W)`,
    or a list of frames: PIL images, or arrays `(H, W)`, `(H, W, C)` or `(C, H, W)`; of whole numbers or floats from 0
    to 255 (with `do_rescale=False` floats as they are). Grey frames become RGB and transparency is left out, unless
    `do_convert_rgb=False`. A single image is a video of one frame. Several videos come as a list or as an array of
    five dimensions.

    Of a video it takes `num_frames` frames by the law that its model was trained with, without chance:

    - `sampling_mode="dense"`: `sampling_rate` apart, from the middle of the video; of a shorter one the last frame is
      repeated.
    - `"spread"`: spread over the window of `num_frames * sampling_rate` frames in the middle.
    - `"segments"`: the middle frame of each of `num_frames` equal parts of the whole video.

    `sampling_mode` is None in files of earlier releases, which did not say it: dense clips are then assumed, with a
    warning. An array that already has `num_frames` frames is taken as it is. With `fps=3` in a call the whole video is
    taken instead, three frames of each second, however many that makes; of arrays `video_metadata` must say the rate.

    The short side is resized to `size` by `resample` (bilinear is not antialiased, as in the released test of videos;
    bicubic is, as Pillow resizes images), then the centre is cropped.

    `test_mode` (`dense` or `uniform`), `test_num_segments` and `test_num_crops` say which views of a video the model's
    test averages; the processor itself makes one clip. They are None where there was no test.

    Raises:
        VideoReadError: If a file cannot be read as a video (a `ValueError`, with the words of `open_video`).
        ValueError: If a video has no frames, frames differ in size, have another number of channels than 1, 3 or 4 or
            values outside of 0 to 255; or if a setting has no meaning, or a call asks for more frames than there are.
        TypeError: If something is no video at all, or there is no such option.
        ImportError: If a file is given and PyAV is not installed.

    Example:

    ```python
    >>> import numpy as np
    >>> from amd_hf import AMDVideoProcessor

    >>> processor = AMDVideoProcessor()
    >>> processor([np.zeros((64, 240, 320, 3), dtype=np.uint8)])["pixel_values"].shape
    torch.Size([1, 16, 3, 224, 224])
    ```"""

    _auto_class = "AutoVideoProcessor"  # `save_pretrained` writes this file beside the settings, as remote code
    valid_kwargs = AMDVideoProcessorKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    image_mean = [0.485, 0.456, 0.406]
    image_std = [0.229, 0.224, 0.225]
    do_convert_rgb = True
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_sample_frames = True
    num_frames = 16
    sampling_mode: str | None = "dense"
    sampling_rate = 4
    # Not among `valid_kwargs`: a call makes one clip, whatever the views of the test.
    test_mode: str | None = None
    test_num_segments: int | None = None
    test_num_crops: int | None = None

    def __init__(self, **kwargs: Any):
        # Of the file that it was read from, which may be a stranger's: what is saved names only our own code.
        if kwargs.get("auto_map") != {"AutoVideoProcessor": "video_processing_amd.AMDVideoProcessor"}:
            kwargs.pop("auto_map", None)
        if unknown := self._unknown(kwargs):
            raise TypeError(f"AMDVideoProcessor got unknown option(s): {unknown}.")
        super().__init__(**kwargs)
        if kwargs.get("sampling_mode", "") is None:  # for the base class None stands for the default
            self.sampling_mode = None
        self._check_settings()

    def _check_settings(self) -> None:
        names = ("sampling_mode", "num_frames", "sampling_rate", "resample", "test_mode", *_COUNTS_OF_TESTS)
        _check_options({name: getattr(self, name) for name in names})
        if self.fps is not None:
            raise ValueError(
                f"`fps` {self.fps} is an option of a call. What a model was trained with counts frames: give "
                "`sampling_rate`."
            )

    @classmethod
    def _unknown(cls, options: Iterable[str], min_likeness: float = 0.0) -> str:
        """Name the options that do not exist, each with the one that it resembles; only those at least so like one."""
        known = [*cls.valid_kwargs.__annotations__, "test_mode", *_COUNTS_OF_TESTS]
        found = []
        for name in options:
            if name in known or name in _NOTES_OF_FILES or hasattr(cls, name):
                continue
            match = difflib.get_close_matches(name, known, n=1, cutoff=max(min_likeness, 0.6))
            if match or not min_likeness:
                found.append(f"`{name}`" + (f" (did you mean `{match[0]}`?)" if match else ""))
        return ", ".join(found)

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from the content of a file, as `from_pretrained` does.

        Keys of the file that this release does not know are kept, and saved again, with one warning. Settings without
        `sampling_mode` are of an earlier release: None. So are those with `fps`, which had no effect.

        Raises:
            TypeError: If an argument that overrides the file is a misspelt option.
        """
        # Others are of the library, which passes on what it was called with.
        if typos := cls._unknown(kwargs, min_likeness=0.8):
            raise TypeError(f"AMDVideoProcessor got unknown option(s): {typos}.")
        settings = {"sampling_mode": None, **video_processor_dict}
        if settings.pop("fps", None) is not None:
            logger.warning_once("The processor's file holds `fps`, which never had an effect: it is left out.")
        unknown = {name: value for name, value in settings.items() if cls._unknown([name])}
        loaded = super().from_dict({name: settings[name] for name in settings if name not in unknown}, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, value in unknown.items():
            setattr(processor, name, value)
        if unknown:
            logger.warning_once(
                "The processor's file holds key(s) that this release of amd_hf does not know and does not use: "
                f"{cls._unknown(unknown)}. Was the file edited by hand, or made by a later release?"
            )
        return loaded

    @classmethod
    def for_model(cls, config: Any, **options: Any) -> AMDVideoProcessor:
        """Return a processor that gives a model what its [`AMDConfig`] asks for; `options` override."""
        height, width = config.image_height_width
        options = {
            "size": {"shortest_edge": min(height, width)},
            "crop_size": {"height": height, "width": width},
            "image_mean": config.image_mean,
            "image_std": config.image_std,
            "num_frames": config.num_frames,
            **options,
        }
        return cls(**options)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        sampling_rate: int | None = None,
        sampling_mode: str | None = None,
        fps: float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return the indices, int64, of the frames to take: the clip that stands for a video, or all by `fps`.

        Args:
            metadata (`VideoMetadata`): Number of frames of the video, and its rate in frames per second.
            num_frames, sampling_rate, sampling_mode (*optional*): In the place of the processor's own.
            fps (`float`, *optional*): Take so many frames of each second of the whole video instead.

        Raises:
            ValueError: If `fps` comes with `num_frames`, is higher than the video's or that is not known; or if an
                array has fewer frames than the call asks for.
        """
        total = metadata.total_num_frames
        if fps is not None:
            return _frames_by_seconds(total, metadata.fps, fps, num_frames)
        if num_frames is None:
            num_frames = self.num_frames
        if metadata.fps is None:  # an array: perhaps one that was sampled before
            if total == num_frames:
                return np.arange(num_frames)
            if total < num_frames != self.num_frames:  # the model's own number is reached by the law
                raise ValueError(f"The call asks for {num_frames} frames of a video of {total}.")
        mode = self.sampling_mode if sampling_mode is None else sampling_mode
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        if mode is None:
            mode = "dense"
            logger.warning_once(
                "The processor's settings do not say how the model samples frames (an earlier release wrote them): "
                f"assumed a clip from the middle of each, {num_frames} frames, {rate} apart (`sampling_mode` dense)."
            )
        return sample_clip(total, num_frames=num_frames, sampling_rate=rate, mode=mode, generator=None)

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Callable | None = None) -> Any:
        """Decode one file, or each of a list; frames `(T, H, W, C)`, uint8, and their metadata."""
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(path, sample_indices_fn) for path in video_url_or_urls], strict=True))
        return _read_video(str(video_url_or_urls), sample_indices_fn)

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """See [`AMDVideoProcessor`]; `kwargs` override its options for this call."""
        if kwargs.get("fps") is not None:
            kwargs.setdefault("num_frames", None)  # the processor's own number gives way
        _check_options(kwargs)
        videos = _as_videos(videos)
        # Decoded files are RGB with the channels last; of arrays the layout is settled here, for each by itself.
        layout = ChannelDimension.LAST
        if not isinstance(videos[0], str):
            layout = ChannelDimension.FIRST
            names = ("do_convert_rgb", "do_rescale", "do_normalize", "image_mean")
            options = {name: kwargs.get(name, getattr(self, name)) for name in names}
            videos = [_checked_frames(video, kwargs.get("input_data_format"), options) for video in videos]
        kwargs |= {"input_data_format": layout, "do_convert_rgb": False}
        batch = super().preprocess(videos, **kwargs)
        # The library calls them so; every model of ours takes `pixel_values`.
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    def resize(self, image: torch.Tensor, size: Any, resample: Any = None, **kwargs: Any) -> torch.Tensor:
        """Resize the short side of `(..., H, W)` frames, the long side to int(size * long / short)."""
        resample = self.resample if resample is None else resample
        _check_options({"resample": resample})
        interpolation = _INTERPOLATIONS[resample]
        height, width = image.shape[-2:]
        short = size.shortest_edge
        if short is None:
            if size.height is None or size.width is None:
                raise ValueError(f"`size` must give `shortest_edge`, or `height` and `width`, got {dict(size)}.")
            new_size = [size.height, size.width]
        else:
            long = int(short * max(height, width) / min(height, width))
            new_size = [short, long] if height <= width else [long, short]
        is_bicubic = interpolation == InterpolationMode.BICUBIC
        return functional.resize(image, new_size, interpolation=interpolation, antialias=is_bicubic)


_CHOICES: dict[str, tuple[str, ...]] = {"sampling_mode": SAMPLING_MODES, "test_mode": TEST_MODES}
_COUNTS_OF_TESTS = ("test_num_segments", "test_num_crops")


def _check_options(options: dict[str, Any]) -> None:
    """Refuse values without a meaning, of settings or of a call; None stands for what holds without the option."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, allowed in _CHOICES.items():
        if given.get(name, allowed[0]) not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {given[name]!r}.")
    for name in ("num_frames", "sampling_rate", *_COUNTS_OF_TESTS):
        value = given.get(name, 1)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
    if given.get("fps", 1) <= 0:
        raise ValueError(f"`fps` must be more than 0, got {given['fps']!r}.")
    if given.get("resample", PILImageResampling.BILINEAR) not in _INTERPOLATIONS:
        raise ValueError(f"`resample` must be bilinear (2) or bicubic (3), got {given['resample']!r}.")
    # The base class takes these two and does nothing about them.
    if given.get("data_format", ChannelDimension.FIRST) != ChannelDimension.FIRST:
        raise ValueError(
            f"`data_format` must be 'channels_first', as models take clips, got {given['data_format']!r}."
        )
    if given.get("do_pad"):
        raise ValueError("`do_pad` has no meaning here: clips are resized and cropped to one size.")


def _frames_by_seconds(total: int, rate: float | None, fps: float, num_frames: int | None) -> np.ndarray:
    """Return the indices of `fps` frames of each second of a video of `total` frames, `rate` of them a second."""
    if num_frames is not None:
        raise ValueError(f"Give `fps` {fps} or `num_frames` {num_frames}, not both.")
    if rate is None:
        raise ValueError(f"`fps` {fps} needs the video's own rate: give `video_metadata` with `fps`, or a file.")
    if fps > rate:
        raise ValueError(f"`fps` {fps} asks for more frames than there are: the video has {rate:g} a second.")
    num_taken = max(1, int(total / rate * fps))
    return np.arange(num_taken) * total // num_taken


def _as_videos(videos: Any) -> list[Any]:
    """Return each video as a path (`str`), or as an array or tensor of frames, `(T, H, W, C)` or `(T, C, H, W)`."""
    found = list(_each_video(videos))
    if not found:
        raise ValueError("There is nothing to process: the list of videos or frames is empty.")
    if len({isinstance(video, str) for video in found}) == 2:
        raise ValueError("Give the videos of one call all as paths or all as frames, not as both.")
    for video in found:
        if isinstance(video, str):
            continue
        if video.ndim != 4:
            raise ValueError(f"A video has four dimensions, (T, H, W, C) or (T, C, H, W), not {tuple(video.shape)}.")
        if 0 in video.shape:
            raise ValueError(f"There are no frames or no pixels in a video of the shape {tuple(video.shape)}.")
    return found


def _each_video(videos: Any) -> Iterator[Any]:
    if isinstance(videos, str | os.PathLike):
        yield os.fspath(videos)
    elif isinstance(videos, list | tuple) and videos and all(_is_frame(frame) for frame in videos):
        yield _stack_frames(videos)
    elif isinstance(videos, list | tuple):
        for video in videos:
            if isinstance(video, list | tuple) and not video:
                raise ValueError("There are no frames in a video: its list is empty.")
            yield from _each_video(video)
    elif is_pil_image(videos):
        yield _stack_frames([videos])
    elif not isinstance(videos, np.ndarray | torch.Tensor):
        raise TypeError(
            "A video is a path, an array or tensor, or a list of frames (PIL images, arrays), not a "
            f"{type(videos).__module__}.{type(videos).__qualname__}."
        )
    elif videos.ndim == 5:
        yield from videos
    elif _is_frame(videos):
        yield _stack_frames([videos])
    else:
        yield videos[..., None] if videos.ndim == 3 else videos  # grey frames, one after the other, have three


def _is_frame(value: Any) -> bool:
    """Return whether a value is an image: PIL's, `(H, W)`, `(H, W, C)` or `(C, H, W)`; four grey frames are not."""
    if not isinstance(value, np.ndarray | torch.Tensor):
        return is_pil_image(value)
    return value.ndim == 2 or (value.ndim == 3 and (value.shape[-1] in (1, 3, 4) or value.shape[0] in (1, 3)))


def _stack_frames(frames: Any) -> Any:
    """Return frames as one array or tensor, `(T, H, W, C)` or `(T, C, H, W)`."""
    arrays = []
    for frame in frames:
        if is_pil_image(frame):
            if frame.mode == "F" or frame.mode.startswith("I"):
                raise ValueError(f"An image has the mode {frame.mode!r}: give frames of 8 bits per channel.")
            arrays.append(np.asarray(frame.convert("RGB")))
        else:
            arrays.append(frame[..., None] if frame.ndim == 2 else frame)
    shapes = sorted({tuple(array.shape) for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"The frames of a video must have one size, these have {', '.join(map(str, shapes))}.")
    return torch.stack(arrays) if all(isinstance(array, torch.Tensor) for array in arrays) else np.stack(arrays)


_LAYOUTS = ((3, 1), (3, 3), (1, 3), (1, 1), (4, 3), (4, 1))  # channels and their axis, the likelier ones first


def _checked_frames(video: Any, layout: Any, options: dict[str, Any]) -> Any:
    """Return frames as `(T, C, H, W)`; RGB where asked for: grey is repeated, a fourth channel is transparency."""
    _check_values(video, options["do_rescale"])
    axis = next((axis for count, axis in _LAYOUTS if video.shape[axis] == count), 3)
    if layout is not None:
        axis = 1 if ChannelDimension(layout) == ChannelDimension.FIRST else 3
    channels = video.shape[axis]
    if channels not in (1, 3, 4):
        raise ValueError(f"Frames have 1, 3 or 4 channels, last or first, not the shape {tuple(video.shape)}.")
    if axis == 3:
        video = video.transpose(0, 3, 1, 2) if isinstance(video, np.ndarray) else video.permute(0, 3, 1, 2)
    mean = options["image_mean"]
    num_means = (
        0 if mean is None or isinstance(mean, int | float) else len(mean)
    )  # one number for all channels, or none
    if options["do_convert_rgb"] and channels != 3 and num_means in (0, 3):  # a model of grey clips has one mean
        video, channels = video[:, [0, 0, 0] if channels == 1 else [0, 1, 2]], 3
    if options["do_normalize"] and num_means not in (0, channels):
        raise ValueError(f"Frames have {channels} channel(s), but `image_mean` has {num_means} numbers.")
    return video


def _check_values(video: Any, do_rescale: bool | None) -> None:
    """Refuse pixels that cannot be from 0 to 255, where they are to be divided by 255; uint8 needs no look."""
    values = torch.as_tensor(np.ascontiguousarray(video) if isinstance(video, np.ndarray) else video)
    if values.dtype == torch.uint8:
        return
    if values.dtype == torch.bool or values.is_complex():
        raise ValueError(f"Frames hold numbers from 0 to 255, not {values.dtype}.")
    low, high = (value.item() for value in values.float().aminmax())
    if not -np.inf < low <= high < np.inf:
        raise ValueError("Frames hold NaN or infinite values.")
    if do_rescale and values.is_floating_point() and (low < 0 or 0 < high <= 1):
        raise ValueError(
            f"Frames are floats from {low:.3g} to {high:.3g}, but `do_rescale` divides them by 255: give "
            "`do_rescale=False`, or frames from 0 to 255."
        )
    if do_rescale and (low < 0 or high > 255):
        raise ValueError(f"Frames hold numbers from {low:.3g} to {high:.3g}, not from 0 to 255.")


def _read_video(name: str, sample_indices_fn: Callable | None) -> tuple[np.ndarray, VideoMetadata]:
    """Read the sampled frames `(n, H, W, C)`, uint8, of a file or an http address, and what is known of it."""
    source = MediaFile(data=fetch_video(name)) if is_url(name) else MediaFile(path=name)
    with PyAVDecoder(source, None if source.data is None else name, num_threads=0) as video:
        # Counted as decoding shows them, whatever the header says.
        metadata = VideoMetadata(total_num_frames=len(video), fps=video.mean_rate or 25.0, video_backend="pyav")
        sampled = range(len(video)) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
        metadata.frames_indices = np.asarray(sampled)
        return video.frames(metadata.frames_indices), metadata


__all__ = ["AMDVideoProcessor"]
