"""The reader that uses torchcodec, which needs the system's FFmpeg libraries."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np

from .guarded import GuardedReader


class TorchCodecVideoReader(GuardedReader):
    """Reads with torchcodec, which seeks by itself and applies rotation metadata.

    It is exact in MP4 and Matroska / WebM files whose packets show a frame each. In AVI, MPEG and transport streams it
    loses or shifts frames where there are B-frames (0.17 with FFmpeg 5.1), and it does not mirror: those go to PyAV.
    """

    decoder_name = "torchcodec"
    _reader: Any = None

    @staticmethod
    def import_decoder() -> None:
        import av  # noqa: F401
        from torchcodec.decoders import VideoDecoder  # noqa: F401

    def _open(self) -> int:
        from torchcodec.decoders import VideoDecoder

        self._reader = VideoDecoder(
            self._handle(),  # type: ignore[arg-type]
            dimension_order="NHWC",
            num_ffmpeg_threads=self.num_threads,
            device="cpu",
            seek_mode="exact",
        )
        self._check_size(1, self._reader.metadata.height or 0, self._reader.metadata.width or 0)
        return len(self._reader)

    def _close_natively(self) -> None:
        self._reader = None

    def _read_natively(self, indices: np.ndarray) -> np.ndarray:
        metadata = self._reader.metadata
        self._check_size(len(indices), metadata.height or 0, metadata.width or 0)
        return self._reader.get_frames_at(indices.tolist()).data.numpy()


@functools.cache
def why_torchcodec_is_unusable() -> str | None:
    """Say why torchcodec cannot be used in this process: it is not installed or finds no FFmpeg. None if it can."""
    if importlib.util.find_spec("torchcodec") is None:
        return "it is not installed"
    try:
        import torchcodec
    except (ImportError, RuntimeError, OSError) as error:  # up to version 0.16 the import fails without FFmpeg
        return f"it cannot be loaded ({' '.join(str(error).split())[:200]})"
    if getattr(torchcodec, "ffmpeg_major_version", True) is None:
        return "it finds no FFmpeg libraries (versions 4 to 9); on Debian and Ubuntu: `apt-get install ffmpeg`"
    return None
