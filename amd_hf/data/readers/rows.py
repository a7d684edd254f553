"""What every layout reader returns, and what counts as a video file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")


@dataclass(frozen=True)
class VideoRows:
    """The rows of a data set as columns.

    Args:
        paths (sequence of `str`): absolute paths of the videos.
        video_ids (sequence of `str`): unique names.
        labels (sequence of `int`, *optional*): None where no video has a label.
        label_names (sequence of `str`, *optional*): name of each label, in their order.
    """

    paths: Sequence[str]
    video_ids: Sequence[str]
    labels: Sequence[int] | None = None
    label_names: Sequence[str] | None = None


def is_video_file(name: str) -> bool:
    """Tell by its name whether a file is a video. Hidden files (`._clip.mp4`, left behind by macOS) are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
