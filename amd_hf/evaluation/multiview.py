"""The multi-view test: segments x crops of each video from one decode, softmax averaged over the views.

Every video of the list counts once. One that cannot be read is listed and scored as wrong (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from ..configuration_amd import AMDConfig
from ..data.decoding import DecodedVideoCache, VideoReadError, open_video
from ..data.loader import build_eval_loader
from ..data.sampling import evaluation_views
from ..data.transforms import resize_short_side


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Which views of a video are tested.

    Args:
        num_frames, sampling_rate (`int`): Frames of a clip and the step between them.
        crop_size (`int`): Side of the square crops in pixels; the short side is resized to it.
        num_segments, num_crops (`int`): Views along time and along the long side.
        mode (`"dense"` or `"uniform"`): As in [`~amd_hf.data.sampling.evaluation_views`].
    """

    num_frames: int
    crop_size: int
    sampling_rate: int = 4
    num_segments: int = 5
    num_crops: int = 3
    mode: str = "dense"

    @classmethod
    def for_model(cls, config: AMDConfig, **options: Any) -> ViewOptions:
        """Views of the size that a model's config asks for."""
        return cls(num_frames=config.num_frames, crop_size=config.image_height_width[0], **options)

    @property
    def num_views(self) -> int:
        """Views of a video."""
        return self.num_segments * self.num_crops


@dataclass(frozen=True)
class ViewCollator:
    """Rows to their views, decoded once per video inside the loading worker.

    Returns a list with one dict per row: `video_id`, `label`, and either `views`, uint8 `(views, T, C, S, S)`, or
    `reason` when the video cannot be read.
    """

    options: ViewOptions
    decoder: str | None = None
    cache: DecodedVideoCache | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self._load(row) for row in rows]

    def _load(self, row: Mapping[str, Any]) -> dict[str, Any]:
        sample = {"video_id": row["video_id"], "label": row.get("label")}
        try:
            return sample | {"views": self.views(row["video"], row["video_id"])}
        except VideoReadError as error:
            return sample | {"reason": error.reason}

    def views(self, video: Any, video_id: str | None = None) -> torch.Tensor:
        """All views of one video, uint8 `(views, T, C, S, S)`, segment by segment.

        Raises:
            VideoReadError: If the video cannot be read.
        """
        options = self.options
        with open_video(video, self.decoder, video_id=video_id, cache=self.cache) as reader:
            views = evaluation_views(
                len(reader),
                reader.height,
                reader.width,
                num_frames=options.num_frames,
                sampling_rate=options.sampling_rate,
                num_segments=options.num_segments,
                num_crops=options.num_crops,
                crop_size=options.crop_size,
                mode=options.mode,
            )
            wanted = np.array([view.frame_indices for view in views])
            unique, positions = np.unique(wanted, return_inverse=True)
            frames = torch.from_numpy(np.ascontiguousarray(reader.frames(unique))).permute(0, 3, 1, 2)
        frames = resize_short_side(frames, options.crop_size)  # once for all views that share a frame
        size = options.crop_size
        clips = [
            frames[picked, :, view.top : view.top + size, view.left : view.left + size]
            for view, picked in zip(views, torch.from_numpy(positions.reshape(wanted.shape)), strict=True)
        ]
        return torch.stack(clips)


@dataclass
class MultiViewResult:
    """Outcome of a multi-view test.

    Args:
        predictions (`list[dict]`): Per readable video, in the order of the list: `video_id`, `label`, `probabilities`
            (classes, float32; mean of the views' softmax) and `view_predictions` (views, int64).
        unreadable (`list[tuple[str, str]]`): (video_id, reason) of the others.
    """

    predictions: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def num_expected(self) -> int:
        """Videos of the list."""
        return len(self.predictions) + len(self.unreadable)

    def top_k_accuracy(self, k: int) -> float:
        """Share of all videos of the list whose label is among their `k` most probable classes."""
        hits = sum(int(p["label"] in np.argsort(-p["probabilities"], kind="stable")[:k]) for p in self.predictions)
        return hits / max(self.num_expected, 1)

    def clip_accuracy(self) -> float:
        """Mean over all videos of the share of their views that are right taken alone."""
        right = sum(float(np.mean(p["view_predictions"] == p["label"])) for p in self.predictions)
        return right / max(self.num_expected, 1)

    def metrics(self) -> dict[str, float | int]:
        """Accuracies in [0, 1] and counts; top-5 only where there are more than 5 classes."""
        num_classes = len(self.predictions[0]["probabilities"]) if self.predictions else 0
        metrics: dict[str, float | int] = {
            "accuracy": self.top_k_accuracy(1),
            "clip_accuracy": self.clip_accuracy(),
            "videos_expected": self.num_expected,
            "videos_read": len(self.predictions),
        }
        return metrics | ({"top5_accuracy": self.top_k_accuracy(5)} if num_classes > 5 else {})


def run_multi_view_test(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    options: ViewOptions,
    accelerator: Accelerator,
    *,
    videos_per_batch: int = 8,
    num_workers: int = 0,
    decoder: str | None = None,
    cache: DecodedVideoCache | None = None,
) -> MultiViewResult:
    """Tests a classifier; each process takes its share of the videos and all return the whole result.

    Args:
        model (`torch.nn.Module`): Takes `pixel_values` uint8 `(B, T, C, S, S)` and returns `logits` `(B, classes)`.
        rows (`Sequence`): Labelled rows, as [`load_video_dataset`] gives them.
        options ([`ViewOptions`]): The views.
        accelerator (`accelerate.Accelerator`): Device, precision and processes.
        videos_per_batch (`int`, *optional*, defaults to 8): Videos decoded and classified together.
        num_workers (`int`, *optional*, defaults to 0): Decoding processes.
        decoder, cache (*optional*): As in [`~amd_hf.data.decoding.open_video`].

    Raises:
        ValueError: If a row has no label.
    """
    loader = build_eval_loader(
        rows,
        videos_per_batch,
        ViewCollator(options, decoder, cache),
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        num_workers=num_workers,
    )
    progress = tqdm(loader, desc="multi-view test", unit="batch", disable=not accelerator.is_main_process)
    outcomes = [outcome for batch in progress for outcome in _classify(model, batch, accelerator)]
    if accelerator.num_processes > 1:
        outcomes = gather_object(outcomes)
    position = {video_id: number for number, video_id in enumerate(row["video_id"] for row in rows)}
    outcomes.sort(key=lambda outcome: position[outcome["video_id"]])
    return MultiViewResult(
        predictions=[outcome for outcome in outcomes if "reason" not in outcome],
        unreadable=[(outcome["video_id"], outcome["reason"]) for outcome in outcomes if "reason" in outcome],
    )


def _classify(model: nn.Module, batch: list[dict[str, Any]], accelerator: Accelerator) -> Iterator[dict[str, Any]]:
    for sample in batch:
        if sample["label"] is None:
            raise ValueError(f"Video {sample['video_id']!r} has no label: a test needs labelled videos.")
    readable = [sample for sample in batch if "views" in sample]
    yield from (sample for sample in batch if "views" not in sample)
    if not readable:
        return
    clips = torch.cat([sample["views"] for sample in readable]).to(accelerator.device)
    probabilities = class_probabilities(model, clips, accelerator).view(len(readable), -1, model.config.num_labels)
    for sample, of_views in zip(readable, probabilities.cpu().numpy(), strict=True):
        yield {
            "video_id": sample["video_id"],
            "label": int(sample["label"]),
            "probabilities": of_views.mean(axis=0),
            "view_predictions": of_views.argmax(axis=-1),
        }


@torch.no_grad()
def class_probabilities(model: nn.Module, clips: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """Softmax of the logits of uint8 clips `(B, T, C, H, W)`: float32 `(B, classes)`; the model in eval mode."""
    model.eval()
    with accelerator.autocast():
        logits = model(pixel_values=clips).logits
    return logits.float().softmax(dim=-1)
