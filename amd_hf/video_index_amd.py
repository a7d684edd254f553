# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Long films in MP4: their header lists every frame, so that only what lies around the wanted ones is read.

A packet of H.264 in MP4 holds one picture (ISO/IEC 14496-15), which is one frame where the stream has no fields: then
the header's tables tell how many frames there are and when each is shown. `read_mp4_index` gives up, and the whole
file is read as any other, wherever something could make that wrong: fragments, edit lists that cut or join, several
video tracks or kinds of samples, fields. What `IndexedPackets` reads of the film it looks at as closely as
`VideoPackets` looks at all of it; any doubt there is an `UnexpectedFrame`, after which the whole film is read.

Not seen are packets that are absent from a part of the film that is not read, though the header lists no gap.

This file travels with published checkpoints as Hub remote code, beside `video_reading_amd.py`.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .video_packets_amd import NAL_LOOKS, PacketFacts, PacketLook, PacketOrder, UnexpectedFrame, confirms_order


_MAX_HEADER_BYTES = 64 * 1024**2
_MAX_WINDOW_BYTES = 64 * 1024**2
_MIN_PACKET_BYTES = 8  # less holds no picture
_NUM_COMPARED = 64
_NUM_CACHED = 4  # an hour's takes 8 MB
_NUM_FIRST = 8  # packets at the beginning, which FFmpeg has read anyway
_PACKED_CODECS = (b"avc1",)  # whose sets of parameters are in the header alone


class Mp4Index(NamedTuple):
    """What an MP4's header lists of its video track: one entry for each packet, in the order of the file.

    Args:
        dts, offsets, sizes, durations (`np.ndarray` of shape (packets,), int64): time of decoding, in the track's
            unit; where the packet lies and how many bytes it has; the time until the next one is decoded.
        delays (`np.ndarray` of shape (packets,), int64): from decoding until it is shown.
        is_key (`np.ndarray` of shape (packets,), bool): key packets.
        header (`bytes`): the box `moov`, which lies at `header_offset`.
    """

    dts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    durations: np.ndarray
    delays: np.ndarray
    is_key: np.ndarray
    header: bytes
    header_offset: int


# ---------------------------------------------------------------------------------------------------------------------
# The header's tables
# ---------------------------------------------------------------------------------------------------------------------


def read_mp4_index(file: Any, source: Any) -> Mp4Index | None:
    """Read the tables of an MP4 file; None where they do not tell all, or not in the plainest form, or proved wrong.

    Args:
        file: an open file. Only its boxes' heads and `moov` are read.
        source (`MediaFile`): that file.
    """
    num_bytes, state = source.num_bytes, _state(source)
    if state in _WRONG_HEADERS:
        return None
    if state is not None and state in _INDICES:
        return _INDICES[state]
    index = _read_index(file, num_bytes)
    if state is not None and index is not None:
        while len(_INDICES) >= _NUM_CACHED:
            _INDICES.pop(next(iter(_INDICES)), None)
        _INDICES[state] = index
    return index


def _read_index(file: Any, num_bytes: int) -> Mp4Index | None:
    try:
        found = _find_header(file, num_bytes)
        index = None if found is None else _parse_header(*found)
    except (struct.error, ValueError, IndexError, KeyError):  # damaged: FFmpeg may make something of it all the same
        return None
    if index is None or len(index.sizes) == 0 or not index.is_key[0]:
        return None
    is_plausible = index.sizes.min() >= _MIN_PACKET_BYTES and (index.offsets + index.sizes).max() <= num_bytes
    return index if is_plausible and index.offsets.min() > 0 else None


def _find_header(file: Any, num_bytes: int) -> tuple[bytes, int] | None:
    """Find the box `moov` and where its content lies; None for fragments, or a file that does not begin as MP4s do."""
    found: tuple[bytes, int] | None = None
    start = 0
    while start + 8 <= num_bytes:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8))[0], 16
        elif size == 0:
            size = num_bytes - start
        if size < head or start + size > num_bytes or (start == 0) != (kind == b"ftyp"):
            return None
        if kind in (b"moof", b"sidx") or (kind == b"moov" and (found is not None or size > _MAX_HEADER_BYTES)):
            return None
        if kind == b"moov":
            found = file.read(size - head), start + head
        start += size
    return found


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    start = 0
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if size < 8 or start + size > len(content):
            raise ValueError(f"a box of {size} bytes")
        yield bytes(kind), content[start + 8 : start + size]
        start += size


def _only(content: memoryview, *path: bytes) -> memoryview:
    """Return the box at a path of names, each of which must be there once."""
    for name in path:
        (content,) = [inner for kind, inner in _boxes(content) if kind == name]
    return content


def _numbers(content: memoryview, kind: str, columns: int, start: int = 8) -> np.ndarray:
    """Return a table: version and flags, the number of rows, rows of big-endian numbers."""
    (rows,) = struct.unpack_from(">I", content, start - 4)
    return np.frombuffer(content, kind, rows * columns, start).reshape(rows, columns).astype(np.int64)


def _parse_header(header: bytes, offset: int) -> Mp4Index | None:
    content = memoryview(header)
    tracks = [inner for kind, inner in _boxes(content) if kind == b"trak"]
    films = [track for track in tracks if bytes(_only(track, b"mdia", b"hdlr")[8:12]) == b"vide"]
    if len(films) != 1 or any(kind == b"mvex" for kind, _ in _boxes(content)):
        return None
    film = films[0]
    table = dict(_boxes(_only(film, b"mdia", b"minf", b"stbl")))
    (num_kinds,) = struct.unpack_from(">I", table[b"stsd"], 4)
    if num_kinds != 1 or bytes(table[b"stsd"][12:16]) not in _PACKED_CODECS or b"stz2" in table:
        return None
    common_size, count = struct.unpack_from(">II", table[b"stsz"], 4)
    if count > _MAX_HEADER_BYTES:
        return None
    durations = _spread(_numbers(table[b"stts"], ">u4", 2), count)
    sizes = np.full(count, common_size) if common_size else _numbers(table[b"stsz"], ">u4", 1, 12)[:, 0]
    delays = np.zeros(count, dtype=np.int64)
    if b"ctts" in table:
        delays = _spread(_numbers(table[b"ctts"], ">i4", 2), count)
    is_key = np.ones(count, dtype=bool)
    if b"stss" in table:
        is_key[:] = False
        is_key[_numbers(table[b"stss"], ">u4", 1)[:, 0] - 1] = True
    offsets = _offsets(table, sizes)
    dts = np.concatenate([[0], np.cumsum(durations)[:-1]])
    if not _shows_all(content, film, dts + delays, durations):
        return None
    return Mp4Index(dts, offsets, sizes, durations, delays, is_key, header, offset)


def _spread(runs: np.ndarray, count: int) -> np.ndarray:
    """Write out a table of how often a value is repeated, and the value."""
    if runs[:, 0].min(initial=0) < 0 or runs[:, 0].sum() != count:  # before memory is taken for them
        raise ValueError(f"a table of {runs[:, 0].sum()} entries for {count} packets")
    return np.repeat(runs[:, 1], runs[:, 0])


def _offsets(table: dict[bytes, memoryview], sizes: np.ndarray) -> np.ndarray:
    """Find where packets lie: they follow each other in chunks, of which the file tells where each begins."""
    chunks = _numbers(table[b"stco"], ">u4", 1) if b"stco" in table else _numbers(table[b"co64"], ">u8", 1)
    runs = _numbers(table[b"stsc"], ">u4", 3)  # first chunk (from 1), packets in each, kind
    num_chunks = np.diff(np.append(runs[:, 0] - 1, len(chunks)))  # of each run
    lengths = _spread(np.stack([num_chunks, runs[:, 1]], axis=1), len(chunks))
    if (runs[:, 2] != 1).any() or lengths.sum() != len(sizes):
        raise ValueError("its chunks hold other packets than there are")
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # bytes of all packets before each
    firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return before + np.repeat(chunks[:, 0] - before[firsts], lengths)


def _shows_all(header: memoryview, film: memoryview, stamps: np.ndarray, durations: np.ndarray) -> bool:
    """Return whether an edit list, where there is one, shows the whole track once, at its usual speed."""
    edits = [inner for kind, inner in _boxes(film) if kind == b"edts"]
    if not edits:
        return True
    content = _only(edits[0], b"elst")
    version, (count,) = content[0], struct.unpack_from(">I", content, 4)
    duration, first, speed = struct.unpack_from(">Qqi" if version else ">Iii", content, 8)
    movie, track = _only(header, b"mvhd"), _only(film, b"mdia", b"mdhd")
    movie_rate, track_rate = (struct.unpack_from(">I", box, 20 if box[0] else 12)[0] for box in (movie, track))
    if len(edits) != 1 or count != 1 or speed != 0x10000 or min(movie_rate, track_rate) == 0:
        return False
    last = stamps.max() + durations[stamps.argmax()] // 2  # half of the last frame must be shown, whatever is rounded
    return bool(0 <= first <= stamps.min() and last <= first + duration * track_rate / movie_rate)


# ---------------------------------------------------------------------------------------------------------------------
# Reading by them
# ---------------------------------------------------------------------------------------------------------------------


class _Window:
    """Packets from an exact start on, read and looked at as far as they were wanted."""

    def __init__(self, look: PacketLook) -> None:
        self.look = look
        self.packets: list[Any] = []
        self.display_keys: list[tuple[int, int]] = []
        self.num_bytes = 0


class _WithHeader:
    """An open file, of which the header was read before and need not be read again."""

    def __init__(self, file: Any, header: bytes, offset: int) -> None:
        self._file, self._header, self._offset = file, header, offset
        self._position = 0

    def read(self, num_bytes: int) -> bytes:
        inside = self._position - self._offset
        if 0 <= inside < len(self._header):
            content = self._header[inside : inside + num_bytes]
        else:
            if inside < 0:  # up to the header
                num_bytes = min(num_bytes, -inside)
            self._file.seek(self._position)
            content = self._file.read(num_bytes)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        before = (0, self._position, self._file.seek(0, 2) if whence == 2 else 0)[whence]
        self._position = before + offset
        return self._position

    def tell(self) -> int:
        return self._position


# Films whose header proved wrong, and what the last few headers list: by path, size and time of change.
_WRONG_HEADERS: set[tuple[str, int, int]] = set()
_INDICES: dict[tuple[str, int, int], Mp4Index] = {}


def _state(source: Any) -> tuple[str, int, int] | None:
    if source.path is None:
        return None
    state = os.stat(source.path)
    return os.path.abspath(source.path), state.st_size, state.st_mtime_ns


class IndexedPackets:
    """The part of `VideoPackets` that reads a film by its header's tables, and packets only around wanted frames.

    It comes before `VideoPackets` among the bases of a class.

    Raises:
        UnexpectedFrame: FFmpeg, or what was read of the film, says something else than the tables.
    """

    is_indexed = True
    # What `VideoPackets` has.
    container: Any
    stream: Any
    order: PacketOrder | None
    decode_from: Any
    _context: Any
    _demux: Any
    _note_header: Any
    _num_reordered: Any
    _num_threads: int
    _source: Any
    _wrap: Callable[[Any], Any] | None

    def __init__(self, index: Mp4Index, *arguments: Any) -> None:
        self._index = index
        self._windows: dict[int, _Window] = {}
        self._demuxed: Iterator[Any] = iter(())
        self._next_packet = -1  # of `_demuxed`
        self._has_sought = False
        self._wrap = lambda file: _WithHeader(file, index.header, index.header_offset)
        super().__init__(*arguments)

    def distrust(self) -> None:
        state = _state(self._source)
        if state is not None:
            _WRONG_HEADERS.add(state)

    def _scan(self, max_frames: int) -> None:
        index = self._index
        self._check_entries()
        look = self._new_look()
        beginning = list(itertools.islice(self._demux(), _NUM_FIRST))
        num_shown = {look.count_shown(memoryview(packet), packet.is_keyframe) for packet in beginning}
        if num_shown != {1} or look.uncertain or look.may_hold_fields or look.has_gaps or look.has_orientation:
            raise UnexpectedFrame
        first = beginning[0]
        if first.pts is None or first.dts is None:
            raise UnexpectedFrame
        # FFmpeg counts from the beginning of the edit list.
        self._dts = index.dts + (first.dts - index.dts[0])
        self._stamps = self._dts + index.delays + (first.pts - first.dts - index.delays[0])
        packets = np.argsort(self._stamps, kind="stable")  # the quickest kind for what is nearly in order
        shown_pts = self._stamps[packets]
        if not (np.diff(shown_pts) > 0).all() or shown_pts[0] != self._stamps[0]:
            raise UnexpectedFrame
        self.num_frames = self.num_packets = self.num_indexed = len(shown_pts)
        self._shown_pts = shown_pts
        self._last_duration = int(index.durations[self._stamps.argmax()])
        before = np.concatenate([self._stamps[:1] - 1, np.maximum.accumulate(self._stamps)[:-1]])
        starts = np.flatnonzero(index.is_key & (self._stamps > before))
        self.order = PacketOrder(
            shown_pts,
            starts,
            np.searchsorted(shown_pts, self._stamps[starts]),
            False,
            packets,
            np.zeros(len(shown_pts), dtype=bool),
        )
        self._note_header()

    def _new_look(self) -> PacketLook:
        return NAL_LOOKS["h264"](self._context.extradata)

    def _check_entries(self) -> None:
        """Compare some of what FFmpeg has read of the tables: all would take as long as reading the film."""
        entries, index = self.stream.index_entries, self._index
        if self._context.codec.canonical_name != "h264" or len(entries) != len(index.sizes):
            raise UnexpectedFrame
        shift = entries[0].timestamp - int(index.dts[0])
        for number in np.linspace(0, len(entries) - 1, _NUM_COMPARED).astype(int).tolist():
            entry = entries[number]
            expected = int(index.offsets[number]), int(index.sizes[number]), int(index.dts[number]) + shift
            if (entry.pos, entry.size, entry.timestamp) != expected:
                raise UnexpectedFrame

    def examine(self, runs: Sequence[tuple[int, int]], reads_on: bool) -> bool:
        self._has_sought = False
        # Pictures shown before the last one follow it within 16 packets, and show that its timestamp is right.
        # Who reads on needs besides what the decoder's threads want before it gives the last frame.
        margin = 17 + ((self._num_threads or os.cpu_count() or 1) if reads_on else 0)
        inexact = [start for start, stop in runs if not self._is_exact(start, min(stop + margin, self.num_packets))]
        order = self.order
        assert order is not None
        if inexact:
            stays = ~np.isin(order.starts, inexact)
            self.order = order._replace(starts=order.starts[stays], start_ranks=order.start_ranks[stays])
        self._windows = {start: self._windows[start] for start, _ in runs if start in self._windows}
        return bool(inexact) or self._has_sought  # PyAV empties the decoder when it seeks

    def _is_exact(self, start: int, stop: int) -> bool:
        """Read packets and look at them; say whether the first one is an exact start."""
        order = self.order
        assert order is not None
        assert order.is_disposable is not None
        window = self._windows.get(start)
        if window is None:
            window = _Window(self._new_look())
            self._read_packet(start, window)
            if not window.look.is_exact_key():
                if start == 0:
                    raise UnexpectedFrame
                return False
            self._windows[start] = window
        while start + len(window.packets) < stop:
            self._read_packet(start + len(window.packets), window)
        count = len(window.packets)
        facts = PacketFacts(
            self._stamps[start : start + count], np.ones(count), np.zeros(count), self._index.durations[:count],
            order.is_disposable[start : start + count], np.array(window.display_keys).reshape(count, 2), [], 0, True,
        )  # fmt: skip
        if not confirms_order(facts, self._num_reordered(window.look)):
            raise UnexpectedFrame
        return True

    def _read_packet(self, number: int, window: _Window) -> Any:
        """Read a packet, which belongs to the end of a window, and compare it with what the header lists."""
        if self._next_packet != number:
            self._seek(number)
        packet = next(self._demuxed, None)
        self._next_packet = number + 1
        if packet is None or packet.is_corrupt or packet.is_discard or packet.has_sidedata("new_extradata"):
            raise UnexpectedFrame
        expected = int(self._stamps[number]), int(self._dts[number]), int(self._index.sizes[number])
        if (packet.pts, packet.dts, packet.size) != expected or packet.is_keyframe != self._index.is_key[number]:
            raise UnexpectedFrame
        look = window.look
        num_shown = look.count_shown(memoryview(packet), packet.is_keyframe)
        if num_shown != 1 or look.uncertain or look.has_gaps or look.has_orientation or look.display_key is None:
            raise UnexpectedFrame
        assert self.order is not None
        assert self.order.is_disposable is not None
        self.order.is_disposable[number] = look.is_disposable
        window.packets.append(packet)
        window.display_keys.append(look.display_key)
        window.num_bytes += packet.size
        return packet

    def _seek(self, number: int) -> None:
        """Make a packet the next one that is demuxed."""
        self._has_sought = True
        key = int(np.flatnonzero(self._index.is_key[: number + 1])[-1])
        self.container.seek(int(self._stamps[key]), stream=self.stream)
        self._demuxed = self._demux()
        first = next(self._demuxed, None)
        if first is None or first.dts is None or first.dts > self._dts[number]:
            raise UnexpectedFrame
        # FFmpeg may go to an earlier key packet than it might.
        found = int(np.searchsorted(self._dts, first.dts))
        self._demuxed = itertools.chain([first], self._demuxed)
        for _ in range(found, number):
            next(self._demuxed, None)

    def _packets_from(self, number: int) -> Iterator[Any]:
        if self._context.is_open:
            self._context.flush_buffers()
        window = self._windows[number]
        for position in itertools.count():
            if number + position >= self.num_packets:
                return
            if position < len(window.packets):
                packet = window.packets[position]
            elif self._next_packet == number + position:  # who reads on
                packet = self._read_packet(number + position, window)
            else:
                raise UnexpectedFrame
            if window.num_bytes > _MAX_WINDOW_BYTES:  # it will be read again, should it be wanted again
                self._windows.pop(number, None)
                window.packets[position] = None
            yield packet

    def first_frame(self) -> Any:
        self.examine([(0, 1)], False)
        return next(self.decode_from(0, 1))


# ---------------------------------------------------------------------------------------------------------------------
# What a header tells of a film that is read whole
# ---------------------------------------------------------------------------------------------------------------------

_MISSING_FRACTION = 0.02  # headers are rounded
_MISSING_SECONDS = 0.2  # a last frame's time on the screen


def find_loss(packets: Any) -> str | None:
    """Say what is absent of the video that the file tells of; None where nothing is, or where it does not tell.

    MP4 files with something absent are not opened at all. AVI has an index of its packets, which leaves out the
    frames that were dropped when it was made (its count of frames does not), and Matroska tells how long it lasts.
    """
    if packets.format_name == "avi":
        if packets.num_packets < packets.num_indexed:
            return f"its index lists {packets.num_indexed} packets, the file holds {packets.num_packets}"
        # Dropped frames count, and behind the last one that is there may be many: of a screen that stands still.
        if packets.stream.frames > 4 * packets.num_packets + 1000:
            return f"the header tells of {packets.stream.frames} frames, the file holds {packets.num_packets}"
    times, promised = packets.times, _seconds_by_header(packets)
    if packets.format_name.startswith("matroska") and times is not None and promised is not None:
        # How long the last frame stays is not told: films of one frame a second, and of pictures that stand still.
        stay = float(np.diff(times).max()) if len(times) > 1 else 1 / (packets.header_rate or 1)
        if promised > (times[-1] + stay) * (1 + _MISSING_FRACTION) + _MISSING_SECONDS:
            return f"the header tells of {promised:.1f} seconds, the last frame is at {times[-1]:.1f}"
    return None


def _seconds_by_header(packets: Any) -> float | None:
    tag = packets.stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = tag.strip("\0").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:  # no such tag: the container's own is that of its longest stream
        is_alone = len(packets.container.streams) == 1
        return packets.container.duration / 1_000_000 if is_alone and packets.container.duration else None


__all__ = ["IndexedPackets", "Mp4Index", "find_loss", "read_mp4_index"]
