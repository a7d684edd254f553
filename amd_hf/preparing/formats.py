"""What a prepared folder looks like, so that `load_video_dataset` gives the same labels, ids and order.

    class_folders   [split/]<class>/x.mp4, and metadata.jsonl beside the classes (`videofolder`)
    list            videos/[split/]<class>/x.mp4, and <split>.jsonl (`table`)
    webdataset      <split>-00000.tar
    parquet         data/<split>-00000-of-00002.parquet, with the features of `datasets`

The metadata holds id and label of each video: names of folders alone would give other ids, and another order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .planning import Item


LABEL_NAMES = "label_names.txt"


def file_name(item: Item, format_name: str) -> str:
    """Return the name of a video's file in the output folder, for formats of single files."""
    parts = [item.split] if item.split is not None else []
    return "/".join([*(["videos"] if format_name == "list" else []), *parts, item.name])


def metadata_name(split: str | None, format_name: str) -> str:
    """Return the name of the file that lists the videos of a split."""
    if format_name == "list":
        return f"{split or 'videos'}.jsonl"
    return "metadata.jsonl" if split is None else f"{split}/metadata.jsonl"


def metadata_text(items: Sequence[Item], format_name: str) -> str:
    """Return the lines that list videos: path, label and id of each."""
    lines = []
    for item in items:
        if format_name == "list":
            record: dict[str, Any] = {"path": file_name(item, format_name)}
        else:
            record = {"file_name": item.name}
        if item.label is not None:
            record["label"] = item.class_name if item.class_name != str(item.label) else item.label
        lines.append(json.dumps({**record, "video_id": item.video_id}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def loading_arguments(
    folder: Path, split: str | None, format_name: str, label_names: Sequence[str] | None
) -> dict[str, Any]:
    """Return the arguments of `load_video_dataset` that read a split of a prepared folder."""
    names = {} if label_names is None else {"label_names": str(folder / LABEL_NAMES)}
    if format_name == "list":
        return {"name_or_path": str(folder / metadata_name(split, format_name)), **names}
    return {"name_or_path": str(folder), **({} if split is None else {"split": split}), **names}


__all__ = ["LABEL_NAMES", "file_name", "loading_arguments", "metadata_name", "metadata_text"]
