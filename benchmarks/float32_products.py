"""bfloat16 matrix products on a CPU that has no instructions for them, where a large one takes minutes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


_BLOCK = 1024  # rows and inner elements at a time: at most some 20 MB of float32 at once
_aten = torch.ops.aten


class Float32Products(TorchDispatchMode):
    """Products and attention of bfloat16 tensors, computed in float32, block by block, and rounded.

    It stands below autograd: what a step stores, and in which dtype, stays as it is. For measurements of memory on
    machines that emulate bfloat16; the time of a step says nothing.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        compute = _IN_FLOAT32.get(func)
        if compute is None or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        return compute(*args, **(kwargs or {}))


def _mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    outcome = a.new_empty(a.shape[0], b.shape[1])
    for into, rows in zip(outcome.split(_BLOCK), a.split(_BLOCK), strict=True):
        into.copy_(sum(x.float() @ y.float() for x, y in zip(rows.split(_BLOCK, 1), b.split(_BLOCK), strict=True)))
    return outcome


def _addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _mm(a, b).add_(bias)


def _bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    outcome = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    for into, x, y in zip(outcome, a, b, strict=True):
        into.copy_(x.float() @ y.float())
    return outcome


def _one_by_one(func: Any, count: int) -> Any:
    """`func` of one clip at a time: its first `count` arguments are tensors (clips, heads, tokens, ...)."""

    def compute(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        outcomes: list[torch.Tensor] = []
        for number in range(len(args[0])):
            clip = (x[number : number + 1].float() for x in args[:count])
            parts = func(*clip, *args[count:], **kwargs)
            if not outcomes:  # laid out in memory as the operation itself does it
                outcomes = [
                    torch.empty_strided(
                        (len(args[0]), *part.shape[1:]),
                        part.stride(),
                        dtype=args[0].dtype
                        if part.ndim == args[0].ndim
                        else part.dtype,  # the log-sum-exp stays float32
                    )
                    for part in parts
                ]
            for outcome, part in zip(outcomes, parts, strict=True):
                outcome[number : number + 1] = part
        return tuple(outcomes)

    return compute


_IN_FLOAT32 = {
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.bmm.default: _bmm,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _one_by_one(
        _aten._scaled_dot_product_flash_attention_for_cpu.default, 3
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _one_by_one(
        _aten._scaled_dot_product_flash_attention_for_cpu_backward.default, 6
    ),
}
