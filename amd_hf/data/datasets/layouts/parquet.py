"""Parquet files, data sets of the Hub and those of `datasets` in memory: a column of videos or images, and labels."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import datasets.table
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ....video_reading_amd import VideoReadError
from ...remote.cache import open_cached, open_file
from ...remote.files import current_access, expand_addresses, is_of_split, is_remote, shown
from ...streams import note_entries, noted_entries
from ..label_names import MAX_LABEL
from ..own import MAX_ID_LENGTH, MEDIA_TYPES, STORED_VIDEO_FEATURE, RowMaker, find_labels, label_names_in, video_column
from ..problems import Kind, Problems
from ..rows import row_features
from .class_folders import SPLIT_NAMES


logger = logging.getLogger(__name__)

_MOST_FILES_KNOWN = 64  # whose metadata, some 100 kB for 100 row groups, stay in memory
_ROWS_AT_ONCE = 64
_NUM_CONNECTIONS = 16  # that read the metadata of files at addresses

_BAD_ROW = Kind("cannot be used", "cannot be used", "Write the file anew without them.")


def read_parquet(
    source: str,
    problems: Problems,
    split: str | None = None,
    label_names: list[str] | None = None,
    streaming: bool = False,
    media: str = "video",
    label_column: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Read the videos of a Parquet file, of a folder of them, or of a data set on the Hub.

    The column of videos has the type `Video` or the name `video` (for images `Image` or `image`); that of labels has
    the name `label` and is a `ClassLabel`, integers, or names. WebDataset repositories have `cls`, or a `label` in
    their `json`. A column `video_id` is used where there is one (its
    values must be unique); otherwise an id is made of the name and the bytes of the video.

    Args:
        source (`str`): a `.parquet` file, a folder of them, an address of either, or the Hub id of a data set.
        problems (`Problems`): where bad rows of a map-style dataset go.
        split (`str`, *optional*): may be left out where there is only one.
        label_names (list of `str`, *optional*): required where labels are names without a `ClassLabel`;
            an error where a `ClassLabel` names them otherwise.
        streaming (`bool`, defaults to `False`): one shard per row group. A row without a usable video or label comes
            out as one whose video cannot be read (its `fault` says why), with label -1. Map-style `datasets` copies
            the videos to its cache once.
        media (`str`, defaults to `"video"`): `video` or `image`.
        label_column (`str`, *optional*): the column of labels (or the key of `json`), by default as said above.

    Raises:
        FileNotFoundError: no such file, folder or data set.
        ValueError: an unknown split, no column of videos or no `label_column`, labels of several classes each, or
            labels that are names without `label_names`.
    """
    return _read(_load(source, split, streaming), source, label_names, problems, media, label_column)


def read_hub(
    source: str,
    problems: Problems,
    split: str | None = None,
    label_names: list[str] | None = None,
    streaming: bool = False,
    media: str = "video",
    label_column: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Read a data set of the Hub, or a folder with the files of one, in whatever form `datasets` reads it.

    The arguments are those of `read_parquet`.
    """
    loaded = _load(source, split, streaming, is_hub=True)
    return _read(loaded, source, label_names, problems, media, label_column)


class _Loaded(NamedTuple):
    """A data set as it is stored, and what is known without reading its rows."""

    dataset: datasets.Dataset | datasets.IterableDataset
    num_rows: int | None = None
    groups: list[tuple[str, int]] | None = None  # file and index of each row group, of a stream of local files


def _read(
    loaded: _Loaded,
    source: str,
    label_names: list[str] | None,
    problems: Problems,
    media: str,
    label_column: str | None,
) -> datasets.Dataset | datasets.IterableDataset:
    dataset, num_rows, groups = loaded
    if dataset.features is None:
        raise ValueError(f"The columns of {source} have no declared types, so they cannot be read as a stream.")
    column = video_column(dataset.features, source, media)
    entries = noted_entries(dataset) if isinstance(dataset, datasets.IterableDataset) else None
    if isinstance(dataset.features[column], MEDIA_TYPES[media]):
        dataset = dataset.cast_column(column, MEDIA_TYPES[media](decode=False))
    label_path = find_labels(dataset.features, label_column, source)
    names = label_names_in(dataset.features, label_path, label_names, source)
    make_row = RowMaker(column, label_path, names)
    features = row_features(STORED_VIDEO_FEATURE, names)
    if not isinstance(dataset, datasets.IterableDataset):
        return _check_rows(dataset, make_row, features, source, problems, MEDIA_TYPES[media](decode=False))
    if groups is not None:
        arguments = {"files": [file for file, _ in groups], "groups": [group for _, group in groups]}
        reader = _RowGroupReader(make_row, dataset.features)
        stream = datasets.IterableDataset.from_generator(reader, features, arguments, dataset.split)
    else:
        # The row itself goes through `map` once; what is wrong with it is said in the row, since an exception here
        # would end the stream silently.
        stream = dataset.map(make_row, remove_columns=list(dataset.features), features=features)
    if num_rows is not None:
        name = str(stream.split)
        stream.info.splits = datasets.SplitDict({name: datasets.SplitInfo(name, num_examples=num_rows)})
    return note_entries(stream, entries or ())


class _RowGroupReader:
    """Maker of the rows of row groups of Parquet files, here or at addresses.

    The reader of `datasets` parses a file's metadata anew for each of its row groups: n of them take n * n steps. Here
    they are parsed once, and only the columns that rows are made of are read. Where a file at an address fails for
    good, the rest of its row group is one row whose video cannot be read.

    Args:
        make_row (`RowMaker`): makes a row of a stored one.
        features (`datasets.Features`): the columns as they are stored.
    """

    def __init__(self, make_row: RowMaker, features: datasets.Features) -> None:
        self._make_row = make_row
        used = (make_row.video_column, *make_row.label_path[:1], "video_id", "__key__", "__url__")
        self._schema = datasets.Features({name: features[name] for name in features if name in used}).arrow_schema
        self._metadata: dict[str, pq.FileMetaData] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_metadata": {}}

    def __call__(self, files: Sequence[str], groups: Sequence[int]) -> Iterator[dict[str, Any]]:
        for path, group in zip(files, groups, strict=True):
            try:
                yield from self._rows(path, group)
            except VideoReadError as error:
                yield {
                    "video": {"bytes": None, "path": None, "fault": str(error)},
                    "label": -1 if self._make_row.label_path else None,
                    "video_id": f"{os.path.basename(path)}, row group {group}",
                }

    def _rows(self, path: str, group: int) -> Iterator[dict[str, Any]]:
        with contextlib.ExitStack() as opened:
            source = opened.enter_context(open_file(path)) if is_remote(path) else path
            file = opened.enter_context(pq.ParquetFile(source, metadata=self._metadata.get(path)))
            while len(self._metadata) >= _MOST_FILES_KNOWN and path not in self._metadata:
                del self._metadata[next(iter(self._metadata))]
            self._metadata[path] = file.metadata
            for batch in file.iter_batches(
                _ROWS_AT_ONCE, row_groups=[group], columns=self._schema.names, use_threads=False
            ):
                table = datasets.table.table_cast(pa.Table.from_batches([batch]), self._schema)
                for stored in table.to_pylist():
                    yield self._make_row(stored)


def _load(source: str, split: str | None, streaming: bool, is_hub: bool = False) -> _Loaded:
    if is_remote(source):
        return _load_remote(source, split, streaming)
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
        return _prepare(builder, source, split)
    stream = builder.as_streaming_dataset(split=split)
    files = list((builder.config.data_files or {}).get(split, ()))
    entries = [_entry(file) for file in files]
    if path.exists() and all(file.endswith(".parquet") for file in files):
        return _by_groups(note_entries(stream, entries), files, [pq.read_metadata(file) for file in files])
    described = (builder.info.splits or {}).get(split)
    return _Loaded(note_entries(stream.reshard(), entries), described.num_examples if described is not None else None)


def _prepare(builder: Any, source: str, split: str | None) -> _Loaded:
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{source} cannot be read: {error.__cause__ or error}") from error
    return _Loaded(builder.as_dataset(split=split))


def _by_groups(stream: Any, files: Sequence[str], metadata: Sequence[pq.FileMetaData]) -> _Loaded:
    groups = [
        (file, group) for file, known in zip(files, metadata, strict=True) for group in range(known.num_row_groups)
    ]
    return _Loaded(stream, sum(known.num_rows for known in metadata), groups)


def _load_remote(source: str, split: str | None, streaming: bool) -> _Loaded:
    """Load Parquet files at addresses: as a stream of row groups, or all of them out of the cache."""
    access = current_access()
    files = expand_addresses(source, ".parquet", access, split)
    splits = sorted({name for name in SPLIT_NAMES if any(is_of_split(file, name) for file in files)})
    if split is None and len(splits) > 1:
        raise ValueError(f"{shown(source)} has the splits {splits}: choose one of them with `split`.")
    name = split or "train"
    if not streaming:
        if access.cache_dir is None:
            raise ValueError(
                f"The Parquet files at {shown(source)} are read row by row in any order only from this machine: "
                "`--cache_dir FOLDER` fetches them (Python: `remote=RemoteAccess(cache_dir=...)`), or read them as a "
                "stream."
            )
        with contextlib.ExitStack() as held:
            paths = [held.enter_context(open_cached(file)).path for file in files]
            return _prepare(datasets.load_dataset_builder("parquet", data_files={name: paths}), shown(source), name)
    with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
        metadata = list(pool.map(_read_metadata, files))
    features = datasets.Features.from_arrow_schema(metadata[0].schema.to_arrow_schema())
    stream = datasets.IterableDataset.from_generator(iter, features, {"object": ()}, datasets.NamedSplit(name))
    return _by_groups(note_entries(stream, [(os.path.basename(file), "") for file in files]), files, metadata)


def _read_metadata(address: str) -> pq.FileMetaData:
    with open_file(address) as file:
        return pq.read_metadata(file)


def _entry(file: str) -> tuple[str, str]:
    """Return a file's name, without the revision of its repository, and its size where it lies here."""
    name = re.sub(r"@[0-9a-f]+/", "/", str(file))
    return (Path(name).name, f"{os.path.getsize(file)} bytes") if os.path.exists(file) else (name, "")


def _check_rows(
    dataset: Any,
    make_row: RowMaker,
    features: datasets.Features,
    source: str,
    problems: Problems,
    feature: datasets.Video | datasets.Image,
) -> datasets.Dataset:
    """Check the rows of a map-style dataset: videos stay where they are, labels and ids become columns beside them."""
    problems.start(source, len(dataset), "row")
    column = make_row.video_column
    parts = _video_parts(dataset, column)
    columns, is_plain = _plain_columns(dataset, make_row, parts)
    odd = np.flatnonzero(~is_plain)
    found: dict[str, list[Any]] = {name: [] for name in columns}
    for number, stored in zip(odd, _stored_rows(dataset, make_row, parts, odd), strict=True):
        row = make_row(stored)
        if row["video"]["fault"] is not None:
            problems.add(source, int(number) + 1, _BAD_ROW, f"{row['video_id']}: {row['video']['fault']}")
        for name, values in found.items():
            values.append(row[name])
    if len(odd):
        mask = pa.array(~is_plain)
        for name, array in columns.items():
            columns[name] = pc.replace_with_mask(array, mask, pa.array(found[name], array.type))
    videos = dataset.select_columns([column])
    if column != "video":
        videos = videos.rename_column(column, "video")
    if not isinstance(videos.features["video"], type(feature)):
        videos = videos.cast_column("video", feature)
    kinds = datasets.Features({name: features[name] for name in columns})
    table = datasets.table.InMemoryTable(pa.table(columns).cast(kinds.arrow_schema))
    beside = datasets.Dataset(table, info=datasets.DatasetInfo(features=kinds))
    return datasets.concatenate_datasets([videos, beside], axis=1)


def _video_parts(dataset: Any, column: str) -> pa.Table | None:
    """Return whether each video has bytes, and its path; None where the column holds other things than these two.

    Whether a row has bytes stands in the bitmap of the column: not a page of the videos is read.
    """
    videos = dataset.data.column(column)
    if not pa.types.is_struct(videos.type) or {"bytes", "path"} != {field.name for field in videos.type}:
        return None
    return pa.table({"given": pc.is_valid(pc.struct_field(videos, "bytes")), "path": pc.struct_field(videos, "path")})


def _plain_columns(dataset: Any, make_row: RowMaker, parts: pa.Table | None) -> tuple[dict[str, pa.Array], np.ndarray]:
    """Return labels and ids of all rows, and a mask of the rows that these are right for: `make_row` makes the others.

    A million rows one by one take half a minute. Plain are rows with a video, a label that is a number or a name of a
    class, and an id that is printable ASCII.
    """
    num_rows = len(dataset)
    columns = {"label": pa.nulls(num_rows, pa.int64()), "video_id": pa.nulls(num_rows, pa.string())}
    path = make_row.label_path
    if parts is None or len(path) > 1 or "video_id" not in dataset.column_names:
        return columns, np.zeros(num_rows, dtype=bool)
    ids = dataset.data.column("video_id")
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type) or pa.types.is_integer(ids.type)):
        return columns, np.zeros(num_rows, dtype=bool)
    ids = _one_array(ids.cast(pa.string()))
    columns["video_id"] = ids
    has_video = pc.or_(parts["given"], pc.is_valid(parts["path"]))
    tests = [pc.ascii_is_printable(ids), pc.less_equal(pc.binary_length(ids), MAX_ID_LENGTH), has_video]
    if path:
        labels = _plain_labels(dataset.data.column(path[0]), make_row.names)
        if labels is None:
            return columns, np.zeros(num_rows, dtype=bool)
        columns["label"] = labels
        tests.append(pc.is_valid(labels))
    return columns, np.logical_and.reduce(
        [pc.fill_null(test, False).to_numpy(False) for test in map(_one_array, tests)]
    )


def _plain_labels(stored: pa.ChunkedArray, names: Sequence[str] | None) -> pa.Array | None:
    """Return labels as numbers of classes, null where one is none; None where none can be read as they stand."""
    if names is not None and (pa.types.is_string(stored.type) or pa.types.is_large_string(stored.type)):
        number_of = {name: number for number, name in enumerate(names)}
        known = pa.array(number_of, stored.type)
        found = pc.index_in(stored, known, skip_nulls=True)
        return _one_array(pa.array(number_of.values(), pa.int64()).take(found))
    if not pa.types.is_integer(stored.type):
        return None
    largest = min(MAX_LABEL, len(names) - 1) if names is not None else MAX_LABEL
    is_label = pc.and_(pc.greater_equal(stored, 0), pc.less_equal(stored, largest))
    return _one_array(pc.if_else(is_label, stored, None).cast(pa.int64()))


def _one_array(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _stored_rows(
    dataset: Any, make_row: RowMaker, parts: pa.Table | None, numbers: np.ndarray
) -> Iterable[Mapping[str, Any]]:
    """Return some stored rows, with empty bytes in place of those of videos where ids are not made of the bytes."""
    if not len(numbers):
        return ()
    column = make_row.video_column
    used = {column, *make_row.label_path[:1], "video_id", "__key__", "__url__"}
    rows = dataset.select_columns([name for name in dataset.column_names if name in used]).select(numbers)
    if parts is None or "video_id" not in dataset.column_names or dataset.data.column("video_id").null_count:
        return rows
    batches = (batch.to_pydict() for batch in parts.take(pa.array(numbers)).to_batches())
    videos = (video for batch in batches for video in zip(batch["given"], batch["path"], strict=True))
    return (
        {**row, column: {"bytes": b"" if given else None, "path": path}}
        for (given, path), row in zip(videos, rows.remove_columns(column), strict=True)
    )
