"""Teachers of another geometry than the student's: which clips they get, and what becomes of their tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from amd_hf import AMDConfig, AMDModel
from amd_hf.teachers.frozen import FrozenTeacher
from amd_hf.teachers.geometry import area_weights, student_options
from amd_hf.teachers.loading import read_teacher
from tests.helpers.encoders import ENCODERS, raw_hidden_states, tiny_encoder
from tests.helpers.models import (
    nested_masks,
    normalized,
    random_clips,
    randomize,
    tiny_config,
    tiny_teacher_config,
    token_split,
)


def _tubes(patches: int, hidden: tuple[int, int], times: int) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = nested_masks(patches, *hidden)
    return student.repeat(1, times), teacher.repeat(1, times)


def _last_layer(frozen: FrozenTeacher, clips: torch.Tensor, masks: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """Layer 4 of every token that the teacher was asked for: [{token: features}] clip by clip."""
    split = token_split(*masks)
    direct, generation = frozen(clips, split)
    ids = torch.cat([split.visible, split.teacher_only], dim=1)
    features = torch.cat([direct[1], generation[1]], dim=1)
    return [dict(zip(ids[row].tolist(), features[row], strict=True)) for row in range(len(clips))]


@pytest.mark.parametrize(("size", "new_size"), [(4, 2), (6, 4), (2, 5), (3, 3), (16, 14)])
def test_area_weights_count_every_cell_by_how_much_of_it_lies_inside(size: int, new_size: int) -> None:
    fine = 12 * size * new_size  # each cell in equal parts, none of which is cut
    values = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = values.repeat_interleave(fine // size).view(new_size, -1).mean(dim=1)
    torch.testing.assert_close(area_weights(size, new_size).double() @ values, expected, atol=1e-6, rtol=0)


def test_other_patches_run_at_the_size_that_gives_the_students_grid() -> None:
    """A patch of 8 for a student of 2 x 3 patches of 16: frames of 32 x 48 become 16 x 24."""
    config = tiny_config(image_size=[32, 48], patch_size=16)
    model, clips = tiny_encoder("dinov2"), random_clips(config)
    frozen = FrozenTeacher.fit(model, config)
    assert (
        "sees 4 frames of 16 x 24 as 2 x 2 x 3 tokens, the student's grid, what its mask leaves" in frozen.describe()
    )
    masks = _tubes(6, (4, 0), 2)  # the teacher sees all
    small = F.interpolate(clips.flatten(0, 1) / 255, (16, 24), mode="bilinear", antialias=True)
    states = raw_hidden_states(model, normalized(small.unflatten(0, (2, 4)) * 255, config))[4]
    for row, tokens in enumerate(_last_layer(frozen, clips, masks)):
        for token, features in tokens.items():
            time, patch = divmod(token, 6)
            mean = states[row, 2 * time : 2 * time + 2, patch].mean(dim=0)
            torch.testing.assert_close(features, mean, atol=1e-4, rtol=1e-4)


def test_own_size_averages_tokens_by_area_and_needs_them_all() -> None:
    """The teacher's 4 x 4 patches for a student of 2 x 2: each gets the mean of four."""
    config = tiny_config(image_size=32, patch_size=16)
    model, clips = tiny_encoder("dinov2"), random_clips(config)
    frozen = FrozenTeacher.fit(model, config, grid="own")
    text = (
        "sees 4 frames of 32 x 32 as 2 x 4 x 4 tokens, averaged by area to the student's 2 x 2 x 2, all of every clip"
    )
    assert text in frozen.describe()
    states = raw_hidden_states(model, normalized(clips, config))[4]
    masks = _tubes(4, (3, 2), 2)
    for row, tokens in enumerate(_last_layer(frozen, clips, masks)):
        assert len(tokens) == 4
        for token, features in tokens.items():
            time, patch = divmod(token, 4)
            top, left = 2 * (patch // 2), 2 * (patch % 2)
            square = [4 * (top + down) + left + right for down in range(2) for right in range(2)]
            mean = states[row, 2 * time : 2 * time + 2, square].mean(dim=(0, 1))
            torch.testing.assert_close(features, mean, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="`teacher_view asymmetric` cannot be: its grid of 2 x 4 x 4 tokens"):
        FrozenTeacher.fit(model, config, grid="own", view="asymmetric")


def test_middle_frame_alone_stands_for_its_token() -> None:
    config = tiny_config(image_size=32)
    model, clips = tiny_encoder("siglip_vision_model"), random_clips(config)
    masks = _tubes(16, (11, 0), 2)
    frozen = FrozenTeacher.fit(model, config, frames="middle")
    changed = clips.clone()
    changed[:, [0, 2]] = 0  # tokens of frames 0, 1 and 2, 3: the second of each is looked at
    states = raw_hidden_states(model, (clips / 255 - 0.5) / 0.5)[4]
    one, other = (_last_layer(frozen, pixels, masks) for pixels in (clips, changed))
    for row in range(2):
        for token, features in one[row].items():
            torch.testing.assert_close(features, states[row, 2 * (token // 16) + 1, token % 16], atol=1e-5, rtol=1e-5)
            assert torch.equal(features, other[row][token])


@pytest.mark.parametrize(
    ("tubelet", "frames"),
    [(1, [0, 0, 1, 1, 2, 2, 3, 3]), (2, [0, 1, 2, 3, 4, 5, 6, 7]), (4, [1, 3, 5, 7, 9, 11, 13, 15])],
)
def test_tubelets_of_another_length_get_frames_spread_over_the_students(tubelet: int, frames: list[int]) -> None:
    config = tiny_config(image_size=32, num_frames=4 * tubelet, tubelet_size=tubelet)
    model, clips = tiny_encoder("vjepa2"), random_clips(config)
    frozen = FrozenTeacher.fit(model, config)
    assert frozen.view.frames == tuple(frames)
    assert frozen.view.grid == (4, 4, 4)
    masks = nested_masks(64, 40, 0)
    states = raw_hidden_states(model, normalized(clips, config)[:, frames])[4]
    for row, tokens in enumerate(_last_layer(frozen, clips, masks)):
        for token, features in tokens.items():
            torch.testing.assert_close(features, states[row, token], atol=1e-5, rtol=1e-5)


def test_full_view_gives_features_of_the_whole_clip_at_the_students_tokens() -> None:
    config = tiny_config(image_size=32)
    model, clips = tiny_encoder("vjepa2"), random_clips(config)
    masks = nested_masks(32, 22, 12)
    states = raw_hidden_states(model, normalized(clips, config))[4]
    seen = []
    for view in ("full", None):
        tokens = _last_layer(FrozenTeacher.fit(model, config, view=view), clips, masks)
        seen.append([[torch.allclose(x, states[row, i], atol=1e-5) for i, x in tokens[row].items()] for row in (0, 1)])
    assert all(all(row) for row in seen[0])
    assert not any(any(row) for row in seen[1])


@pytest.mark.parametrize("model_type", ["dinov3_vit", "videoprism_vision_model"])
def test_encoder_of_frames_sees_all_where_masks_are_no_tubes(model_type: str) -> None:
    config = tiny_config(image_size=32, mask_type="random")
    model, clips = tiny_encoder(model_type), random_clips(config)
    frozen = FrozenTeacher.fit(model, config)
    assert frozen.describe().endswith("all of every clip")
    mean, std = (0, 1) if model_type.startswith("video") else (config.image_mean, config.image_std)
    floats = (clips / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    states = raw_hidden_states(model, floats)[4]
    for row, tokens in enumerate(_last_layer(frozen, clips, nested_masks(32, 22, 12))):
        for token, features in tokens.items():
            mean_of_frames = states[row, 2 * (token // 16) : 2 * (token // 16) + 2, token % 16].mean(dim=0)
            torch.testing.assert_close(features, mean_of_frames, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="`mask_type` random hides other tokens of each"):
        FrozenTeacher.fit(model, config, view="asymmetric")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image_size": [8, 12], "patch_size": 4}, "4 frames of 8 x 12 as 2 x 2 x 3 tokens, the student's grid, what"),
        ({"num_frames": 8, "tubelet_size": 4}, "8 frames of 16 x 24 as 2 x 2 x 3 tokens, the student's grid, what"),
        ({"image_size": 32}, "4 frames of 32 x 32 as 2 x 4 x 4 tokens, averaged by area to the student's 2 x 2 x 3"),
    ],
)  # fmt: skip
def test_encoder_of_ours_runs_at_its_own_size(changes: dict[str, Any], text: str) -> None:
    config = tiny_config()
    model = randomize(AMDModel(tiny_teacher_config(**changes))).eval()
    frozen = FrozenTeacher.fit(model, config)
    assert text in frozen.describe()
    clips = random_clips(config)
    theirs = model.config
    index = [0, 0, 1, 1, 2, 2, 3, 3] if theirs.num_frames == 8 else [0, 1, 2, 3]
    pixels = F.interpolate(
        clips[:, index].flatten(0, 1) / 255, theirs.image_height_width, mode="bilinear", antialias=True
    )
    pixels = normalized(pixels.unflatten(0, (2, -1)) * 255, theirs)
    masks = nested_masks(12, 8, 5)
    whole = theirs.grid_size != config.grid_size
    with torch.no_grad():
        states = model(pixels, None if whole else masks[1], feature_layers=[4]).layer_features[4]
    for row, tokens in enumerate(_last_layer(frozen, clips, masks)):
        if whole:  # 4 x 4 to 2 x 3: rows by two, columns by 4 / 3
            square = states[row].view(2, 2, 2, 4, 48).mean(dim=2).repeat_interleave(3, dim=2)  # 12 thirds of columns
            expected = dict(enumerate(square.view(2, 2, 3, 4, 48).mean(dim=3).flatten(0, 2)))
        else:
            expected = dict(zip((~masks[1][row]).nonzero().flatten().tolist(), states[row], strict=True))
        for token, features in tokens.items():
            torch.testing.assert_close(features, expected[token], atol=1e-4, rtol=1e-4)


def test_mae_of_images_teaches_a_student_of_clips_frame_by_frame() -> None:
    config = tiny_config()
    images = {"num_frames": 1, "tubelet_size": 1, "use_class_token": True, "position_embedding": "sincos_2d"}
    model = randomize(AMDModel(tiny_teacher_config(**images))).eval()
    clips, masks = random_clips(config), _tubes(6, (4, 2), 2)
    frozen = FrozenTeacher.fit(model, config)
    assert (
        "sees 4 frames of 16 x 24 as 2 x 2 x 3 tokens, the student's grid, what its mask leaves" in frozen.describe()
    )
    floats = normalized(clips, config)
    for row, tokens in enumerate(_last_layer(frozen, clips, masks)):
        hidden = masks[1][row, :6][None]
        with torch.no_grad():
            frames = [
                model(floats[row : row + 1, [t]], hidden, feature_layers=[4]).layer_features[4] for t in range(4)
            ]
        seen = (~hidden[0]).nonzero().flatten().tolist()
        for token, features in tokens.items():
            time, patch = divmod(token, 6)
            mean = (frames[2 * time] + frames[2 * time + 1])[0, seen.index(patch)] / 2
            torch.testing.assert_close(features, mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "half"}, "`teacher_view` must be one of None, asymmetric, full, got 'half'"),
        ({"frames": "first"}, "`teacher_frames` must be one of mean, middle"),
        ({"grid": "mine"}, "`teacher_grid` must be one of None, student, own"),
        ({"grid": "student"}, r"positions of this teacher \(amd\) are of a grid of 2 x 4 x 4 tokens, .* 2 x 2 x 3"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenTeacher.fit(AMDModel(tiny_teacher_config(image_size=32)), tiny_config(), **options)


@pytest.mark.parametrize("model_type", [*ENCODERS, "amd"])
def test_teacher_in_bfloat16_gives_nearly_the_features_of_float32(model_type: str) -> None:
    config = tiny_config(image_size=32)
    is_ours = model_type == "amd"
    # Ours at another size, so that its clips are prepared as those of the others are.
    sizes = {"image_size": 64, "patch_size": 16}
    model = randomize(AMDModel(tiny_teacher_config(**sizes))).eval() if is_ours else tiny_encoder(model_type)
    clips, masks = random_clips(config), _tubes(16, (11, 6), 2)
    exact, half = (
        FrozenTeacher.fit(model, config, dtype=dtype)(clips, token_split(*masks)) for dtype in (None, torch.bfloat16)
    )
    for ours, theirs in zip([*half[0], *half[1]], [*exact[0], *exact[1]], strict=True):
        assert ours.dtype == torch.bfloat16
        assert F.cosine_similarity(ours.float(), theirs, dim=-1).min() > 0.98


# ---------------------------------------------------------------------------------------------------------------------
# A student that fits by itself
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"student_direct_layers": [6, 12], "teacher_direct_layers": [2, 4], "teacher_hidden_size": 48}),
        ({"num_hidden_layers": 7}, {"student_direct_layers": [3, 7], "teacher_generation_layers": [2, 4]}),
        ({"num_hidden_layers": 1}, {"student_direct_layers": [1], "teacher_direct_layers": [4]}),
        ({"student_direct_layers": [3, 9, 12]}, {"teacher_direct_layers": [1, 3, 4]}),
        ({"teacher_direct_layers": [1, 4]}, {"student_direct_layers": [3, 12], "student_generation_layers": [6, 12]}),
    ],
)
def test_layers_are_half_and_full_depth_of_both_or_as_deep_as_those_given(
    given: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = student_options(read_teacher(tiny_encoder("dinov2")).facts, given)
    assert {name: found[name] for name in expected} == expected
    assert not found.keys() & given.keys()
    assert "image_size" not in found  # it runs at the student's
    AMDConfig(**found, **given)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_every_family_fits_the_default_student_with_no_option_at_all(model_type: str) -> None:
    model = tiny_encoder(model_type)
    config = AMDConfig(**student_options(read_teacher(model).facts, {}))
    frozen = FrozenTeacher.fit(model, config)
    assert (config.hidden_size, config.grid_size) == (384, (8, 14, 14))
    assert (frozen.direct_layers, frozen.generation_layers) == ((2, 4), (2, 4))
    assert "sees 16 frames of 112 x 112 as 8 x 14 x 14 tokens, the student's grid, what its mask" in frozen.describe()


def test_frames_and_size_follow_a_teacher_whose_positions_are_of_one_grid() -> None:
    teacher = AMDModel(tiny_teacher_config(hidden_size=200, num_attention_heads=2))
    found = student_options(read_teacher(teacher).facts, {"num_hidden_layers": 3})
    assert (found["image_size"], found["patch_size"]) == ([16, 24], 8)
    assert (found["num_frames"], found["tubelet_size"]) == (4, 2)
    config = AMDConfig(**found, num_hidden_layers=3)
    assert config.generator_heads == 2  # of 100: three, of about 64, do not divide 200
    assert FrozenTeacher.fit(teacher, config).view.grid == config.grid_size
    kept = student_options(read_teacher(teacher).facts, {"num_hidden_layers": 3, "num_frames": 8, "image_size": 32})
    assert not {"num_frames", "tubelet_size", "image_size", "patch_size"} & kept.keys()
