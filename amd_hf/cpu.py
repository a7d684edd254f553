"""Faster float32 inference on x86 CPUs, for those who ask: `optimize_for_cpu(model)`.

PyTorch gives products of float32 to MKL, which uses half of an AMD CPU with AVX-512, and writes bias, product and GELU
one after the other. oneDNN, which PyTorch brings along, does the three at once and uses such a CPU whole. In bf16
PyTorch goes to oneDNN by itself.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from transformers.utils import logging

from .modeling_amd import AMDMLP, AMDAttention, AMDPatchEmbeddings


logger = logging.get_logger(__name__)


class _OneDNNLinear(nn.Module):
    """A linear layer, with an exact GELU behind it where asked; holds the parameters of the layer it stands for."""

    def __init__(self, layer: nn.Linear, product: Callable[..., torch.Tensor], activation: str = "none"):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.activation = activation
        self._product = product  # found once: what becomes of its private name later does no harm

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():  # it has no backward pass
            try:
                return self._product(hidden_states, self.weight, self.bias, self.activation, [], "none")
            except RuntimeError:  # another dtype or device by now, autocast, or tensors that oneDNN does not take
                pass
        hidden_states = F.linear(hidden_states, self.weight, self.bias)
        return F.gelu(hidden_states) if self.activation == "gelu" else hidden_states


class _OneDNNMLP(nn.Module):
    """The MLP of a block, whose GELU is computed with the first product."""

    def __init__(self, mlp: AMDMLP, product: Callable[..., torch.Tensor]):
        super().__init__()
        self.fc1, self.fc2 = _OneDNNLinear(mlp.fc1, product, "gelu"), _OneDNNLinear(mlp.fc2, product)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(hidden_states))


def optimize_for_cpu(model: nn.Module) -> nn.Module:
    """Have a model compute its float32 products by oneDNN, in place, for inference on an x86 CPU.

    Its parameters, their names and its results stay as they are but for rounding; with a backward pass it computes as
    before. Layers that adapters or quantisers have replaced, or that have hooks, are left alone. Where nothing is
    to be gained (another CPU, dtype or device, a PyTorch without the operator) the model is returned unchanged, and
    the log says why.

    Args:
        model (`torch.nn.Module`): A model of this package, or one that holds one.

    Returns:
        `model` itself.
    """
    try:
        product = _find_product()
        swaps = list(_find_swaps(model, product))  # all of them before the first is made
    except RuntimeError as error:
        logger.info("Not optimised for this CPU: %s.", error)
        return model
    except Exception as error:  # noqa: BLE001  # whatever a release of PyTorch may lack: the model runs without it
        logger.warning(
            "Not optimised for this CPU, as this PyTorch is not the one that it was written for: %s.", error
        )
        return model
    for parent, name, layer in swaps:
        setattr(parent, name, layer.train(getattr(parent, name).training))
    return model


def prepare_for_inference(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Put a model on an accelerator's device, in eval mode; optimised where that is the CPU, in float32."""
    model = model.to(accelerator.device).eval()
    is_float32_on_cpu = accelerator.device.type == "cpu" and accelerator.mixed_precision == "no"
    return optimize_for_cpu(model) if is_float32_on_cpu else model


def _find_product() -> Callable[..., torch.Tensor]:
    """Return oneDNN's linear layer with what is computed behind it.

    Raises:
        RuntimeError: If it gains nothing in this process, which is found out by trying; says why.
        Exception: Whatever a PyTorch raises that lacks it.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise RuntimeError(f"it is a {platform.machine()}, and the gain was measured on x86")
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" or not torch.backends.mkldnn.enabled:
        raise RuntimeError("PyTorch has no vector instructions or no oneDNN here")
    # What `torch.compile` calls for linear layers on CPUs: not public, so its absence must harm nobody.
    product = torch.ops.mkldnn._linear_pointwise.default
    numbers = torch.arange(6.0).view(2, 3)
    with torch.no_grad():
        found = product(numbers, numbers, None, "gelu", [], "none")
    if not torch.allclose(found, F.gelu(numbers @ numbers.T), atol=1e-4):
        raise RuntimeError("the operator gives other numbers")
    return product


def _find_swaps(model: nn.Module, product: Callable[..., torch.Tensor]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield the layers to replace, by their parents and names, and their replacements."""
    for module in model.modules():
        names = {AMDAttention: ("qkv", "proj"), AMDPatchEmbeddings: ("projection",)}.get(type(module), ())
        for name in names:
            if _suits(layer := getattr(module, name)):
                yield module, name, _OneDNNLinear(layer, product)
        for name, child in module.named_children():
            if type(child) is AMDMLP and not _has_hooks(child) and _suits(child.fc1) and _suits(child.fc2):
                yield module, name, _OneDNNMLP(child, product)


def _suits(layer: nn.Module) -> bool:
    """Return whether a layer can be replaced safely: plain, dense float32 on the CPU, no hooks."""
    return (
        type(layer) is nn.Linear
        and "forward" not in vars(layer)
        and not _has_hooks(layer)
        and type(layer.weight) is nn.Parameter
        and layer.weight.device.type == "cpu"
        and layer.weight.layout == torch.strided
        and layer.weight.dtype == torch.float32
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


__all__ = ["optimize_for_cpu", "prepare_for_inference"]
