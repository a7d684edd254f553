"""A rendered miniature of AVA: several moving shapes at a time, each with its own motion, in AVA's file formats.

A shape slides (left, right, up or down), and half of the shapes come nearer or go farther besides. At the key frame
nothing of that can be seen: place, size and looks are drawn by the same law for all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amd_hf.data import motion_shapes as shapes
from tests.helpers.videos import write_video


ACTIONS = ("left", "right", "up", "down", "nearer", "farther")
FRAMES_PER_SECOND = 10
SIZE = 64

_SLIDES = ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))
_LAW = shapes.SceneLaw(roughness=0.25)


class Person(NamedTuple):
    """A shape at a key frame: its box as shares of the frame, and its actions, from 1."""

    box: tuple[float, float, float, float]
    actions: tuple[int, ...]


class MiniatureAVA(NamedTuple):
    """The files of a miniature."""

    videos: Path
    annotations: Path
    action_list: Path
    person_boxes: Path


def render_second(rng: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, list[Person]]:
    """A second of film, uint8 (frames, size, size, 3), and what happens in its middle frame."""
    time = np.arange(FRAMES_PER_SECOND) - FRAMES_PER_SECOND // 2
    picture = shapes._draw_background(FRAMES_PER_SECOND, size, _LAW, rng)
    persons = []
    cells = rng.permutation(4)[: rng.integers(2, 5)]
    for cell in cells:
        slide = int(rng.integers(4))
        growth = int(rng.choice([0, 0, 1, -1]))
        # Cells of half the picture: what slides in one stays in it.
        middle = complex(cell % 2 - 0.5, cell // 2 - 0.5) / 2 + complex(*rng.uniform(-0.04, 0.04, 2))
        speed = rng.uniform(0.014, 0.024)
        centre = middle + complex(*_SLIDES[slide]) * speed * time
        radius = rng.uniform(0.09, 0.12) * np.exp(growth * rng.uniform(0.05, 0.08) * time)
        track = shapes._Track(centre, np.full(len(time), rng.uniform(0, 2 * np.pi)), radius)
        z = shapes._shape_coordinates(track, size)
        alpha = shapes._coverage(z, track.radius, shapes._draw_outline(_LAW, rng), size)
        surface = shapes._paint(z.real, _LAW.shape_colours, _LAW.shape_ramp, rng)
        picture += alpha[..., None] * (surface - picture)
        rows, columns = np.nonzero(alpha[len(time) // 2] > 0.5)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        actions = (slide + 1, *((5 if growth > 0 else 6,) if growth else ()))
        persons.append(Person(tuple(round(float(side) / size, 4) for side in box), actions))
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8), persons


def write_miniature(
    root: Path, split: str, num_videos: int, seconds: int, seed: int, layout: str = "file", size: int = SIZE
) -> MiniatureAVA:
    """Render videos whose seconds 1, 2, ... `seconds` are key frames, each with shapes of its own.

    The files of a layout: whole videos, one-second pieces (from second 0 on), or folders of frames.
    """
    annotations, persons = [], []
    videos = root / f"{split}_{layout}"
    for number in range(num_videos):
        rng = np.random.default_rng([seed, number])
        name = f"{split}{number:03d}"
        # Seconds begin with their key frame: half a second without annotations at either end.
        parts = [np.full((FRAMES_PER_SECOND // 2, size, size, 3), 60, dtype=np.uint8)]
        for second in range(1, seconds + 1):
            frames, found = render_second(rng, size)
            parts.append(frames)
            for identity, person in enumerate(found):
                box = ",".join(map(str, person.box))
                annotations += [f"{name},{second:04d},{box},{action},{identity}" for action in person.actions]
                persons.append({"video": name, "timestamp": second, "box": list(person.box), "score": 0.9})
        parts.append(parts[0])
        _write(videos, name, np.concatenate(parts), layout)
    files = MiniatureAVA(
        videos,
        root / f"{split}.csv",
        write_action_list(root / "actions.pbtxt", ACTIONS),
        root / f"{split}_persons.json",
    )
    files.annotations.write_text("".join(f"{line}\n" for line in annotations))
    files.person_boxes.write_text(json.dumps(persons))
    return files


def _write(videos: Path, name: str, frames: np.ndarray, layout: str) -> None:
    if layout == "file":
        write_video(videos / f"{name}.mp4", frames=frames, fps=FRAMES_PER_SECOND)
    elif layout == "pieces":
        for second in range(len(frames) // FRAMES_PER_SECOND):
            part = frames[second * FRAMES_PER_SECOND : (second + 1) * FRAMES_PER_SECOND]
            write_video(videos / name / f"{second}.mp4", frames=part, fps=FRAMES_PER_SECOND)
    else:
        write_frames(videos / name, name, frames)


def write_frames(folder: Path, name: str, frames: np.ndarray) -> None:
    """A folder of numbered jpg files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"{name}_{number:06d}.jpg", quality=95)


def write_action_list(path: Path, names: Sequence[str]) -> Path:
    """A list in the form of AVA's with all actions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    items = [f'label {{\n  name: "{name}"\n  label_id: {i}\n  label_type: PERSON_MOVEMENT\n}}\n' for i, name in
             enumerate(names, start=1)]  # fmt: skip
    path.write_text("".join(items))
    return path


DETECTOR: dict[str, Any] = {
    "image_size": SIZE, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "hidden_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
"""A model that learns the miniature in minutes on a CPU."""
