"""MotionShapes: rendered clips of eight classes that differ only in motion.

A clip shows two blobs that slide, turn about the middle of the picture or grow, over a drifting ramp of colour. A
blob's place is uniform in a disc, which turning maps to itself, and so does sliding, for a blob that comes to the
disc's edge goes on from the other end of its chord. Its angle lives on a circle, and so does the logarithm of its
size: what has come as near as it can starts again far away. So at *every* frame the picture follows one law for all
classes: a single frame says nothing of the class, whichever frame is taken. More sharply still, the clips of one seed
show the same shapes on the same ground for all eight labels at the frame `num_frames // 2`.

```
label "right", seen at frames 0, 6, 12:      |  o     |   |     o  |   |o       |
label "nearer":                              |   .    |   |   o    |   |   O    |
```
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from tqdm.auto import tqdm

from amd_hf.outputs.folders import claim_split, replace_file


if TYPE_CHECKING:
    import torch


# In alphabetical order, as class folders are numbered, so that a label means the same here and in the data set.
MOTION_CLASSES: tuple[str, ...] = (
    "anticlockwise", "clockwise", "down", "farther", "left", "nearer", "right", "up",
)  # fmt: skip
# Axis of the velocity (x, y, angle, log size) and its sign; y points down, so clockwise turns x to y.
_DIRECTIONS = {
    "right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1),
    "clockwise": (2, 1), "anticlockwise": (2, -1), "nearer": (3, 1), "farther": (3, -1),
}  # fmt: skip


def _label_map(**renamed: str) -> tuple[int, ...]:
    """Return the new label of each class, for classes that are swapped in pairs."""
    swapped = renamed | {new: old for old, new in renamed.items()}
    return tuple(MOTION_CLASSES.index(swapped.get(name, name)) for name in MOTION_CLASSES)


# What each change of a clip makes of its label: entry i is the new label of class i.
HORIZONTAL_FLIP_LABELS = _label_map(left="right", clockwise="anticlockwise")
VERTICAL_FLIP_LABELS = _label_map(up="down", clockwise="anticlockwise")
TRANSPOSE_LABELS = _label_map(left="up", right="down", clockwise="anticlockwise")
TIME_REVERSAL_LABELS = _label_map(left="right", up="down", clockwise="anticlockwise", nearer="farther")

_RENDERER_VERSION = 3  # raise it when the pictures change, so that old files are not mixed with new ones
_FRAMES_PER_SECOND = 8


@dataclass(frozen=True)
class SceneLaw:
    """The law that scenes are drawn from, the same for all classes. Lengths are fractions of the picture's side.

    Shapes are always brighter than the background: with both polarities mixed, small models learn nothing in minutes.
    Smooth ramps of colour are what lets masked autoencoding start; fine textures keep its loss at 1.

    Args:
        num_shapes (`int`): shapes in a clip; all of them move as the label says, each at its own speed.
        radius (`tuple[float, float]`): smallest and largest mean radius of a shape.
        roughness (`float`): how far an outline strays from a circle, as a fraction of the radius.
        slide (`tuple[float, float]`): speed of left, right, up, down, per frame.
        turn (`tuple[float, float]`): speed of clockwise and anticlockwise, radians per frame.
        growth (`tuple[float, float]`): speed of nearer and farther, natural logarithm of the size per frame.
        nuisance (`float`): random extra slide, turn and growth of each shape, whatever its class, up to this fraction
            of the slowest motion that makes a class.
        background_drift (`float`): largest speed of the background, per frame.
        waves (`tuple[float, float]`): cycles of the background's ramp in a picture.
        background_colours, shape_colours (`tuple[float, float]`): range of the mean red, green and blue, in [0, 1].
        background_ramp, shape_ramp (`float`): largest change of colour along the ramp, up and down, in [0, 1].
    """

    num_shapes: int = 2
    radius: tuple[float, float] = (0.15, 0.33)
    roughness: float = 0.45
    slide: tuple[float, float] = (0.04, 0.08)
    turn: tuple[float, float] = (0.2, 0.4)
    growth: tuple[float, float] = (0.05, 0.10)
    nuisance: float = 0.25
    background_drift: float = 0.02
    waves: tuple[float, float] = (0.2, 0.5)
    background_colours: tuple[float, float] = (0.15, 0.4)
    shape_colours: tuple[float, float] = (0.6, 0.85)
    background_ramp: float = 0.2
    shape_ramp: float = 0.3


@dataclass(frozen=True)
class _Track:
    """One shape over time, all (T,): centre x + iy from the middle of the picture, angle in radians, radius."""

    centre: np.ndarray
    angle: np.ndarray
    radius: np.ndarray


def _motion(label: int, law: SceneLaw, rng: np.random.Generator) -> np.ndarray:
    """Velocity (x, y, angle, log size) per frame. Draws the same numbers from `rng` for every label."""
    slowest = np.array([law.slide[0], law.slide[0], law.turn[0], law.growth[0]])
    velocity = rng.uniform(-law.nuisance, law.nuisance, 4) * slowest
    pace = rng.uniform()
    axis, sign = _DIRECTIONS[MOTION_CLASSES[label]]
    speeds = (law.slide, law.slide, law.turn, law.growth)[axis]
    velocity[axis] += sign * (speeds[0] + pace * (speeds[1] - speeds[0]))
    return velocity


def _draw_track(label: int, num_frames: int, law: SceneLaw, rng: np.random.Generator) -> _Track:
    start = 0.5 * math.sqrt(rng.uniform()) * np.exp(2j * np.pi * rng.uniform())  # uniform in the disc
    start_angle, start_size = rng.uniform(size=2)
    velocity = _motion(label, law, rng)
    time = np.arange(num_frames) - num_frames // 2
    turned = velocity[2] * time
    centre = _slide_in_disc(start * np.exp(1j * turned), complex(*velocity[:2]), time)
    log_range = math.log(law.radius[1] / law.radius[0])
    size_phase = (start_size + time * velocity[3] / log_range) % 1
    return _Track(centre, 2 * np.pi * start_angle + turned, law.radius[0] * np.exp(log_range * size_phase))


def _slide_in_disc(start: np.ndarray, velocity: complex, time: np.ndarray) -> np.ndarray:
    """Move points along their chords of the disc of radius 0.5, from the end of a chord on from its beginning.

    This maps the uniform law in the disc to itself, as turning the disc does.
    """
    direction = velocity / abs(velocity) if velocity else 1.0
    along = start * np.conj(direction)
    half_chord = np.sqrt(np.maximum(0.25 - along.imag**2, 1e-12))
    moved = (along.real + abs(velocity) * time + half_chord) % (2 * half_chord) - half_chord
    return (moved + 1j * along.imag) * direction


def _draw_outline(law: SceneLaw, rng: np.random.Generator) -> np.ndarray:
    """Complex Fourier weights of an outline without symmetry, orders 1 to 4, (4,)."""
    strength = np.array([0.5, 1.0, 0.8, 0.4]) * rng.uniform(0.6, 1, 4)
    strength *= law.roughness / np.linalg.norm(strength)
    return strength * np.exp(2j * np.pi * rng.uniform(size=4))


def _shape_coordinates(track: _Track, size: int) -> np.ndarray:
    """Pixel positions seen from the shape, as complex numbers in units of its radius, (T, H, W)."""
    grid = (np.arange(size) + 0.5) / size - 0.5
    z = grid[None, :] + 1j * grid[:, None] - track.centre[:, None, None]
    frame = np.exp(-1j * track.angle) / track.radius
    return (z * frame[:, None, None]).astype(np.complex64)


def _coverage(z: np.ndarray, radius: np.ndarray, outline: np.ndarray, size: int) -> np.ndarray:
    """Return the fraction of each pixel that the shape covers, (T, H, W) in [0, 1]; edges are one pixel wide."""
    distance = np.abs(z)
    unit = z / np.maximum(distance, 1e-6)
    border, power = np.ones_like(distance), unit
    for weight in outline.astype(np.complex64):
        border += (weight * power).real
        power = power * unit
    return np.clip((border - distance) * (radius[:, None, None] * size).astype(np.float32) + 0.5, 0, 1)


def _draw_background(num_frames: int, size: int, law: SceneLaw, rng: np.random.Generator) -> np.ndarray:
    """A drifting field of colour of low frequency, (T, H, W, 3), float."""
    drift = law.background_drift * math.sqrt(rng.uniform()) * np.exp(2j * np.pi * rng.uniform())
    wave = rng.uniform(*law.waves) * np.exp(2j * np.pi * rng.uniform())  # cycles per picture, and their direction
    phase = rng.uniform()
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    z = grid[None, :] + 1j * grid[:, None]
    moved = z - drift * (np.arange(num_frames) - num_frames // 2)[:, None, None]  # (T, H, W)
    field = np.sin(2 * np.pi * ((moved * np.conj(wave)).real + phase)).astype(np.float32)
    return _paint(field, law.background_colours, law.background_ramp, rng)


def _paint(field: np.ndarray, colours: tuple[float, float], ramp: float, rng: np.random.Generator) -> np.ndarray:
    """A random colour that changes along `field` (T, H, W), between -1 and 1, to another one: (T, H, W, 3)."""
    base = rng.uniform(*colours, 3)
    change = ramp * rng.uniform(0.5, 1, 3)
    return (base + field[..., None] * change).astype(np.float32)


def _draw_scene(
    label: int, seed: int, num_frames: int, size: int, law: SceneLaw
) -> tuple[np.ndarray, np.ndarray, list[_Track]]:
    rng = np.random.default_rng(seed)
    picture = _draw_background(num_frames, size, law, rng)
    covered = np.zeros(picture.shape[:3], np.float32)
    tracks = []
    for _ in range(law.num_shapes):
        track = _draw_track(label, num_frames, law, rng)
        z = _shape_coordinates(track, size)
        alpha = _coverage(z, track.radius, _draw_outline(law, rng), size)
        surface = _paint((z * np.exp(2j * np.pi * rng.uniform())).real, law.shape_colours, law.shape_ramp, rng)
        picture += alpha[..., None] * (surface - picture)
        covered = np.maximum(covered, alpha)
        tracks.append(track)
    return picture, covered, tracks


def _check(label: int, num_frames: int, size: int) -> None:
    if not 0 <= label < len(MOTION_CLASSES):
        raise ValueError(f"`label` must be 0 to {len(MOTION_CLASSES) - 1}, got {label}.")
    if num_frames < 1 or size < 1:
        raise ValueError(f"`num_frames` and `size` must be at least 1, got {num_frames} and {size}.")


def render_clip(
    label: int, seed: int, num_frames: int = 16, size: int = 32, law: SceneLaw | None = None
) -> np.ndarray:
    """Render one clip; `label` and `seed` say all there is to say about it.

    Args:
        label (`int`): index into `MOTION_CLASSES`.
        seed (`int`): of the scene. The same seed with another label is the same scene moving another way.
        num_frames (`int`, default 16): length T.
        size (`int`, default 32): height and width in pixels.
        law (`SceneLaw`, *optional*): how scenes are drawn.

    Returns:
        `np.ndarray`: (T, H, W, 3), uint8, RGB.

    Example:
        >>> render_clip(MOTION_CLASSES.index("left"), seed=0, num_frames=8, size=32).shape
        (8, 32, 32, 3)
    """
    _check(label, num_frames, size)
    picture, _, _ = _draw_scene(label, seed, num_frames, size, law or SceneLaw())
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def render_mask(
    label: int, seed: int, num_frames: int = 16, size: int = 32, law: SceneLaw | None = None
) -> np.ndarray:
    """Where the shapes of `render_clip` with the same arguments are: (T, H, W), float32, 0 outside to 1 inside."""
    _check(label, num_frames, size)
    return _draw_scene(label, seed, num_frames, size, law or SceneLaw())[1]


def augment_motion(clip: torch.Tensor, label: int, generator: np.random.Generator) -> tuple[torch.Tensor, int]:
    """Change a clip and its label together, so that the label stays true.

    Horizontal flip, vertical flip, transposition and time reversal are done half of the time, each on its own; the
    colour channels are always shuffled. Colours are not inverted, as shapes are brighter than their background.

    Args:
        clip (`torch.Tensor`): (T, C, H, W), uint8.
        label (`int`): index into `MOTION_CLASSES`.
        generator (`np.random.Generator`): where the choices are drawn.

    Returns:
        `tuple[torch.Tensor, int]`: a clip of the same dtype, (T, C, W, H) after a transposition and else of the same
        shape, and its label.
    """
    is_flipped, is_upside_down, is_transposed, is_reversed = generator.random(4) < 0.5
    clip = clip[:, generator.permutation(clip.shape[1])]
    if is_flipped:
        clip, label = clip.flip(3), HORIZONTAL_FLIP_LABELS[label]
    if is_upside_down:
        clip, label = clip.flip(2), VERTICAL_FLIP_LABELS[label]
    if is_transposed:
        clip, label = clip.transpose(2, 3), TRANSPOSE_LABELS[label]
    if is_reversed:
        clip, label = clip.flip(0), TIME_REVERSAL_LABELS[label]
    return clip, label


def write_motion_shapes(
    root: str | os.PathLike[str],
    split: str,
    num_videos: int,
    seed: int,
    labelled: bool = True,
    *,
    num_frames: int = 16,
    size: int = 32,
    law: SceneLaw | None = None,
    num_workers: int | None = None,
) -> list[Path]:
    """Render a split into H.264 mp4 files, the classes in turn, every video from a seed of its own.

    Files already there are kept: each is written under another name and renamed when it is complete, and
    `root/<split>.json` says what they were made with, so that splits of other settings are refused, not mixed.

    Args:
        root (`str` or `os.PathLike`): folder of the data set.
        split (`str`): name of the split and its folder. Splits of different names hold different videos.
        num_videos (`int`): how many. A larger number later adds to the split.
        seed (`int`): of the split.
        labelled (`bool`, default `True`): `root/<split>/<class>/<id>.mp4` if true, else `root/<split>/<id>.mp4`.
        num_frames (`int`, default 16): length of each video.
        size (`int`, default 32): height and width in pixels, a multiple of 16.
        law (`SceneLaw`, *optional*): how scenes are drawn.
        num_workers (`int`, *optional*): processes; 0 renders in this one. Default: one for each CPU core, at most 8;
            0 for less than 1,000 videos.

    Returns:
        `list[Path]`: the files, `num_videos` of them, in the order of their ids.
    """
    if size < 16 or size % 16:
        raise ValueError(f"`size` must be a multiple of 16 for H.264 without padding, got {size}.")
    law = law or SceneLaw()
    folder = Path(root) / split
    settings = {"renderer": _RENDERER_VERSION, "seed": seed, "labelled": labelled, "num_frames": num_frames}
    claim_split(folder, settings | {"size": size, "law": asdict(law)})
    jobs = []
    for index in range(num_videos):
        label = index % len(MOTION_CLASSES)
        jobs.append((folder / (MOTION_CLASSES[label] if labelled else "") / f"{index:06d}.mp4", label, index))
    missing = [job for job in jobs if not job[0].exists()]
    for parent in {path.parent for path, _, _ in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    write = partial(
        _write_video, entropy=(seed, zlib.crc32(split.encode())), num_frames=num_frames, size=size, law=law
    )
    _run_all(write, missing, num_workers, f"rendering {split}")
    return [path for path, _, _ in jobs]


def _run_all(
    write: partial[None], jobs: list[tuple[Path, int, int]], num_workers: int | None, description: str
) -> None:
    if num_workers is None:  # few videos are rendered before processes would have started
        num_workers = min(os.cpu_count() or 1, 8) if len(jobs) >= 1000 else 0
    if num_workers < 2:
        for job in tqdm(jobs, desc=description, unit="video", disable=not jobs):
            write(job)
        return
    # Not forked: torch's threads may be running here, and a fork would copy their locks.
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        for _ in tqdm(pool.map(write, jobs, chunksize=16), total=len(jobs), desc=description, unit="video"):
            pass


def _write_video(
    job: tuple[Path, int, int], *, entropy: tuple[int, int], num_frames: int, size: int, law: SceneLaw
) -> None:
    path, label, index = job
    clip_seed = int(np.random.SeedSequence([*entropy, index]).generate_state(1, np.uint64)[0])
    replace_file(path, encode_video(render_clip(label, clip_seed, num_frames, size, law)))


def encode_video(clip: np.ndarray) -> bytes:
    """Encode (T, H, W, 3) uint8 frames, height and width multiples of 16, as an H.264 mp4 file; the same bytes each
    time. Groups of pictures are short and closed, and there are no B frames, so any frame is quick to reach."""
    buffer = io.BytesIO()
    options = {"crf": "12", "preset": "veryfast", "g": "8", "bf": "0", "threads": "1", "flags": "+cgop+bitexact"}
    # Without it x264 plans bits with approximate vector instructions, whose results change now and then on a busy CPU.
    options["x264-params"] = "cpu-independent=1"
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=_FRAMES_PER_SECOND, options=options)
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "yuv420p"
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
