"""Images through the code of videos: rows of three layouts, Pillow's pixels, crops, bad files, determinism."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from amd_hf import load_image_dataset, load_video_dataset
from amd_hf.data.augment.transforms import random_resized_crop_box
from amd_hf.data.clips import ClassificationCollator, ClipLoader, PreTrainingCollator, sample_generator
from amd_hf.data.video.decoding import VideoReadError, open_video
from amd_hf.data.video.source import VideoSource
from amd_hf.evaluation.multiview import ViewCollator, ViewOptions
from amd_hf.models import build_processor
from amd_hf.pretraining.distillation import MaskGenerator
from amd_hf.view_settings import ViewSettings
from tests.helpers.images import LAYOUTS, NAMES, class_folders, encoded, image_config, picture


def _loader(**options: Any) -> ClipLoader:
    return ClipLoader(num_frames=1, sampling_rate=1, image_size=16, **options)


def _which(pixels: np.ndarray) -> int:
    """Number of the image with these pixels (H, W, 3), by its size and the colour on its right."""
    alike = [number for number in range(15) if picture(number).shape == pixels.shape]
    return min(
        alike, key=lambda number: np.abs(picture(number)[:, -4:].astype(int) - pixels[:, -4:].astype(int)).max()
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_gives_the_same_images_and_labels(layout: str, streaming: bool, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path / "data")
    options = {"label_names": NAMES} if layout == "webdataset" else {}
    rows = load_image_dataset(folder, split="train", streaming=streaming, **options)
    assert rows.features["label"].names == NAMES
    found = {}
    for row in rows:
        with open_video(row["video"], video_id=row["video_id"]) as image:
            assert len(image) == 1
            pixels = image.frames([0])
        found[_which(pixels[0])] = row["label"]
    assert found == {number: number % 3 for number in range(9)}
    assert len({row["video_id"] for row in rows}) == 9


def test_images_are_not_taken_for_videos_nor_videos_for_images(tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    with pytest.raises(ValueError, match=r"Found no video in .*It holds images: say `media=image`"):
        load_video_dataset(folder, split="train")
    with pytest.raises(ValueError, match=r"`media` must be one of \['video', 'image'\] or None, not 'sound'"):
        load_video_dataset(folder, split="train", media="sound")
    with pytest.raises(ValueError, match="`media` has no meaning for the layout 'ucf101'"):
        load_image_dataset(folder, split="train", layout="ucf101")


def test_list_file_names_images_too(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "data")
    path = next((folder / "train" / "hen").iterdir())
    (tmp_path / "list.txt").write_text(f"{path} 2\n")
    (row,) = load_image_dataset(tmp_path / "list.txt")
    assert open_video(row["video"]).frames([0]).shape == (1, *np.asarray(Image.open(path)).shape)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_bytes_are_known_for_an_image_by_how_they_start(form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).save(buffer, form)
    assert VideoSource.parse({"bytes": buffer.getvalue(), "path": "x"}).is_images
    assert open_video(buffer.getvalue()).frames([0]).shape == (1, *picture(1).shape)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        file = tmp_path / f"{mode}.tiff"
        Image.fromarray(picture(1)).convert(mode).save(file)
        assert open_video(file).frames([0]).shape == (1, *picture(1).shape), mode


# ---------------------------------------------------------------------------------------------------------------------
# Crops
# ---------------------------------------------------------------------------------------------------------------------


def test_training_crop_is_what_pillow_cuts_resizes_and_mirrors(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "noise.png")
    row = {"video": {"path": str(tmp_path / "noise.png")}, "video_id": "x", "label": 0}
    loader = _loader(
        augmentation="random_resized_crop", min_crop_area=0.2, interpolation="bicubic", flip_probability=1.0
    )
    clip = loader.load(row)
    assert clip.shape == (1, 1, 3, 16, 16)
    assert clip.dtype == torch.uint8
    generator = sample_generator(0, 0, "x", 0, "crop")
    top, left, height, width = random_resized_crop_box(60, 80, generator, scale=(0.2, 1.0))
    assert height * width >= 0.19 * 60 * 80
    cut = Image.fromarray(image[top : top + height, left : left + width]).resize((16, 16), Image.Resampling.BICUBIC)
    expected = np.asarray(cut)[:, ::-1].transpose(2, 0, 1)
    assert np.abs(clip[0, 0].numpy().astype(int) - expected.astype(int)).max() <= 1


def test_crops_are_as_large_as_was_asked() -> None:
    generator = np.random.default_rng(0)
    for least in (0.2, 0.9):
        boxes = [random_resized_crop_box(60, 60, generator, scale=(least, 1.0)) for _ in range(200)]
        smallest = min(height * width for _, _, height, width in boxes) / 3600
        assert least * 0.95 < smallest < least + 0.08
    with pytest.raises(ValueError, match=r"`min_crop_area` must be above 0 and at most 1, not 1\.5"):
        _loader(min_crop_area=1.5)
    with pytest.raises(ValueError, match="`interpolation` must be one of"):
        _loader(interpolation="nearest")
    with pytest.raises(ValueError, match="`short_side` 8 is smaller than the crop, 16"):
        _loader(short_side=8)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_test_view_is_the_centre_of_the_short_side_resized_as_the_image_processor_does(
    number: int, tmp_path: Path
) -> None:
    """One crop of one frame; `AutoImageProcessor` and the evaluation in training give the same pixels."""
    suffix, data = encoded(number)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(data)
    options = ViewOptions(
        num_frames=1, crop_size=16, short_side=20, interpolation="bicubic", num_segments=1, num_crops=1
    )
    (view,) = ViewCollator(options).views({"path": str(path)})
    image = Image.open(path)
    scale = 20 / min(image.size)
    resized = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - 16) // 2, (resized.height - 16) // 2
    expected = np.asarray(resized.crop((left, top, left + 16, top + 16)))
    assert np.abs(view[0].permute(1, 2, 0).numpy().astype(int) - expected.astype(int)).max() <= 1
    row = {"video": {"path": str(path)}, "video_id": "x"}
    loader = _loader(short_side=20, interpolation="bicubic")
    assert (loader.load(row, training=False)[0].int() - view.int()).abs().max() <= 1
    config = image_config()
    build_processor(config, ViewSettings(short_side=20, interpolation="bicubic")).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.image_mean, config.image_std))
    assert pixels.shape == (1, 3, 16, 16)
    # The processor's crop may stand one pixel further where the free room is odd.
    room = ((resized.height - 16) % 2, (resized.width - 16) % 2)
    if room == (0, 0):
        torch.testing.assert_close(pixels[0], (view[0] / 255 - mean) / std, atol=0.03, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Masks, bad files, determinism
# ---------------------------------------------------------------------------------------------------------------------


def test_masks_are_random_per_image_nested_and_of_the_ratios(tmp_path: Path) -> None:
    config = image_config()
    rows = list(load_image_dataset(class_folders(tmp_path), split="train"))
    collator = PreTrainingCollator(_loader(augmentation="random_resized_crop"), MaskGenerator(config))
    batch = collator([{**row, "epoch": 0} for row in rows])
    student, teacher = batch["bool_masked_pos"], batch["teacher_bool_masked_pos"]
    assert student.shape == (9, 16)
    assert student.sum(dim=1).tolist() == [12] * 9
    assert teacher.sum(dim=1).tolist() == [8] * 9
    assert not (teacher & ~student).any()
    assert len({tuple(mask.tolist()) for mask in student}) == 9
    other = collator([{**row, "epoch": 1} for row in rows])
    assert not torch.equal(other["bool_masked_pos"], student)


def test_batches_depend_on_seed_epoch_and_name_alone_whatever_the_layout_of_files(tmp_path: Path) -> None:
    rows = list(load_image_dataset(class_folders(tmp_path), split="train"))
    loader = _loader(augmentation="random_resized_crop", flip_probability=0.5, rand_augment="rand-m9-mstd0.5-inc1")
    collator = ClassificationCollator(loader)
    first = collator([{**row, "epoch": 2} for row in rows])["pixel_values"]
    alone = [collator([{**row, "epoch": 2}])["pixel_values"] for row in reversed(rows)]
    assert torch.equal(first, torch.cat(alone[::-1]))
    assert not torch.equal(first, collator([{**row, "epoch": 3} for row in rows])["pixel_values"])


def test_bad_images_are_counted_and_their_places_filled_as_for_videos(tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    files = sorted((folder / "train").glob("*/*"))
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].write_bytes(b"no image at all")
    files[2].write_bytes(b"")
    rows = list(load_image_dataset(folder, split="train"))
    batch = ClassificationCollator(_loader(augmentation="random_resized_crop"))(rows)
    assert batch["pixel_values"].shape == (9, 1, 3, 16, 16)
    assert [name for name, _ in batch["unreadable"]] == [os.path.relpath(file, folder) for file in files[:3]]
    assert [reason.partition(":")[0] for _, reason in batch["unreadable"]][:2] == ["Pillow", "Pillow"]
    with pytest.raises(VideoReadError, match="zero bytes"):
        open_video(files[2])
    for file in files[:2]:  # through a process of its own, too
        with pytest.raises(VideoReadError, match="Pillow"), open_video(file, time_limit=60.0) as image:
            image.frames([0])
