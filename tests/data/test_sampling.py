"""Which frames are drawn: each law against a plain loop, the test views against the authors' figures."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amd_hf.data.clips import sample_generator
from amd_hf.data.sampling import View, evaluation_views, sample_clip


_REPOSITORY = Path(__file__).parents[2]
_GOLDEN_FILE = (
    Path(os.environ.get("AMD_GOLDEN_DIR", _REPOSITORY / "../shared/golden")) / "evaluation_views_and_schedules.json"
)
_LENGTHS = [1, 2, 3, 5, 7, 8, 11, 12, 13, 14, 20, 33]  # around T = 4, W = 12


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not _GOLDEN_FILE.is_file():
        pytest.skip(f"the golden figures are absent: no {_GOLDEN_FILE} (set AMD_GOLDEN_DIR)")
    return json.loads(_GOLDEN_FILE.read_text())


# ---------------------------------------------------------------------------------------------------------------------
# The generator of a sample
# ---------------------------------------------------------------------------------------------------------------------


def test_sample_generator_gives_recorded_numbers() -> None:
    # Recorded once: the same in every process, on every machine, in every later version.
    drawn = sample_generator(1, 2, "left/a.mp4", 3, "mask").integers(2**32, size=3)
    assert drawn.tolist() == [4052100843, 2260235570, 3364070952]


@pytest.mark.parametrize(
    "changed",
    [(8, 2, "v", 3, "p"), (1, 8, "v", 3, "p"), (1, 2, "w", 3, "p"), (1, 2, "v", 8, "p"), (1, 2, "v", 3, "q")],
    ids=["seed", "epoch", "video_id", "repetition", "purpose"],
)
def test_sample_generator_depends_on_every_argument(changed: tuple[int, int, str, int, str]) -> None:
    numbers = sample_generator(1, 2, "v", 3, "p").integers(2**32, size=4)
    assert not np.any(numbers == sample_generator(*changed).integers(2**32, size=4))


@pytest.mark.parametrize(
    ("one", "other"), [((1, 11, "v", 1, ""), (11, 1, "v", 1, "")), ((1, 1, "v1", 1, "2"), (1, 1, "v", 11, "2"))]
)
def test_sample_generator_keeps_neighbouring_fields_apart(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert sample_generator(*one).integers(2**62) != sample_generator(*other).integers(2**62)


def test_sample_generator_takes_numpy_integers() -> None:
    plain, numpy = sample_generator(1, 2, "v", 3), sample_generator(np.int64(1), np.int32(2), "v", np.int64(3))
    assert plain.integers(2**62) == numpy.integers(2**62)


# ---------------------------------------------------------------------------------------------------------------------
# Training clips
# ---------------------------------------------------------------------------------------------------------------------


def _dense(start: int, total: int, num_frames: int, rate: int) -> list[int]:
    clip: list[int] = []
    for number in range(num_frames):
        frame = start + rate * number
        clip.append(frame if frame < total else clip[-1])
    return clip


def _spread(start: int, total: int, num_frames: int, rate: int) -> list[int]:
    window = num_frames * rate
    if total > window:
        return [start + min(int(Fraction(i * window, num_frames - 1)), window - 1) for i in range(num_frames)]
    num_points = total // rate
    gaps = max(num_points - 1, 1)
    points = [min(int(Fraction(i * total, gaps)), total - 1) for i in range(num_points)]
    return points + [total - 1] * (num_frames - num_points)


def _starts(mode: str, total: int, window: int) -> range:
    return range(max(total - window, 0) + 1) if mode == "dense" else range(max(total - window, 1))


@pytest.mark.parametrize(("mode", "law"), [("dense", _dense), ("spread", _spread)])
@pytest.mark.parametrize("total", _LENGTHS)
def test_clips_drawn_are_all_those_of_the_law_and_no_other(
    mode: str, law: Callable[[int, int, int, int], list[int]], total: int
) -> None:
    generator = np.random.default_rng(0)
    drawn = Counter(
        tuple(sample_clip(total, num_frames=4, sampling_rate=3, mode=mode, generator=generator).tolist())
        for _ in range(600)
    )
    expected = [tuple(law(start, total, 4, 3)) for start in _starts(mode, total, 12)]
    assert set(drawn) == set(expected)
    # Uniform: every start within five standard deviations of its share.
    share = 600 / len(expected)
    assert all(abs(count - share) <= 5 * share**0.5 for count in drawn.values())


@pytest.mark.parametrize("mode", ["dense", "spread"])
@pytest.mark.parametrize(("total", "start"), [(5, 0), (12, 0), (20, {"dense": 4, "spread": 3}), (33, 10)])
def test_clip_without_generator_starts_in_the_middle(mode: str, total: int, start: int | dict[str, int]) -> None:
    clip = sample_clip(total, num_frames=4, sampling_rate=3, mode=mode, generator=None)
    law = _dense if mode == "dense" else _spread
    assert clip.tolist() == law(start[mode] if isinstance(start, dict) else start, total, 4, 3)


@pytest.mark.parametrize("total", [4, 7, 8, 19])
def test_segment_clip_draws_uniformly_within_each_segment(total: int) -> None:
    generator = np.random.default_rng(0)
    length = total // 4
    clips = np.stack([
        sample_clip(total, num_frames=4, sampling_rate=1, mode="segments", generator=generator) for _ in range(600)
    ])  # fmt: skip
    for segment in range(4):
        counts = Counter(clips[:, segment].tolist())
        assert set(counts) == set(range(segment * length, (segment + 1) * length))
        assert all(abs(count - 600 / length) <= 5 * (600 / length) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (1, [0, 0, 0, 0]),
        (2, [0, 0, 0, 1]),
        (3, [0, 0, 1, 2]),
        (4, [0, 1, 2, 3]),
        (12, [1, 4, 7, 10]),
        (15, [1, 4, 7, 10]),
    ],
)
def test_segment_clip_without_generator_takes_middles_or_repeats_the_first_frame(
    total: int, expected: list[int]
) -> None:
    assert sample_clip(total, num_frames=4, sampling_rate=1, mode="segments", generator=None).tolist() == expected


@pytest.mark.parametrize("mode", ["dense", "spread", "segments"])
@pytest.mark.parametrize(("total", "num_frames", "rate"), [(1, 16, 4), (3, 1, 2), (100, 1, 1), (17, 16, 1)])
def test_clip_of_any_length_has_its_frames_inside_the_video(mode: str, total: int, num_frames: int, rate: int) -> None:
    for generator in (None, *(np.random.default_rng(seed) for seed in range(20))):
        clip = sample_clip(total, num_frames=num_frames, sampling_rate=rate, mode=mode, generator=generator)
        assert clip.shape == (num_frames,)
        assert clip.dtype == np.int64
        assert clip.min() >= 0
        assert clip.max() < total
        assert np.all(np.diff(clip) >= 0)


def test_unknown_sampling_mode_raises_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"\['dense', 'spread', 'segments'\], not 'uniform'"):
        sample_clip(10, num_frames=2, sampling_rate=1, mode="uniform", generator=None)


@pytest.mark.parametrize("name", ["total_frames", "num_frames", "sampling_rate"])
def test_count_below_one_raises_with_its_name(name: str) -> None:
    counts = {"total_frames": 10, "num_frames": 2, "sampling_rate": 1, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, not 0"):
        sample_clip(counts.pop("total_frames"), mode="dense", generator=None, **counts)


# ---------------------------------------------------------------------------------------------------------------------
# Test views
# ---------------------------------------------------------------------------------------------------------------------


def _golden_views(case: dict[str, Any], mode: str) -> list[View]:
    return evaluation_views(
        case["total_frames"], case.get("height", 224), case.get("width", 298), num_frames=case["num_frames"],
        sampling_rate=case.get("sampling_rate", 2), num_segments=case["segments"], num_crops=case["crops"],
        crop_size=224, mode=mode,
    )  # fmt: skip


def test_dense_views_equal_the_authors_figures(golden: dict[str, Any]) -> None:
    for case in golden["dense_video_test"]:
        along = "top" if case["height"] > case["width"] else "left"
        across = "left" if along == "top" else "top"
        views = _golden_views(case, "dense")
        expected = [(view["segment"], view["crop"], view["frames"], view["offset"], 0) for view in case["views"]]
        assert [
            (view.segment, view.crop, list(view.frame_indices), getattr(view, along), getattr(view, across))
            for view in views
        ] == expected, {key: value for key, value in case.items() if key != "views"}


def test_uniform_views_equal_the_authors_figures(golden: dict[str, Any]) -> None:
    for case in golden["uniform_frames_test"]:
        views = _golden_views(case, "uniform")
        assert [(view.segment, view.crop, list(view.frame_indices)) for view in views] == [
            (view["segment"], view["crop"], view["frames"]) for view in case["views"]
        ], case["total_frames"]


def _offsets(height: int, width: int, num_crops: int, crop_size: int) -> Sequence[tuple[int, int]]:
    views = evaluation_views(
        9, height, width, num_frames=2, sampling_rate=1, num_segments=1, num_crops=num_crops, crop_size=crop_size,
        mode="dense",
    )  # fmt: skip
    return [(view.top, view.left) for view in views]


@pytest.mark.parametrize(
    ("height", "width", "num_crops", "expected"),
    [
        (240, 320, 3, [(0, 0), (0, 19), (0, 39)]),  # 118 x 157 after the resize; 19.5 is rounded down
        (320, 240, 3, [(0, 0), (19, 0), (39, 0)]),
        (240, 320, 1, [(0, 19)]),
        (320, 240, 1, [(19, 0)]),
        (100, 100, 3, [(0, 0)] * 3),
    ],
)
def test_crops_run_along_the_long_side_of_the_resized_video(
    height: int, width: int, num_crops: int, expected: list[tuple[int, int]]
) -> None:
    assert _offsets(height, width, num_crops, 118) == expected


@pytest.mark.parametrize(
    ("mode", "expected"), [("dense", (0, 2, 4, 6)), ("uniform", (0, 5, 10, 15))], ids=["dense", "uniform"]
)
def test_single_segment_starts_at_the_first_frame(mode: str, expected: tuple[int, ...]) -> None:
    (view,) = evaluation_views(
        20, 64, 64, num_frames=4, sampling_rate=2, num_segments=1, num_crops=1, crop_size=64, mode=mode
    )
    assert view == View(0, 0, expected, 0, 0)


def test_views_of_a_one_frame_video_repeat_the_frame() -> None:
    for mode in ("dense", "uniform"):
        views = evaluation_views(
            1, 64, 64, num_frames=4, sampling_rate=2, num_segments=3, num_crops=2, crop_size=64, mode=mode
        )
        assert [view.frame_indices for view in views] == [(0, 0, 0, 0)] * 6


def test_unknown_view_mode_raises_with_the_choices() -> None:
    with pytest.raises(ValueError, match="`mode` must be 'dense' or 'uniform', not 'spread'"):
        evaluation_views(
            1, 64, 64, num_frames=4, sampling_rate=2, num_segments=3, num_crops=2, crop_size=64, mode="spread"
        )
