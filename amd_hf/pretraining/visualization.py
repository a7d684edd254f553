"""Pictures of pre-training: what student and teacher see of a clip, and how alike their features are.

Needs matplotlib (`pip install "amd_hf[plots]"`).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..modeling_amd import AMDForPreTraining, gather_tokens
from ..outputs.figures import new_figure
from .similarity import LayerSimilarity


_HIDDEN_GREY = 0.5


@torch.no_grad()
def reconstruct_clips(
    model: AMDForPreTraining,
    clips: torch.Tensor,
    student_mask: torch.Tensor,
    teacher_mask: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Reconstruct clips and return what to look at, as frames in [0, 1].

    The model predicts patches normalised by their own mean and std, so those of the true patches have to be
    put back before there is anything to see: brightness and contrast of hidden patches are given away, only their
    structure is predicted.

    Args:
        model ([`AMDForPreTraining`]): The pre-trained model.
        clips (`torch.Tensor` of shape `(B, T, C, H, W)`, uint8): The clips.
        student_mask, teacher_mask (`torch.BoolTensor` of shape `(B, N)`): `True` = hidden; the teacher's is optional.

    Returns:
        Name of a row -> float tensor `(B, T, C, H, W)`: "original", "student sees", "teacher sees" (with a teacher's
        mask), "reconstruction".
    """
    model.eval()
    embeddings = model.amd.embeddings
    pixels = embeddings.to_unit_range(embeddings.patchify(clips))
    outputs = model(clips, student_mask)
    masked_ids = outputs.token_split.masked
    predicted = _as_pixels(model, outputs.logits.float(), gather_tokens(pixels, masked_ids))
    reconstruction = pixels.scatter(1, masked_ids[:, :, None].expand_as(predicted), predicted)
    masks = {"student sees": student_mask, "teacher sees": teacher_mask}
    seen = {
        name: pixels.masked_fill(mask[:, :, None], _HIDDEN_GREY) for name, mask in masks.items() if mask is not None
    }
    rows = {"original": pixels, **seen}
    rows["reconstruction"] = reconstruction.clamp(0, 1)
    return {name: _unpatchify(patches, model) for name, patches in rows.items()}


def _as_pixels(model: AMDForPreTraining, predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return predicted patches (B, n, P) in [0, 1], with mean and std of the true ones where they were taken off."""
    config, embeddings = model.config, model.amd.embeddings
    if config.reconstruction_target == "mae":
        if config.norm_pix_loss:
            normalized = embeddings.normalize((true * 255).round().to(torch.uint8))
            variance, mean = torch.var_mean(normalized, dim=-1, keepdim=True)
            predicted = predicted * (variance + 1e-6).sqrt() + mean
        return embeddings.to_unit_range(predicted)
    if not config.norm_pix_loss:
        return predicted
    variance, mean = torch.var_mean(true.unflatten(-1, (-1, config.num_channels)), dim=-2, keepdim=True)
    return (predicted.unflatten(-1, (-1, config.num_channels)) * (variance.sqrt() + 1e-6) + mean).flatten(-2)


def _unpatchify(patches: torch.Tensor, model: AMDForPreTraining) -> torch.Tensor:
    """Turn (B, N, P) into (B, T, C, H, W): the reverse of `patchify`."""
    config = model.config
    time, rows, columns = config.grid_size
    tubelet, patch, channels = config.tubelet_size, config.patch_size, config.num_channels
    # `patchify` numbers the patches by time, row and column, and in each the channel of a pixel changes fastest.
    grid = patches.reshape(-1, time, rows, columns, tubelet, patch, patch, channels)
    grid = grid.permute(0, 1, 4, 7, 2, 5, 3, 6)  # -> (B, time, frame, channel, rows, row, columns, column)
    return grid.reshape(patches.shape[0], config.num_frames, channels, *config.image_height_width)


def spread_over_classes(labels: Sequence[int | None], num_shown: int) -> list[int]:
    """Return the indices of at most `num_shown` rows, spread evenly over as many classes as possible, and in them.

    Args:
        labels (`Sequence[int]`): Each row's label, the same everywhere (such as None) where there are none.
        num_shown (`int`): How many rows are wanted.
    """
    rows_of: dict[int | None, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    groups = list(rows_of.values())
    chosen = _evenly(groups, num_shown)
    # With fewer classes than rows each class gives as many rows, the first ones one more.
    per_class, more = divmod(num_shown, len(chosen)) if chosen else (0, 0)
    counts = [per_class + (number < more) for number in range(len(chosen))]
    return sorted(row for group, count in zip(chosen, counts, strict=True) for row in _evenly(group, count))


def _evenly(items: Sequence[Any], number: int) -> list[Any]:
    """Return at most `number` of the items, from the first to the last at equal steps."""
    number = min(number, len(items))
    return [items[len(items) * index // number] for index in range(number)]


def draw_reconstructions(rows: Mapping[str, torch.Tensor], path: str | Path, max_frames: int = 8) -> Path:
    """Draw the outcome of [`reconstruct_clips`] as one picture: a block per clip, a line per row, a column per frame.

    Args:
        rows (`Mapping[str, torch.Tensor]`): Name -> float frames in [0, 1], `(B, T, C, H, W)`.
        path (`str` or `Path`): Where the PNG goes.
        max_frames (`int`, *optional*, defaults to 8): Frames shown, evenly spread.
    """
    num_clips, num_frames = next(iter(rows.values())).shape[:2]
    shown = np.linspace(0, num_frames - 1, min(max_frames, num_frames)).round().astype(int)
    figure = new_figure(1.1 * len(shown) + 1.2, 1.15 * len(rows) * num_clips + 0.6)
    figure.suptitle(
        "Mean and contrast of hidden patches are taken from the original: only their structure is predicted.",
        fontsize=8,
    )
    axes = figure.subplots(num_clips * len(rows), len(shown), squeeze=False)
    for clip in range(num_clips):
        for line, (name, frames) in enumerate(rows.items()):
            for column, frame in enumerate(shown):
                cell = axes[clip * len(rows) + line, column]
                cell.imshow(frames[clip, frame].permute(1, 2, 0).numpy(), interpolation="nearest")
                cell.set(xticks=[], yticks=[])
            axes[clip * len(rows) + line, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=110)
    return Path(path)


def draw_similarity(similarity: LayerSimilarity, path: str | Path) -> Path:
    """Draw a heatmap of CKA: student layers from bottom to top, teacher layers from left to right.

    The pairs that the loss aligns are framed and show their value.

    Args:
        similarity ([`LayerSimilarity`]): What to draw.
        path (`str` or `Path`): Where the PNG goes.
    """
    rows, columns = similarity.cka.shape
    figure = new_figure(2.2 + 0.27 * columns, 1.4 + 0.27 * rows)
    from matplotlib.patches import Rectangle  # after it is known to be there

    axes = figure.add_subplot()
    image = axes.imshow(similarity.cka, origin="lower", vmin=0, vmax=1, cmap="viridis", aspect="equal")
    figure.colorbar(image, ax=axes, label="linear CKA")
    for ours, theirs in similarity.aligned:
        row, column = similarity.student_layers.index(ours), similarity.teacher_layers.index(theirs)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=1.5))
        axes.text(column, row, f"{similarity.cka[row, column]:.2f}", ha="center", va="center", fontsize=6, color="red")
    axes.set(xlabel="teacher layer", ylabel="student layer")
    axes.set_xticks(range(columns), map(str, similarity.teacher_layers), fontsize=7)
    axes.set_yticks(range(rows), map(str, similarity.student_layers), fontsize=7)
    axes.set_title(f"{similarity.num_clips} held-out clips; framed: aligned by the loss", fontsize=8)
    figure.savefig(path, dpi=130)
    return Path(path)


def save_similarity(similarity: LayerSimilarity, folder: str | Path) -> Path | None:
    """Write `similarity.json` and, where matplotlib is installed, the heatmap `similarity.png`.

    Returns:
        `Path`: The picture; `None` without matplotlib.
    """
    folder = Path(folder)
    (folder / "similarity.json").write_text(json.dumps(similarity.to_dict(), indent=2) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        return None
    return draw_similarity(similarity, folder / "similarity.png")
