"""Testing an action detector: scores of every class for every box of every key frame, and what they are worth.

Every key frame of the list counts once, on whatever process. Of one that cannot be read nothing is detected: its true
boxes count as missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..data.detection_collator import pad_to_multiple
from ..modeling_amd import AMDPatchEmbeddings
from .ava_map import FrameBoxes, average_precisions, mean_of


@dataclass
class DetectionResult:
    """Outcome of a test.

    Args:
        outcomes (`list[dict]`): Per key frame, in the order of their names: `video_id`; `test_boxes` (n, 4), float64,
            as shares of the frame; `scores` (n, classes), float32, each action's times that of the person, without
            rows where nothing could be read; `boxes` and `actions`, the ground truth; `reason`, if it could not be
            read.
        class_names (`Sequence[str]`): All classes, in the order of their numbers.
        scored (`Sequence[str]`, *optional*): Names of the classes that count (of AVA 60 of 80); by default all.

    Raises:
        ValueError: If a class to be scored is none of the classes.
    """

    outcomes: list[dict[str, Any]]
    class_names: Sequence[str]
    scored: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_scored_names(self.scored, self.class_names)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(video_id, reason) of the key frames that could not be read."""
        return [(outcome["video_id"], outcome["reason"]) for outcome in self.outcomes if "reason" in outcome]

    def average_precisions(self, max_per_frame: int | None = None) -> dict[str, Any]:
        """`map` and `average_precision` by class: see [`FrameMeanAveragePrecision`]."""
        found = average_precisions(self._detections(), self._truth(), max_per_frame)
        return mean_of(found, {number: self.class_names[number] for number in self.scored_numbers})

    @property
    def scored_numbers(self) -> list[int]:
        """Numbers of the classes that count."""
        scored = set(self.class_names if self.scored is None else self.scored)
        return [number for number, name in enumerate(self.class_names) if name in scored]

    def _frames(self, counts: Sequence[int]) -> np.ndarray:
        """The number of the key frame, in the order of their names, as often as each has boxes."""
        names = np.array([outcome["video_id"] for outcome in self.outcomes], dtype=str)
        rank = np.empty(len(names), dtype=np.int64)
        rank[np.argsort(names, kind="stable")] = np.arange(len(names))
        return np.repeat(rank, counts)

    def _detections(self) -> FrameBoxes:
        counts = [len(outcome["scores"]) for outcome in self.outcomes]
        tested = [outcome for outcome in self.outcomes if len(outcome["scores"])]
        boxes = np.concatenate([np.zeros((0, 4)), *(outcome["test_boxes"] for outcome in tested)])
        scores = np.concatenate([np.zeros((0, len(self.class_names))), *(outcome["scores"] for outcome in tested)])
        return FrameBoxes(
            self._frames(counts),
            boxes,
            np.repeat(np.arange(len(boxes)), len(self.class_names)),
            np.tile(np.arange(len(self.class_names)), len(boxes)),
            scores.ravel(),
        )

    def _truth(self) -> FrameBoxes:
        counts = [len(outcome["boxes"]) for outcome in self.outcomes]
        boxes = np.array([box for outcome in self.outcomes for box in outcome["boxes"]]).reshape(-1, 4)
        actions = [classes for outcome in self.outcomes for classes in outcome["actions"]]
        box_of_entry = np.repeat(np.arange(len(boxes)), [len(classes) for classes in actions])
        classes = np.array([number for classes in actions for number in classes], dtype=np.int64)
        return FrameBoxes(self._frames(counts), boxes, box_of_entry.astype(np.int64), classes)

    def metrics(self) -> dict[str, float | int]:
        """`map` in [0, 1], and counts: `videos_expected` and `videos_read` of key frames, `boxes_tested`."""
        return {
            "map": self.average_precisions()["map"] if self.outcomes else float("nan"),
            "videos_expected": len(self.outcomes),
            "videos_read": sum("reason" not in outcome for outcome in self.outcomes),
            "boxes_tested": sum(len(outcome["scores"]) for outcome in self.outcomes),
        }

    def write_csv(self, path: Any) -> None:
        """Write the scored detections in AVA's submission format, `video,0902,x1,y1,x2,y2,action,score` a line."""
        numbers = self.scored_numbers
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for outcome in self.outcomes:
                for box, scores in zip(outcome["test_boxes"], outcome["scores"], strict=False):
                    place = f"{outcome['video_id']},{','.join(f'{side:.6g}' for side in box)}"
                    file.writelines(f"{place},{number + 1},{scores[number]:.6g}\n" for number in numbers)


def check_scored_names(scored: Sequence[str] | None, class_names: Sequence[str]) -> None:
    """Raises `ValueError` where a class to be scored is none of the classes."""
    unknown = sorted(set(scored or ()) - set(class_names))
    if unknown:
        raise ValueError(f"{len(unknown)} of the scored actions are none of the model's, the first is {unknown[0]!r}.")


@torch.no_grad()
def detect(model: nn.Module, batches: Iterable[dict[str, Any]], accelerator: Accelerator) -> Iterator[list[dict]]:
    """Outcomes of the batches of a `DetectionTestCollator`, one list per batch; see [`DetectionResult`].

    Clips of one size go through the model together, padded to its patch: what is detected in one does not depend on
    which others are tested beside it.

    Raises:
        ValueError: If the model's scores are not finite.
    """
    model.eval()
    embeddings = next(part for part in model.modules() if isinstance(part, AMDPatchEmbeddings))
    num_labels = model.config.num_labels
    for batch in batches:
        groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for sample in batch["samples"]:
            sample["scores"] = np.zeros((0, num_labels), dtype=np.float32)
            if "clip" in sample:
                groups.setdefault(tuple(sample["clip"].pixel_values.shape), []).append(sample)
        for group in groups.values():
            clips = torch.stack([sample["clip"].pixel_values for sample in group]).to(accelerator.device)
            patch = model.config.patch_size
            pixels = pad_to_multiple(embeddings.normalize(clips.movedim(2, -1)).movedim(-1, 2), patch)
            with accelerator.autocast():
                logits = model(pixel_values=pixels, boxes=[sample["clip"].boxes for sample in group]).logits
            scores = logits.float().sigmoid().cpu().numpy()
            if not np.isfinite(scores).all():
                raise ValueError("The model's scores are not finite: its weights are bad.")
            ends = np.cumsum([len(sample["test_boxes"]) for sample in group])[:-1]
            for sample, of_clip in zip(group, np.split(scores, ends), strict=True):
                sample["scores"] = of_clip * sample["person_scores"][:, None].astype(np.float32)
        yield [{name: value for name, value in s.items() if name != "clip"} for s in batch["samples"]]


def collect(outcomes: list[dict[str, Any]], accelerator: Accelerator) -> list[dict[str, Any]]:
    """The outcomes of all processes, in the order of their names; the same on each process."""
    if accelerator.num_processes > 1:
        outcomes = gather_object(outcomes)
    return sorted(outcomes, key=lambda outcome: outcome["video_id"])


__all__ = ["DetectionResult", "check_scored_names", "collect", "detect"]
