"""The actions of the persons in one's own video, from boxes that any person detector has found."""

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
    """Read the boxes of one video from a csv or JSON file, which may hold those of others too.

    Args:
        boxes (path): See `amd_hf.detection.datasets.ava_files`. The video is named as its file without the ending;
            JSON entries without a name are taken for its.
        video (`str`): The video file.
        min_score (`float`): Boxes of a lower score are left out.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it has bad lines, or no box of this video.
    """
    name, problems = Path(video).stem, Problems()
    found = read_person_boxes(Path(boxes), problems, video=name)
    problems.raise_if_any()
    others = {box.key_frame.video for box in found}
    if name not in others:
        raise ValueError(f"{boxes} has no box of the video {name!r}; it has those of {', '.join(sorted(others)[:5])}.")
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
        boxes (`list[PersonBox]`): What to score.
        loader ([`~amd_hf.detection.clips.DetectionClipLoader`]): How clips are read.
        clips_per_batch (`int`, defaults to 4): Moments that go through the model together.

    Returns:
        In order of time, for each moment with boxes, `timestamp` (seconds), `boxes` (n, 4) as shares of the frame,
        `person_scores` (n,), and `scores` (n, classes), the probability of each action times the person's score; or
        `error`, why the moment cannot be read.
    """
    moments: dict[float, list[PersonBox]] = {}
    for box in sorted(boxes, key=lambda box: box.key_frame.timestamp):
        moments.setdefault(box.key_frame.timestamp, []).append(box)
    rows = [
        {
            "video": {"path": video, "layout": "file", "start_seconds": 0.0, "frame_rate": None},
            "video_id": str(found[0].key_frame),
            "timestamp": timestamp,
            "person_boxes": [box.box for box in found],
            "person_scores": [box.score for box in found],
        }
        for timestamp, found in moments.items()
    ]
    collator = DetectionTestCollator(loader)
    batches = (collator(rows[start : start + clips_per_batch]) for start in range(0, len(rows), clips_per_batch))
    times = iter(moments)
    for outcomes in detect(model, batches, accelerator):
        for outcome in outcomes:
            found = {"timestamp": next(times), "boxes": outcome["test_boxes"]}
            found["person_scores"] = outcome["person_scores"]
            yield found | ({"error": outcome["reason"]} if "reason" in outcome else {"scores": outcome["scores"]})


def as_json(moment: dict[str, Any], names: dict[int, str], top_k: int, min_score: float) -> dict[str, Any]:
    """Return a timestamp of [`detect_in_video`] as JSON has it: for each person its box and likeliest actions.

    Args:
        names (`dict[int, str]`): The model's classes by number.
        top_k (`int`): Most actions of a person.
        min_score (`float`): Actions of a lower score are left out.
    """
    if "error" in moment:
        return {"timestamp": moment["timestamp"], "error": moment["error"]}
    persons = []
    for box, person_score, scores in zip(moment["boxes"], moment["person_scores"], moment["scores"], strict=True):
        likeliest = [int(number) for number in np.argsort(-scores, kind="stable")[:top_k]]
        actions = [{"label": names[n], "score": float(scores[n])} for n in likeliest if scores[n] >= min_score]
        persons.append({"box": [float(s) for s in box], "person_score": float(person_score), "actions": actions})
    return {"timestamp": moment["timestamp"], "persons": persons}


__all__ = ["as_json", "detect_in_video", "read_boxes_of_video"]
