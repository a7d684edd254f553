"""Stochastic depth of the transformer block."""

from __future__ import annotations

import pytest
import torch

from amd_hf.modeling_amd import AMDDropPath


def test_drop_path_drops_whole_clips_and_keeps_the_mean() -> None:
    drop = AMDDropPath(0.25)
    ones = torch.ones(4000, 2, 3)
    dropped = drop.train()(ones)
    values = dropped.flatten(1)
    assert bool((values == values[:, :1]).all())  # a clip is dropped or kept as a whole
    assert sorted(set(values[:, 0].tolist())) == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(ones), ones)
