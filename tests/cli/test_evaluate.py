"""evaluate.py: all files of the result, labels matched or refused, untrained heads, three folds by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

import amd_hf
from amd_hf import AMDForVideoClassification, AMDVideoProcessor, load_video_dataset
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import load_script, run_script
from tests.helpers.videos import text_file, write_video


def _save_classifier(folder: Path, names: str | list[str], seed: int = 0) -> Path:
    config = tiny_config(image_size=16, num_labels=len(names))
    config.id2label = dict(enumerate(names))
    randomize(AMDForVideoClassification(config), seed=seed, std=0.2).save_pretrained(folder)
    AMDVideoProcessor.for_model(config, sampling_rate=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes with a video each, and one more that cannot be read."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate("abcdef"):
        write_video(folder / name / "1.mp4", 5 + number, 32, 48)
    text_file(folder / "b" / "text.mp4")
    return folder


def _arguments(model: object, data: Path, output: Path, *more: str) -> list[str]:
    start = ["--model_name_or_path", str(model), "--data", str(data), "--output_dir", str(output), "--use_cpu"]
    return [*start, "--num_segments", "2", "--num_crops", "1", *more]


def test_program_started_as_a_process_writes_everything(videos: Path, tmp_path: Path) -> None:
    model = _save_classifier(tmp_path / "model", "abcdef")
    run = run_script("evaluate", *_arguments(model, videos, tmp_path / "out", "--save_view_logits", "true"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"test_results.json", "per_class.csv", "predictions.parquet", "confusion_matrix.png"}
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    right = sum(row["predicted"] == row["label"] for row in rows)
    in_top = sum(row["label"] in (row["top5"] or []) for row in rows)
    assert results["accuracy"] == pytest.approx(right / 7)
    assert results["tested"] == {
        "model": str(model), "data": str(videos), "split": None, "num_views": 2, "amd_hf_version": amd_hf.__version__
    }  # fmt: skip
    assert results["top5_accuracy"] == pytest.approx(in_top / 7)
    assert (results["videos_expected"], results["videos_present"], results["videos_read"]) == (7, 7, 6)
    assert len(rows[0]["view_logits"]) == 2
    assert f"accuracy: {right / 7:.4f}\n" in run.stdout
    assert "unreadable, counted as wrong: b/text.mp4: " in run.stdout


def test_swapped_label_order_is_told_and_changes_no_accuracy(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main = load_script("evaluate").main
    straight = AMDForVideoClassification.from_pretrained(_save_classifier(tmp_path / "straight", "abcdef"))
    order = [1, 0, 2, 3, 5, 4]  # the same model with its outputs in another order
    swapped = _save_classifier(tmp_path / "swapped", "bacdfe")
    model = AMDForVideoClassification.from_pretrained(swapped)
    state = straight.state_dict()
    state["classifier.weight"], state["classifier.bias"] = (
        state[name][order] for name in ("classifier.weight", "classifier.bias")
    )
    model.load_state_dict(state)
    model.save_pretrained(swapped)
    (expected,) = main(_arguments(tmp_path / "straight", videos, tmp_path / "one"))
    assert not caplog.text
    (result,) = main(_arguments(swapped, videos, tmp_path / "two"))
    assert "4 of the 6 classes of the data have another number in the model" in caplog.text
    assert result.metrics() == expected.metrics()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcde", "The data has 6 classes, the model only 5"),
        ("abcdeg", r"1 of the 6 classes of the data are unknown to the model.*: 'f'"),
        (["LABEL_0", "LABEL_1", "LABEL_2"] + [f"LABEL_{n}" for n in range(3, 7)], "6 classes with names, the model 7"),
    ],
)
def test_classes_that_are_not_the_models_are_refused_before_anything_is_written(
    videos: Path, tmp_path: Path, names: Any, message: str
) -> None:
    model = _save_classifier(tmp_path / "model", names)
    with pytest.raises(ValueError, match=message):
        load_script("evaluate").main(_arguments(model, videos, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_head_that_was_never_trained_is_refused_unless_asked_for(videos: Path, tmp_path: Path) -> None:
    config = tiny_config(image_size=16, num_labels=6)
    config.id2label = dict(enumerate("abcdef"))
    AMDForVideoClassification(config).save_pretrained(tmp_path / "model")
    AMDVideoProcessor.for_model(config).save_pretrained(tmp_path / "model")
    arguments = _arguments(tmp_path / "model", videos, tmp_path / "out")
    with pytest.raises(ValueError, match="was never trained: its biases are all 0"):
        load_script("evaluate").main(arguments)
    assert not (tmp_path / "out").exists()
    load_script("evaluate").main([*arguments, "--allow_untrained_head", "true"])


def test_three_folds_are_tested_each_with_its_model_and_averaged(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = load_script("evaluate")
    rows = load_video_dataset(videos)
    asked: list[tuple[int, str]] = []

    def load(self: Any, split: str) -> datasets.Dataset:
        asked.append((self.fold, split))
        return rows.select(range(self.fold, self.fold + 3))

    monkeypatch.setattr(evaluate.DataArguments, "load", load)
    for fold in (1, 2, 3):
        _save_classifier(tmp_path / f"model_{fold}", "abcdef", seed=fold)
    arguments = _arguments(tmp_path / "model_{fold}", videos, tmp_path / "out", "--split", "test")
    results = evaluate.main([*arguments, "--all_folds", "true"])
    assert asked == [(1, "test"), (2, "test"), (3, "test")]
    summary = json.loads((tmp_path / "out" / "test_results.json").read_text())
    accuracies = []
    for fold in (1, 2, 3):
        alone = json.loads((tmp_path / "out" / f"fold_{fold}" / "test_results.json").read_text())
        assert alone.pop("unreadable") == (
            [{"video_id": "b/text.mp4", "reason": results[0].unreadable[0][1]}] * (fold < 3)
        )
        tested = alone.pop("tested")
        assert (tested["model"], tested["fold"]) == (str(tmp_path / f"model_{fold}"), fold)
        assert summary[f"fold_{fold}"] == alone
        accuracies.append(alone["accuracy"])
    assert summary["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 3)
    assert set(summary["mean"]) == {"accuracy", "clip_accuracy", "mean_class_accuracy", "top5_accuracy"}
    assert len({str(result.predictions[-1]["probabilities"]) for result in results}) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "write `{fold}` where the folders of the three models differ"),
        (["--fold", "1"], "`fold` 1 and `all_folds` contradict each other"),
    ],
)
def test_one_model_for_all_folds_is_refused(videos: Path, tmp_path: Path, more: list[str], message: str) -> None:
    arguments = _arguments(tmp_path / "model", videos, tmp_path / "out", "--all_folds", "true", *more)
    with pytest.raises(ValueError, match=message):
        load_script("evaluate").main(arguments)
