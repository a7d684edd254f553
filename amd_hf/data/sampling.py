"""Which frames and crops are looked at: pure functions from sizes to indices, before anything is decoded.

With n frames in the video, T frames to take at rate r, and the window W = T * r:

    dense      n = 20, T = 4, r = 3   . . . [x . . x . . x . . x . .] . . . . .      start uniform in 0..n-W
    spread     n = 20, T = 4, r = 3   . . . [x . . . x . . . x . . x] . . . . .      the same window, filled to its end
    segments   n = 20, T = 4          [. . x . .|x . . . .|. . . . x|. x . . .]      one draw in each of T parts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def sample_generator(seed: int, epoch: int, video_id: str, repetition: int, purpose: str = "") -> np.random.Generator:
    """Make the random generator of one sample. It depends on the arguments alone: not on process, worker or order.

    Args:
        seed (`int`): the run's seed.
        epoch (`int`): how often the data set was passed through before.
        video_id (`str`): the row's `video_id`.
        repetition (`int`): number of the repeated augmentation, from 0.
        purpose (`str`, defaults to `""`): what is drawn (frames, crop, mask). Each purpose has a stream of its own, so
            that one more draw for the crop does not change the mask.

    Returns:
        `np.random.Generator` on PCG64.
    """
    # JSON keeps the fields apart ("a", 11 against "a1", 1); Python's own hash differs from process to process.
    fields = json.dumps([int(seed), int(epoch), video_id, int(repetition), purpose])
    digest = hashlib.blake2b(fields.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def dense_clip(
    total_frames: int, num_frames: int, sampling_rate: int, generator: np.random.Generator | None
) -> np.ndarray:
    """Draw a clip of evenly spaced frames (K400 pre-training): start + r * i, the last valid one repeated.

    Args:
        total_frames (`int`): frames of the video, n.
        num_frames (`int`): frames of the clip, T.
        sampling_rate (`int`): distance between frames of the clip, r.
        generator (`np.random.Generator` or `None`): draws the start uniformly from 0..max(n - W, 0); None takes the
            middle one.

    Returns:
        `np.ndarray` of shape (T,), int64, 0 <= index < n.
    """
    start = _draw_start(total_frames - num_frames * sampling_rate, generator)
    num_valid = min(num_frames, -(-(total_frames - start) // sampling_rate))  # ceil: grid points below n
    return start + sampling_rate * np.minimum(np.arange(num_frames), num_valid - 1)


def spread_clip(
    total_frames: int, num_frames: int, sampling_rate: int, generator: np.random.Generator | None
) -> np.ndarray:
    """Draw a clip spread over a whole window of W frames (K400 fine-tuning and SSV2 pre-training).

    n > W: frames start + min(floor(i * W / (T - 1)), W - 1). n <= W: the n // r points spread evenly from 0 to n as
    integers, clipped to n - 1, then n - 1 repeated.

    Args:
        total_frames (`int`): frames of the video, n.
        num_frames (`int`): frames of the clip, T.
        sampling_rate (`int`): frames of the window per frame of the clip, r.
        generator (`np.random.Generator` or `None`): draws the start uniformly from 0..n - W - 1; None takes the middle
            one.

    Returns:
        `np.ndarray` of shape (T,), int64, 0 <= index < n.
    """
    window = num_frames * sampling_rate
    if total_frames > window:
        start = _draw_start(total_frames - window - 1, generator)
        return start + np.minimum(_spread_points(window, num_frames), window - 1)
    points = _spread_points(total_frames, total_frames // sampling_rate)
    padding = np.full(num_frames - len(points), total_frames - 1, dtype=np.int64)
    return np.concatenate([np.minimum(points, total_frames - 1), padding])


def segment_clip(total_frames: int, num_frames: int, generator: np.random.Generator | None) -> np.ndarray:
    """Draw one frame from each of T segments of n // T frames (SSV2 fine-tuning).

    n < T: all n frames, the first one repeated in front of them.

    Args:
        total_frames (`int`): frames of the video, n.
        num_frames (`int`): frames of the clip, T.
        generator (`np.random.Generator` or `None`): draws uniformly within each segment; None takes its middle.

    Returns:
        `np.ndarray` of shape (T,), int64, 0 <= index < n.
    """
    segment_length = total_frames // num_frames
    if segment_length == 0:
        return np.maximum(np.arange(num_frames) - (num_frames - total_frames), 0)
    starts = np.arange(num_frames) * segment_length
    if generator is None:
        return starts + segment_length // 2
    return starts + generator.integers(segment_length, size=num_frames)


_Sampler = Callable[[int, int, int, "np.random.Generator | None"], np.ndarray]
_SAMPLERS: dict[str, _Sampler] = {
    "dense": dense_clip,
    "spread": spread_clip,
    "segments": lambda total_frames, num_frames, _, generator: segment_clip(total_frames, num_frames, generator),
}
SAMPLING_MODES = tuple(_SAMPLERS)


def sample_clip(
    total_frames: int, *, num_frames: int, sampling_rate: int, mode: str, generator: np.random.Generator | None
) -> np.ndarray:
    """Draw the frame indices of a training clip (or, with `generator=None`, the validation clip) by `mode`.

    Args:
        total_frames (`int`): frames of the video, at least 1.
        num_frames (`int`): frames of the clip.
        sampling_rate (`int`): see `dense_clip` and `spread_clip`; `segments` has no use for it.
        mode (`str`): `dense`, `spread` or `segments`.
        generator (`np.random.Generator` or `None`): None takes the middle instead of drawing.

    Returns:
        `np.ndarray` of shape (num_frames,), int64.

    Raises:
        ValueError: an unknown `mode` or a count below 1.
    """
    if mode not in _SAMPLERS:
        raise ValueError(f"`mode` must be one of {list(SAMPLING_MODES)}, not {mode!r}.")
    _check_counts(total_frames=total_frames, num_frames=num_frames, sampling_rate=sampling_rate)
    return _SAMPLERS[mode](total_frames, num_frames, sampling_rate, generator)


@dataclass(frozen=True)
class View:
    """One crop of one clip of a video in the multi-view test.

    Args:
        segment (`int`): number of the clip, from 0.
        crop (`int`): number of the crop, from 0, along the long side.
        frame_indices (`tuple[int, ...]`): the clip's frames.
        top (`int`): first row of the crop, in the resized video.
        left (`int`): first column of the crop, in the resized video.
    """

    segment: int
    crop: int
    frame_indices: tuple[int, ...]
    top: int
    left: int


def evaluation_views(
    total_frames: int,
    height: int,
    width: int,
    *,
    num_frames: int,
    sampling_rate: int,
    num_segments: int,
    num_crops: int,
    crop_size: int,
    mode: str,
) -> list[View]:
    """List the views of the multi-view test, segment by segment, each with its crops.

    The views belong to the video resized so that its short side is `crop_size` and its long side
    `int(crop_size * long / short)`.

    Args:
        total_frames (`int`): frames of the video.
        height (`int`): height of the video itself, in pixels.
        width (`int`): width of the video itself, in pixels.
        num_frames (`int`): frames of a clip, T.
        sampling_rate (`int`): distance between the frames of a dense clip; `uniform` has no use for it.
        num_segments (`int`): clips per video, S.
        num_crops (`int`): crops per clip, C.
        crop_size (`int`): side of the square crops, in pixels.
        mode (`str`): `dense` (Kinetics) or `uniform` (Something-Something).

    Returns:
        `list[View]` of length S * C.

    Raises:
        ValueError: an unknown `mode` or a count below 1.
    """
    _check_counts(
        total_frames=total_frames, height=height, width=width, num_frames=num_frames, sampling_rate=sampling_rate,
        num_segments=num_segments, num_crops=num_crops, crop_size=crop_size,
    )  # fmt: skip
    if mode == "dense":
        segments = _dense_segments(total_frames, num_frames, sampling_rate, num_segments)
    elif mode == "uniform":
        segments = _uniform_segments(total_frames, num_frames, num_segments)
    else:
        raise ValueError(f"`mode` must be 'dense' or 'uniform', not {mode!r}.")
    corners = _crop_corners(height, width, num_crops, crop_size)
    return [
        View(segment, crop, tuple(map(int, frame_indices)), top, left)
        for segment, frame_indices in enumerate(segments)
        for crop, (top, left) in enumerate(corners)
    ]


def _dense_segments(total_frames: int, num_frames: int, sampling_rate: int, num_segments: int) -> list[np.ndarray]:
    grid = np.arange(0, total_frames, sampling_rate)
    grid = np.pad(grid, (0, max(num_frames - len(grid), 0)), mode="edge")
    step = max((len(grid) - num_frames) / (num_segments - 1), 0) if num_segments > 1 else 0.0
    starts = [int(segment * step) for segment in range(num_segments)]
    return [grid[start : start + num_frames] for start in starts]


def _uniform_segments(total_frames: int, num_frames: int, num_segments: int) -> list[np.ndarray]:
    tick = total_frames / num_frames
    positions = [int(tick * x) for x in range(num_frames)]
    positions += [int(tick / y + tick * x) for y in range(2, num_segments + 1) for x in range(num_frames)]
    return [np.array(sorted(positions)[segment::num_segments]) for segment in range(num_segments)]


def _crop_corners(height: int, width: int, num_crops: int, crop_size: int) -> list[tuple[int, int]]:
    """(top, left) of the crops along the long side of the resized video."""
    room = int(crop_size * max(height, width) / min(height, width)) - crop_size
    offsets = [int(crop * room / (num_crops - 1)) for crop in range(num_crops)] if num_crops > 1 else [room // 2]
    return [(offset, 0) if height > width else (0, offset) for offset in offsets]


def _draw_start(largest: int, generator: np.random.Generator | None) -> int:
    largest = max(largest, 0)
    return largest // 2 if generator is None else int(generator.integers(largest + 1))


def _spread_points(stop: int, num_points: int) -> np.ndarray:
    """`num_points` integers spread evenly from 0 to `stop`, both included; in integers, as floats may round down."""
    return np.arange(num_points, dtype=np.int64) * stop // max(num_points - 1, 1)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, not {count}.")
