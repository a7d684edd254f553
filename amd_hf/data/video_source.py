"""Where a video lies, and the one exception for a video that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .video_pointers import frame_paths, read_member


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"P6", b"P5", b"II*\0", b"MM\0*")


class VideoReadError(RuntimeError):
    """A video that cannot be read. The only exception that readers raise for the fault of a file.

    Args:
        reason (`str`): what is wrong, with the values that show it.
        video_id (`str`, *optional*): the row's `video_id`.
        source (`str`, *optional*): path of the file, or how many bytes it was read from.
    """

    def __init__(self, reason: str, video_id: str | None = None, source: str | None = None) -> None:
        name = video_id if video_id is not None else source
        super().__init__(f"Cannot read video {name!r}: {reason}" if name is not None else reason)
        self.reason = reason
        self.video_id = video_id
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would pass the whole message as `reason` when the error travels between processes.
        return type(self), (self.reason, self.video_id, self.source)


@dataclass(frozen=True)
class VideoSource:
    """Where a video lies: exactly one of `path`, `data` and `frame_paths` is set. An image is a video of one frame."""

    path: str | None = None
    data: bytes | None = None
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
        if self.path is not None:
            return self.path
        if self.data is not None:
            return f"{len(self.data)} bytes"
        return f"{len(self.frame_paths or ())} image files"

    @property
    def is_images(self) -> bool:
        """Whether image files are to be read: frames, or one image, told by its suffix or its first bytes."""
        if self.path is not None:
            return self.path.lower().endswith(IMAGE_SUFFIXES)
        if self.data is not None:
            return self.data.startswith(_IMAGE_STARTS) or (self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP")
        return True

    def check_exists(self, video_id: str | None) -> None:
        """Raise `VideoReadError` for a missing or empty file before a decoder words it in its own way."""
        if self.path is not None and not os.path.isfile(self.path):
            raise VideoReadError(f"there is no file {self.path!r}", video_id, str(self))
        is_empty = self.path is not None and os.path.getsize(self.path) == 0
        if is_empty or self.data == b"" or self.frame_paths == ():
            raise VideoReadError("it holds zero bytes or zero frames", video_id, str(self))


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
