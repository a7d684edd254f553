"""What a config accepts, refuses, keeps when saved, and tells."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, AutoModel

from amd_hf import AMDConfig, AMDModel
from tests.helpers.models import tiny_config


def test_defaults_are_the_papers_small_student() -> None:
    config = AMDConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (384, 12, 6)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers, config.decoder_num_attention_heads) == (
        192,
        4,
        3,
    )
    assert (config.student_direct_layers, config.teacher_direct_layers) == ([6, 12], [12, 24])
    assert (config.student_mask_ratio, config.teacher_mask_ratio) == (0.9, 0.75)
    assert (config.grid_size, config.num_patches, config.patch_dim) == ((8, 14, 14), 1568, 1536)
    assert config.intermediate_size == 1536
    assert config.layer_norm_eps == 1e-6


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("hiden_size", r"`hiden_size` \(did you mean `hidden_size`\?\)"),
        ("student_mask_ration", r"did you mean `student_mask_ratio`"),
        ("qqqq", r"unknown option\(s\): `qqqq`\.$"),
    ],
)
def test_unknown_option_raises_with_a_hint(option: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        AMDConfig(**{option: 1})


def test_unknown_keys_of_a_file_are_kept_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    later = {"tubelet_sizes": 4, "rope_theta": [1, 2], "tool": {"auto_map": {"AutoModel": "evil.Model"}, "kept": 1}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **later}))
    with caplog.at_level(logging.WARNING, logger="amd_hf"):
        config = AMDConfig.from_pretrained(tmp_path)
        AMDConfig.from_pretrained(tmp_path)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "`tubelet_sizes` (did you mean `tubelet_size`?), `rope_theta`" in said
    assert (config.tubelet_size, config.tubelet_sizes, config.rope_theta) == (2, 4, [1, 2])
    config.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: saved[name] for name in later} == {**later, "tool": {"kept": 1}}
    changed, unused = AMDConfig.from_pretrained(tmp_path, hidden_size=64, other=1, return_unused_kwargs=True)
    assert (changed.hidden_size, changed.rope_theta, unused) == (64, [1, 2], {"other": 1})


def test_misspelt_option_over_a_file_raises_with_a_hint(tmp_path: Path) -> None:
    AMDModel(tiny_config()).save_pretrained(tmp_path)
    hint = r"`hidden_sise` \(did you mean `hidden_size`\?\)"
    for kind in (AMDConfig, AutoConfig):
        with pytest.raises(ValueError, match=hint):
            kind.from_pretrained(tmp_path, hidden_sise=64)
        # Not an option, nor like one: the library's own arguments come this way.
        assert kind.from_pretrained(tmp_path, num_frames=2, use_auth=False).num_frames == 2
    for kind in (AMDModel, AutoModel):
        with pytest.raises(TypeError, match="unexpected keyword argument 'hidden_sise'"):
            kind.from_pretrained(tmp_path, hidden_sise=64)
    with pytest.raises(ValueError, match=hint):
        tiny_config().with_options(hidden_sise=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 0}, "`patch_size` must be at least 1, got 0"),
        ({"num_frames": 0}, "`num_frames` must be at least 1"),
        ({"tubelet_size": -2}, "`tubelet_size` must be at least 1, got -2"),
        ({"num_channels": 0}, "`num_channels` must be at least 1"),
        ({"image_size": [16, 24, 32]}, r"`image_size` must be one number or \(height, width\), got \[16, 24, 32\]"),
        ({"image_size": 20}, "`image_size` 20 must be a multiple of `patch_size` 8"),
        ({"image_size": [16, 20]}, r"`image_size` \[16, 20\] must be a multiple of `patch_size` 8"),
        ({"image_size": 0}, "`image_size` 0 must be a multiple"),
        ({"num_frames": 5}, "`num_frames` 5 must be a multiple of `tubelet_size` 2"),
        ({"image_mean": [0.5]}, "`image_mean` must have one number per channel: got 1 for `num_channels` 3"),
        ({"image_std": [0.5] * 4}, "`image_std` must have one number per channel: got 4"),
        ({"image_std": [0.5, 0.0, 0.5]}, "`image_std` must be positive"),
        ({"hidden_size": 0}, "`hidden_size` must be even and positive"),
        ({"hidden_size": 33, "num_attention_heads": 3}, "`hidden_size` must be even and positive .* got 33"),
        ({"hidden_size": 34}, "`hidden_size` 34 must be a multiple of `num_attention_heads` 4"),
        ({"num_attention_heads": 0}, "must be a multiple of `num_attention_heads` 0"),
        ({"decoder_hidden_size": 21}, "`decoder_hidden_size` must be even"),
        ({"decoder_num_attention_heads": 3}, "`decoder_hidden_size` 20 must be a multiple .* 3"),
        ({"generator_num_attention_heads": 5}, "`teacher_hidden_size` 48 must be a multiple of the generators' heads"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` must be at least 1"),
        ({"intermediate_size": 0}, "`intermediate_size` must be at least 1"),
        ({"teacher_hidden_size": 0}, "`teacher_hidden_size` must be at least 1"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` 1.0 .* must be in \[0, 1\)"),
        ({"head_dropout": -0.1}, r"`head_dropout` -0.1 must be in \[0, 1\)"),
        ({"student_direct_layers": [0, 3]}, "`student_direct_layers` must count from 1"),
        ({"teacher_direct_layers": [4, 2]}, "`teacher_direct_layers` .* strictly increasing"),
        ({"teacher_generation_layers": [4, 4]}, "`teacher_generation_layers` .* strictly increasing"),
        ({"student_direct_layers": [3]}, "`student_direct_layers` .* must be equally long"),
        ({"teacher_generation_layers": [1, 2, 4]}, "`teacher_generation_layers` .* must be equally long"),
        ({"student_generation_layers": [2, 4]}, "`student_generation_layers` .* beyond `num_hidden_layers` 3"),
        ({"student_mask_ratio": 0.3}, "got teacher 0.4 and student 0.3"),
        ({"student_mask_ratio": 1.0}, "Mask ratios must satisfy"),
        ({"teacher_mask_ratio": -0.1}, "Mask ratios must satisfy"),
    ],
)
def test_impossible_value_raises_and_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 32.5}, {"mask_type": "block"}, {"norm_pix_loss": "no"}, {"patch_size": (8, 8)}]
)
def test_value_of_a_wrong_type_raises(changes: dict[str, Any]) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(changes))):
        tiny_config(**changes)


def test_layers_beyond_the_encoder_are_fine_without_alignment() -> None:
    assert tiny_config(num_hidden_layers=1, teacher_hidden_size=None).student_direct_layers == [1, 3]


def test_no_aligned_layer_of_one_kind_is_fine() -> None:
    config = tiny_config(student_generation_layers=[], teacher_generation_layers=[])
    assert config.student_generation_layers == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 16, "teacher_hidden_size": None},
        {"mask_type": "random", "use_final_norm": False, "norm_pix_loss": False, "drop_path_rate": 0},
        {"num_channels": 1, "image_mean": [0.25], "image_std": [0.5]},
        {"num_labels": 3},
    ],
)
def test_saved_config_loads_equal(changes: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(**changes)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AMDConfig
    ours, theirs = config.to_dict(), loaded.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        ours.pop(name, None)
        theirs.pop(name, None)
    assert ours == theirs
    assert loaded.num_labels == config.num_labels


def test_tuples_and_lists_give_the_same_config() -> None:
    names = ("image_size", "student_direct_layers", "teacher_direct_layers", "image_mean", "image_std")
    lists = tiny_config()
    tuples = tiny_config(**{name: tuple(getattr(lists, name)) for name in names})
    assert tuples.to_dict() == lists.to_dict()
    assert all(isinstance(getattr(tuples, name), list) for name in names)


@pytest.mark.parametrize(
    ("image_size", "height_width", "grid", "num_patches"),
    [(16, (16, 16), (2, 2, 2), 8), ([16, 24], (16, 24), (2, 2, 3), 12), ([24, 8], (24, 8), (2, 3, 1), 6)],
)
def test_grid_follows_the_frame_size(
    image_size: Any, height_width: tuple[int, int], grid: tuple[int, int, int], num_patches: int
) -> None:
    config = tiny_config(image_size=image_size)
    assert (config.image_height_width, config.grid_size, config.num_patches) == (height_width, grid, num_patches)
    assert config.patch_dim == 2 * 8 * 8 * 3


@pytest.mark.parametrize(
    ("mask_type", "ratio", "num_masked"),
    # 6 patches in each of 2 tubelet steps: a tube mask rounds down per frame, a random one over the clip
    [("tube", 0.7, 8), ("random", 0.7, 8), ("tube", 0.75, 8), ("random", 0.75, 9), ("tube", 0, 0), ("random", 0, 0)],
)
def test_count_of_masked_tokens_is_rounded_where_the_mask_is_drawn(
    mask_type: str, ratio: float, num_masked: int
) -> None:
    assert tiny_config(mask_type=mask_type).num_masked_patches(ratio) == num_masked


@pytest.mark.parametrize(
    ("width", "given", "heads"), [(1024, None, 16), (768, None, 12), (96, None, 1), (48, None, 1), (48, 3, 3)]
)
def test_generators_have_heads_of_size_64_unless_given(width: int, given: int | None, heads: int) -> None:
    assert tiny_config(teacher_hidden_size=width, generator_num_attention_heads=given).generator_heads == heads


def test_label_names_set_the_number_of_labels() -> None:
    config = AMDConfig(id2label={0: "left", 1: "right", 2: "up"})
    assert config.num_labels == 3
