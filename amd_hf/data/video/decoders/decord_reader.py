"""The reader that uses decord 0.6.0, on the files on which it is right."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ....video_reading_amd import PyAVVideoReader
from .guarded import GuardedReader


class DecordVideoReader(GuardedReader):
    """Reads with decord, which seeks by itself and applies rotation metadata.

    decord finds frames by counting packets, and gives wrong ones, without an error, where that does not hold: open
    groups of pictures, H.264 intra refresh, AVI and MPEG files with B-frames. So the packets are looked at first.
    """

    decoder_name = "decord"
    _reader: Any = None

    @staticmethod
    def import_decoder() -> None:
        import av  # noqa: F401
        import decord  # noqa: F401

    def _open(self) -> int:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        handle = self._handle()
        self._reader = decord.VideoReader(
            io.BytesIO(handle) if isinstance(handle, bytes) else handle, num_threads=self.num_threads
        )
        return len(self._reader)

    def _is_right_on(self, probe: PyAVVideoReader) -> bool:
        # It allocates for as many frames as the header promises, and aborts the process where memory does not suffice.
        if probe.promised_frames > 4 * len(probe) + 1000:
            return False
        return probe.order is not None and probe.order.is_simple and super()._is_right_on(probe)

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
