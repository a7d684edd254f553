"""Parquet files and data sets of the Hub: a column of videos or images (bytes, and path) and perhaps one of labels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from .label_names import read_label_names
from .problems import Kind, Problems
from .rows import row_features


_HASHED_BYTES = 1 << 16
_TYPES = {"video": datasets.Video, "image": datasets.Image}
_VIDEO_FEATURE = {
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
) -> datasets.Dataset | datasets.IterableDataset:
    """Read the videos of a Parquet file, of a folder of them, or of a data set on the Hub.

    The column of videos has the type `Video` or the name `video` (for images `Image` or `image`); that of labels has
    the name `label` and is a `ClassLabel`, integers, or names. A column `video_id` is used where there is one (its
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

    Raises:
        FileNotFoundError: no such file, folder or data set.
        ValueError: an unknown split, no column of videos, labels that are names without `label_names`, or bad rows.
    """
    dataset, num_rows = _load(source, split, streaming)
    if dataset.features is None:
        raise ValueError(f"The columns of {source} have no declared types, so they cannot be read as a stream.")
    column = _video_column(dataset.features, source, media)
    if isinstance(dataset.features[column], _TYPES[media]):
        dataset = dataset.cast_column(column, _TYPES[media](decode=False))
    names = _names(dataset.features.get("label"), read_label_names(label_names), source)
    make_row = functools.partial(
        _make_row,
        video_column=column,
        is_labelled="label" in dataset.features,
        num_labels=None if names is None else len(names),
        number_of={name: number for number, name in enumerate(names or ())},
    )
    features = row_features(_VIDEO_FEATURE, names)
    if streaming:
        # The row itself goes through `map` once; what is wrong with it is said in the row, since an exception here
        # would end the stream without a word.
        stream = dataset.map(make_row, remove_columns=list(dataset.features), features=features)
        return _with_num_rows(stream, num_rows)
    return _check_rows(dataset, make_row, features, source, problems, _TYPES[media](decode=False))


def _load(source: str, split: str | None, streaming: bool) -> tuple[Any, int | None]:
    """The dataset as it is stored, and the number of its rows where that is known without reading them."""
    path = Path(source).expanduser()
    if path.is_file():
        if split is not None:
            raise ValueError(f"`split` has no meaning for one file, but is {split!r}. Leave it out.")
        where: dict[str, Any] = {"path": "parquet", "data_files": {"train": [str(path)]}}
    elif path.is_dir():
        where = {"path": "parquet", "data_dir": str(path)}
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
        builder.download_and_prepare()
        return builder.as_dataset(split=split), None
    stream = builder.as_streaming_dataset(split=split).reshard()
    if path.exists():
        import pyarrow.parquet

        files = builder.config.data_files[split]
        return stream, sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    known = (builder.info.splits or {}).get(split)
    return stream, known.num_examples if known is not None else None


def _with_num_rows(stream: Any, num_rows: int | None) -> Any:
    if num_rows is not None:
        name = str(stream.split)
        stream.info.splits = datasets.SplitDict({name: datasets.SplitInfo(name, num_examples=num_rows)})
    return stream


def _video_column(features: datasets.Features, source: str, media: str) -> str:
    kind = _TYPES[media]
    typed = [name for name, feature in features.items() if isinstance(feature, kind)]
    found = typed if len(typed) == 1 else [name for name in features if name == media]
    if not found:
        raise ValueError(
            f"{source} has no column `{media}` and none of type {kind.__name__}; its columns are {list(features)}."
        )
    return found[0]


def _names(feature: Any, given: list[str] | None, source: str) -> list[str] | None:
    """The names of the labels: the data set's own, or those given."""
    own = getattr(feature, "names", None)
    if own is not None and given is not None and list(own) != given:
        raise ValueError(f"The labels of {source} have other names, {list(own)[:5]}...: leave `label_names` out.")
    names = list(own) if own is not None else given
    if names is None and getattr(feature, "dtype", None) in ("string", "large_string"):
        raise ValueError(
            f"The labels of {source} are names: give all of them, in the order of their numbers, as `label_names`."
        )
    return names


def _make_row(
    row: Mapping[str, Any], video_column: str, is_labelled: bool, num_labels: int | None, number_of: dict[str, int]
) -> dict[str, Any]:
    """A stored row in the form of DESIGN section 5; never raises."""
    video, label, fault = row[video_column], row.get("label"), None
    if isinstance(video, Mapping):
        data, path = video.get("bytes"), video.get("path")
    else:
        data, path = (video, None) if isinstance(video, bytes) else (None, video)
    video_id = row.get("video_id")
    if video_id is None:
        video_id = _make_id(data, path)
    if data is None and path is None:
        fault = "the row holds no video"
    if is_labelled:
        number = number_of.get(label, -1) if isinstance(label, str) else -1 if label is None else int(label)
        if number < 0 or (num_labels is not None and number >= num_labels):
            fault = fault or f"the label {label!r} is none of the {num_labels or ''} labels"
            number = -1
        label = number
    return {"video": {"bytes": data, "path": path, "fault": fault}, "label": label, "video_id": str(video_id)}


def _make_id(data: bytes | None, path: str | None) -> str:
    """The same in a stream and in a map-style dataset, whatever its shards: names alone may repeat."""
    if data is None:
        return str(path)
    digest = hashlib.blake2b(data[:_HASHED_BYTES] + data[-_HASHED_BYTES:] + str(len(data)).encode(), digest_size=8)
    return f"{path}-{digest.hexdigest()}" if path else digest.hexdigest()


def _check_rows(
    dataset: Any,
    make_row: Any,
    features: datasets.Features,
    source: str,
    problems: Problems | None,
    feature: datasets.Video | datasets.Image,
) -> datasets.Dataset:
    """Map-style: the videos stay where they are, labels and ids become new columns beside them."""
    found = Problems() if problems is None else problems
    found.start(source, len(dataset), "row")
    column = make_row.keywords["video_column"]
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
