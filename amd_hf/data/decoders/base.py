"""What all readers share: the limits, the checks of indices and sizes, and one exception for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..video_source import VideoReadError, VideoSource


_INSPECTED_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What a video may take at most. Checked before the memory is taken; above it a video counts as unreadable.

    Args:
        max_decoded_bytes (`int`, defaults to 2 GiB): RGB bytes of one call of `frames` (16 x 4 frames of 4K fit).
        max_frame_pixels (`int`, defaults to 8192 x 8192): height times width.
        max_frames (`int`, defaults to 10 million): frames of a video (46 hours at 60 a second).
        max_file_bytes (`int`, defaults to 4 GiB): size of a file that is given as bytes. One given by its path is
            not read into memory.
    """

    max_decoded_bytes: int = 2 * 1024**3
    max_frame_pixels: int = 8192 * 8192
    max_frames: int = 10_000_000
    max_file_bytes: int = 4 * 1024**3

    def __post_init__(self) -> None:
        for name in ("max_decoded_bytes", "max_frame_pixels", "max_frames", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not {getattr(self, name)}.")


class Inspection(NamedTuple):
    """What decoding a whole video showed.

    Args:
        num_frames (`int`): frames that came out.
        height, width (`int`): of the first one, as the decoder gives it.
        damage (`str` or `None`): faults that a decoder conceals, so that the video can be read all the same.
    """

    num_frames: int
    height: int
    width: int
    damage: str | None


class BaseVideoReader:
    """Checks and bookkeeping; a decoder adds `__len__`, `_read` and perhaps `close`."""

    def __init__(
        self, source: VideoSource, video_id: str | None, limits: VideoLimits | None = None, num_threads: int = 1
    ) -> None:
        self.source = source
        self.video_id = video_id
        self.limits = VideoLimits() if limits is None else limits
        self.num_threads = num_threads
        self._frame_shape: tuple[int, int] | None = None  # (H, W), known once a frame was decoded
        if source.data is not None and len(source.data) > self.limits.max_file_bytes:
            raise self._error(
                f"the file is {len(source.data)} bytes, above the limit of {self.limits.max_file_bytes} "
                "(`max_file_bytes`)"
            )

    @staticmethod
    def import_decoder() -> None:
        """Import the libraries that reading will import."""

    def __len__(self) -> int:
        raise NotImplementedError

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """Decode strictly increasing int64 `indices` to uint8 (n, H, W, 3)."""
        raise NotImplementedError

    @property
    def height(self) -> int:
        return self._known_frame_shape()[0]

    @property
    def width(self) -> int:
        return self._known_frame_shape()[1]

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size == 0:
            raise ValueError("`indices` is empty: ask for at least one frame.")
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"Frames {wanted.min()}..{wanted.max()} asked of {self.source}, which has {len(self)}.")
        unique, inverse = np.unique(wanted, return_inverse=True)
        frames = self._read(unique)
        self._frame_shape = frames.shape[1:3]
        return frames if np.array_equal(unique, wanted) else frames[inverse]

    def inspect(self) -> Inspection:
        """Decode the whole video, a few frames at a time.

        Raises:
            VideoReadError: a frame cannot be decoded.
        """
        for start in range(0, len(self), _INSPECTED_AT_ONCE):
            self.frames(range(start, min(start + _INSPECTED_AT_ONCE, len(self))))
        return Inspection(len(self), self.height, self.width, None)

    def close(self) -> None:
        """Free what the decoder holds; reading afterwards is not possible."""

    def __enter__(self) -> BaseVideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _known_frame_shape(self) -> tuple[int, int]:
        # The size in the header ignores rotation and may be wrong, so a frame is decoded.
        if self._frame_shape is None:
            self.frames([0])
        assert self._frame_shape is not None
        return self._frame_shape

    def _error(self, reason: object) -> VideoReadError:
        return VideoReadError(" ".join(str(reason).split())[:1000], self.video_id, str(self.source))

    @contextmanager
    def _faults_of_the_file(self, decoder: str) -> Iterator[None]:
        """Turn whatever `decoder` raises into `VideoReadError`: on damaged files they raise nearly every exception."""
        try:
            yield
        except VideoReadError:
            raise
        except Exception as error:
            raise self._error(f"{decoder}: {str(error) or type(error).__name__}") from error

    def _check_length(self, num_frames: int) -> None:
        if num_frames == 0:
            raise self._error("it holds zero frames")
        if num_frames > self.limits.max_frames:
            raise self._error(
                f"it has {num_frames} frames, above the limit of {self.limits.max_frames} (`max_frames`)"
            )

    def _check_size(self, num_frames: int, height: int, width: int) -> None:
        if height * width > self.limits.max_frame_pixels:
            raise self._error(
                f"a frame has {height} x {width} pixels, above the limit of {self.limits.max_frame_pixels} "
                "(`max_frame_pixels`)"
            )
        num_bytes = num_frames * height * width * 3
        if num_bytes > self.limits.max_decoded_bytes:
            raise self._error(
                f"{num_frames} frames of {height} x {width} take {num_bytes} bytes, above the limit of "
                f"{self.limits.max_decoded_bytes} (`max_decoded_bytes`)"
            )
