"""Layers are replaced, by adapters and by quantisers: nobody asks what took their place for its weight."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from amd_hf import (
    AMDForActionDetection,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
)
from amd_hf.evaluation.checks import check_head_is_trained
from amd_hf.modeling_amd import AMDPatchEmbeddings
from tests.helpers.images import image_config
from tests.helpers.models import nested_masks, random_clips, randomize, tiny_config
from tests.helpers.training import ROOT


_BOXES = [torch.tensor([[1.0, 2.0, 20.0, 12.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0], [3.0, 1.0, 22.0, 15.0]])]


def _run(model: Any) -> list[torch.Tensor]:
    """All numbers that a forward pass gives."""
    config = model.config
    clips = random_clips(config)
    if isinstance(model, AMDForPreTraining):
        total = config.num_patches
        masks = nested_masks(total, total * 2 // 3, total // 3)
        outputs = model(clips, *masks)
        return [outputs.loss, outputs.logits, *outputs.direct_features, *outputs.generated_features]
    if isinstance(model, AMDForActionDetection):
        outputs = model(clips, _BOXES, labels=[torch.ones(len(boxes), 5) for boxes in _BOXES])
        return [outputs.loss, outputs.logits]
    if isinstance(model, AMDModel):
        return [model(clips).last_hidden_state]
    outputs = model(clips, labels=torch.tensor([0, 2]))
    return [outputs.loss, outputs.logits]


_MODELS: dict[str, Callable[[], nn.Module]] = {
    "encoder": lambda: AMDModel(tiny_config()),
    "pretraining": lambda: AMDForPreTraining(tiny_config()),
    "parallel alignment": lambda: AMDForPreTraining(tiny_config(alignment_mode="parallel")),
    "video classifier": lambda: AMDForVideoClassification(tiny_config()),
    "image classifier": lambda: AMDForImageClassification(image_config(teacher_hidden_size=None)),
    "detector": lambda: AMDForActionDetection(tiny_config()),
}


class _Closed(nn.Module):
    """A layer in another's place, which computes the same and has neither weight nor parameter to look at."""

    def __init__(self, layer: nn.Linear | nn.LayerNorm):
        super().__init__()
        self._compute = layer.forward

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self._compute(hidden_states)


class _OneByte(nn.Module):
    """A linear layer whose weight is stored in one byte, as bitsandbytes and others do, with a scale for each row."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, largest: float):
        super().__init__()
        scale = layer.weight.detach().abs().amax(dim=1, keepdim=True) / largest
        scaled = layer.weight.detach() / scale
        stored = (scaled if dtype.is_floating_point else scaled.round()).to(dtype)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(self.scale.dtype) * self.scale
        return F.linear(hidden_states, weight.to(hidden_states.dtype), self.bias)


_KINDS_OF_BYTES = {
    "int8": lambda layer: _OneByte(layer, torch.int8, 127),
    "float8": lambda layer: _OneByte(layer, torch.float8_e4m3fn, 448),
}


def _replace(model: nn.Module, kinds: tuple[type[nn.Module], ...], wrap: Callable[[Any], nn.Module]) -> int:
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]
    for parent, name, child in found:
        setattr(parent, name, wrap(child))
    return len(found)


@pytest.mark.parametrize("kind", _MODELS)
def test_every_linear_layer_and_norm_may_hide_its_weight(kind: str) -> None:
    model = randomize(_MODELS[kind]()).eval()
    with torch.no_grad():
        expected = _run(model)
        assert _replace(model, (nn.Linear, nn.LayerNorm), _Closed) >= 18
        for ours, wanted in zip(_run(model), expected, strict=True):
            assert torch.equal(ours, wanted)


@pytest.mark.parametrize("kind", _MODELS)
@pytest.mark.parametrize("stored", _KINDS_OF_BYTES)
def test_inputs_keep_their_digits_before_weights_of_one_byte(kind: str, stored: str) -> None:
    model = randomize(_MODELS[kind]()).eval()
    plain = copy.deepcopy(model)
    layers = [module for module in plain.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        _replace(model, (nn.Linear,), _KINDS_OF_BYTES[stored])
        replaced = [module for module in model.modules() if isinstance(module, _OneByte)]
        for layer, of_bytes in zip(layers, replaced, strict=True):
            layer.weight.copy_(of_bytes.weight.to(torch.float32) * of_bytes.scale)
        for ours, wanted in zip(_run(model), _run(plain), strict=True):
            torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)


def test_half_precision_goes_by_the_bias_where_the_weight_is_of_integers() -> None:
    model = randomize(AMDForVideoClassification(tiny_config())).eval().to(torch.bfloat16)
    _replace(model, (nn.Linear,), _KINDS_OF_BYTES["int8"])
    with torch.no_grad():
        assert model(random_clips(model.config)).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", _MODELS)
def test_layers_with_parameters_are_those_of_torch_themselves(kind: str) -> None:
    for name, module in _MODELS[kind]().named_modules():
        of_torch = [base for base in type(module).__mro__ if base.__module__.startswith("torch.")]
        is_own = type(module).__module__.startswith("amd_hf")
        assert not is_own or of_torch == [nn.Module], f"{name} is a {type(module).__name__}: {of_torch}"


def test_only_what_starts_weights_reads_the_weight_of_a_layer() -> None:
    for path in sorted((ROOT / "amd_hf").glob("modeling_amd*.py")):
        reads = [
            (function.name, node.lineno)
            for function in ast.walk(ast.parse(path.read_text()))
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_init_")
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and node.attr in ("weight", "bias", "in_features", "out_features")
        ]
        assert not reads, f"{path.name}: {reads}"


def test_head_in_layers_of_others_is_looked_at_by_name() -> None:
    model = AMDForVideoClassification(tiny_config())
    model.classifier = _KINDS_OF_BYTES["int8"](model.classifier)
    with pytest.raises(ValueError, match="was never trained"):
        check_head_is_trained(model, "it")
    with torch.no_grad():
        model.classifier.bias += 0.1
    check_head_is_trained(model, "it")


def test_pixels_are_cast_to_what_the_projection_computes_in() -> None:
    embeddings = AMDPatchEmbeddings(tiny_config()).to(torch.float64)
    patches = embeddings.patchify(random_clips(tiny_config()))
    assert embeddings(patches).dtype == torch.float64
