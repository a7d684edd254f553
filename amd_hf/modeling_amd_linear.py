"""Linear layers of AMD models, which x86 CPUs leave to oneDNN where no backward pass follows.

PyTorch gives products of float32 to MKL, which uses half of an AMD CPU with AVX-512, and writes bias, product and GELU
one after the other. oneDNN, which PyTorch brings along, does the three at once and uses such a CPU whole.

This file imports nothing of the package: it travels with published checkpoints as remote code.
"""

import platform
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad


try:  # none of it public: where a build or a later release lacks it, PyTorch's own products do the work
    from torch._C._functorch import peek_interpreter_stack
    from torch.nn.modules.module import _has_any_global_hook
    from torch.utils._python_dispatch import is_in_torch_dispatch_mode

    _onednn_linear = torch.ops.mkldnn._linear_pointwise
    _onednn_multiplies_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported
except (ImportError, AttributeError):
    _onednn_linear = None

Activation = Literal["none", "gelu"]


def computes_only(hidden_states: torch.Tensor) -> bool:
    """Whether a CPU computes values and nothing else: no backward pass follows, and nothing is recorded for later."""
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return hidden_states.is_cpu and not torch.is_grad_enabled() and not is_recorded


def apply_linear(layer: nn.Module, hidden_states: torch.Tensor, activation: Activation = "none") -> torch.Tensor:
    """`layer` of `(..., D)`, then an exact GELU where asked; `layer` is linear or what an adapter put in its place."""
    if _is_plain(layer) and _suits_onednn(hidden_states, layer.weight, layer.bias):
        return _onednn_linear(hidden_states, layer.weight, layer.bias, activation, [], "none")
    hidden_states = layer(hidden_states)
    return F.gelu(hidden_states) if activation == "gelu" else hidden_states


def linear(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`F.linear` of `(..., D)`."""
    if _suits_onednn(hidden_states, weight, bias):
        return _onednn_linear(hidden_states, weight, bias, "none", [], "none")
    return F.linear(hidden_states, weight, bias)


def _is_plain(layer: nn.Module) -> bool:
    """Whether nobody notices that `layer` is not called: no adapter, no hook, no weight fetched for the call."""
    return (
        _onednn_linear is not None
        and type(layer) is nn.Linear
        and "forward" not in vars(layer)
        and layer._compiled_call_impl is None
        and not (layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook())
    )


def _suits_onednn(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether only values are wanted, in a type that oneDNN multiplies, of tensors as it takes them."""
    return (
        _onednn_linear is not None
        and computes_only(hidden_states)
        and not is_in_torch_dispatch_mode()  # which counts operations, say
        and peek_interpreter_stack() is None  # `torch.func`
        and forward_ad._current_level < 0  # derivatives that follow the forward pass
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
        and hidden_states.dtype in _onednn_dtypes()
        and _are_dense_and_fit(hidden_states, weight, bias)
    )


def _are_dense_and_fit(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """What oneDNN takes for granted; where it is not so, PyTorch knows better (quantised weights) or what is wrong."""
    tensors = (hidden_states, weight) if bias is None else (hidden_states, weight, bias)
    return (
        all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.is_cpu and tensor.layout == torch.strided for tensor in tensors)
        and all(tensor.dtype == hidden_states.dtype for tensor in tensors)
        and all(tensor.is_contiguous() for tensor in tensors[1:])
        and hidden_states.shape[-1:] == weight.shape[1:]
        and (bias is None or bias.shape == weight.shape[:1])
    )


@cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN multiplies at least as fast as PyTorch itself: on x86; measured on AMD, AVX-512 and held to AVX2."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if not is_x86 or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return ()
    return (torch.float32, torch.bfloat16) if _onednn_multiplies_bf16() else (torch.float32,)


__all__ = ["apply_linear", "computes_only", "linear"]
