"""Teachers from every source: loaded whole, frozen, cut off, and sorted into common and teacher-only tokens."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import amd_hf.models
from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDTrainer, load_teacher
from amd_hf.models import build_classifier, load_pretraining_start
from amd_hf.teachers.frozen import FrozenTeacher
from tests.helpers.checkpoints import classifier_shapes, pretraining_shapes, random_state_dict
from tests.helpers.models import (
    nested_masks,
    normalized,
    random_clips,
    randomize,
    tiny_config,
    tiny_teacher_config,
    token_split,
)
from tests.helpers.reference import encode
from tests.helpers.training import pretraining_args
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
    monkeypatch.setattr(amd_hf.models, "snapshot_download", download)
    monkeypatch.setattr(amd_hf.models.PreTrainedConfig, "get_config_dict", lambda name: (settings, {}))
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
    logger = logging.getLogger("amd_hf.teachers.loading")
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
    direct, generation = frozen(clips, token_split(student, teacher))
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
    direct, generation = FrozenTeacher.fit(teacher_model, tiny_config())(clips, token_split(*masks))
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
    one, other = (frozen(pixels, token_split(*masks)) for pixels in (clips, changed))
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
    direct, _ = frozen(given, token_split(*masks))
    # As if the student had the teacher's statistics, on frames normalised with these.
    same = FrozenTeacher.fit(teacher, tiny_config(**own))
    expected, _ = same(normalized(clips, teacher.config), token_split(*masks))
    for ours, theirs in zip(direct, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_mismatch_of_channels_width_and_depth_names_every_difference() -> None:
    statistics = {"num_channels": 1, "image_mean": [0.5], "image_std": [0.5]}
    other = tiny_teacher_config(hidden_size=24, num_attention_heads=2, num_hidden_layers=2, **statistics)
    with pytest.raises(ValueError, match="Teacher and student do not fit") as error:
        FrozenTeacher.fit(AMDModel(other), tiny_config())
    for difference in (
        "num_channels: teacher 1, student 3",
        "width (`teacher_hidden_size`): teacher 24, student 48",
        "the teacher has 2 layers, but layer 4 is to be aligned",
    ):
        assert difference in str(error.value)
    assert "`teacher_hidden_size` 24" in str(error.value)
    assert "image" not in str(error.value)  # sizes and frames need not match: see test_geometry


@pytest.mark.parametrize(
    ("depth", "direct", "generation"),
    [(12, [6, 12], [6, 12]), (6, [3, 6], [3, 6]), (32, None, None), (24, None, None)],
)
def test_teacher_of_another_size_is_one_error_that_names_all_options(
    depth: int, direct: list[int] | None, generation: list[int] | None
) -> None:
    aligned = {"teacher_direct_layers": [12, 24], "teacher_generation_layers": [12, 24]}
    student = tiny_config(teacher_hidden_size=60, **aligned)
    teacher = AMDModel(tiny_teacher_config(num_hidden_layers=depth))
    with pytest.raises(ValueError, match="Teacher and student do not fit") as error:
        FrozenTeacher.fit(teacher, student)
    message = str(error.value)
    wanted: dict[str, Any] = {"teacher_hidden_size": 48}
    if direct is not None:
        wanted |= {"teacher_direct_layers": direct, "teacher_generation_layers": generation}
        assert f"the teacher has {depth} layers, but layer 24 is to be aligned" in message
    for name, value in wanted.items():
        assert f"`{name}` {value}" in message or f'`{name}` "{value}"' in message
    assert ("teacher_direct_layers" in message) == (direct is not None)
    # With what it asks for, the student fits.
    grown = tiny_config(**{**aligned, **wanted, "generator_num_attention_heads": 3})
    assert FrozenTeacher.fit(teacher, grown).direct_layers == tuple(direct or [12, 24])


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
    direct, _ = frozen(clips, token_split(*masks))
    assert not direct[0].requires_grad
    assert not frozen.state_dict().keys() & {"mean", "std"}


def test_description_says_source_parameters_layers_and_where_it_stops(tmp_path: Path) -> None:
    model = randomize(AMDModel(tiny_teacher_config()))
    model.save_pretrained(tmp_path)
    text = FrozenTeacher.fit(str(tmp_path), tiny_config()).describe()
    count = sum(p.numel() for p in (*model.embeddings.parameters(), *model.layers[:4].parameters()))
    assert str(tmp_path) in text
    assert f"{count / 1e6:.2f}M parameters" in text
    assert "layers 1, 2, 4 used, stops after layer 4; sees 4 frames of 16 x 24 as 2 x 2 x 3 tokens" in text


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
    assert not frozen.model.training
    assert not frozen.model.weight.requires_grad
    floats = normalized(clips, config)
    direct, generation = frozen(clips if is_raw else floats, token_split(*masks))
    torch.testing.assert_close(frozen.model.seen[0], floats, atol=1e-6, rtol=0)
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
        frozen(clips, token_split(*masks))


# ---------------------------------------------------------------------------------------------------------------------
# A module that is used on
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "encoder", "pretraining"])
def test_module_given_as_a_teacher_stays_as_it_is(kind: str) -> None:
    classes = {"encoder": AMDModel, "pretraining": AMDForPreTraining}
    own = _OwnTeacher() if kind == "own" else randomize(classes[kind](tiny_teacher_config()))
    own.train()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    teacher = load_teacher(own, layers=[2, 4], dtype=torch.float64)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float64}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(module.training for module in own.modules())
    assert all(parameter.requires_grad for parameter in own.parameters())
    for name, value in own.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    places = {parameter.data_ptr() for parameter in own.parameters()}
    assert not places & {parameter.data_ptr() for parameter in teacher.parameters()}


def test_module_that_cannot_be_copied_is_refused(clips: torch.Tensor) -> None:
    own = _OwnTeacher()
    own.lock = threading.Lock()
    with pytest.raises(TypeError, match="_OwnTeacher, cannot be copied .*name its folder or file instead"):
        load_teacher(own, layers=[2])
    with pytest.raises(TypeError, match="leave `config` out"):
        load_teacher(_OwnTeacher(), layers=[2], config={"num_attention_heads": 2})


@pytest.mark.parametrize("kind", ["student", "its encoder", "one layer"])
def test_teacher_that_shares_parameters_with_the_student_is_refused(kind: str, tmp_path: Path) -> None:
    student = AMDForPreTraining(tiny_config(teacher_hidden_size=32, generator_num_attention_heads=2))
    teacher: nn.Module = student if kind == "student" else student.amd
    if kind == "one layer":
        teacher = _OwnTeacher()
        teacher.layer = student.amd.layers[1]
    who = "is the student itself" if kind == "student" else r"shares \d+ parameters with the student"
    with pytest.raises(ValueError, match=f"The teacher {who} .*`copy.deepcopy` of the student"):
        AMDTrainer(student, pretraining_args(tmp_path), teacher_model=teacher, train_dataset=[{}])
    assert all(parameter.requires_grad for parameter in student.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Models of Transformers as they come
# ---------------------------------------------------------------------------------------------------------------------

_SMALL = {
    "image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 64, "decoder_hidden_size": 24, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}  # fmt: skip


def _transformers(kind: str, folder: Path, **options: Any) -> nn.Module:
    """A random model of Transformers, its default config but for the sizes, saved to `folder`."""
    config_class = transformers.ViTMAEConfig if kind.startswith("ViTMAE") else transformers.VideoMAEConfig
    model = getattr(transformers, kind)(config_class(**{**_SMALL, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position" not in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("use_mean_pooling", [True, False])
@pytest.mark.parametrize("decoder_intermediate_size", [96, 40])
@pytest.mark.parametrize("kind", ["VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification"])
def test_any_videomae_of_transformers_is_a_teacher_and_a_start(
    kind: str, decoder_intermediate_size: int, use_mean_pooling: bool, tmp_path: Path
) -> None:
    model = _transformers(
        kind, tmp_path, use_mean_pooling=use_mean_pooling, decoder_intermediate_size=decoder_intermediate_size
    )
    clips = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 8, dtype=torch.bool)
    with torch.no_grad():
        encoder = model if kind == "VideoMAEModel" else model.videomae
        expected = encoder(clips, bool_masked_pos=mask, output_hidden_states=True).hidden_states
        found = load_teacher(tmp_path, layers=[1, 3])(clips, mask, feature_layers=[1, 3]).layer_features
    for layer in (1, 3):
        torch.testing.assert_close(found[layer], expected[layer], atol=1e-4, rtol=1e-4)
    classifier = build_classifier(str(tmp_path), ["a", "b", "c"])
    start = load_pretraining_start(str(tmp_path)) if decoder_intermediate_size == 96 else classifier
    for ours in (classifier, start):
        weight = ours.state_dict()["amd.layers.2.mlp.fc1.weight"]
        assert torch.equal(weight, encoder.state_dict()["encoder.layer.2.intermediate.dense.weight"])


@pytest.mark.parametrize("use_mean_pooling", [True, False])
def test_pretraining_starts_from_a_videomae_with_or_without_a_final_norm(
    use_mean_pooling: bool, tmp_path: Path
) -> None:
    model = _transformers(
        "VideoMAEForPreTraining", tmp_path, use_mean_pooling=use_mean_pooling, decoder_intermediate_size=96
    )
    clips = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False, True, True, False, True, False]] * 2)
    ours = load_pretraining_start(tmp_path, student_mask_ratio=0.7, teacher_mask_ratio=0.4, mask_type="random")
    new = {"amd.norm.weight", "amd.norm.bias"} if use_mean_pooling else set()
    assert ours.conversion_report.new.keys() == new
    with torch.no_grad():
        if use_mean_pooling:  # Transformers' encoder ends without one, and ours gets a norm that is new
            model.videomae.layernorm = torch.nn.LayerNorm(32, eps=1e-12)
        expected = model(clips, bool_masked_pos=mask).logits
        torch.testing.assert_close(ours(clips, mask, num_masked=5).logits, expected, atol=1e-4, rtol=1e-4)
    student = load_pretraining_start(tmp_path, teacher_hidden_size=64, student_direct_layers=[1, 3],
                                     student_generation_layers=[3], teacher_direct_layers=[1, 2],
                                     teacher_generation_layers=[2])  # fmt: skip
    assert {name for name in student.conversion_report.new if not name.startswith("alignment.")} == new
    assert any(name.startswith("alignment.") for name in student.conversion_report.new)


def test_classifier_by_its_first_token_says_what_it_can_be_used_for(tmp_path: Path) -> None:
    _transformers("VideoMAEForVideoClassification", tmp_path, use_mean_pooling=False)
    with pytest.raises(
        ValueError, match="classifies by its first token .*as a teacher, or as the start of fine-tuning"
    ):
        amd_hf.models.load_model(tmp_path)


@pytest.mark.parametrize("mask_ratio", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("decoder_intermediate_size", [96, 40])
@pytest.mark.parametrize("kind", ["ViTMAEModel", "ViTMAEForPreTraining"])
def test_any_vit_mae_is_a_teacher(
    kind: str, decoder_intermediate_size: int, mask_ratio: float, tmp_path: Path
) -> None:
    options = {"decoder_intermediate_size": decoder_intermediate_size, "mask_ratio": mask_ratio, "num_frames": 1}
    model = _transformers(kind, tmp_path, **options)
    teacher = load_teacher(tmp_path, layers=[1, 3])
    weights = (model if kind == "ViTMAEModel" else model.vit).state_dict()
    ours = teacher.state_dict()["embeddings.class_token"]
    assert torch.equal(ours, weights["embeddings.cls_token"])
    build_classifier(str(tmp_path), ["a", "b"])
    if decoder_intermediate_size == 96:
        config = amd_hf.models.load_model(tmp_path).config
        if kind == "ViTMAEForPreTraining":
            assert config.student_mask_ratio == mask_ratio
            assert config.teacher_mask_ratio == min(0.5, mask_ratio)


# ---------------------------------------------------------------------------------------------------------------------
# What leaves no trace in the tensors
# ---------------------------------------------------------------------------------------------------------------------


def test_unusual_official_teacher_is_told_its_heads_by_options_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    torch.save({"model": random_state_dict(_OFFICIAL["pretraining"])}, path)
    with pytest.raises(ValueError, match="--teacher_config.num_attention_heads VALUE") as caught:
        FrozenTeacher.fit(str(path), tiny_config())
    assert "--model." not in str(caught.value)
    options = {"num_attention_heads": 3, "image_size": [16, 24], "num_frames": 4}
    teacher = FrozenTeacher.fit(str(path), tiny_config(), options)
    assert teacher.model.config.num_attention_heads == 3
