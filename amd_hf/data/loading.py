"""`load_video_dataset`: every layout of videos as a `datasets` object with one form of row.

The layouts themselves, and how to add one, are in `datasets/layouts/__init__.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .datasets.label_names import near_name, read_label_names
from .datasets.layouts import LAYOUTS, NAMES_ANY_FILE, guess_layout, has_splits
from .datasets.listing_cache import cached_listing, listing_key
from .datasets.own import as_video_rows
from .datasets.problems import Problems
from .datasets.rows import MEDIA_SUFFIXES, VideoRows
from .remote.cache import local_copy
from .remote.files import RemoteAccess, check_address, current_access, expand_addresses, folder_of, is_remote, shown
from .streams import note_entries


_ADAPTED = ("label_names", "media", "label_column")  # what a `datasets` object takes

REMOTE_LAYOUTS = ("list_file", "table", "webdataset", "parquet")
"""Layouts that are read at an address."""

_LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".list", ".lst")

NUM_STREAMING_SHARDS = 128
"""Shards of a stream of files. Processes divide them, so more processes than shards stand idle."""


def load_video_dataset(
    name_or_path: Any,
    split: str | None = None,
    streaming: bool = False,
    layout: str | None = None,
    root: str | os.PathLike[str] | None = None,
    label_names: str | os.PathLike[str] | Sequence[str] | None = None,
    fold: int | None = None,
    frame_pattern: str | None = None,
    media: str | None = None,
    label_column: str | None = None,
    unlabelled: bool = False,
    remote: RemoteAccess | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """List a video data set. Nothing is decoded: a row says where its video lies. `docs/data.md` shows each layout.

    Args:
        name_or_path (`str`, path or `datasets` object): a folder or file of one of the layouts, a glob of tar shards,
            a Hub id, or your own `Dataset` or stream (see `datasets.own.as_video_rows`). Also the address
            (`https://`, `s3://`, `hf://`, ...) of a list file, a table, tar shards or Parquet files.
        split (`str`, *optional*): part to read, such as `train`. A list file or table is one part by itself.
        streaming (`bool`, defaults to `False`): return an `IterableDataset`. Its shards: one per tar, one per row
            group of Parquet files, else at most 128, over which the files are spread at random.
        layout (`str`, *optional*): one of `LAYOUTS`; by default inferred from `name_or_path`. A data set on the Hub
            must be asked for by `hub`.
        root (`str` or path, *optional*): folder that the relative paths of an annotation file start from, by default
            its own; for the benchmark data sets the folder of the videos.
        label_names (path or sequence of `str`, *optional*): names of the labels in their order, or a file with one
            name per line, where the data does not name them or not all of them.
        fold (`int`, *optional*): official split 1 (default), 2 or 3 of UCF101 and HMDB51.
        frame_pattern (`str`, *optional*): name of a frame's file in a `frame_list`, by default `img_%05d.jpg`.
        media (`str`, *optional*): `video` (default) or `image`: an image is a video of one frame.
        label_column (`str`, *optional*): of tables, metadata, tar shards (a suffix, or a key of the json), Parquet and
            data sets of the Hub: the column of the labels, by default `label`.
        unlabelled (`bool`, defaults to `False`): of folders: walk all of it and give no labels.
        remote ([`RemoteAccess`], *optional*): where addresses may lead beside the data's own and `root`, and the cache
            of what lies there. It holds for this process, and those that it starts, from now on.

    Returns:
        Rows of `video`, `label` (`int` or None) and `video_id` (`str`), and the other columns of a folder's metadata.
        `label` is a `ClassLabel` where the labels
        have names. `video` is what `open_video` takes: `{"path": str, "bytes": None}` for files, `{"path", "bytes"}`
        for Parquet, `{"frame_folder", "num_frames", "frame_pattern"}` for frames, and
        `{"archive", "offset", "size", "fault"}` for tar shards. The length of a stream is the `num_examples` of its
        `info.splits`, except for tar shards, whose samples are not counted.

    Raises:
        FileNotFoundError: something named does not exist.
        ValueError: no video found, bad lines (names the first 20), an unknown layout, or an argument that the layout
            has no use for.

    Example:
        >>> dataset = load_video_dataset("videos", split="train")  # videos/train/<class>/x.mp4
        >>> dataset[0]
        {'video': {'bytes': None, 'path': '/data/videos/train/left/0.mp4'}, 'label': 0, 'video_id': 'train/left/0.mp4'}
    """
    given = {
        "split": split,
        "root": root,
        "label_names": label_names,
        "fold": fold,
        "frame_pattern": frame_pattern,
        "media": media,
        "label_column": label_column,
        "unlabelled": unlabelled or None,
    }
    if not isinstance(name_or_path, str | os.PathLike):
        return _adapt(name_or_path, layout, given, streaming)
    allow_sources(name_or_path, root, remote=remote)
    problems = Problems()
    with _here(name_or_path, given, problems) as here:
        layout = choose_layout(here, split, layout, unlabelled)
        key = None if here is not name_or_path else listing_key(here, layout, given)

        def read() -> Any:
            rows = _read(here, layout, given, streaming, problems)
            problems.raise_if_any()
            return rows

        rows = read() if key is None else cached_listing(key, lambda: read().to_dataset(key), shown(str(here)))
    if key is None and not isinstance(rows, VideoRows):
        return rows
    dataset = rows.to_dataset() if isinstance(rows, VideoRows) else rows
    if not streaming:
        return dataset
    mixed = datasets.Dataset(dataset.data.table.take(_mixed_order(dataset)), info=dataset.info)
    return _as_stream(mixed, split or "train")


def allow_sources(*sources: Any, remote: RemoteAccess | None = None) -> None:
    """Allow the addresses among what the user named as data: their folders. `remote` has further rules.

    Raises:
        ValueError: an address with credentials in it, or one that names nothing elsewhere.
    """
    addresses = [source for source in sources if is_remote(source)]
    if remote is None and not addresses:
        return
    # What was allowed stays so: loaders of other data may still be about to start their workers.
    access = current_access() if remote is None else remote.allow(*current_access().allowed)
    for address in addresses:
        check_address(address)
        is_file = address.lower().endswith((*_LIST_SUFFIXES, ".tar", ".parquet")) or re.search("[{*]", address)
        access = access.allow(folder_of(re.split("[{*]", address)[0] + "x") if is_file else address.rstrip("/"))
    access.use()


@contextmanager
def _here(name_or_path: str | os.PathLike[str], given: dict[str, Any], problems: Problems) -> Iterator[Any]:
    """Hold a list file at an address on this machine; relative paths in it start from the folder at its address.

    What is wrong with it is said of its address.
    """
    if not is_remote(name_or_path) or not str(name_or_path).lower().endswith(_LIST_SUFFIXES):
        yield name_or_path
        return
    address = str(name_or_path)
    with local_copy(address) as path:
        if given.get("root") is None:
            given["root"] = folder_of(address)
        try:
            yield path
        except (ValueError, FileNotFoundError) as error:
            message = str(error).replace(str(path), shown(address))
            if type(error) not in (ValueError, FileNotFoundError) or message == str(error):
                raise
            raise type(error)(message) from error
        problems.found = [problem._replace(file=shown(address)) for problem in problems.found]


def _adapt(rows: Any, layout: str | None, given: Mapping[str, Any], streaming: bool) -> Any:
    """Return a `datasets` object in the form of rows; of several splits the one that is asked for."""
    split = given["split"]
    if isinstance(rows, datasets.DatasetDict | datasets.IterableDatasetDict) and split is not None:
        if split not in rows:
            raise ValueError(f"The data set has the splits {list(rows)}, not {split!r}{near_name(split, rows)}.")
        rows, given = rows[split], {**given, "split": None}
    _refuse("a data set of `datasets`", {"layout": layout} | {n: v for n, v in given.items() if n not in _ADAPTED})
    names = read_label_names(given["label_names"])
    dataset = as_video_rows(rows, media=given["media"], label_column=given["label_column"], label_names=names)
    if dataset is rows and not isinstance(rows, datasets.Dataset | datasets.IterableDataset):
        raise TypeError(f"Give a path, a Hub id or a data set of `datasets`, not {type(rows).__name__}.")
    is_stream = isinstance(dataset, datasets.IterableDataset)
    if is_stream or not streaming:
        return dataset
    return _as_stream(dataset.select(_mixed_order(dataset)), str(dataset.split or "train"))


def _mixed_order(dataset: datasets.Dataset) -> np.ndarray:
    # Files are listed class by class: in shards of that order a batch would hold a few classes only.
    return np.random.default_rng(0).permutation(len(dataset))


def _as_stream(dataset: datasets.Dataset, name: str) -> datasets.IterableDataset:
    stream = dataset.to_iterable_dataset(min(NUM_STREAMING_SHARDS, len(dataset)))
    labels = dataset["label"] if "label" in dataset.column_names else [None] * len(dataset)
    note_entries(stream, zip(dataset["video_id"], map(str, labels), strict=True))
    stream.info.splits = datasets.SplitDict({name: datasets.SplitInfo(name, num_examples=len(dataset))})
    return stream


def load_image_dataset(name_or_path: str | os.PathLike[str], **options: Any) -> Any:
    """List an image data set: [`load_video_dataset`] with `media="image"`, whose other options it takes.

    The layouts are class folders, list files and tables, WebDataset shards, Parquet and the Hub's data sets. Rows have
    the same form as those of videos, `video` included: an image is a video of one frame.

    Args:
        name_or_path (`str`, path or `datasets` object): a folder or file of one of the layouts, or a Hub id.
        **options (`Any`): the other arguments of [`load_video_dataset`] but `media`.

    Returns:
        `datasets.Dataset | datasets.IterableDataset`: rows of `video`, `label` and `video_id`.
    """
    return load_video_dataset(name_or_path, media="image", **options)


def choose_layout(
    name_or_path: str | os.PathLike[str], split: str | None = None, layout: str | None = None, unlabelled: bool = False
) -> str:
    """Return the layout asked for, or else the one that `name_or_path` looks like.

    Raises:
        FileNotFoundError: there is nothing at `name_or_path`.
        ValueError: an unknown layout, or metadata that cannot be used though labels are wanted.
    """
    if layout is None and is_remote(name_or_path):
        return _remote_layout(str(name_or_path))
    if layout is None:
        return guess_layout(Path(name_or_path).expanduser(), split, unlabelled)
    if is_remote(name_or_path) and layout not in REMOTE_LAYOUTS:
        raise ValueError(
            f"The layout {layout!r} is not read at an address ({shown(str(name_or_path))}): those that are, are "
            f"{list(REMOTE_LAYOUTS)}. Download the data, or pack them into shards."
        )
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {list(LAYOUTS)} or None, not {layout!r}.")
    return layout


def _remote_layout(address: str) -> str:
    """Return the layout of what lies at an address, by its name; of a folder by the names of its files."""
    name = address.lower().rstrip("/")
    by_suffix = {".tar": "webdataset", ".parquet": "parquet", ".csv": "table", ".jsonl": "table"}
    for suffix, layout in by_suffix.items():
        if name.endswith(suffix):
            return layout
    if name.endswith(_LIST_SUFFIXES):
        return "list_file"
    access = current_access()
    for suffix in (".tar", ".parquet"):
        for folder in (address, f"{address.rstrip('/')}/*/*{suffix}"):  # or folders of splits
            with contextlib.suppress(FileNotFoundError):
                expand_addresses(folder, suffix, access)
                return by_suffix[suffix]
    raise FileNotFoundError(
        f"There is no list, tar or Parquet file at {shown(address)}: name a list file (.txt, .csv, .jsonl), shards "
        "(.tar) or Parquet files, or the folder of shards or of Parquet files."
    )


def takes_label_names(layout: str) -> bool:
    """Return whether label names can be given for a layout; the others bring their own."""
    return "label_names" in _parameters(layout)


def takes_split(name_or_path: str | os.PathLike[str], layout: str | None = None) -> bool:
    """Return whether `load_video_dataset` can be asked for a split: a list file, say, is one by itself.

    Raises:
        FileNotFoundError, ValueError: see `choose_layout`.
    """
    layout = choose_layout(name_or_path, None, layout, unlabelled=True)
    if is_remote(name_or_path):
        return "split" in _parameters(layout) and not re.search(r"\.\w+$|[*{]", str(name_or_path))
    return "split" in _parameters(layout) and has_splits(Path(name_or_path).expanduser(), layout)


def validate_annotations(
    name_or_path: str | os.PathLike[str], layout: str | None = None, **arguments: Any
) -> Problems:
    """Read a data set as `load_video_dataset` does and list everything that is wrong with it, missing files too.

    Args:
        name_or_path, layout: see `load_video_dataset`.
        **arguments: the others of `load_video_dataset`, except `streaming`.

    Returns:
        `Problems`: `found` lists each bad line with its number, in the order of the file.

    Raises:
        FileNotFoundError, ValueError: what cannot be said of a line: a missing or empty file, a header without a
            column, an unknown split, a layout without annotations.
    """
    allow_sources(name_or_path, arguments.get("root"), remote=arguments.pop("remote", None))
    problems = Problems(check_files=True)
    with _here(name_or_path, arguments, problems) as here:
        return _validate(here, layout, arguments, problems)


def _validate(
    name_or_path: str | os.PathLike[str], layout: str | None, arguments: Mapping[str, Any], problems: Problems
) -> Problems:
    layout = choose_layout(name_or_path, arguments.get("split"), layout, bool(arguments.get("unlabelled")))
    if "problems" not in _parameters(layout):
        raise ValueError(
            f"{name_or_path} is read as {layout!r}, a layout without annotation files: there are none to check. "
            "`amd-hf check` opens the videos themselves."
        )
    _read(name_or_path, layout, arguments, False, problems)
    problems.found.sort(key=lambda problem: (problem.file, problem.number))
    return problems


def _parameters(layout: str) -> Mapping[str, inspect.Parameter]:
    """Return what the function of a layout takes behind the path."""
    return dict(list(inspect.signature(LAYOUTS[layout]).parameters.items())[1:])


def _read(
    name_or_path: str | os.PathLike[str], layout: str, given: Mapping[str, Any], streaming: bool, problems: Problems
) -> Any:
    """Call the function of a layout with those of the options `given` that it has parameters for; refuse others."""
    if (media := given.get("media")) not in (None, *MEDIA_SUFFIXES):
        raise ValueError(f"`media` must be one of {list(MEDIA_SUFFIXES)} or None, not {media!r}.")
    if layout in NAMES_ANY_FILE or media == "video":
        given = {**given, "media": None}
    parameters = _parameters(layout)
    _refuse(layout, {name: value for name, value in given.items() if name not in parameters})
    options = {"label_names": None, **given, "problems": problems, "streaming": streaming}
    options["label_names"] = read_label_names(options["label_names"])
    if options.get("root") is not None and not is_remote(options["root"]):
        options["root"] = Path(options["root"]).expanduser()
    arguments = {
        name: options.get(name)
        for name, parameter in parameters.items()
        if options.get(name) is not None or parameter.default is parameter.empty
    }
    # Addresses and globs are no paths: those who make the dataset themselves get the text.
    path = os.fspath(name_or_path) if "streaming" in parameters else Path(name_or_path).expanduser()
    return LAYOUTS[layout](path, **arguments)


def _refuse(layout: str, arguments: Mapping[str, object]) -> None:
    """Refuse arguments that a layout has no use for: to ignore one would most likely hide a mistake."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"`{name}` has no meaning for the layout {layout!r}, but is {value!r}. Leave it out.")
