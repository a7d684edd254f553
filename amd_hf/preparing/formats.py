"""What a prepared folder looks like, so that `load_video_dataset` gives the same labels, ids and order.

    class_folders   [split/]<class>/x.mp4, and metadata.jsonl beside the classes (`videofolder`)
    list            videos/[split/]<class>/x.mp4, and <split>.jsonl (`table`)
    webdataset      <split>-00000.tar, with members .mp4, .cls and .video_id
    parquet         data/<split>-00000-of-00002.parquet, with the features of `datasets`
    frames          frames/<split>/<video_id>/img_00001.jpg, and <split>.txt (`frame_list`)

The metadata holds id and label of each video: names of folders alone would give other ids, and another order.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.datasets.rows import row_features
from ..data.loading import load_video_dataset
from .manifest import WORK_NAME
from .planning import Item, frame_folder


LABEL_NAMES = "label_names.txt"

_ROWS_PER_GROUP = 50  # a shard of a stream: what a worker holds in memory while it shuffles


# ---------------------------------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------------------------------


def is_sharded(format_name: str) -> bool:
    """Return whether many videos share a file."""
    return format_name in ("webdataset", "parquet")


def shard_name(item: Item, format_name: str, num_videos: int, videos_per_shard: int) -> str:
    """Return the name of the shard that a video belongs to, of a split of `num_videos`."""
    number = item.index // videos_per_shard
    if format_name == "webdataset":
        return f"{item.split or 'videos'}-{number:05d}.tar"
    return f"data/{item.split or 'train'}-{number:05d}-of-{-(-num_videos // videos_per_shard):05d}.parquet"


def file_name(item: Item, format_name: str) -> str:
    """Return the name of a video's file in the output folder; in shards, the one that it has until then."""
    if is_sharded(format_name):
        return f"{WORK_NAME}/{item.split or 'videos'}-{item.index:08d}.mp4"
    if format_name == "frames":
        return f"frames/{item.split or 'videos'}/{frame_folder(item.video_id, item.name)}"
    parts = [item.split] if item.split is not None else []
    return "/".join([*(["videos"] if format_name == "list" else []), *parts, item.name])


def metadata_name(split: str | None, format_name: str) -> str:
    """Return the name of the file that lists the videos of a split."""
    if format_name in ("list", "frames"):
        return f"{split or 'videos'}.{'jsonl' if format_name == 'list' else 'txt'}"
    return "metadata.jsonl" if split is None else f"{split}/metadata.jsonl"


def metadata_text(items: Sequence[Item], num_frames: Sequence[int], format_name: str) -> str:
    """Return the lines that list videos: path, label and id of each; of folders of frames their number."""
    lines = []
    for item, count in zip(items, num_frames, strict=True):
        if format_name == "frames":
            label = [] if item.label is None else [item.label]
            lines.append(" ".join(map(str, (frame_folder(item.video_id, item.name), count, *label))))
            continue
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
    if format_name == "frames":
        return {
            "name_or_path": str(folder / metadata_name(split, format_name)),
            "layout": "frame_list",
            "root": str(folder / "frames" / (split or "videos")),
            **names,
        }
    if format_name == "parquet":  # its columns have the names
        names = {}
    return {"name_or_path": str(folder), **({} if split is None else {"split": split}), **names}


# ---------------------------------------------------------------------------------------------------------------------
# Shards
# ---------------------------------------------------------------------------------------------------------------------


def write_shard(
    path: Path, format_name: str, items: Sequence[Item], files: Sequence[Path], label_names: Sequence[str] | None
) -> None:
    """Write a shard of videos, to the same bytes each time.

    Args:
        path (`Path`): the file to write.
        format_name (`str`): `webdataset` or `parquet`.
        items (sequence of `Item`): the videos.
        files (sequence of `Path`): the file of each.
        label_names (sequence of `str`, *optional*): names of the labels.
    """
    if format_name == "webdataset":
        _write_tar(path, items, files)
    else:
        _write_parquet(path, items, files, label_names)


def _write_tar(path: Path, items: Sequence[Item], files: Sequence[Path]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for item, file in zip(items, files, strict=True):
            members = {"mp4": file.read_bytes(), "video_id": item.video_id.encode()}
            if item.label is not None:
                members["cls"] = str(item.label).encode()
            for suffix, content in members.items():
                # A key has no dot, and no name of ours: owners and times are zero.
                header = tarfile.TarInfo(f"{item.index:08d}.{suffix}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def _write_parquet(
    path: Path, items: Sequence[Item], files: Sequence[Path], label_names: Sequence[str] | None
) -> None:
    features = row_features(datasets.Video(), label_names)
    if all(item.label is None for item in items):
        del features["label"]
    schema = features.arrow_schema
    # Videos are compressed already; a dictionary would hold each of them twice.
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, len(items), _ROWS_PER_GROUP):
            group = slice(start, start + _ROWS_PER_GROUP)
            columns = {
                "video": [
                    {"bytes": file.read_bytes(), "path": item.name.rpartition("/")[2]}
                    for item, file in zip(items[group], files[group], strict=True)
                ],
                "label": [item.label for item in items[group]],
                "video_id": [item.video_id for item in items[group]],
            }
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def read_parquet_labels(folder: Path, split: str | None) -> list[tuple[str, int | None]]:
    """Read id and label of each video of a split, without the videos."""
    found: list[tuple[str, int | None]] = []
    for file in sorted((folder / "data").glob(f"{split or 'train'}-*.parquet")):
        columns = pq.read_table(file, columns=[n for n in pq.read_schema(file).names if n != "video"]).to_pydict()
        found += zip(columns["video_id"], columns.get("label", [None] * len(columns["video_id"])), strict=True)
    return found


def read_back(folder: Path, format_name: str, items: Sequence[Item], loading: Mapping[str, Any]) -> list[Any]:
    """Return where prepared videos lie, as `open_video` takes it; in shards these are the first of a split."""
    if format_name == "frames":
        rows = load_video_dataset(**loading)
        by_id = dict(zip(rows["video_id"][:], rows["video"][:], strict=True))
        return [by_id[frame_folder(item.video_id, item.name)] for item in items]
    if not is_sharded(format_name):
        return [{"path": str(folder / file_name(item, format_name)), "bytes": None} for item in items]
    if format_name == "webdataset":
        return load_video_dataset(**loading)[: len(items)]["video"]
    found: list[Any] = []
    for file in sorted((folder / "data").glob(f"{items[0].split or 'train'}-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=len(items), columns=["video"]):
            found += batch.column("video").to_pylist()
            if len(found) >= len(items):
                return found[: len(items)]
    return found


__all__ = [
    "LABEL_NAMES", "file_name", "is_sharded", "loading_arguments", "metadata_name", "metadata_text", "read_back",
    "read_parquet_labels", "shard_name", "write_shard",
]  # fmt: skip
