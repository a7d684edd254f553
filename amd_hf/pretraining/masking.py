"""Nested masks for student and teacher: what the teacher does not see, the student does not see either."""

import numpy as np
import torch

from ..configuration_amd import AMDConfig


class MaskGenerator:
    """Draws the masks of one clip.

    One random order of the patches decides both masks (paper, section 3.2): the student hides the first
    `int(student_mask_ratio * S)` of them, the teacher the first `int(teacher_mask_ratio * S)`. With
    `mask_type="tube"` S counts the patches of a frame and the order holds for all frames; with `"random"` S counts all
    tokens of the clip.

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
        """Draws (student mask, teacher mask or `None`), bool tensors of shape (N,) on the CPU, `True` = hidden."""
        order = generator.permutation(self._num_positions)
        student = self._hide(order, self.num_masked)
        teacher = None if self.num_teacher_masked is None else self._hide(order, self.num_teacher_masked)
        return student, teacher

    def _hide(self, order: np.ndarray, num_masked: int) -> torch.Tensor:
        mask = torch.zeros(self._num_positions, dtype=torch.bool)
        mask[torch.from_numpy(order[: num_masked // self._repeats])] = True
        return mask.repeat(self._repeats)  # time is the slowest axis of the raster order
