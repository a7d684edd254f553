# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Spatio-temporal action detection: the actions of each person of a clip, from the boxes around them.

This file imports nothing of the package but the configuration and the other models: it travels with saved folders as
remote code. No Auto class takes boxes: where the package is not installed a folder is loaded by the class' own name.

from transformers.dynamic_module_utils import get_class_from_dynamic_module
detector_class = get_class_from_dynamic_module("modeling_amd_detection.AMDForActionDetection", folder_or_hub_id)
detector = detector_class.from_pretrained(folder_or_hub_id)

Shapes in comments: as in `modeling_amd`; n boxes of a clip, R boxes of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_amd import AMDConfig
from .modeling_amd import AMDModel, AMDPreTrainedModel, _with_final_norm


_POOLED_SIZE = 7  # of VideoMAE's code for AVA, as all settings of the head
TEST_BOX_EXTENSION = (0.1, 0.05)
"""Fractions of its width and its height by which a box grows for testing."""


@dataclass
class AMDActionDetectionOutput(ModelOutput):
    r"""Output of [`AMDForActionDetection`]. R is the number of boxes of all clips, which follow each other.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            Binary cross-entropy, mean over the classes and sum over the boxes, in float32.
        logits (`torch.FloatTensor` of shape `(R, num_labels)`): Scores before the sigmoid.
        roi_features (`torch.FloatTensor` of shape `(R, D)`): What the classifier sees of each box.
        hidden_states, attentions: As in [`AMDModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    roi_features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def extend_boxes(
    boxes: torch.Tensor, height: int, width: int, extension: tuple[float, float] = TEST_BOX_EXTENSION
) -> torch.Tensor:
    """Make boxes larger, as VideoMAE's code for AVA does for testing.

    Args:
        boxes (`torch.Tensor` of shape `(n, 4)`): x1, y1, x2, y2 in pixels of the frame; x2 and y2 are the last pixels
            inside, so that a box is x2 - x1 + 1 wide.
        height, width (`int`): Size of the frame, without what a batch pads it by.
        extension (`tuple[float, float]`, *optional*): Fractions of width and height to grow by, half on either side.

    Returns:
        `torch.Tensor` of shape `(n, 4)`, of the same dtype: clamped to `[0, width - 1]` and `[0, height - 1]`.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    pad_x = extension[0] * (x2 - x1 + 1) / 2
    pad_y = extension[1] * (y2 - y1 + 1) / 2
    x1, x2 = (side.clamp(0, width - 1) for side in (x1 - pad_x, x2 + pad_x))
    y1, y2 = (side.clamp(0, height - 1) for side in (y1 - pad_y, y2 + pad_y))
    return torch.stack([x1, y1, x2, y2], dim=-1)


class AMDForActionDetection(AMDPreTrainedModel):
    """Encoder with its final LayerNorm, mean over time, RoIAlign of each box, maximum over the region, classifier."""

    _auto_class = "AMDForActionDetection"  # its own: `save_pretrained` writes the code beside the weights
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^alignment\.", r"^fc_norm\."]

    def __init__(self, config: AMDConfig):
        config = _with_final_norm(config, True)
        super().__init__(config)
        self.num_labels = config.num_labels
        self.amd = AMDModel(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.classifier:
            self._init_head(module)

    @staticmethod
    def extend_boxes(boxes: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Extend the boxes of each clip for testing; `sizes` are (height, width) of its frames in pixels.

        See the function [`extend_boxes`] for one clip.
        """
        return [extend_boxes(of_clip, *size) for of_clip, size in zip(boxes, sizes, strict=True)]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        boxes: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> AMDActionDetectionOutput:
        r"""Score the actions in boxes, which are pooled as they are given.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`):
                Normalised floats, or raw uint8; height and width any multiples of the patch.
            boxes (`Sequence[torch.Tensor]`): For each clip `(n, 4)`, x1 y1 x2 y2 in pixels; n may be 0.
            labels (`Sequence[torch.Tensor]`, *optional*):
                For each clip `(n, num_labels)`, 1 for each action and else 0; actions are judged one by one, whatever
                `config.problem_type` says.

        Raises:
            ValueError: If boxes or labels are not as many as the clips, or have another shape.
        """
        _check_boxes(boxes, labels, pixel_values.shape[0], self.num_labels)
        outputs = self.amd(pixel_values, interpolate_pos_encoding=True, return_dict=True, **kwargs)
        grid = self.amd.embeddings.grid_of(pixel_values)
        features = self.pool_regions(self.amd.patch_tokens(outputs.last_hidden_state), grid, boxes)
        logits = self.classifier(self.dropout(features))
        loss = None
        if labels is not None:
            targets = torch.cat(list(labels)).to(logits.device, torch.float32)
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(dim=1).sum()
        return AMDActionDetectionOutput(
            loss=loss,
            logits=logits,
            roi_features=features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def pool_regions(
        self, tokens: torch.Tensor, grid: tuple[int, int, int], boxes: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Pool the features `(R, D)` of the boxes from tokens `(B, N, D)` on a grid (time, rows, columns)."""
        # (B, N, D) -> (B, time, rows, columns, D) -> (B, D, rows, columns)
        maps = tokens.unflatten(1, grid).mean(dim=1).permute(0, 3, 1, 2)
        # In float32: corners of boxes need more digits than half precision has, and RoIAlign takes one dtype.
        regions = roi_align(
            maps.float().contiguous(),
            [of_clip.to(maps.device, torch.float32) for of_clip in boxes],
            output_size=_POOLED_SIZE,
            spatial_scale=1 / self.config.patch_size,
            sampling_ratio=0,
            aligned=False,
        )
        return regions.amax(dim=(2, 3)).to(tokens.dtype)


def _check_boxes(
    boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor] | None, num_clips: int, num_labels: int
) -> None:
    for name, given, width in (("boxes", boxes, 4), ("labels", labels, num_labels)):
        if given is None:
            continue
        if len(given) != num_clips:
            raise ValueError(f"`{name}` must hold one tensor for each of the {num_clips} clips, got {len(given)}.")
        for number, of_clip in enumerate(given):
            if of_clip.ndim != 2 or of_clip.shape != (len(boxes[number]), width):
                raise ValueError(
                    f"`{name}` of clip {number} must have shape ({len(boxes[number])} boxes, {width}), got "
                    f"{tuple(of_clip.shape)}."
                )


__all__ = ["AMDActionDetectionOutput", "AMDForActionDetection", "extend_boxes"]
