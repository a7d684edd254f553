"""Long lists as Arrow files in the cache of `datasets`: one process reads a list, the others and later runs map it.

A file of the cache is named by all that its rows depend on: path, size and time of the list, and the options it is
read with. It is written under another name and renamed when it is whole, so nobody ever sees half of one. Ranks of a
node and runs beside each other take turns by a lock; on a disk without locks each reads the list, and one of equal
files stays. A list that is changed without a change of its size and of its time of modification is not noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import datasets
import pyarrow as pa

from ...configuration_amd import AMD_HF_VERSION
from ..remote.files import current_access, is_remote
from .label_names import read_label_names


logger = logging.getLogger(__name__)

_CACHED_LAYOUTS = ("list_file", "frame_list", "table")
_SMALLEST_LIST = 4 << 20  # bytes: some 60,000 lines, read in half a second
_CLOCK_TICK = 2_000_000_000  # nanoseconds in which a list may change and keep its time
_FOLDER = "amd_hf_listings"
_NUM_PATHS_TRIED = 10
_SILENT_SECONDS = 2
_LARGEST_CACHE = 8 << 30  # bytes: some hundred million rows


def listing_key(path: Any, layout: str, options: Mapping[str, Any]) -> str | None:
    """Return a name for the rows of a list; None where they are not cached.

    Args:
        path: the list.
        layout (`str`): how it is read.
        options (mapping): all else that its rows depend on.
    """
    if layout not in _CACHED_LAYOUTS or not datasets.is_caching_enabled():
        return None
    try:
        path = os.path.expanduser(path)
        status = os.stat(path)
    except (OSError, TypeError, ValueError):
        return None  # the reader says what is wrong
    if status.st_size < _SMALLEST_LIST or status.st_mtime_ns > time.time_ns() - _CLOCK_TICK:
        return None
    root = options.get("root")
    given = {
        **options,
        "root": None if root is None else os.path.abspath(os.path.expanduser(root)),
        "label_names": read_label_names(options.get("label_names")),
    }
    described = [
        AMD_HF_VERSION,
        layout,
        os.path.abspath(path),
        status.st_size,
        status.st_mtime_ns,
        given,
        sorted(current_access().allowed),
    ]
    return hashlib.blake2b(
        json.dumps(described, default=str).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def cached_listing(key: str, build: Callable[[], datasets.Dataset], source: str) -> datasets.Dataset:
    """Return the rows of `key`, mapped from the cache; `build` makes them where they are not there yet.

    `source` is named to whoever waits for another process that reads it.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE, _FOLDER)
    file = folder / f"{key}.arrow"
    if (found := _mapped(file)) is not None:
        return found
    with contextlib.ExitStack() as turn:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            turn.enter_context(_taking_turns(folder / f"{key}.lock", source))
        except OSError as error:
            _warn_of_cache(folder, error)
            return build()
        if (found := _mapped(file)) is not None:  # another process has read the list meanwhile
            return found
        rows = build()
        try:
            _write(rows, file)
        except OSError as error:
            _warn_of_cache(folder, error)
            return rows
        _remove_old(folder, file)
    found = _mapped(file)
    return rows if found is None else found


def _warn_of_cache(folder: Path, error: OSError) -> None:
    logger.warning("The cache %s cannot be used, so each process reads the list at each start: %s.", folder, error)


def _mapped(file: Path) -> datasets.Dataset | None:
    """Return the rows of a file of the cache; None where there is none, or none of its first videos is there."""
    try:
        _hold(file)
        rows = datasets.Dataset.from_file(str(file))
    except (OSError, pa.ArrowInvalid):
        return None
    videos = rows[:_NUM_PATHS_TRIED]["video"]
    # Folders may have moved: whoever reads the list then says so.
    paths = [video.get("path") or video.get("frame_folder") or "" for video in videos]
    is_there = any(is_remote(path) or os.path.exists(path) for path in paths)
    return rows if is_there else None


def _write(rows: datasets.Dataset, file: Path) -> None:
    descriptor, unfinished = tempfile.mkstemp(prefix=file.stem, suffix=".part", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as sink, pa.ipc.new_stream(sink, rows.features.arrow_schema) as writer:
            writer.write_table(rows.data.table, max_chunksize=10_000)
        os.replace(unfinished, file)
    except BaseException:
        os.unlink(unfinished)
        raise


@contextlib.contextmanager
def _taking_turns(path: Path, source: str) -> Iterator[None]:
    """Wait until no other process holds a lock; without one where the disk has no locks."""
    with open(path, "w") as file:
        try:
            begun, is_said = time.monotonic(), False
            while not _try_lock(file, is_shared=False):
                if not is_said and time.monotonic() - begun > _SILENT_SECONDS:
                    logger.warning("Waiting for another process, which is reading %s.", source)
                    is_said = True
                time.sleep(0.05)
        except (ImportError, OSError) as error:
            logger.info("No lock in the cache of lists: %s.", error)
        yield


def _try_lock(file: IO[Any], is_shared: bool) -> bool:
    """Lock an open file if no other process keeps it from that; return whether it is locked.

    Raises:
        ImportError, OSError: there are no locks here.
    """
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_held: dict[Path, IO[bytes]] = {}


def _hold(file: Path) -> None:
    """Keep an entry from being removed while this process runs: its workers may open it at any time."""
    with contextlib.suppress(OSError):  # the cache may be another user's
        os.utime(file)  # the entries that were used longest ago are removed first
    opened = open(file, "rb")  # noqa: SIM115 - the lock lasts as long as it is open
    with contextlib.suppress(ImportError, OSError):
        _try_lock(opened, is_shared=True)
    if (before := _held.pop(file, None)) is not None:
        before.close()
    _held[file] = opened


def _remove_old(folder: Path, newest: Path) -> None:
    """Remove the entries that were used longest ago where all together are too large, but none that is in use."""
    entries = []
    for file in folder.glob("*.arrow"):
        with contextlib.suppress(OSError):
            status = file.stat()
            entries.append((status.st_mtime_ns, status.st_size, file))
    excess = sum(size for _, size, _ in entries) - _LARGEST_CACHE
    for _, size, file in sorted(entries):
        if excess <= 0:
            break
        if file != newest:
            with contextlib.suppress(ImportError, OSError), open(file, "rb") as opened:
                if _try_lock(opened, is_shared=False):
                    file.unlink()
                    excess -= size


__all__ = ["cached_listing", "listing_key"]
