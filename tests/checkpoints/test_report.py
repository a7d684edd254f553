"""Converted checkpoints look at videos as their data set says; the table of data sets is that of the recipes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import (
    AMDDetectionArguments,
    AMDFineTuningArguments,
    AMDForActionDetection,
    AMDForVideoClassification,
    AMDTrainingArguments,
    AMDVideoProcessor,
    convert_checkpoint,
    export_checkpoint,
)
from amd_hf.data.arguments import FineTuningDataArguments, TrainingDataArguments
from amd_hf.detection.arguments import ActionTrainingArguments
from amd_hf.models import build_processor, read_settings
from amd_hf.options.parsing import parse_recipe
from amd_hf.view_settings import DATA_SETS, ViewSettings
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import ROOT, load_script
from tools.zoo import load_zoo


_GIVEN = {"num_attention_heads": 4, "num_frames": 4, "image_size": 16}


def _official(folder: Path, **run_arguments: Any) -> Path:
    """A file as the authors' code saves it, with the arguments of its run."""
    model = AMDForVideoClassification(tiny_config(image_size=16))
    file: dict[str, Any] = {"model": export_checkpoint(model)}
    if run_arguments:
        file["args"] = argparse.Namespace(**run_arguments)
    torch.save(file, folder / "official.pth")
    return folder / "official.pth"


_PARSED = {
    "pretraining": (TrainingDataArguments, AMDTrainingArguments),
    "classification": (FineTuningDataArguments, AMDFineTuningArguments),
    "detection": (ActionTrainingArguments, AMDDetectionArguments),
}


@pytest.mark.parametrize("model", list(load_zoo().models.values()), ids=lambda model: model.name)
def test_table_of_data_sets_is_what_the_recipes_train_and_test_with(model: Any, tmp_path: Path) -> None:
    arguments = [
        "--recipe", str(ROOT / model.recipe), "--output_dir", str(tmp_path), "--use_cpu", "--bf16=false", "--tf32=null"
    ]  # fmt: skip
    if model.task == "detection":
        arguments += ["--task", "detection"]
    types: tuple[type, ...] = _PARSED[model.task]
    if model.task == "detection":
        types = (*types, load_script("finetune").StartOptions)
    elif model.task == "classification":
        types = (*types, load_script("finetune").FineTuneOptions)
    else:
        types = (*types, load_script("pretrain").PretrainOptions)
    args = parse_recipe(types, arguments)[1]
    settings, expected = args.view_settings(), DATA_SETS[model.data.name][model.task]
    if model.is_image:  # of one frame any law takes that one
        settings = replace(settings, sampling_mode=expected.sampling_mode)
    assert settings == expected


@pytest.mark.parametrize(
    ("named", "data_set"),
    [("Kinetics-400", "k400"), ("SSV2", "ssv2"), ("UCF101", "ucf101"), ("HMDB51", "hmdb51"), ("Kinetics-710", "k400")],
)
def test_arguments_of_the_authors_run_say_the_data_set(named: str, data_set: str, tmp_path: Path) -> None:
    file = _official(tmp_path, data_set=named, test_num_segment=7, test_num_crop=3, sampling_rate=4)
    report = convert_checkpoint(file, **_GIVEN).conversion_report
    assert report.views == replace(DATA_SETS[data_set]["classification"], test_num_segments=7)
    assert f"data set {named}, by the arguments in the file" in str(report)


def test_user_says_the_data_set_against_the_file_too(tmp_path: Path) -> None:
    file = _official(tmp_path, data_set="Kinetics-400", test_num_segment=7, sampling_rate=8)
    report = convert_checkpoint(file, dataset="ssv2", **_GIVEN).conversion_report
    assert report.views == DATA_SETS["ssv2"]["classification"]
    assert "data set ssv2, given; the file names another, Kinetics-400" in str(report)
    with pytest.raises(ValueError, match="`dataset` must be one of k400, ssv2, .*, got 'sthv2'"):
        convert_checkpoint(file, dataset="sthv2", **_GIVEN)
    with pytest.raises(ValueError, match="The data set ava is one of detection, the checkpoint one of classification"):
        convert_checkpoint(file, dataset="ava", **_GIVEN)


def test_where_nothing_tells_the_report_says_what_is_assumed(tmp_path: Path) -> None:
    report = convert_checkpoint(_official(tmp_path), **_GIVEN).conversion_report
    assert report.views == ViewSettings(sampling_mode=None)
    assert "nothing says. Users will see that dense: 4 frames, 4 apart; test: dense, 5 x 3 views is assumed" in str(
        report
    )


def test_program_saves_the_law_of_the_data_set_and_the_way_back_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert = load_script("convert_checkpoint").main
    sizes = ["--model.num_attention_heads", "4", "--model.num_frames", "4", "--model.image_size", "16"]
    file = _official(tmp_path)
    convert(["--source", str(file), "--output_dir", str(tmp_path / "ours"), "--dataset", "ssv2", *sizes])
    assert "segments: one frame from each of 4 parts of the video; test: uniform, 2 x 3" in capsys.readouterr().out
    expected = replace(DATA_SETS["ssv2"]["classification"], short_side=16)
    assert read_settings(AMDVideoProcessor.from_pretrained(tmp_path / "ours")) == expected
    convert(["--source", str(tmp_path / "ours"), "--to_official", str(tmp_path / "back.pth")])
    convert(["--source", str(tmp_path / "back.pth"), "--output_dir", str(tmp_path / "again")])
    assert read_settings(AMDVideoProcessor.from_pretrained(tmp_path / "again")) == expected


def test_option_of_the_program_overrides_the_data_set_and_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--model.num_attention_heads", "4", "--model.num_frames", "4", "--model.image_size", "16"]
    load_script("convert_checkpoint").main(
        ["--source", str(_official(tmp_path)), "--output_dir", str(tmp_path / "ours"), "--dataset", "k400",
         "--sampling_rate", "2", *sizes]
    )  # fmt: skip
    assert "sampling_rate 2 overrides the model's own 4" in capsys.readouterr().out
    saved = AMDVideoProcessor.from_pretrained(tmp_path / "ours")
    assert (saved.sampling_mode, saved.sampling_rate) == ("spread", 2)


def test_converted_detector_sees_whole_frames(tmp_path: Path) -> None:
    model = randomize(AMDForActionDetection(tiny_config(image_size=16, use_final_norm=True)))
    report = convert_checkpoint({"model": export_checkpoint(model)}, task="detection", **_GIVEN).conversion_report
    processor = build_processor(tiny_config(image_size=16), report.views)
    assert not processor.do_center_crop
    assert processor.size["shortest_edge"] == 256
