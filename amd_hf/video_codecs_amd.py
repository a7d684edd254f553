# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""The look at packets of VP8, VP9, AV1, MPEG-1, 2 and 4, and Motion JPEG, as `video_packets_amd.py` has it of H.264.

This file travels with published checkpoints as Hub remote code, beside `video_packets_amd.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from .video_packets_amd import NAL_LOOKS, PacketLook


_ALWAYS_ONE_FRAME = (
    "png", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "dnxhd", "prores", "dvvideo", "v210", "magicyuv",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# VP8, VP9, AV1: pictures that are only referred to
# ---------------------------------------------------------------------------------------------------------------------


class _Vp8Look(PacketLook):
    def count_shown(self, data: memoryview, is_key: bool) -> int:
        if is_key:
            self._note_size(bytes(data[6:10]))
        return data[0] >> 4 & 1


class _Vp9Look(PacketLook):
    def count_shown(self, data: memoryview, is_key: bool) -> int:
        num_shown = 0
        for frame in self._frames(data):
            if len(frame) == 0 or frame[0] >> 6 != 2:
                self.uncertain = True
                continue
            header = int.from_bytes(bytes(frame[:2]).ljust(2, b"\0"), "big")
            bit = 10 if frame[0] >> 4 & 3 == 3 else 11  # profile 3 has a reserved bit in between
            if header >> (bit - 1) & 3 == 0 and len(frame) > 8:  # a key frame: sync code, colours, width, height
                self._note_size(bytes(frame[4:8]) + bytes([frame[8] & 0xF0]))
            # show_existing_frame, frame_type, show_frame
            num_shown += 1 if header >> bit & 1 else header >> (bit - 2) & 1
        if num_shown > 1:
            self.uncertain = True
        return num_shown

    def _frames(self, data: memoryview) -> Iterator[memoryview]:
        """Return the frames of a superframe, whose index is at the end of the packet."""
        last = data[-1]
        num_frames, num_bytes = (last & 7) + 1, (last >> 3 & 3) + 1
        index = len(data) - 2 - num_frames * num_bytes
        if last & 0xE0 != 0xC0 or index < 0 or data[index] != last:
            yield data
            return
        start = 0
        for number in range(num_frames):
            position = index + 1 + number * num_bytes
            size = int.from_bytes(data[position : position + num_bytes], "little")
            yield data[start : start + size]
            start += size


class _Av1Look(PacketLook):
    def count_shown(self, data: memoryview, is_key: bool) -> int:
        num_shown = 0
        start = 0
        while start < len(data):
            kind, has_extension, has_size = data[start] >> 3 & 15, data[start] & 4, data[start] & 2
            if has_extension:
                self.uncertain = True  # layers, of which one is shown
            start += 2 if has_extension else 1
            size = len(data) - start
            if has_size:
                size, start = _leb128(data, start)
            content = data[start : start + size]
            start += size
            if len(content) == 0:
                continue
            if kind == 1:
                self._note_size(bytes(content))
                self.uncertain |= bool(content[0] & 8)  # a still picture with a short header
            elif kind in (3, 6):  # show_existing_frame, frame_type (2 bits), show_frame
                num_shown += 1 if content[0] & 0x80 else content[0] >> 4 & 1
        if num_shown > 1:
            self.uncertain = True
        return num_shown


def _leb128(data: memoryview, start: int) -> tuple[int, int]:
    """Return a number of up to 8 bytes of 7 bits, and where it ends."""
    value = 0
    for number, byte in enumerate(data[start : start + 8]):
        # Lowest bits first; the highest bit of a byte says whether another one follows.
        value |= (byte & 0x7F) << 7 * number
        if not byte & 0x80:
            return value, start + number + 1
    return len(data), len(data)


# ---------------------------------------------------------------------------------------------------------------------
# MPEG-1, MPEG-2, MPEG-4, Motion JPEG
# ---------------------------------------------------------------------------------------------------------------------


_BEHIND_ALL = 1 << 60


class _MpegLook(PacketLook):
    """Pictures start with a code. B pictures in front of the second reference picture are not shown."""

    sequence_code, sequence_bytes = b"\0\0\1\xb3", 3  # 12 bits each
    picture_code = b"\0\0\1\0"
    b_picture = 3

    def __init__(self, extradata: bytes | None) -> None:
        super().__init__(extradata)
        self._num_references = self._num_since = 0

    def count_shown(self, data: memoryview, is_key: bool) -> int:
        content = bytes(data)
        self.is_disposable, self.display_key = False, None
        if is_key and (sequence := content.find(self.sequence_code)) >= 0:
            self._note_size(content[sequence + 4 : sequence + 4 + self.sequence_bytes])
        start = content.find(self.picture_code)
        if start < 0 or content.find(self.picture_code, start + 4) >= 0 or not self._is_whole(content, start + 4):
            self.uncertain = True
            return 1
        if self._kind(content, start + 4) != self.b_picture:
            self._num_references += 1
            self._num_since = 0
            self.display_key = self._num_references, _BEHIND_ALL
        else:
            self.uncertain |= self._num_references < 2
            # No syntax lets another picture refer to a B picture. It is shown at once, in front of the last reference.
            self.is_disposable = start == 0 and self._holds_a_picture_alone(content)
            self._num_since += 1
            self.display_key = self._num_references, self._num_since
        return 1

    def _kind(self, content: bytes, start: int) -> int:
        return content[start + 1] >> 3 & 7

    def _holds_a_picture_alone(self, content: bytes) -> bool:
        """Return whether no header in it, such as a matrix, counts for later pictures."""
        start = content.find(b"\0\0\1")
        while start >= 0:
            code, kind = (content[start + 3 : start + 5] + b"\0\0")[:2]
            is_slice = 0x01 <= code <= 0xAF
            if not (
                is_slice or code == self.picture_code[3] or code == 0xB2 or (code == 0xB5 and kind >> 4 in (7, 8))
            ):
                return False
            start = content.find(b"\0\0\1", start + 3)
        return True

    def _is_whole(self, content: bytes, start: int) -> bool:
        """Return whether it is a frame, no field, and coded."""
        if start + 2 > len(content):
            return False
        extension = content.find(b"\0\0\1\xb5", start)
        while extension >= 0 and extension + 7 < len(content):
            if content[extension + 4] >> 4 == 8:
                return content[extension + 6] & 3 == 3
            extension = content.find(b"\0\0\1\xb5", extension + 4)
        return True  # MPEG-1, which has no fields


class _Mpeg4Look(_MpegLook):
    sequence_code, sequence_bytes = b"\0\0\1\x20", 12  # the head of a video object layer
    picture_code = b"\0\0\1\xb6"
    b_picture = 2
    _MIN_BYTES = 24
    """Pictures that are not coded end after a few bytes; a small one may be coded all the same, but only decoding
    tells."""

    def _kind(self, content: bytes, start: int) -> int:
        return content[start] >> 6

    def _is_whole(self, content: bytes, start: int) -> bool:
        return len(content) - start >= self._MIN_BYTES


class _MjpegLook(PacketLook):
    def count_shown(self, data: memoryview, is_key: bool) -> int:
        if bytes(data[:2]) != b"\xff\xd8":
            self.uncertain = True
        return 1


_LOOKS: dict[str, type[PacketLook]] = {
    **NAL_LOOKS,
    "vp8": _Vp8Look,
    "vp9": _Vp9Look,
    "av1": _Av1Look,
    "mpeg1video": _MpegLook,
    "mpeg2video": _MpegLook,
    "mpeg4": _Mpeg4Look,
    "mjpeg": _MjpegLook,
}


def look_for(codec: str, extradata: bytes | None) -> PacketLook:
    """Return the look for a codec, by FFmpeg's name of its format; an uncertain one for a codec we know nothing of."""
    if codec in _LOOKS:
        return _LOOKS[codec](extradata)
    look = PacketLook(extradata)
    look.uncertain = codec not in _ALWAYS_ONE_FRAME
    return look


__all__ = ["look_for"]
