"""AVA's frame mAP: the official figures, a plain loop over everything, two processes, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amd_hf.data.datasets.problems import Problems
from amd_hf.detection.datasets.ava_files import KeyFrame, read_action_list, read_actions, read_excluded
from amd_hf.detection.evaluation import DetectionResult
from amd_hf.detection.mean_average_precision import (
    FrameMeanAveragePrecision,
    integrate_precision,
    score_submission,
)
from examples.motion_people import write_action_list
from tests.helpers.warm import start_warm


Frame = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------------------
# Golden figures
# ---------------------------------------------------------------------------------------------------------------------


def _golden_figures(folder: Path) -> tuple[float, dict[str, float]]:
    expected = json.loads((folder / "expected.json").read_text())
    mean = expected.pop("PascalBoxes_Precision/mAP@0.5IOU")
    return mean, {name.rsplit("/", 1)[1]: value for name, value in expected.items()}


def test_golden_files_give_the_official_figures(golden_dir: Path) -> None:
    folder = golden_dir / "ava_eval"
    found = score_submission(
        folder / "detections.csv", folder / "ground_truth.csv", folder / "action_list.pbtxt",
        folder / "excluded_timestamps.csv",
    )  # fmt: skip
    mean, of_classes = _golden_figures(folder)
    assert found["map"] == pytest.approx(mean, abs=1e-9)
    assert found["average_precision"] == pytest.approx(of_classes, abs=1e-9)


def test_golden_rows_give_the_official_figures_as_a_metric(golden_dir: Path) -> None:
    folder = golden_dir / "ava_eval"
    names = read_action_list(folder / "action_list.pbtxt")
    problems = Problems()
    excluded = read_excluded(folder / "excluded_timestamps.csv", problems)
    frames: dict[str, tuple[Frame, Frame]] = {}

    def frame(key: KeyFrame) -> tuple[Frame, Frame]:
        empty = {"key_frame": str(key), "boxes": [], "scores": []}, {"boxes": [], "actions": []}
        return frames.setdefault(str(key), empty)

    for action in read_actions(folder / "ground_truth.csv", list(names), problems):
        if action.key_frame not in excluded:
            frame(action.key_frame)[1]["boxes"].append(action.box)
            frame(action.key_frame)[1]["actions"].append([action.action - 1])
    for line in (folder / "detections.csv").read_text().splitlines():
        video, time, *box, action, score = line.split(",")
        key = KeyFrame(video, float(time))
        if key not in excluded:
            scores = [float("nan")] * len(names)
            scores[int(action) - 1] = float(score)
            frame(key)[0]["boxes"].append([float(side) for side in box])
            frame(key)[0]["scores"].append(scores)
    metric = FrameMeanAveragePrecision(keep_in_memory=True)
    for prediction, reference in frames.values():
        metric.add(prediction=prediction, reference=reference)
    found = metric.compute(class_names={number - 1: name for number, name in names.items()})
    mean, of_classes = _golden_figures(folder)
    assert found["map"] == pytest.approx(mean, abs=1e-9)
    assert found["average_precision"] == pytest.approx(of_classes, abs=1e-9)


# ---------------------------------------------------------------------------------------------------------------------
# Against a plain loop
# ---------------------------------------------------------------------------------------------------------------------


def _random_frames(seed: int, num_frames: int = 30, num_classes: int = 4, distinct_scores: bool = True) -> list:
    """Key frames whose detections are mostly shifted true boxes, so that several overlap one and some none."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(num_frames):
        corners = rng.uniform(0, 0.6, (rng.integers(0, 4), 2))
        true = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, corners.shape)], axis=1)
        actions = [sorted(rng.choice(num_classes, rng.integers(1, 3), replace=False).tolist()) for _ in true]
        found = np.repeat(true, rng.integers(0, 4, len(true)), axis=0)
        found = found + rng.normal(0, 0.03, found.shape)
        stray = rng.uniform(0, 1, (rng.integers(0, 2), 4))  # often with x2 < x1: no detection
        found = np.concatenate([found, stray])
        scores = rng.uniform(size=(len(found), num_classes))
        if not distinct_scores:
            scores = scores.round(1)
        prediction = {"key_frame": f"movie{number % 3},{900 + number:04d}", "boxes": found, "scores": scores}
        frames.append((prediction, {"boxes": true, "actions": actions}))
    return frames


def _iou(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def _plain_average_precision(frames: list, label: int) -> float:
    ranked, num_true = [], 0
    for prediction, reference in sorted(frames, key=lambda frame: frame[0]["key_frame"]):
        boxes = [
            box for box, actions in zip(reference["boxes"], reference["actions"], strict=True) if label in actions
        ]
        num_true += len(boxes)
        found = [
            (scores[label], box)
            for box, scores in zip(prediction["boxes"], prediction["scores"], strict=True)
            if box[0] < box[2] and box[1] < box[3]
        ]
        taken = set()
        for score, box in sorted(found, key=lambda entry: -entry[0]):
            overlaps = [_iou(box, other) for other in boxes]
            best = int(np.argmax(overlaps)) if overlaps else None
            is_right = best is not None and overlaps[best] >= 0.5 and best not in taken
            if is_right:
                taken.add(best)
            ranked.append((score, is_right))
    ranked = sorted(ranked, key=lambda entry: entry[0])[::-1]
    precisions, recalls, right = [], [0.0], 0
    for position, (_, is_right) in enumerate(ranked, start=1):
        right += is_right
        precisions.append(right / position)
        recalls.append(right / num_true)
    area = 0.0
    for position in range(len(ranked)):
        area += (recalls[position + 1] - recalls[position]) * max(precisions[position:])
    return area


def _compute(frames: list, num_classes: int = 4, **options: Any) -> dict[str, Any]:
    metric = FrameMeanAveragePrecision(keep_in_memory=True)
    metric.add_batch(predictions=[p for p, _ in frames], references=[r for _, r in frames])
    return metric.compute(class_names={number: f"c{number}" for number in range(num_classes)}, **options)


@pytest.mark.parametrize("distinct_scores", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_metric_equals_a_plain_loop(seed: int, distinct_scores: bool) -> None:
    frames = _random_frames(seed, distinct_scores=distinct_scores)
    found = _compute(frames)
    wanted = {f"c{label}": _plain_average_precision(frames, label) for label in range(4)}
    assert found["average_precision"] == pytest.approx(wanted, abs=1e-12)
    assert found["map"] == pytest.approx(np.mean(list(wanted.values())), abs=1e-12)
    assert 0.1 < found["map"] < 0.9


def test_order_in_which_frames_are_added_does_not_matter() -> None:
    frames = _random_frames(7, distinct_scores=False)
    shuffled = [frames[number] for number in np.random.default_rng(0).permutation(len(frames))]
    assert _compute(shuffled) == _compute(frames)


def test_only_the_best_entries_of_a_frame_count_where_that_is_asked_for() -> None:
    frames = _random_frames(3)
    limited = []
    for prediction, reference in frames:
        scores = prediction["scores"].copy()
        if scores.size:
            lowest = np.sort(scores.ravel())[::-1][: min(5, scores.size)][-1]
            scores[scores < lowest] = np.nan
        limited.append(({**prediction, "scores": scores}, reference))
    assert _compute(frames, max_per_frame=5) == _compute(limited)
    assert _compute(frames, max_per_frame=5)["map"] != _compute(frames)["map"]


def test_a_class_without_true_boxes_has_no_part_in_the_mean_and_one_without_detections_scores_0() -> None:
    box = [0.1, 0.1, 0.5, 0.5]
    frames = [
        ({"key_frame": "a,0902", "boxes": [box], "scores": [[0.9, 0.8, float("nan")]]},
         {"boxes": [box], "actions": [[0, 2]]}),
    ]  # fmt: skip
    found = _compute(frames, 3)
    assert found["average_precision"]["c0"] == 1.0
    assert np.isnan(found["average_precision"]["c1"])
    assert found["average_precision"]["c2"] == 0.0
    assert found["map"] == 0.5


def test_precision_is_integrated_over_recall() -> None:
    # Ranked right, wrong, right of 4: precision 1 up to a quarter, 2/3 up to a half, then nothing.
    assert integrate_precision(np.array([True, False, True]), 4) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert integrate_precision(np.zeros(0, dtype=bool), 4) == 0


def test_bad_input_is_refused() -> None:
    frames = _random_frames(0, num_frames=2)
    with pytest.raises(ValueError, match="added twice"):
        _compute([*frames, frames[0]])
    box = [0.1, 0.1, 0.5, 0.5]
    reference = {"boxes": [box], "actions": [[0]]}
    for prediction, message in (
        ({"key_frame": "a", "boxes": [box], "scores": [[float("inf")]]}, "not finite"),
        ({"key_frame": "a", "boxes": [box], "scores": []}, "1 boxes but 0 rows of scores"),
        ({"key_frame": "a", "boxes": [box[:3]], "scores": [[1.0]]}, "four sides"),
    ):
        with pytest.raises(ValueError, match=message):
            _compute([(prediction, reference)], 1)


# ---------------------------------------------------------------------------------------------------------------------
# Several processes, files
# ---------------------------------------------------------------------------------------------------------------------

_PROCESS = """
import sys
from tests.detection.test_mean_average_precision import _random_frames
from amd_hf.detection.mean_average_precision import FrameMeanAveragePrecision
rank = int(sys.argv[1])
metric = FrameMeanAveragePrecision(num_process=2, process_id=rank, experiment_id="run", cache_dir=sys.argv[2])
for prediction, reference in _random_frames(11)[rank::2][: None if rank == 0 else 13]:
    metric.add(prediction=prediction, reference=reference)
found = metric.compute(class_names={number: f"c{number}" for number in range(4)})
print(None if found is None else (found["map"], found["average_precision"]))
"""


def test_two_processes_with_uneven_shares_give_the_numbers_of_one(tmp_path: Path) -> None:
    workers = [start_warm(_PROCESS, str(rank), str(tmp_path)) for rank in range(2)]
    outputs = [worker.wait(timeout=200).stdout.strip().splitlines()[-1] for worker in workers]
    frames = _random_frames(11)
    wanted = _compute(frames[0::2] + frames[1::2][:13])
    assert outputs == [str((wanted["map"], wanted["average_precision"])), "None"]


def _result(frames: list) -> DetectionResult:
    outcomes = [
        {
            "video_id": prediction["key_frame"], "test_boxes": prediction["boxes"], "scores": prediction["scores"],
            "boxes": reference["boxes"].tolist(), "actions": reference["actions"],
        }
        for prediction, reference in frames
    ]  # fmt: skip
    return DetectionResult(outcomes, ["c0", "c1", "c2", "c3"], scored=["c0", "c2", "c3"])


def test_result_of_a_test_and_its_submission_file_score_alike(tmp_path: Path) -> None:
    frames = _random_frames(5)
    result = _result(frames)
    found = result.average_precisions()
    of_metric = _compute(frames)["average_precision"]
    assert found["average_precision"] == {name: of_metric[name] for name in ("c0", "c2", "c3")}
    result.write_csv(tmp_path / "submission.csv")
    first = (tmp_path / "submission.csv").read_text().splitlines()[0].split(",")
    assert len(first) == 8
    assert first[0].startswith("movie")
    assert len(first[1]) == 4
    truth = [
        f"{prediction['key_frame']},{','.join(map(repr, map(float, box)))},{label + 1},0"
        for prediction, reference in frames
        for box, actions in zip(reference["boxes"], reference["actions"], strict=True)
        for label in actions
    ]
    (tmp_path / "truth.csv").write_text("\n".join(truth) + "\n")
    actions = tmp_path / "scored.pbtxt"
    actions.write_text("".join(f'item {{\n  name: "c{n}"\n  id: {n + 1}\n}}\n' for n in (0, 2, 3)))
    scored = score_submission(tmp_path / "submission.csv", tmp_path / "truth.csv", actions)
    for name in ("c0", "c2", "c3"):
        assert scored["average_precision"][name] == pytest.approx(found["average_precision"][name], abs=1e-3)
    assert scored["map"] == pytest.approx(found["map"], abs=1e-3)


def test_unknown_scored_action_is_named() -> None:
    with pytest.raises(ValueError, match="the first is 'walk'"):
        DetectionResult([], ["run"], scored=["walk", "run"])


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    actions = write_action_list(tmp_path / "actions.pbtxt", ["run"])
    (tmp_path / "truth.csv").write_text("a,0902,0.1,0.1,0.5,0.5,1,0\n")
    (tmp_path / "short.csv").write_text("a,0902,0.1,0.1,0.5,0.5,1\n")
    (tmp_path / "words.csv").write_text("a,0902,0.1,0.1,0.5,0.5,run,0.5\n")
    with pytest.raises(ValueError, match="has 7 fields a line, 8 are needed"):
        score_submission(tmp_path / "short.csv", tmp_path / "truth.csv", actions)
    with pytest.raises(ValueError, match="no file of AVA's form"):
        score_submission(tmp_path / "words.csv", tmp_path / "truth.csv", actions)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv"):
        score_submission(tmp_path / "none.csv", tmp_path / "truth.csv", actions)
