# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Which frames of a video make a clip: pure functions from sizes to indices, before anything is decoded.

With n frames in the video, T frames to take at rate r, and the window W = T * r:

    dense      n = 20, T = 4, r = 3   . . . [x . . x . . x . . x . .] . . . . .      start uniform in 0..n-W
    spread     n = 20, T = 4, r = 3   . . . [x . . . x . . . x . . x] . . . . .      the same window, filled to its end
    segments   n = 20, T = 4          [. . x . .|x . . . .|. . . . x|. x . . .]      one draw in each of T parts

This file travels with published checkpoints as Hub remote code: the video processor samples by it wherever a model
goes, training and tests by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


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
    """Draw the frame indices of a training clip (or, with `generator=None`, the clip of validation and use) by `mode`.

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
    check_counts(total_frames=total_frames, num_frames=num_frames, sampling_rate=sampling_rate)
    return _SAMPLERS[mode](total_frames, num_frames, sampling_rate, generator)


def check_counts(**counts: int) -> None:
    """Raise `ValueError` for the first count that is below 1, by its name."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, not {count}.")


def _draw_start(largest: int, generator: np.random.Generator | None) -> int:
    largest = max(largest, 0)
    return largest // 2 if generator is None else int(generator.integers(largest + 1))


def _spread_points(stop: int, num_points: int) -> np.ndarray:
    """Spread `num_points` integers evenly from 0 to `stop`, both included; in integers, as floats may round down."""
    return np.arange(num_points, dtype=np.int64) * stop // max(num_points - 1, 1)
