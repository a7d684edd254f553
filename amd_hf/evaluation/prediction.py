"""Predictions for video files, whole or window by window, with bounded memory for videos of any length.

A video is opened once and read forward. Each frame that a window needs is decoded once, resized immediately, and
dropped when no later window needs it.

n = 20, length 8, stride 5    [. . . . . . . .]
                                        [. . . . . . . .]
                                                  [. . . . . . . .]
                                                    [. . . . . . . .]      the last one ends with the video
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from ..outputs.csv_text import csv_line
from .multiview import ViewOptions, clip_logits


_MAX_BLOCK_BYTES = 64 * 1024**2  # of decoded frames before they are resized
_WINDOWS_PER_READ = 4
_EPSILON = 1e-6  # seconds: far below the distance of frames, far above the rounding of their times


# ---------------------------------------------------------------------------------------------------------------------
# Files and windows
# ---------------------------------------------------------------------------------------------------------------------


def find_videos(inputs: Sequence[str], media: str = "video") -> list[str]:
    """List the videos (or images) named by files, folders (with their sub-folders) and glob patterns, each once.

    Files that do not exist are listed too: they are reported when they are read, and the others are processed.

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


@dataclass(frozen=True)
class WindowOptions:
    """How a video is cut into windows.

    Args:
        length, stride (`float`): Length of a window and distance between the starts of two, both in `unit`.
        unit (`"seconds"` or `"frames"`): What they count.

    Raises:
        ValueError: If one is not above 0, or no whole number of frames.
    """

    length: float
    stride: float
    unit: str = "seconds"

    def __post_init__(self) -> None:
        if self.unit not in ("seconds", "frames"):
            raise ValueError(f"`unit` must be 'seconds' or 'frames', not {self.unit!r}.")
        for name in ("length", "stride"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"The {name} of a window must be above 0 {self.unit}, not {value}.")
            if self.unit == "frames" and value != int(value):
                raise ValueError(f"The {name} of a window must be a whole number of frames, not {value}.")


@dataclass(frozen=True)
class Window:
    """One window of a video.

    Args:
        start_frame, stop_frame (`int`): Index of its first frame, and the index after its last one.
        start_seconds, end_seconds (`float`): When its first frame appears and its last one disappears, in seconds from
            the video's first frame.
    """

    start_frame: int
    stop_frame: int
    start_seconds: float
    end_seconds: float


def sliding_windows(times: np.ndarray, options: WindowOptions) -> list[Window]:
    """Cut a video into windows that start at 0, stride, 2 * stride, ...

    The last window ends with the video and starts earlier if it would reach beyond it. A video shorter than a window
    is one window. A window in seconds holds the frames that appear within it, at least one.

    Args:
        times (`np.ndarray` of shape (n + 1,), float64): When each frame appears, in seconds, and when
            the last one ends: the `frame_times` of a reader.
        options ([`WindowOptions`]): Length and stride.
    """
    num_frames = len(times) - 1
    end = num_frames if options.unit == "frames" else times[-1]
    # Multiples of the stride, not sums: rounding errors would add up in long videos.
    num_before_last = max(int(np.ceil((end - options.length) / options.stride - _EPSILON)), 0)
    starts = [number * options.stride for number in range(num_before_last)] + [max(end - options.length, 0)]
    windows = []
    for start in starts:
        if options.unit == "frames":
            first, stop = int(start), min(int(start + options.length), num_frames)
        else:
            edges = np.array([start, start + options.length]) - _EPSILON
            first, stop = (int(edge) for edge in np.searchsorted(times[:-1], edges))
            stop = max(stop, 1)
            first = min(first, stop - 1)
        windows.append(Window(first, stop, float(times[first]), float(times[stop])))
    return list(dict.fromkeys(windows))  # two windows shorter than a frame may be the same


# ---------------------------------------------------------------------------------------------------------------------
# Clips
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class VideoPrediction:
    """A model's prediction for one video.

    Args:
        video (`str`): The file.
        windows (`list[tuple[Window | None, np.ndarray]]`): Windows in order of time with their probabilities,
            `(classes,)`, float32; a single entry with window None if the video was taken as a whole.
        error (`str`, *optional*): Why it could not be read (to its end); `windows` then holds those before the fault.
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
    """Windows of files, one after the other; each worker of a loader takes a part of the files."""

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
    """Read the clips of a video window by window.

    Args:
        path (`str`): A video file.
        options ([`ViewOptions`]): Clips and crops of a window.
        windows ([`WindowOptions`], *optional*): By default the whole video, as window None.
        decoder, time_limit (*optional*): See [`~amd_hf.data.video.decoding.open_video`]. The limit is for the whole
            file, or with windows for each stretch that is read.

    Yields:
        Each window and its clips, uint8 `(views, T, C, S, S)`.

    Raises:
        VideoReadError: If the video cannot be read; windows before the fault come first.
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
                window = cut[number]
                start, stop = (window.start_frame, window.stop_frame) if window else (0, num_frames)
                views[number] = [
                    replace(view, frame_indices=tuple(start + index for index in view.frame_indices))
                    for view in options.views(stop - start, height, width)
                ]
            return views[number]

        for start in range(0, len(cut), _WINDOWS_PER_READ):
            group = range(start, min(start + _WINDOWS_PER_READ, len(cut)))
            frames.read(map(views_of, group), map(views_of, range(group.stop, len(cut))))
            for number in group:
                yield cut[number], frames.clips(views.pop(number))


class _ForwardFrames:
    """Resized frames of a video that is read forward only; frames stay in memory while a window needs them."""

    def __init__(self, reader: VideoDecoder, options: ViewOptions) -> None:
        self._reader = reader
        self._options = options
        self._frames: dict[int, torch.Tensor] = {}

    def read(self, now: Iterable[list[View]], later: Iterable[list[View]]) -> None:
        """Decode the frames of the windows `now`, and those frames of windows `later` that lie between them."""
        needed = {index for views in now for view in views for index in view.frame_indices}
        stop = max(needed) + 1
        for views in later:
            if min(views[0].frame_indices) >= stop:
                break
            needed |= {index for view in views for index in view.frame_indices if index < stop}
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


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------


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
    """Classify files; a batch may hold clips of several windows and files.

    Args:
        model (`torch.nn.Module`): Takes `pixel_values` uint8 `(B, T, C, S, S)` and returns `logits` `(B, classes)`.
        paths (`Sequence[str]`): Files.
        options ([`ViewOptions`]): Clips and crops of each window, whose softmax is averaged (the sigmoid, where the
            config's `problem_type` is `"multi_label_classification"`).
        accelerator (`accelerate.Accelerator`): Device and precision.
        windows ([`WindowOptions`], *optional*): By default each video as a whole.
        clips_per_batch (`int`, *optional*, defaults to 8): Most clips in one forward pass.
        num_workers (`int`, *optional*, defaults to 0): Number of processes that decode videos, each a part of them.
        decoder, time_limit (*optional*): See [`~amd_hf.data.video.decoding.open_video`]. The limit is for the whole
            file, or with windows for each stretch that is read.

    Yields:
        One [`VideoPrediction`] per file, in their order, each as soon as it is whole.

    Raises:
        ValueError: If the model is one of regression, whose scores are no probabilities of classes.
    """
    if model.config.problem_type == "regression":
        raise ValueError(
            'The model\'s `problem_type` is "regression": its scores are numbers, no probabilities of classes. Read '
            "them off `pipeline`, or off the model's `logits`."
        )
    loader = VideoDataLoader(
        _WindowClips(paths, options, windows, decoder, time_limit),
        batch_size=None,
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
            results[next_number] = VideoPrediction(paths[next_number])  # free the memory of yielded results
            next_number += 1


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
    is_multi_label = model.config.problem_type == "multi_label_classification"
    scores = logits.sigmoid() if is_multi_label else logits.softmax(dim=-1)
    of_windows = scores.view(len(items), -1, logits.shape[-1]).mean(dim=1).numpy()  # over the clips of each window
    for item, probabilities in zip(items, of_windows, strict=True):
        results[item.file_number].windows.append((item.window, probabilities))


# ---------------------------------------------------------------------------------------------------------------------
# Output formats: a table for people, one JSON object per line, csv
# ---------------------------------------------------------------------------------------------------------------------

_CSV_COLUMNS = (
    "video", "start_seconds", "end_seconds", "start_frame", "stop_frame", "rank", "label", "score", "error",
)  # fmt: skip


def as_dict(prediction: VideoPrediction, names: dict[int, str], top_k: int) -> dict[str, Any]:
    """Return one video's result for JSON: `predictions`, or `windows` each with its own, and perhaps `error`."""
    result: dict[str, Any] = {"video": prediction.video}
    windows = []
    for window, probabilities in prediction.windows:
        order = (-probabilities).argsort(kind="stable")[:top_k]
        top = [{"label": names[int(number)], "score": float(probabilities[number])} for number in order]
        windows.append({**(vars(window) if window else {}), "predictions": top})
    if windows and "start_seconds" in windows[0]:
        result["windows"] = windows
    elif windows:
        result |= windows[0]
    return result | ({"error": prediction.error} if prediction.error is not None else {})


def as_table(result: dict[str, Any]) -> str:
    """Return a result of [`as_dict`] for people, in lines."""
    lines = []
    if len(result) > 1 + ("error" in result):
        lines.append(result["video"])
    lines += [f"  {entry['score']:6.1%}  {entry['label']}" for entry in result.get("predictions", [])]
    for window in result.get("windows", []):
        scores = ", ".join(f"{entry['score']:.1%} {entry['label']}" for entry in window["predictions"])
        lines.append(f"  {window['start_seconds']:9.3f} s to {window['end_seconds']:9.3f} s  {scores}")
    if "error" in result:
        lines.append(f"{result['video']}: cannot be read: {result['error']}")
    return "".join(f"{line}\n" for line in lines)


def as_csv_lines(result: dict[str, Any]) -> str:
    """Return a result of [`as_dict`] as one csv line per window and class; [`HEADERS`] has the first line.

    Names that a spreadsheet could take for a formula have a `'` in front: see [`amd_hf.outputs.csv_text`].
    """
    rows: list[dict[str, Any]] = []
    for part in result.get("windows", [result]):
        times = {name: part[name] for name in _CSV_COLUMNS[1:5] if name in part}
        for rank, entry in enumerate(part.get("predictions", []), start=1):
            rows.append({"video": result["video"], **times, "rank": rank, **entry})
    if "error" in result:
        rows.append({"video": result["video"], "error": result["error"]})
    return "".join(csv_line(row.get(column, "") for column in _CSV_COLUMNS) for row in rows)


FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {
    "table": as_table,
    "json": lambda result: json.dumps(result) + "\n",  # one object and line
    "csv": as_csv_lines,
}
"""What makes text of a result, by the name of the format."""

HEADERS = {"table": "", "json": "", "csv": ",".join(_CSV_COLUMNS) + "\n"}
"""What stands above the results of each format."""


__all__ = [
    "FORMATS",
    "HEADERS",
    "VideoPrediction",
    "Window",
    "WindowOptions",
    "as_csv_lines",
    "as_dict",
    "find_videos",
    "predict_videos",
    "sliding_windows",
    "window_clips",
]
