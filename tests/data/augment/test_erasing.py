"""Random erasing: the box against timm's, the noise against the normal distribution."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing

from amd_hf.data.augment.erasing import NO_BOX, draw_erase_box, erase_clips


# ---------------------------------------------------------------------------------------------------------------------
# The box
# ---------------------------------------------------------------------------------------------------------------------


def _timm_boxes(height: int, width: int, count: int) -> np.ndarray:
    """(top, left, height, width) of the boxes that timm erases, read off the picture."""
    erase = RandomErasing(probability=1.0, mode="pixel", device="cpu")
    boxes = []
    for _ in range(count):
        is_erased = erase(torch.zeros(1, height, width))[0] != 0
        rows, columns = is_erased.any(1).nonzero().flatten(), is_erased.any(0).nonzero().flatten()
        top, left = int(rows[0]), int(columns[0])
        boxes.append((top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left))
    return np.array(boxes)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 90)])
def test_boxes_are_distributed_as_timms(height: int, width: int) -> None:
    random.seed(0)
    theirs = _timm_boxes(height, width, 2500)
    generator = np.random.default_rng(0)
    ours = np.array([draw_erase_box(height, width, 1.0, generator) for _ in range(2500)])
    quantities = [np.column_stack([boxes, boxes[:, 2] * boxes[:, 3], np.log(boxes[:, 2] / boxes[:, 3])])
                  for boxes in (ours, theirs)]  # fmt: skip
    for mine, timms in zip(*(quantity.T for quantity in quantities), strict=True):
        points = np.concatenate([mine, timms])
        shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (mine, timms)]
        assert np.abs(shares[0] - shares[1]).max() < 1.95 * (2 / 2500) ** 0.5  # Kolmogorov and Smirnov, 0.1 %
    assert np.all(ours[:, :2] >= 0)
    assert np.all(ours[:, :2] + ours[:, 2:] <= (height, width))


def test_probability_is_the_share_of_clips_with_a_box() -> None:
    generator = np.random.default_rng(0)
    number = sum(draw_erase_box(64, 64, 0.25, generator) != NO_BOX for _ in range(4000))
    assert abs(number - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert all(draw_erase_box(64, 64, 0.0, generator) == NO_BOX for _ in range(20))


def test_frame_too_small_for_a_box_gets_none() -> None:
    assert draw_erase_box(1, 1, 1.0, np.random.default_rng(0)) == NO_BOX


# ---------------------------------------------------------------------------------------------------------------------
# The noise
# ---------------------------------------------------------------------------------------------------------------------


def _erased(boxes: list, seeds: list[int], dtype: torch.dtype = torch.float32, size: int = 64) -> torch.Tensor:
    clips = torch.full((len(boxes), 4, 3, size, size), 7.0, dtype=dtype)
    return erase_clips(clips, torch.tensor(boxes), torch.tensor(seeds))


def test_box_of_every_frame_is_filled_and_nothing_else() -> None:
    box = (5, 20, 40, 30)
    clips = _erased([box, NO_BOX], [1, 2])
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[5:45, 20:50] = True
    assert torch.all((clips[0] != 7) == inside)
    assert torch.all(clips[1] == 7)


def test_noise_is_standard_normal_and_fresh_everywhere() -> None:
    noise = _erased([(0, 0, 64, 64)] * 2, [123456789012345, 5])
    sample = noise.flatten().double().numpy()
    number = len(sample)
    assert abs(sample.mean()) < 4 / number**0.5
    assert abs(sample.std() - 1) < 4 / (2 * number) ** 0.5
    expected = torch.distributions.Normal(0, 1).cdf(torch.from_numpy(np.sort(sample))).numpy()
    assert np.abs(expected - (np.arange(number) + 0.5) / number).max() < 1.95 / number**0.5
    # Neighbours in time, channel, row and column, and the two clips, have nothing in common.
    pairs = [(noise.narrow(axis, 0, length - step), noise.narrow(axis, step, length - step))
             for axis, length in enumerate(noise.shape) for step in (1, 2) if step < length]  # fmt: skip
    for one, other in pairs:
        correlation = np.corrcoef(one.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 5 / one.numel() ** 0.5
        assert (one == other).float().mean() < 1e-4


@pytest.mark.parametrize("other_seed", [2, 2**32 + 1, 2**63 - 1, 0])
def test_noise_depends_on_all_of_the_seed(other_seed: int) -> None:
    whole = (0, 0, 64, 64)
    first, again, other = _erased([whole] * 3, [1, 1, other_seed])
    assert torch.equal(first, again)
    assert abs(np.corrcoef(first.flatten().numpy(), other.flatten().numpy())[0, 1]) < 5 / first.numel() ** 0.5


def test_noise_of_a_place_depends_neither_on_the_box_nor_on_the_batch() -> None:
    whole = _erased([(0, 0, 64, 64)], [9])[0]
    part = _erased([NO_BOX, (10, 0, 20, 64)], [3, 9])[1]
    torch.testing.assert_close(part[..., 10:30, :], whole[..., 10:30, :], atol=0, rtol=0)


def test_memory_order_does_not_matter_and_the_tensor_is_the_same() -> None:
    clips = torch.zeros(2, 3, 4, 16, 16).transpose(1, 2)
    box, seed = torch.tensor([(2, 3, 5, 6)] * 2), torch.tensor([4, 5])
    expected = erase_clips(torch.zeros(2, 4, 3, 16, 16), box, seed)
    result = erase_clips(clips, box, seed)
    assert result is clips
    assert torch.equal(result, expected)


def test_half_precision_gets_the_same_noise_rounded() -> None:
    whole = (0, 0, 64, 64)
    exact, rounded = _erased([whole], [8]), _erased([whole], [8], torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.to(torch.bfloat16))


def test_path_of_accelerators_gives_the_same_noise() -> None:
    from amd_hf.data.augment import erasing

    box, seed = torch.tensor((5, 20, 40, 30)), torch.tensor(2**40 + 3)
    known, unknown = torch.zeros(2, 4, 3, 64, 64)
    erasing._erase_known_box(known, box, seed)
    erasing._erase_unknown_box(unknown, box, seed)
    assert torch.equal(known, unknown)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_gives_the_same_noise_without_waiting() -> None:
    boxes, seeds = torch.tensor([(5, 20, 40, 30), NO_BOX, (0, 0, 64, 64)]), torch.tensor([1, 2, 2**62])
    expected = erase_clips(torch.zeros(3, 4, 3, 64, 64), boxes, seeds)
    arguments = torch.zeros(3, 4, 3, 64, 64, device="cuda"), boxes.cuda(), seeds.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = erase_clips(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result.cpu(), expected, atol=1e-5, rtol=1e-5)


def test_clips_that_were_not_normalised_raise() -> None:
    with pytest.raises(TypeError, match=r"must be floating, not torch\.uint8"):
        erase_clips(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4).long(), torch.zeros(1).long())


def test_boxes_of_another_number_of_clips_raise() -> None:
    with pytest.raises(ValueError, match=r"do not fit together: \(2, 2, 3, 8, 8\), \(1, 4\) and \(2,\)"):
        erase_clips(torch.zeros(2, 2, 3, 8, 8), torch.zeros(1, 4).long(), torch.zeros(2).long())
