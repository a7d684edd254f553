"""How weights start, and that saving, loading and changing the dtype keep what the models compute."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDModel
from amd_hf.modeling_amd import AMDPositionTable, sincos_position_table
from tests.helpers.models import random_clips, randomize, tiny_config


Masks = tuple[torch.Tensor, torch.Tensor]


def _check_buffers(model: nn.Module) -> None:
    """Values, not equality with another loaded model: what is not filled may look right by chance."""
    tables = [module for module in model.modules() if isinstance(module, AMDPositionTable)]
    assert tables
    for module in tables:
        torch.testing.assert_close(module.table, sincos_position_table(*module.table.shape), rtol=0, atol=0)
    (embeddings,) = (module for name, module in model.named_modules() if name.split(".")[-1] == "embeddings")
    torch.testing.assert_close(embeddings.mean, torch.tensor([0.485, 0.456, 0.406]), rtol=0, atol=0)
    torch.testing.assert_close(embeddings.std, torch.tensor([0.229, 0.224, 0.225]), rtol=0, atol=0)


def _dirty_memory() -> None:
    """Fills memory that is then freed, so that an uninitialised tensor does not hold zeros or an old table."""
    junk = [torch.full((12, width), 1e9) for width in (20, 32, 48) for _ in range(50)]
    del junk


# ---------------------------------------------------------------------------------------------------------------------
# Save, load
# ---------------------------------------------------------------------------------------------------------------------


def test_pretraining_model_loads_with_identical_outputs(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks, tmp_path: Path
) -> None:
    pretraining_model.save_pretrained(tmp_path)
    _dirty_memory()
    loaded = AMDForPreTraining.from_pretrained(tmp_path)
    assert not loaded.training
    _check_buffers(loaded)
    ours, theirs = pretraining_model(clips, *masks), loaded(clips, *masks)
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.logits, theirs.logits)
    for one, other in zip(
        ours.direct_features + ours.generated_features, theirs.direct_features + theirs.generated_features, strict=True
    ):
        assert torch.equal(one, other)


def test_classifier_loads_with_identical_outputs(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    _dirty_memory()
    loaded = AMDForVideoClassification.from_pretrained(tmp_path)
    _check_buffers(loaded)
    assert torch.equal(classifier(clips).logits, loaded(clips).logits)


def test_encoder_loads_with_identical_outputs(teacher_model: AMDModel, clips: torch.Tensor, tmp_path: Path) -> None:
    teacher_model.save_pretrained(tmp_path)
    _dirty_memory()
    loaded = AMDModel.from_pretrained(tmp_path)
    _check_buffers(loaded)
    assert torch.equal(teacher_model(clips).last_hidden_state, loaded(clips).last_hidden_state)


def test_checkpoint_holds_no_buffer_and_every_parameter(pretraining_model: AMDForPreTraining) -> None:
    assert set(pretraining_model.state_dict()) == {name for name, _ in pretraining_model.named_parameters()}
    assert {"alignment.generators.2.mask_token", "alignment.generators.3.mask_token", "decoder.mask_token"} <= set(
        pretraining_model.state_dict()
    )


def test_sharded_checkpoint_loads_with_identical_outputs(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = AMDForVideoClassification.from_pretrained(tmp_path)
    assert torch.equal(classifier(clips).logits, loaded(clips).logits)


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        (AutoModel, AMDModel),
        (AutoModelForPreTraining, AMDForPreTraining),
        (AutoModelForVideoClassification, AMDForVideoClassification),
    ],
)
def test_auto_classes_build_and_load_ours(auto_class: Any, expected: type, tmp_path: Path) -> None:
    model = auto_class.from_config(tiny_config())
    assert type(model) is expected
    model.save_pretrained(tmp_path)
    loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is expected
    assert not any(info.values())
    for (name, ours), (other_name, theirs) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(ours, theirs)


def test_encoder_loads_from_a_pretraining_checkpoint(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, tmp_path: Path
) -> None:
    pretraining_model.save_pretrained(tmp_path)
    encoder, info = AMDModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(encoder(clips).last_hidden_state, pretraining_model.amd(clips).last_hidden_state)


def test_classifier_on_a_pretraining_checkpoint_keeps_the_encoder_and_starts_its_head(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, tmp_path: Path
) -> None:
    pretraining_model.save_pretrained(tmp_path)
    model, info = AMDForVideoClassification.from_pretrained(tmp_path, num_labels=400, output_loading_info=True)
    assert info["missing_keys"] == {"fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]
    _check_buffers(model)
    for ours, theirs in zip(model.amd.layers.parameters(), pretraining_model.amd.layers.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # Not 0.02, to which a scale applied in `__init__` would fall back.
    assert model.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert not model.classifier.bias.any()
    assert bool((model.fc_norm.weight == 1).all())


def test_wrong_shape_in_a_checkpoint_raises(classifier: AMDForVideoClassification, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="`ignore_mismatched_sizes`"):
        AMDForVideoClassification.from_pretrained(tmp_path, num_labels=3)


# ---------------------------------------------------------------------------------------------------------------------
# Dtypes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_model_of_another_dtype_keeps_its_buffers_and_computes_in_that_dtype(
    dtype: torch.dtype, pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks, tmp_path: Path
) -> None:
    pretraining_model.save_pretrained(tmp_path)
    loaded = AMDForPreTraining.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    _check_buffers(loaded)  # float32 still: a table in bfloat16 could not tell positions apart
    outputs, expected = loaded(clips, *masks), pretraining_model(clips, *masks)
    assert outputs.logits.dtype == outputs.generated_features[0].dtype == dtype
    assert outputs.loss.dtype == torch.float32
    tolerance = 0.15 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(outputs.logits.float(), expected.logits, atol=tolerance, rtol=0)


def test_bf16_autocast_gives_a_float32_loss(
    pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks
) -> None:
    expected = pretraining_model(clips, *masks).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pretraining_model(clips, *masks).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# Initialisation
# ---------------------------------------------------------------------------------------------------------------------

# Wide enough that deviations are known to a few percent.
_WIDE = {"hidden_size": 128, "decoder_hidden_size": 128, "teacher_hidden_size": 192, "num_labels": 200}


def _xavier_std(weight: torch.Tensor) -> float:
    return math.sqrt(2 / sum(weight.shape))


def test_pretraining_starts_from_xavier_uniform() -> None:
    model = AMDForPreTraining(tiny_config(**_WIDE))
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    embedding = linears.pop("amd.embeddings.projection")
    linears.pop("decoder.embed")
    for name, module in linears.items():
        bound = math.sqrt(6 / sum(module.weight.shape))
        assert module.weight.abs().max().item() <= bound, name
        assert module.weight.std().item() == pytest.approx(_xavier_std(module.weight), rel=0.05), name
        assert module.bias is None or not module.bias.any(), name
    bound = (2 * 8 * 8 * 3) ** -0.5  # the released code leaves this convolution at PyTorch's default
    for tensor in embedding.parameters():
        assert 0.9 * bound < tensor.abs().max().item() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_input_of_the_decoder_starts_as_torch_leaves_a_linear_layer() -> None:
    """The released code initialises the encoder and the decoder, but not the projection between them; MAE's does."""
    weight = AMDForPreTraining(tiny_config(**_WIDE)).decoder.embed.weight
    usual = nn.Linear(128, 128, bias=False).weight
    assert weight.std().item() == pytest.approx(usual.std().item(), rel=0.03)
    assert weight.abs().max().item() == pytest.approx(usual.abs().max().item(), rel=0.01)
    of_mae = AMDForPreTraining(tiny_config(**_WIDE, decoder_embed_bias=True)).decoder.embed
    assert of_mae.weight.std().item() == pytest.approx(_xavier_std(of_mae.weight), rel=0.03)


def test_mask_tokens_start_within_one_deviation() -> None:
    model = AMDForPreTraining(tiny_config(**_WIDE))
    tokens = [parameter for name, parameter in model.named_parameters() if name.endswith("mask_token")]
    assert len(tokens) == 3
    for token in tokens:
        assert token.abs().max().item() <= 0.02
        assert token.std().item() == pytest.approx(0.54 * 0.02, rel=0.2)  # of a normal cut off at one std


@pytest.mark.parametrize("scale", [0.001, 1.0])
def test_classifier_starts_from_truncated_normal_with_a_small_head(scale: float) -> None:
    model = AMDForVideoClassification(tiny_config(**_WIDE, classifier_init_scale=scale))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in ("classifier", "amd.embeddings.projection"):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert not module.bias.any() if module.bias is not None else True, name
    assert model.classifier.weight.std().item() == pytest.approx(0.02 * scale, rel=0.05)
    assert not model.classifier.bias.any()


def test_norms_and_attention_biases_start_neutral() -> None:
    model = AMDForPreTraining(tiny_config())
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert bool((parameter == 1).all()), name
        elif name.endswith("bias") and "embeddings" not in name:
            assert not parameter.any(), name


def test_every_parameter_is_trained(pretraining_model: AMDForPreTraining, clips: torch.Tensor, masks: Masks) -> None:
    outputs = pretraining_model.train()(clips, *masks)
    features = outputs.direct_features + outputs.generated_features
    (outputs.loss + sum(feature.square().mean() for feature in features)).backward()
    for name, parameter in pretraining_model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_non_square_single_channel_model_runs_after_loading(tmp_path: Path) -> None:
    config = tiny_config(num_channels=1, image_mean=[0.3], image_std=[0.2], image_size=[24, 8], num_frames=2)
    model = randomize(AMDForVideoClassification(config)).eval()
    model.save_pretrained(tmp_path)
    clips = random_clips(config)
    assert torch.equal(AMDForVideoClassification.from_pretrained(tmp_path)(clips).logits, model(clips).logits)
