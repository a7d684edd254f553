"""Each operation of RandAugment on a clip, against timm and PIL on its frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from amd_hf.data.augment.rand_augment import OPERATIONS, apply_operations, parts_needed
from amd_hf.data.augment.transforms import Part


_TIMM_NAMES = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}
_GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Textured frames that differ in brightness, uint8 (4, 60, 83, 3): smooth, noisy, dark, and of one colour."""
    generator = np.random.default_rng(0)
    noise = torch.from_numpy(generator.random((2, 3, 12, 16), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(noise, size=(60, 83), mode="bicubic").clamp(0, 1)
    smooth = (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    noisy = generator.integers(0, 256, (60, 83, 3), dtype=np.uint8)
    plain = np.full((60, 83, 3), (200, 10, 77), dtype=np.uint8)
    return np.stack([smooth[0], noisy, smooth[1] // 4, plain])


def _apply(frames: np.ndarray, drawn: list, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """The part `box` of the result, (T, h, w, 3)."""
    height, width = frames.shape[1:3]
    parts = parts_needed(drawn, box or (0, 0, height, width), height, width)
    result = apply_operations(Part.of_frames(frames, parts[0]), drawn, parts)
    assert result.pixels.dtype == np.uint8
    return result.pixels[..., :3]


def _arguments(name: str, magnitude: float, is_negative: bool) -> tuple[float, ...]:
    """The argument at a magnitude, from timm's own rule with the sign held fast."""
    rule = auto_augment.LEVEL_TO_ARG[_TIMM_NAMES[name]]
    if rule is None:
        return ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_augment, "_randomly_negate", lambda value: -value if is_negative else value)
        return rule(magnitude, {})


def _by_timm(frames: np.ndarray, name: str, arguments: tuple[float, ...]) -> np.ndarray:
    operation = auto_augment.NAME_TO_OP[_TIMM_NAMES[name]]
    options = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
    return np.stack([np.asarray(operation(Image.fromarray(frame), *arguments, **options)) for frame in frames])


@pytest.mark.parametrize("is_negative", [False, True], ids=["plus", "minus"])
@pytest.mark.parametrize("magnitude", [0, 2.2, 7.1, 9.9])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_does_to_each_frame_what_timm_does(
    frames: np.ndarray, name: str, magnitude: float, is_negative: bool
) -> None:
    arguments = _arguments(name, magnitude, is_negative)
    expected = _by_timm(frames, name, arguments).astype(int)
    differences = np.abs(_apply(frames, [(name, arguments[0] if arguments else 0)]) - expected)
    if name in _GEOMETRIC:
        # Decimals are cut off, and PIL sums in double precision: a sum just below a whole number may come out as it.
        assert differences.max() <= 1
        assert (differences > 0).mean() < 0.005
    else:
        assert differences.max() == 0


def test_posterize_at_full_magnitude_keeps_nothing(frames: np.ndarray) -> None:
    assert _arguments("posterize", 10, False) == (0,)  # what PIL from 12 on refuses
    assert not _apply(frames, [("posterize", 0)]).any()


@pytest.mark.parametrize("box", [(0, 0, 60, 83), (7, 11, 30, 40), (0, 50, 25, 33), (59, 82, 1, 1)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_part_of_the_result_is_what_it_is_in_the_whole(
    frames: np.ndarray, name: str, box: tuple[int, int, int, int]
) -> None:
    drawn = [("shear_y", 0.1), (name, (_arguments(name, 6, True) or (0,))[0]), ("color", 1.5), ("invert", 0)]
    top, left, height, width = box
    whole = _apply(frames, drawn)
    np.testing.assert_array_equal(_apply(frames, drawn, box), whole[:, top : top + height, left : left + width])


@pytest.mark.parametrize("name", OPERATIONS)
def test_frames_stay_as_they_are_and_may_have_any_memory_order(frames: np.ndarray, name: str) -> None:
    drawn = [(name, (_arguments(name, 6, False) or (0,))[0])]
    before = frames.copy()
    in_planes = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(_apply(frames, drawn), _apply(in_planes, drawn))
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_tiny_frames_are_no_trouble(name: str, size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    arguments = _arguments(name, 6, False)
    result = _apply(frames, [(name, arguments[0] if arguments else 0)])
    expected = _by_timm(frames, name, arguments).astype(int)
    np.testing.assert_allclose(result, expected, atol=1)


def test_operations_are_applied_in_the_order_drawn(frames: np.ndarray) -> None:
    drawn = [("solarize", 100.0), ("brightness", 0.5), ("rotate", 20.0), ("auto_contrast", 0.0), ("posterize", 3.0)]
    expected = frames
    for name, argument in drawn:
        arguments = (
            () if name == "auto_contrast" else (int(argument),) if name in ("solarize", "posterize") else (argument,)
        )
        expected = _by_timm(expected, name, arguments)
    assert (_apply(frames, drawn) == expected).mean() > 0.98
    backwards = _apply(frames, drawn[::-1])
    assert (backwards == expected).mean() < 0.5
