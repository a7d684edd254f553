"""Accuracies as `evaluate.Metric` subclasses: no network, one process or several; no prediction counts as wrong.

metric = TopKAccuracy()                                                      # one process
metric = TopKAccuracy(num_process=2, process_id=rank, experiment_id="run")   # several, over a shared disk
metric.add_batch(predictions=[[3, 0], []], references=[3, 1])
metric.compute(k=[1, 5])                                                     # on process 0; None elsewhere
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np


def _import_evaluate() -> Any:
    """Import the library `evaluate`, even if the running program has an `evaluate.py` beside it.

    Raises:
        ImportError: If another module of that name is loaded already.
    """
    if "evaluate" not in sys.modules:
        # Find the package of that name behind any file `evaluate.py`; the search path does not change.
        folders = [folder for folder in sys.path if not os.path.isfile(os.path.join(folder, "evaluate.py"))]
        spec = importlib.machinery.PathFinder.find_spec("evaluate", folders)
        if spec is None or spec.loader is None:
            raise ImportError("The library `evaluate` is not installed: `pip install evaluate`.")
        sys.modules["evaluate"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["evaluate"])
    loaded = sys.modules["evaluate"]
    if not hasattr(loaded, "Metric"):
        raise ImportError(
            f"The module `evaluate` that is loaded, {getattr(loaded, '__file__', None)}, is not the library of that "
            "name, which is needed here. Rename it or import it under another name."
        )
    return loaded


evaluate: Any = _import_evaluate()
_Metric: Any = evaluate.Metric  # untyped

_INPUTS = """
Args:
    predictions: per video its likeliest classes, best first: all of them, or as many as are to be looked at. An empty
        list, as for a video that cannot be read, counts as wrong.
    references: per video the number of its class.
"""


def likeliest_classes(scores: np.ndarray, count: int = 5) -> list[int]:
    """Return the `count` classes with the highest scores, best first; of equal scores the lower index comes first.

    Args:
        scores (`np.ndarray` of shape (classes,)): The higher the likelier.
        count (`int`, *optional*, defaults to 5): Number of classes to return, or all if there are fewer.

    Raises:
        ValueError: If a score is NaN, which has no place in an order.
    """
    if np.isnan(scores).any():
        raise ValueError("A score is not a number (NaN): there is no order.")
    # Stable, so that the order of equal scores is the same on every machine.
    return np.argsort(-scores, kind="stable")[:count].tolist()


class _RankingMetric(_Metric):
    """The inputs of both metrics."""

    _description = ""

    def _info(self) -> Any:
        # Lists of any length: `evaluate` writes them to an Arrow file, in which an empty list must fit too.
        features = {"predictions": datasets.Sequence(datasets.Value("int64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self._description,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )


class TopKAccuracy(_RankingMetric):
    """Fraction of the videos whose label is among their `k` likeliest classes.

    `compute(k=[1, 5])` gives `top1_accuracy` and `top5_accuracy`, in [0, 1].
    """

    _description = "Fraction of the videos whose label is among their k likeliest classes."

    def _compute(
        self, predictions: Sequence[Sequence[int]], references: Sequence[int], k: Sequence[int] = (1, 5)
    ) -> dict[str, float]:
        # The list of an unreadable video is empty: it never holds the label, but counts in the divisor.
        pairs = list(zip(predictions, references, strict=True))
        return {
            f"top{count}_accuracy": sum(label in ranked[:count] for ranked, label in pairs) / len(pairs) for count in k
        }


class MeanClassAccuracy(_RankingMetric):
    """Mean of the per-class accuracies: `mean_class_accuracy`, in [0, 1].

    Classes without a video are left out.
    """

    _description = "Mean over the classes of the fraction of their videos that are classified rightly."

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[int]) -> dict[str, float]:
        labels = np.asarray(references)
        is_right = np.array([label in ranked[:1] for ranked, label in zip(predictions, references, strict=True)])
        # `unique` gives the classes that occur: the mean of one without videos would be NaN, and so would all.
        of_classes = [is_right[labels == label].mean() for label in np.unique(labels)]
        return {"mean_class_accuracy": float(np.mean(of_classes))}


__all__ = ["MeanClassAccuracy", "TopKAccuracy", "likeliest_classes"]
