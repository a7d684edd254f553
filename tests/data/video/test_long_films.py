"""A long film is opened by its header, and shows the same frames as if all of it were read."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import av
import numpy as np
import pytest

from amd_hf import video_reading_amd as reading
from amd_hf.data.video.decoding import open_video
from amd_hf.data.video.key_frames import times_of
from amd_hf.video_reading_amd import MediaFile, PyAVDecoder, VideoReadError
from tests.helpers.encoding import encode, require_ffmpeg
from tests.helpers.slow_cases import slow_but
from tests.helpers.video_kinds import KINDS, KindFiles
from tests.helpers.videos import truncate


_GROUP = 60
_IN_MP4 = [name for name in KINDS if KINDS[name].suffix in (".mp4", ".mov", ".m4v", ".3gp")]
_BY_HEADER = {
    "h264_mp4", "h264_faststart_mp4", "h264_m4v", "h264_mov", "h264_3gp", "h264_one_key_mp4", "phone_mp4",
    "rotated_90_mp4", "h264_open_mp4", "h264_refresh_mp4", "h264_422_mp4", "sound_first_mp4",
}  # fmt: skip
_FAST_KINDS = {
    "h264_mp4", "h264_mov", "h264_one_key_mp4", "phone_mp4", "rotated_90_mp4", "h264_open_mp4", "h264_refresh_mp4",
    "sound_first_mp4", "edit_list_cut_mp4", "fragments_mp4", "h264_fields_mp4", "hevc_10_bit_mp4", "two_streams_mp4",
    "mpeg4_b_mp4",
}  # fmt: skip


def _open(path: Path, **options: bool) -> PyAVDecoder:
    return PyAVDecoder(MediaFile(path=str(path)), None, **options)


@pytest.fixture
def by_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are opened as large ones are."""
    monkeypatch.setattr(reading, "INDEXED_BYTES", 1)


@pytest.mark.usefixtures("by_header")
@pytest.mark.parametrize("name", slow_but(_FAST_KINDS, _IN_MP4))
def test_file_opened_by_its_header_shows_the_same_frames(kind_files: KindFiles, name: str) -> None:
    path = kind_files.path(name)
    with _open(path, uses_index=False) as whole:
        expected, times = whole.frames(range(len(whole))), whole.frame_times
    rng = np.random.default_rng(0)
    with _open(path) as film_read:
        if KINDS[name].family == "lost pictures":
            return  # see below
        assert film_read.packets.is_indexed or name not in _BY_HEADER
        assert len(film_read) == len(expected)
        np.testing.assert_array_equal(film_read.frame_times, times)
        for size in (1, 3, 8):
            wanted = np.sort(rng.choice(len(expected), min(size, len(expected)), replace=False))
            np.testing.assert_array_equal(film_read.frames(wanted), expected[wanted])
        for start in range(0, len(expected) - 3, 5):  # reading on
            np.testing.assert_array_equal(film_read.frames([start, start + 2]), expected[[start, start + 2]])
        assert film_read.packets.is_indexed or name not in _BY_HEADER
    with _open(path) as again:
        np.testing.assert_array_equal(again.frames(range(len(expected))), expected)
        assert again.height == expected.shape[1]


@pytest.mark.usefixtures("by_header")
def test_film_with_lost_pictures_is_read_whole_from_then_on(kind_files: KindFiles) -> None:
    path = kind_files.path("h264_lost_mp4")
    expected = kind_files.frames("h264_lost_mp4")
    with _open(path) as film_read:
        assert film_read.packets.is_indexed
        announced = len(film_read)
        assert announced != len(expected)
        with pytest.raises(
            VideoReadError, match=f"lists {announced} frames, but it has {len(expected)}: open it again"
        ):
            film_read.frames(range(announced))
    with _open(path) as film_read:
        assert len(film_read) == len(expected)
        assert np.abs(film_read.frames(range(len(expected))).astype(int) - expected).max() <= 2


@pytest.mark.usefixtures("by_header")
def test_tables_that_tell_another_order_are_not_believed(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", options={"x264-params": "keyint=30:bframes=3:b-pyramid=none:scenecut=0"})
    data = bytearray(path.read_bytes())
    start = data.index(b"ctts") + 12
    runs = int.from_bytes(data[start - 4 : start], "big")
    for run in range(runs):  # every frame is shown when it is decoded
        data[start + 8 * run + 4 : start + 8 * run + 8] = (512).to_bytes(4, "big")
    path.write_bytes(bytes(data))
    with _open(path, uses_index=False) as whole:
        expected = whole.frames(range(len(whole)))
    with _open(path) as film_read:
        assert film_read.packets.is_indexed
    for index in range(1, len(expected)):
        with _open(path) as film_read:
            np.testing.assert_array_equal(film_read.frames([index]), expected[[index]])


@pytest.mark.usefixtures("by_header")
def test_file_that_ends_early_is_refused_as_before(tmp_path: Path) -> None:
    path = truncate(encode(tmp_path / "a.mp4", muxing={"movflags": "faststart"}), 0.8)
    with pytest.raises(VideoReadError, match="its header promises 30 frames, but the file ends after"):
        _open(path)


@pytest.mark.usefixtures("by_header")
@pytest.mark.parametrize("seed", slow_but([0], range(6)))
def test_damaged_header_does_no_harm(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = encode(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    start, original = data.rindex(b"moov"), bytes(data)
    for _ in range(20):
        position = int(rng.integers(start, len(data)))
        data[position] = int(rng.integers(256))
        path.write_bytes(bytes(data))
        try:
            with _open(path, uses_index=False) as whole:
                expected, times = whole.frames(range(len(whole))), whole.frame_times
        except VideoReadError:
            expected = None
        try:
            with _open(path) as film_read:
                frames = film_read.frames(range(len(film_read)))
                assert expected is not None
                np.testing.assert_array_equal(frames, expected)
                np.testing.assert_array_equal(film_read.frame_times, times)
        except VideoReadError:
            assert expected is None
        data[:] = original


# ---------------------------------------------------------------------------------------------------------------------
# What is read
# ---------------------------------------------------------------------------------------------------------------------


def _write_film(path: Path, num_groups: int, height: int, width: int, noise: int, *options: str) -> Path:
    """A film of one group of pictures again and again."""
    picture = f"testsrc2=size={width}x{height}:rate=30,noise=alls={noise}:allf=t,trim=end_frame={_GROUP}"
    one = path.with_name("group.mp4")
    subprocess.run(
        [require_ffmpeg(), "-nostdin", "-v", "error", "-f", "lavfi", "-i", picture, "-c:v", "libx264", "-threads",
         "1", "-pix_fmt", "yuv420p", "-x264-params", f"keyint={_GROUP}:bframes=2:scenecut=0", *options, one],
        check=True,
    )  # fmt: skip
    with av.open(str(one)) as before, av.open(str(path), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        packets = [packet for packet in before.demux(stream) if packet.size]
        length = round(_GROUP / 30 / stream.time_base)
        for packet in packets * num_groups:
            packet.stream = copy
            after.mux(packet)
            packet.pts, packet.dts, packet.time_base = packet.pts + length, packet.dts + length, stream.time_base
    one.unlink()
    return path


def _bytes_read() -> int:
    line = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


def _read(path: Path, indices: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Frames, how many bytes were read for them, and the CPU time."""
    read, cpu = _bytes_read(), time.process_time()
    with open_video(path, "pyav") as video:
        frames = video.frames(indices)
        assert video.packets.is_indexed
    return frames, _bytes_read() - read, time.process_time() - cpu


def test_few_bytes_of_a_large_film_are_read(tmp_path: Path) -> None:
    path = _write_film(tmp_path / "film.mp4", 40, 96, 128, 60, "-crf", "4", "-preset", "ultrafast")
    num_bytes = path.stat().st_size
    assert num_bytes > reading.INDEXED_BYTES
    wanted = np.arange(25 * _GROUP + 3, 26 * _GROUP - 1, 4)
    frames, num_read, _ = _read(path, wanted)
    assert num_read < 0.1 * num_bytes  # a group of 40, and what FFmpeg reads to know the codec
    with _open(path, uses_index=False) as whole:
        np.testing.assert_array_equal(frames, whole.frames(wanted))
        times = whole.frame_times
    np.testing.assert_array_equal(times_of(str(path)), times)


@pytest.mark.slow
def test_an_hour_of_film_opens_in_a_moment(tmp_path: Path) -> None:
    path = _write_film(tmp_path / "film.mp4", 1800, 120, 160, 12, "-crf", "24", "-preset", "veryfast")
    num_bytes = path.stat().st_size
    assert num_bytes > 100e6
    _read(_write_film(tmp_path / "another.mp4", 300, 120, 160, 12), np.array([0]))  # imports
    wanted = np.arange(50003, 50067, 4)
    first = _read(path, wanted)
    later = [_read(path, wanted + 20 * _GROUP) for _ in range(3)]  # other work on the machine slows one of them
    print(f"{num_bytes=}, first {first[1:]}, later {[found[1:] for found in later]}")  # noqa: T201
    assert max(first[1], later[0][1]) < 0.02 * num_bytes
    assert first[2] < 0.06
    assert min(found[2] for found in later) < 0.03
    with _open(path, uses_index=False) as whole:
        np.testing.assert_array_equal(first[0], whole.frames(wanted))
