"""The same indices give the same frames from each decoder: those that decoding the whole file gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from amd_hf import video_reading_amd as packets
from amd_hf.data.video.decoding import open_video
from amd_hf.data.video.source import VideoSource
from amd_hf.video_reading_amd import PyAVDecoder
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.videos import mark_rotated, numbered_frames


_NUM_FRAMES = 48
_B_FRAMES = {"x264-params": "keyint=8:bframes=3:b-adapt=0:scenecut=0"}
_OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=8:bframes=3:b-adapt=0:scenecut=0"}


class Kind(NamedTuple):
    """How a file is encoded."""

    name: str
    codec: str = "libx264"
    size: tuple[int, int] = (48, 64)
    options: dict[str, str] = {}
    b_frames: int | None = None
    times: Sequence[int] | None = None  # of each frame, in milliseconds
    rotation: int = 0
    muxing: dict[str, str] = {}


_IRREGULAR_TIMES = np.cumsum(np.random.default_rng(0).integers(1, 90, _NUM_FRAMES)).tolist()
_CUT_TIMES = [40 * (number - 5) for number in range(_NUM_FRAMES)]  # an edit list hides five frames

KINDS = {
    "h264_b_frames": Kind("a.mp4", options=_B_FRAMES),
    "h264_open_groups": Kind("a.mp4", options=_OPEN_GROUPS),
    "h264_open_groups_mkv": Kind("a.mkv", options=_OPEN_GROUPS),
    "h264_transport_stream": Kind("a.ts", options=_OPEN_GROUPS),
    "h264_avi": Kind("a.avi", options=_B_FRAMES),
    "h264_raw": Kind("a.h264", options=_B_FRAMES),
    "h264_irregular_times": Kind("a.mp4", options=_B_FRAMES, times=_IRREGULAR_TIMES),
    "h264_edit_list": Kind("a.mp4", options=_B_FRAMES, times=_CUT_TIMES, muxing={"avoid_negative_ts": "disabled"}),
    "h264_width_70": Kind("a.mp4", size=(50, 70)),
    "h264_width_72": Kind("a.mp4", size=(64, 72)),
    "h264_rotated_90": Kind("a.mp4", options=_B_FRAMES, rotation=90),
    "h264_rotated_270": Kind("a.mp4", rotation=270),
    "hevc": Kind("a.mp4", "libx265", options={"x265-params": "keyint=8:open-gop=1:log-level=none"}),
    "vp8": Kind("a.webm", "libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k"}),
    "vp9": Kind("a.webm", "libvpx-vp9", options={"crf": "10"}),
    "av1": Kind("a.mp4", "libsvtav1", options={"preset": "12"}),
    "mpeg4_avi": Kind("a.avi", "mpeg4"),
    "mpeg4_avi_b_frames": Kind("a.avi", "mpeg4", b_frames=2),
    "mpeg4_mp4_b_frames": Kind("a.mp4", "mpeg4", b_frames=2),
    "mpeg2": Kind("a.mpg", "mpeg2video", b_frames=2),
    "mjpeg_avi": Kind("a.avi", "mjpeg"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    made = {name: _encode(folder / name / kind.name, kind) for name, kind in KINDS.items() if _can_encode(kind.codec)}
    if hasattr(os, "sched_setscheduler"):  # the AV1 encoder takes real-time priority where it may, and keeps it
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return made


def _can_encode(codec: str) -> bool:
    return codec in av.codecs_available


def _encode(path: Path, kind: Kind) -> Path:
    height, width = kind.size
    rng = np.random.default_rng(0)
    frames = numbered_frames(_NUM_FRAMES, height, width).astype(int)
    frames[..., 2] = rng.integers(112, 144, (height, width))  # something that moves and is no plain colour
    for number in range(_NUM_FRAMES):
        frames[number, ..., 2] = np.roll(frames[number, ..., 2], number, axis=1)
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w", options=kind.muxing) as container:
        stream = container.add_stream(kind.codec, rate=25, options={"g": "8", **kind.options})
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuvj420p" if kind.codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if kind.codec.startswith("mpeg"):
            stream.bit_rate = 4_000_000
        if kind.b_frames is not None:
            stream.codec_context.max_b_frames = kind.b_frames
        if kind.times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames.astype(np.uint8)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if kind.times is not None:
                frame.pts, frame.time_base = kind.times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return mark_rotated(path, kind.rotation) if kind.rotation else path


def _decode_everything(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("decoder", DECODER_NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_equal_those_of_decoding_everything(files: dict[str, Path], kind: str, decoder: str) -> None:
    require_decoder(decoder)
    if kind not in files:
        pytest.skip(f"PyAV has no encoder {KINDS[kind].codec}")
    expected = np.rot90(_decode_everything(files[kind]), -KINDS[kind].rotation // 90, axes=(1, 2))
    assert len(expected) == (_NUM_FRAMES - 5 if kind == "h264_edit_list" else _NUM_FRAMES)
    source = files[kind].read_bytes() if decoder == "pyav" else files[kind]
    rng = np.random.default_rng(1)
    wanted = [np.sort(rng.choice(len(expected), size, replace=False)) for size in (1, 1, 2, 3, 8)]
    wanted += [np.array([index]) for index in (len(expected) - 1, 8, 17)] + [np.arange(len(expected))]
    with open_video(source, decoder) as kept:
        assert len(kept) == len(expected)
        for indices in wanted:
            with open_video(source, decoder) as fresh:
                for reader in (kept, fresh):
                    difference = np.abs(reader.frames(indices).astype(int) - expected[indices])
                    assert difference.max() <= 2, indices.tolist()


def test_neighbouring_frames_differ_by_more_than_the_tolerance(files: dict[str, Path]) -> None:
    for path in files.values():
        frames = _decode_everything(path).astype(int)
        moved = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3))
        assert (moved > 4).all(), path


def test_files_with_b_frames_hold_some(files: dict[str, Path]) -> None:
    for kind in ("h264_b_frames", "h264_open_groups", "h264_irregular_times", "mpeg4_avi_b_frames", "mpeg2"):
        with av.open(str(files[kind])) as container:
            stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
        assert stamps != sorted(stamps), kind


def _record_starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    starts: list[int] = []
    original = packets.VideoPackets.decode_from

    def decode_from(self: packets.VideoPackets, number: int, *options: object) -> object:
        starts.append(number)
        return original(self, number, *options)

    monkeypatch.setattr(packets.VideoPackets, "decode_from", decode_from)
    return starts


@pytest.mark.parametrize(
    ("indices", "expected"),
    [([41], [40]), ([0, 1, 9], [0, 8]), ([0, 47], [0, 40]), ([3, 7, 8, 9], [0]), ([0], [0]), ([17, 30], [16, 24])],
    ids=str,
)
def test_pyav_starts_at_the_last_key_frame_where_that_saves_work(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, indices: list[int], expected: list[int]
) -> None:
    starts = _record_starts(monkeypatch)
    with PyAVDecoder(VideoSource(path=str(files["h264_b_frames"])), None) as video:
        video.frames(indices)
    assert starts == expected


@pytest.mark.parametrize(
    "kind",
    ["h264_b_frames", "h264_open_groups_mkv", "h264_transport_stream", "h264_avi", "h264_edit_list", "hevc", "vp8",
     "vp9", "av1", "mpeg4_avi", "mpeg2", "mjpeg_avi"],
)  # fmt: skip
def test_ordinary_file_is_opened_without_decoding(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind not in files:
        pytest.skip(f"PyAV has no encoder {KINDS[kind].codec}")
    starts = _record_starts(monkeypatch)
    with open_video(files[kind], "pyav") as video:
        assert len(video) == (_NUM_FRAMES - 5 if kind == "h264_edit_list" else _NUM_FRAMES)
    assert starts == []


def test_pyav_starts_at_no_recovery_point(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    starts = _record_starts(monkeypatch)
    with open_video(files["h264_open_groups"], "pyav") as video:
        video.frames([45])
    assert starts == [0]


@pytest.mark.parametrize("kind", ["h264_b_frames", "vp9", "mpeg4_avi_b_frames", "h264_raw"])
def test_large_file_whose_packets_are_not_kept_gives_the_same_frames(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    expected = _decode_everything(files[kind])
    monkeypatch.setattr(packets, "KEPT_BYTES", 0)
    with open_video(files[kind], "pyav") as video:
        for indices in ([30, 45], [2], [3, 40], [47]):
            np.testing.assert_array_equal(video.frames(indices), expected[indices])


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize(
    ("kind", "is_native"), [("h264_b_frames", True), ("vp9", True), ("mpeg4_avi_b_frames", False)]
)
def test_decoder_reads_itself_what_it_reads_right(
    files: dict[str, Path], decoder: str, kind: str, is_native: bool
) -> None:
    with open_video(files[kind], require_decoder(decoder)) as video:
        video.frames([5, 40])
        assert (video._substitute is None) == is_native
