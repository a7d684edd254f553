"""Rendered miniatures of AVA in each layout of its videos, and what the tests of detection share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amd_hf import AMDConfig, AMDDetectionArguments
from examples.motion_people import (
    FRAMES_PER_SECOND,
    PEOPLE_ACTIONS,
    PeopleFiles,
    annotation_lines,
    people_files,
    render_film,
    write_action_list,
    write_motion_people,
)
from tests.helpers.models import random_clips
from tests.helpers.videos import write_video


def write_miniature(
    root: Path, split: str, num_videos: int, seconds: int, seed: int, layout: str = "file", size: int = 64
) -> PeopleFiles:
    """Films whose seconds 1, 2, ... `seconds` are key frames: files, one-second pieces from second 0 on, or frames."""
    if layout == "file":
        return write_motion_people(root, split, num_videos, seconds, seed, size=size)
    files = people_files(root, split)
    lines = []
    for number in range(num_videos):
        name = f"{split}{number:03d}"
        frames, scenes = render_film(np.random.default_rng([seed, number]), seconds, size)
        for second, persons in enumerate(scenes, start=1):
            lines += annotation_lines(f"{name},{second:04d}", persons)
        if layout == "pieces":
            for second in range(len(frames) // FRAMES_PER_SECOND):
                part = frames[second * FRAMES_PER_SECOND : (second + 1) * FRAMES_PER_SECOND]
                write_video(files.videos / name / f"{second}.mp4", frames=part, fps=FRAMES_PER_SECOND)
        else:
            write_frames(files.videos / name, name, frames)
    write_action_list(files.action_list, PEOPLE_ACTIONS)
    files.annotations.write_text("".join(f"{line}\n" for line in lines))
    return files


def write_frames(folder: Path, name: str, frames: np.ndarray) -> None:
    """A folder of numbered jpg files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"{name}_{number:06d}.jpg", quality=95)


def detection_args(output_dir: Path, **changes: Any) -> AMDDetectionArguments:
    """Arguments of a short, silent run on the CPU that logs every step and starts at the full rate."""
    options = {
        "use_cpu": True, "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
        "warmup_epochs": 0, "base_learning_rate": 0.1, "sampling_rate": 2, "short_side": 16,
    }  # fmt: skip
    return AMDDetectionArguments(output_dir=str(output_dir), **{**options, **changes})


def boxed_rows(config: AMDConfig, counts: Sequence[int], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one uint8 clip, as many boxes as `counts` says, and their actions."""
    generator = torch.Generator().manual_seed(seed)
    height, width = config.image_height_width
    rows = []
    for clip, count in zip(random_clips(config, len(counts), seed), counts, strict=True):
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([width / 2, height / 2])
        boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) * 6], dim=1)
        labels = (torch.rand(count, config.num_labels, generator=generator) < 0.4).float()
        rows.append({"pixel_values": clip, "boxes": boxes, "labels": labels})
    return rows


class ListBoxes:
    """Collator of ready rows of boxes."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "boxes": [row["boxes"] for row in rows],
            "labels": [row["labels"] for row in rows],
        }
