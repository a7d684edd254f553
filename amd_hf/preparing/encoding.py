"""One video as a small H.264 file that decodes fast. This module runs in a decoding process, without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..video_index_amd import find_loss
from ..video_reading_amd import PyAVDecoder, VideoDecoder, VideoReadError, import_av, orientation_of


_TICKS = 90_000
"""Ticks of the output's clock in a second; those of 24, 25, 30 and 60 frames a second are whole."""

# What makes a stream cheap to read in pieces: B-frames that nothing refers to, so that a reader may pass over three of
# four frames; one reference, so that the decoder's memory stays in the cache; key frames at fixed distances. No
# arithmetic coding and no deblocking: half the CPU of decoding for 8% more bytes, at the same PSNR (320 px, crf 20)
# The bytes are the same on every processor and in every run: one thread, no use of what a processor alone has.
_X264 = (
    "bframes=3:b-adapt=0:b-pyramid=none:ref=1:scenecut=0:open-gop=0:cabac=0:no-deblock=1:weightb=0:weightp=0:"
    "lookahead-threads=1:cpu-independent=1"
)


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How a video is encoded.

    Args:
        short_side (`int`, *optional*): shorter side of the output, in pixels; smaller videos are not enlarged. None
            keeps the size (to even numbers).
        crf (`int`, defaults to 20): quality of x264, 0 to 51; lower is better and larger.
        key_frame_interval (`int`, defaults to 32): frames from one key frame to the next.
        preset (`str`, defaults to `"medium"`): x264's speed of encoding.
        fps (`float`, *optional*): constant frame rate; by default each frame keeps its timestamp.
        deinterlace (`bool`, defaults to `False`): blend the fields of interlaced frames.
        jpeg_quality (`int`, *optional*): write a folder of JPEG images of this quality instead of a video.
    """

    short_side: int | None = 320
    crf: int = 20
    key_frame_interval: int = 32
    preset: str = "medium"
    fps: float | None = None
    deinterlace: bool = False
    jpeg_quality: int | None = None


def output_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Return height and width of the output: even, not enlarged, the short side `short_side` where it is longer."""
    shorter = min(height, width)
    wanted = shorter if short_side is None else min(short_side, shorter)

    def even(side: int) -> int:
        # H.264's colours have half the resolution. The long side is rounded to the nearest even number.
        scaled = 2 * round(side * wanted / shorter / 2)
        return max(2, min(scaled, side - side % 2))

    return even(height), even(width)


def encode_video(
    video: VideoDecoder, target: str, settings: dict[str, Any], start: float | None = None, end: float | None = None
) -> dict[str, Any]:
    """Encode a video, or its seconds `start` to `end`, as an MP4 file without sound, or as a folder of JPEG images.

    Frames are those that `video.frames` gives, in their order and at their timestamps; where the video is turned or
    mirrored, so are they. 8-bit 4:2:0, whatever the source has; HDR is not mapped to SDR.

    Args:
        video (`VideoDecoder`): the open source.
        target (`str`): absolute path of the file or folder to write; an existing one is replaced.
        settings (`dict`): fields of [`EncodingSettings`].
        start, end (`float`, *optional*): seconds by the timestamps, counted from the first frame.

    Returns:
        `dict`: `num_frames`, `seconds`, `height` and `width` of the output, `num_bytes`, and `damage`, what is wrong
        with the source although it can be read (or None).

    Raises:
        VideoReadError: the source cannot be decoded to its end, or has nothing between `start` and `end`.
    """
    if isinstance(video, PyAVDecoder) and video.packets.is_indexed:
        # A long film is opened by its header, which may be wrong; nearly all of it is read here anyway.
        with PyAVDecoder(video.source, video.video_id, video.limits, video.num_threads, uses_index=False) as whole:
            return encode_video(whole, target, settings, start, end)
    options = EncodingSettings(**settings)
    indices, stamps, seconds = _schedule(video, options.fps, start, end)
    writer = (_VideoWriter if options.jpeg_quality is None else _ImageWriter)(os.path.abspath(target), options)
    num_damaged = 0
    with writer:
        position = 0
        for index, frame in _pictures(video, int(indices[0]), int(indices[-1]) + 1):
            num_damaged += bool(frame.is_corrupt)
            if position < len(indices) and indices[position] == index:
                scaled = writer.scale(frame)
                while position < len(indices) and indices[position] == index:  # with a higher `fps` more than once
                    following = stamps[position + 1] if position + 1 < len(stamps) else round(seconds * _TICKS)
                    writer.write(scaled, int(stamps[position]), max(int(following - stamps[position]), 1))
                    position += 1
    damage = [
        f"{num_damaged} frames are damaged" if num_damaged else None,
        find_loss(video.packets) if isinstance(video, PyAVDecoder) else None,
    ]
    return {
        "num_frames": len(indices),
        "seconds": round(seconds, 3),
        "height": writer.size[0],
        "width": writer.size[1],
        "num_bytes": writer.num_bytes(),
        "damage": "; ".join(filter(None, damage)) or None,
    }


def _schedule(
    video: VideoDecoder, fps: float | None, start: float | None, end: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return which frames are written, int64 (n,) not decreasing, their ticks, int64 (n,), and how long all last."""
    try:
        times = video.frame_times
    except VideoReadError as error:  # image files, raw streams without a rate
        if fps is None:
            raise VideoReadError(f"{error.reason}: say how many there are a second (`--fps`)") from error
        times = np.arange(len(video) + 1) / fps
    first_second, last_second = start or 0.0, min(times[-1], np.inf if end is None else end)
    if first_second >= last_second:
        raise VideoReadError(
            f"nothing of it lies between the seconds {first_second:g} and {end or times[-1]:g}: it lasts "
            f"{times[-1]:.1f} seconds"
        )
    if fps is not None:
        # The frame on the screen at each tick of the new rate; a millionth of a second absorbs rounding.
        wanted = first_second + np.arange(max(1, round((last_second - first_second) * fps))) / fps
        indices = np.searchsorted(times[:-1], wanted + 1e-6, side="right") - 1
        stamps = np.rint(np.arange(len(indices)) * _TICKS / fps)
    else:
        # The first frame is the one on the screen when the clip begins.
        first = max(int(np.searchsorted(times[:-1], first_second + 1e-6, side="right")) - 1, 0)
        indices = np.arange(first, max(int(np.searchsorted(times[:-1], last_second - 1e-6)), first + 1))
        stamps = np.rint(np.maximum(times[indices] - first_second, 0) * _TICKS)
    # Two frames in the same tick would be one: the later comes a tick later.
    order = np.arange(len(stamps))
    stamps = np.maximum.accumulate(stamps - order) + order
    return indices, stamps.astype(np.int64), float(last_second - first_second)


def _pictures(video: VideoDecoder, first: int, stop: int) -> Iterator[tuple[int, Any]]:
    """Yield frames `first` to `stop` as PyAV has them, with their indices; decoding begins at the nearest exact start.

    Raises:
        VideoReadError: decoding ends earlier.
    """
    if not isinstance(video, PyAVDecoder):
        av = import_av()
        for index in range(first, stop):
            yield index, av.VideoFrame.from_ndarray(video.frames([index])[0], format="rgb24")
        return
    order, packet, index = video.order, 0, 0
    if order is not None and first:
        start = int(np.searchsorted(order.start_ranks, first, side="right")) - 1
        packet, index = int(order.starts[start]), int(order.start_ranks[start])
    begin = index
    for frame in _decode(video, packet):
        # Shown before the start, made of packets that were left out.
        if packet and order is not None and frame.pts is not None and frame.pts < order.shown_pts[begin]:
            continue
        if packet and order is not None and frame.pts != order.shown_pts[index]:
            if index > first:
                raise VideoReadError(f"frame {index} is not the one that its packets announce")
            video.order = None  # for good, as in `PyAVDecoder`: what its packets say is not what comes out
            yield from _pictures(video, first, stop)
            return
        if index >= first:
            yield index, frame
        index += 1
        if index == stop:
            return
    raise VideoReadError(f"decoding ends after {index} of {len(video)} frames")


def _decode(video: PyAVDecoder, packet: int) -> Iterator[Any]:
    """Decode from a packet on; whatever a decoder raises on a damaged file is the file's fault."""
    try:
        yield from video.packets.decode_from(packet)
    except VideoReadError:
        raise
    except Exception as error:
        raise VideoReadError(f"pyav: {str(error) or type(error).__name__}") from error


class _Writer:
    """Base of the writers of one video: scales frames and turns them upright; each adds what it makes of them."""

    def __init__(self, target: str, settings: EncodingSettings) -> None:
        self.size = (0, 0)
        self._target = target
        self._settings = settings
        self._source_size: tuple[int, int] | None = None
        self._kind: tuple[Any, ...] | None = None
        self._graph: Any = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type | None = None, *error: object) -> None:
        pass

    def write(self, frame: Any, stamp: int, stay: int) -> None:
        """Take a frame of the output, which is shown from tick `stamp` for `stay` ticks."""
        raise NotImplementedError

    def num_bytes(self) -> int:
        """Return the bytes that were written, once all are."""
        raise NotImplementedError

    def scale(self, frame: Any) -> Any:
        """Return a frame in the size, format and direction of the output."""
        size = (frame.height, frame.width)
        if self._source_size not in (None, size):
            old = self._source_size or size
            raise VideoReadError(
                f"the size of its frames changes from {old[0]} x {old[1]} to {size[0]} x {size[1]}: cut it there"
            )
        self._source_size = size
        turns = orientation_of(frame)
        kind = (*size, frame.format.name, turns)
        if kind != self._kind:
            self._graph, self._kind = self._new_graph(frame, turns), kind
        try:
            self._graph.push(frame)
            return self._graph.pull()
        except import_av().FFmpegError as error:
            raise VideoReadError(f"pyav cannot scale its frames: {error}") from error

    def _new_graph(self, frame: Any, turns: tuple[bool, bool, bool]) -> Any:
        is_turned, is_upside_down, is_mirrored = turns
        height, width = output_size(frame.height, frame.width, self._settings.short_side)
        self.size = (width, height) if is_turned else (height, width)
        graph = import_av().filter.Graph()
        graph.threads = 1
        time_base = frame.time_base or Fraction(1, _TICKS)
        nodes = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=time_base)
        ]
        nodes += [graph.add("bwdif", "mode=send_frame:deint=interlaced")] if self._settings.deinterlace else []
        # `bitexact` and `accurate_rnd`: the same pixels whatever the processor can do.
        flags = "bicubic+accurate_rnd+bitexact"
        nodes += [
            graph.add("scale", f"w={width}:h={height}:flags={flags}:out_range=tv"),
            graph.add("format", "yuv420p"),
        ]
        nodes += [graph.add("transpose", "dir=cclock_flip")] if is_turned else []
        nodes += [graph.add("hflip")] if is_mirrored else []
        nodes += [graph.add("vflip")] if is_upside_down else []
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph


class _VideoWriter(_Writer):
    """Writer of an MP4 file."""

    def __init__(self, target: str, settings: EncodingSettings) -> None:
        super().__init__(target, settings)
        self._stream: Any = None
        self._stay: dict[int, int] = {}  # ticks for which the frame of a timestamp is shown
        # FFmpeg takes no absolute path for an address. The index goes first, so that a stream can begin with it.
        muxing = {"movflags": "+faststart", "fflags": "+bitexact"}
        self._container = import_av().open(target, "w", format="mp4", container_options=muxing)

    def __exit__(self, kind: type | None = None, *error: object) -> None:
        try:
            if kind is None:
                self._mux(self._stream.encode())
        finally:
            self._container.close()
        if kind is None:
            with open(self._target, "rb+") as file:
                os.fsync(file.fileno())  # before it gets its name: a power cut must not leave an empty file there

    def num_bytes(self) -> int:
        return os.path.getsize(self._target)

    def write(self, frame: Any, stamp: int, stay: int) -> None:
        """Encode a frame that is shown from tick `stamp` for `stay` ticks."""
        if self._stream is None:
            self._open_stream(frame)
        frame.pts, frame.time_base, frame.duration = stamp, Fraction(1, _TICKS), stay
        frame.pict_type = 0  # the encoder decides which frames are key frames, not the source
        self._stay[stamp] = stay
        self._mux(self._stream.encode(frame))

    def _open_stream(self, frame: Any) -> None:
        settings = self._settings
        parameters = f"{_X264}:keyint={settings.key_frame_interval}"
        options = {"preset": settings.preset, "crf": str(settings.crf), "x264-params": parameters}
        self._stream = self._container.add_stream("libx264", options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = frame.height, frame.width, "yuv420p"
        context = self._stream.codec_context
        self._stream.time_base = context.time_base = Fraction(1, _TICKS)
        context.thread_count = 1  # with more the bytes would depend on their number
        context.color_range = 1
        if frame.colorspace:  # 0 is RGB, which has become YUV
            context.colorspace = frame.colorspace
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            packet.duration = self._stay.pop(packet.pts, packet.duration)
            self._container.mux(packet)


class _ImageWriter(_Writer):
    """Writer of a folder of JPEG images, numbered from 1."""

    def __init__(self, target: str, settings: EncodingSettings) -> None:
        super().__init__(target, settings)
        self._paths: list[str] = []
        os.makedirs(target, exist_ok=True)

    def write(self, frame: Any, stamp: int, stay: int) -> None:
        from PIL import Image

        self._paths.append(os.path.join(self._target, f"img_{len(self._paths) + 1:05d}.jpg"))
        pixels = frame.to_ndarray(format="rgb24", threads=1)
        Image.fromarray(pixels).save(self._paths[-1], quality=self._settings.jpeg_quality)

    def num_bytes(self) -> int:
        return sum(map(os.path.getsize, self._paths))


__all__ = ["EncodingSettings", "encode_video", "output_size"]
