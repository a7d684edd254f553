"""Checking a data set before it is trained on: which videos are missing, unreadable, damaged, too short or doubled."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..outputs.csv_text import csv_line, guard_cell
from ..video_reading_amd import VideoLimits
from .datasets.own import as_video_rows
from .remote.files import is_remote
from .video.decoding import IMAGE_DECODER, find_decoder
from .video.decoding_process import SupervisedDecoder
from .video.source import VideoReadError, VideoSource


OK = "ok"
FAULTS = ("missing", "unreadable", "damaged", "too_short", "duplicate")
"""What can be wrong, the gravest first; a video is counted under one of them."""

_HASHED_AT_ONCE = 1024 * 1024
_WAITING_PER_THREAD = 4

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SLACK = 16  # some writers count the chunk's own header, or a byte of padding
_MAX_PARTS = 10_000


class VideoCheck(NamedTuple):
    """What is known of one video.

    Args:
        row (mapping): the row, as it came.
        status (`str`): `ok` or one of `FAULTS`.
        reason (`str`): what is wrong; empty where nothing is.
        num_frames (`int` or `None`): None where the video could not be opened.
    """

    row: Mapping[str, Any]
    status: str
    reason: str
    num_frames: int | None


class _Findings(NamedTuple):
    """What a thread found out about one video by itself; `digest` is None where it cannot be read."""

    status: str
    reason: str
    num_frames: int | None
    digest: bytes | None


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How closely to look.

    Args:
        min_frames (`int`, defaults to 16): a video with fewer is too short.
        decode_all (`bool`, defaults to `True`): decode every frame, which finds damage in the middle, also what
            decoders conceal. False opens the video and decodes its first, middle and last frame.
        time_limit (`float`, defaults to 300): seconds per video, after which it counts as unreadable.
        limits (`VideoLimits`, *optional*): how large frames, videos and files may be.
    """

    min_frames: int = 16
    decode_all: bool = True
    time_limit: float = 300.0
    limits: VideoLimits | None = None

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise ValueError(f"`min_frames` must be at least 1, not {self.min_frames}.")
        if not self.time_limit > 0:
            raise ValueError(f"`time_limit` must be above 0 seconds, not {self.time_limit}.")


def check_videos(
    rows: Iterable[Mapping[str, Any]], options: CheckOptions, num_threads: int | None = None
) -> Iterator[VideoCheck]:
    """Check videos side by side, each thread with a decoding process of its own, and yield the outcomes in order.

    PyAV decodes, whatever decoder the training will use: the others hand over to it what they cannot read. Of several
    videos with the same content the first one is good and the others are duplicates.

    Args:
        rows (iterable of mappings): as `load_video_dataset` gives them; read as they are needed.
        options (`CheckOptions`): how closely to look.
        num_threads (`int`, *optional*): videos at a time; by default one per processor.

    Raises:
        ImportError: PyAV is not installed.
    """
    find_decoder("pyav")
    rows = as_video_rows(rows)
    num_threads = num_threads or os.cpu_count() or 1
    first_with: dict[bytes, Mapping[str, Any]] = {}
    waiting: deque[tuple[Mapping[str, Any], Future[_Findings]]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="check_videos") as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(_examine, row, options)))
                if len(waiting) >= num_threads * _WAITING_PER_THREAD:
                    yield _outcome(*waiting.popleft(), first_with)
            while waiting:
                yield _outcome(*waiting.popleft(), first_with)
        finally:
            pool.shutdown(cancel_futures=True)


def _examine(row: Mapping[str, Any], options: CheckOptions) -> _Findings:
    video_id = row["video_id"]
    num_frames = None
    try:
        source = VideoSource.parse(row["video"])
        if (absent := _absent_path(row["video"], source)) is not None:
            return _Findings("missing", f"there is no {absent!r}", None, None)
        source.check_exists(video_id)
        digest = _digest(source)
        decoder = IMAGE_DECODER if source.is_images else find_decoder("pyav")
        limits = options.limits or VideoLimits()
        with SupervisedDecoder(decoder, source, video_id, limits, 1, options.time_limit) as video:
            num_frames = len(video)
            damage = None
            if options.decode_all:
                num_frames, _, _, damage = video.inspect()
            else:
                video.frames([0, num_frames // 2, num_frames - 1])
        if missing := find_missing_bytes(source):
            damage = "; ".join(filter(None, (damage, f"{missing} bytes are missing at the end of the file")))
    except VideoReadError as error:
        return _Findings("unreadable", error.reason, num_frames, None)
    except OSError as error:  # the file went away, or the disk is bad
        return _Findings("unreadable", str(error), num_frames, None)
    if damage is not None:
        return _Findings("damaged", damage, num_frames, digest)
    if num_frames < options.min_frames:
        return _Findings("too_short", f"{num_frames} frames, fewer than {options.min_frames}", num_frames, digest)
    return _Findings(OK, "", num_frames, digest)


def _absent_path(video: Any, source: VideoSource) -> str | None:
    if source.path is not None:
        return None if os.path.exists(source.path) else source.path
    folder = video.get("frame_folder") if isinstance(video, Mapping) else None
    return folder if folder is not None and not os.path.isdir(folder) else None


def _digest(source: VideoSource) -> bytes:
    """Hash of the content of the file or files."""
    digest = hashlib.blake2b(digest_size=16)
    if source.data is not None:
        digest.update(source.data)
    for path in source.frame_paths or ((source.path,) if source.path is not None else ()):
        with open(path, "rb") as file:
            while block := file.read(_HASHED_AT_ONCE):
                digest.update(block)
    return digest.digest()


def _outcome(
    row: Mapping[str, Any], examined: Future[_Findings], first_with: dict[bytes, Mapping[str, Any]]
) -> VideoCheck:
    status, reason, num_frames, digest = examined.result()
    if status == OK and digest is not None:
        first = first_with.setdefault(digest, row)
        if first is not row:
            status, reason = "duplicate", f"the same content as {first['video_id']!r}"
            if first.get("label") != row.get("label"):
                reason += f", which has the label {first.get('label')} and not {row.get('label')}"
    return VideoCheck(row, status, reason, num_frames)


def find_missing_bytes(source: VideoSource) -> int:
    """Count the bytes that an AVI or Matroska file (WebM) lacks at its end; 0 if none, or if unknown.

    The sizes in the container show it; nothing is decoded. How many frames a header promises, or how
    many seconds, says little: capture programs leave frames out, and the last frame of a slow film stays for long. MP4
    needs no look here: where its index names what is absent, it is not read.

    Raises:
        OSError: the file cannot be read.
    """
    if source.frame_paths is not None:
        return 0
    with closing(io.BytesIO(source.data or b"") if source.path is None else open(source.path, "rb")) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(12)
        file.seek(0)
        if start[:4] == _EBML:
            return max(_end_of_matroska(file, size) - size, 0)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            missing = _end_of_avi(file, size) - size
            return missing if missing > _RIFF_SLACK else 0
    return 0


def _end_of_avi(file: BinaryIO, size: int) -> int:
    """Find the end of the last RIFF chunk; a file above a gigabyte has several. 0 where one was never finished."""
    end = 0
    for _ in range(_MAX_PARTS):
        file.seek(end)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if len(head) < 8 or head[:4] != b"RIFF":
            break
        if length in (0, 0xFFFFFFFF):
            return 0
        end += 8 + length + length % 2
        if end >= size:
            break
    return end


def _end_of_matroska(file: BinaryIO, size: int) -> int:
    """Find where the last of the outermost elements ends; 0 if one has no length (live recordings)."""
    end = 0
    for _ in range(_MAX_PARTS):
        file.seek(end)
        head = file.read(12)
        if head[:4] not in (_EBML, _SEGMENT) or len(head) < 5:
            break
        width = 9 - head[4].bit_length()  # the first byte's leading zeros encode how many bytes the length takes
        if width > 8 or len(head) < 4 + width:
            break
        length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + length
        if end >= size:
            break
    return end


class CleanList(NamedTuple):
    """A list of good videos on disk, and what to give to `load_video_dataset` with it.

    Args:
        file (`Path`): the annotation file.
        root (`str` or `None`): folder that its paths start from; None where they are absolute.
        label_names (`Path` or `None`): file with the names of the labels.
    """

    file: Path
    root: str | None
    label_names: Path | None


def write_clean_list(
    rows: Sequence[Mapping[str, Any]], folder: Path, label_names: Sequence[str] | None = None
) -> CleanList:
    """Write rows as an annotation file that `load_video_dataset` reads.

    With the root returned the videos keep their `video_id`, on which a sample's random numbers depend, wherever these
    are paths relative to one folder, as those of files are.

    Args:
        rows (sequence of mappings): the good ones.
        folder (`Path`): where `clean.csv` (`path,label`) goes, or for folders of frames `clean.txt` (`folder
            num_frames label`), and `label_names.txt`.
        label_names (sequence of `str`, *optional*): name of each label.

    Raises:
        ValueError: no rows, or rows whose videos are inside archives, which no list can name.
    """
    if not rows:
        raise ValueError("No good video is left to list.")
    videos = [row["video"] for row in rows]
    are_folders = all(video.get("frame_folder") is not None for video in videos)
    if not are_folders and any(video.get("path") is None or video.get("bytes") is not None for video in videos):
        raise ValueError("The videos lie inside archives, where no list can name them: only the report is written.")
    named = [video["frame_folder" if are_folders else "path"] for video in videos]
    absolute = [path if "://" in path and is_remote(path) else os.path.abspath(path) for path in named]
    root = _common_root(absolute, [row["video_id"] for row in rows])
    paths = absolute if root is None else [row["video_id"] for row in rows]
    has_labels = all(row.get("label") is not None for row in rows)
    labels = [[row["label"]] if has_labels else [] for row in rows]
    if are_folders:
        file = folder / "clean.txt"
        parts = zip(paths, videos, labels, strict=True)
        lines = [" ".join(map(str, (path, video["num_frames"], *label))) for path, video, label in parts]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        file = folder / "clean.csv"
        with open(file, "w", encoding="utf-8", newline="") as stream:
            stream.write(csv_line(["path", *(["label"] if has_labels else [])]))
            for path, label in zip(paths, labels, strict=True):
                # To our readers `./=a.mp4` is `=a.mp4`; to a spreadsheet it is no formula.
                stream.write(csv_line([f"./{path}" if guard_cell(path) != path else path, *label]))
    names = None
    if label_names is not None:
        names = folder / "label_names.txt"
        names.write_text("".join(f"{name}\n" for name in label_names), encoding="utf-8")
    return CleanList(file, root, names)


def _common_root(paths: Sequence[str], video_ids: Sequence[str]) -> str | None:
    """Return the folder relative to which every path is its `video_id`."""
    suffix = os.sep + os.path.normpath(video_ids[0])
    root = paths[0].removesuffix(suffix)
    if root == paths[0]:
        return None
    is_common = all(
        os.path.join(root, os.path.normpath(name)) == path for path, name in zip(paths, video_ids, strict=True)
    )
    return (root or os.sep) if is_common else None
