"""visualize.py, and what pretrain.py leaves of the likeness of student and teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Work


Program = Callable[[str], Any]


def _arguments(work: Work, model: str, output: Path, *more: str) -> list[str]:
    source = ["--model_name_or_path", str(work.root / model), "--data", str(work.data), "--split", "validation"]
    return [*source, "--output_dir", str(output), "--use_cpu", *more]


def test_pretraining_ends_with_the_likeness_of_student_and_teacher(work: Work) -> None:
    folder = work.root / "student"
    found = json.loads((folder / "similarity.json").read_text())
    assert (found["num_clips"], found["aligned"]) == (9, [[1, 1], [2, 2]])
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["eval_cka_student_2_teacher_2"] == found["cka"][1][1]
    assert (folder / "similarity.png").read_bytes().startswith(b"\x89PNG")
    assert f"student and teacher, layer by layer: {folder}/similarity.png" in work.said["student"]
    assert "eval_cka_student_1_teacher_1" in work.said["student"]
    assert "arithmetic: 0." in work.said["student"]
    assert not (work.root / "teacher" / "similarity.json").exists()


def test_program_finds_what_pretraining_found(
    work: Work, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The seed and the precision of the run, for the same masks and the same rounding.
    teacher = ["--teacher", str(work.root / "teacher"), "--seed", "42", "--mixed_precision", "no"]
    metrics = program("visualize").main(_arguments(work, "student", tmp_path / "pictures", *teacher))
    before, now = (
        json.loads((folder / "similarity.json").read_text())
        for folder in (work.root / "student", tmp_path / "pictures")
    )
    for ours, theirs in zip(before["cka"], now["cka"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "reconstructions.png", "similarity.json", "similarity.png",
    }  # fmt: skip
    assert f"cka_student_2_teacher_2: {metrics['cka_student_2_teacher_2']:.4f}" in capsys.readouterr().out


def test_without_a_teacher_there_are_reconstructions_alone(work: Work, program: Program, tmp_path: Path) -> None:
    program("visualize").main(_arguments(work, "teacher", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["reconstructions.png"]


def test_classifier_and_missing_options_are_refused(work: Work, program: Program, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classifier holds AMDForVideoClassification: take a pre-trained model"):
        program("visualize").main(_arguments(work, "classifier", tmp_path))
    with pytest.raises(ValueError, match="--model_name_or_path MODEL --data"):
        program("visualize").main(["--use_cpu"])
