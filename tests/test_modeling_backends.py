"""The same numbers from each attention, with gradient checkpointing, and from `torch.compile` in one graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from amd_hf import AMDForPreTraining, AMDForVideoClassification
from tests.helpers.models import nested_masks, random_clips, randomize, tiny_config


Masks = tuple[torch.Tensor, torch.Tensor]


def _gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def _distillation_loss(model: AMDForPreTraining, clips: torch.Tensor, masks: Masks) -> torch.Tensor:
    outputs = model(clips, *masks)
    features = outputs.direct_features + outputs.generated_features
    return outputs.loss + sum(feature.square().mean() for feature in features)


# ---------------------------------------------------------------------------------------------------------------------
# Attention
# ---------------------------------------------------------------------------------------------------------------------


# flex is compiled for each shape: a minute
@pytest.mark.parametrize("implementation", ["eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_attention_implementations_agree_with_sdpa(
    implementation: str, pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    assert pretraining_model.config._attn_implementation == "sdpa"
    model = pretraining_model
    if implementation == "flex_attention":  # needs heads of at least 16 numbers; forward without gradient on the CPU
        sizes = {"num_attention_heads": 2, "decoder_hidden_size": 32, "num_frames": 16}
        model = randomize(AMDForPreTraining(tiny_config(**sizes))).eval()
        # 16 and 32 of 48 tokens: for fewer than 16 PyTorch 2.14 reads memory that it never wrote, on some CPUs
        clips, masks = random_clips(model.config), nested_masks(48, 32, 16)
    other = copy.deepcopy(model)
    other.set_attn_implementation(implementation)
    with torch.no_grad():
        ours, theirs = model(clips, *masks), other(clips, *masks)
    for one, two in zip(
        (ours.logits, *ours.direct_features, *ours.generated_features),
        (theirs.logits, *theirs.direct_features, *theirs.generated_features),
        strict=True,
    ):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_set_attn_implementation_reaches_encoder_decoder_and_generators(pretraining_model: AMDForPreTraining) -> None:
    pretraining_model.set_attn_implementation("eager")
    attentions = [module for module in pretraining_model.modules() if type(module).__name__ == "AMDAttention"]
    assert len(attentions) == 3 + 2 + 2
    assert {module.config._attn_implementation for module in attentions} == {"eager"}


def test_eager_and_sdpa_give_the_same_gradients(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    ours = _gradients(pretraining_model, _distillation_loss(pretraining_model, clips, masks))
    pretraining_model.set_attn_implementation("eager")
    theirs = _gradients(pretraining_model, _distillation_loss(pretraining_model, clips, masks))
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, theirs[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Gradient checkpointing
# ---------------------------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_gives_the_same_gradients(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    pretraining_model.train()
    ours = _gradients(pretraining_model, _distillation_loss(pretraining_model, clips, masks))
    pretraining_model.gradient_checkpointing_enable()
    layers = [module for module in pretraining_model.modules() if type(module).__name__ == "AMDLayer"]
    assert len(layers) == 7
    assert all(layer.gradient_checkpointing for layer in layers)
    calls = []
    layers[0].mlp.fc1.register_forward_hook(lambda *_: calls.append(1))
    theirs = _gradients(pretraining_model, _distillation_loss(pretraining_model, clips, masks))
    assert len(calls) == 2  # computed again in the backward pass
    for name, gradient in ours.items():
        assert torch.equal(gradient, theirs[name]), name


def test_gradient_checkpointing_repeats_the_same_drop_path(clips: torch.Tensor) -> None:
    model = AMDForVideoClassification(tiny_config(drop_path_rate=0.5)).train()
    labels = torch.tensor([1, 3])
    gradients = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        gradients.append(_gradients(model, model(clips, labels=labels).loss))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=lambda text, n=name: f"{n}: {text}")


# ---------------------------------------------------------------------------------------------------------------------
# torch.compile
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


_BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("backend", _BACKENDS)
def test_pretraining_step_compiles_without_a_graph_break(
    backend: str, pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    model = pretraining_model.train()
    ours = _gradients(model, _distillation_loss(model, clips, masks))
    expected = model(clips, *masks)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    outputs = compiled(clips, *masks)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.loss, expected.loss, atol=1e-4, rtol=1e-4)
    features = outputs.direct_features + outputs.generated_features
    for one, two in zip(features, expected.direct_features + expected.generated_features, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    theirs = _gradients(model, outputs.loss + sum(feature.square().mean() for feature in features))
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_step_takes_counts_that_differ_from_the_ratios(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor
) -> None:
    masks = nested_masks(12, 9, 2)  # the config's ratios mean 8 and 4
    compiled = torch.compile(pretraining_model, fullgraph=True, backend="aot_eager")
    outputs = compiled(clips, *masks, num_masked=9, num_teacher_masked=2)
    torch.testing.assert_close(outputs.logits, pretraining_model(clips, *masks).logits)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("backend", _BACKENDS)
def test_classifier_compiles_without_a_graph_break(
    backend: str, classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    labels = torch.tensor([1, 3])
    expected = classifier(clips, labels=labels)
    ours = _gradients(classifier, expected.loss)
    outputs = torch.compile(classifier, fullgraph=True, backend=backend)(clips, labels=labels)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-4, rtol=1e-4)
    for name, gradient in _gradients(classifier, outputs.loss).items():
        torch.testing.assert_close(gradient, ours[name], atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_second_batch_of_masks_does_not_compile_again(pretraining_model: AMDForPreTraining) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(pretraining_model, fullgraph=True, backend=count)
    with torch.no_grad():
        for seed in range(3):
            clips, masks = random_clips(pretraining_model.config, seed=seed), nested_masks(12, 8, 4, seed=seed)
            outputs = compiled(clips, *masks)
            torch.testing.assert_close(outputs.logits, pretraining_model(clips, *masks).logits)
    assert len(graphs) == 1
