"""The whole fine-tuning recipe: one step against a plain loop, the rates of ViT-S and ViT-B, and resuming."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amd_hf import AMDConfig, AMDFineTuningTrainer, AMDForVideoClassification, load_video_dataset
from amd_hf.training.steps import parameter_groups
from tests.helpers.finetuning import MIXED, RandomStates, plain_draw, plain_mix
from tests.helpers.models import normalized, randomize, tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows, logged, weights_of


# ---------------------------------------------------------------------------------------------------------------------
# One step against a plain loop
# ---------------------------------------------------------------------------------------------------------------------


def _forward(model: AMDForVideoClassification, clips: torch.Tensor) -> torch.Tensor:
    """The classifier in training, branch by branch, with drop path that grows linearly over the blocks."""
    config, encoder = model.config, model.amd
    hidden = encoder.embeddings(encoder.embeddings.patchify(clips))
    for number, block in enumerate(encoder.layers):
        keep = 1 - config.drop_path_rate * number / (config.num_hidden_layers - 1)
        for branch in (lambda x, b=block: b.attention(b.norm1(x))[0], lambda x, b=block: b.mlp(b.norm2(x))):
            kept = torch.empty(len(clips), 1, 1).bernoulli_(keep) / keep if keep < 1 else 1.0
            hidden = hidden + branch(hidden) * kept
    pooled = model.fc_norm(hidden.mean(dim=1))
    kept = torch.empty_like(pooled).bernoulli_(1 - config.head_dropout) / (1 - config.head_dropout)
    return model.classifier(pooled * kept)


def _adamw_step(
    p: nn.Parameter, state: dict[str, Any], rate: float, decay: float, step: int, eps: float = 1e-6
) -> None:
    first = state.setdefault("first", torch.zeros_like(p))
    second = state.setdefault("second", torch.zeros_like(p))
    first.mul_(0.9).add_(0.1 * p.grad)
    second.mul_(0.999).add_(0.001 * p.grad**2)
    p.mul_(1 - rate * decay)
    corrected = (second / (1 - 0.999**step)).sqrt() + eps
    p.sub_(rate * (first / (1 - 0.9**step)) / corrected)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_steps_of_the_whole_recipe_equal_a_plain_loop(tmp_path: Path, accumulation: int) -> None:
    config = tiny_config(drop_path_rate=0.4, head_dropout=0.3)
    model = randomize(AMDForVideoClassification(config))
    reference = AMDForVideoClassification(config)
    reference.load_state_dict(model.state_dict())
    rows, collator, states = labelled_rows(config, 8), StackRows(), RandomStates()
    args = finetuning_args(
        tmp_path, per_device_train_batch_size=4 // accumulation, gradient_accumulation_steps=accumulation, max_steps=4,
        base_learning_rate=0.1, min_base_learning_rate=0.01, weight_decay=0.2, layer_decay=0.6, seed=11,
        adam_epsilon=1e-6, **MIXED,  # 1e-8 would blow the rounding of gradients near 0 up to 1e-6 of a weight
    )  # fmt: skip
    trainer = AMDFineTuningTrainer(model, args, data_collator=collator, train_dataset=rows, callbacks=[states])
    trainer.train()

    kinds, losses, moments = set(), [], {name: {} for name, _ in reference.named_parameters()}
    for step in range(4):
        torch.set_rng_state(states.states[step])
        reference.zero_grad()
        total = 0.0
        for number in range(accumulation):
            batch = collator([rows[row] for row in collator.batches[step * accumulation + number]])
            draw = plain_draw(11, step, number, 16, 24)
            kinds.add(draw.box is None)
            clips = normalized(batch["pixel_values"], config)
            clips, targets = plain_mix(clips, batch["labels"].tolist(), config.num_labels, 0.1, draw)
            log_probabilities = _forward(reference, clips).log_softmax(dim=1)
            loss = -(targets * log_probabilities).sum() / len(clips) / accumulation
            loss.backward()
            total += loss.item()
        losses.append(total)
        rate = 4 / 256 * (0.01 + 0.5 * (0.1 - 0.01) * (1 + math.cos(math.pi * step / 4)))
        with torch.no_grad():
            for name, p in reference.named_parameters():
                layer = 0 if "embeddings" in name else int(name.split(".")[2]) + 1 if ".layers." in name else 4
                decay = 0.2 if p.ndim > 1 else 0.0
                _adamw_step(p, moments[name], rate * 0.6 ** (4 - layer), decay, step + 1)
    assert kinds == {True, False}  # both mixup and cutmix came up
    assert logged(trainer, "loss") == pytest.approx(losses, abs=1e-6)
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(
            model.state_dict()[name], expected, atol=1e-6, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_evaluation_takes_clips_and_labels_as_they_are(classifier: AMDForVideoClassification, tmp_path: Path) -> None:
    rows = labelled_rows(classifier.config, 6)
    args = finetuning_args(tmp_path, per_device_eval_batch_size=3, **MIXED)
    trainer = AMDFineTuningTrainer(classifier, args, data_collator=StackRows())
    batch = StackRows()(rows)
    expected = nn.CrossEntropyLoss()(classifier.eval()(batch["pixel_values"]).logits, batch["labels"]).item()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Rates and weight decay
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "heads", "rate", "decay"), [(384, 6, 1e-3, 0.75), (768, 12, 5e-4, 0.7)])
def test_every_parameter_of_vit_s_and_vit_b_has_the_rate_and_decay_of_the_rule(
    width: int, heads: int, rate: float, decay: float
) -> None:
    with torch.device("meta"):
        config = AMDConfig(hidden_size=width, num_attention_heads=heads, num_labels=174)
        model = AMDForVideoClassification(config)
    block = {
        "norm1.weight": 0.0, "norm1.bias": 0.0, "attention.qkv.weight": 0.05, "attention.qkv.bias": 0.0,
        "attention.proj.weight": 0.05, "attention.proj.bias": 0.0, "norm2.weight": 0.0,
        "norm2.bias": 0.0, "mlp.fc1.weight": 0.05, "mlp.fc1.bias": 0.0, "mlp.fc2.weight": 0.05, "mlp.fc2.bias": 0.0,
    }  # fmt: skip
    table = {
        "amd.embeddings.projection.weight": (rate * decay**13, 0.05),
        "amd.embeddings.projection.bias": (rate * decay**13, 0.0),
        "fc_norm.weight": (rate, 0.0),
        "fc_norm.bias": (rate, 0.0),
        "classifier.weight": (rate, 0.05),
        "classifier.bias": (rate, 0.0),
    }
    for layer in range(12):  # block 1 stands 12 steps below the head, block 12 one
        table |= {f"amd.layers.{layer}.{name}": (rate * decay ** (12 - layer), wd) for name, wd in block.items()}
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 0.05, rate, decay)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(table)
    assert found.keys() == table.keys()
    for name, expected in table.items():
        assert found[name] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize(("layers", "rates"), [(12, [i / 11 * 0.1 for i in range(12)]), (3, [0.0, 0.05, 0.1])])
def test_drop_path_grows_linearly_over_the_blocks(layers: int, rates: list[float]) -> None:
    model = AMDForVideoClassification(tiny_config(num_hidden_layers=layers, drop_path_rate=0.1))
    assert [block.drop_path.rate for block in model.amd.layers] == pytest.approx(rates)


# ---------------------------------------------------------------------------------------------------------------------
# Resuming
# ---------------------------------------------------------------------------------------------------------------------


def _recipe_trainer(config: AMDConfig, rows: Any, output_dir: Path, **changes: Any) -> AMDFineTuningTrainer:
    torch.manual_seed(0)
    args = finetuning_args(
        output_dir, per_device_train_batch_size=3, gradient_accumulation_steps=2, num_repetitions=2, sampling_rate=2,
        max_steps=6, base_learning_rate=0.1, save_strategy="steps", save_steps=1, ema_decay=0.7,
        rand_augment="rand-m7-n4-mstd0.5-inc1", erase_probability=0.5, **MIXED,
        **changes,
    )  # fmt: skip
    return AMDFineTuningTrainer(AMDForVideoClassification(config), args, train_dataset=rows)


@pytest.mark.parametrize(
    ("step", "changes"),
    [(2, {}), (3, {}), (3, {"augment_on_device": True})],
    ids=["at the end of an epoch", "within an epoch", "augmented on the device"],
)
def test_resumed_run_of_the_whole_recipe_equals_one_never_stopped_bit_for_bit(
    motion_videos: Path, tmp_path: Path, step: int, changes: dict[str, Any]
) -> None:
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None, drop_path_rate=0.3, head_dropout=0.2)
    rows = load_video_dataset(motion_videos, split="train")
    whole = _recipe_trainer(config, rows, tmp_path / "out", **changes)
    whole.train()
    resumed = _recipe_trainer(config, rows, tmp_path / "again", **changes)
    torch.manual_seed(123)  # what happened before must not matter
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
    assert logged(resumed, "loss") == logged(whole, "loss")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    with whole.weight_average.in_place(), resumed.weight_average.in_place():
        averages = weights_of(whole.model), weights_of(resumed.model)
    for name, value in averages[0].items():
        assert torch.equal(averages[1][name], value), name
