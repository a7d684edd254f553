"""The names that `amd_hf.detection` has itself, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import amd_hf.detection
from amd_hf import modeling_amd_detection
from amd_hf.detection import boxes, mean_average_precision


def test_extend_boxes_is_that_of_the_model() -> None:
    assert amd_hf.detection.extend_boxes is boxes.extend_boxes is modeling_amd_detection.extend_boxes


def test_score_submission_is_that_of_the_mean_average_precision() -> None:
    assert amd_hf.detection.score_submission is mean_average_precision.score_submission


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="module 'amd_hf.detection' has no attribute 'score'"):
        amd_hf.detection.score  # noqa: B018


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, amd_hf.detection; print([n for n in ('torch', 'datasets', 'pyarrow', 'av') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
