"""Data options of the commands for action detection: the arguments of `load_action_dataset`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from ..data.datasets.problems import Problems
from .datasets.action_videos import LAYOUTS
from .datasets.ava import MIN_PERSON_SCORE, load_action_dataset, validate_action_annotations
from .datasets.ava_files import read_action_list


@dataclass
class ActionDataArguments:
    """The videos and their annotations (docs/detection.md)."""

    annotations: str | None = field(
        default=None, metadata={"help": "csv of boxes and their actions, in the format of ava_train_v2.2.csv."}
    )
    video_root: str | None = field(
        default=None, metadata={"help": "Folder of the videos: files, or folders of one-second pieces or of frames."}
    )
    action_list: str | None = field(
        default=None,
        metadata={"help": ".pbtxt list of all actions, for AVA the one with 80. Action i is class i - 1."},
    )
    scored_action_list: str | None = field(
        default=None,
        metadata={"help": ".pbtxt list of the actions that the mAP counts, for AVA the one with 60; by default all."},
    )
    excluded: str | None = field(default=None, metadata={"help": "csv of the key frames to leave out."})
    person_boxes: str | None = field(
        default=None,
        metadata={"help": "csv or JSON of a person detector's boxes to test on; by default the annotated boxes."},
    )
    min_person_score: float = field(
        default=MIN_PERSON_SCORE, metadata={"help": "Ignore person boxes with a lower score."}
    )
    video_layout: str | None = field(
        default=None,
        metadata={"help": "Layout of the videos; by default inferred from the folder.", "choices": [*LAYOUTS]},
    )
    start_seconds: float | None = field(
        default=None,
        metadata={"help": "Time of the first frame, in seconds; by default 0 for files, 900 for folders of frames."},
    )
    frame_rate: float | None = field(
        default=None,
        metadata={"help": "Frames per second; by default read from each file, and 30 for folders of frames."},
    )
    frame_pattern: str | None = field(
        default=None,
        metadata={"help": "File name of a frame, for example {name}_%%06d.jpg; by default inferred from a folder."},
    )

    def load(self) -> datasets.Dataset:
        """Return the key frames, with the boxes of persons where they are given.

        Raises:
            ValueError, FileNotFoundError: see `load_action_dataset`; or an option is missing.
        """
        return load_action_dataset(self.annotations, **self._options(self.excluded, self.person_boxes))

    def validate(self) -> Problems:
        """List what is wrong with the files; see `validate_action_annotations`."""
        return validate_action_annotations(self.annotations, **self._options(self.excluded, self.person_boxes))

    def scored_actions(self) -> list[str] | None:
        """Return the names of the actions that count; None for all."""
        return (
            None if self.scored_action_list is None else list(read_action_list(Path(self.scored_action_list)).values())
        )

    def _options(self, excluded: str | None, person_boxes: str | None) -> dict[str, Any]:
        missing = [name for name in ("video_root", "action_list") if getattr(self, name) is None]
        if missing or (self.annotations is None and person_boxes is None):
            needed = "`--annotations FILE.csv --video_root FOLDER --action_list FILE.pbtxt`"
            raise ValueError(f"Say what to read: {needed}.")
        return {
            "videos": self.video_root,
            "action_list": self.action_list,
            "excluded": excluded,
            "person_boxes": person_boxes,
            "min_person_score": self.min_person_score,
            "layout": self.video_layout,
            "start_seconds": self.start_seconds,
            "frame_rate": self.frame_rate,
            "frame_pattern": self.frame_pattern,
        }


@dataclass
class ActionTrainingArguments(ActionDataArguments):
    """The videos to train on and, in the same folder, those to test on; `person_boxes` are for the test."""

    eval_annotations: str | None = field(default=None, metadata={"help": "csv of boxes and actions to test on."})
    eval_excluded: str | None = field(default=None, metadata={"help": "csv of key frames to leave out of the test."})

    def load_training(self) -> datasets.Dataset:
        """Return the key frames to train on, with their true boxes."""
        if self.annotations is None:
            raise ValueError("Training needs annotated boxes: `--annotations FILE.csv`.")
        return load_action_dataset(self.annotations, **self._options(self.excluded, None))

    def load_evaluation(self) -> datasets.Dataset | None:
        """Return the key frames to test on; None without `eval_annotations`."""
        if self.eval_annotations is None:
            if self.person_boxes is not None or self.eval_excluded is not None:
                raise ValueError("`person_boxes` and `eval_excluded` belong to a test: set `--eval_annotations FILE`.")
            return None
        return load_action_dataset(self.eval_annotations, **self._options(self.eval_excluded, self.person_boxes))
