"""benchmarks/scale.py: what it makes up can be read, and what it measures is done whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest

from tests.helpers.warm import ROOT


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_made_up_data_are_read_whole(scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert scale.read_pass(str(scale.make_tars(tmp_path, 3))) == 6
    assert scale.read_pass(str(scale.make_parquet(tmp_path, 10, 2))) == 10
    assert scale.start(str(scale.make_parquet(tmp_path, 1500, 1000))) == 1500
    assert scale.start(str(scale.make_list(tmp_path, 20, ".txt"))) == 20
    assert scale.start(str(scale.make_list(tmp_path, 20, ".csv"))) == 20
    assert scale.start(str(scale.make_folders(tmp_path, 410))) == 410
    assert scale.write_logits("3") == 3


def test_exponent_is_the_power_that_costs_grow_with(scale: Any) -> None:
    assert scale.exponent([10, 100, 1000], [0.3, 30, 3000]) == pytest.approx(2)
