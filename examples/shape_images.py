"""ShapeImages: rendered pictures of twelve classes, six shapes filled or striped, at many positions, sizes and tilts.

Colours, position, size, tilt and background follow one law for all classes, so none of them reveals the class. Shapes
are brighter than the ground: with both polarities mixed, small models learn nothing in minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from amd_hf.outputs.folders import claim_split


_OVERSAMPLING = 3  # points per pixel and axis, averaged
_NOISE = 5.0  # grey levels
_RADIUS = (0.3, 0.42)  # of a shape, as a fraction of the image's side
_LARGEST_TILT = 0.3  # radians
# Grey levels that the red, green and blue of each part are drawn from.
_GROUND, _SHAPE, _STRIPE = (10, 90), (150, 245), (60, 130)

# Each from coordinates x, y in units of the shape's radius to whether a point is inside.
_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) < 0.9,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95),
    "ring": lambda x, y: (np.hypot(x, y) < 1.0) & (np.hypot(x, y) > 0.55),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.8,
    "star": lambda x, y: np.hypot(x, y) < 0.65 + 0.35 * np.cos(5 * np.arctan2(y, x)),
    "triangle": lambda x, y: (
        np.maximum.reduce([x * np.cos(turn) + y * np.sin(turn) for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]) < 0.55
    ),
}
_FILLINGS = ("filled", "striped")
SHAPE_CLASSES: tuple[str, ...] = tuple(f"{shape}_{filling}" for shape in _SHAPES for filling in _FILLINGS)
"""Names of the classes in the order of their numbers, which is alphabetical, as class folders are numbered."""


def render_shape(label: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one image of a class: uint8 (size, size, 3)."""
    shape, filling = SHAPE_CLASSES[label].split("_")
    points = (np.arange(size * _OVERSAMPLING) + 0.5) / _OVERSAMPLING / size
    down, right = np.meshgrid(points, points, indexing="ij")
    radius = generator.uniform(*_RADIUS)
    row, column = generator.uniform(radius, 1 - radius, size=2)
    angle = generator.uniform(-_LARGEST_TILT, _LARGEST_TILT)
    x, y = (right - column) / radius, (down - row) / radius
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    dark, light, stripe = (generator.uniform(*levels, 3) for levels in (_GROUND, _SHAPE, _STRIPE))
    slope = generator.uniform(-0.5, 0.5, size=2)
    shade = 1 + slope[0] * (right - 0.5) + slope[1] * (down - 0.5)
    picture = dark * shade[..., None]
    is_inside = _SHAPES[shape](x, y)
    picture[is_inside] = light
    if filling == "striped":
        picture[is_inside & (np.sin(2 * np.pi * 1.8 * x + generator.uniform(0, 2 * np.pi)) > 0)] = stripe
    picture = picture.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3).mean(axis=(1, 3))
    return (picture + generator.normal(0, _NOISE, picture.shape)).clip(0, 255).astype(np.uint8)


def write_shape_images(
    folder: str | Path, split: str, num_images: int, *, seed: int, labelled: bool = True, size: int = 32
) -> None:
    """Write `folder/split/<class>/<number>.png`, or `folder/split/<number>.png` without labels.

    Classes take turns. A split that is there already, with as many images, is left as it is.

    Args:
        folder (`str` or `Path`): the data set's folder.
        split (`str`): name of the split.
        num_images (`int`): how many.
        seed (`int`): what they are drawn from, each by its number.
        labelled (`bool`, defaults to `True`): whether there are class folders.
        size (`int`, defaults to 32): height and width, in pixels.

    Raises:
        ValueError: the split exists with other images, or holds files that were not written here.
    """
    from PIL import Image

    target = Path(folder) / split
    existing = len(list(target.rglob("*.png")))
    claim_split(target, {"images": "ShapeImages", "seed": seed, "labelled": labelled, "size": size})
    if existing == num_images:
        return
    if existing:
        raise ValueError(f"{target} holds {existing} images, not {num_images}: remove it, or choose another folder.")
    for number in range(num_images):
        label = number % len(SHAPE_CLASSES)
        image = render_shape(label, size, np.random.default_rng([seed, number]))
        folder = target / SHAPE_CLASSES[label] if labelled else target
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:06d}.png")
