"""The benchmark's stand-in for bfloat16 arithmetic: results of float32, rounded; dtypes and layout as without."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.training import ROOT


@pytest.fixture(scope="module")
def mode():
    spec = importlib.util.spec_from_file_location("float32_products", ROOT / "benchmarks" / "float32_products.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Float32Products


def _random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _gradients(compute, *inputs):
    """What `compute` gives and the gradients of its inputs, all bfloat16 on the way."""
    leaves = [tensor.bfloat16().requires_grad_() for tensor in inputs]
    outcome = compute(*leaves)
    assert outcome.dtype == torch.bfloat16
    outcome.sum().backward()
    return [outcome.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(
    ("compute", "shapes"),
    [
        (lambda x, w, b: F.linear(x, w, b), [(3, 1500, 40), (24, 40), (24,)]),  # more rows than a block
        (lambda x, w: F.linear(x, w), [(2, 5, 1300), (24, 1300)]),  # more inner elements than a block
        (torch.bmm, [(3, 7, 9), (3, 9, 11)]),
        (F.scaled_dot_product_attention, [(2, 3, 17, 8)] * 3),
    ],
    ids=["linear", "linear without bias", "bmm", "attention"],
)
def test_results_and_gradients_are_those_of_float32_rounded(mode, compute, shapes):
    inputs = [_random(*shape) for shape in shapes]
    with mode():
        found = _gradients(compute, *inputs)
    leaves = [tensor.bfloat16().float().requires_grad_() for tensor in inputs]
    outcome = compute(*leaves)
    outcome.sum().backward()
    for ours, theirs in zip(found, [outcome.detach(), *(leaf.grad for leaf in leaves)], strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=0.01, atol=0.01 * float(theirs.abs().max()))


def test_attention_keeps_the_layout_that_saves_a_copy(mode):
    query = _random(2, 17, 3, 8).bfloat16().transpose(1, 2)
    expected = F.scaled_dot_product_attention(query, query, query)
    with mode():
        found = F.scaled_dot_product_attention(query, query, query)
    assert found.stride() == expected.stride()


def test_float32_is_left_alone(mode):
    a, b = _random(5, 6), _random(6, 7)
    with mode():
        assert torch.equal(a @ b, torch.mm(a, b))
