"""The method once more, as plainly as it can be said: clip by clip, head by head, with loops and boolean masks.

Nothing here comes from the package. Works on state dicts with official names, so tensors that require gradients give
the gradients of official parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


Tensors = dict[str, torch.Tensor]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Sizes:
    """What the tensors do not tell."""

    heads: int
    decoder_heads: int
    generator_heads: int
    teacher_heads: int
    student_direct: list[int]
    student_generation: list[int]
    teacher_direct: list[int]
    teacher_generation: list[int]
    loss: str = "l2"
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    norm_pix_loss: bool = True
    teacher_feature_norm: bool = False
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    eps: float = 1e-6


@dataclass
class Step:
    """Everything a pre-training step computes, clips stacked."""

    direct_student: list[torch.Tensor] = field(default_factory=list)
    direct_teacher: list[torch.Tensor] = field(default_factory=list)
    generated_student: list[torch.Tensor] = field(default_factory=list)
    generated_teacher: list[torch.Tensor] = field(default_factory=list)
    prediction: torch.Tensor | None = None
    target: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    total: torch.Tensor | None = None


def sinusoids(num_positions: int, width: int) -> torch.Tensor:
    rows = []
    for position in range(num_positions):
        angles = [position / 10000 ** (2 * (j // 2) / width) for j in range(width)]
        rows.append([math.cos(angle) if j % 2 else math.sin(angle) for j, angle in enumerate(angles)])
    return torch.tensor(rows, dtype=torch.float64).float()


def depth(tensors: Tensors, prefix: str) -> int:
    number = 0
    while f"{prefix}blocks.{number}.norm1.weight" in tensors:
        number += 1
    return number


def _norm(x: torch.Tensor, tensors: Tensors, name: str, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / deviation * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _attention(x: torch.Tensor, tensors: Tensors, name: str, heads: int) -> torch.Tensor:
    width = x.shape[-1]
    query_weight, key_weight, value_weight = tensors[f"{name}.qkv.weight"].split(width)
    query = x @ query_weight.T + tensors[f"{name}.q_bias"]
    key = x @ key_weight.T
    value = x @ value_weight.T + tensors[f"{name}.v_bias"]
    size = width // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        outputs.append(weights @ value[:, part])
    return torch.cat(outputs, dim=-1) @ tensors[f"{name}.proj.weight"].T + tensors[f"{name}.proj.bias"]


def _block(x: torch.Tensor, tensors: Tensors, name: str, heads: int, eps: float) -> torch.Tensor:
    x = x + _attention(_norm(x, tensors, f"{name}.norm1", eps), tensors, f"{name}.attn", heads)
    hidden = _norm(x, tensors, f"{name}.norm2", eps) @ tensors[f"{name}.mlp.fc1.weight"].T
    hidden = hidden + tensors[f"{name}.mlp.fc1.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + hidden @ tensors[f"{name}.mlp.fc2.weight"].T + tensors[f"{name}.mlp.fc2.bias"]


def encode(
    tensors: Tensors, prefix: str, frames: torch.Tensor, visible: torch.Tensor, heads: int, eps: float = 1e-6
) -> list[torch.Tensor]:
    """Raw outputs (visible, D) of all blocks for one normalised clip (T, C, H, W)."""
    weight = tensors[f"{prefix}patch_embed.proj.weight"]  # the convolution of the released code
    grid = F.conv3d(frames.transpose(0, 1)[None], weight, tensors[f"{prefix}patch_embed.proj.bias"], weight.shape[2:])
    tokens = grid[0].flatten(1).T
    x = (tokens + sinusoids(*tokens.shape))[visible]
    outputs = []
    for layer in range(depth(tensors, prefix)):
        x = _block(x, tensors, f"{prefix}blocks.{layer}", heads, eps)
        outputs.append(x)
    return outputs


def patch_vectors(frames: torch.Tensor, tubelet: int, patch: int, normalise: bool) -> torch.Tensor:
    """(T, C, H, W) in [0, 1] to one vector a token, flattened (frame, row, column, channel)."""
    num_frames, channels, height, width = frames.shape
    vectors = []
    for time in range(0, num_frames, tubelet):
        for top in range(0, height, patch):
            for left in range(0, width, patch):
                box = frames[time : time + tubelet, :, top : top + patch, left : left + patch]
                pixels = torch.stack([box[:, channel].flatten() for channel in range(channels)], dim=1)
                if normalise:
                    pixels = (pixels - pixels.mean(0)) / (pixels.var(0, unbiased=True).sqrt() + 1e-6)
                vectors.append(pixels.flatten())
    return torch.stack(vectors)


def _generate(
    aligned: torch.Tensor, tensors: Tensors, position: int, table: torch.Tensor, masks: tuple, sizes: Sizes
) -> torch.Tensor:
    student, teacher = masks
    visible = aligned + table[~student]
    wanted = tensors[f"generator_mask_tokens.{position}"][0] + table[student & ~teacher]
    x = torch.cat([visible, wanted])
    for layer in range(depth(tensors, f"generators.{position}.")):
        x = _block(x, tensors, f"generators.{position}.blocks.{layer}", sizes.generator_heads, sizes.eps)
    return x[len(visible) :]


def _decode(last: torch.Tensor, tensors: Tensors, student: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    x = _norm(last, tensors, "encoder.norm", sizes.eps) @ tensors["encoder_to_decoder.weight"].T
    table = sinusoids(len(student), x.shape[-1])
    x = torch.cat([x + table[~student], tensors["mask_token"][0] + table[student]])
    for layer in range(depth(tensors, "decoder.")):
        x = _block(x, tensors, f"decoder.blocks.{layer}", sizes.decoder_heads, sizes.eps)
    x = _norm(x[-int(student.sum()) :], tensors, "decoder.norm", sizes.eps)
    return x @ tensors["decoder.head.weight"].T + tensors["decoder.head.bias"]


def _distance(ours: torch.Tensor, theirs: torch.Tensor, kind: str) -> torch.Tensor:
    difference = (ours - theirs).abs()
    if kind == "l1":
        return difference.mean()
    if kind == "l2":
        return difference.square().mean()
    return torch.where(difference < 1, 0.5 * difference.square(), difference - 0.5).mean()


def _one_clip(
    student_tensors: Tensors, teacher_tensors: Tensors, clip: torch.Tensor, masks: tuple, sizes: Sizes
) -> dict[str, list[torch.Tensor]]:
    student, teacher = masks
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (sizes.mean, sizes.std))
    pixels = clip / 255
    frames = (pixels - mean) / std
    ours = encode(student_tensors, "encoder.", frames, ~student, sizes.heads, sizes.eps)
    with torch.no_grad():
        theirs = encode(teacher_tensors, "", frames, ~teacher, sizes.teacher_heads, sizes.eps)
        if sizes.teacher_feature_norm:
            theirs = [
                (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                for x in theirs
            ]
    also_seen_by_student = ~student[~teacher]  # among the tokens that the teacher sees
    project = [
        student_tensors[f"encoder.projection_heads.{position}.weight"].T
        for position in range(max(len(sizes.student_direct), len(sizes.student_generation)))
    ]
    table = sinusoids(len(student), teacher_tensors["patch_embed.proj.bias"].shape[0])
    tubelet, patch = student_tensors["encoder.patch_embed.proj.weight"].shape[2:4]
    target = patch_vectors(pixels, tubelet, patch, sizes.norm_pix_loss)
    return {
        "direct_student": [ours[layer - 1] @ project[i] for i, layer in enumerate(sizes.student_direct)],
        "direct_teacher": [theirs[layer - 1][also_seen_by_student] for layer in sizes.teacher_direct],
        "generated_student": [
            _generate(ours[layer - 1] @ project[i], student_tensors, i, table, masks, sizes)
            for i, layer in enumerate(sizes.student_generation)
        ],
        "generated_teacher": [theirs[layer - 1][~also_seen_by_student] for layer in sizes.teacher_generation],
        "prediction": [_decode(ours[-1], student_tensors, student, sizes)],
        "target": [target[student]],
    }


def pretraining_step(
    student_tensors: Tensors,
    teacher_tensors: Tensors,
    clips: torch.Tensor,
    student_masks: torch.Tensor,
    teacher_masks: torch.Tensor,
    sizes: Sizes,
) -> Step:
    """One step on uint8 clips (B, T, C, H, W); `student_tensors` holds `generator_mask_tokens.{i}` as well."""
    parts = [
        _one_clip(student_tensors, teacher_tensors, clip, masks, sizes)
        for clip, *masks in zip(clips, student_masks, teacher_masks, strict=True)
    ]
    stacked = {
        name: [torch.stack([part[name][i] for part in parts]) for i in range(len(parts[0][name]))] for name in parts[0]
    }
    step = Step(**{**stacked, "prediction": stacked["prediction"][0], "target": stacked["target"][0]})
    step.losses = {"reconstruction": (step.prediction - step.target).square().mean()}
    for name, ours, theirs in (
        ("direct", step.direct_student, step.direct_teacher),
        ("generation", step.generated_student, step.generated_teacher),
    ):
        distances = [_distance(one, other, sizes.loss) for one, other in zip(ours, theirs, strict=True)]
        step.losses[name] = sum(distances) / len(distances)
    step.total = sum(weight * loss for weight, loss in zip(sizes.weights, step.losses.values(), strict=True))
    return step
