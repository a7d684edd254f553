"""A grid of arms and seeds, read from YAML, as stages that depend on each other; equal stages are one stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amd_hf.options.recipe_files import read_options


LABELLED_SPLITS = ("train", "tuning", "validation")


@dataclass(frozen=True)
class Stage:
    """One thing to compute: data, a pre-training, a fine-tuning or a probe.

    Args:
        kind (`str`): `unlabelled` or `labelled` (data), `teacher`, `student`, `finetune` or `probe`.
        settings (`str`): All that decides the outcome beside `inputs`, as JSON with sorted keys.
        inputs (`tuple` of `Stage`): What must be computed before.
    """

    kind: str
    settings: str
    inputs: tuple[Stage, ...] = ()

    @property
    def key(self) -> str:
        """Return the stage's name in files: a hash of its settings and of those of everything before it."""
        text = json.dumps([self.kind, self.settings, [stage.key for stage in self.inputs]])
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def input(self, kind: str) -> Stage | None:
        """Return the input of that kind, if there is one."""
        return next((stage for stage in self.inputs if stage.kind == kind), None)


@dataclass(frozen=True)
class Arm:
    """What one arm of a grid changes. Mappings are options over the grid's recipes, `None` leaves the stage out.

    Args:
        title (`str`): Stands in tables and pictures.
        data, finetune (`Mapping`): Changes of the data set and of the fine-tuning recipe.
        teacher, student (`Mapping`, *optional*): Changes of the pre-training recipes; no teacher: masked autoencoding;
            no student: trained from scratch.
        curve (`str`, *optional*): Arms of one curve are joined in a picture over `x`.
        x (`float`, *optional*): Where on the curve.
    """

    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] | None = field(default_factory=dict)
    student: Mapping[str, Any] | None = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    curve: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class Grid:
    """A study: see `configs/ablations/` for examples and `docs/evidence.md` for what each part means."""

    title: str
    seeds: Sequence[int]
    data: Mapping[str, Any]
    recipes: Mapping[str, Mapping[str, Any]]
    learning_rates: Sequence[float]
    arms: Mapping[str, Arm]
    comparisons: Sequence[tuple[str, str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    x_label: str = ""

    def fine_tunings(self, arm: str, seed: int) -> list[Stage]:
        """Return the fine-tunings of an arm: one for each learning rate of the grid."""
        chosen = self.arms[arm]
        data, student = self._labelled(chosen, seed), self.student(arm, seed)
        model = {} if student else self._merged("student", chosen.student or {}, seed)["model"]
        found = []
        for rate in self.learning_rates:
            settings = self._merged("finetune", {**chosen.finetune, "base_learning_rate": rate}, seed)
            settings["model"] = model | settings["model"]
            found.append(_stage("finetune", settings, data, student))
        return found

    def probe(self, arm: str, seed: int) -> Stage:
        """Return the linear probe on the frozen encoder of an arm; of untrained weights for an arm from scratch."""
        student, settings = self.student(arm, seed), self._merged("student", self.arms[arm].student or {}, seed)
        kept = {} if student else {"model": settings["model"]}
        return _stage("probe", {"seed": seed, **kept}, self._labelled(self.arms[arm], seed), student)

    def student(self, arm: str, seed: int) -> Stage | None:
        """Return the pre-training of an arm's student; `None` from scratch."""
        chosen = self.arms[arm]
        if chosen.student is None:
            return None
        data = self._unlabelled(seed)
        teacher = None
        changes = {"model.teacher_hidden_size": None, **chosen.student} if chosen.teacher is None else chosen.student
        if chosen.teacher is not None:
            teacher = _stage("teacher", self._merged("teacher", chosen.teacher, seed), data)
        return _stage("student", self._merged("student", changes, seed), data, teacher)

    def stages(self) -> list[Stage]:
        """Return everything to compute, each stage once and after what it needs; seed by seed."""
        found: dict[str, Stage] = {}

        def add(stage: Stage) -> None:
            for needed in stage.inputs:
                add(needed)
            found.setdefault(stage.key, stage)

        for seed in self.seeds:
            for arm in self.arms:
                for stage in (*self.fine_tunings(arm, seed), self.probe(arm, seed)):
                    add(stage)
        return list(found.values())

    def _labelled(self, arm: Arm, seed: int) -> Stage:
        settings = {name: value for name, value in {**self.data, **arm.data}.items() if name != "unlabelled"}
        return _stage("labelled", {**settings, "seed": seed})

    def _unlabelled(self, seed: int) -> Stage:
        """Return the clips that all models of a seed learn from: an arm changes its labelled data alone."""
        settings = {name: value for name, value in self.data.items() if name not in LABELLED_SPLITS}
        return _stage("unlabelled", {**settings, "seed": seed})

    def _merged(self, recipe: str, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
        merged = {**self.recipes[recipe], "model": dict(self.recipes[recipe].get("model", {})), "seed": seed}
        for name, value in changes.items():
            if name.startswith("model."):
                merged["model"][name.removeprefix("model.")] = value
            else:
                merged[name] = value
        return merged


def _stage(kind: str, settings: Mapping[str, Any], *inputs: Stage | None) -> Stage:
    return Stage(kind, json.dumps(settings, sort_keys=True), tuple(stage for stage in inputs if stage is not None))


def read_grid(path: str | Path, changes: Mapping[str, Any] | None = None, num_seeds: int | None = None) -> Grid:
    """Read a grid from YAML.

    Args:
        path (`str` or `Path`): The file. Recipes in it are paths as seen from it. `based_on` names a grid beside it
            whose options it takes where it has none of its own.
        changes (`Mapping`, *optional*): Options that replace those of every recipe, for a quick trial.
        num_seeds (`int`, *optional*): Only so many of its seeds.

    Raises:
        FileNotFoundError: If the file or one of its recipes is not there.
        ValueError: If it has keys that a grid or an arm does not have, lacks some, or compares arms that it lacks.
    """
    path = Path(path)
    content = read_options(path, "grid")
    if "based_on" in content:
        base = path.parent / content.pop("based_on")
        content = read_options(base, f"grid that {path} is based on:") | content
    _check_keys(path, "the grid", content, Grid)
    arms = {}
    for name, options in content["arms"].items():
        _check_keys(path, f"the arm {name!r}", options, Arm)
        arms[name] = Arm(**options)
    comparisons = [(first, second) for first, second in content["comparisons"]]
    if unknown := {name for pair in comparisons for name in pair} - set(arms):
        raise ValueError(f"{path} compares arms that it does not have: {', '.join(sorted(unknown))}.")
    recipes = {}
    for kind in ("teacher", "student", "finetune"):
        recipe = read_options(path.parent / content["recipes"][kind], f"recipe that {path} names:")
        recipes[kind] = recipe | content.get("options", {}) | dict(changes or {})
    seeds = content["seeds"][:num_seeds]
    return Grid(**{**content, "seeds": seeds, "arms": arms, "comparisons": comparisons, "recipes": recipes})


def _check_keys(path: Path, what: str, given: Any, kind: type) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{path}: {what} must be a mapping of options, it is a {type(given).__name__}.")
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := sorted(set(given) - set(fields)):
        raise ValueError(f"{path}: {what} has unknown option(s) {', '.join(unknown)}; known: {', '.join(fields)}.")
    required = {n for n, f in fields.items() if f.default is f.default_factory}  # both are MISSING
    if missing := sorted(required - set(given)):
        raise ValueError(f"{path}: {what} lacks {', '.join(missing)}.")


__all__ = ["Arm", "Grid", "Stage", "read_grid"]
