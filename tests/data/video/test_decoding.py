"""Reading frames: the right ones, alike from each decoder, and one exception for whatever is wrong with a file."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from amd_hf.data.video import decoders, decoding
from amd_hf.data.video.decoding import DecodedVideoCache, VideoLimits, VideoReadError, open_video
from amd_hf.data.video.source import VideoSource
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.videos import frame_numbers, mark_rotated, numbered_frames, text_file, truncate, write_video


@pytest.fixture(params=DECODER_NAMES)
def decoder(request: pytest.FixtureRequest) -> str:
    return require_decoder(request.param)


@pytest.mark.parametrize(
    "indices",
    [[0], [39], [0, 4, 8, 12], list(range(40)), [7, 7, 7], [30, 2, 2, 17]],
    ids=lambda value: str(value)[:20],
)
def test_frames_asked_by_index_are_those_frames(video_40: Path, decoder: str, indices: list[int]) -> None:
    with open_video(str(video_40), decoder) as video:
        frames = video.frames(indices)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 48, 64, 3)
    assert frame_numbers(frames) == indices


def test_reader_used_several_times_goes_forward_and_back(video_40: Path, decoder: str) -> None:
    with open_video(str(video_40), decoder) as video:
        assert [frame_numbers(video.frames(part)) for part in ([20, 25], [26, 39], [1, 3])] == [
            [20, 25],
            [26, 39],
            [1, 3],
        ]


def test_reader_knows_length_and_size(video_40: Path, decoder: str) -> None:
    with open_video(video_40, decoder) as video:
        assert (len(video), video.height, video.width) == (40, 48, 64)


@pytest.mark.parametrize("form", ["path", "row_path", "bytes", "row_bytes"])
def test_every_form_of_source_gives_the_same_frames(video_40: Path, decoder: str, form: str) -> None:
    data = video_40.read_bytes()
    source = {
        "path": video_40,
        "row_path": {"path": str(video_40), "bytes": None},
        "bytes": data,
        "row_bytes": {"path": "member_of_an_archive.mp4", "bytes": data},
    }[form]
    with open_video(source, decoder) as video:
        assert frame_numbers(video.frames([3, 33])) == [3, 33]


@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_is_turned_upright(tmp_path: Path, decoder: str, degrees: int, as_bytes: bool) -> None:
    frames = np.zeros((4, 48, 64, 3), dtype=np.uint8)
    frames[:, :16, :16] = 255  # a white square in the upper left corner
    path = mark_rotated(write_video(tmp_path / "phone.mp4", frames=frames), degrees)
    with open_video(path.read_bytes() if as_bytes else path, decoder) as video:
        picture = video.frames([0])[0, ..., 0]
    clockwise = np.rot90(frames[0, ..., 0], -degrees // 90)
    assert picture.shape == clockwise.shape
    assert np.abs(picture.astype(int) - clockwise).mean() < 4


def test_width_that_decord_cannot_read_is_read_all_the_same(tmp_path: Path, decoder: str) -> None:
    # decord 0.6.0 refuses 72 pixels (its row padding); the video is sound.
    path = write_video(tmp_path / "odd.mp4", 10, 64, 72)
    with open_video(path, decoder) as video:
        assert (video.height, video.width) == (64, 72)
        assert frame_numbers(video.frames([2, 9])) == [2, 9]


def test_frame_folder_is_read_like_a_video(tmp_path: Path) -> None:
    for number, frame in enumerate(numbered_frames(5, 24, 32)):
        Image.fromarray(frame).save(tmp_path / f"img_{number:05d}.png")
    with open_video({"frames": sorted(tmp_path.iterdir())}) as video:
        assert (len(video), video.height, video.width) == (5, 24, 32)
        assert frame_numbers(video.frames([4, 0, 0])) == [4, 0, 0]


def test_frame_folder_with_a_broken_image_raises_video_read_error(tmp_path: Path) -> None:
    with (
        open_video({"frames": [text_file(tmp_path / "a.jpg")]}) as video,
        pytest.raises(VideoReadError, match=r"frame 0 .*a\.jpg"),
    ):
        video.frames([0])


@pytest.mark.parametrize("index", [-1, 40])
def test_index_outside_the_video_raises_index_error(video_40: Path, decoder: str, index: int) -> None:
    with open_video(video_40, decoder) as video, pytest.raises(IndexError, match="which has 40"):
        video.frames([0, index])


# ---------------------------------------------------------------------------------------------------------------------
# Bad files
# ---------------------------------------------------------------------------------------------------------------------


def _damaged(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "text":
        return text_file(path)
    if kind == "empty":
        path.touch()
    elif kind == "cut":
        truncate(write_video(path, 40))
    elif kind == "cut_with_header_first":
        truncate(write_video(path, 40, moov_first=True))
    elif kind == "audio_only":
        _write_audio(path)
    return path  # "missing" writes nothing


def _write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "cut_with_header_first", "audio_only", "missing"])
def test_damaged_file_raises_video_read_error_with_its_id(tmp_path: Path, decoder: str, kind: str) -> None:
    path = _damaged(tmp_path, kind)
    with (
        pytest.raises(VideoReadError, match=r"Cannot read video 'my id': \w+") as caught,
        open_video(path, decoder, video_id="my id") as video,
    ):
        video.frames(range(len(video)))
    assert caught.value.video_id == "my id"
    assert caught.value.source == str(path)
    assert caught.value.reason
    assert "\n" not in caught.value.reason


def test_video_read_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoReadError("too short", "a.mp4", "/data/a.mp4")))
    assert (str(error), error.reason, error.video_id, error.source) == (
        "Cannot read video 'a.mp4': too short", "too short", "a.mp4", "/data/a.mp4",
    )  # fmt: skip


def test_file_that_ends_before_the_frames_of_its_header_raises(tmp_path: Path, decoder: str) -> None:
    path = truncate(write_video(tmp_path / "cut.mp4", 40, moov_first=True), 0.8)
    with pytest.raises(VideoReadError, match="header promises 40 frames, but the file ends after"):
        open_video(path, decoder)


def test_frames_above_the_size_limit_raise(video_40: Path, decoder: str) -> None:
    limit = 10 * 48 * 64 * 3
    with open_video(video_40, decoder, limits=VideoLimits(max_decoded_bytes=limit)) as video:
        assert len(video.frames(range(10))) == 10
        with pytest.raises(VideoReadError, match=f"11 frames of 48 x 64 take .* above the limit of {limit}"):
            video.frames(range(11))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (VideoLimits(max_frame_pixels=48 * 64 - 1), "48 x 64 pixels, above the limit of 3071"),
        (VideoLimits(max_frames=39), r"\d+ frames, above the limit of 39 \(`max_frames`\)"),
        (VideoLimits(max_file_bytes=1000), r"the file is \d+ bytes, above the limit of 1000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_video_above_a_limit_raises_before_any_frame_is_decoded(
    video_40: Path, decoder: str, limits: VideoLimits, message: str
) -> None:
    with pytest.raises(VideoReadError, match=message):
        open_video(video_40.read_bytes(), decoder, limits=limits)


def test_limit_below_one_raises() -> None:
    with pytest.raises(ValueError, match="`max_frames` must be at least 1, not 0"):
        VideoLimits(max_frames=0)


def test_large_image_of_a_frame_folder_raises(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with (
        open_video({"frames": [tmp_path / "a.png"]}, limits=VideoLimits(max_frame_pixels=599)) as video,
        pytest.raises(VideoReadError, match="20 x 30 pixels, above the limit of 599"),
    ):
        video.frames([0])


def test_source_of_unknown_kind_raises_type_error() -> None:
    with pytest.raises(TypeError, match="path, bytes or a mapping"):
        open_video(3)


def test_row_without_path_bytes_or_frames_raises_value_error() -> None:
    with pytest.raises(ValueError, match="no `path`, `bytes` or `frames`"):
        open_video({"path": None, "bytes": None})


# ---------------------------------------------------------------------------------------------------------------------
# Choice of decoder
# ---------------------------------------------------------------------------------------------------------------------


def _install_only(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: name if name in packages else None)
    decoders.why_torchcodec_is_unusable.cache_clear()


def test_unknown_decoder_raises_with_the_choices(video_40: Path) -> None:
    with pytest.raises(ValueError, match=r"\['decord', 'decord2', 'pyav', 'torchcodec', 'torchcodec_cuda'\] or None"):
        open_video(video_40, "ffmpeg")


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (("av", "decord", "torchcodec"), "PyAVDecoder"),
        (("torchcodec", "decord"), "TorchCodecDecoder"),
        (("decord",), "DecordDecoder"),
    ],
)
def test_default_decoder_is_the_first_installed(
    video_40: Path, monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...], expected: str
) -> None:
    require_decoder({"av": "pyav"}.get(packages[0], packages[0]))
    _install_only(monkeypatch, *packages)
    with open_video(video_40) as video:
        assert type(video).__name__ == expected


def test_decoder_that_is_not_installed_raises_with_the_pip_line(
    video_40: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_only(monkeypatch, "av")
    with pytest.raises(ImportError, match=r"pip install decord`, or use \['pyav'\]"):
        open_video(video_40, "decord")


def test_torchcodec_without_ffmpeg_counts_as_not_installed(video_40: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "it finds no FFmpeg libraries"
    monkeypatch.setattr(decoding, "why_torchcodec_is_unusable", lambda: reason)
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: name)
    assert decoding.available_decoders() == ["pyav", "decord"]
    with pytest.raises(ImportError, match=rf"'torchcodec' is installed, but {reason}. Or use \['pyav', 'decord'\]"):
        open_video(video_40, "torchcodec")


def test_gpu_decoder_without_a_gpu_raises(video_40: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_decoder("torchcodec")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = "it decodes on an NVIDIA GPU, and PyTorch finds none .* Or use .*'pyav'"
    if torch.cuda.device_count() == 0:  # else PyTorch counted them before
        with pytest.raises(ImportError, match=message):
            open_video(video_40, "torchcodec_cuda")
        with pytest.raises(ImportError, match=r"'torchcodec_cuda' cannot be used: .* set a `decode_time_limit`"):
            decoders.CudaTorchCodecDecoder(VideoSource(path=str(video_40)), None)
    else:
        with open_video(video_40, "torchcodec_cuda") as video:
            assert frame_numbers(video.frames([3, 33])) == [3, 33]
            assert video._substitute is None


def test_decord2_is_decord_by_another_name(video_40: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_decoder("decord")
    monkeypatch.setattr(decoding, "is_decord2_installed", lambda: False)
    with pytest.raises(ImportError, match=r"'decord2' is not installed: run `pip install decord2`, or use \['pyav'"):
        open_video(video_40, "decord2")
    monkeypatch.setattr(decoding, "is_decord2_installed", lambda: True)
    with open_video(video_40, "decord2") as video:
        assert type(video).__name__ == "DecordDecoder"
        assert frame_numbers(video.frames([3, 33])) == [3, 33]


def test_no_decoder_at_all_raises_with_the_pip_lines(video_40: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_only(monkeypatch)
    with pytest.raises(ImportError, match="pip install av`"):
        open_video(video_40)


# ---------------------------------------------------------------------------------------------------------------------
# Cache
# ---------------------------------------------------------------------------------------------------------------------


def test_cached_video_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    cache = DecodedVideoCache(max_bytes=10 * 64 * 64 * 3)
    with open_video(path, cache=cache) as video:
        first = video.frames([5, 2, 5])
    path.unlink()
    with open_video(path, cache=cache) as video:
        assert (len(video), video.height, video.width) == (10, 64, 64)
        np.testing.assert_array_equal(video.frames([5, 2, 5]), first)
    assert frame_numbers(first) == [5, 2, 5]


def test_changing_the_frames_of_a_cached_video_leaves_the_cache_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    cache = DecodedVideoCache(max_bytes=10**6)
    for _ in range(2):
        with open_video(path, cache=cache) as video:
            frames = video.frames(range(10))
            assert frame_numbers(frames) == list(range(10))
            frames[:] = 0


def test_full_cache_stops_with_one_warning_and_keeps_what_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [write_video(tmp_path / f"{number}.mp4", 10) for number in range(4)]
    cache = DecodedVideoCache(max_bytes=int(2.5 * 10 * 64 * 64 * 3))
    with caplog.at_level(logging.WARNING, logger=decoding.__name__):
        for path in [*paths, *paths]:
            with open_video(path, cache=cache) as video:
                assert frame_numbers(video.frames([9, 1])) == [9, 1]
    assert len(cache) == 2
    assert cache.num_bytes <= cache.max_bytes
    assert [record.message for record in caplog.records if "cache" in record.message] == [caplog.records[0].message]
    assert "raise `max_bytes`" in caplog.text


def test_pickled_cache_leaves_its_videos_behind(video_40: Path) -> None:
    cache = DecodedVideoCache(max_bytes=10**6)
    open_video(video_40, cache=cache).close()
    copy = pickle.loads(pickle.dumps(cache))
    assert (len(cache), len(copy), copy.num_bytes, copy.max_bytes) == (1, 0, 0, 10**6)


def test_cache_without_room_raises() -> None:
    with pytest.raises(ValueError, match="`max_bytes` must be at least 1, not 0"):
        DecodedVideoCache(0)
