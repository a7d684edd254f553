"""What every teacher gives, and what the adapters over encoders of Transformers have in common.

An adapter holds the modules of a published encoder as they are (nothing is converted, nothing renamed in the file) and
runs its blocks on the tokens that the teacher sees. The files beside this one hold one adapter per kind of encoder;
`ADAPTERS` finds them by the `model_type` of a config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from ..configuration_amd import AMDConfig
from ..modeling_amd import AMDModel, gather_tokens, split_tokens


ADAPTERS = {
    "vjepa2": "vjepa2.VJEPA2Teacher",
    "dinov2": "images.Dinov2Teacher",
    "dinov2_with_registers": "images.Dinov2WithRegistersTeacher",
    "dinov3_vit": "images.Dinov3Teacher",
    "siglip": "images.SiglipTeacher",
    "siglip_vision_model": "images.SiglipTeacher",
    "siglip2": "images.Siglip2Teacher",
    "siglip2_vision_model": "images.Siglip2Teacher",
    "clip": "images.ClipTeacher",
    "clip_vision_model": "images.ClipTeacher",
    "videoprism": "videoprism.VideoPrismTeacher",
    "videoprism_vision_model": "videoprism.VideoPrismTeacher",
}
"""`model_type` of a config -> file beside this one and class in it. A further family is a line here."""


@dataclass(frozen=True)
class TeacherFacts:
    """What must be known of a teacher to stand beside a student.

    Args:
        family (`str`): The `model_type` of its config.
        width (`int`): Width of its tokens.
        depth (`int`): Number of its blocks.
        patch_size (`tuple[int, int]`): Height and width of a patch in pixels.
        tubelet_size (`int`): Frames in a token; 1 where every frame is encoded by itself.
        image_size (`tuple[int, int]`): Height and width of the frames that it was trained on.
        num_frames (`int`): Frames of the clips that it was trained on.
        num_channels (`int`): Channels of a frame.
        mean, std (`tuple[float, ...]`): Of its input, in units of [0, 1], one per channel.
        masks (`"any"`, `"tube"` or `"none"`):
            What may be hidden from it: any tokens; the same patches in every frame; nothing.
        fits_any_size (`bool`): Whether it runs on frames and clips of another size than it was trained on.
    """

    family: str
    width: int
    depth: int
    patch_size: tuple[int, int]
    tubelet_size: int
    image_size: tuple[int, int]
    num_frames: int
    num_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    masks: Literal["any", "tube", "none"]
    fits_any_size: bool

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, rows and columns at the size that it was trained on."""
        sides = (size // patch for size, patch in zip(self.image_size, self.patch_size, strict=True))
        return (self.num_frames // self.tubelet_size, *sides)  # type: ignore[return-value]

    @property
    def is_image(self) -> bool:
        """Whether it looks at one frame at a time."""
        return self.num_frames == 1


def facts_of(model: nn.Module) -> TeacherFacts | None:
    """Return the facts of an adapter or of an encoder of ours; `None` for a module of the user's."""
    if isinstance(model, TeacherEncoder):
        return model.facts
    if not isinstance(model, AMDModel):
        return None
    config: AMDConfig = model.config
    return TeacherFacts(
        family="amd",
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        patch_size=(config.patch_size, config.patch_size),
        tubelet_size=config.tubelet_size,
        image_size=config.image_height_width,
        num_frames=config.num_frames,
        num_channels=config.num_channels,
        mean=tuple(config.image_mean),
        std=tuple(config.image_std),
        masks="tube" if config.num_frames == 1 else "any",
        fits_any_size=False,  # its table of positions is that of its grid
    )


class TeacherEncoder(nn.Module):
    """Base of the adapters: the blocks of a published encoder, run on the tokens that the teacher sees.

    Args:
        encoder (`PreTrainedModel`): Of the class that `classes` names, as published. It stays as it is.
        statistics (pair of sequences of `float`, *optional*): Mean and std of the input; the family's by default.
    """

    classes: ClassVar[Mapping[str, str]]
    """`model_type` -> class of Transformers that loads it."""
    statistics: ClassVar[tuple[Sequence[float], Sequence[float]]]
    """Mean and std of the input where the source names none, in units of [0, 1]."""
    masks: ClassVar[Literal["any", "tube", "none"]] = "any"

    layers: nn.ModuleList

    def __init__(self, encoder: PreTrainedModel, statistics: tuple[Sequence[float], Sequence[float]] | None = None):
        super().__init__()
        self.config = encoder.config
        mean, std = statistics or type(self).statistics
        self.layers = nn.ModuleList(self.blocks_of(encoder))
        self.facts = TeacherFacts(
            family=encoder.config.model_type,
            width=encoder.config.hidden_size,
            depth=len(self.layers),
            mean=tuple(mean),
            std=tuple(std),
            masks=self.masks,
            fits_any_size=True,
            **self.geometry_of(encoder),
        )

    @staticmethod
    def blocks_of(encoder: Any) -> Iterable[nn.Module]:
        """Return the blocks of an encoder, in order."""
        raise NotImplementedError

    @staticmethod
    def geometry_of(encoder: Any) -> dict[str, Any]:
        """Return patch size, tubelet size, image size, number of frames and channels, by their names in the facts."""
        raise NotImplementedError

    def features(
        self,
        pixel_values: torch.Tensor,
        visible_ids: torch.Tensor | None,
        layers: Sequence[int],
        grid: tuple[int, int, int],
    ) -> dict[int, torch.Tensor]:
        """Return per layer its raw output `(B, visible, D)`, in the order of the ids. Arguments as for `forward`."""
        raise NotImplementedError

    def sequences(self, layer: int, num_tokens: int, num_frames: int, time: int) -> tuple[int, int]:
        """Return how many sequences of a clip pass a layer, and how long each is.

        Args:
            layer (`int`): From 1.
            num_tokens, num_frames, time (`int`): Visible tokens and frames of the clip, and its tokens along time.
        """
        return 1, num_tokens

    def flops_per_clip(self, num_tokens: int, num_frames: int, time: int) -> int:
        """Count the operations of one clip, matrix products alone, from the weights. Arguments as for `sequences`."""
        total = 0
        for layer, block in enumerate(self.layers, start=1):
            count, length = self.sequences(layer, num_tokens, num_frames, time)
            weights = sum(part.weight.numel() for part in block.modules() if isinstance(part, nn.Linear))
            total += count * length * (2 * weights + 4 * length * self.facts.width)
        return total

    def place(self, grid: tuple[int, int, int]) -> None:
        """Get ready for a grid of tokens: for encoders that must know it before the first clip."""

    def cut_after(self, last_layer: int) -> None:
        """Leave out the blocks after the last layer that is needed.

        Raises:
            ValueError: If there are fewer.
        """
        if last_layer > len(self.layers):
            raise ValueError(f"The teacher has {len(self.layers)} layers, but layer {last_layer} is to be aligned.")
        self.layers = self.layers[:last_layer]

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        *,
        visible_ids: torch.Tensor | None = None,
        feature_layers: Iterable[int] | None = None,
        grid: tuple[int, int, int] | None = None,
    ) -> dict[int, torch.Tensor]:
        """Encode clips.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): Normalised with the teacher's mean and std.
            bool_masked_pos (`torch.BoolTensor` of shape `(B, N)`, *optional*): Hides tokens where it is `True`.
            visible_ids (`torch.LongTensor` of shape `(B, visible)`, *optional*): In place of a mask.
            feature_layers (`Iterable[int]`, *optional*): Layers to return, from 1; by default all.
            grid (`tuple[int, int, int]`, *optional*):
                Tokens along time, rows and columns. Encoders of frames average the frames of a token.

        Returns:
            Layer -> its raw output `(B, visible, D)`, in the order of the ids, raster order for a mask.
        """
        facts = self.facts
        frames, (height, width) = pixel_values.shape[1], pixel_values.shape[-2:]
        if grid is None:
            grid = (frames // facts.tubelet_size, height // facts.patch_size[0], width // facts.patch_size[1])
        if bool_masked_pos is not None:
            visible_ids, _ = split_tokens(bool_masked_pos, int(bool_masked_pos[0].sum()))
        layers = sorted(feature_layers) if feature_layers is not None else range(1, len(self.layers) + 1)
        return self.features(pixel_values, visible_ids, layers, grid)


def run_blocks(
    blocks: Iterable[nn.Module],
    tokens: torch.Tensor,
    layers: Sequence[int],
    run: Callable[[Any, torch.Tensor], torch.Tensor],
) -> dict[int, torch.Tensor]:
    """Run `tokens` through the blocks, up to the last of the layers; return layer -> its output."""
    found = {}
    for layer, block in enumerate(blocks, start=1):
        if layer > max(layers):
            break
        tokens = run(block, tokens)
        if layer in layers:
            found[layer] = tokens
    return found


def embed_patches(
    projection: nn.Conv2d | nn.Conv3d, pixel_values: torch.Tensor, patch_ids: torch.Tensor | None
) -> torch.Tensor:
    """Return what a convolution without overlap gives for some patches of `(B, T, C, H, W)`: `(B, n, D)`.

    As one product, for the patches of `patch_ids` `(B, n)` alone: the rest is hidden from the teacher.
    """
    time = projection.kernel_size[0] if isinstance(projection, nn.Conv3d) else 1
    rows, columns = projection.kernel_size[-2:]
    patches = pixel_values.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows)).unflatten(1, (-1, time))
    # (B, t, time, C, h, rows, w, columns) -> (B, t, h, w, C, time, rows, columns), as the kernel lies
    patches = patches.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)
    if patch_ids is not None:
        patches = gather_tokens(patches, patch_ids)
    weight = projection.weight.flatten(1)
    return F.linear(patches.to(weight.dtype), weight, projection.bias)


@dataclass(frozen=True)
class FramePatches:
    """The visible tokens of clips as patches of frames, for encoders that look at every frame by itself.

    Args:
        ids (`torch.LongTensor` of shape `(B * T, m)`): The patches of each frame; all frames show as many.
        clips (`tuple[int, int]`): Number of clips, and of tokens of a clip along time.
        ranks (`torch.LongTensor` of shape `(B, visible)`, *optional*):
            How many visible tokens lie before each one in raster order; `None` where all are visible, in that order.
    """

    ids: torch.Tensor
    clips: tuple[int, int]
    ranks: torch.Tensor | None

    @classmethod
    def of(
        cls, pixel_values: torch.Tensor, visible_ids: torch.Tensor | None, grid: tuple[int, int, int]
    ) -> FramePatches:
        """Divide the visible tokens, or all, among the frames.

        Raises:
            ValueError: If the frames of a clip show different numbers of tokens.
        """
        batch, num_frames = pixel_values.shape[:2]
        time, area = grid[0], grid[1] * grid[2]
        if visible_ids is None:
            ids = torch.arange(area, device=pixel_values.device).expand(batch * num_frames, -1)
            return cls(ids, (batch, time), None)
        by_raster = visible_ids.argsort(dim=1)
        in_raster = visible_ids.gather(1, by_raster)
        if not torch.compiler.is_compiling() and visible_ids.device.type == "cpu":
            counts = (in_raster // area).flatten().bincount(minlength=time)
            if visible_ids.shape[1] % time or len(counts.unique()) > 1:
                raise ValueError("This teacher looks at every frame by itself: hide as many tokens of each frame.")
        ids = (in_raster % area).view(batch, time, -1)  # (B, t, m)
        ids = ids.repeat_interleave(num_frames // time, dim=1).flatten(0, 1)  # all frames of a token show its patch
        return cls(ids, (batch, time), by_raster.argsort(dim=1))

    def to_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Average features `(B * T, m, D)` over the frames of each token: `(B, visible, D)`, in the ids' order."""
        tokens = features.unflatten(0, (*self.clips, -1)).mean(dim=2).flatten(1, 2)  # (B, t * m, D)
        return tokens if self.ranks is None else gather_tokens(tokens, self.ranks)
