"""The multi-view test: segments x crops of each video from one decode, softmax averaged over the views.

Every video of the list counts once. Unreadable ones are listed and count as wrong, since leaving them out would raise
the accuracy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from ..configuration_amd import AMDConfig
from ..data.augment.transforms import resize_short_side
from ..data.datasets.own import as_video_rows
from ..data.loaders import build_eval_loader
from ..data.sampling import SAMPLING_MODES, View, evaluation_views, sample_clip
from ..data.video.decoding import DecodedVideoCache, VideoReadError, open_video
from ..data.video.source import VideoSource
from ..view_settings import ViewSettings
from .checks import check_exclusive_classes, match_labels
from .metrics import MeanClassAccuracy, TopKAccuracy, likeliest_classes


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """The views of a video to test.

    Args:
        num_frames, sampling_rate (`int`): Frames of a clip and the step between them.
        crop_size (`int`): Side of the square crops in pixels.
        short_side (`int`, *optional*): Length to resize the short side to, by default `crop_size`. If it is larger,
            crops are the centres of squares of that side.
        interpolation (`str`): Of resizing, `bilinear` or `bicubic`.
        num_segments, num_crops (`int`): Views along time and along the long side.
        mode (`"dense"`, `"uniform"` or `"middle"`): As in [`~amd_hf.data.sampling.evaluation_views`], or the one clip
            of validation, which [`AMDVideoProcessor`] takes too.
        sampling_mode (`"dense"`, `"spread"` or `"segments"`): What that one clip is; see `video_sampling_amd`.

    Raises:
        ValueError: If several segments are to be that one clip.
    """

    num_frames: int
    crop_size: int
    short_side: int | None = None
    interpolation: str = "bilinear"
    sampling_rate: int = 4
    num_segments: int = 5
    num_crops: int = 3
    mode: str = "dense"
    sampling_mode: str = "dense"

    def __post_init__(self) -> None:
        if self.resized_to < self.crop_size:
            raise ValueError(f"`short_side` {self.short_side} is smaller than the crops, {self.crop_size}.")
        if self.mode == "middle" and self.num_segments != 1:
            raise ValueError(f"There is one segment in the middle of a video, not {self.num_segments}.")
        if self.sampling_mode not in SAMPLING_MODES:
            raise ValueError(f"`sampling_mode` must be one of {list(SAMPLING_MODES)}, not {self.sampling_mode!r}.")

    @classmethod
    def for_model(cls, config: AMDConfig, **options: Any) -> ViewOptions:
        """Return views of the size in a model's config."""
        return cls(num_frames=config.num_frames, crop_size=config.image_height_width[0], **options)

    @classmethod
    def of_test(cls, config: AMDConfig, settings: ViewSettings) -> ViewOptions:
        """Return the views of a model's own test; see [`~amd_hf.view_settings.ViewSettings`]."""
        known = settings.with_assumptions()
        return cls._of_settings(
            config, known, mode=known.test_mode, num_segments=known.test_num_segments, num_crops=known.test_num_crops
        )

    @classmethod
    def of_clip(
        cls, config: AMDConfig, settings: ViewSettings, num_segments: int = 1, num_crops: int = 1
    ) -> ViewOptions:
        """Return the one clip that validates a model, or several segments sampled as in its test."""
        known = settings.with_assumptions()
        mode = "middle" if num_segments == 1 else known.test_mode
        return cls._of_settings(config, known, mode=mode, num_segments=num_segments, num_crops=num_crops)

    @classmethod
    def _of_settings(cls, config: AMDConfig, settings: ViewSettings, **views: Any) -> ViewOptions:
        return cls.for_model(
            config,
            sampling_mode=settings.sampling_mode,
            sampling_rate=settings.sampling_rate,
            short_side=settings.short_side,
            interpolation=settings.interpolation,
            **views,
        )

    @property
    def resized_to(self) -> int:
        """Return the short side of the resized frames."""
        return self.crop_size if self.short_side is None else self.short_side

    @property
    def num_views(self) -> int:
        """Return the number of views of a video."""
        return self.num_segments * self.num_crops

    def views(self, total_frames: int, height: int, width: int) -> list[View]:
        """Return the views of a video of this size, segment by segment."""
        views = evaluation_views(
            total_frames,
            height,
            width,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            num_segments=self.num_segments,
            num_crops=self.num_crops,
            crop_size=self.resized_to,
            mode="dense" if self.mode == "middle" else self.mode,
        )
        # Those are squares of the whole short side; a smaller crop is the middle of its square.
        room = self.resized_to - self.crop_size
        views = [replace(view, top=view.top + room // 2, left=view.left + room // 2) for view in views]
        # A single crop is exactly in the centre, as in validation and in the processor.
        if self.num_crops == 1:
            # `int`, not `round`: the length that resizing gives the long side.
            long_side = int(self.resized_to * max(height, width) / min(height, width))
            along = (long_side - self.crop_size) // 2
            across = room // 2
            top, left = (along, across) if height > width else (across, along)
            views = [replace(view, top=top, left=left) for view in views]
        if self.mode != "middle":
            return views
        # Keep the positions of the crops, but take the frames of validation and of the processor.
        clip = sample_clip(
            total_frames,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            mode=self.sampling_mode,
            generator=None,
        )
        return [replace(view, frame_indices=tuple(map(int, clip))) for view in views]


@dataclass(frozen=True)
class ViewCollator:
    """Turn rows into their views, decoded once per video inside the loading worker.

    Calling it on rows returns a list with one dict per row: `video_id`, `label`, and either `views`, uint8
    `(views, T, C, S, S)`, or, for a video that cannot be read, `reason` and `is_present`, whether its files are there.
    """

    options: ViewOptions
    decoder: str | None = None
    cache: DecodedVideoCache | None = None
    time_limit: float | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        samples = []
        for row in rows:
            sample = {"video_id": row["video_id"], "label": row.get("label")}
            try:
                sample["views"] = self.views(row["video"], row["video_id"])
            except VideoReadError as error:
                sample |= {"reason": error.reason, "is_present": _is_present(row["video"])}
            samples.append(sample)
        return samples

    def views(self, video: Any, video_id: str | None = None) -> torch.Tensor:
        """Return all views of one video, uint8 `(views, T, C, S, S)`, segment by segment.

        Raises:
            VideoReadError: If the video cannot be read.
        """
        options = self.options
        with open_video(
            video, self.decoder, video_id=video_id, cache=self.cache, time_limit=self.time_limit
        ) as reader:
            views = options.views(len(reader), reader.height, reader.width)
            wanted = np.array([view.frame_indices for view in views])  # (views, T)
            # Crops of one segment show the same frames, and segments overlap: each frame is decoded once.
            unique, indices = np.unique(wanted, return_inverse=True)
            # (n, H, W, C) -> (n, C, H, W)
            frames = torch.from_numpy(np.ascontiguousarray(reader.frames(unique))).permute(0, 3, 1, 2)
        frames = resize_short_side(frames, options.resized_to, options.interpolation)  # once for all views of a frame
        size = options.crop_size
        clips = [
            frames[picked, :, view.top : view.top + size, view.left : view.left + size]
            for view, picked in zip(views, torch.from_numpy(indices.reshape(wanted.shape)), strict=True)
        ]
        return torch.stack(clips)  # (views, T, C, S, S)


def _is_present(video: Any) -> bool:
    """Return whether the files of a video exist, damaged or not."""
    try:
        source = VideoSource.parse(video)
    except VideoReadError:
        return False
    if source.path is not None:
        return os.path.isfile(source.path)
    # A source without frames has no path to look for: "" is no file, where `all` of nothing would be true.
    return bool(source.data) or all(os.path.isfile(path) for path in source.frame_paths or ("",))


@dataclass
class MultiViewResult:
    """Outcome of a multi-view test.

    Args:
        outcomes (`list[dict]`): For each video, in the order of the list: `video_id`, `label` (the model's index) and
            - if it could be read, `probabilities` (classes, float32; mean of the views' softmax), `view_predictions`
              (views, int64) and, with `keep_view_logits`, `view_logits` (views, classes, float32);
            - if not, `reason` and `is_present`.
        label_names (`Sequence[str]`): The model's class names, by index.
        views ([`ViewOptions`], *optional*): The views that were tested.
    """

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    label_names: Sequence[str] = ()
    views: ViewOptions | None = None

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """Return the outcomes of the videos that could be read."""
        return [outcome for outcome in self.outcomes if "reason" not in outcome]

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Return (video_id, reason) of each video that could not be read."""
        return [(outcome["video_id"], outcome["reason"]) for outcome in self.outcomes if "reason" in outcome]

    def metrics(self) -> dict[str, float | int]:
        """Return accuracies in [0, 1], in which unreadable videos count as wrong, and the numbers of videos.

        `accuracy` (top 1 of the averaged views), `clip_accuracy` (each view alone), `mean_class_accuracy`,
        `videos_expected` (in the list), `videos_read`, `videos_present` (readable or not), and with more than 5
        classes `top5_accuracy`.
        """
        inputs = {
            "predictions": [likeliest_classes(o["probabilities"]) if "reason" not in o else [] for o in self.outcomes],
            "references": [outcome["label"] for outcome in self.outcomes],
        }
        # Where no video was listed there is nothing to divide by: the metrics are not asked.
        top = dict.fromkeys(("top1_accuracy", "top5_accuracy"), 0.0)
        mean_class = {"mean_class_accuracy": 0.0}
        if self.outcomes:
            top = TopKAccuracy(keep_in_memory=True).compute(**inputs)
            mean_class = MeanClassAccuracy(keep_in_memory=True).compute(**inputs)
        right_views = sum(float(np.mean(video["view_predictions"] == video["label"])) for video in self.predictions)
        metrics: dict[str, float | int] = {
            "accuracy": top["top1_accuracy"],
            # All views of an unreadable video count as wrong.
            "clip_accuracy": right_views / max(len(self.outcomes), 1),
            **mean_class,
            "videos_expected": len(self.outcomes),
            "videos_read": len(self.predictions),
            "videos_present": sum(outcome.get("is_present", True) for outcome in self.outcomes),
        }
        return metrics | ({"top5_accuracy": top["top5_accuracy"]} if len(self.label_names) > 5 else {})


def run_multi_view_test(
    model: nn.Module,
    rows: Any,
    options: ViewOptions,
    accelerator: Accelerator,
    *,
    videos_per_batch: int = 8,
    num_workers: int = 0,
    decoder: str | None = None,
    cache: DecodedVideoCache | None = None,
    time_limit: float | None = None,
    keep_view_logits: bool = False,
) -> MultiViewResult:
    """Test a classifier. Each process takes a part of the videos, and all return the whole result.

    Args:
        model (`torch.nn.Module`): Takes `pixel_values` uint8 `(B, T, C, S, S)` and returns `logits` `(B, classes)`.
        rows (`datasets.Dataset`): Labelled rows, as [`load_video_dataset`] returns them.
            [`~amd_hf.evaluation.checks.match_labels`] matches the names of labels with the model's.
        options ([`ViewOptions`]): The views.
        accelerator (`accelerate.Accelerator`): Device, precision and processes.
        videos_per_batch (`int`, *optional*, defaults to 8): Videos in a batch.
        num_workers (`int`, *optional*, defaults to 0): Number of processes that decode videos.
        decoder, cache, time_limit (*optional*): As in [`~amd_hf.data.video.decoding.open_video`].
        keep_view_logits (`bool`, *optional*, defaults to `False`): Keep the logits of every view: views x classes x 4
            bytes per video.

    Raises:
        ValueError: If a row has no label, the labels are not the model's, the model's scores are not finite, or its
            `problem_type` is not that of one class per video.
    """
    check_exclusive_classes(model.config, "a test counts videos whose one class is named right")
    rows = as_video_rows(rows)
    # Before the first batch: if one of several processes stopped later, the others would wait for it forever.
    for video_id, label in zip(rows["video_id"], rows["label"], strict=True):
        if label is None:
            raise ValueError(f"Video {video_id!r} has no label: a test needs labelled videos.")
    numbers = match_labels(rows, model.config)
    loader = build_eval_loader(
        rows,
        videos_per_batch,
        ViewCollator(options, decoder, cache, time_limit),
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        num_workers=num_workers,
    )
    progress = tqdm(loader, desc="multi-view test", unit="batch", disable=not accelerator.is_main_process)
    outcomes = [outcome for batch in progress for outcome in _classify(model, batch, accelerator, keep_view_logits)]
    # On each process before the results are gathered, so that all hold the model's indices.
    for outcome in outcomes:
        outcome["label"] = numbers[outcome["label"]]
    if accelerator.num_processes > 1:
        outcomes = gather_object(outcomes)
    # Each process took every n-th row: restore the order of the list.
    index = {video_id: number for number, video_id in enumerate(rows["video_id"])}
    outcomes.sort(key=lambda outcome: index[outcome["video_id"]])
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    return MultiViewResult(outcomes, names, options)


def _classify(
    model: nn.Module, batch: list[dict[str, Any]], accelerator: Accelerator, keep_view_logits: bool
) -> Iterator[dict[str, Any]]:
    yield from (sample for sample in batch if "views" not in sample)
    readable = [sample for sample in batch if "views" in sample]
    if not readable:
        return
    clips = torch.cat([sample["views"] for sample in readable])  # (videos * views, T, C, S, S)
    # -> (videos, views, classes)
    logits = clip_logits(model, clips, accelerator).view(len(readable), -1, model.config.num_labels)
    for sample, of_views in zip(readable, logits, strict=True):
        if not of_views.isfinite().all():
            raise ValueError(
                f"The model's scores of video {sample['video_id']!r} are not finite: its weights are bad."
            )
        yield {
            "video_id": sample["video_id"],
            "label": int(sample["label"]),
            # Average probabilities, not logits, so that a very confident view does not outweigh the others.
            "probabilities": of_views.softmax(dim=-1).mean(dim=0).numpy(),
            "view_predictions": of_views.argmax(dim=-1).numpy(),
            **({"view_logits": of_views.numpy()} if keep_view_logits else {}),
        }


@torch.no_grad()
def clip_logits(model: nn.Module, clips: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """Return the logits of uint8 clips `(B, T, C, H, W)`: float32 `(B, classes)` on the CPU."""
    model.eval()
    # Convert to float32 before the softmax: half-precision probabilities of close classes would be rounded to equal.
    with accelerator.autocast():
        logits = model(pixel_values=clips.to(accelerator.device)).logits
    return logits.float().cpu()
