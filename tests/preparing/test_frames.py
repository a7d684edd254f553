"""What a prepared video shows: the frames of its source, at their times, upright, in 8 bits and even sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from amd_hf import video_reading_amd
from amd_hf.preparing.encoding import encode_video, output_size
from amd_hf.video_reading_amd import MediaFile, PyAVDecoder, VideoReadError
from tests.helpers.video_kinds import KindFiles
from tests.helpers.videos import frame_numbers, mark_rotated, numbered_frames, write_video


# Of each trouble one: no time stamps, hidden frames, fields, turns, bits, colours, odd sizes, sound, covers.
_KINDS = (
    "h264_raw", "h264_avi", "h264_open_ts", "h264_fields_mp4", "mpeg2_interlaced_mpg", "rotated_90_10_bit_mp4",
    "transposed_odd_size_mp4", "edit_list_both_ends_mp4", "headless_mpeg2_ts", "thumbnail_first_mp4", "phone_mp4",
    "uneven_webm", "one_a_second_mkv", "late_sound_mp4", "early_mkv", "hevc_10_bit_mp4", "prores_mov", "h264_grey_mp4",
    "vp9_hidden_packets_webm", "mpeg4_packed_avi", "mpeg4_dropped_avi", "mjpeg_avi", "raw_avi", "dv_avi",
    "odd_size_webm", "wide_pixels_mp4", "full_range_mp4", "one_frame_avi",
)  # fmt: skip


def _open(path: Path) -> PyAVDecoder:
    return PyAVDecoder(MediaFile(str(path)), None)


def _encode(path: Path, target: Path, start: float | None = None, end: float | None = None, **settings: Any) -> Any:
    with _open(path) as video:
        return encode_video(
            video, str(target), {"crf": 4, "preset": "ultrafast", "short_side": None, **settings}, start, end
        )


@pytest.mark.parametrize("kind", _KINDS)
def test_frames_and_times_are_those_of_the_source(kind_files: KindFiles, tmp_path: Path, kind: str) -> None:
    found = _encode(kind_files.path(kind), tmp_path / "made.mp4")
    with _open(kind_files.path(kind)) as source, _open(tmp_path / "made.mp4") as made:
        assert len(made) == len(source) == found["num_frames"]
        np.testing.assert_allclose(made.frame_times[:-1], source.frame_times[:-1], atol=2e-5)
        expected, frames = source.frames(range(len(source))), made.frames(range(len(made)))
        height, width = expected.shape[1:3]
        assert frames.shape[1:3] == (height - height % 2, width - width % 2) == (found["height"], found["width"])
        difference = np.abs(frames.astype(int) - expected[:, : frames.shape[1], : frames.shape[2]])
        assert difference.mean() < 2.5  # of 255; odd sizes are resampled
        assert made.packets.order.is_simple
        assert made.is_plain  # not turned, 8 bits, 4:2:0: what every decoder reads


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1080, 1920), 320, (320, 568)),
        ((1920, 1080), 320, (568, 320)),
        ((240, 320), 320, (240, 320)),  # never enlarged
        ((241, 319), 320, (240, 318)),
        ((719, 1279), 256, (256, 456)),
        ((480, 640), None, (480, 640)),
        ((100, 4000), 51, (52, 2040)),
        ((1, 7), 320, (2, 6)),
    ],
)
def test_output_size(size: tuple[int, int], short_side: int | None, expected: tuple[int, int]) -> None:
    assert output_size(*size, short_side) == expected


def test_turned_video_is_scaled_and_stands_upright_without_a_matrix(tmp_path: Path) -> None:
    corner = numbered_frames(3, 96, 128)
    corner[:, :20, :20] = 255  # top left as stored
    source = mark_rotated(write_video(tmp_path / "source.mp4", frames=corner), 90)
    _encode(source, tmp_path / "made.mp4", short_side=48)
    with _open(tmp_path / "made.mp4") as made, _open(source) as turned:
        frame, expected = made.frames([0])[0], turned.frames([0])[0]
        assert frame.shape[:2] == (64, 48)
        assert expected.shape[:2] == (128, 96)
        assert np.abs(frame.astype(int) - expected[::2, ::2]).mean() < 8


@pytest.mark.parametrize(
    ("start", "end", "numbers"), [(0.5, 1.0, range(5, 10)), (None, 0.25, range(3)), (1.52, 99, range(15, 20))]
)
def test_trim_takes_what_is_on_the_screen(tmp_path: Path, start: float | None, end: float, numbers: range) -> None:
    source = write_video(tmp_path / "source.mp4", 20, fps=10)
    _encode(source, tmp_path / "made.mp4", start, end)
    with _open(tmp_path / "made.mp4") as made:
        assert frame_numbers(made.frames(range(len(made)))) == list(numbers)
        expected = np.maximum(np.array(numbers) / 10 - (start or 0), 0)
        np.testing.assert_allclose(made.frame_times[:-1], expected - expected[0], atol=2e-5)


def test_fps_shows_at_each_tick_the_frame_on_the_screen(kind_files: KindFiles, tmp_path: Path) -> None:
    _encode(kind_files.path("phone_mp4"), tmp_path / "made.mp4", fps=50)
    with _open(kind_files.path("phone_mp4")) as source, _open(tmp_path / "made.mp4") as made:
        times = source.frame_times
        shown = [max(i for i in range(len(source)) if times[i] <= k / 50 + 1e-6) for k in range(round(times[-1] * 50))]
        assert made.frame_times[:-1].tolist() == pytest.approx([k / 50 for k in range(len(shown))], abs=2e-5)
        assert frame_numbers(made.frames(range(len(made)))) == frame_numbers(source.frames(shown))


def test_bytes_are_the_same_in_every_run_and_depend_on_the_settings(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 12)
    for name, settings in {"a": {}, "b": {}, "c": {"key_frame_interval": 4}, "d": {"crf": 30}}.items():
        _encode(source, tmp_path / name, **settings)
    made = {name: (tmp_path / name).read_bytes() for name in "abcd"}
    assert made["a"] == made["b"]
    assert len({made["a"], made["c"], made["d"]}) == 3
    with _open(tmp_path / "c") as video:
        assert video.order.starts.tolist() == [0, 4, 8]


def test_sound_is_dropped_and_frames_in_between_are_not_referred_to(kind_files: KindFiles, tmp_path: Path) -> None:
    _encode(kind_files.path("late_sound_mp4"), tmp_path / "made.mp4")
    with av.open(str(tmp_path / "made.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        packets = [packet for packet in container.demux() if packet.size]
    # A NAL unit's second and third bit say whether others refer to it; its size stands in the 4 bytes in front.
    used = [bool(_slice_header(bytes(packet)) & 0x60) for packet in packets]
    assert sum(used) <= len(used) / 3


def _slice_header(data: bytes) -> int:
    position = 0
    while True:
        if data[position + 4] & 0x1F in (1, 5):
            return data[position + 4]
        position += 4 + int.from_bytes(data[position : position + 4], "big")


def test_frames_that_change_their_size_and_ends_that_are_missing_are_refused(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 10, fps=10)
    with pytest.raises(VideoReadError, match=r"nothing of it lies between the seconds 2 and 3: it lasts 1.0 seconds"):
        _encode(source, tmp_path / "made.mp4", 2, 3)


def test_images_are_the_frames(kind_files: KindFiles, tmp_path: Path) -> None:
    found = _encode(kind_files.path("rotated_90_10_bit_mp4"), tmp_path / "images", jpeg_quality=95, fps=5)
    with _open(kind_files.path("rotated_90_10_bit_mp4")) as source:
        expected = source.frames(range(0, len(source), 5))  # 25 a second
    images = sorted((tmp_path / "images").iterdir())
    assert [image.name for image in images] == [f"img_{number:05d}.jpg" for number in range(1, len(expected) + 1)]
    assert (found["num_frames"], found["num_bytes"]) == (len(images), sum(image.stat().st_size for image in images))
    for image, frame in zip(images, expected, strict=True):
        with Image.open(image) as opened:
            assert np.abs(np.asarray(opened).astype(int) - frame).mean() < 4


def test_long_film_is_read_whole_not_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_video(tmp_path / "source.mp4", 20, fps=10)
    monkeypatch.setattr(video_reading_amd, "INDEXED_BYTES", 1)
    with _open(source) as video:
        assert video.packets.is_indexed
    _encode(source, tmp_path / "made.mp4", 1.0)
    monkeypatch.undo()
    with _open(tmp_path / "made.mp4") as made:
        assert frame_numbers(made.frames(range(len(made)))) == list(range(10, 20))
