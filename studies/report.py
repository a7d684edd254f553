"""The outcome of a study: one table of arms, one of comparisons, and pictures; always of all arms and seeds."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amd_hf.hub.cards import escape_markdown
from amd_hf.outputs.files import OutputFiles
from studies.estimates import Interval, mean_interval, paired_difference
from studies.grid import Grid
from studies.store import StageStore


MEASURES = {"accuracy": "fine-tuned", "probe": "linear probe"}


@dataclass(frozen=True)
class ArmOutcome:
    """What an arm reached, seed by seed."""

    accuracy: list[float]
    probe: list[float]
    learning_rates: list[float]
    student_seconds: list[float]
    teacher_seconds: list[float]
    similarity: list[float]


def collect(grid: Grid, store: StageStore) -> dict[str, ArmOutcome]:
    """Results of all arms. Of each arm and seed the learning rate that does best on the tuning split counts."""
    return {arm: _outcome(grid, arm, store) for arm in grid.arms}


def _outcome(grid: Grid, arm: str, store: StageStore) -> ArmOutcome:
    outcome = ArmOutcome([], [], [], [], [], [])
    for seed in grid.seeds:
        tried = [store.result(stage) for stage in grid.fine_tunings(arm, seed)]
        best = max(range(len(tried)), key=lambda place: tried[place]["tuning"])
        outcome.accuracy.append(tried[best]["validation"])
        outcome.learning_rates.append(grid.learning_rates[best])
        outcome.probe.append(store.result(grid.probe(arm, seed))["accuracy"])
        student = grid.student(arm, seed)
        if student is None:
            continue
        found = store.result(student)
        outcome.student_seconds.append(found["seconds"])
        alike = [value for name, value in found.items() if name.startswith("cka_")]
        outcome.similarity.extend(alike[-1:])
        teacher = student.input("teacher")
        if teacher is not None:
            outcome.teacher_seconds.append(store.result(teacher)["seconds"])
    return outcome


def report_files(folder: Path, overwrite: bool = False) -> OutputFiles:
    """Return the files of a report; see there for what is refused."""
    names = ("report.md", "report.json", "accuracy.png", "curves.png")
    return OutputFiles([folder / name for name in names], "ablate.py", overwrite, folder=folder)


def write_report(grid: Grid, store: StageStore, folder: Path, overwrite: bool = False) -> str:
    """Write the report of a grid: its tables, its figures, and pictures of them where matplotlib is installed.

    Args:
        grid (`Grid`): The study.
        store (`StageStore`): Holds its results, or computes them.
        folder (`Path`): Where `report.md`, `report.json`, `accuracy.png` and, for sweeps, `curves.png` go.
        overwrite (`bool`): Replace files of these names that were not written here, or were changed since.

    Returns:
        `str`: The text of `report.md`.
    """
    outputs = report_files(folder, overwrite)
    outcomes = collect(grid, store)
    with outputs:
        return _write(grid, outcomes, folder)


def _write(grid: Grid, outcomes: dict[str, ArmOutcome], folder: Path) -> str:
    text = (
        f"# {escape_markdown(grid.title)}\n\n{_arms_table(grid, outcomes)}\n\n{_comparisons_table(grid, outcomes)}\n"
    )
    (folder / "report.md").write_text(text, encoding="utf-8")
    content: dict[str, Any] = {"title": grid.title, "seeds": list(grid.seeds), "arms": {}}
    for name, outcome in outcomes.items():
        content["arms"][name] = {"title": grid.arms[name].title, **vars(outcome)}
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        _draw_bars(grid, outcomes, folder / "accuracy.png")
        if any(arm.curve for arm in grid.arms.values()):
            _draw_curves(grid, outcomes, folder / "curves.png")
    return text


def _arms_table(grid: Grid, outcomes: Mapping[str, ArmOutcome]) -> str:
    lines = [
        f"{len(grid.seeds)} seeds; mean and 95% interval, in percent of the validation clips; seconds are means.",
        "",
        "| arm | fine-tuned | linear probe | CKA with the teacher | student's pre-training | teacher's |",
        "|---|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        cells = [
            escape_markdown(grid.arms[name].title),
            _percent(mean_interval(outcome.accuracy)),
            _percent(mean_interval(outcome.probe)),
            f"{mean_interval(outcome.similarity).mean:.2f}" if outcome.similarity else "-",
            *(
                f"{mean_interval(s).mean:.0f} s" if s else "-"
                for s in (outcome.student_seconds, outcome.teacher_seconds)
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _comparisons_table(grid: Grid, outcomes: Mapping[str, ArmOutcome]) -> str:
    lines = [
        "Differences seed by seed, in percentage points: mean and 95% interval.",
        "",
        f"| comparison | {' | '.join(MEASURES.values())} | seeds in which the first is better (fine-tuned) |",
        "|---" * (len(MEASURES) + 2) + "|",
    ]
    for first, second in grid.comparisons:
        titles = (escape_markdown(grid.arms[name].title) for name in (first, second))
        cells = [" - ".join(titles)]
        for measure in MEASURES:
            pair = getattr(outcomes[first], measure), getattr(outcomes[second], measure)
            cells.append(_percent(paired_difference(*pair), signed=True))
        pairs = zip(outcomes[first].accuracy, outcomes[second].accuracy, strict=True)
        cells.append(f"{sum(a > b for a, b in pairs)} of {len(grid.seeds)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(found: Interval, signed: bool = False) -> str:
    form = "{:+.1f}" if signed else "{:.1f}"
    mean, low, high = (form.format(100 * value) for value in (found.mean, found.low, found.high))
    return mean if found.count < 2 else f"{mean} [{low}, {high}]"


def _draw_bars(grid: Grid, outcomes: Mapping[str, ArmOutcome], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.5 * len(outcomes)), layout="constrained")
    axes = figure.add_subplot()
    for shift, (measure, title) in zip((-0.2, 0.2), MEASURES.items(), strict=True):
        found = [mean_interval(getattr(outcome, measure)) for outcome in outcomes.values()]
        places = [place + shift for place in range(len(found))]
        half = [0.0 if one.count < 2 else 100 * (one.high - one.mean) for one in found]
        axes.barh(places, [100 * one.mean for one in found], 0.38, xerr=half, label=title, capsize=2)
        for place, outcome in zip(places, outcomes.values(), strict=True):
            values = [100 * value for value in getattr(outcome, measure)]
            axes.plot(values, [place] * len(values), "k.", markersize=3)
    axes.set_yticks(range(len(outcomes)), [grid.arms[name].title for name in outcomes], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on the validation clips, %\nbars: mean and 95% interval; dots: seeds", xlim=(0, 100))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=2)
    figure.savefig(path, dpi=130)


def _draw_curves(grid: Grid, outcomes: Mapping[str, ArmOutcome], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    curves = {arm.curve for arm in grid.arms.values() if arm.curve}
    for curve in sorted(curves):
        points = sorted((arm.x or 0.0, name) for name, arm in grid.arms.items() if arm.curve == curve)
        found = [mean_interval(outcomes[name].accuracy) for _, name in points]
        half = [0.0 if one.count < 2 else 100 * (one.high - one.mean) for one in found]
        axes.errorbar(
            [x for x, _ in points], [100 * one.mean for one in found], half, marker="o", capsize=3, label=curve
        )
    axes.set(xlabel=grid.x_label, ylabel="fine-tuned accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


__all__ = ["ArmOutcome", "collect", "write_report"]
