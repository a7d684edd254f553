"""Rows that say where a video lies without naming each file: a folder of numbered frames, a member of an archive.

Such a row stays small in memory, in a shuffle buffer and on the way to a worker, which opens it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def frame_paths(value: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the image files of `{"frame_folder", "num_frames", "frame_pattern"}`, numbered from 1."""
    pattern, folder = value["frame_pattern"], value["frame_folder"]
    return tuple(f"{folder}/{pattern % number}" for number in range(1, value["num_frames"] + 1))


def read_member(value: Mapping[str, Any]) -> bytes:
    """Bytes of the archive member of `{"archive", "offset", "size"}` (offset and size in bytes).

    Raises:
        OSError: there is no such archive, or it ends before the member does.
    """
    with open(value["archive"], "rb") as file:
        file.seek(value["offset"])
        data = file.read(value["size"])
    if len(data) < value["size"]:
        raise OSError(f"{value['archive']} ends {value['size'] - len(data)} bytes before the end of the video")
    return data
