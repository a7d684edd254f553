"""The image processor of models of one frame: Transformers' own of BiT, with this model's sizes."""

from __future__ import annotations

from typing import Any

from transformers import BitImageProcessor
from transformers.image_utils import PILImageResampling

from .configuration_amd import AMDConfig


_SHORT_SIDE_SHARE = 256 / 224  # ImageNet's test: the centre of 224 pixels of a short side of 256


def build_image_processor(
    config: AMDConfig, short_side: int | None = None, interpolation: str = "bicubic", **views: Any
) -> BitImageProcessor:
    """A processor that gives a model of one frame what its config asks for: `pixel_values` `(B, C, H, W)`.

    Resized to `short_side`, centre crop, the config's mean and std. Its class is one of Transformers, so that a saved
    folder loads through `AutoImageProcessor` anywhere.

    Args:
        config ([`AMDConfig`]): The model's.
        short_side (`int`, *optional*): In pixels; 256 / 224 of the crop's by default.
        interpolation (`str`, *optional*, defaults to `"bicubic"`): Or `bilinear`.
        **views: Further settings that the file is to hold: the views of the model's test.
    """
    height, width = config.image_height_width
    is_bicubic = interpolation == "bicubic"
    return BitImageProcessor(
        size={"shortest_edge": short_side or round(min(height, width) * _SHORT_SIDE_SHARE)},
        crop_size={"height": height, "width": width},
        resample=PILImageResampling.BICUBIC if is_bicubic else PILImageResampling.BILINEAR,
        image_mean=config.image_mean,
        image_std=config.image_std,
        **{name: value for name, value in views.items() if value is not None},
    )
