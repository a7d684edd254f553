"""What becomes of each row of a data set: which file, and which seconds of it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.datasets.own import paths_of
from ..data.datasets.rows import VIDEO_SUFFIXES
from ..data.remote.files import is_remote
from ..data.video.source import VideoReadError


_HASHED_BYTES = 1 << 16
_MAX_NAME_BYTES = 200  # of a folder or file; systems allow 255


@dataclass(frozen=True)
class Item:
    """A video to make.

    Args:
        rows (`datasets.Dataset`): the rows that it is one of; its bytes are read when it is made.
        index (`int`): which of them.
        split (`str` or `None`): their split.
        video_id (`str`): the row's id.
        label (`int` or `None`): the row's label.
        class_name (`str` or `None`): the label's name, or the label as text.
        name (`str`): path of the output's file without a split, with forward slashes: `<class>/x.mp4`.
        start, end (`float`, *optional*): seconds to take.
    """

    rows: Any
    index: int
    split: str | None
    video_id: str
    label: int | None
    class_name: str | None
    name: str
    start: float | None = None
    end: float | None = None

    @property
    def key(self) -> str:
        """What names it in the manifest."""
        return f"{self.split or ''}\t{self.video_id}"

    @property
    def video(self) -> Mapping[str, Any]:
        """Where the source lies, as the row says."""
        return self.rows[self.index]["video"]


def plan_items(
    rows: Any, split: str | None, label_names: Sequence[str] | None, times: Sequence[tuple[float | None, float | None]]
) -> list[Item]:
    """Name the output of each row, by its id and its class. Names depend on the rows alone, so a resumed run agrees.

    Args:
        rows (`datasets.Dataset`): as `load_video_dataset` gives them.
        split (`str`, *optional*): their split, which an id may begin with.
        label_names (sequence of `str`, *optional*): names of the labels.
        times (sequence of pairs of `float` or `None`): seconds to take of each, from and to.
    """
    video_ids, labels = rows["video_id"][:], rows["label"][:]
    classes = [
        None if label is None else str(label) if label_names is None else label_names[label] for label in labels
    ]
    names = [_name(video_id, split, name) for video_id, name in zip(video_ids, classes, strict=True)]
    # `0.avi` and `0.mp4` would both be `0.mp4`: then the old suffix stays in the name, and if need be a number.
    counts = Counter(stem.lower() for stem, _ in names)  # there are file systems that do not know cases apart
    taken: set[str] = set()
    items = []
    for index, (stem, suffix) in enumerate(names):
        name = f"{stem}.mp4" if counts[stem.lower()] == 1 else f"{stem}{suffix}.mp4"
        number = 2
        while name.lower() in taken:
            name, number = f"{stem}{suffix}~{number}.mp4", number + 1
        taken.add(name.lower())
        items.append(Item(rows, index, split, video_ids[index], labels[index], classes[index], name, *times[index]))
    return items


def _name(video_id: str, split: str | None, class_name: str | None) -> tuple[str, str]:
    """Return path and suffix of the output: the id without what comes again in front of it, its split and class."""
    parts = [part for part in video_id.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if split is not None and len(parts) > 1 and parts[0] == split:
        parts = parts[1:]
    if class_name is not None:
        if len(parts) > 1 and parts[0].replace("_", " ") == class_name.replace("_", " "):
            parts = parts[1:]
        parts = [class_name, *parts]
    stem, suffix = os.path.splitext(parts[-1])
    if suffix.lower() not in VIDEO_SUFFIXES:
        stem, suffix = parts[-1], ""
    return "/".join(_safe(part) for part in (*parts[:-1], stem or "video")), suffix


def frame_folder(video_id: str, name: str) -> str:
    """Return the name of a folder of frames, which becomes the id: that of the video, where systems take it."""
    parts = video_id.split("/")
    is_safe = all(part not in ("", ".", "..") and _safe(part) == part for part in parts)
    return video_id if is_safe else name.removesuffix(".mp4")


def _safe(part: str) -> str:
    """Return a name that is one, visible, on every system; others get a hash, so that no two become one."""
    plain = "".join(
        "_" if character in '/\\:*?"<>|' or not character.isprintable() else character for character in part
    )
    plain = plain.strip(" ").rstrip(".")
    plain = f"_{plain[1:]}" if plain.startswith(".") else plain
    is_short = len(plain.encode()) <= _MAX_NAME_BYTES
    if plain == part and is_short:
        return part
    digest = hashlib.blake2b(part.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{plain.encode()[: _MAX_NAME_BYTES - 10].decode(errors='ignore')}-{digest}"


def source_state(video: Mapping[str, Any]) -> dict[str, Any]:
    """Return what shows that a source is still the same: size and time of its file, or a hash of its bytes.

    Raises:
        VideoReadError: there is no such file.
    """
    if (data := video.get("bytes")) is not None:
        digest = hashlib.blake2b(data[:_HASHED_BYTES] + data[-_HASHED_BYTES:], digest_size=16)
        return {"num_bytes": len(data), "blake2b": digest.hexdigest()}
    path = video.get("path") or video.get("archive") or video.get("frame_folder")
    if path is None:
        raise VideoReadError(str(video.get("fault") or "the row names no file"))
    if is_remote(path):
        return {"address": path, "offset": video.get("offset")}
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoReadError(f"there is no {path!r}" if isinstance(error, FileNotFoundError) else str(error)) from None
    state = {"num_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    if video.get("archive") is not None:
        state["offset"] = video["offset"]
    if video.get("frame_folder") is not None:
        state["num_frames"] = video["num_frames"]
    return state


def check_apart(output_dir: Path, folders: Sequence[str], all_rows: Sequence[Any]) -> None:
    """Check that the output lies apart from the originals: neither would survive being taken for the other.

    Args:
        output_dir (`Path`): where to write.
        folders (sequence of `str`): folders that are listed to find the videos.
        all_rows (sequence of `datasets.Dataset`): the videos of each split.

    Raises:
        ValueError: the output is, or lies inside of, a folder of originals, or originals lie inside of the output.
    """
    output = os.path.realpath(output_dir)
    for folder in map(os.path.realpath, folders):
        if os.path.isdir(folder) and (output == folder or output.startswith(folder.rstrip(os.sep) + os.sep)):
            raise ValueError(
                f"`--output_dir` {output_dir} lies in {folder}, the folder of the originals, and would be listed with "
                "them the next time: choose a folder outside of it. Nothing was changed."
            )
    inside = output.rstrip(os.sep) + os.sep
    parents = {os.path.dirname(path) for rows in all_rows for path in paths_of(rows) if path and os.path.isabs(path)}
    for parent in sorted(parents):
        if (os.path.realpath(parent) + os.sep).startswith(inside):
            raise ValueError(
                f"Originals lie in {parent}, inside of `--output_dir` {output_dir}: choose another folder. Nothing "
                "was changed."
            )


__all__ = ["Item", "check_apart", "frame_folder", "plan_items", "source_state"]
