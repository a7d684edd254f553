# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Reading the frames of a video file: exact, by index, with PyAV alone.

This file travels with published checkpoints as Hub remote code, beside the video processor, and the decoding process
of `amd_hf.data.video.decoding_process` loads it without PyTorch. Whatever reads a video (the processor, `pipeline`,
training, prediction, the readers of other decoders) sees it through this file: the same stream, the same rotation,
the same count of frames.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .video_packets_amd import (
    NAL_LOOKS,
    NO_PTS,
    DecodingRun,
    PacketFacts,
    PacketLook,
    PacketOrder,
    UnexpectedFrame,
    confirms_order,
    find_order,
    is_out_of_order,
)


_INSPECTED_AT_ONCE = 8
KEPT_BYTES = 64 * 1024**2
"""Packets of a video up to this size stay in memory; a larger file is read again."""
INDEXED_BYTES = 16 * 1024**2
"""From this size on an MP4 file is not read whole to count its frames, where its header tells enough."""

_STAMP_ROUNDING = 0.002  # seconds between two stamps, each rounded to a millisecond

# After a key packet of these nothing that is shown later depends on what came before (H.264 is looked at closer).
_CODECS_WITH_EXACT_KEYS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "png")
# Frames shown before a key packet may follow it in the file.
_CODECS_WITH_LEADING_FRAMES = ("hevc", "mpeg1video", "mpeg2video", "mpeg4")


class VideoReadError(RuntimeError, ValueError):
    """A video that cannot be read. The only exception that readers and the video processor raise for a file's fault.

    Args:
        reason (`str`): what is wrong, with the values that show it.
        video_id (`str`, *optional*): the row's `video_id`.
        source (`str`, *optional*): path of the file, or how many bytes it was read from.
    """

    def __init__(self, reason: str, video_id: str | None = None, source: str | None = None) -> None:
        name = video_id if video_id is not None else source
        super().__init__(f"Cannot read video {name!r}: {reason}" if name is not None else reason)
        self.reason = reason
        self.video_id = video_id
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would pass the whole message as `reason` when the error travels between processes.
        return type(self), (self.reason, self.video_id, self.source)


@dataclass(frozen=True)
class MediaFile:
    """Where a video file lies: exactly one of `path` and `data` (the bytes of the file) is set."""

    path: str | None = None
    data: bytes | None = None

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{len(self.data or b'')} bytes"

    @property
    def num_bytes(self) -> int:
        return len(self.data or b"") if self.path is None else os.path.getsize(self.path)

    def check_exists(self, video_id: str | None = None) -> None:
        """Raise `VideoReadError` for a missing or empty file before a decoder words it in its own way."""
        if self.path is not None and os.path.isdir(self.path):
            raise VideoReadError(f"{self.path!r} is a folder: give a video file in it", video_id, str(self))
        if self.path is not None and not os.path.isfile(self.path):
            hint = " (names are files, addresses are not opened: download it first)" if "://" in self.path else ""
            raise VideoReadError(f"there is no file {self.path!r}{hint}", video_id, str(self))
        if self.data == b"" or (self.path is not None and os.path.getsize(self.path) == 0):
            raise VideoReadError("it holds zero bytes", video_id, str(self))


CONTAINER_FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "flv", "asf", "ogg", "mxf", "nut", "rm", "wtv",
    "dv", "gif", "apng", "ivf", "obu", "av1", "h264", "hevc", "vvc", "vc1", "vc1test", "mjpeg", "yuv4mpegpipe", "gxf",
    "nsv", "jpeg_pipe", "png_pipe", "bmp_pipe", "webp_pipe",
    "mp3", "wav", "flac", "aac", "aiff",  # of these, that they hold no video
)  # fmt: skip
"""FFmpeg's names of the containers that are read: those that hold their frames and name no other file or address."""

IMAGE_FAULT = (
    "it is an image, not a video, and does not tell when it is shown: say `--media image`, or use an image model"
)
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"BM")

_PLAYLIST_STARTS = {
    b"#EXTM3U": "an HLS playlist (m3u8)",
    b"ffconcat": "a list of files for FFmpeg to join (ffconcat)",
    b"v=0": "a description of a network stream (SDP)",
    b"<?xml": "an XML file, such as a DASH manifest (mpd)",
    b"<MPD": "a DASH manifest (mpd)",
    b"[playlist]": "a playlist (pls)",
    b"[InternetShortcut]": "a link to an address",
    b"# VobSub": "an index of subtitles (VobSub)",
    b"RTSPtext": "a link to a network stream",
    b"<asx": "a playlist (asx)",
    b"<smil": "a playlist (smil)",
}


def import_av() -> Any:
    """Import `av`, inside `try`: Hub remote code refuses to load where a bare import is not installed.

    Raises:
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading video files needs PyAV: `pip install av`.") from error
    return av


@contextmanager
def open_container(source: MediaFile, wrap: Callable[[Any], Any] | None = None) -> Iterator[Any]:
    """Open a file with PyAV: the only place where FFmpeg is given one. It sees this file's bytes and nothing else.

    FFmpeg picks a demuxer by the bytes, and some demuxers open what the bytes name: other files, network addresses.
    So only `CONTAINER_FORMATS` are let in, FFmpeg is handed an open file and no name to interpret (`http:x` or
    `concat:a|b` are files of that name), and whatever else it asks to be opened is refused.

    Args:
        source (`MediaFile`): a path or bytes.
        wrap (callable, *optional*): from the open file to one that FFmpeg reads instead.

    Yields:
        `av.container.InputContainer`, closed afterwards.

    Raises:
        VideoReadError: it is missing, empty or no video container.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    source.check_exists()
    options = {
        "format_whitelist": ",".join(CONTAINER_FORMATS),
        "protocol_whitelist": "none",  # there is no protocol of this name
        "enable_drefs": "0",  # QuickTime tracks whose frames lie in other files
        "use_absolute_path": "0",
    }
    with ExitStack() as stack:
        file = stack.enter_context(open_bytes(source))
        _refuse_playlists(source, file)
        file = file if wrap is None else wrap(file)
        try:
            # Names and comments in the file may be in any encoding: they are of no interest here.
            opened = av.open(file, container_options=options, metadata_errors="ignore", io_open=_refuse_to_open)
        except av.FFmpegError as error:
            unreadable = f"pyav: {error.strerror or error} (it is damaged, or in none of the formats that are read)"
            fault = IMAGE_FAULT if _is_image(source, file) else unreadable
            raise VideoReadError(fault, source=str(source)) from error
        yield stack.enter_context(opened)


def open_bytes(source: MediaFile) -> Any:
    if source.path is None:
        return io.BytesIO(source.data or b"")
    try:
        return open(source.path, "rb")
    except OSError as error:
        raise VideoReadError(f"it cannot be opened: {error}", source=source.path) from error


def _refuse_playlists(source: MediaFile, file: Any) -> None:
    start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    file.seek(0)
    for text, meaning in _PLAYLIST_STARTS.items():
        if start.startswith(text.lower()):
            raise VideoReadError(
                f"it is {meaning}, which holds no frames but names where they are: give the video itself",
                source=str(source),
            )


def _is_image(source: MediaFile, file: Any) -> bool:
    file.seek(0)
    start = file.read(12)
    is_stream = str(source).lower().endswith((".mjpg", ".mjpeg"))  # JPEG images, one after another
    return not is_stream and (start.startswith(_IMAGE_STARTS) or (start[:4], start[8:]) == (b"RIFF", b"WEBP"))


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:
    raise VideoReadError(f"it asks for another file or address to be opened ({url[:200]!r}), which is refused")


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What a video may take at most. Checked before the memory is taken; above it a video counts as unreadable.

    Args:
        max_decoded_bytes (`int`, defaults to 2 GiB): RGB bytes of one call of `frames` (16 x 4 frames of 4K fit).
        max_frame_pixels (`int`, defaults to 8192 x 8192): height times width.
        max_frames (`int`, defaults to 10 million): frames of a video (46 hours at 60 a second).
        max_file_bytes (`int`, defaults to 4 GiB): size of a file that is given as bytes. One given by its path is
            not read into memory.
    """

    max_decoded_bytes: int = 2 * 1024**3
    max_frame_pixels: int = 8192 * 8192
    max_frames: int = 10_000_000
    max_file_bytes: int = 4 * 1024**3

    def __post_init__(self) -> None:
        for name in ("max_decoded_bytes", "max_frame_pixels", "max_frames", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not {getattr(self, name)}.")


class Inspection(NamedTuple):
    """What decoding a whole video showed.

    Args:
        num_frames (`int`): frames that came out.
        height, width (`int`): of the first one, as the decoder gives it.
        damage (`str` or `None`): faults that a decoder conceals, so that the video can be read all the same.
    """

    num_frames: int
    height: int
    width: int
    damage: str | None


class VideoDecoder:
    """Base of the decoders: checks and bookkeeping; each adds `__len__`, `_read` and perhaps `close`."""

    def __init__(
        self, source: MediaFile, video_id: str | None, limits: VideoLimits | None = None, num_threads: int = 1
    ) -> None:
        self.source = source
        self.video_id = video_id
        self.limits = VideoLimits() if limits is None else limits
        self.num_threads = num_threads
        self._frame_shape: tuple[int, int] | None = None  # (H, W), known once a frame was decoded
        if source.data is not None and len(source.data) > self.limits.max_file_bytes:
            raise self._error(
                f"the file is {len(source.data)} bytes, above the limit of {self.limits.max_file_bytes} "
                "(`max_file_bytes`)"
            )

    @staticmethod
    def import_decoder() -> None:
        """Import the libraries that reading will import."""

    def __len__(self) -> int:
        raise NotImplementedError

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """Decode strictly increasing int64 `indices` to uint8 (n, H, W, 3)."""
        raise NotImplementedError

    @property
    def height(self) -> int:
        return self._known_frame_shape()[0]

    @property
    def width(self) -> int:
        return self._known_frame_shape()[1]

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size == 0:
            raise ValueError("`indices` is empty: ask for at least one frame.")
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"Frames {wanted.min()}..{wanted.max()} asked of {self.source}, which has {len(self)}.")
        unique, inverse = np.unique(wanted, return_inverse=True)
        frames = self._read(unique)
        self._frame_shape = frames.shape[1:3]
        return frames if np.array_equal(unique, wanted) else frames[inverse]

    @property
    def frame_times(self) -> np.ndarray:
        """When frames are on screen, by their timestamps: float64 (n + 1,), in seconds from the first one.

        Frame i appears at `[i]` and is shown until `[i + 1]`. Where a file has no stamp for each of its frames (raw
        streams), they follow each other at the rate in its header.

        Raises:
            VideoReadError: it has neither, or is made of image files.
        """
        with PyAVDecoder(self.source, self.video_id, self.limits, self.num_threads) as video:
            return video.frame_times

    def inspect(self) -> Inspection:
        """Decode the whole video, a few frames at a time.

        Raises:
            VideoReadError: a frame cannot be decoded.
        """
        for start in range(0, len(self), _INSPECTED_AT_ONCE):
            self.frames(range(start, min(start + _INSPECTED_AT_ONCE, len(self))))
        return Inspection(len(self), self.height, self.width, None)

    def close(self) -> None:
        """Free what the decoder holds; reading afterwards is not possible."""

    def __enter__(self) -> VideoDecoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _known_frame_shape(self) -> tuple[int, int]:
        # The size in the header ignores rotation and may be wrong, so a frame is decoded.
        if self._frame_shape is None:
            self.frames([0])
        assert self._frame_shape is not None
        return self._frame_shape

    def _error(self, reason: object) -> VideoReadError:
        return VideoReadError(" ".join(str(reason).split())[:1000], self.video_id, str(self.source))

    @contextmanager
    def _faults_of_the_file(self, decoder: str) -> Iterator[None]:
        """Turn whatever `decoder` raises into `VideoReadError`: on damaged files they raise nearly every exception."""
        try:
            yield
        except VideoReadError as error:
            if error.video_id == self.video_id and error.source is not None:
                raise
            raise self._error(error.reason) from error
        except Exception as error:
            raise self._error(f"{decoder}: {str(error) or type(error).__name__}") from error

    def _check_length(self, num_frames: int) -> None:
        if num_frames == 0:
            raise self._error("it holds zero frames")
        if num_frames > self.limits.max_frames:
            raise self._error(
                f"it has {num_frames} frames, above the limit of {self.limits.max_frames} (`max_frames`)"
            )

    def _check_size(self, num_frames: int, height: int, width: int) -> None:
        if height * width > self.limits.max_frame_pixels:
            raise self._error(
                f"a frame has {height} x {width} pixels, above the limit of {self.limits.max_frame_pixels} "
                "(`max_frame_pixels`)"
            )
        num_bytes = num_frames * height * width * 3
        if num_bytes > self.limits.max_decoded_bytes:
            raise self._error(
                f"{num_frames} frames of {height} x {width} take {num_bytes} bytes, above the limit of "
                f"{self.limits.max_decoded_bytes} (`max_decoded_bytes`)"
            )


def best_stream(container: Any) -> Any:
    """Return the video stream of a container that is read: FFmpeg's choice (the largest, not a cover picture).

    Raises:
        ValueError: there is none.
    """
    stream = container.streams.best("video")
    if stream is None:
        held = sorted({other.type for other in container.streams})
        raise ValueError(f"it has no video stream (it holds: {', '.join(held) or 'nothing'})")
    if stream.disposition & stream.disposition.attached_pic:
        raise ValueError("it has no video stream: its only picture is the cover of a sound file")
    return stream


class VideoPackets:
    """A file that PyAV has opened: the packets of its best video stream, read once and handed out again.

    Args:
        source (`MediaFile`): a path or bytes.
        num_threads (`int`): decoder threads; 0 lets FFmpeg choose.
        max_frame_pixels (`int`): limit for FFmpeg's decoder, which refuses larger frames before it allocates them.
        max_frames (`int`): reading stops with one packet more.

    Attributes:
        container, stream: PyAV's own objects.
        num_packets, num_indexed (`int`): packets that were read, and those that an index listed beforehand.
        format_name (`str`): FFmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        num_streams (`int`): video streams in the file.
        header_size (`tuple[int, int]`): height and width in the header, before rotation.
        header_rate (`float` or `None`): frames per second in the header.
        num_frames (`int`): frames that decoding gives. Where the packets leave no doubt they are counted by their
            first bytes, elsewhere by decoding everything once.
        shows_all (`bool`): every packet shows one frame, beyond doubt.
        has_orientation (`bool`): packets say how to turn the picture.
        order (`PacketOrder` or `None`): None if the file does not give the order of display.
        is_indexed (`bool`): all this is taken from the file's header, see `video_index_amd.py`.
        num_given (`int`): packets of the file up to the last one that `decode_from` gave to the decoder or left out.

    Raises:
        ValueError: no video stream, no decoder, or a file that ends before the packets that its header lists.
        av.FFmpegError, OSError: as PyAV raises them.
    """

    is_indexed = False
    _wrap: Callable[[Any], Any] | None = None  # of the file, on its way to FFmpeg

    def __init__(self, source: MediaFile, num_threads: int, max_frame_pixels: int, max_frames: int) -> None:
        self._source = source
        self._num_threads = num_threads
        self._max_frame_pixels = max_frame_pixels
        self._opened = ExitStack()
        self.container: Any = None
        self._kept: list[Any] | None = None
        self.num_frames = self.num_packets = self.num_indexed = self._last_duration = self.num_given = 0
        self.shows_all = self.has_orientation = False
        self._shown_pts: np.ndarray | None = None
        self.order: PacketOrder | None = None
        try:
            self._open()
            self._scan(max_frames)
        except BaseException:
            self.close()
            raise

    @property
    def times(self) -> np.ndarray | None:
        """Seconds at which frames are shown, float64 (num_frames,), increasing; None where not every frame says."""
        if self._shown_pts is None or self.stream.time_base is None:
            return None
        return self._shown_pts * float(self.stream.time_base)

    @property
    def last_stay(self) -> float | None:
        """Seconds for which the last frame is shown by its packet, which may hold one field of it; None if unknown."""
        is_told = self._last_duration > 0 and self.stream.time_base is not None
        return self._last_duration * float(self.stream.time_base) if is_told else None

    @property
    def promised_frames(self) -> float:
        """How many frames the header promises: by its count, or by duration and rate, whichever is more."""
        seconds = (self.container.duration or 0) / 1_000_000  # of the container, in microseconds
        if self.stream.duration is not None and self.stream.time_base is not None:
            seconds = max(seconds, float(self.stream.duration * self.stream.time_base))
        return max(self.stream.frames, seconds * float(self.stream.average_rate or 0))

    def decode_from(
        self, number: int, stop: int | None = None, is_left_out: np.ndarray | None = None
    ) -> Iterator[Any]:
        """Start to decode at packet `number` and yield PyAV frames to the end of the stream.

        Packets in front of the first frame that cannot be decoded are passed over, as FFmpeg does: recordings are cut
        off anywhere, and what comes before a key frame is of no use.

        Args:
            number (`int`): the first packet that the decoder gets.
            stop (`int`, *optional*): packet with which the stream is taken to end. What the decoder holds back then
                comes out, for which it would else have to decode what follows.
            is_left_out (`np.ndarray` of shape (packets,), bool, *optional*): packets that the decoder does not get.
                May be changed from the packet `num_given` on while frames are taken.
        """
        packets = self._packets_from(number)
        context = self._context
        fault: Exception | None = None
        is_started = False
        count = None if stop is None else stop - number
        for position, packet in enumerate(itertools.chain(itertools.islice(packets, count), [None]), start=number):
            self.num_given = position + 1
            if packet is not None and is_left_out is not None and is_left_out[position]:
                continue
            try:
                frames = context.decode(packet)
            except import_av().FFmpegError as error:
                if is_started:
                    raise
                fault = error
                continue
            is_started |= bool(frames)
            yield from frames
        if fault is not None and not is_started:
            raise fault

    def _packets_from(self, number: int) -> Iterator[Any]:
        """Make the decoder ready for packet `number`, and return it and those that follow."""
        if self._kept is not None:
            if self._context.is_open:
                self._context.flush_buffers()
            return iter(self._kept[number:])
        self._open()  # the decoder is a new one
        return itertools.islice(self._demux(), number, None)

    def examine(self, runs: Sequence[tuple[int, int]], reads_on: bool) -> bool:
        """Look at packets that are to be decoded, each run from a start to in front of a stop.

        Returns:
            Whether the decoder must begin anew, perhaps by another `order`. Here all was looked at before.
        """
        return False

    def distrust(self) -> None:
        """Note that the header is wrong."""

    def first_frame(self) -> Any:
        """Return the frame of the first packet, given to the decoder alone: the next ones would be decoded too."""
        if self._kept:
            if self._context.is_open:
                self._context.flush_buffers()
            frames = [*self._context.decode(self._kept[0]), *self._context.decode(None)]
            if frames:
                return frames[0]
        return next(self.decode_from(0))

    def close(self) -> None:
        self._kept = None
        self.container = None
        self._opened.close()

    def _open(self) -> None:
        self._opened.close()
        self.container = self._opened.enter_context(open_container(self._source, self._wrap))
        self.stream = best_stream(self.container)
        self._context = self.stream.codec_context
        if self._context is None:
            raise ValueError("there is no decoder for its video stream")
        self.format_name: str = self.container.format.name
        self._context.thread_count = self._num_threads
        self._context.options = {"max_pixels": str(self._max_frame_pixels)}

    def _demux(self) -> Iterator[Any]:
        return (packet for packet in self.container.demux(self.stream) if packet.size)

    def _scan(self, max_frames: int) -> None:
        codec = self._context.codec.canonical_name  # of the format, not of the decoder (libdav1d)
        look = self._look_for(codec)
        facts = self._read_packets(look, max_frames)
        stamps = facts.stamps
        self.num_packets = len(stamps)
        self._last_duration = int(facts.durations[np.argmax(stamps)]) if len(stamps) else 0
        # MP4 lists its packets in the header (those that an edit list cuts off are taken from that list).
        promised = len(self.stream.index_entries) if self.format_name.startswith("mov") else 0
        if len(stamps) < min(promised, max_frames):
            raise ValueError(f"its header promises {promised} frames, but the file ends after {len(stamps)}")
        self.has_orientation = look.has_orientation
        if look.has_gaps:
            self._kept = None  # a decoder that was used before fills gaps in another way: each time it is a new one
        is_sound = facts.are_whole and not look.uncertain and facts.exact_keys[:1] == [0]
        is_sound = is_sound and not is_out_of_order(stamps[facts.num_shown == 1], bool(self._context.has_b_frames))
        shown = self._count(facts, is_sound, max_frames)
        if codec in _CODECS_WITH_EXACT_KEYS and not look.has_gaps:
            may_reorder = codec in _CODECS_WITH_LEADING_FRAMES and bool(self._context.has_b_frames)
            self.order = find_order(facts, shown, self._shown_pts, self.shows_all, may_reorder)
        if self.order is not None and is_sound and confirms_order(facts, self._num_reordered(look)):
            of_frames = np.flatnonzero(shown)
            of_frames = of_frames[np.argsort(stamps[of_frames])]
            self.order = self.order._replace(packets=of_frames, is_disposable=facts.is_disposable)
        self._note_header()

    def _look_for(self, codec: str) -> PacketLook:
        if codec in NAL_LOOKS:
            return NAL_LOOKS[codec](self._context.extradata)
        from .video_codecs_amd import look_for

        return look_for(codec, self._context.extradata)

    def _num_reordered(self, look: PacketLook) -> int:
        return int(self._context.has_b_frames) if look.num_reordered is None else look.num_reordered

    def _note_header(self) -> None:
        """Note what the header says. At the end: of some files FFmpeg learns that from the packets."""
        self.num_streams = len(self.container.streams.video)
        self.header_size: tuple[int, int] = (self._context.height, self._context.width)
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.header_rate = float(rate) if rate else None

    def _read_packets(self, look: PacketLook, max_frames: int) -> PacketFacts:
        """Read all packets, or one more than `max_frames`, and keep them where they are few."""
        kept: list[Any] | None = []
        kept_bytes = 0
        table: list[tuple[int, int, bool, int, bool]] = []
        display_keys: list[tuple[int, int] | None] = []
        exact_keys: list[int] = []
        num_keys = 0
        are_whole = True
        self.num_indexed = len(self.stream.index_entries)  # at first; FFmpeg adds those that it comes across
        for number, packet in enumerate(self._demux()):
            num_shown = look.count_shown(memoryview(packet), packet.is_keyframe)
            stamp = NO_PTS if packet.pts is None else packet.pts
            table.append((stamp, num_shown, packet.is_discard, packet.duration or 0, look.is_disposable))
            display_keys.append(look.display_key)
            are_whole = are_whole and not packet.is_corrupt
            if packet.is_keyframe:
                are_whole = are_whole and not (number and packet.has_sidedata("new_extradata"))
                num_keys += 1
                if look.is_exact_key():
                    exact_keys.append(number)
            if kept is not None:
                kept.append(packet)
                kept_bytes += packet.size
                kept = None if kept_bytes > KEPT_BYTES else kept
            if number >= max_frames:
                break
        self._kept = kept
        columns = np.array(table, dtype=np.int64).reshape(len(table), 5).T
        keys = None if None in display_keys else np.array(display_keys, dtype=np.int64).reshape(len(table), 2)
        stamps, num_shown_of, is_hidden, durations, is_disposable = columns
        is_disposable = look.confirm_disposable(is_disposable == 1)
        columns_read = stamps, num_shown_of, is_hidden == 1, durations, is_disposable
        return PacketFacts(*columns_read, keys, exact_keys, num_keys, are_whole)

    def _count(self, facts: PacketFacts, is_sound: bool, max_frames: int) -> np.ndarray:
        """Set how many frames there are and when they are shown, and return which packets show one."""
        stamps, is_hidden = facts.stamps, facts.is_hidden
        shown = (facts.num_shown == 1) & ~is_hidden
        self.num_frames = int(facts.num_shown[~is_hidden].sum())
        if is_sound or self.num_frames > max_frames:
            # Timestamps in decoding order (AVI) are those of the frames all the same, once they are sorted.
            shown_pts = np.unique(stamps[shown])
        else:
            shown_pts = self._count_by_decoding(max_frames)
            shown = np.isin(stamps, shown_pts)
        self.shows_all = is_sound and bool(shown.all())
        has_stamps = 0 < len(shown_pts) == self.num_frames and NO_PTS not in shown_pts
        self._shown_pts = shown_pts if has_stamps else None
        return shown

    def _count_by_decoding(self, max_frames: int) -> np.ndarray:
        """Decode everything and return the timestamps of the frames, increasing; empty if not all have one."""
        stamps: list[int | None] = []
        size: tuple[int, int] | None = None
        for frame in self.decode_from(0):
            if size is not None and (frame.height, frame.width) != size:
                raise _size_change(size, (frame.height, frame.width), len(stamps))
            size = frame.height, frame.width
            stamps.append(frame.pts)
            if len(stamps) > max_frames:
                break
        self.num_frames = len(stamps)
        if None in stamps or any(later <= earlier for earlier, later in itertools.pairwise(stamps)):  # type: ignore[operator]
            return np.empty(0, dtype=np.int64)
        return np.array(stamps, dtype=np.int64)


class PyAVDecoder(VideoDecoder):
    """Decoder of PyAV. Packets before the last exact start are left out, all others are decoded one after the other.

    Where the frames that come out are not those that the packets announce (wrong time stamps), the whole file is
    decoded from its start and frames are counted.

    Attributes:
        packets (`VideoPackets`): what the file says about itself.
        order (`PacketOrder` or `None`): the order of the packets; None where frames are counted.
    """

    def __init__(
        self,
        source: MediaFile,
        video_id: str | None,
        limits: VideoLimits | None = None,
        num_threads: int = 1,
        uses_index: bool = True,
    ) -> None:
        super().__init__(source, video_id, limits, num_threads)
        import_av()  # its absence is no fault of the file
        self._decoded: Iterator[Any] = iter(())
        self._next_index = 0
        self._to_rgb = _RgbConverter()
        self._start = -1  # position in `order.starts` at which decoding began; -1: it must begin anew
        self._is_left_out: np.ndarray | None = None  # packets that the decoder does not get, since it began
        self._last_index = -1  # of the call of `frames` before this one
        self._reads_on = False
        with self._faults_of_the_file("pyav"):
            self.packets = self._open_packets(uses_index)
        self.order = self.packets.order
        try:
            self._check_length(len(self))
            self._check_size(1, *self.packets.header_size)
        except VideoReadError:
            self.close()
            raise

    @staticmethod
    def import_decoder() -> None:
        import_av()

    def __len__(self) -> int:
        return self.packets.num_frames

    def __enter__(self) -> PyAVDecoder:
        return self

    @property
    def is_plain(self) -> bool:
        """Whether decoders that count packets, know no mirroring and convert colours by themselves are right.

        Decodes the first frame.
        """
        packets = self.packets
        if not packets.shows_all or packets.has_orientation or packets.num_streams > 1:
            return False
        self._start = -1  # what was decoded is used up
        with self._faults_of_the_file("pyav"):
            frame = packets.first_frame()
            matrix = _display_matrix(frame)
        is_turned = orientation_of(frame)[0]
        self._frame_shape = (frame.width, frame.height) if is_turned else (frame.height, frame.width)
        if matrix is None:
            return is_usual_frame(frame)
        (a, b), (c, d) = matrix
        is_straight = (a == d == 0) != (b == c == 0)  # by quarters of a turn
        return is_usual_frame(frame) and is_straight and a * d - b * c > 0

    def _known_frame_shape(self) -> tuple[int, int]:
        if self._frame_shape is None and self.order is not None and self.order.packets is not None:
            self._start = -1  # what was decoded is used up
            with self._faults_of_the_file("pyav"):
                self._frame_shape = self._to_rgb(self.packets.first_frame()).shape[:2]
        return super()._known_frame_shape()

    @property
    def mean_rate(self) -> float | None:
        """Frames a second from the first frame to the last one.

        As the header tells where not every frame has a time stamp, or where both are the same but for rounding
        (Matroska counts in milliseconds).
        """
        times, header = self.packets.times, self.packets.header_rate
        if times is None or len(times) < 2:
            return header
        seconds = float(times[-1] - times[0])
        is_rounded = header is not None and abs((len(times) - 1) / header - seconds) <= _STAMP_ROUNDING
        return header if is_rounded else (len(times) - 1) / seconds

    @property
    def frame_times(self) -> np.ndarray:
        times, rate = self.packets.times, self.packets.header_rate
        if times is not None:
            # As long as the one before, or longer where its packet tells so: Matroska's tells the usual length only.
            stay = self.packets.last_stay or (1 / rate if rate else 0.0)
            stay = max(stay, times[-1] - times[-2]) if len(times) > 1 else stay
            return np.append(times, times[-1] + stay) - times[0]
        if rate is None:
            raise self._error("it tells neither when its frames are shown nor how many there are a second")
        return np.arange(len(self) + 1) / rate

    def close(self) -> None:
        self._decoded = iter(())  # its frames refer back here: left to the garbage collector they would outlive a fork
        self.packets.close()

    def inspect(self) -> Inspection:
        """Decode the whole video, without turning frames into RGB, and look for what FFmpeg conceals."""
        from .video_index_amd import find_loss

        num_frames = num_damaged = height = width = 0
        with self._faults_of_the_file("pyav"):
            if self.packets.is_indexed:
                self._look_at_all()
            for frame in self.packets.decode_from(0):
                if num_frames == 0:
                    height, width = frame.height, frame.width
                    self._check_size(1, height, width)
                if (frame.height, frame.width) != (height, width):
                    raise _size_change((height, width), (frame.height, frame.width), num_frames)
                num_frames += 1
                num_damaged += frame.is_corrupt
        self._start = -1  # what was decoded is used up
        if num_frames == 0:
            raise self._error("no frame can be decoded")
        damage = [
            f"{num_damaged} of {num_frames} frames are damaged" if num_damaged else None,
            f"{len(self) - num_frames} of {len(self)} frames are missing" if num_frames < len(self) else None,
            find_loss(self.packets),
        ]
        return Inspection(num_frames, height, width, "; ".join(filter(None, damage)) or None)

    def _open_packets(self, uses_index: bool) -> VideoPackets:
        arguments = self.source, self.num_threads, self.limits.max_frame_pixels, self.limits.max_frames
        packets: VideoPackets | None = None
        self.source.check_exists(self.video_id)
        if uses_index and self.source.num_bytes >= INDEXED_BYTES:
            from .video_index_amd import IndexedPackets, read_mp4_index

            class Indexed(IndexedPackets, VideoPackets):
                """Packets of which those far from the wanted frames are not read."""

            with open_bytes(self.source) as file:
                index = read_mp4_index(file, self.source)
            with suppress(UnexpectedFrame):
                packets = None if index is None else Indexed(index, *arguments)
        return VideoPackets(*arguments) if packets is None else packets

    def _look_at_all(self) -> None:
        """Read the whole file, of which the header was believed so far."""
        self.packets.close()
        self.packets = self._open_packets(False)
        self.order, self._start = self.packets.order, -1

    def _read(self, indices: np.ndarray) -> np.ndarray:
        av = import_av()
        with self._faults_of_the_file("pyav"):
            if self.packets.is_indexed:
                try:
                    return self._collect(self._announced_frames(indices), indices)
                except (av.FFmpegError, UnexpectedFrame):
                    announced = len(self)
                    self.packets.distrust()
                    self._look_at_all()
                    if len(self) != announced:
                        raise self._error(
                            f"its header lists {announced} frames, but it has {len(self)}: open it again"
                        ) from None
            if self.order is not None and self.order.packets is not None:
                try:
                    return self._collect(self._announced_frames(indices), indices)
                except (av.FFmpegError, UnexpectedFrame):
                    self.order = self.order._replace(packets=None)  # from now on every packet is decoded
                    self._start = -1
            if self.order is not None:
                try:
                    return self._collect(self._announced_frames(indices), indices)
                except (av.FFmpegError, UnexpectedFrame):
                    self.order = None  # for good: the packets do not show what the decoder makes of them
                    self._start = -1
            return self._collect(map(self._counted_frame, indices.tolist()), indices)

    def _collect(self, decoded: Iterable[Any], indices: np.ndarray) -> np.ndarray:
        frames: np.ndarray | None = None
        for position, frame in enumerate(decoded):
            self._check_size(len(indices), frame.height, frame.width)
            image = self._to_rgb(frame)
            if frames is None:
                frames = np.empty((len(indices), *image.shape), dtype=np.uint8)
            if image.shape != frames.shape[1:]:
                raise _size_change(frames.shape[1:3], image.shape[:2], int(indices[position]))
            frames[position] = image
        assert frames is not None
        return frames

    def _announced_frames(self, indices: np.ndarray) -> Iterator[Any]:
        # Who reads on behind the last frame will do so again: then the decoder goes on where it is. Else it gets no
        # packet behind the last one that is wanted.
        self._reads_on |= 0 <= self._last_index < indices[0]
        self._last_index = int(indices[-1])
        assert self.order is not None
        while self.order.packets is not None:
            runs = [
                (run.start, int(self.order.packets[run.indices].max()) + 1)
                for run in self.order.runs(indices, self._start, self._next_index)
            ]
            if not self.packets.examine(runs, self._reads_on):
                break
            self.order, self._start = self.packets.order, -1
            assert self.order is not None
        is_left_out = self.order.choose_left_out(indices, self._reads_on)
        for run in self.order.runs(indices, self._start, self._next_index):
            if run.is_new:
                self._begin(run, is_left_out)
            elif is_left_out is not None and self._is_left_out is not None:
                given = self.packets.num_given
                self._is_left_out[given:] = is_left_out[given:]
            yield from map(self._announced_frame, run.indices)
        if is_left_out is not None and not self._reads_on:
            self._start = -1  # what the decoder held back is used up

    def _begin(self, run: DecodingRun, is_left_out: np.ndarray | None) -> None:
        order = self.order
        assert order is not None
        stop = None
        self._is_left_out = None
        if is_left_out is not None and order.packets is not None:
            self._is_left_out = is_left_out.copy()
            if not self._reads_on:
                stop = int(order.packets[run.indices].max()) + 1
                self._is_left_out[stop:] = True
        self._start, self._next_index = run.position, int(order.start_ranks[run.position])
        self._decoded = self.packets.decode_from(run.start, stop, self._is_left_out)

    def _announced_frame(self, index: int) -> Any:
        order, is_left_out = self.order, self._is_left_out
        assert order is not None
        first_pts = order.shown_pts[order.start_ranks[self._start]]
        for frame in self._decoded:
            # What a decoder puts in the place of damaged parts may depend on packets that were left out.
            if frame.pts is None or (is_left_out is not None and frame.is_corrupt):
                raise UnexpectedFrame
            if frame.pts < first_pts and self._start > 0:
                continue  # shown before the start, made of packets that were left out
            if is_left_out is not None and order.packets is not None:
                while self._next_index < len(order.packets) and is_left_out[order.packets[self._next_index]]:
                    self._next_index += 1
            if self._next_index >= len(order.shown_pts) or frame.pts != order.shown_pts[self._next_index]:
                raise UnexpectedFrame
            self._next_index += 1
            if self._next_index > index:
                return frame
        raise UnexpectedFrame

    def _counted_frame(self, index: int) -> Any:
        if index < self._next_index or self._start < 0:
            self._start = self._next_index = 0
            self._decoded = self.packets.decode_from(0)
        for frame in self._decoded:
            self._next_index += 1
            if self._next_index > index:
                return frame
        raise self._error(f"{len(self)} frames were counted in it, but decoding ends after {self._next_index}")


def _size_change(old: tuple[int, ...], new: tuple[int, ...], index: int) -> VideoReadError:
    return VideoReadError(
        f"the size of its frames changes from {old[0]} x {old[1]} to {new[0]} x {new[1]} at frame {index}: cut it "
        "there, or encode it in one size"
    )


class _RgbConverter:
    """Converter of PyAV frames to uint8 (H, W, 3), turned and mirrored as their display matrix asks.

    The conversion is that of FFmpeg's command line. For the usual frames PyAV's own is the same and faster; of others
    (more than 8 bits, interlaced, odd sizes) it makes colours that are off by up to 16 of 255.
    """

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] | None = None
        self._graph: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        is_turned, is_upside_down, is_mirrored = orientation_of(frame)
        if not is_usual_frame(frame):
            return self._filtered(frame, is_turned, is_upside_down, is_mirrored)
        image = frame.to_ndarray(format="rgb24", threads=1)
        if is_turned:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if is_upside_down else 1, :: -1 if is_mirrored else 1]

    def _filtered(self, frame: Any, is_turned: bool, is_upside_down: bool, is_mirrored: bool) -> np.ndarray:
        """Convert by filters, in the command line's order: colours of half the resolution are turned, then spread."""
        kind = (frame.width, frame.height, frame.format.name, is_turned, is_upside_down, is_mirrored)
        if kind != self._kind:
            graph = import_av().filter.Graph()
            nodes = [
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
                )
            ]
            nodes += [graph.add("transpose", "dir=cclock_flip")] if is_turned else []
            nodes += [graph.add("hflip")] if is_mirrored else []
            nodes += [graph.add("vflip")] if is_upside_down else []
            nodes += [graph.add("scale", "flags=bicubic"), graph.add("format", "rgb24"), graph.add("buffersink")]
            graph.link_nodes(*nodes).configure()
            self._kind, self._graph = kind, graph
        self._graph.push(frame)
        return self._graph.pull().to_ndarray(format="rgb24", threads=1)


def is_usual_frame(frame: Any) -> bool:
    """Return whether all of FFmpeg's ways to RGB give the same colours: 8 bits, 4:2:0, progressive, even sides."""
    is_even = frame.width % 2 == frame.height % 2 == 0
    return frame.format.name in ("yuv420p", "yuvj420p") and is_even and not frame.interlaced_frame


def orientation_of(frame: Any) -> tuple[bool, bool, bool]:
    """Find how a frame is to be shown: rows and columns swapped; then upside down; then mirrored left to right."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return False, False, False
    # A point (x, y) is shown at (a x + c y, b x + d y); only the signs matter, and which of them are larger.
    (a, b), (c, d) = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _display_matrix(frame: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    data = next((bytes(part) for part in frame.side_data if part.type.name == "DISPLAYMATRIX"), None)
    if data is None or len(data) < 36:
        return None
    a, b, _, c, d = np.frombuffer(data, dtype=np.int32, count=5).tolist()  # in the machine's own byte order
    return (a, b), (c, d)


__all__ = [
    "VideoDecoder",
    "Inspection",
    "MediaFile",
    "PyAVDecoder",
    "VideoLimits",
    "VideoReadError",
    "open_container",
]
