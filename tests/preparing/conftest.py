"""A prepared data set is loaded by the reader of all data sets, and videos by the decoder of all videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amd_hf.data.arguments import DataArguments
from amd_hf.preparing.arguments import PreparingArguments
from amd_hf.preparing.data_set import Outcome, Preparation
from tests.helpers.shared import shared_folder
from tests.helpers.video_kinds import KindFiles


Prepare = Callable[..., Outcome]

_OF_DATA = ("data_root", "class_names", "fold", "layout", "unlabelled", "label_column", "frame_pattern")


@pytest.fixture
def prepare() -> Prepare:
    """`prepare(data, output_dir, **options)` in this process; small videos, so that it is fast."""

    def run(data: Path, output_dir: Path, **options: Any) -> Outcome:
        of_data = {name: options.pop(name) for name in _OF_DATA if name in options}
        arguments = PreparingArguments(
            output_dir=str(output_dir), **{"num_workers": 1, "preset": "ultrafast", **options}
        )
        return Preparation(DataArguments(data=str(data), **of_data), arguments).run(lambda verdicts, total: verdicts)

    return run


@pytest.fixture(scope="session")
def kind_files(tmp_path_factory: pytest.TempPathFactory) -> KindFiles:
    return KindFiles(shared_folder(tmp_path_factory) / "kinds")
