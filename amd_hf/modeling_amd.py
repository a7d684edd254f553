# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""AMD models: a video transformer encoder, its pixel decoder, the alignment modules and the heads.

The method is that of "Asymmetric Masked Distillation for Pre-Training Small Foundation Models" (arXiv 2311.03149).
This file imports nothing of the package but the configuration: it travels with published checkpoints as remote code.
An image is a clip of one frame.

Shapes in comments: B clips, T frames, C channels, H x W pixels, N tokens in raster order (time, row, column), V/X/M
the tokens seen by both models / by the teacher alone / by neither, P numbers in a patch, D width, d width of a head.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_amd import AMDConfig


@dataclass
class AMDModelOutput(BaseModelOutput):
    r"""Output of [`AMDModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, visible, D)`):
            Output of the last block, through the final LayerNorm where `config.use_final_norm`. The class token comes
            first where `config.use_class_token`: [`AMDModel.patch_tokens`] leaves it out.
        hidden_states (`tuple` of `torch.FloatTensor`, *optional*):
            Raw input of the first block and raw output of every block, with `output_hidden_states=True`; the class
            token likewise.
        attentions (`tuple` of `torch.FloatTensor` of shape `(B, heads, visible, visible)`, *optional*):
            Attention weights, with `output_attentions=True` and eager attention.
        layer_features (`dict[int, torch.FloatTensor]`, *optional*):
            Raw block outputs `(B, visible, D)` of the layers asked for with `feature_layers`, which count from 1,
            without the class token.
    """

    layer_features: dict[int, torch.Tensor] | None = None


class TokenSplit(NamedTuple):
    r"""Who sees which tokens of each clip: V, X and M of the paper (section 3), as ids in raster order.

    Made once from the two masks, in [`AMDForPreTraining.token_split`]; all that picks tokens takes them from here.

    Args:
        visible (`torch.LongTensor` of shape `(B, V)`): Tokens that student and teacher see.
        masked (`torch.LongTensor` of shape `(B, X + M)`): Tokens hidden from the student, which reconstructs them.
        teacher_only (`torch.LongTensor` of shape `(B, X)`, *optional*):
            The masked tokens that the teacher sees; `None` without a teacher's mask.
        hidden (`torch.LongTensor` of shape `(B, M)`, *optional*): The masked tokens that the teacher does not see.
    """

    visible: torch.Tensor
    masked: torch.Tensor
    teacher_only: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


@dataclass
class AMDForPreTrainingOutput(ModelOutput):
    r"""Output of [`AMDForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`): Mean squared error of the masked pixels, in float32.
        logits (`torch.FloatTensor` of shape `(B, X + M, tubelet * patch * patch * channels)`):
            Predicted patch vectors of the tokens hidden from the student, in raster order.
        direct_features (`tuple` of `torch.FloatTensor` of shape `(B, V, teacher width)`, *optional*):
            Student features mapped to the teacher's width, one tensor per layer of `config.student_direct_layers`.
        generated_features (`tuple` of `torch.FloatTensor` of shape `(B, X, teacher width)`, *optional*):
            Features generated for the tokens only the teacher sees, one tensor per layer of
            `config.student_generation_layers`; `None` without a teacher mask.
        losses (`dict[str, torch.FloatTensor]`): The parts of the loss by name, float32 scalars.
        token_split ([`TokenSplit`]): Which tokens student and teacher see.
        hidden_states, attentions: As in [`AMDModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    direct_features: tuple[torch.Tensor, ...] | None = None
    generated_features: tuple[torch.Tensor, ...] | None = None
    losses: dict[str, torch.Tensor] | None = None
    token_split: TokenSplit | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def gather_tokens(tokens: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Pick `(B, n, D)` from `tokens` `(B, N, D)` at the integer ids `token_ids` `(B, n)`."""
    return tokens.gather(1, token_ids[:, :, None].expand(-1, -1, tokens.shape[-1]))


def split_tokens(mask: torch.Tensor, num_masked: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids of the visible (B, N - num_masked) and the masked (B, num_masked) tokens, each in raster order.

    A stable sort instead of boolean indexing: shapes stay static, so `torch.compile` sees no graph break.
    """
    # Visible tokens (0) come before masked ones (1); stable, so that each part stays in raster order.
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]


def count_masked(
    mask: torch.Tensor, num_masked: int | None, num_patches: int, default: Callable[[], int], name: str
) -> int:
    """Return how many tokens each row of a (B, N) mask hides, as a Python int.

    `num_masked` is trusted where reading the mask would stall the device; elsewhere the mask is counted and checked.
    Under `torch.compile` nothing can be counted: without `num_masked` that of `default()` holds.

    Raises:
        ValueError: For rows that hide different numbers, another number than `num_masked`, or a wrong shape.
    """
    if torch.compiler.is_compiling():
        return default() if num_masked is None else num_masked
    # Off the CPU a look at the mask would wait for the device in every step.
    if num_masked is not None and mask.device.type != "cpu":
        return num_masked
    if mask.ndim != 2 or mask.shape[1] != num_patches:
        raise ValueError(f"`{name}` must have shape (clips, {num_patches} tokens), got {tuple(mask.shape)}.")
    counts = mask.sum(dim=1).tolist()
    expected = counts[0] if num_masked is None else num_masked
    for row, count in enumerate(counts):
        if count != expected:
            reference = f"row 0 hides {expected}" if num_masked is None else f"{expected} were announced"
            raise ValueError(
                f"Every row of `{name}` must hide the same number of tokens: {reference}, row {row} hides {count}."
            )
    return expected


def sincos_position_table(num_positions: int, dim: int) -> torch.Tensor:
    """Return the 1-D sine-cosine table of shape (num_positions, dim), float32, on the CPU.

    Position n, dimension j: angle n / 10000^(2 * (j // 2) / dim); sine for even j, cosine for odd j (VideoMAE's
    released code, which computes it in float64 too).
    """
    # "cpu" by name: under `torch.device("meta")` there would be no numbers to copy.
    dimensions = torch.arange(dim, dtype=torch.float64, device="cpu") // 2 * 2 / dim
    positions = torch.arange(num_positions, dtype=torch.float64, device="cpu")
    angles = positions[:, None] / torch.pow(torch.tensor(10000.0, dtype=torch.float64, device="cpu"), dimensions)
    table = torch.where(torch.arange(dim, device="cpu") % 2 == 0, angles.sin(), angles.cos())
    return table.to(torch.float32)


def sincos_grid_position_table(kind: str, grid: tuple[int, int, int], dim: int) -> torch.Tensor:
    """Return the sine-cosine table of a grid (time, rows, columns), (time * rows * columns, dim), float32, on the CPU.

    The numbers of a token are cut into parts, one for each axis. A part of w numbers holds all sines of
    n / 10000^(2 * j / w), j = 0..w / 2 - 1, then all cosines. Tokens that are neighbours in any direction have similar
    positions, so attention finds them in far fewer steps than from the 1-D table.

    Args:
        kind (`str`): `"sincos_2d"`: column and row, half each (MAE's released code; `dim` a multiple of 4, one frame).
            `"sincos_3d"`: time, row and column, 1/2, 1/4 and 1/4 (V-JEPA's; 8). `"sincos_3d_mvd"`: time, column and
            row, 1/4, 3/8 and 3/8 (MVD's; 16).
        grid (`tuple[int, int, int]`): Tokens along time, rows and columns.
        dim (`int`): Width of the tokens.
    """
    axes = [torch.arange(size, dtype=torch.float64, device="cpu") for size in grid]
    time, row, column = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    # Which axis comes first and how wide it is differs from one released code to the next.
    axes_and_widths = {
        "sincos_2d": ((column, dim // 2), (row, dim // 2)),
        "sincos_3d": ((time, dim // 2), (row, dim // 4), (column, dim // 4)),
        "sincos_3d_mvd": ((time, dim // 4), (column, dim // 8 * 3), (row, dim // 8 * 3)),
    }[kind]
    parts = []
    for positions, width in axes_and_widths:
        exponents = torch.arange(width // 2, dtype=torch.float64, device="cpu") / (width // 2)
        rates = 1 / torch.pow(torch.tensor(10000.0, dtype=torch.float64, device="cpu"), exponents)
        angles = positions[:, None] * rates  # (N, width / 2)
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).to(torch.float32)


def interpolate_position_table(
    table: torch.Tensor, grid: tuple[int, int, int], new_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Stretch a table `(N, D)` of a grid (time, rows, columns) to another: bicubic in space, then linear in time."""
    time, rows, columns = new_grid
    table = table.view(*grid, -1).permute(0, 3, 1, 2)  # (time, D, rows, columns)
    if grid[1:] != new_grid[1:]:
        table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
    if grid[0] != time:
        over_time = table.permute(2, 3, 1, 0).flatten(0, 1)  # (rows * columns, D, time)
        over_time = F.interpolate(over_time, size=time, mode="linear", align_corners=False)
        table = over_time.unflatten(0, (rows, columns)).permute(3, 2, 0, 1)
    return table.permute(0, 2, 3, 1).flatten(0, 2)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute plain attention over (B, heads, N, d); return (B, N, heads, d) and the weights (B, heads, N, N)."""
    # Scales N x d numbers, not N x N.
    weights = F.softmax((query * scaling) @ key.transpose(-2, -1), dim=-1)
    return (weights @ value).transpose(1, 2), weights


def _fill_constants(module: nn.Module, _: Any = None) -> None:
    """Fill the buffers that no checkpoint holds: a hook after `load_state_dict`, for models made without numbers."""
    with torch.no_grad():
        for name, values in module.constants().items():
            if getattr(module, name).is_meta:  # no memory to copy to: `load_state_dict(..., assign=True)` gives none
                setattr(module, name, values)
            else:
                getattr(module, name).copy_(values)


class AMDPositionTable(nn.Module):
    """Position table `(N, D)`, added to tokens at given positions; never learned.

    Args:
        grid (`tuple[int, int, int]`): Tokens along time, rows and columns.
        dim (`int`): Width of the tokens.
        kind (`str`): `"sincos_1d"` over all tokens, `"sincos_2d"` over rows and columns, `"sincos_3d"` or
            `"sincos_3d_mvd"` over time, rows and columns, or `"stored"`: part of the checkpoint. Computed tables are
            not saved.
        has_class_token (`bool`): Whether a stored table has a row of its own for a class token, `class_position`
            `(1, 1, D)`. In computed tables that row is zero.
    """

    def __init__(self, grid: tuple[int, int, int], dim: int, kind: str = "sincos_1d", has_class_token: bool = False):
        super().__init__()
        self.grid = grid
        self.kind = kind
        is_stored = kind == "stored"
        time, rows, columns = grid
        # float32 whatever dtype the model is loaded in. `_init_weights` fills it once more: `from_pretrained` empties
        # buffers that are not in the file.
        table = torch.empty(time * rows * columns, dim, dtype=torch.float32)
        self.register_buffer("table", table, persistent=is_stored)
        class_position = torch.zeros(1, 1, dim, dtype=torch.float32) if is_stored and has_class_token else None
        self.register_buffer("class_position", class_position)
        with torch.no_grad():
            self.table.copy_(self.computed_table())
        self.register_load_state_dict_post_hook(_fill_constants)

    def computed_table(self) -> torch.Tensor:
        """Compute the table of this kind, float32 `(N, D)` on the CPU; for a stored one the 1-D table."""
        num_positions, dim = self.table.shape
        if self.kind in ("sincos_1d", "stored"):
            return sincos_position_table(num_positions, dim)
        return sincos_grid_position_table(self.kind, self.grid, dim)

    def constants(self) -> dict[str, torch.Tensor]:
        """Return the buffers by name that follow from the sizes and are in no checkpoint."""
        return {} if self.kind == "stored" else {"table": self.computed_table()}

    def add_to_class_token(self, token: torch.Tensor) -> torch.Tensor:
        """Return a class token `(..., 1, D)` with its position."""
        return token if self.class_position is None else token + self.class_position.to(token.dtype)

    def forward(
        self, token_ids: torch.Tensor | None, like: torch.Tensor, table: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the positions `(B, n, D)` of `token_ids` `(B, n)`, or all `(N, D)`, in the dtype of `like`.

        `table` replaces the module's own.
        """
        table = self.table if table is None else table
        return (table if token_ids is None else table[token_ids]).to(like.dtype)


class AMDAttention(nn.Module):
    """Self-attention.

    One product gives query, key and value: a plain linear layer, which adapters and quantisers know. Its bias is zero
    for the keys, in the official checkpoints as here: it would add the same number to all scores of a query, which the
    softmax does not see, so its gradient is zero but for rounding.
    """

    is_causal = False

    def __init__(self, config: AMDConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config  # shared: `set_attn_implementation` reaches encoder, decoder and generators alike
        self.num_heads = num_heads
        self.scaling = (hidden_size // num_heads) ** -0.5
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, num_tokens, width = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch_size, num_tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, N, 3, heads, d) -> 3 x (B, heads, N, d)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, weights = attention(self, query, key, value, None, scaling=self.scaling, is_causal=False)
        del qkv, query, key, value  # the largest of the layer's tensors: not held during the product
        return self.proj(context.reshape(batch_size, num_tokens, width)), weights


class AMDMLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(hidden_states)))


class AMDDropPath(nn.Module):
    """Stochastic depth per clip: drops a residual branch with probability `rate` in training and rescales the rest."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return hidden_states
        # One draw for each clip; what is kept grows by 1 / keep, so that the mean is that of evaluation.
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
        # (B, N, D) throughout: x + attention(norm(x)), then x + mlp(norm(x))
        hidden_states = hidden_states + self.drop_path(self.attention(self.norm1(hidden_states))[0])
        return hidden_states + self.drop_path(self.mlp(self.norm2(hidden_states)))


class AMDPatchEmbeddings(nn.Module):
    """Embedding of the patches that are seen; clips are cut into patches once.

    Patches of uint8 clips stay uint8 until they are picked, so hidden patches cost neither a product nor a cast.
    """

    def __init__(self, config: AMDConfig):
        super().__init__()
        self.config = config
        self.clip_shape = (config.num_frames, config.num_channels, *config.image_height_width)
        self.grid_size, self.patch_dim = config.grid_size, config.patch_dim
        self.projection = nn.Linear(self.patch_dim, config.hidden_size)
        self.position = AMDPositionTable(
            config.grid_size, config.hidden_size, config.position_embedding, config.use_class_token
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_class_token else None
        self.register_buffer("mean", torch.empty(config.num_channels, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.empty(config.num_channels, dtype=torch.float32), persistent=False)
        with torch.no_grad():
            for name, values in self.constants().items():
                getattr(self, name).copy_(values)
        self.register_load_state_dict_post_hook(_fill_constants)

    def constants(self) -> dict[str, torch.Tensor]:
        """Return mean and std of each channel, float32 (C,): buffers that are in no checkpoint."""
        statistics = {"mean": self.config.image_mean, "std": self.config.image_std}
        return {name: torch.tensor(values, dtype=torch.float32, device="cpu") for name, values in statistics.items()}

    def patchify(self, pixel_values: torch.Tensor, any_size: bool = False) -> torch.Tensor:
        """Cut (B, T, C, H, W) or (B, C, H, W) into (B, N, P), P by (frame, row, column, channel); keep the dtype."""
        pixel_values = self._as_clips(pixel_values)
        self._check_size(pixel_values, any_size)
        time, rows, columns = self.grid_of(pixel_values)
        config = self.config
        tubelet, patch = config.tubelet_size, config.patch_size
        # (B, T, C, H, W) -> (B, time, frame, channel, rows, row, columns, column)
        patches = pixel_values.reshape(-1, time, tubelet, config.num_channels, rows, patch, columns, patch)
        patches = patches.permute(0, 1, 4, 6, 2, 5, 7, 3)  # -> (B, time, rows, columns, frame, row, column, channel)
        return patches.reshape(pixel_values.shape[0], time * rows * columns, self.patch_dim)

    def grid_of(self, pixel_values: torch.Tensor) -> tuple[int, int, int]:
        """Return how many tokens clips have along time, rows and columns."""
        _, frames, _, height, width = self._as_clips(pixel_values).shape
        patch = self.config.patch_size
        return frames // self.config.tubelet_size, height // patch, width // patch

    def _as_clips(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return images (B, C, H, W) as clips of one frame, for models of one frame; anything else as it is."""
        return pixel_values.unsqueeze(1) if pixel_values.ndim == 4 and self.config.num_frames == 1 else pixel_values

    def _check_size(self, pixel_values: torch.Tensor, any_size: bool) -> None:
        config, shape = self.config, tuple(pixel_values.shape)
        tubelet, patch = config.tubelet_size, config.patch_size
        expected = self.clip_shape
        is_divisible = len(shape) == 5 and not (shape[1] % tubelet or shape[3] % patch or shape[4] % patch)
        if len(shape) == 5 and shape[1:] == expected or (any_size and is_divisible and shape[2] == expected[1]):
            return
        raise ValueError(
            "`pixel_values` must have shape (clips, frames, channels, height, width) = "
            f"(B, {', '.join(map(str, expected))}), got {shape}. Load the model with other `num_frames` and "
            "`image_size`, or pass `interpolate_pos_encoding=True`, which takes multiples of "
            f"{tubelet} frames and {patch} pixels."
        )

    def normalize(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalise raw uint8 patches (..., P) by mean and std of their channels; pass floats on."""
        if patches.dtype != torch.uint8:
            return patches
        pixels = patches.to(torch.float32).unflatten(-1, (-1, self.config.num_channels))
        return ((pixels / 255 - self.mean) / self.std).flatten(-2)

    def to_unit_range(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the pixels in [0, 1], float32, of patches (..., P) that are raw uint8 or normalised floats."""
        patches_float = patches.to(torch.float32)
        if patches.dtype == torch.uint8:
            return patches_float / 255
        pixels = patches_float.unflatten(-1, (-1, self.config.num_channels))
        return (pixels * self.std + self.mean).flatten(-2)

    def forward(
        self, patches: torch.Tensor, visible_ids: torch.Tensor | None = None, grid: tuple[int, int, int] | None = None
    ) -> torch.Tensor:
        """Embed patches (B, N, P), all of them or those at `visible_ids` (B, n), to tokens (B, n, D).

        A class token comes first where the model has one. Where the patches have another `grid` than the config's, the
        position table is interpolated to it.
        """
        if visible_ids is not None:  # before anything is computed: masked patches cost nothing
            if len(visible_ids) != len(patches):  # `gather` would silently take the first ones
                raise ValueError(f"There are {len(patches)} clips, but masks or ids of {len(visible_ids)}.")
            patches = gather_tokens(patches, visible_ids)
        pixels = self.normalize(patches)
        # The dtype that the projection computes in. Adapters and quantisers may have replaced it: int8 and float8 are
        # how a weight is stored, and a layer without parameters casts by itself.
        for parameter in self.projection.parameters():
            if parameter.is_floating_point() and parameter.dtype.itemsize >= 2:
                pixels = pixels.to(parameter.dtype)
                break
        tokens = self.projection(pixels)
        table = None
        if grid not in (None, self.grid_size):
            table = interpolate_position_table(self.position.table, self.grid_size, grid)
        tokens = tokens + self.position(visible_ids, tokens, table)  # (B, n, D) + (B, n, D), or (N, D) for all
        if self.class_token is None:
            return tokens
        class_token = self.position.add_to_class_token(self.class_token.to(tokens.dtype))
        return torch.cat([class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


class AMDDecoder(nn.Module):
    """Pixel decoder: predicts the patch vectors of the hidden tokens from the encoder's visible ones (VideoMAE).

    With `config.use_decoder_class_token` the encoder's class token takes part in it, as in MAE.
    """

    def __init__(self, config: AMDConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.num_prefix_tokens = int(config.use_class_token)
        self.keeps_prefix = config.use_decoder_class_token
        self.embed = nn.Linear(config.hidden_size, width, bias=config.decoder_embed_bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = AMDPositionTable(
            config.grid_size, width, config.decoder_position_embedding, config.use_decoder_class_token
        )
        self.layers = nn.ModuleList(
            AMDLayer(config, width, config.decoder_num_attention_heads, 4 * width)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.patch_dim)

    def forward(self, tokens: torch.Tensor, split: TokenSplit) -> torch.Tensor:
        """Predict patches (B, X + M, P) of `split.masked` from visible tokens (B, V, D), behind any class token."""
        prefix, visible = self.embed(tokens).tensor_split([self.num_prefix_tokens], dim=1)
        visible = visible + self.position(split.visible, like=visible)
        # (1, 1, D) + (B, X + M, D): one mask token for all, which differ by their positions
        masked = self.mask_token.to(visible.dtype) + self.position(split.masked, like=visible)
        parts = [self.position.add_to_class_token(prefix)] if self.keeps_prefix else []
        hidden_states = torch.cat([*parts, visible, masked], dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        # Only hidden tokens are predicted: the visible ones have served as context.
        return self.head(self.norm(hidden_states[:, -split.masked.shape[1] :]))


class AMDGenerator(nn.Module):
    """Generator of the teacher's features on tokens that only it sees, from the aligned ones of those both see."""

    def __init__(self, config: AMDConfig):
        super().__init__()
        width = config.teacher_hidden_size
        # A parameter, unlike in the released code, where it is never trained, saved or moved.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(
            AMDLayer(config, width, config.generator_heads, 4 * width)
            for _ in range(config.generator_num_hidden_layers)
        )

    def forward(self, aligned: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Turn (B, V, teacher width) and the positions (B, V + X, teacher width), V first, into features on X."""
        num_visible = aligned.shape[1]
        visible = aligned + positions[:, :num_visible]
        generated = self.mask_token.to(aligned.dtype) + positions[:, num_visible:]
        hidden_states = torch.cat([visible, generated], dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states[:, num_visible:]


class AMDAlignment(nn.Module):
    """Projections of student features to the teacher's width, and generators of those of tokens the student never saw.

    There is one projection per student layer, whether the layer is aligned directly, by generation, or both; with
    `alignment_mode="parallel"` generation has projections of its own.
    """

    def __init__(self, config: AMDConfig):
        super().__init__()
        self.direct_layers = tuple(config.student_direct_layers)
        self.generation_layers = tuple(config.student_generation_layers)
        width = config.teacher_hidden_size
        is_serial = config.alignment_mode == "serial"

        def projections(layers: Iterable[int]) -> nn.ModuleDict:
            return nn.ModuleDict({str(layer): nn.Linear(config.hidden_size, width, bias=False) for layer in layers})

        self.projections = projections(self.layers_used if is_serial else self.direct_layers)
        self.generation_projections = None if is_serial else projections(self.generation_layers)
        self.generators = nn.ModuleDict({str(layer): AMDGenerator(config) for layer in self.generation_layers})
        kind = "sincos_1d" if config.position_embedding == "stored" else config.position_embedding
        self.position = AMDPositionTable(config.grid_size, width, kind)

    @property
    def layers_used(self) -> list[int]:
        """The student layers whose features are needed, in rising order."""
        return sorted({*self.direct_layers, *self.generation_layers})

    def forward(
        self, features: dict[int, torch.Tensor], split: TokenSplit
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...] | None]:
        """Turn student features {layer: (B, V, D)} into direct and generated ones, (B, V or X, teacher width)."""
        # Direct alignment: each student layer through its own linear map to the teacher's width.
        projected = {int(layer): project(features[int(layer)]) for layer, project in self.projections.items()}
        direct = tuple(projected[layer] for layer in self.direct_layers)
        if split.teacher_only is None:
            return direct, None
        # Generation starts from the aligned features (serial), or from maps of its own (parallel).
        starts = projected
        if self.generation_projections is not None:
            starts = {int(n): project(features[int(n)]) for n, project in self.generation_projections.items()}
        if split.teacher_only.shape[1] == 0:  # equal masks: nothing to generate
            return direct, tuple(starts[layer][:, :0] for layer in self.generation_layers)
        # The positions of V and then X serve all layers: sine-cosine of the teacher's width.
        token_ids = torch.cat([split.visible, split.teacher_only], dim=1)
        positions = self.position(token_ids, like=next(iter(projected.values())))
        generated = tuple(self.generators[str(layer)](starts[layer], positions) for layer in self.generation_layers)
        return direct, generated


class AMDPreTrainedModel(PreTrainedModel):
    """Base of all AMD models: what they support and how their weights start."""

    config_class = AMDConfig
    base_model_prefix = "amd"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # every loss is a mean over the batch: the Trainer must divide by accumulation steps
    _no_split_modules = ["AMDPatchEmbeddings", "AMDLayer", "AMDGenerator"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": AMDLayer, "attentions": AMDAttention}
    # Set by the models of this file: `save_pretrained` then writes the file beside the weights, as remote code.
    _auto_class: str | None = None
    _uses_xavier_init = False  # Xavier uniform for pre-training, truncated normal elsewhere, as in the released code

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_auto_class" not in vars(cls):  # not inherited: the code of a subclass elsewhere may need more files
            cls._auto_class = None

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as [`~transformers.PreTrainedModel`] does; refuse weights that are not finite.

        Raises:
            ValueError: If a tensor holds NaN or infinite values: every score would be NaN. Names the tensors. Or if an
                index of weights names files outside of the folder.
        """
        source = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if isinstance(source, str | Path):
            _check_shards(Path(source, kwargs.get("subfolder") or ""))
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        _check_finite(model, source)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        config = self.config
        if isinstance(module, AMDPositionTable):
            init.copy_(module.table, module.computed_table())
            if module.class_position is not None:
                init.zeros_(module.class_position)
        elif isinstance(module, AMDPatchEmbeddings):
            for name, values in module.constants().items():
                init.copy_(getattr(module, name), values)
            # A convolution in the released code, left there at PyTorch's default; overrides that of `nn.Linear`.
            bound = config.patch_dim**-0.5
            init.uniform_(module.projection.weight, -bound, bound)
            init.uniform_(module.projection.bias, -bound, bound)
            if module.class_token is not None:
                init.normal_(module.class_token, std=config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, AMDDecoder | AMDGenerator):
            self._init_trunc_normal(module.mask_token, limit=config.initializer_range)
            if isinstance(module, AMDDecoder) and not config.decoder_embed_bias:
                # The released code initialises encoder and decoder, but not what lies between them: it stays at
                # PyTorch's default, half as large as Xavier's. (MAE's, which has a bias, is Xavier's.)
                bound = config.hidden_size**-0.5
                init.uniform_(module.embed.weight, -bound, bound)
        elif isinstance(module, nn.Linear):
            self._init_linear(module)

    def _init_linear(self, module: nn.Linear) -> None:
        if self._uses_xavier_init:
            init.xavier_uniform_(module.weight)
        else:
            self._init_trunc_normal(module.weight, limit=2.0)
        if module.bias is not None:
            init.zeros_(module.bias)

    def _init_head(self, module: nn.Linear) -> None:
        """Scale the head here, in `_init_weights`: one put on an encoder would lose what `__init__` does to it."""
        weights = torch.empty_like(module.weight, device="cpu")
        nn.init.trunc_normal_(weights, std=self.config.initializer_range)
        init.copy_(module.weight, weights * self.config.classifier_init_scale)

    def _init_trunc_normal(self, tensor: torch.Tensor, limit: float) -> None:
        init.trunc_normal_(tensor, mean=0.0, std=self.config.initializer_range, a=-limit, b=limit)


def _check_shards(folder: Path) -> None:
    """Refuse an index of weights that names files of another folder: Transformers opens whatever it says."""
    for path in sorted(folder.glob("*.index.json")) if folder.is_dir() else ():
        try:
            named = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no index of weights: it is damaged.") from error
        outside = sorted({str(name) for name in named if Path(str(name)).name != name or "\\" in name})
        if outside:
            raise ValueError(f"{path} names weights outside of the folder: {', '.join(outside[:5])}.")


def _check_finite(model: nn.Module, source: Any) -> None:
    """Read every weight once, as the first forward pass would: 15 ms for ViT-B, beside the reading itself."""
    spoilt = [
        name
        for name, value in model.state_dict().items()
        for tensor in _stored_tensors(value)
        # float8 of quantized models has no infinity, and PyTorch no test for its NaN
        if tensor.is_floating_point() and tensor.itemsize > 1 and not tensor.is_meta
        # A sum is quick, and finite only where every term is; one that overflows is looked at value by value.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all())
    ]
    if spoilt:
        more = f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else ""
        where = "The state dict" if source is None else f"The checkpoint {source}"
        raise ValueError(
            f"{where} holds NaN or infinite values in {', '.join(spoilt[:5])}{more}: every score would be NaN. It was "
            "damaged, or its training had diverged; take an earlier checkpoint."
        )


def _stored_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield what an entry of a state dict stores: of a quantised weight its integers and its scales."""
    if hasattr(value, "__tensor_flatten__"):  # torch's protocol of tensors made of others; they may not know `sum`
        for name in value.__tensor_flatten__()[0]:
            yield from _stored_tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value


class AMDModel(AMDPreTrainedModel):
    """The video transformer encoder, on all tokens of a clip or on the visible ones only.

    Args:
        config ([`AMDConfig`]): Sizes.
        use_xavier_init (`bool`, *optional*, defaults to `False`): Initialise as for pre-training.
    """

    _auto_class = "AutoModel"
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^alignment\.", r"^fc_norm\.", r"^classifier\."]

    def __init__(self, config: AMDConfig, use_xavier_init: bool = False):
        super().__init__(config)
        self._uses_xavier_init = use_xavier_init
        self.embeddings = AMDPatchEmbeddings(config)
        rate_step = config.drop_path_rate / max(config.num_hidden_layers - 1, 1)
        self.layers = nn.ModuleList(
            AMDLayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size, i * rate_step)
            for i in range(config.num_hidden_layers)
        )
        if config.use_final_norm:
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    def patch_tokens(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the hidden states `(B, n, D)` of the patches alone, without the class token."""
        return hidden_states[:, int(self.config.use_class_token) :]

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        num_masked: int | None = None,
        feature_layers: Sequence[int] = (),
        interpolate_pos_encoding: bool = False,
        visible_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> AMDModelOutput:
        r"""Encode clips.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`):
                Normalised floats, or raw uint8. All models of one frame take images `(B, C, H, W)` too.
            bool_masked_pos (`torch.BoolTensor` of shape `(B, N)`, *optional*):
                `True` hides a token. Every row must hide the same number.
            num_masked (`int`, *optional*):
                That number. When given, nothing has to be read back from the device; under `torch.compile` it defaults
                to what `config.student_mask_ratio` means.
            feature_layers (`Sequence[int]`, *optional*): Layers, from 1, whose raw outputs go into `layer_features`.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Take clips of another size than the config's and interpolate the position table to their grid. (To have
                the table computed for another size, as the released code does, load the model with that size.)
            visible_ids (`torch.LongTensor` of shape `(B, n)`, *optional*):
                Instead of a mask, the ids of the tokens that are seen, in the order of the outputs.

        Raises:
            ValueError: If the clip is not of the size in the config or the rows of the mask hide different numbers.
        """
        patches = self.embeddings.patchify(pixel_values, any_size=interpolate_pos_encoding)
        if bool_masked_pos is not None:
            num_masked = count_masked(
                bool_masked_pos, num_masked, patches.shape[1],
                lambda: self.config.num_masked_patches(self.config.student_mask_ratio), "bool_masked_pos",
            )  # fmt: skip
            visible_ids, _ = split_tokens(bool_masked_pos, num_masked)
        grid = self.embeddings.grid_of(pixel_values)
        return self.encode(patches, visible_ids, feature_layers, grid, **kwargs)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def encode(
        self,
        patches: torch.Tensor,
        visible_ids: torch.Tensor | None = None,
        feature_layers: Sequence[int] = (),
        grid: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ) -> AMDModelOutput:
        r"""Encode patches that are already cut: `(B, N, P)`, of which those at `visible_ids` `(B, n)` are seen."""
        hidden_states = self.embeddings(patches, visible_ids, grid)
        layer_features = {}
        for number, layer in enumerate(self.layers, start=1):
            hidden_states = layer(hidden_states)
            if number in feature_layers:
                layer_features[number] = self.patch_tokens(hidden_states)
        if self.config.use_final_norm:
            hidden_states = self.norm(hidden_states)
        return AMDModelOutput(last_hidden_state=hidden_states, layer_features=layer_features or None)


class AMDForPreTraining(AMDPreTrainedModel):
    """Encoder, pixel decoder and, where `config.teacher_hidden_size` is given, the alignment modules."""

    _auto_class = "AutoModelForPreTraining"
    _uses_xavier_init = True

    def __init__(self, config: AMDConfig):
        config = _with_final_norm(config, True)
        super().__init__(config)
        self.num_patches = config.num_patches
        self.amd = AMDModel(config, use_xavier_init=True)
        self.decoder = AMDDecoder(config)
        self.alignment = AMDAlignment(config) if config.teacher_hidden_size is not None else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor,
        teacher_bool_masked_pos: torch.Tensor | None = None,
        num_masked: int | None = None,
        num_teacher_masked: int | None = None,
        **kwargs: Any,
    ) -> AMDForPreTrainingOutput:
        r"""Reconstruct the masked pixels and, with alignment modules, predict the teacher's features.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): Normalised floats, or raw uint8.
            bool_masked_pos (`torch.BoolTensor` of shape `(B, N)`): `True` hides a token from the student.
            teacher_bool_masked_pos (`torch.BoolTensor` of shape `(B, N)`, *optional*):
                `True` hides a token from the teacher; hides only tokens that the student's mask hides.
            num_masked, num_teacher_masked (`int`, *optional*):
                Tokens that each row of the masks hides. When given, nothing has to be read back from the device; under
                `torch.compile` they default to what the config's ratios mean.

        Raises:
            ValueError: If the clip is not of the config's size, a mask's rows hide different numbers of tokens, the
                student's mask hides nothing, or the teacher's hides a token that the student sees.
        """
        # Patches are cut once, for the embedding and for the target; the encoder sees V alone.
        split = self.token_split(bool_masked_pos, teacher_bool_masked_pos, num_masked, num_teacher_masked)
        patches = self.amd.embeddings.patchify(pixel_values)
        layers = self.alignment.layers_used if self.alignment is not None else ()
        outputs = self.amd.encode(patches, split.visible, layers, return_dict=True, **kwargs)
        logits = self.decoder(outputs.last_hidden_state, split)
        target = self.reconstruction_target(gather_tokens(patches, split.masked))
        loss = F.mse_loss(logits.float(), target)  # in float32 whatever the model computes in
        direct = generated = None
        if self.alignment is not None:
            direct, generated = self.alignment(outputs.layer_features, split)
        return AMDForPreTrainingOutput(
            loss=loss,
            logits=logits,
            direct_features=direct,
            generated_features=generated,
            losses={"reconstruction": loss},
            token_split=split,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def reconstruction_target(self, patches: torch.Tensor) -> torch.Tensor:
        """Return what the decoder should predict, float32 (B, n, P), for patches (B, n, P), raw uint8 or normalised.

        `config.reconstruction_target` "videomae": pixels in [0, 1], and with `config.norm_pix_loss` each channel of
        each patch normalised by its own mean and unbiased variance: (x - mean) / (sqrt(var) + 1e-6). "mae": normalised
        pixels, and all channels of a patch together: (x - mean) / sqrt(var + 1e-6). Each as in its released code.
        """
        if self.config.reconstruction_target == "mae":
            pixels = self.amd.embeddings.normalize(patches).to(torch.float32)
            if not self.config.norm_pix_loss:
                return pixels
            variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True)
            return (pixels - mean) / (variance + 1e-6).sqrt()
        pixels = self.amd.embeddings.to_unit_range(patches)
        if not self.config.norm_pix_loss:
            return pixels
        pixels = pixels.unflatten(-1, (-1, self.config.num_channels))  # (B, n, P) -> (B, n, P / C, C)
        variance, mean = torch.var_mean(pixels, dim=-2, keepdim=True)
        return ((pixels - mean) / (variance.sqrt() + 1e-6)).flatten(-2)

    def token_split(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor | None = None,
        num_masked: int | None = None,
        num_teacher_masked: int | None = None,
    ) -> TokenSplit:
        """Check the masks `(B, N)` of student and teacher and turn them into ids; see `forward` for the arguments."""
        config, total = self.config, self.num_patches
        is_trusted = None not in (num_masked, num_teacher_masked) and student.device.type != "cpu"
        num_masked = count_masked(
            student, num_masked, total, lambda: config.num_masked_patches(config.student_mask_ratio), "bool_masked_pos"
        )
        if not 0 < num_masked < total:
            what = "no token: there is nothing to reconstruct" if num_masked == 0 else "every token"
            raise ValueError(f"`bool_masked_pos` hides {what} (row 0 hides {num_masked} of {total}).")
        visible, masked = split_tokens(student, num_masked)
        if teacher is None:
            return TokenSplit(visible, masked)
        if teacher.shape != student.shape:
            raise ValueError(
                f"`teacher_bool_masked_pos` must have the shape of `bool_masked_pos` {tuple(student.shape)}, got "
                f"{tuple(teacher.shape)}."
            )
        num_teacher_masked = count_masked(
            teacher, num_teacher_masked, total,
            lambda: config.num_masked_patches(config.teacher_mask_ratio), "teacher_bool_masked_pos",
        )  # fmt: skip
        if not is_trusted and not torch.compiler.is_compiling():
            for row, count in enumerate((teacher & ~student).sum(dim=1).tolist()):
                if count:
                    raise ValueError(
                        f"`teacher_bool_masked_pos` must hide only what the student's mask hides: in row {row} it "
                        f"hides {count} tokens that the student sees (student hides {int(student[row].sum())}, "
                        f"teacher {int(teacher[row].sum())})."
                    )
        # What the teacher does not see the student does not see either: X and M are found among the masked tokens.
        teacher_only, hidden = split_tokens(teacher.gather(1, masked), num_teacher_masked)
        return TokenSplit(visible, masked, masked.gather(1, teacher_only), masked.gather(1, hidden))


def classification_loss(labels: torch.Tensor, logits: torch.Tensor, config: AMDConfig, **_: Any) -> torch.Tensor:
    """Compute the loss of a classifier, a mean in float32: Transformers' for `config.problem_type`, and soft targets.

    Args:
        labels (`torch.Tensor`): By `config.problem_type`:
            `None` or `"single_label_classification"`: class numbers `(B,)`, or soft targets `(B, num_labels)`, floats
            whose rows sum to 1, for the cross-entropy; `"multi_label_classification"`: `(B, num_labels)` of 0 and 1,
            for the binary one; `"regression"`: `(B, num_labels)`, or `(B,)` for one label, for the squared error.
        logits (`torch.Tensor` of shape `(B, num_labels)`): Scores.
        config ([`AMDConfig`]): Says which loss.

    Raises:
        ValueError: If the labels have another shape; if floats without a `problem_type` are no soft targets (looked at
            on the CPU alone, where that makes nobody wait).
    """
    logits, labels, shape = logits.float(), labels.to(logits.device), tuple(logits.shape)
    problem = "regression" if config.problem_type is None and shape[1] == 1 else config.problem_type
    is_of_classes = problem in (None, "single_label_classification")
    if is_of_classes and not labels.is_floating_point() and labels.numel() == shape[0]:
        return F.cross_entropy(logits, labels.reshape(-1).long())
    if shape[1] == 1 and labels.numel() == shape[0]:
        labels = labels.reshape(shape)
    if tuple(labels.shape) != shape or (is_of_classes and not labels.is_floating_point()):
        wanted = f"class numbers of shape ({shape[0]},) or soft targets of shape {shape}" if is_of_classes else shape
        raise ValueError(
            f"`labels` for `problem_type` {problem!r} must be {wanted}, got {labels.dtype} {tuple(labels.shape)}."
        )
    labels = labels.float()
    if problem is None and labels.device.type == "cpu" and not torch.compiler.is_compiling():
        total = max(labels.detach().sum(dim=1).tolist(), key=lambda total: abs(total - 1), default=1.0)
        if abs(total - 1) > 0.05:  # several ones, or none: bf16 loses much less
            raise ValueError(
                f"`labels` of floats are soft targets whose rows sum to 1, but one sums to {total:g}. Where several "
                'classes can be right at once, set `problem_type="multi_label_classification"` in the config; for the '
                'cross-entropy as it is, "single_label_classification".'
            )
    losses = {"regression": F.mse_loss, "multi_label_classification": F.binary_cross_entropy_with_logits}
    return losses.get(problem, F.cross_entropy)(logits, labels)


class AMDForVideoClassification(AMDPreTrainedModel):
    """Encoder without its final LayerNorm, mean of the patch tokens, `fc_norm` and a linear classifier.

    With `config.pooling` "class_token" the class token replaces the mean.
    """

    _auto_class = "AutoModelForVideoClassification"
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^alignment\.", r"^amd\.norm\."]

    def __init__(self, config: AMDConfig):
        config = _with_final_norm(config, False)
        if config.problem_type is None and config.num_labels == 1:  # as the library has it
            config = copy.deepcopy(config)
            config.problem_type = "regression"
        super().__init__(config)
        self.num_labels = config.num_labels
        self.loss_function = classification_loss
        self.amd = AMDModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.classifier:
            self._init_head(module)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        r"""Classify clips.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): Normalised floats, or raw uint8.
            labels (`torch.Tensor` of shape `(B,)`, int64, or `(B, num_labels)`, float, *optional*):
                What `config.problem_type` says; see [`classification_loss`], which refuses others.
        """
        outputs = self.amd(pixel_values, return_dict=True, **kwargs)
        tokens = outputs.last_hidden_state
        takes_mean = self.config.pooling == "mean"
        pooled = self.fc_norm(self.amd.patch_tokens(tokens).mean(dim=1) if takes_mean else tokens[:, 0])
        logits = self.classifier(self.dropout(pooled))
        loss = self.loss_function(labels, logits, self.config, **kwargs) if labels is not None else None
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class AMDForImageClassification(AMDForVideoClassification):
    """The classifier of images, which are clips of one frame: `pixel_values` `(B, C, H, W)` or `(B, 1, C, H, W)`."""

    _auto_class = "AutoModelForImageClassification"
    input_modalities = ("image",)

    def __init__(self, config: AMDConfig):
        if config.num_frames != 1:
            raise ValueError(f"An image is a clip of one frame: `num_frames` must be 1, got {config.num_frames}.")
        super().__init__(config)


def _with_final_norm(config: AMDConfig, use_final_norm: bool) -> AMDConfig:
    """Return the config itself, or a copy in which the final LayerNorm is switched as the model needs it."""
    if config.use_final_norm == use_final_norm:
        return config
    config = copy.deepcopy(config)
    config.use_final_norm = use_final_norm
    return config


__all__ = [
    "AMDForImageClassification",
    "AMDForPreTraining",
    "AMDForVideoClassification",
    "AMDModel",
    "AMDPreTrainedModel",
]
