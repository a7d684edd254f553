"""Two real processes against one: one start of them shows all of it."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.processes import play
from tests.helpers.training import ROOT
from tests.helpers.videos import text_file
from tests.helpers.warm import run_warm_group


_COMPARED = (
    "distillation", "fine_tuning", "equal_masks", "uneven_step", "detection", "sharded_teacher", "sharded_student",
    "vjepa2_teacher", "dinov2_teacher",
)  # fmt: skip


@pytest.fixture(scope="module")
def videos(motion_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered videos, and a split `test` of 11 of which one cannot be read: two processes share them unevenly."""
    root = tmp_path_factory.mktemp("shared") / "videos"
    shutil.copytree(motion_videos / "train", root / "train")
    shutil.copytree(motion_videos / "validation", root / "test")
    text_file(root / "test" / "left" / "broken.mp4")
    for extra in list((root / "test").glob("*/*.mp4"))[:1]:
        shutil.copy(extra, extra.with_name("extra.mp4"))
    return root


@pytest.fixture(scope="module")
def two(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    output = tmp_path_factory.mktemp("two")
    program = ROOT / "tests" / "helpers" / "processes.py"
    run, killed = run_warm_group(2, program, str(videos), str(output), check=False, timeout=250)
    ended = time.time()
    assert all((output / f"{rank}.pt").is_file() for rank in range(2)), (run.stderr[-4000:], killed.stderr[-4000:])
    assert killed.returncode == -signal.SIGKILL
    found = [torch.load(output / f"{rank}.pt", weights_only=False) for rank in range(2)]
    death = {"seconds": ended - float((output / "time_of_death").read_text()), "run": run}
    return [process | {"death": death} for process in found]


@pytest.fixture(scope="module")
def one(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds."""
    output = tmp_path_factory.mktemp("one")
    return play(videos, output, 1, names=_COMPARED)


def test_two_processes_know_of_each_other(two: list[dict[str, Any]]) -> None:
    assert [found["distillation"]["world_size"] for found in two] == [2, 2]


@pytest.mark.parametrize(
    "scene",
    ["distillation", "fine_tuning", "equal_masks", "detection", "sharded_teacher", "vjepa2_teacher", "dinov2_teacher"],
)
def test_same_videos_in_a_step_give_the_same_losses_and_weights(
    one: dict[str, Any], two: list[dict[str, Any]], scene: str
) -> None:
    expected = one[scene]
    for found in two:
        assert found[scene]["steps"] == expected["steps"] == 3
        for name, values in expected["logs"].items():
            assert found[scene]["logs"][name] == pytest.approx(values, rel=1e-5), name
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found[scene]["weights"][name], value, atol=1e-5, rtol=0, msg=name)


def test_encoder_of_transformers_is_shared_out_or_whole(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert 0.4 < found["vjepa2_teacher"]["share_held"] < 0.6
        assert found["dinov2_teacher"]["share_held"] == 1


@pytest.mark.parametrize("scene", ["distillation", "fine_tuning", "detection"])
def test_evaluation_counts_each_video_once(one: dict[str, Any], two: list[dict[str, Any]], scene: str) -> None:
    expected = one[scene]["metrics"]
    assert (expected["eval_videos_expected"], expected["eval_videos_read"]) == (11, 10)
    for found in two:
        for name, value in expected.items():
            if "runtime" not in name and "per_second" not in name:
                assert found[scene]["metrics"][name] == pytest.approx(value, rel=1e-4), name


def test_multi_view_test_is_whole_on_every_process(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    expected = one["fine_tuning"]["test"]
    for found in two:
        result = found["fine_tuning"]["test"]
        assert [video_id for video_id, _ in result.unreadable] == ["test/left/broken.mp4"]
        assert [p["video_id"] for p in result.predictions] == [p["video_id"] for p in expected.predictions]
        for ours, theirs in zip(result.predictions, expected.predictions, strict=True):
            np.testing.assert_allclose(ours["probabilities"], theirs["probabilities"], atol=1e-4)
        assert result.metrics() == expected.metrics()


def test_detections_are_whole_on_every_process(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    expected = one["detection"]["test"]
    for found in two:
        result = found["detection"]["test"]
        assert [video_id for video_id, _ in result.unreadable] == ["broken,left"]
        for ours, theirs in zip(result.outcomes, expected.outcomes, strict=True):
            assert ours["video_id"] == theirs["video_id"]
            np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=1e-4)


def test_batch_that_one_process_cannot_read_is_skipped_on_both(two: list[dict[str, Any]]) -> None:
    # 4 videos, 2 in a step: in each of two epochs one step is lost, on whichever process the bad video falls.
    first, second = (found["unreadable_on_one"] for found in two)
    for found in (first, second):
        assert found["steps"] == 4
        assert found["counts"][:2] == (8, 2)
        assert sum(loss != loss for loss in found["logs"]["loss"]) == 2
    assert sorted(first["counts"][2] + second["counts"][2]) in (["0"], ["0", "0"])  # named where it was met
    for name, value in first["weights"].items():
        assert torch.equal(second["weights"][name], value), name


def test_killed_process_takes_the_run_down_with_an_error(two: list[dict[str, Any]]) -> None:
    death = two[0]["death"]
    assert death["run"].returncode != 0
    assert death["seconds"] < 60
    assert "error: Another process of this run has ended" in death["run"].stderr
    assert "forcefully exiting" not in death["run"].stderr  # not even for its loading workers does it wait


# ---------------------------------------------------------------------------------------------------------------------
# Sharding
# ---------------------------------------------------------------------------------------------------------------------


def test_sharded_student_and_teacher_give_the_losses_and_weights_of_whole_ones(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    expected = one["sharded_student"]
    assert expected["share_held"] == 1
    for found in (process["sharded_student"] for process in two):
        assert 0.4 < found["share_held"] < 0.6
        for ours, theirs in zip(found["losses"], expected["losses"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, atol=1e-5, rtol=0, msg=name)


def test_sharded_teacher_is_evaluated_with_saved_by_name_and_held_in_parts(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    expected = one["sharded_teacher"]
    assert expected["share_held"] == 1
    for found in (process["sharded_teacher"] for process in two):
        assert 0.4 < found["share_held"] < 0.6
        assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)  # 4 clips on one process, 3 on another
        assert found["identity"] == expected["identity"]


@pytest.mark.parametrize("asked_by", ["argument", "launcher"])
def test_sharding_that_would_be_left_out_silently_is_refused(two: list[dict[str, Any]], asked_by: str) -> None:
    for found in two:
        assert "FSDP was requested, but accelerate uses MULTI_CPU on device cpu" in found["refusals"][asked_by]


# ---------------------------------------------------------------------------------------------------------------------
# Streams
# ---------------------------------------------------------------------------------------------------------------------


def test_uneven_stream_gives_each_video_once_in_every_pass(two: list[dict[str, Any]]) -> None:
    passes: dict[int, list[int]] = {}
    for found in two:
        for epoch, number in found["stream_passes"]["seen"]:
            passes.setdefault(epoch, []).append(number)
    for epoch in (0, 1):
        assert sorted(passes[epoch]) == list(range(19))
    shares = [sum(epoch == 0 for epoch, _ in found["stream_passes"]["seen"]) for found in two]
    assert abs(shares[0] - shares[1]) >= 4  # uneven enough for one process to wait for the other
    assert [found["stream_passes"]["steps"] for found in two] == [9, 9]


def test_resumed_stream_gives_the_same_weights_on_both_processes(two: list[dict[str, Any]]) -> None:
    for name, value in two[0]["stream_passes"]["weights"].items():
        for found in two:
            assert torch.equal(found["stream_passes"]["weights"][name], value), name
            assert torch.equal(found["stream_passes"]["resumed_weights"][name], value), name


def test_evaluation_of_a_stream_counts_each_video_once(two: list[dict[str, Any]]) -> None:
    first, second = (found["stream_passes"]["metrics"] for found in two)
    assert first["eval_videos_read"] == second["eval_videos_read"] == 9
    assert first["eval_loss"] == second["eval_loss"]


def test_gradient_of_an_uneven_step_is_the_mean_over_its_clips(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    expected = one["uneven_step"]["first"]
    for found in two:
        assert found["uneven_step"]["first"]["logs"]["loss"] == pytest.approx(expected["logs"]["loss"], rel=1e-5)
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found["uneven_step"]["first"]["weights"][name], value, atol=1e-5, rtol=0)


def test_process_whose_stream_has_ended_adds_nothing(two: list[dict[str, Any]]) -> None:
    first, second = (found["uneven_step"]["second"] for found in two)
    assert first["steps"] == second["steps"] == 2
    assert first["logs"]["loss"] == second["logs"]["loss"]
    for name, value in first["weights"].items():
        assert torch.equal(second["weights"][name], value), name
