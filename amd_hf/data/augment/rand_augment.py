"""RandAugment for whole clips: timm's meaning of strings like `rand-m7-n4-mstd0.5-inc1`, one draw for all frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import clip_operations as operations
from .geometry import Affine, rotation, source_region, with_neighbours
from .transforms import Box, Part


MAX_MAGNITUDE = 10

Draw = Callable[[float, np.random.Generator], float]
"""`(magnitude, generator) -> argument` of an operation."""


def _unsigned(at_most: float) -> Draw:
    return lambda magnitude, generator: magnitude / MAX_MAGNITUDE * at_most


def _signed(at_most: float) -> Draw:
    return lambda magnitude, generator: magnitude / MAX_MAGNITUDE * at_most * generator.choice((-1, 1))


def _factor(magnitude: float, generator: np.random.Generator) -> float:
    return max(1 + _signed(0.9)(magnitude, generator), 0.1)


# The argument of each operation at a magnitude from 0 to 10: the increasing set of timm's `rand_augment_transform`.
_DRAWS: dict[str, Draw] = {
    "auto_contrast": _unsigned(0),
    "equalize": _unsigned(0),
    "invert": _unsigned(0),
    "rotate": _signed(30),  # degrees
    "posterize": lambda magnitude, generator: 4 - int(magnitude / MAX_MAGNITUDE * 4),  # bits that are kept
    "solarize": lambda magnitude, generator: 256 - int(magnitude / MAX_MAGNITUDE * 256),  # first level inverted
    "solarize_add": lambda magnitude, generator: int(magnitude / MAX_MAGNITUDE * 110),
    "color": _factor,
    "contrast": _factor,
    "brightness": _factor,
    "sharpness": _factor,
    "shear_x": _signed(0.3),
    "shear_y": _signed(0.3),
    "translate_x": _signed(0.45),  # fraction of the frame's width
    "translate_y": _signed(0.45),  # fraction of the frame's height
}
OPERATIONS = tuple(_DRAWS)

AFFINES: dict[str, Callable[[float, int, int], Affine]] = {
    "rotate": rotation,
    "shear_x": lambda factor, height, width: (1, factor, 0, 0, 1, 0),
    "shear_y": lambda factor, height, width: (1, 0, 0, factor, 1, 0),
    "translate_x": lambda fraction, height, width: (1, 0, fraction * width, 0, 1, 0),
    "translate_y": lambda fraction, height, width: (1, 0, 0, 0, 1, fraction * height),
}
"""`(argument, height, width) -> map` of the operations that move pixels."""
_OF_WHOLE_FRAMES = ("auto_contrast", "equalize", "contrast")
"""Operations that depend on the statistics of a frame."""


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Random operations on a clip, drawn and applied. All frames get the same ones.

    Args:
        num_operations (`int`): operations drawn for a clip, with replacement.
        magnitude (`float`): mean strength, 0 to 10.
        magnitude_std (`float`): std of the strength, drawn anew for each operation and held in 0..10.
        probability (`float`): fraction of the drawn operations that are applied.
    """

    num_operations: int = 2
    magnitude: float = 10
    magnitude_std: float = 0
    probability: float = 0.5

    @classmethod
    def parse(cls, text: str) -> RandAugment:
        """Read timm's notation: `rand-m7-n4-mstd0.5-inc1`.

        The parts after `rand` come in any order: `m` magnitude (10 where absent), `n` operations (2), `mstd` std of
        the magnitude (0), `p` probability of each (0.5), `inc1` the operations that grow stronger with
        the magnitude, which are the only ones there are here.

        Raises:
            ValueError: another notation, a part that is not supported, or a value out of its range.
        """
        policy, *parts = text.split("-")
        values: dict[str, str] = {}
        for part in parts:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
            if match is None or match[1] not in ("m", "n", "mstd", "p", "inc") or match[1] in values:
                raise ValueError(
                    f"`rand_augment`: {part!r} of {text!r} is not supported. Parts are m, n, mstd, p and inc, each "
                    "once and followed by a number, as in 'rand-m7-n4-mstd0.5-inc1'."
                )
            values[match[1]] = match[2]
        if policy != "rand" or values.get("inc") != "1":
            raise ValueError(
                f"`rand_augment` must begin with 'rand' and hold 'inc1' (the increasing operations), not {text!r}."
            )
        for key in ("m", "n"):
            if "." in values.get(key, ""):
                raise ValueError(f"`rand_augment`: {key} must be a whole number, not {values[key]} ({text!r}).")
        checked = cls(
            num_operations=int(values.get("n", 2)),
            magnitude=int(values.get("m", 10)),
            magnitude_std=float(values.get("mstd", 0)),
            probability=float(values.get("p", 0.5)),
        )
        _check_range(text, "m", checked.magnitude, 0, MAX_MAGNITUDE)
        _check_range(text, "n", checked.num_operations, 1, 100)
        _check_range(text, "mstd", checked.magnitude_std, 0, 100)  # above it timm means something else
        _check_range(text, "p", checked.probability, 0, 1)
        return checked

    def draw(self, generator: np.random.Generator) -> list[tuple[str, float]]:
        """Draw the (operation, argument) pairs of one clip, in the order in which they are applied."""
        drawn = []
        for number in generator.integers(len(OPERATIONS), size=self.num_operations):
            if generator.random() >= self.probability:
                continue
            magnitude = self.magnitude + self.magnitude_std * generator.standard_normal()
            name = OPERATIONS[number]
            drawn.append((name, _DRAWS[name](min(max(magnitude, 0.0), MAX_MAGNITUDE), generator)))
        return drawn


def _check_range(text: str, key: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"`rand_augment`: {key} must lie between {lowest} and {highest}, not {value} ({text!r}).")


def parts_needed(drawn: Sequence[tuple[str, float]], box: Box, height: int, width: int) -> list[Box]:
    """Return which part of a frame each operation has to be given, and after the last one, `box`.

    Args:
        drawn (sequence of (`str`, `float`)): what `RandAugment.draw` gives.
        box (`tuple[int, int, int, int]`): the part of the result that is wanted.
        height, width (`int`): size of the whole frames.
    """
    parts = [box]
    for name, argument in reversed(drawn):
        if name in _OF_WHOLE_FRAMES:
            box = (0, 0, height, width)
        elif name in AFFINES:
            box = source_region(AFFINES[name](argument, height, width), height, width, box)
        elif name == "sharpness":
            box = with_neighbours(box, height, width)
        parts.append(box)
    return parts[::-1]


def apply_operations(part: Part, drawn: Sequence[tuple[str, float]], boxes: Sequence[Box]) -> Part:
    """Apply operations to a clip, each to the part of the frames that the next one needs.

    Args:
        part (`Part`): holds `boxes[0]`; its pixels may be changed.
        drawn (sequence of (`str`, `float`)): what `RandAugment.draw` gives.
        boxes (sequence of `tuple[int, int, int, int]`): what `parts_needed` gives.

    Returns:
        `Part`: `boxes[-1]` of the result.
    """
    for (name, argument), before, after in zip(drawn, boxes[:-1], boxes[1:], strict=True):
        part = part.cut(before)
        if name in AFFINES:
            part = operations.warp(part, AFFINES[name](argument, *part.size), after)
        elif name in _OF_WHOLE_FRAMES:
            arguments = (argument,) if name == "contrast" else ()
            part = getattr(operations, name)(part, *arguments, after)
        elif name == "invert":
            part = operations.invert(part)
        else:
            part = getattr(operations, name)(part, argument)
    return part.cut(boxes[-1])
