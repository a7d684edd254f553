"""What the models compute: shapes, patches, positions, masks and losses, each against a plain reference."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from amd_hf import AMDConfig, AMDForPreTraining, AMDForVideoClassification, AMDModel
from amd_hf.modeling_amd import (
    AMDPatchEmbeddings,
    AMDPositionTable,
    sincos_grid_position_table,
    sincos_position_table,
)
from tests.helpers.models import nested_masks, normalized, random_clips, randomize, tiny_config, token_split


Masks = tuple[torch.Tensor, torch.Tensor]


# ---------------------------------------------------------------------------------------------------------------------
# Patches and positions
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tubelet_size": 1, "num_frames": 3, "image_size": 16},
        {"tubelet_size": 4, "patch_size": 4, "num_channels": 1, "image_mean": [0.5], "image_std": [0.5]},
    ],
)
def test_patches_are_cut_in_raster_order_and_flattened_by_frame_row_column_channel(
    changes: dict[str, Any], dtype: torch.dtype
) -> None:
    config = tiny_config(**changes)
    clips = random_clips(config).to(dtype)
    patches = AMDPatchEmbeddings(config).patchify(clips)
    tubelet, patch = config.tubelet_size, config.patch_size
    height, width = config.image_height_width
    token = 0
    for time in range(0, config.num_frames, tubelet):
        for top in range(0, height, patch):
            for left in range(0, width, patch):
                expected = [
                    clips[1, time + frame, channel, top + row, left + column].item()
                    for frame in range(tubelet)
                    for row in range(patch)
                    for column in range(patch)
                    for channel in range(config.num_channels)
                ]
                assert patches[1, token].tolist() == expected
                token += 1
    assert patches.shape[1] == token
    assert patches.dtype == dtype


@pytest.mark.parametrize("shape", [(2, 4, 3, 16, 16), (2, 4, 1, 16, 24), (2, 2, 3, 16, 24), (4, 3, 16, 24)])
def test_clip_of_another_size_raises(shape: tuple[int, ...], classifier: AMDForVideoClassification) -> None:
    message = re.escape(f"(B, 4, 3, 16, 24), got {shape}")
    with pytest.raises(ValueError, match=message):
        classifier(torch.zeros(shape))


@pytest.mark.parametrize(("num_positions", "dim"), [(7, 6), (12, 32), (1568, 4)])
def test_position_table_follows_the_formula(num_positions: int, dim: int) -> None:
    expected = np.empty((num_positions, dim))
    for position in range(num_positions):
        for j in range(dim):
            angle = position / 10000 ** (2 * (j // 2) / dim)
            expected[position, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    np.testing.assert_allclose(sincos_position_table(num_positions, dim).numpy(), expected, atol=1e-7)


def test_3d_position_table_is_that_of_a_plain_loop() -> None:
    table = sincos_grid_position_table("sincos_3d", (2, 3, 4), 16)
    for position in range(24):
        frame, cell = divmod(position, 12)
        row, column = divmod(cell, 4)
        want = []
        for coordinate, pairs in ((frame, 4), (row, 2), (column, 2)):
            angles = [coordinate / 10000 ** (j / pairs) for j in range(pairs)]
            want += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        assert table[position].tolist() == pytest.approx(want, abs=1e-6)


def test_all_tables_of_a_model_are_of_the_kind_the_config_names() -> None:
    options = {"position_embedding": "sincos_3d", "decoder_position_embedding": "sincos_3d", "decoder_hidden_size": 24}
    model = AMDForPreTraining(tiny_config(**options))
    tables = [module for module in model.modules() if isinstance(module, AMDPositionTable)]
    assert len(tables) == 3  # encoder, decoder, generators
    for module in tables:
        expected = sincos_grid_position_table("sincos_3d", model.config.grid_size, module.table.shape[1])
        torch.testing.assert_close(module.table, expected, rtol=0, atol=0)


def test_embedding_adds_the_position_of_each_visible_token(pretraining_model: AMDForPreTraining) -> None:
    embeddings = pretraining_model.amd.embeddings
    patches = torch.zeros(1, 12, embeddings.config.patch_dim)
    tokens = embeddings(patches, torch.tensor([[7, 2]]))
    expected = embeddings.projection.bias + sincos_position_table(12, 32)[[7, 2]]
    torch.testing.assert_close(tokens[0], expected)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------


def test_pretraining_shapes_and_names(pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks) -> None:
    outputs = pretraining_model(clips, *masks)
    assert outputs.loss.shape == ()
    assert outputs.logits.shape == (2, 8, 2 * 8 * 8 * 3)
    assert [features.shape for features in outputs.direct_features] == [(2, 4, 48)] * 2
    assert [features.shape for features in outputs.generated_features] == [(2, 4, 48)] * 2
    assert set(outputs.losses) == {"reconstruction"}
    assert outputs.losses["reconstruction"] is outputs.loss


def test_encoder_and_classifier_shapes(classifier: AMDForVideoClassification, clips: torch.Tensor) -> None:
    assert classifier(clips).logits.shape == (2, 5)
    assert classifier.amd(clips).last_hidden_state.shape == (2, 12, 32)
    mask, _ = nested_masks(12, 9, 0)
    assert classifier.amd(clips, mask).last_hidden_state.shape == (2, 3, 32)


def test_outputs_are_tuples_on_request(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    named = pretraining_model(clips, *masks)
    loss, logits, *_ = pretraining_model(clips, *masks, return_dict=False)
    assert torch.equal(loss, named.loss)
    assert torch.equal(logits, named.logits)


def test_hidden_states_are_raw_and_the_last_one_is_normed_where_the_config_says(
    pretraining_model: AMDForPreTraining, classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    encoder = pretraining_model.amd
    outputs = encoder(clips, output_hidden_states=True, feature_layers=[1, 3])
    assert len(outputs.hidden_states) == 4
    patches = encoder.embeddings.patchify(clips)
    torch.testing.assert_close(outputs.hidden_states[0], encoder.embeddings(patches))
    for number, layer in enumerate(encoder.layers):
        torch.testing.assert_close(outputs.hidden_states[number + 1], layer(outputs.hidden_states[number]))
    assert torch.equal(outputs.layer_features[1], outputs.hidden_states[1])
    torch.testing.assert_close(outputs.last_hidden_state, encoder.norm(outputs.hidden_states[-1]))

    raw = classifier.amd(clips, output_hidden_states=True)
    assert not hasattr(classifier.amd, "norm")
    assert torch.equal(raw.last_hidden_state, raw.hidden_states[-1])


@pytest.mark.parametrize("kind", ["pretraining", "classification"])
def test_heads_pass_on_hidden_states_and_eager_attentions(
    kind: str,
    pretraining_model: AMDForPreTraining,
    classifier: AMDForVideoClassification,
    clips: torch.Tensor,
    masks: Masks,
) -> None:
    model, inputs, tokens = (
        (pretraining_model, (clips, *masks), 4) if kind == "pretraining" else (classifier, (clips,), 12)
    )
    model.set_attn_implementation("eager")
    outputs = model(*inputs, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, tokens, 32)] * 4
    # The encoder's alone: neither decoder nor generators are recorded.
    assert [weights.shape for weights in outputs.attentions] == [(2, 4, tokens, tokens)] * 3
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, tokens))


# ---------------------------------------------------------------------------------------------------------------------
# uint8 input
# ---------------------------------------------------------------------------------------------------------------------


def test_raw_uint8_clips_equal_normalised_floats(
    pretraining_model: AMDForPreTraining, classifier: AMDForVideoClassification, clips: torch.Tensor, masks: Masks
) -> None:
    floats = normalized(clips, pretraining_model.config)
    raw, normed = pretraining_model(clips, *masks), pretraining_model(floats, *masks)
    torch.testing.assert_close(raw.logits, normed.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(raw.loss, normed.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(classifier(clips).logits, classifier(floats).logits, atol=1e-5, rtol=0)


def test_uint8_clips_are_normalised_by_the_configs_own_statistics() -> None:
    config = tiny_config(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    model = randomize(AMDForVideoClassification(config)).eval()
    clips = random_clips(config)
    torch.testing.assert_close(model(clips).logits, model(normalized(clips, config)).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_reconstruction_target_is_the_frames_patch_by_patch(norm_pix_loss: bool, masks: Masks) -> None:
    config = tiny_config(norm_pix_loss=norm_pix_loss, teacher_hidden_size=None)
    model = randomize(AMDForPreTraining(config)).eval()
    clips = random_clips(config)
    clips[0, :, :, :8, :8] = 77  # a flat patch: its variance is 0
    student = masks[0]
    outputs = model(clips, student)
    total = 0.0
    for row in range(2):
        for place, token in enumerate(student[row].nonzero().flatten().tolist()):
            time, rest = divmod(token, 6)
            top, left = 8 * (rest // 3), 8 * (rest % 3)
            patch = clips[row, 2 * time : 2 * time + 2, :, top : top + 8, left : left + 8].double() / 255
            for channel in range(3):
                pixels = patch[:, channel].flatten()  # (frame, row, column)
                if norm_pix_loss:
                    pixels = (pixels - pixels.mean()) / (pixels.var(unbiased=True).sqrt() + 1e-6)
                predicted = outputs.logits[row, place].view(-1, 3)[:, channel].double()
                total += (predicted - pixels).square().sum().item()
    assert outputs.loss.item() == pytest.approx(total / outputs.logits.numel(), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_teacher_masked", [None, 0, 4, 8])
def test_token_split_equals_boolean_indexing(
    num_teacher_masked: int | None, pretraining_model: AMDForPreTraining, clips: torch.Tensor
) -> None:
    student, teacher = nested_masks(12, 8, num_teacher_masked or 0)
    masks = (student,) if num_teacher_masked is None else (student, teacher)
    split = pretraining_model(clips, *masks).token_split
    for name, ours, expected in zip(split._fields, split, token_split(*masks), strict=True):
        assert (ours is None) == (expected is None), name
        assert ours is None or ours.tolist() == expected.tolist(), name


def test_hidden_pixels_reach_neither_features_nor_prediction(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    """Only the target may know what the masked patches hold."""
    changed = clips.clone()
    for row in range(2):
        for token in masks[0][row].nonzero().flatten().tolist():
            time, rest = divmod(token, 6)
            top, left = 8 * (rest // 3), 8 * (rest % 3)
            changed[row, 2 * time : 2 * time + 2, :, top : top + 8, left : left + 8] += 100
    one, other = pretraining_model(clips, *masks), pretraining_model(changed, *masks)
    assert torch.equal(one.logits, other.logits)
    for ours, theirs in zip(
        one.direct_features + one.generated_features, other.direct_features + other.generated_features, strict=True
    ):
        assert torch.equal(ours, theirs)
    assert one.loss != other.loss


def test_masked_patches_are_never_embedded(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    seen = []
    pretraining_model.amd.embeddings.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    pretraining_model(clips, *masks)
    assert seen == [(2, 4, 384)]


def test_without_teacher_mask_nothing_is_generated(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    alone, both = pretraining_model(clips, masks[0]), pretraining_model(clips, *masks)
    assert alone.generated_features is None
    for ours, theirs in zip(alone.direct_features, both.direct_features, strict=True):
        assert torch.equal(ours, theirs)


def test_without_alignment_modules_there_are_no_features(clips: torch.Tensor, masks: Masks) -> None:
    model = AMDForPreTraining(tiny_config(teacher_hidden_size=None))
    outputs = model(clips, *masks)
    assert outputs.direct_features is None
    assert outputs.generated_features is None
    assert not any("alignment" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(("num_teacher_masked", "num_generated"), [(8, 0), (0, 8), (7, 1)])
def test_any_teacher_ratio_up_to_the_students_works(
    num_teacher_masked: int, num_generated: int, pretraining_model: AMDForPreTraining, clips: torch.Tensor
) -> None:
    outputs = pretraining_model(clips, *nested_masks(12, 8, num_teacher_masked))
    assert [features.shape for features in outputs.generated_features] == [(2, num_generated, 48)] * 2
    assert outputs.loss.isfinite()


def test_generated_features_are_in_raster_order_of_the_teacher_only_tokens(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    student, teacher = masks
    outputs = pretraining_model(clips, student, teacher)
    alignment = pretraining_model.alignment
    table = sincos_position_table(12, 48)
    features = pretraining_model.amd(clips, student, feature_layers=[2]).layer_features[2]
    for row in range(2):
        aligned = alignment.projections["2"](features[row]) + table[~student[row]]
        generator = alignment.generators["2"]
        wanted = generator.mask_token[0] + table[student[row] & ~teacher[row]]
        tokens = generator.layers[0](torch.cat([aligned, wanted])[None])[0, len(aligned) :]
        torch.testing.assert_close(outputs.generated_features[0][row], tokens, atol=1e-5, rtol=0)


def test_parallel_alignment_generates_from_projections_of_its_own(clips: torch.Tensor, masks: Masks) -> None:
    student, teacher = masks
    model = randomize(AMDForPreTraining(tiny_config(alignment_mode="parallel"))).eval()
    outputs = model(clips, student, teacher)
    alignment, table = model.alignment, sincos_position_table(12, 48)
    config = model.config
    assert list(alignment.projections) == [str(layer) for layer in config.student_direct_layers]
    features = model.amd(clips, student, feature_layers=[1, 2, 3]).layer_features
    for layer, direct in zip(config.student_direct_layers, outputs.direct_features, strict=True):
        torch.testing.assert_close(direct, features[layer] @ alignment.projections[str(layer)].weight.T)
    for layer, generated in zip(config.student_generation_layers, outputs.generated_features, strict=True):
        start = features[layer] @ alignment.generation_projections[str(layer)].weight.T
        generator = alignment.generators[str(layer)]
        for row in range(2):
            wanted = generator.mask_token[0] + table[student[row] & ~teacher[row]]
            tokens = torch.cat([start[row] + table[~student[row]], wanted])[None]
            torch.testing.assert_close(
                generated[row], generator.layers[0](tokens)[0, -len(wanted) :], atol=1e-5, rtol=0
            )
    generated = sum(features.square().sum() for features in outputs.generated_features)
    generated.backward()
    assert all(projection.weight.grad is None for projection in alignment.projections.values())


def _mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[character == "x" for character in row] for row in rows])


_GOOD = _mask("xxxxxxxx....", "..xxxxxxxx..")


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (_mask("xxxx........", "xxx........."), None, "`bool_masked_pos` .* row 0 hides 4, row 1 hides 3"),
        (_mask("............", "............"), None, r"hides no token.*\(row 0 hides 0 of 12\)"),
        (_mask("xxxxxxxxxxxx", "xxxxxxxxxxxx"), None, r"hides every token \(row 0 hides 12 of 12\)"),
        (_mask("xxxx....", "xxxx...."), None, r"shape \(clips, 12 tokens\), got \(2, 8\)"),
        (_GOOD[0], None, r"shape \(clips, 12 tokens\), got \(12,\)"),
        (_GOOD, _GOOD[:1], r"shape of `bool_masked_pos` \(2, 12\), got \(1, 12\)"),
        (_GOOD, _mask("xx..........", "..x........."), "`teacher_bool_masked_pos` .* row 0 hides 2, row 1 hides 1"),
        (
            _GOOD,
            _mask("xx..........", "x.x........."),
            r"in row 1 it hides 1 tokens that the student sees \(student hides 8, teacher 2\)",
        ),
    ],
)
def test_wrong_masks_raise_and_name_row_and_counts(
    student: torch.Tensor,
    teacher: torch.Tensor | None,
    message: str,
    pretraining_model: AMDForPreTraining,
    clips: torch.Tensor,
) -> None:
    with pytest.raises(ValueError, match=message):
        pretraining_model(clips, student, teacher)


def test_given_counts_must_agree_with_masks_on_the_cpu(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    given = pretraining_model(clips, *masks, num_masked=8, num_teacher_masked=4)
    assert torch.equal(given.loss, pretraining_model(clips, *masks).loss)
    with pytest.raises(ValueError, match="`bool_masked_pos` .* 7 were announced, row 0 hides 8"):
        pretraining_model(clips, *masks, num_masked=7)
    with pytest.raises(ValueError, match="`teacher_bool_masked_pos` .* 5 were announced, row 0 hides 4"):
        pretraining_model(clips, *masks, num_teacher_masked=5)
    with pytest.raises(ValueError, match="`bool_masked_pos` .* 7 were announced, row 0 hides 8"):
        pretraining_model.amd(clips, masks[0], num_masked=7)


def test_encoder_refuses_a_mask_with_uneven_rows(classifier: AMDForVideoClassification, clips: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="row 0 hides 4, row 1 hides 3"):
        classifier.amd(clips, _mask("xxxx........", "xxx........."))


@pytest.mark.parametrize("rows", [1, 3])
def test_masks_of_other_clips_raise(
    classifier: AMDForVideoClassification, pretraining_model: AMDForPreTraining, clips: torch.Tensor, rows: int
) -> None:
    mask = _mask(*["xxxxxxxx...."] * rows)
    for model in (classifier.amd, pretraining_model):
        with pytest.raises(ValueError, match=f"There are 2 clips, but masks or ids of {rows}"):
            model(clips, mask)


# ---------------------------------------------------------------------------------------------------------------------
# Classifier
# ---------------------------------------------------------------------------------------------------------------------


def test_classifier_pools_the_raw_tokens_and_norms_their_mean(
    classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    tokens = classifier.amd(clips, output_hidden_states=True).hidden_states[-1]
    pooled = torch.stack([sum(tokens[row, token] for token in range(12)) / 12 for row in range(2)])
    expected = classifier.classifier(F.layer_norm(pooled, (32,), *classifier.fc_norm.parameters(), eps=1e-6))
    torch.testing.assert_close(classifier(clips).logits, expected, atol=1e-5, rtol=0)


def test_hard_and_soft_labels_give_the_cross_entropy(
    classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    soft = torch.tensor([[0.7, 0.3, 0.0, 0.0, 0.0], [0.0, 0.0, 0.1, 0.1, 0.8]])
    outputs = classifier(clips, labels=soft)
    expected = 0.0
    for row in range(2):
        normalizer = math.log(sum(math.exp(value) for value in outputs.logits[row].tolist()))
        for target, logit in zip(soft[row].tolist(), outputs.logits[row].tolist(), strict=True):
            expected += target * (normalizer - logit) / 2
    assert outputs.loss.item() == pytest.approx(expected, rel=1e-5)
    hard = classifier(clips, labels=torch.tensor([0, 4])).loss
    one_hot = classifier(clips, labels=F.one_hot(torch.tensor([0, 4]), 5).float()).loss
    torch.testing.assert_close(hard, one_hot)
    assert classifier.config.problem_type is None


def test_head_dropout_acts_in_training_only(classifier: AMDForVideoClassification, clips: torch.Tensor) -> None:
    classifier.dropout.p = 0.5
    assert torch.equal(classifier(clips).logits, classifier(clips).logits)
    classifier.train()
    assert not torch.equal(classifier(clips).logits, classifier(clips).logits)


# ---------------------------------------------------------------------------------------------------------------------
# Drop path, configs of the heads
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "rates"), [(3, [0.0, 0.1, 0.2]), (1, [0.0]), (5, [0.0, 0.05, 0.1, 0.15, 0.2])])
def test_drop_path_grows_linearly_over_the_encoder(depth: int, rates: list[float]) -> None:
    model = AMDForPreTraining(tiny_config(num_hidden_layers=depth, drop_path_rate=0.2, teacher_hidden_size=None))
    assert [layer.drop_path.rate for layer in model.amd.layers] == pytest.approx(rates)
    assert [layer.drop_path.rate for layer in model.decoder.layers] == [0.0, 0.0]


@pytest.mark.parametrize(("kind", "expected"), [(AMDForPreTraining, True), (AMDForVideoClassification, False)])
def test_models_switch_the_final_norm_in_their_own_config_alone(
    kind: type[AMDForPreTraining | AMDForVideoClassification], expected: bool
) -> None:
    given: AMDConfig = tiny_config(use_final_norm=not expected)
    model = kind(copy.deepcopy(given))
    assert model.config.use_final_norm is expected
    assert model.amd.config.use_final_norm is expected
    kind(given)
    assert given.use_final_norm is not expected


def test_encoder_alone_follows_its_config() -> None:
    assert hasattr(AMDModel(tiny_config()), "norm")
    assert not hasattr(AMDModel(tiny_config(use_final_norm=False)), "norm")
