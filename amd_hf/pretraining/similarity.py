"""How alike the features of student and teacher are, layer by layer: linear centred kernel alignment (CKA).

Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) compares features X (n, d) and Y (n, e) of the same n tokens, each
column centred: |Y'X|^2 / (|X'X| |Y'Y|) with Frobenius norms. It is 1 where one is a rotation of the other, scaled as a
whole, and near 0 where they have nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from ..data.datasets.own import as_video_rows
from ..data.loaders import build_eval_loader
from ..teachers.frozen import FrozenTeacher


def cka_matrix(first: Mapping[int, torch.Tensor], second: Mapping[int, torch.Tensor]) -> np.ndarray:
    """Compute linear CKA of every layer of one encoder with every layer of another, float64 `(layers, other layers)`.

    Values lie between 0 and 1; 0 where one of two layers is the same for all tokens.

    Args:
        first, second (`Mapping[int, torch.Tensor]`): Layer -> features `(n, d)` of the same n tokens.

    Raises:
        ValueError: If they are not matrices of as many rows, at least two.
    """
    shapes = {tuple(features.shape) for features in (*first.values(), *second.values())}
    if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(f"Features must be matrices (tokens, width) of the same tokens, got shapes {sorted(shapes)}.")
    if min(shape[0] for shape in shapes) < 2:
        raise ValueError("Features of one token cannot be compared: give at least two.")
    # Of each layer alone, |X'X| is needed once, whatever it is compared with.
    others = {layer: _centred(features) for layer, features in second.items()}
    other_norms = {layer: _cross(features, features) for layer, features in others.items()}
    found = np.zeros((len(first), len(second)))
    for row, raw in enumerate(first.values()):
        features = _centred(raw)
        norm = _cross(features, features)
        for column, (layer, other) in enumerate(others.items()):
            # |Y'X|^2 / (|X'X| |Y'Y|); 0 where a layer is the same for all tokens
            scale = norm * other_norms[layer]
            found[row, column] = _cross(features, other) ** 2 / scale if scale else 0.0
    return found


def _centred(features: torch.Tensor) -> torch.Tensor:
    """Centre columns and scale all to a largest value of 1: no CKA changes, and squares of squares stay in range."""
    # float64: the mean of thousands of similar numbers, then their differences, would lose too many digits.
    centred = features.double() - features.double().mean(dim=0)
    largest = centred.abs().max()
    # What is left of constant columns is rounding.
    return torch.zeros_like(centred) if largest <= 1e-12 * features.abs().max() else centred / largest


def _cross(first: torch.Tensor, second: torch.Tensor) -> float:
    # (n, d), (n, e) -> (d, e), not (n, n): widths are hundreds, tokens are tens of thousands.
    return torch.linalg.matrix_norm(first.T @ second).item()


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """Linear CKA of every student layer with every teacher layer.

    Args:
        cka (`np.ndarray`): float64 `(student layers, teacher layers)`.
        student_layers, teacher_layers (`tuple[int, ...]`): Layers of its rows and columns; they count from 1.
        aligned (`tuple[tuple[int, int], ...]`): Pairs (student layer, teacher layer) that the loss aligns.
        num_clips, num_tokens (`int`): What it was computed on.
        unreadable (`tuple[tuple[str, str], ...]`): (video_id, reason) of videos that were left out.
    """

    cka: np.ndarray
    student_layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    aligned: tuple[tuple[int, int], ...]
    num_clips: int
    num_tokens: int
    unreadable: tuple[tuple[str, str], ...] = ()

    def at(self, student_layer: int, teacher_layer: int) -> float:
        """Return the CKA of a pair of layers."""
        row, column = self.student_layers.index(student_layer), self.teacher_layers.index(teacher_layer)
        return float(self.cka[row, column])

    def metrics(self) -> dict[str, float]:
        """Return the CKA of the aligned pairs, as `cka_student_6_teacher_12`."""
        return {f"cka_student_{ours}_teacher_{theirs}": self.at(ours, theirs) for ours, theirs in self.aligned}

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for a JSON file."""
        return {
            "cka": self.cka.tolist(),
            "student_layers": list(self.student_layers),
            "teacher_layers": list(self.teacher_layers),
            "aligned": [list(pair) for pair in self.aligned],
            "num_clips": self.num_clips,
            "num_tokens": self.num_tokens,
            "unreadable": [{"video_id": video_id, "reason": reason} for video_id, reason in self.unreadable],
        }


@torch.no_grad()
def layer_similarity(
    student: nn.Module,
    teacher: FrozenTeacher,
    rows: Any,
    collator: Callable,
    accelerator: Accelerator,
    *,
    max_clips: int = 32,
    batch_size: int = 8,
) -> LayerSimilarity:
    """Compare the raw block outputs of student and teacher on held-out clips, each as in pre-training: masked.

    The student sees its visible tokens, the teacher its own, which are more; compared are the tokens that both see.
    Every process does the same, so that it works with models that are spread over them. Features are kept on the CPU:
    for ViT-B and ViT-L about 20 MiB a clip.

    Args:
        student ([`AMDModel`] or [`AMDForPreTraining`]): The student.
        teacher (`FrozenTeacher`): The teacher.
        rows (`datasets.Dataset`, *optional*): Of them `max_clips`, spread evenly; of a stream the first ones.
        collator (`Callable`): Gives uint8 clips and both masks, as a `PreTrainingCollator` with `training=False` does.
        accelerator (`accelerate.Accelerator`): Device and precision.
        max_clips (`int`, *optional*, defaults to 32): Videos to take; one clip is made of each.
        batch_size (`int`, *optional*, defaults to 8): Clips encoded together. It does not change the result.

    Raises:
        ValueError: If no clip can be read, or the collator gives no mask for the teacher.
    """
    student.eval()
    ours: dict[int, list[torch.Tensor]] = {}
    theirs: dict[int, list[torch.Tensor]] = {}
    unreadable: list[tuple[str, str]] = []
    rows = as_video_rows(rows)
    if hasattr(rows, "__len__"):
        # Lists are often sorted by class: the first clips would be of one or two of them.
        chosen = [rows[int(index)] for index in np.linspace(0, len(rows) - 1, min(max_clips, len(rows))).round()]
    else:
        chosen = list(islice(rows, max_clips))
    for batch in build_eval_loader(chosen, batch_size, collator):
        unreadable += batch.get("unreadable", [])
        if batch["pixel_values"] is None:
            continue
        if batch.get("teacher_bool_masked_pos") is None:
            raise ValueError("The collator gives no `teacher_bool_masked_pos`: make its masks with a teacher's.")
        for found, kept in zip(_features(student, teacher, batch, accelerator), (ours, theirs), strict=True):
            for layer, features in found.items():
                # (B, V, D) -> (B * V, D): the tokens of all clips are the rows that CKA compares.
                kept.setdefault(layer, []).append(features.flatten(0, 1).float().cpu())
    if not ours:
        raise ValueError(f"None of the {len(chosen)} held-out videos could be read: {unreadable[:3]}.")
    config = student.config
    direct = zip(config.student_direct_layers, config.teacher_direct_layers, strict=True)
    generation = zip(config.student_generation_layers, config.teacher_generation_layers, strict=True)
    first, second = ({layer: torch.cat(parts) for layer, parts in kept.items()} for kept in (ours, theirs))
    return LayerSimilarity(
        cka_matrix(first, second),
        tuple(first),
        tuple(second),
        tuple(sorted({*direct, *generation})),
        num_clips=len(chosen) - len(unreadable),
        num_tokens=len(next(iter(first.values()))),
        unreadable=tuple(unreadable),
    )


def _features(
    student: nn.Module, teacher: FrozenTeacher, batch: Mapping[str, Any], accelerator: Accelerator
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Return layer -> (B, V, D) of student and of teacher."""
    names = ("pixel_values", "bool_masked_pos", "teacher_bool_masked_pos")
    clips, mask, teacher_mask = (batch[name].to(accelerator.device) for name in names)
    num_masked, num_teacher_masked = (int(batch[name][0].sum()) for name in names[1:])
    with accelerator.autocast():
        outputs = student(clips, mask, num_masked=num_masked, output_hidden_states=True)
        split = student.token_split(mask, teacher_mask, num_masked, num_teacher_masked)
        theirs = teacher.common_features(clips, split)
    # The class token has no counterpart among the common tokens.
    mine = {layer: student.amd.patch_tokens(states) for layer, states in enumerate(outputs.hidden_states[1:], start=1)}
    return mine, theirs
