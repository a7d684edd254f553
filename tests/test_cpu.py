"""`optimize_for_cpu`: the same results through oneDNN, and whatever does not suit it as before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from amd_hf import AMDForPreTraining, AMDForVideoClassification, cpu, optimize_for_cpu
from tests.helpers.models import nested_masks, normalized, random_clips, randomize, tiny_config


def _why_not() -> str:
    try:
        cpu._find_product()
    except (RuntimeError, AttributeError) as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=f"nothing to gain here: {_why_not()}")


def _onednn_products(function: Callable[[], Any]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(event.count for event in profile.key_averages() if event.key == "mkldnn::_linear_pointwise")


@pytest.fixture
def model() -> AMDForVideoClassification:
    return randomize(AMDForVideoClassification(tiny_config())).eval()


@pytest.fixture
def clips() -> torch.Tensor:
    config = tiny_config()
    return normalized(random_clips(config, batch_size=3), config)


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_computes_its_definition(has_bias: bool, activation: str) -> None:
    torch.manual_seed(0)
    layer, hidden_states = nn.Linear(70, 50, bias=has_bias), torch.randn(2, 90, 70)
    wanted = hidden_states.double() @ layer.weight.detach().double().T
    if has_bias:
        wanted += layer.bias.detach().double()
    if activation == "gelu":
        wanted *= 0.5 * (1 + torch.erf(wanted / 2**0.5))
    swapped = cpu._OneDNNLinear(layer, cpu._find_product(), activation)
    with torch.no_grad():
        for states, expected in (
            (hidden_states, wanted),
            (hidden_states.transpose(0, 1), wanted.transpose(0, 1)),  # not contiguous
            (hidden_states[:, :0], wanted[:, :0]),  # no tokens
        ):
            torch.testing.assert_close(swapped(states), expected.float())


def test_classifier_gives_the_same_by_onednn_alone(model: AMDForVideoClassification, clips: torch.Tensor) -> None:
    names = list(model.state_dict())
    with torch.no_grad():
        wanted = model(clips).logits
        assert _onednn_products(lambda: model(clips)) == 0
        assert optimize_for_cpu(model) is model
        assert _onednn_products(lambda: model(clips)) == 1 + 4 * model.config.num_hidden_layers
        torch.testing.assert_close(model(clips).logits, wanted)
    assert list(model.state_dict()) == names
    assert not any(module.training for module in model.modules())


def test_gradients_are_those_of_the_plain_model(model: AMDForVideoClassification, clips: torch.Tensor) -> None:
    model(clips).logits.sum().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    optimize_for_cpu(model)(clips).logits.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name])


def test_pretraining_model_gives_the_same(clips: torch.Tensor) -> None:
    model = randomize(AMDForPreTraining(tiny_config())).eval()
    total = model.config.num_patches
    masks = nested_masks(total, int(0.75 * total), int(0.5 * total), batch_size=3)
    with torch.no_grad():
        wanted = model(clips, *masks)
        found = optimize_for_cpu(model)(clips, *masks)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.generated_features, wanted.generated_features)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_model_of_another_dtype_stays_as_it_is(model: AMDForVideoClassification, dtype: torch.dtype) -> None:
    optimize_for_cpu(model.to(dtype))
    assert not any(isinstance(module, cpu._OneDNNLinear) for module in model.modules())


def test_model_cast_afterwards_still_computes(model: AMDForVideoClassification, clips: torch.Tensor) -> None:
    wanted = model.double()(clips.double()).logits.detach()
    optimize_for_cpu(model.float()).double()
    with torch.no_grad():
        torch.testing.assert_close(model(clips.double()).logits, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2"])
def test_layer_with_a_hook_is_left_and_seen(model: AMDForVideoClassification, clips: torch.Tensor, place: str) -> None:
    layer, seen = model.amd.layers[1].get_submodule(place), []
    layer.register_forward_hook(lambda module, *_: seen.append(module))
    with torch.no_grad():
        optimize_for_cpu(model)(clips)
    assert seen == [layer]


def test_adapters_are_left_and_heard(model: AMDForVideoClassification, clips: torch.Tensor) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv", "proj", "fc1"], r=2)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        wanted = adapted(clips).logits
        torch.testing.assert_close(optimize_for_cpu(adapted)(clips).logits, wanted)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch.ops, "mkldnn"),
        (torch.ops.mkldnn, "_linear_pointwise"),
        (torch.backends.cpu, "get_cpu_capability"),
        (torch.backends, "mkldnn"),
        (cpu, "_has_hooks"),  # which asks modules for their hooks by names that are PyTorch's own
    ],
)
def test_without_a_private_name_every_forward_works(
    owner: Any, name: str, model: AMDForVideoClassification, clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wanted = model(clips).logits.detach()
    optimised = optimize_for_cpu(copy.deepcopy(model))

    class Gone:
        def __getattr__(self, attribute: str) -> Any:
            raise AttributeError(f"module 'torch' has no attribute {attribute!r}")

        def __call__(self, *args: Any) -> Any:
            raise AttributeError(f"module 'torch' has no attribute {name!r}")

    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(owner, name, Gone())
        torch.testing.assert_close(model(clips).logits, wanted)
        torch.testing.assert_close(optimised(clips).logits, wanted)  # it went away after the layers were swapped
        assert optimize_for_cpu(model) is model
        torch.testing.assert_close(model(clips).logits, wanted)
    assert not any(isinstance(module, cpu._OneDNNLinear | cpu._OneDNNMLP) for module in model.modules())
    assert "this PyTorch is not the one that it was written for: module 'torch' has no attribute" in caplog.text


def test_operator_that_refuses_its_tensors_later_is_passed_over(
    model: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    wanted = model(clips).logits.detach()

    def refuse(*_: Any) -> torch.Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    for module in optimize_for_cpu(model).modules():
        if isinstance(module, cpu._OneDNNLinear):
            module._product = refuse
    with torch.no_grad():
        torch.testing.assert_close(model(clips).logits, wanted)


@pytest.mark.parametrize(("precision", "is_swapped"), [("no", True), ("bf16", False)])
def test_programs_optimise_what_runs_in_float32_on_the_cpu(
    model: AMDForVideoClassification, precision: str, is_swapped: bool
) -> None:
    # An `Accelerator` of another precision than an earlier one of the process is refused.
    accelerator = SimpleNamespace(device=torch.device("cpu"), mixed_precision=precision)
    prepared = cpu.prepare_for_inference(model.train(), accelerator)
    assert not prepared.training
    assert any(isinstance(module, cpu._OneDNNLinear) for module in prepared.modules()) is is_swapped
