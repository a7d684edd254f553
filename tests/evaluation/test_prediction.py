"""Predictions: which frames each window sees, how often a frame is decoded, and the answers of a plain loop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import pipeline

from amd_hf import AMDForVideoClassification, AMDVideoProcessor
from amd_hf.data.video.decoding import open_video
from amd_hf.data.video.source import VideoReadError
from amd_hf.evaluation import prediction
from amd_hf.evaluation.multiview import ViewOptions
from amd_hf.evaluation.prediction import WindowOptions, find_videos, predict_videos, window_clips
from tests.helpers.models import randomize, tiny_config
from tests.helpers.videos import frame_numbers, text_file, write_video


ONE_VIEW = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=1, num_crops=1, mode="middle")


@pytest.fixture
def model() -> AMDForVideoClassification:
    return randomize(AMDForVideoClassification(tiny_config(image_size=16)), std=0.2).eval()


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def noise_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 textured frames, so that logits of different windows differ."""
    frames = np.random.default_rng(0).integers(0, 256, (50, 6, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    return write_video(path, frames=frames.repeat(8, axis=1).repeat(8, axis=2))


# ---------------------------------------------------------------------------------------------------------------------
# Finding files
# ---------------------------------------------------------------------------------------------------------------------


def test_files_folders_and_patterns_are_found_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b/deep/2.webm", "b/1.mp4", "b/notes.txt", "c/x.avi", "c/y.mp4", "odd[1].mp4", "b/._1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inputs = ["c/y.mp4", "b", "**/*.mp4", "nowhere.mp4", "odd[1].mp4"]
    found = find_videos([str(tmp_path / name) for name in inputs])
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == [
        "c/y.mp4", "b/1.mp4", "b/deep/2.webm", "odd[1].mp4", "nowhere.mp4"
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "message"), [("empty", "no video in the folder"), ("*.mp4", "No file fits")])
def test_folder_or_pattern_without_a_video_raises(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_videos([str(tmp_path / name)])


# ---------------------------------------------------------------------------------------------------------------------
# Frames of windows
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize(
    ("length", "stride", "num_segments", "expected"),
    [
        (8, 8, 1, {0: [0, 2, 4, 6], 1: [8, 10, 12, 14], 12: [92, 94, 96, 98]}),
        (10, 3, 1, {0: [1, 3, 5, 7], 1: [4, 6, 8, 10], 30: [91, 93, 95, 97]}),
        (3, 30, 1, {0: [0, 2, 2, 2], 1: [30, 32, 32, 32], 4: [97, 99, 99, 99]}),
        (20, 20, 2, {0: [0, 2, 4, 6, 12, 14, 16, 18], 4: [80, 82, 84, 86, 92, 94, 96, 98]}),
    ],
)
def test_window_sees_its_own_frames(
    tmp_path: Path, decoder: str, length: int, stride: int, num_segments: int, expected: dict[int, list[int]]
) -> None:
    path = write_video(tmp_path / "numbered.mp4", 100, 32, 32)
    mode = "middle" if num_segments == 1 else "dense"
    options = ViewOptions(
        num_frames=4, crop_size=16, sampling_rate=2, num_segments=num_segments, num_crops=1, mode=mode
    )
    windows = list(window_clips(str(path), options, WindowOptions(length, stride, "frames"), decoder))
    for number, frames in expected.items():
        window, clips = windows[number]
        assert frame_numbers(clips.flatten(0, 1).numpy(), channel_axis=1) == frames
        assert window is not None
        assert window.start_frame <= frames[0] <= frames[-1] < window.stop_frame
        assert window.start_seconds == pytest.approx(window.start_frame / 25)
        assert window.end_seconds == pytest.approx(window.stop_frame / 25)
    assert len(windows) == max(expected) + 1


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (16, 3), (40, 1)])
def test_video_is_read_forward_and_each_frame_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, stride: int
) -> None:
    path = write_video(tmp_path / "numbered.mp4", 100, 32, 32)
    asked: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        reader = open_video(*args, **kwargs)
        _ = reader.height, reader.width
        frames = reader.frames
        reader.frames = lambda indices: asked.extend(map(int, indices)) or frames(indices)
        return reader

    monkeypatch.setattr(prediction, "open_video", watched)
    options = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=2, num_crops=3)
    for _ in window_clips(str(path), options, WindowOptions(length, stride, "frames")):
        pass
    assert asked == sorted(set(asked))
    assert len(asked) > 40


# ---------------------------------------------------------------------------------------------------------------------
# Answers
# ---------------------------------------------------------------------------------------------------------------------


def test_whole_video_gets_the_answer_of_the_pipeline(
    model: AMDForVideoClassification, accelerator: Accelerator, noise_video: Path
) -> None:
    (outcome,) = predict_videos(model, [str(noise_video)], ONE_VIEW, accelerator)
    processor = AMDVideoProcessor.for_model(model.config, sampling_rate=2)
    answer = pipeline("video-classification", model, video_processor=processor, device="cpu")(
        str(noise_video), top_k=5
    )
    ((window, probabilities),) = outcome.windows
    assert window is None
    expected = {entry["label"]: entry["score"] for entry in answer}
    ours = {model.config.id2label[number]: score for number, score in enumerate(probabilities.tolist())}
    assert ours == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("clips_per_batch", "num_workers"), [(1, 0), (5, 0), (64, 2)])
def test_windows_of_files_good_and_bad_get_the_answers_of_a_plain_loop(
    model: AMDForVideoClassification,
    accelerator: Accelerator,
    noise_video: Path,
    tmp_path: Path,
    clips_per_batch: int,
    num_workers: int,
) -> None:
    short = write_video(tmp_path / "short.mp4", 5, 48, 32)
    copy = shutil.copy(noise_video, tmp_path / "copy.mp4")
    paths = [
        str(noise_video),
        str(text_file(tmp_path / "t.mp4")),
        str(short),
        str(tmp_path / "nowhere.mp4"),
        str(copy),
    ]
    options = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=1, num_crops=2, mode="middle")
    outcomes = list(
        predict_videos(
            model, paths, options, accelerator, windows=WindowOptions(8, 6, "frames"),
            clips_per_batch=clips_per_batch, num_workers=num_workers,
        )
    )  # fmt: skip
    assert [outcome.video for outcome in outcomes] == paths
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False, True]
    assert [len(outcome.windows) for outcome in outcomes] == [8, 0, 1, 0, 8]
    for outcome in (outcomes[0], outcomes[4]):
        for number, (window, probabilities) in enumerate(outcome.windows):
            start = min(6 * number, 42)
            assert window is not None
            assert (window.start_frame, window.stop_frame) == (start, start + 8)
            with open_video(outcome.video) as video:
                frames = torch.from_numpy(video.frames(range(start, start + 8, 2))).permute(0, 3, 1, 2)
            frames = torch.nn.functional.interpolate(frames, size=(16, 21), mode="bilinear", align_corners=False)
            with torch.no_grad():
                logits = model(torch.stack([frames[..., :16], frames[..., 5:21]])).logits
            np.testing.assert_allclose(probabilities, logits.softmax(dim=1).mean(dim=0), atol=1e-5)


def test_video_that_breaks_off_gives_its_windows_and_then_the_error(
    model: AMDForVideoClassification, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(*args: Any, **kwargs: Any) -> Any:
        reader = open_video(*args, **kwargs)
        frames = reader.frames

        def until_100(indices: Any) -> np.ndarray:
            if max(indices) >= 100:
                raise VideoReadError("it breaks off")
            return frames(indices)

        reader.frames = until_100
        return reader

    monkeypatch.setattr(prediction, "open_video", breaking)
    path = str(write_video(tmp_path / "breaks.mp4", 200, 32, 32))
    (outcome,) = predict_videos(model, [path], ONE_VIEW, accelerator, windows=WindowOptions(8, 8, "frames"))
    assert outcome.error == "it breaks off"
    assert [window.stop_frame for window, _ in outcome.windows if window] == list(range(8, 97, 8))


def test_unreadable_video_raises_where_windows_are_read_directly(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match="there is no file"):
        list(window_clips(str(tmp_path / "nowhere.mp4"), ONE_VIEW))
