"""Losses that align the student's features with the teacher's: tensors in, scalars out, always in float32."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F


ALIGNMENT_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l2": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def alignment_loss(
    student_features: Sequence[torch.Tensor], teacher_features: Sequence[torch.Tensor], kind: str = "l2"
) -> torch.Tensor:
    """Mean over the aligned layers of the distance between student and teacher features.

    Args:
        student_features, teacher_features (`Sequence[torch.Tensor]` of shape `(B, n, D)`): One pair per layer.
        kind (`str`, *optional*, defaults to `"l2"`): `"l2"` (mean squared error), `"l1"` or `"smooth_l1"`.

    Returns:
        `torch.Tensor` of shape `()`, float32. 0 where the features hold no token (equal masks).

    Raises:
        ValueError: If the numbers of layers differ.
    """
    if len(student_features) != len(teacher_features):
        raise ValueError(
            f"The student has features of {len(student_features)} layers and the teacher of {len(teacher_features)}."
        )
    if not student_features or student_features[0].shape[1] == 0:
        device = student_features[0].device if student_features else None
        return torch.zeros((), dtype=torch.float32, device=device)
    distance = ALIGNMENT_LOSSES[kind]
    parts = [
        distance(student.float(), teacher.float())
        for student, teacher in zip(student_features, teacher_features, strict=True)
    ]
    return torch.stack(parts).mean()


def normalize_features(features: torch.Tensor) -> torch.Tensor:
    """LayerNorm without parameters over the last dimension, in float32 (the option `teacher_feature_norm`)."""
    return F.layer_norm(features.float(), features.shape[-1:])
