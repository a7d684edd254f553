"""Options of the programs that say which videos to read: the arguments of `load_video_dataset` on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

from ..classifiers import label_names_of
from .loading import LAYOUTS, choose_layout, load_video_dataset, takes_label_names, validate_annotations
from .readers.problems import Problems


@dataclass
class DataArguments:
    """The videos, and how they are laid out."""

    data: str | None = field(
        default=None, metadata={"help": "Videos: folder, annotation file, tar shards, Parquet (docs/data.md)."}
    )
    layout: str | None = field(
        default=None, metadata={"help": "Layout of the data; by default what it looks like.", "choices": list(LAYOUTS)}
    )
    data_root: str | None = field(
        default=None, metadata={"help": "Folder of the videos, where paths of an annotation file start from."}
    )
    class_names: str | None = field(
        default=None, metadata={"help": "File with one class name per line, in the order of the labels."}
    )
    fold: int | None = field(default=None, metadata={"help": "Official split 1, 2 or 3 of UCF101 and HMDB51."})
    media: str | None = field(
        default=None, metadata={"help": "What the data holds; by default videos.", "choices": ["video", "image"]}
    )
    frame_pattern: str | None = field(default=None, metadata={"help": "File name of a frame, as img_%%05d.jpg."})
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels in tables, metadata, shards and Parquet; `label`."}
    )
    unlabelled: bool = field(
        default=False, metadata={"help": "Of folders: list all videos in and below it, without labels."}
    )

    def load(
        self,
        split: str | None = None,
        streaming: bool = False,
        data: str | None = None,
        label_names: Sequence[str] | None = None,
    ) -> Any:
        """Read `split` of `data` (by default these arguments' own).

        `label_names` serve where `class_names` is not set and the layout does not name its labels itself.

        Raises:
            ValueError, FileNotFoundError: see `load_video_dataset`.
        """
        source = self._source(data)
        names: str | Sequence[str] | None = self.class_names
        if names is None and takes_label_names(choose_layout(source, split, self.layout)):
            names = label_names
        return load_video_dataset(source, streaming=streaming, label_names=names, **self._others(split))

    def validate(self, split: str | None = None) -> Problems:
        """List what is wrong with the annotations; see `validate_annotations`."""
        return validate_annotations(self._source(None), label_names=self.class_names, **self._others(split))

    def _source(self, data: str | None) -> str:
        source = data if data is not None else self.data
        if source is None:
            raise ValueError("Say which videos to read: `--data FOLDER_OR_FILE`.")
        return source

    def _others(self, split: str | None) -> dict[str, Any]:
        return {
            "split": split,
            "layout": self.layout,
            "root": self.data_root,
            "fold": self.fold,
            "frame_pattern": self.frame_pattern,
            "media": self.media,
            "label_column": self.label_column,
            "unlabelled": self.unlabelled or None,
        }


@dataclass
class TrainingDataArguments(DataArguments):
    """The videos to train on and to evaluate on."""

    train_split: str | None = field(default=None, metadata={"help": "Split of `data` to train on."})
    eval_data: str | None = field(
        default=None, metadata={"help": "Videos to evaluate on, where they are listed apart; by default `data`."}
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on while training."})
    streaming: bool = field(
        default=False, metadata={"help": "Read the training set as a stream, shard by shard, in one pass an epoch."}
    )

    def load_training(self) -> Any:
        """The training set, a stream with `streaming`."""
        return self.load(self.train_split, self.streaming)

    def load_evaluation(self, label_names: Sequence[str] | None = None) -> Any:
        """The evaluation set, map-style; None where neither `eval_data` nor `eval_split` is set."""
        return self.load_apart(self.eval_data, self.eval_split, label_names)

    def load_apart(self, data: str | None, split: str | None, label_names: Sequence[str] | None = None) -> Any:
        """A set beside the training set, None where neither its `data` nor its `split` is set.

        `label_names` are those of the training set. They number the labels of other `data` alike; splits of the same
        data do so by themselves.
        """
        if data is None and split is None:
            return None
        return self.load(split, data=data, label_names=label_names if data is not None else None)


@dataclass
class FineTuningDataArguments(TrainingDataArguments):
    """The videos to train on, to evaluate on and to test on."""

    test_data: str | None = field(
        default=None, metadata={"help": "Videos of the multi-view test, where they are listed apart."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split for the multi-view test at the end."})

    def load_test(self, label_names: Sequence[str] | None = None) -> Any:
        """The test set, map-style; None where neither `test_data` nor `test_split` is set."""
        return self.load_apart(self.test_data, self.test_split, label_names)


def training_label_names(rows: Any) -> list[str]:
    """Names of the classes of a training set; "0", "1", ... where they are numbers only.

    Raises:
        ValueError: the rows have no labels, or are a stream of labels without names, whose number nobody knows.
    """
    is_stream = isinstance(rows, datasets.IterableDataset)
    if is_stream and getattr(rows.features["label"], "names", None) is None:
        raise ValueError(
            "The labels of the stream have no names, so the number of classes is not known before it is read: give "
            "`--class_names FILE` with one name per line."
        )
    return label_names_of(rows)
