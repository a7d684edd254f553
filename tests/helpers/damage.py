"""Videos damaged in many ways, always the same ones for a seed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.helpers.videos import write_video


_HUGE_SIDE = 100_000
_HUGE_COUNT = 1_000_000_000
_NUM_FLIPS = (1, 4, 20, 100)


def sound_videos(folder: Path) -> dict[str, Path]:
    """One small textured video of 24 frames in each of four containers, with several key frames and B-frames."""
    noise = (
        np.random.default_rng(0).integers(0, 256, (24, 6, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    )
    return {
        "mp4_moov_last": write_video(folder / "last.mp4", frames=noise),
        "mp4_moov_first": write_video(folder / "first.mp4", frames=noise, moov_first=True),
        "webm": write_video(folder / "sound.webm", frames=noise, codec="libvpx-vp9"),
        "avi": write_video(folder / "sound.avi", frames=noise, codec="mpeg4"),
    }


def damaged_videos(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write `count` damaged videos into `folder`; each name tells the container, the kind of damage and a number."""
    sound = {name: path.read_bytes() for name, path in sound_videos(folder / "sound").items()}
    generator = np.random.default_rng(seed)
    kinds = list(_DAMAGES)
    paths = []
    for number in range(count):
        container = list(sound)[number % len(sound)]
        kind = kinds[number // len(sound) % len(kinds)]
        suffix = {"webm": ".webm", "avi": ".avi"}.get(container, ".mp4")
        if kind == "wrong_extension":
            suffix = {".mp4": ".avi", ".avi": ".webm", ".webm": ".mp4"}[suffix]
        path = folder / f"{number:04d}_{container}_{kind}{suffix}"
        path.write_bytes(_DAMAGES[kind](sound[container], container, generator))
        paths.append(path)
    return paths


def _cut(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    return data[: generator.integers(1, len(data))]


def _flip(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    damaged = np.frombuffer(data, dtype=np.uint8).copy()
    places = generator.integers(len(damaged), size=generator.choice(_NUM_FLIPS))
    damaged[places] ^= generator.integers(1, 256, size=len(places), dtype=np.uint8)
    return damaged.tobytes()


def _flip_header(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    start = data.index(b"moov") if container.startswith("mp4") else 0
    end = min(start + 800, len(data))
    return data[:start] + _flip(data[start:end], container, generator) + data[end:]


def _zero_stretch(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    start = int(generator.integers(len(data)))
    end = min(len(data), start + int(generator.integers(1, 4000)))
    return data[:start] + bytes(end - start) + data[end:]


def _only_zeros(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    return bytes(len(data) if generator.random() < 0.5 else 0)


def _unchanged(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    return data


def _absurd_header(data: bytes, container: str, generator: np.random.Generator) -> bytes:
    return huge_frames(data, container) if generator.random() < 0.5 else huge_length(data, container)


def huge_frames(data: bytes, container: str) -> bytes:
    """A header that tells frames of 100,000 x 100,000 pixels (65,535 where it has 16 bits)."""
    damaged = bytearray(data)
    if container == "avi":
        struct.pack_into("<ii", damaged, damaged.index(b"strf") + 12, _HUGE_SIDE, _HUGE_SIDE)
        struct.pack_into("<II", damaged, damaged.index(b"avih") + 8 + 32, _HUGE_SIDE, _HUGE_SIDE)
    elif container == "webm":
        for element, value in ((b"\xb0", 64), (b"\xba", 48)):  # PixelWidth and PixelHeight, one byte each
            damaged[damaged.index(element + b"\x81" + bytes([value])) + 2] = 0xFF
    else:
        struct.pack_into(">II", damaged, damaged.index(b"tkhd") + 80, _HUGE_SIDE << 16 & 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into(">HH", damaged, damaged.index(b"avc1", damaged.index(b"stsd")) + 28, 0xFFFF, 0xFFFF)
    return bytes(damaged)


def huge_length(data: bytes, container: str) -> bytes:
    """A header that tells 1,000,000,000 frames."""
    damaged = bytearray(data)
    if container == "avi":
        struct.pack_into("<I", damaged, damaged.index(b"avih") + 8 + 16, _HUGE_COUNT)
        struct.pack_into("<I", damaged, damaged.index(b"strh") + 8 + 32, _HUGE_COUNT)
    elif container == "webm":
        place = damaged.index(b"\x44\x89\x88") + 3  # Duration, a double
        struct.pack_into(">d", damaged, place, 1e12)
    else:
        # All samples one byte long, all in one chunk: FFmpeg believes it and lists them one by one.
        struct.pack_into(">II", damaged, damaged.index(b"stsz") + 8, 1, _HUGE_COUNT)
        struct.pack_into(">I", damaged, damaged.index(b"stsc") + 4 + 8 + 4, _HUGE_COUNT)
        struct.pack_into(">I", damaged, damaged.index(b"stts") + 4 + 8, _HUGE_COUNT)
    return bytes(damaged)


_DAMAGES: dict[str, Callable[[bytes, str, np.random.Generator], bytes]] = {
    "cut": _cut,
    "flipped": _flip,
    "flipped_header": _flip_header,
    "zero_stretch": _zero_stretch,
    "only_zeros": _only_zeros,
    "wrong_extension": _unchanged,
    "absurd_header": _absurd_header,
}
