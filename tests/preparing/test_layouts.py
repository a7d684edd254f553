"""Any layout in, any format out: the same videos, labels, names of labels, ids and order."""

from __future__ import annotations

from pathlib import Path

import pytest

from amd_hf.data.loading import load_video_dataset
from amd_hf.data.video.decoding import open_video
from amd_hf.preparing.arguments import FORMATS
from tests.helpers import miniatures

from .conftest import Prepare


_SOURCES = {
    "class_folders": ("validation", {}),
    "kinetics": ("train", {}),
    "something_something": ("train", {}),
    "ucf101": ("train", {"fold": 2}),
    "hmdb51": ("test", {}),
}


# Every format, and every layout.
@pytest.mark.parametrize(
    ("layout", "format_name"),
    [
        *(("class_folders", name) for name in FORMATS),
        ("kinetics", "class_folders"), ("kinetics", "list"), ("something_something", "parquet"),
        ("ucf101", "webdataset"), ("hmdb51", "frames"),
    ],
)  # fmt: skip
def test_output_loads_as_the_originals_do(prepare: Prepare, tmp_path: Path, layout: str, format_name: str) -> None:
    split, options = _SOURCES[layout]
    getattr(miniatures, layout)(tmp_path / "source")
    originals = load_video_dataset(tmp_path / "source", split=split, **options)
    before = {path: path.read_bytes() for path in (tmp_path / "source").rglob("*") if path.is_file()}

    outcome = prepare(
        tmp_path / "source", tmp_path / "out", split=[split], format=format_name, short_side=32, **options
    )

    prepared = load_video_dataset(**outcome.loading[0])
    assert prepared["video_id"][:] == originals["video_id"][:]
    assert prepared["label"][:] == originals["label"][:]
    assert prepared.features["label"].names == originals.features["label"].names
    for new, old in zip(prepared, originals, strict=True):
        with open_video(new["video"]) as made, open_video(old["video"]) as source:
            assert len(made) == len(source)
            assert (min(made.height, made.width), made.height > made.width) == (32, source.height > source.width)
    assert {path: path.read_bytes() for path in before} == before
    assert not outcome.faulty


def test_names_that_would_become_one_stay_apart(prepare: Prepare, tmp_path: Path) -> None:
    for name in ("a/x.mp4", "a/x.avi", "b/x.mp4", "b/X.mp4", "b/.y.mp4"):
        miniatures.encode(tmp_path / "source" / name, 3 + len(list(tmp_path.rglob("x.*"))))
    outcome = prepare(tmp_path / "source", tmp_path / "out")
    originals = load_video_dataset(tmp_path / "source")
    prepared = load_video_dataset(**outcome.loading[0])
    assert len(prepared) == len(originals) == 4
    for new, old in zip(prepared, originals, strict=True):
        assert new["video_id"] == old["video_id"]
        with open_video(new["video"]) as made, open_video(old["video"]) as source:
            assert len(made) == len(source)
