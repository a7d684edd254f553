"""Cases of a parametrised test of which the fast suite runs some, and `make test-slow` all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(fast: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return the cases for `pytest.mark.parametrize`, those marked as slow that are not among the fast ones."""
    cases = list(cases)
    unknown = [case for case in fast if case not in cases]
    assert not unknown, f"no such cases: {unknown}"
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]
