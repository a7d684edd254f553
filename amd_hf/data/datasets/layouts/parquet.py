"""Parquet files, data sets of the Hub and those of `datasets` in memory: a column of videos or images, and labels."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from ...streams import note_entries, noted_entries
from ..label_names import as_label, read_label_names, shorten
from ..listing import printable
from ..problems import Kind, Problems
from ..rows import row_features
from .table import check_label_column


logger = logging.getLogger(__name__)

_HASHED_BYTES = 1 << 16
_TYPES = {"video": datasets.Video, "image": datasets.Image}
STORED_VIDEO_FEATURE = {
    "bytes": datasets.Value("binary"),
    "path": datasets.Value("string"),
    "fault": datasets.Value("string"),
}
_BAD_ROW = Kind("cannot be used", "cannot be used", "Write the file anew without them.")


def read_parquet(
    source: str,
    split: str | None = None,
    label_names: str | Path | Sequence[str] | None = None,
    streaming: bool = False,
    problems: Problems | None = None,
    media: str = "video",
    label_column: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Read the videos of a Parquet file, of a folder of them, or of a data set on the Hub.

    The column of videos has the type `Video` or the name `video` (for images `Image` or `image`); that of labels has
    the name `label` and is a `ClassLabel`, integers, or names. WebDataset repositories have `cls`, or a `label` in
    their `json`. A column `video_id` is used where there is one (its
    values must be unique); otherwise an id is made of the name and the bytes of the video.

    Args:
        source (`str`): a `.parquet` file, a folder of them, or the Hub id of a data set.
        split (`str`, *optional*): may be left out where there is only one.
        label_names (path or sequence of `str`, *optional*): required where labels are names without a `ClassLabel`;
            an error where a `ClassLabel` names them otherwise.
        streaming (`bool`, defaults to `False`): one shard per row group. A row without a usable video or label comes
            out as one whose video cannot be read (its `fault` says why), with label -1; map-style such rows are
            raised. Map-style `datasets` copies the videos to its cache once.
        problems (`Problems`, *optional*): where bad rows are collected; without it they are raised.
        media (`str`, defaults to `"video"`): `video` or `image`.
        label_column (`str`, *optional*): the column of labels (or the key of `json`), by default as said above.

    Raises:
        FileNotFoundError: no such file, folder or data set.
        ValueError: an unknown split, no column of videos or no `label_column`, labels of several classes each, labels
            that are names without `label_names`, or bad rows.
    """
    loaded = _load(source, split, streaming)
    return _read(*loaded, source, label_names, problems, media, label_column)


def read_hub(source: str, split: str | None = None, **options: Any) -> datasets.Dataset | datasets.IterableDataset:
    """Read a data set of the Hub, or a folder with the files of one, in whatever form `datasets` reads it."""
    label_names, problems = options.pop("label_names", None), options.pop("problems", None)
    media, label_column = options.pop("media", "video"), options.pop("label_column", None)
    loaded = _load(source, split, options.pop("streaming", False), is_hub=True)
    return _read(*loaded, source, label_names, problems, media, label_column)


def _read(
    dataset: Any,
    num_rows: int | None,
    source: str,
    label_names: str | Path | Sequence[str] | None,
    problems: Problems | None,
    media: str,
    label_column: str | None,
) -> datasets.Dataset | datasets.IterableDataset:
    if dataset.features is None:
        raise ValueError(f"The columns of {source} have no declared types, so they cannot be read as a stream.")
    column = video_column(dataset.features, source, media)
    files = noted_entries(dataset) if isinstance(dataset, datasets.IterableDataset) else None
    if isinstance(dataset.features[column], _TYPES[media]):
        dataset = dataset.cast_column(column, _TYPES[media](decode=False))
    label_path = find_labels(dataset.features, label_column, source)
    names = label_names_in(dataset.features, label_path, read_label_names(label_names), source)
    make_row = RowMaker(column, label_path, names)
    features = row_features(STORED_VIDEO_FEATURE, names)
    if isinstance(dataset, datasets.IterableDataset):
        # The row itself goes through `map` once; what is wrong with it is said in the row, since an exception here
        # would end the stream without a word.
        stream = dataset.map(make_row, remove_columns=list(dataset.features), features=features)
        return note_entries(_with_num_rows(stream, num_rows), files or ())
    return _check_rows(dataset, make_row, features, source, problems, _TYPES[media](decode=False))


def _load(source: str, split: str | None, streaming: bool, is_hub: bool = False) -> tuple[Any, int | None]:
    """The dataset as it is stored, and the number of its rows where that is known without reading them."""
    path = Path(source).expanduser()
    if path.is_file():
        if split is not None:
            raise ValueError(f"`split` has no meaning for one file, but is {split!r}. Leave it out.")
        where: dict[str, Any] = {"path": "parquet", "data_files": {"train": [str(path)]}}
    elif path.is_dir():
        where = {"path": str(path)} if is_hub else {"path": "parquet", "data_dir": str(path)}
    elif source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no Parquet file or folder {source!r}.")
    else:
        where = {"path": source}
    builder = datasets.load_dataset_builder(**where)
    splits = list(builder.config.data_files or builder.info.splits or ())
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        raise ValueError(f"{source} has the splits {splits}, not {split!r}: choose one of them with `split`.")
    if not streaming:
        try:
            builder.download_and_prepare()
        except datasets.exceptions.DatasetGenerationError as error:
            raise ValueError(f"{source} cannot be read: {error.__cause__ or error}") from error
        return builder.as_dataset(split=split), None
    stream = note_entries(
        builder.as_streaming_dataset(split=split).reshard(),
        map(_entry, (builder.config.data_files or {}).get(split, ())),
    )
    if path.exists() and builder.config.data_files[split][0].endswith(".parquet"):
        import pyarrow.parquet

        files = builder.config.data_files[split]
        return stream, sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    known = (builder.info.splits or {}).get(split)
    return stream, known.num_examples if known is not None else None


def _entry(file: str) -> tuple[str, str]:
    """Name of a file of a stream, without the revision of its repository, and its size where it lies here."""
    name = re.sub(r"@[0-9a-f]+/", "/", str(file))
    return (Path(name).name, f"{os.path.getsize(file)} bytes") if os.path.exists(file) else (name, "")


def _with_num_rows(stream: Any, num_rows: int | None) -> Any:
    if num_rows is not None:
        name = str(stream.split)
        stream.info.splits = datasets.SplitDict({name: datasets.SplitInfo(name, num_examples=num_rows)})
    return stream


def video_column(features: datasets.Features, source: str, media: str) -> str:
    kind = _TYPES[media]
    typed = [name for name, feature in features.items() if isinstance(feature, kind)]
    found = typed if len(typed) == 1 else [name for name in features if name == media]
    if not found:
        raise ValueError(
            f"{source} has no column `{media}` and none of type {kind.__name__}; its columns are {list(features)}."
        )
    return found[0]


def find_labels(features: datasets.Features, label_column: str | None, source: str) -> tuple[str, ...]:
    """Where the labels stand: a column, or a column and a key in it; empty where there are none.

    Raises:
        ValueError: no such column, or one that is no label of one class.
    """
    inside = features.get("json")
    keys = inside if isinstance(inside, Mapping) else {}
    if label_column is not None and label_column not in features and label_column in keys:
        return ("json", label_column)
    check_label_column(label_column, {*features, *keys}, source)
    if label_column is None:
        own = next((name for name in ("label", "cls") if name in features), None)
        if own is None:
            path = ("json", "label") if "label" in keys else ()
            named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
            if not path and named:
                logger.warning(
                    "%s has no column `label`, so its videos have no labels; `label_column` may name one of %s.",
                    source, named,
                )  # fmt: skip
            return path
        label_column = own
    feature = features[label_column]
    if not isinstance(feature, datasets.ClassLabel | datasets.Value):
        raise ValueError(f"The column {label_column!r} of {source} is no label of one class, but {feature}.")
    return (label_column,)


def label_names_in(
    features: Mapping[str, Any], label_path: Sequence[str], given: list[str] | None, source: str
) -> list[str] | None:
    """The names of the labels: the data set's own, or those given.

    Raises:
        ValueError: both, and they differ; or labels that are names, and none were given.
    """
    feature: Any = features if label_path else None
    for name in label_path:
        feature = feature[name]
    own = getattr(feature, "names", None)
    if own is not None and given is not None and list(own) != given:
        raise ValueError(f"The labels of {source} have other names, {list(own)[:5]}...: leave `label_names` out.")
    names = list(own) if own is not None else given
    if names is None and getattr(feature, "dtype", None) in ("string", "large_string"):
        raise ValueError(
            f"The labels of {source} are names: give all of them, in the order of their numbers, as `label_names`."
        )
    return names


@dataclass(frozen=True)
class RowMaker:
    """Brings a stored row into the form of DESIGN section 5; never raises for what the row holds.

    Args:
        video_column (`str`): the column of the videos: paths, bytes, or mappings of both.
        label_path (sequence of `str`): where the label stands: a column, or a column and a key in it; empty for none.
        names (list of `str`, *optional*): names of the labels in their order.
    """

    video_column: str
    label_path: Sequence[str]
    names: list[str] | None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        video, fault = row[self.video_column], None
        if isinstance(video, Mapping):
            data, path = video.get("bytes"), video.get("path")
        else:
            data, path = (video, None) if isinstance(video, bytes) else (None, video)
        if not isinstance(data, bytes | None) or not isinstance(path, str | None):
            data, path, fault = None, None, f"the row holds no video, but {type(video).__name__}"
        elif data is None and path is None:
            fault = "the row holds no video"
        label = None
        if self.label_path:
            try:
                label = self._label(row)
            except ValueError as error:
                fault, label = fault or printable(str(error), 500), -1
        video_id = printable(_stored_id(row) or _make_id(data, path), 1000)
        return {"video": {"bytes": data, "path": path, "fault": fault}, "label": label, "video_id": video_id}

    def _label(self, row: Mapping[str, Any]) -> int:
        stored: Any = row
        for name in self.label_path:
            stored = stored.get(name) if isinstance(stored, Mapping) else None
        label = self._number_of[stored] if isinstance(stored, str) and stored in self._number_of else as_label(stored)
        if not isinstance(label, int) or (self.names is not None and label >= len(self.names)):
            raise ValueError(f"the label {shorten(stored)} is none of the {len(self.names or ()) or ''} labels")
        return label

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names or ())}


def _stored_id(row: Mapping[str, Any]) -> str | None:
    """What a column `video_id` says, or in a WebDataset the archive and the key."""
    if row.get("video_id") is not None:
        return str(row["video_id"])
    if row.get("__key__") is None:
        return None
    return f"{str(row.get('__url__')).rpartition('/')[2]}/{row['__key__']}"


def _make_id(data: bytes | None, path: str | None) -> str:
    """The same in a stream and in a map-style dataset, whatever its shards: names alone may repeat."""
    if data is None:
        return str(path)
    digest = hashlib.blake2b(data[:_HASHED_BYTES] + data[-_HASHED_BYTES:] + str(len(data)).encode(), digest_size=8)
    return f"{path}-{digest.hexdigest()}" if path else digest.hexdigest()


def _check_rows(
    dataset: Any,
    make_row: RowMaker,
    features: datasets.Features,
    source: str,
    problems: Problems | None,
    feature: datasets.Video | datasets.Image,
) -> datasets.Dataset:
    """Map-style: the videos stay where they are, labels and ids become new columns beside them."""
    found = Problems() if problems is None else problems
    found.start(source, len(dataset), "row")
    column = make_row.video_column
    columns: dict[str, list[Any]] = {"label": [], "video_id": []}
    for number, stored in enumerate(dataset, start=1):
        row = make_row(stored)
        if row["video"]["fault"] is not None:
            found.add(source, number, _BAD_ROW, f"{row['video_id']}: {row['video']['fault']}")
        for name, values in columns.items():
            values.append(row[name])
    if problems is None:
        found.raise_if_any()
    videos = dataset.select_columns([column])
    if column != "video":
        videos = videos.rename_column(column, "video")
    if not isinstance(videos.features["video"], type(feature)):
        videos = videos.cast_column("video", feature)
    beside = datasets.Dataset.from_dict(columns, features=datasets.Features({n: features[n] for n in columns}))
    return datasets.concatenate_datasets([videos, beside], axis=1)
