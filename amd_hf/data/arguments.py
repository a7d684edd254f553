"""Options of the programs that say which videos to read: the arguments of `load_video_dataset` on a command line."""

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
from .datasets.problems import Problems
from .loading import LAYOUTS, choose_layout, load_video_dataset, takes_label_names, takes_split, validate_annotations
from .streams import thin_out


@dataclass
class DataArguments:
    """The videos, and how they are laid out."""

    # Arguments of `load_video_dataset`, as its errors name them, whose options have other names.
    option_of_argument: ClassVar[Mapping[str, str]] = {"label_names": "class_names", "root": "data_root"}

    data: str | None = field(
        default=None, metadata={"help": "Videos: folder, annotation file, tar shards, Parquet (docs/data.md)."}
    )
    layout: str | None = field(
        default=None, metadata={"help": "Layout of the data; by default what it looks like.", "choices": list(LAYOUTS)}
    )
    data_root: str | None = field(
        default=None,
        metadata={"help": "Folder of the videos, where paths of an annotation file start from."},
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
        split_option: str = "split",
    ) -> Any:
        """Read `split` of `data` (by default these arguments' own).

        `label_names` serve where `class_names` is not set and the layout does not name its labels itself.
        `split_option` is the option that `split` was given by, for errors.

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
        return source

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
        default=None, metadata={"help": "Videos to evaluate on, where they are listed apart; by default `data`."}
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on while training."})
    notes: list[str] = field(default_factory=list, init=False, repr=False)  # what `fit_recipe` left out
    streaming: bool = field(
        default=False, metadata={"help": "Read the training set as a stream, shard by shard, in one pass an epoch."}
    )

    def load_training(self) -> Any:
        """Return the training set, a stream with `streaming`."""
        return self.load(self.train_split, self.streaming, split_option="train_split")

    def load_evaluation(self, label_names: Sequence[str] | None = None) -> Any:
        """Return the evaluation set, map-style; None where neither `eval_data` nor `eval_split` is set."""
        return self.load_apart("eval", label_names)

    def load_apart(self, part: str, label_names: Sequence[str] | None = None) -> Any:
        """Return a set beside the training set, `eval` or `test`; None where neither its data nor its split is set.

        `label_names` are those of the training set. They number the labels of other `data` alike; splits of the same
        data do so by themselves.
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
        """Leave out of a recipe the splits that the data does not have, such as those of list files.

        Args:
            recipe (`Mapping`): its options.
            values (`Mapping`): all options as they stand with the recipe.
            given (set of `str`): the options that the command line names: what a user asks for is never left out.

        Returns:
            The recipe's options that count, and a sentence for each part of the recipe that is left out with a split.
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
    """The videos to learn from without labels: a folder is walked whole, whatever its folders mean."""

    def _others(self, split: str | None, source: str) -> dict[str, Any]:
        is_folder = choose_layout(source, split, self.layout, unlabelled=True) == "class_folders"
        return {**super()._others(split, source), "unlabelled": True if is_folder else self.unlabelled or None}


@dataclass
class FineTuningDataArguments(TrainingDataArguments):
    """The videos to train on, to evaluate on and to test on."""

    test_data: str | None = field(
        default=None, metadata={"help": "Videos of the multi-view test, where they are listed apart."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Split for the multi-view test at the end."})

    validation_fraction: float = field(
        default=0.1,
        metadata={
            "help": "Part of the training videos that is kept apart where no others are named to evaluate or test "
            "on; which ones depends on their ids alone. 0 trains on all of them."
        },
    )

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` must be at least 0 and below 1, got {self.validation_fraction}.")

    def holds_out(self) -> bool:
        """Return whether a part of the training videos is to be kept apart: no others are named, or stand beside."""
        named = (self.eval_data, self.eval_split, self.test_data, self.test_split)
        if self.validation_fraction == 0 or any(name is not None for name in named):
            return False
        # Of a folder with splits: who trains on one of them has the others for later.
        is_folder = self.data is not None and Path(self.data).is_dir()
        return not (is_folder and self.train_split is not None and _takes_split(str(self.data), self.layout))

    def load_training(self) -> Any:
        """Return the training set, without what is held out; a stream with `streaming`."""
        rows = super().load_training()
        return keep_apart(rows, self.validation_fraction)[0] if self.holds_out() else rows

    def load_evaluation(self, label_names: Sequence[str] | None = None) -> Any:
        """Return the evaluation set, map-style; what is held out where no other is named; None without either."""
        return self._load_held_out() if self.holds_out() else super().load_evaluation(label_names)

    def load_test(self, label_names: Sequence[str] | None = None) -> Any:
        """Return the test set, map-style; what is held out where no other is named; None without either."""
        return self._load_held_out() if self.holds_out() else self.load_apart("test", label_names)

    def _load_held_out(self) -> Any:
        rows = keep_apart(self.load(self.train_split, split_option="train_split"), self.validation_fraction)[1]
        return rows if len(rows) else None

    @classmethod
    def fit_recipe(
        cls, recipe: Mapping[str, Any], values: Mapping[str, Any], given: Set[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Fit as other training data do; a recipe with splits of its own holds out none of the training set."""
        fitted, notes = super().fit_recipe(recipe, values, given)
        if any(recipe.get(f"{part}_split") is not None for part in ("eval", "test")):
            fitted.setdefault("validation_fraction", 0.0)
        return fitted, notes


def is_held_out(video_id: str, fraction: float) -> bool:
    """Return whether a video belongs to the part that is kept apart: by a hash of its id, whatever else there is."""
    digest = hashlib.blake2b(video_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def keep_apart(rows: Any, fraction: float) -> tuple[Any, Any]:
    """Split rows into those to train on and those that are held out, map-style or streams, each in its order."""
    if isinstance(rows, datasets.IterableDataset):
        train = rows.filter(lambda row: not is_held_out(row["video_id"], fraction))
        return thin_out(rows, train, 1 - fraction), rows.filter(lambda row: is_held_out(row["video_id"], fraction))
    held_out = [is_held_out(video_id, fraction) for video_id in rows["video_id"]]
    return (
        rows.select([index for index, is_held in enumerate(held_out) if not is_held]),
        rows.select([index for index, is_held in enumerate(held_out) if is_held]),
    )


def count_common_videos(train: Any, rows: Any) -> int:
    """Count the videos of `rows` that are in a training set too, by the files or addresses they are read from.

    0 where nobody knows: of streams, and of videos that are held in memory or tables.
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
        return True  # whoever loads the data says what is wrong with it


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
    """Return the names of the classes of a training set; "0", "1", ... where they are numbers only.

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
