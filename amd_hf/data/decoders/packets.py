"""The compressed packets of a video: in which order their frames are shown, and from which of them decoding may start.

Only from packets whose decoding is exact: what comes out there equals what decoding everything gives. That rules out
the recovery points of H.264 (open groups of pictures, intra refresh), and files that do not say when a frame is shown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..video_source import VideoSource


KEPT_BYTES = 64 * 1024**2
"""Packets of a video up to this size stay in memory; a larger file is read again."""

_MISSING_SHARE = 0.02  # headers are rounded
_MISSING_SECONDS = 0.2  # a last frame's time on the screen

# After a key packet of these nothing that is shown later depends on what came before (H.264 is looked at closer).
_CODECS_WITH_EXACT_KEYS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "png")
# Frames shown before a key packet may follow it in the file.
_CODECS_WITH_LEADING_FRAMES = ("hevc", "mpeg1video", "mpeg2video", "mpeg4")
_NAL_SLICE, _NAL_IDR = 1, 5


class PacketOrder(NamedTuple):
    """Where the frames of a stream are, by packet number (in file order, which is the order of decoding).

    Args:
        shown_pts (`np.ndarray` of shape (frames,), int64): time stamps in order of display, without repeats.
        starts (`np.ndarray` of shape (s,), int64): packets from which decoding is exact for all that is shown from
            them on, increasing, the first one 0.
        start_ranks (`np.ndarray` of shape (s,), int64): index of the frame of each of `starts`.
        is_simple (`bool`): every key packet is one of `starts`, and its frame's index is the number of packets
            before it. Decoders that count packets are right on such streams only.
    """

    shown_pts: np.ndarray
    starts: np.ndarray
    start_ranks: np.ndarray
    is_simple: bool


class VideoPackets:
    """Opens a file with PyAV, reads the packets of its best video stream once, and hands them out again.

    Args:
        source (`VideoSource`): a path or bytes.
        num_threads (`int`): decoder threads; 0 lets FFmpeg choose.
        max_frame_pixels (`int`): told to FFmpeg's decoder, which refuses larger frames before it allocates them.
        max_frames (`int`): reading stops with one packet more.

    Attributes:
        num_frames (`int`): packets that show a frame.
        order (`PacketOrder` or `None`): None where the file does not tell the order of display.

    Raises:
        ValueError: no video stream, no decoder, or a file that ends before the packets that its header lists.
        av.FFmpegError, OSError: as PyAV raises them.
    """

    def __init__(self, source: VideoSource, num_threads: int, max_frame_pixels: int, max_frames: int) -> None:
        self._source = source
        self._num_threads = num_threads
        self._max_frame_pixels = max_frame_pixels
        self._container: Any = None
        self._kept: list[Any] | None = None
        self.num_frames = 0
        self.order: PacketOrder | None = None
        try:
            self._open()
            self._scan(max_frames)
        except BaseException:
            self.close()
            raise

    @property
    def format_name(self) -> str:
        """FFmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
        return self._container.format.name

    @property
    def header_size(self) -> tuple[int, int]:
        """Height and width that the header tells, before rotation."""
        return self._context.height, self._context.width

    @property
    def promised_frames(self) -> float:
        """How many frames the header tells: by its count, or by duration and rate, whichever is more."""
        seconds = (self._container.duration or 0) / 1_000_000  # of the container, in microseconds
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = max(seconds, float(self._stream.duration * self._stream.time_base))
        return max(self._stream.frames, seconds * float(self._stream.average_rate or 0))

    def find_cut(self) -> str | None:
        """Say how much of the video that the header tells of is absent; None where nothing is.

        MP4 files with something absent are not opened at all. AVI tells how many frames there are, Matroska how long
        they last; other containers tell neither.
        """
        if self.format_name == "avi" and self._stream.frames > self.num_frames + _MISSING_SHARE * self._stream.frames:
            return f"the header tells of {self._stream.frames} frames, the file holds {self.num_frames}"
        if self.format_name.startswith("matroska") and self.order is not None:
            promised = self._seconds_by_header()
            held = float((self.order.shown_pts[-1] - self.order.shown_pts[0]) * self._stream.time_base)
            if promised is not None and promised > held * (1 + _MISSING_SHARE) + _MISSING_SECONDS:
                return f"the header tells of {promised:.1f} seconds, the last frame is at {held:.1f}"
        return None

    def _seconds_by_header(self) -> float | None:
        tag = self._stream.metadata.get("DURATION", "")
        try:
            hours, minutes, seconds = tag.strip("\0").split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:  # no such tag: the container's own is that of its longest stream
            is_alone = len(self._container.streams) == 1
            return self._container.duration / 1_000_000 if is_alone and self._container.duration else None

    def decode_from(self, number: int) -> Iterator[Any]:
        """Start to decode at packet `number` and yield PyAV frames to the end of the stream."""
        if self._kept is not None:
            packets: Iterator[Any] = iter(self._kept[number:])
            if self._context.is_open:
                self._context.flush_buffers()
        else:
            self._open()  # the decoder is a new one
            packets = self._demux()
            for _ in range(number):
                next(packets, None)
        context = self._context
        for packet in packets:
            yield from context.decode(packet)
        yield from context.decode(None)

    def close(self) -> None:
        self._kept = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        import av

        if self._container is not None:
            self._container.close()
        handle = self._source.path if self._source.data is None else io.BytesIO(self._source.data)
        # Names and comments in the file may be in any encoding: they are of no interest here.
        self._container = av.open(handle, metadata_errors="ignore")
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise ValueError("it has no video stream")
        self._context = self._stream.codec_context
        if self._context is None:
            raise ValueError("there is no decoder for its video stream")
        self._context.thread_count = self._num_threads
        self._context.options = {"max_pixels": str(self._max_frame_pixels)}

    def _demux(self) -> Iterator[Any]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def _scan(self, max_frames: int) -> None:
        codec = self._context.codec.canonical_name  # of the format, not of the decoder (libdav1d)
        nal_length_size = _nal_length_size(self._context.extradata) if codec == "h264" else 0
        kept: list[Any] | None = []
        kept_bytes = 0
        pts: list[int | None] = []
        shown: list[bool] = []
        exact_keys: list[int] = []
        num_keys = 0
        for number, packet in enumerate(self._demux()):
            pts.append(packet.pts)
            shown.append(not packet.is_discard and (codec != "vp8" or _is_shown_vp8(packet)))
            if packet.is_keyframe:
                num_keys += 1
                if codec != "h264" or _holds_idr(memoryview(packet), nal_length_size):
                    exact_keys.append(number)
            if kept is not None:
                kept.append(packet)
                kept_bytes += packet.size
                kept = None if kept_bytes > KEPT_BYTES else kept
            if number >= max_frames:
                break
        self._kept = kept
        self.num_frames = sum(shown)
        # MP4 lists its packets in the header (those that an edit list cuts off are taken from that list).
        promised = len(self._stream.index_entries) if self.format_name.startswith("mov") else 0
        if len(pts) < min(promised, max_frames):
            raise ValueError(f"its header promises {promised} frames, but the file ends after {len(pts)}")
        if None in pts or codec not in _CODECS_WITH_EXACT_KEYS:
            return
        stamps = np.array(pts, dtype=np.int64)
        may_reorder = codec in _CODECS_WITH_LEADING_FRAMES and bool(self._context.has_b_frames)
        self.order = _order(stamps, np.array(shown, dtype=bool), exact_keys, num_keys, may_reorder)


def _order(
    pts: np.ndarray, shown: np.ndarray, exact_keys: list[int], num_keys: int, may_reorder: bool
) -> PacketOrder | None:
    shown_pts = np.unique(pts[shown])
    if len(shown_pts) == 0 or len(shown_pts) < shown.sum():
        return None
    if may_reorder and len(pts) > 2 and bool((np.diff(pts) > 0).all()):
        return None  # AVI and the like: the stamps tell the order of decoding, and frames may be shown in another
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]])
    starts = np.array([key for key in exact_keys if shown[key] and pts[key] > before[key]], dtype=np.int64)
    ranks = np.searchsorted(shown_pts, pts[starts])
    num_before = np.concatenate([[0], np.cumsum(shown)])[starts]
    is_simple = len(starts) == num_keys and bool((ranks == num_before).all()) and bool(shown.all())
    if len(starts) == 0 or starts[0] != 0:  # where nothing better is known, decoding starts with the file
        starts, ranks = np.concatenate([[0], starts]), np.concatenate([[0], ranks])
        is_simple = False
    return PacketOrder(shown_pts, starts, ranks, is_simple)


def _is_shown_vp8(packet: Any) -> bool:
    return bool(memoryview(packet)[0] >> 4 & 1)


def _nal_length_size(extradata: bytes | None) -> int:
    """Bytes of the length in front of each NAL unit (MP4, Matroska); 0 for start codes (transport streams)."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0


def _holds_idr(data: memoryview, length_size: int) -> bool:
    """Tell whether the first slice of an H.264 packet is of an IDR picture: nothing refers across such a one."""
    for unit_type in _nal_types(data, length_size):
        if unit_type == _NAL_IDR:
            return True
        if _NAL_SLICE <= unit_type < _NAL_IDR:
            return False
    return False


def _nal_types(data: memoryview, length_size: int) -> Iterator[int]:
    if length_size:
        start = 0
        while start + length_size < len(data):
            yield data[start + length_size] & 0x1F
            start += length_size + int.from_bytes(data[start : start + length_size], "big")
        return
    content = bytes(data)
    start = content.find(b"\0\0\1")
    while start >= 0 and start + 3 < len(content):
        yield content[start + 3] & 0x1F
        start = content.find(b"\0\0\1", start + 3)
