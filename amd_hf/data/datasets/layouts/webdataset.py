"""WebDataset tar shards: members `<key>.<suffix>` that follow each other are one sample.

    00017.mp4    the video (.mp4, .webm, .avi, ...), or the image (.jpg, .png, ...)
    00017.cls    its label as a number; or .json {"label": number or name}; or .txt with the name
    00017.video_id    the id of the row; without it the id is `<tar>/<key>`

Rows name the archive, offset and size of a video; its bytes are read by whoever opens it. Going on inside a shard
therefore reads the headers of what was consumed, not the videos.

Shards may come from strangers: whatever a sample holds is a fault of that sample. Sizes are compared with the file's
own before anything is read.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import datasets

from ...remote.cache import open_file
from ...remote.files import current_access, expand_addresses, is_of_split, is_remote
from ...streams import note_entries
from ...video.source import MAX_MEMBER_BYTES
from ..label_names import as_label, label_number
from ..own import STORED_VIDEO_FEATURE
from ..problems import Kind, Problems, printable, shorten
from ..rows import MEDIA_SUFFIXES, row_features
from ..text_files import parse_json


_VIDEO_FEATURE = {
    "archive": datasets.Value("string"),
    "offset": datasets.Value("int64"),
    "size": datasets.Value("int64"),
    "fault": datasets.Value("string"),
}
_BLOCK = 512  # bytes of a tar header
_MAX_TEXT_BYTES = 1 << 20  # of a label, or of a json member
_MAX_HEADER_BYTES = 1 << 20  # of a long name or of the records in front of a member, which `tarfile` reads whole
_MAX_MEMBERS = 1000  # of a sample
_FAULTS_OF_ARCHIVES = (tarfile.TarError, OSError, EOFError, ValueError, LookupError, OverflowError, RecursionError)

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\3\4": "zip",
}

_Members = dict[str, tuple[int, int]]  # suffix: offset and size of its bytes

_BAD_SAMPLE = Kind("cannot be used", "cannot be used", "Write the shards anew without them.")


def read_webdataset(
    pattern: str,
    problems: Problems,
    split: str | None = None,
    label_names: list[str] | None = None,
    streaming: bool = False,
    media: str = "video",
    label_column: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Read the videos of tar shards, in the sorted order of the shards.

    Args:
        pattern (`str`): one `.tar`, a glob of them, or a folder of them; or an address of these (see
            `remote.files.expand_addresses`).
        problems (`Problems`): where bad samples go.
        split (`str`, *optional*): of a folder: the folder inside it, or the beginning of the shards' names.
        label_names (list of `str`, *optional*): required where labels are names.
        streaming (`bool`, defaults to `False`): one shard per tar, listed while it is read. A sample without a
            usable video or label comes out as a row whose video cannot be read, with label -1; map-style all shards
            are listed first, and such samples go to `problems`.
        media (`str`, defaults to `"video"`): which members count, `video` or `image`.
        label_column (`str`, *optional*): suffix of the member that is the label, or its key in the json member; by
            default `cls`, then the key `label`.

    Returns:
        Rows whose `video` is `{"archive": str, "offset": int, "size": int, "fault": str | None}`; a `video_id` is
        `<tar>/<key>`, or what a member `.video_id` says. A stream of shards at addresses that are not cached holds the
        bytes instead, as `{"bytes", "path", "fault"}`: each shard is read once, from its beginning to its end.

    Raises:
        FileNotFoundError: no shard.
        ValueError: labels that are names without `label_names`.
    """
    shards = find_shards(pattern, split)
    names = label_names
    is_labelled = _check_first_label(shards, names, label_column)
    is_elsewhere = is_remote(shards[0])
    has_bytes = streaming and is_elsewhere and current_access().cache_dir is None
    features = row_features(STORED_VIDEO_FEATURE if has_bytes else _VIDEO_FEATURE, names)
    if streaming:
        arguments = {
            "shards": shards,
            "label_names": None if names is None else tuple(names),
            "is_labelled": is_labelled,
            "media": media,
            "label_column": label_column,
            "has_bytes": has_bytes,
        }
        stream = datasets.IterableDataset.from_generator(generate_rows, features=features, gen_kwargs=arguments)
        sizes = ["" if is_elsewhere else f"{os.path.getsize(shard)} bytes" for shard in shards]
        return note_entries(stream, zip(map(os.path.basename, shards), sizes, strict=True))
    rows = []
    for shard in shards:
        shard_rows = list(generate_rows([shard], names, is_labelled, media, label_column))
        problems.start(shard, len(shard_rows), "sample")
        for number, row in enumerate(shard_rows, start=1):
            if row["video"]["fault"] is not None:
                problems.add(shard, number, _BAD_SAMPLE, f"{row['video_id']}: {row['video']['fault']}")
            else:
                rows.append(row)
    columns = {name: [row[name] for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features)


def find_shards(pattern: str, split: str | None) -> list[str]:
    """Return sorted absolute paths or addresses of the tar files that a path, a glob or a folder (and split) means."""
    if is_remote(pattern):
        return expand_addresses(pattern, ".tar", current_access(), split)
    path = Path(pattern).expanduser()
    if path.is_dir():
        folder = path / split if split is not None and (path / split).is_dir() else path
        shards = sorted(str(file) for file in folder.glob("*.tar"))
        if split is not None and folder == path:
            shards = [shard for shard in shards if is_of_split(shard, split)]
    elif split is not None:
        raise ValueError(f"`split` has no meaning for the shards {pattern!r}, but is {split!r}. Leave it out.")
    else:
        shards = [str(path)] if path.is_file() else sorted(glob.glob(str(path)))
    if not shards:
        where = f" of the split {split!r}" if split is not None else ""
        raise FileNotFoundError(f"There is no tar shard{where} at {pattern!r}.")
    return [os.path.abspath(shard) for shard in shards]


def generate_rows(
    shards: Sequence[str],
    label_names: Sequence[str] | None,
    is_labelled: bool,
    media: str = "video",
    label_column: str | None = None,
    has_bytes: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of tar shards; never raise for what a shard holds.

    `label_names` is a tuple in a stream: `datasets` takes each list of arguments for one of shards. `has_bytes` puts
    the bytes of the videos into the rows.
    """
    number_of = None if label_names is None else {name: number for number, name in enumerate(label_names)}
    for shard in shards:
        for key, members, fault, archive in _samples(shard, is_read_whole=has_bytes):
            row: dict[str, Any] = {
                "video": {"archive": shard, "offset": 0, "size": 0, "fault": fault},
                "label": -1 if is_labelled else None,
                "video_id": f"{os.path.basename(shard)}/{key}",
            }
            try:
                if fault is None:
                    row |= _parse_sample(shard, archive, members, number_of, is_labelled, media, label_column)
                    if has_bytes:
                        row["video"] = _read_video(archive, row["video"], row["video_id"])
            except (ValueError, OSError) as error:
                row["video"]["fault"] = printable(str(error), 500)
            if has_bytes and "bytes" not in row["video"]:
                row["video"] = {"bytes": None, "path": None, "fault": row["video"]["fault"]}
            yield row


def _read_video(archive: Any, where: dict[str, Any], name: str) -> dict[str, Any]:
    if where["size"] > MAX_MEMBER_BYTES:
        raise ValueError(f"the file is {where['size']} bytes, above the limit of {MAX_MEMBER_BYTES}")
    archive.seek(where["offset"])
    data = archive.read(where["size"])
    if len(data) < where["size"]:
        raise ValueError(f"the archive ends {where['size'] - len(data)} bytes before the end of the video")
    return {"bytes": data, "path": name, "fault": None}


def _parse_sample(
    shard: str,
    archive: BinaryIO | None,
    members: _Members,
    number_of: dict[str, int] | None,
    is_labelled: bool,
    media: str,
    label_column: str | None,
) -> dict[str, Any]:
    videos = [suffix for suffix in members if f".{suffix.rpartition('.')[2].lower()}" in MEDIA_SUFFIXES[media]]
    if len(videos) != 1:
        raise ValueError(f"the sample holds {len(videos)} {media}s; its members are {', '.join(members)}")
    offset, size = members[videos[0]]
    row: dict[str, Any] = {"video": {"archive": shard, "offset": offset, "size": size, "fault": None}}
    if is_labelled:
        label = _read_label(archive, members, number_of, label_column)
        if label is None:
            raise ValueError(f"the sample holds no label; its members are {', '.join(members)}")
        row["label"] = label_number(label, number_of)
    if "video_id" in members:
        row["video_id"] = printable(_read_text(archive, *members["video_id"]), 1000)
    return row


def _read_label(
    archive: BinaryIO | None, members: _Members, number_of: dict[str, int] | None, label_column: str | None
) -> int | str | None:
    """Return the label of a sample, or None. A text is one only where there are names: it may be a caption.

    Raises:
        ValueError: what stands there is no label.
    """
    suffix = label_column if label_column in members else "cls" if label_column is None else None
    if suffix in members:
        return as_label(_read_text(archive, *members[suffix]), number_of)
    if "json" in members:
        content = parse_json(_read_text(archive, *members["json"]))
        value = content.get(label_column or "label") if isinstance(content, dict) else None
        if value is not None:
            return as_label(value, number_of)
    if label_column is not None or number_of is None or "txt" not in members:
        return None
    return _read_text(archive, *members["txt"])


def _read_text(archive: BinaryIO | None, offset: int, size: int) -> str:
    assert archive is not None, "a sample with members was met in an open archive"
    if size > _MAX_TEXT_BYTES:
        raise ValueError(f"the label or json takes {size} bytes, more than {_MAX_TEXT_BYTES}")
    archive.seek(offset)  # `tarfile` looks where it is before it reads on
    return archive.read(size).decode("utf-8-sig").strip()


class _CheckedHeader(tarfile.TarInfo):
    """A header of a tar whose extensions (long names, PAX records) are not larger than they may be."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedHeader:
        header = super().frombuf(buf, encoding, errors)
        is_extension = header.type in (
            tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )  # fmt: skip
        if header.size < 0 or (is_extension and header.size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header that takes {header.size} bytes")
        return header


def _samples(shard: str, is_read_whole: bool = False) -> Iterator[tuple[str, _Members, str | None, BinaryIO | None]]:
    """Yield (key, {suffix: (offset, size)}, fault, archive) of each sample; damage is the fault of a last one.

    The archive is open, for labels to be read from it, until the next sample is asked for.
    """
    sample: _Sample | None = None
    seen: set[bytes] = set()
    fault = archive = None
    with contextlib.ExitStack() as opened:
        try:
            archive = opened.enter_context(open_file(shard, is_read_whole))
            for member in _members(archive):
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if member.isdir() or not stem or not suffix:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample is not None and key != sample.key:
                    yield *sample.finish(seen), archive
                    sample = None
                sample = sample or _Sample(key)
                sample.add(member, suffix)
        except _FAULTS_OF_ARCHIVES as error:
            where = f"after the sample {printable(sample.key)}" if sample is not None else "before its first sample"
            fault = _compression_fault(archive) or f"the archive is damaged {where}: {printable(str(error))}"
        if sample is not None:
            yield *sample.finish(seen), archive
        if fault is not None:
            yield "damaged", {}, fault, archive


def _compression_fault(archive: BinaryIO | None) -> str | None:
    if archive is None:
        return None
    try:
        archive.seek(0)
        start = archive.read(6)
    except OSError:
        return None
    name = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if name is None:
        return None
    return f"the archive is compressed ({name}): uncompress it to a plain tar, of which videos are read in place"


class _Sample:
    """The members of one sample as they are met."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.members: _Members = {}
        self.fault: str | None = None

    def add(self, member: tarfile.TarInfo, suffix: str) -> None:
        suffix = printable(suffix)
        if not member.isreg() or member.issparse():
            self.fault = f"its member .{suffix} is a link, a device or sparse, not a file with its bytes"
        elif suffix in self.members:
            self.fault = f"it holds two members .{suffix}"
        elif len(self.members) == _MAX_MEMBERS:
            self.fault = f"it holds more than {_MAX_MEMBERS} members"
        else:
            self.members[suffix] = (member.offset_data, member.size)

    def finish(self, seen: set[bytes]) -> tuple[str, _Members, str | None]:
        """Return what is to be said of it; `seen` holds hashes of the keys of the shard, which name samples."""
        digest = hashlib.blake2b(self.key.encode("utf-8", "surrogatepass"), digest_size=8)
        key = printable(self.key)
        if len(self.key) > len(key):
            key += digest.hexdigest()
        if digest.digest() in seen:
            self.fault = self.fault or f"an earlier sample has the same name {key}"
            key = f"{key}#{len(seen)}"
        seen.add(digest.digest())
        return key, {} if self.fault else self.members, self.fault


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar; raises one of `_FAULTS_OF_ARCHIVES` where it is damaged."""
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_CheckedHeader) as archive:
        offset = -1
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            # A PAX record may give any size: a negative one leads back to where reading has been.
            if not 0 <= member.size < 2**62 or member.offset <= offset:
                raise tarfile.ReadError(f"the member {member.name} claims {member.size} bytes")
            offset = member.offset
            if member.isreg() and not member.issparse() and member.offset_data > num_bytes:
                raise tarfile.ReadError(f"the member {member.name} begins behind the end of the archive")
            yield member
        # `tarfile` ends silently at a damaged header, as at the end of the archive.
        file.seek(archive.offset)
        if file.read(_BLOCK).strip(b"\0"):
            raise tarfile.ReadError(f"no header where one should be, at byte {archive.offset}")


def _check_first_label(shards: Sequence[str], names: Sequence[str] | None, label_column: str | None) -> bool:
    """Return whether the samples have labels: whether one of the first shard has."""
    number_of = None if names is None else {name: number for number, name in enumerate(names)}
    suffixes: set[str] = set()
    for _, members, _, archive in _samples(shards[0]):
        suffixes |= set(members) if len(suffixes) < _MAX_MEMBERS else set()
        try:
            label = _read_label(archive, members, number_of, label_column)
        except (ValueError, OSError):
            continue
        if isinstance(label, str) and names is None:
            raise ValueError(
                f"The labels of {shards[0]} are names such as {shorten(label)}: give all names, in the order of their "
                "numbers, as `label_names`."
            )
        if label is not None:
            return True
    if label_column is not None:
        raise ValueError(
            f"No sample of {shards[0]} has a label {label_column!r}, as the suffix of a member or a key of its json; "
            f"the suffixes are {sorted(suffixes)[:20]}."
        )
    return False
