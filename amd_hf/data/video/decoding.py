"""Decoders behind one protocol: indices in, uint8 RGB frames out, and one exception for a video that cannot be read.

    open_video(row["video"]) -> VideoReader -> .frames([0, 4, 8]) -> uint8 (3, H, W, 3)

Open a reader in the process that uses it: a decord reader opened before a fork hangs in the child.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import field
from typing import Any, Protocol

import numpy as np

from ...video_reading_amd import VideoLimits
from ..workers.supervised import DEFAULT_TIME_LIMIT, SupervisedReader
from .decoders.images import ArrayReader
from .readers import IMAGE_READER, available_decoders, load_reader, reader_path
from .source import VideoReadError, VideoSource


logger = logging.getLogger(__name__)


def decode_time_limit_option() -> Any:
    """The option `decode_time_limit` for a dataclass of options: one default and one help text everywhere."""
    return field(
        default=DEFAULT_TIME_LIMIT,
        metadata={
            "help": "Seconds that a video may take to read. Its decoder runs in a process of its own, so that a video "
            "on which it hangs, crashes or takes all memory is lost, and nothing else. null: decode in the loading "
            "process, without that guard (docs/data.md has the cost)."
        },
    )


def check_decode_time_limit(seconds: float | None) -> None:
    """Raises `ValueError` for a limit that is no time."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"`decode_time_limit` must be above 0 seconds, or null for no limit, got {seconds}.")


class VideoReader(Protocol):
    """What every decoder offers. A context manager: leaving it frees the decoder's memory and threads."""

    def __len__(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def frame_times(self) -> np.ndarray:
        """When frames are on screen: float64 (n + 1,), seconds from the first one; `[i]` to `[i + 1]` for frame i.

        Raises:
            VideoReadError: the file tells neither times nor a rate, or the frames are image files.
        """
        ...

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read frames by index, in the order and with the repeats given.

        Args:
            indices (sequence of `int`): frame numbers, 0 <= index < `len(reader)`.

        Returns:
            `np.ndarray` of shape (n, H, W, 3), uint8, RGB.

        Raises:
            IndexError: an index lies outside the video.
            VideoReadError: the frames cannot be decoded or would take too much memory.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(self, *exception: object) -> None: ...


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
) -> VideoReader:
    """Open a video for reading frames by index.

    Args:
        source: a row's `video` value (`{"path", "bytes"}` or `{"frames": [paths]}`), a path, or the bytes of a file.
        decoder (`str`, *optional*): `pyav`, `torchcodec` or `decord`; by default the first of them that is installed.
            All give the same frames, within codec rounding; what a decoder is known to read wrongly goes to PyAV.
            Images and frames in image files need none: Pillow reads them.
        num_threads (`int`, defaults to 1): decoder threads; 0 lets the decoder choose. More than 1 oversubscribes the
            machine when the workers of a data loader decode.
        video_id (`str`, *optional*): named in errors.
        cache (`DecodedVideoCache`, *optional*): where whole decoded videos are kept and looked for.
        limits (`VideoLimits`, *optional*): how large frames, videos and files may be.
        time_limit (`float`, *optional*): seconds that opening and reading this video may take together. The decoder
            then runs in a process of its own (see `supervised`), so that a video on which it hangs, crashes or takes
            all memory is lost, and nothing else. None decodes in this process, for files that are trusted.
        is_limit_per_read (`bool`, defaults to `False`): the limit counts anew for each call of `frames`, for long
            videos that are read whole.

    Returns:
        A `VideoReader`, to be used in a `with` block.

    Raises:
        VideoReadError: the file is missing, empty, too large or no video. Reading raises it too, for a decoder that
            fails, crashes or exceeds the time limit.
        ValueError: an unknown `decoder`, or a `source` that names no video.
        ImportError: the decoder, or every decoder, is not installed.
    """
    parsed = VideoSource.parse(source)
    if cache is not None and (kept := cache.get(parsed)) is not None:
        return ArrayReader(kept, parsed)
    parsed.check_exists(video_id)
    limits = VideoLimits() if limits is None else limits
    path = IMAGE_READER if parsed.is_images else reader_path(decoder)
    reader: VideoReader
    if time_limit is None:
        reader = load_reader(path)(parsed, video_id, limits, num_threads)
    else:
        reader = SupervisedReader(path, parsed, video_id, limits, num_threads, time_limit, is_limit_per_read)
    return reader if cache is None else cache.keep(parsed, reader)


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

    def keep(self, source: VideoSource, reader: VideoReader) -> VideoReader:
        """Decode all of `reader` into the cache where it fits, and return the reader to use from now on."""
        if self.is_full or source.path is None:
            return reader
        num_bytes = len(reader) * reader.height * reader.width * 3
        if self.num_bytes + num_bytes > self.max_bytes:
            self.is_full = True
            logger.warning(
                "The cache of decoded videos is full: %d videos take %d of %d bytes, %s would add %d. Further videos "
                "are decoded each time they are used; raise `max_bytes` to keep them.",
                len(self), self.num_bytes, self.max_bytes, source, num_bytes,
            )  # fmt: skip
            return reader
        with reader:
            frames = reader.frames(range(len(reader)))
        self._videos[source.path] = frames
        self.num_bytes += frames.nbytes
        return ArrayReader(frames, source)


__all__ = [
    "DecodedVideoCache",
    "VideoLimits",
    "VideoReadError",
    "VideoReader",
    "available_decoders",
    "check_decode_time_limit",
    "decode_time_limit_option",
    "open_video",
]
