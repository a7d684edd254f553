"""What `amd-hf benchmark data` measures: stages by the stack, workers by the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf.benchmarking.loading import STAGES, describe_videos, measure_workers, profile_loading
from amd_hf.data.augment.transforms import resize_short_side
from amd_hf.data.clips import ClassificationCollator, ClipLoader
from tests.helpers.videos import textured_rows, write_video


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found = textured_rows(tmp_path_factory.mktemp("videos"), num_videos=2, num_frames=16)
    return [{**row, "label": 0} for row in found]


def _burn(seconds: float) -> None:
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def test_stages_are_told_apart_and_add_up_to_the_cpu_time(rows: list[dict[str, Any]]) -> None:
    loader = ClipLoader(
        num_frames=8, sampling_rate=1, image_size=64, augmentation="random_resized_crop", repetitions=2
    )
    plain = profile_loading(ClassificationCollator(loader), rows, 2, 0.5)
    assert plain.num_clips == 2 * plain.num_videos > 0
    assert sum(plain.stages.values()) == pytest.approx(plain.cpu_seconds)
    assert plain.ratio("open") > 0.05 < plain.ratio("decode")
    assert plain.ratio("augment") < 0.05
    augmenting = ClipLoader(**{**vars(loader), "rand_augment": "rand-m7-n4-mstd0.5-inc1", "repetitions": 8})
    assert profile_loading(ClassificationCollator(augmenting), rows, 8, 0.5).ratio("augment", "crop and resize") > 0.3


def test_time_of_the_collator_itself_is_that_of_the_batch(rows: list[dict[str, Any]]) -> None:
    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        _burn(0.01)
        return {"unreadable": []}

    profile = profile_loading(collate, rows, 3, 0.2)
    assert profile.ratio("batch") > 0.95
    assert 200 < profile.clips_per_core < 301  # 3 clips in each hundredth of a second
    assert set(profile.stages) == set(STAGES)


def test_one_long_call_counts_as_long_as_many_short_ones(rows: list[dict[str, Any]]) -> None:
    clip = torch.zeros(8, 3, 360, 640, dtype=torch.uint8)

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        start = time.process_time()
        resize_short_side(clip, 224, "bilinear")
        _burn(time.process_time() - start)
        return {"unreadable": []}

    # On a busy machine a second of the clock holds few samples.
    assert 0.3 < profile_loading(collate, rows, 1, 1.0).ratio("crop and resize") < 0.7


def test_unreadable_videos_are_counted_and_no_clips(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    bad = {"video": {"path": str(tmp_path / "bad.mp4")}, "label": 0, "video_id": "bad"}
    loader = ClipLoader(num_frames=4, sampling_rate=1, image_size=32)
    profile = profile_loading(ClassificationCollator(loader), [rows[0], bad], 1, 0.2)
    assert profile.num_unreadable == profile.num_videos // 2 > 0
    assert profile.num_clips == profile.num_videos - profile.num_unreadable


class _Sleep:
    """Takes a twentieth of a second of wall time for each batch, and no CPU."""

    def __call__(self, batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
        time.sleep(0.05)
        return {"unreadable": []}


def test_workers_multiply_what_one_gives(rows: list[dict[str, Any]]) -> None:
    one, three = (measure_workers(_Sleep(), rows, 2, number, 0.8) for number in (1, 3))
    assert 30 < one.clips_per_second <= 100  # batches of 2 videos, 2 clips each: at most 80, and one more at the end
    assert 2 < three.clips_per_second / one.clips_per_second < 4
    assert one.cpu_seconds is not None
    assert one.cpu_seconds < 0.5 * one.seconds


def test_videos_are_described_by_their_medians(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", num_frames=12, height=48, width=64)
    rows = [{"video": {"path": str(tmp_path / name)}, "video_id": name} for name in ("a.mp4", "missing.mp4")]
    assert describe_videos(rows, None, None) == {
        "num_opened": 1, "short_side": 48, "long_side": 64, "num_frames": 12,
    }  # fmt: skip
    assert describe_videos(rows[1:], None, None) == {"num_opened": 0}
