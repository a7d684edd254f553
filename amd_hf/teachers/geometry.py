"""Teacher and student side by side: how each clip reaches the teacher, and the student's options that fit it.

Both see the same clip, cut into a grid of tokens along time, rows and columns. The teacher may have other patches,
tubelets, frames and sizes. Two ways lead to its features of the student's tokens:

    the student's grid   patch 14, student 14 x 14: the teacher gets frames of 196 x 196, and its tokens are the
                         student's; what is hidden from it can be left out
    its own grid         patch 14 at 224: 16 x 16 tokens, of which each of the student's gets the mean, by area; all of
                         them are needed, so nothing can be hidden
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..configuration_amd import AMDConfig
from .encoders import TeacherFacts


TEACHER_VIEWS = ("asymmetric", "full")
TEACHER_GRIDS = ("student", "own")
TEACHER_FRAMES = ("mean", "middle")


@dataclass(frozen=True)
class TeacherView:
    """How clips of the student reach a teacher.

    Args:
        frames (`tuple[int, ...]`): Frames of the student's clip that the teacher gets, in order; some may repeat.
        size (`tuple[int, int]`): Height and width that they are resized to.
        grid (`tuple[int, int, int]`): The teacher's tokens along time, rows and columns.
        student_grid (`tuple[int, int, int]`): The student's.
        is_full (`bool`): Whether the teacher sees all of the clip, whatever its mask says.
    """

    frames: tuple[int, ...]
    size: tuple[int, int]
    grid: tuple[int, int, int]
    student_grid: tuple[int, int, int]
    is_full: bool

    def describe(self) -> str:
        """Return what the teacher sees, with both grids."""
        theirs, ours = (" x ".join(map(str, grid)) for grid in (self.grid, self.student_grid))
        text = f"sees {len(self.frames)} frames of {self.size[0]} x {self.size[1]} as {theirs} tokens"
        text += ", the student's grid" if theirs == ours else f", averaged by area to the student's {ours}"
        return text + (", all of every clip" if self.is_full else ", what its mask leaves")

    def prepare(
        self,
        pixel_values: torch.Tensor,
        given: tuple[torch.Tensor, torch.Tensor],
        wanted: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Return the teacher's clips `(B, frames, C, *size)` of the student's.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): uint8, or floats normalised for the student.
            given, wanted (pairs of `torch.Tensor` of shape `(C, 1, 1)`): Mean and std of student and teacher.
        """
        clips = pixel_values
        if self.frames != tuple(range(clips.shape[1])):
            clips = clips[:, list(self.frames)]
        clips = clips / 255 if clips.dtype == torch.uint8 else clips * given[1] + given[0]
        if clips.shape[-2:] != self.size:  # antialiased, since patches are made of what lies between pixels too
            resized = F.interpolate(clips.flatten(0, 1), self.size, mode="bilinear", antialias=True)
            clips = resized.unflatten(0, clips.shape[:2])
        return (clips - wanted[0]) / wanted[1]

    def to_student(self, features: torch.Tensor) -> torch.Tensor:
        """Average features of the teacher's grid `(B, N', D)` to the student's `(B, N, D)`, by area."""
        if self.grid == self.student_grid:
            return features
        dtype = features.dtype
        features = features.float().unflatten(1, self.grid)
        for axis, (size, new_size) in enumerate(zip(self.grid, self.student_grid, strict=True), start=1):
            weights = area_weights(size, new_size).to(features.device)
            features = torch.tensordot(features, weights, dims=([axis], [1])).movedim(-1, axis)
        return features.flatten(1, 3).to(dtype)


def area_weights(size: int, new_size: int) -> torch.Tensor:
    """Return `(new_size, size)`: how much of each new cell of a line lies in each of its old cells."""
    edges = torch.arange(size + 1, dtype=torch.float64) / size
    starts = torch.arange(new_size, dtype=torch.float64) / new_size
    ends = starts + 1 / new_size
    overlap = torch.minimum(edges[1:], ends[:, None]) - torch.maximum(edges[:-1], starts[:, None])
    return (overlap.clamp(min=0) * new_size).float()


def fit_view(
    facts: TeacherFacts,
    student: AMDConfig,
    view: str | None = None,
    frames: str = "mean",
    grid: str | None = None,
) -> TeacherView:
    """Choose how clips reach the teacher.

    Args:
        facts ([`TeacherFacts`]): The teacher's.
        student ([`AMDConfig`]): The student's config.
        view (`"asymmetric"` or `"full"`, *optional*):
            What the teacher sees of a clip: what its mask leaves (the paper's; by default, where the teacher can do
            without the rest), or all of it.
        frames (`"mean"` or `"middle"`, *optional*, defaults to `"mean"`):
            For teachers that look at every frame by itself: features of a token are the mean over its frames, or those
            of the middle one, which costs less.
        grid (`"student"` or `"own"`, *optional*):
            Run the teacher at the size that gives the student's grid of tokens (by default, where it can), or at the
            size that it was trained on, and average its tokens.

    Raises:
        ValueError: For an unknown value, or one that this teacher cannot do.
    """
    _check_options(view, frames, grid)
    time, *area = student.grid_size
    own_area = list(facts.grid[1:])
    if grid == "student" and not facts.fits_any_size and (own_area != area or facts.grid[0] not in (1, time)):
        raise ValueError(
            f"`teacher_grid student`: the positions of this teacher ({facts.family}) are of a grid of "
            f"{_by(facts.grid)} tokens, the student's is {_by(student.grid_size)}. Leave the option out."
        )
    if grid == "own" or not facts.fits_any_size:
        size, area = facts.image_size, own_area
    else:
        size = (area[0] * facts.patch_size[0], area[1] * facts.patch_size[1])
    tubelet = student.tubelet_size
    if facts.tubelet_size > 1:
        of_token = _spread(tubelet, facts.tubelet_size)
    else:
        of_token = [tubelet // 2] if frames == "middle" else list(range(tubelet))
    indices = [token * tubelet + index for token in range(time) for index in of_token]
    if not facts.fits_any_size and not facts.is_image:
        time, indices = facts.grid[0], _spread(student.num_frames, facts.num_frames)
    theirs = (time, area[0], area[1])
    needs_all = []
    if theirs != student.grid_size:
        needs_all.append(f"its grid of {_by(theirs)} tokens is averaged to the student's {_by(student.grid_size)}")
    if facts.masks == "none":
        needs_all.append(f"a {facts.family} encoder works on whole clips only")
    if facts.masks == "tube" and student.mask_type != "tube" and time > 1:
        needs_all.append(f"it takes frames one by one, and `mask_type` {student.mask_type} hides other tokens of each")
    if view == "asymmetric" and needs_all:
        raise ValueError(f"`teacher_view asymmetric` cannot be: {'; '.join(needs_all)}. Leave it out, or say `full`.")
    return TeacherView(tuple(indices), size, theirs, student.grid_size, view == "full" or bool(needs_all))


def _check_options(view: str | None, frames: str, grid: str | None) -> None:
    for name, value, known in (
        ("teacher_view", view, (None, *TEACHER_VIEWS)),
        ("teacher_frames", frames, TEACHER_FRAMES),
        ("teacher_grid", grid, (None, *TEACHER_GRIDS)),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(str(item) for item in known)}, got {value!r}.")


def _spread(count: int, wanted: int) -> list[int]:
    """Return `wanted` of `count` frames, the middles of as many equal parts; some repeat where there are fewer."""
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def _by(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def check_fit(facts: TeacherFacts, student: AMDConfig) -> None:
    """Refuse a pair with a `ValueError` that names all in which they differ, and the student's options that fit."""
    faults: list[str] = []
    wanted: dict[str, Any] = {}
    if facts.num_channels != student.num_channels:
        faults.append(f"num_channels: teacher {facts.num_channels}, student {student.num_channels}")
        wanted["num_channels"] = facts.num_channels
    if facts.width != student.teacher_hidden_size:
        faults.append(f"width (`teacher_hidden_size`): teacher {facts.width}, student {student.teacher_hidden_size}")
        wanted["teacher_hidden_size"] = facts.width
    lists = ("teacher_direct_layers", "teacher_generation_layers")
    last = max(layer for name in lists for layer in [*getattr(student, name), 0])
    if last > facts.depth:
        faults.append(f"the teacher has {facts.depth} layers, but layer {last} is to be aligned")
        for name in lists:  # as deep in this teacher as in the one that was thought of
            layers = [round(layer * facts.depth / last) for layer in getattr(student, name)]
            if layers == sorted({layer for layer in layers if layer > 0}):
                wanted[name] = layers
    if faults:
        words = {name: f'"{value}"' if isinstance(value, list) else value for name, value in wanted.items()}
        advice = ", ".join(f"`{name}` {word}" for name, word in words.items())  # as they are typed on a command line
        raise ValueError(
            f"Teacher and student do not fit: {'; '.join(faults)}. Of the student set together: {advice}."
        )


def student_options(facts: TeacherFacts, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a student's config that `given` leaves open and this teacher decides.

    The layers are the paper's, half and full depth of both. Where only the student's are given, the teacher's are as
    deep in it. Frames and size follow a teacher whose table of positions is that of its grid; any other runs at the
    student's.

    Args:
        facts ([`TeacherFacts`]): The teacher's.
        given (`Mapping`): Options of [`AMDConfig`] that stay as they are.
    """
    found: dict[str, Any] = {"teacher_hidden_size": facts.width}
    depth = given.get("num_hidden_layers", AMDConfig.num_hidden_layers)
    for kind in ("direct", "generation"):
        ours, theirs = f"student_{kind}_layers", f"teacher_{kind}_layers"
        if ours in given:
            layers = [max(1, round(layer * facts.depth / depth)) for layer in given[ours]]
            if layers == sorted({*layers}):
                found[theirs] = layers
        elif theirs in given:
            found[ours] = [max(1, round(layer * depth / facts.depth)) for layer in given[theirs]]
        else:
            halves = 2 if min(depth, facts.depth) > 1 else 1
            found[ours] = [depth // 2, depth][-halves:]
            found[theirs] = [facts.depth // 2, facts.depth][-halves:]
    heads = max(1, facts.width // 64)
    if facts.width % heads:  # heads of about 64
        found["generator_num_attention_heads"] = max(n for n in range(1, heads) if facts.width % n == 0)
    if facts.num_channels != given.get("num_channels", AMDConfig.num_channels):
        found |= {"num_channels": facts.num_channels, "image_mean": list(facts.mean), "image_std": list(facts.std)}
    if not facts.fits_any_size and "image_size" not in given and "patch_size" not in given:
        height, width = facts.image_size
        found |= {"image_size": height if height == width else [height, width], "patch_size": facts.patch_size[0]}
    if not facts.fits_any_size and not facts.is_image and "num_frames" not in given and "tubelet_size" not in given:
        found |= {"num_frames": facts.num_frames, "tubelet_size": facts.tubelet_size}
    return {name: value for name, value in found.items() if name not in given}
