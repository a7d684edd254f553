"""Checks before a test: labels matched by name or refused, heads that were never trained."""

from __future__ import annotations

import logging

import datasets
import pytest
import torch

from amd_hf import AMDConfig, AMDForVideoClassification
from amd_hf.evaluation.checks import check_head_is_trained, match_labels
from tests.helpers.models import tiny_config


_NAMES = ["left", "right", "up"]


def _rows(labels: list[int | None], names: list[str] | None = None) -> datasets.Dataset:
    feature = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict({"label": labels}, features=datasets.Features({"label": feature}))


def _config(names: list[str]) -> AMDConfig:
    config = tiny_config(num_labels=len(names))
    config.id2label = dict(enumerate(names))
    return config


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("amd_hf.evaluation.checks")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("names", "numbers", "warning"),
    [
        (_NAMES, [0, 1, 2], ""),
        (["left", "right"], [0, 1], ""),
        (["left", "up", "right"], [0, 2, 1], "2 of the 3 classes of the data have another number in the model"),
        (["up", "left"], [2, 0], "the first is 'up' (0 in the data, 2 in the model)"),
    ],
)
def test_labels_are_matched_by_name_and_another_order_is_told(
    warnings: pytest.LogCaptureFixture, names: list[str], numbers: list[int], warning: str
) -> None:
    assert match_labels(_rows([0], names), _config(_NAMES)) == numbers
    assert warning in warnings.text
    assert bool(warnings.text) == bool(warning)


def test_numbers_without_names_are_taken_for_the_models_and_this_is_said(warnings: pytest.LogCaptureFixture) -> None:
    assert match_labels(_rows([0, 2]), _config(_NAMES)) == [0, 1, 2]
    assert "numbers without names" in warnings.text


@pytest.mark.parametrize("model_names", [["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "1", "2"]])
def test_model_without_names_is_taken_to_have_the_datas(
    warnings: pytest.LogCaptureFixture, model_names: list[str]
) -> None:
    assert match_labels(_rows([0], _NAMES), _config(model_names)) == [0, 1, 2]
    assert "does not name its classes" in warnings.text
    with pytest.raises(ValueError, match="The data has 2 classes with names, the model 3 without"):
        match_labels(_rows([0], _NAMES[:2]), _config(model_names))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (_rows([0], [*_NAMES, "down"]), "The data has 4 classes, the model only 3"),
        (_rows([3]), "The data has 4 classes, the model only 3"),
        (_rows([0], ["left", "Right"]), r"1 of the 2 classes .* unknown to the model \(it has 'right'\): 'Right'"),
        (_rows([0, None]), "The videos have no labels"),
    ],
)
def test_labels_that_are_not_the_models_raise(rows: datasets.Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_labels(rows, _config(_NAMES))


def test_head_is_refused_until_one_step_was_made() -> None:
    model = AMDForVideoClassification(tiny_config())
    with pytest.raises(ValueError, match="The classification head of here was never trained"):
        check_head_is_trained(model, "here")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    clips = torch.zeros(2, 4, 3, 16, 24, dtype=torch.uint8)
    model(clips, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    check_head_is_trained(model, "here")
