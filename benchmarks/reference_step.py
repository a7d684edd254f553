"""A pre-training step as the released code takes it, to measure against: every patch of the clip is embedded by a 3-D
convolution and then dropped by a boolean mask, attention is written out, the target is made for all patches, and clips
arrive as normalised floats. Same sizes and losses as `amd_hf.AMDTrainer`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from amd_hf import AMDConfig
from amd_hf.modeling_amd import sincos_position_table


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(self.norm1(x), self.qkv.weight, bias).reshape(batch, count, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, count, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class _Encoder(nn.Module):
    def __init__(self, config: AMDConfig):
        super().__init__()
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.embed = nn.Conv3d(config.num_channels, config.hidden_size, size, size)
        self.register_buffer("position", sincos_position_table(config.num_patches, config.hidden_size)[None])
        self.blocks = nn.ModuleList(
            _Block(config.hidden_size, config.num_attention_heads) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, clips: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        x = self.embed(clips).flatten(2).transpose(1, 2) + self.position.to(clips.dtype)
        x = x[~mask].reshape(len(clips), -1, x.shape[-1])
        features = {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            features[number] = x
        return self.norm(x), features


class _Generator(nn.Module):
    def __init__(self, config: AMDConfig):
        super().__init__()
        width = config.teacher_hidden_size
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(
            _Block(width, config.generator_heads) for _ in range(config.generator_num_hidden_layers)
        )

    def forward(self, visible: torch.Tensor, seen_at: torch.Tensor, wanted_at: torch.Tensor) -> torch.Tensor:
        x = torch.cat([visible + seen_at, self.mask_token + wanted_at], dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, visible.shape[1] :]


class ReferenceStudent(nn.Module):
    """Encoder, decoder, projections and generators."""

    def __init__(self, config: AMDConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.config = config
        self.encoder = _Encoder(config)
        self.layers = sorted({*config.student_direct_layers, *config.student_generation_layers})
        self.projections = nn.ModuleList(
            nn.Linear(config.hidden_size, config.teacher_hidden_size, bias=False) for _ in self.layers
        )
        self.generators = nn.ModuleList(_Generator(config) for _ in config.student_generation_layers)
        self.to_decoder = nn.Linear(config.hidden_size, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", sincos_position_table(config.num_patches, width)[None])
        self.register_buffer(
            "teacher_position", sincos_position_table(config.num_patches, config.teacher_hidden_size)[None]
        )
        self.decoder = nn.ModuleList(
            _Block(width, config.decoder_num_attention_heads) for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, config.patch_dim)

    def forward(
        self, clips: torch.Tensor, mask: torch.Tensor, teacher_mask: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        batch = len(clips)
        encoded, features = self.encoder(clips, mask)
        direct = [projection(features[layer]) for projection, layer in zip(self.projections, self.layers, strict=True)]
        table = self.teacher_position.expand(batch, -1, -1)
        seen_at = table[~mask].reshape(batch, -1, table.shape[-1])
        wanted_at = table[mask & ~teacher_mask].reshape(batch, -1, table.shape[-1])
        generated = [make(aligned, seen_at, wanted_at) for make, aligned in zip(self.generators, direct, strict=True)]
        x = self.to_decoder(encoded)
        table = self.position.expand(batch, -1, -1)
        visible_at = table[~mask].reshape(batch, -1, x.shape[-1])
        masked_at = table[mask].reshape(batch, -1, x.shape[-1])
        x = torch.cat([x + visible_at, self.mask_token + masked_at], dim=1)
        for block in self.decoder:
            x = block(x)
        return self.head(self.norm(x[:, -masked_at.shape[1] :])), direct, generated


@dataclass
class ReferenceStep:
    """Loss of a batch of normalised float clips (B, T, C, H, W) and masks (B, N); True = hidden."""

    student: ReferenceStudent
    teacher: nn.Module

    @classmethod
    def build(cls, config: AMDConfig, teacher: AMDConfig) -> ReferenceStep:
        """Student and teacher with weights at random; the teacher is frozen."""
        return cls(ReferenceStudent(config), _Encoder(teacher).eval().requires_grad_(False))

    def loss(self, clips: torch.Tensor, mask: torch.Tensor, teacher_mask: torch.Tensor) -> torch.Tensor:
        config = self.student.config
        clips = clips.transpose(1, 2)  # (B, C, T, H, W)
        with torch.no_grad():
            target = self._target(clips)[mask].reshape(len(clips), -1, config.patch_dim)
            _, features = self.teacher(clips, teacher_mask)
            common = ~mask[~teacher_mask].reshape(len(clips), -1)
        prediction, direct, generated = self.student(clips, mask, teacher_mask)
        loss = F.mse_loss(prediction.float(), target)
        for layers, ours, chosen in (
            (config.teacher_direct_layers, direct, common),
            (config.teacher_generation_layers, generated, ~common),
        ):
            for layer, feature in zip(layers, ours, strict=True):
                wanted = features[layer][chosen].reshape(feature.shape)
                loss = loss + F.mse_loss(feature.float(), wanted.float()) / len(layers)
        return loss

    def _target(self, clips: torch.Tensor) -> torch.Tensor:
        """Normalised patch vectors of all patches, (B, N, P)."""
        config = self.student.config
        mean = clips.new_tensor(config.image_mean).view(1, -1, 1, 1, 1)
        std = clips.new_tensor(config.image_std).view(1, -1, 1, 1, 1)
        pixels = clips * std + mean
        batch, channels, frames, height, width = pixels.shape
        t, p = config.tubelet_size, config.patch_size
        pixels = pixels.reshape(batch, channels, frames // t, t, height // p, p, width // p, p)
        patches = pixels.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, config.num_patches, t * p * p, channels)
        spread = patches.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
        return ((patches - patches.mean(dim=-2, keepdim=True)) / spread).flatten(-2)
