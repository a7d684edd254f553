"""Action detection, whole: data, boxes, training, evaluation, drawing.

`extend_boxes` and `score_submission` are here too; nothing is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # what `__getattr__` does at run time, for editors and type checkers
    from ..modeling_amd_detection import extend_boxes
    from .mean_average_precision import score_submission

_MODULES = {"extend_boxes": "..modeling_amd_detection", "score_submission": ".mean_average_precision"}

__all__ = ["extend_boxes", "score_submission"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
