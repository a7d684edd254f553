"""`AMDFineTuningTrainer` against a plain loop, its evaluation, and its multi-view test."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amd_hf import AMDConfig, AMDFineTuningTrainer, AMDForVideoClassification, load_video_dataset
from amd_hf.evaluation.multiview import MultiViewResult, ViewOptions
from amd_hf.finetuning import trainer as finetuning
from examples.motion_shapes import MOTION_CLASSES
from tests.helpers.finetuning import PLAIN
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import GradientRecorder, StackRows, finetuning_args, labelled_rows, logged, weights_of
from tests.helpers.videos import text_file, write_video


MakeTrainer = Callable[..., AMDFineTuningTrainer]


@pytest.fixture
def make_trainer(tmp_path: Path, classifier: AMDForVideoClassification) -> MakeTrainer:
    """Builds a trainer on 8 ready clips; arguments of the trainer go by their names, others to its args."""

    def make(**options: Any) -> AMDFineTuningTrainer:
        parts: dict[str, Any] = {"model": classifier, "train_dataset": labelled_rows(classifier.config, 8)}
        parts |= {"data_collator": StackRows()}
        for name in ("model", "train_dataset", "eval_dataset", "data_collator", "callbacks", "clip_augmentation"):
            if name in options:
                parts[name] = options.pop(name)
        return AMDFineTuningTrainer(args=finetuning_args(tmp_path / "out", **{**PLAIN, **options}), **parts)

    return make


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.exp().sum(dim=1).log() - logits[torch.arange(len(labels)), labels]).mean()


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_training_equals_a_plain_loop(
    make_trainer: MakeTrainer, classifier: AMDForVideoClassification, layer_decay: float
) -> None:
    reference = AMDForVideoClassification(classifier.config)
    reference.load_state_dict(classifier.state_dict())
    trainer = make_trainer(
        per_device_train_batch_size=3, max_steps=6, base_learning_rate=0.2, weight_decay=0.3, layer_decay=layer_decay,
        adam_epsilon=1e-4,
    )  # fmt: skip
    trainer.train()
    stages = [
        reference.amd.embeddings,
        *reference.amd.layers,
        nn.ModuleList([reference.fc_norm, reference.classifier]),
    ]
    groups = [
        {"params": [p], "weight_decay": 0.3 if p.ndim > 1 else 0.0, "share": layer_decay ** (len(stages) - 1 - number)}
        for number, stage in enumerate(stages)
        for p in stage.parameters()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-4, foreach=False)
    losses = []
    for step, numbers in enumerate(trainer.data_collator.batches[:6]):
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / 6))
            group["lr"] = group["share"] * 3 / 256 * (1e-6 + (0.2 - 1e-6) * cosine)
        batch = StackRows()([trainer.train_dataset[number] for number in numbers])
        loss = _cross_entropy(reference.train()(batch["pixel_values"]).logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(groups) == len(list(reference.parameters()))
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-4)
    assert logged(trainer, "learning_rate")[0] == pytest.approx(0.2 * 3 / 256)  # the last layer's
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], expected, atol=1e-5, rtol=0, msg=name)


def test_accumulated_micro_batches_equal_one_large_batch(
    make_trainer: MakeTrainer, classifier: AMDForVideoClassification
) -> None:
    # Labels in the batch and `**kwargs` in `forward` are what makes the Trainer leave out the division.
    start = weights_of(classifier)
    outcomes = []
    for size in (8, 1):
        classifier.load_state_dict(start)
        recorder = GradientRecorder()
        trainer = make_trainer(
            per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, max_steps=1, callbacks=[recorder]
        )  # fmt: skip
        trainer.train()
        outcomes.append((logged(trainer, "loss"), recorder.gradients[0]))
    (large_loss, large), (small_loss, small) = outcomes
    assert small_loss == pytest.approx(large_loss, rel=1e-6)
    for name, expected in large.items():
        torch.testing.assert_close(small[name], expected, atol=1e-6, rtol=1e-6, msg=name)


def test_every_parameter_moves(make_trainer: MakeTrainer, classifier: AMDForVideoClassification) -> None:
    before = weights_of(classifier)
    make_trainer(max_steps=1, base_learning_rate=0.3, weight_decay=0.0).train()
    assert all(not torch.equal(p, before[name]) for name, p in classifier.named_parameters())


def test_clip_augmentation_may_change_the_label(
    make_trainer: MakeTrainer, motion_videos: Path, square_config: AMDConfig
) -> None:
    def mirror_left_and_right(clip: torch.Tensor, label: int, generator: np.random.Generator) -> tuple[Any, int]:
        return clip.flip(3), {0: 1, 1: 0}.get(label, label)

    rows = load_video_dataset(motion_videos, split="train")
    options = {"model": AMDForVideoClassification(square_config), "data_collator": None, "train_dataset": rows}
    trainer = make_trainer(**options, clip_augmentation=mirror_left_and_right, num_repetitions=2)
    batch = trainer.data_collator([rows[0], rows[-1]])
    changed = [mirror_left_and_right(torch.zeros(1, 1, 1, 1), rows[index]["label"], None)[1] for index in (0, -1)]
    assert batch["labels"].tolist() == [changed[0]] * 2 + [changed[1]] * 2
    assert trainer.eval_collator([rows[0]])["labels"].tolist() == [rows[0]["label"]]


def test_flips_and_sampling_follow_the_arguments(make_trainer: MakeTrainer, square_config: AMDConfig) -> None:
    model = AMDForVideoClassification(square_config)
    trainer = make_trainer(
        model=model, data_collator=None, flip_probability=0.0, sampling_mode="segments", seed=5, erase_probability=0.4,
        rand_augment="rand-m9-mstd0.5-inc1",
    )  # fmt: skip
    loader = trainer.data_collator.loader
    assert (loader.flip_probability, loader.sampling_mode) == (0.0, "segments")
    assert (loader.augmentation, loader.rand_augment, loader.erase_probability) == (
        "random_resized_crop",
        "rand-m9-mstd0.5-inc1",
        0.4,
    )
    assert (loader.seed, loader.image_size, loader.num_frames) == (5, 16, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_is_exact_whatever_the_batch_size(
    make_trainer: MakeTrainer, classifier: AMDForVideoClassification, batch_size: int
) -> None:
    rows = labelled_rows(classifier.config, 7, seed=3)
    logits = torch.cat([classifier(row["pixel_values"][None]).logits for row in rows])
    labels = torch.stack([row["labels"] for row in rows])
    metrics = make_trainer(per_device_eval_batch_size=batch_size).evaluate(rows)
    assert metrics["eval_loss"] == pytest.approx(_cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())
    assert (metrics["eval_videos_expected"], metrics["eval_videos_read"]) == (7, 7)


def test_unreadable_videos_count_as_wrong(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / "videos" / "a" / f"{number}.mp4", 8, 32, 32)
    text_file(tmp_path / "videos" / "a" / "bad.mp4")
    write_video(tmp_path / "videos" / "b" / "other.mp4", 8, 32, 32)
    rows = load_video_dataset(tmp_path / "videos")
    model = AMDForVideoClassification(tiny_config(image_size=16, num_labels=2, id2label={0: "a", 1: "b"}))
    with torch.no_grad():
        model.classifier.bias[0] += 10.0  # says "a" of everything
    trainer = make_trainer(model=model, data_collator=None)
    metrics = trainer.evaluate(rows)
    assert metrics["eval_accuracy"] == pytest.approx(3 / 5)
    assert (metrics["eval_videos_expected"], metrics["eval_videos_read"]) == (5, 4)
    result = trainer.test(rows)
    assert result.metrics()["accuracy"] == pytest.approx(3 / 5)
    assert [video_id for video_id, _ in result.unreadable] == ["a/bad.mp4"]
    all_bad = rows.filter(lambda row: row["video_id"] == "a/bad.mp4")
    assert trainer.evaluate(all_bad)["eval_accuracy"] == 0.0


# ---------------------------------------------------------------------------------------------------------------------
# The multi-view test
# ---------------------------------------------------------------------------------------------------------------------


def test_multi_view_test_gets_views_and_batches_from_config_and_arguments(
    make_trainer: MakeTrainer, square_config: AMDConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    result = MultiViewResult([], ["left", "right"])

    def spy(model: torch.nn.Module, rows: Any, options: ViewOptions, accelerator: Any, **more: Any) -> MultiViewResult:
        seen.update(model=model, rows=rows, options=options, **more)
        return result

    monkeypatch.setattr(finetuning, "run_multi_view_test", spy)
    trainer = make_trainer(
        model=AMDForVideoClassification(square_config), test_num_segments=2, test_num_crops=3, test_mode="uniform",
        sampling_rate=7, per_device_eval_batch_size=13, dataloader_num_workers=1, decoder="pyav", data_collator=None,
    )  # fmt: skip
    assert trainer.test(["rows"]) is result
    assert seen["options"] == ViewOptions(
        num_frames=4, crop_size=16, sampling_rate=7, num_segments=2, num_crops=3, mode="uniform"
    )
    assert seen["videos_per_batch"] == 2  # 13 clips hold two videos of 6 views
    assert (seen["rows"], seen["model"]) == (["rows"], trainer.model)
    assert (seen["num_workers"], seen["decoder"]) == (1, "pyav")


def test_classifier_learns_to_tell_motion_that_it_has_seen(
    make_trainer: MakeTrainer, motion_videos: Path, square_config: AMDConfig
) -> None:
    rows = load_video_dataset(motion_videos, split="train")
    model = randomize(AMDForVideoClassification(square_config), std=0.02)
    trainer = make_trainer(
        model=model, data_collator=None, train_dataset=rows, per_device_train_batch_size=16, max_steps=60,
        base_learning_rate=0.08, sampling_rate=2, sampling_mode="dense", flip_probability=0.0, weight_decay=0.0,
        test_num_segments=1, test_num_crops=1, logging_steps=20, num_repetitions=1,
        cache_decoded_bytes=10**7, max_grad_norm=1.0,
    )  # fmt: skip
    trainer.data_collator.loader.__dict__["augmentation"] = "center_crop"
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[0] > 1.0 > losses[-1] * 2
    assert trainer.test(rows).metrics()["accuracy"] > 3 / len(MOTION_CLASSES)
