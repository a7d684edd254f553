"""What the programs read: separate annotation files, other layouts, streams; and the names that reach the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amd_hf import AMDConfig
from amd_hf.data.arguments import DataArguments, FineTuningDataArguments, training_label_names
from amd_hf.data.loading import load_video_dataset
from amd_hf.options.parsing import parse_recipe
from tests.cli.conftest import Work
from tests.helpers import miniatures
from tests.helpers.miniatures import Miniature


Program = Callable[[str], Any]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    copy = miniatures.tables(tmp_path_factory.mktemp("tables"))
    lines = (copy.folder / "validation.csv").read_text().splitlines()
    right = [line for line in lines if line.endswith(("label", "right"))]
    (copy.folder / "right.csv").write_text("\n".join(right) + "\n")  # lacks the class `left`
    return copy


def _recipe(work: Work, folder: Path, name: str) -> list[str]:
    lines = (work.root / f"{name}.yaml").read_text().splitlines()
    splits = ("train_split", "eval_split", "test_split")
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(line for line in lines if not line.startswith(splits)) + "\n")
    return ["--recipe", str(path), "--per_device_train_batch_size", "2", "--max_steps", "1"]


def test_separate_files_train_evaluate_and_test_and_their_names_reach_the_model(
    work: Work, program: Program, tables: Miniature, tmp_path: Path
) -> None:
    data = {name: str(tables.folder / f"{file}.csv") for name, file in
            (("--data", "train"), ("--eval_data", "right"), ("--test_data", "test"))}  # fmt: skip
    arguments = [*_recipe(work, tmp_path, "finetune"), "--model_name_or_path", str(work.root / "student")]
    arguments += [part for pair in data.items() for part in pair]
    trainer = program("finetune").main([*arguments, "--output_dir", str(tmp_path / "out")])
    assert [len(trainer.train_dataset), len(trainer.eval_dataset)] == [3, 1]
    assert trainer.eval_dataset["label"][:] == [1]  # `right`, as in the training set
    config = AMDConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == {0: "left", 1: "right"}
    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert results["videos_expected"] == 3


def test_pretraining_reads_a_stream_of_tar_shards(work: Work, program: Program, tmp_path: Path) -> None:
    copy = miniatures.webdataset(tmp_path / "shards", shard_sizes=(3, 2))
    arguments = [*_recipe(work, tmp_path, "pretrain"), "--data", str(copy.folder), "--train_split", "train"]
    arguments += ["--streaming", "--eval_split", "validation", "--output_dir", str(tmp_path / "out")]
    trainer = program("pretrain").main(arguments)
    assert trainer.train_dataset.num_shards == 2
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_finetuning_reads_a_stream_and_takes_the_names_given(
    work: Work, program: Program, tables: Miniature, tmp_path: Path
) -> None:
    names = ["--class_names", str(tables.folder / "label_names.txt")]
    arguments = [*_recipe(work, tmp_path, "finetune"), "--data", str(tables.folder / "train.txt"), "--streaming"]
    arguments += ["--model_name_or_path", str(work.root / "student"), "--output_dir", str(tmp_path / "out")]
    program("finetune").main([*arguments, *names])
    assert AMDConfig.from_pretrained(tmp_path / "out").id2label == {0: "left", 1: "right"}


def test_stream_of_labels_without_names_is_refused(tables: Miniature) -> None:
    stream = load_video_dataset(tables.folder / "train.txt", streaming=True)
    with pytest.raises(ValueError, match=r"number of classes is not known .* `--class_names FILE`"):
        training_label_names(stream)
    assert training_label_names(load_video_dataset(tables.folder / "train.txt")) == ["0", "1"]


def test_options_become_the_arguments_of_the_loader(tmp_path: Path) -> None:
    copy = miniatures.ucf101(tmp_path / "ucf101")
    arguments = ["--data", str(copy.folder), "--fold", "2", "--train_split", "train", "--eval_split", "test"]
    data, _ = parse_recipe((FineTuningDataArguments,), arguments)
    for rows, name in ((data.load_training(), "train02"), (data.load_evaluation(["x"]), "test02")):
        assert [row["video_id"] for row in rows] == [sample.video_id for sample in copy.samples[name]]
        assert rows.features["label"].names == copy.label_names
    assert data.load_test() is None
    frames = miniatures.something_something_frames(tmp_path / "frames")
    arguments = ["--data", f"{frames.folder}/train.txt", "--layout", "frame_list", "--frame_pattern", "img_%05d.jpg"]
    names = ["--class_names", f"{frames.folder}/label_names.txt", "--data_root", str(frames.folder)]
    data, _ = parse_recipe((DataArguments,), [*arguments, *names])
    assert data.load().features["label"].names == frames.label_names
    with pytest.raises(ValueError, match="Say which videos to read"):
        DataArguments().load()
