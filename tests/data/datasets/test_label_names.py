"""Names of classes: those of a dataset, and whether they mean to a model what they mean in the data."""

from __future__ import annotations

import logging

import datasets
import pytest

from amd_hf import AMDConfig
from amd_hf.data.datasets.label_names import check_labels_fit, label_names_of
from tests.helpers.models import tiny_config


_NAMES = ["left", "right", "up"]


def _rows(labels: list[int | None], names: list[str] | None = None) -> datasets.Dataset:
    feature = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict({"label": labels}, features=datasets.Features({"label": feature}))


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
    logger = logging.getLogger("amd_hf.data.datasets.label_names")
    logger.addHandler(caplog.handler)
    try:
        check_labels_fit(_rows([0], _NAMES), tiny_config(num_labels=3))
    finally:
        logger.removeHandler(caplog.handler)
    assert "does not name its classes" in caplog.text
