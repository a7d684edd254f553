"""What a decoder cannot read right, PyAV reads: the base of the readers for decord and torchcodec."""

from __future__ import annotations

import logging
from typing import ClassVar

import numpy as np

from ...video_reading_amd import BaseVideoReader, PyAVVideoReader, VideoLimits, VideoReadError
from ..video_source import VideoSource


logger = logging.getLogger(__name__)


class GuardedReader(BaseVideoReader):
    """A reader with a substitute: on files on which the decoder is known to be wrong, and on those that it refuses.

    PyAV has the last word on whether a video can be read, so a sound video is not lost to a fault of the decoder.
    """

    decoder_name: ClassVar[str]

    def __init__(
        self, source: VideoSource, video_id: str | None, limits: VideoLimits | None = None, num_threads: int = 1
    ) -> None:
        super().__init__(source, video_id, limits, num_threads)
        self._substitute: PyAVVideoReader | None = None
        self._num_frames = 0
        try:
            with self._faults_of_the_file(self.decoder_name):
                self._num_frames = self._open()
                self._check_length(self._num_frames)
        except VideoReadError as error:
            self._substitute_pyav(error)

    def _open(self) -> int:
        """Open the file and return its number of frames; any exception calls for the substitute."""
        raise NotImplementedError

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        """As `_read`; any exception calls for the substitute."""
        raise NotImplementedError

    def _close_natively(self) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return self._num_frames if self._substitute is None else len(self._substitute)

    @property
    def frame_times(self) -> np.ndarray:
        return super().frame_times if self._substitute is None else self._substitute.frame_times

    def close(self) -> None:
        self._close_natively()
        if self._substitute is not None:
            self._substitute.close()

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._substitute is None:
            try:
                with self._faults_of_the_file(self.decoder_name):
                    return self._read_natively(indices)
            except VideoReadError as error:
                num_frames = self._num_frames
                self._substitute_pyav(error)
                if num_frames != len(self):  # the indices were drawn for another length
                    raise
        assert self._substitute is not None
        return self._substitute._read(indices)

    def _substitute_pyav(self, error: VideoReadError) -> None:
        logger.debug("%s: PyAV reads it, since %s", self.source, error.reason)
        self._close_natively()
        self._substitute = PyAVVideoReader(self.source, self.video_id, self.limits, self.num_threads)
