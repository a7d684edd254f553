"""The videos of an action data set on disk: files, folders of one-second pieces, or folders of frames."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.datasets.rows import is_video_file
from ...data.video.key_frames import find_piece, frame_at, times_of
from ...data.video.source import VideoReadError


LAYOUTS = ("file", "pieces", "frames")

_FRAMES_START = 900.0  # AVA annotates the seconds 902 to 1798; frames are commonly taken from 900 on, 30 a second
_FRAMES_RATE = 30.0
_IMAGE = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>\.(jpg|jpeg|png))", re.IGNORECASE)
_NUM_TRIED = 10


class ActionVideos:
    """The folder of the videos.

    Args:
        root (`Path`): the folder.
        layout (`str`, *optional*): one of `LAYOUTS`; by default inferred from the folder.
        start_seconds, frame_rate, pattern (*optional*): see `load_action_dataset`. In `pattern` `{name}` stands for
            the name of the video.

    Raises:
        FileNotFoundError: the folder does not exist, or has no videos.
        ValueError: the layout is unknown, or has no use for an option.
    """

    def __init__(
        self,
        root: Path,
        layout: str | None = None,
        *,
        start_seconds: float | None = None,
        frame_rate: float | None = None,
        pattern: str | None = None,
    ) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"There is no folder of videos {str(root)!r}.")
        if layout is not None and layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {list(LAYOUTS)}, not {layout!r}.")
        self.root = os.path.abspath(root)
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        self._files = {os.path.splitext(name)[0]: name for name in names if is_video_file(name)}
        self._folders = [name for name in names if os.path.isdir(os.path.join(root, name))]
        self.layout = layout or self._guess()
        self.start_seconds, self.frame_rate, self.pattern = start_seconds, frame_rate, pattern
        if self.layout == "frames":
            self.start_seconds = _FRAMES_START if start_seconds is None else start_seconds
            self.frame_rate = _FRAMES_RATE if frame_rate is None else frame_rate
            self.pattern = self._guess_pattern() if pattern is None else pattern
        elif pattern is not None:
            raise ValueError(f"`frame_pattern` has no meaning for the layout {self.layout!r}: leave it out.")
        if self.layout == "pieces" and (start_seconds is not None or frame_rate is not None):
            raise ValueError("Pieces are named by their second: leave `start_seconds` and `frame_rate` out.")

    def pointer(self, name: str) -> dict[str, Any]:
        """Return the `video` entry of a row; the video need not exist."""
        file = self._files.get(name, f"{name}.mp4") if self.layout == "file" else name
        return {
            "path": os.path.join(self.root, file),
            "layout": self.layout,
            "start_seconds": self.start_seconds or 0.0,
            "frame_rate": self.frame_rate,
            "frame_pattern": None if self.pattern is None else self.pattern.replace("{name}", name.replace("%", "%%")),
        }

    def has(self, name: str, timestamp: float) -> bool:
        """Return whether a video has a frame at a timestamp; this opens whole files."""
        pointer = self.pointer(name)
        if self.layout == "pieces":
            return find_piece(pointer["path"], int(timestamp)) is not None
        seconds = timestamp - pointer["start_seconds"]
        if self.layout == "frames":
            number = round(seconds * pointer["frame_rate"]) + 1
            return os.path.isfile(os.path.join(pointer["path"], pointer["frame_pattern"] % number))
        if not os.path.isfile(pointer["path"]):
            return False
        try:
            return frame_at(times_of(pointer["path"]), seconds) is not None
        except VideoReadError:
            return False

    def check_first(self, names: Sequence[str]) -> None:
        """Check that some of the first videos exist; if none does, this is probably the wrong folder.

        Raises:
            FileNotFoundError: none of them exists. The data loader counts single missing videos.
        """
        tried = [self.pointer(name)["path"] for name in list(dict.fromkeys(names))[:_NUM_TRIED]]
        if tried and not any(os.path.exists(path) for path in tried):
            raise FileNotFoundError(
                f"None of the first {len(tried)} videos exists; the first is {tried[0]!r}. Is this the folder of the "
                "videos, and is `layout` right?"
            )

    def _guess(self) -> str:
        if self._files:
            return "file"
        for folder in self._folders:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    if is_video_file(entry.name):
                        return "pieces"
                    if _IMAGE.fullmatch(entry.name):
                        return "frames"
        raise FileNotFoundError(f"There are no videos, pieces or frames in {self.root!r}.")

    def _guess_pattern(self) -> str:
        for folder in self._folders:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                match = next((m for entry in entries if (m := _IMAGE.fullmatch(entry.name))), None)
            if match is not None:
                prefix = match["prefix"].replace("%", "%%")
                if prefix.startswith(folder.replace("%", "%%")):
                    prefix = "{name}" + prefix.removeprefix(folder.replace("%", "%%"))
                return f"{prefix}%0{len(match['number'])}d{match['suffix']}"
        raise FileNotFoundError(f"There are no folders of frames in {self.root!r}: give `frame_pattern`.")
