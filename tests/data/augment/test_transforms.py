"""Crops and resizes of uint8 clips, against PIL, torchvision and plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from amd_hf.data.augment.transforms import (
    center_box,
    cut,
    multi_scale_crop_box,
    random_resized_crop_box,
    resize,
    resize_short_side,
)


@pytest.fixture
def clip() -> torch.Tensor:
    """Smooth noise, uint8 (3, 3, 60, 80): three frames that differ."""
    noise = torch.from_numpy(np.random.default_rng(0).random((3, 3, 15, 20), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(noise, size=(60, 80), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Multi-scale crop
# ---------------------------------------------------------------------------------------------------------------------


def _multi_scale_boxes(height: int, width: int, sides: list[int]) -> set[tuple[int, int, int, int]]:
    boxes = set()
    for row, box_height in enumerate(sides):
        for column, box_width in enumerate(sides):
            if abs(row - column) > 1:
                continue
            y, x = (height - box_height) // 4, (width - box_width) // 4
            corners = [(0, 0), (0, 4 * x), (4 * y, 0), (4 * y, 4 * x)]
            middles = [(2 * y, 2 * x), (0, 2 * x), (4 * y, 2 * x), (2 * y, 0), (2 * y, 4 * x)]
            quarters = [(y, x), (y, 3 * x), (3 * y, x), (3 * y, 3 * x)]
            boxes |= {(top, left, box_height, box_width) for top, left in corners + middles + quarters}
    return boxes


@pytest.mark.parametrize(
    ("height", "width", "crop_size", "sides"),
    [
        (256, 340, 224, [256, 224, 192, 168]),
        (320, 240, 224, [240, 210, 180, 158]),
        (64, 64, 32, [64, 56, 48, 42]),
        (300, 300, 224, [300, 262, 224, 198]),  # 225 is less than 3 from 224 and becomes it
        (100, 130, 64, [100, 87, 75, 64]),  # and so does 66
    ],
)
def test_multi_scale_crop_draws_exactly_the_boxes_of_the_recipe(
    height: int, width: int, crop_size: int, sides: list[int]
) -> None:
    generator = np.random.default_rng(0)
    drawn = {multi_scale_crop_box(height, width, crop_size, generator) for _ in range(4000)}
    assert drawn == _multi_scale_boxes(height, width, sides)


def test_multi_scale_crop_draws_sizes_uniformly() -> None:
    generator = np.random.default_rng(0)
    sizes = Counter(multi_scale_crop_box(256, 340, 224, generator)[2:] for _ in range(5000))
    assert len(sizes) == 10
    assert all(abs(count - 500) < 5 * 500**0.5 for count in sizes.values())


@pytest.mark.parametrize(("height", "width", "crop_size"), [(222, 400, 224), (400, 222, 224), (2, 2, 32), (1, 5, 2)])
def test_multi_scale_crop_of_small_frames_stays_inside(height: int, width: int, crop_size: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        top, left, box_height, box_width = multi_scale_crop_box(height, width, crop_size, generator)
        assert 0 <= top <= top + box_height <= height
        assert 0 <= left <= left + box_width <= width
        assert min(box_height, box_width) >= 1


# ---------------------------------------------------------------------------------------------------------------------
# Random resized crop
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(60, 80), (240, 320), (320, 100)])
def test_random_resized_crop_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    ours = np.array([random_resized_crop_box(height, width, generator) for _ in range(3000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        crop = v2.RandomResizedCrop(32)
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        drawn = [crop.make_params([image]) for _ in range(3000)]
    theirs = np.array([[box["top"], box["left"], box["height"], box["width"]] for box in drawn])
    spread = theirs.std(axis=0)
    # Means of 3000 draws each differ by sqrt(2 / 3000) = 0.026 standard deviations.
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 0.1 * spread)
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.08)
    assert np.all(ours[:, 0] + ours[:, 2] <= height)
    assert np.all(ours[:, 1] + ours[:, 3] <= width)


def test_random_resized_crop_aspect_is_log_uniform() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([random_resized_crop_box(800, 800, generator, scale=(0.2, 0.4)) for _ in range(4000)])
    logs = np.log(boxes[:, 3] / boxes[:, 2])
    limit = np.log(4 / 3)
    # Uniform in the ratio itself, the mean of the logarithm would be 0.027.
    assert abs(logs.mean()) < 0.012
    np.testing.assert_allclose(logs.std(), limit / 3**0.5, rtol=0.05)
    assert np.abs(logs).max() < limit + 0.01


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10)), (1, 1, (0, 0, 1, 1))]
)
def test_random_resized_crop_that_never_fits_takes_the_centre(
    height: int, width: int, expected: tuple[int, int, int, int]
) -> None:
    box = random_resized_crop_box(height, width, np.random.default_rng(0), scale=(0.9, 1.0))
    assert box == expected


# ---------------------------------------------------------------------------------------------------------------------
# Resizing and cutting
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 60, 80), (5, 20, 50, 44), (30, 40, 20, 20)])
def test_antialiased_resize_agrees_with_pil(clip: torch.Tensor, box: tuple[int, int, int, int]) -> None:
    top, left, height, width = box
    result = resize(cut(clip, box), (32, 32), antialias=True)
    for frame, resized in zip(clip, result, strict=True):
        image = Image.fromarray(frame.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        np.testing.assert_allclose(resized.permute(1, 2, 0).numpy().astype(int), expected, atol=1)


def test_resize_without_antialias_agrees_with_float_interpolation(clip: torch.Tensor) -> None:
    result = resize(cut(clip, (5, 20, 50, 44)), (32, 32), antialias=False)
    crop = clip[..., 5:55, 20:64].float()
    expected = torch.nn.functional.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False)
    assert result.dtype == torch.uint8
    torch.testing.assert_close(result.float(), expected, atol=1.01, rtol=0)


def test_resize_antialias_makes_a_difference(clip: torch.Tensor) -> None:
    stripes = torch.zeros_like(clip)
    stripes[..., ::2] = 255
    smooth = resize(stripes, (20, 20), antialias=True)
    rough = resize(stripes, (20, 20), antialias=False)
    assert smooth.float().std() < 10
    assert not torch.equal(smooth, rough)


def test_resize_of_the_decoders_memory_order_gives_the_same(clip: torch.Tensor) -> None:
    permuted = clip.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not permuted.is_contiguous()
    box = (5, 20, 50, 44)
    results = [resize(cut(one, box), (32, 32), antialias=True) for one in (permuted, clip)]
    torch.testing.assert_close(*results, atol=1, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (60, 80, 45, (45, 60)),
        (80, 60, 45, (60, 45)),
        (60, 83, 45, (45, 62)),
        (60, 60, 90, (90, 90)),
        (61, 80, 61, (61, 80)),
    ],
)
def test_resize_short_side_keeps_the_aspect(height: int, width: int, size: int, expected: tuple[int, int]) -> None:
    result = resize_short_side(torch.zeros(2, 3, height, width, dtype=torch.uint8), size)
    assert result.shape == (2, 3, *expected)
    assert result.dtype == torch.uint8


def test_resize_short_side_is_bilinear_without_antialias(clip: torch.Tensor) -> None:
    expected = torch.nn.functional.interpolate(clip.float(), size=(20, 26), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_short_side(clip, 20).float(), expected, atol=1.01, rtol=0)


@pytest.mark.parametrize("size", [60, 40, 20])
def test_center_crop_agrees_with_torchvision_where_the_room_is_even(clip: torch.Tensor, size: int) -> None:
    torch.testing.assert_close(
        cut(clip, center_box(*clip.shape[-2:], size)), v2.functional.center_crop(clip, [size, size])
    )


def test_center_crop_of_odd_room_rounds_its_corner_down() -> None:
    clip = torch.arange(7, dtype=torch.uint8).expand(1, 3, 4, 7)
    assert cut(clip, center_box(*clip.shape[-2:], 4))[0, 0, 0].tolist() == [1, 2, 3, 4]


def test_center_crop_larger_than_the_frames_raises(clip: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="A crop of 61 does not fit into frames of 60 x 80"):
        center_box(*clip.shape[-2:], 61)
