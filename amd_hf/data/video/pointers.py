"""Rows that say where a video lies without naming each file: a folder of numbered frames, a member of an archive.

Such a row stays small in memory, in a shuffle buffer and on the way to a worker, which opens it. It may come from a
stranger's list or archive: what it claims is compared with what there is before anything is made of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload


_WIDE = re.compile(r"%[-+ #0]*[\d.*]{3,}")


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

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def frame_folder(value: Mapping[str, Any]) -> FrameFolder:
    """The image files of `{"frame_folder", "num_frames", "frame_pattern"}`.

    Raises:
        ValueError: fields that are missing or of another kind.
    """
    folder, pattern, num_frames = (value.get(name) for name in ("frame_folder", "frame_pattern", "num_frames"))
    if not isinstance(folder, str) or not isinstance(pattern, str) or not isinstance(num_frames, int):
        raise ValueError(f"a folder of frames needs a path, a pattern and a number of frames, not {value!r:.200}")
    if not 0 <= num_frames < 2**62:
        raise ValueError(f"a folder cannot hold {num_frames!r:.100} frames")
    try:
        if _WIDE.search(pattern):  # `%999999999d` alone would take a gigabyte
            raise ValueError("its numbers are too wide")
        pattern % 1
    except (TypeError, ValueError) as error:
        raise ValueError(f"the frame pattern {pattern!r:.200} cannot name a file: {error}") from None
    return FrameFolder(folder, pattern, num_frames)


def read_member(value: Mapping[str, Any], max_bytes: int) -> bytes:
    """Bytes of the archive member of `{"archive", "offset", "size"}` (offset and size in bytes).

    Raises:
        OSError: there is no such archive, or it ends before the member does.
        ValueError: the member is larger than `max_bytes`, or offset and size are no such numbers.
    """
    archive, offset, size = (value.get(name) for name in ("archive", "offset", "size"))
    if not isinstance(offset, int) or not isinstance(size, int) or offset < 0 or size < 0:
        raise ValueError(f"no bytes lie at offset {offset!r:.100} with the size {size!r:.100}")
    with open(os.fspath(archive), "rb") as file:  # type: ignore[arg-type]
        missing = offset + size - os.fstat(file.fileno()).st_size
        if missing > 0:
            raise OSError(f"{archive} ends {min(missing, size)} bytes before the end of the video")
        if size > max_bytes:
            raise ValueError(f"the file is {size} bytes, above the limit of {max_bytes} (`max_file_bytes`)")
        file.seek(offset)
        return file.read(size)
