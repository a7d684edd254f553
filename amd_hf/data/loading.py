"""`load_video_dataset`: every layout of videos as a `datasets` object with one form of row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import datasets

from .readers.class_folders import read_class_folders
from .readers.list_file import read_list_file
from .readers.rows import VideoRows


LAYOUTS = ("class_folders", "list_file")

NUM_STREAMING_SHARDS = 128
"""Shards of a stream. Workers times processes share them out, so more of those than shards would stand idle."""


def load_video_dataset(
    name_or_path: str | os.PathLike[str],
    split: str | None = None,
    streaming: bool = False,
    layout: str | None = None,
    root: str | os.PathLike[str] | None = None,
    label_names: str | os.PathLike[str] | Sequence[str] | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """List a video data set. Nothing is decoded: a row says where its video lies.

    Args:
        name_or_path (`str` or path): a folder of class folders or of unlabelled videos, or a list file.
        split (`str`, *optional*): sub-folder to read, such as `train`. List files have none.
        streaming (`bool`, defaults to `False`): return an `IterableDataset` of at most 128 shards.
        layout (`str`, *optional*): `class_folders` or `list_file`; by default what `name_or_path` is.
        root (`str` or path, *optional*): folder that the relative paths of a list file start from; by default its own.
        label_names (path or sequence of `str`, *optional*): names of a list file's labels, in their order, or a file
            with one name per line.

    Returns:
        Rows `{"video": {"path": str, "bytes": None}, "label": int | None, "video_id": str}`; `video` is a
        `datasets.Video(decode=False)`, `label` a `ClassLabel` where the labels have names.

    Raises:
        FileNotFoundError: something named does not exist.
        ValueError: no video found, a bad line, an unknown layout, an argument that the layout has no use for.

    Example:
        >>> dataset = load_video_dataset("videos", split="train")  # videos/train/<class>/x.mp4
        >>> dataset[0]
        {'video': {'bytes': None, 'path': '/data/videos/train/left/0.mp4'}, 'label': 0, 'video_id': 'train/left/0.mp4'}
    """
    path = Path(name_or_path).expanduser()
    if layout is None:
        layout = _guess_layout(path)
    if layout == "class_folders":
        _refuse(layout, root=root, label_names=label_names)
        rows = read_class_folders(path, split)
    elif layout == "list_file":
        _refuse(layout, split=split)
        names = Path(label_names).expanduser() if isinstance(label_names, str | os.PathLike) else label_names
        rows = read_list_file(path, None if root is None else Path(root).expanduser(), names)
    else:
        raise ValueError(f"`layout` must be one of {list(LAYOUTS)} or None, not {layout!r}.")
    dataset = _to_dataset(rows)
    return dataset.to_iterable_dataset(min(NUM_STREAMING_SHARDS, len(dataset))) if streaming else dataset


def _guess_layout(path: Path) -> str:
    if path.is_dir():
        return "class_folders"
    if path.is_file():
        return "list_file"
    raise FileNotFoundError(
        f"There is no file or folder {str(path)!r}. Give a folder of class folders, a folder of videos, or a list "
        "file with one `path label` per line."
    )


def _refuse(layout: str, **arguments: object) -> None:
    """An argument that would be ignored is most likely a mistake."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"`{name}` has no meaning for the layout {layout!r}, but is {value!r}. Leave it out.")


def _to_dataset(rows: VideoRows) -> datasets.Dataset:
    label_feature = (
        datasets.Value("int64") if rows.label_names is None else datasets.ClassLabel(names=list(rows.label_names))
    )
    columns = {
        "video": [{"path": path, "bytes": None} for path in rows.paths],
        "label": [None] * len(rows.paths) if rows.labels is None else list(rows.labels),
        "video_id": list(rows.video_ids),
    }
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": label_feature, "video_id": datasets.Value("string")}
    )
    return datasets.Dataset.from_dict(columns, features=features)
