"""Sliding windows and the times of frames, against lists worked out by hand and the times that a decoder gives."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from amd_hf.data.video.key_frames import times_of
from amd_hf.data.video.source import VideoReadError
from amd_hf.evaluation.prediction import WindowOptions, sliding_windows
from tests.helpers.videos import numbered_frames, text_file, write_video


def _cut(num_frames: int, fps: float, length: float, stride: float, unit: str) -> list[tuple[int, int]]:
    times = np.arange(num_frames + 1) / fps
    windows = sliding_windows(times, WindowOptions(length, stride, unit))
    for window in windows:
        assert window.start_seconds == times[window.start_frame]
        assert window.end_seconds == times[window.stop_frame]
    return [(window.start_frame, window.stop_frame) for window in windows]


@pytest.mark.parametrize(
    ("num_frames", "length", "stride", "expected"),
    [
        (20, 8, 5, [(0, 8), (5, 13), (10, 18), (12, 20)]),
        (20, 10, 10, [(0, 10), (10, 20)]),
        (20, 10, 5, [(0, 10), (5, 15), (10, 20)]),
        (21, 10, 10, [(0, 10), (10, 20), (11, 21)]),
        (20, 5, 8, [(0, 5), (8, 13), (15, 20)]),
        (7, 10, 4, [(0, 7)]),
        (10, 10, 1, [(0, 10)]),
        (1, 1, 1, [(0, 1)]),
    ],
)
def test_windows_in_frames_cover_the_video_to_its_end(
    num_frames: int, length: int, stride: int, expected: list[tuple[int, int]]
) -> None:
    assert _cut(num_frames, 25, length, stride, "frames") == expected


@pytest.mark.parametrize(
    ("num_frames", "fps", "length", "stride", "expected"),
    [
        (75, 25, 1, 1, [(0, 25), (25, 50), (50, 75)]),
        (75, 25, 1, 0.4, [(0, 25), (10, 35), (20, 45), (30, 55), (40, 65), (50, 75)]),
        (100, 30, 2, 2, [(0, 60), (40, 100)]),
        (10, 25, 3, 1, [(0, 10)]),
        (4, 1, 0.5, 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),  # windows shorter than a frame: the frame on show
    ],
)
def test_windows_in_seconds_hold_the_frames_that_appear_in_them(
    num_frames: int, fps: float, length: float, stride: float, expected: list[tuple[int, int]]
) -> None:
    assert _cut(num_frames, fps, length, stride, "seconds") == expected


def test_windows_do_not_drift_over_an_hour() -> None:
    fps = 30000 / 1001
    windows = _cut(int(3600 * fps), fps, 0.1, 0.1, "seconds")
    for number in (1000, 20000, 35000):
        first, stop = windows[number]
        assert first == int(np.ceil(Fraction(number, 10) * Fraction(30000, 1001)))
        assert stop == windows[number + 1][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 1, "seconds"), "The length of a window must be above 0 seconds, not 0"),
        ((1, -1, "frames"), "The stride of a window must be above 0 frames, not -1"),
        ((1.5, 1, "frames"), "The length of a window must be a whole number of frames, not 1.5"),
        ((1, 1, "minutes"), "`unit` must be 'seconds' or 'frames', not 'minutes'"),
    ],
)
def test_window_options_that_mean_nothing_raise(options: tuple[float, float, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowOptions(*options)


# ---------------------------------------------------------------------------------------------------------------------
# Times of frames
# ---------------------------------------------------------------------------------------------------------------------


def _decoded_times(path: Path) -> list[float]:
    """The times that come with decoded frames, from the first one."""
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    return [time - times[0] for time in times]


def _write_uneven(path: Path, gaps: list[int]) -> Path:
    """A video of variable frame rate: frame i + 1 follows `gaps[i]` milliseconds after frame i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(numbered_frames(len(gaps) + 1, 32, 32)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = sum(gaps[:number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")]
)
def test_times_are_those_of_the_decoded_frames(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, 40, fps=30, codec=codec)
    times = times_of(str(path))
    expected = _decoded_times(path)
    assert len(expected) == 40
    np.testing.assert_allclose(times[:-1], expected, atol=1e-3 if name.endswith(("mkv", "webm")) else 1e-6)
    assert times[-1] == pytest.approx(40 / 30, abs=2e-3)


def test_times_of_a_video_of_variable_frame_rate(tmp_path: Path) -> None:
    gaps = [40, 40, 200, 33, 500, 17, 40, 40, 1000]
    path = _write_uneven(tmp_path / "uneven.mp4", gaps)
    expected = np.cumsum([0, *gaps]) / 1000
    np.testing.assert_allclose(times_of(str(path))[:-1], expected, atol=1e-6)
    np.testing.assert_allclose(_decoded_times(path), expected, atol=1e-6)


def test_file_that_is_no_video_raises(tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match=r"Cannot read video '.*a\.mp4': pyav: Invalid data found"):
        times_of(str(text_file(tmp_path / "a.mp4")))
