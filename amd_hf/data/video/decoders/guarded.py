"""What a decoder cannot read right, PyAV reads: the base of the readers for decord and torchcodec."""

from __future__ import annotations

import logging
import os
from typing import ClassVar

import numpy as np

from ....video_reading_amd import BaseVideoReader, PyAVVideoReader, VideoLimits, VideoReadError
from ..source import VideoSource


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
        self._frame_times: np.ndarray | None = None
        self._expected_size: tuple[int, int] | None = None
        # PyAV looks at the packets first. What it cannot read nobody can, and it says which files are safe to hand on:
        # the other decoders' FFmpeg would open whatever a playlist names.
        probe = PyAVVideoReader(source, video_id, limits, num_threads)
        self._substitute: PyAVVideoReader | None = probe
        self._num_frames = len(probe)
        if not (_is_mp4_or_matroska(probe.format_name, self._first_bytes()) and self._is_right_on(probe)):
            return
        try:
            with self._faults_of_the_file(self.decoder_name):
                num_frames = self._open()
                if num_frames != len(probe):
                    raise ValueError(f"it counts {num_frames} frames where there are {len(probe)}")
            self._frame_times = probe.frame_times
            self._expected_size = probe.height, probe.width
        except VideoReadError as error:
            self._use_substitute(error)
            return
        self._substitute = None
        probe.close()

    def _is_right_on(self, probe: PyAVVideoReader) -> bool:
        """Whether the decoder reads a file of this kind right."""
        return probe.is_plain

    def _open(self) -> int:
        """Open the file and return its number of frames; any exception calls for the substitute."""
        raise NotImplementedError

    def _handle(self) -> str | bytes:
        """The file for the decoder: bytes, or a path that no FFmpeg takes for an address, since it starts with `/`."""
        return os.path.abspath(self.source.path) if self.source.path is not None else self.source.data or b""

    def _first_bytes(self) -> bytes:
        if self.source.path is None:
            return (self.source.data or b"")[:12]
        with open(self.source.path, "rb") as file:
            return file.read(12)

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        """As `_read`; any exception calls for the substitute."""
        raise NotImplementedError

    def _close_natively(self) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return self._num_frames if self._substitute is None else len(self._substitute)

    @property
    def frame_times(self) -> np.ndarray:
        if self._substitute is not None:
            return self._substitute.frame_times
        assert self._frame_times is not None
        return self._frame_times

    def close(self) -> None:
        self._close_natively()
        if self._substitute is not None:
            self._substitute.close()

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._substitute is None:
            try:
                with self._faults_of_the_file(self.decoder_name):
                    frames = self._read_natively(indices)
                    if frames.shape[1:3] != self._expected_size:  # the edges that a header crops, as it sees them
                        raise ValueError(f"its frames are {frames.shape[1:3]}, not {self._expected_size}")
                    return frames
            except VideoReadError as error:
                self._use_substitute(error)
        assert self._substitute is not None
        return self._substitute._read(indices)

    def _use_substitute(self, error: VideoReadError) -> None:
        logger.debug("%s: PyAV reads it, since %s", self.source, error.reason)
        self._close_natively()
        if self._substitute is None:
            self._substitute = PyAVVideoReader(self.source, self.video_id, self.limits, self.num_threads)


def _is_mp4_or_matroska(format_name: str, start: bytes) -> bool:
    """Whether each FFmpeg, old or new, takes the file for the same format: only these have true time stamps.

    A file that starts so scores higher as MP4 or Matroska than anything else that its bytes may imitate.
    """
    is_mp4 = format_name.startswith("mov") and start[4:8] == b"ftyp"
    return is_mp4 or (format_name.startswith("matroska") and start[:4] == b"\x1a\x45\xdf\xa3")
