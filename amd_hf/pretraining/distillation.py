"""Asymmetric masked distillation, the method of the paper (section 3): what each model sees, and the loss.

A clip has N tokens. One random order of them hides most from the student and fewer from the teacher:

    V   seen by both        student encodes it; its features are aligned with the teacher's (direct)
    X   seen by the teacher the student generates the teacher's features for it (generation)
    M   seen by neither     with X: the student reconstructs its pixels

    loss = w_rec * MSE(pixels of X and M)
         + w_dir * mean over layers of distance(projected student features, teacher features) on V
         + w_gen * mean over layers of distance(generated features, teacher features) on X

The student's side of it (projections, generators, decoder, the pixels' part of the loss) is [`AMDForPreTraining`], the
teacher's is [`~amd_hf.teachers.frozen.FrozenTeacher`], and [`~amd_hf.pretraining.trainer.AMDTrainer`] runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration_amd import AMDConfig


LOSS_PARTS = ("reconstruction", "direct", "generation")
ALIGNMENT_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l2": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "cosine": lambda student, teacher: (1 - F.cosine_similarity(student, teacher, dim=-1)).mean(),
}


class MaskGenerator:
    """Generator of the masks of one clip.

    One random order of the patches decides both masks: the student hides the first `int(student_mask_ratio * S)` of
    them, the teacher the first `int(teacher_mask_ratio * S)`, so what the teacher does not see the student does not
    see either. With `mask_type="tube"` S counts the patches of a frame and the order holds for all frames; with
    `"random"` S counts all tokens of the clip.

    Args:
        config ([`AMDConfig`]): Grid, ratios and kind of mask.
        has_teacher (`bool`, *optional*, defaults to `True`): Whether a mask for the teacher is drawn.

    Raises:
        ValueError: If the ratios leave the student no hidden token.
    """

    def __init__(self, config: AMDConfig, has_teacher: bool = True):
        time, rows, columns = config.grid_size
        self._repeats = time if config.mask_type == "tube" else 1
        self._num_positions = config.num_patches // self._repeats
        self.num_masked = config.num_masked_patches(config.student_mask_ratio)
        self.num_teacher_masked = config.num_masked_patches(config.teacher_mask_ratio) if has_teacher else None
        if self.num_masked == 0:
            raise ValueError(
                f"`student_mask_ratio` {config.student_mask_ratio} hides none of the {self._num_positions} positions "
                f"of a {time} x {rows} x {columns} grid: raise the ratio or the number of patches."
            )

    def __call__(self, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw (student mask, teacher mask or `None`), bool tensors of shape (N,) on the CPU, `True` = hidden."""
        # Both take the first of one order: what the teacher does not see the student does not see either.
        order = generator.permutation(self._num_positions)
        student = self._hide(order, self.num_masked)
        teacher = None if self.num_teacher_masked is None else self._hide(order, self.num_teacher_masked)
        return student, teacher

    def _hide(self, order: np.ndarray, num_masked: int) -> torch.Tensor:
        mask = torch.zeros(self._num_positions, dtype=torch.bool)
        mask[torch.from_numpy(order[: num_masked // self._repeats])] = True
        return mask.repeat(self._repeats)  # time is the slowest axis of the raster order


def alignment_loss(
    student_features: Sequence[torch.Tensor],
    teacher_features: Sequence[torch.Tensor],
    kind: str = "l2",
    feature_norm: bool = False,
) -> torch.Tensor:
    """Return the mean over the aligned layers of the distance between student and teacher features.

    Args:
        student_features, teacher_features (`Sequence[torch.Tensor]`):
            One pair per layer: `(B, V, D)` for direct alignment, `(B, X, D)` for generation. Compared in float32.
        kind (`str`, *optional*, defaults to `"l2"`):
            `"l2"` (mean squared error), `"l1"`, `"smooth_l1"`, or `"cosine"` (1 - cosine of their angle, per token).
        feature_norm (`bool`, *optional*, defaults to `False`):
            Normalise the teacher's features first (LayerNorm without parameters).

    Returns:
        `torch.Tensor` of shape `()`, float32. 0 where the features hold no token (equal masks).

    Raises:
        ValueError: If the numbers of layers differ.
    """
    if len(student_features) != len(teacher_features):
        raise ValueError(
            f"The student has features of {len(student_features)} layers and the teacher of {len(teacher_features)}."
        )
    if not student_features or student_features[0].shape[1] == 0:  # whose mean would be NaN
        device = student_features[0].device if student_features else None
        return torch.zeros((), dtype=torch.float32, device=device)
    # In float32 under autocast too: differences of half-precision features are mostly rounding.
    distances = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        target = teacher.float()
        if feature_norm:
            target = F.layer_norm(target, target.shape[-1:])
        distances.append(ALIGNMENT_LOSSES[kind](student.float(), target))
    return torch.stack(distances).mean()


def weighted_sum(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """Return the loss of the paper: the sum of its parts, each times its weight (all 1 by default)."""
    total = weights["reconstruction"] * losses["reconstruction"]
    for name in LOSS_PARTS[1:]:
        if name in losses:
            total = total + weights[name] * losses[name]
    return total
