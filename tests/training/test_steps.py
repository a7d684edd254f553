"""Parameter groups and the schedule, the latter against the authors' figures."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from amd_hf import AMDForPreTraining
from amd_hf.training.steps import cosine_factor, cosine_schedule, has_weight_decay, keep_key_biases, parameter_groups


# ---------------------------------------------------------------------------------------------------------------------
# Schedule
# ---------------------------------------------------------------------------------------------------------------------


def test_schedule_equals_the_authors(golden_dir: Path) -> None:
    cases = json.loads((golden_dir / "evaluation_views_and_schedules.json").read_text())["lr_schedule"]
    assert cases
    for case in cases:
        given = case["args"]
        num_steps, num_warmup = (given["niter_per_ep"] * given[name] for name in ("epochs", "warmup_epochs"))
        factor = cosine_factor(num_steps, num_warmup, given["final_value"] / given["base_value"])
        rates = [given["base_value"] * factor(step) for step in range(num_steps)]
        assert len(rates) == len(case["values"])
        assert max(abs(ours - theirs) for ours, theirs in zip(rates, case["values"], strict=True)) <= 1e-12


def test_schedule_reaches_every_group_at_its_own_rate() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.4}, {"params": [weights[1]], "lr": 0.1}])
    schedule = cosine_schedule(optimizer, num_training_steps=10, num_warmup_steps=3, final_ratio=0.2)
    rates = []
    for _ in range(11):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    shares = [0, 0.5, 1] + [0.2 + 0.4 * (1 + math.cos(math.pi * step / 7)) for step in range(7)] + [0.2]
    for (one, other), share in zip(rates, shares, strict=True):
        assert one == pytest.approx(0.4 * share, abs=1e-12)
        assert other == pytest.approx(0.1 * share, abs=1e-12)


@pytest.mark.parametrize(("num_warmup", "first"), [(0, 1.0), (1, 0.0), (2, 0.0)])
def test_first_step_of_short_warm_ups(num_warmup: int, first: float) -> None:
    assert cosine_factor(10, num_warmup, 0.0)(0) == first


def test_schedule_stays_at_its_end_beyond_the_last_step() -> None:
    factor = cosine_factor(10, 2, 0.25)
    assert factor(10) == factor(50) == pytest.approx(0.25)


def test_warm_up_longer_than_the_run_is_warned_about_and_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    logger = logging.getLogger("amd_hf.training.steps")
    logger.addHandler(caplog.handler)
    try:
        schedule = cosine_schedule(optimizer, 10, 11, 0.0)
    finally:
        logger.removeHandler(caplog.handler)
    assert "warm-up takes 11 steps, but the run has only 10" in caplog.text
    assert [factor(step) for factor in schedule.lr_lambdas for step in range(10)] == [step / 10 for step in range(10)]


# ---------------------------------------------------------------------------------------------------------------------
# Parameter groups
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("layers.0.mlp.fc1.weight", (4, 4), True),
        ("layers.0.mlp.fc1.bias", (4,), False),
        ("layers.0.attention.qkv.bias", (4,), False),
        ("relative.bias", (4, 4), False),
        ("norm.weight", (4,), False),
        ("decoder.mask_token", (1, 1, 4), False),
        ("alignment.generators.6.mask_token", (1, 1, 4), False),
        ("embeddings.class_token", (1, 1, 4), False),
        ("mask_token_projection.weight", (4, 4), True),
    ],
)
def test_biases_vectors_and_tokens_are_not_decayed(name: str, shape: tuple[int, ...], decayed: bool) -> None:
    assert has_weight_decay(name, nn.Parameter(torch.zeros(shape))) is decayed


def test_groups_hold_every_trainable_parameter_once(pretraining_model: AMDForPreTraining) -> None:
    frozen = pretraining_model.amd.embeddings.projection.weight.requires_grad_(False)
    decayed, plain = parameter_groups(pretraining_model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in pretraining_model.named_parameters()}
    in_groups = [names[id(parameter)] for group in (decayed, plain) for parameter in group["params"]]
    assert sorted(in_groups) == sorted(name for key, name in names.items() if key != id(frozen))
    # Matrices of linear layers, and nothing else.
    linear = {f"{name}.weight" for name, module in pretraining_model.named_modules() if isinstance(module, nn.Linear)}
    assert {names[id(parameter)] for parameter in decayed["params"]} == linear - {names[id(frozen)]}


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD])
def test_key_biases_stay_zero_and_all_else_is_trained(
    pretraining_model: AMDForPreTraining, optimizer_class: type[torch.optim.Optimizer]
) -> None:
    optimizer = optimizer_class(parameter_groups(pretraining_model, 0.05), lr=1e-2)
    keep_key_biases(optimizer, pretraining_model)
    before = {name: parameter.detach().clone() for name, parameter in pretraining_model.named_parameters()}
    for parameter in pretraining_model.parameters():
        parameter.grad = torch.ones_like(parameter)  # rounding would be enough for Adam
    optimizer.step()
    for name, parameter in pretraining_model.named_parameters():
        if not name.endswith("attention.qkv.bias"):
            assert not torch.equal(parameter, before[name]), name
            continue
        for part, (now, then) in enumerate(zip(parameter.chunk(3), before[name].chunk(3), strict=True)):
            assert torch.equal(now, then) == (part == 1), name
