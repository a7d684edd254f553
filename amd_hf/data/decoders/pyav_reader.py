"""The reader that uses PyAV: exact on every file that FFmpeg reads, and the one that others fall back to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..video_source import VideoReadError, VideoSource
from .base import BaseVideoReader, Inspection, VideoLimits
from .packets import PacketOrder, VideoPackets


_MIN_SKIPPED_PACKETS = 2  # fewer are decoded as fast as the decoder starts anew


class PyAVVideoReader(BaseVideoReader):
    """Reads with PyAV. Packets before the last exact start are left out, all others are decoded one after the other.

    Where the frames that come out are not those that the packets announce (hidden frames, wrong time stamps), the
    whole file is decoded from its start and frames are counted.
    """

    def __init__(
        self, source: VideoSource, video_id: str | None, limits: VideoLimits | None = None, num_threads: int = 1
    ) -> None:
        super().__init__(source, video_id, limits, num_threads)
        self._decoded: Iterator[Any] = iter(())
        self._next_index = 0
        self._start = -1  # position in `order.starts` at which decoding began
        with self._faults_of_the_file("pyav"):
            self._packets = VideoPackets(
                source, num_threads, self.limits.max_frame_pixels, max_frames=self.limits.max_frames
            )
        self._order = self._packets.order
        try:
            self._check_length(len(self))
            self._check_size(1, *self._packets.header_size)
        except VideoReadError:
            self.close()
            raise

    @staticmethod
    def import_decoder() -> None:
        import av  # noqa: F401

    def __len__(self) -> int:
        return self._packets.num_frames

    @property
    def order(self) -> PacketOrder | None:
        """The order of the packets; None where frames are counted."""
        return self._order

    @property
    def format_name(self) -> str:
        """FFmpeg's name of the container."""
        return self._packets.format_name

    @property
    def promised_frames(self) -> float:
        """How many frames the header tells, which may be nonsense."""
        return self._packets.promised_frames

    def close(self) -> None:
        self._decoded = iter(())  # its frames refer back here: left to the garbage collector they would outlive a fork
        self._packets.close()

    def inspect(self) -> Inspection:
        """Decode the whole video, without turning frames into RGB, and look for what FFmpeg conceals."""
        num_frames = num_damaged = height = width = 0
        with self._faults_of_the_file("pyav"):
            for frame in self._packets.decode_from(0):
                if num_frames == 0:
                    height, width = frame.height, frame.width
                    self._check_size(1, height, width)
                if (frame.height, frame.width) != (height, width):
                    raise self._error(f"the frame size changes from {(height, width)} at {num_frames}")
                num_frames += 1
                num_damaged += frame.is_corrupt
        self._start = -1  # what was decoded is used up
        if num_frames == 0:
            raise self._error("no frame can be decoded")
        damage = [
            f"{num_damaged} of {num_frames} frames are damaged" if num_damaged else None,
            f"{len(self) - num_frames} of {len(self)} frames are missing" if num_frames < len(self) else None,
            self._packets.find_cut(),
        ]
        return Inspection(num_frames, height, width, "; ".join(filter(None, damage)) or None)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        import av

        with self._faults_of_the_file("pyav"):
            if self._order is not None:
                try:
                    return self._collect(indices, self._announced_frame)
                except (av.FFmpegError, _UnexpectedFrame):
                    self._order = None  # for good: the packets do not tell what the decoder makes of them
                    self._restart(0, 0)
            return self._collect(indices, self._counted_frame)

    def _collect(self, indices: np.ndarray, frame_at: Callable[[int], Any]) -> np.ndarray:
        frames: np.ndarray | None = None
        for position, index in enumerate(indices):
            frame = frame_at(int(index))
            self._check_size(len(indices), frame.height, frame.width)
            image = _upright_rgb(frame)
            if frames is None:
                frames = np.empty((len(indices), *image.shape), dtype=np.uint8)
            if image.shape != frames.shape[1:]:
                raise self._error(f"the frame size changes from {frames.shape[1:3]} to {image.shape[:2]} at {index}")
            frames[position] = image
        assert frames is not None
        return frames

    def _announced_frame(self, index: int) -> Any:
        order = self._order
        assert order is not None
        start = int(np.searchsorted(order.start_ranks, index, side="right")) - 1
        if index < self._next_index or self._start < 0 or self._is_worth_skipping_to(start):
            self._restart(int(order.starts[start]), int(order.start_ranks[start]))
            self._start = start
        first_pts = order.shown_pts[order.start_ranks[self._start]]
        for frame in self._decoded:
            if frame.pts is None:
                raise _UnexpectedFrame
            if frame.pts < first_pts and self._start > 0:
                continue  # shown before the start, made of packets that were left out
            if frame.pts != order.shown_pts[self._next_index]:
                raise _UnexpectedFrame
            self._next_index += 1
            if self._next_index > index:
                return frame
        raise _UnexpectedFrame

    def _is_worth_skipping_to(self, start: int) -> bool:
        order = self._order
        assert order is not None
        return start > self._start and int(order.start_ranks[start]) - self._next_index >= _MIN_SKIPPED_PACKETS

    def _counted_frame(self, index: int) -> Any:
        if index < self._next_index or self._start < 0:
            self._restart(0, 0)
            self._start = 0
        for frame in self._decoded:
            self._next_index += 1
            if self._next_index > index:
                return frame
        raise self._error(f"its packets promise {len(self)} frames, but decoding ends after {self._next_index}")

    def _restart(self, packet: int, index: int) -> None:
        self._decoded = self._packets.decode_from(packet)
        self._next_index = index


class _UnexpectedFrame(Exception):
    """The decoder gave another frame than the packets announced."""


def _upright_rgb(frame: Any) -> np.ndarray:
    """Turn a PyAV frame into uint8 (H, W, 3), rotated as its metadata asks (other decoders do so by themselves)."""
    image = frame.to_ndarray(format="rgb24", threads=1)
    return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image
