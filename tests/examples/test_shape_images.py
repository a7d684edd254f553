"""ShapeImages: what is drawn, and where the files go."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from examples.shape_images import SHAPE_CLASSES, render_shape, write_shape_images


_AREAS = {  # of filled shapes, in squares of the radius
    "circle": math.pi * 0.9**2,
    "cross": 2 * 0.6 * 1.9 - 0.6**2,
    "ring": math.pi * (1 - 0.55**2),
    "square": 1.6**2,
    "triangle": 3 * math.sqrt(3) * 0.55**2,
}


@pytest.mark.parametrize("shape", _AREAS)
def test_filled_shapes_cover_what_geometry_says(shape):
    label = SHAPE_CLASSES.index(f"{shape}_filled")
    images = np.stack([render_shape(label, 48, np.random.default_rng(number)) for number in range(200)])
    covered = (images.min(axis=-1) > 120).mean()  # between the brightest ground and the darkest shape
    radius = np.array([0.3, 0.42])
    mean_square = (radius**2).sum() / 3 + radius.prod() / 3  # of a uniform law
    assert covered == pytest.approx(_AREAS[shape] * mean_square, rel=0.08)


def test_only_striped_shapes_hold_a_third_colour():
    for label, name in enumerate(SHAPE_CLASSES):
        image = render_shape(label, 48, np.random.default_rng(5)).astype(int)
        kind = "filled" if name.endswith("_filled") else "striped"
        bright = (image.min(axis=-1) > 140).sum()
        filled = render_shape(SHAPE_CLASSES.index(name.replace(kind, "filled")), 48, np.random.default_rng(5))
        share = bright / (filled.min(axis=-1) > 140).sum()
        assert (0.2 < share < 0.8) if kind == "striped" else share == 1, name


def test_brightness_does_not_tell_circles_from_squares():
    def brightness(name):
        label = SHAPE_CLASSES.index(name)
        return np.array([render_shape(label, 16, np.random.default_rng(number)).mean() for number in range(300)])

    circle, square = brightness("circle_filled"), brightness("square_filled")
    best = max(  # of all thresholds
        abs((circle > level).mean() - (square > level).mean()) for level in range(255)
    )
    assert best < 0.2


def test_files_are_those_of_the_seed_and_a_finished_split_is_kept(tmp_path):
    write_shape_images(tmp_path, "train", 25, seed=3)
    files = sorted(tmp_path.glob("train/*/*.png"))
    assert len(files) == 25
    assert {file.parent.name for file in files} == set(SHAPE_CLASSES)
    drawn = render_shape(14 % 12, 32, np.random.default_rng([3, 14]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "train" / SHAPE_CLASSES[2] / "000014.png")), drawn)
    times = [file.stat().st_mtime_ns for file in files]
    write_shape_images(tmp_path, "train", 25, seed=3)
    assert [file.stat().st_mtime_ns for file in files] == times
    with pytest.raises(ValueError, match="holds 25 images, not 30"):
        write_shape_images(tmp_path, "train", 30, seed=3)


def test_unlabelled_splits_have_no_class_folders(tmp_path):
    write_shape_images(tmp_path, "unlabelled", 3, seed=0, labelled=False)
    assert len(list((tmp_path / "unlabelled").glob("*.png"))) == 3
