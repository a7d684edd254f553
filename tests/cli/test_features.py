"""extract_features.py as a program, from a pre-trained model and from a classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDVideoProcessor
from amd_hf.evaluation.features import read_features
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import load_script, run_script
from tests.helpers.videos import text_file, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / "ab"[number % 2] / f"{number}.mp4", 10 + number, 32, 48)
    text_file(folder / "b" / "text.mp4")
    return folder


def _arguments(model: Path, videos: Path) -> list[str]:
    return ["--model_name_or_path", str(model), "--data", str(videos), "--use_cpu", "--mixed_precision", "no"]


def test_program_writes_resumes_and_lists_what_it_cannot_read(videos: Path, tmp_path: Path) -> None:
    model = randomize(AMDForPreTraining(tiny_config(image_size=16)))
    model.save_pretrained(tmp_path / "model")
    AMDVideoProcessor.for_model(model.config, sampling_rate=2).save_pretrained(tmp_path / "model")
    arguments = _arguments(tmp_path / "model", videos)
    arguments += ["--output_dir", str(tmp_path / "out"), "--tensors", "pooled", "layer_2", "--format", "parquet"]
    run = run_script("extract_features", *arguments)
    assert "unreadable, without features: b/text.mp4: " in run.stdout
    assert "3 of 4 videos written" in run.stdout
    found = list(read_features(tmp_path / "out"))
    assert [(entry["video_id"], entry["label"]) for entry in found] == [("a/0.mp4", 0), ("a/2.mp4", 0), ("b/1.mp4", 1)]
    assert found[0]["pooled"].shape == (1, 32)
    assert found[0]["layer_2"].shape == (1, 8, 32)
    with pytest.raises(FileExistsError, match="holds features already"):
        load_script("extract_features").main(arguments)
    summary = load_script("extract_features").main([*arguments, "--resume", "true"])
    assert (summary["already_done"], summary["written"], len(summary["unreadable"])) == (3, 0, 1)


def test_features_of_a_classifier_are_those_its_head_sees(videos: Path, tmp_path: Path) -> None:
    model = randomize(AMDForVideoClassification(tiny_config(image_size=16))).eval()
    model.save_pretrained(tmp_path / "model")
    processor = AMDVideoProcessor.for_model(model.config, sampling_rate=2)
    processor.save_pretrained(tmp_path / "model")
    arguments = _arguments(tmp_path / "model", videos)
    load_script("extract_features").main([*arguments, "--output_dir", str(tmp_path / "out")])
    for entry in read_features(tmp_path / "out"):
        clip = processor(str(videos / entry["video_id"]), return_tensors="pt")
        with torch.no_grad():
            logits = model(**clip).logits
            ours = model.classifier(model.fc_norm(entry["pooled"]))
        torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say what to extract from what"),
        (["--model_name_or_path", "{tmp}", "--data", "{tmp}", "--tensors", "cls"], r"not \['cls'\]"),
        (["--model_name_or_path", "{tmp}/nowhere", "--data", "{tmp}"], "There is no folder"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_script("extract_features").main([argument.format(tmp=tmp_path) for argument in arguments])
