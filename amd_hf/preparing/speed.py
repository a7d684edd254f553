"""How fast the package's own loader reads videos, before and after they were prepared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..data.clips import ClipLoader
from .planning import Item


def clips_per_second(videos: Sequence[tuple[Item, Any]]) -> float:
    """Return how many clips of pre-training a core loads a second: 16 frames at stride 4, cropped to 224 pixels.

    CPU seconds are counted, so that other work on the machine does not matter.

    Args:
        videos (sequence of pairs): a video, for its id, and where it lies, as `open_video` takes it.
    """
    loader = ClipLoader(num_frames=16, sampling_rate=4, image_size=224)
    rows = [{"video": video, "label": None, "video_id": item.video_id} for item, video in videos]
    loader.load(rows[0])  # imports, first allocations
    started = time.process_time()
    for row in rows:
        loader.load(row)
    return len(rows) / max(time.process_time() - started, 1e-9)


__all__ = ["clips_per_second"]
