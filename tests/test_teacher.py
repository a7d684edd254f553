"""Teachers from every source: loaded whole, frozen, cut off, and sorted into common and teacher-only tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import amd_hf.sources
from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDModel, load_teacher
from amd_hf.teacher import FrozenTeacher
from tests.helpers.checkpoints import classifier_shapes, pretraining_shapes, random_state_dict
from tests.helpers.models import nested_masks, normalized, random_clips, randomize, tiny_config, tiny_teacher_config
from tests.helpers.reference import encode
from tests.helpers.videomae import save_videomae


Masks = tuple[torch.Tensor, torch.Tensor]

_OFFICIAL = {
    "classification": classifier_shapes(48, 5, 7, (3, 2, 8, 8)),
    "pretraining": pretraining_shapes(48, 5, 20, 2, patch=(3, 2, 8, 8)),
}


def _features(teacher: nn.Module, clips: torch.Tensor, mask: torch.Tensor) -> dict[int, torch.Tensor]:
    return teacher(clips, mask, feature_layers=[2, 4]).layer_features


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


def _assert_frozen_and_cut(teacher: nn.Module, num_layers: int = 4) -> None:
    assert type(teacher) is AMDModel
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert len(teacher.layers) == teacher.config.num_hidden_layers == num_layers
    assert not hasattr(teacher, "norm")
    assert not any(tensor.is_meta for tensor in (*teacher.parameters(), *teacher.buffers()))


@pytest.mark.parametrize("kind", ["encoder", "pretraining", "classification"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_amd_model_is_loaded_from_a_folder_or_taken_as_a_module(
    kind: str, is_folder: bool, clips: torch.Tensor, masks: Masks, tmp_path: Path
) -> None:
    classes: dict[str, Callable] = {
        "encoder": AMDModel,
        "pretraining": AMDForPreTraining,
        "classification": AMDForVideoClassification,
    }
    source = randomize(classes[kind](tiny_teacher_config())).eval()
    encoder = source if kind == "encoder" else source.amd
    expected = _features(encoder, clips, masks[1])
    source.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path if is_folder else source, layers=[2, 4])
    _assert_frozen_and_cut(teacher)
    for layer, features in _features(teacher, clips, masks[1]).items():
        assert torch.equal(features, expected[layer])
    assert len(encoder.layers) == 5  # the source stays whole


def test_student_may_teach_from_layers_below_those_it_was_aligned_at(pretraining_model: AMDForPreTraining) -> None:
    """Cutting below its own aligned layers must not trip over them."""
    _assert_frozen_and_cut(load_teacher(pretraining_model, layers=[2]), num_layers=2)


@pytest.mark.parametrize("task", list(_OFFICIAL))
@pytest.mark.parametrize("form", ["file", "wrapped file", "state dict"])
def test_official_checkpoint_gives_the_features_of_a_plain_reference(
    form: str, task: str, clips: torch.Tensor, masks: Masks, tmp_path: Path
) -> None:
    tensors = random_state_dict(_OFFICIAL[task])
    file = tmp_path / "teacher.pth"
    torch.save({"module": tensors, "epoch": 1} if form == "wrapped file" else tensors, file)
    teacher = load_teacher(tensors if form == "state dict" else file, layers=[2, 4], config=tiny_teacher_config())
    _assert_frozen_and_cut(teacher)
    features = _features(teacher, clips, masks[1])
    frames = normalized(clips, teacher.config)
    for row in range(2):
        prefix = "encoder." if task == "pretraining" else ""
        expected = encode(tensors, prefix, frames[row], ~masks[1][row], heads=3)
        for layer in (2, 4):
            torch.testing.assert_close(features[layer][row], expected[layer - 1], atol=2e-4, rtol=0)


@pytest.mark.parametrize("task", ["pretraining", "classification"])
def test_videomae_folder_is_loaded(task: str, clips: torch.Tensor, masks: Masks, tmp_path: Path) -> None:
    """Its hidden states are compared in test_conversion_videomae."""
    save_videomae(tmp_path, task)
    teacher = load_teacher(str(tmp_path), layers=[2, 4])
    _assert_frozen_and_cut(teacher)
    assert _features(teacher, clips, masks[1])[4].shape == (2, 8, 48)


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_hub_name_of_a_videomae_model_is_downloaded(
    has_safetensors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_videomae(tmp_path)
    if not has_safetensors:
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    calls: list[tuple[str, list[str]]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        calls.append((name, allow_patterns))
        return str(tmp_path)

    settings = json.loads((tmp_path / "config.json").read_text())
    monkeypatch.setattr(amd_hf.sources, "snapshot_download", download)
    monkeypatch.setattr(amd_hf.sources.PreTrainedConfig, "get_config_dict", lambda name: (settings, {}))
    _assert_frozen_and_cut(load_teacher("someone/videomae", layers=[2, 4]))
    assert {name for name, _ in calls} == {"someone/videomae"}
    assert any("*.safetensors" in patterns for _, patterns in calls)
    assert any("pytorch_model*.bin" in patterns for _, patterns in calls) is not has_safetensors


def test_config_that_contradicts_an_official_checkpoint_raises() -> None:
    config = tiny_teacher_config(hidden_size=24)
    with pytest.raises(ValueError, match="`hidden_size` is 48 in the tensors, 24 was given"):
        load_teacher(random_state_dict(_OFFICIAL["pretraining"]), layers=[2], config=config)


def test_official_amd_student_may_teach(clips: torch.Tensor) -> None:
    tensors = random_state_dict(pretraining_shapes(48, 5, 20, 2, teacher_width=64, patch=(3, 2, 8, 8)))
    config = tiny_teacher_config(student_direct_layers=[2, 5], student_generation_layers=[2, 5])
    teacher = load_teacher(tensors, layers=[2, 4], config=config)
    _assert_frozen_and_cut(teacher)
    assert teacher(clips).last_hidden_state.shape == (2, 12, 48)


def test_dtype_reaches_the_weights_and_not_mean_and_deviation(tmp_path: Path, clips: torch.Tensor) -> None:
    randomize(AMDModel(tiny_teacher_config())).save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, layers=[4], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in teacher.buffers()} == {torch.float32}
    assert teacher(clips).last_hidden_state.dtype == torch.bfloat16


# ---------------------------------------------------------------------------------------------------------------------
# Sources that are no good
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["amd folder", "official", "videomae folder"])
def test_constant_weights_count_as_not_loaded(kind: str, tmp_path: Path) -> None:
    config = None
    if kind == "official":
        config = tiny_teacher_config()
        source: Any = random_state_dict(_OFFICIAL["classification"])
        source["blocks.3.mlp.fc2.weight"].fill_(0.02)
    else:
        source = tmp_path
        if kind == "videomae folder":
            save_videomae(tmp_path)
            name = "videomae.encoder.layer.3.output.dense.weight"
        else:
            randomize(AMDModel(tiny_teacher_config())).save_pretrained(tmp_path)
            name = "layers.3.mlp.fc2.weight"
        tensors = load_file(tmp_path / "model.safetensors")
        tensors[name] = torch.zeros_like(tensors[name])
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"was not loaded: layers\.3\.mlp\.fc2\.weight hold the same number"):
        load_teacher(source, layers=[4], config=config)


def test_folder_that_lacks_a_weight_raises(tmp_path: Path) -> None:
    randomize(AMDModel(tiny_teacher_config())).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.fc1.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of AMDModel: layers\.1\.mlp\.fc1\.weight"):
        load_teacher(tmp_path, layers=[4])


@pytest.mark.parametrize(("std", "is_warned"), [(0.0, True), (0.1, False)])
def test_teacher_whose_biases_are_all_zero_is_warned_about(
    std: float, is_warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    randomize(AMDModel(tiny_teacher_config()), std=std).save_pretrained(tmp_path)
    logger = logging.getLogger("amd_hf.teacher")
    logger.addHandler(caplog.handler)
    try:
        load_teacher(tmp_path, layers=[4])
    finally:
        logger.removeHandler(caplog.handler)
    assert ("All query and value biases" in caplog.text) is is_warned


def test_layer_beyond_the_teacher_raises(teacher_model: AMDModel) -> None:
    with pytest.raises(ValueError, match="The teacher has 5 layers, but layer 6 is to be aligned"):
        load_teacher(teacher_model, layers=[2, 6])


def test_folder_of_another_model_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="holds a `vit` model"):
        load_teacher(tmp_path, layers=[4])


def test_folder_that_does_not_exist_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        load_teacher(tmp_path / "nothing", layers=[4])


# ---------------------------------------------------------------------------------------------------------------------
# Beside the student
# ---------------------------------------------------------------------------------------------------------------------


def test_features_are_sorted_into_common_and_teacher_only_tokens(
    teacher_model: AMDModel, clips: torch.Tensor, masks: Masks
) -> None:
    student, teacher = masks
    frozen = FrozenTeacher.fit(teacher_model, tiny_config())
    direct, generation = frozen(clips, student, teacher, 8, 4)
    for row in range(2):
        # On all that the teacher sees, then picked one by one.
        seen = (~teacher[row]).nonzero().flatten().tolist()
        features = _features(teacher_model, clips[row : row + 1], teacher[row : row + 1])
        features |= teacher_model(clips[row : row + 1], teacher[row : row + 1], feature_layers=[1]).layer_features
        common = [place for place, token in enumerate(seen) if not student[row, token]]
        rest = [place for place, token in enumerate(seen) if student[row, token]]
        for ours, layer in zip(direct, (2, 4), strict=True):
            torch.testing.assert_close(ours[row], torch.stack([features[layer][0, place] for place in common]))
        for ours, layer in zip(generation, (1, 4), strict=True):
            torch.testing.assert_close(ours[row], torch.stack([features[layer][0, place] for place in rest]))


@pytest.mark.parametrize(("num_teacher_masked", "num_teacher_only"), [(8, 0), (0, 8)])
def test_equal_masks_and_an_unmasked_teacher_work(
    num_teacher_masked: int, num_teacher_only: int, teacher_model: AMDModel, clips: torch.Tensor
) -> None:
    masks = nested_masks(12, 8, num_teacher_masked)
    direct, generation = FrozenTeacher.fit(teacher_model, tiny_config())(clips, *masks, 8, num_teacher_masked)
    assert [features.shape for features in direct] == [(2, 4, 48)] * 2
    assert [features.shape for features in generation] == [(2, num_teacher_only, 48)] * 2


def test_teacher_does_not_see_what_its_mask_hides(teacher_model: AMDModel, clips: torch.Tensor, masks: Masks) -> None:
    changed = clips.clone()
    for row in range(2):
        for token in masks[1][row].nonzero().flatten().tolist():
            time, rest = divmod(token, 6)
            top, left = 8 * (rest // 3), 8 * (rest % 3)
            changed[row, 2 * time : 2 * time + 2, :, top : top + 8, left : left + 8] += 100
    frozen = FrozenTeacher.fit(teacher_model, tiny_config())
    one, other = frozen(clips, *masks, 8, 4), frozen(changed, *masks, 8, 4)
    for ours, theirs in zip(one[0] + one[1], other[0] + other[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("is_raw", [True, False])
def test_teachers_own_mean_and_deviation_are_honoured(is_raw: bool, masks: Masks) -> None:
    own = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    teacher = randomize(AMDModel(tiny_teacher_config(**own))).eval()
    student_config = tiny_config()
    clips = random_clips(student_config)
    frozen = FrozenTeacher.fit(teacher, student_config)
    given = clips if is_raw else normalized(clips, student_config)
    direct, _ = frozen(given, *masks, 8, 4)
    # As if the student had the teacher's statistics, on frames normalised with these.
    same = FrozenTeacher.fit(teacher, tiny_config(**own))
    expected, _ = same(normalized(clips, teacher.config), *masks, 8, 4)
    for ours, theirs in zip(direct, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_mismatch_of_geometry_and_width_names_every_difference() -> None:
    other = tiny_teacher_config(
        image_size=[16, 16], num_frames=8, tubelet_size=4, patch_size=4, hidden_size=24, num_attention_heads=2
    )
    with pytest.raises(ValueError, match="Teacher and student do not fit") as error:
        FrozenTeacher.fit(AMDModel(other), tiny_config())
    for difference in (
        "image_height_width: teacher (16, 16), student (16, 24)",
        "num_frames: teacher 8, student 4",
        "tubelet_size: teacher 4, student 2",
        "patch_size: teacher 4, student 8",
        "width (`teacher_hidden_size`): teacher 24, student 48",
    ):
        assert difference in str(error.value)
    assert "num_channels" not in str(error.value)


def test_student_without_alignment_modules_raises(teacher_model: AMDModel) -> None:
    with pytest.raises(ValueError, match="The student has no alignment modules"):
        FrozenTeacher.fit(teacher_model, tiny_config(teacher_hidden_size=None))


def test_no_layer_to_align_raises(teacher_model: AMDModel) -> None:
    names = [f"{who}_{kind}_layers" for who in ("student", "teacher") for kind in ("direct", "generation")]
    with pytest.raises(ValueError, match="No layer is aligned"):
        FrozenTeacher.fit(teacher_model, tiny_config(**{name: [] for name in names}))


def test_teacher_stays_in_eval_mode_and_gives_no_gradient(
    teacher_model: AMDModel, clips: torch.Tensor, masks: Masks
) -> None:
    frozen = FrozenTeacher.fit(teacher_model, tiny_config())
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    direct, _ = frozen(clips, *masks, 8, 4)
    assert not direct[0].requires_grad
    assert not frozen.state_dict().keys() & {"mean", "std"}


def test_description_says_source_parameters_layers_and_where_it_stops(tmp_path: Path) -> None:
    model = randomize(AMDModel(tiny_teacher_config()))
    model.save_pretrained(tmp_path)
    text = FrozenTeacher.fit(str(tmp_path), tiny_config()).describe()
    count = sum(p.numel() for p in (*model.embeddings.parameters(), *model.layers[:4].parameters()))
    assert str(tmp_path) in text
    assert f"{count / 1e6:.2f}M parameters" in text
    assert text.endswith("layers 1, 2, 4 used, stops after layer 4")


# ---------------------------------------------------------------------------------------------------------------------
# A module of one's own
# ---------------------------------------------------------------------------------------------------------------------


class _OwnTeacher(nn.Module):
    """Features that tell their token: layer number, mean of the patch's first frame, position."""

    def __init__(self, width: int = 48, layers: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.layers_given = layers
        self.seen: list[torch.Tensor] = []

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> dict[int, torch.Tensor]:
        self.seen.append(pixel_values)
        positions = torch.arange(bool_masked_pos.shape[1]).expand_as(bool_masked_pos)
        visible = positions[~bool_masked_pos].view(len(bool_masked_pos), -1, 1)
        return {layer: (100 * layer + visible) * self.weight for layer in self.layers_given}


@pytest.mark.parametrize("is_raw", [True, False])
def test_own_module_gets_normalised_clips_and_its_features_are_sorted(
    is_raw: bool, clips: torch.Tensor, masks: Masks
) -> None:
    config, own = tiny_config(), _OwnTeacher().train()
    frozen = FrozenTeacher.fit(own, config)
    assert not own.training
    assert not own.weight.requires_grad
    floats = normalized(clips, config)
    direct, generation = frozen(clips if is_raw else floats, *masks, 8, 4)
    torch.testing.assert_close(own.seen[0], floats, atol=1e-6, rtol=0)
    for row in range(2):
        both = (~masks[0][row]).nonzero().flatten()
        alone = (masks[0][row] & ~masks[1][row]).nonzero().flatten()
        assert [features[row, :, 0].tolist() for features in direct] == [
            (200.0 + both).tolist(),
            (400.0 + both).tolist(),
        ]
        assert [features[row, :, 7].tolist() for features in generation] == [
            (100.0 + alone).tolist(),
            (400.0 + alone).tolist(),
        ]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (_OwnTeacher(width=32), r"layer 1 with shape .* = \(2, 8, 48\), got \(2, 8, 32\)"),
        (_OwnTeacher(layers=(1, 4)), r"layer 2 with shape .* = \(2, 8, 48\), got only layers \[1, 4\]"),
    ],
)
def test_own_module_with_wrong_features_raises(
    own: nn.Module, message: str, clips: torch.Tensor, masks: Masks
) -> None:
    frozen = FrozenTeacher.fit(own, tiny_config())
    with pytest.raises(ValueError, match=message):
        frozen(clips, *masks, 8, 4)
