"""Test of an action detector: scores of every class for every box of every key frame, and their frame mAP.

Every key frame counts once, for any number of processes. If one cannot be read, its true boxes count as missed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..data.loaders import build_eval_loader
from ..evaluation.report import CLASSES_FILE, METRICS_FILE
from ..modeling_amd import AMDPatchEmbeddings
from ..modeling_amd_detection import AMDForActionDetection
from ..outputs.csv_text import csv_line
from ..video_processing_amd import AMDVideoProcessor
from .clips import DetectionClipLoader, DetectionTestCollator
from .datasets.ava import action_names
from .mean_average_precision import FrameBoxes, average_precisions, mean_of


logger = logging.get_logger(__name__)

DETECTIONS_FILE = "detections.csv"


@dataclass
class DetectionResult:
    """Outcome of a test.

    Args:
        outcomes (`list[dict]`): For each key frame, in the order of their names: `video_id`; `test_boxes` (n, 4),
            float64, as fractions of the frame; `scores` (n, classes), float32, each the action's score times the
            person's, with no rows if the key frame could not be read; `boxes` and `actions`, the ground truth;
            `reason`, if it could not be read.
        class_names (`Sequence[str]`): All class names, by index.
        scored (`Sequence[str]`, *optional*): Names of the classes that count (60 of AVA's 80); by default all.

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
        """Return (video_id, reason) of each key frame that could not be read."""
        return [(outcome["video_id"], outcome["reason"]) for outcome in self.outcomes if "reason" in outcome]

    @property
    def scored_classes(self) -> list[int]:
        """Return the indices of the classes that count."""
        scored = set(self.class_names if self.scored is None else self.scored)
        return [index for index, name in enumerate(self.class_names) if name in scored]

    def average_precisions(self, max_per_frame: int | None = None) -> dict[str, Any]:
        """Return `map` and `average_precision` by class: see [`FrameMeanAveragePrecision`]."""
        # Key frames get indices in the order of their names, which decides the order of equal scores.
        names = np.array([outcome["video_id"] for outcome in self.outcomes], dtype=str)
        rank = np.empty(len(names), dtype=np.int64)
        rank[np.argsort(names, kind="stable")] = np.arange(len(names))

        # Detections: every class of every box is an entry.
        num_classes = len(self.class_names)
        tested = [outcome for outcome in self.outcomes if len(outcome["scores"])]
        boxes = np.concatenate([np.zeros((0, 4)), *(outcome["test_boxes"] for outcome in tested)])
        scores = np.concatenate([np.zeros((0, num_classes)), *(outcome["scores"] for outcome in tested)])
        detections = FrameBoxes(
            np.repeat(rank, [len(outcome["scores"]) for outcome in self.outcomes]),
            boxes,
            np.repeat(np.arange(len(boxes)), num_classes),
            np.tile(np.arange(num_classes), len(boxes)),
            scores.ravel(),
        )

        # The ground truth: a box has one entry per action.
        true_boxes = np.array([box for outcome in self.outcomes for box in outcome["boxes"]]).reshape(-1, 4)
        actions = [classes for outcome in self.outcomes for classes in outcome["actions"]]
        truth = FrameBoxes(
            np.repeat(rank, [len(outcome["boxes"]) for outcome in self.outcomes]),
            true_boxes,
            np.repeat(np.arange(len(true_boxes)), [len(classes) for classes in actions]).astype(np.int64),
            np.array([number for classes in actions for number in classes], dtype=np.int64),
        )
        found = average_precisions(detections, truth, max_per_frame)
        return mean_of(found, {index: self.class_names[index] for index in self.scored_classes})

    def counts(self) -> dict[str, int]:
        """Return `videos_expected` and `videos_read`, both of key frames, and `boxes_tested`."""
        return {
            "videos_expected": len(self.outcomes),
            "videos_read": sum("reason" not in outcome for outcome in self.outcomes),
            "boxes_tested": sum(len(outcome["scores"]) for outcome in self.outcomes),
        }

    def metrics(self) -> dict[str, float | int]:
        """Return `map` in [0, 1], and the counts."""
        return {"map": self.average_precisions()["map"] if self.outcomes else float("nan"), **self.counts()}

    def write_csv(self, path: Any) -> None:
        """Write the scored detections in AVA's submission format, `video,0902,x1,y1,x2,y2,action,score` a line.

        Video names that a spreadsheet could take for a formula get a `'` in front (see [`amd_hf.outputs.csv_text`]),
        except for names like AVA's `-5KQ66BBWC4`, which the official program compares with its list.
        """
        classes = self.scored_classes
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for outcome in self.outcomes:
                video, _, timestamp = outcome["video_id"].rpartition(",")  # the video may have a comma of its own
                # Word characters and hyphens are harmless in a spreadsheet: they make no function call.
                cell = video if re.fullmatch(r"-[\w-]+", video) else csv_line([video]).removesuffix("\n")
                for box, scores in zip(outcome["test_boxes"], outcome["scores"], strict=False):
                    start = f"{cell},{timestamp},{','.join(f'{side:.6g}' for side in box)}"
                    file.writelines(f"{start},{n + 1},{scores[n]:.6g}\n" for n in classes)


def write_detection_report(
    result: DetectionResult,
    folder: str | Path,
    max_per_frame: int | None = None,
    tested: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write metrics, average precision by class and the scored detections to a folder.

    Args:
        result ([`DetectionResult`]): The outcome.
        folder (`str` or `Path`): Created if it does not exist.
        max_per_frame (`int`, *optional*): Detections that count per key frame; by default all.
        tested (`Mapping[str, Any]`, *optional*): Model and data of the test: see
            [`~amd_hf.evaluation.report.describe_test`].

    Returns:
        What `test_results.json` holds: `map`, the counts, under `tested` what they were measured on, and under
        `unreadable` each key frame that could not be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = result.average_precisions(max_per_frame)
    unreadable = [{"video_id": video_id, "reason": reason} for video_id, reason in result.unreadable]
    summary = {
        **({"tested": dict(tested)} if tested else {}),
        **result.counts(),
        "map": found["map"],
        "unreadable": unreadable,
    }
    (folder / METRICS_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    with open(folder / CLASSES_FILE, "w", encoding="utf-8", newline="") as file:
        file.write(csv_line(["action", "average_precision"]))
        file.writelines(csv_line([name, f"{value:.6f}"]) for name, value in found["average_precision"].items())
    result.write_csv(folder / DETECTIONS_FILE)
    return summary


def check_scored_names(scored: Sequence[str] | None, class_names: Sequence[str]) -> None:
    """Raise `ValueError` where a class to be scored is none of the classes."""
    unknown = sorted(set(scored or ()) - set(class_names))
    if unknown:
        raise ValueError(f"{len(unknown)} of the scored actions are none of the model's, the first is {unknown[0]!r}.")


@torch.no_grad()
def detect(model: nn.Module, batches: Iterable[dict[str, Any]], accelerator: Accelerator) -> Iterator[list[dict]]:
    """Yield the outcomes of the batches of a `DetectionTestCollator`, one list per batch; see [`DetectionResult`].

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
            pixels = embeddings.normalize(clips.movedim(2, -1)).movedim(-1, 2)
            # Pad to whole patches, to the right and below; after normalisation, so that padding is the mean colour.
            height, width = pixels.shape[-2:]
            patch = model.config.patch_size
            pixels = nn.functional.pad(pixels, (0, -width % patch, 0, -height % patch))
            with accelerator.autocast():
                logits = model(pixel_values=pixels, boxes=[sample["clip"].boxes for sample in group]).logits
            scores = logits.float().sigmoid().cpu().numpy()
            if not np.isfinite(scores).all():
                raise ValueError("The model's scores are not finite: its weights are bad.")
            ends = np.cumsum([len(sample["test_boxes"]) for sample in group])[:-1]
            for sample, of_clip in zip(group, np.split(scores, ends), strict=True):
                sample["scores"] = of_clip * sample["person_scores"][:, None].astype(np.float32)
        yield [{name: value for name, value in s.items() if name != "clip"} for s in batch["samples"]]


def evaluation_clip_loader(
    config: AMDConfig,
    processor: AMDVideoProcessor,
    sampling_rate: int | None = None,
    decoder: str | None = None,
    time_limit: float | None = None,
) -> DetectionClipLoader:
    """Return the loader of test clips: frames of the model's config, short side and step of the processor.

    Args:
        config ([`AMDConfig`]): The detector's.
        processor ([`AMDVideoProcessor`]): See `amd_hf.models.load_detection_processor`.
        sampling_rate (`int`, *optional*): Step between frames instead of the processor's.
        decoder (`str`, *optional*): Video decoder by name.
        time_limit (`float`, *optional*): Seconds a file may take; see [`~amd_hf.data.video.decoding.open_video`].
    """
    return DetectionClipLoader(
        num_frames=config.num_frames,
        sampling_rate=sampling_rate or processor.sampling_rate,
        num_labels=config.num_labels,
        crop_size=1,  # unused: a test takes whole frames
        short_side=processor.size["shortest_edge"],
        decoder=decoder,
        decode_time_limit=time_limit,
    )


def run_detection_test(
    model: AMDForActionDetection,
    rows: Any,
    loader: DetectionClipLoader,
    accelerator: Accelerator,
    *,
    clips_per_batch: int = 8,
    num_workers: int = 0,
    scored: Sequence[str] | None = None,
) -> DetectionResult:
    """Test a detector on every key frame of `rows`, each once for any number of processes.

    Args:
        model ([`AMDForActionDetection`]): On the accelerator's device.
        rows (`datasets.Dataset`): From `load_action_dataset`.
        loader ([`DetectionClipLoader`]): How clips are read; see [`evaluation_clip_loader`].
        accelerator (`Accelerator`): Device, precision and processes.
        clips_per_batch, num_workers (`int`): Key frames in a batch, and loading processes.
        scored (`Sequence[str]`, *optional*): Names of the classes that count; by default all.

    Raises:
        ValueError: If the classes of the data are not the model's, or one to be scored is none of them.
    """
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    check_action_names(rows, names)
    check_scored_names(scored, names)
    batches = build_eval_loader(
        rows, clips_per_batch, DetectionTestCollator(loader), num_workers=num_workers,
        num_processes=accelerator.num_processes, process_index=accelerator.process_index,
    )  # fmt: skip
    outcomes = [outcome for of_batch in detect(model, batches, accelerator) for outcome in of_batch]
    return DetectionResult(collect(outcomes, accelerator), names, scored)


def check_action_names(rows: Any, names: Sequence[str]) -> None:
    """Check that the classes of a data set are those of a model, in the same order.

    Raises:
        ValueError: If they are not; the error names the first difference. A model without class names fits any data.
    """
    ours = action_names(rows)
    if list(names) == [f"LABEL_{number}" for number in range(len(names))] and len(names) == len(ours):
        logger.warning("The model does not name its actions: they are assumed to be the data's, in the same order.")
        return
    for number, (one, other) in enumerate(zip_longest(ours, names)):
        if one != other:
            raise ValueError(
                f"The actions of the data are not those of the model: number {number + 1} is {one!r} in the data and "
                f"{other!r} in the model ({len(ours)} and {len(names)} actions). Give the model's action list."
            )


def collect(outcomes: list[dict[str, Any]], accelerator: Accelerator) -> list[dict[str, Any]]:
    """Gather the outcomes of all processes, in the order of their names; the same on each process."""
    if accelerator.num_processes > 1:
        outcomes = gather_object(outcomes)
    return sorted(outcomes, key=lambda outcome: outcome["video_id"])


__all__ = [
    "DetectionResult",
    "check_action_names",
    "check_scored_names",
    "collect",
    "detect",
    "evaluation_clip_loader",
    "run_detection_test",
    "write_detection_report",
]
