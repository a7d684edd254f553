"""Encodes small films with PyAV and FFmpeg's command line, to the same bytes each time; tells what FFmpeg shows."""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.helpers.videos import numbered_frames


NUM_FRAMES = 30
SIZE = (48, 64)
_MATRIX_OFFSET = 44  # from the name of the box `tkhd` (version 0) to its matrix
_ONE = 0x10000  # 1 in the fixed point of a display matrix

B_FRAMES = "keyint=8:bframes=3:b-adapt=0:scenecut=0"


def require_ffmpeg() -> str:
    """Path of FFmpeg's command line: where it is absent tests skip, or fail with AMD_REQUIRE_ALL=1."""
    program = shutil.which("ffmpeg")
    if program is None:
        reason = "FFmpeg's command line is not installed"
        if os.environ.get("AMD_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def ffmpeg(*arguments: str | Path, pipe: bytes | None = None) -> bytes:
    """Run FFmpeg's command line; what it writes to its standard output."""
    command = [require_ffmpeg(), *(["-nostdin"] if pipe is None else []), "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=pipe, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def ffmpeg_frames(path: Path, stream: int = 0) -> np.ndarray:
    """The frames that FFmpeg's command line shows of a file's video stream: uint8 (n, H, W, 3), upright."""
    # One picture after the other, each with its own header (PPM), so that the size is theirs after rotation.
    data = ffmpeg(
        "-threads", "1", "-i", path, "-map", f"0:v:{stream}", "-fps_mode", "passthrough",
        "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "-",
    )  # fmt: skip
    frames, start = [], 0
    while start < len(data):
        magic, width, height, maximum = data[start : start + 40].split(maxsplit=4)[:4]
        assert (magic, maximum) == (b"P6", b"255")
        start += sum(map(len, (magic, width, height, maximum))) + 4
        shape = int(height), int(width), 3
        frames.append(np.frombuffer(data, np.uint8, int(np.prod(shape)), start).reshape(shape))
        start += int(np.prod(shape))
    return np.stack(frames)


# ---------------------------------------------------------------------------------------------------------------------
# Encoding
# ---------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def film(num_frames: int = NUM_FRAMES, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """uint8 (n, H, W, 3): numbered frames (red and green), with a blue pattern that moves to the right."""
    frames = numbered_frames(num_frames, height, width)
    rows, columns = np.mgrid[:height, :width]
    pattern = np.where((columns // 8 + rows // 8) % 2, 112, 144)
    for number in range(num_frames):
        frames[number, ..., 2] = np.roll(pattern, 3 * number, axis=1)
    frames.flags.writeable = False
    return frames


def encode(
    path: Path,
    codec: str = "libx264",
    frames: np.ndarray | None = None,
    *,
    options: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    b_frames: int | None = None,
    aspect: Fraction | None = None,
    audio: str | None = None,
    audio_first: bool = False,
) -> Path:
    """Encode frames with PyAV; `times` are those of the frames in milliseconds, by default they follow at `rate`."""
    frames = film() if frames is None else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact", **(muxing or {})}) as container:
        sound = _add_sound(container, audio) if audio and audio_first else None
        stream: Any = container.add_stream(codec, rate=rate, options=_codec_options(codec, options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.thread_count = 1
        if b_frames is not None:
            context.max_b_frames = b_frames
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if times is not None:
            context.time_base = stream.time_base = Fraction(1, 1000)
        if audio:
            sound = sound or _add_sound(container, audio)
            _write_tone(container, sound)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode(None))
    return path


_CODECS_BY_RATE = ("mpeg", "msmpeg", "wmv", "flv", "h263", "mjpeg")


def _codec_options(codec: str, options: Mapping[str, str] | None) -> dict[str, str]:
    settings = {"g": "8", "flags": "+bitexact", **(options or {})}
    if codec == "libx264":
        settings["x264-params"] = settings.get("x264-params", B_FRAMES) + ":cpu-independent=1"
    if codec == "libx265":
        settings["x265-params"] = settings.get("x265-params", "keyint=8") + ":log-level=none:pools=none"
    if codec.startswith(_CODECS_BY_RATE):
        settings["b"] = "4M"
    if codec in ("libx264", "libx265"):
        settings.setdefault("crf", "12")
    return settings


def _add_sound(container: Any, codec: str) -> Any:
    stream = container.add_stream(codec, rate=48000, options={"flags": "+bitexact"})
    stream.layout = "mono"
    stream.codec_context.thread_count = 1
    return stream


def _write_tone(container: Any, stream: Any) -> None:
    """Two seconds of a tone, all of it in front of the first picture."""
    tone = (np.sin(np.arange(96000) / 20) * 8000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    resampler = av.AudioResampler(stream.format, stream.layout, stream.rate, stream.frame_size or 1024)
    for part in resampler.resample(frame):
        container.mux(stream.encode(part))


def encode_by_ffmpeg(path: Path, *arguments: str, frames: np.ndarray | None = None, rate: str = "25") -> Path:
    """Encode frames with FFmpeg's command line."""
    frames = film() if frames is None else frames
    height, width = frames.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    ffmpeg(
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-",
        "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", *arguments, path,
        pipe=frames.tobytes(),
    )  # fmt: skip
    return path


def copied(
    path: Path, first: Callable[[Path], object], suffix: str, *arguments: str, inputs: Sequence[str] = ()
) -> None:
    """Write a file by `first`, then copy its streams, as they are, with FFmpeg's command line."""
    before = path.with_name(f"{path.stem}_before{suffix}")
    first(before)
    ffmpeg(*inputs, "-i", before, "-map", "0", "-c", "copy", "-fflags", "+bitexact", *arguments, path)
    before.unlink()


def two_streams(
    path: Path, first: Callable[[Path], object], second: Callable[[Path], object], *arguments: str
) -> None:
    paths = path.with_name(f"{path.stem}_1.mov"), path.with_name(f"{path.stem}_2.mov")
    first(paths[0])
    second(paths[1])
    ffmpeg("-i", paths[0], "-i", paths[1], "-map", "0:v", "-map", "1:v", "-c", "copy", "-fflags", "+bitexact",
           *arguments, path)  # fmt: skip
    for made in paths:
        made.unlink()


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write into an MP4's header how its pictures are to be turned or mirrored: x' = ax + cy, y' = bx + dy."""
    matrix = (a * _ONE, b * _ONE, 0, c * _ONE, d * _ONE, 0, 0, 0, 0x40000000)
    data = bytearray(path.read_bytes())
    struct.pack_into(">9i", data, data.index(b"tkhd") + _MATRIX_OFFSET, *matrix)
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# VP8 and VP9 with pictures that are never shown
# ---------------------------------------------------------------------------------------------------------------------

HIDDEN_FRAMES = 60


@functools.cache
def _alt_ref(codec: str) -> bytes:
    """A WebM film with alternate reference pictures, which only an encoder that passes twice chooses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.webm")
        for number in (1, 2):
            ffmpeg(
                "-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=25,trim=end_frame={HIDDEN_FRAMES}",
                "-pix_fmt", "yuv420p", "-c:v", codec, "-auto-alt-ref", "1", "-lag-in-frames", "25", "-b:v", "200k",
                "-g", "100", "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact",
                "-pass", str(number), "-passlogfile", Path(folder, "passes"), path,
            )  # fmt: skip
        return path.read_bytes()


def write_alt_ref(path: Path, codec: str, *copying: str) -> None:
    """Write a film with pictures that are never shown; `copying` says how its packets are copied."""
    ffmpeg("-f", "matroska", "-i", "-", "-c", "copy", "-fflags", "+bitexact", *copying, path, pipe=_alt_ref(codec))


# Each picture in a packet of its own, as some programs write them: FFmpeg's own muxers would join them again.
SPLIT = ("-bsf:v", "vp9_superframe_split", "-fflags", "-autobsf+bitexact")
