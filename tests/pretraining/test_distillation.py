"""Masks as they are drawn: counts, nesting, tubes; and the losses against the formulas, number by number."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from amd_hf.pretraining.distillation import ALIGNMENT_LOSSES, MaskGenerator, alignment_loss, weighted_sum
from tests.helpers.models import tiny_config


# ---------------------------------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask_type", "student_ratio", "teacher_ratio", "num_masked", "num_teacher_masked"),
    [
        ("tube", 0.7, 0.4, 8, 4),
        ("tube", 0.9, 0.75, 10, 8),
        ("tube", 0.7, 0.7, 8, 8),
        ("tube", 0.5, 0, 6, 0),
        ("random", 0.7, 0.4, 8, 4),
        ("random", 0.8, 0.3, 9, 3),
    ],
)
def test_masks_hide_as_many_tokens_as_the_ratios_mean(
    mask_type: str, student_ratio: float, teacher_ratio: float, num_masked: int, num_teacher_masked: int
) -> None:
    config = tiny_config(mask_type=mask_type, student_mask_ratio=student_ratio, teacher_mask_ratio=teacher_ratio)
    draw = MaskGenerator(config)
    assert (draw.num_masked, draw.num_teacher_masked) == (num_masked, num_teacher_masked)
    for seed in range(20):
        student, teacher = draw(np.random.default_rng(seed))
        assert student.dtype == teacher.dtype == torch.bool
        assert student.shape == teacher.shape == (12,)
        assert int(student.sum()) == num_masked
        assert int(teacher.sum()) == num_teacher_masked
        assert not bool((teacher & ~student).any())  # what the teacher hides the student hides too


def test_paper_masks_leave_160_tokens_to_the_student_and_392_to_the_teacher() -> None:
    draw = MaskGenerator(tiny_config(image_size=224, patch_size=16, num_frames=16, student_mask_ratio=0.9,
                                     teacher_mask_ratio=0.75))  # fmt: skip
    student, teacher = draw(np.random.default_rng(0))
    assert int((~student).sum()) == 8 * (196 - int(0.9 * 196)) == 160
    assert int((~teacher).sum()) == 8 * (196 - int(0.75 * 196)) == 392


def test_tube_masks_hide_the_same_patches_in_every_step() -> None:
    draw = MaskGenerator(tiny_config(num_frames=8))
    for seed in range(10):
        for mask in draw(np.random.default_rng(seed)):
            steps = mask.view(4, 6)
            assert bool((steps == steps[0]).all())


def test_random_masks_differ_between_steps() -> None:
    draw = MaskGenerator(tiny_config(mask_type="random", num_frames=8))
    steps = [draw(np.random.default_rng(seed))[0].view(4, 6) for seed in range(10)]
    assert any(bool((step != step[0]).any()) for step in steps)


def test_the_same_generator_state_gives_the_same_masks() -> None:
    draw = MaskGenerator(tiny_config())
    one, two, other = (draw(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])


def test_masks_do_not_touch_global_random_states() -> None:
    draw = MaskGenerator(tiny_config())
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw(np.random.default_rng(0))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def test_student_mask_is_the_same_with_and_without_a_teacher() -> None:
    with_teacher = MaskGenerator(tiny_config())(np.random.default_rng(1))
    student, teacher = MaskGenerator(tiny_config(), has_teacher=False)(np.random.default_rng(1))
    assert teacher is None
    assert torch.equal(student, with_teacher[0])


def test_every_set_of_patches_is_drawn_equally_often() -> None:
    """6 patches, 4 hidden from the student and 2 of these from the teacher: 15 x 6 cases."""
    draw = MaskGenerator(tiny_config(num_frames=2))
    generator = np.random.default_rng(0)
    counts = Counter(tuple(torch.cat(draw(generator)).tolist()) for _ in range(9000))
    assert len(counts) == 90
    assert all(abs(count - 100) <= 5 * 10 for count in counts.values())  # five standard deviations


@pytest.mark.parametrize("mask_type", ["tube", "random"])
def test_ratio_that_hides_nothing_raises(mask_type: str) -> None:
    config = tiny_config(mask_type=mask_type, student_mask_ratio=0.05, teacher_mask_ratio=0.0)
    with pytest.raises(ValueError, match="`student_mask_ratio` 0.05 hides none of the"):
        MaskGenerator(config)


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


def _distance(kind: str, one: float, other: float) -> float:
    difference = abs(one - other)
    if kind == "l2":
        return difference**2
    if kind == "l1":
        return difference
    return 0.5 * difference**2 if difference < 1 else difference - 0.5


def _features(num_tokens: list[int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [2 * torch.randn(2, count, 5).to(dtype) for count in num_tokens]


@pytest.mark.parametrize("kind", ["l2", "l1", "smooth_l1"])
def test_loss_is_the_mean_over_layers_of_the_mean_distance(kind: str) -> None:
    student, teacher = _features([3, 3]), _features([3, 3])
    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        pairs = zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True)
        expected += sum(_distance(kind, one, other) for one, other in pairs) / ours.numel() / 2
    assert alignment_loss(student, teacher, kind).item() == pytest.approx(expected, rel=1e-6)


def test_kinds_are_the_documented_four() -> None:
    assert set(ALIGNMENT_LOSSES) == {"l2", "l1", "smooth_l1", "cosine"}


def test_cosine_is_the_mean_over_tokens_of_one_minus_the_cosine_of_their_angle() -> None:
    student, teacher = _features([3, 3]), _features([3, 3])
    expected = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for one, other in zip(ours.flatten(0, 1).tolist(), theirs.flatten(0, 1).tolist(), strict=True):
            product = sum(x * y for x, y in zip(one, other, strict=True))
            expected += (1 - product / math.hypot(*one) / math.hypot(*other)) / 6 / 2
    assert alignment_loss(student, teacher, "cosine").item() == pytest.approx(expected, rel=1e-5)


def test_l2_is_the_default() -> None:
    student, teacher = _features([3]), _features([3])
    assert torch.equal(alignment_loss(student, teacher), alignment_loss(student, teacher, "l2"))


@pytest.mark.parametrize("kind", list(ALIGNMENT_LOSSES))
def test_half_precision_features_are_compared_in_float32(kind: str) -> None:
    student, teacher = _features([400], torch.bfloat16), _features([400], torch.bfloat16)
    loss = alignment_loss(student, teacher, kind)
    assert loss.dtype == torch.float32
    exact = alignment_loss([student[0].double()], [teacher[0].double()], kind)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_no_token_gives_zero_and_no_nan() -> None:
    student, teacher = _features([0, 0]), _features([0, 0])
    loss = alignment_loss(student, teacher)
    assert loss.shape == ()
    assert loss.item() == 0.0


def test_no_layer_gives_zero() -> None:
    assert alignment_loss([], []).item() == 0.0


def test_different_numbers_of_layers_raise() -> None:
    with pytest.raises(ValueError, match="features of 2 layers and the teacher of 1"):
        alignment_loss(_features([3, 3]), _features([3]))


def test_unknown_kind_raises() -> None:
    with pytest.raises(KeyError, match="angle"):
        alignment_loss(_features([3]), _features([3]), "angle")


def test_gradient_reaches_the_student_only_where_asked() -> None:
    student, teacher = _features([3])[0].requires_grad_(), _features([3])[0]
    alignment_loss([student], [teacher]).backward()
    torch.testing.assert_close(student.grad, 2 * (student.detach() - teacher) / student.numel())


def test_normalised_features_have_mean_0_and_std_1() -> None:
    student, teacher = _features([3])[0], (_features([3])[0] * 50 + 7).to(torch.bfloat16)
    expected = 0.0
    for ours, theirs in zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True):
        mean = sum(theirs) / 5
        std = math.sqrt(sum((value - mean) ** 2 for value in theirs) / 5 + 1e-5)
        expected += sum((one - (value - mean) / std) ** 2 for one, value in zip(ours, theirs, strict=True))
    loss = alignment_loss([student], [teacher], feature_norm=True)
    assert loss.item() == pytest.approx(expected / student.numel(), rel=1e-4)


def test_loss_is_the_weighted_sum_of_the_parts_that_there_are() -> None:
    weights = {"reconstruction": 2.0, "direct": 3.0, "generation": 0.5}
    parts = {"reconstruction": torch.tensor(1.5), "direct": torch.tensor(0.25), "generation": torch.tensor(8.0)}
    assert weighted_sum(parts, weights).item() == 2 * 1.5 + 3 * 0.25 + 0.5 * 8
    assert weighted_sum({"reconstruction": parts["reconstruction"]}, weights).item() == 3.0
