"""Data path: from encoded videos to uint8 clips.

The order of use is `loading` (rows, one of `datasets/layouts`), `video` (a video source, and decoders to read it),
`clips` (which frames, augmented, and batches of them) and `loaders` (whose workers make the batches). `open_video` and
`evaluation_views` are here too;
nothing is imported until it is asked for, so that `import amd_hf` pulls in neither `datasets` nor a decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # what `__getattr__` does at run time, for editors and type checkers
    from .sampling import evaluation_views
    from .video.decoding import open_video

_MODULES = {"open_video": "video.decoding", "evaluation_views": "sampling"}

__all__ = ["evaluation_views", "open_video"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
