"""docs/data.md: its examples run on the miniature copies, and what it says of them is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from amd_hf.data.loading import LAYOUTS, load_video_dataset
from tests.helpers import miniatures
from tests.helpers.videos import write_video


_PAGE = Path(__file__).parents[3] / "docs" / "data.md"
_COPIES = {
    "k400": miniatures.kinetics,
    "ssv2": miniatures.something_something,
    "ssv2_frames": miniatures.something_something_frames,
    "ucf101": miniatures.ucf101,
    "hmdb51": miniatures.hmdb51,
    "videos": miniatures.class_folders,
    "own": miniatures.tables,
    "shards": miniatures.webdataset,
    "parquet": miniatures.parquet,
}
_EXAMPLES = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    for name, make in _COPIES.items():
        make(root / name)
    write_video(root / "video.mp4", 50)
    return root


@pytest.mark.parametrize("code", _EXAMPLES)
def test_example_runs(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    names: dict[str, Any] = {"load_video_dataset": load_video_dataset}
    exec(code, names)
    found = [value for value in names.values() if isinstance(value, datasets.Dataset | datasets.IterableDataset)]
    assert len(found) == code.count("load_video_dataset(")
    assert all(next(iter(dataset))["video_id"] for dataset in found)


def test_every_layout_is_on_the_page() -> None:
    text = _PAGE.read_text()
    assert [layout for layout in LAYOUTS if f"`{layout}`" not in text] == []
    lists = [code for code in _EXAMPLES if "load_video_dataset(" in code]  # the others read a video
    assert len(lists) == len(_COPIES)
