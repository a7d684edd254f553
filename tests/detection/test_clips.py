"""From key frames to clips: which frames are read in each layout, what happens to boxes and colours, the collators."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from amd_hf import AMDForActionDetection
from amd_hf.data.augment.hsv import HSVShift, draw_hsv_shift, shift_hsv
from amd_hf.data.video.decoding import VideoReadError
from amd_hf.data.video.key_frames import clip_offsets, read_around
from amd_hf.detection.boxes import crop_boxes, flip_boxes, fractions_to_pixels, jitter_boxes
from amd_hf.detection.clips import DetectionClipLoader, DetectionCollator, DetectionTestCollator
from amd_hf.detection.evaluation import detect
from tests.helpers.ava import write_frames
from tests.helpers.models import randomize, tiny_config
from tests.helpers.videos import frame_numbers, numbered_frames, text_file, write_video


_RATE = 10
_NUM_FRAMES = 60  # six seconds


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same numbered frames, frame n shown at n / 10 seconds, in the three layouts."""
    root = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(_NUM_FRAMES, 48, 64)
    write_video(root / "a.mp4", frames=frames, fps=_RATE)
    for second in range(6):
        write_video(root / "pieces" / f"{second}.mp4", frames=frames[10 * second :][:10], fps=_RATE)
    write_frames(root / "frames", "a", frames)
    common = {"start_seconds": 0.0, "frame_rate": None, "frame_pattern": None}
    return {
        "file": {**common, "path": str(root / "a.mp4"), "layout": "file"},
        "pieces": {**common, "path": str(root / "pieces"), "layout": "pieces"},
        "frames": {
            "path": str(root / "frames"), "layout": "frames", "start_seconds": 0.0, "frame_rate": 10.0,
            "frame_pattern": "a_%06d.jpg",
        },
    }  # fmt: skip


def _row(video: dict[str, Any], timestamp: float = 3.0, **changes: Any) -> dict[str, Any]:
    row = {
        "video": video, "video_id": f"a,{timestamp}", "timestamp": timestamp,
        "boxes": [[0.25, 0.25, 0.75, 0.75], [0.0, 0.5, 0.5, 1.0]], "actions": [[0, 2], [1]],
        "person_boxes": None, "person_scores": None,
    }  # fmt: skip
    return row | changes


def _loader(**changes: Any) -> DetectionClipLoader:
    options = {"num_frames": 4, "sampling_rate": 2, "num_labels": 3, "crop_size": 32, "short_side": 48}
    return DetectionClipLoader(**(options | changes))


# ---------------------------------------------------------------------------------------------------------------------
# Frames
# ---------------------------------------------------------------------------------------------------------------------


def test_a_clip_of_16_frames_at_rate_4_takes_1_5_to_61_of_64_around_frame_32() -> None:
    assert (clip_offsets(16, 4) + 32).tolist() == list(range(1, 64, 4))
    assert (clip_offsets(8, 1) + 4).tolist() == list(range(8))


@pytest.mark.parametrize("layout", ["file", "pieces", "frames"])
@pytest.mark.parametrize(
    ("timestamp", "wanted"),
    [
        (3.0, [26, 28, 30, 32]),
        (1.0, [6, 8, 10, 12]),
        (0.0, [0, 0, 0, 2]),  # nothing before the beginning
        (5.0, [46, 48, 50, 52]),
    ],
)
def test_each_layout_gives_the_frames_around_a_second(
    videos: dict[str, dict[str, Any]], layout: str, timestamp: float, wanted: list[int]
) -> None:
    frames = read_around(videos[layout], timestamp, clip_offsets(4, 2), video_id="a")
    assert frame_numbers(frames) == wanted


@pytest.mark.parametrize("layout", ["file", "pieces", "frames"])
def test_a_window_over_several_seconds_is_cut_off_at_both_ends(videos: dict[str, dict[str, Any]], layout: str) -> None:
    frames = read_around(videos[layout], 2.0, np.array([-40, -25, -15, 0, 15, 39, 60]), video_id="a")
    assert frame_numbers(frames) == [0, 0, 5, 20, 35, 59, 59]


def test_times_count_from_where_a_file_starts(videos: dict[str, dict[str, Any]]) -> None:
    for layout in ("file", "frames"):
        frames = read_around(videos[layout] | {"start_seconds": 900.0}, 902.5, np.array([0, 3]), video_id="a")
        assert frame_numbers(frames) == [25, 28]


def test_a_timestamp_outside_of_the_video_is_named(videos: dict[str, dict[str, Any]]) -> None:
    for layout, message in (("file", "frame 70 of 60"), ("frames", "frame 70 of 60"), ("pieces", "no piece of sec")):
        with pytest.raises(VideoReadError, match=message):
            read_around(videos[layout], 7.0, clip_offsets(4, 2), video_id="a")
    with pytest.raises(VideoReadError, match="no whole second"):
        read_around(videos["pieces"], 2.5, clip_offsets(4, 2), video_id="a")


# ---------------------------------------------------------------------------------------------------------------------
# Boxes
# ---------------------------------------------------------------------------------------------------------------------


def test_fractions_become_first_and_last_pixels() -> None:
    boxes = fractions_to_pixels(np.array([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75]]), 40, 80)
    assert boxes.tolist() == [[0, 0, 79, 39], [20, 20, 39, 29]]


def test_flip_mirrors_pixels_and_undoes_itself() -> None:
    mask = np.zeros((1, 10))
    mask[0, 2:6] = 1  # pixels 2 to 5
    flipped = flip_boxes(np.array([[2.0, 0.0, 5.0, 0.0]]), 10)
    assert np.flatnonzero(mask[0, ::-1])[[0, -1]].tolist() == flipped[0, [0, 2]].tolist()
    assert flip_boxes(flipped, 10).tolist() == [[2.0, 0.0, 5.0, 0.0]]


def test_crop_moves_cuts_off_and_leaves_out() -> None:
    boxes = np.array([[5.0, 5.0, 25.0, 15.0], [0.0, 0.0, 9.0, 9.0], [30.0, 2.0, 60.0, 50.0]])
    cropped, is_inside = crop_boxes(boxes, top=2, left=10, height=20, width=30)
    assert is_inside.tolist() == [True, False, True]
    assert cropped.tolist() == [[0, 3, 15, 13], [20, 0, 30, 20]]


def test_jitter_follows_its_law() -> None:
    box = np.array([[40.0, 40.0, 59.0, 79.0]])  # 20 wide, 40 high
    generator = np.random.default_rng(0)
    moves = np.stack([jitter_boxes(box, 200, 200, generator)[0] - box[0] for _ in range(4000)])
    # x: 0.2 of the width outwards, 0.1 inwards; y: 0.1 and 0.05 of the height. Uniform between.
    low, high = np.array([-4.0, -4.0, -2.0, -2.0]), np.array([2.0, 2.0, 4.0, 4.0])
    assert (moves.min(axis=0) >= low).all()
    assert (moves.max(axis=0) <= high).all()
    assert np.abs(moves.min(axis=0) - low).max() < 0.05
    assert np.abs(moves.max(axis=0) - high).max() < 0.05
    quarters = np.quantile(moves, [0.25, 0.5, 0.75], axis=0)
    assert np.abs(quarters - (low + np.outer([0.25, 0.5, 0.75], high - low))).max() < 0.25
    assert np.abs(np.corrcoef(moves.T) - np.eye(4)).max() < 0.06


def test_jittered_boxes_stay_in_the_frame_and_a_pixel_long() -> None:
    boxes = np.array([[0.0, 0.0, 99.0, 49.0], [99.0, 49.0, 99.0, 49.0], [98.0, 0.0, 100.0, 0.0]])
    generator = np.random.default_rng(0)
    for _ in range(100):
        jittered = jitter_boxes(boxes, 50, 100, generator)
        assert (jittered >= 0).all()
        assert (jittered <= [99, 49, 99, 49]).all()
        assert (jittered[:, 2:] - jittered[:, :2] >= 1 - 1e-9).all()


# ---------------------------------------------------------------------------------------------------------------------
# Colours
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [HSVShift(20, 0.1, -0.1), HSVShift(-40, -0.3, 0.2), HSVShift(0, 0, 0)])
def test_hsv_shift_equals_the_standard_library_pixel_by_pixel(shift: HSVShift) -> None:
    clip = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip[0, :, 0] = torch.tensor([0, 128, 255])[:, None]
    clip[1, :, 0] = 77  # grey
    wanted = torch.empty_like(clip)
    for frame, row, column in np.ndindex(2, 8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*(clip[frame, :, row, column] / 255).tolist())
        rgb = colorsys.hsv_to_rgb(
            (hue + shift.hue / 360) % 1,
            min(max(saturation + shift.saturation, 0), 1),
            min(max(value + shift.value, 0), 1),
        )
        wanted[frame, :, row, column] = torch.tensor(rgb).mul(255).round()
    assert (shift_hsv(clip, shift).int() - wanted.int()).abs().max() <= 1


def test_hsv_shifts_are_drawn_evenly_within_their_bounds() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([draw_hsv_shift(20, 0.1, 0.1, generator) for _ in range(4000)])
    assert sorted(set(drawn[:, 0])) == [2.0 * step for step in range(-10, 11)]
    assert {round(255 * value) for value in drawn[:, 1]} == set(range(-26, 27))
    assert np.abs(drawn.mean(axis=0)).max() < 0.4


# ---------------------------------------------------------------------------------------------------------------------
# Clips
# ---------------------------------------------------------------------------------------------------------------------


def test_training_clip_and_boxes_show_the_same_place(tmp_path: Path) -> None:
    frames = np.full((_NUM_FRAMES, 48, 80, 3), 30, dtype=np.uint8)
    frames[:, 16:32, 24:56] = 220  # the person
    write_video(tmp_path / "a.mp4", frames=frames, fps=_RATE)
    video = {"path": str(tmp_path / "a.mp4"), "layout": "file", "start_seconds": 0.0, "frame_rate": None}
    row = _row(video, boxes=[[24 / 80, 16 / 48, 56 / 80, 32 / 48]], actions=[[1]])
    loader = _loader(crop_size=40, hue_shift=0, saturation_shift=0, value_shift=0)
    flips = 0
    for epoch in range(12):
        clips, (regions,) = loader.load_with_labels({**row, "epoch": epoch})
        assert clips.shape == (1, 4, 3, 40, 40)
        bright = (clips[0, 0, 0] > 125).nonzero()
        seen = [bright[:, 1].min(), bright[:, 0].min(), bright[:, 1].max(), bright[:, 0].max()]
        difference = regions.boxes[0] - torch.tensor([float(side) for side in seen])
        # Jitter: at most 0.2 of 32 and 0.1 of 16 pixels; 1 for the codec.
        assert (difference.abs() <= torch.tensor([6.4, 1.6, 6.4, 1.6]) + 1).all()
        flips += int(loader.generator({**row, "epoch": epoch}, 0, "flip").random() < 0.5)
    assert 0 < flips < 12


def test_training_samples_depend_on_seed_epoch_and_id_alone(videos: dict[str, dict[str, Any]]) -> None:
    row = _row(videos["file"])
    loader = _loader(repetitions=2)
    clips, regions = loader.load_with_labels(row)
    again, regions_again = _loader(repetitions=2).load_with_labels(row)
    assert torch.equal(clips, again)
    assert torch.equal(regions[0].boxes, regions_again[0].boxes)
    assert not torch.equal(regions[0].boxes, regions[1].boxes)
    alone, regions_alone = loader.load_with_labels(row, [1])
    assert torch.equal(alone[0], clips[1])
    assert torch.equal(regions_alone[0].boxes, regions[1].boxes)
    for other in (_loader(repetitions=2, seed=1).load_with_labels(row), loader.load_with_labels({**row, "epoch": 1})):
        assert not torch.equal(other[1][0].boxes, regions[0].boxes)


def test_at_most_so_many_boxes_with_their_own_labels(videos: dict[str, dict[str, Any]]) -> None:
    # Boxes of different heights, whose label is their number.
    boxes = [[0.3, 0.4, 0.7, 0.45 + 0.02 * number] for number in range(6)]
    row = _row(videos["file"], boxes=boxes, actions=[[number] for number in range(6)])
    loader = _loader(max_boxes=3, num_labels=6, flip_probability=0)
    chosen = set()
    for epoch in range(20):
        _, (regions,) = loader.load_with_labels({**row, "epoch": epoch})
        assert regions.boxes.shape == (3, 4)
        numbers = regions.labels.argmax(dim=1)
        assert (regions.labels.sum(dim=1) == 1).all()
        heights = regions.boxes[:, 3] - regions.boxes[:, 1] + 1
        wanted = 48 * (0.05 + 0.02 * numbers)
        assert ((heights - wanted).abs() <= 0.2 * wanted + 1.5).all()
        chosen.add(tuple(sorted(numbers.tolist())))
    assert len(chosen) > 5


def test_evaluation_takes_the_whole_frame_and_extended_person_boxes(videos: dict[str, dict[str, Any]]) -> None:
    row = _row(videos["file"], person_boxes=[[0.25, 0.25, 0.75, 0.75]], person_scores=[0.9])
    clip = _loader(short_side=96).load_for_evaluation(row)
    assert clip.pixel_values.shape == (4, 3, 96, 128)
    # (16, 12, 47, 35) of 48 x 64 pixels, twice as large, then 5% and 2.5% of 63 and 47 pixels to either side.
    assert clip.boxes.tolist() == [pytest.approx([32 - 3.15, 24 - 1.175, 94 + 3.15, 70 + 1.175], abs=1e-4)]
    portrait = _loader(short_side=48).load_for_evaluation(_row(videos["file"]))
    assert portrait.boxes.shape == (2, 4)


def test_clips_are_padded_to_the_patch_with_zeros(videos: dict[str, dict[str, Any]]) -> None:
    config = tiny_config(image_size=32, patch_size=16, num_labels=3)
    model = randomize(AMDForActionDetection(config)).eval()
    loader = _loader(num_frames=config.num_frames, short_side=36)
    batch = DetectionTestCollator(loader)([_row(videos["file"])])
    clip, boxes = batch["samples"][0]["clip"]
    assert clip.shape[-2:] == (36, 48)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.image_mean, config.image_std))
    padded = torch.zeros(1, config.num_frames, 3, 48, 48)
    padded[..., :36, :] = (clip / 255 - mean) / std
    with torch.no_grad():
        wanted = model(padded, boxes=[boxes]).logits.sigmoid()
    ((outcome,),) = detect(model, [batch], Accelerator(cpu=True))
    assert outcome["scores"] == pytest.approx(wanted.numpy(), abs=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Collators
# ---------------------------------------------------------------------------------------------------------------------


def test_training_batch_fills_the_hole_of_a_bad_video(videos: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    bad = {**videos["file"], "path": str(text_file(tmp_path / "bad.mp4"))}
    rows = [_row(videos["file"]), _row(bad, video_id="bad,0003"), _row(videos["frames"], 2.0, boxes=[], actions=[])]
    batch = DetectionCollator(_loader())(rows)
    assert batch["pixel_values"].shape == (3, 4, 3, 32, 32)
    assert [name for name, _ in batch["unreadable"]] == ["bad,0003"]
    assert batch["num_tried"] == 3
    filling, _ = _loader().load_with_labels(rows[0], [1])
    assert torch.equal(batch["pixel_values"][1], filling[0])
    assert batch["boxes"][2].shape == (0, 4)  # a clip without boxes is legal
    assert batch["labels"][2].shape == (0, 3)
    assert len(batch["boxes"]) == len(batch["labels"]) == 3
    nothing = DetectionCollator(_loader())([rows[1]])
    assert nothing["pixel_values"] is None


def test_rows_without_actions_are_refused_in_training(videos: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="Key frame 'a,3.0' has no actions"):
        DetectionCollator(_loader())([_row(videos["file"], actions=None)])


def test_evaluation_batch_has_every_row_once(videos: dict[str, dict[str, Any]]) -> None:
    rows = [
        _row(videos["file"], person_boxes=[[0.1, 0.1, 0.5, 0.5]], person_scores=[0.85]),
        _row(videos["file"], 99.0),
        _row(videos["file"], 4.0, person_boxes=[], person_scores=[]),
    ]
    batch = DetectionTestCollator(_loader())(rows)
    first, second, third = batch["samples"]
    assert first["person_scores"].tolist() == [0.85]
    assert first["clip"].boxes.shape == (1, 4)
    assert "frame 990 of 60" in second["reason"]
    assert second["person_scores"].tolist() == [1.0, 1.0]  # no detector: the true boxes
    assert "clip" not in third
    assert "reason" not in third
    assert [name for name, _ in batch["unreadable"]] == ["a,99.0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 64}, "`short_side` 48 must be at least `crop_size` 64"),
        ({"num_labels": 0}, "`num_labels` must be at least 1"),
        ({"flip_probability": 1.5}, "`flip_probability` must lie between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _loader(**changes)
