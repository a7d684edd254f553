"""The programs with `--task detection`: train, test, predict one's own video and draw it, check annotation files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from amd_hf import AMDForActionDetection
from amd_hf.data.datasets.problems import Problems
from amd_hf.data.video.decoding import open_video
from amd_hf.detection.datasets.ava_files import read_actions
from amd_hf.detection.drawing import draw_detections
from amd_hf.detection.mean_average_precision import score_submission
from amd_hf.options.parsing import read_task
from examples.motion_people import FRAMES_PER_SECOND, PEOPLE_ACTIONS, PeopleFiles, write_motion_people
from tests.helpers.training import load_script, one_error_line
from tests.helpers.videos import text_file, write_video


_RECIPE = """
task: detection
model: {image_size: 32, patch_size: 8, num_frames: 4, tubelet_size: 2, hidden_size: 16, num_hidden_layers: 2,
        num_attention_heads: 2, classifier_init_scale: 1.0}
sampling_rate: 2
short_side: 32
per_device_train_batch_size: 4
max_steps: 3
warmup_epochs: 0
logging_steps: 1
save_strategy: "no"
use_cpu: true
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Films, a detector trained on them for three steps, and what its test gave."""
    root = tmp_path_factory.mktemp("detection")
    train, val = (write_motion_people(root, split, 3, 2, seed=0, size=32) for split in ("train", "val"))
    (root / "recipe.yaml").write_text(_RECIPE)
    data = ["--video_root", str(val.videos), "--action_list", str(val.action_list)]
    trainer = load_script("finetune").main(
        ["--recipe", str(root / "recipe.yaml"), *data, "--annotations", str(train.annotations), "--output_dir",
         str(root / "detector"), "--eval_annotations", str(val.annotations), "--person_boxes", str(val.person_boxes)]
    )  # fmt: skip
    return SimpleNamespace(root=root, train=train, val=val, data=data, trainer=trainer, model=str(root / "detector"))


def test_fine_tuned_detector_is_saved_with_its_actions_and_tested(work: SimpleNamespace) -> None:
    model = AMDForActionDetection.from_pretrained(work.model)
    assert [model.config.id2label[number] for number in range(6)] == list(PEOPLE_ACTIONS)
    assert work.trainer.state.global_step == 3
    summary = json.loads((work.root / "detector" / "test_results.json").read_text())
    assert summary["videos_expected"] == summary["videos_read"] == 6
    assert 0 < summary["map"] < 1
    scored = score_submission(work.root / "detector" / "detections.csv", work.val.annotations, work.val.action_list)
    assert scored["map"] == pytest.approx(summary["map"], abs=1e-3)  # scores in the file are rounded


def test_evaluation_repeats_the_test_of_the_training_run(work: SimpleNamespace, tmp_path: Path) -> None:
    result = load_script("evaluate").main(
        ["--task", "detection", "--model_name_or_path", work.model, *work.data, "--annotations",
         str(work.val.annotations), "--person_boxes", str(work.val.person_boxes), "--output_dir", str(tmp_path),
         "--use_cpu", "--batch_size", "5"]
    )  # fmt: skip
    first = json.loads((work.root / "detector" / "test_results.json").read_text())
    assert result.metrics()["map"] == pytest.approx(first["map"], abs=1e-6)
    again = json.loads((tmp_path / "test_results.json").read_text())
    assert again["boxes_tested"] == first["boxes_tested"] > 10
    assert again["tested"]["model"] == work.model
    assert again["tested"]["data"] == str(work.val.annotations)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["action", *PEOPLE_ACTIONS]


def _true_boxes(files: PeopleFiles, name: str) -> dict[float, list[tuple[float, ...]]]:
    boxes: dict[float, list[tuple[float, ...]]] = {}
    for action in read_actions(files.annotations, range(1, 7), Problems()):
        if action.key_frame.video == name and action.box not in boxes.setdefault(action.key_frame.timestamp, []):
            boxes[action.key_frame.timestamp].append(action.box)
    return boxes


def test_prediction_of_ones_own_video_is_written_and_drawn(work: SimpleNamespace, tmp_path: Path) -> None:
    video = work.val.videos / "val001.mp4"
    persons = [
        {"timestamp": time, "box": list(box), "score": 0.9}
        for time, boxes in _true_boxes(work.val, "val001").items()
        for box in boxes
    ]
    persons.append({"timestamp": 1, "box": [0.1, 0.1, 0.2, 0.2], "score": 0.5})  # not sure enough
    (tmp_path / "persons.json").write_text(json.dumps(persons))
    moments = load_script("predict").main(
        ["--task", "detection", "--model_name_or_path", work.model, "--video", str(video), "--person_boxes",
         str(tmp_path / "persons.json"), "--output_json", str(tmp_path / "actions.json"), "--output_video",
         str(tmp_path / "actions.mp4"), "--use_cpu", "--top_k", "2", "--min_score", "0"]
    )  # fmt: skip
    written = json.loads((tmp_path / "actions.json").read_text())
    assert written == {"video": str(video), "moments": moments}
    assert [moment["timestamp"] for moment in moments] == [1.0, 2.0]
    for moment in moments:
        wanted = [person["box"] for person in persons if person["timestamp"] == moment["timestamp"]]
        assert [person["box"] for person in moment["persons"]] == wanted[: len(moment["persons"])]
        assert all(len(person["actions"]) == 2 for person in moment["persons"])
        assert all(a["label"] in PEOPLE_ACTIONS and a["score"] <= 0.9 for p in moment["persons"] for a in p["actions"])
    with open_video(str(tmp_path / "actions.mp4")) as reader:
        assert len(reader) == 3 * FRAMES_PER_SECOND
        assert (reader.height, reader.width) == (320, 320)


def test_boxes_are_drawn_where_and_when_they_are(tmp_path: Path) -> None:
    grey = np.full((30, 160, 241, 3), 128, dtype=np.uint8)
    video = write_video(tmp_path / "grey.webm", frames=grey, fps=10, codec="libvpx-vp9")
    box = (0.25, 0.5, 0.75, 0.9)
    moments = [
        {"timestamp": 0.0, "persons": []},
        {"timestamp": 2.0, "persons": [{"box": box, "actions": [{"label": "run", "score": 0.9}]}]},
    ]
    path = draw_detections(video, moments, tmp_path / "drawn.mp4", min_side=160)
    with open_video(str(path)) as reader:
        frames = reader.frames(np.arange(len(reader))).astype(int)
    assert frames.shape[0] == 30
    height, width = frames.shape[1:3]
    assert (height, width) == (160, 240)  # H.264 needs even sides
    is_red = (frames[..., 0] - frames[..., 1] > 60) & (frames[..., 0] - frames[..., 2] > 30)
    assert [bool(drawn.any()) for drawn in is_red] == [15 <= number <= 25 for number in range(30)]
    rows, columns = np.nonzero(is_red[20, int(0.5 * height) :])  # below the label
    for found, wanted in (
        (rows.min() + height // 2, 0.5 * height), (rows.max() + height // 2, 0.9 * height),
        (columns.min(), 0.25 * width), (columns.max(), 0.75 * width),
    ):  # fmt: skip
        assert abs(found - wanted) <= 4
    inside = is_red[20, int(0.55 * height) : int(0.85 * height), int(0.3 * width) : int(0.7 * width)]
    assert not inside.any()  # an outline, not a surface


def test_validator_of_the_program_names_bad_lines_and_its_exit_code_says_so(
    work: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("val000,0001,0.1,0.1,1.2,0.5,1,0\nval000,0001,0.1,0.1,0.2,0.5,1,0\nnone,0001,0.1,0.1,0.2,0.5,1,0\n")
    program = load_script("validate_annotations")
    monkeypatch.setattr(sys, "argv", ["", "--task", "detection", *work.data, "--annotations", str(bad)])
    with pytest.raises(SystemExit) as exit_info:
        program.run()
    assert exit_info.value.code == 1
    printed = capsys.readouterr().out
    assert f"{bad}:1: has a box outside 0-1: [0.1, 0.1, 1.2, 0.5]" in printed
    assert f"{bad}:3: has a timestamp without video: none,0001" in printed
    assert "3 lines checked, 2 of them bad" in printed


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("finetune", ["--output_dir", "x"], "Say what to read|Training needs annotated boxes"),
        ("evaluate", [], "Say what to test and on what"),
        ("predict", ["--video", "a.mp4"], "Say what to look at"),
        ("predict", ["--videos", "a.mp4"], "Unknown on the command line"),
        ("finetune", ["--mixup_alpha", "0.8", "--output_dir", "x", "--annotations", "x"], "Say what to read"),
    ],
)
def test_what_is_missing_is_said(script: str, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_script(script).main(["--task", "detection", *arguments])


def test_video_that_cannot_be_read_is_said_in_one_line(
    work: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text_file(tmp_path / "bad.mp4")
    (tmp_path / "boxes.csv").write_text("bad,1,0.1,0.1,0.5,0.5,0.9\n")
    arguments = ["--task", "detection", "--model_name_or_path", work.model, "--video", str(tmp_path / "bad.mp4"),
                 "--person_boxes", str(tmp_path / "boxes.csv"), "--use_cpu"]  # fmt: skip
    program = load_script("predict")
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        program.run()
    assert exit_info.value.code == 2
    assert "bad.mp4 cannot be read" in one_error_line(capsys.readouterr().err)
    (tmp_path / "boxes.csv").write_text("other,1,0.1,0.1,0.5,0.5,0.9\n")
    with pytest.raises(ValueError, match="has no box of the video 'bad'; it has boxes of other"):
        program.main(arguments)


def test_task_is_read_from_the_command_line_before_the_recipe(tmp_path: Path) -> None:
    tasks: Any = ["classification", "detection"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: detection\n")
    assert read_task([], tasks) == "classification"
    assert read_task(["--recipe", str(recipe)], tasks) == "detection"
    assert read_task([f"--recipe={recipe}", "--task=classification"], tasks) == "classification"
    with pytest.raises(ValueError, match="`--task` must be one of classification, detection, got 'segmentation'"):
        read_task(["--task", "segmentation"], tasks)
