"""The augmentation of fine-tuning on whole rows: its order, what it depends on, boxes that travel with the clips."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP

from amd_hf.data.augment.erasing import NO_BOX
from amd_hf.data.augment.rand_augment import RandAugment
from amd_hf.data.augment.transforms import random_resized_crop_box
from amd_hf.data.clips import ClassificationCollator, ClipLoader, sample_generator
from amd_hf.data.video.decoding import open_video
from tests.data.augment.test_clip_operations import _TIMM_NAMES
from tests.helpers.videos import frame_numbers, text_file, textured_rows, video_row


Row = dict[str, Any]
_POLICY = "rand-m7-n4-mstd0.5-inc1"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Three textured videos of 30 frames, 48 x 64."""
    return textured_rows(tmp_path_factory.mktemp("augmented"), 3, 30)


@pytest.fixture
def loader() -> ClipLoader:
    return ClipLoader(
        num_frames=4, sampling_rate=3, image_size=32, sampling_mode="spread", augmentation="random_resized_crop",
        flip_probability=0.5, rand_augment=_POLICY, erase_probability=0.5, repetitions=2, seed=7,
    )  # fmt: skip


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def _by_pil_and_float(frames: np.ndarray, row: Row, repetition: int) -> torch.Tensor:
    """What the recipe says, frame by frame: timm, the crop in float, the flip. (T, C, 32, 32), float32."""
    generator = partial(sample_generator, 7, 0, row["video_id"], repetition)
    for name, argument in RandAugment.parse(_POLICY).draw(generator("rand_augment")):
        operation = NAME_TO_OP[_TIMM_NAMES[name]]
        arguments = () if name in ("auto_contrast", "equalize", "invert") else (argument,)
        options = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
        frames = np.stack([np.asarray(operation(Image.fromarray(frame), *arguments, **options)) for frame in frames])
    draws = generator("crop")
    top, left, height, width = random_resized_crop_box(48, 64, draws)
    crop = torch.from_numpy(frames).permute(0, 3, 1, 2)[..., top : top + height, left : left + width].float()
    resized = torch.nn.functional.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False)
    return resized.flip(-1) if draws.random() < 0.5 else resized


def test_clips_are_augmented_then_cropped_then_flipped_as_the_recipe_says(rows: list[Row], loader: ClipLoader) -> None:
    clips = replace(loader, repetitions=12).load(rows[0])
    for repetition, clip in enumerate(clips):
        start = sample_generator(7, 0, "0.mp4", 0, "frames").integers(30 - 12)  # all repetitions show these
        with open_video(rows[0]["video"]) as video:
            frames = video.frames([start, start + 4, start + 8, start + 11])
        expected = _by_pil_and_float(frames, rows[0], repetition)
        differences = (clip.float() - expected).abs()
        assert (
            differences.max() < 2.6
        )  # 1 of a moved frame's decimals, made larger by an operation after it, 1 of resizing
        assert (differences > 1.01).float().mean() < 0.01


def test_rand_augment_of_clips_that_are_not_cropped(rows: list[Row], loader: ClipLoader) -> None:
    plain = replace(loader, augmentation="center_crop", flip_probability=0.0, rand_augment=None, repetitions=6)
    for repetition, (clip, before) in enumerate(
        zip(replace(plain, rand_augment=_POLICY).load(rows[0]), plain.load(rows[0]), strict=True)
    ):
        drawn = RandAugment.parse(_POLICY).draw(sample_generator(7, 0, "0.mp4", repetition, "rand_augment"))
        assert torch.equal(clip, before) == (not drawn)


def test_repetitions_share_their_frames_unless_told_otherwise(video_40: Path, loader: ClipLoader) -> None:
    plain = replace(loader, rand_augment=None, repetitions=6, sampling_rate=2)
    own, shared = (
        [tuple(frame_numbers(clip.numpy(), channel_axis=1)) for clip in option.load(video_row(video_40))]
        for option in (replace(plain, repetitions_share_frames=False), plain)
    )
    assert len(set(own)) > 1
    assert set(shared) == {own[0]}
    later = plain.load(video_row(video_40), repetitions=[9])
    assert tuple(frame_numbers(later[0].numpy(), channel_axis=1)) == own[0]


def test_augmentation_is_left_out_of_evaluation(rows: list[Row], loader: ClipLoader) -> None:
    plain = replace(loader, rand_augment=None, erase_probability=0.0)
    batches = [ClassificationCollator(option, training=False)(rows) for option in (loader, plain)]
    assert _same(*batches)
    assert "erase_boxes" not in batches[0]


# ---------------------------------------------------------------------------------------------------------------------
# Boxes and seeds
# ---------------------------------------------------------------------------------------------------------------------


def test_batch_holds_a_box_and_a_seed_for_each_clip(rows: list[Row], loader: ClipLoader) -> None:
    batch = ClassificationCollator(replace(loader, repetitions=40))(rows)
    boxes, seeds = batch["erase_boxes"], batch["erase_seeds"]
    assert boxes.shape == (120, 4)
    assert seeds.shape == (120,)
    assert boxes.dtype == seeds.dtype == torch.int64
    is_erased = (boxes != torch.tensor(NO_BOX)).any(dim=1)
    assert 40 <= is_erased.sum() <= 80
    assert torch.all(boxes[is_erased, :2] + boxes[is_erased, 2:] <= 32)
    assert len(set(seeds[is_erased].tolist())) == is_erased.sum()
    assert len({tuple(box) for box in boxes[is_erased].tolist()}) > 20


def test_batch_has_no_boxes_where_nothing_is_erased(rows: list[Row], loader: ClipLoader) -> None:
    batch = ClassificationCollator(replace(loader, erase_probability=0.0))(rows)
    assert set(batch) == {"pixel_values", "labels", "num_tried", "unreadable"}


def test_filled_holes_bring_their_own_boxes(rows: list[Row], tmp_path: Path, loader: ClipLoader) -> None:
    always = replace(loader, erase_probability=1.0)
    batch = ClassificationCollator(always)([video_row(text_file(tmp_path / "bad.mp4")), rows[1]])
    for place, repetition in enumerate([2, 3, 0, 1]):
        box, seed = always.draw_erasing(rows[1], repetition)
        assert (tuple(batch["erase_boxes"][place].tolist()), int(batch["erase_seeds"][place])) == (box, seed)
        assert torch.equal(batch["pixel_values"][place], always.load(rows[1], [repetition])[0])


@pytest.mark.parametrize("change", ["seed", "epoch", "video_id"])
def test_augmentation_changes_with_seed_epoch_and_video_id(rows: list[Row], loader: ClipLoader, change: str) -> None:
    row, other_loader = rows[0], replace(loader, seed=8) if change == "seed" else loader
    other_row = row if change == "seed" else {**row, change: {"epoch": 1, "video_id": "other"}[change]}
    always = [replace(option, erase_probability=1.0) for option in (loader, other_loader)]
    one, other = ClassificationCollator(always[0])([row]), ClassificationCollator(always[1])([other_row])
    for key in ("pixel_values", "erase_boxes", "erase_seeds"):
        assert not torch.equal(one[key], other[key])


def test_workers_give_the_same_batches_as_the_main_process(rows: list[Row], loader: ClipLoader) -> None:
    make = partial(torch.utils.data.DataLoader, rows, batch_size=2, collate_fn=ClassificationCollator(loader))
    with_workers = list(make(num_workers=2, multiprocessing_context="fork"))
    assert all(_same(one, other) for one, other in zip(with_workers, make(num_workers=0), strict=True))
