"""Pictures that any program may draw, and the figure that all of them start from.

Needs matplotlib (`pip install "amd_hf[plots]"`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: `pip install "amd_hf[plots]"`.') from error
    return Figure(figsize=(width, height), layout="constrained")  # without pyplot: no display, no global state


def plot_losses(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Draw every `loss...` entry of one or more Trainer log histories over the steps, one panel per run.

    Args:
        histories (`Mapping[str, Sequence[Mapping]]`): Title of a panel -> `trainer.state.log_history`.
        path (`str` or `Path`): Where the PNG goes.

    Raises:
        ValueError: If a history holds no training loss.
    """
    figure = new_figure(4.2 * len(histories), 3.4)
    for panel, (title, history) in enumerate(histories.items(), start=1):
        entries = [entry for entry in history if "loss" in entry]
        if not entries:
            raise ValueError(f"The log of {title!r} holds no training loss.")
        axes = figure.add_subplot(1, len(histories), panel)
        parts = sorted({name for entry in entries for name in entry if name.startswith("loss_")}) or ["loss"]
        for name in parts:
            steps, values = zip(*((entry["step"], entry[name]) for entry in entries if name in entry), strict=True)
            axes.plot(steps, values, label=name.removeprefix("loss_"))
        axes.set(title=title, xlabel="step", yscale="log" if len(parts) > 1 else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    return Path(path)


__all__ = ["new_figure", "plot_losses"]
