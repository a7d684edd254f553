"""The frames around a timestamp of a video that lies as one file, as one-second pieces, or as a folder of frames."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...video_reading_amd import PyAVDecoder
from ..datasets.rows import VIDEO_SUFFIXES
from .decoding import DecodedVideoCache, VideoReadError, open_video
from .source import VideoSource


def clip_offsets(num_frames: int, sampling_rate: int) -> np.ndarray:
    """Return which frames a clip takes, counted from the key frame: int64 (num_frames,).

    The window of num_frames * sampling_rate frames has the key frame right behind its middle; of each stretch of
    `sampling_rate` frames one is taken. 16 frames at rate 4: frames 1, 5, ... 61 of 64, of which 32 is the key frame.
    """
    window = num_frames * sampling_rate
    # The middle one of each stretch, of two the earlier; window - window // 2 frames lie before the key frame.
    return np.arange(num_frames) * sampling_rate + (sampling_rate - 1) // 2 - (window - window // 2)


def read_around(
    video: Mapping[str, Any],
    timestamp: float,
    offsets: np.ndarray,
    *,
    video_id: str,
    decoder: str | None = None,
    num_threads: int = 1,
    cache: DecodedVideoCache | None = None,
    time_limit: float | None = None,
) -> np.ndarray:
    """Read frames around a timestamp; those before the beginning or behind the end are the first or the last one.

    Args:
        video (mapping): `path`, `layout` and what the layout needs:
            - `file`: a video file; `start_seconds` is the time of its first frame. The key frame is the one that is
              shown at the timestamp, by the file's timestamps (see [`frame_at`]). With a `frame_rate` (frames per
              second) these are not looked at: frames are taken to follow each other evenly.
            - `pieces`: a folder of files `<second>.mp4` (or another suffix), a second each; the key frame is the first
              of its second.
            - `frames`: a folder of image files, named by `frame_pattern` and numbered from 1, with `start_seconds` and
              `frame_rate`.
        timestamp (`float`): The timestamp, in seconds.
        offsets (`np.ndarray` of shape (n,)): The frames wanted, counted from the key frame.
        video_id (`str`): Named in errors.
        decoder, num_threads, cache, time_limit: See `open_video`; the limit is for each file that is opened.

    Returns:
        `np.ndarray` of shape (n, H, W, 3), uint8.

    Raises:
        VideoReadError: The video cannot be read, or the timestamp is not in it.
    """
    options = {
        "decoder": decoder, "num_threads": num_threads, "video_id": video_id, "cache": cache, "time_limit": time_limit,
    }  # fmt: skip
    reader = {"file": _read_file, "pieces": _read_pieces, "frames": _read_frames}[video["layout"]]
    return reader(video, timestamp, offsets, options)


def _read_file(
    video: Mapping[str, Any], timestamp: float, offsets: np.ndarray, options: Mapping[str, Any]
) -> np.ndarray:
    seconds = timestamp - (video.get("start_seconds") or 0)
    with open_video(video["path"], **options) as opened:
        if video.get("frame_rate"):
            key = round(seconds * video["frame_rate"])
        else:
            times = opened.frame_times
            found = frame_at(times, seconds)
            # If it lies outside of the video, `_inside` shows in its message how far, by the index that it would have.
            key = round(seconds * len(opened) / times[-1]) if found is None else found
        indices = _inside(key, offsets, len(opened), timestamp, options["video_id"], video["path"])
        return opened.frames(indices)


def _inside(key: int, offsets: np.ndarray, num_frames: int, timestamp: float, video_id: str, path: str) -> np.ndarray:
    if not 0 <= key < num_frames:
        raise VideoReadError(f"second {timestamp:g} is not in it: that is frame {key} of {num_frames}", video_id, path)
    return (key + offsets).clip(0, num_frames - 1)


def frame_at(times: np.ndarray, seconds: float) -> int | None:
    """Find the frame that is on screen at a timestamp, or None where it lies outside of the video.

    The next frame counts from half a frame before it appears on, half of the shorter of the two: timestamps and
    annotations are rounded. Where all frames stay equally long this is the frame nearest in time.

    Args:
        times (`np.ndarray` of shape (n + 1,)): The `frame_times` of a video.
        seconds (`float`): The timestamp, in seconds from the first frame.
    """
    # stays[i]: how long frame i is on screen, (n,). The first frame has none before it: its own counts twice.
    stays = np.diff(times)
    halves = np.minimum(stays, np.concatenate([stays[:1], stays[:-1]])) / 2
    index = int(np.searchsorted(times[:-1] - halves, seconds, side="right")) - 1
    return index if index >= 0 and seconds < times[-1] else None


def times_of(path: str, video_id: str | None = None) -> np.ndarray:
    """Return the `frame_times` of a video file, without decoding it. Those of the last few files are cached.

    Raises:
        VideoReadError: The file cannot be read, or has neither times nor a rate.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise VideoReadError(str(error), video_id, path) from error
    return _scanned_times(path, video_id, state.st_size, state.st_mtime_ns)


# Size and time of change are part of the key alone: a file that was written anew is read anew.
@functools.lru_cache(maxsize=8)  # the times of a long film take a megabyte
def _scanned_times(path: str, video_id: str | None, _size: int, _changed: int) -> np.ndarray:
    with PyAVDecoder(VideoSource(path=path), video_id) as opened:
        return opened.frame_times


def _read_frames(
    video: Mapping[str, Any], timestamp: float, offsets: np.ndarray, options: Mapping[str, Any]
) -> np.ndarray:
    def name(index: int) -> str:
        return os.path.join(video["path"], video["frame_pattern"] % (index + 1))

    key = round((timestamp - (video.get("start_seconds") or 0)) * video["frame_rate"])
    last = key + int(offsets.max())
    if not os.path.isfile(name(last)):
        # Behind the end, or missing: the end is found without listing tens of thousands of files.
        last = _last_number(lambda index: os.path.isfile(name(index)), last)
    indices = _inside(key, offsets, last + 1, timestamp, options["video_id"], video["path"])
    unique, inverse = np.unique(indices, return_inverse=True)
    with open_video({"frames": [name(index) for index in unique]}, **options) as opened:
        return opened.frames(inverse)


def _last_number(exists: Any, beyond: int) -> int:
    """Return the highest number below `beyond` that exists, of numbers without gaps from 0; -1 for none."""
    low, high = -1, beyond  # `low` exists (or is -1), `high` does not: some 15 questions for 30,000 files
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exists(middle) else (low, middle)
    return low


def _read_pieces(
    video: Mapping[str, Any], timestamp: float, offsets: np.ndarray, options: Mapping[str, Any]
) -> np.ndarray:
    second = int(timestamp)
    if second != timestamp:
        reason = f"{timestamp:g} is no whole second, as its pieces are"
        raise VideoReadError(reason, options["video_id"], video["path"])
    if find_piece(video["path"], second) is None:
        raise VideoReadError(f"there is no piece of second {second}", options["video_id"], video["path"])
    # From the key frame's second outwards both ways, each as far as the clip reaches. The frame in front of the key
    # frame, offset -1, is position 0 of the way back.
    after = _walk(video["path"], second, 1, offsets[offsets >= 0], options)
    before = _walk(video["path"], second - 1, -1, -1 - offsets[offsets < 0], options) if (offsets < 0).any() else {}
    found = after | {-1 - position: frame for position, frame in before.items()}
    if not found:
        raise VideoReadError("none of its pieces holds a frame of the clip", options["video_id"], video["path"])
    known = np.array(sorted(found))
    nearest = [int(known[np.abs(known - offset).argmin()]) for offset in offsets]  # itself, but for missing pieces
    return np.stack([found[offset] for offset in nearest])


def _walk(
    folder: str, second: int, step: int, positions: Sequence[int] | np.ndarray, options: Mapping[str, Any]
) -> dict[int, np.ndarray]:
    """Read frames at `positions`, counted from 0 at the beginning of a piece forwards, or at its end backwards.

    What lies behind the last piece is left out, but for its last frame where something does.
    """
    found: dict[int, np.ndarray] = {}
    left, passed = sorted(int(position) for position in positions), 0
    while left:
        path = find_piece(folder, second)
        if path is None:
            break
        with open_video(path, **options) as opened:
            num_frames = len(opened)
            here = [position for position in left if position < passed + num_frames]
            at_end = len(here) < len(left) and find_piece(folder, second + step) is None
            wanted = [*here, *([passed + num_frames - 1] if at_end else [])]
            if wanted:
                inside = [
                    position - passed if step > 0 else num_frames - 1 - (position - passed) for position in wanted
                ]
                found |= dict(zip(wanted, opened.frames(np.array(inside)), strict=True))
        left = left[len(here) :]
        passed += num_frames
        second += step
    return found


def find_piece(folder: str, second: int) -> str | None:
    """Return the file of a second in a folder of pieces, or None."""
    for name in dict.fromkeys((f"{second}", f"{second:04d}")):
        for suffix in VIDEO_SUFFIXES:
            path = os.path.join(folder, name + suffix)
            if os.path.isfile(path):
                return path
    return None
