"""Video files that no encoder at hand writes, made bit by bit: what DivX, Xvid, capture programs and cameras do."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.helpers.encoding import SIZE, film


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
