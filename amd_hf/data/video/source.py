"""Where a video lies: a file, bytes, a member of an archive, one image, or the image files of its frames.

A row of a data set names its video in a few numbers and strings, so that it stays small in memory, in a shuffle buffer
and on the way to a worker, which opens it. It may come from a stranger's list or archive: what it claims is compared
with what there is before anything is made of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from ...video_reading_amd import MediaFile, VideoReadError
from ..remote.cache import open_cached, open_file
from ..remote.files import current_access, is_remote, read_bytes


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
MAX_MEMBER_BYTES = 4 * 1024**3
"""Largest member of an archive that is read into memory: `VideoLimits.max_file_bytes` by default."""

_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"P6", b"P5", b"II*\0", b"MM\0*")
_WIDE = re.compile(r"%[-+ #0]*[\d.*]{3,}")  # `%999999999d` alone would take a gigabyte


class BadVideoType(VideoReadError, TypeError):
    """A row whose `video` is of a type that names no video; the fault of the row, like an unreadable file."""


@dataclass(frozen=True)
class FrameFolder(Sequence[str]):
    """Names of the image files of a folder, numbered from 1; each is made when it is asked for.

    Args:
        folder (`str`): the folder.
        pattern (`str`): name of a file by its number, as `img_%05d.jpg`.
        num_frames (`int`): how many there are said to be; a billion of them take no memory.
    """

    folder: str
    pattern: str
    num_frames: int

    def __len__(self) -> int:
        return max(self.num_frames, 0)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return f"{self.folder}/{self.pattern % (index + 1)}"


@dataclass(frozen=True)
class VideoSource(MediaFile):
    """Where a video lies: exactly one of `path`, `data` and `frame_paths` is set. An image is a video of one frame.

    `held` keeps a file of the cache of addresses there as long as this object lives.
    """

    frame_paths: Sequence[str] | None = None
    held: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, value: Any) -> VideoSource:
        """Read a row's `video` value, a path, or the bytes of a file.

        Args:
            value: a path, bytes, or a mapping with `path`, `bytes` or `frames` (a list of paths), as users write it;
                or as the layouts write it: `{"frame_folder", "num_frames", "frame_pattern"}` or `{"archive",
                "offset", "size"}` (in bytes). A `fault` says why a row's video cannot be read.

        Raises:
            VideoReadError: the value names no video (then also a `TypeError` where its type is wrong), a layout has
                found a fault in the row, or its archive cannot be read.
        """
        if isinstance(value, VideoSource):
            return value
        if isinstance(value, str | os.PathLike):
            return cls._of_path(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return cls(data=bytes(value))
        if not isinstance(value, Mapping):
            raise BadVideoType(
                f"A video is a path, bytes or a mapping with `path`, `bytes` or `frames`, not {type(value)}. Cast a "
                'decoded column of `datasets`: `cast_column("video", datasets.Video(decode=False))`.'
            )
        return cls._of_mapping(value)

    @classmethod
    def _of_mapping(cls, value: Mapping[str, Any]) -> VideoSource:
        if value.get("fault") is not None:
            raise VideoReadError(str(value["fault"]))
        if value.get("frame_folder") is not None:
            return cls(frame_paths=_frame_folder(value))
        if value.get("archive") is not None:
            return cls(data=_read_member(value))
        if (frames := value.get("frames")) is not None:
            if isinstance(frames, str | bytes) or not isinstance(frames, Sequence):
                raise BadVideoType(f"the `frames` of a video are a list of paths, not {type(frames)}")
            return cls(frame_paths=tuple(_path(path) for path in frames))
        if (data := value.get("bytes")) is not None:  # then `path` is only the name inside an archive
            if not isinstance(data, bytes | bytearray | memoryview):  # `bytes(10**12)` would be zeros
                raise BadVideoType(f"the `bytes` of a video are bytes, not {type(data)}")
            return cls(data=bytes(data))
        if value.get("path") is not None:
            return cls._of_path(value["path"])
        keys = sorted(map(str, value))[:10]
        raise VideoReadError(f"The video has no `path`, `bytes` or `frames`; its keys are {keys}.")

    @classmethod
    def _of_path(cls, value: Any) -> VideoSource:
        """Return a file by its name, or what lies at an address, where the user allowed it (see `remote.files`)."""
        path = _path(value)
        if "://" not in path or not is_remote(path) or not (access := current_access()).is_allowed(path):
            return cls(path=path)
        if access.cache_dir is None:
            return cls(data=read_bytes(path, max_bytes=MAX_MEMBER_BYTES))
        held = open_cached(path, MAX_MEMBER_BYTES)
        return cls(path=held.path, held=held)

    def __str__(self) -> str:
        return super().__str__() if self.frame_paths is None else f"{len(self.frame_paths)} image files"

    @property
    def is_images(self) -> bool:
        """Whether image files are to be read: frames, or one image, known by its suffix or its first bytes."""
        if self.path is not None:
            return self.path.lower().endswith(IMAGE_SUFFIXES)
        if self.data is not None:
            return self.data.startswith(_IMAGE_STARTS) or (self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP")
        return True

    @property
    def is_one_image(self) -> bool:
        """Whether this is a single image, known by its suffix or, whatever its name says, by its first bytes."""
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
    """Return a path as text; `os.fsdecode` of bytes that are no UTF-8, lists and the like are faults of the row."""
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise BadVideoType(f"a path is text, not {type(value)}") from None
    if "\0" in path:
        raise VideoReadError(f"the path {path!r:.200} holds a NUL byte")
    return path


def _frame_folder(value: Mapping[str, Any]) -> FrameFolder:
    folder, pattern, num_frames = (value.get(name) for name in ("frame_folder", "frame_pattern", "num_frames"))
    if not isinstance(folder, str) or not isinstance(pattern, str) or not isinstance(num_frames, int):
        raise VideoReadError(f"a folder of frames needs a path, a pattern and a number of frames, not {value!r:.200}")
    if not 0 <= num_frames < 2**62:
        raise VideoReadError(f"a folder cannot hold {num_frames!r:.100} frames")
    try:
        if _WIDE.search(pattern):
            raise ValueError("its numbers are too wide")
        pattern % 1
    except (TypeError, ValueError) as error:
        raise VideoReadError(f"the frame pattern {pattern!r:.200} cannot name a file: {error}") from None
    return FrameFolder(folder, pattern, num_frames)


def _read_member(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a member of an archive. What the row claims is checked before memory is taken for it."""
    archive, offset, size = (value.get(name) for name in ("archive", "offset", "size"))
    try:
        if not isinstance(offset, int) or not isinstance(size, int) or offset < 0 or size < 0:
            raise ValueError(f"no bytes lie at offset {offset!r:.100} with the size {size!r:.100}")
        if (
            isinstance(archive, str) and is_remote(archive) and current_access().cache_dir is None
        ):  # a range of it is enough
            return read_bytes(archive, offset, offset + size, MAX_MEMBER_BYTES)
        with open_file(os.fspath(archive)) as file:  # type: ignore[arg-type]
            missing = offset + size - os.fstat(file.fileno()).st_size
            if missing > 0:
                raise OSError(f"{archive} ends {min(missing, size)} bytes before the end of the video")
            if size > MAX_MEMBER_BYTES:
                raise ValueError(f"the file is {size} bytes, above the limit of {MAX_MEMBER_BYTES} (`max_file_bytes`)")
            file.seek(offset)
            return file.read(size)
    except VideoReadError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise VideoReadError(str(error), source=str(archive)) from error


__all__ = ["IMAGE_SUFFIXES", "BadVideoType", "FrameFolder", "VideoReadError", "VideoSource"]
