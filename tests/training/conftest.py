"""Fixtures of the training tests: a few tiny rendered videos, encoded once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from amd_hf import AMDConfig
from examples.motion_shapes import write_motion_shapes
from tests.helpers.models import tiny_config


@pytest.fixture(scope="session")
def motion_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` (16) and `validation` (9) with class folders: videos of 10 frames of 32 x 32 in eight classes."""
    root = tmp_path_factory.mktemp("motion")
    for split, num_videos in (("train", 16), ("validation", 9)):
        write_motion_shapes(root, split, num_videos, seed=0, num_frames=10, num_workers=0)
    return root


@pytest.fixture
def square_config() -> AMDConfig:
    """Clips that the built-in collators can cut: 4 frames of 16 x 16, 8 tokens."""
    return tiny_config(image_size=16, num_labels=8)
