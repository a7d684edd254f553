"""One's own videos as a task without labels: tell how a clip is played back - forward, reversed, faster or slower."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from amd_hf.data.video.decoding import VideoReadError, open_video
from amd_hf.evaluation.prediction import find_videos
from amd_hf.outputs.folders import claim_split
from examples.motion_shapes import encode_video


PLAYBACK_CLASSES: tuple[str, ...] = ("faster", "forward", "reversed", "slower")
_STEPS = {"faster": 4, "forward": 2, "reversed": -2, "slower": 1}  # frames of the film per frame of the clip


def write_playback_clips(
    videos: str | os.PathLike[str],
    root: str | os.PathLike[str],
    split: str,
    num_clips: int,
    seed: int,
    labelled: bool = True,
    *,
    num_frames: int = 16,
    size: int = 32,
) -> list[Path]:
    """Cut clips from a folder of videos and play them back in four ways, as H.264 mp4 files in class folders.

    The videos, sorted by name, are dealt out to the splits, so that no video serves two of them: of ten, five go to
    `unlabelled`, two to `train`, one each to `held_out`, `tuning` and `validation`. Clips start at random places.

    Args:
        videos (`str` or `os.PathLike`): Folder with one's own videos, of any depth, at least ten.
        root (`str` or `os.PathLike`): Where `<split>/<class>/<number>.mp4` goes, or `<split>/<number>.mp4`.
        split (`str`): One of these.
        num_clips (`int`): How many, the four ways in turn.
        seed (`int`): Of videos and places.
        labelled (`bool`, default `True`): Whether there are class folders.
        num_frames, size (`int`): Frames of a clip; its height and width, cut from the middle.

    Returns:
        `list[Path]`: The files.

    Raises:
        ValueError: If there are fewer than ten videos, or none of a split's is long enough and readable.
    """
    found = find_videos([os.fspath(videos)])
    if len(found) < len(_DEAL):
        raise ValueError(f"{videos} holds {len(found)} videos; playback clips need at least {len(_DEAL)}.")
    mine = [path for place, path in enumerate(found) if _DEAL[place % len(_DEAL)] == split]
    settings = {"videos": [str(path) for path in mine], "seed": seed, "labelled": labelled}
    claim_split(Path(root) / split, {"clips": "playback", **settings, "num_frames": num_frames, "size": size})
    rng = np.random.default_rng([seed, list(_SPLITS).index(split)])
    written: list[Path] = []
    with tqdm(total=num_clips, desc=f"cutting {split}", unit="clip") as progress:
        while len(written) < num_clips:
            if not mine:
                raise ValueError(f"No video of {split!r} in {videos} has {num_frames * max(_STEPS.values())} frames.")
            place = int(rng.integers(len(mine)))
            name = PLAYBACK_CLASSES[len(written) % len(PLAYBACK_CLASSES)]
            clip = _cut(mine[place], _STEPS[name], num_frames, size, rng)
            if clip is None:
                mine.pop(place)
                continue
            path = Path(root) / split / (name if labelled else "") / f"{len(written):06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_video(clip))
            written.append(path)
            progress.update()
    return written


_SPLITS = {"unlabelled": 5, "held_out": 1, "train": 2, "tuning": 1, "validation": 1}
_DEAL: Sequence[str] = [split for split, share in _SPLITS.items() for _ in range(share)]


def _cut(path: str, step: int, num_frames: int, size: int, rng: np.random.Generator) -> np.ndarray | None:
    """(T, size, size, 3) uint8 from a random place of a video, or None where it is too short or cannot be read.

    All classes draw the place as if they were the fastest, so that it says nothing of the class.
    """
    span = num_frames * max(_STEPS.values())
    try:
        with open_video(path) as reader:
            if len(reader) < span:
                return None
            middle = int(rng.integers(len(reader) - span + 1)) + span // 2
            indices = middle + abs(step) * (np.arange(num_frames) - num_frames // 2)
            frames = torch.from_numpy(reader.frames(indices[:: -1 if step < 0 else 1])).permute(0, 3, 1, 2)
    except VideoReadError as error:
        tqdm.write(f"left out: {error}")
        return None
    frames = functional.resize(frames, [size], antialias=True)
    return functional.center_crop(frames, [size, size]).permute(0, 2, 3, 1).contiguous().numpy()


__all__ = ["PLAYBACK_CLASSES", "write_playback_clips"]
