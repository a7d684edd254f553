"""Grids: what is shared between arms, what makes a stage another one, what is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from studies.grid import read_grid
from tests.helpers.training import ROOT


_GRIDS = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))


@pytest.fixture
def write_grid(tmp_path):
    """Writes a grid of two arms with tiny recipes beside it; takes changes."""

    def write(**changes):
        for name in ("teacher", "student", "finetune"):
            model = {} if name == "finetune" else {"model": {"hidden_size": 8, "teacher_hidden_size": 16}}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**model, "max_steps": 10}))
        grid = {
            "title": "A trial",
            "seeds": [1, 2],
            "data": {"source": "motion_shapes", "unlabelled": 8, "train": 4, "tuning": 4, "validation": 4},
            "recipes": {name: f"{name}.yaml" for name in ("teacher", "student", "finetune")},
            "learning_rates": [0.1, 0.2],
            "arms": {
                "distilled": {"title": "distilled"},
                "alone": {"title": "alone", "teacher": None},
                "scratch": {"title": "from scratch", "student": None},
            },
            "comparisons": [["distilled", "alone"]],
        }
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({**grid, **changes}))
        return path

    return write


def _kinds(grid):
    return [stage.kind for stage in grid.stages()]


def test_equal_stages_are_one_and_stand_after_what_they_need(write_grid):
    grid = read_grid(write_grid())
    kinds = _kinds(grid)
    # For each seed: two data sets, one teacher, two students, and of each arm two fine-tunings and a probe.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "unlabelled": 2, "labelled": 2, "teacher": 2, "student": 4, "finetune": 12, "probe": 6,
    }  # fmt: skip
    seen = set()
    for stage in grid.stages():
        assert all(needed.key in seen for needed in stage.inputs)
        seen.add(stage.key)


def test_an_arm_without_a_teacher_has_no_heads_for_one(write_grid):
    grid = read_grid(write_grid())
    alone, distilled = (json.loads(grid.student(arm, 1).settings)["model"] for arm in ("alone", "distilled"))
    assert alone == {"hidden_size": 8, "teacher_hidden_size": None}
    assert distilled == {"hidden_size": 8, "teacher_hidden_size": 16}
    assert grid.student("alone", 1).input("teacher") is None
    assert grid.student("scratch", 1) is None


def test_more_labels_change_the_labelled_data_alone(write_grid):
    arms = {
        "few": {"title": "few"},
        "many": {"title": "many", "data": {"train": 8}},
    }
    grid = read_grid(write_grid(arms=arms, comparisons=[]))
    few, many = (grid.fine_tunings(arm, 1)[0] for arm in arms)
    assert few.input("student") == many.input("student")
    assert few.input("labelled") != many.input("labelled")
    assert few.key != many.key


def test_key_follows_every_setting_before_it(write_grid):
    path = write_grid()
    before = {stage.key for stage in read_grid(path).stages()}
    assert before == {stage.key for stage in read_grid(path).stages()}
    (path.parent / "teacher.yaml").write_text("max_steps: 11\nmodel: {hidden_size: 8}\n")
    changed = [stage for stage in read_grid(path).stages() if stage.key not in before]
    # The teacher, who learns from it, and what is made of that student; nothing else.
    assert sorted(stage.kind for stage in changed) == sorted(
        2 * ["teacher", "student", "finetune", "finetune", "probe"]
    )


def test_a_grid_takes_what_it_lacks_from_the_one_it_is_based_on(write_grid, tmp_path):
    base = read_grid(write_grid())
    arms = {"distilled": {"title": "distilled"}, "longer": {"title": "longer", "student": {"max_steps": 20}}}
    content = {"based_on": "grid.yaml", "title": "Another", "arms": arms, "comparisons": [["longer", "distilled"]]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    other = read_grid(tmp_path / "other.yaml")
    assert (other.title, other.seeds, list(other.arms)) == ("Another", base.seeds, ["distilled", "longer"])
    assert other.student("distilled", 1) == base.student("distilled", 1)
    (tmp_path / "other.yaml").write_text("based_on: nothing.yaml")
    with pytest.raises(FileNotFoundError, match=r"is based on: .*nothing\.yaml"):
        read_grid(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "unknown option.*seed"),
        ({"arms": {"a": {"title": "a", "techer": {}}}}, "arm 'a' has unknown option.*techer"),
        ({"arms": {"a": {}}}, "arm 'a' lacks title"),
        ({"comparisons": [["distilled", "nobody"]]}, "does not have: nobody"),
        ({"arms": {"a": "distilled"}}, "arm 'a' must be a mapping"),
    ],
)
def test_bad_grids_are_refused(write_grid, changes, message):
    with pytest.raises(ValueError, match=message):
        read_grid(write_grid(**changes))


def test_missing_files_are_named(write_grid, tmp_path):
    with pytest.raises(FileNotFoundError, match="no grid"):
        read_grid(tmp_path / "nothing.yaml")
    recipes = {"teacher": "gone.yaml", "student": "student.yaml", "finetune": "finetune.yaml"}
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        read_grid(write_grid(recipes=recipes))


@pytest.mark.parametrize("path", _GRIDS, ids=lambda path: path.stem)
def test_grids_of_the_project_can_be_read(path):
    grid = read_grid(path)
    assert len(grid.stages()) > len(grid.seeds)
    assert len(set(grid.seeds)) == len(grid.seeds) >= 3
