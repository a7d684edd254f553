"""The video processor: which frames, which pixels, and the pipeline on a real file without other decoders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers import AutoVideoProcessor
from transformers.video_utils import VideoMetadata

from amd_hf import AMDForVideoClassification, AMDVideoProcessor
from tests.helpers.models import normalized, tiny_config
from tests.helpers.videos import frame_numbers, text_file, truncate, write_video


_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames of 48 x 64."""
    return write_video(tmp_path_factory.mktemp("videos") / "forty.mp4", 40, 48, 64)


def _processor(**options: Any) -> AMDVideoProcessor:
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "num_frames": 4}
    return AMDVideoProcessor(**{**sizes, **options})


# ---------------------------------------------------------------------------------------------------------------------
# Saving
# ---------------------------------------------------------------------------------------------------------------------


def test_defaults_are_imagenets_statistics_and_16_frames_of_224() -> None:
    processor = AMDVideoProcessor()
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert (processor.num_frames, processor.sampling_rate) == (16, 4)
    pixels = processor([np.zeros((20, 50, 40, 3), dtype=np.uint8)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 16, 3, 224, 224)


def test_saved_processor_loads_equal_through_auto_class(tmp_path: Path) -> None:
    processor = _processor(sampling_rate=3, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is AMDVideoProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert (loaded.sampling_rate, loaded.num_frames) == (3, 4)


@pytest.mark.parametrize(("image_size", "short"), [(32, 32), ([16, 24], 16), ([24, 16], 16)])
def test_processor_for_a_model_gives_what_its_config_asks_for(image_size: Any, short: int) -> None:
    config = tiny_config(image_size=image_size, image_mean=[0.1, 0.2, 0.3])
    processor = AMDVideoProcessor.for_model(config, sampling_rate=2)
    pixels = processor([np.zeros((9, 50, 80, 3), dtype=np.uint8)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 4, 3, *config.image_height_width)
    assert processor.size["shortest_edge"] == short
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]
    assert processor.sampling_rate == 2


# ---------------------------------------------------------------------------------------------------------------------
# Which frames
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "num_frames", "sampling_rate", "expected"),
    [
        (40, 4, 4, [12, 16, 20, 24]),  # the 16 frames in the middle
        (41, 4, 4, [12, 16, 20, 24]),
        (16, 4, 4, [0, 4, 8, 12]),
        (13, 4, 4, [0, 4, 8, 12]),
        (12, 4, 4, [0, 4, 8, 8]),  # shorter: the last one repeated
        (5, 4, 4, [0, 4, 4, 4]),
        (1, 4, 4, [0, 0, 0, 0]),
        (4, 4, 1, [0, 1, 2, 3]),
        (4, 4, 4, [0, 0, 0, 0]),
        (10, 3, 2, [2, 4, 6]),
    ],
)
def test_frames_of_a_video_are_the_clip_in_its_middle(
    total: int, num_frames: int, sampling_rate: int, expected: list[int]
) -> None:
    metadata = VideoMetadata(total_num_frames=total, fps=25.0)
    processor = _processor(num_frames=num_frames, sampling_rate=sampling_rate)
    indices = processor.sample_frames(metadata)
    assert indices.tolist() == expected
    given = _processor().sample_frames(metadata, num_frames=num_frames, sampling_rate=sampling_rate)
    assert given.tolist() == expected


def test_array_with_the_right_number_of_frames_is_taken_as_it_is() -> None:
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.full((1, 32, 32, 3), 60, dtype=np.uint8)
    plain = {"do_normalize": False, "do_rescale": False}
    pixels = _processor(**plain)([frames], return_tensors="pt")["pixel_values"]
    assert pixels[0, :, 0, 0, 0].tolist() == [0, 60, 120, 180]


def test_longer_array_is_sampled() -> None:
    frames = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)
    plain = {"do_normalize": False, "do_rescale": False}
    pixels = _processor(**plain)([frames], return_tensors="pt")["pixel_values"]
    assert pixels[0, :, 0, 0, 0].tolist() == [12, 16, 20, 24]


def test_frames_of_a_file_are_those_its_numbers_say(video: Path) -> None:
    plain = {"do_normalize": False, "do_rescale": False}
    processor = _processor(**plain)
    pixels = processor(str(video), return_tensors="pt")["pixel_values"]
    assert frame_numbers(pixels[0].numpy(), channel_axis=1) == [12, 16, 20, 24]
    both = processor([str(video), str(video)], sampling_rate=9, return_tensors="pt")["pixel_values"]
    assert [frame_numbers(clip.numpy(), channel_axis=1) for clip in both] == [[2, 11, 20, 29]] * 2


@pytest.mark.parametrize(("num_frames", "expected"), [(1, [0, 0, 0, 0]), (6, [0, 4, 4, 4])])
def test_short_file_repeats_its_last_frame(num_frames: int, expected: list[int], tmp_path: Path) -> None:
    file = write_video(tmp_path / "short.mp4", num_frames, 48, 64)
    pixels = _processor(do_normalize=False, do_rescale=False)(str(file), return_tensors="pt")["pixel_values"]
    assert frame_numbers(pixels[0].numpy(), channel_axis=1) == expected


def test_file_whose_header_does_not_count_frames_is_counted(tmp_path: Path) -> None:
    file = write_video(tmp_path / "video.webm", 12, 48, 64, codec="libvpx-vp9")
    pixels = _processor(do_normalize=False, do_rescale=False)(str(file), return_tensors="pt")["pixel_values"]
    assert frame_numbers(pixels[0].numpy(), channel_axis=1) == [0, 4, 8, 8]


# ---------------------------------------------------------------------------------------------------------------------
# Which pixels
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (33, 71), (20, 20), (32, 32)])
def test_short_side_is_resized_and_the_centre_cropped(height: int, width: int) -> None:
    frames = torch.randint(256, (4, 3, height, width), dtype=torch.uint8)
    pixels = _processor()([frames], return_tensors="pt")["pixel_values"]
    long = int(32 * max(height, width) / min(height, width))
    new_size = [32, long] if height <= width else [long, 32]
    expected = functional.resize(frames, new_size, antialias=False)
    expected = functional.center_crop(expected, [32, 32]) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (expected - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(pixels[0], expected, atol=1e-5, rtol=0)


def test_channels_may_come_last() -> None:
    frames = np.random.default_rng(0).integers(256, size=(4, 40, 50, 3), dtype=np.uint8)
    processor = _processor()
    last = processor([frames], return_tensors="pt")["pixel_values"]
    first = processor([frames.transpose(0, 3, 1, 2)], return_tensors="pt")["pixel_values"]
    assert torch.equal(first, last)


def test_processed_clip_gives_the_logits_of_the_raw_one(classifier: AMDForVideoClassification) -> None:
    """A clip of the right size: normalised by the processor, or raw and normalised in the model."""
    clips = torch.randint(256, (2, 4, 3, 16, 24), dtype=torch.uint8)
    processor = AMDVideoProcessor.for_model(classifier.config)
    pixels = processor(list(clips), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, normalized(clips, classifier.config), atol=1e-6, rtol=0)
    torch.testing.assert_close(classifier(pixels).logits, classifier(clips).logits, atol=1e-5, rtol=0)


def test_unknown_option_in_a_call_raises() -> None:
    with pytest.raises(TypeError, match="sampling_ratio"):
        _processor()([np.zeros((4, 32, 32, 3), dtype=np.uint8)], sampling_ratio=2)


# ---------------------------------------------------------------------------------------------------------------------
# What may be given
# ---------------------------------------------------------------------------------------------------------------------

_PLAIN = {"do_normalize": False, "do_rescale": False}


def _grey(num_frames: int = 4) -> np.ndarray:
    """Frames `(T, 32, 40)` that all differ."""
    return np.random.default_rng(0).integers(256, size=(num_frames, 32, 40), dtype=np.uint8)


def _rgb(grey: np.ndarray) -> torch.Tensor:
    """The centre of grey frames as the processor gives them: `(1, T, 3, 32, 32)`."""
    return torch.from_numpy(grey)[None, :, None, :, 4:36].expand(-1, -1, 3, -1, -1)


def _with_alpha(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, grey, grey, np.full_like(grey, 7)], axis=-1)


@pytest.mark.parametrize(
    "given",
    [
        lambda grey: [[Image.fromarray(frame) for frame in grey]],
        lambda grey: [Image.fromarray(frame) for frame in grey],
        lambda grey: [[Image.fromarray(frame, "RGBA") for frame in _with_alpha(grey)]],
        lambda grey: [[Image.fromarray(frame).convert("LA") for frame in grey]],
        lambda grey: [[Image.fromarray(frame).convert("P") for frame in grey]],
        lambda grey: list(grey),
        lambda grey: [list(grey)],
        lambda grey: tuple(grey),
        lambda grey: [torch.from_numpy(frame) for frame in grey],
        lambda grey: grey,
        lambda grey: [grey[..., None]],
        lambda grey: grey[:, None],
        lambda grey: _with_alpha(grey),
        lambda grey: [torch.from_numpy(_with_alpha(grey)).permute(0, 3, 1, 2)],
        lambda grey: grey[None, ..., None],
    ],
)
def test_grey_and_transparent_frames_are_taken_as_rgb(given: Any) -> None:
    grey = _grey()
    pixels = _processor(**_PLAIN)(given(grey), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, _rgb(grey).to(pixels.dtype), atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_single_image_is_a_video_of_one_frame(mode: str) -> None:
    image = Image.fromarray(_grey(1)[0])
    expected = _rgb(_grey(1)).expand(-1, 4, -1, -1, -1)
    for given in (image.convert(mode), [image.convert(mode)], np.asarray(image), np.asarray(image.convert("RGB"))):
        pixels = _processor(**_PLAIN)(given, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, expected.to(pixels.dtype), atol=0, rtol=0)


def test_paths_are_taken_as_strings_are(video: Path) -> None:
    processor = _processor()
    expected = processor(str(video), return_tensors="pt")["pixel_values"]
    for given in (video, [video], (video,), [[video]]):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values"], expected)
    assert processor([video, str(video)], return_tensors="pt")["pixel_values"].shape[0] == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "list of videos or frames is empty"),
        ([[]], "no frames in a video"),
        (np.zeros((0, 32, 40, 3), dtype=np.uint8), r"no frames or no pixels.*\(0, 32, 40, 3\)"),
        ([torch.zeros(4, 3, 0, 40)], "no frames or no pixels"),
        (np.zeros((4, 5, 6, 32, 40, 3)), r"four dimensions.*\(4, 5, 6, 32, 40, 3\)"),
        (np.zeros((4, 32, 40, 2), dtype=np.uint8), r"1, 3 or 4 channels.*\(4, 32, 40, 2\)"),
        ([[Image.new("L", (4, 4)), Image.new("L", (5, 4))]], r"one size.*\(4, 4, 3\), \(4, 5, 3\)"),
        ([[Image.new("I;16", (4, 4))]], "mode 'I;16'"),
        ([[Image.new("F", (4, 4))]], "mode 'F'"),
        (["a.mp4", np.zeros((4, 8, 8, 3))], "all as paths or all as frames"),
    ],
)
def test_what_is_no_video_is_named_in_one_line(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        _processor()(given)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("given", [None, 3, b"bytes", {"video": 1}, [None], [[Image.new("L", (4, 4)), "x"], object()]])
def test_what_is_neither_path_nor_frames_is_a_type_error(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"A video is a path|all as paths or all as frames"):
        _processor()(given)


def test_processor_of_a_grey_model_keeps_its_one_channel() -> None:
    processor = _processor(image_mean=[0.5], image_std=[0.5])
    assert processor([_grey()[..., None]], return_tensors="pt")["pixel_values"].shape == (1, 4, 1, 32, 32)


def test_channels_are_left_alone_where_asked() -> None:
    grey = _grey()
    options = {"do_convert_rgb": False, "do_rescale": False, "return_tensors": "pt"}
    pixels = _processor(do_normalize=False)([grey[..., None]], **options)["pixel_values"]
    torch.testing.assert_close(pixels, _rgb(grey)[:, :, :1].to(pixels.dtype), atol=0, rtol=0)
    pixels = _processor(do_normalize=False)([_with_alpha(grey)], **options)["pixel_values"]
    assert pixels[0, :, 3].unique().tolist() == [7]
    with pytest.raises(ValueError, match=r"1 channel\(s\), but `image_mean` has 3 numbers"):
        _processor()([grey[..., None]], do_convert_rgb=False)


def test_layout_that_is_given_is_believed() -> None:
    """Three rows of three columns: nothing in the shape tells where the channels are."""
    frames = np.random.default_rng(0).integers(256, size=(4, 3, 3, 3), dtype=np.uint8)
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    for layout, axes in (("channels_last", (0, 3, 1, 2)), ("channels_first", (0, 1, 2, 3))):
        pixels = _processor(**_PLAIN)([frames], input_data_format=layout, **options)["pixel_values"]
        assert torch.equal(pixels[0].to(torch.uint8), torch.from_numpy(frames).permute(axes))


def test_videos_of_one_call_may_differ_in_layout() -> None:
    frames = np.random.default_rng(0).integers(256, size=(4, 32, 40, 3), dtype=np.uint8)
    pixels = _processor()([frames, frames.transpose(0, 3, 1, 2)], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels[0], pixels[1])


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int16, np.uint16, np.int64, torch.float32, torch.bfloat16]
)
def test_numbers_of_any_type_from_0_to_255_give_the_same_pixels(dtype: Any) -> None:
    grey = _grey()
    expected = _processor()(grey, return_tensors="pt")["pixel_values"]
    given = torch.from_numpy(grey).to(dtype) if isinstance(dtype, torch.dtype) else grey.astype(dtype)
    pixels = _processor()(given, return_tensors="pt")["pixel_values"]
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)


def test_floats_up_to_1_are_taken_where_they_are_not_rescaled() -> None:
    grey = _grey()
    pixels = _processor()(grey / 255, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, _processor()(grey, return_tensors="pt")["pixel_values"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.full((4, 32, 40, 3), 0.5), "floats from 0.5 to 0.5, but `do_rescale` divides them by 255"),
        (np.linspace(-2, 2, 15360).reshape(4, 32, 40, 3), "floats from -2 to 2, but `do_rescale`"),
        (torch.full((4, 3, 32, 40), 256.0), "numbers from 256 to 256, not from 0 to 255"),
        (np.full((4, 32, 40, 3), -1), "numbers from -1 to -1, not from 0 to 255"),
        (np.full((4, 32, 40, 3), 65535, dtype=np.uint16), "numbers from 6.55e[+]04 to"),
        (np.full((4, 32, 40, 3), np.nan), "NaN or infinite"),
        (torch.full((4, 3, 32, 40), torch.inf), "NaN or infinite"),
        (np.ones((4, 32, 40, 3), dtype=bool), "numbers from 0 to 255, not torch.bool"),
    ],
)
def test_numbers_that_are_no_pixels_are_named_in_one_line(frames: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        _processor()([frames])
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def test_unreadable_file_raises_and_is_named(tmp_path: Path) -> None:
    for file in (
        text_file(tmp_path / "text.mp4"),
        truncate(write_video(tmp_path / "cut.mp4", 40, 48, 64)),
        tmp_path / "missing.mp4",
    ):
        with pytest.raises(ValueError, match=rf"Cannot read video '.*{file.name}': \w+"):
            _processor()(str(file))


def test_empty_file_raises(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"Cannot read video '.*empty\.mp4': it holds zero bytes"):
        _processor()(str(tmp_path / "empty.mp4"))


_PIPELINE = """
import builtins, sys
real_import = builtins.__import__
def guarded(name, *args, **kwargs):
    if name.split(".")[0] in ("decord", "torchcodec"):
        raise ImportError(f"{name} is hidden")
    return real_import(name, *args, **kwargs)
builtins.__import__ = guarded
import transformers
import amd_hf
classify = transformers.pipeline("video-classification", model=sys.argv[1], device="cpu")
for name in ("decord", "torchcodec"):
    assert name not in sys.modules, name
print([(entry["label"], round(entry["score"], 6)) for entry in classify(sys.argv[2], top_k=5)])
"""


def test_pipeline_classifies_a_file_with_pyav_alone(
    classifier: AMDForVideoClassification, video: Path, tmp_path: Path
) -> None:
    classifier.config.id2label = dict(enumerate(["left", "right", "up", "down", "still"]))
    classifier.config.label2id = {name: number for number, name in classifier.config.id2label.items()}
    classifier.save_pretrained(tmp_path)
    processor = AMDVideoProcessor.for_model(classifier.config)
    processor.save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _PIPELINE, str(tmp_path), str(video)],
        cwd=_ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = eval(done.stdout.strip().splitlines()[-1])
    pixels = processor(str(video), return_tensors="pt")["pixel_values"]
    scores = classifier(pixels).logits.softmax(-1)[0]
    expected = sorted(zip(classifier.config.id2label.values(), scores.tolist(), strict=True), key=lambda x: -x[1])
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_missing_pyav_raises_with_the_command_to_install_it(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        _processor()(str(video))
