"""Data options of the commands: the arguments of `load_video_dataset`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets

from .datasets.label_names import label_names_of
from .datasets.layouts.class_folders import find_split_names
from .datasets.problems import Problems
from .loading import (
    LAYOUTS,
    allow_sources,
    choose_layout,
    load_video_dataset,
    takes_label_names,
    takes_split,
    validate_annotations,
)
from .remote.files import RemoteAccess
from .streams import thin_out


@dataclass
class DataArguments:
    """The videos and their layout."""

    # Arguments of `load_video_dataset` whose options have other names; errors use the options' names.
    option_of_argument: ClassVar[Mapping[str, str]] = {"label_names": "class_names", "root": "data_root"}

    data: str | None = field(
        default=None,
        metadata={
            "help": "Videos: folder, annotation file, tar shards, Parquet, or the address (https://, s3://, hf://) of "
            "one of the last three (docs/data.md)."
        },
    )
    layout: str | None = field(
        default=None,
        metadata={"help": "Layout of the data; by default inferred from the files.", "choices": list(LAYOUTS)},
    )
    data_root: str | None = field(
        default=None,
        metadata={"help": "Folder of the videos; paths in an annotation file are relative to it."},
    )
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "File with one class name per line, in the order of the labels.",
        },
    )
    fold: int | None = field(default=None, metadata={"help": "Official split 1, 2 or 3 of UCF101 and HMDB51."})
    media: str | None = field(
        default=None, metadata={"help": "What the data holds; by default videos.", "choices": ["video", "image"]}
    )
    frame_pattern: str | None = field(
        default=None, metadata={"help": "File name of a frame, for example img_%%05d.jpg."}
    )
    label_column: str | None = field(
        default=None,
        metadata={"help": "Column of the labels in tables, metadata, shards and Parquet; by default `label`."},
    )
    unlabelled: bool = field(
        default=False, metadata={"help": "Take all videos of a folder and its sub-folders, without labels."}
    )
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder to keep files of addresses in, shared by all processes and runs; by default they are read "
            "anew each time."
        },
    )
    cache_gigabytes: float = field(
        default=100.0,
        metadata={"help": "Bound on the size of `cache_dir`; the files that were not used for longest go."},
    )
    allowed_addresses: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders (https://HOST/FOLDER) below which a list may name videos, beside those of `data` and "
            "`data_root`."
        },
    )

    def load(
        self,
        split: str | None = None,
        streaming: bool = False,
        data: str | None = None,
        label_names: Sequence[str] | None = None,
        split_option: str = "split",
    ) -> Any:
        """Read `split` of `data` (by default these arguments' own).

        `label_names` are used if `class_names` is not set and the layout does not name its labels. `split_option` is
        the option that set `split`, for errors.

        Raises:
            ValueError, FileNotFoundError: see `load_video_dataset`.
        """
        with _naming_split(split_option):
            return self._load(split, streaming, data, label_names)

    def _load(self, split: str | None, streaming: bool, data: str | None, label_names: Sequence[str] | None) -> Any:
        source = self._source(data)
        names: str | Sequence[str] | None = self.class_names
        if names is None and takes_label_names(choose_layout(source, split, self.layout, unlabelled=True)):
            names = label_names
        return load_video_dataset(source, streaming=streaming, label_names=names, **self._others(split, source))

    def validate(self, split: str | None = None) -> Problems:
        """List what is wrong with the annotations; see `validate_annotations`."""
        source = self._source(None)
        return validate_annotations(source, label_names=self.class_names, **self._others(split, source))

    def _source(self, data: str | None) -> str:
        source = data if data is not None else self.data
        if source is None:
            raise ValueError("Say which videos to read: `--data FOLDER_OR_FILE`.")
        allow_sources(source, self.data_root, remote=self.remote_access())
        return source

    def remote_access(self) -> RemoteAccess | None:
        """Return what the options say about addresses; None if they say nothing."""
        if self.cache_dir is None and not self.allowed_addresses:
            return None
        return RemoteAccess(
            allowed=tuple(self.allowed_addresses), cache_dir=self.cache_dir, cache_gigabytes=self.cache_gigabytes
        )

    def _others(self, split: str | None, source: str) -> dict[str, Any]:
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
        default=None, metadata={"help": "Videos to evaluate on, if they are not a split of `data`."}
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on while training."})
    notes: list[str] = field(default_factory=list, init=False, repr=False)  # what `fit_recipe` left out
    streaming: bool = field(
        default=False, metadata={"help": "Read the training set as a stream, shard by shard, once per epoch."}
    )

    def load_training(self) -> Any:
        """Return the training set, a stream with `streaming`."""
        return self.load(self.train_split, self.streaming, split_option="train_split")

    def load_evaluation(self, label_names: Sequence[str] | None = None) -> Any:
        """Return the evaluation set, map-style; None if neither `eval_data` nor `eval_split` is set."""
        return self.load_apart("eval", label_names)

    def load_apart(self, part: str, label_names: Sequence[str] | None = None) -> Any:
        """Return the `eval` or `test` set; None if neither its data nor its split is set.

        `label_names` are those of the training set: they give labels of other `data` the same indices. Splits of the
        same data have them anyway.
        """
        data, split = getattr(self, f"{part}_data"), getattr(self, f"{part}_split")
        if data is None and split is None:
            return None
        label_names = label_names if data is not None else None
        return self.load(split, data=data, label_names=label_names, split_option=f"{part}_split")

    @classmethod
    def fit_recipe(
        cls, recipe: Mapping[str, Any], values: Mapping[str, Any], given: Set[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Ignore splits of a recipe that the data does not have; list files, for example, have none.

        Args:
            recipe (`Mapping`): options of the recipe.
            values (`Mapping`): all options, with the recipe's values filled in.
            given (set of `str`): options that the command line sets; these are never ignored.

        Returns:
            The recipe's options that apply, and a sentence for each part of the recipe that an ignored split removes.
        """
        recipe, notes = dict(recipe), []
        for part, use in _PARTS.items():
            option, data = f"{part}_split", values.get(f"{part}_data") or values["data"]
            is_of_recipe = recipe.get(option) is not None and option not in given
            if data is None or not is_of_recipe or _takes_split(data, values["layout"]):
                continue
            split = recipe.pop(option)
            if part != "train" and values.get(f"{part}_data") is None:
                notes.append(
                    f"{data} has no splits, so there is no {split!r} for the recipe's {use}, which is left out: name "
                    f"other videos by `--{part}_data`."
                )
                if part == "eval" and "eval_strategy" not in given:
                    recipe.pop("eval_strategy", None)
        return recipe, notes


@dataclass
class PreTrainingDataArguments(TrainingDataArguments):
    """The videos to learn from without labels: all videos in a folder and its sub-folders."""

    def _others(self, split: str | None, source: str) -> dict[str, Any]:
        is_folder = choose_layout(source, split, self.layout, unlabelled=True) == "class_folders"
        return {**super()._others(split, source), "unlabelled": True if is_folder else self.unlabelled or None}


@dataclass
class FineTuningDataArguments(TrainingDataArguments):
    """The videos to train on, to evaluate on and to test on."""

    test_data: str | None = field(
        default=None, metadata={"help": "Videos of the multi-view test, if they are not a split of `data`."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split for the multi-view test at the end."})

    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Fraction of the training videos to hold out for evaluation and test if no others are named; a "
            "hash of their ids chooses them. 0 trains on all videos."
        },
    )
    found_splits: str | None = field(default=None, init=False, repr=False)  # what `find_splits` chose, for people

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` must be at least 0 and below 1, got {self.validation_fraction}.")

    def find_splits(self) -> None:
        """Choose the splits of a folder of splits if no videos are named but the folder.

        Validation videos serve as test videos too if there are no others, and the other way round.
        """
        named = (self.train_split, self.eval_data, self.eval_split, self.test_data, self.test_split)
        if self.data is None or not Path(self.data).is_dir() or any(name is not None for name in named):
            return
        if choose_layout(self.data, None, self.layout, unlabelled=True) != "class_folders":
            return
        splits = find_split_names(Path(self.data))
        if splits.train is None or not (splits.validation or splits.test):
            return
        self.train_split = splits.train
        self.eval_split, self.test_split = splits.validation or splits.test, splits.test or splits.validation
        self.found_splits = f"{self.train_split} (training), {self.eval_split} (evaluation), {self.test_split} (test)"

    def holds_out(self) -> bool:
        """Return whether to hold out training videos: no others are named, and the folder has no other split."""
        named = (self.eval_data, self.eval_split, self.test_data, self.test_split)
        if self.validation_fraction == 0 or any(name is not None for name in named):
            return False
        # If the user trains on one split of a folder, the others are there for a later test.
        is_folder = self.data is not None and Path(self.data).is_dir()
        return not (is_folder and self.train_split is not None and _takes_split(str(self.data), self.layout))

    def load_training(self) -> Any:
        """Return the training set, without held-out videos; a stream with `streaming`."""
        rows = super().load_training()
        return keep_apart(rows, self.validation_fraction)[0] if self.holds_out() else rows

    def load_evaluation(self, label_names: Sequence[str] | None = None) -> Any:
        """Return the evaluation set, map-style: the one named, else the held-out videos, else None."""
        return self._load_held_out() if self.holds_out() else super().load_evaluation(label_names)

    def load_test(self, label_names: Sequence[str] | None = None) -> Any:
        """Return the test set, map-style: the one named, else the held-out videos, else None."""
        return self._load_held_out() if self.holds_out() else self.load_apart("test", label_names)

    def _load_held_out(self) -> Any:
        rows = keep_apart(self.load(self.train_split, split_option="train_split"), self.validation_fraction)[1]
        return rows if len(rows) else None

    @classmethod
    def fit_recipe(
        cls, recipe: Mapping[str, Any], values: Mapping[str, Any], given: Set[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Fit a recipe as for other training data; a recipe that names splits holds out no training videos."""
        fitted, notes = super().fit_recipe(recipe, values, given)
        if any(recipe.get(f"{part}_split") is not None for part in ("eval", "test")):
            fitted.setdefault("validation_fraction", 0.0)
        return fitted, notes


def is_held_out(video_id: str, fraction: float) -> bool:
    """Return whether a video is held out; a hash of its id decides, independently of the other videos."""
    digest = hashlib.blake2b(video_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def keep_apart(rows: Any, fraction: float) -> tuple[Any, Any]:
    """Split rows into training rows and held-out rows, map-style or streams, each in its order."""
    if isinstance(rows, datasets.IterableDataset):
        train = rows.filter(lambda row: not is_held_out(row["video_id"], fraction))
        return thin_out(rows, train, 1 - fraction), rows.filter(lambda row: is_held_out(row["video_id"], fraction))
    held_out = [is_held_out(video_id, fraction) for video_id in rows["video_id"]]
    return (
        rows.select([index for index, is_held in enumerate(held_out) if not is_held]),
        rows.select([index for index, is_held in enumerate(held_out) if is_held]),
    )


def count_common_videos(train: Any, rows: Any) -> int:
    """Count the videos of `rows` that are also in the training set, by their files or addresses.

    Return 0 if that is unknown: for streams, and for videos in memory or in tables.
    """
    if isinstance(train, datasets.IterableDataset) or "video" not in getattr(rows, "column_names", ()):
        return 0
    kinds = [str(data.features["video"]) for data in (train, rows)]
    if "binary" in "".join(kinds):
        return 0
    known = {json.dumps(video, default=str) for video in train.select_columns(["video"])["video"]}
    return sum(json.dumps(video, default=str) in known for video in rows.select_columns(["video"])["video"])


_PARTS = {"train": "training", "eval": "evaluation while training", "test": "test at the end"}


def _takes_split(data: str, layout: str | None) -> bool:
    try:
        return takes_split(data, layout)
    except (OSError, ValueError):
        return True  # loading the data will report what is wrong with it


@contextmanager
def _naming_split(option: str) -> Iterator[None]:
    """Let errors about `split`, the argument of `load_video_dataset`, name the option of the program instead."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = re.sub(r"`split(=[^`]*)?`", lambda found: f"`{option}{found[1] or ''}`", str(error))
        if option == "split" or type(error) not in (ValueError, FileNotFoundError) or message == str(error):
            raise
        raise type(error)(message) from error


def training_label_names(rows: Any) -> list[str]:
    """Return the class names of a training set; "0", "1", ... if labels are only numbers.

    Raises:
        ValueError: the rows have no labels, or are a stream of labels without names, whose count is unknown.
    """
    is_stream = isinstance(rows, datasets.IterableDataset)
    if is_stream and getattr(rows.features["label"], "names", None) is None:
        raise ValueError(
            "The labels of the stream have no names, so the number of classes is not known before it is read: give "
            "`--class_names FILE` with one name per line."
        )
    return label_names_of(rows)
