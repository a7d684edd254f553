"""Two real processes against one and against a plain loop: 11 videos in batches of 4, three cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amd_hf import load_video_dataset
from amd_hf.data.augment.transforms import resize_short_side
from amd_hf.data.sampling import evaluation_views
from amd_hf.data.video.decoding import open_video
from amd_hf.evaluation.features import read_features
from tests.evaluation.two_processes import OPTIONS, classifier, play
from tests.helpers.training import ROOT
from tests.helpers.videos import text_file, truncate, write_video
from tests.helpers.warm import run_warm_group


UNREADABLE = ["a/text.mp4", "c/half.mp4", "f/empty.mp4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shared")
    noise = np.random.default_rng(0)
    for number, length in enumerate([30, 12, 9, 3, 1, 20, 25, 17]):
        frames = noise.integers(0, 256, (length, 4, 6 + number % 3, 3), dtype=np.uint8)
        path = root / "abcdef"[number % 6] / f"{number}.mp4"
        write_video(path, frames=frames.repeat(8, axis=1).repeat(8, axis=2))
    text_file(root / "a" / "text.mp4")
    truncate(write_video(root / "c" / "half.mp4", 10))
    (root / "f" / "empty.mp4").touch()
    return root


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def two(videos: Path, outputs: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    (outputs / "two").mkdir()
    run_warm_group(2, ROOT / "tests" / "evaluation" / "two_processes.py", str(videos), str(outputs / "two"))
    return [torch.load(outputs / "two" / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def one(videos: Path, outputs: Path) -> dict[str, Any]:
    return play(videos, outputs / "one")


def test_two_processes_give_the_numbers_of_one(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert len(one["outcomes"]) == 11
    for found in two:
        assert found["metrics"] == one["metrics"]
        for ours, theirs in zip(found["outcomes"], one["outcomes"], strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                if isinstance(value, np.ndarray):
                    np.testing.assert_allclose(ours[name], value, atol=1e-5)
                else:
                    assert ours[name] == value


def test_each_video_counts_once_and_unreadable_ones_are_wrong(two: list[dict[str, Any]]) -> None:
    outcomes, metrics = two[1]["outcomes"], two[1]["metrics"]
    video_ids = [outcome["video_id"] for outcome in outcomes]
    assert video_ids == sorted(set(video_ids))
    assert [outcome["video_id"] for outcome in outcomes if "reason" in outcome] == UNREADABLE
    assert (metrics["videos_expected"], metrics["videos_read"], metrics["videos_present"]) == (11, 8, 11)
    right = [
        o for o in outcomes if "reason" not in o and o["probabilities"].argmax() == "fedcba".index(o["video_id"][0])
    ]
    assert metrics["accuracy"] == pytest.approx(len(right) / 11)


def test_logits_of_two_processes_are_those_of_views_decoded_one_by_one(
    videos: Path, two: list[dict[str, Any]]
) -> None:
    model = classifier().eval()
    outcomes = {outcome["video_id"]: outcome for outcome in two[0]["outcomes"]}
    for row in load_video_dataset(videos):
        if row["video_id"] in UNREADABLE:
            continue
        path = row["video"]["path"]
        with open_video(path) as video:
            size = len(video), video.height, video.width
        views = evaluation_views(
            *size, num_frames=4, sampling_rate=2, num_segments=2, num_crops=3, crop_size=16, mode=OPTIONS.mode
        )
        logits = []
        for view in views:
            with open_video(path) as video:
                frames = torch.from_numpy(video.frames(view.frame_indices)).permute(0, 3, 1, 2)
            clip = resize_short_side(frames, 16)[:, :, view.top : view.top + 16, view.left : view.left + 16]
            with torch.no_grad():
                logits.append(model(clip[None]).logits[0])
        outcome = outcomes[row["video_id"]]
        np.testing.assert_allclose(outcome["view_logits"], torch.stack(logits), atol=1e-5)
        expected = torch.stack(logits).softmax(dim=1).mean(dim=0)
        np.testing.assert_allclose(outcome["probabilities"], expected, atol=1e-5)
        assert outcome["label"] == "fedcba".index(row["video_id"][0])


def test_features_of_two_processes_are_those_of_one(
    one: dict[str, Any], two: list[dict[str, Any]], outputs: Path
) -> None:
    for found in two:
        assert (found["features"]["written"], found["features"]["videos"]) == (8, 11)
        assert sorted(entry["video_id"] for entry in found["features"]["unreadable"]) == UNREADABLE
    ours, theirs = (
        {entry["video_id"]: entry for entry in read_features(outputs / name / "features")} for name in ("two", "one")
    )
    assert ours.keys() == theirs.keys()
    for video_id, entry in theirs.items():
        for name in ("pooled", "layer_2"):
            torch.testing.assert_close(ours[video_id][name], entry[name], atol=1e-5, rtol=1e-4)
