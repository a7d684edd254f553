"""Where a video lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..video_reading_amd import MediaFile, VideoReadError
from .video_pointers import frame_paths, read_member


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"P6", b"P5", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class VideoSource(MediaFile):
    """Where a video lies: exactly one of `path`, `data` and `frame_paths` is set. An image is a video of one frame."""

    frame_paths: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, value: Any) -> VideoSource:
        """Read a row's `video` value, a path, or the bytes of a file.

        Raises:
            ValueError: a mapping that holds none of path, bytes and frames.
            VideoReadError: a reader of streams has found a fault in the row, or its archive cannot be read.
            TypeError: any other type.
        """
        if isinstance(value, VideoSource):
            return value
        if isinstance(value, str | os.PathLike):
            return cls(path=os.fspath(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return cls(data=bytes(value))
        if not isinstance(value, Mapping):
            raise TypeError(
                f"A video is a path, bytes or a mapping with `path`, `bytes` or `frames`, not {type(value)}."
            )
        value = _follow_pointer(value)
        if value.get("frames") is not None:
            return cls(frame_paths=tuple(os.fspath(path) for path in value["frames"]))
        if value.get("bytes") is not None:  # then `path` is only the name inside an archive
            return cls(data=bytes(value["bytes"]))
        if value.get("path") is not None:
            return cls(path=os.fspath(value["path"]))
        raise ValueError(f"The video has no `path`, `bytes` or `frames`; its keys are {sorted(value)}.")

    def __str__(self) -> str:
        return super().__str__() if self.frame_paths is None else f"{len(self.frame_paths)} image files"

    @property
    def is_images(self) -> bool:
        """Whether image files are to be read: frames, or one image, told by its suffix or its first bytes."""
        if self.path is not None:
            return self.path.lower().endswith(IMAGE_SUFFIXES)
        if self.data is not None:
            return self.data.startswith(_IMAGE_STARTS) or (self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP")
        return True

    def check_exists(self, video_id: str | None = None) -> None:
        """Raise `VideoReadError` for a missing or empty file before a decoder words it in its own way."""
        if self.frame_paths == ():
            raise VideoReadError("it holds zero frames", video_id, str(self))
        super().check_exists(video_id)


def _follow_pointer(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn the forms of `video_pointers` into `frames` or `bytes`; others stay as they are."""
    if value.get("fault") is not None:
        raise VideoReadError(value["fault"])
    if value.get("frame_folder") is not None:
        return {"frames": frame_paths(value)}
    if value.get("archive") is None:
        return value
    try:
        return {"bytes": read_member(value)}
    except OSError as error:
        raise VideoReadError(str(error), source=value["archive"]) from error
