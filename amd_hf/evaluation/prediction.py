"""Predictions for video files, whole or window by window, in bounded memory however long a video is.

A video is opened once and read forward: each frame that some window needs is decoded once, resized at once, and
dropped when no later window needs it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from ..data.augment.transforms import resize_short_side
from ..data.datasets.listing import list_folder
from ..data.datasets.rows import MEDIA_SUFFIXES
from ..data.loaders import VideoDataLoader
from ..data.sampling import View
from ..data.video.decoding import VideoDecoder, VideoReadError, open_video
from ..data.video.source import VideoSource
from .multiview import ViewOptions, clip_logits
from .windows import Window, WindowOptions, sliding_windows


_MAX_BLOCK_BYTES = 64 * 1024**2  # of decoded frames before they are resized
_WINDOWS_PER_READ = 4


def find_videos(inputs: Sequence[str], media: str = "video") -> list[str]:
    """The videos (or images) that files, folders (with all below them) and glob patterns name, in order, each once.

    A file that does not exist is among them: it is reported when it is read, and the others are done.

    Raises:
        ValueError: If a folder holds no video or a pattern fits no file.
    """
    found: list[str] = []
    for name in inputs:
        if os.path.isdir(name):
            listing = list_folder(name, media)
            videos = [os.path.join(name, *parts) for parts in listing.files]
            if not videos:
                looked_for = ", ".join(MEDIA_SUFFIXES[media])
                raise ValueError(
                    f"There is no {media} in the folder {name!r} (looked for {looked_for}). "
                    f"{listing.account.describe()}".rstrip()
                )
            listing.report(f"{len(videos):,} {media}s")
        elif glob.has_magic(name) and not os.path.exists(name):
            videos = sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))
            if not videos:
                raise ValueError(f"No file fits the pattern {name!r}.")
        else:
            videos = [name]
        found += videos
    return list(dict.fromkeys(found))


@dataclass
class VideoPrediction:
    """What a model says of one video.

    Args:
        video (`str`): The file.
        windows (`list[tuple[Window | None, np.ndarray]]`): In order of time, with the probabilities of each,
            `(classes,)`, float32; one entry whose window is None for a video taken whole.
        error (`str`, *optional*): Why it could not be read, or not to its end; then `windows` are those before.
    """

    video: str
    windows: list[tuple[Window | None, np.ndarray]] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class _Item:
    """One window of a file (`clips` uint8 `(views, T, C, S, S)`), or, without clips, the end of the file."""

    file_number: int
    window: Window | None = None
    clips: torch.Tensor | None = None
    error: str | None = None


class _WindowClips(IterableDataset):
    """The windows of files one after the other; the workers of a loader share out the files."""

    def __init__(
        self,
        paths: Sequence[str],
        views: ViewOptions,
        windows: WindowOptions | None,
        decoder: str | None,
        time_limit: float | None,
    ) -> None:
        self.paths = paths
        self.views = views
        self.windows = windows
        self.decoder = decoder
        self.time_limit = time_limit

    def __iter__(self) -> Iterator[_Item]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.paths), step):
            error = None
            try:
                for window, clips in window_clips(
                    self.paths[number], self.views, self.windows, self.decoder, self.time_limit
                ):
                    yield _Item(number, window, clips)
            except VideoReadError as caught:
                error = caught.reason
            yield _Item(number, error=error)


def window_clips(
    path: str,
    options: ViewOptions,
    windows: WindowOptions | None = None,
    decoder: str | None = None,
    time_limit: float | None = None,
) -> Iterator[tuple[Window | None, torch.Tensor]]:
    """Reads the clips of a video window by window.

    Args:
        path (`str`): A video file.
        options ([`ViewOptions`]): Clips and crops of a window.
        windows ([`WindowOptions`], *optional*): By default the whole video, as window None.
        decoder, time_limit (*optional*): See [`~amd_hf.data.video.decoding.open_video`]. The limit is for the whole
            file, or with windows for each stretch that is read.

    Yields:
        Each window and its clips, uint8 `(views, T, C, S, S)`.

    Raises:
        VideoReadError: If the video cannot be read; windows before the fault are given first.
    """
    if options.num_frames > 1 and VideoSource.parse(path).is_one_image:
        raise VideoReadError(
            f"it is an image, and the model looks at clips of {options.num_frames} frames: give a video (a single "
            "image says nothing of what moves)",
            source=str(path),
        )
    with open_video(path, decoder, time_limit=time_limit, is_limit_per_read=windows is not None) as reader:
        num_frames, height, width = len(reader), reader.height, reader.width
        cut: Sequence[Window | None] = [None]
        if windows is not None:
            cut = sliding_windows(reader.frame_times, windows)
        frames = _ForwardFrames(reader, options)
        views: dict[int, list[View]] = {}  # of the windows at hand and of those that overlap them

        def views_of(number: int) -> list[View]:
            if number not in views:
                views[number] = _window_views(cut[number], num_frames, height, width, options)
            return views[number]

        for start in range(0, len(cut), _WINDOWS_PER_READ):
            group = range(start, min(start + _WINDOWS_PER_READ, len(cut)))
            frames.read(map(views_of, group), map(views_of, range(group.stop, len(cut))))
            for number in group:
                yield cut[number], frames.clips(views.pop(number))


def _window_views(window: Window | None, num_frames: int, height: int, width: int, options: ViewOptions) -> list[View]:
    start, stop = (window.start_frame, window.stop_frame) if window else (0, num_frames)
    views = options.views(stop - start, height, width)
    return [replace(view, frame_indices=tuple(start + index for index in view.frame_indices)) for view in views]


class _ForwardFrames:
    """Resized frames of a video that is read forward only; holds those that are needed still."""

    def __init__(self, reader: VideoDecoder, options: ViewOptions) -> None:
        self._reader = reader
        self._options = options
        self._frames: dict[int, torch.Tensor] = {}

    def read(self, now: Iterable[list[View]], later: Iterable[list[View]]) -> None:
        """Decodes what the windows `now` need, and on the way what windows `later` need of the same stretch."""
        needed = _indices(now)
        stop = max(needed) + 1
        for views in later:
            if min(views[0].frame_indices) >= stop:
                break
            needed |= {index for index in _indices([views]) if index < stop}
        self._frames = {index: self._frames[index] for index in needed if index in self._frames}
        missing = sorted(needed - self._frames.keys())
        block = max(_MAX_BLOCK_BYTES // (self._reader.height * self._reader.width * 3), 1)
        for start in range(0, len(missing), block):
            indices = missing[start : start + block]
            decoded = torch.from_numpy(np.ascontiguousarray(self._reader.frames(indices))).permute(0, 3, 1, 2)
            resized = resize_short_side(decoded, self._options.resized_to, self._options.interpolation)
            self._frames.update(zip(indices, resized, strict=True))

    def clips(self, views: list[View]) -> torch.Tensor:
        size = self._options.crop_size
        return torch.stack(
            [
                torch.stack([self._frames[index] for index in view.frame_indices])[
                    :, :, view.top : view.top + size, view.left : view.left + size
                ]
                for view in views
            ]
        )


def _indices(windows: Iterable[list[View]]) -> set[int]:
    return {index for views in windows for view in views for index in view.frame_indices}


def predict_videos(
    model: nn.Module,
    paths: Sequence[str],
    options: ViewOptions,
    accelerator: Accelerator,
    *,
    windows: WindowOptions | None = None,
    clips_per_batch: int = 8,
    num_workers: int = 0,
    decoder: str | None = None,
    time_limit: float | None = None,
) -> Iterator[VideoPrediction]:
    """Classifies files; clips of several windows and files go through the model together.

    Args:
        model (`torch.nn.Module`): Takes `pixel_values` uint8 `(B, T, C, S, S)` and returns `logits` `(B, classes)`.
        paths (`Sequence[str]`): Files.
        options ([`ViewOptions`]): Clips and crops of each window, whose softmax is averaged.
        accelerator (`accelerate.Accelerator`): Device and precision.
        windows ([`WindowOptions`], *optional*): By default each video as a whole.
        clips_per_batch (`int`, *optional*, defaults to 8): Most clips in one forward pass.
        num_workers (`int`, *optional*, defaults to 0): Decoding processes, among which the files are shared.
        decoder, time_limit (*optional*): See [`~amd_hf.data.video.decoding.open_video`]. The limit is for the whole
            file, or with windows for each stretch that is read.

    Yields:
        One [`VideoPrediction`] per file, in their order, each as soon as it is whole.
    """
    loader = VideoDataLoader(
        _WindowClips(paths, options, windows, decoder, time_limit),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=num_workers,
    )
    results = [VideoPrediction(path) for path in paths]
    finished: set[int] = set()
    next_number = 0
    for batch in _batches(loader, clips_per_batch):
        _classify(model, batch, results, accelerator, clips_per_batch)
        for item in batch:
            if item.clips is None:
                results[item.file_number].error = item.error
                finished.add(item.file_number)
        while next_number in finished:
            yield results[next_number]
            results[next_number] = VideoPrediction(paths[next_number])  # what was given away need not be kept
            next_number += 1


def _unchanged(item: _Item) -> _Item:
    return item


def _batches(items: Any, clips_per_batch: int) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    num_clips = 0
    for item in items:
        batch.append(item)
        num_clips += 0 if item.clips is None else len(item.clips)
        if num_clips >= clips_per_batch or item.error is not None:
            yield batch
            batch, num_clips = [], 0
    yield batch


def _classify(
    model: nn.Module,
    batch: list[_Item],
    results: list[VideoPrediction],
    accelerator: Accelerator,
    clips_per_batch: int,
) -> None:
    items = [item for item in batch if item.clips is not None]
    if not items:
        return
    clips = torch.cat([item.clips for item in items if item.clips is not None])
    logits = torch.cat([clip_logits(model, part, accelerator) for part in clips.split(clips_per_batch)])
    of_windows = logits.softmax(dim=-1).view(len(items), -1, logits.shape[-1]).mean(dim=1).numpy()
    for item, probabilities in zip(items, of_windows, strict=True):
        results[item.file_number].windows.append((item.window, probabilities))


__all__ = ["VideoPrediction", "find_videos", "predict_videos", "window_clips"]
