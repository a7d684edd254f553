"""Fine-tuning a detector: the gradient of all boxes, bad files, clips without boxes, resuming, and its test."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from amd_hf import (
    AMDDetectionTrainer,
    AMDFineTuningTrainer,
    AMDForActionDetection,
    AMDForVideoClassification,
    load_action_dataset,
)
from amd_hf.errors import RunStopped
from examples.demo_detection import constant_scores, shuffle_boxes, unshuffle_boxes
from examples.motion_people import PEOPLE_ACTIONS, PeopleFiles
from tests.helpers.ava import ListBoxes, boxed_rows, detection_args, write_miniature
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import GradientRecorder, finetuning_args, logged, weights_of
from tests.helpers.videos import text_file


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> PeopleFiles:
    return write_miniature(tmp_path_factory.mktemp("people"), "val", num_videos=4, seconds=2, seed=0, size=32)


def _rows(files: PeopleFiles, **changes: Any) -> Any:
    return load_action_dataset(**{**files._asdict(), **changes})


def _detector(**changes: Any) -> AMDForActionDetection:
    config = tiny_config(image_size=16, num_labels=6, **changes)
    config.id2label = dict(enumerate(PEOPLE_ACTIONS))
    return randomize(AMDForActionDetection(config))


# ---------------------------------------------------------------------------------------------------------------------
# The loss
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_gradient_of_a_step_is_that_of_the_sum_over_all_its_boxes(accumulation: int, tmp_path: Path) -> None:
    model = _detector()
    rows = boxed_rows(model.config, [3, 0, 1, 2])  # one clip is without boxes
    plain = copy.deepcopy(model).train()
    total = torch.zeros(())
    for row in rows:
        if len(row["boxes"]):
            logits = plain(row["pixel_values"][None], [row["boxes"]]).logits
            total = total + binary_cross_entropy_with_logits(logits, row["labels"], reduction="sum") / 6
    total.backward()
    recorder = GradientRecorder()
    args = detection_args(
        tmp_path, per_device_train_batch_size=4 // accumulation, gradient_accumulation_steps=accumulation, max_steps=1
    )
    trainer = AMDDetectionTrainer(
        model, args, data_collator=ListBoxes(), train_dataset=rows, callbacks=[recorder]
    )  # fmt: skip
    trainer.train()
    (gradients,) = recorder.gradients
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
    assert logged(trainer, "loss") == [pytest.approx(total.item() / 6, rel=1e-5)]  # 6 boxes


def test_step_without_any_box_changes_nothing_but_by_decay(tmp_path: Path) -> None:
    model = _detector()
    before = weights_of(model)
    args = detection_args(tmp_path, per_device_train_batch_size=2, max_steps=2, weight_decay=0.0)
    trainer = AMDDetectionTrainer(
        model, args, data_collator=ListBoxes(), train_dataset=boxed_rows(model.config, [0, 0])
    )
    trainer.train()
    assert trainer.state.global_step == 2
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_rates_shrink_from_the_head_to_the_patches(tmp_path: Path) -> None:
    model = _detector()
    args = detection_args(tmp_path, layer_decay=0.5, per_device_train_batch_size=4)
    trainer = AMDDetectionTrainer(model, args, data_collator=ListBoxes(), train_dataset=boxed_rows(model.config, [1]))
    groups = trainer.create_optimizer().param_groups
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    last = model.config.num_hidden_layers + 1
    for parameter, layer in (
        (model.amd.embeddings.projection.weight, 0), (model.amd.layers[0].mlp.fc1.weight, 1),
        (model.amd.layers[1].mlp.fc1.weight, 2), (model.amd.norm.weight, last), (model.classifier.weight, last),
    ):  # fmt: skip
        assert rate_of[id(parameter)] == pytest.approx(args.learning_rate * 0.5 ** (last - layer))
    assert args.learning_rate == pytest.approx(0.1 * 4 / 256)


# ---------------------------------------------------------------------------------------------------------------------
# From files
# ---------------------------------------------------------------------------------------------------------------------


def test_resumed_run_gives_the_weights_of_one_never_stopped_bit_for_bit(people: PeopleFiles, tmp_path: Path) -> None:
    def trainer(folder: str) -> AMDDetectionTrainer:
        torch.manual_seed(0)
        model = _detector(drop_path_rate=0.3, head_dropout=0.2)
        args = detection_args(
            tmp_path / folder, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=6,
            save_strategy="steps", save_steps=1, base_learning_rate=0.5, ema_decay=0.6,
        )  # fmt: skip
        return AMDDetectionTrainer(model, args, train_dataset=_rows(people))

    whole, again = trainer("whole"), trainer("again")
    whole.train()
    torch.manual_seed(123)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))  # within the first epoch of 4 steps
    for name, value in weights_of(whole.model).items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert logged(again, "loss")[-3:] == logged(whole, "loss")[-3:]


def test_bad_video_is_counted_in_training_and_its_actions_are_missed_in_the_test(
    people: PeopleFiles, tmp_path: Path
) -> None:
    rows = _rows(people)
    bad = text_file(tmp_path / "bad.mp4")
    spoilt = rows.map(
        lambda row: {"video": {**row["video"], "path": str(bad)}} if row["name"] == "val001" else {},
        keep_in_memory=True,
    )
    args = detection_args(tmp_path, per_device_train_batch_size=8, max_steps=1, max_unreadable_fraction=0.5)
    trainer = AMDDetectionTrainer(_detector(), args, train_dataset=spoilt, eval_dataset=spoilt)
    trainer.train()
    assert (trainer.reading_log.num_tried, trainer.reading_log.num_unreadable) == (8, 2)
    assert sorted(trainer.reading_log.reasons) == ["val001,0001", "val001,0002"]
    result, whole = trainer.test(spoilt), trainer.test(rows)
    assert [video_id for video_id, _ in result.unreadable] == ["val001,0001", "val001,0002"]
    assert result.metrics()["videos_read"] == 6
    for outcome, other in zip(result.outcomes, whole.outcomes, strict=True):
        assert outcome["boxes"] == other["boxes"]  # they stay among those to be found
        assert len(outcome["scores"]) == (0 if "reason" in outcome else len(other["scores"]))
    assert result.metrics()["map"] < whole.metrics()["map"]


def test_too_many_bad_videos_stop_the_run(people: PeopleFiles, tmp_path: Path) -> None:
    bad = text_file(tmp_path / "bad.mp4")
    rows = _rows(people).map(lambda row: {"video": {**row["video"], "path": str(bad)}}, keep_in_memory=True)
    args = detection_args(tmp_path, per_device_train_batch_size=8, max_steps=20)
    with pytest.raises(RunStopped, match="cannot be read"):
        AMDDetectionTrainer(_detector(), args, train_dataset=rows).train()


def test_evaluation_does_not_depend_on_the_batch_and_logs_the_map(people: PeopleFiles, tmp_path: Path) -> None:
    model = _detector()
    rows = _rows(people)
    found = []
    for number, (batch, excluded) in enumerate([(3, people.excluded), (1, None)]):
        args = detection_args(tmp_path / str(number), per_device_eval_batch_size=batch)
        trainer = AMDDetectionTrainer(
            copy.deepcopy(model), args, eval_dataset=_rows(people, excluded=excluded), scored_actions=["left", "up"]
        )
        metrics = trainer.evaluate()
        result = trainer.test(rows)
        assert metrics["eval_map"] == pytest.approx(result.average_precisions()["map"], abs=1e-6)
        assert list(result.average_precisions()["average_precision"]) == ["left", "up"]
        found.append(result)
    for one, other in zip(*(result.outcomes for result in found), strict=True):
        torch.testing.assert_close(torch.tensor(one["scores"]), torch.tensor(other["scores"]), atol=1e-5, rtol=0)
        # Action times person: never more than what the person detector gives.
        assert (one["scores"] <= one["person_scores"][:, None]).all()


def test_shuffled_boxes_have_the_scores_of_their_neighbours(people: PeopleFiles, tmp_path: Path) -> None:
    trainer = AMDDetectionTrainer(_detector(), detection_args(tmp_path), eval_dataset=_rows(people))
    plain = trainer.test(trainer.eval_dataset)
    shuffled = unshuffle_boxes(trainer.test(shuffle_boxes(trainer.eval_dataset)))
    for one, other in zip(plain.outcomes, shuffled.outcomes, strict=True):
        assert one["test_boxes"].tolist() == other["test_boxes"].tolist()
        order = [*range(1, len(one["scores"])), 0]
        torch.testing.assert_close(torch.tensor(other["scores"]), torch.tensor(one["scores"][order]))
    constant = constant_scores(plain)
    assert all((outcome["scores"] == 1).all() for outcome in constant.outcomes)
    # The model has no part in it.
    assert constant.average_precisions() == constant_scores(shuffled).average_precisions()


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


def test_each_trainer_names_the_other_for_the_other_head(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="take AMDDetectionTrainer with AMDDetectionArguments"):
        AMDFineTuningTrainer(_detector(), finetuning_args(tmp_path))
    classifier = AMDForVideoClassification(tiny_config(image_size=16, num_labels=6))
    with pytest.raises(TypeError, match="take AMDFineTuningTrainer with AMDFineTuningArguments"):
        AMDDetectionTrainer(classifier, detection_args(tmp_path))
    with pytest.raises(TypeError, match="takes AMDDetectionArguments, got AMDFineTuningArguments"):
        AMDDetectionTrainer(_detector(), finetuning_args(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup_alpha": 0.5}, "`mixup_alpha` has no meaning for action detection"),
        ({"rand_augment": "rand-m7-n4"}, "`rand_augment` has no meaning"),
        ({"hue_shift": 200.0}, "`hue_shift` must be between 0 and 180"),
        ({"short_side": 0}, "`short_side` must be at least 1"),
    ],
)
def test_arguments_without_meaning_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        detection_args(tmp_path, **changes)


def test_actions_of_other_data_are_refused(people: PeopleFiles, tmp_path: Path) -> None:
    model = _detector()
    model.config.id2label = {**model.config.id2label, 2: "jump"}
    with pytest.raises(ValueError, match="number 3 is 'up' in the data and 'jump' in the model"):
        AMDDetectionTrainer(model, detection_args(tmp_path)).test(_rows(people))
    with pytest.raises(ValueError, match="1 of the scored actions are none of the model's, the first is 'up'"):
        AMDDetectionTrainer(model, detection_args(tmp_path), scored_actions=["left", "up"])
