"""Encoding a whole data set side by side: skip what is done, note what is made, count what is bad."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ..data.checking import find_missing_bytes
from ..data.video.decoding import IMAGE_DECODER, find_decoder
from ..data.video.decoding_process import SupervisedDecoder
from ..data.video.source import VideoReadError, VideoSource
from ..video_reading_amd import VideoLimits
from .arguments import PreparingArguments
from .manifest import Manifest, remove_part
from .planning import Item, source_state


_WAITING_PER_WORKER = 4
_ENCODE = "amd_hf.preparing.encoding:encode_video"


class Verdict(NamedTuple):
    """What became of a video.

    Args:
        item (`Item`): the video.
        fault (`str` or `None`): what is wrong with the source.
        is_made (`bool`): whether it is in the output.
        is_new (`bool`): whether it was encoded by this run.
    """

    item: Item
    fault: str | None
    is_made: bool
    is_new: bool


class Encoder:
    """Encoder of the videos of one output folder, each in a decoding process that it may crash.

    Args:
        manifest (`Manifest`): of the output folder.
        arguments (`PreparingArguments`): how to encode.
    """

    def __init__(self, manifest: Manifest, arguments: PreparingArguments) -> None:
        self._manifest = manifest
        self._arguments = arguments
        self._settings = arguments.encoding()
        self._decoder = find_decoder("pyav")
        self._limits = VideoLimits()
        self._numbers = itertools.count()

    def encode_all(self, items: Sequence[Item], names: Sequence[str], is_done: Sequence[bool]) -> Iterator[Verdict]:
        """Encode videos and yield what became of each, in their order; files have their names by then.

        Args:
            items (sequence of `Item`): the videos.
            names (sequence of `str`): name of each one's file in the output folder.
            is_done (sequence of `bool`): whether what the manifest says of it still holds.
        """
        num_workers = self._arguments.num_workers or os.cpu_count() or 1
        waiting: deque[tuple[Item, str, Future[dict[str, Any]] | None]] = deque()
        with ThreadPoolExecutor(num_workers, thread_name_prefix="prepare") as pool:
            try:
                for item, name, done in zip(items, names, is_done, strict=True):
                    waiting.append((item, name, None if done else pool.submit(self.encode, item)))
                    if len(waiting) >= num_workers * _WAITING_PER_WORKER:
                        yield self._finish(*waiting.popleft())
                while waiting:
                    yield self._finish(*waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def encode(self, item: Item) -> dict[str, Any]:
        """Encode a video to a file of the work folder; return what the manifest is to say, and the `part`.

        A source that cannot be used gives its `fault` and no `part`.
        """
        part = self._manifest.work / f"{next(self._numbers)}.part"
        remove_part(part)  # a killed run may have left one of this name
        arguments = {"target": str(part.absolute()), "settings": self._settings, "start": item.start, "end": item.end}
        try:
            video = item.video
            state = source_state(video)
            source = VideoSource.parse(video)
            source.check_exists(item.video_id)
            decoder = IMAGE_DECODER if source.is_images else self._decoder
            limit = self._arguments.time_limit
            opened = SupervisedDecoder(decoder, source, item.video_id, self._limits, 1, limit)
            with opened:
                found = opened.run(_ENCODE, arguments)
            if missing := find_missing_bytes(source):
                lost = f"{missing} bytes are missing at the end of the file"
                found["damage"] = "; ".join(filter(None, (found["damage"], lost)))
        except VideoReadError as error:
            remove_part(part)
            return {"fault": error.reason}
        return {"part": part, "source": state, "bytes_before": _num_bytes(source), **found}

    def is_known(self, item: Item, name: str, is_stored: bool) -> bool:
        """Return whether the manifest has what became of this source, and its file, if there is one, `is_stored`."""
        known = self._manifest.videos.get(item.key)
        if known is None or known["trim"] != [item.start, item.end]:
            return False
        try:
            if known["source"] != source_state(item.video):
                return False
        except VideoReadError:
            return False
        if known["output"] is None:  # it is damaged and was left out
            return not self._arguments.keep_damaged
        return known["output"] == name and is_stored

    def _finish(self, item: Item, name: str, future: Future[dict[str, Any]] | None) -> Verdict:
        if future is None:
            known = self._manifest.videos[item.key]
            return Verdict(item, known["damage"], known["output"] is not None, is_new=False)
        return self.place(item, name, future.result())

    def place(self, item: Item, name: str, found: dict[str, Any]) -> Verdict:
        """Give what `encode` has found or made its name, and note it."""
        if "fault" in found:
            return Verdict(item, found["fault"], is_made=False, is_new=True)
        part: Path = found.pop("part")
        is_kept = found["damage"] is None or self._arguments.keep_damaged
        if is_kept:
            self._manifest.place(part, name)
        else:
            remove_part(part)
        self._manifest.note(
            {"key": item.key, "output": name if is_kept else None, "trim": [item.start, item.end], **found}
        )
        return Verdict(item, found["damage"], is_kept, is_new=True)


def _num_bytes(source: VideoSource) -> int:
    if source.data is not None:
        return len(source.data)
    return sum(map(os.path.getsize, source.frame_paths or [str(source.path)]))


__all__ = ["Encoder", "Verdict"]
