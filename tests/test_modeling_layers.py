"""What the transformer block computes where its parts could go astray: a few clips at a time, hooks, drop path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from amd_hf import AMDForVideoClassification, modeling_amd_layers
from amd_hf.modeling_amd_layers import AMDDropPath
from tests.helpers.models import normalized, random_clips, randomize, tiny_config


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_without_a_backward_pass_a_cpu_takes_a_few_at_a_time_and_gives_the_same(
    attn_implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(attn_implementation=attn_implementation)
    model = randomize(AMDForVideoClassification(config)).eval()
    clips = normalized(random_clips(config, batch_size=5), config)
    sizes: dict[str, list[int]] = {"qkv": [], "fc1": [], "head": []}
    block = model.amd.layers[0]
    for name, linear in (("qkv", block.attention.qkv), ("fc1", block.mlp.fc1)):
        monkeypatch.setattr(linear, "forward", _noting_sizes(linear.forward, sizes[name]))
    monkeypatch.setattr(torch, "mm", _noting_sizes(torch.mm, sizes["head"]))

    wanted = model(clips, output_hidden_states=True, output_attentions=True)
    assert sizes == {"qkv": [5], "fc1": [5], "head": []}
    monkeypatch.setattr(modeling_amd_layers, "_BYTES_AT_A_TIME", 2 * 12 * config.intermediate_size * 4)  # 2 clips
    with torch.no_grad():
        torch.testing.assert_close(model(clips).logits, wanted.logits)
        assert sizes["fc1"] == [5, 20, 20, 20]  # of 5 clips' 60 tokens
        assert sizes["qkv"] == [5, *([5] if attn_implementation == "eager" else [3, 2])]
        monkeypatch.setattr(modeling_amd_layers, "_BYTES_AT_A_TIME", 4 * 12 * 12 * 4 - 1)  # less than a clip's scores
        found = model(clips, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.hidden_states, wanted.hidden_states)
    if attn_implementation == "eager":
        assert len(sizes["head"]) == 2 * 3 * 5 * 4  # two products for each layer, clip and head
        torch.testing.assert_close(found.attentions, wanted.attentions)


def _noting_sizes(function: Callable[..., torch.Tensor], sizes: list[int]) -> Callable[..., torch.Tensor]:
    def noting(first: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        sizes.append(len(first))
        return function(first, *rest, **options)

    return noting


def test_hooks_see_whole_batches_and_may_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    model, seen = randomize(AMDForVideoClassification(config)).eval(), []
    fc1 = model.amd.layers[0].mlp.fc1
    fc1.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    monkeypatch.setattr(modeling_amd_layers, "_BYTES_AT_A_TIME", 1)
    with torch.no_grad():
        model(normalized(random_clips(config, batch_size=3), config))
    [(hidden_states, output)] = seen
    assert len(hidden_states) == 3
    torch.testing.assert_close(output, hidden_states @ fc1.weight.T + fc1.bias)  # not yet activated


def test_drop_path_drops_whole_clips_and_keeps_the_mean() -> None:
    drop = AMDDropPath(0.25)
    ones = torch.ones(4000, 2, 3)
    dropped = drop.train()(ones)
    values = dropped.flatten(1)
    assert bool((values == values[:, :1]).all())  # a clip is dropped or kept as a whole
    assert sorted(set(values[:, 0].tolist())) == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(ones), ones)
