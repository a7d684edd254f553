"""MotionShapes: the label is in the motion and nowhere else; changes of a clip map labels rightly; files are sound."""

import io
import json
import shutil

import av
import numpy as np
import pytest
import torch

from amd_hf import load_video_dataset
from examples import motion_shapes
from examples.motion_shapes import (
    HORIZONTAL_FLIP_LABELS,
    MOTION_CLASSES,
    TIME_REVERSAL_LABELS,
    TRANSPOSE_LABELS,
    VERTICAL_FLIP_LABELS,
    SceneLaw,
    augment_motion,
    render_clip,
    render_mask,
    write_motion_shapes,
)


# One small shape without nuisance motion, so that the change from frame to frame can be measured.
PLAIN = SceneLaw(num_shapes=1, nuisance=0.0, roughness=0.5, radius=(0.08, 0.16))
SIZE = 96


def is_measurable(mask: np.ndarray) -> bool:
    """Whether the shape stays clear of the picture's border in all frames."""
    border = np.concatenate([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], axis=1)
    return border.max() == 0 and mask.sum((1, 2)).min() > 0


def measure_motion(mask: np.ndarray) -> int:
    """Names the motion of one shape from its masks (T, H, W) alone: by centroid, second moment and area.

    Nothing here knows how the renderer works. Medians over time pass over the one jump that a clip may have.
    """
    area = mask.sum((1, 2))
    grid = np.arange(mask.shape[1]) - (mask.shape[1] - 1) / 2
    centroid = ((mask.sum(1) @ grid) + 1j * (mask.sum(2) @ grid)) / area
    offset = grid[None, None, :] + 1j * grid[None, :, None] - centroid[:, None, None]
    moment = (mask * offset**2).sum((1, 2))  # as a complex number it turns twice as fast as the shape
    turn = np.median(np.angle(moment[1:] / moment[:-1]) / 2)
    growth = np.median(np.diff(np.log(area)))
    slide_x, slide_y = np.median(np.diff(centroid.real)), np.median(np.diff(centroid.imag))
    if abs(turn) > 0.1:
        return MOTION_CLASSES.index("clockwise" if turn > 0 else "anticlockwise")
    if abs(growth) > 0.05:
        return MOTION_CLASSES.index("nearer" if growth > 0 else "farther")
    if abs(slide_x) > abs(slide_y):
        return MOTION_CLASSES.index("right" if slide_x > 0 else "left")
    return MOTION_CLASSES.index("down" if slide_y > 0 else "up")


def plain_masks(label: int, num_masks: int) -> list[np.ndarray]:
    masks, seed = [], 0
    while len(masks) < num_masks:
        mask = render_mask(label, seed, num_frames=6, size=SIZE, law=PLAIN)
        seed += 1
        if is_measurable(mask):
            masks.append(mask)
    return masks


@pytest.fixture(scope="module")
def masks() -> list[list[np.ndarray]]:
    return [plain_masks(label, 8) for label in range(8)]


def as_video(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((mask * 255).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)


class TestRenderClip:
    def test_clip_has_the_documented_shape_and_dtype(self):
        clip = render_clip(3, seed=1, num_frames=6, size=48)
        assert clip.shape == (6, 48, 48, 3)
        assert clip.dtype == np.uint8

    def test_same_arguments_give_the_same_clip_and_other_seeds_another(self):
        np.testing.assert_array_equal(render_clip(2, seed=5), render_clip(2, seed=5))
        assert (render_clip(2, seed=5) != render_clip(2, seed=6)).mean() > 0.5

    @pytest.mark.parametrize("num_frames", [1, 7, 16])
    def test_all_labels_of_a_seed_share_one_picture(self, num_frames):
        pictures = [render_clip(label, seed=9, num_frames=num_frames)[num_frames // 2] for label in range(8)]
        for picture in pictures[1:]:
            np.testing.assert_array_equal(picture, pictures[0])

    def test_background_moves_too(self):
        clip = render_clip(0, seed=3, law=SceneLaw(num_shapes=0)).astype(int)
        assert np.abs(clip[-1] - clip[0]).max() > 5

    def test_motion_measured_in_the_masks_is_that_of_the_label(self, masks):
        for label in range(8):
            assert [measure_motion(mask) for mask in masks[label]] == [label] * 8

    @pytest.mark.parametrize("label", [-1, 8])
    def test_unknown_label_raises(self, label):
        with pytest.raises(ValueError, match="`label` must be 0 to 7"):
            render_clip(label, seed=0)

    def test_no_frames_raises(self):
        with pytest.raises(ValueError, match="at least 1"):
            render_clip(0, seed=0, num_frames=0)


class TestNothingLeaks:
    @pytest.mark.parametrize("frame", [0, 8, 15])
    def test_place_and_size_in_any_frame_are_the_same_for_all_classes(self, frame):
        """Class means of area, covered rows and columns and their squares; 4.5 standard errors allowed."""
        num, grid = 200, np.linspace(-1, 1, 24)
        statistics = np.zeros((8, num, 6))
        for label in range(8):
            for index in range(num):
                mask = render_mask(label, seed=1000 * label + index, size=24)[frame]
                columns, rows = mask.mean(0), mask.mean(1)
                places = columns @ grid, rows @ grid, columns @ grid**2, rows @ grid**2
                statistics[label, index] = mask.mean(), mask.mean() ** 2, *places
        error = statistics.std((0, 1)) / np.sqrt(num)
        distance = np.abs(statistics.mean(1) - statistics.mean((0, 1))) / error
        assert distance.max() < 4.5

    def test_nearest_frame_of_another_clip_finds_the_class_by_chance_only(self):
        def frames(start):
            clips = [render_clip(i % 8, seed=start + i, num_frames=12, size=16) for i in range(400)]
            return np.stack([clip[0] for clip in clips]).reshape(400, -1).astype(float)

        known, asked = frames(0), frames(5000)
        nearest = ((asked[:, None, ::4] - known[None, :, ::4]) ** 2).sum(-1).argmin(1)
        assert (nearest % 8 == np.arange(400) % 8).mean() < 0.2


class TestLabelTables:
    @pytest.mark.parametrize(
        ("change", "labels"),
        [
            (lambda mask: mask[:, :, ::-1], HORIZONTAL_FLIP_LABELS),
            (lambda mask: mask[:, ::-1], VERTICAL_FLIP_LABELS),
            (lambda mask: mask.transpose(0, 2, 1), TRANSPOSE_LABELS),
            (lambda mask: mask[::-1], TIME_REVERSAL_LABELS),
        ],
        ids=["horizontal flip", "vertical flip", "transposition", "time reversal"],
    )
    def test_changed_masks_measure_as_the_mapped_label(self, masks, change, labels):
        for label in range(8):
            assert [measure_motion(change(mask)) for mask in masks[label]] == [labels[label]] * 8

    @pytest.mark.parametrize(
        "labels", [HORIZONTAL_FLIP_LABELS, VERTICAL_FLIP_LABELS, TRANSPOSE_LABELS, TIME_REVERSAL_LABELS]
    )
    def test_doing_a_change_twice_changes_nothing(self, labels):
        assert [labels[labels[label]] for label in range(8)] == list(range(8))


class TestAugmentMotion:
    def test_label_follows_the_clip(self, masks):
        generator = np.random.default_rng(0)
        for label in range(8):
            for mask in masks[label] * 2:
                changed, new_label = augment_motion(as_video(mask), label, generator)
                assert measure_motion(changed[:, 0].numpy() / 255) == new_label

    def test_every_label_is_reached_from_every_motion_of_its_kind(self):
        generator = np.random.default_rng(1)
        video = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        left = MOTION_CLASSES.index("left")
        reached = {MOTION_CLASSES[augment_motion(video, left, generator)[1]] for _ in range(100)}
        assert reached == {"left", "right", "up", "down"}

    def test_pixels_only_change_places(self):
        video = torch.from_numpy(render_clip(0, seed=0, num_frames=4)).permute(0, 3, 1, 2)
        changed, _ = augment_motion(video, 0, np.random.default_rng(2))
        assert changed.dtype == torch.uint8
        assert torch.equal(changed.flatten().sort().values, video.flatten().sort().values)

    def test_same_generator_state_gives_the_same_clip(self):
        video = torch.from_numpy(render_clip(4, seed=0, num_frames=4)).permute(0, 3, 1, 2)
        (one, label_one), (two, label_two) = (augment_motion(video, 4, np.random.default_rng(7)) for _ in range(2))
        assert torch.equal(one, two)
        assert label_one == label_two


class TestWriteMotionShapes:
    def read(self, path) -> np.ndarray:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    def test_files_are_h264_in_class_folders_and_show_the_clip(self, tmp_path):
        law = SceneLaw(num_shapes=1)
        paths = write_motion_shapes(tmp_path, "train", 10, seed=3, num_frames=9, size=48, law=law, num_workers=0)
        assert [path.relative_to(tmp_path).as_posix() for path in paths[:2]] == [
            "train/anticlockwise/000000.mp4",
            "train/clockwise/000001.mp4",
        ]
        assert sorted(folder.name for folder in (tmp_path / "train").iterdir()) == sorted(MOTION_CLASSES)
        with av.open(str(paths[0])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert self.read(paths[9]).shape == (9, 48, 48, 3)

    def test_encoding_stays_close_to_the_rendered_pictures(self):
        clip = render_clip(1, seed=8)
        with av.open(io.BytesIO(motion_shapes.encode_video(clip))) as container:
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert np.abs(decoded.astype(int) - clip).mean() < 8  # half of the colour resolution is lost in yuv420p

    def test_without_labels_one_flat_folder(self, tmp_path):
        paths = write_motion_shapes(tmp_path, "unlabelled", 3, seed=0, labelled=False, num_frames=4)
        assert [path.name for path in paths] == ["000000.mp4", "000001.mp4", "000002.mp4"]
        assert {path.parent for path in paths} == {tmp_path / "unlabelled"}

    def test_processes_write_the_same_bytes_as_one(self, tmp_path):
        many = write_motion_shapes(tmp_path / "many", "train", 64, seed=0, num_frames=2, size=16, num_workers=2)
        one = write_motion_shapes(tmp_path / "one", "train", 64, seed=0, num_frames=2, size=16, num_workers=0)
        assert [path.read_bytes() for path in many] == [path.read_bytes() for path in one]

    def test_splits_and_seeds_hold_different_videos(self, tmp_path):
        first = write_motion_shapes(tmp_path, "train", 1, seed=0, num_frames=4)
        split = write_motion_shapes(tmp_path, "validation", 1, seed=0, num_frames=4)
        seed = write_motion_shapes(tmp_path / "other", "train", 1, seed=1, num_frames=4)
        assert len({paths[0].read_bytes() for paths in (first, split, seed)}) == 3

    def test_second_run_fills_gaps_and_keeps_the_rest(self, tmp_path):
        paths = write_motion_shapes(tmp_path, "train", 4, seed=0, num_frames=4)
        times = [path.stat().st_mtime_ns for path in paths]
        content = paths[2].read_bytes()
        paths[2].unlink()
        again = write_motion_shapes(tmp_path, "train", 5, seed=0, num_frames=4)
        assert paths[2].read_bytes() == content
        assert [path.stat().st_mtime_ns for path in paths][:2] == times[:2]
        assert len(again) == 5
        assert not list(tmp_path.rglob("*.part"))

    def test_other_settings_for_a_split_that_exists_raise(self, tmp_path):
        write_motion_shapes(tmp_path, "train", 1, seed=0, num_frames=4)
        assert json.loads((tmp_path / "train.json").read_text())["num_frames"] == 4
        with pytest.raises(ValueError, match="rendered with other settings"):
            write_motion_shapes(tmp_path, "train", 1, seed=1, num_frames=4)

    def test_videos_of_another_origin_raise(self, tmp_path):
        paths = write_motion_shapes(tmp_path, "train", 1, seed=0, num_frames=4)
        shutil.copy(paths[0], tmp_path / "train" / "mine.mp4")
        (tmp_path / "train.json").unlink()
        with pytest.raises(ValueError, match="did not write"):
            write_motion_shapes(tmp_path, "train", 1, seed=0, num_frames=4)

    @pytest.mark.parametrize("size", [0, 40])
    def test_size_that_h264_would_pad_raises(self, tmp_path, size):
        with pytest.raises(ValueError, match="multiple of 16"):
            write_motion_shapes(tmp_path, "train", 1, seed=0, size=size)


def test_labels_of_class_folders_are_those_of_the_renderer(tmp_path):
    write_motion_shapes(tmp_path, "train", 8, seed=0, num_frames=8)
    rows = load_video_dataset(tmp_path, split="train")
    assert tuple(rows.features["label"].names) == MOTION_CLASSES
