"""Videos that cannot be read in training: skipped, named once, counted, and too many of them end the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import (
    AMDFineTuningTrainer,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDTrainer,
    load_video_dataset,
)
from amd_hf.errors import RunStopped
from amd_hf.training.monitoring import ReadingLog
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import (
    GradientRecorder,
    finetuning_args,
    labelled_rows,
    logged,
    pretraining_args,
    weights_of,
)
from tests.helpers.videos import text_file, truncate, write_video


@pytest.fixture(scope="module")
def mixed_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with nine videos: six good ones, one of a single frame, a text file and half a file."""
    root = tmp_path_factory.mktemp("mixed")
    for number in range(6):
        write_video(root / "abc"[number % 3] / f"good{number}.mp4", 12, 32, 32)
    write_video(root / "a" / "one_frame.mp4", 1, 32, 32)
    text_file(root / "b" / "text.mp4")
    truncate(write_video(root / "c" / "half.mp4", 12, 32, 32))
    return root


# ---------------------------------------------------------------------------------------------------------------------
# The log by itself
# ---------------------------------------------------------------------------------------------------------------------


def test_video_is_named_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    log = ReadingLog(max_fraction=0.5)
    log.name([("a.mp4", "no moov")])
    log.name([("a.mp4", "no moov"), ("b.mp4", "empty")])
    assert [record.getMessage() for record in caplog.records] == [
        "Skipping unreadable video a.mp4: no moov",
        "Skipping unreadable video b.mp4: empty",
    ]


@pytest.mark.parametrize(
    ("counts", "stops"),
    [
        ([(99, 99)], False),
        ([(100, 1)], False),
        ([(100, 2)], True),
        ([(99, 2), (1, 0)], True),
        ([(99, 2), (101, 0)], False),
    ],
    ids=["too early to judge", "just borne", "too many", "judged at the hundredth", "few in the long run"],
)
def test_run_stops_when_the_share_of_unreadable_videos_is_too_large(
    counts: list[tuple[int, int]], stops: bool
) -> None:
    log = ReadingLog(max_fraction=0.01)
    log.name([("a.mp4", "no moov"), ("b.mp4", "empty")])
    *before, last = counts
    for tried, unreadable in before:
        log.count(tried, unreadable)
    if stops:
        with pytest.raises(RunStopped, match=r"2 of 100 videos.*1\.00% allows.*a\.mp4 \(no moov\); b\.mp4 \(empty\)"):
            log.count(*last)
    else:
        log.count(*last)


def test_nothing_is_logged_while_every_video_can_be_read() -> None:
    log = ReadingLog(max_fraction=0.01)
    log.count(10, 0)
    assert log.summary() == {}
    log.count(10, 1)
    assert log.summary() == {"unreadable_videos": 1}


# ---------------------------------------------------------------------------------------------------------------------
# In training
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
def test_training_goes_on_without_unreadable_videos(
    mixed_videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, workers: int
) -> None:
    trainer = _trainer(stage, mixed_videos, tmp_path, num_train_epochs=2, dataloader_num_workers=workers)
    trainer.train()
    assert trainer.state.global_step == 6
    assert all(value > 0 for value in logged(trainer, "loss"))
    assert set(trainer.reading_log.reasons) == {"b/text.mp4", "c/half.mp4"}
    assert logged(trainer, "unreadable_videos")[-1] == 4  # two in each epoch
    assert trainer.reading_log.num_tried == 18
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for name in ("b/text.mp4", "c/half.mp4"):
        assert sum(f"Skipping unreadable video {name}: " in warning for warning in warnings) == 1
    assert not any("one_frame" in warning for warning in warnings)


def _trainer(stage: str, videos: Path, tmp_path: Path, **options: Any) -> AMDTrainer | AMDFineTuningTrainer:
    rows = load_video_dataset(videos)
    options = {"per_device_train_batch_size": 3, "sampling_rate": 2, **options}
    if stage == "pretraining":
        model = AMDForPreTraining(tiny_config(image_size=16, teacher_hidden_size=None))
        return AMDTrainer(model, pretraining_args(tmp_path, **options), train_dataset=rows)
    model = AMDForVideoClassification(tiny_config(image_size=16, num_labels=3))
    return AMDFineTuningTrainer(model, finetuning_args(tmp_path, **options), train_dataset=rows)


def test_evaluation_lists_unreadable_videos_and_counts_them(mixed_videos: Path, tmp_path: Path) -> None:
    rows = load_video_dataset(mixed_videos)
    trainer = _trainer("pretraining", mixed_videos, tmp_path)
    metrics = trainer.evaluate(rows)
    assert (metrics["eval_videos_expected"], metrics["eval_videos_read"]) == (9, 7)
    good = rows.filter(lambda row: row["video_id"] not in ("b/text.mp4", "c/half.mp4"))
    assert trainer.evaluate(good)["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6)
    bad = rows.filter(lambda row: row["video_id"] in ("b/text.mp4", "c/half.mp4"))
    assert trainer.evaluate(bad)["eval_videos_read"] == 0


def test_too_many_unreadable_videos_end_the_run_with_their_names(tmp_path: Path) -> None:
    for number in range(4):
        write_video(tmp_path / "videos" / f"good{number}.mp4", 5, 32, 32)
    text_file(tmp_path / "videos" / "text.mp4")
    trainer = _trainer(
        "pretraining", tmp_path / "videos", tmp_path / "out", per_device_train_batch_size=5, num_train_epochs=30,
        max_unreadable_fraction=0.19,
    )  # fmt: skip
    with pytest.raises(RunStopped, match=r"20 of 100 videos tried.*19\.00% allows.*text\.mp4 \(.+\)\. Repair or"):
        trainer.train()


# ---------------------------------------------------------------------------------------------------------------------
# Batches of which nothing is left
# ---------------------------------------------------------------------------------------------------------------------


class _SomeUnreadable:
    """Collator of ready rows, of which those with the given numbers cannot be read."""

    def __init__(self, unreadable: set[int]) -> None:
        self.unreadable = unreadable

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        good = [row for row in rows if row["number"] not in self.unreadable]
        report = {"num_tried": len(rows), "unreadable": [(f"{r['number']}", "bad") for r in rows if r not in good]}
        if not good:
            return {"pixel_values": None, **report}
        return {name: torch.stack([row[name] for row in good]) for name in ("pixel_values", "labels")} | report


def _fine_tune(
    tmp_path: Path, unreadable: set[int], num_rows: int, **options: Any
) -> tuple[AMDFineTuningTrainer, list[dict[str, torch.Tensor | None]]]:
    torch.manual_seed(0)
    model = randomize(AMDForVideoClassification(tiny_config()))
    recorder = GradientRecorder()
    trainer = AMDFineTuningTrainer(
        model,
        finetuning_args(tmp_path, per_device_train_batch_size=1, **options),
        data_collator=_SomeUnreadable(unreadable),
        train_dataset=labelled_rows(model.config, num_rows),
        callbacks=[recorder],
    )
    trainer.train()
    return trainer, recorder.gradients


def test_batch_with_nothing_left_changes_no_weight_and_no_count(tmp_path: Path) -> None:
    trainer, gradients = _fine_tune(tmp_path, {2}, num_rows=3, max_steps=6)
    assert trainer.state.global_step == 6
    empty = [all(gradient is None for gradient in step.values()) for step in gradients]
    assert sum(empty) == 2
    assert len(set(logged(trainer, "learning_rate"))) == 6  # the schedule went on
    losses = logged(trainer, "loss")
    assert [loss != loss for loss in losses] == empty  # no loss (NaN), not a loss of 0
    assert trainer.reading_log.num_unreadable == 2


def test_run_of_nothing_but_unreadable_videos_leaves_the_weights(tmp_path: Path) -> None:
    model = randomize(AMDForVideoClassification(tiny_config()))
    trainer, _ = _fine_tune(tmp_path, {0, 1, 2}, num_rows=3, max_steps=2)
    for name, value in weights_of(model).items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


@pytest.mark.parametrize("unreadable", [{0}, {3}, {1, 2}])
def test_micro_batch_with_nothing_left_does_not_weigh_on_the_others(tmp_path: Path, unreadable: set[int]) -> None:
    trainer, gradients = _fine_tune(tmp_path, unreadable, num_rows=4, gradient_accumulation_steps=4, max_steps=1)
    config = tiny_config()
    torch.manual_seed(0)
    reference = randomize(AMDForVideoClassification(config))
    rows = [row for row in labelled_rows(config, 4) if row["number"] not in unreadable]
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("pixel_values", "labels")}
    loss = reference.train()(**batch).loss
    loss.backward()
    assert logged(trainer, "loss") == pytest.approx([loss.item()], rel=1e-6)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[0][name], parameter.grad, atol=1e-6, rtol=1e-5, msg=name)
