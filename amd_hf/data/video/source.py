"""Where a video lies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...video_reading_amd import MediaFile, VideoReadError
from .pointers import FrameFolder, frame_folder, read_member


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
MAX_MEMBER_BYTES = 4 * 1024**3
"""Largest member of an archive that is read into memory: `VideoLimits.max_file_bytes` by default."""

_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"P6", b"P5", b"II*\0", b"MM\0*")


class BadVideoType(VideoReadError, TypeError):
    """A row whose `video` is of a type that names no video; the fault of the row, like an unreadable file."""


@dataclass(frozen=True)
class VideoSource(MediaFile):
    """Where a video lies: exactly one of `path`, `data` and `frame_paths` is set. An image is a video of one frame."""

    frame_paths: Sequence[str] | None = None

    @classmethod
    def parse(cls, value: Any) -> VideoSource:
        """Read a row's `video` value, a path, or the bytes of a file.

        Raises:
            VideoReadError: the value names no video (then also a `ValueError`, or a `TypeError` for its type), a
                reader of streams has found a fault in the row, or its archive cannot be read.
        """
        if isinstance(value, VideoSource):
            return value
        if isinstance(value, str | os.PathLike):
            return cls(path=_path(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return cls(data=bytes(value))
        if not isinstance(value, Mapping):
            raise BadVideoType(
                f"A video is a path, bytes or a mapping with `path`, `bytes` or `frames`, not {type(value)}. Cast a "
                'decoded column of `datasets`: `cast_column("video", datasets.Video(decode=False))`.'
            )
        value = _follow_pointer(value)
        if value.get("frames") is not None:
            frames = value["frames"]
            return cls(frame_paths=frames if isinstance(frames, FrameFolder) else _frames(frames))
        if value.get("bytes") is not None:  # then `path` is only the name inside an archive
            if not isinstance(value["bytes"], bytes | bytearray | memoryview):  # `bytes(10**12)` would be zeros
                raise BadVideoType(f"the `bytes` of a video are bytes, not {type(value['bytes'])}")
            return cls(data=bytes(value["bytes"]))
        if value.get("path") is not None:
            return cls(path=_path(value["path"]))
        keys = sorted(map(str, value))[:10]
        raise VideoReadError(f"The video has no `path`, `bytes` or `frames`; its keys are {keys}.")

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

    @property
    def is_one_image(self) -> bool:
        """Whether this is a single image, told by its suffix or, whatever its name says, by its first bytes."""
        if self.frame_paths is not None:
            return len(self.frame_paths) == 1
        if self.path is None or self.is_images or not os.path.isfile(self.path):
            return self.is_images
        with open(self.path, "rb") as file:
            return VideoSource(data=file.read(16)).is_images

    def check_exists(self, video_id: str | None = None) -> None:
        """Raise `VideoReadError` for a missing or empty file before a decoder words it in its own way."""
        if self.frame_paths is not None and len(self.frame_paths) == 0:
            raise VideoReadError("it holds zero frames", video_id, str(self))
        super().check_exists(video_id)


def _path(value: Any) -> str:
    """A path as text; `os.fspath` of bytes that are no UTF-8, lists and the like are faults of the row."""
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise BadVideoType(f"a path is text, not {type(value)}") from None
    if "\0" in path:
        raise VideoReadError(f"the path {path!r:.200} holds a NUL byte")
    return path


def _frames(value: Any) -> Sequence[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise BadVideoType(f"the `frames` of a video are a list of paths, not {type(value)}")
    return tuple(_path(path) for path in value)


def _follow_pointer(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn the forms of `video_pointers` into `frames` or `bytes`; others stay as they are."""
    if value.get("fault") is not None:
        raise VideoReadError(str(value["fault"]))
    if value.get("frame_folder") is not None:
        try:
            return {"frames": frame_folder(value)}
        except ValueError as error:
            raise VideoReadError(str(error)) from error
    if value.get("archive") is None:
        return value
    try:
        return {"bytes": read_member(value, MAX_MEMBER_BYTES)}
    except (OSError, ValueError, TypeError) as error:
        raise VideoReadError(str(error), source=str(value["archive"])) from error
