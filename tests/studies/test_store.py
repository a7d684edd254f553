"""Results in files: computed once, again where one is deleted, whole or not at all."""

from __future__ import annotations

import json

import pytest
from filelock import FileLock

from amd_hf.errors import RunStopped
from studies.grid import Stage
from studies.store import StageStore, remove_work


_DATA = Stage("data", '{"seed": 1}')
_MODEL = Stage("model", '{"width": 3}', (_DATA,))


@pytest.fixture
def calls():
    return []


@pytest.fixture
def make_store(tmp_path, calls):
    """A store whose data are a file and whose models add up what is in it."""

    def make(fail: bool = False):
        def write_data(stage, folder, inputs):
            calls.append(stage.kind)
            (folder / "numbers").write_text("1 2 3")
            return {}

        def train(stage, folder, inputs):
            calls.append(stage.kind)
            (folder / "half").write_text("x")
            if fail:
                raise KeyboardInterrupt
            return {"sum": sum(map(int, (inputs["data"] / "numbers").read_text().split()))}

        return StageStore(tmp_path, {"data": write_data, "model": train})

    return make


def test_each_stage_is_computed_once(make_store, calls):
    store = make_store()
    assert store.find(_MODEL) is None
    assert [store.result(_MODEL)["sum"] for _ in range(2)] == [6, 6]
    assert make_store().find(_MODEL)["sum"] == 6
    assert calls == ["data", "model"]


def test_a_deleted_result_comes_back(make_store, calls, tmp_path):
    make_store().result(_MODEL)
    path = tmp_path / "results" / f"{_MODEL.key}.json"
    assert json.loads(path.read_text())["settings"] == {"width": 3}
    path.unlink()
    assert make_store().result(_MODEL)["sum"] == 6
    assert calls == ["data", "model", "model"]


def test_missing_files_of_an_input_are_made_again_and_its_result_kept(make_store, calls, tmp_path):
    make_store().result(_MODEL)
    before = (tmp_path / "results" / f"{_DATA.key}.json").read_bytes()
    (tmp_path / "work" / _DATA.key / "numbers").unlink()
    (tmp_path / "work" / _DATA.key).rmdir()
    (tmp_path / "results" / f"{_MODEL.key}.json").unlink()
    assert make_store().result(_MODEL)["sum"] == 6
    assert calls == ["data", "model", "data", "model"]
    assert (tmp_path / "results" / f"{_DATA.key}.json").read_bytes() == before


def test_what_was_interrupted_counts_for_nothing(make_store, calls):
    with pytest.raises(KeyboardInterrupt):
        make_store(fail=True).result(_MODEL)
    store = make_store()
    assert store.find(_MODEL) is None
    assert store.result(_MODEL)["sum"] == 6
    assert calls == ["data", "model", "model"]


def test_a_stage_that_another_process_computes_is_left_to_it(make_store, calls, tmp_path):
    store = make_store()
    assert not store.is_ready(_MODEL)
    assert store.compute_if_free(_DATA)
    assert store.is_ready(_MODEL)
    with FileLock(tmp_path / "locks" / f"{_MODEL.key}.lock"):
        assert not store.compute_if_free(_MODEL)
    assert store.find(_MODEL) is None
    assert store.compute_if_free(_MODEL)
    assert store.compute_if_free(_MODEL)  # done meanwhile by another, as it were
    assert store.find(_MODEL)["sum"] == 6
    assert calls == ["data", "model"]


def test_folder_in_the_way_that_no_study_made_is_left(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("mine")
    with pytest.raises(RunStopped, match="not made by a study"):
        remove_work(tmp_path / "work")
    assert (tmp_path / "work" / "thesis.tex").read_text() == "mine"
