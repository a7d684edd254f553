"""Quantisers of others on our classifier, beside Transformers' VideoMAE of the same weights, biases of std 1.

`make test-quantisation` installs all that these tests need and skips none.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from torch import nn

from amd_hf import AMDForVideoClassification, optimize_for_cpu
from amd_hf.models import build_processor, load_trained_classifier
from tests.helpers.packages import optional_package
from tests.helpers.training import ROOT
from tests.helpers.videomae import twin_classifiers


pytestmark = pytest.mark.filterwarnings("ignore")
_SIZES = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
_CLIPS = torch.randn(8, 4, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def _quanto(weights: str) -> Callable[[nn.Module], nn.Module]:
    def apply(model: nn.Module) -> nn.Module:
        quanto = optional_package("optimum.quanto")
        quanto.quantize(model, weights=getattr(quanto, weights))
        quanto.freeze(model)
        return model

    return apply


def _torchao(config: str) -> Callable[[nn.Module], nn.Module]:
    def apply(model: nn.Module) -> nn.Module:
        quantization = optional_package("torchao.quantization")
        quantization.quantize_(model, getattr(quantization, config)())
        return model

    return apply


def _torch_dynamic(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def _float8_training(model: nn.Module) -> nn.Module:
    float8 = optional_package("torchao.float8")
    # `emulate`: CPUs and older GPUs have no products of float8; the numbers are the same.
    return float8.convert_to_float8_training(model, config=float8.Float8LinearConfig(emulate=True))


def _accelerate_fp8(model: nn.Module) -> nn.Module:
    float8 = optional_package("torchao.float8")
    from accelerate.utils import AORecipeKwargs

    recipe = AORecipeKwargs(config=float8.Float8LinearConfig(emulate=True))
    return Accelerator(cpu=True, mixed_precision="fp8", kwargs_handlers=[recipe]).prepare(model)


# What quantises, and how far the logits may be off, in units of their std.
_QUANTISERS: dict[str, tuple[Callable[[nn.Module], nn.Module], float]] = {
    "quanto int8": (_quanto("qint8"), 0.03),
    "quanto float8": (_quanto("qfloat8"), 0.1),
    "quanto int4": (_quanto("qint4"), 0.4),
    "torchao int8 weights": (_torchao("Int8WeightOnlyConfig"), 0.03),
    "torchao int8 dynamic": (_torchao("Int8DynamicActivationInt8WeightConfig"), 0.05),
    "torch.ao dynamic": (_torch_dynamic, 0.05),
    "torchao float8 training": (_float8_training, 0.2),
    "accelerate fp8": (_accelerate_fp8, 0.2),
}


def _error(model: nn.Module, expected: torch.Tensor) -> float:
    """The largest difference of the logits, in units of their std."""
    with torch.no_grad():
        found = model(pixel_values=_CLIPS).logits.float()
    return float((found - expected).abs().max() / expected.std())


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, AMDForVideoClassification, torch.Tensor]:
    """VideoMAE, our classifier of the same weights, and their logits."""
    theirs, ours = twin_classifiers(tmp_path_factory.mktemp("twins"), **_SIZES)
    with torch.no_grad():
        logits = theirs(_CLIPS).logits
        torch.testing.assert_close(ours(_CLIPS).logits, logits, rtol=1e-4, atol=1e-4)
    return theirs, ours, logits


@pytest.mark.parametrize("name", _QUANTISERS)
def test_quantised_classifier_is_as_near_to_itself_as_videomae(name: str, twins: Any) -> None:
    quantise, limit = _QUANTISERS[name]
    theirs, ours, logits = twins
    quantised = quantise(copy.deepcopy(ours))
    error = _error(quantised, logits)
    of_videomae = _error(quantise(copy.deepcopy(theirs)), logits)
    assert 0 < error < limit
    assert error < 1.5 * of_videomae + 0.01
    assert (
        _error(optimize_for_cpu(quantised), logits) < limit
    )  # as `amd-hf predict` does: it leaves their layers alone


# ---------------------------------------------------------------------------------------------------------------------
# Through `from_pretrained`
# ---------------------------------------------------------------------------------------------------------------------


def _config_of(name: str, *spared: str) -> Any:
    """The config of a quantiser, which leaves layers of these names as they are."""
    if name == "quanto":
        optional_package("optimum.quanto")
        return transformers.QuantoConfig(weights="int8", modules_to_not_convert=list(spared))
    if name == "bitsandbytes":
        optional_package("bitsandbytes")
        return transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(spared))
    quantization = optional_package("torchao.quantization")
    kind = {"torchao weights": "Int8WeightOnlyConfig", "torchao dynamic": "Int8DynamicActivationInt8WeightConfig"}[
        name
    ]
    return transformers.TorchAoConfig(getattr(quantization, kind)(), modules_to_not_convert=list(spared))


def _load(folder: Path, name: str | None = None, *spared: str, **options: Any) -> AMDForVideoClassification:
    config = {} if name is None else {"quantization_config": _config_of(name, *spared)}
    return AMDForVideoClassification.from_pretrained(folder, device_map="cpu", **config, **options).eval()


@pytest.mark.parametrize("name", ["quanto", "torchao weights", "torchao dynamic", "bitsandbytes"])
def test_folder_is_quantised_as_it_is_loaded(name: str, twins: Any, tmp_path: Path) -> None:
    _, ours, logits = twins
    ours.save_pretrained(tmp_path)
    model = _load(tmp_path, name)
    assert (
        type(model.amd.layers[0].attention.qkv) is not nn.Linear
        or "Int8" in type(model.amd.layers[0].attention.qkv.weight).__name__
    )
    assert 0 < _error(model, logits) < 0.05


@pytest.mark.parametrize("name", ["torchao weights", "torchao dynamic", "bitsandbytes"])
def test_quantised_model_is_saved_and_loaded_again(name: str, twins: Any, tmp_path: Path) -> None:
    twins[1].save_pretrained(tmp_path / "plain")
    model = _load(tmp_path / "plain", name)
    model.save_pretrained(tmp_path / "quantised")
    sizes = [(tmp_path / folder / "model.safetensors").stat().st_size for folder in ("plain", "quantised")]
    assert sizes[1] < 0.4 * sizes[0]
    again = _load(tmp_path / "quantised")
    with torch.no_grad():
        assert torch.equal(again(_CLIPS).logits, model(_CLIPS).logits)
    build_processor(model.config).save_pretrained(tmp_path / "quantised")
    by_commands = load_trained_classifier(str(tmp_path / "quantised")).eval()  # as evaluate and predict do
    with torch.no_grad():
        assert torch.equal(by_commands(_CLIPS).logits, model(_CLIPS).logits)


@pytest.mark.parametrize("name", ["quanto", "torchao weights", "bitsandbytes"])
def test_raw_clips_reach_a_quantised_model_of_half_precision(name: str, twins: Any, tmp_path: Path) -> None:
    twins[1].save_pretrained(tmp_path)
    model = _load(tmp_path, name, dtype=torch.bfloat16)
    clips = torch.randint(256, (8, 4, 3, 16, 24), dtype=torch.uint8)
    with torch.no_grad():
        expected, logits = twins[1](clips).logits, model(clips).logits
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.1 * expected.std()


def test_quantised_weights_that_are_not_finite_are_refused(twins: Any, tmp_path: Path) -> None:
    bad = copy.deepcopy(twins[1])
    bad.save_pretrained(tmp_path / "plain")
    model = _load(tmp_path / "plain", "torchao weights")
    model.amd.layers[1].mlp.fc1.weight.data.scale[0] = float("nan")
    model.save_pretrained(tmp_path / "quantised")
    with pytest.raises(ValueError, match=r"NaN or infinite values in amd\.layers\.1\.mlp\.fc1\.weight"):
        _load(tmp_path / "quantised")


_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quantisation.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("package", ["torchao", "bitsandbytes"])
def test_code_of_the_guide_runs_as_it_stands(
    package: str, twins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optional_package(package)
    twins[1].save_pretrained(tmp_path / "my_model")
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in _BLOCKS if {"torchao": "TorchAo", "bitsandbytes": "BitsAndBytes"}[package] in block]
    names: dict[str, Any] = {}
    exec(code, names)
    assert _error(names["model"].eval(), twins[2]) < 0.05


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def test_gradient_through_float8_products_is_that_of_plain_ones(twins: Any) -> None:
    plain, float8 = copy.deepcopy(twins[1]), _float8_training(copy.deepcopy(twins[1]))
    for model in (plain, float8):
        model(_CLIPS, labels=torch.arange(8) % 5).loss.backward()
    for (name, expected), found in zip(plain.named_parameters(), float8.parameters(), strict=True):
        gradient = expected.grad.clone()
        if name.endswith("qkv.bias"):  # those of the keys are rounding alone
            gradient.chunk(3)[1].zero_()
            found.grad.chunk(3)[1].zero_()
        similarity = torch.cosine_similarity(found.grad.flatten(), gradient.flatten(), dim=0)
        assert similarity > 0.98, name


@pytest.mark.parametrize("name", ["torchao weights", "bitsandbytes"])
def test_lora_learns_on_quantised_weights(name: str, twins: Any, tmp_path: Path) -> None:
    peft = optional_package("peft")
    twins[1].save_pretrained(tmp_path)
    model = _load(tmp_path, name, "classifier")  # which is trained whole
    model = peft.prepare_model_for_kbit_training(model)
    config = peft.LoraConfig(target_modules=["qkv", "proj", "fc1", "fc2"], r=4, modules_to_save=["classifier"])
    model = peft.get_peft_model(model, config)
    fresh = _error(model.eval(), twins[2])
    assert fresh < 0.05
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=5e-3)
    labels, losses = torch.arange(8) % 5, []
    for _ in range(16):
        losses.append(model.train()(pixel_values=_CLIPS, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
