"""Alignment losses against the formulas, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from amd_hf.pretraining.distillation import ALIGNMENT_LOSSES, alignment_loss, weighted_sum


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


def test_kinds_are_the_documented_three() -> None:
    assert set(ALIGNMENT_LOSSES) == {"l2", "l1", "smooth_l1"}


def test_l2_is_the_default() -> None:
    student, teacher = _features([3]), _features([3])
    assert torch.equal(alignment_loss(student, teacher), alignment_loss(student, teacher, "l2"))


@pytest.mark.parametrize("kind", ["l2", "l1", "smooth_l1"])
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
    with pytest.raises(KeyError, match="cosine"):
        alignment_loss(_features([3]), _features([3]), "cosine")


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
