"""Which frames and crops are looked at: pure functions from sizes to indices, before anything is decoded.

The laws of a single clip are in `video_sampling_amd`, which travels with models; here are the views of a test and the
generators that training draws from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..video_sampling_amd import SAMPLING_MODES, check_counts, dense_clip, sample_clip, segment_clip, spread_clip


__all__ = [
    "SAMPLING_MODES",
    "View",
    "dense_clip",
    "evaluation_views",
    "sample_clip",
    "segment_clip",
    "spread_clip",
]


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
    check_counts(
        total_frames=total_frames, height=height, width=width, num_frames=num_frames, sampling_rate=sampling_rate,
        num_segments=num_segments, num_crops=num_crops, crop_size=crop_size,
    )  # fmt: skip
    if mode == "dense":
        grid = np.arange(0, total_frames, sampling_rate)
        grid = np.pad(grid, (0, max(num_frames - len(grid), 0)), mode="edge")
        step = max((len(grid) - num_frames) / (num_segments - 1), 0) if num_segments > 1 else 0.0
        starts = [int(segment * step) for segment in range(num_segments)]
        segments = [grid[start : start + num_frames] for start in starts]
    elif mode == "uniform":
        tick = total_frames / num_frames
        positions = [int(tick * x) for x in range(num_frames)]
        positions += [int(tick / y + tick * x) for y in range(2, num_segments + 1) for x in range(num_frames)]
        segments = [np.array(sorted(positions)[segment::num_segments]) for segment in range(num_segments)]
    else:
        raise ValueError(f"`mode` must be 'dense' or 'uniform', not {mode!r}.")
    # Crops lie along the long side of the resized video: (top, left) of each.
    room = int(crop_size * max(height, width) / min(height, width)) - crop_size
    offsets = [int(crop * room / (num_crops - 1)) for crop in range(num_crops)] if num_crops > 1 else [room // 2]
    corners = [(offset, 0) if height > width else (0, offset) for offset in offsets]
    return [
        View(segment, crop, tuple(map(int, frame_indices)), top, left)
        for segment, frame_indices in enumerate(segments)
        for crop, (top, left) in enumerate(corners)
    ]
