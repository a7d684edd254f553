"""Linear layers without a backward pass: oneDNN computes what PyTorch would, and only where nobody looks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from amd_hf import AMDForVideoClassification, modeling_amd_layers, modeling_amd_linear
from amd_hf.modeling_amd_linear import apply_linear
from tests.helpers.models import normalized, random_clips, randomize, tiny_config


_DTYPES = modeling_amd_linear._onednn_dtypes()
pytestmark = pytest.mark.skipif(not _DTYPES, reason="this CPU, or this build of PyTorch, has no oneDNN to leave it to")


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_are_those_of_the_definition(dtype: torch.dtype, has_bias: bool, activation: Any) -> None:
    torch.manual_seed(0)
    layer, hidden_states = nn.Linear(70, 50, bias=has_bias, dtype=dtype), torch.randn(2, 90, 70, dtype=dtype)
    wanted = hidden_states.double() @ layer.weight.detach().double().T
    if has_bias:
        wanted += layer.bias.detach().double()
    if activation == "gelu":
        wanted *= 0.5 * (1 + torch.erf(wanted / 2**0.5))
    with torch.no_grad():
        for states, expected in (
            (hidden_states, wanted),
            (hidden_states.transpose(0, 1), wanted.transpose(0, 1)),  # not contiguous
            (hidden_states[:, :0], wanted[:, :0]),  # no tokens
        ):
            found = apply_linear(layer, states, activation)
            assert found.dtype == dtype
            # PyTorch's own bf16, where oneDNN has none, is rounded before the bias is added and once more after it.
            tolerances = {"atol": 4e-3, "rtol": 1.6e-2} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(found, expected.to(dtype), **tolerances)
        is_used = _onednn_products(lambda: apply_linear(layer, hidden_states, activation)) == 1
    assert is_used == (dtype in _DTYPES)


def test_classifier_gives_the_same_with_and_without_a_backward_pass(
    model: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    assert _onednn_products(lambda: model(clips)) == 0
    wanted = model(clips).logits
    with torch.no_grad():
        assert _onednn_products(lambda: model(clips)) == 1 + 4 * model.config.num_hidden_layers
        torch.testing.assert_close(model(clips).logits, wanted)


@pytest.mark.parametrize("place", ["attention.proj", "mlp.fc1", "mlp.fc2"])
@pytest.mark.parametrize("kind", ["before", "after", "of all modules"])
def test_a_hook_sees_its_layer(model: AMDForVideoClassification, clips: torch.Tensor, kind: str, place: str) -> None:
    layer, seen = model.amd.layers[1].get_submodule(place), []
    register: Callable[[Any], Any] = {
        "before": layer.register_forward_pre_hook,
        "after": layer.register_forward_hook,
        "of all modules": register_module_forward_hook,
    }[kind]
    handle = register(lambda module, *_: seen.append(module))
    with torch.no_grad():
        model(clips)
    handle.remove()
    assert seen.count(layer) == 1


@pytest.mark.parametrize("place", ["attention.proj", "mlp.fc1", "mlp.fc2"])
def test_a_hook_sees_its_backward_pass(model: AMDForVideoClassification, clips: torch.Tensor, place: str) -> None:
    layer, seen = model.amd.layers[1].get_submodule(place), []
    layer.register_full_backward_hook(lambda module, *_: seen.append(module))
    model(clips).logits.sum().backward()
    assert seen == [layer]


def test_operations_are_counted_as_with_a_backward_pass(model: AMDForVideoClassification, clips: torch.Tensor) -> None:
    def flops() -> int:
        with FlopCounterMode(display=False) as counter:
            model(clips)
        return int(counter.get_total_flops())

    with torch.no_grad():
        without_gradient = flops()
    assert without_gradient == flops() > 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_recorded_programs_hold_operators_of_every_machine(
    model: AMDForVideoClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_amd_layers, "_BYTES_AT_A_TIME", 1)
    layer, hidden_states, programs = model.amd.layers[0], torch.randn(1, 12, 32), []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        programs.append(graph.print_readable(print_output=False))
        return graph.forward

    with torch.no_grad():
        torch.compile(layer, backend=backend, fullgraph=True)(hidden_states)
        programs.append(str(torch.export.export(layer, (hidden_states,))))
        programs.append(str(torch.jit.trace(layer, hidden_states).inlined_graph))
    words = ("linear", "mkldnn", "chunk")
    assert [[word in program for word in words] for program in programs] == 3 * [[True, False, False]]


def test_autocast_decides_the_type() -> None:
    layer, hidden_states = nn.Linear(7, 5), torch.randn(3, 7)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert apply_linear(layer, hidden_states, "gelu").dtype == torch.bfloat16


@pytest.mark.parametrize("place", ["attention.proj", "mlp.fc1", "mlp.fc2"])
def test_another_kind_of_linear_layer_is_called(
    model: AMDForVideoClassification, clips: torch.Tensor, place: str
) -> None:
    class Counting(nn.Linear):
        calls = 0

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(hidden_states)

    layer = model.amd.layers[0].get_submodule(place)
    layer.__class__ = Counting
    with torch.no_grad():
        model(clips)
    assert layer.calls == 1


def test_another_kind_of_weight_computes_by_itself() -> None:
    class Quantized(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, arguments: Any, options: Any = None) -> Any:
            asked.append(function)
            return super().__torch_function__(function, types, arguments, options)

    asked: list[Any] = []
    layer = nn.Linear(7, 5)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantized))
    with torch.no_grad():
        apply_linear(layer, torch.randn(3, 7))
    assert nn.functional.linear in asked


@pytest.mark.parametrize(
    ("changed", "to", "message"),
    [
        ("hidden_states", {"dtype": torch.bfloat16}, "dtype"),
        ("bias", {"dtype": torch.bfloat16}, "dtype"),
        ("bias", {"device": "meta"}, "device meta"),
        ("hidden_states", {"size": (3, 8)}, "shapes cannot be multiplied"),
        ("bias", {"size": (4,)}, "must match"),
    ],
)
def test_tensors_that_do_not_fit_are_pytorchs_error(changed: str, to: dict[str, Any], message: str) -> None:
    sizes = {"hidden_states": (3, 7), "weight": (5, 7), "bias": (5,)}
    tensors = {name: torch.randn(**{"size": size, **(to if name == changed else {})}) for name, size in sizes.items()}
    layer = nn.Linear(7, 5)
    layer.weight, layer.bias = nn.Parameter(tensors["weight"]), nn.Parameter(tensors["bias"])
    with torch.no_grad(), pytest.raises(RuntimeError, match=message):
        apply_linear(layer, tensors["hidden_states"])


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_strides_count(name: str) -> None:
    layer, hidden_states = nn.Linear(7, 5), torch.randn(3, 7)
    values = torch.randn(*getattr(layer, name).shape, 2)
    setattr(layer, name, nn.Parameter(values[..., 0]))
    wanted = hidden_states @ layer.weight.T + layer.bias
    with torch.no_grad():
        torch.testing.assert_close(apply_linear(layer, hidden_states), wanted)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_weights_are_multiplied_as_such() -> None:
    layer, hidden_states = nn.Linear(7, 5), torch.randn(3, 7)
    with torch.no_grad():
        wanted = hidden_states @ layer.weight.T + layer.bias
        layer.weight = nn.Parameter(layer.weight.to_sparse_csr())
        torch.testing.assert_close(apply_linear(layer, hidden_states), wanted)


def test_transforms_of_functions_go_through_the_layers() -> None:
    model = randomize(AMDForVideoClassification(tiny_config(attn_implementation="eager"))).eval()
    layer, hidden_states = model.amd.layers[0], torch.randn(4, 1, 12, 32)
    inputs = (hidden_states[0],), (hidden_states[1],)
    wanted, (_, derivative) = layer(hidden_states.flatten(0, 1)), torch.func.jvp(layer, *inputs)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(layer)(hidden_states), wanted[:, None])
        assert _onednn_products(lambda: torch.func.vmap(layer)(hidden_states)) == 0  # it would go clip by clip
        torch.testing.assert_close(torch.func.jvp(layer, *inputs)[1], derivative)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(layer(forward_ad.make_dual(inputs[0][0], inputs[1][0]))).tangent
    torch.testing.assert_close(found, derivative)


def test_a_layer_compiled_by_itself_runs_compiled() -> None:
    layer, calls = nn.Linear(7, 5), []
    layer._compiled_call_impl = lambda hidden_states: calls.append(hidden_states)  # as `layer.compile()` leaves it
    with torch.no_grad():
        apply_linear(layer, torch.randn(3, 7))
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore:TF32")
def test_onednn_is_switched_off_as_everywhere() -> None:
    layer, hidden_states = nn.Linear(7, 5), torch.randn(3, 7)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert _onednn_products(lambda: apply_linear(layer, hidden_states)) == 0


def test_weights_that_accelerate_fetches_for_the_call_are_fetched(
    model: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    wanted = model(clips).logits.detach()
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model.amd.layers[0].mlp.fc1.weight.is_meta
    with torch.no_grad():
        torch.testing.assert_close(model(clips).logits, wanted)


def test_pytorch_without_these_operators_computes_by_itself(
    model: AMDForVideoClassification, clips: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        wanted = model(clips).logits
        monkeypatch.setattr(modeling_amd_linear, "_onednn_linear", None)
        assert _onednn_products(lambda: model(clips)) == 0
        torch.testing.assert_close(model(clips).logits, wanted)
