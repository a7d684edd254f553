"""Features: against a plain loop over the encoder's own outputs; both forms; resumed, refused, bad videos listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate import Accelerator

from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDModel, load_video_dataset
from amd_hf.evaluation.features import FeatureOptions, extract_features, read_features
from amd_hf.evaluation.multiview import ViewCollator, ViewOptions
from tests.helpers.models import randomize, tiny_config
from tests.helpers.videos import text_file, write_video


VIEWS = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=2, num_crops=1)
ALL = ("pooled", "tokens", "layer_1", "layer_3", "layer_2_pooled")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """Five videos without labels, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write_video(folder / f"{number}.mp4", 8 + 9 * number, 32, 48)
    text_file(folder / "text.mp4")
    return load_video_dataset(folder)


@pytest.fixture
def encoder() -> AMDModel:
    return randomize(AMDForPreTraining(tiny_config(image_size=16))).eval().amd


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def _extract(
    encoder: AMDModel, rows: Any, folder: Path, accelerator: Accelerator, tensors: Any = ALL, **options: Any
) -> Any:
    of_features = {name: options.pop(name) for name in ("format", "dtype", "model") if name in options}
    settings = FeatureOptions(**{"model": "m", "tensors": tensors, **of_features})
    return extract_features(encoder, rows, VIEWS, settings, folder, accelerator, **options)


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
@pytest.mark.parametrize("is_classifier", [False, True])
def test_tensors_hold_what_is_documented(
    encoder: AMDModel, rows: datasets.Dataset, accelerator: Accelerator, tmp_path: Path, form: str, is_classifier: bool
) -> None:
    if is_classifier:
        encoder = randomize(AMDForVideoClassification(tiny_config(image_size=16))).eval().amd
    summary = _extract(encoder, rows, tmp_path, accelerator, format=form, videos_per_batch=2, videos_per_file=2)
    assert (summary["videos"], summary["written"], summary["already_done"]) == (6, 5, 0)
    found = list(read_features(tmp_path))
    assert [entry["video_id"] for entry in found] == [f"{number}.mp4" for number in range(5)]
    for entry, row in zip(found, rows, strict=False):
        assert entry["label"] is None
        with torch.no_grad():
            outputs = encoder(ViewCollator(VIEWS).views(row["video"]), output_hidden_states=True)
        hidden = outputs.hidden_states  # the input of block 1, then the output of each block
        tokens = encoder.norm(hidden[3]) if encoder.config.use_final_norm else hidden[3]
        assert encoder.config.use_final_norm != is_classifier
        expected = {
            "tokens": tokens,
            "pooled": tokens.mean(dim=1),
            "layer_1": hidden[1],
            "layer_3": hidden[3],
            "layer_2_pooled": hidden[2].mean(dim=1),
        }
        assert entry.keys() == {"video_id", "label", *expected}
        assert entry["tokens"].shape == (2, 8, 32)
        for name, value in expected.items():
            torch.testing.assert_close(entry[name], value, atol=1e-5, rtol=1e-5)


def test_labels_and_half_precision(encoder: AMDModel, accelerator: Accelerator, tmp_path: Path) -> None:
    for name in ("a/1.mp4", "b/1.mp4"):
        write_video(tmp_path / "videos" / name, 8, 32, 32)
    rows = load_video_dataset(tmp_path / "videos")
    _extract(encoder, rows, tmp_path / "out", accelerator, ("pooled",), dtype="float16", format="parquet")
    found = list(read_features(tmp_path / "out"))
    assert [(entry["label"], entry["pooled"].dtype) for entry in found] == [(0, torch.float16), (1, torch.float16)]


def test_killed_run_is_resumed_and_no_video_is_read_twice(
    encoder: AMDModel, rows: datasets.Dataset, accelerator: Accelerator, tmp_path: Path
) -> None:
    class Killed(BaseException):
        """Nothing that the code would catch."""

    class _Rows:
        """Rows of which the fourth kills the run."""

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, key: Any) -> Any:
            if key == 3:
                raise Killed
            return rows[key]

    options: dict[str, Any] = {"tensors": ("pooled",), "videos_per_batch": 1, "videos_per_file": 2}
    with pytest.raises(Killed):
        _extract(encoder, _Rows(), tmp_path, accelerator, **options)
    assert [entry["video_id"] for entry in read_features(tmp_path)] == ["0.mp4", "1.mp4"]
    summary = _extract(encoder, rows, tmp_path, accelerator, resume=True, **options)
    assert (summary["already_done"], summary["written"]) == (2, 3)
    resumed = {entry["video_id"]: entry["pooled"] for entry in read_features(tmp_path)}
    _extract(encoder, rows, tmp_path / "whole", accelerator, **options)
    whole = {entry["video_id"]: entry["pooled"] for entry in read_features(tmp_path / "whole")}
    assert list(resumed) == list(whole)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_bad_videos_are_listed_and_tried_again(encoder: AMDModel, accelerator: Accelerator, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "good.mp4", 8)
    bad = text_file(tmp_path / "videos" / "bad.mp4")
    rows = load_video_dataset(tmp_path / "videos")
    _extract(encoder, rows, tmp_path / "out", accelerator)
    (entry,) = json.loads((tmp_path / "out" / "unreadable.json").read_text())
    assert entry["video_id"] == "bad.mp4"
    assert entry["reason"]
    bad.unlink()
    write_video(bad, 8)
    summary = _extract(encoder, rows, tmp_path / "out", accelerator, resume=True)
    assert (summary["already_done"], summary["written"]) == (1, 1)
    assert json.loads((tmp_path / "out" / "unreadable.json").read_text()) == []


def test_folder_with_features_is_not_overwritten_nor_mixed(
    encoder: AMDModel, rows: datasets.Dataset, accelerator: Accelerator, tmp_path: Path
) -> None:
    _extract(encoder, rows, tmp_path, accelerator)
    with pytest.raises(FileExistsError, match="holds features already: resume"):
        _extract(encoder, rows, tmp_path, accelerator)
    with pytest.raises(ValueError, match="of other settings: model is 'm' there and 'n' here"):
        _extract(encoder, rows, tmp_path, accelerator, resume=True, model="n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensors": ("pooled", "layer_0")}, r"not \['layer_0'\]"),
        ({"tensors": ()}, "not none"),
        ({"tensors": ("pooled", "pooled")}, "named twice"),
        ({"format": "csv"}, "not 'csv'"),
    ],
)
def test_options_that_mean_nothing_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureOptions("m", **options)


def test_layer_that_the_encoder_lacks_raises(
    encoder: AMDModel, rows: datasets.Dataset, accelerator: Accelerator, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Layer 4 was requested, but the encoder has 3"):
        _extract(encoder, rows, tmp_path, accelerator, ("layer_4",))


def test_empty_folder_has_no_features(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no features"):
        list(read_features(tmp_path))
