"""docs/detection.md: its Python runs, its programs and options are there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from amd_hf import AMDDetectionArguments
from amd_hf.detection.arguments import ActionTrainingArguments
from amd_hf.detection.prediction import read_boxes_of_video
from examples.motion_people import write_motion_people
from tests.helpers.training import ROOT, load_script


_TEXT = (ROOT / "docs" / "detection.md").read_text()
_BOXES, _MODEL = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)


def test_boxes_of_a_torchvision_detector_are_what_the_programs_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = write_motion_people(tmp_path, "val", 1, 2, seed=0).videos
    (films / "val000.mp4").rename(tmp_path / "video.mp4")
    # A small detector without weights, whose every box counts: nothing is downloaded.
    code = _BOXES.replace("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn")
    code = code.replace('weights="DEFAULT"', "weights=None, weights_backbone=None, **few")
    code = code.replace("label == 1 and score >= 0.8", "len(persons) < 5")
    few = {"box_score_thresh": 0.0, "box_detections_per_img": 5, "rpn_post_nms_top_n_test": 10, "min_size": 64}
    monkeypatch.chdir(tmp_path)
    exec(code, {"few": few})
    boxes = read_boxes_of_video("persons.json", "video.mp4", min_score=0.0)
    assert len(boxes) == len(json.loads((tmp_path / "persons.json").read_text())) == 5
    assert {box.key_frame.timestamp for box in boxes} == {1.0}


def test_model_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(_MODEL, {})
    assert capsys.readouterr().out == "torch.Size([2, 3]) torch.Size([2, 384])\n"


def test_commands_name_programs_files_and_options_that_exist() -> None:
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", _TEXT, re.DOTALL))
    for path in re.findall(r"(?:scripts|configs)/\S+", commands):
        assert (ROOT / path).is_file(), path
    kinds = (ActionTrainingArguments, AMDDetectionArguments)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    programs = {"finetune": "StartOptions", "evaluate": "DetectionOptions", "predict": "DetectOptions"}
    for name, kind in programs.items():
        known |= {field.name for field in dataclasses.fields(getattr(load_script(name), kind))}
    options = set(re.findall(r"--(\w+)", _TEXT)) - {"recipe"}
    assert options - known == set()
    assert "demo-detection:" in (ROOT / "Makefile").read_text()
