"""Frozen layers, linear probes, LoRA, and early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.models import load_trained_classifier
from tests.helpers.finetuning import MIXED, PLAIN
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows, logged, weights_of


def _trainer(output_dir: Path, num_rows: int = 8, **options: Any) -> AMDFineTuningTrainer:
    torch.manual_seed(0)
    model = randomize(AMDForVideoClassification(tiny_config(drop_path_rate=0.5)))
    options = {"per_device_train_batch_size": 4, "max_steps": 4, "base_learning_rate": 1.0, **PLAIN, **options}
    args = finetuning_args(output_dir, **options)
    rows = labelled_rows(model.config, num_rows)
    return AMDFineTuningTrainer(model, args, data_collator=StackRows(), train_dataset=rows, eval_dataset=rows)


# ---------------------------------------------------------------------------------------------------------------------
# Frozen parts
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "moving"),
    [
        ("encoder", ("fc_norm.", "classifier.")),
        ("2", ("amd.layers.2.", "fc_norm.", "classifier.")),
        ("0", ("amd.layers.", "fc_norm.", "classifier.")),
    ],
)
def test_frozen_layers_stay_and_the_others_move(tmp_path: Path, freeze: str, moving: tuple[str, ...]) -> None:
    trainer = _trainer(tmp_path, freeze=freeze)
    before = weights_of(trainer.model)
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) is not name.startswith(moving), name


def test_frozen_layers_drop_no_path_while_the_others_do(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, freeze="2")
    seen: dict[int, set[bool]] = {}
    for number, block in enumerate(trainer.model.amd.layers):
        seen[number] = set()
        block.register_forward_hook(lambda module, *_, n=number: seen[n].add(module.drop_path.training))
    trainer.train()
    assert seen == {0: {False}, 1: {False}, 2: {True}}
    # The whole encoder frozen: the same clips give the same features in training as in evaluation.
    probe = _trainer(tmp_path, freeze="encoder", save_strategy="no")
    probe.train()
    assert not probe.model.amd.training
    assert probe.model.fc_norm.training


def test_linear_probe_learns(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, freeze="encoder", max_steps=100, base_learning_rate=3.0, weight_decay=0.0)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.1 < 1.0 < before


def test_more_frozen_layers_than_the_model_has_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`freeze` 4 is more than the 3 layers of the model"):
        _trainer(tmp_path, freeze="4")


# ---------------------------------------------------------------------------------------------------------------------
# LoRA
# ---------------------------------------------------------------------------------------------------------------------


def test_lora_trains_adapters_and_head_and_saves_a_classifier_that_loads_like_any_other(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is a development dependency")
    trainer = _trainer(tmp_path / "out", lora_rank=2, lora_targets=["qkv", "fc1"], **MIXED)
    base = weights_of(AMDForVideoClassification(tiny_config()).eval())  # for its names alone
    before = weights_of(trainer.model)
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in moved if "lora_" in name} == {"qkv", "fc1"}
    trainer.save_model()

    clips = StackRows()(trainer.train_dataset)["pixel_values"]
    expected = trainer.model.eval()(pixel_values=clips).logits
    merged = load_trained_classifier(str(tmp_path / "out"))
    assert type(merged) is AMDForVideoClassification
    assert merged.state_dict().keys() == base.keys()
    torch.testing.assert_close(merged.eval()(clips).logits, expected, atol=1e-5, rtol=0)
    original = _trainer(tmp_path / "other").model  # made from the same seed
    loaded = peft.PeftModel.from_pretrained(original, tmp_path / "out" / "adapter").eval()
    torch.testing.assert_close(loaded(pixel_values=clips).logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_lora_run_resumes_bit_for_bit_from_a_checkpoint_of_adapters(tmp_path: Path, ema_decay: float | None) -> None:
    pytest.importorskip("peft", reason="PEFT is a development dependency")
    options = {"lora_rank": 2, "ema_decay": ema_decay, "lora_dropout": 0.2, **MIXED}
    whole = _trainer(tmp_path / "out", save_strategy="steps", save_steps=2, **options)
    whole.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert not (checkpoint / "model.safetensors").exists()
    resumed = _trainer(tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert logged(resumed, "loss") == logged(whole, "loss")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert resumed.evaluate()["eval_loss"] == whole.evaluate()["eval_loss"]


# ---------------------------------------------------------------------------------------------------------------------
# Early stopping and the best model
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [{}, {"lora_rank": 2}, {"freeze": "1"}], ids=["all", "lora", "frozen"])
@pytest.mark.parametrize(("metric", "best"), [("accuracy", max), ("loss", min)])
def test_training_stops_early_and_returns_to_the_best_model(
    tmp_path: Path, metric: str, best: Any, part: dict[str, Any]
) -> None:
    trainer = _trainer(
        tmp_path, num_rows=5, max_steps=60, base_learning_rate=12.0, per_device_train_batch_size=5,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, save_total_limit=2,
        load_best_model_at_end=True, metric_for_best_model=metric, early_stopping_patience=3, **part,
    )  # fmt: skip
    trainer.train()
    values = logged(trainer, f"eval_{metric}")
    assert len(values) < 60
    assert values[-4] == best(values)  # and three evaluations without a better one
    assert trainer.evaluate()[f"eval_{metric}"] == pytest.approx(best(values), rel=1e-6)


@pytest.mark.parametrize("options", [{"load_best_model_at_end": False}, {"eval_strategy": "no"}])
def test_early_stopping_without_evaluations_or_a_best_model_is_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    given = {"eval_strategy": "epoch", "save_strategy": "epoch", "early_stopping_patience": 2, **options}
    with pytest.raises(ValueError, match="`early_stopping_patience` needs evaluations and a best model to return to"):
        finetuning_args(tmp_path, **given)
