"""Action detection, whole: data, boxes, training, evaluation, drawing.

`extend_boxes` and `score_submission` are here too; nothing is imported until it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # what `__getattr__` does at run time, for editors and type checkers
    from ..modeling_amd_detection import extend_boxes
    from .scores import score_submission

_PLACES = {"extend_boxes": "..modeling_amd_detection", "score_submission": ".scores"}

__all__ = ["extend_boxes", "score_submission"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name], __name__), name)
