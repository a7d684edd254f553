"""Times come from time stamps: the frame that is read for a moment is the one that is on screen then.

The videos tell it themselves: the colour of each frame is the time at which it is shown.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from amd_hf.data.video.decoding import VideoReadError, open_video
from amd_hf.data.video.key_frames import frame_at, read_around, times_of
from amd_hf.detection.datasets.action_videos import ActionVideos
from amd_hf.detection.drawing import draw_detections
from amd_hf.evaluation.prediction import WindowOptions, sliding_windows
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.encoding import encode, require_ffmpeg, two_streams
from tests.helpers.video_kinds import KINDS, KindFiles
from tests.helpers.videos import frame_numbers, numbered_frames


_UNIT = 20  # milliseconds between two colours
# As a phone films: quick in the light, slow in the dark, with a stop in between. Five seconds in 67 frames.
_GAPS = [1] * 30 + [2] * 15 + [10] * 5 + [70] + [1] * 10 + [8] * 5
_SHOWN = np.cumsum([0, *_GAPS])
_FILM = numbered_frames(256, 32, 48)[_SHOWN]
_TIMES = (_UNIT * _SHOWN).tolist()


def _write(path: Path, times: Sequence[int] = _TIMES, codec: str = "libx264", **options: Any) -> Path:
    return encode(path, codec, _FILM, times=times, **options)


def _second_stream(path: Path) -> None:
    """Another film of another rate comes first in the file."""
    two_streams(
        path,
        lambda first: encode(first, frames=numbered_frames(10, 16, 16), rate=2),
        lambda second: _write(second),
        "-disposition:v:0",
        "0",
    )


_CUT = 40  # frames that an edit list hides
_HIDING = {"avoid_negative_ts": "disabled"}

FILMS: dict[str, Callable[[Path], object]] = {
    "phone.mp4": _write,
    "phone.mov": lambda path: _write(path, codec="mpeg4"),
    "phone.mkv": _write,
    "phone.webm": lambda path: _write(path, codec="libvpx-vp9"),
    "phone.ts": _write,
    "phone.flv": _write,
    "late.mp4": lambda path: _write(path, [time + 3000 for time in _TIMES]),
    "late.ts": lambda path: _write(path, [time + 3000 for time in _TIMES]),
    "edit_list.mp4": lambda path: _write(path, [time - _TIMES[_CUT] for time in _TIMES], muxing=_HIDING),
    "second.mkv": _second_stream,
    "second.mp4": _second_stream,
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    for name, write in FILMS.items():
        write(folder / name)
    return {name: folder / name for name in FILMS}


def _known(name: str) -> np.ndarray:
    """Seconds, from the first frame that is shown, at which the frames of a film are shown."""
    first = _CUT if name.startswith("edit_list") else 0
    return (_SHOWN[first:] - _SHOWN[first]) * _UNIT / 1000


def _seconds_shown(name: str, frames: np.ndarray) -> list[float]:
    first = _SHOWN[_CUT] if name.startswith("edit_list") else 0
    return [(number - first) * _UNIT / 1000 for number in frame_numbers(frames)]


@pytest.mark.parametrize("decoder", DECODER_NAMES)
@pytest.mark.parametrize("name", FILMS)
def test_key_frame_is_the_one_on_screen(films: dict[str, Path], name: str, decoder: str) -> None:
    require_decoder(decoder)
    known = _known(name)
    video = {"path": str(films[name]), "layout": "file", "start_seconds": None, "frame_rate": None}
    options = {"video_id": "a", "decoder": decoder}
    stays = np.diff(known)
    for index in range(0, len(stays), 3):
        # As it appears, and as long as the next one is more than half a frame away.
        for seconds in (known[index], known[index + 1] - 0.6 * min(stays[index : index + 2])):
            frames = read_around(video, float(seconds), np.array([0, 1]), **options)
            shown, behind = _seconds_shown(name, frames)
            assert shown == pytest.approx(known[index]), (seconds, index)
            assert behind == pytest.approx(known[index + 1])
    assert _seconds_shown(name, read_around(video, float(known[-1]) + 0.05, np.array([0]), **options)) == [known[-1]]
    with pytest.raises(VideoReadError, match=r"second 17 is not in it: that is frame \d+ of"):
        read_around(video, 17.0, np.array([0]), **options)
    with pytest.raises(VideoReadError, match="second -1 is not in it"):
        read_around(video, -1.0, np.array([0]), **options)


def test_start_seconds_is_the_time_of_the_first_frame(films: dict[str, Path]) -> None:
    video = {"path": str(films["phone.mp4"]), "layout": "file", "start_seconds": 900.0, "frame_rate": None}
    frames = read_around(video, 902.0, np.array([0]), video_id="a")
    assert _seconds_shown("phone.mp4", frames) == [max(time for time in _known("phone.mp4") if time <= 2.0)]


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize(("decoder", "time_limit"), [("decord", None), ("torchcodec", None), ("pyav", 60.0)])
def test_readers_tell_when_frames_are_shown(
    films: dict[str, Path], name: str, decoder: str, time_limit: float | None
) -> None:
    known = _known(name)
    with open_video(films[name], require_decoder(decoder), time_limit=time_limit) as reader:
        times = reader.frame_times
        assert len(times) == len(reader) + 1
    np.testing.assert_allclose(times[:-1], known, atol=2e-3)
    assert times[-1] > times[-2]
    np.testing.assert_array_equal(times_of(str(films[name])), times)
    with open_video(films[name], "pyav") as reader:
        assert reader.mean_rate == pytest.approx((len(known) - 1) / known[-1], rel=2e-3)


def test_last_frame_is_shown_as_long_as_its_file_tells(tmp_path: Path) -> None:
    """Three slides, the last one for ten seconds."""
    before, path = encode(tmp_path / "a.mp4", "mpeg4", numbered_frames(3, 32, 48), rate=1), tmp_path / "slides.mp4"
    with av.open(str(before)) as source, av.open(str(path), "w") as slides:
        stream = slides.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.duration *= 10 if packet.pts == 2 / packet.time_base else 1
                packet.stream = stream
                slides.mux(packet)
    np.testing.assert_allclose(times_of(str(path)), [0, 1, 2, 12])
    video = {"path": str(path), "layout": "file", "start_seconds": None, "frame_rate": None}
    assert frame_numbers(read_around(video, 9.0, np.array([-1, 0, 1]), video_id="a")) == [1, 2, 2]


def test_next_frame_counts_from_half_a_frame_before_it() -> None:
    even = np.arange(11) / 10
    moments = (0.0, 0.04, 0.06, 0.54, 0.56, 0.99, -0.04)
    assert [frame_at(even, seconds) for seconds in moments] == [0, 0, 1, 5, 6, 9, 0]
    assert [frame_at(even, seconds) for seconds in (1.0, 5.0, -0.06)] == [None] * 3
    uneven = np.array([0.0, 0.1, 2.0, 2.1, 2.2])
    moments = (0.3, 1.9, 1.94, 1.96, 2.0)
    assert [frame_at(uneven, seconds) for seconds in moments] == [1, 1, 1, 2, 2]
    assert frame_at(np.array([0.0, 0.04]), 0.03) == 0


def test_windows_of_a_film_whose_rate_changes_hold_what_is_shown_in_them(films: dict[str, Path]) -> None:
    for name in ("phone.mp4", "second.mkv"):
        with open_video(films[name]) as reader:
            for window in sliding_windows(reader.frame_times, WindowOptions(1.0, 1.0)):
                shown = _seconds_shown(name, reader.frames(range(window.start_frame, window.stop_frame)))
                edges = window.start_seconds - 0.002, window.end_seconds - 0.002  # Matroska rounds
                inside = [time for time in _known(name) if edges[0] <= time < edges[1]]
                assert shown == pytest.approx(inside)


def test_drawn_video_shows_each_frame_when_the_video_does(films: dict[str, Path], tmp_path: Path) -> None:
    person = {"box": (0.1, 0.3, 0.9, 0.9), "actions": []}
    for name in ("phone.mp4", "second.mkv", "edit_list.mp4"):
        moment = 2.5 if name != "edit_list.mp4" else 1.0
        moments = [{"timestamp": moment, "persons": [person]}]
        path = draw_detections(films[name], moments, tmp_path / "drawn.mp4", min_side=32)
        np.testing.assert_allclose(times_of(str(path))[:-1], _known(name), atol=2e-3)
        with open_video(path) as drawn, open_video(films[name]) as plain:
            before, after = (reader.frames(range(len(reader))).astype(int) for reader in (plain, drawn))
        changed = np.abs(before - after).max(axis=(1, 2, 3))
        is_drawn = changed > 40
        assert is_drawn.tolist() == [abs(time - moment) <= 0.5 for time in _known(name)]


def test_moments_are_looked_for_in_the_film_and_not_in_its_sound(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", frames=numbered_frames(10, 16, 16), rate=10, audio="aac")  # two seconds of sound
    videos = ActionVideos(tmp_path)
    assert [videos.has("a", seconds) for seconds in (0.0, 0.5, 0.9, 1.0, 1.5)] == [True, True, True, False, False]
    assert not videos.has("b", 0.0)


@pytest.mark.parametrize("name", KINDS)
def test_times_are_those_that_ffprobe_tells(kind_files: KindFiles, name: str) -> None:
    require_ffmpeg()
    expected = _probed_times(kind_files.path(name), KINDS[name].stream)
    times = times_of(str(kind_files.path(name)))
    assert len(times) == len(kind_files.frames(name)) + 1
    assert (np.diff(times) > 0).all()
    if len(expected) == len(times) - 1 and (np.diff(expected) > 0).all():  # raw streams have none, VOB odd ones
        np.testing.assert_allclose(times[:-1], expected, atol=2e-3)


def _probed_times(path: Path, stream: int) -> np.ndarray:
    command = [
        str(shutil.which("ffprobe")), "-v", "error", "-threads", "1", "-select_streams", f"v:{stream}", "-of", "json",
        "-show_entries", "frame=best_effort_timestamp_time", str(path),
    ]  # fmt: skip
    frames = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["frames"]
    times = [float(frame["best_effort_timestamp_time"]) for frame in frames if "best_effort_timestamp_time" in frame]
    return np.array(times) - min(times, default=0)
