"""Folders of ours from before the layout of today: `from_pretrained` reads them, `save_pretrained` writes today's."""

from __future__ import annotations

from typing import Any

import torch
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming


class _JoinBiases(ConversionOps):
    """Biases of query and value (D,) to that of the fused product (3D,), which is zero for the keys."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        query, value = (tensors[0] for tensors in (input_dict[pattern] for pattern in source_patterns))
        return {target_patterns[0]: torch.cat([query, torch.zeros_like(query), value])}


class _OldBiases(WeightConverter):
    """A join on loading. Transformers reverses conversions when it saves: this one is not to be reversed."""

    def reverse_transform(self) -> WeightRenaming:
        return WeightRenaming("attention.qkv.bias", "attention.qkv.bias")


def register_old_layout() -> None:
    """Have Transformers read folders whose attention layers hold `qkv.q_bias` and `qkv.v_bias` (up to 0.1.0.dev0).

    The conversion stands among those of old layouts, which Transformers tries on loading alone. Were it that of model
    type `amd`, Transformers would take the old names for those of the files that are written today.
    """
    sources = [r"attention.qkv.q_bias", r"attention.qkv.v_bias"]
    old = [entry for entry in get_checkpoint_conversion_mapping("legacy") or [] if not isinstance(entry, _OldBiases)]
    join = _OldBiases(sources, ["attention.qkv.bias"], operations=[_JoinBiases()])
    register_checkpoint_conversion_mapping("legacy", [*old, join], overwrite=True)
