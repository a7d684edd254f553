"""Exported models: the scores of the PyTorch model, whatever the format; folders that are whole; what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from amd_hf import (
    AMDForActionDetection,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    export_model,
    load_video_dataset,
)
from amd_hf.cli import evaluate, export, features, predict
from amd_hf.evaluation.features import read_features
from amd_hf.export import formats
from amd_hf.export.formats import FORMATS, INT8_FORMATS, check_packages
from amd_hf.export.measuring import peak_mebibytes
from amd_hf.export.running import load_exported, run_by_engine
from amd_hf.models import build_processor
from tests.helpers.models import random_clips, randomize, tiny_config
from tests.helpers.training import load_script
from tests.helpers.videos import text_file, write_video


def _lacks(format: str, int8: bool = False) -> str | None:
    """Why a format cannot be tried here; None where it can."""
    try:
        check_packages(format, int8)
    except ImportError as error:
        return str(error)
    return None


def _formats(*names: str, int8: bool = False) -> list[Any]:
    found = []
    for name in names:
        why = _lacks(name, int8)
        marks = [pytest.mark.skipif(why is not None, reason=why or "")]
        # `make test` needs seconds for ONNX; `make test-export` runs everything.
        found.append(
            pytest.param(name, marks=marks if name in ("onnx", "torch_export") else [*marks, pytest.mark.slow])
        )
    return found


_NAMES = ["left", "right", "up"]
_RUN_HERE = ("onnx", "openvino")


def _config(**changes: Any) -> Any:
    labels = {"id2label": dict(enumerate(_NAMES)), "label2id": {name: n for n, name in enumerate(_NAMES)}}
    return tiny_config(**{"image_size": 16, "num_labels": 3, "num_hidden_layers": 3, **labels, **changes})


def _saved(kind: type, folder: Path, **changes: Any) -> Path:
    model = randomize(kind(_config(**changes)), std=0.2)
    model.save_pretrained(folder)
    build_processor(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and an encoder, and two splits of three classes with a video that cannot be read."""
    root = tmp_path_factory.mktemp("export")
    _saved(AMDForVideoClassification, root / "classifier")
    _saved(AMDModel, root / "encoder")
    for split in ("train", "test"):
        for number, name in enumerate(_NAMES):
            for video in range(2):
                write_video(root / "videos" / split / name / f"{video}.mp4", 8 + 3 * number + video, 24, 32)
    text_file(root / "videos" / "test" / "up" / "text.mp4")
    return root


def _data(world: Path, *more: str) -> list[str]:
    return ["--data", str(world / "videos"), "--split", "test", *more]


def _export(world: Path, format: str, output: Path, *more: str, model: str = "classifier") -> dict[str, Any]:
    start = ["--model_name_or_path", str(world / model), "--format", format, "--output_dir", str(output)]
    return export.main([*start, "--measure_speed", "false", *more])


def _predictions(model: Path, world: Path, output: Path, *more: str) -> list[dict[str, Any]]:
    options = ["--output_dir", str(output), "--use_cpu", "--mixed_precision", "no", "--num_segments", "2"]
    evaluate.main(["--model_name_or_path", str(model), *_data(world), *options, *more])
    return pq.read_table(output / "predictions.parquet").to_pylist()


def _same_videos(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    assert [row["predicted"] for row in found] == [row["predicted"] for row in expected]
    assert [row["reason"] for row in found] == [row["reason"] for row in expected]
    for row, other in zip(expected, found, strict=True):
        if row["scores"] is not None:
            np.testing.assert_allclose(other["scores"], row["scores"], atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The same scores
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", _formats(*_RUN_HERE))
def test_exported_classifier_is_tested_and_predicts_as_the_model(
    format: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _export(world, format, tmp_path / "out", *_data(world))
    assert report["comparison"]["largest_difference"] < 1e-4
    assert (report["comparison"]["clips"], report["comparison"]["unreadable"]) == (6, 1)
    assert report["comparison"]["top1_agreement"] == 1.0
    assert report["comparison"]["accuracy_before"] == report["comparison"]["accuracy_after"]
    assert json.loads((tmp_path / "out" / "export_report.json").read_text()) == report
    expected = _predictions(world / "classifier", world, tmp_path / "a")
    assert np.std([row["scores"] for row in expected if row["readable"]], axis=0).max() > 1e-3  # the videos differ
    _same_videos(expected, _predictions(tmp_path / "out", world, tmp_path / "b"))
    assert f"classifier by {FORMATS[format].title}, float32" in capsys.readouterr().out
    video = str(world / "videos/test/up/1.mp4")
    said = [
        predict.main(["--model_name_or_path", str(model), "--videos", video, "--use_cpu", "--mixed_precision", "no"])
        for model in (world / "classifier", tmp_path / "out")
    ]
    (of_model,), (of_export,) = said
    assert [entry["label"] for entry in of_export["predictions"]] == [e["label"] for e in of_model["predictions"]]
    assert of_export["predictions"][0]["score"] == pytest.approx(of_model["predictions"][0]["score"], abs=1e-5)


@pytest.mark.parametrize("format", _formats(*_RUN_HERE))
def test_program_of_a_fixed_batch_on_floats_takes_any_clips(format: str, world: Path, tmp_path: Path) -> None:
    report = _export(world, format, tmp_path / "out", "--batch_size", "4", "--input_type", "float", *_data(world))
    assert (report["batch_size"], report["input_type"]) == (4, "float")
    network = load_exported(tmp_path / "out")
    model = AMDForVideoClassification.from_pretrained(world / "classifier").eval()
    for num_clips in (1, 4, 7):
        clips = random_clips(model.config, batch_size=num_clips)
        with torch.no_grad():
            torch.testing.assert_close(network(pixel_values=clips).logits, model(clips).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", _formats(*_RUN_HERE))
def test_images_are_classified_as_by_the_model(format: str, tmp_path: Path) -> None:
    images = _saved(AMDForImageClassification, tmp_path / "i", num_frames=1, tubelet_size=1)
    model = AMDForImageClassification.from_pretrained(images).eval()
    export_model(model, tmp_path / "image", format, measure_speed=False)
    pictures = random_clips(model.config, batch_size=3)
    with torch.no_grad():
        expected = model(pictures).logits
        for given in (pictures, pictures[:, 0]):
            found = load_exported(tmp_path / "image")(pixel_values=given).logits
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", _formats(*_RUN_HERE))
def test_detections_are_those_of_the_model(format: str, tmp_path: Path) -> None:
    detector = randomize(AMDForActionDetection(_config()), std=0.2).eval()
    export_model(detector, tmp_path / "detector", format, measure_speed=False)
    network = load_exported(tmp_path / "detector")
    boxes = [torch.tensor([[1.0, 2, 20, 15]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 9, 9], [3, 3, 30, 15]])]
    for height, width in ((16, 16), (16, 40), (32, 24)):  # frames of any size in whole patches
        clips = torch.randn(3, 4, 3, height, width)
        with torch.no_grad():
            expected = detector(clips, boxes).logits
        torch.testing.assert_close(network(clips, boxes).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", _formats(*_RUN_HERE))
def test_features_by_an_engine_and_of_an_exported_encoder(format: str, world: Path, tmp_path: Path) -> None:
    def found(model: Path, name: str, tensors: list[str], *more: str) -> list[dict[str, Any]]:
        options = ["--output_dir", str(tmp_path / name), "--use_cpu", "--mixed_precision", "no", *more]
        features.main(["--model_name_or_path", str(model), *_data(world), "--tensors", *tensors, *options])
        return list(read_features(tmp_path / name))

    tensors = ["pooled", "tokens", "layer_2", "layer_1_pooled"]
    expected = found(world / "encoder", "a", tensors)
    assert expected[0]["layer_2"].shape == (1, 8, 32)
    of_engine = found(world / "encoder", "b", tensors, "--engine", format)
    _export(world, format, tmp_path / "out", *_data(world), model="encoder")
    of_export = found(tmp_path / "out", "c", tensors[:2])
    for row, by_engine, exported in zip(expected, of_engine, of_export, strict=True):
        for name in tensors:
            torch.testing.assert_close(by_engine[name], row[name], rtol=0, atol=1e-4)
        torch.testing.assert_close(exported["tokens"], row["tokens"], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"features of its last layer alone, not of layers \[2\]"):
        found(tmp_path / "out", "d", ["layer_2"])


@pytest.mark.parametrize("format", _formats(*_RUN_HERE))
def test_engine_runs_a_model_as_pytorch_does(format: str, world: Path, tmp_path: Path) -> None:
    expected = _predictions(world / "classifier", world, tmp_path / "a", "--engine", "pytorch")
    _same_videos(expected, _predictions(world / "classifier", world, tmp_path / "b", "--engine", format))


@pytest.mark.parametrize("format", _formats(*_RUN_HERE, int8=True))
def test_int8_is_smaller_and_close(format: str, world: Path, tmp_path: Path) -> None:
    # Wide enough that weights are most of the file.
    _saved(AMDForVideoClassification, tmp_path / "wide", hidden_size=128, num_attention_heads=4)
    rows = {split: load_video_dataset(world / "videos", split=split) for split in ("train", "test")}
    model = AMDForVideoClassification.from_pretrained(tmp_path / "wide")
    report = export_model(
        model, tmp_path / "out", format, int8=True, calibration=rows["train"], comparison=rows["test"],
        measure_speed=False,
    )  # fmt: skip
    assert report["calibration_videos"] == 6
    assert report["megabytes"] < 0.6 * report["pytorch_megabytes"]
    assert 1e-4 < report["comparison"]["largest_difference"] < 0.5
    network = load_exported(tmp_path / "out")
    assert network.is_int8
    assert "int8" in network.title


@pytest.mark.parametrize("format", _formats("executorch", "torch_export"))
def test_other_formats_hold_the_model(format: str, world: Path, tmp_path: Path) -> None:
    report = _export(world, format, tmp_path / "out", *_data(world))
    assert report["comparison"]["largest_difference"] < 1e-4
    for name in FORMATS[format].files:
        assert (tmp_path / "out" / name).stat().st_size > 1000
    if format == "torch_export":
        with pytest.raises(ValueError, match="a pickle, which runs code when it is loaded"):
            load_exported(tmp_path / "out")
        clips = random_clips(_config(), batch_size=3)
        model = AMDForVideoClassification.from_pretrained(world / "classifier").eval()
        found = torch.export.load(tmp_path / "out" / "model.pt2").module()(pixel_values=clips).logits
        torch.testing.assert_close(found, model(clips).logits, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------


def test_folder_holds_what_is_needed_elsewhere(world: Path, tmp_path: Path) -> None:
    # `torch_export` needs no package: this runs everywhere.
    _export(world, "torch_export", tmp_path / "out", *_data(world))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "model.pt2", "export.json", "export_report.json", "README.md", "labels.txt", "config.json",
        "video_preprocessor_config.json",
    } <= names  # fmt: skip
    assert (tmp_path / "out" / "labels.txt").read_text() == "left\nright\nup\n"
    law = json.loads((world / "classifier" / "video_preprocessor_config.json").read_text())
    assert json.loads((tmp_path / "out" / "video_preprocessor_config.json").read_text()) == law
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# classifier, exported to torch.export" in card
    assert "| names the same class (6 clips of videos) | 100% | 100.0% |" in card
    assert str(world) not in card
    # Ours and unchanged: replaced. Changed since: refused.
    _export(world, "torch_export", tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md exists and is not, or no longer"):
        _export(world, "torch_export", tmp_path / "out")


@pytest.mark.slow  # three processes
@pytest.mark.parametrize("format", _formats("onnx"))
def test_speed_is_measured_beside_pytorch(format: str, world: Path, tmp_path: Path) -> None:
    model = AMDForVideoClassification.from_pretrained(world / "classifier")
    ballast = np.ones(2**27)  # 1 GiB of this process, which the others' peaks must not know
    report = export_model(model, tmp_path / "out", format)
    del ballast
    for name in ("pytorch", "exported"):
        assert 0 < report["speed"][name]["milliseconds"] < 1e4
        assert 100 < report["speed"][name]["peak_mebibytes"] < peak_mebibytes() - 500
    assert report["comparison"]["clips_of"] == "noise"
    assert "| ms per clip (" in (tmp_path / "out" / "README.md").read_text()


def test_encoder_of_a_pretrained_model_is_exported(tmp_path: Path) -> None:
    model = randomize(AMDForPreTraining(_config()))
    report = export_model(model, tmp_path / "out", "torch_export")
    assert report["kind"] == "encoder"
    assert not (tmp_path / "out" / "labels.txt").exists()


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


def test_program_that_is_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AMDForVideoClassification(_config()).eval()
    forward = AMDForVideoClassification.forward

    def differs_in_a_trace(self: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        outputs = forward(self, pixel_values, **kwargs)
        outputs.logits = outputs.logits * (1.01 if torch.compiler.is_exporting() else 1.0)
        return outputs

    monkeypatch.setattr(AMDForVideoClassification, "forward", differs_in_a_trace)
    with pytest.raises(ValueError, match=r"differ from the model's by up to 0\.0.* of their std: nothing was written"):
        export_model(randomize(model), tmp_path / "out", "torch_export")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AMDForVideoClassification, {"format": "tflite"}, "`format` must be one of onnx, openvino"),
        (AMDForVideoClassification, {"input_type": "int8"}, "`input_type` must be one of uint8, float"),
        (AMDForVideoClassification, {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        (AMDForVideoClassification, {"format": "torch_export", "int8": True}, "int8 is made for onnx and openvino"),
        (AMDForActionDetection, {"int8": True}, "A detector is exported in float32"),
        (AMDForActionDetection, {"format": "executorch"}, "ExecuTorch has no RoIAlign"),
        (AMDForActionDetection, {"input_type": "uint8"}, "padded to whole patches after normalisation"),
        (AMDForActionDetection, {"batch_size": 2}, "for one clip at a time, not for 2"),
    ],
)
def test_what_a_format_cannot_do_is_refused(kind: type, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(kind(_config()), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_int8_needs_videos(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8 is calibrated on videos of yours: `--data"):
        _export(world, "onnx", tmp_path / "out", "--int8", "true")


def test_untrained_head_is_not_exported_unasked(tmp_path: Path) -> None:
    AMDForVideoClassification(_config()).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="was never trained"):
        _export(tmp_path, "torch_export", tmp_path / "out")


def test_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert set(INT8_FORMATS) <= set(FORMATS)
    with pytest.raises(ImportError, match=r"ONNX needs onnx, onnxscript, onnxruntime: `pip install onnx onnxscript"):
        check_packages("onnx")
    with pytest.raises(ImportError, match=r"OpenVINO in int8 needs openvino, nncf: .*amd_hf\[export\]"):
        check_packages("openvino", int8=True)
    with pytest.raises(ImportError, match="Exporting needs Transformers 5.24 or later"):
        check_packages("torch_export")


def test_folder_that_is_not_whole_and_options_that_do_not_fit_are_refused(world: Path, tmp_path: Path) -> None:
    _export(world, "torch_export", tmp_path / "out")

    def run(*more: str) -> None:
        arguments = ["--model_name_or_path", str(tmp_path / "out"), "--use_cpu", "--output_dir", str(tmp_path / "r")]
        load_script("evaluate").main([*arguments, *_data(world), *more])

    with pytest.raises(ValueError, match="`mixed_precision` bf16 is PyTorch's alone"):
        run("--mixed_precision", "bf16")
    with pytest.raises(ValueError, match="its config cannot be changed any more"):
        run("--model.num_frames", "8")
    with pytest.raises(ValueError, match="a pickle, which runs code"):
        run()
    with pytest.raises(ValueError, match="holds an exported model, which has no weights of PyTorch"):
        _export(tmp_path, "torch_export", tmp_path / "again", model="out")
    (tmp_path / "out" / "model.pt2").unlink()
    with pytest.raises(ValueError, match=r"is not whole: it lacks model\.pt2"):
        run()
    (tmp_path / "out" / "export_report.json").write_text("[]")
    with pytest.raises(ValueError, match="was not written by `amd-hf export`"):
        run()


@pytest.mark.skipif(importlib.util.find_spec("zentorch") is not None, reason="zentorch is installed")
def test_zentorch_that_is_not_installed_is_named() -> None:
    with pytest.raises(ImportError, match="needs zentorch, for AMD CPUs: `pip install zentorch`"):
        run_by_engine(AMDForVideoClassification(_config()), "zentorch")
