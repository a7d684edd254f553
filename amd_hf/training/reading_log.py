"""Keeps count of videos that cannot be read: each named once, the run stopped when they are too many."""

from __future__ import annotations

from collections.abc import Iterable

from transformers.utils import logging

from ...errors import RunStopped


logger = logging.get_logger(__name__)

_MIN_TRIED = 100  # judged from here on: one bad file among the first ten is not yet a share


class ReadingLog:
    """Videos tried and found unreadable in training, over all processes.

    Args:
        max_share (`float`): Largest share of unreadable videos that is borne, judged after 100 tried.
    """

    def __init__(self, max_share: float):
        self.max_share = max_share
        self.num_tried = 0
        self.num_unreadable = 0
        self.reasons: dict[str, str] = {}

    def name(self, unreadable: Iterable[tuple[str, str]]) -> None:
        """Logs (video_id, reason) pairs, each video once."""
        for video_id, reason in unreadable:
            if video_id not in self.reasons:
                self.reasons[video_id] = reason
                logger.warning(f"Skipping unreadable video {video_id}: {reason}")

    def count(self, num_tried: int, num_unreadable: int) -> None:
        """Adds counts of all processes.

        Raises:
            RunStopped: If too large a share cannot be read.
        """
        self.num_tried += num_tried
        self.num_unreadable += num_unreadable
        if self.num_tried >= _MIN_TRIED and self.num_unreadable > self.max_share * self.num_tried:
            examples = "; ".join(f"{video_id} ({reason})" for video_id, reason in list(self.reasons.items())[:5])
            raise RunStopped(
                f"{self.num_unreadable} of {self.num_tried} videos tried cannot be read, more than "
                f"`max_unreadable_share` {self.max_share:.2%} allows. For example: {examples}. "
                "Repair or remove these files, or raise the share if you can do without them."
            )

    def summary(self) -> dict[str, int]:
        """What to log: nothing while every video could be read."""
        return {"unreadable_videos": self.num_unreadable} if self.num_unreadable else {}
