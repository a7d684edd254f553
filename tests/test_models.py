"""Models from anywhere: the right kind of model, whole, or an error; heads, new or trained; and processors."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from amd_hf import (
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDVideoProcessor,
    convert_checkpoint,
    export_checkpoint,
)
from amd_hf.checkpoints.reading import CONFIG_ENTRY
from amd_hf.models import (
    build_classifier,
    check_processor,
    import_function,
    load_model,
    load_processor,
    load_trained_classifier,
)
from tests.helpers.models import tiny_config


_NAMES = ["left", "right", "up"]
_GIVEN = {"num_attention_heads": 4, "num_frames": 4, "image_size": [16, 24]}


def _encoder_alone(classifier: AMDForVideoClassification, with_norm: bool) -> dict[str, torch.Tensor]:
    """The official state dict of an encoder without a head."""
    official = export_checkpoint(classifier)
    encoder = {key: value for key, value in official.items() if not key.startswith(("fc_norm.", "head."))}
    norm = {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    return encoder | (norm if with_norm else {})


@pytest.mark.parametrize("kind", [AMDForPreTraining, AMDForVideoClassification, AMDModel])
def test_folder_loads_as_the_kind_of_model_it_holds(kind: type, tmp_path: Path) -> None:
    saved = kind(tiny_config())
    saved.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is kind
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_official_file_loads_with_the_sizes_given(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    torch.save({"model": export_checkpoint(classifier)}, tmp_path / "official.pth")
    loaded = load_model(tmp_path / "official.pth", **_GIVEN)
    torch.testing.assert_close(loaded(clips).logits, classifier(clips).logits, atol=0, rtol=0)


def test_authors_arguments_tell_what_the_tensors_do_not(pretraining_model: AMDForPreTraining) -> None:
    config = pretraining_model.config
    config.student_generation_layers = config.student_direct_layers  # the official layout shares projections
    model = AMDForPreTraining(config)
    arguments = argparse.Namespace(
        num_frames=4,
        student_layer_direct_align=[1, 3],
        student_layer_gen_align=[1, 3],
        teacher_layer_direct_align=[2, 4],
        teacher_layer_gen_align=[1, 4],
        mask_ratio=0.7,
        mask_ratio_teacher=0.4,
    )
    given = {"num_attention_heads": 4, "decoder_num_attention_heads": 2, "generator_num_attention_heads": 3}
    file = {"model": export_checkpoint(model), "args": arguments}
    loaded = convert_checkpoint(file, image_size=[16, 24], **given)
    for name in ("student_direct_layers", "teacher_generation_layers", "student_mask_ratio", "num_frames"):
        assert getattr(loaded.config, name) == getattr(config, name), name


def test_file_with_our_config_beside_the_tensors_needs_no_options(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    file = {"model": export_checkpoint(classifier), CONFIG_ENTRY: classifier.config.to_dict()}
    torch.save(file, tmp_path / "official.pth")
    loaded = load_model(tmp_path / "official.pth")
    assert loaded.config.id2label == classifier.config.id2label
    torch.testing.assert_close(loaded(clips).logits, classifier(clips).logits, atol=0, rtol=0)


def test_fine_tuning_starts_from_an_official_file(classifier: AMDForVideoClassification, tmp_path: Path) -> None:
    torch.save({"model": export_checkpoint(classifier)}, tmp_path / "classifier.pth")
    model = build_classifier(str(tmp_path / "classifier.pth"), ["left", "right"], drop_path_rate=0.2, **_GIVEN)
    assert torch.equal(model.amd.layers[2].attention.qkv.weight, classifier.amd.layers[2].attention.qkv.weight)
    assert model.config.drop_path_rate == 0.2
    assert model.classifier.weight.shape == (2, 32)


@pytest.mark.parametrize("with_norm", [False, True])
def test_encoder_alone_becomes_a_classifier_whose_new_head_is_reported(
    with_norm: bool, classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    state_dict = _encoder_alone(classifier, with_norm)
    with pytest.raises(ValueError, match="holds an encoder alone: say what to build with `task`"):
        convert_checkpoint(state_dict, **_GIVEN)
    loaded = load_model(state_dict, **_GIVEN)
    assert isinstance(loaded, AMDForVideoClassification)
    assert set(loaded.conversion_report.new) == {
        "fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert set(loaded.conversion_report.dropped) == ({"norm.weight", "norm.bias"} if with_norm else set())
    torch.testing.assert_close(loaded.amd(clips).last_hidden_state, classifier.amd(clips).last_hidden_state)


def test_encoder_alone_becomes_a_pretraining_model_with_a_new_decoder(classifier: AMDForVideoClassification) -> None:
    model = convert_checkpoint(
        _encoder_alone(classifier, True), task="pretraining", decoder_hidden_size=20, decoder_num_attention_heads=2,
        **_GIVEN,
    )  # fmt: skip
    assert isinstance(model, AMDForPreTraining)
    assert all(name.startswith("decoder.") for name in model.conversion_report.new)
    assert torch.equal(model.amd.layers[1].mlp.fc1.weight, classifier.amd.layers[1].mlp.fc1.weight)


def test_encoder_alone_is_no_trained_classifier(classifier: AMDForVideoClassification, tmp_path: Path) -> None:
    torch.save(_encoder_alone(classifier, False), tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match="is no trained classifier"):
        load_trained_classifier(str(tmp_path / "encoder.pth"), **_GIVEN)


def test_head_is_kept_for_the_very_same_classes_only(classifier: AMDForVideoClassification, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    names = [classifier.config.id2label[number] for number in range(5)]
    same = build_classifier(str(tmp_path), names)
    assert torch.equal(same.classifier.weight, classifier.classifier.weight)
    other = build_classifier(str(tmp_path), [*names[:4], "another"])
    assert not torch.equal(other.classifier.weight, classifier.classifier.weight)
    assert other.classifier.weight.abs().max() < 1e-3


@pytest.mark.parametrize("num_channels", [1, 2, 4, 6])
def test_encoder_for_other_channels_treats_grey_clips_as_before(
    num_channels: int, classifier: AMDForVideoClassification, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    statistics = {"image_mean": [0.5] * num_channels, "image_std": [0.2] * num_channels}
    model = build_classifier(str(tmp_path), ["left", "right"], num_channels=num_channels, **statistics).eval()
    grey = torch.randn(2, 4, 1, 16, 24)
    torch.testing.assert_close(
        model.amd(grey.expand(-1, -1, num_channels, -1, -1)).last_hidden_state,
        classifier.amd(grey.expand(-1, -1, 3, -1, -1)).last_hidden_state,
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("changes", [{"num_frames": 8}, {"image_size": [24, 40]}])
def test_fine_tuning_at_another_size_keeps_the_encoder(
    changes: dict, classifier: AMDForVideoClassification, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    model = build_classifier(str(tmp_path), ["left", "right"], **changes)
    assert model.amd.embeddings.position.table.shape[0] == model.config.num_patches
    assert torch.equal(model.amd.layers[0].mlp.fc2.weight, classifier.amd.layers[0].mlp.fc2.weight)


def test_processor_that_normalises_otherwise_than_the_model_raises(
    classifier: AMDForVideoClassification, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    AMDVideoProcessor.for_model(classifier.config, sampling_rate=2).save_pretrained(tmp_path)
    assert load_processor(tmp_path, classifier.config).sampling_rate == 2
    AMDVideoProcessor.for_model(classifier.config, image_mean=[0.5, 0.5, 0.5]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`image_mean` is \[0.5, 0.5, 0.5\] in the processor"):
        load_processor(tmp_path, classifier.config)
    with pytest.raises(ValueError, match="`image_std`"):
        check_processor(AMDVideoProcessor.for_model(classifier.config, image_std=[1.0, 1.0, 1.0]), classifier.config)


# ---------------------------------------------------------------------------------------------------------------------
# Heads on encoders
# ---------------------------------------------------------------------------------------------------------------------


def test_new_head_on_a_pretrained_encoder(pretraining_model: AMDForPreTraining, tmp_path: Path) -> None:
    pretraining_model.save_pretrained(tmp_path)
    model = build_classifier(str(tmp_path), _NAMES, drop_path_rate=0.1)
    assert model.config.id2label == dict(enumerate(_NAMES))
    assert model.config.label2id == {name: number for number, name in enumerate(_NAMES)}
    assert model.classifier.weight.shape == (3, 32)
    assert model.config.drop_path_rate == 0.1
    for name, parameter in model.amd.named_parameters():
        assert torch.equal(parameter, pretraining_model.amd.get_parameter(name)), name


def test_new_head_in_place_of_one_with_other_labels(classifier: AMDForVideoClassification, tmp_path: Path) -> None:
    classifier.save_pretrained(tmp_path)
    model = build_classifier(str(tmp_path), _NAMES)
    assert model.classifier.weight.shape == (3, 32)
    assert model.classifier.weight.std().item() == pytest.approx(2e-5, rel=0.4)
    assert torch.equal(model.amd.layers[2].mlp.fc1.weight, classifier.amd.layers[2].mlp.fc1.weight)


def test_classifier_from_scratch() -> None:
    options = tiny_config().to_diff_dict()
    sizes = {name: options[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size")}
    model = build_classifier(None, _NAMES, patch_size=8, num_frames=4, **sizes)
    assert model.classifier.weight.shape == (3, 32)


def test_options_with_which_the_weights_do_not_fill_the_encoder_raise(
    pretraining_model: AMDForPreTraining, tmp_path: Path
) -> None:
    pretraining_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not fill the encoder: .* the first is amd\."):
        build_classifier(str(tmp_path), _NAMES, intermediate_size=64)
    with pytest.raises(ValueError, match=r"does not fill the encoder: .*amd\.layers\.3"):
        build_classifier(str(tmp_path), _NAMES, num_hidden_layers=4)


def test_misspelt_option_raises(pretraining_model: AMDForPreTraining, tmp_path: Path) -> None:
    pretraining_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="did you mean `drop_path_rate`"):
        build_classifier(str(tmp_path), _NAMES, drop_path=0.1)


def test_one_class_raises() -> None:
    with pytest.raises(ValueError, match=r"at least two classes, the data has \['left'\]"):
        build_classifier(None, ["left"])


def test_trained_classifier_is_loaded_in_eval_mode(
    classifier: AMDForVideoClassification, clips: torch.Tensor, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    model = load_trained_classifier(str(tmp_path))
    assert not model.training
    assert torch.equal(model(clips).logits, classifier(clips).logits)


def test_untrained_head_is_refused_unless_forced(pretraining_model: AMDForPreTraining, tmp_path: Path) -> None:
    pretraining_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no trained classifier: it holds a pre-trained encoder without a head"):
        load_trained_classifier(str(tmp_path))
    assert load_trained_classifier(str(tmp_path), allow_untrained_head=True).classifier.weight.shape == (5, 32)


def test_function_is_imported_by_name() -> None:
    assert import_function("math:sqrt")(9) == 3


@pytest.mark.parametrize(
    ("name", "message"), [("math.sqrt", "Name a function as `module:function`"), ("math:pi", "no function 'pi'")]
)
def test_name_of_no_function_raises(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_function(name)
