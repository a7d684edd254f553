"""Opening a video with any decoder: indices in, uint8 RGB frames out, and one exception for what cannot be read.

    open_video(row["video"]) -> VideoDecoder -> .frames([0, 4, 8]) -> uint8 (3, H, W, 3)

Open a video in the process that uses it: a decord decoder opened before a fork hangs in the child.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import field
from pkgutil import resolve_name
from typing import Any

import numpy as np

from ...video_reading_amd import VideoDecoder, VideoLimits
from .decoders import (
    DecodedVideo,
    is_decord2_installed,
    why_cuda_is_unusable,
    why_torchcodec_is_unusable,
)
from .decoding_process import DEFAULT_TIME_LIMIT, SupervisedDecoder
from .source import VideoReadError, VideoSource


logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Which decoders there are
# ---------------------------------------------------------------------------------------------------------------------

# Name: `module:Class` and the package that it needs. The preferred one comes first: PyAV takes the least CPU to read
# 16 frames (52 ms; torchcodec by itself 63, decord 74), since it leaves out packets that nobody needs, and the least
# memory in a decoding process (25 MB, torchcodec 380). What others read wrongly comes to it anyway.
DECODERS = {
    "pyav": ("amd_hf.video_reading_amd:PyAVDecoder", "av"),
    "torchcodec": ("amd_hf.data.video.decoders:TorchCodecDecoder", "torchcodec"),
    "decord": ("amd_hf.data.video.decoders:DecordDecoder", "decord"),
}
# Only by name: decord2 is decord built anew, under decord's name of import; the other one needs a GPU.
NAMED_DECODERS = {
    "decord2": ("amd_hf.data.video.decoders:DecordDecoder", "decord"),
    "torchcodec_cuda": ("amd_hf.data.video.decoders:CudaTorchCodecDecoder", "torchcodec"),
}
IMAGE_DECODER = "amd_hf.data.video.decoders:ImageDecoder"


def available_decoders() -> list[str]:
    """Return the names of the decoders that are installed and work, the preferred one first."""
    return [name for name in DECODERS if _is_available(name)]


def find_decoder(name: str | None) -> str:
    """Find `module:Class` of a decoder, or of the preferred installed one for None.

    Raises:
        ValueError: an unknown name.
        ImportError: the decoder is not installed, or torchcodec finds no FFmpeg libraries.
    """
    if name is None:
        name = next((name for name in DECODERS if _is_available(name)), None)
        if name is None:
            raise ImportError("No video decoder is installed: run `pip install av`.")
    if name not in DECODERS | NAMED_DECODERS:
        raise ValueError(f"`decoder` must be one of {sorted(DECODERS | NAMED_DECODERS)} or None, not {name!r}.")
    path, package = (DECODERS | NAMED_DECODERS)[name]
    if importlib.util.find_spec(package) is None or (name == "decord2" and not is_decord2_installed()):
        package = name if name == "decord2" else package
        raise ImportError(
            f"The decoder {name!r} is not installed: run `pip install {package}`, or use {available_decoders()}."
        )
    fault = _why_unusable(name)
    if fault is not None:
        raise ImportError(f"The decoder {name!r} is installed, but {fault}. Or use {available_decoders()}.")
    return path


def _is_available(name: str) -> bool:
    return importlib.util.find_spec(DECODERS[name][1]) is not None and _why_unusable(name) is None


def _why_unusable(name: str) -> str | None:
    """Say why an installed decoder cannot be used in this process; None where it can."""
    if not name.startswith("torchcodec"):
        return None
    return why_torchcodec_is_unusable() or (why_cuda_is_unusable() if name == "torchcodec_cuda" else None)


# ---------------------------------------------------------------------------------------------------------------------
# Opening
# ---------------------------------------------------------------------------------------------------------------------


def open_video(
    source: Any,
    decoder: str | None = None,
    num_threads: int = 1,
    *,
    video_id: str | None = None,
    cache: DecodedVideoCache | None = None,
    limits: VideoLimits | None = None,
    time_limit: float | None = None,
    is_limit_per_read: bool = False,
) -> VideoDecoder:
    """Open a video for reading frames by index.

    Args:
        source: a row's `video` value (`{"path", "bytes"}` or `{"frames": [paths]}`), a path, or the bytes of a file.
        decoder (`str`, *optional*): `pyav`, `torchcodec` or `decord`; by default the first of them that is installed.
            All give the same frames, within codec rounding; what a decoder is known to read wrongly goes to PyAV.
            By name alone: `decord2`, and `torchcodec_cuda`, which decodes on the GPU (NVDEC). Images and frames in
            image files need none: Pillow reads them.
        num_threads (`int`, defaults to 1): decoder threads; 0 lets the decoder choose. More than 1 oversubscribes the
            machine when the workers of a data loader decode.
        video_id (`str`, *optional*): named in errors.
        cache (`DecodedVideoCache`, *optional*): where whole decoded videos are kept and looked for.
        limits (`VideoLimits`, *optional*): how large frames, videos and files may be.
        time_limit (`float`, *optional*): seconds that opening and reading this video may take together. The decoder
            then runs in a process of its own (see `decoding_process`), so that a video on which it hangs, crashes or
            takes all memory is lost, and nothing else. None decodes in this process, for files that are trusted.
        is_limit_per_read (`bool`, defaults to `False`): the limit counts anew for each call of `frames`, for long
            videos that are read whole.

    Returns:
        A `VideoDecoder`, to be used in a `with` block.

    Raises:
        VideoReadError: the file is missing, empty, too large or no video. Reading raises it too, for a decoder that
            fails, crashes or exceeds the time limit.
        ValueError: an unknown `decoder`, or a `source` that names no video.
        ImportError: the decoder, or every decoder, is not installed.
    """
    parsed = VideoSource.parse(source)
    if cache is not None and (kept := cache.get(parsed)) is not None:
        return DecodedVideo(kept, parsed)
    parsed.check_exists(video_id)
    limits = VideoLimits() if limits is None else limits
    path = IMAGE_DECODER if parsed.is_images else find_decoder(decoder)
    video: VideoDecoder
    if time_limit is None:
        video = resolve_name(path)(parsed, video_id, limits, num_threads)
    else:
        video = SupervisedDecoder(path, parsed, video_id, limits, num_threads, time_limit, is_limit_per_read)
    return video if cache is None else cache.keep(parsed, video)


def decode_time_limit_option() -> Any:
    """Return the option `decode_time_limit` for a dataclass of options, with one default and one help text."""
    return field(
        default=DEFAULT_TIME_LIMIT,
        metadata={
            "help": "Seconds that a video may take to read. Its decoder runs in a process of its own, so that a video "
            "on which it hangs, crashes or takes all memory is lost, and nothing else. null: decode in the loading "
            "process, without that guard (docs/data.md has the cost)."
        },
    )


def check_decode_time_limit(seconds: float | None) -> None:
    """Raise `ValueError` for a limit that is no time."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"`decode_time_limit` must be above 0 seconds, or null for no limit, got {seconds}.")


class DecodedVideoCache:
    """Whole decoded videos in memory, so that a small data set is decoded once per process, not once per epoch.

    Each process of a data loader fills a cache of its own (use `persistent_workers`), so `max_bytes` counts once per
    worker. Pickling hands over the bound, not the videos.

    Args:
        max_bytes (`int`): bound on the bytes of all videos kept. The first video that would exceed it ends the
            caching: those in memory stay, others are decoded each time.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"`max_bytes` must be at least 1, not {max_bytes}.")
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.is_full = False
        self._videos: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._videos)

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes, "num_bytes": 0, "is_full": False, "_videos": {}}

    def get(self, source: VideoSource) -> np.ndarray | None:
        """Return the frames of `source`, uint8 (n, H, W, 3), or None where they are not kept."""
        return None if source.path is None else self._videos.get(source.path)

    def keep(self, source: VideoSource, video: VideoDecoder) -> VideoDecoder:
        """Decode all of `video` into the cache where it fits, and return what to read from now on."""
        if self.is_full or source.path is None:
            return video
        num_bytes = len(video) * video.height * video.width * 3
        if self.num_bytes + num_bytes > self.max_bytes:
            self.is_full = True
            logger.warning(
                "The cache of decoded videos is full: %d videos take %d of %d bytes, %s would add %d. Further videos "
                "are decoded each time they are used; raise `max_bytes` to keep them.",
                len(self), self.num_bytes, self.max_bytes, source, num_bytes,
            )  # fmt: skip
            return video
        with video:
            frames = video.frames(range(len(video)))
        self._videos[source.path] = frames
        self.num_bytes += frames.nbytes
        return DecodedVideo(frames, source)


__all__ = [
    "DecodedVideoCache",
    "VideoDecoder",
    "VideoLimits",
    "VideoReadError",
    "available_decoders",
    "check_decode_time_limit",
    "decode_time_limit_option",
    "find_decoder",
    "open_video",
]
