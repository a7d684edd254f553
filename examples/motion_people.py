"""MotionPeople: rendered films in AVA's file formats, with several moving shapes at a time, each with its own actions.

A shape stands for a person. It slides left, right, up or down, and half of the shapes come nearer or go farther
besides, so a box has one action or two. Every second is a scene of its own of two to four shapes, whose middle frame
is the key frame. It shows nothing of the actions: position, size and looks are drawn by the same law for all actions,
and the shapes of a scene move independently of each other. Only the motion in a box reveals its actions.

root/videos/<split>000.mp4      seconds 1, 2, ... are key frames
root/<split>.csv                `train000,0001,0.2031,0.1562,0.4375,0.3906,1,0`, one line per action of a box
root/<split>_persons.csv        `train000,0001,0.2,0.16,0.44,0.39,0.93`, boxes as a person detector finds them
root/<split>_excluded.csv       key frames to leave out: none
root/actions.pbtxt              the list of actions
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amd_hf.detection.datasets.ava_files import format_timestamp
from amd_hf.outputs.files import OutputFiles
from examples.motion_shapes import (
    _FRAMES_PER_SECOND,
    SceneLaw,
    _coverage,
    _draw_background,
    _draw_outline,
    _paint,
    _shape_coordinates,
    _Track,
    encode_video,
)


PEOPLE_ACTIONS: tuple[str, ...] = ("left", "right", "up", "down", "nearer", "farther")
FRAMES_PER_SECOND = _FRAMES_PER_SECOND

_SLIDES = (-1.0, 1.0, -1j, 1j)
_GROWTHS = (0, 0, 1, -1)  # half of the shapes keep their size
_LAW = SceneLaw(radius=(0.09, 0.12), roughness=0.25, slide=(0.014, 0.024), growth=(0.05, 0.08))
_SPREAD = (
    0.04  # of a shape's position around the middle of its quarter of the picture, which it does not leave by sliding
)


class Person(NamedTuple):
    """A shape at a key frame: its box as fractions of the frame, and its actions, counted from 1."""

    box: tuple[float, float, float, float]
    actions: tuple[int, ...]


class PeopleFiles(NamedTuple):
    """The files of a split, the arguments of `load_action_dataset`."""

    annotations: Path
    videos: Path
    action_list: Path
    excluded: Path
    person_boxes: Path


def render_scene(rng: np.random.Generator, size: int = 64) -> tuple[np.ndarray, list[Person]]:
    """Render a second of film.

    Args:
        rng (`np.random.Generator`): what everything is drawn from.
        size (`int`, default 64): height and width in pixels.

    Returns:
        Frames, uint8 (8, size, size, 3), and what is there and happens in frame 4, the key frame.
    """
    time = np.arange(FRAMES_PER_SECOND) - FRAMES_PER_SECOND // 2
    picture = _draw_background(len(time), size, _LAW, rng)
    persons = []
    for quarter in rng.permutation(4)[: rng.integers(2, 5)]:
        slide, growth = int(rng.integers(4)), int(rng.choice(_GROWTHS))
        middle = complex(quarter % 2 - 0.5, quarter // 2 - 0.5) / 2 + complex(*rng.uniform(-_SPREAD, _SPREAD, 2))
        track = _Track(
            centre=middle + _SLIDES[slide] * rng.uniform(*_LAW.slide) * time,
            angle=np.full(len(time), rng.uniform(0, 2 * np.pi)),
            radius=rng.uniform(*_LAW.radius) * np.exp(growth * rng.uniform(*_LAW.growth) * time),
        )
        z = _shape_coordinates(track, size)
        alpha = _coverage(z, track.radius, _draw_outline(_LAW, rng), size)
        picture += alpha[..., None] * (_paint(z.real, _LAW.shape_colours, _LAW.shape_ramp, rng) - picture)
        rows, columns = np.nonzero(alpha[len(time) // 2] > 0.5)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        actions = (slide + 1, *((PEOPLE_ACTIONS.index("nearer" if growth > 0 else "farther") + 1,) if growth else ()))
        persons.append(Person(tuple(round(float(side) / size, 4) for side in box), actions))  # type: ignore[arg-type]
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8), persons


def render_film(rng: np.random.Generator, seconds: int, size: int = 64) -> tuple[np.ndarray, list[list[Person]]]:
    """Render a film whose seconds 1, 2, ... `seconds` are key frames, with half an empty second at either end.

    Returns:
        Frames, uint8 (8 * (seconds + 1), size, size, 3), and the persons of each key frame.
    """
    scenes, persons = zip(*(render_scene(rng, size) for _ in range(seconds)), strict=True)
    empty = np.full((FRAMES_PER_SECOND // 2, size, size, 3), 60, dtype=np.uint8)
    return np.concatenate([empty, *scenes, empty]), list(persons)


def write_motion_people(
    root: str | os.PathLike[str], split: str, num_videos: int, seconds: int, seed: int, *, size: int = 64
) -> PeopleFiles:
    """Render a split into H.264 mp4 files with annotations in AVA's formats, every film from a seed of its own.

    Args:
        root (`str` or `os.PathLike`): folder of the data set; files of the split that are there are written anew
            if they were written by this function and have not been changed since.
        split (`str`): its name, with which the names of its films begin.
        num_videos (`int`): how many films.
        seconds (`int`): key frames of each.
        seed (`int`): of the split; splits of other names hold other films.
        size (`int`, default 64): height and width in pixels, a multiple of 16.

    Raises:
        ValueError: an impossible size or number, or files of these names that this function did not write.
    """
    if size < 16 or size % 16:
        raise ValueError(f"`size` must be a multiple of 16 for H.264 without padding, got {size}.")
    if num_videos < 1 or seconds < 1:
        raise ValueError(f"`num_videos` and `seconds` must be at least 1, got {num_videos} and {seconds}.")
    files = people_files(root, split)
    names = [f"{split}{number:03d}" for number in range(num_videos)]
    paths = [*(files.videos / f"{name}.mp4" for name in names), files.annotations, files.person_boxes, files.excluded]
    actions = files.action_list  # the same for all splits
    if not actions.is_file() or actions.read_text() != action_list_text(PEOPLE_ACTIONS):
        paths.append(actions)
    with OutputFiles(paths, "write_motion_people", folder=Path(root)):
        _write_films(files, names, split, seconds, seed, size)
    return files


def _write_films(files: PeopleFiles, names: Sequence[str], split: str, seconds: int, seed: int, size: int) -> None:
    actions, boxes = [], []
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
        frames, scenes = render_film(rng, seconds, size)
        (files.videos / f"{name}.mp4").write_bytes(encode_video(frames))
        for second, persons in enumerate(scenes, start=1):
            key_frame = f"{name},{format_timestamp(second)}"
            actions += annotation_lines(key_frame, persons)
            boxes += [
                f"{key_frame},{_join(_detected(person.box, rng))},{rng.uniform(0.85, 1):.3f}" for person in persons
            ]
            boxes.append(f"{key_frame},{_join(_stray_box(rng))},{rng.uniform(0.1, 0.75):.3f}")  # below the threshold
    files.annotations.write_text("".join(f"{line}\n" for line in actions))
    files.person_boxes.write_text("".join(f"{line}\n" for line in boxes))
    files.excluded.write_text("")
    write_action_list(files.action_list, PEOPLE_ACTIONS)


def people_files(root: str | os.PathLike[str], split: str) -> PeopleFiles:
    """Where the files of a split are."""
    root = Path(root)
    return PeopleFiles(
        annotations=root / f"{split}.csv",
        videos=root / "videos",
        action_list=root / "actions.pbtxt",
        excluded=root / f"{split}_excluded.csv",
        person_boxes=root / f"{split}_persons.csv",
    )


def annotation_lines(key_frame: str, persons: Sequence[Person]) -> list[str]:
    """Return the lines of an annotation file for the persons of a key frame (`name,second`)."""
    return [
        f"{key_frame},{_join(person.box)},{action},{identity}"
        for identity, person in enumerate(persons)
        for action in person.actions
    ]


def write_action_list(path: Path, names: Sequence[str]) -> Path:
    """Write a `.pbtxt` list of actions in the form of AVA's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(action_list_text(names))
    return path


def action_list_text(names: Sequence[str]) -> str:
    """A list of actions in the form of AVA's."""
    items = [
        f'label {{\n  name: "{name}"\n  label_id: {number}\n  label_type: PERSON_MOVEMENT\n}}\n'
        for number, name in enumerate(names, start=1)
    ]
    return "".join(items)


def _join(box: Sequence[float] | np.ndarray) -> str:
    return ",".join(f"{side:.4g}" for side in box)


def _detected(box: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A box as a person detector finds it: each side up to 5% of its length off."""
    x1, y1, x2, y2 = box
    return np.clip(box + rng.uniform(-0.05, 0.05, 4) * [x2 - x1, y2 - y1, x2 - x1, y2 - y1], 0, 1)


def _stray_box(rng: np.random.Generator) -> np.ndarray:
    corner = rng.uniform(0, 0.7, 2)
    return np.concatenate([corner, corner + rng.uniform(0.1, 0.3, 2)])
