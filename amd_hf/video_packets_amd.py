# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""How many frames a compressed packet shows and whether others need it, inferred from its first bytes, not decoded.

Mostly it shows one, but a packet may hold a single field, two pictures, a picture that is only referred to, or one
that is marked as not coded. Where the bytes leave a doubt the stream is `uncertain`: then only decoding tells.

This file travels with published checkpoints as Hub remote code, beside `video_reading_amd.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


DISPLAY_ORIENTATION = 47  # an SEI message that turns or mirrors, beside the container's matrix
_MESSAGES_OF_ONE_PICTURE = {0, 1, 4, 5}  # buffering, its timing, subtitles, the encoder's own


class PacketLook:
    """A look at the packets of one stream, in the order of the file.

    Args:
        extradata (`bytes` or `None`): the codec's header from the container.

    Attributes:
        uncertain (`bool`): some packet may show more or fewer frames than `count_shown` said.
        has_orientation (`bool`): packets tell how the picture is to be turned, which only some decoders heed.
        has_gaps (`bool`): pictures that others refer to are absent. What decoders put in their place shifts the
            frames around, or drops some, and depends on where decoding began.
        is_disposable (`bool`): the packet that was counted last leaves no trace in the decoder, so that all others are
            decoded to the same bits without it. Holds only for a stream that is not `uncertain` in the end.
        display_key (`tuple` of `int`, or `None`): sorts packets by when they are shown, as the stream itself tells
            it, whatever the timestamps; that of the packet that was counted last. None where it is not known.
        num_reordered (`int` or `None`): how many pictures the decoder holds back, as the stream asks it to, for one
            that is shown earlier. None where the decoder finds that out as it goes.
        may_hold_fields (`bool`): a packet may hold one field of a frame.
    """

    uncertain = has_gaps = False
    is_disposable = False
    display_key: tuple[int, int] | None = None
    num_reordered: int | None = None
    may_hold_fields = False
    _size: bytes = b""
    has_orientation = False

    def __init__(self, extradata: bytes | None) -> None:
        self.extradata = extradata or b""

    def count_shown(self, data: memoryview, is_key: bool) -> int:
        """Count the frames that come out of the decoder for this packet, sooner or later."""
        return 1

    def confirm_disposable(self, is_disposable: np.ndarray) -> np.ndarray:
        """Return which packets are disposable, bool (packets,), once all were counted."""
        return is_disposable

    def _note_size(self, size: bytes) -> None:
        """Note what defines the size of the pictures: if it changes, each frame must be checked."""
        size = size.rstrip(b"\0")  # a start code of four bytes leaves one to the unit in front of it
        if self._size and size != self._size:
            self.uncertain = True
        self._size = size

    def is_exact_key(self) -> bool:
        """Return whether decoding may start at the key packet that was counted last."""
        return True


# ---------------------------------------------------------------------------------------------------------------------
# What all packets of a stream say together
# ---------------------------------------------------------------------------------------------------------------------

_MIN_SKIPPED_PACKETS = 2  # fewer are decoded as fast as the decoder starts anew
NO_PTS = int(np.iinfo(np.int64).min)


class UnexpectedFrame(Exception):
    """The decoder gave another frame than the packets announced, or packets are not those that the header lists."""


class PacketFacts(NamedTuple):
    """What the packets of a stream say, in the order of the file: one entry each, but for the last three."""

    stamps: np.ndarray  # int64, `NO_PTS` where a packet has none
    num_shown: np.ndarray  # int64, frames
    is_hidden: np.ndarray  # bool, by an edit list
    durations: np.ndarray  # int64, 0 where it is not told
    is_disposable: np.ndarray  # bool, see `PacketLook`
    display_keys: np.ndarray | None  # (packets, 2), int64, see `PacketLook`; None where one is not known
    exact_keys: list[int]
    num_keys: int
    are_whole: bool


class DecodingRun(NamedTuple):
    """Frames that are decoded one after the other: from the start at `position` of all, packet `start`."""

    position: int
    is_new: bool  # the decoder begins anew for them
    start: int
    indices: list[int]


class PacketOrder(NamedTuple):
    """Where the frames of a stream are, by packet number (in file order, which is the order of decoding).

    Args:
        shown_pts (`np.ndarray` of shape (frames,), int64): timestamps in order of display, without repeats.
        starts (`np.ndarray` of shape (s,), int64): packets from which decoding is exact for all that is shown from
            them on, increasing, the first one 0.
        start_ranks (`np.ndarray` of shape (s,), int64): index of the frame of each of `starts`.
        is_simple (`bool`): every packet shows one frame, every key packet is one of `starts`, and its frame's index
            is the number of packets before it. Decoders that count packets are right on such streams only.
        packets (`np.ndarray` of shape (frames,), int64, *optional*): packet of each frame, where the stream itself
            confirms the order that the timestamps tell. None: no packet may be left out.
        is_disposable (`np.ndarray` of shape (packets,), bool, *optional*): packets without which all others are
            decoded to the same bits.
    """

    shown_pts: np.ndarray
    starts: np.ndarray
    start_ranks: np.ndarray
    is_simple: bool
    packets: np.ndarray | None = None
    is_disposable: np.ndarray | None = None

    def runs(self, indices: np.ndarray, start: int, following: int) -> list[DecodingRun]:
        """Part frames into those that are decoded from one start on.

        Args:
            indices (`np.ndarray` of shape (n,), int64): frames, increasing.
            start (`int`): position in `starts` at which the decoder began; -1: it must begin anew.
            following (`int`): index of the frame that it gives next.
        """
        runs: list[DecodingRun] = []
        starts = np.searchsorted(self.start_ranks, indices, side="right") - 1
        for index, own in zip(indices.tolist(), starts.tolist(), strict=True):
            num_skipped = int(self.start_ranks[own]) - following
            is_new = index < following or start < 0 or (own > start and num_skipped >= _MIN_SKIPPED_PACKETS)
            start = own if is_new else start
            if is_new or not runs:
                runs.append(DecodingRun(start, is_new, int(self.starts[start]), []))
            runs[-1].indices.append(index)
            following = index + 1
        return runs

    def choose_left_out(self, indices: np.ndarray, reads_on: bool) -> np.ndarray | None:
        """Choose the packets that need not be decoded for these frames, bool (packets,); None: all are decoded.

        Args:
            indices (`np.ndarray` of shape (n,), int64): frames, increasing.
            reads_on (`bool`): those behind the last one may be wanted next.
        """
        if self.packets is None or self.is_disposable is None:
            return None
        is_left_out = self.is_disposable.copy()
        is_left_out[self.packets[indices]] = False
        if reads_on:
            is_left_out[self.packets[indices[-1] + 1 :]] = False
        return is_left_out


def is_out_of_order(stamps: np.ndarray, may_reorder: bool) -> bool:
    """Return whether frames precede the first one, or are reordered although the decoder does not expect it.

    It drops frames that come too late.
    """
    if len(stamps) == 0 or (stamps == NO_PTS).any():
        return False
    return stamps.min() < stamps[0] or not (may_reorder or bool((np.diff(stamps) > 0).all()))


def find_order(
    facts: PacketFacts, shown: np.ndarray, shown_pts: np.ndarray | None, shows_all: bool, may_reorder: bool
) -> PacketOrder | None:
    """Find where the frames are, by the packets that show one; None where not every frame says when it is shown."""
    stamps, exact_keys = facts.stamps, facts.exact_keys
    if shown_pts is None or (stamps == NO_PTS).any():
        return None
    if may_reorder and len(stamps) > 2 and bool((np.diff(stamps) > 0).all()):
        return None  # AVI and the like: the stamps tell the order of decoding, and frames may be shown in another
    before = np.concatenate([[NO_PTS], np.maximum.accumulate(stamps)[:-1]])
    starts = np.array([key for key in exact_keys if shown[key] and stamps[key] > before[key]], dtype=np.int64)
    ranks = np.searchsorted(shown_pts, stamps[starts])
    num_before = np.concatenate([[0], np.cumsum(shown)])[starts]
    is_simple = shows_all and len(starts) == len(exact_keys) == facts.num_keys
    is_simple = is_simple and bool((ranks == num_before).all())
    if len(starts) == 0 or starts[0] != 0:  # where nothing better is known, decoding starts with the file
        starts, ranks = np.concatenate([[0], starts]), np.concatenate([[0], ranks])
        is_simple = False
    return PacketOrder(shown_pts, starts, ranks, is_simple)


def confirms_order(facts: PacketFacts, num_reordered: int) -> bool:
    """Return whether the stream itself tells the order that the timestamps tell.

    Only then packets are left out: fewer frames come out, by whose timestamps a wrong order would be noticed.

    Args:
        facts (`PacketFacts`): of all packets of the stream.
        num_reordered (`int`): how many pictures the decoder holds back for one that is shown earlier.
    """
    stamps, keys = facts.stamps, facts.display_keys
    if keys is None or len(keys) == 0:
        return False
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_twice = (np.diff(keys[order], axis=0) == 0).all(axis=1).any()
    if is_twice or not (np.diff(stamps[order]) > 0).all():
        return False
    # How many frames wait, at most, for one that is shown earlier: a decoder that expects fewer loses some, other ones
    # where packets are left out.
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return int((np.arange(len(order)) - ranks).max()) <= num_reordered


# ---------------------------------------------------------------------------------------------------------------------
# H.264, of which packets are rows of NAL units, as of HEVC
# ---------------------------------------------------------------------------------------------------------------------


class _H264Look(PacketLook):
    """A packet is one coded picture: a frame, or one field of a frame (the other one follows in its own packet)."""

    may_hold_fields = True  # until a header says no

    def __init__(self, extradata: bytes | None) -> None:
        super().__init__(extradata)
        start = self.extradata
        # avcC has the length of what stands in front of each NAL unit; without it start codes separate them.
        self._length_size = (start[4] & 3) + 1 if len(start) > 6 and start[0] == 1 else 0
        self._frame_num_bits: int | None = None  # None: no header was seen yet
        self._has_planes = False
        self._poc_bits: int | None = None  # None: the order of display is not that of `pic_order_cnt_lsb`
        self._follows_decoding = False  # pictures are shown as they are decoded
        self._num_periods = 0  # IDR pictures so far: all before one is shown before it
        self._last_poc = 0  # of the last picture that others refer to
        self._is_idr = False
        self._last_number: int | None = None  # `frame_num` of the last picture that others refer to
        headers = _sets_of_avcc(start) if self._length_size else nal_units(memoryview(start), 0)
        for unit in headers:
            if unit and unit[0] & 0x1F == 7:
                self._read_sequence(bytes(unit))

    def count_shown(self, data: memoryview, is_key: bool) -> int:
        num_pictures = 0
        self._is_idr = False
        self.is_disposable = True
        self.display_key = None
        for unit in nal_units(data, self._length_size):
            kind = unit[0] & 0x1F if len(unit) > 1 else 0
            if kind in (1, 2, 5) and unit[1] & 0x80:  # the slice starts with the picture's first macroblock
                num_pictures += 1
                self._is_idr |= kind == 5
                self._read_slice(bytes(unit[:24]))
            elif kind == 7:
                self._read_sequence(bytes(unit))
            elif kind == 6:
                messages = kinds_of_messages(bytes(unit[1:]))
                self.has_orientation |= DISPLAY_ORIENTATION in messages
                self.is_disposable &= messages <= _MESSAGES_OF_ONE_PICTURE
            # A slice of a picture that others refer to, or whatever else may be of use to another one.
            if kind not in (1, 6, 9, 12) or (kind == 1 and unit[0] & 0x60):
                self.is_disposable = False
        if num_pictures != 1 or self._frame_num_bits is None:
            self.uncertain = True
        return num_pictures

    def is_exact_key(self) -> bool:
        return self._is_idr  # nothing refers across such a one; recovery points do not promise that

    def _read_sequence(self, unit: bytes) -> None:
        try:
            sequence = _parse_h264_sequence(Bits(unit[1:]))
        except IndexError:
            self.uncertain = True
            return
        self._note_size(unit)  # also of where the bits of a slice are
        self._frame_num_bits, self._has_planes, self.may_hold_fields = sequence[:3]
        order_type, poc_bits, self.num_reordered = sequence[3:]
        self._poc_bits = poc_bits if order_type == 0 else None
        self._follows_decoding = order_type == 2

    def _read_slice(self, unit: bytes) -> None:
        if self._frame_num_bits is None:
            return
        bits = Bits(unit[1:])
        try:
            for _ in ("first_mb_in_slice", "slice_type", "pic_parameter_set_id"):
                bits.golomb()
            bits.skip(2 if self._has_planes else 0)
            number = bits.read(self._frame_num_bits)
            is_field = self.may_hold_fields and bits.read(1) == 1
            self._read_order(bits, unit)
        except IndexError:
            self.uncertain = True
            return
        self.uncertain |= is_field
        # Pictures that are referred to are numbered one after the other; one that is not has the next one's number,
        # and the second field of a frame that of the first. So a stream that is wrong about which pictures are
        # referred to, and for which `is_disposable` would be wrong, shows gaps here.
        if unit[0] & 0x1F != 5 and self._last_number is not None:
            is_next = number == (self._last_number + 1) % (1 << self._frame_num_bits)
            if not (is_next or (is_field and number == self._last_number)):
                self.uncertain = self.has_gaps = True
        if unit[0] & 0x60:  # others refer to it
            self._last_number = number

    def _read_order(self, bits: Bits, unit: bytes) -> None:
        """Read when the picture is shown: the rest of what stands in front of the references in a slice's header."""
        is_idr = unit[0] & 0x1F == 5
        self._num_periods += is_idr
        if self._follows_decoding:
            self._last_poc = 0 if is_idr else self._last_poc + 1
            self.display_key = self._num_periods, self._last_poc
        elif self._poc_bits is not None:
            if is_idr:
                bits.golomb()
            # The lowest bits are told; the others are such that it lies nearest to the last reference.
            size = 1 << self._poc_bits
            last = 0 if is_idr else self._last_poc
            poc = last + (bits.read(self._poc_bits) - last + size // 2 - 1) % size - size // 2 + 1
            self.display_key = self._num_periods, poc
            if unit[0] & 0x60:
                self._last_poc = poc


def _parse_h264_sequence(bits: Bits) -> tuple[int, bool, bool, int, int, int | None]:
    """Parse a sequence parameter set.

    Returns:
        Bits of `frame_num`, whether planes are coded apart, whether fields may be, how the order of display is told,
        in how many bits (0 where it is not told so), and how many frames are held back for it (None: not told).
    """
    profile = bits.read(8)
    bits.skip(16)
    bits.golomb()
    has_planes = False
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.golomb()
        has_planes = chroma == 3 and bits.read(1) == 1
        bits.golomb()
        bits.golomb()
        bits.skip(1)
        if bits.read(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    order_type = bits.golomb()
    poc_bits = 0
    if order_type == 0:
        poc_bits = bits.golomb() + 4
    elif order_type == 1:
        bits.skip(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.skip(1)
    bits.golomb()
    bits.golomb()
    has_fields = bits.read(1) == 0
    try:
        num_reordered = _parse_h264_reordering(bits, has_fields)
    except IndexError:
        num_reordered = None
    return frame_num_bits, has_planes, has_fields, order_type, poc_bits, num_reordered


def _parse_h264_reordering(bits: Bits, has_fields: bool) -> int | None:
    """Parse the rest of a sequence parameter set up to `max_num_reorder_frames`, which is nearly its end."""
    bits.skip(2 if has_fields else 1)
    if bits.read(1):  # edges that are cut off
        for _ in range(4):
            bits.golomb()
    if not bits.read(1):  # no more is told
        return None
    if bits.read(1) and bits.read(8) == 255:  # the shape of pixels
        bits.skip(32)
    bits.skip(bits.read(1))  # overscan
    if bits.read(1):  # colours
        bits.skip(4)
        bits.skip(24 * bits.read(1))
    if bits.read(1):  # where samples of colour lie
        bits.golomb()
        bits.golomb()
    bits.skip(65 * bits.read(1))  # the rate of frames
    has_buffers = [_skip_h264_buffers(bits) for _ in ("NAL", "VCL")]
    bits.skip(2 if any(has_buffers) else 1)
    if not bits.read(1):
        return None
    bits.skip(1)
    for _ in range(4):
        bits.golomb()
    return bits.golomb()


def _skip_h264_buffers(bits: Bits) -> bool:
    """Skip the sizes of the decoder's buffers, and return whether there are any."""
    if not bits.read(1):
        return False
    num_buffers = bits.golomb() + 1
    bits.skip(8)
    for _ in range(num_buffers):
        bits.golomb()
        bits.golomb()
        bits.skip(1)
    bits.skip(20)
    return True


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            delta = (code + 1) // 2 if code % 2 else -(code // 2)
            following = (last + delta) % 256
        last = following or last


def nal_units(data: memoryview, length_size: int) -> Iterator[memoryview]:
    if length_size:
        start = 0
        while start + length_size < len(data):
            stop = start + length_size + int.from_bytes(data[start : start + length_size], "big")
            yield data[start + length_size : stop]
            start = stop
        return
    content = bytes(data)
    start = content.find(b"\0\0\1")
    while start >= 0:
        following = content.find(b"\0\0\1", start + 3)
        yield data[start + 3 : following if following >= 0 else len(data)]
        start = following


def _sets_of_avcc(extradata: bytes) -> Iterator[memoryview]:
    """Return the sequence parameter sets of an MP4 header (the only ones that matter here)."""
    start = 6
    for _ in range(extradata[5] & 0x1F):
        stop = start + 2 + int.from_bytes(extradata[start : start + 2], "big")
        yield memoryview(extradata)[start + 2 : stop]
        start = stop


def kinds_of_messages(messages: bytes) -> set[int]:
    """Return the kinds of the messages in an SEI unit."""
    kinds = set()
    start = 0
    while start + 2 < len(messages):  # what remains in the end are trailing bits
        kind = size = 0
        while start < len(messages) and messages[start] == 255:
            kind, start = kind + 255, start + 1
        kind, start = kind + messages[start : start + 1].ljust(1, b"\0")[0], start + 1
        while start < len(messages) and messages[start] == 255:
            size, start = size + 255, start + 1
        size, start = size + messages[start : start + 1].ljust(1, b"\0")[0], start + 1
        kinds.add(kind)
        start += size
    return kinds


class Bits:
    """The bits of a NAL unit, without the bytes that keep start codes out; IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        data = data[:4096].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, num_bits: int) -> int:
        if num_bits > self._left:
            raise IndexError("the header ends early")
        self._left -= num_bits
        return self._value >> self._left & ((1 << num_bits) - 1)

    def skip(self, num_bits: int) -> None:
        self.read(num_bits)

    def golomb(self) -> int:
        """Return an Exp-Golomb code: as many zeros as there are bits behind the one."""
        num_zeros = self._left - (self._value & ((1 << self._left) - 1)).bit_length()
        if num_zeros == self._left:
            raise IndexError("the header ends early")
        self._left -= num_zeros + 1
        return (1 << num_zeros) - 1 + self.read(num_zeros)


NAL_LOOKS: dict[str, type[PacketLook]] = {"h264": _H264Look}
"""By FFmpeg's names of codecs; `video_codecs_amd.py` has the others."""

__all__ = [
    "DISPLAY_ORIENTATION",
    "NAL_LOOKS",
    "NO_PTS",
    "Bits",
    "DecodingRun",
    "PacketFacts",
    "PacketLook",
    "PacketOrder",
    "UnexpectedFrame",
    "confirms_order",
    "find_order",
    "is_out_of_order",
    "kinds_of_messages",
    "nal_units",
]
