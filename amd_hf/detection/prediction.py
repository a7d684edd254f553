"""The actions of the persons in a video, from boxes of any person detector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from ..data.datasets.problems import Problems
from ..modeling_amd_detection import AMDForActionDetection
from .clips import DetectionClipLoader, DetectionTestCollator
from .datasets.ava_files import PersonBox, read_person_boxes
from .evaluation import detect


def read_boxes_of_video(boxes: str | os.PathLike[str], video: str, min_score: float) -> list[PersonBox]:
    """Read the boxes of one video from a csv or JSON file, which may hold boxes of other videos too.

    Args:
        boxes (path): See `amd_hf.detection.datasets.ava_files`. The name of the video is its file name without the
            suffix; JSON entries without a name belong to it.
        video (`str`): The video file.
        min_score (`float`): Ignore boxes with a lower score.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it has bad lines, or no box of this video.
    """
    name, problems = Path(video).stem, Problems()
    found = read_person_boxes(Path(boxes), problems, video=name)
    problems.raise_if_any()
    names = {box.key_frame.video for box in found}
    if name not in names:
        raise ValueError(f"{boxes} has no box of the video {name!r}; it has boxes of {', '.join(sorted(names)[:5])}.")
    return [box for box in found if box.key_frame.video == name and box.score >= min_score]


def detect_in_video(
    model: AMDForActionDetection,
    video: str,
    boxes: list[PersonBox],
    loader: DetectionClipLoader,
    accelerator: Accelerator,
    clips_per_batch: int = 4,
) -> Iterator[dict[str, Any]]:
    """Score the boxes of a video, timestamp by timestamp.

    Args:
        model ([`AMDForActionDetection`]): On the accelerator's device.
        video (`str`): The video file.
        boxes (`list[PersonBox]`): The boxes to score.
        loader ([`~amd_hf.detection.clips.DetectionClipLoader`]): How clips are read.
        clips_per_batch (`int`, defaults to 4): Clips in a batch of the model.

    Returns:
        For each timestamp with boxes, in order: `timestamp` (seconds), `boxes` (n, 4) as fractions of the frame,
        `person_scores` (n,), and `scores` (n, classes), the probability of each action times the person's score; or
        `error`, why its clip cannot be read.
    """
    boxes_at: dict[float, list[PersonBox]] = {}
    for box in sorted(boxes, key=lambda box: box.key_frame.timestamp):
        boxes_at.setdefault(box.key_frame.timestamp, []).append(box)
    rows = [
        {
            "video": {"path": video, "layout": "file", "start_seconds": 0.0, "frame_rate": None},
            "video_id": str(found[0].key_frame),
            "timestamp": timestamp,
            "person_boxes": [box.box for box in found],
            "person_scores": [box.score for box in found],
        }
        for timestamp, found in boxes_at.items()
    ]
    collator = DetectionTestCollator(loader)
    batches = (collator(rows[start : start + clips_per_batch]) for start in range(0, len(rows), clips_per_batch))
    times = iter(boxes_at)
    for outcomes in detect(model, batches, accelerator):
        for outcome in outcomes:
            found = {"timestamp": next(times), "boxes": outcome["test_boxes"]}
            found["person_scores"] = outcome["person_scores"]
            yield found | ({"error": outcome["reason"]} if "reason" in outcome else {"scores": outcome["scores"]})


def as_json(found: dict[str, Any], names: dict[int, str], top_k: int, min_score: float) -> dict[str, Any]:
    """Return a result of [`detect_in_video`] in the form of the JSON output: each person's box and top actions.

    Args:
        found (`dict[str, Any]`): What [`detect_in_video`] yields.
        names (`dict[int, str]`): The model's class names by index.
        top_k (`int`): Most actions per person.
        min_score (`float`): Leave out actions with a lower score.
    """
    if "error" in found:
        return {"timestamp": found["timestamp"], "error": found["error"]}
    persons = []
    for box, person_score, scores in zip(found["boxes"], found["person_scores"], found["scores"], strict=True):
        likeliest = [int(index) for index in np.argsort(-scores, kind="stable")[:top_k]]
        actions = [{"label": names[n], "score": float(scores[n])} for n in likeliest if scores[n] >= min_score]
        persons.append({"box": [float(s) for s in box], "person_score": float(person_score), "actions": actions})
    return {"timestamp": found["timestamp"], "persons": persons}


__all__ = ["as_json", "detect_in_video", "read_boxes_of_video"]
