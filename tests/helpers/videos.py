"""Tiny real videos whose frames carry their own number, and ways to damage them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np


_STEP = 16  # grey levels between neighbours: far above what the codec changes
_MATRIX_OFFSET = 44  # from the name of the box `tkhd` (version 0) to its matrix


def numbered_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Plain frames whose colour is their number: red the low digit, green the high one (base 16); at most 256."""
    numbers = np.arange(num_frames)
    frames = np.full((num_frames, height, width, 3), 128, dtype=np.uint8)
    frames[..., 0] = ((numbers % 16) * _STEP + _STEP // 2)[:, None, None]
    frames[..., 1] = ((numbers // 16) * _STEP + _STEP // 2)[:, None, None]
    return frames


def frame_numbers(frames: np.ndarray, channel_axis: int = -1) -> list[int]:
    """Read the numbers back from frames (n, H, W, C), or (n, C, H, W) with `channel_axis=1`; crops do no harm."""
    channels = np.moveaxis(np.asarray(frames), channel_axis, -1)
    mean = channels.reshape(len(channels), -1, 3).mean(axis=1)
    low, high = (np.rint((mean[:, index] - _STEP // 2) / _STEP).astype(int) for index in (0, 1))
    return (low + 16 * high).tolist()


def write_video(
    path: Path,
    num_frames: int = 20,
    height: int = 64,
    width: int = 64,
    fps: int = 25,
    *,
    frames: np.ndarray | None = None,
    codec: str = "libx264",
    moov_first: bool = False,
) -> Path:
    """Encode `frames` (uint8 (n, H, W, 3)), or numbered ones of the given size, to the same bytes each time."""
    if frames is None:
        frames = numbered_frames(num_frames, height, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    muxing = {"fflags": "+bitexact"} | ({"movflags": "faststart"} if moov_first else {})
    encoding = {"crf": "10"} | ({"x264-params": "cpu-independent=1"} if codec == "libx264" else {})
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=fps, options=encoding)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 8  # several key frames, so that readers have something to seek to
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_list(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def text_file(path: Path) -> Path:
    """A file that is no video, whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is not a video.\n" * 50)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Keep the first `share` of the bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def mark_rotated(path: Path, degrees: int) -> Path:
    """Write a rotation of 90, 180 or 270 degrees into the header, as a phone held upright does."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 0x10000
    matrix = (cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 0x40000000)
    data = bytearray(path.read_bytes())
    struct.pack_into(">9i", data, data.index(b"tkhd") + _MATRIX_OFFSET, *matrix)
    path.write_bytes(data)
    return path


def video_row(path: Path, label: int | None = 0, epoch: int = 0) -> dict[str, Any]:
    return {"video": {"path": str(path), "bytes": None}, "label": label, "video_id": path.name, "epoch": epoch}


def textured_rows(folder: Path, num_videos: int, num_frames: int) -> list[dict[str, Any]]:
    """Rows of textured videos of 48 x 64, labelled in their order."""
    noise = np.random.default_rng(0).integers(0, 256, (num_videos, num_frames, 6, 8, 3), dtype=np.uint8)
    frames = noise.repeat(8, axis=2).repeat(8, axis=3)
    return [video_row(write_video(folder / f"{n}.mp4", frames=frames[n]), label=n) for n in range(num_videos)]
