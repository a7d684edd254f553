"""The notation of RandAugment and what it draws, against timm's own draws."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from timm.data.auto_augment import rand_augment_transform

from amd_hf.data.augment.rand_augment import OPERATIONS, RandAugment
from tests.data.augment.test_clip_operations import _TIMM_NAMES


_NUM_DRAWS = 6000
_OURS_BY_TIMMS = {theirs: ours for ours, theirs in _TIMM_NAMES.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Notation
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rand-m7-n4-mstd0.5-inc1", (4, 7, 0.5, 0.5)),
        ("rand-m9-mstd0.5-inc1", (2, 9, 0.5, 0.5)),
        ("rand-inc1-n3-p0.8", (3, 10, 0, 0.8)),
    ],
)
def test_notation_means_what_it_means_to_timm(text: str, expected: tuple[int, float, float, float]) -> None:
    ours = RandAugment.parse(text)
    theirs = rand_augment_transform(text, {})
    operation = theirs.ops[0]
    assert (ours.num_operations, ours.magnitude, ours.magnitude_std, ours.probability) == expected
    assert (theirs.num_layers, operation.magnitude, operation.magnitude_std, operation.prob) == expected
    assert [_OURS_BY_TIMMS[operation.name] for operation in theirs.ops] == list(OPERATIONS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rand-m7-n4", "must begin with 'rand' and hold 'inc1'"),
        ("rand-m7-inc0", "must begin with 'rand' and hold 'inc1'"),
        ("original-mstd0.5-inc1", "must begin with 'rand'"),
        ("rand-m7-w0-inc1", "'w0' of 'rand-m7-w0-inc1' is not supported"),
        ("rand-m7-mmax9-inc1", "'mmax9' of .* is not supported"),
        ("rand-m7-tweights-inc1", "'tweights' of .* is not supported"),
        ("rand-m7-m8-inc1", "'m8' of .* is not supported. Parts are .* each once"),
        ("rand-m-inc1", "'m' of .* is not supported"),
        ("", "must begin with 'rand'"),
        ("rand-m7.5-inc1", r"m must be a whole number, not 7\.5"),
        ("rand-m11-inc1", "m must lie between 0 and 10, not 11"),
        ("rand-n0-inc1", "n must lie between 1 and 100, not 0"),
        ("rand-p1.5-inc1", r"p must lie between 0 and 1, not 1\.5"),
        ("rand-mstd101-inc1", r"mstd must lie between 0 and 100, not 101\.0"),
    ],
)
def test_notation_that_is_not_supported_raises(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment.parse(text)


# ---------------------------------------------------------------------------------------------------------------------
# Draws
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["rand-m7-n4-mstd0.5-inc1", "rand-m9-n3-mstd1.5-p0.7-inc1"])
def draws(request: pytest.FixtureRequest) -> tuple[list, list]:
    """(operation, argument) pairs of many clips: ours, timm's."""
    generator = np.random.default_rng(0)
    augment = RandAugment.parse(request.param)
    ours = [augment.draw(generator) for _ in range(_NUM_DRAWS)]
    theirs: list[list[tuple[str, float]]] = []
    transform = rand_augment_transform(request.param, {})
    for operation in transform.ops:
        name = _OURS_BY_TIMMS[operation.name]
        operation.aug_fn = lambda image, *arguments, name=name, **_: (
            theirs[-1].append((name, arguments[0] if arguments else 0)) or image
        )
    state = random.getstate(), np.random.get_state()
    random.seed(1)
    np.random.seed(1)
    for _ in range(_NUM_DRAWS):
        theirs.append([])
        transform(None)
    random.setstate(state[0])
    np.random.set_state(state[1])
    return ours, theirs


def _chi_square(one: Counter, other: Counter, keys: list) -> float:
    """Of two samples with the same law, each cell normal."""
    total_one, total_other = one.total(), other.total()
    scale = (total_other / total_one) ** 0.5
    return sum((one[key] * scale - other[key] / scale) ** 2 / (one[key] + other[key]) for key in keys)


def test_operations_are_chosen_as_often_as_by_timm(draws: tuple[list, list]) -> None:
    counts = [Counter(name for clip in drawn for name, _ in clip) for drawn in draws]
    assert set(counts[0]) == set(OPERATIONS)
    assert _chi_square(*counts, list(OPERATIONS)) < 36.1  # 14 degrees of freedom, 0.1 %


def test_as_many_operations_are_applied_as_by_timm(draws: tuple[list, list]) -> None:
    counts = [Counter(len(clip) for clip in drawn) for drawn in draws]
    keys = sorted(counts[0] | counts[1])
    assert _chi_square(*counts, keys) < 18.5  # 4 degrees of freedom, 0.1 %


@pytest.mark.parametrize("name", OPERATIONS)
def test_arguments_are_distributed_as_timms(draws: tuple[list, list], name: str) -> None:
    by_name: list[dict[str, list[float]]] = [defaultdict(list), defaultdict(list)]
    for drawn, arguments in zip(draws, by_name, strict=True):
        for clip in drawn:
            for drawn_name, argument in clip:
                arguments[drawn_name].append(argument)
    ours, theirs = (np.sort(arguments[name]) for arguments in by_name)
    # Kolmogorov and Smirnov's distance of two samples, rejected at 0.1 %. Rounding makes equal values out of some.
    points = np.concatenate([ours, theirs]) + 1e-9
    distance = np.abs(np.searchsorted(ours, points) / len(ours) - np.searchsorted(theirs, points) / len(theirs)).max()
    assert distance < 1.95 * (1 / len(ours) + 1 / len(theirs)) ** 0.5


def test_same_generator_draws_the_same() -> None:
    augment = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    first, again, other = (augment.draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again != other
