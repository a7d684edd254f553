"""Clips made by the plain tensor operations of the device, here on CPU tensors, against the CPU's path and timm."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amd_hf.data.augment.on_device import PlannedClip, PlannedClips
from amd_hf.data.augment.rand_augment import OPERATIONS, RandAugment
from amd_hf.data.augment.transforms import ClipPlan, random_resized_crop_box
from amd_hf.data.clips import ClassificationCollator, ClipLoader, make_clip, sample_generator
from tests.data.augment.test_clip_operations import _arguments, _by_timm
from tests.helpers.videos import textured_rows


_CPU = torch.device("cpu")


def _frames(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames that differ: smooth, noisy, dark and of one colour, uint8 (4, height, width, 3)."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((2, 3, 8, 9), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    smooth = (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    noisy = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([smooth[0], noisy, smooth[1] // 4, np.full_like(noisy, (200, 10, 77))])


def _whole(height: int, width: int, drawn: list) -> ClipPlan:
    """A plan of operations alone."""
    box = (0, 0, height, width)
    return ClipPlan(
        height=height, width=width, drawn=drawn, box=box, resized_to=(height, width), crop=box, antialias=False,
        interpolation="bilinear", is_flipped=False,
    )  # fmt: skip


def _difference(clips: list[PlannedClip]) -> np.ndarray:
    """How far the device's clips are from the CPU's, each value of each clip."""
    made = PlannedClips.collate(clips).make(_CPU)
    assert made.dtype == torch.uint8
    expected = torch.stack([make_clip(clip) for clip in clips])
    assert made.shape == expected.shape
    return (made.int() - expected.int()).abs().numpy()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_of_every_magnitude_is_within_one_of_the_cpu_and_of_timm(name: str) -> None:
    frames = _frames(30, 41)
    picked = np.arange(4)
    for magnitude in np.arange(0, 10.01, 0.5):
        for is_negative in (False, True):
            arguments = _arguments(name, float(magnitude), is_negative)
            drawn = [(name, arguments[0] if arguments else 0)]
            clip = PlannedClip(frames, picked, _whole(30, 41, drawn))
            assert _difference([clip]).max() <= 1, (magnitude, is_negative)
            if magnitude in (3.5, 9.5):
                timms = _by_timm(frames, name, arguments).astype(int)
                ours = PlannedClips.collate([clip]).make(_CPU)[0].permute(0, 2, 3, 1).numpy()
                assert np.abs(ours - timms).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_tiny_frames_are_no_trouble(name: str, size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    drawn = [(name, (_arguments(name, 6, False) or (0,))[0])]
    assert _difference([PlannedClip(frames, np.arange(2), _whole(*size, drawn))]).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": "random_resized_crop"},
        {"augmentation": "random_resized_crop", "interpolation": "bicubic"},
        {"augmentation": "multi_scale_crop"},
        {"augmentation": "center_crop", "short_side": 40},
    ],
    ids=["random_resized_crop", "bicubic", "multi_scale_crop", "center_crop"],
)
def test_many_draws_over_clips_of_many_sizes_in_one_batch(options: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    loader = ClipLoader(
        num_frames=3, sampling_rate=1, image_size=32, flip_probability=0.5, rand_augment="rand-m7-n4-mstd0.5-inc1",
        **options,
    )  # fmt: skip
    clips = []
    for number in range(30):
        height, width = generator.integers(33, 90, 2).tolist()
        frames = _frames(height, width, number)
        for repetition in range(2):
            plan = loader._draw_plan(height, width, {"video_id": str(number)}, repetition)
            clips.append(PlannedClip(frames, generator.integers(0, 4, 3), plan))
    assert len({len(clip.plan.drawn) for clip in clips}) == 5
    differences = _difference(clips)
    # Of two values that are rounded one after the other, both may come out differently.
    assert differences.max() <= 2
    assert (differences > 1).mean() < 1e-5
    assert (differences > 0).mean() < (1e-4 if options == {"augmentation": "random_resized_crop"} else 0.015)


def test_clip_is_what_pil_and_float_interpolation_make_of_the_frames() -> None:
    policy = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    for number in range(12):
        frames = _frames(48, 64, number)
        generator = partial(sample_generator, 7, 0, "a", number)
        loader = ClipLoader(
            num_frames=4, sampling_rate=1, image_size=32, augmentation="random_resized_crop", flip_probability=0.5,
            rand_augment="rand-m7-n4-mstd0.5-inc1", seed=7,
        )  # fmt: skip
        plan = loader._draw_plan(48, 64, {"video_id": "a"}, number)
        expected = frames
        for name, argument in policy.draw(generator("rand_augment")):
            has_none = name in ("auto_contrast", "equalize", "invert")
            expected = _by_timm(expected, name, () if has_none else (argument,))
        draws = generator("crop")
        top, left, height, width = random_resized_crop_box(48, 64, draws)
        images = [Image.fromarray(frame).crop((left, top, left + width, top + height)) for frame in expected]
        crop = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float()
        resized = torch.nn.functional.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False)
        resized = resized.flip(-1) if draws.random() < 0.5 else resized
        made = PlannedClips.collate([PlannedClip(frames, np.arange(4), plan)]).make(_CPU)[0].float()
        assert (made - resized).abs().max() < 2.6  # see the same test of the CPU's clips
        assert ((made - resized).abs() > 1.01).float().mean() < 0.01


def test_frames_travel_once_and_only_the_part_that_is_needed() -> None:
    frames = _frames(50, 60)
    plan = replace(_whole(50, 60, [("invert", 0)]), box=(10, 20, 8, 9), resized_to=(5, 5), crop=(0, 0, 5, 5))
    other = replace(plan, box=(12, 22, 10, 4), is_flipped=True)
    clips = [PlannedClip(frames, np.array([3, 0]), plan), PlannedClip(frames, np.array([1, 1]), other)]
    planned = PlannedClips.collate(clips)
    assert planned.levels.numel() == 4 * 12 * 9 * 3  # rows 10 to 22, columns 20 to 29
    assert len(planned) == 2
    assert planned.numel() == planned.make(_CPU).numel()
    assert torch.equal(pickle.loads(pickle.dumps(planned)).make(_CPU), planned.make(_CPU))
    by_statistics = replace(plan, drawn=[("invert", 0), ("equalize", 0), ("rotate", 10.0)])
    assert PlannedClips.collate([replace(clips[0], plan=by_statistics)]).levels.numel() == frames.size


def test_frames_that_were_decoded_stay_as_they_are() -> None:
    frames = _frames(30, 30)
    before = frames.copy()
    drawn = [(name, (_arguments(name, 6, False) or (0,))[0]) for name in OPERATIONS]
    planned = PlannedClips.collate([PlannedClip(frames, np.arange(4), _whole(30, 30, drawn))])
    first = planned.make(_CPU)
    assert torch.equal(planned.make(_CPU), first)
    np.testing.assert_array_equal(frames, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_makes_the_clips_of_the_cpu_without_being_waited_for() -> None:
    frames = _frames(60, 80)
    clips = []
    for name in OPERATIONS:
        drawn = [(name, (_arguments(name, 6, False) or (0,))[0])]
        plan = replace(_whole(60, 80, drawn), box=(3, 4, 40, 50), resized_to=(32, 32), crop=(0, 0, 32, 32))
        clips.append(PlannedClip(frames, np.array([0, 1, 3, 3]), plan))
    planned = PlannedClips.collate(clips).pin_memory()
    planned.make(torch.device("cuda"))  # kernels are loaded, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = planned.make(torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (made.cpu().int() - planned.make(_CPU).int()).abs().max() <= 1


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


def _invert_the_second(clip: torch.Tensor, label: Any, generator: np.random.Generator) -> tuple[torch.Tensor, Any]:
    return (255 - clip, 1 - label) if generator.random() < 0.5 else (clip[..., :40], label)


@pytest.mark.parametrize(
    "options",
    [{}, {"repetitions_share_frames": False}, {"clip_augmentation": _invert_the_second}],
    ids=["shared frames", "own frames", "own augmentation"],
)
def test_batches_of_workers_hold_the_clips_of_the_cpu(tmp_path: Any, options: dict[str, Any]) -> None:
    rows = textured_rows(tmp_path, 2, 30)
    rows.append({**rows[0], "video": {"path": str(tmp_path / "gone.mp4"), "bytes": None}})
    loader = ClipLoader(
        num_frames=4, sampling_rate=3, image_size=32, sampling_mode="spread", augmentation="random_resized_crop",
        flip_probability=0.5, rand_augment="rand-m7-n4-mstd0.5-inc1", erase_probability=0.5, repetitions=2, **options,
    )  # fmt: skip
    expected = ClassificationCollator(loader)(rows)
    on_device = ClassificationCollator(replace(loader, augment_on_device=True))
    batch = next(iter(torch.utils.data.DataLoader(rows, batch_size=3, collate_fn=on_device, num_workers=1)))
    clips = batch.pop("pixel_values")
    differences = (clips.make(_CPU).int() - expected.pop("pixel_values").int()).abs()
    assert len(clips) == 6
    assert differences.max() <= 1
    for key, value in expected.items():
        assert torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value


def test_evaluation_and_loading_by_hand_make_clips_on_the_cpu(tmp_path: Any) -> None:
    rows = textured_rows(tmp_path, 1, 20)
    loader = ClipLoader(num_frames=4, sampling_rate=3, image_size=32)
    planning = replace(loader, augment_on_device=True)
    assert torch.equal(planning.load(rows[0]), loader.load(rows[0]))
    evaluation = [
        ClassificationCollator(option, training=False)(rows)["pixel_values"] for option in (loader, planning)
    ]
    assert torch.equal(*evaluation)
