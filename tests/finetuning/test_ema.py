"""The average of the weights: its value, what is evaluated and saved, and going on from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.finetuning.ema import TRAINED_WEIGHTS_NAME, WeightAverage
from tests.helpers.finetuning import PLAIN
from tests.helpers.models import randomize, tiny_config
from tests.helpers.recipe_processes import play
from tests.helpers.training import (
    ROOT,
    StackRows,
    finetuning_args,
    labelled_rows,
    logged,
    weights_of,
)
from tests.helpers.warm import run_warm_group


class WeightRecorder(TrainerCallback):
    """Keeps the weights after each optimizer step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        self.weights.append(weights_of(model))


def _trainer(output_dir: Path, *callbacks: TrainerCallback, **options: Any) -> AMDFineTuningTrainer:
    torch.manual_seed(0)
    model = randomize(AMDForVideoClassification(tiny_config(drop_path_rate=0.3)))
    options = {
        "per_device_train_batch_size": 4,
        "max_steps": 5,
        "base_learning_rate": 1.0,
        "ema_decay": 0.6,
        **options,
    }
    args = finetuning_args(output_dir, **{**PLAIN, **options})
    return AMDFineTuningTrainer(
        model, args, data_collator=StackRows(), train_dataset=labelled_rows(model.config, 8),
        eval_dataset=labelled_rows(model.config, 6, seed=1), callbacks=list(callbacks),
    )  # fmt: skip


def _expected(start: dict[str, torch.Tensor], weights: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    average = dict(start)
    for after in weights:
        average = {name: 0.6 * value + 0.4 * after[name] for name, value in average.items()}
    return average


def test_average_is_that_of_the_weights_after_each_step_and_is_what_is_saved(tmp_path: Path) -> None:
    recorder = WeightRecorder()
    trainer = _trainer(tmp_path, recorder)
    start = weights_of(trainer.model)
    trainer.train()
    expected = _expected(start, recorder.weights)
    trainer.save_model()
    saved = AMDForVideoClassification.from_pretrained(tmp_path).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=0, msg=name)
        assert torch.equal(trainer.model.state_dict()[name], recorder.weights[-1][name]), name  # still under training
    assert any((saved[name] - recorder.weights[-1][name]).abs().max() > 1e-3 for name in expected)
    assert not (tmp_path / TRAINED_WEIGHTS_NAME).exists()  # the weights under training belong to checkpoints alone


def test_average_is_what_is_evaluated_while_training_goes_on_undisturbed(tmp_path: Path) -> None:
    recorder = WeightRecorder()
    evaluation = {"eval_strategy": "steps", "eval_steps": 1}  # its loader draws from the generator of drop path too
    plain = _trainer(tmp_path / "plain", recorder, ema_decay=None, **evaluation)
    start = weights_of(plain.model)
    plain.train()
    averaged = _trainer(tmp_path / "averaged", **evaluation)
    averaged.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(averaged.model.state_dict()[name], value), name
    batch = StackRows()(averaged.eval_dataset)
    losses = []
    for step in range(1, 6):
        plain.model.load_state_dict(_expected(start, recorder.weights[:step]))
        losses.append(plain.model.eval()(**batch).loss.item())
    assert logged(averaged, "eval_loss") == pytest.approx(losses, rel=1e-5)


def test_checkpoint_holds_the_average_as_the_model_and_the_weights_under_training(tmp_path: Path) -> None:
    recorder = WeightRecorder()
    trainer = _trainer(tmp_path, recorder, save_strategy="steps", save_steps=2)
    start = weights_of(trainer.model)
    trainer.train()
    saved, trained = (load_file(tmp_path / "checkpoint-2" / n) for n in ("model.safetensors", TRAINED_WEIGHTS_NAME))
    for name, value in _expected(start, recorder.weights[:2]).items():
        torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=0, msg=name)
        assert torch.equal(trained[name], recorder.weights[1][name]), name


def test_best_model_is_loaded_and_saved_with_its_average(tmp_path: Path) -> None:
    trainer = _trainer(
        tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, base_learning_rate=3.0,
        load_best_model_at_end=True, metric_for_best_model="loss",
    )  # fmt: skip
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert trainer.state.best_global_step == losses.index(min(losses)) + 1
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_run_and_checkpoint_must_agree_on_the_average(tmp_path: Path) -> None:
    _trainer(tmp_path / "with", save_strategy="steps", save_steps=5).train()
    _trainer(tmp_path / "without", save_strategy="steps", save_steps=5, ema_decay=None).train()
    with pytest.raises(ValueError, match="checkpoint-5 was written with `ema_decay`: resume it with the same value"):
        _trainer(tmp_path / "again", ema_decay=None).train(str(tmp_path / "with" / "checkpoint-5"))
    with pytest.raises(ValueError, match="checkpoint-5 was written without `ema_decay`: resume it without"):
        _trainer(tmp_path / "again").train(str(tmp_path / "without" / "checkpoint-5"))


def test_checkpoint_of_other_weights_raises(tmp_path: Path) -> None:
    model = AMDForVideoClassification(tiny_config())
    WeightAverage(model, 0.5).save_weights(tmp_path)
    model.classifier.requires_grad_(False)
    with pytest.raises(ValueError, match=r"other trained weights than those of this run.*classifier\.bias"):
        WeightAverage(model, 0.5).resume(tmp_path)


def test_average_of_rounded_weights_is_refused() -> None:
    model = AMDForVideoClassification(tiny_config()).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"needs float32, but amd\.embeddings\.projection\.weight is torch.bfloat16"):
        WeightAverage(model, 0.9)


def test_two_processes_mix_and_average_as_one_that_accumulates(tmp_path: Path) -> None:
    # The device batches of a step are numbered over accumulation and processes, so both mix them alike.
    one = play(tmp_path / "one", 1)
    (tmp_path / "two").mkdir()
    run_warm_group(2, ROOT / "tests" / "helpers" / "recipe_processes.py", str(tmp_path / "two"))
    for rank in range(2):
        two = torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=False)
        assert (two["world_size"], two["best"]) == (2, one["best"])
        for name, values in one["logs"].items():
            assert two["logs"][name] == pytest.approx(values, rel=1e-5), name
        for name, value in one["average"].items():
            torch.testing.assert_close(two["average"][name], value, atol=1e-6, rtol=0, msg=name)
