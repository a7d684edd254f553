"""Video processor of AMD models: samples frames, resizes, crops and normalises.

Its saved settings say how a model looks at a video; whatever uses the model takes them from there. This file travels
with published checkpoints as Hub remote code, beside `video_reading_amd.py`, which decodes with PyAV: its wheels bring
their own FFmpeg, and the video-classification pipeline needs it anyway.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling, is_pil_image
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


class AMDVideosKwargs(VideosKwargs, total=False):
    """Options of [`AMDVideoProcessor`] beside those of every video processor."""

    sampling_mode: str | None
    sampling_rate: int


class AMDVideoProcessor(BaseVideoProcessor):
    r"""Turns videos into `pixel_values` `(B, T, C, H, W)`.

    A video is a path (`str` or `Path`), an http or https address, an array or tensor `(T, H, W, C)` or `(T, C, H, W)`,
    or a list of frames: PIL images, or arrays `(H, W)`, `(H, W, C)` or `(C, H, W)`. Grey frames become RGB,
    transparency is left out. A single image is a video of one frame. Several videos come as a list or as an array of
    five dimensions.

    Of a video it takes `num_frames` frames by the law that its model was trained with, without chance:

    - `sampling_mode="dense"`: `sampling_rate` apart, from the middle of the video; of a shorter one the last frame is
      repeated.
    - `"spread"`: spread over the window of `num_frames * sampling_rate` frames in the middle.
    - `"segments"`: the middle frame of each of `num_frames` equal parts of the whole video.

    `sampling_mode` is None in files of earlier releases, which did not say it: dense clips are then assumed, with a
    warning. An array that already has `num_frames` frames is taken as it is. The short side is resized to `size` by
    `resample` (bilinear is not antialiased, as in the released test of videos; bicubic is, as Pillow resizes images),
    then the centre is cropped.

    `test_mode` (`dense` or `uniform`), `test_num_segments` and `test_num_crops` say which views of a video the model's
    test averages; the processor itself makes one clip. They are None where there was no test.

    Raises:
        VideoReadError: If a file cannot be read as a video (a `ValueError`, with the words of `open_video`).
        ValueError: If a video has no frames, frames differ in size, or have another number of channels than 1, 3 or 4;
            or if a setting has no meaning.
        TypeError: If something is no video at all.
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
    valid_kwargs = AMDVideosKwargs
    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BILINEAR
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    image_mean = [0.485, 0.456, 0.406]
    image_std = [0.229, 0.224, 0.225]
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
        super().__init__(**kwargs)
        if kwargs.get("sampling_mode", "") is None:  # for the base class None stands for the default
            self.sampling_mode = None
        self._check_settings()

    def _check_settings(self) -> None:
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("sampling_mode", SAMPLING_MODES),
            ("test_mode", TEST_MODES),
        )
        for name, allowed in choices:
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")
        for name in ("num_frames", "sampling_rate", "test_num_segments", "test_num_crops"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Load as every processor does; settings without `sampling_mode` are of an earlier release: None."""
        return super().from_dict({"sampling_mode": None, **video_processor_dict}, **kwargs)

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
        """Return the indices `(num_frames,)`, int64, of the clip that stands for a video."""
        if fps is not None:
            raise ValueError(f"`fps` {fps} has no meaning here: frames are counted, not timed. Give `sampling_rate`.")
        num_frames = self.num_frames if num_frames is None else num_frames
        total = metadata.total_num_frames
        if metadata.fps is None and total == num_frames:
            return np.arange(num_frames)  # an array that was sampled before
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
        videos = _as_videos(videos)
        if len(kwargs.get("image_mean", self.image_mean)) == 3:
            videos = [video if isinstance(video, str) else _with_three_channels(video) for video in videos]
        batch = super().preprocess(videos, **kwargs)
        # The library calls them so; every model of ours takes `pixel_values`.
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    def resize(self, image: torch.Tensor, size: Any, resample: Any = None, **kwargs: Any) -> torch.Tensor:
        """Resize the short side of `(..., H, W)` frames, the long side to int(size * long / short)."""
        resample = self.resample if resample is None else resample
        if resample not in _INTERPOLATIONS:
            raise ValueError(f"`resample` must be bilinear (2) or bicubic (3), got {resample!r}.")
        height, width = image.shape[-2:]
        short = size.shortest_edge
        if short is None:
            new_size = [size.height, size.width]
        else:
            long = int(short * max(height, width) / min(height, width))
            new_size = [short, long] if height <= width else [long, short]
        interpolation = _INTERPOLATIONS[resample]
        is_bicubic = interpolation == InterpolationMode.BICUBIC
        return functional.resize(image, new_size, interpolation=interpolation, antialias=is_bicubic)


def _as_videos(videos: Any) -> list[Any]:
    """Each video as a path (`str`), or as an array or tensor of its frames, `(T, H, W, C)` or `(T, C, H, W)`."""
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


def _with_three_channels(video: Any) -> Any:
    """Return frames `(T, H, W, C)` or `(T, C, H, W)` of 1, 3 or 4 channels as RGB; a fourth is transparency."""
    for channels, axis in ((3, 1), (3, 3), (1, 3), (1, 1), (4, 3), (4, 1)):
        if video.shape[axis] == channels:
            picked = [0, 0, 0] if channels == 1 else [0, 1, 2]
            return video if channels == 3 else video[..., picked] if axis == 3 else video[:, picked]
    raise ValueError(f"Frames have 1, 3 or 4 channels, last or first, not the shape {tuple(video.shape)}.")


def _read_video(name: str, sample_indices_fn: Callable | None) -> tuple[np.ndarray, VideoMetadata]:
    """Sampled frames `(n, H, W, C)`, uint8, of a file or an http address, and what is known of it."""
    source = MediaFile(data=fetch_video(name)) if is_url(name) else MediaFile(path=name)
    with PyAVDecoder(source, None if source.data is None else name, num_threads=0) as video:
        # Counted as decoding shows them, whatever the header says.
        metadata = VideoMetadata(total_num_frames=len(video), fps=video.mean_rate or 25.0, video_backend="pyav")
        sampled = range(len(video)) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
        metadata.frames_indices = np.asarray(sampled)
        return video.frames(metadata.frames_indices), metadata


__all__ = ["AMDVideoProcessor"]
