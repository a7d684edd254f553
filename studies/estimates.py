"""What the seeds of a study say: means, paired differences and their 95% intervals (Student's t)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval; `low` and `high` are NaN for a single seed."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return mean and two-sided interval of values that are independent and roughly normal.

    Raises:
        ValueError: If there is no value.
        ImportError: If SciPy is not installed.
    """
    if not values:
        raise ValueError("There are no values to take the mean of.")
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan, 1)
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError('Intervals need SciPy: `pip install "amd_hf[studies]"`.') from error
    quantile = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired_difference(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return how much more `first` is than `second`, seed by seed: mean and interval of the differences.

    Raises:
        ValueError: If the two are not of the same seeds.
    """
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], confidence)


__all__ = ["Interval", "mean_interval", "paired_difference"]
