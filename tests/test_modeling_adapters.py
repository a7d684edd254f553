"""What other libraries do with the models: LoRA through PEFT, device maps, and inductor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from amd_hf import (
    AMDFineTuningArguments,
    AMDFineTuningTrainer,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
)
from tests.helpers.videomae import twin_classifiers


peft = pytest.importorskip("peft", reason="PEFT is a development dependency")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> AMDForVideoClassification:
    """A classifier whose biases have std 1."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
    return twin_classifiers(tmp_path_factory.mktemp("twins"), **sizes)[1]


def _with_lora(model: AMDForVideoClassification, *targets: str) -> torch.nn.Module:
    config = peft.LoraConfig(target_modules=list(targets), r=4, modules_to_save=["classifier", "fc_norm"])
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("target", ["qkv", "proj", "fc1", "fc2"])
def test_lora_on_each_linear_layer_changes_the_logits(
    target: str, classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    before = classifier(clips).logits
    model = _with_lora(classifier, target).eval()
    torch.testing.assert_close(model(pixel_values=clips).logits, before)  # LoRA starts at zero
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)  # a constant would vanish in the next LayerNorm
    assert (model(pixel_values=clips).logits - before).abs().max() > 1e-3


_TARGETS = ["qkv", "proj", "fc1", "fc2"]
# PEFT's methods, whose fresh adapters leave a model as it is. On VideoMAE they are as exact, but for a bias of LoRA's,
# which raises there for the keys, whose layers have no bias.
_METHODS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4),
    "LoRA on every layer": lambda: peft.LoraConfig(target_modules="all-linear", r=4),
    "LoRA with a bias": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4, lora_bias=True),
    "LoRA and all biases": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4, bias="all"),
    "rsLoRA": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4, use_rslora=True),
    "DoRA": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4, use_dora=True),
    "PiSSA": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4, init_lora_weights="pissa"),
    "OLoRA": lambda: peft.LoraConfig(target_modules=_TARGETS, r=4, init_lora_weights="olora"),
    "IA3": lambda: peft.IA3Config(target_modules=_TARGETS, feedforward_modules=["fc2"]),
    "OFT": lambda: peft.OFTConfig(target_modules=_TARGETS, oft_block_size=16),
    "BOFT": lambda: peft.BOFTConfig(target_modules=_TARGETS, boft_block_size=8),
    "VeRA": lambda: peft.VeraConfig(target_modules=_TARGETS, r=4),
    "HRA": lambda: peft.HRAConfig(target_modules=_TARGETS, r=4),
    "SHiRA": lambda: peft.ShiraConfig(target_modules=_TARGETS, r=4),
    "LoHa": lambda: peft.LoHaConfig(target_modules=_TARGETS, r=4),
    "LoKr": lambda: peft.LoKrConfig(target_modules=_TARGETS, r=4),
    "Road": lambda: peft.RoadConfig(target_modules=_TARGETS, group_size=16),
    "norms": lambda: peft.LNTuningConfig(target_modules=["norm1", "norm2"]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT: CUDA extensions, vocabularies, biases in one dimension
@pytest.mark.parametrize("method", _METHODS)
@torch.no_grad()
def test_adapter_changes_nothing_at_first_and_merged_equals_unmerged(
    method: str, twin: AMDForVideoClassification, tmp_path: Path
) -> None:
    clips = torch.randn(4, 4, 3, 16, 24)
    before = twin(clips).logits
    model = peft.get_peft_model(copy.deepcopy(twin), _METHODS[method]()).eval()
    torch.testing.assert_close(model(pixel_values=clips).logits, before, rtol=0, atol=1e-5 * before.std())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn(parameter.shape)
    logits = model(pixel_values=clips).logits
    assert (logits - before).abs().max() > 0.003 * before.std()
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(twin), tmp_path / "adapter").eval()
    assert torch.equal(loaded(pixel_values=clips).logits, logits)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(clips).logits, logits, rtol=0, atol=1e-5 * before.std())
    merged.save_pretrained(tmp_path / "merged")
    plain = AMDForVideoClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(plain(clips).logits, logits, rtol=0, atol=1e-5 * before.std())


def test_lora_fine_tune_moves_only_adapters_and_head_and_its_adapter_loads(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path / "base")
    model = _with_lora(classifier, "qkv", "proj").train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # after the first step LoRA's A has no gradient yet, as B is zero
        optimizer.zero_grad()
        model(pixel_values=clips, labels=torch.tensor([1, 4])).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        is_trained = "lora_" in name or "modules_to_save" in name
        assert is_trained == (not torch.equal(parameter, before[name])), name
    model.save_pretrained(tmp_path / "adapter")
    base = AMDForVideoClassification.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(pixel_values=clips).logits, model.eval()(pixel_values=clips).logits)


def test_lora_model_trains_in_the_fine_tuning_trainer(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    rows = [{"pixel_values": clips[index % 2], "labels": index % 2} for index in range(4)]
    options = {"per_device_train_batch_size": 2, "max_steps": 3, "warmup_steps": 1, "layer_decay": 0.5}
    args = AMDFineTuningArguments(str(tmp_path), use_cpu=True, save_strategy="no", base_learning_rate=1.0, **options)
    model = _with_lora(classifier, "qkv")
    trainer = AMDFineTuningTrainer(model, args, data_collator=default_collate, train_dataset=rows)
    trainer.train()
    rates = {group["initial_lr"] / args.learning_rate for group in trainer.optimizer.param_groups}
    assert rates == {1.0, 0.5, 0.25, 0.125}  # head, then blocks 3, 2 and 1; the embedding has no adapter
    assert any(parameter.abs().max() > 0 for name, parameter in model.named_parameters() if "lora_B" in name)


def test_device_map_loads_the_same_model(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    loaded = AMDForVideoClassification.from_pretrained(tmp_path, device_map="cpu").eval()
    torch.testing.assert_close(loaded(clips).logits, classifier(clips).logits, atol=0, rtol=0)


@pytest.mark.slow
def test_inductor_agrees_with_eager(
    pretraining_model: AMDForPreTraining,
    classifier: AMDForVideoClassification,
    teacher_model: AMDModel,
    clips: torch.Tensor,
    masks: tuple[torch.Tensor, torch.Tensor],
) -> None:
    compiled = torch.compile(pretraining_model, fullgraph=True)
    counts = {"num_masked": 8, "num_teacher_masked": 4}
    expected, actual = pretraining_model(clips, *masks, **counts), compiled(clips, *masks, **counts)
    torch.testing.assert_close(actual.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(actual.loss, expected.loss, atol=1e-4, rtol=0)
    for features, reference in zip(actual.generated_features, expected.generated_features, strict=True):
        torch.testing.assert_close(features, reference, atol=1e-4, rtol=0)
    logits = torch.compile(classifier, fullgraph=True)(clips).logits
    torch.testing.assert_close(logits, classifier(clips).logits, atol=1e-4, rtol=0)
    hidden = torch.compile(teacher_model, fullgraph=True)(clips).last_hidden_state
    torch.testing.assert_close(hidden, teacher_model(clips).last_hidden_state, atol=1e-4, rtol=0)
