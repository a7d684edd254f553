"""Folders that earlier code saved, one for each kind of model, with inputs and what that code made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from amd_hf import (
    AMDForActionDetection,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
)


_FOLDER = Path(__file__).parents[1] / "fixtures/saved_before_versions"
_KINDS: dict[str, type] = {
    "encoder": AMDModel,
    "pretraining": AMDForPreTraining,
    "pretraining_with_teacher": AMDForPreTraining,
    "video_classifier": AMDForVideoClassification,
    "image_classifier": AMDForImageClassification,
    "detector": AMDForActionDetection,
}
KINDS = list(_KINDS)


@dataclass(frozen=True)
class SavedModel:
    """A folder, its class, and inputs and outputs by name."""

    folder: Path
    model_class: type
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    def outputs(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a model gives for the inputs, by the names of `expected`."""
        with torch.no_grad():
            found = model.eval()(**self.inputs)
        return {name: _as_tensor(found[name]) for name in self.expected}

    def objective(self, model: nn.Module) -> torch.Tensor:
        """A number that depends on all outputs, for gradients."""
        found = model(**self.inputs)
        return torch.stack([_as_tensor(found[name]).square().mean() for name in self.expected]).sum()

    def check(self, model: nn.Module) -> None:
        """Compares a model's outputs with those of the code that saved the folder."""
        torch.testing.assert_close(self.outputs(model), self.expected, rtol=1e-5, atol=1e-5)


def _as_tensor(value: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack(value) if isinstance(value, tuple) else value


def saved_model(kind: str) -> SavedModel:
    """Reads what is known of a kind of model, without making one."""
    folder = _FOLDER / kind
    tensors: Mapping[str, torch.Tensor] = load_file(folder / "expected.safetensors")
    parts: dict[str, dict[str, torch.Tensor]] = {"input": {}, "output": {}}
    for name, tensor in tensors.items():
        part, _, name_of_part = name.partition(".")
        parts[part][name_of_part] = tensor
    return SavedModel(folder, _KINDS[kind], parts["input"], parts["output"])
