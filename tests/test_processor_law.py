"""How a model looks at a video is in its processor's file: which frames, which size, by the law of its training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoVideoProcessor
from transformers.image_utils import PILImageResampling
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from amd_hf import AMDVideoProcessor
from amd_hf.data.augment.transforms import center_box, cut, resize_short_side
from amd_hf.data.sampling import sample_clip
from tests.helpers.models import tiny_config
from tests.helpers.videos import frame_numbers, write_video


_RAW = {"do_normalize": False, "do_rescale": False}


def _processor(**options: Any) -> AMDVideoProcessor:
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "num_frames": 4}
    return AMDVideoProcessor(**{**sizes, **options})


def _indices(processor: AMDVideoProcessor, total: int, **options: Any) -> list[int]:
    return processor.sample_frames(VideoMetadata(total_num_frames=total, fps=25.0), **options).tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Which frames
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "total", "expected"),
    [
        ("dense", 40, [14, 17, 20, 23]),  # the 12 frames in the middle, every third
        ("spread", 40, [13, 17, 21, 24]),  # the same window (it starts at (40 - 12 - 1) // 2), filled to its end
        ("spread", 9, [0, 4, 8, 8]),  # shorter than the window: 9 // 3 points from 0 to 9, the last one repeated
        ("segments", 40, [5, 15, 25, 35]),  # the middles of 4 parts of 10 frames
        ("segments", 43, [5, 15, 25, 35]),
        ("segments", 4, [0, 1, 2, 3]),
        ("segments", 3, [0, 0, 1, 2]),  # shorter: the first one repeated in front
    ],
)
def test_processor_takes_the_frames_of_its_law(mode: str, total: int, expected: list[int]) -> None:
    assert _indices(_processor(sampling_mode=mode, sampling_rate=3), total) == expected


@pytest.mark.parametrize("mode", ["dense", "spread", "segments"])
@pytest.mark.parametrize("total", [1, 2, 3, 5, 11, 12, 13, 40, 97])
def test_processor_and_validation_take_the_same_frames(mode: str, total: int) -> None:
    expected = sample_clip(total, num_frames=4, sampling_rate=3, mode=mode, generator=None).tolist()
    assert _indices(_processor(sampling_mode=mode, sampling_rate=3), total) == expected


def test_file_is_sampled_by_the_law_also_where_the_pipeline_gives_the_number_of_frames(tmp_path: Path) -> None:
    video = write_video(tmp_path / "forty.mp4", 40, 48, 64)
    processor = _processor(sampling_mode="segments", **_RAW)
    pixels = processor(str(video), num_frames=4, do_sample_frames=True, return_tensors="pt")["pixel_values"]
    assert frame_numbers(pixels[0].numpy(), channel_axis=1) == [5, 15, 25, 35]
    overridden = processor(str(video), sampling_mode="dense", sampling_rate=2, return_tensors="pt")["pixel_values"]
    assert frame_numbers(overridden[0].numpy(), channel_axis=1) == [16, 18, 20, 22]


# ---------------------------------------------------------------------------------------------------------------------
# Which pixels
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (33, 71), (47, 50), (20, 25)])
@pytest.mark.parametrize("short_side", [32, 35, 40])
def test_frames_are_resized_and_cropped_as_in_validation(
    interpolation: str, height: int, width: int, short_side: int
) -> None:
    frames = torch.randint(256, (4, 3, height, width), dtype=torch.uint8)
    resample = {"bilinear": PILImageResampling.BILINEAR, "bicubic": PILImageResampling.BICUBIC}[interpolation]
    processor = _processor(size={"shortest_edge": short_side}, resample=resample, **_RAW)
    pixels = processor([frames], return_tensors="pt")["pixel_values"][0]
    resized = resize_short_side(frames, short_side, interpolation)
    expected = cut(resized, center_box(*resized.shape[-2:], 32))
    torch.testing.assert_close(pixels, expected.to(pixels.dtype), atol=0, rtol=0)


def test_bicubic_is_what_pillow_makes() -> None:
    image = pytest.importorskip("PIL.Image")
    frame = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    processor = _processor(resample=3, **_RAW)
    pixels = processor([np.stack([frame] * 4)], return_tensors="pt")["pixel_values"][0, 0]
    pillow = np.asarray(image.fromarray(frame).resize((32, 32), image.Resampling.BICUBIC))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - pillow.astype(int)).max() <= 1


def test_unknown_interpolation_raises() -> None:
    with pytest.raises(ValueError, match=r"`resample` must be bilinear \(2\) or bicubic \(3\)"):
        _processor()([np.zeros((4, 40, 40, 3), dtype=np.uint8)], resample=PILImageResampling.NEAREST)


# ---------------------------------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------------------------------


def test_law_and_test_views_are_in_the_file(tmp_path: Path) -> None:
    law = {
        "sampling_mode": "segments", "sampling_rate": 3, "num_frames": 4, "resample": 3,
        "test_mode": "uniform", "test_num_segments": 2, "test_num_crops": 3,
    }  # fmt: skip
    processor = AMDVideoProcessor.for_model(tiny_config(image_size=16), size={"shortest_edge": 20}, **law)
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert {name: written[name] for name in law} == law
    assert written["size"] == {"shortest_edge": 20}
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert {name: getattr(loaded, name) for name in law} == law


def test_file_that_says_nothing_of_sampling_is_dense_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _processor(sampling_rate=3).save_pretrained(tmp_path)
    path = tmp_path / "video_preprocessor_config.json"
    written = {name: value for name, value in json.loads(path.read_text()).items() if name != "sampling_mode"}
    path.write_text(json.dumps(written))  # as earlier releases wrote it
    processor = AutoVideoProcessor.from_pretrained(tmp_path)
    assert processor.sampling_mode is None
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("amd_hf"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert _indices(processor, 40) == [14, 17, 20, 23]
        assert _indices(processor, 41) == [14, 17, 20, 23]
    said = [record.getMessage() for record in caplog.records if "do not say how" in record.getMessage()]
    assert len(said) == 1
    assert "4 frames, 3 apart (`sampling_mode` dense)" in said[0]
    # Saved again it still says nothing: a guess does not become a fact.
    processor.save_pretrained(tmp_path)
    assert AutoVideoProcessor.from_pretrained(tmp_path).sampling_mode is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sampling_mode": "uniform"}, "`sampling_mode` must be one of dense, spread, segments, got 'uniform'"),
        ({"test_mode": "segments"}, "`test_mode` must be one of dense, uniform, got 'segments'"),
        ({"sampling_rate": 0}, "`sampling_rate` must be a whole number of at least 1, got 0"),
        ({"test_num_crops": 1.5}, "`test_num_crops` must be a whole number of at least 1, got 1.5"),
        ({"resample": 0}, r"`resample` must be bilinear \(2\) or bicubic \(3\), got 0"),
    ],
)
def test_setting_without_a_meaning_raises(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _processor(**option)


# ---------------------------------------------------------------------------------------------------------------------
# Frames by seconds
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "rate", "fps"), [(40, 25.0, 5), (40, 25.0, 25), (8, 4.0, 3), (7, 30.0, 1), (91, 30, 2.5)]
)
def test_frames_by_seconds_are_those_of_the_library(total: int, rate: float, fps: float) -> None:
    expected = default_sample_indices_fn(VideoMetadata(total_num_frames=total, fps=rate), fps=fps).tolist()
    metadata = VideoMetadata(total_num_frames=total, fps=rate)
    assert _processor().sample_frames(metadata, fps=fps).tolist() == expected
    frames = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)
    known = {"total_num_frames": total, "fps": rate, "duration": total / rate}
    pixels = _processor(**_RAW)([frames], fps=fps, video_metadata=[known], return_tensors="pt")["pixel_values"]
    assert pixels[0, :, 0, 0, 0].tolist() == expected


def test_file_is_sampled_by_seconds(tmp_path: Path) -> None:
    video = write_video(tmp_path / "forty.mp4", 40, 48, 64)  # 25 frames a second
    pixels = _processor(**_RAW)(str(video), fps=5, return_tensors="pt")["pixel_values"]
    assert frame_numbers(pixels[0].numpy(), channel_axis=1) == [0, 5, 10, 15, 20, 25, 30, 35]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 2}, "`fps` 2 needs the video's own rate"),
        ({"fps": 2, "num_frames": 4}, "Give `fps` 2 or `num_frames` 4, not both"),
        ({"fps": 50, "video_metadata": [{"total_num_frames": 3, "fps": 25.0}]}, "the video has 25 a second"),
        ({"num_frames": 9}, "The call asks for 9 frames of a video of 3"),
        ({"fps": 0}, "`fps` must be more than 0, got 0"),
        ({"num_frames": 0}, "`num_frames` must be a whole number of at least 1, got 0"),
        ({"sampling_rate": "3"}, "`sampling_rate` must be a whole number of at least 1, got '3'"),
        ({"sampling_mode": "densee"}, "`sampling_mode` must be one of dense, spread, segments, got 'densee'"),
        ({"data_format": "channels_last"}, "`data_format` must be 'channels_first', .* got 'channels_last'"),
        ({"do_pad": True}, "`do_pad` has no meaning here"),
        ({"size": {"longest_edge": 20}}, "`size` must give `shortest_edge`, or `height` and `width`"),
    ],
)
def test_options_of_a_call_that_cannot_be_met_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _processor()([np.zeros((3, 40, 40, 3), dtype=np.uint8)], **options)


def test_rate_in_seconds_is_no_setting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="`fps` 2 is an option of a call"):
        _processor(fps=2)
    # Earlier releases took it, saved it, and paid no heed to it.
    _processor().save_pretrained(tmp_path)
    path = tmp_path / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fps": 2}))
    assert _indices(AutoVideoProcessor.from_pretrained(tmp_path), 40) == [12, 16, 20, 24]
    with pytest.raises(ValueError, match="`fps` 2 is an option of a call"):
        AutoVideoProcessor.from_pretrained(tmp_path, fps=2)


# ---------------------------------------------------------------------------------------------------------------------
# Options that do not exist
# ---------------------------------------------------------------------------------------------------------------------


def test_misspelt_option_is_refused_where_it_is_typed(tmp_path: Path) -> None:
    hint = r"unknown option\(s\): `sampling_ratee` \(did you mean `sampling_rate`\?\)"
    with pytest.raises(TypeError, match=hint):
        _processor(sampling_ratee=3)
    _processor().save_pretrained(tmp_path)
    for kind in (AMDVideoProcessor, AutoVideoProcessor):
        with pytest.raises(TypeError, match=hint):
            kind.from_pretrained(tmp_path, sampling_ratee=3)
        assert kind.from_pretrained(tmp_path, sampling_rate=3).sampling_rate == 3


def test_unknown_key_of_a_file_is_kept_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _processor().save_pretrained(tmp_path)
    path = tmp_path / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sampling_ratee": 3, "of_tomorrow": [1]}))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("amd_hf"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        processor = AutoVideoProcessor.from_pretrained(tmp_path)
        AutoVideoProcessor.from_pretrained(tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert "`sampling_ratee` (did you mean `sampling_rate`?), `of_tomorrow`" in said
    assert processor.sampling_rate == 4
    processor.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / path.name).read_text())["of_tomorrow"] == [1]
