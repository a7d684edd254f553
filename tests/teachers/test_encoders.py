"""Encoders of Transformers as teachers: their features are the hidden states of their own classes, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer, load_teacher
from amd_hf.modeling_amd import TokenSplit
from amd_hf.pretraining.distillation import alignment_loss
from amd_hf.teachers.encoders import ADAPTERS
from amd_hf.teachers.frozen import FrozenTeacher
from tests.helpers.encoders import ENCODERS, hidden_keys, raw_hidden_states, tiny_encoder
from tests.helpers.models import (
    nested_masks,
    normalized,
    random_clips,
    randomize,
    tiny_config,
    tiny_teacher_config,
    token_split,
)
from tests.helpers.training import StackRows, masked_rows, pretraining_args, weights_of


def _clips(frames: int = 4, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(2, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def _tube_mask(num_patches: int, num_hidden: int, times: int, seed: int = 0) -> torch.Tensor:
    """(2, times * num_patches): the same patches hidden at all times, others in each clip."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2, num_patches, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(num_patches, generator=generator)[:num_hidden]] = True
    return mask.repeat(1, times)


# ---------------------------------------------------------------------------------------------------------------------
# Features
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ENCODERS)
def test_with_nothing_hidden_features_are_the_hidden_states_of_its_class(model_type: str, tmp_path: Path) -> None:
    model, clips = tiny_encoder(model_type), _clips()
    model.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, layers=[1, 2, 3, 4])
    expected = raw_hidden_states(model, clips)
    with torch.no_grad():
        found = teacher(clips)
    for layer in (1, 2, 3, 4):
        states = expected[layer] if model_type == "vjepa2" else expected[layer].flatten(1, 2)
        torch.testing.assert_close(found[layer], states, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_visible_tokens_attend_to_one_another_alone(model_type: str) -> None:
    model, clips = tiny_encoder(model_type).double(), _clips().double()
    times = 2 if model_type == "vjepa2" else 4
    mask = _tube_mask(16, 11, times)
    if model_type == "vjepa2":  # any tokens may be hidden
        mask, _ = nested_masks(32, 21, 0)
    with torch.no_grad():
        found = load_teacher(model, layers=[2, 4])(clips, mask)
    with hidden_keys(model, mask if model_type == "vjepa2" else mask.view(8, 16)):
        expected = raw_hidden_states(model, clips)
    for layer in (2, 4):
        states = expected[layer] if model_type == "vjepa2" else expected[layer].flatten(1, 2)
        states = torch.stack([row[~hidden] for row, hidden in zip(states, mask, strict=True)])
        torch.testing.assert_close(found[layer], states, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("model_type", [name for name in ENCODERS if name != "vjepa2"])
def test_token_of_two_frames_gets_their_mean_in_the_order_of_its_ids(model_type: str) -> None:
    model, clips = tiny_encoder(model_type), _clips()
    teacher = load_teacher(model, layers=[3])
    ids = torch.tensor([[5, 14, 21, 30], [16 + 3, 16 + 7, 7, 3]])  # patches 5 and 14; 3 and 7; in any order
    mask = torch.ones(2, 32, dtype=torch.bool).scatter(1, ids, False)
    with torch.no_grad():
        found = teacher(clips, visible_ids=ids, grid=(2, 4, 4))[3]
    with hidden_keys(model, mask.view(2, 2, 16).repeat_interleave(2, dim=1).view(8, 16)):
        states = raw_hidden_states(model, clips)[3]
    for row in range(2):
        for place, token in enumerate(ids[row].tolist()):
            time, patch = divmod(token, 16)
            mean = (states[row, 2 * time, patch] + states[row, 2 * time + 1, patch]) / 2
            torch.testing.assert_close(found[row, place], mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height_width", [(16, 24), (40, 48)], ids=["smaller", "larger"])
@pytest.mark.parametrize("model_type", [name for name in ENCODERS if name != "vjepa2"])
def test_other_size_and_shape_of_frames_is_what_its_class_makes_of_it(
    model_type: str, height_width: tuple[int, int]
) -> None:
    model, clips = tiny_encoder(model_type), _clips(6, *height_width)
    expected = raw_hidden_states(model, clips)
    with torch.no_grad():
        found = load_teacher(model, layers=[4])(clips)
    torch.testing.assert_close(found[4], expected[4].flatten(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [24, 48])
def test_vjepa2_at_another_size_has_the_positions_of_a_model_of_that_size(side: int) -> None:
    """Its class counts tokens along the grid of its config, which is the only thing that differs."""
    model, clips = tiny_encoder("vjepa2"), _clips(4, side, side)
    other = tiny_encoder("vjepa2", crop_size=side, frames_per_clip=4)
    other.load_state_dict(model.state_dict())
    teacher = load_teacher(model, layers=[2, 4])
    if side > 32:
        with pytest.raises(ValueError, match="call `place` with it first"):
            teacher(clips)
    teacher.place((2, side // 8, side // 8))
    expected = raw_hidden_states(other, clips)
    for layer, found in teacher(clips, feature_layers=[2, 4]).items():
        torch.testing.assert_close(found, expected[layer], atol=1e-5, rtol=1e-5)
    assert model.encoder.layer[0].attention.grid_size == 4  # the user's stays as it is


def test_frames_that_show_different_numbers_of_tokens_are_refused() -> None:
    mask = torch.zeros(2, 32, dtype=torch.bool)
    mask[:, 3:5], mask[:, 20] = True, True
    with pytest.raises(ValueError, match="hide as many tokens of each frame"):
        load_teacher(tiny_encoder("dinov2"), layers=[1])(_clips(2), mask)


# ---------------------------------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "config", "part"),
    [("CLIPModel", "CLIPConfig", "clip"), ("SiglipModel", "SiglipConfig", "siglip"),
     ("Siglip2Model", "Siglip2Config", "siglip2")],
)  # fmt: skip
def test_models_of_images_and_text_teach_with_their_image_part(
    whole: str, config: str, part: str, tmp_path: Path
) -> None:
    vision = tiny_encoder(f"{part}_vision_model")
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text |= {"vocab_size": 40}
    both = getattr(transformers, config)(vision_config=vision.config.to_dict(), text_config=text)
    model = getattr(transformers, whole)(both)
    model.vision_model.load_state_dict(vision.state_dict())
    model.save_pretrained(tmp_path)
    clips = _clips()
    with torch.no_grad():
        found, expected = (load_teacher(source, layers=[4])(clips)[4] for source in (tmp_path, vision))
    assert torch.equal(found, expected)


def test_loaded_teacher_is_frozen_cut_off_and_a_copy() -> None:
    model = tiny_encoder("vjepa2").train()
    teacher = load_teacher(model, layers=[2], dtype=torch.bfloat16)
    assert len(teacher.layers) == 2
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    assert not any("predictor" in name for name, _ in teacher.named_parameters())
    assert len(model.encoder.layer) == 4
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())
    again = load_teacher(teacher, layers=[1])
    assert (len(again.layers), len(teacher.layers)) == (1, 2)
    with pytest.raises(ValueError, match="The teacher has 4 layers, but layer 5 is to be aligned"):
        load_teacher(model, layers=[5])


def test_weights_that_are_missing_or_constant_are_refused(tmp_path: Path) -> None:
    tiny_encoder("dinov2").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if "layer.1" in name and name.endswith("fc1.weight"))
    save_file({**tensors, name: torch.zeros_like(tensors[name])}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"was not loaded: 1\.mlp\.fc1\.weight hold the same number"):
        load_teacher(tmp_path, layers=[4])
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of Dinov2Model: .*1.*fc1\.weight"):
        load_teacher(tmp_path, layers=[4])


def test_options_that_an_encoder_has_from_its_own_config_are_refused(tmp_path: Path) -> None:
    tiny_encoder("dinov2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of it only `image_mean` and `image_std` can be given, not hidden_size"):
        load_teacher(tmp_path, layers=[4], config={"hidden_size": 64})
    teacher = load_teacher(tmp_path, layers=[4], config={"image_mean": [0.1, 0.2, 0.3]})
    assert teacher.facts.mean == (0.1, 0.2, 0.3)


def test_unknown_family_is_answered_with_the_protocol_in_ten_lines(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="holds a `vit` model, and teachers are") as error:
        load_teacher(tmp_path, layers=[4])
    message = str(error.value)
    assert all(f"`{name}`" in message for name in ADAPTERS)
    lines = message.splitlines()
    start = next(index for index, line in enumerate(lines) if "class MyTeacher" in line)
    assert len(lines) - start <= 10
    code = "\n".join(line for line in lines[start : start + 7])
    compile(code.replace("    class", "class").replace("\n    ", "\n"), "message", "exec")


# ---------------------------------------------------------------------------------------------------------------------
# Beside a student
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["of its family", "beside its weights", "none"])
def test_mean_and_std_are_the_teachers_own(statistics: str, tmp_path: Path) -> None:
    model = tiny_encoder("clip_vision_model")
    model.save_pretrained(tmp_path)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's paper code
    if statistics == "beside its weights":
        mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
    elif statistics == "none":
        mean, std = [0.0] * 3, [1.0] * 3
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "image_mean": [9] * 3}))
    config = tiny_config(image_size=32, teacher_direct_layers=[2, 4])
    clips = random_clips(config)
    split = token_split(_tube_mask(16, 11, 2), _tube_mask(16, 7, 2))
    frozen = FrozenTeacher.fit(tmp_path, config)
    floats = (clips / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    teacher = load_teacher(tmp_path, layers=[4])
    expected = teacher(floats, visible_ids=torch.cat([split.visible, split.teacher_only], dim=1), grid=(2, 4, 4))[4]
    direct, generation = frozen(clips, split)
    torch.testing.assert_close(torch.cat([direct[1], generation[1]], dim=1), expected, atol=1e-5, rtol=1e-5)
    again, _ = frozen(normalized(clips, config), split)
    torch.testing.assert_close(again[1], direct[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_student_learns_from_every_family_in_three_steps(model_type: str, tmp_path: Path) -> None:
    config = tiny_config(image_size=32)
    student = randomize(AMDForPreTraining(config)).train()
    teacher = FrozenTeacher.fit(tiny_encoder(model_type), config)
    clips, masks = random_clips(config), (_tube_mask(16, 11, 2), _tube_mask(16, 6, 2))
    before, optimizer, losses = weights_of(teacher), torch.optim.AdamW(student.parameters(), 1e-2), []
    for _ in range(3):
        outputs = student(clips, *masks)
        with torch.no_grad():
            direct, generation = teacher(clips, outputs.token_split)
        loss = alignment_loss(outputs.direct_features, direct) + alignment_loss(outputs.generated_features, generation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(torch.equal(before[name], value) for name, value in weights_of(teacher).items())


def test_teacher_of_another_family_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    tiny_encoder("vjepa2").save_pretrained(tmp_path / "teacher")
    config = tiny_config(image_size=32)
    student, rows = AMDForPreTraining(config), masked_rows(config, 6)
    args = pretraining_args(tmp_path / "out", max_steps=3, per_device_train_batch_size=2)
    trainer = AMDTrainer(
        student, args, teacher_model=tmp_path / "teacher", train_dataset=rows, data_collator=StackRows()
    )
    before, ours = weights_of(trainer.teacher), weights_of(student)
    trainer.train()
    assert all(torch.equal(before[name], value) for name, value in weights_of(trainer.teacher).items())
    moved = [name for name, value in weights_of(student).items() if not torch.equal(ours[name], value)]
    assert any(name.startswith("amd.layers.0") for name in moved)
    assert any(name.startswith("alignment.") for name in moved)
    trainer.save_model()
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == student.state_dict().keys()
    assert {"loss_direct", "loss_generation"} <= trainer.state.log_history[0].keys()


@pytest.mark.parametrize(("kind", "is_normed"), [("vjepa2", True), ("amd", False)])
def test_features_are_normed_by_default_for_other_families_than_videomaes(
    kind: str, is_normed: bool, tmp_path: Path
) -> None:
    config = tiny_config(image_size=32)
    teacher = tiny_encoder(kind) if kind == "vjepa2" else randomize(AMDModel(tiny_teacher_config(image_size=32)))
    student, rows = AMDForPreTraining(config), masked_rows(config, 2)
    losses = []
    for norm in (None, is_normed, not is_normed):
        args = pretraining_args(tmp_path / str(norm), max_steps=1, teacher_feature_norm=norm)
        trainer = AMDTrainer(student, args, teacher_model=teacher, train_dataset=rows, data_collator=StackRows())
        with torch.no_grad():
            losses.append(trainer.compute_loss(student, StackRows()(rows)).item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("model_type", ENCODERS)
def test_operations_are_those_that_pytorch_counts(model_type: str) -> None:
    config = tiny_config(image_size=32)
    frozen = FrozenTeacher.fit(tiny_encoder(model_type, attn_implementation="eager"), config)
    split = token_split(_tube_mask(16, 11, 2), _tube_mask(16, config.num_masked_patches(0.4) // 2, 2))
    frozen.model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        frozen(random_clips(config)[:1], TokenSplit(*(ids[:1] for ids in split)))
    blocks = counter.get_total_flops() - _embedding_flops(frozen, config)
    assert frozen.flops_per_clip() == pytest.approx(blocks, rel=0.01)


def _embedding_flops(frozen: FrozenTeacher, config: Any) -> int:
    """Of the patch embedding, and of SigLIP 2's position table, which the formula leaves out."""
    frames = 1 if frozen.facts.family == "vjepa2" else 2
    tokens = config.num_patches - config.num_masked_patches(config.teacher_mask_ratio)
    pixels = 3 * 8 * 8 * frozen.facts.tubelet_size
    total = 2 * frames * tokens * pixels * frozen.facts.width
    return total + (2 * 16 * 16 * frozen.facts.width if frozen.facts.family.startswith("siglip2") else 0)


@pytest.mark.parametrize(
    "model_type",
    ["clip_vision_model", *(pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS if name[:4] != "clip")],
)
def test_compiled_teacher_is_one_graph_and_gives_the_same(model_type: str) -> None:
    config = tiny_config(image_size=32)
    frozen = FrozenTeacher.fit(tiny_encoder(model_type), config)
    clips, split = random_clips(config), token_split(_tube_mask(16, 11, 2), _tube_mask(16, 6, 2))
    with torch.no_grad():
        expected = frozen(clips, split)
        found = torch.compile(frozen, backend="eager", fullgraph=True)(clips, split)
    for ours, theirs in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_wrong_width_and_layers_are_one_clear_line() -> None:
    student = tiny_config(image_size=32, teacher_hidden_size=60, teacher_direct_layers=[6, 12],
                          teacher_generation_layers=[6, 12])  # fmt: skip
    with pytest.raises(ValueError, match="Teacher and student do not fit") as error:
        FrozenTeacher.fit(tiny_encoder("dinov2"), student)
    message = str(error.value)
    assert "\n" not in message
    assert "width (`teacher_hidden_size`): teacher 48, student 60" in message
    assert "the teacher has 4 layers, but layer 12 is to be aligned" in message
    assert '`teacher_direct_layers` "[2, 4]"' in message
