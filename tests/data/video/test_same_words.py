"""A file without frames to take: `open_video` by each decoder and the processor say the same, in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from amd_hf import AMDVideoProcessor
from amd_hf.data.video.decoding import VideoReadError, open_video
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.encoding import encode, film
from tests.helpers.videos import text_file, truncate, write_video


def _sound(path: Path, *, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3" if path.suffix == ".mp3" else "aac", rate=44100, layout="mono")
        picture = container.add_stream("png") if cover else None
        if picture is not None:
            picture.height = picture.width = 32
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), dtype=np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def _no_frames(path: Path) -> Path:
    """A transport stream cut off within its first picture."""
    encode(path, "mpeg2video")
    return truncate(path, 600 / path.stat().st_size)


def _two_sizes(path: Path) -> Path:
    parts = [encode(path.with_name(f"{side}{path.suffix}"), frames=film(12, side, side)) for side in (64, 96)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _two_sizes_in_matroska(path: Path) -> Path:
    parts = [encode(path.with_name(f"{side}.ts"), frames=film(12, side, side)) for side in (64, 96)]
    with av.open(str(path), "w") as target:
        stream = None
        offset = 0
        for part in parts:
            with av.open(str(part)) as source:
                first = source.streams.video[0]
                stream = stream or target.add_stream_from_template(first)
                for packet in source.demux(first):
                    if packet.size:
                        packet.stream = stream
                        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        target.mux(packet)
            offset += 12 * 3600
    return path


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


FAULTS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "sound alone": ("a.mp4", _sound, r"it has no video stream \(it holds: audio\)"),
    "sound with a cover": (
        "a.mp3", lambda path: _sound(path, cover=True), "only picture is the cover of a sound file"
    ),
    "no frames": ("a.ts", _no_frames, "it holds zero frames"),
    "two sizes": (
        "a.ts", _two_sizes, "the size of its frames changes from 64 x 64 to 96 x 96 at frame 12: cut it there, or "
    ),
    "two sizes in matroska": ("a.mkv", _two_sizes_in_matroska, "changes from 64 x 64 to 96 x 96 at frame 12"),
    "text": ("a.mp4", text_file, "damaged, or in none of the formats that are read"),
    "empty": ("a.webm", lambda path: path.touch() or path, "it holds zero bytes"),
    "missing": ("a.mkv", lambda path: path, "there is no file"),
    "a folder": ("a.mp4", _directory, "is a folder: give a video file in it"),
    "cut": ("a.mp4", lambda path: truncate(write_video(path)), "damaged, or in none"),
    "cut behind its header": (
        "a.mp4", lambda path: truncate(write_video(path, moov_first=True), 0.8),
        "its header promises 20 frames, but the file ends after",
    ),
    "playlist": ("a.mp4", lambda path: path.write_text("#EXTM3U\na.ts\n") and path, "it is an HLS playlist"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_reader_and_the_processor_say_the_same(tmp_path: Path, fault: str) -> None:
    name, write, words = FAULTS[fault]
    path = write(tmp_path / name)
    said = {}
    for decoder in DECODER_NAMES:
        with pytest.raises(VideoReadError, match=words) as caught:
            open_video(path, require_decoder(decoder))
        said[decoder] = str(caught.value)
    with pytest.raises(VideoReadError, match=words) as caught:
        AMDVideoProcessor()(str(path))
    said["processor"] = str(caught.value)
    assert len(set(said.values())) == 1, said
    message = said["processor"]
    assert message.startswith(f"Cannot read video {str(path)!r}: ")
    assert "\n" not in message
    with pytest.raises(VideoReadError, match=words), open_video(path, "pyav", time_limit=60.0):
        pass


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_image_given_as_a_video_is_called_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    words = "it is an image, not a video, .*: say `--media image`, or use an image model"
    with pytest.raises(VideoReadError, match=words) as caught:
        AMDVideoProcessor()(str(path))
    with open_video(path) as video, pytest.raises(VideoReadError, match=words) as of_times:
        _ = video.frame_times
    assert str(caught.value) == str(of_times.value)
