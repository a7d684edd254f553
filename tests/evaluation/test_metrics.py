"""Metrics against scikit-like counts by hand, over two real processes, and beside a program called `evaluate`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from amd_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy, likeliest_classes
from tests.helpers.training import ROOT, script_environment
from tests.helpers.warm import start_warm


def test_top_k_equals_torch_topk_on_random_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(200, 12, generator=generator), torch.randint(12, (200,), generator=generator)
    metric = TopKAccuracy(keep_in_memory=True)
    ours = metric.compute(
        predictions=[likeliest_classes(row) for row in scores.numpy()], references=labels.tolist(), k=[1, 3, 5]
    )
    for count in (1, 3, 5):
        hits = (scores.topk(count).indices == labels[:, None]).any(dim=1)
        assert ours[f"top{count}_accuracy"] == pytest.approx(hits.double().mean().item())


def test_video_without_a_prediction_is_wrong() -> None:
    inputs = {"predictions": [[2, 0], [], [1, 2], [0, 1]], "references": [2, 2, 2, 0]}
    assert TopKAccuracy(keep_in_memory=True).compute(**inputs, k=[1, 2]) == {
        "top1_accuracy": 2 / 4, "top2_accuracy": 3 / 4
    }  # fmt: skip
    assert MeanClassAccuracy(keep_in_memory=True).compute(**inputs) == {
        "mean_class_accuracy": pytest.approx((1 / 3 + 1) / 2)
    }


def test_equal_scores_are_ordered_by_number_and_nan_raises() -> None:
    assert likeliest_classes(np.array([0.2, 0.4, 0.4, 0.0, -1.0, 0.2]), 4) == [1, 2, 0, 5]
    with pytest.raises(ValueError, match="not a number"):
        likeliest_classes(np.array([0.2, np.nan]))


_SHARE = """
import sys
from amd_hf.evaluation.metrics import MeanClassAccuracy, TopKAccuracy
rank = int(sys.argv[1])
predictions, labels = [[2, 0], [], [1, 2], [0, 1], [1, 0]][rank::2], [2, 2, 2, 0, 1][rank::2]
for kind in (TopKAccuracy, MeanClassAccuracy):
    metric = kind(num_process=2, process_id=rank, experiment_id="two", cache_dir=sys.argv[2])
    metric.add_batch(predictions=predictions, references=labels)
    print(metric.compute())
"""


def test_uneven_shares_of_two_processes_give_the_whole(tmp_path: Path) -> None:
    processes = [start_warm(_SHARE, str(rank), str(tmp_path)) for rank in range(2)]
    said = [process.wait(timeout=100) for process in processes]
    assert [process.returncode for process in said] == [0, 0], said
    assert said[1].stdout == "None\nNone\n"
    top, mean_class = (eval(line) for line in said[0].stdout.splitlines())
    assert top == {"top1_accuracy": 3 / 5, "top5_accuracy": 4 / 5}
    assert mean_class == {"mean_class_accuracy": pytest.approx((1 / 3 + 1 + 1) / 3)}


@pytest.mark.parametrize("is_imported_first", [False, True])
def test_program_called_evaluate_beside_a_program_does_not_hide_the_library(
    tmp_path: Path, is_imported_first: bool
) -> None:
    (tmp_path / "evaluate.py").write_text("raise SystemExit('the program was run')\n" * (not is_imported_first))
    first = "import evaluate\n" if is_imported_first else ""
    program = f"{first}from amd_hf.evaluation.metrics import TopKAccuracy\nprint(TopKAccuracy.__mro__[2].__module__)\n"
    (tmp_path / "train.py").write_text(program)
    run = subprocess.run(
        [sys.executable, str(tmp_path / "train.py")],
        capture_output=True, text=True, env=script_environment(), cwd=ROOT, timeout=100,
    )  # fmt: skip
    if is_imported_first:
        assert "The module `evaluate` that is loaded" in run.stderr
        assert str(tmp_path / "evaluate.py") in run.stderr
    else:
        assert run.stdout == "evaluate.module\n", run.stderr
