"""MAE's checkpoints, official and Transformers' `vit_mae`: that model's hidden states, predictions and loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amd_hf import (
    AMDForImageClassification,
    AMDForPreTraining,
    AMDModel,
    AMDTrainer,
    AMDTrainingArguments,
    convert_checkpoint,
    export_checkpoint,
    load_teacher,
)
from tests.helpers.mae import (
    NUM_PATCHES,
    encoder_of,
    images_and_masks,
    mae_model,
    mae_state_dict,
    normalized_images,
    save_published,
)


# What tensors do not tell; a folder's config does.
_HEADS = {"num_attention_heads": 3, "decoder_num_attention_heads": 2, "layer_norm_eps": 1e-12}
_FORMS = [
    "encoder folder",
    "official",
    "official encoder",
    "official file",
    "folder",
    "published folder",
    "state dict",
]


def _source(theirs: nn.Module, form: str, folder: Path) -> Any:
    if form == "encoder folder":
        theirs.vit.save_pretrained(folder)
        return folder
    if form == "folder":
        theirs.save_pretrained(folder)
        return folder
    if form == "published folder":
        return save_published(theirs, folder)
    if form == "state dict":
        return theirs.state_dict()
    tensors = mae_state_dict(theirs)
    if form == "official encoder":
        return encoder_of(tensors)
    if form == "official file":
        torch.save({"model": tensors}, folder / "mae.pth")
        return folder / "mae.pth"
    return tensors


def _convert(theirs: nn.Module, form: str, folder: Path) -> AMDForPreTraining:
    given = {} if "folder" in form else _HEADS if form != "official encoder" else {"num_attention_heads": 3}
    return convert_checkpoint(_source(theirs, form, folder), **given)


@pytest.mark.parametrize("with_fixed_tables", [True, False])
@pytest.mark.parametrize("form", _FORMS)
def test_teacher_gives_the_hidden_states_of_vit_mae(form: str, with_fixed_tables: bool, tmp_path: Path) -> None:
    theirs = mae_model(with_fixed_tables, mask_ratio=0.5)
    config = None
    if "folder" not in form:  # tensors alone leave heads and epsilon open
        config = convert_checkpoint(mae_state_dict(theirs), **_HEADS).config
    teacher = load_teacher(_source(theirs, form, tmp_path), layers=[1, 3], config=config)
    assert type(teacher) is AMDModel
    assert teacher.config.position_embedding == ("sincos_2d" if with_fixed_tables else "stored")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images, masks, noise = images_and_masks(0.5)
    with torch.no_grad():
        expected = theirs.vit(normalized_images(images), noise=noise, output_hidden_states=True).hidden_states
        outputs = teacher(images, masks, output_hidden_states=True, feature_layers=[1, 3])
    assert len(expected) == len(outputs.hidden_states) == 4
    for ours, want in zip(outputs.hidden_states, expected, strict=True):
        torch.testing.assert_close(ours, want, atol=2e-4, rtol=0)
    for layer in (1, 3):  # the class token, first, is left out of what is aligned
        torch.testing.assert_close(outputs.layer_features[layer], expected[layer][:, 1:], atol=2e-4, rtol=0)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("with_fixed_tables", [True, False])
def test_pretraining_model_gives_the_loss_and_prediction_of_vit_mae(
    with_fixed_tables: bool, norm_pix_loss: bool, tmp_path: Path
) -> None:
    theirs = mae_model(with_fixed_tables, norm_pix_loss=norm_pix_loss)
    ours = _convert(theirs, "folder", tmp_path)
    images, masks, noise = images_and_masks()
    pixels = normalized_images(images)
    with torch.no_grad():
        expected = theirs(pixels, noise=noise)
        of_bytes, of_floats = ours(images, masks), ours(pixels, masks)
    assert torch.equal(expected.mask.bool(), masks)
    torch.testing.assert_close(of_floats.loss, expected.loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_bytes.loss, expected.loss, atol=1e-5, rtol=0)
    want = torch.stack([row[mask] for row, mask in zip(expected.logits, masks, strict=True)])
    torch.testing.assert_close(of_bytes.logits, want, atol=2e-4, rtol=0)
    torch.testing.assert_close(ours(images.unsqueeze(1), masks).loss, of_bytes.loss, atol=0, rtol=0)


def test_trainer_without_teacher_has_the_loss_and_gradients_of_vit_mae(tmp_path: Path) -> None:
    theirs = mae_model()
    images, masks, noise = images_and_masks()
    loss = theirs(normalized_images(images), noise=noise).loss
    loss.backward()
    ours = _convert(theirs, "folder", tmp_path)
    args = AMDTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    batch = {"pixel_values": images.unsqueeze(1), "bool_masked_pos": masks, "num_masked": 12}
    got = AMDTrainer(ours, args, data_collator=list).compute_loss(ours, batch)
    torch.testing.assert_close(got, loss, atol=1e-5, rtol=0)
    got.backward()
    pairs = {
        "amd.embeddings.class_token": theirs.vit.embeddings.cls_token,
        "decoder.embed.bias": theirs.decoder.decoder_embed.bias,
        "decoder.mask_token": theirs.decoder.mask_token,
        "amd.layers.0.mlp.fc1.weight": theirs.vit.layers[0].mlp.fc1.weight,
        "decoder.head.bias": theirs.decoder.decoder_pred.bias,
    }
    for name, parameter in pairs.items():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, atol=1e-5, rtol=1e-3)


def test_every_key_is_accounted_for() -> None:
    tensors = mae_state_dict(mae_model())
    model = convert_checkpoint(tensors, **_HEADS)
    report = model.conversion_report
    assert set(report.dropped) == {
        "encoder.pos_embed",
        "decoder.pos_embed",
        *(f"encoder.blocks.{number}.attn.k_bias" for number in range(3)),
        *(f"decoder.blocks.{number}.attn.k_bias" for number in range(2)),
    }
    assert not report.new
    assert set(report.used.values()) == model.state_dict().keys()
    config = model.config
    assert (config.num_frames, config.tubelet_size, config.image_size, config.patch_size) == (1, 1, 32, 8)
    assert config.use_class_token
    assert config.use_decoder_class_token
    assert config.decoder_embed_bias
    assert config.reconstruction_target == "mae"
    with pytest.raises(ValueError, match=r"no place for 1 tensor\(s\).*encoder\.surplus"):
        convert_checkpoint({**tensors, "surplus": torch.ones(1)}, **_HEADS)
    del tensors["cls_token"]
    with pytest.raises(ValueError, match=r"pos_embed` has 17 positions|amd\.embeddings\.class_token is missing"):
        convert_checkpoint(tensors, **_HEADS)


def test_decoder_of_published_width_has_the_heads_of_mae() -> None:
    theirs = mae_model(decoder_hidden_size=512, decoder_num_hidden_layers=1, decoder_intermediate_size=2048)
    assert convert_checkpoint(mae_state_dict(theirs), num_attention_heads=3).config.decoder_num_attention_heads == 16


def _expected_logits(tensors: dict[str, torch.Tensor], hidden: torch.Tensor, norm: str) -> torch.Tensor:
    pooled = hidden[:, 0] if norm == "norm" else hidden[:, 1:].mean(dim=1)
    normed = nn.functional.layer_norm(pooled, (48,), tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], 1e-6)
    return normed @ tensors["head.weight"].T + tensors["head.bias"]


@pytest.mark.parametrize("norm", ["norm", "fc_norm"])
def test_fine_tuned_checkpoint_becomes_an_image_classifier(norm: str) -> None:
    """By the class token (a norm of all tokens) or the mean of the patches (`fc_norm`), as MAE fine-tunes both."""
    theirs = mae_model(with_fixed_tables=False, mask_ratio=0.0, layer_norm_eps=1e-6)
    tensors = encoder_of(mae_state_dict(theirs))
    tensors |= {f"{norm}.{leaf}": tensors.pop(f"norm.{leaf}") for leaf in ("weight", "bias")}
    tensors |= {"head.weight": torch.randn(12, 48), "head.bias": torch.randn(12)}
    model = convert_checkpoint(tensors, num_attention_heads=3)
    assert type(model) is AMDForImageClassification
    assert model.config.pooling == ("class_token" if norm == "norm" else "mean")
    assert not model.conversion_report.new
    images, _, _ = images_and_masks()
    with torch.no_grad():
        noise = torch.arange(NUM_PATCHES).expand(2, -1)
        states = theirs.vit(normalized_images(images), noise=noise, output_hidden_states=True).hidden_states[-1]
        expected = _expected_logits(tensors, states, norm)
        torch.testing.assert_close(model(images).logits, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("with_fixed_tables", [True, False])
def test_export_and_back_gives_the_same_weights_and_tables(with_fixed_tables: bool) -> None:
    model = convert_checkpoint(mae_state_dict(mae_model(with_fixed_tables)), **_HEADS)
    exported = export_checkpoint(model)
    given = {**_HEADS, "num_frames": 1, "reconstruction_target": "mae"}
    again = convert_checkpoint(exported, **given)
    assert again.config.position_embedding == model.config.position_embedding
    assert again.config.decoder_position_embedding == model.config.decoder_position_embedding
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    images, masks, _ = images_and_masks()
    assert torch.equal(again(images, masks).logits, model(images, masks).logits)


def test_saved_model_keeps_tables_and_options(tmp_path: Path) -> None:
    model = convert_checkpoint(mae_state_dict(mae_model(with_fixed_tables=False)), **_HEADS)
    model.save_pretrained(tmp_path)
    again = AMDForPreTraining.from_pretrained(tmp_path).eval()
    images, masks, _ = images_and_masks()
    assert torch.equal(again(images, masks).logits, model(images, masks).logits)
