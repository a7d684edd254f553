# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""The look at packets of HEVC, VP8, VP9, AV1, MPEG-1, 2, 4, Motion JPEG, as `video_packets_amd.py` has that of H.264.

This file travels with published checkpoints as Hub remote code, beside `video_packets_amd.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .video_packets_amd import DISPLAY_ORIENTATION, NAL_LOOKS, Bits, PacketLook, kinds_of_messages, nal_units


_ALWAYS_ONE_FRAME = (
    "png", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "dnxhd", "prores", "dvvideo", "v210", "magicyuv",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# HEVC: each picture lists all pictures that it or a later one may refer to
# ---------------------------------------------------------------------------------------------------------------------

_HEVC_NOT_REFERRED_TO = (0, 2, 4, 6, 8)  # kinds of slices: by none of their own or a lower temporal sub-layer
_HEVC_HARMLESS = (35, 38, 39)  # delimiters, filler, messages in front of a picture
_HEVC_MESSAGES_OF_ONE_PICTURE = {0, 1, 4, 5}
_HEVC_SUMS = 132  # of the picture that they follow
_PICTURE_TIMING = 1
_MAX_HEAD_BYTES = 48  # of a slice, as far as it is read
_MAX_READ_SLICES = 6000  # of a longer film they take more time than leaving out packets saves for a clip


class _HevcSequence(NamedTuple):
    """What a sequence parameter set says that slices need.

    Args:
        has_planes (`bool`): colours are coded apart.
        poc_bits (`int`): in how many bits slices tell when they are shown.
        num_reordered (`int`): pictures that the decoder holds back.
        reference_sets (`list` of `tuple` of `int`): pictures that may be referred to, relative to the one that is
            decoded. Slices choose one of these sets, or bring one of their own.
        num_long_term (`int` or `None`): listed pictures that stay for long; None: there are none at all.
    """

    has_planes: bool
    poc_bits: int
    num_reordered: int
    reference_sets: list[tuple[int, ...]]
    num_long_term: int | None


class _HevcLook(PacketLook):
    """A packet is one picture, but some are never shown: leading ones after a cut, and those that say so.

    A picture is of no use to others when it says so by its kind and no later picture lists it. What a picture does
    not list, the decoder throws away, so that a wrong kind does no harm: the picture is listed, and decoded.
    """

    def __init__(self, extradata: bytes | None) -> None:
        super().__init__(extradata)
        start = self.extradata
        self._length_size = (start[21] & 3) + 1 if len(start) > 22 and start[0] == 1 else 0
        self._num_seen = 0
        self._is_cut = True  # leading pictures of the next random access point lack what they refer to
        self._drops_leading = True
        self._sequence: _HevcSequence | None = None
        self._extra_bits: dict[int, int] = {}  # of a slice's header, by the picture parameter set it names
        self._num_periods = 0  # all pictures before one are shown before it
        self._last_poc = 0  # of the last picture from which the next one's is counted
        self._held: dict[int, int] = {}  # by when they are shown: numbers of the packets that may be referred to
        self._listed: set[int] = set()  # packets that later ones list
        self._is_doubtful = False  # then all are decoded
        self._num_packets = self._num_timed = 0
        self._is_timed = False
        headers = _sets_of_hvcc(start) if self._length_size else nal_units(memoryview(start), 0)
        for unit in headers:
            self._read_unit(unit)

    def count_shown(self, data: memoryview, is_key: bool) -> int:
        self.is_disposable, self.display_key, self._is_timed = True, None, False
        num_pictures = sum([self._read_unit(unit) for unit in nal_units(data, self._length_size)])
        if num_pictures != 1:
            self.uncertain = True
        self._num_packets += 1
        self._num_timed += self._is_timed
        return num_pictures

    def confirm_disposable(self, is_disposable: np.ndarray) -> np.ndarray:
        # The decoder remembers the timing of a picture, and whether it is a field, for those that have none.
        if self._is_doubtful or 0 < self._num_timed < self._num_packets:
            return np.zeros_like(is_disposable)
        confirmed = is_disposable.copy()
        confirmed[list(self._listed)] = False
        return confirmed

    def _read_unit(self, unit: memoryview) -> bool:
        """Take note of a NAL unit, and say whether a picture starts in it."""
        if len(unit) < 2 or (unit[0] & 1) << 5 | unit[1] >> 3:  # of another layer
            self._is_doubtful = True
            return False
        kind = unit[0] >> 1 & 0x3F
        if kind > 31:
            self._read_header(kind, bytes(unit))
            return False
        if kind not in _HEVC_NOT_REFERRED_TO:
            self.is_disposable = False
        if len(unit) < 3 or not unit[2] & 0x80:  # not the first slice of a picture
            return False
        if 16 <= kind <= 23:
            if self._num_seen and unit[2] & 0x40:  # pictures that wait to be shown are thrown away
                self.uncertain = True
            self._drops_leading = self._is_cut or kind <= 18
            self._is_cut = False
        elif kind in (8, 9) and self._drops_leading:
            self.uncertain = True
        self._num_seen += 1
        self._is_doubtful |= self._num_seen > _MAX_READ_SLICES
        if self._is_doubtful:
            return True
        try:
            self._read_slice(kind, unit[1] & 7, Bits(bytes(unit[2:_MAX_HEAD_BYTES])))
        except (IndexError, KeyError):
            self._is_doubtful = True
        return True

    def _read_header(self, kind: int, unit: bytes) -> None:
        """Take note of a NAL unit that is no slice."""
        if kind in (36, 37):  # end of sequence
            self._is_cut = True
            self._is_doubtful |= self._num_seen > 0
        elif kind in (39, 40):
            messages = kinds_of_messages(unit[2:])
            self.has_orientation |= DISPLAY_ORIENTATION in messages
            self._is_timed |= _PICTURE_TIMING in messages
            self.is_disposable &= messages <= (_HEVC_MESSAGES_OF_ONE_PICTURE if kind == 39 else {_HEVC_SUMS})
        elif kind == 33:
            self._note_size(unit)
            try:
                self._sequence = _parse_hevc_sequence(Bits(unit[2:]))
                self.num_reordered = self._sequence.num_reordered
            except IndexError:
                self._is_doubtful = True
        elif kind == 34:
            self._read_picture_set(unit[2:])
        if kind not in (*_HEVC_HARMLESS, 40):
            self.is_disposable = False

    def _read_picture_set(self, content: bytes) -> None:
        bits = Bits(content)
        try:
            number = bits.golomb()
            bits.golomb()
            bits.skip(1)
            self.uncertain |= bits.read(1) == 1  # slices say whether they are shown
            self._extra_bits[number] = bits.read(3)
        except IndexError:
            self.uncertain = True

    def _read_slice(self, kind: int, layer: int, bits: Bits) -> None:
        """Read when the picture is shown and which pictures it lists."""
        sequence = self._sequence
        if sequence is None:
            raise IndexError("no sequence parameter set")
        is_random_access = 16 <= kind <= 23
        bits.skip(2 if is_random_access else 1)
        bits.skip(self._extra_bits[bits.golomb()])
        bits.golomb()
        bits.skip(2 if sequence.has_planes else 0)
        if is_random_access and self._drops_leading or kind in (19, 20):
            self._num_periods += 1
            self._last_poc, self._held = 0, {}
        poc = 0
        if kind not in (19, 20):
            # The lowest bits are told; the others are such that it lies nearest to the one before.
            size, last = 1 << sequence.poc_bits, self._last_poc
            poc = last + (bits.read(sequence.poc_bits) - last + size // 2 - 1) % size - size // 2 + 1
            listed = _parse_listed(bits, sequence, poc)
            self._is_doubtful |= not listed <= self._held.keys()  # what decoders make of absent ones is their own
            self._held = {other: self._held[other] for other in listed if other in self._held}
            self._listed.update(self._held.values())
        self._held[poc] = self._num_packets
        self.display_key = self._num_periods, poc
        if layer == 1 and (kind > 9 or kind in (1, 3, 5)):  # layers are counted from one
            self._last_poc = poc


def _parse_listed(bits: Bits, sequence: _HevcSequence, poc: int) -> set[int]:
    """Parse the pictures that a slice lists, by when they are shown."""
    sets = sequence.reference_sets
    if bits.read(1):
        chosen = bits.read((len(sets) - 1).bit_length()) if len(sets) > 1 else 0
        differences = sets[chosen]
    else:
        differences = _parse_reference_set(bits, sets, True)
    listed = {poc + difference for difference in differences}
    if sequence.num_long_term is not None and (sequence.num_long_term and bits.golomb()) + bits.golomb():
        raise IndexError("pictures that stay for long, of which only the lowest bits are told")
    return listed


def _parse_reference_set(bits: Bits, sets: Sequence[tuple[int, ...]], is_in_slice: bool) -> tuple[int, ...]:
    """Parse a set of differences: those shown earlier, the nearest first, then those shown later."""
    if sets and bits.read(1):  # told by an earlier set, moved
        back = 1 + (bits.golomb() if is_in_slice else 0)
        if back > len(sets):
            raise IndexError("no such set")
        other = sets[-back]
        is_earlier = bits.read(1)
        move = (bits.golomb() + 1) * (-1 if is_earlier else 1)
        differences = []
        for difference in (*other, 0):
            if bits.read(1) or bits.read(1):  # it is used, or at least kept
                differences.append(difference + move)
        earlier = sorted((difference for difference in differences if difference < 0), reverse=True)
        return (*earlier, *sorted(difference for difference in differences if difference > 0))
    counts = bits.golomb(), bits.golomb()
    if max(counts) > 16:
        raise IndexError("more pictures than a decoder holds")
    differences = []
    for sign, count in zip((-1, 1), counts, strict=True):
        difference = 0
        for _ in range(count):
            difference += sign * (bits.golomb() + 1)
            bits.skip(1)
            differences.append(difference)
    return tuple(differences)


def _parse_hevc_sequence(bits: Bits) -> _HevcSequence:
    bits.skip(4)
    num_layers = bits.read(3) + 1
    bits.skip(1 + 96)  # the profile and level of all layers
    has_profile_and_level = [(bits.read(1), bits.read(1)) for _ in range(num_layers - 1)]
    bits.skip(2 * (9 - num_layers) if num_layers > 1 else 0)
    for has_profile, has_level in has_profile_and_level:
        bits.skip(88 * has_profile + 8 * has_level)
    bits.golomb()
    has_planes = bits.golomb() == 3 and bits.read(1) == 1
    bits.golomb()
    bits.golomb()
    if bits.read(1):  # edges that are cut off
        for _ in range(4):
            bits.golomb()
    bits.golomb()
    bits.golomb()
    poc_bits = bits.golomb() + 4
    num_reordered = 0
    for _ in range(num_layers if bits.read(1) else 1):  # the last one's counts
        bits.golomb()
        num_reordered = bits.golomb()
        bits.golomb()
    _skip_hevc_tools(bits)
    sets: list[tuple[int, ...]] = []
    for _ in range(bits.golomb()):
        sets.append(_parse_reference_set(bits, sets, False))
    num_long_term = bits.golomb() if bits.read(1) else None
    return _HevcSequence(has_planes, poc_bits, num_reordered, sets, num_long_term)


def _skip_hevc_tools(bits: Bits) -> None:
    """Skip the sizes of blocks, scaling lists and PCM of a sequence parameter set."""
    for _ in range(6):
        bits.golomb()
    if bits.read(1) and bits.read(1):
        for size in range(4):
            for _ in range(2 if size == 3 else 6):
                if not bits.read(1):
                    bits.golomb()
                    continue
                for _ in range(min(64, 16 << 2 * size) + (size > 1)):
                    bits.golomb()
    bits.skip(2)
    if bits.read(1):
        bits.skip(8)
        bits.golomb()
        bits.golomb()
        bits.skip(1)


def _sets_of_hvcc(extradata: bytes) -> Iterator[memoryview]:
    start = 23
    for _ in range(extradata[22]):
        num_units = int.from_bytes(extradata[start + 1 : start + 3], "big")
        start += 3
        for _ in range(num_units):
            stop = start + 2 + int.from_bytes(extradata[start : start + 2], "big")
            yield memoryview(extradata)[start + 2 : stop]
            start = stop


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
    "hevc": _HevcLook,
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
