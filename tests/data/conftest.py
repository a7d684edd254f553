"""Fixtures of the data tests: a few tiny videos, encoded once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.shared import shared_folder
from tests.helpers.video_kinds import KindFiles
from tests.helpers.videos import write_video


@pytest.fixture(scope="session")
def video_40(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames of 48 x 64, H.264 with B-frames and a key frame every 8."""
    return write_video(tmp_path_factory.mktemp("videos") / "forty.mp4", 40, 48, 64)


@pytest.fixture(scope="session")
def video_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of a single frame, 48 x 64."""
    return write_video(tmp_path_factory.mktemp("videos") / "one.mp4", 1, 48, 64)


@pytest.fixture(scope="session")
def kind_files(tmp_path_factory: pytest.TempPathFactory) -> KindFiles:
    """Files of every kind in `tests.helpers.video_kinds`."""
    return KindFiles(shared_folder(tmp_path_factory) / "kinds")
