"""`AMDTrainer` against a plain loop in PyTorch: losses, gradients, updates, logs, and what it must leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer
from amd_hf.errors import RunStopped
from tests.helpers.models import normalized, randomize, tiny_config
from tests.helpers.training import (
    GradientRecorder,
    StackRows,
    logged,
    masked_rows,
    plain_losses,
    pretraining_args,
    weights_of,
)


MakeTrainer = Callable[..., AMDTrainer]


@pytest.fixture
def make_trainer(tmp_path: Path, pretraining_model: AMDForPreTraining, teacher_model: AMDModel) -> MakeTrainer:
    """Builds a distilling trainer on 8 ready clips; arguments of the trainer go by their names, others to its args."""

    def make(**options: Any) -> AMDTrainer:
        rows = masked_rows(tiny_config(), 8)
        parts: dict[str, Any] = {"model": pretraining_model, "teacher_model": teacher_model, "train_dataset": rows}
        parts |= {"data_collator": StackRows()}
        for name in ("model", "teacher_model", "train_dataset", "eval_dataset", "data_collator", "callbacks"):
            if name in options:
                parts[name] = options.pop(name)
        return AMDTrainer(args=pretraining_args(tmp_path / "out", **options), **parts)

    return make


def _plain_run(
    model: AMDForPreTraining, teacher: AMDModel, batches: list[dict[str, torch.Tensor]], args: Any
) -> tuple[list[float], list[float]]:
    """The whole training in a few lines: AdamW, warm-up and cosine, clipped gradients. Returns losses and rates."""
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or name.endswith("mask_token")]
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and not name.endswith("mask_token")]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=0.0, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon, foreach=False
    )
    warmup = int(args.warmup_steps)
    losses, rates = [], []
    model.train()
    for step, batch in enumerate(batches):
        share = args.min_base_learning_rate / args.base_learning_rate
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (len(batches) - warmup)))
        factor = step / (warmup - 1) if step < warmup else share + (1 - share) * cosine
        rates.append(args.base_learning_rate * args.videos_per_step / 256 * factor)
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        loss = sum(plain_losses(model, teacher, batch).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses, rates


# ---------------------------------------------------------------------------------------------------------------------
# A step, and several
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_steps", "max_grad_norm"), [(1, 1.0), (9, 1.0), (9, 0.02)])
def test_training_equals_a_plain_loop(
    make_trainer: MakeTrainer,
    pretraining_model: AMDForPreTraining,
    teacher_model: AMDModel,
    num_steps: int,
    max_grad_norm: float,
) -> None:
    reference = AMDForPreTraining(pretraining_model.config)
    reference.load_state_dict(pretraining_model.state_dict())
    trainer = make_trainer(
        per_device_train_batch_size=3,
        max_steps=num_steps,
        warmup_steps=3 if num_steps > 3 else 0,
        base_learning_rate=0.2,
        weight_decay=0.3,
        max_grad_norm=max_grad_norm,
        adam_epsilon=1e-4,  # larger than rounding errors, which the default would blow up to whole steps
    )
    trainer.train()
    rows, collator = trainer.train_dataset, StackRows()
    batches = [collator([rows[number] for number in numbers]) for numbers in trainer.data_collator.batches[:num_steps]]
    losses, rates = _plain_run(reference, teacher_model, batches, trainer.args)
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-4)
    assert logged(trainer, "learning_rate") == pytest.approx(rates, rel=1e-6, abs=1e-12)
    for name, expected in reference.state_dict().items():
        # Rates of 2e-3: a wrong sign, decay or schedule would show in the third digit of the movement.
        torch.testing.assert_close(trainer.model.state_dict()[name], expected, atol=1e-5, rtol=0, msg=name)


def test_weight_decay_spares_biases_vectors_and_mask_tokens(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(weight_decay=0.3)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decayed, spared = trainer.create_optimizer().param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    assert spared_names == {
        name for name, p in trainer.model.named_parameters() if p.ndim == 1 or name.endswith("mask_token")
    }
    assert {"decoder.mask_token", "alignment.generators.2.mask_token", "decoder.head.bias"} <= spared_names
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_accumulated_micro_batches_equal_one_large_batch(
    make_trainer: MakeTrainer, pretraining_model: AMDForPreTraining, tmp_path: Path, batch_size: int
) -> None:
    start = weights_of(pretraining_model)
    outcomes = []
    for size in (8, batch_size):
        pretraining_model.load_state_dict(start)
        recorder = GradientRecorder()
        trainer = make_trainer(
            per_device_train_batch_size=size, gradient_accumulation_steps=8 // size, max_steps=2, callbacks=[recorder],
            max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        outcomes.append((trainer, recorder.gradients))
    (large, large_gradients), (small, small_gradients) = outcomes
    assert {len(batch) for batch in small.data_collator.batches} == {batch_size}
    assert {len(batch) for batch in large.data_collator.batches} == {8}
    for name in ("loss", "loss_reconstruction", "loss_direct", "loss_generation"):
        assert logged(small, name) == pytest.approx(logged(large, name), rel=1e-6)
    for name, expected in large_gradients[0].items():
        torch.testing.assert_close(small_gradients[0][name], expected, atol=1e-6, rtol=1e-6, msg=name)


def test_every_trained_parameter_moves_and_the_teacher_does_not(
    make_trainer: MakeTrainer, pretraining_model: AMDForPreTraining, teacher_model: AMDModel
) -> None:
    before, teacher_before = weights_of(pretraining_model), weights_of(teacher_model)
    trainer = make_trainer(max_steps=2, base_learning_rate=0.3, weight_decay=0.0, save_strategy="steps", save_steps=2)
    trainer.train()
    unmoved = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert unmoved == []
    assert "alignment.generators.3.mask_token" in before
    for name, value in teacher_model.state_dict().items():
        assert torch.equal(value, teacher_before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in trainer.teacher.parameters())
    assert not any(module.training for module in trainer.teacher.model.modules())
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in teacher_model.parameters()}
    saved = load_file(Path(trainer.args.output_dir) / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == before.keys()


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["l2", "l1", "smooth_l1"])
@pytest.mark.parametrize("normalize", [False, True])
def test_parts_are_logged_in_training_and_evaluation_and_sum_to_the_loss(
    make_trainer: MakeTrainer,
    pretraining_model: AMDForPreTraining,
    teacher_model: AMDModel,
    kind: str,
    normalize: bool,
) -> None:
    rows = masked_rows(pretraining_model.config, 8)
    expected = plain_losses(pretraining_model, teacher_model, StackRows()(rows), kind, normalize)
    weights = {"reconstruction": 0.5, "direct": 2.0, "generation": 3.0}
    trainer = make_trainer(
        max_steps=1,
        eval_dataset=rows,
        alignment_loss=kind,
        teacher_feature_norm=normalize,
        **{f"{name}_weight": weight for name, weight in weights.items()},
    )
    metrics = trainer.evaluate()
    trainer.train()
    for name, value in expected.items():
        assert metrics[f"eval_loss_{name}"] == pytest.approx(value.item(), rel=1e-5)
        assert logged(trainer, f"loss_{name}") == pytest.approx([value.item()], rel=1e-5)
    total = sum(weights[name] * value.item() for name, value in expected.items())
    assert metrics["eval_loss"] == pytest.approx(total, rel=1e-5)
    assert logged(trainer, "loss") == pytest.approx([total], rel=1e-5)


def test_compute_loss_returns_the_parts_unweighted(make_trainer: MakeTrainer, teacher_model: AMDModel) -> None:
    trainer = make_trainer(direct_weight=10.0)
    batch = StackRows()(trainer.train_dataset)
    total, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    expected = plain_losses(trainer.model, teacher_model, batch)
    assert {name: value.item() for name, value in outputs.losses.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-5
    )
    assert total.item() == pytest.approx(
        (expected["reconstruction"] + 10 * expected["direct"] + expected["generation"]).item(), rel=1e-5
    )
    assert all(value.dtype == torch.float32 for value in outputs.losses.values())


def test_normalised_floats_give_the_losses_of_raw_uint8(make_trainer: MakeTrainer) -> None:
    raw = masked_rows(tiny_config(), 4)
    floats = [{**row, "pixel_values": normalized(row["pixel_values"], tiny_config())} for row in raw]
    trainer = make_trainer()
    of_raw, of_floats = trainer.evaluate(raw), trainer.evaluate(floats)
    for name in ("eval_loss_reconstruction", "eval_loss_direct", "eval_loss_generation"):
        assert of_floats[name] == pytest.approx(of_raw[name], rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "idle"), [("serial", "alignment.projections.2.weight"), ("parallel", "generation_projections")]
)
def test_equal_masks_leave_nothing_to_generate(
    mode: str, idle: str, make_trainer: MakeTrainer, teacher_model: AMDModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = randomize(AMDForPreTraining(tiny_config(teacher_mask_ratio=0.7, alignment_mode=mode)))
    before = weights_of(model)
    rows = masked_rows(model.config, 8)
    trainer = make_trainer(model=model, train_dataset=rows, max_steps=1, base_learning_rate=0.3)
    trainer.train()
    assert logged(trainer, "loss_generation") == [0.0]
    assert "there is nothing to generate" in caplog.text
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert moved | frozen == {name for name, _ in model.named_parameters()}  # several processes wait for all others
    assert frozen == {name for name in before if "generators" in name or idle in name}


def test_bf16_on_the_cpu_trains_with_losses_in_float32(make_trainer: MakeTrainer) -> None:
    full, half = make_trainer(max_steps=1), make_trainer(max_steps=1, bf16=True)
    full.train()
    half.train()
    assert half.model.decoder.head.weight.dtype == torch.float32
    assert logged(half, "loss") == pytest.approx(logged(full, "loss"), rel=0.05)
    assert logged(half, "loss") != logged(full, "loss")


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_is_the_mean_over_clips_whatever_the_batch_size(
    make_trainer: MakeTrainer, teacher_model: AMDModel, batch_size: int
) -> None:
    rows = masked_rows(tiny_config(), 7)
    trainer = make_trainer(per_device_eval_batch_size=batch_size)
    metrics = trainer.evaluate(rows)
    one_by_one = [plain_losses(trainer.model, teacher_model, StackRows()([row])) for row in rows]
    for name in one_by_one[0]:
        mean = sum(losses[name].item() for losses in one_by_one) / 7
        assert metrics[f"eval_loss_{name}"] == pytest.approx(mean, rel=1e-5)
    assert (metrics["eval_videos_expected"], metrics["eval_videos_read"]) == (7, 7)


def test_evaluation_leaves_weights_gradients_and_training_logs_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        max_steps=2, eval_strategy="steps", eval_steps=1, eval_dataset=masked_rows(tiny_config(), 3)
    )
    alone = make_trainer(model=_copy(trainer.model), max_steps=2)
    trainer.train()
    alone.train()
    assert logged(trainer, "loss") == logged(alone, "loss")
    assert len(logged(trainer, "eval_loss_direct")) == 2
    for name, value in alone.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


def _copy(model: AMDForPreTraining) -> AMDForPreTraining:
    copy = AMDForPreTraining(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


# ---------------------------------------------------------------------------------------------------------------------
# Without a teacher
# ---------------------------------------------------------------------------------------------------------------------


def test_without_a_teacher_only_pixels_are_learnt(make_trainer: MakeTrainer) -> None:
    model = randomize(AMDForPreTraining(tiny_config(teacher_hidden_size=None)))
    before = weights_of(model)
    rows = masked_rows(model.config, 8)
    expected = model(**{k: v for k, v in StackRows()(rows).items() if "teacher" not in k}).loss.item()
    trainer = make_trainer(
        model=model, teacher_model=None, train_dataset=rows, eval_dataset=rows, max_steps=1, base_learning_rate=0.3
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([expected], rel=1e-6)
    assert logged(trainer, "loss_reconstruction") == pytest.approx([expected], rel=1e-6)
    assert not logged(trainer, "loss_direct")
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_student_with_alignment_but_no_teacher_warns_and_leaves_the_modules(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(teacher_model=None, max_steps=2, base_learning_rate=0.3)
    assert "there is no `teacher_model`: they stay as they are" in caplog.text
    before = weights_of(trainer.model)
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("alignment."), name


def test_two_trainers_share_nothing(make_trainer: MakeTrainer, pretraining_model: AMDForPreTraining) -> None:
    alone = make_trainer(model=_copy(pretraining_model), max_steps=2)
    alone.train()
    one = make_trainer(model=_copy(pretraining_model), teacher_model=None, max_steps=1)
    other = make_trainer(model=_copy(pretraining_model), max_steps=2)
    one.train()
    other.train()
    assert logged(other, "loss") == logged(alone, "loss")
    assert one.reading_log is not other.reading_log
    for name, value in alone.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


def test_teacher_after_a_run_without_one_trains_the_alignment_again(make_trainer: MakeTrainer) -> None:
    make_trainer(teacher_model=None, max_steps=1).train()
    trainer = make_trainer(max_steps=1, base_learning_rate=0.3)
    before = weights_of(trainer.model)
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Runs that must not go on
# ---------------------------------------------------------------------------------------------------------------------


class _TeacherOfNaN(torch.nn.Module):
    """A teacher of one's own whose layer 1, used for generation alone, is not finite from the second call on."""

    calls = 0

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> dict[int, torch.Tensor]:
        self.calls += 1
        visible = int((~bool_masked_pos[0]).sum())
        features = {layer: torch.zeros(len(pixel_values), visible, 48) for layer in (1, 2, 4)}
        features[1] += math.nan if self.calls > 1 else 0.0
        return features


def test_loss_that_is_not_finite_stops_the_run_before_weights_are_spoilt(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(teacher_model=_TeacherOfNaN(), max_steps=4, save_strategy="steps", save_steps=1)
    with pytest.raises(RunStopped, match=r"not finite at step 2: generation = nan, total = nan\."):
        trainer.train()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1"]
    saved = load_file(tmp_path / "out" / "checkpoint-1" / "model.safetensors")
    assert all(value.isfinite().all() for value in saved.values())
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_loss_found_not_finite_only_later_keeps_the_weights_from_being_saved(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    # As on an accelerator, where losses are looked at one step late: the last step's when the model is saved.
    trainer = make_trainer()
    trainer._finite_guard._pending = (7, ["direct", "total"], torch.tensor([math.inf, 1.0]), None)
    with pytest.raises(RunStopped, match=r"not finite at step 7: direct = inf\."):
        trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_hidden_size": None}, "has no alignment modules"),
        ({"teacher_hidden_size": 45}, "teacher 48, student 45"),
        ({"num_channels": 1, "image_mean": [0.5], "image_std": [0.5]}, "num_channels: teacher 3, student 1"),
        ({"teacher_direct_layers": [2, 9]}, "5 layers, but layer 9"),
    ],
)
def test_teacher_that_does_not_fit_raises(make_trainer: MakeTrainer, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(model=AMDForPreTraining(tiny_config(**changes)))


def test_batch_without_a_teacher_mask_raises(make_trainer: MakeTrainer) -> None:
    rows = [{k: v for k, v in row.items() if "teacher" not in k} for row in masked_rows(tiny_config(), 8)]
    with pytest.raises(ValueError, match="needs `teacher_bool_masked_pos`"):
        make_trainer(train_dataset=rows, max_steps=1).train()


def test_incomplete_batch_is_dropped_and_epochs_differ_in_order(make_trainer: MakeTrainer) -> None:
    collator = StackRows()
    trainer = make_trainer(
        data_collator=collator, train_dataset=masked_rows(tiny_config(), 7), per_device_train_batch_size=3,
        num_train_epochs=2,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4
    epochs = collator.batches[:2], collator.batches[2:]
    for batches in epochs:
        assert len({number for batch in batches for number in batch}) == 6
    assert epochs[0] != epochs[1]


def test_too_few_videos_for_a_step_raise(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(per_device_train_batch_size=3, gradient_accumulation_steps=3, max_steps=1)
    with pytest.raises(ValueError, match=r"8 videos, fewer than the 9 of one optimizer step \(3 per device x 3"):
        trainer.train()


def test_stream_as_training_set_raises(make_trainer: MakeTrainer) -> None:
    with pytest.raises(TypeError, match=r"is a stream of a kind \(generator\).*`datasets.IterableDataset`"):
        make_trainer(train_dataset=(row for row in []), max_steps=1)
