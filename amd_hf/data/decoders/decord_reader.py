"""The reader that uses decord 0.6.0, on the files on which it is right."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ...video_reading_amd import PyAVVideoReader
from .guarded import GuardedReader


class DecordVideoReader(GuardedReader):
    """Reads with decord, which seeks by itself and applies rotation metadata.

    decord finds frames by counting packets, and gives wrong ones, without an error, where that does not hold: open
    groups of pictures, H.264 intra refresh, AVI and MPEG files with B-frames. So the packets are looked at first.
    """

    decoder_name = "decord"

    @staticmethod
    def import_decoder() -> None:
        import av  # noqa: F401
        import decord  # noqa: F401

    def _open(self) -> int:
        import decord

        self._reader: Any = None
        self._frame_times: np.ndarray | None = None
        probe = PyAVVideoReader(self.source, self.video_id, self.limits, self.num_threads)
        if not _counts_right(probe):
            self._substitute = probe
            return len(probe)
        num_frames, self._frame_times = len(probe), probe.frame_times
        probe.close()
        decord.logging.set_level(decord.logging.QUIET)
        handle = self.source.path if self.source.data is None else io.BytesIO(self.source.data)
        self._reader = decord.VideoReader(handle, num_threads=self.num_threads)
        if len(self._reader) != num_frames:
            raise ValueError(f"it counts {len(self._reader)} frames where there are {num_frames}")
        return num_frames

    @property
    def frame_times(self) -> np.ndarray:
        return super().frame_times if self._frame_times is None else self._frame_times

    def _close_natively(self) -> None:
        self._reader = None

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        if self._frame_shape is not None:
            self._check_size(len(indices), *self._frame_shape)
            return self._reader.get_batch(indices).asnumpy()
        # The size is sure only once a frame is decoded: take the first alone, then check, then the others.
        first = self._reader.get_batch(indices[:1]).asnumpy()
        height, width = first.shape[1:3]
        self._check_size(len(indices), height, width)
        if len(indices) == 1:
            return first
        frames = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        frames[:1] = first
        frames[1:] = self._reader.get_batch(indices[1:]).asnumpy()
        return frames


def _counts_right(probe: PyAVVideoReader) -> bool:
    # It allocates for as many frames as the header promises, and aborts the process where memory does not suffice.
    if probe.promised_frames > 4 * len(probe) + 1000:
        return False
    has_true_stamps = probe.format_name.startswith(("mov", "matroska"))
    return has_true_stamps and probe.order is not None and probe.order.is_simple
