"""The multi-view test against a plain loop that decodes each view by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from amd_hf import AMDForVideoClassification, load_video_dataset
from amd_hf.data.augment.transforms import resize_short_side
from amd_hf.data.sampling import evaluation_views
from amd_hf.data.video.decoding import open_video
from amd_hf.evaluation import multiview
from amd_hf.evaluation.multiview import MultiViewResult, ViewCollator, ViewOptions, run_multi_view_test
from tests.helpers.models import randomize, tiny_config
from tests.helpers.videos import text_file, truncate, write_list, write_video


OPTIONS = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=2, num_crops=3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of five textured videos, wide and tall and of several lengths, and two that cannot be read."""
    root = tmp_path_factory.mktemp("views")
    noise = np.random.default_rng(0)
    for number, (length, height, width) in enumerate(
        [(30, 32, 64), (12, 64, 32), (9, 32, 32), (3, 48, 64), (1, 32, 48)]
    ):
        frames = noise.integers(0, 256, (length, height // 8, width // 8, 3), dtype=np.uint8)
        write_video(root / "abcde"[number] / f"{number}.mp4", frames=frames.repeat(8, axis=1).repeat(8, axis=2))
    text_file(root / "a" / "text.mp4")
    truncate(write_video(root / "c" / "half.mp4", 10))
    return root


@pytest.fixture
def rows(videos: Path) -> datasets.Dataset:
    return load_video_dataset(videos)


@pytest.fixture
def model() -> AMDForVideoClassification:
    return randomize(AMDForVideoClassification(tiny_config(image_size=16)), std=0.2).eval()


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def _view_by_view(model: AMDForVideoClassification, path: str, options: ViewOptions) -> torch.Tensor:
    """Logits of every view, for each of which the video is opened, decoded and resized again."""
    with open_video(path) as video:
        total, height, width = len(video), video.height, video.width
    logits = []
    for view in evaluation_views(
        total, height, width, num_frames=options.num_frames, sampling_rate=options.sampling_rate,
        num_segments=options.num_segments, num_crops=options.num_crops, crop_size=options.crop_size, mode=options.mode,
    ):  # fmt: skip
        with open_video(path) as video:
            frames = torch.from_numpy(video.frames(view.frame_indices)).permute(0, 3, 1, 2)
        frames = resize_short_side(frames, options.crop_size)
        clip = frames[:, :, view.top : view.top + 16, view.left : view.left + 16]
        with torch.no_grad():
            logits.append(model(clip[None]).logits[0])
    return torch.stack(logits)


@pytest.mark.parametrize("mode", ["dense", "uniform"])
@pytest.mark.parametrize(("num_segments", "num_crops"), [(1, 1), (2, 3), (3, 2)])
def test_prediction_is_the_mean_softmax_of_views_taken_one_by_one(
    rows: datasets.Dataset,
    model: AMDForVideoClassification,
    accelerator: Accelerator,
    mode: str,
    num_segments: int,
    num_crops: int,
) -> None:
    options = ViewOptions(
        num_frames=4, crop_size=16, sampling_rate=2, num_segments=num_segments, num_crops=num_crops, mode=mode
    )
    result = run_multi_view_test(model, rows, options, accelerator, videos_per_batch=2)
    paths = {row["video_id"]: row["video"]["path"] for row in rows}
    assert [p["video_id"] for p in result.predictions] == ["a/0.mp4", "b/1.mp4", "c/2.mp4", "d/3.mp4", "e/4.mp4"]
    for prediction in result.predictions:
        logits = _view_by_view(model, paths[prediction["video_id"]], options)
        assert len(logits) == num_segments * num_crops == options.num_views
        odds = logits.double().exp()
        expected = (odds / odds.sum(dim=1, keepdim=True)).mean(dim=0)
        np.testing.assert_allclose(prediction["probabilities"], expected, atol=1e-5)
        assert prediction["view_predictions"].tolist() == logits.argmax(dim=1).tolist()


def test_unreadable_videos_are_listed_and_count_as_wrong(
    rows: datasets.Dataset, model: AMDForVideoClassification, accelerator: Accelerator
) -> None:
    result = run_multi_view_test(model, rows, OPTIONS, accelerator, videos_per_batch=1)
    assert [video_id for video_id, _ in result.unreadable] == ["a/text.mp4", "c/half.mp4"]
    assert all(reason for _, reason in result.unreadable)
    right = sum(int(p["probabilities"].argmax() == p["label"]) for p in result.predictions)
    metrics = result.metrics()
    assert metrics["accuracy"] == pytest.approx(right / 7)
    assert (metrics["videos_expected"], metrics["videos_read"]) == (7, 5)


@pytest.mark.parametrize(("videos_per_batch", "num_workers"), [(1, 0), (3, 0), (8, 2)])
def test_result_does_not_depend_on_batches_and_workers(
    rows: datasets.Dataset,
    model: AMDForVideoClassification,
    accelerator: Accelerator,
    videos_per_batch: int,
    num_workers: int,
) -> None:
    reference = run_multi_view_test(model, rows, OPTIONS, accelerator, videos_per_batch=2)
    result = run_multi_view_test(
        model, rows, OPTIONS, accelerator, videos_per_batch=videos_per_batch, num_workers=num_workers
    )
    assert result.unreadable == reference.unreadable
    for ours, theirs in zip(result.predictions, reference.predictions, strict=True):
        assert (ours["video_id"], ours["label"]) == (theirs["video_id"], theirs["label"])
        np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-6)


def test_each_video_is_opened_and_decoded_once(
    rows: datasets.Dataset,
    model: AMDForVideoClassification,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    reads: list[int] = []

    def counting(source: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(kwargs["video_id"])
        reader = open_video(source, *args, **kwargs)
        frames = reader.frames
        reader.frames = lambda indices: reads.append(len(indices)) or frames(indices)
        return reader

    monkeypatch.setattr(multiview, "open_video", counting)
    run_multi_view_test(model, rows, OPTIONS, accelerator)
    assert sorted(opened) == sorted(rows["video_id"])
    # Of each readable video the frames of two segments, however many crops; the first frame told its size before.
    assert len(reads) == 5
    assert all(count <= 2 * 4 for count in reads)


def test_views_of_a_file_need_no_row(videos: Path) -> None:
    views = ViewCollator(OPTIONS).views(str(videos / "a" / "0.mp4"))
    assert views.shape == (6, 4, 3, 16, 16)
    assert views.dtype == torch.uint8


def test_time_limit_changes_no_pixel(videos: Path) -> None:
    path = str(videos / "b" / "1.mp4")
    limited = ViewCollator(OPTIONS, time_limit=100).views(path)
    assert torch.equal(limited, ViewCollator(OPTIONS).views(path))


def test_row_without_a_label_raises(videos: Path, model: AMDForVideoClassification, accelerator: Accelerator) -> None:
    rows = load_video_dataset(write_list(videos / "list.txt", [str(videos / "a" / "0.mp4")]))
    with pytest.raises(ValueError, match="Video 'a/0.mp4' has no label"):
        run_multi_view_test(model, rows, OPTIONS, accelerator)


def test_labels_go_to_the_models_numbers_of_the_same_names(
    rows: datasets.Dataset, model: AMDForVideoClassification, accelerator: Accelerator
) -> None:
    model.config.id2label = dict(enumerate("edcba"))  # the data has a, b, c, d, e
    result = run_multi_view_test(model, rows, OPTIONS, accelerator)
    assert result.label_names == list("edcba")
    for outcome in result.outcomes:
        assert result.label_names[outcome["label"]] == outcome["video_id"][0]


def test_logits_of_every_view_are_kept_where_asked_for(
    rows: datasets.Dataset, model: AMDForVideoClassification, accelerator: Accelerator
) -> None:
    result = run_multi_view_test(model, rows, OPTIONS, accelerator, videos_per_batch=3, keep_view_logits=True)
    paths = {row["video_id"]: row["video"]["path"] for row in rows}
    for prediction in result.predictions:
        expected = _view_by_view(model, paths[prediction["video_id"]], OPTIONS)
        np.testing.assert_allclose(prediction["view_logits"], expected, atol=1e-5)
    assert len(result.predictions) == 5


def test_scores_that_are_no_numbers_raise(
    rows: datasets.Dataset, model: AMDForVideoClassification, accelerator: Accelerator
) -> None:
    with torch.no_grad():
        model.classifier.bias[1] = float("nan")
    with pytest.raises(ValueError, match="scores of video 'a/0.mp4' are not finite"):
        run_multi_view_test(model, rows, OPTIONS, accelerator)


@pytest.mark.parametrize(("total", "start"), [(30, 11), (31, 11), (9, 0), (8, 0), (3, 0)])
def test_middle_segment_lies_in_the_middle(total: int, start: int) -> None:
    options = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=1, num_crops=1, mode="middle")
    (view,) = options.views(total, 16, 16)
    assert view.frame_indices == tuple(
        min(start + 2 * i, (total - 1) // 2 * 2 if start == 0 else 99) for i in range(4)
    )
    with pytest.raises(ValueError, match="one segment in the middle of a video, not 2"):
        ViewOptions(num_frames=4, crop_size=16, num_segments=2, mode="middle")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def _outcome(label: int, probabilities: list[float], views: list[int]) -> dict[str, Any]:
    return {
        "video_id": str(label),
        "label": label,
        "probabilities": np.array(probabilities, dtype=np.float32),
        "view_predictions": np.array(views),
    }


def _failure(label: int, is_present: bool = True) -> dict[str, Any]:
    return {"video_id": "bad", "label": label, "reason": "text", "is_present": is_present}


def test_metrics_of_a_result_worked_out_by_hand() -> None:
    six = [0.3, 0.25, 0.2, 0.15, 0.08, 0.02]
    outcomes = [_outcome(0, six, [0, 1]), _outcome(4, six, [4, 4]), _failure(0, False), _outcome(5, six, [0, 0])]
    result = MultiViewResult(outcomes, list("abcdef"))
    assert result.metrics() == {
        "accuracy": 1 / 4,
        "clip_accuracy": (0.5 + 1 + 0) / 4,
        "mean_class_accuracy": pytest.approx((1 / 2 + 0 + 0) / 3),
        "videos_expected": 4,
        "videos_read": 3,
        "videos_present": 3,
        "top5_accuracy": 2 / 4,
    }
    assert result.unreadable == [("bad", "text")]
    assert result.predictions == [outcomes[0], outcomes[1], outcomes[3]]


@pytest.mark.parametrize("outcomes", [[], [_failure(1)]])
def test_metrics_without_any_readable_video_are_zero(outcomes: list[dict[str, Any]]) -> None:
    metrics = MultiViewResult(outcomes, ["a", "b"]).metrics()
    assert metrics == {
        "accuracy": 0.0, "clip_accuracy": 0.0, "mean_class_accuracy": 0.0,
        "videos_expected": len(outcomes), "videos_read": 0, "videos_present": len(outcomes),
    }  # fmt: skip
