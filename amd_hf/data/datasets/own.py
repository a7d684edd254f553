"""The user's own `datasets` objects, in the form of rows that this package reads.

    rows = as_video_rows(datasets.Dataset.from_dict({"video": paths, "label": labels}))     # adds `video_id`
    rows = as_video_rows(datasets.load_dataset("owner/name", split="train", streaming=True))  # nothing is decoded

Decoded columns (`Video()`, `Image()`) are read undecoded, a missing `video_id` is made. Neither copies a video.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from ..streams import SingleShards
from .label_names import as_label, check_label_column
from .problems import printable, shorten
from .rows import row_features


logger = logging.getLogger(__name__)

_DECODED = (datasets.Video, datasets.Image)
MEDIA_TYPES = {"video": datasets.Video, "image": datasets.Image}
STORED_VIDEO_FEATURE = {
    "bytes": datasets.Value("binary"),
    "path": datasets.Value("string"),
    "fault": datasets.Value("string"),
}
_SOURCE = "the data set"
_HASHED_BYTES = 1 << 16

MAX_ID_LENGTH = 1000
"""Characters of an id that are kept."""


def as_video_rows(
    rows: Any,
    *,
    media: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Any:
    """Bring a `datasets` object into the form of rows that `load_video_dataset` gives.

    Args:
        rows: a `Dataset` or an `IterableDataset`; anything else comes back as it is. One that has the columns `video`
            and `video_id` and decodes nothing comes back as it is too.
        media (`str`, *optional*): `video` or `image`, which columns to look at; by default videos, else images.
        label_column (`str`, *optional*): the column of the labels, by default `label`.
        label_names (sequence of `str`, *optional*): names of the labels, where they are names without a `ClassLabel`.

    Returns:
        The same rows with `video` undecoded, `label` (where there is one) and `video_id`: what a column of that name
        says, else the path of the video where no other row has it, else the path with the number of the row (in a
        stream with those of its shard and of the row in it), so that each is unique and the same in every run. A
        `Dataset` keeps its other columns.

    Raises:
        ValueError: no column of videos, no `label_column`, labels that are no numbers of classes.
        TypeError: a `DatasetDict`, of which one split is to be chosen.
    """
    if isinstance(rows, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise TypeError(f"These are the splits {list(rows)} of a data set: give one of them, as `data['train']`.")
    if not isinstance(rows, datasets.Dataset | datasets.IterableDataset):
        return rows
    features = _features(rows)
    is_ready = {"video", "video_id"} <= set(features) and not getattr(features["video"], "decode", False)
    is_ready = is_ready and ("label" not in features or _is_class_number(features["label"]))
    if label_column is None and label_names is None and is_ready:
        return rows
    kind = media or _media_of(features)
    column = video_column(features, _SOURCE, kind)
    labels = find_labels(features, label_column, _SOURCE)
    names = label_names_in(features, labels, None if label_names is None else list(label_names), _SOURCE)
    if isinstance(rows, datasets.IterableDataset):
        return _stream(rows, RowMaker(column, labels, names))
    _check_kind(features, labels, names)
    if len(labels) > 1:
        raise ValueError(f"The labels of {_SOURCE} are inside of another column: flatten it (`flatten()`).")
    return _table(rows, column, labels[0] if labels else None, names)


def _features(rows: Any) -> datasets.Features:
    if rows.features is not None:
        return rows.features
    known = rows._resolve_features().features  # a stream of csv files: inferred from its first rows
    if known is None:
        raise ValueError("The stream is empty: it has no columns.")
    return known


def _media_of(features: datasets.Features) -> str:
    has_videos = "video" in features or any(isinstance(feature, datasets.Video) for feature in features.values())
    has_images = "image" in features or any(isinstance(feature, datasets.Image) for feature in features.values())
    return "image" if has_images and not has_videos else "video"


def _check_kind(features: datasets.Features, labels: Sequence[str], names: list[str] | None) -> None:
    if not labels or names is not None:
        return
    kind = getattr(features[labels[0]], "dtype", "")
    if not str(kind).startswith(("int", "uint")):
        raise ValueError(
            f"The column {labels[0]!r} of {_SOURCE} is of the type {kind}, not numbers of classes from 0: make it a "
            f"`ClassLabel` (`class_encode_column({labels[0]!r})`) or integers before it is split."
        )


# ---- Which columns hold the videos and the labels ----


def video_column(features: datasets.Features, source: str, media: str) -> str:
    kind = MEDIA_TYPES[media]
    typed = [name for name, feature in features.items() if isinstance(feature, kind)]
    found = typed if len(typed) == 1 else [name for name in features if name == media]
    if not found:
        raise ValueError(
            f"{source} has no column `{media}` and none of type {kind.__name__}; its columns are {list(features)}."
        )
    return found[0]


def find_labels(features: datasets.Features, label_column: str | None, source: str) -> tuple[str, ...]:
    """Find where the labels stand: a column, or a column and a key in it; empty where there are none.

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
    """Return the names of the labels: the data set's own, or those given.

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


# ---- Stored rows, of streams and of Parquet files ----


@dataclass(frozen=True)
class RowMaker:
    """Maker of rows of `video`, `label` and `video_id` from stored ones; never raises for what a row holds.

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
        video_id = printable(_video_id(row, data, path), MAX_ID_LENGTH)
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


def _video_id(row: Mapping[str, Any], data: bytes | None, path: str | None) -> str:
    """Return what a column `video_id` says, or in a WebDataset the archive and the key; else make an id.

    It is the same in a stream and in a map-style dataset, whatever its shards. Names alone may repeat, so the bytes
    count too.
    """
    if row.get("video_id") is not None:
        return str(row["video_id"])
    if row.get("__key__") is not None:
        return f"{str(row.get('__url__')).rpartition('/')[2]}/{row['__key__']}"
    if data is None:
        return str(path)
    digest = hashlib.blake2b(data[:_HASHED_BYTES] + data[-_HASHED_BYTES:] + str(len(data)).encode(), digest_size=8)
    return f"{path}-{digest.hexdigest()}" if path else digest.hexdigest()


# ---- Map-style: the table gets columns, the videos stay where they are ----


def _table(rows: datasets.Dataset, column: str, label: str | None, names: list[str] | None) -> datasets.Dataset:
    indices = getattr(rows, "_indices", None)  # rows that were selected or shuffled: indices into the table
    if indices is not None and pc.count_distinct(indices.column(0)).as_py() < len(rows):
        rows = rows.flatten_indices()  # a row that was selected twice is two videos
        indices = None
    plain = datasets.Dataset(rows.data, info=rows.info.copy(), split=rows.split)
    feature = plain.features[column]
    if isinstance(feature, _DECODED):
        plain = plain.cast_column(column, dataclasses.replace(feature, decode=False))
    if column != "video":
        if "video" in plain.features:
            plain = plain.remove_columns("video")
        plain = plain.rename_column(column, "video")
    added: dict[str, Any] = {}
    if "video_id" not in plain.features:
        added["video_id"] = (make_ids(paths_of(plain)), datasets.Value("string"))
    elif plain.features["video_id"] != datasets.Value("string"):
        added["video_id"] = ([str(name) for name in plain["video_id"]], datasets.Value("string"))
    if label is not None and (label != "label" or not _is_class_number(plain.features[label])):
        added["label"] = _labels(plain[label][:], names)
    replaced = [*added, *([label] if label not in (None, "label") and "label" in added else [])]
    plain = plain.remove_columns([name for name in replaced if name in plain.features])
    if not added and indices is None:
        return plain
    features = datasets.Features({name: feature for name, (_, feature) in added.items()})
    beside = datasets.Dataset.from_dict({name: values for name, (values, _) in added.items()}, features=features)
    whole = datasets.concatenate_datasets([plain, beside], axis=1) if added else plain
    return datasets.Dataset(whole.data, info=whole.info, split=rows.split, indices_table=indices)


def _is_class_number(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or feature == datasets.Value("int64")


def _labels(values: Sequence[Any], names: list[str] | None) -> tuple[list[int | None], Any]:
    """Return labels as numbers, and their feature."""
    number_of = {name: number for number, name in enumerate(names or ())}
    numbers = []
    for row, value in enumerate(values):
        label = number_of[value] if isinstance(value, str) and value in number_of else as_label(value)
        if isinstance(label, str) or (names is not None and label is not None and label >= len(names)):
            raise ValueError(f"The label {value!r:.100} of row {row} of {_SOURCE} is none of the label names.")
        numbers.append(label)
    return numbers, datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)


def paths_of(rows: datasets.Dataset) -> list[str | None]:
    """Return the path of each row's video, None where it has only bytes; no bytes are read."""
    videos = rows.data.column("video")
    kind = videos.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return videos.to_pylist()
    for name in ("path", "frame_folder"):
        if pa.types.is_struct(kind) and kind.get_field_index(name) >= 0:
            return pc.struct_field(videos, name).to_pylist()
    return [None] * len(videos)


def make_ids(paths: Sequence[str | None]) -> list[str]:
    """Return an id for each row: its path, with the number of the row where others have the same or there is none."""
    counts = Counter(paths)
    ids = [path if path and counts[path] == 1 else f"{path or 'video'}#{row}" for row, path in enumerate(paths)]
    if len(set(ids)) < len(ids):  # a path that reads like another one's number
        return [f"{path or 'video'}#{row}" for row, path in enumerate(paths)]
    return [str(name) for name in ids]


# ---- Streams ----


def _stream(rows: datasets.IterableDataset, make_row: RowMaker) -> datasets.IterableDataset:
    kind = _features(rows)[make_row.video_column]
    if isinstance(kind, dict) and not {"path", "bytes"} & set(kind):
        raise ValueError(f"The videos of the stream are neither paths nor bytes ({list(kind)}): add a `video_id`.")
    if isinstance(kind, _DECODED):
        rows = rows.cast_column(make_row.video_column, dataclasses.replace(kind, decode=False))
    features = row_features(STORED_VIDEO_FEATURE, make_row.names)
    arguments = {"shards": list(range(rows.num_shards)), "stream": SingleShards(rows), "make_row": make_row}
    stream = datasets.IterableDataset.from_generator(_rows_of_shards, features=features, gen_kwargs=arguments)
    stream.info.splits = rows.info.splits
    return stream


def _rows_of_shards(shards: Sequence[int], stream: SingleShards, make_row: RowMaker) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for number, stored in enumerate(stream[shard]):
            row = make_row(stored)
            if stored.get("video_id") is None:
                row["video_id"] = f"{row['video']['path'] or 'video'}#{shard}.{number}"
            yield row
