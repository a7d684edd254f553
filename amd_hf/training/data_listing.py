"""The listing of a run's training data in its checkpoints: a run that resumes with other data stops and says so."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from ..data.streams import noted_entries, stream_length


LISTING_NAME = "training_data.json.gz"
_COLUMNS = ("video_id", "label", "timestamp", "boxes", "actions")  # what identifies a row; its file may have moved
_MOST_ENTRIES = 2_000_000  # larger sets are listed by their hash alone
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class DataListing:
    """The listing of a training set.

    Args:
        kind (`str`): "rows", "stream", or "sequence" for other datasets, of which only the length is known.
        num_rows (`int`, *optional*): Number of rows, if known.
        digest (`str`): BLAKE2b hash of the entries in their order.
        label_names (`list[str]`, *optional*): Names of the classes by index.
        entries (`list[list[str]]`, *optional*): For each row its id and its other columns as JSON; for each shard of a
            stream its name and size.
    """

    kind: str
    num_rows: int | None
    digest: str
    label_names: list[str] | None = None
    entries: list[list[str]] | None = None


def list_data(rows: Any) -> DataListing:
    """Make the listing of a training set, map-style or streaming."""
    entries: Iterable[list[str]] = ()
    kind, num_rows = "sequence", None
    if isinstance(rows, IterableDataset):
        kind, num_rows = "stream", stream_length(rows)
        entries = noted_entries(rows) or [[f"{rows.num_shards} shards", ""]]
    elif isinstance(rows, Dataset) and "video_id" in rows.column_names:
        kind, num_rows = "rows", len(rows)
        entries = _entries_of_rows(rows)
    elif hasattr(rows, "__len__"):
        num_rows = len(rows)
    digest = hashlib.blake2b(digest_size=16)
    kept: list[list[str]] | None = []
    for entry in entries:
        digest.update("\0".join(entry).encode("utf-8", "surrogatepass") + b"\n")
        if kept is not None:
            kept.append(entry)
            kept = kept if len(kept) <= _MOST_ENTRIES else None  # not held to be thrown away at the end
    label = (getattr(rows, "features", None) or {}).get("label")
    label_names = getattr(label, "names", None)
    return DataListing(kind, num_rows, digest.hexdigest(), label_names and list(label_names), kept)


def _entries_of_rows(rows: Dataset) -> Iterator[list[str]]:
    names = [name for name in _COLUMNS if name in rows.column_names]
    for batch in rows.select_columns(names).iter(batch_size=10_000):
        for values in zip(*(batch[name] for name in names), strict=True):
            yield [str(values[0]), json.dumps(values[1:], default=str)]


def save_listing(checkpoint: Path, listing: DataListing) -> None:
    """Write a listing into a checkpoint; the same listing always gives the same bytes."""
    text = json.dumps(asdict(listing), separators=(",", ":")).encode("utf-8", "surrogatepass")
    (checkpoint / LISTING_NAME).write_bytes(gzip.compress(text, compresslevel=6, mtime=0))


def load_listing(checkpoint: Path) -> DataListing | None:
    """Read the listing of a checkpoint; None if it has none, as in earlier releases.

    Raises:
        ValueError: If it cannot be read.
    """
    path = checkpoint / LISTING_NAME
    if not path.is_file():
        return None
    try:
        with gzip.open(path) as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        return DataListing(**json.loads(text))
    except (OSError, EOFError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no listing of training data: {error}") from error


def differences(before: DataListing, now: DataListing) -> list[str]:
    """Describe what differs between two listings; an empty list means nothing."""
    if now.kind == "stream" and before.kind != "stream":
        return []  # the position in the stream is missing then, which `load_position` reports
    found = []
    if before.kind != now.kind:
        found.append(f"they were {before.kind}, now they are {now.kind}")
    if before.num_rows != now.num_rows:
        found.append(f"{_count(before.num_rows)} before, {_count(now.num_rows)} now")
    if before.label_names != now.label_names:
        found.append(_label_difference(before.label_names or [], now.label_names or []))
    if before.digest != now.digest and before.kind == now.kind:
        if before.entries is None or now.entries is None:
            found.append("other ids, labels or another order (too many to name them)")
        else:
            found += _entry_differences(before.entries, now.entries)
    return found


def _count(number: int | None) -> str:
    return "an unknown number of rows" if number is None else f"{number:,} rows"


def _label_difference(before: Sequence[str], now: Sequence[str]) -> str:
    for index, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return f"class {index} was {old!r} and is {new!r}"
    return f"{len(before)} named classes before, {len(now)} now"


def _entry_differences(before: list[list[str]], now: list[list[str]]) -> list[str]:
    old, new = Counter(entry[0] for entry in before), Counter(entry[0] for entry in now)
    gone = [name for name in dict.fromkeys(entry[0] for entry in before) if old[name] > new[name]]
    added = [name for name in dict.fromkeys(entry[0] for entry in now) if new[name] > old[name]]
    rest: dict[str, str] = dict(before)  # type: ignore[arg-type]
    changed = [name for name, value in now if name in rest and rest[name] != value]
    found = [
        f"{len(names):,} {verb} ({', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''})"
        for names, verb in ((gone, "gone"), (added, "new"), (changed, "with other labels or sizes"))
        if names
    ]
    if not found:
        pairs = zip(before, now, strict=False)
        index = next((index for index, (one, other) in enumerate(pairs) if one[0] != other[0]), 0)
        found.append(f"another order: row {index} was {before[index][0]!r} and is {now[index][0]!r}")
    return found


def check_same_data(checkpoint: Path, now: DataListing) -> str | None:
    """Describe in one line what differs between the data of a checkpoint's run and those given now; None if nothing.

    Raises:
        ValueError: If the listing of the checkpoint cannot be read.
    """
    before = load_listing(checkpoint)
    found = [] if before is None else differences(before, now)
    return "; ".join(found) or None
