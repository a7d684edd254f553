"""Whether a file was cut short, by the sizes that its container tells of itself; nothing is decoded.

How many frames a header promises, or how many seconds, says little: capture programs leave frames out, and the last
frame of a slow film stays for long. MP4 needs no look here: where its index names what is absent, it is not read.
"""

from __future__ import annotations

import io
import os
from contextlib import closing
from typing import BinaryIO

from .source import VideoSource


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SLACK = 16  # some writers count the chunk's own header, or a byte of padding
_MAX_PARTS = 10_000


def find_missing_bytes(source: VideoSource) -> int:
    """How many bytes an AVI or Matroska file (WebM is one) lacks at its end; 0 where none, or where nobody knows.

    Raises:
        OSError: the file cannot be read.
    """
    if source.frame_paths is not None:
        return 0
    with closing(io.BytesIO(source.data or b"") if source.path is None else open(source.path, "rb")) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(12)
        file.seek(0)
        if start[:4] == _EBML:
            return max(_end_of_matroska(file, size) - size, 0)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            missing = _end_of_avi(file, size) - size
            return missing if missing > _RIFF_SLACK else 0
    return 0


def _end_of_avi(file: BinaryIO, size: int) -> int:
    """Where the last of the RIFF chunks ends; a file above a gigabyte has several. 0 where one was never finished."""
    end = 0
    for _ in range(_MAX_PARTS):
        file.seek(end)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8 or head[:4] != b"RIFF":
            break
        if length in (0, 0xFFFFFFFF):
            return 0
        end += 8 + length + length % 2
        if end >= size:
            break
    return end


def _end_of_matroska(file: BinaryIO, size: int) -> int:
    """Where the last of the outermost elements ends; 0 where the length of one is not told (live recordings)."""
    end = 0
    for _ in range(_MAX_PARTS):
        file.seek(end)
        head = file.read(12)
        if head[:4] not in (_EBML, _SEGMENT) or len(head) < 5:
            break
        width = 9 - head[4].bit_length()  # the first byte's leading zeros tell how many bytes the length takes
        if width > 8 or len(head) < 4 + width:
            break
        length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + length
        if end >= size:
            break
    return end


__all__ = ["find_missing_bytes"]
