"""WebDataset tar shards: members `<key>.<suffix>` that follow each other are one sample.

    00017.mp4    the video (.mp4, .webm, .avi, ...), or the image (.jpg, .png, ...)
    00017.cls    its label as a number; or .json {"label": number or name}; or .txt with the name

Rows name the archive, offset and size of a video; its bytes are read by whoever opens it. Going on inside a shard
therefore reads the headers of what was consumed, not the videos.
"""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from .label_names import read_label_names
from .problems import Kind, Problems
from .rows import MEDIA_SUFFIXES, row_features


_VIDEO_FEATURE = {
    "archive": datasets.Value("string"),
    "offset": datasets.Value("int64"),
    "size": datasets.Value("int64"),
    "fault": datasets.Value("string"),
}
_BLOCK = 512  # bytes of a tar header

_BAD_SAMPLE = Kind("cannot be used", "cannot be used", "Write the shards anew without them.")


def read_webdataset(
    pattern: str,
    split: str | None = None,
    label_names: str | Path | Sequence[str] | None = None,
    streaming: bool = False,
    problems: Problems | None = None,
    media: str = "video",
) -> datasets.Dataset | datasets.IterableDataset:
    """Read the videos of tar shards, in the sorted order of the shards.

    Args:
        pattern (`str`): one `.tar`, a glob of them, or a folder of them.
        split (`str`, *optional*): of a folder: the folder inside it, or the beginning of the shards' names.
        label_names (path or sequence of `str`, *optional*): required where labels are names.
        streaming (`bool`, defaults to `False`): one shard per tar, listed while it is read. A sample without a
            usable video or label comes out as a row whose video cannot be read, with label -1; map-style all shards
            are listed first, and such samples are raised.
        problems (`Problems`, *optional*): where bad samples are collected; without it they are raised.
        media (`str`, defaults to `"video"`): which members count, `video` or `image`.

    Returns:
        Rows whose `video` is `{"archive": str, "offset": int, "size": int, "fault": str | None}`; a `video_id` is
        `<tar>/<key>`.

    Raises:
        FileNotFoundError: no shard.
        ValueError: labels that are names without `label_names`, or bad samples.
    """
    shards = find_shards(pattern, split)
    names = read_label_names(label_names)
    is_labelled = _check_first_label(shards, names)
    features = row_features(_VIDEO_FEATURE, names)
    if streaming:
        arguments = {
            "shards": shards,
            "label_names": None if names is None else tuple(names),
            "is_labelled": is_labelled,
            "media": media,
        }
        return datasets.IterableDataset.from_generator(generate_rows, features=features, gen_kwargs=arguments)
    found = Problems() if problems is None else problems
    rows = []
    for shard in shards:
        shard_rows = list(generate_rows([shard], names, is_labelled, media))
        found.start(shard, len(shard_rows), "sample")
        for number, row in enumerate(shard_rows, start=1):
            if row["video"]["fault"] is not None:
                found.add(shard, number, _BAD_SAMPLE, f"{row['video_id']}: {row['video']['fault']}")
            else:
                rows.append(row)
    if problems is None:
        found.raise_if_any()
    columns = {name: [row[name] for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features)


def find_shards(pattern: str, split: str | None) -> list[str]:
    """Sorted absolute paths of the tar files that a path, a glob or a folder (and split) means."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        folder = path / split if split is not None and (path / split).is_dir() else path
        shards = sorted(str(file) for file in folder.glob("*.tar"))
        if split is not None and folder == path:
            shards = [shard for shard in shards if _is_of_split(os.path.basename(shard), split)]
    elif split is not None:
        raise ValueError(f"`split` has no meaning for the shards {pattern!r}, but is {split!r}. Leave it out.")
    else:
        shards = [str(path)] if path.is_file() else sorted(glob.glob(str(path)))
    if not shards:
        where = f" of the split {split!r}" if split is not None else ""
        raise FileNotFoundError(f"There is no tar shard{where} at {pattern!r}.")
    return [os.path.abspath(shard) for shard in shards]


def _is_of_split(name: str, split: str) -> bool:
    return name.startswith(split) and not name[len(split) :][:1].isalpha()


def generate_rows(
    shards: Sequence[str], label_names: Sequence[str] | None, is_labelled: bool, media: str = "video"
) -> Iterator[dict[str, Any]]:
    """Rows of tar shards; never raises for what a shard holds.

    `label_names` is a tuple in a stream: `datasets` takes each list of arguments for one of shards.
    """
    number_of = None if label_names is None else {name: number for number, name in enumerate(label_names)}
    for shard in shards:
        for key, members, fault in _samples(shard):
            row = {
                "video": {"archive": shard, "offset": 0, "size": 0, "fault": fault},
                "label": -1 if is_labelled else None,
                "video_id": f"{os.path.basename(shard)}/{key}",
            }
            try:
                if fault is None:
                    row |= _parse_sample(shard, members, number_of, is_labelled, media)
            except (ValueError, OSError) as error:
                row["video"]["fault"] = str(error)  # type: ignore[index]
            yield row


def _parse_sample(
    shard: str, members: dict[str, tuple[int, int]], number_of: dict[str, int] | None, is_labelled: bool, media: str
) -> dict[str, Any]:
    videos = [suffix for suffix in members if f".{suffix.rpartition('.')[2].lower()}" in MEDIA_SUFFIXES[media]]
    if len(videos) != 1:
        raise ValueError(f"the sample holds {len(videos)} {media}s; its members are {', '.join(members)}")
    offset, size = members[videos[0]]
    row: dict[str, Any] = {"video": {"archive": shard, "offset": offset, "size": size, "fault": None}}
    if is_labelled:
        label = _read_label(shard, members, number_of is not None)
        if label is None:
            raise ValueError(f"the sample holds no label; its members are {', '.join(members)}")
        row["label"] = _label_number(label, number_of)
    return row


def _read_label(shard: str, members: dict[str, tuple[int, int]], has_names: bool) -> int | str | None:
    """The label of a sample, None where it has none. A text is one only where there are names: it may be a caption."""
    if "cls" in members:
        text = _read_text(shard, *members["cls"])
        return int(text) if text.isascii() and text.isdecimal() else text
    if "json" in members:
        content = json.loads(_read_text(shard, *members["json"]))
        if isinstance(content, dict) and content.get("label") is not None:
            value = content["label"]
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise ValueError(f"the `label` of the json member is neither a number nor a name: {value!r}")
            return value
    return _read_text(shard, *members["txt"]) if has_names and "txt" in members else None


def _read_text(shard: str, offset: int, size: int) -> str:
    with open(shard, "rb") as file:
        file.seek(offset)
        return file.read(size).decode("utf-8-sig").strip()


def _label_number(label: int | str, number_of: dict[str, int] | None) -> int:
    if isinstance(label, str) and number_of is not None and label in number_of:
        return number_of[label]
    if isinstance(label, str):
        raise ValueError(f"the label {label!r} is none of the label names")
    if label < 0 or (number_of is not None and label >= len(number_of)):
        raise ValueError(f"the label {label} is no number from 0 to {len(number_of or ()) - 1}")
    return label


def _samples(shard: str) -> Iterator[tuple[str, dict[str, tuple[int, int]], str | None]]:
    """(key, {suffix: (offset, size)}, fault) of each sample; damage of the archive is a last sample with a fault."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    fault = None
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isfile() or not stem or not suffix:
                    continue
                member_key = f"{folder}/{stem}" if folder else stem
                if key is not None and member_key != key:
                    yield key, members, None
                    members = {}
                key = member_key
                members[suffix] = (member.offset_data, member.size)
            _check_end(shard, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        fault = f"the archive is damaged after the sample {key}: {error}"
    if key is not None:
        yield key, members, None
    if fault is not None:
        yield "damaged", {}, fault


def _check_end(shard: str, offset: int) -> None:
    """Tell the end of an archive from a damaged header, where `tarfile` ends without a word."""
    with open(shard, "rb") as file:
        file.seek(offset)
        if file.read(_BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"no header where one should be, at byte {offset}")


def _check_first_label(shards: Sequence[str], names: Sequence[str] | None) -> bool:
    """Whether the samples have labels: whether one of the first shard has."""
    for _, members, _ in _samples(shards[0]):
        try:
            label = _read_label(shards[0], members, names is not None)
        except (ValueError, OSError):
            continue
        if isinstance(label, str) and names is None:
            raise ValueError(
                f"The labels of {shards[0]} are names such as {label!r}: give all names, in the order of their "
                "numbers, as `label_names`."
            )
        if label is not None:
            return True
    return False
