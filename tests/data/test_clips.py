"""From rows to batches: shapes, which frames, determinism, masks, and what happens to videos that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amd_hf.data import clips as clips_module
from amd_hf.data.augment.transforms import cut, multi_scale_crop_box, random_resized_crop_box, resize
from amd_hf.data.clips import ClassificationCollator, ClipLoader, PreTrainingCollator, sample_generator
from amd_hf.data.video.decoding import DecodedVideoCache, VideoReadError
from tests.helpers.videos import frame_numbers, text_file, textured_rows, truncate, video_row, write_video


Row = dict[str, Any]


class TenTokenMasks:
    """Stands in for `masking.MaskGenerator`: the student hides 6 of 10 tokens, the teacher 4 of these."""

    num_masked = 6

    def __init__(self, has_teacher: bool = True) -> None:
        self.num_teacher_masked = 4 if has_teacher else None

    def __call__(self, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        order = torch.from_numpy(generator.permutation(10))
        student = torch.zeros(10, dtype=torch.bool)
        student[order[:6]] = True
        teacher = torch.zeros(10, dtype=torch.bool)
        teacher[order[:4]] = True
        return student, teacher if self.num_teacher_masked is not None else None


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Four videos of 40 textured frames, 48 x 64, with labels 0 to 3."""
    return textured_rows(tmp_path_factory.mktemp("collated"), 4, 40)


@pytest.fixture
def loader() -> ClipLoader:
    return ClipLoader(num_frames=4, sampling_rate=3, image_size=32, repetitions=2, seed=7)


@pytest.fixture
def bad_row(tmp_path: Path) -> Row:
    return video_row(text_file(tmp_path / "bad.mp4"), label=3)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


# ---------------------------------------------------------------------------------------------------------------------
# Clips of one row
# ---------------------------------------------------------------------------------------------------------------------


def test_repetitions_share_one_decode_and_take_their_own_frames(
    video_40: Path, loader: ClipLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = clips_module.open_video
    monkeypatch.setattr(clips_module, "open_video", lambda *a, **k: opened.append(a) or original(*a, **k))
    clips = replace(loader, repetitions=5, repetitions_share_frames=False).load(video_row(video_40))
    assert len(opened) == 1
    assert clips.shape == (5, 4, 3, 32, 32)
    assert clips.dtype == torch.uint8
    numbers = [frame_numbers(clip.numpy(), channel_axis=1) for clip in clips]
    for repetition, frames in enumerate(numbers):
        start = sample_generator(7, 0, "forty.mp4", repetition, "frames").integers(40 - 12 + 1)
        assert frames == [start, start + 3, start + 6, start + 9]
    assert len({tuple(frames) for frames in numbers}) > 1


@pytest.mark.parametrize("mode", ["dense", "spread", "segments"])
def test_one_frame_video_gives_its_frame_over_and_over(video_1: Path, loader: ClipLoader, mode: str) -> None:
    clips = replace(loader, sampling_mode=mode).load(video_row(video_1))
    assert [frame_numbers(clip.numpy(), channel_axis=1) for clip in clips] == [[0] * 4] * 2


def test_evaluation_clip_is_the_middle_one_cut_at_the_centre(rows: list[Row], loader: ClipLoader) -> None:
    (clip,) = replace(loader, flip_probability=1.0).load(rows[0], training=False)
    with clips_module.open_video(rows[0]["video"]) as video:
        frames = torch.from_numpy(video.frames([14, 17, 20, 23])).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(frames.float(), size=(32, 42), mode="bilinear")
    torch.testing.assert_close(clip.float(), resized[..., 5:37], atol=1.01, rtol=0)


@pytest.mark.parametrize("augmentation", ["multi_scale_crop", "random_resized_crop", "center_crop"])
def test_every_frame_of_a_clip_is_cut_alike(tmp_path: Path, loader: ClipLoader, augmentation: str) -> None:
    texture = (
        np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    )
    path = write_video(tmp_path / "still.mp4", frames=texture.repeat(20, axis=0))
    for clip in replace(loader, augmentation=augmentation, repetitions=4).load(video_row(path)):
        assert (clip.float() - clip[:1].float()).abs().mean() < 6  # what the codec changes from frame to frame


@pytest.mark.parametrize(
    ("augmentation", "draw", "antialias"),
    [("multi_scale_crop", partial(multi_scale_crop_box, crop_size=32), True),
     ("random_resized_crop", random_resized_crop_box, False)],
    ids=["multi_scale_crop", "random_resized_crop"],
)  # fmt: skip
def test_training_crop_is_drawn_and_resized_as_its_recipe_says(
    rows: list[Row], loader: ClipLoader, augmentation: str, draw: Any, antialias: bool
) -> None:
    clip = replace(loader, augmentation=augmentation).load(rows[0], repetitions=[3])[0]
    start = sample_generator(7, 0, "0.mp4", 0, "frames").integers(40 - 12 + 1)  # all repetitions show these
    with clips_module.open_video(rows[0]["video"]) as video:
        frames = torch.from_numpy(video.frames([start + 3 * number for number in range(4)])).permute(0, 3, 1, 2)
    box = draw(height=48, width=64, generator=sample_generator(7, 0, "0.mp4", 3, "crop"))
    assert torch.equal(clip, resize(cut(frames, box), (32, 32), antialias=antialias))


def test_flip_probability_is_the_share_of_mirrored_clips(rows: list[Row], loader: ClipLoader) -> None:
    plain = replace(loader, augmentation="center_crop", repetitions=40, seed=1)
    clips = plain.load(rows[0])
    flipped = replace(plain, flip_probability=0.5).load(rows[0])
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(clips, flipped, strict=True)]
    same = [torch.equal(one, other) for one, other in zip(clips, flipped, strict=True)]
    assert sum(mirrored) + sum(same) == 40
    assert 10 <= sum(mirrored) <= 30


def test_cached_rows_give_the_same_clips(rows: list[Row], loader: ClipLoader) -> None:
    cached = replace(loader, cache=DecodedVideoCache(10**8))
    for _ in range(2):
        torch.testing.assert_close(cached.load(rows[0]), loader.load(rows[0]), atol=0, rtol=0)
    assert len(cached.cache) == 1


def test_loading_a_bad_video_raises_with_its_id(bad_row: Row, loader: ClipLoader) -> None:
    with pytest.raises(VideoReadError, match=r"'bad\.mp4'"):
        loader.load(bad_row)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_frames", 0, "`num_frames` must be at least 1, not 0"),
        ("repetitions", -1, "`repetitions` must be at least 1, not -1"),
        ("sampling_mode", "sparse", r"`sampling_mode` must be one of \['dense', 'spread', 'segments'\], not 'sparse'"),
        ("augmentation", "none", "`augmentation` must be one of .*, not 'none'"),
        ("flip_probability", 1.5, "`flip_probability` must lie between 0 and 1, not 1.5"),
        ("erase_probability", -0.1, "`erase_probability` must lie between 0 and 1, not -0.1"),
        ("rand_augment", "rand-m7", "`rand_augment` must begin with 'rand' and hold 'inc1'"),
    ],
)
def test_bad_option_raises_with_its_name(loader: ClipLoader, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(loader, **{name: value})


# ---------------------------------------------------------------------------------------------------------------------
# Pre-training
# ---------------------------------------------------------------------------------------------------------------------


def test_pre_training_batch_holds_clips_and_masks_of_all_repetitions(rows: list[Row], loader: ClipLoader) -> None:
    batch = PreTrainingCollator(loader, TenTokenMasks())(rows)
    assert set(batch) == {
        "pixel_values", "bool_masked_pos", "teacher_bool_masked_pos", "num_masked", "num_teacher_masked", "num_tried",
        "unreadable",
    }  # fmt: skip
    assert batch["pixel_values"].shape == (8, 4, 3, 32, 32)
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["bool_masked_pos"].sum(dim=1).tolist() == [6] * 8
    assert batch["teacher_bool_masked_pos"].sum(dim=1).tolist() == [4] * 8
    assert (batch["num_masked"], batch["num_teacher_masked"]) == (6, 4)
    assert (batch["num_tried"], batch["unreadable"]) == (4, [])
    assert torch.equal(batch["pixel_values"][2:4], loader.load(rows[1]))
    assert len({tuple(mask.tolist()) for mask in batch["bool_masked_pos"]}) > 4


def test_pre_training_batch_without_a_teacher_has_no_teacher_mask(rows: list[Row], loader: ClipLoader) -> None:
    batch = PreTrainingCollator(loader, TenTokenMasks(has_teacher=False))(rows)
    assert set(batch) == {"pixel_values", "bool_masked_pos", "num_masked", "num_tried", "unreadable"}


def test_mask_depends_on_seed_epoch_video_and_repetition_alone(rows: list[Row], loader: ClipLoader) -> None:
    batch = PreTrainingCollator(loader, TenTokenMasks())([{**rows[2], "epoch": 5}])
    for repetition in range(2):
        expected, _ = TenTokenMasks()(sample_generator(7, 5, rows[2]["video_id"], repetition, "mask"))
        assert torch.equal(batch["bool_masked_pos"][repetition], expected)


def test_evaluation_batch_is_the_same_in_every_epoch(rows: list[Row], loader: ClipLoader) -> None:
    collator = PreTrainingCollator(loader, TenTokenMasks(), training=False)
    first, later = collator(rows), collator([{**row, "epoch": 9} for row in rows])
    assert first["pixel_values"].shape == (4, 4, 3, 32, 32)
    assert _same(first, later)


def test_mask_generator_that_breaks_its_count_raises_with_the_row(rows: list[Row], loader: ClipLoader) -> None:
    masks = TenTokenMasks()
    masks.num_masked = 5
    with pytest.raises(ValueError, match="Row 0 of `bool_masked_pos` masks 6 tokens, but .* promises 5"):
        PreTrainingCollator(loader, masks)(rows)


def test_teacher_mask_hiding_a_token_the_student_sees_raises_with_the_row(rows: list[Row], loader: ClipLoader) -> None:
    class Crossed(TenTokenMasks):
        def __call__(self, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
            student, _ = super().__call__(generator)
            return student, ~student

    with pytest.raises(ValueError, match="Row 0 of `teacher_bool_masked_pos` masks 4 tokens that the student sees"):
        PreTrainingCollator(loader, Crossed())(rows)


# ---------------------------------------------------------------------------------------------------------------------
# Classification
# ---------------------------------------------------------------------------------------------------------------------


def test_classification_batch_repeats_the_labels(rows: list[Row], loader: ClipLoader) -> None:
    batch = ClassificationCollator(replace(loader, augmentation="random_resized_crop"))(rows)
    assert set(batch) == {"pixel_values", "labels", "num_tried", "unreadable"}
    assert batch["pixel_values"].shape == (8, 4, 3, 32, 32)
    assert batch["labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch["labels"].dtype == torch.int64


def _mirror_half(clip: torch.Tensor, label: int, generator: np.random.Generator) -> tuple[torch.Tensor, int]:
    assert clip.shape == (4, 3, 48, 64)  # before the crop
    return (clip.flip(-1), label + 10) if generator.random() < 0.5 else (clip, label)


def test_clip_augmentation_may_change_the_label(rows: list[Row], loader: ClipLoader) -> None:
    plain = replace(loader, augmentation="center_crop", repetitions=10)
    expected = ClassificationCollator(plain)(rows[:2])
    batch = ClassificationCollator(replace(plain, clip_augmentation=_mirror_half))(rows[:2])
    mirrored = batch["labels"] >= 10
    assert 4 <= mirrored.sum() <= 16
    assert torch.equal(batch["labels"] % 10, expected["labels"])
    torch.testing.assert_close(batch["pixel_values"][~mirrored], expected["pixel_values"][~mirrored], atol=0, rtol=0)
    torch.testing.assert_close(
        batch["pixel_values"][mirrored], expected["pixel_values"][mirrored].flip(-1), atol=1, rtol=0
    )


def test_clip_augmentation_is_left_out_of_evaluation(rows: list[Row], loader: ClipLoader) -> None:
    augmented = replace(loader, clip_augmentation=_mirror_half)
    batches = [ClassificationCollator(option, training=False)(rows) for option in (loader, augmented)]
    assert _same(*batches)
    assert batches[0]["labels"].tolist() == [0, 1, 2, 3]


def test_row_without_label_raises_with_its_id(rows: list[Row], loader: ClipLoader) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 videos of a batch have no label, the first is '1\.mp4'"):
        ClassificationCollator(loader)([rows[0], {**rows[1], "label": None}])


# ---------------------------------------------------------------------------------------------------------------------
# Videos that cannot be read
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "donations"),
    [([1], [(0, 2), (1, 2)]), ([0, 2], [(0, 2), (1, 2), (0, 3), (1, 3)])],
    ids=["one of four", "two of four"],
)
def test_holes_are_filled_with_further_repetitions_of_the_other_videos(
    rows: list[Row], bad_row: Row, loader: ClipLoader, places: list[int], donations: list[tuple[int, int]]
) -> None:
    batch_rows = [bad_row if place in places else row for place, row in enumerate(rows)]
    readable = [row for row in batch_rows if row is not bad_row]
    batch = ClassificationCollator(loader)(batch_rows)
    assert batch["pixel_values"].shape == (8, 4, 3, 32, 32)
    assert batch["num_tried"] == 4
    assert [video_id for video_id, _ in batch["unreadable"]] == ["bad.mp4"] * len(places)
    fillings = [(readable[donor], repetition) for donor, repetition in donations]
    for place, row in enumerate(batch_rows):
        parts = [fillings.pop(0) for _ in range(2)] if place in places else [(row, 0), (row, 1)]
        for offset, (source, repetition) in enumerate(parts):
            assert torch.equal(batch["pixel_values"][2 * place + offset], loader.load(source, [repetition])[0])
            assert batch["labels"][2 * place + offset] == source["label"]


def test_masks_of_filled_holes_are_those_of_the_further_repetitions(
    rows: list[Row], bad_row: Row, loader: ClipLoader
) -> None:
    batch = PreTrainingCollator(loader, TenTokenMasks())([bad_row, rows[0]])
    for place, repetition in enumerate([2, 3, 0, 1]):
        expected, _ = TenTokenMasks()(sample_generator(7, 0, rows[0]["video_id"], repetition, "mask"))
        assert torch.equal(batch["bool_masked_pos"][place], expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["pre-training", "classification"])
def test_batch_without_a_readable_video_holds_only_the_counts(
    bad_row: Row, loader: ClipLoader, kind: str, training: bool
) -> None:
    if kind == "pre-training":
        batch = PreTrainingCollator(loader, TenTokenMasks(), training=training)([bad_row, bad_row])
    else:
        batch = ClassificationCollator(loader, training=training)([bad_row, bad_row])
    assert set(batch) == {"pixel_values", "num_tried", "unreadable"}
    assert batch["pixel_values"] is None
    assert batch["num_tried"] == len(batch["unreadable"]) == 2


def test_evaluation_leaves_unreadable_videos_out_and_lists_them(
    rows: list[Row], tmp_path: Path, loader: ClipLoader
) -> None:
    cut = video_row(truncate(write_video(tmp_path / "cut.mp4")))
    missing = video_row(tmp_path / "missing.mp4")
    batch = ClassificationCollator(loader, training=False)([rows[0], cut, rows[2], missing])
    assert batch["labels"].tolist() == [0, 2]
    assert torch.equal(batch["pixel_values"][1], loader.load(rows[2], training=False)[0])
    assert [video_id for video_id, _ in batch["unreadable"]] == ["cut.mp4", "missing.mp4"]
    assert batch["num_tried"] == 4
    assert all(reason for _, reason in batch["unreadable"])


def test_video_that_becomes_unreadable_while_it_fills_holes_is_passed_over(
    rows: list[Row], bad_row: Row, loader: ClipLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClipLoader.load_with_labels

    def fail_for_the_first(self: ClipLoader, row: Row, repetitions: Any, training: bool) -> Any:
        if row is rows[0] and 2 in repetitions:
            raise VideoReadError("gone", row["video_id"])
        return original(self, row, repetitions, training)

    monkeypatch.setattr(ClipLoader, "load_with_labels", fail_for_the_first)
    batch = ClassificationCollator(loader)([rows[0], bad_row, rows[1]])
    assert batch["labels"].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch["unreadable"][-1] == ("0.mp4", "gone")


# ---------------------------------------------------------------------------------------------------------------------
# Determinism
# ---------------------------------------------------------------------------------------------------------------------


def test_samples_are_the_same_in_any_batch_and_in_any_order(rows: list[Row], loader: ClipLoader) -> None:
    collator = PreTrainingCollator(loader, TenTokenMasks())
    together, backwards = collator(rows), collator(rows[::-1])
    for key in ("pixel_values", "bool_masked_pos", "teacher_bool_masked_pos"):
        alone = torch.cat([collator([row])[key] for row in rows])
        assert torch.equal(together[key], alone)
        assert torch.equal(together[key].unflatten(0, (4, 2)), backwards[key].unflatten(0, (4, 2)).flip(0))


@pytest.mark.parametrize("change", ["seed", "epoch", "video_id"])
def test_samples_change_with_seed_epoch_and_video_id(rows: list[Row], loader: ClipLoader, change: str) -> None:
    row = dict(rows[0])
    other_row, other_loader = row, loader
    if change == "seed":
        other_loader = replace(loader, seed=8)
    else:
        other_row = {**row, change: {"epoch": 1, "video_id": "other"}[change]}
    assert not torch.equal(loader.load(row), other_loader.load(other_row))


def test_row_without_epoch_counts_as_epoch_zero(rows: list[Row], loader: ClipLoader) -> None:
    without = {key: value for key, value in rows[0].items() if key != "epoch"}
    assert torch.equal(loader.load(without), loader.load(rows[0]))


def test_workers_give_the_same_batches_as_the_main_process(rows: list[Row], bad_row: Row, loader: ClipLoader) -> None:
    collator = PreTrainingCollator(loader, TenTokenMasks())
    make = partial(torch.utils.data.DataLoader, [*rows, bad_row, rows[0]], batch_size=2, collate_fn=collator)
    with_workers = list(make(num_workers=2, multiprocessing_context="fork"))
    in_process = list(make(num_workers=0))
    assert len(with_workers) == len(in_process) == 3
    assert all(_same(one, other) for one, other in zip(with_workers, in_process, strict=True))
    assert [video_id for video_id, _ in with_workers[2]["unreadable"]] == ["bad.mp4"]
