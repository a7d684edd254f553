"""Means, paired differences and their intervals, against tables of Student's t."""

from __future__ import annotations

import math

import pytest

from studies.estimates import mean_interval, paired_difference


# Two-sided 95% quantiles of Student's t, from a printed table: degrees of freedom -> t.
_T_TABLE = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262}


@pytest.mark.parametrize(("freedom", "t"), _T_TABLE.items())
def test_interval_is_that_of_the_t_table(freedom, t):
    values = [0.0] * freedom + [float(freedom + 1)]  # mean 1, standard deviation sqrt(n)
    found = mean_interval(values)
    assert found.mean == pytest.approx(1)
    assert found.high - found.mean == pytest.approx(t, rel=3e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_differences_are_taken_seed_by_seed():
    found = paired_difference([0.9, 0.5, 0.7], [0.8, 0.4, 0.6])  # far apart, but always by 0.1
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_one_seed_has_no_interval():
    found = mean_interval([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.low)


def test_seeds_must_be_the_same():
    with pytest.raises(ValueError, match="zip"):
        paired_difference([0.5], [0.5, 0.6])
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
