"""Readers that need no video decoder: images, and videos that are in memory already."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ....video_reading_amd import IMAGE_FAULT, BaseVideoReader, VideoLimits
from ..source import VideoSource


_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF")  # Pillow hands some of the others to outside programs


class ImageReader(BaseVideoReader):
    """Reads a video that lies on disk as one image file per frame, or an image: a video of one frame."""

    source: VideoSource

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_length(len(self))

    @staticmethod
    def import_decoder() -> None:
        from PIL import Image  # noqa: F401

    def __len__(self) -> int:
        return 1 if self.source.frame_paths is None else len(self.source.frame_paths)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        from PIL import Image

        frames: np.ndarray | None = None
        for position, index in enumerate(indices):
            file, name = self._file(int(index))
            with self._faults_of_the_file(name):
                with Image.open(file, formats=_IMAGE_FORMATS) as image:
                    self._check_size(len(indices), image.height, image.width)
                    pixels = np.asarray(image.convert("RGB"))
                if frames is None:
                    frames = np.empty((len(indices), *pixels.shape), dtype=np.uint8)
            if pixels.shape != frames.shape[1:]:
                raise self._error(f"frame {index} is {pixels.shape[:2]}, the first one {frames.shape[1:3]}")
            frames[position] = pixels
        assert frames is not None
        return frames

    @property
    def frame_times(self) -> np.ndarray:
        is_one = self.source.frame_paths is None
        raise self._error(IMAGE_FAULT if is_one else "image files do not tell when they are shown")

    def _file(self, index: int) -> tuple[str | io.BytesIO, str]:
        """What Pillow opens for a frame, and its name in errors."""
        source = self.source
        if source.frame_paths is not None:
            return source.frame_paths[index], f"frame {index} ({source.frame_paths[index]})"
        return (source.path if source.path is not None else io.BytesIO(source.data or b"")), "Pillow"


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
