"""`ablate.py`: a whole small study, run, run again, and with a result deleted."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from amd_hf import AMDModel
from tests.helpers.training import load_script, one_error_line, run_script, script_path
from tests.helpers.warm import start_warm


_TRAINING = {
    "sampling_rate": 1, "per_device_train_batch_size": 4, "max_steps": 60, "warmup_epochs": 0, "num_repetitions": 1,
    "use_cpu": True, "save_strategy": "no", "logging_steps": 50, "decoder": "pyav",
}  # fmt: skip
_SIZES = {
    "image_size": 32, "patch_size": 16, "num_frames": 4, "tubelet_size": 2, "num_hidden_layers": 2,
    "num_attention_heads": 2, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 1, "student_mask_ratio": 0.75, "teacher_mask_ratio": 0.5,
}  # fmt: skip
_LAYERS = {
    f"{side}_{kind}_layers": [1, 2] for side in ("student", "teacher") for kind in ("direct", "generation")
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs a study of two seeds and three arms on a few clips; how to run it again, which gives its folder."""
    folder = tmp_path_factory.mktemp("study")
    recipes = {
        "teacher": {**_TRAINING, "model": {**_SIZES, "hidden_size": 16}},
        "student": {
            **_TRAINING,
            "model": {
                **_SIZES, **_LAYERS, "hidden_size": 8, "teacher_hidden_size": 16,
                "generator_num_attention_heads": 2,
            },
        },
        "finetune": {
            **_TRAINING, "rand_augment": None, "erase_probability": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0,
            "train_crop": "center_crop", "test_num_segments": 1, "test_num_crops": 1,
            "clip_augmentation": "examples.motion_shapes:augment_motion",
        },
    }  # fmt: skip
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    grid = {
        "title": "A small study",
        "seeds": [1, 2],
        "data": {"source": "motion_shapes", "unlabelled": 8, "train": 8, "tuning": 8, "validation": 8},
        "recipes": {name: f"{name}.yaml" for name in recipes},
        "learning_rates": [0.01, 0.1],
        "arms": {
            "distilled": {"title": "distilled", "curve": "a curve", "x": 1},
            "alone": {"title": "alone", "teacher": None, "curve": "a curve", "x": 2},
            "scratch": {"title": "from scratch", "student": None},
        },
        "comparisons": [["distilled", "alone"], ["distilled", "scratch"]],
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    output = folder / "out"
    program = load_script("ablate")

    def run():
        arguments = ["--grid", str(folder / "grid.yaml"), "--output_dir", str(output), "--max_steps", "2"]
        program.main([*arguments, "--num_processes", "1"])
        return output

    run()
    return run


def _results(output):
    return {path.name: json.loads(path.read_text()) for path in (output / "results").glob("*.json")}


def _without_seconds(results):
    for content in results.values():
        content["result"].pop("seconds")
    return results


def test_report_says_of_every_arm_what_its_results_say(study):
    output = study()
    results = _results(output)
    report = json.loads((output / "reports" / "grid" / "report.json").read_text())
    kinds = [result["kind"] for result in results.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "unlabelled": 2, "labelled": 2, "teacher": 2, "student": 4, "finetune": 12, "probe": 6,
    }  # fmt: skip
    text = (output / "reports" / "grid" / "report.md").read_text()
    assert all(title in text for title in ("distilled", "alone", "from scratch", "distilled - alone"))
    for arm in report["arms"].values():
        assert len(arm["accuracy"]) == len(arm["probe"]) == 2
    # By hand: of the first seed's two fine-tunings from scratch the better one in tuning counts.
    tried = [
        result for result in results.values()
        if result["kind"] == "finetune" and result["settings"]["seed"] == 1 and len(result["inputs"]) == 1
    ]  # fmt: skip
    tried.sort(key=lambda result: result["settings"]["base_learning_rate"])
    best = max(tried, key=lambda result: result["result"]["tuning"])
    assert report["arms"]["scratch"]["accuracy"][0] == best["result"]["validation"]
    assert report["arms"]["scratch"]["learning_rates"][0] == best["settings"]["base_learning_rate"]
    assert {path.name for path in (output / "reports" / "grid").glob("*.png")} == {"accuracy.png", "curves.png"}


def test_from_scratch_starts_from_the_weights_that_pre_training_starts_from(study):
    """Xavier's, sqrt(2 / (inputs + outputs)), not the five times smaller ones of a new classifier."""
    untrained = sorted((study() / "work").glob("finetune-*/untrained"))
    assert len(untrained) == 4  # two seeds, two learning rates
    weight = AMDModel.from_pretrained(untrained[0]).layers[0].mlp.fc1.weight
    assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.2)


def test_a_deleted_result_comes_back_to_the_last_bit(study):
    output = study()
    before = _results(output)
    for kind in ("finetune", "student"):
        next((output / "results").glob(f"{kind}-*.json")).unlink()
    after = _results(study())
    assert before.keys() == after.keys()
    assert _without_seconds(before) == _without_seconds(after)


@pytest.mark.slow
def test_two_processes_killed_and_started_again_find_the_same_to_the_last_bit(study, tmp_path):
    expected = study()
    arguments = ["--grid", str(expected.parent / "grid.yaml"), "--max_steps", "2", "--output_dir", str(tmp_path)]
    arguments += ["--num_processes", "2"]
    process = start_warm(script_path("ablate"), *arguments)
    while len(_results(tmp_path)) < 5 and process.poll() is None:
        time.sleep(0.2)
    process.kill()
    assert 5 <= len(_results(tmp_path)) < 28, process.wait(1).stderr
    assert "2 at a time" in run_script("ablate", *arguments).stderr
    assert _without_seconds(_results(tmp_path)) == _without_seconds(_results(expected))


def test_a_stage_that_fails_ends_the_study_with_its_error(study, tmp_path):
    grid = yaml.safe_load((study().parent / "grid.yaml").read_text())
    grid["recipes"] = {kind: str(study().parent / path) for kind, path in grid["recipes"].items()}
    grid["data"]["source"] = str(tmp_path / "no_videos")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    arguments = ["--grid", str(tmp_path / "grid.yaml"), "--output_dir", str(tmp_path), "--num_processes", "2"]
    done = run_script("ablate", *arguments, check=False)
    assert done.returncode == 2
    line = one_error_line(done.stderr)
    assert "The stage " in line
    assert "no_videos" in line
    (log,) = re.findall(r"see (\S+\.log)", line)
    assert "Traceback" in Path(log).read_text()
