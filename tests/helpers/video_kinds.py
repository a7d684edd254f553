"""Small video files of every kind that people have, the same bytes each time, and what FFmpeg's program shows of them.

    KINDS["vp9_alt_ref_webm"].write(path)  ->  a file
    ffmpeg_frames(path, stream=0)          ->  uint8 (n, H, W, 3), the frames that it shows

PyAV (with its own FFmpeg) encodes what it can, FFmpeg's command line the others. Frames are plain colours that tell
their number (`tests.helpers.videos.frame_numbers`) under a pattern that moves, so that no two of them are alike.
"""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

_B_FRAMES = "keyint=8:bframes=3:b-adapt=0:scenecut=0"
_OPEN = f"open-gop=1:{_B_FRAMES}"
_REFRESH = "intra-refresh=1:keyint=10:bframes=0:scenecut=0"


@dataclass(frozen=True)
class VideoKind:
    """A kind of file.

    Args:
        suffix (`str`): Of its name.
        family (`str`): What is special about it; several files may be of one family.
        write (callable): Makes the file at a path.
        num_frames (`int` or `None`): Frames that it shows, where that was known before any decoder was asked.
        stream (`int`): Which of its video streams is the film.
        bits (`int`): Of a colour in the file.
    """

    suffix: str
    family: str
    write: Callable[[Path], object]
    num_frames: int | None = NUM_FRAMES
    stream: int = 0
    bits: int = 8


class KindFiles:
    """Writes each kind of file when it is first asked for, and keeps what FFmpeg's command line shows of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: dict[str, np.ndarray] = {}

    def path(self, name: str) -> Path:
        path = self._folder / f"{name}{KINDS[name].suffix}"
        if not path.exists():
            KINDS[name].write(path)
        return path

    def frames(self, name: str) -> np.ndarray:
        """uint8 (n, H, W, 3)"""
        if name not in self._frames:
            self._frames[name] = ffmpeg_frames(self.path(name), KINDS[name].stream)
        return self._frames[name]


# ---------------------------------------------------------------------------------------------------------------------
# FFmpeg's command line
# ---------------------------------------------------------------------------------------------------------------------


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
    command = [require_ffmpeg(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    command = command if pipe is None else [part for part in command if part != "-nostdin"]
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
        settings["x264-params"] = settings.get("x264-params", _B_FRAMES) + ":cpu-independent=1"
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


def _copied(
    path: Path, first: Callable[[Path], object], suffix: str, *arguments: str, inputs: Sequence[str] = ()
) -> None:
    """Write a file by `first`, then copy its streams, as they are, with FFmpeg's command line."""
    before = path.with_name(f"{path.stem}_before{suffix}")
    first(before)
    ffmpeg(*inputs, "-i", before, "-map", "0", "-c", "copy", "-fflags", "+bitexact", *arguments, path)
    before.unlink()


def _two_streams(
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


def _turned(a: int, b: int, c: int, d: int, **options: Any) -> Callable[[Path], object]:
    return lambda path: set_display_matrix(encode(path, **options), a, b, c, d)


# ---------------------------------------------------------------------------------------------------------------------
# MPEG-4 part 2 as Xvid and DivX write it
# ---------------------------------------------------------------------------------------------------------------------


def _not_coded_vop(number: int) -> bytes:
    """A picture of 25 a second that repeats the last one: type P, `vop_coded` 0."""
    bits = "01" + "0" + "1" + f"{number % 25:05b}" + "1" + "0"  # type, seconds passed, marker, time, marker, coded
    bits += "0" + "1" * (-(len(bits) + 1) % 8)  # stuffing
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _mpeg4_packets(b_frames: int) -> tuple[bytes, list[bytes]]:
    context: Any = av.CodecContext.create("mpeg4", "w")
    context.height, context.width, context.pix_fmt = *SIZE, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.bit_rate, context.max_b_frames, context.gop_size = 4_000_000, b_frames, 9
    context.options = {"flags": "+bitexact", "bf": str(b_frames)}
    packets = []
    for pixels in film():
        packets += [bytes(packet) for packet in context.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))]
    packets += [bytes(packet) for packet in context.encode(None)]
    return bytes(context.extradata or b""), packets


def write_not_coded(path: Path) -> None:
    """An AVI of MPEG-4 in which every fifth picture is marked as not coded."""
    _, packets = _mpeg4_packets(0)
    mixed: list[bytes] = []
    for number, packet in enumerate(packets):
        mixed.append(packet)
        if number % 5 == 3:
            mixed.append(_not_coded_vop(number))
    write_avi(path, b"XVID", mixed)


def write_packed(path: Path) -> None:
    """An AVI of MPEG-4 whose B-frames are packed: two pictures in a packet, then one that is not coded (DivX)."""
    _, packets = _mpeg4_packets(1)
    packed: list[bytes] = []
    for packet in packets:
        coding = packet[packet.index(b"\0\0\1\xb6") + 4] >> 6
        if coding == 2:  # B: into the packet before, and a placeholder in its place
            packed[-1] += packet
            packed.append(_not_coded_vop(0))
        else:
            packed.append(packet)
    head = packed[0].index(b"\0\0\1\xb6") if b"\0\0\1\xb3" not in packed[0] else packed[0].index(b"\0\0\1\xb3")
    packed[0] = packed[0][:head] + b"\0\0\1\xb2DivX503b1393p\0" + packed[0][head:]
    write_avi(path, b"DX50", packed)


def write_avi(
    path: Path, fourcc: bytes, packets: Sequence[bytes], rate: int = 25, size: tuple[int, int] = SIZE
) -> None:
    """An AVI with exactly these chunks, empty ones too, as capture programs write them for dropped frames."""
    height, width = size

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    def group(name: bytes, *parts: bytes) -> bytes:
        return chunk(b"LIST", name + b"".join(parts))

    count, largest = len(packets), max(map(len, packets))
    avih = struct.pack("<14I", 1_000_000 // rate, 0, 0, 0x10, count, 0, 1, largest, width, height, 0, 0, 0, 0)
    strh = struct.pack(
        "<4s4sIHHIIIIIIIIHHHH", b"vids", fourcc, 0, 0, 0, 0, 1, rate, 0, count, largest, 0, 0, 0, 0, width, height
    )
    strf = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, fourcc, width * height * 3, 0, 0, 0, 0)
    movi, index = b"movi", b""
    for packet in packets:
        index += struct.pack("<4sIII", b"00dc", 0x10 if not index else 0, len(movi), len(packet))
        movi += chunk(b"00dc", packet)
    content = b"AVI " + group(
        b"hdrl", chunk(b"avih", avih), group(b"strl", chunk(b"strh", strh), chunk(b"strf", strf))
    )
    content += chunk(b"LIST", movi) + chunk(b"idx1", index)
    path.write_bytes(chunk(b"RIFF", content))


def write_dropped(path: Path, codec: str = "mpeg4") -> None:
    """An AVI in which every fourth picture was dropped: an empty chunk holds its place."""
    if codec == "mpeg4":
        packets = _mpeg4_packets(0)[1]
    else:
        packets = [_jpeg(pixels) for pixels in film()]
    mixed: list[bytes] = []
    for number, packet in enumerate(packets):
        mixed.append(packet)
        mixed += [b""] * (number % 4 == 2)
    write_avi(path, b"XVID" if codec == "mpeg4" else b"MJPG", mixed)


def _jpeg(pixels: np.ndarray) -> bytes:
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.height, context.width, context.pix_fmt = *pixels.shape[:2], "yuvj420p"
    context.time_base = Fraction(1, 25)
    context.options = {"flags": "+bitexact", "qscale": "2"}
    (packet,) = [*context.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")), *context.encode(None)]
    return bytes(packet)


# ---------------------------------------------------------------------------------------------------------------------
# H.264 with a field per packet, as cameras write it (no encoder at hand does): pictures of uncompressed macroblocks
# ---------------------------------------------------------------------------------------------------------------------


class _Bits:
    """Bits of a NAL unit, as ITU-T H.264 names them."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, count: int, *values: int) -> _Bits:
        self._bits += [f"{value:0{count}b}" for value in values]
        return self

    def ue(self, *values: int) -> _Bits:
        self._bits += ["0" * ((value + 1).bit_length() - 1) + f"{value + 1:b}" for value in values]
        return self

    def align(self, first: str = "") -> bytes:
        text = "".join(self._bits) + first
        text += "0" * (-len(text) % 8)
        self._bits = [text]
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _nal(head: int, content: bytes) -> bytes:
    escaped, zeros = bytearray(), 0
    for byte in content:
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([head]) + bytes(escaped)


def _picture(planes: Sequence[np.ndarray], number: int, parity: int | None) -> bytes:
    """A slice with a whole frame, or its field of even (0) or odd (1) rows, in macroblocks without compression."""
    is_key = number == 0 and parity != 1
    head = _Bits().ue(0, 7, 0).u(4, number % 16).u(1, parity is not None)
    if parity is not None:
        head.u(1, parity)
    if is_key:
        head.ue(0)
    head.u(8, (2 * number + (parity or 0)) % 256)
    head.u(1, *((0, 0) if is_key else (0,)))
    head.ue(0, 1)  # no change of the quantiser, no deblocking
    luma, *chroma = (plane if parity is None else plane[parity::2] for plane in planes)
    content = b""
    for top in range(0, luma.shape[0], 16):
        for left in range(0, luma.shape[1], 16):
            head.ue(25)  # I_PCM
            content += head.align() + luma[top : top + 16, left : left + 16].tobytes()
            content += b"".join(
                plane[top // 2 : top // 2 + 8, left // 2 : left // 2 + 8].tobytes() for plane in chroma
            )
            head = _Bits()
    return _nal(0x65 if is_key else 0x61, content + b"\x80")


def write_fields(path: Path, paired: Callable[[int], bool] = lambda number: True, num_frames: int = 24) -> None:
    """H.264 of 64 x 64 in which a frame of which `paired` is true lies in two packets, a field in each."""
    parameters = _Bits().u(8, 77, 0, 30).ue(0, 0, 0, 4, 1).u(1, 0).ue(3, 1).u(1, 0, 0, 1, 0, 0).align("1")
    pictures = _Bits().ue(0, 0).u(1, 0, 0).ue(0, 0, 0).u(1, 0).u(2, 0).ue(0, 0, 0).u(1, 1, 0, 0).align("1")
    headers = _nal(0x67, parameters) + _nal(0x68, pictures)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.extradata = headers
        for number, pixels in enumerate(film(num_frames, 64, 64)):
            flat = av.VideoFrame.from_ndarray(pixels, format="rgb24").to_ndarray(format="yuv420p")
            planes = flat[:64], flat[64:80].reshape(32, 32), flat[80:].reshape(32, 32)
            for parity in (0, 1) if paired(number) else (None,):
                content = _picture(planes, number, parity)
                packet = av.Packet((b"\0\0\0\1\x09\x10" + headers if number == 0 and parity != 1 else b"") + content)
                packet.stream = stream
                packet.time_base = Fraction(1, 50)
                packet.pts = packet.dts = 2 * number + (parity or 0)
                packet.is_keyframe = number == 0 and parity != 1
                container.mux(packet)


# ---------------------------------------------------------------------------------------------------------------------
# VP8 and VP9 with pictures that are never shown
# ---------------------------------------------------------------------------------------------------------------------

_HIDDEN_FRAMES = 60


@functools.cache
def _alt_ref(codec: str) -> bytes:
    """A WebM film with alternate reference pictures, which only an encoder that passes twice chooses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.webm")
        for number in (1, 2):
            ffmpeg(
                "-f", "lavfi", "-i", f"testsrc2=size=96x64:rate=25,trim=end_frame={_HIDDEN_FRAMES}",
                "-pix_fmt", "yuv420p", "-c:v", codec, "-auto-alt-ref", "1", "-lag-in-frames", "25", "-b:v", "200k",
                "-g", "100", "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact",
                "-pass", str(number), "-passlogfile", Path(folder, "passes"), path,
            )  # fmt: skip
        return path.read_bytes()


def write_alt_ref(path: Path, codec: str, *copying: str) -> None:
    """Write a film with pictures that are never shown; `copying` says how its packets are copied."""
    ffmpeg("-f", "matroska", "-i", "-", "-c", "copy", "-fflags", "+bitexact", *copying, path, pipe=_alt_ref(codec))


# Each picture in a packet of its own, as some programs write them: FFmpeg's own muxers would join them again.
_SPLIT = ("-bsf:v", "vp9_superframe_split", "-fflags", "-autobsf+bitexact")


# ---------------------------------------------------------------------------------------------------------------------
# The kinds
# ---------------------------------------------------------------------------------------------------------------------

_PHONE_TIMES = np.cumsum([0] + [33] * 9 + [120] * 8 + [17] * 6 + [200] * 6).tolist()
_EARLY_TIMES = [40 * (number - 5) for number in range(NUM_FRAMES)]  # an edit list hides five frames
_LATE_TIMES = [40 * number + 3000 for number in range(NUM_FRAMES)]
_UNEVEN_TIMES = np.cumsum(np.random.default_rng(0).integers(10, 90, NUM_FRAMES)).tolist()
_VISIBLE_NEGATIVE = {"avoid_negative_ts": "disabled"}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


def _with(codec: str = "libx264", **options: Any) -> Callable[[Path], object]:
    return functools.partial(_encode_as, codec, options)


def _encode_as(codec: str, options: Mapping[str, Any], path: Path) -> object:
    return encode(path, codec, **options)


def _cli(*arguments: str, frames: np.ndarray | None = None) -> Callable[[Path], object]:
    return lambda path: encode_by_ffmpeg(path, *arguments, frames=frames)


def _cut(suffix: str, *arguments: str, inputs: Sequence[str] = (), **options: Any) -> Callable[[Path], object]:
    return lambda path: _copied(path, _with(**options), suffix, *arguments, inputs=inputs)


def _x264(parameters: str, **options: Any) -> Callable[[Path], object]:
    return _with(options={"x264-params": parameters}, **options)


KINDS: dict[str, VideoKind] = {
    # H.264 in every box
    "h264_mp4": VideoKind(".mp4", "h264 mp4", _with()),
    "h264_faststart_mp4": VideoKind(".mp4", "h264 mp4", _with(muxing={"movflags": "faststart"})),
    "h264_m4v": VideoKind(".m4v", "h264 mp4", _with()),
    "h264_mkv": VideoKind(".mkv", "h264 matroska", _with()),
    "h264_mov": VideoKind(".mov", "h264 mov", _with()),
    "h264_ts": VideoKind(".ts", "h264 transport stream", _with()),
    "h264_mts": VideoKind(".mts", "h264 transport stream", _with(muxing={"mpegts_m2ts_mode": "1"})),
    "h264_avi": VideoKind(".avi", "h264 avi", _with()),
    "h264_no_b_avi": VideoKind(".avi", "h264 avi", _x264("keyint=8:bframes=0")),
    "h264_flv": VideoKind(".flv", "h264 flv", _with()),
    "h264_3gp": VideoKind(".3gp", "h264 3gp", _with()),
    "h264_raw": VideoKind(".h264", "no time stamps", _with()),
    "h264_open_mp4": VideoKind(".mp4", "open groups", _x264(_OPEN)),
    "h264_open_mkv": VideoKind(".mkv", "open groups", _x264(_OPEN)),
    "h264_open_ts": VideoKind(".ts", "open groups", _x264(_OPEN)),
    "h264_refresh_mp4": VideoKind(".mp4", "intra refresh", _x264(_REFRESH)),
    "h264_refresh_ts": VideoKind(".ts", "intra refresh", _x264(_REFRESH)),
    "h264_one_key_mp4": VideoKind(".mp4", "one key frame", _x264("keyint=infinite:bframes=3:b-pyramid=normal")),
    # Turned and mirrored
    "rotated_90_mp4": VideoKind(".mp4", "rotated", _turned(0, 1, -1, 0)),
    "rotated_180_mp4": VideoKind(".mp4", "rotated", _turned(-1, 0, 0, -1)),
    "rotated_270_mp4": VideoKind(".mp4", "rotated", _turned(0, -1, 1, 0)),
    "rotated_90_mov": VideoKind(".mov", "rotated", _turned(0, 1, -1, 0)),
    "mirrored_left_right_mp4": VideoKind(".mp4", "mirrored", _turned(-1, 0, 0, 1)),
    "mirrored_up_down_mp4": VideoKind(".mp4", "mirrored", _turned(1, 0, 0, -1)),
    "transposed_mp4": VideoKind(".mp4", "mirrored", _turned(0, 1, 1, 0)),
    "transposed_other_way_mp4": VideoKind(".mp4", "mirrored", _turned(0, -1, -1, 0)),
    # Cut without encoding anew
    "edit_list_mp4": VideoKind(".mp4", "edit list", _with(times=_EARLY_TIMES, muxing=_VISIBLE_NEGATIVE), 25),
    "edit_list_cut_mp4": VideoKind(".mp4", "edit list", _cut(".mp4", inputs=("-ss", "0.5")), None),
    "edit_list_cut_mov": VideoKind(".mov", "edit list", _cut(".mp4", inputs=("-ss", "0.72")), None),
    "edit_list_both_ends_mp4": VideoKind(".mp4", "edit list", _cut(".mp4", "-t", "0.4", inputs=("-ss", "0.44")), None),
    "cut_open_mkv": VideoKind(
        ".mkv", "cut", _cut(".mp4", inputs=("-ss", "0.5"), options={"x264-params": _OPEN}), None
    ),
    # In fragments
    "fragments_mp4": VideoKind(".mp4", "fragmented", _with(muxing=_FRAGMENTS)),
    "fragments_behind_a_few_mp4": VideoKind(".mp4", "fragmented", _with(muxing={"movflags": "frag_keyframe"})),
    "fragments_cmaf_mp4": VideoKind(".mp4", "fragmented", _with(muxing={"movflags": "cmaf+frag_keyframe"})),
    # Several video streams
    "thumbnail_first_mp4": VideoKind(
        ".mp4", "thumbnail first",
        lambda path: _two_streams(path, _with("png", frames=film(1, 32, 32), pix_fmt="rgb24"), _with()), stream=1,
    ),
    "cover_mp4": VideoKind(
        ".mp4", "attached picture",
        lambda path: _two_streams(path, _with("png", frames=film(1, 96, 96), pix_fmt="rgb24"), _with(),
                                  "-disposition:v:0", "attached_pic"),
    ),
    "cover_mkv": VideoKind(
        ".mkv", "attached picture",
        lambda path: _two_streams(path, _with(), _with("mjpeg", frames=film(1, 96, 96), pix_fmt="yuvj420p"),
                                  "-disposition:v:1", "attached_pic"),
    ),
    "two_streams_mkv": VideoKind(
        ".mkv", "two streams",
        lambda path: _two_streams(path, _with(frames=film(12, 32, 32), rate=10), _with(), "-disposition:v:0", "0"),
        stream=1,
    ),
    "two_streams_mp4": VideoKind(
        ".mp4", "two streams",
        lambda path: _two_streams(path, _with(frames=film(12, 32, 32), rate=10), _with(), "-disposition:v:0", "0"),
        stream=1,
    ),
    # Times
    "phone_mp4": VideoKind(".mp4", "changing rate", _with(times=_PHONE_TIMES)),
    "phone_mkv": VideoKind(".mkv", "changing rate", _with(times=_PHONE_TIMES)),
    "uneven_webm": VideoKind(".webm", "changing rate", _with("libvpx-vp9", times=_UNEVEN_TIMES)),
    "uneven_ts": VideoKind(".ts", "changing rate", _with(times=_UNEVEN_TIMES)),
    "one_a_second_mkv": VideoKind(".mkv", "one frame a second", _with(rate=1)),
    "one_a_second_webm": VideoKind(".webm", "one frame a second", _with("libvpx-vp9", rate=1)),
    "late_mp4": VideoKind(".mp4", "late start", _with(times=_LATE_TIMES)),
    "late_mkv": VideoKind(".mkv", "late start", _with(times=_LATE_TIMES)),
    "late_ts": VideoKind(".ts", "late start", _with(times=_LATE_TIMES)),
    "late_sound_mp4": VideoKind(".mp4", "late start", _with(times=_LATE_TIMES, audio="aac")),
    "early_mkv": VideoKind(".mkv", "negative times", _with(times=_EARLY_TIMES, muxing=_VISIBLE_NEGATIVE), None),
    "early_mov": VideoKind(".mov", "negative times", _with("mpeg4", times=_EARLY_TIMES, muxing=_VISIBLE_NEGATIVE), 25),
    # More than eight bits, other chroma
    "h264_10_bit_mkv": VideoKind(".mkv", "10 bit", _with(pix_fmt="yuv420p10le"), bits=10),
    "hevc_10_bit_mp4": VideoKind(".mp4", "10 bit", _with("libx265", pix_fmt="yuv420p10le"), bits=10),
    "prores_mov": VideoKind(".mov", "10 bit", _with("prores_ks", pix_fmt="yuv422p10le"), bits=10),
    "h264_422_mp4": VideoKind(".mp4", "other chroma", _with(pix_fmt="yuv422p")),
    "h264_444_mp4": VideoKind(".mp4", "other chroma", _with(pix_fmt="yuv444p")),
    "h264_grey_mp4": VideoKind(".mp4", "other chroma", _with(pix_fmt="gray")),
    # Other codecs
    "hevc_mp4": VideoKind(".mp4", "hevc", _with("libx265", options={"x265-params": "keyint=8:open-gop=1"})),
    "hevc_mkv": VideoKind(".mkv", "hevc", _with("libx265")),
    "hevc_ts": VideoKind(".ts", "hevc", _with("libx265", options={"x265-params": "keyint=8:open-gop=1"})),
    "vp8_webm": VideoKind(".webm", "vp8", _with("libvpx", options={"b": "500k"})),
    "vp8_alt_ref_webm": VideoKind(
        ".webm", "vp8 alt-ref", lambda path: write_alt_ref(path, "libvpx"), _HIDDEN_FRAMES
    ),
    "vp9_webm": VideoKind(".webm", "vp9", _with("libvpx-vp9", options={"crf": "10"})),
    "vp9_alt_ref_webm": VideoKind(
        ".webm", "vp9 alt-ref", lambda path: write_alt_ref(path, "libvpx-vp9"), _HIDDEN_FRAMES
    ),
    "vp9_hidden_packets_mkv": VideoKind(
        ".mkv", "vp9 hidden packets", lambda path: write_alt_ref(path, "libvpx-vp9", *_SPLIT), _HIDDEN_FRAMES
    ),
    "vp9_hidden_packets_webm": VideoKind(
        ".webm", "vp9 hidden packets", lambda path: write_alt_ref(path, "libvpx-vp9", *_SPLIT), _HIDDEN_FRAMES
    ),
    "vp9_hidden_packets_mp4": VideoKind(
        ".mp4", "vp9 hidden packets", lambda path: write_alt_ref(path, "libvpx-vp9", *_SPLIT), _HIDDEN_FRAMES
    ),
    "av1_mp4": VideoKind(
        ".mp4", "av1",
        _cli("-c:v", "libsvtav1", "-preset", "10", "-g", "16", frames=film(NUM_FRAMES, 96, 128)),
    ),
    "av1_mkv": VideoKind(
        ".mkv", "av1", _cli("-c:v", "libaom-av1", "-cpu-used", "8", "-lag-in-frames", "20", "-g", "16")
    ),
    "mpeg1_mpg": VideoKind(".mpg", "mpeg1", _with("mpeg1video", b_frames=2)),
    "mpeg2_mpg": VideoKind(".mpg", "mpeg2 program stream", _with("mpeg2video", b_frames=2)),
    "mpeg2_vob": VideoKind(".vob", "vob", _cli("-c:v", "mpeg2video", "-bf", "2", "-b:v", "4M", "-f", "vob")),
    "mpeg2_ts": VideoKind(".ts", "mpeg2 transport stream", _with("mpeg2video", b_frames=2)),
    "mpeg2_mxf": VideoKind(".mxf", "mxf", _with("mpeg2video", b_frames=2)),
    "mpeg2_interlaced_mpg": VideoKind(
        ".mpg", "interlaced",
        _cli("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-bf", "2", "-b:v", "4M", "-top", "1"),
    ),
    "h264_fields_ts": VideoKind(".ts", "a field per packet", write_fields, 24),
    "h264_fields_mkv": VideoKind(".mkv", "a field per packet", write_fields, 24),
    "h264_fields_mp4": VideoKind(".mp4", "a field per packet", write_fields, 24),
    "h264_some_fields_mts": VideoKind(
        ".mts", "a field per packet", lambda path: write_fields(path, lambda number: number % 3 > 0), 24
    ),
    "h264_mbaff_mp4": VideoKind(".mp4", "interlaced", _x264(f"interlaced=1:{_B_FRAMES}")),
    "h264_mbaff_ts": VideoKind(".ts", "interlaced", _x264(f"interlaced=1:{_B_FRAMES}")),
    "mpeg4_avi": VideoKind(".avi", "mpeg4", _with("mpeg4")),
    "mpeg4_b_avi": VideoKind(".avi", "mpeg4", _with("mpeg4", b_frames=2)),
    "mpeg4_b_mp4": VideoKind(".mp4", "mpeg4", _with("mpeg4", b_frames=2)),
    "mpeg4_not_coded_avi": VideoKind(".avi", "not coded", write_not_coded),
    "mpeg4_packed_avi": VideoKind(".avi", "packed B-frames", write_packed),
    "mpeg4_dropped_avi": VideoKind(".avi", "dropped frames", write_dropped),
    "mjpeg_dropped_avi": VideoKind(".avi", "dropped frames", lambda path: write_dropped(path, "mjpeg")),
    "mjpeg_avi": VideoKind(".avi", "mjpeg", _with("mjpeg", pix_fmt="yuvj420p")),
    "mjpeg_mov": VideoKind(".mov", "mjpeg", _with("mjpeg", pix_fmt="yuvj420p")),
    "gif": VideoKind(".gif", "gif", _with("gif", pix_fmt="rgb8")),
    "theora_ogv": VideoKind(".ogv", "theora", _cli("-c:v", "libtheora", "-q:v", "9")),
    "wmv2_wmv": VideoKind(".wmv", "wmv", _with("wmv2")),
    "msmpeg4_asf": VideoKind(".asf", "asf", _with("msmpeg4")),
    "h263_3gp": VideoKind(".3gp", "h263", _with("h263", frames=film(NUM_FRAMES, 96, 128))),
    "flv1_flv": VideoKind(".flv", "flv1", _with("flv")),
    "raw_avi": VideoKind(".avi", "not compressed", _with("rawvideo", pix_fmt="yuv420p")),
    "ffv1_mkv": VideoKind(".mkv", "not lossy", _with("ffv1")),
    "dv_avi": VideoKind(".avi", "dv", _cli("-c:v", "dvvideo", "-pix_fmt", "yuv420p", frames=film(6, 576, 720)), 6),
    # Sizes, colours, lengths, sound
    "odd_size_webm": VideoKind(".webm", "odd size", _with("libvpx-vp9", frames=film(NUM_FRAMES, 49, 65))),
    "odd_size_avi": VideoKind(".avi", "odd size", _with("mpeg4", frames=film(NUM_FRAMES, 49, 65))),
    "width_70_mp4": VideoKind(".mp4", "odd size", _with(frames=film(NUM_FRAMES, 50, 70))),
    "wide_pixels_mp4": VideoKind(".mp4", "pixels not square", _with(aspect=Fraction(16, 11))),
    "wide_pixels_mpg": VideoKind(".mpg", "pixels not square", _with("mpeg2video", aspect=Fraction(16, 9))),
    "full_range_mp4": VideoKind(".mp4", "full range", _with(pix_fmt="yuvj420p")),
    "one_frame_mp4": VideoKind(".mp4", "one frame", _with(frames=film(1)), 1),
    "one_frame_webm": VideoKind(".webm", "one frame", _with("libvpx-vp9", frames=film(1)), 1),
    "one_frame_gif": VideoKind(".gif", "one frame", _with("gif", frames=film(1), pix_fmt="rgb8"), 1),
    "one_frame_avi": VideoKind(".avi", "one frame", _with("mpeg4", frames=film(1)), 1),
    "sound_first_mp4": VideoKind(".mp4", "sound first", _with(audio="aac", audio_first=True)),
    "sound_first_mkv": VideoKind(".mkv", "sound first", _with(audio="aac", audio_first=True)),
    "sound_ts": VideoKind(".ts", "sound first", _with(audio="mp2", audio_first=True)),
}  # fmt: skip
