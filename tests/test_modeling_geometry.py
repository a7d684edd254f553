"""Clips of another size than the checkpoint's: the table computed anew or stretched, against plain references."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from amd_hf import AMDForVideoClassification, AMDModel
from amd_hf.modeling_amd import interpolate_position_table
from tests.helpers.models import tiny_teacher_config


def _sincos(num_positions: int, dim: int) -> np.ndarray:
    """The table of the released code, number by number."""
    table = np.zeros((num_positions, dim))
    for position in range(num_positions):
        for j in range(dim):
            angle = position / 10000 ** (2 * (j // 2) / dim)
            table[position, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    return table


def _cubic(x: float, a: float = -0.75) -> float:
    """Keys' kernel with PyTorch's parameter."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def _resample(values: np.ndarray, new_length: int, is_cubic: bool) -> np.ndarray:
    """Resamples the first axis at half-pixel centres, edges repeated."""
    length = len(values)
    result = np.zeros((new_length, *values.shape[1:]))
    for i in range(new_length):
        centre = (i + 0.5) * length / new_length - 0.5
        if not is_cubic:
            centre = max(centre, 0.0)
        base = math.floor(centre)
        for tap in range(base - 1, base + 3) if is_cubic else (base, base + 1):
            distance = centre - tap
            weight = _cubic(distance) if is_cubic else max(0.0, 1 - abs(distance))
            result[i] += weight * values[min(max(tap, 0), length - 1)]
    return result


@pytest.mark.parametrize("new_grid", [(2, 2, 3), (2, 4, 5), (3, 2, 3), (4, 3, 2), (1, 1, 1)])
def test_interpolated_table_equals_plain_cubic_in_space_and_linear_in_time(new_grid: tuple[int, int, int]) -> None:
    grid, dim = (2, 2, 3), 8
    table = _sincos(math.prod(grid), dim)
    expected = table.reshape(*grid, dim)
    for axis, is_cubic in ((1, True), (2, True), (0, False)):
        if grid[axis] != new_grid[axis] or (is_cubic and grid[1:] != new_grid[1:]):
            expected = np.moveaxis(_resample(np.moveaxis(expected, axis, 0), new_grid[axis], is_cubic), 0, axis)
    actual = interpolate_position_table(torch.from_numpy(table), grid, new_grid)
    np.testing.assert_allclose(actual.numpy(), expected.reshape(-1, dim), atol=1e-6)


@pytest.mark.parametrize("changes", [{"num_frames": 8}, {"image_size": [24, 40]}, {"num_frames": 2, "image_size": 32}])
def test_model_loaded_at_another_size_computes_the_table_of_that_size(
    changes: dict, teacher_model: AMDModel, tmp_path: Path
) -> None:
    teacher_model.save_pretrained(tmp_path)
    model = AMDModel.from_pretrained(tmp_path, **changes)
    config = tiny_teacher_config(**changes)
    torch.testing.assert_close(
        model.embeddings.position.table,
        torch.from_numpy(_sincos(config.num_patches, config.hidden_size)).float(),
        atol=1e-6,
        rtol=0,
    )
    clip = torch.zeros(1, config.num_frames, 3, *config.image_height_width)
    assert model(clip).last_hidden_state.shape == (1, config.num_patches, config.hidden_size)


def test_interpolation_of_the_models_own_size_changes_nothing(teacher_model: AMDModel, clips: torch.Tensor) -> None:
    torch.testing.assert_close(
        teacher_model(clips, interpolate_pos_encoding=True).last_hidden_state,
        teacher_model(clips).last_hidden_state,
        atol=0,
        rtol=0,
    )


def test_interpolated_positions_are_those_added_to_the_tokens(teacher_model: AMDModel) -> None:
    clip = torch.zeros(1, 4, 3, 32, 40)
    hidden = teacher_model(clip, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[0]
    table = interpolate_position_table(teacher_model.embeddings.position.table, (2, 2, 3), (2, 4, 5))
    bias = teacher_model.embeddings.projection.bias
    torch.testing.assert_close(hidden[0], table + bias, atol=1e-6, rtol=0)


def test_masks_of_an_interpolated_clip_count_its_own_tokens(teacher_model: AMDModel) -> None:
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[:, :30] = True
    clip = torch.zeros(1, 4, 3, 32, 40)
    outputs = teacher_model(clip, mask, interpolate_pos_encoding=True)
    assert outputs.last_hidden_state.shape[1] == 10


def test_clip_of_another_size_without_the_option_raises(classifier: AMDForVideoClassification) -> None:
    clip = torch.zeros(1, 4, 3, 32, 40)
    with pytest.raises(ValueError, match=r"got \(1, 4, 3, 32, 40\).*interpolate_pos_encoding=True"):
        classifier(clip)
    assert classifier(clip, interpolate_pos_encoding=True).logits.shape == (1, 5)


@pytest.mark.parametrize("shape", [(1, 3, 3, 16, 24), (1, 4, 3, 17, 24), (1, 4, 1, 16, 24), (4, 3, 16, 24)])
def test_clip_that_the_patches_do_not_divide_raises(shape: tuple[int, ...], teacher_model: AMDModel) -> None:
    with pytest.raises(ValueError, match="`pixel_values`"):
        teacher_model(torch.zeros(shape), interpolate_pos_encoding=True)
