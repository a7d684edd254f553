"""Arguments of both trainers: rates per 256 videos, warm-up, values refused, and the description of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amd_hf import AMDConfig, AMDFineTuningArguments, AMDForPreTraining, AMDTrainer, AMDTrainingArguments
from amd_hf.training.summary import describe_run
from tests.helpers.models import tiny_config
from tests.helpers.training import StackRows, logged, masked_rows, pretraining_args


def test_defaults_are_the_released_recipe(tmp_path: Path) -> None:
    args = AMDTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.base_learning_rate, args.min_base_learning_rate, args.warmup_epochs) == (1.2e-3, 1e-5, 10)
    assert (args.num_train_epochs, args.num_repetitions, args.sampling_rate) == (200, 4, 4)
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.9, 0.95, 0.05, 0.02)
    assert (args.alignment_loss, args.teacher_feature_norm) == ("l2", None)
    fine = AMDFineTuningArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (fine.base_learning_rate, fine.min_base_learning_rate, fine.warmup_epochs) == (1e-3, 1e-6, 5)
    assert (fine.adam_beta2, fine.max_grad_norm, fine.num_repetitions) == (0.999, 0.0, 2)
    assert (fine.test_num_segments, fine.test_num_crops, fine.sampling_mode) == (5, 3, "spread")
    assert (fine.layer_decay, fine.adam_beta1, fine.weight_decay, fine.num_train_epochs) == (0.75, 0.9, 0.05, 150)
    assert (fine.rand_augment, fine.erase_probability) == ("rand-m7-n4-mstd0.5-inc1", 0.25)
    assert (fine.mixup_alpha, fine.cutmix_alpha, fine.mix_probability) == (0.8, 1.0, 1.0)
    assert (fine.mix_switch_probability, fine.label_smoothing_factor) == (0.5, 0.1)
    assert (fine.ema_decay, fine.freeze, fine.lora_rank, fine.early_stopping_patience) == (None,) * 4


def test_rate_grows_with_the_videos_of_a_step_but_not_with_repetitions(tmp_path: Path) -> None:
    args = pretraining_args(
        tmp_path, per_device_train_batch_size=16, gradient_accumulation_steps=8, num_repetitions=4,
        base_learning_rate=1.2e-3, min_base_learning_rate=1.2e-5,
    )  # fmt: skip
    assert args.videos_per_step == 128
    assert args.learning_rate == pytest.approx(0.6e-3)
    assert args.final_learning_rate_ratio == pytest.approx(0.01)


def test_no_base_rate_keeps_the_rate_given(tmp_path: Path) -> None:
    args = pretraining_args(tmp_path, base_learning_rate=None, learning_rate=3e-4, min_base_learning_rate=3e-5)
    assert args.learning_rate == 3e-4
    assert args.final_learning_rate_ratio == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"warmup_epochs": 2.5}, 17), ({"warmup_epochs": 0}, 0), ({"warmup_steps": 3, "warmup_epochs": 2}, 3)],
)
def test_warm_up_counts_epochs_unless_steps_are_given(tmp_path: Path, options: dict[str, Any], steps: int) -> None:
    assert pretraining_args(tmp_path, **options).count_warmup_steps(100, steps_per_epoch=7) == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alignment_loss": "angle"}, "must be one of l2, l1, smooth_l1, cosine, got 'angle'"),
        ({"direct_weight": -1.0}, "at least 0 and not all 0"),
        ({f"{part}_weight": 0.0 for part in ("reconstruction", "direct", "generation")}, "not all 0"),
        ({"num_repetitions": 0}, "`num_repetitions` must be at least 1, got 0"),
        ({"sampling_rate": 0}, "`sampling_rate` must be at least 1, got 0"),
        ({"per_device_eval_batch_size": 0}, "`per_device_eval_batch_size` must be at least 1, got 0"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size` must be at least 1, got 0"),
        ({"lr_scheduler_type": "linear"}, "always the released code's warm-up and cosine"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "always the released code's warm-up and cosine"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be at least 0"),
        ({"max_unreadable_fraction": 1.5}, "between 0 and 1, got 1.5"),
        ({"remove_unused_columns": True}, "`remove_unused_columns=True` is not supported"),
        ({"logging_nan_inf_filter": True}, "`logging_nan_inf_filter=True` is not supported"),
        ({"base_learning_rate": 0.0}, "`base_learning_rate` must be above 0"),
        ({"base_learning_rate": 1e-6}, r"`min_base_learning_rate` 1e-05 must lie between 0 and `base_learning_rate`"),
        ({"learning_rate": 1e-3}, r"both `learning_rate` 0.001 and `base_learning_rate` 0.0012 \(= 3.75e-05 at 8"),
    ],
)
def test_bad_value_raises_and_names_it(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretraining_args(tmp_path, **options)


@pytest.mark.parametrize(
    ("metric", "given", "expected"),
    [("loss_direct", None, False), ("eval_loss_direct", None, False), ("loss", None, False), ("accuracy", None, True),
     ("loss_direct", True, True)],
)  # fmt: skip
def test_best_model_is_that_of_the_lowest_part_of_the_loss(
    tmp_path: Path, metric: str, given: bool | None, expected: bool
) -> None:
    assert (
        pretraining_args(tmp_path, metric_for_best_model=metric, greater_is_better=given).greater_is_better is expected
    )


def test_metric_that_evaluation_does_not_give_raises_before_training(
    tmp_path: Path, pretraining_model: AMDForPreTraining
) -> None:
    args = pretraining_args(tmp_path, metric_for_best_model="loss_direct")
    with pytest.raises(ValueError, match=r"must be one of loss, loss_reconstruction, got 'loss_direct'"):
        AMDTrainer(pretraining_model, args, data_collator=StackRows())  # no teacher: no direct alignment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_num_segments": 0}, "`test_num_segments` must be at least 1, got 0"),
        ({"test_num_crops": 0}, "`test_num_crops` must be at least 1, got 0"),
        ({"early_stopping_patience": 0}, "`early_stopping_patience` must be at least 1, got 0"),
        ({"mixup_alpha": -0.1}, "`mixup_alpha` must be at least 0, got -0.1"),
        ({"cutmix_alpha": -1.0}, "`cutmix_alpha` must be at least 0, got -1.0"),
        ({"flip_probability": 1.5}, "`flip_probability` must be between 0 and 1, got 1.5"),
        ({"erase_probability": -1.0}, "`erase_probability` must be between 0 and 1, got -1.0"),
        ({"mix_probability": 2.0}, "`mix_probability` must be between 0 and 1, got 2.0"),
        ({"label_smoothing_factor": 1.0}, "`label_smoothing_factor` must be at least 0 and below 1, got 1.0"),
        ({"layer_decay": 0.0}, "`layer_decay` must be above 0 and at most 1, got 0.0"),
        ({"ema_decay": 1.0}, "`ema_decay` must be above 0 and below 1, got 1.0"),
        ({"freeze": "head"}, "`freeze` must be `encoder` or a number of layers, got 'head'"),
        ({"freeze": "-1"}, "`freeze` must be `encoder` or a number of layers, got '-1'"),
        ({"lora_rank": 4, "freeze": "2"}, "`lora_rank` freezes all but its adapters and the head"),
        ({"lora_rank": 4, "lora_targets": ["query"]}, r"must be some of qkv, proj, fc1, fc2, got \['query'\]"),
        ({"lora_rank": 4, "lora_targets": []}, r"must be some of qkv, proj, fc1, fc2, got \[\]"),
    ],
)
def test_bad_value_of_fine_tuning_raises_and_names_it(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AMDFineTuningArguments(output_dir=str(tmp_path), use_cpu=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "vlc"}, r"`decoder` must be one of \['decord', .*'pyav'.*\] or None, not 'vlc'"),
    ],
)
def test_value_that_only_the_run_can_judge_raises_before_the_first_step(
    tmp_path: Path, square_config: AMDConfig, options: dict[str, Any], message: str
) -> None:
    args = pretraining_args(tmp_path, **options)
    rows = masked_rows(square_config, 8)
    collator = None if "decoder" in options else StackRows()
    with pytest.raises(ValueError, match=message):
        AMDTrainer(AMDForPreTraining(square_config), args, data_collator=collator, train_dataset=rows).train()
    assert collator is None or not collator.batches


def test_clips_that_are_not_square_need_a_collator_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"Our clips are square: `image_size` \[16, 24\] needs a collator of your own"
    ):
        AMDTrainer(AMDForPreTraining(tiny_config()), pretraining_args(tmp_path))


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"num_train_epochs": 2.5}, "5 (2.5 epochs of 2)"), ({"max_steps": 3}, "3 (1.5 epochs of 2)")],
)
def test_description_says_what_the_run_will_do(tmp_path: Path, options: dict[str, Any], steps: str) -> None:
    model = AMDForPreTraining(tiny_config(teacher_hidden_size=None))
    rows = masked_rows(model.config, 9)
    args = pretraining_args(
        tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, base_learning_rate=0.64,
        min_base_learning_rate=0.064, num_repetitions=3, warmup_epochs=1, **options,
    )  # fmt: skip
    trainer = AMDTrainer(model, args, data_collator=StackRows(), train_dataset=rows)
    text = describe_run(trainer, teacher="none")
    for expected in (
        "training videos: 9\n",
        "3 layers of width 32, 4 x 16 x 24 frames, 12 tokens",
        "batch: 4 videos x 3 repetitions = 12 clips per step (2 per device x 2 accumulation steps x 1 processes)",
        f"steps: {steps}, 2 of warm-up",
        "learning rate: 0.01 down to 0.001\n",
        f"output: {tmp_path}",
        "teacher: none\n",
    ):
        assert expected in text
    trainer.train()
    assert trainer.state.global_step == int(steps.split()[0])
    assert logged(trainer, "learning_rate")[:3] == pytest.approx([0.0, 0.01, 0.01])


def test_old_name_of_an_option_sets_the_new_one_and_warns(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="`max_unreadable_share` is now `max_unreadable_fraction`"):
        args = pretraining_args(tmp_path, max_unreadable_share=0.25)
    assert (args.max_unreadable_fraction, args.max_unreadable_share) == (0.25, None)
