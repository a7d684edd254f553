"""Sliding windows over a long video, and at which second each of its frames is shown.

n = 20, length 8, stride 5    [. . . . . . . .]
                                        [. . . . . . . .]
                                                  [. . . . . . . .]
                                                    [. . . . . . . .]      the last one ends with the video
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..data.video.key_frames import frame_rate_of, times_of
from ..data.video.source import VideoReadError


logger = logging.getLogger(__name__)

_EPSILON = 1e-6  # seconds: far below the distance of frames, far above the rounding of their times


@dataclass(frozen=True)
class WindowOptions:
    """How a video is cut into windows.

    Args:
        length, stride (`float`): Length of a window and distance between the starts of two, both in `unit`.
        unit (`"seconds"` or `"frames"`): What they count.

    Raises:
        ValueError: If one is not above 0, or no whole number of frames.
    """

    length: float
    stride: float
    unit: str = "seconds"

    def __post_init__(self) -> None:
        if self.unit not in ("seconds", "frames"):
            raise ValueError(f"`unit` must be 'seconds' or 'frames', not {self.unit!r}.")
        for name in ("length", "stride"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"The {name} of a window must be above 0 {self.unit}, not {value}.")
            if self.unit == "frames" and value != int(value):
                raise ValueError(f"The {name} of a window must be a whole number of frames, not {value}.")


@dataclass(frozen=True)
class Window:
    """A stretch of a video.

    Args:
        start_frame, stop_frame (`int`): Its first frame, and the one behind its last.
        start_seconds, end_seconds (`float`): When its first frame appears and its last one disappears, counted from
            the video's first frame.
    """

    start_frame: int
    stop_frame: int
    start_seconds: float
    end_seconds: float


def sliding_windows(times: np.ndarray, options: WindowOptions) -> list[Window]:
    """Cuts a video into windows that start at 0, stride, 2 * stride, ...

    The last one ends with the video: it starts earlier where it would reach beyond. A video shorter than a window is
    one window. A window in seconds holds the frames that appear within it, and at least one.

    Args:
        times (`np.ndarray` of shape (n + 1,), float64): See [`frame_times`].
        options ([`WindowOptions`]): Length and stride.
    """
    num_frames = len(times) - 1
    end = num_frames if options.unit == "frames" else times[-1]
    # in multiples of the stride, not by adding it up: no drift in long videos
    num_before_last = max(int(np.ceil((end - options.length) / options.stride - _EPSILON)), 0)
    starts = [number * options.stride for number in range(num_before_last)] + [max(end - options.length, 0)]
    windows = []
    for start in starts:
        if options.unit == "frames":
            first, stop = int(start), min(int(start + options.length), num_frames)
        else:
            edges = np.array([start, start + options.length]) - _EPSILON
            first, stop = (int(edge) for edge in np.searchsorted(times[:-1], edges))
            stop = max(stop, 1)
            first = min(first, stop - 1)
        windows.append(Window(first, stop, float(times[first]), float(times[stop])))
    return list(dict.fromkeys(windows))  # two windows shorter than a frame may fall into the same one


def frame_times(path: str, num_frames: int) -> np.ndarray:
    """Reads from a file's packets when its frames are shown, without decoding.

    Args:
        path (`str`): A video file.
        num_frames (`int`): Its frames, as the decoder counts them.

    Returns:
        `np.ndarray` of shape (num_frames + 1,), float64: seconds from the first frame at which each frame appears, and
        at which the last one ends. Where the file does not give a time for every frame, they are taken to follow each
        other at its average rate.

    Raises:
        VideoReadError: If the packets cannot be read, or tell neither times nor a rate.
    """
    try:
        times = times_of(path)
    except VideoReadError as error:
        raise VideoReadError(f"the times of its frames cannot be read: {error.reason}", source=path) from error
    if len(times) == num_frames + 1:
        return times
    logger.info("%s gives times for %d of %d frames: its average rate is used.", path, len(times) - 1, num_frames)
    return np.arange(num_frames + 1) / frame_rate_of(path)


__all__ = ["Window", "WindowOptions", "frame_times", "sliding_windows"]
