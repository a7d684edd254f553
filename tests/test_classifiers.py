"""Classifiers for one's own labels: new heads on old encoders, and no untrained head taken for a trained one."""

from __future__ import annotations

import logging
from pathlib import Path

import datasets
import pytest
import torch

from amd_hf import AMDConfig, AMDForPreTraining, AMDForVideoClassification
from amd_hf.classifiers import (
    build_classifier,
    check_labels_fit,
    import_function,
    label_names_of,
    load_trained_classifier,
)
from tests.helpers.models import tiny_config


_NAMES = ["left", "right", "up"]


def _rows(labels: list[int | None], names: list[str] | None = None) -> datasets.Dataset:
    feature = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict({"label": labels}, features=datasets.Features({"label": feature}))


# ---------------------------------------------------------------------------------------------------------------------
# Labels
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "names"), [(_rows([1, 0], _NAMES), _NAMES), (_rows([0, 3, 1]), ["0", "1", "2", "3"])]
)
def test_label_names_come_from_the_data(rows: datasets.Dataset, names: list[str]) -> None:
    assert label_names_of(rows) == names


@pytest.mark.parametrize("labels", [[], [0, None]])
def test_rows_without_labels_raise(labels: list[int | None]) -> None:
    with pytest.raises(ValueError, match="The videos have no labels"):
        label_names_of(_rows(labels))


def _named_config(names: list[str]) -> AMDConfig:
    config = tiny_config(num_labels=len(names))
    config.id2label = dict(enumerate(names))
    return config


@pytest.mark.parametrize(
    ("rows", "names"),
    [(_rows([0, 2], _NAMES), _NAMES), (_rows([0, 2]), _NAMES), (_rows([0, 1]), _NAMES)],
)
def test_labels_that_fit_are_accepted(rows: datasets.Dataset, names: list[str]) -> None:
    check_labels_fit(rows, _named_config(names))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (_rows([0], ["left", "up", "right"]), "class 1 is 'up' in the data and 'right' in the model"),
        (_rows([0], ["left", "right"]), "class 2 is missing in the data and 'up' in the model"),
        (_rows([0], [*_NAMES, "down"]), "The data has 4 classes, the model only 3"),
        (_rows([3]), "The data has 4 classes, the model only 3"),
    ],
)
def test_labels_that_do_not_fit_raise(rows: datasets.Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels_fit(rows, _named_config(_NAMES))


def test_model_without_names_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("amd_hf.classifiers")
    logger.addHandler(caplog.handler)
    try:
        check_labels_fit(_rows([0], _NAMES), tiny_config(num_labels=3))
    finally:
        logger.removeHandler(caplog.handler)
    assert "does not name its classes" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Building and loading
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
