"""Readers that need no video decoder: image files, and videos that are in memory already."""

from __future__ import annotations

import numpy as np

from ..video_source import VideoSource
from .base import BaseVideoReader, VideoLimits


_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")  # Pillow hands some of the others to outside programs


class FrameFolderReader(BaseVideoReader):
    """Reads a video that lies on disk as one image file per frame."""

    @staticmethod
    def import_decoder() -> None:
        from PIL import Image  # noqa: F401

    def __len__(self) -> int:
        return len(self.source.frame_paths or ())

    def _read(self, indices: np.ndarray) -> np.ndarray:
        from PIL import Image

        assert self.source.frame_paths is not None
        frames: np.ndarray | None = None
        for position, index in enumerate(indices):
            path = self.source.frame_paths[index]
            with self._faults_of_the_file(f"frame {index} ({path})"):
                with Image.open(path, formats=_IMAGE_FORMATS) as image:
                    self._check_size(len(indices), image.height, image.width)
                    pixels = np.asarray(image.convert("RGB"))
                if frames is None:
                    frames = np.empty((len(indices), *pixels.shape), dtype=np.uint8)
            if pixels.shape != frames.shape[1:]:
                raise self._error(f"frame {index} is {pixels.shape[:2]}, the first one {frames.shape[1:3]}")
            frames[position] = pixels
        assert frames is not None
        return frames


class ArrayReader(BaseVideoReader):
    """A whole video that is already in memory as uint8 (n, H, W, 3)."""

    def __init__(self, array: np.ndarray, source: VideoSource) -> None:
        super().__init__(source, None, VideoLimits(max_decoded_bytes=max(array.nbytes, 1)))
        self._array = array
        self._frame_shape = array.shape[1:3]

    def __len__(self) -> int:
        return len(self._array)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self._array[indices]
