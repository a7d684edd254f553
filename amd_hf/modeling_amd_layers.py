"""The transformer block of AMD models: attention, MLP and stochastic depth, of encoder, decoder and generators alike.

This file imports nothing of the package but the configuration and the linear layers: it travels with published
checkpoints as remote code.
Shapes in comments: B clips, N tokens, D width, d width of a head.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_amd import AMDConfig
from .modeling_amd_linear import apply_linear, computes_only, linear


_BYTES_AT_A_TIME = 10 * 2**20  # a clip of ViT-B in bf16: products lose no speed, and the allocator keeps the memory


def _saves_memory(module: nn.Module, hidden_states: torch.Tensor) -> bool:
    """Whether a CPU only computes (no backward pass, nothing recorded), and no hook looks into what `module` does.

    What a layer makes then serves for a moment: in small parts it stays in the cache and its memory is used again,
    while the tensors of a batch are new pages from the system at every call. Hooks inside `module` want to see the
    batch as it is (PEFT's adapters by row are such) and may keep what they see.
    """
    return computes_only(hidden_states) and not _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    return any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules() if inner is not module)


def few_at_a_time(
    module: nn.Module,
    function: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    width: int,
    *,
    tokens_apart: bool = False,
) -> torch.Tensor:
    """`function` from (B, N, D) to (B, N, D), which is `width` wide inside; in parts where that saves memory.

    A part holds some of the clips or, with `tokens_apart`, some of all tokens, (tokens, D), for a function that takes
    each by itself.
    """
    if _saves_memory(module, hidden_states):
        rows = hidden_states.flatten(0, 1) if tokens_apart else hidden_states
        num_bytes = hidden_states.shape[:-1].numel() * width * hidden_states.element_size()
        parts = rows.chunk(max(1, math.ceil(num_bytes / _BYTES_AT_A_TIME)))
        if len(parts) > 1:
            return torch.cat([function(part) for part in parts]).view_as(hidden_states)
    return function(hidden_states)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention over (B, heads, N, d); returns (B, N, heads, d) and the weights (B, heads, N, N)."""
    query, key = query * scaling, key.transpose(-2, -1)  # scales N x d numbers, not N x N
    num_heads, num_tokens = query.shape[1:3]
    if not _saves_memory(module, query) or num_heads * num_tokens**2 * query.element_size() <= _BYTES_AT_A_TIME:
        weights = F.softmax(query @ key, dim=-1)
        return (weights @ value).transpose(1, 2), weights
    weights, context = query.new_empty(*query.shape[:-1], num_tokens), torch.empty_like(query)
    for place in product(*map(range, query.shape[:2])):  # the scores of one head stay in the cache
        torch.mm(query[place], key[place], out=weights[place])
        torch.softmax(weights[place], dim=-1, out=weights[place])
        torch.mm(weights[place], value[place], out=context[place])
    return context.transpose(1, 2), weights


class AMDQueryKeyValue(nn.Linear):
    """One fused product for query, key and value; queries and values have a bias, keys have none.

    A `Linear`, called as one, so that adapters (LoRA) and quantisers that replace linear layers take hold of it.
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 3 * hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return linear(hidden_states, self.weight, bias)


class AMDAttention(nn.Module):
    """Self-attention."""

    is_causal = False

    def __init__(self, config: AMDConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config  # shared: `set_attn_implementation` reaches encoder, decoder and generators alike
        self.num_heads = num_heads
        self.scaling = (hidden_size // num_heads) ** -0.5
        self.qkv = AMDQueryKeyValue(hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.config._attn_implementation != "sdpa":  # may give weights, of all clips
            return self._attend(hidden_states)
        width = 3 * hidden_states.shape[-1]
        return few_at_a_time(self, lambda clips: self._attend(clips)[0], hidden_states, width), None

    def _attend(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, num_tokens, width = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch_size, num_tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, N, 3, heads, d) -> 3 x (B, heads, N, d)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, weights = attention(self, query, key, value, None, scaling=self.scaling, is_causal=False)
        del qkv, query, key, value  # the largest of the layer's tensors: not held during the product
        return apply_linear(self.proj, context.reshape(batch_size, num_tokens, width)), weights


class AMDMLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        width = self.fc1.out_features
        return few_at_a_time(self, self._transform, hidden_states, width, tokens_apart=True)

    def _transform(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return apply_linear(self.fc2, apply_linear(self.fc1, hidden_states, "gelu"))


class AMDDropPath(nn.Module):
    """Stochastic depth per clip: drops a residual branch with probability `rate` in training and rescales the rest."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return hidden_states
        keep = 1 - self.rate
        kept = hidden_states.new_empty(hidden_states.shape[0], 1, 1).bernoulli_(keep)
        return hidden_states * kept / keep


class AMDLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block: the one block of encoder, decoder and generators."""

    def __init__(
        self, config: AMDConfig, hidden_size: int, num_heads: int, intermediate_size: int, drop_path: float = 0.0
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = AMDAttention(config, hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = AMDMLP(hidden_size, intermediate_size)
        self.drop_path = AMDDropPath(drop_path)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.drop_path(self.attention(self.norm1(hidden_states))[0])
        return hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))


__all__ = ["AMDAttention", "AMDDropPath", "AMDLayer", "AMDMLP", "AMDQueryKeyValue", "eager_attention_forward"]
