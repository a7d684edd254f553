"""The cache of files at addresses: a folder that the ranks of a run, and several runs, share.

    cache_dir/amd_hf_usage           bytes of these files, about; locked while room is made
    cache_dir/ab/ab12.json           size and version of the file at an address; its time is that of the comparison
    cache_dir/ab/ab12-cd34.mp4       the file in one version
    cache_dir/ab/ab12-cd34.lock      locked by those who read that file (shared) or fetch it (exclusive)
    cache_dir/ab/ab12-cd34-9000.part what has come of its 9000 bytes; another attempt or process goes on there

A file is whole or absent: it gets its name when all of it is there, and is never written again. What takes the least
recently used files away leaves those that are locked. Locks are `flock`'s, which end with the process that holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...outputs.folders import replace_file
from .files import (
    FileChanged,
    Identity,
    RemoteAccess,
    RemoteError,
    RemoteFile,
    RemoteStream,
    check_allowed,
    current_access,
    is_remote,
    read_bytes,
    read_identity,
    shown,
)


logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TOUCHES = 60  # of the time that says when a file was last used
_FRACTION_LEFT = 0.9  # of the bound, after files were taken away: so that it is not done for each new one
_NUM_RESTARTS = 5  # of a transfer whose file became another one
_READ_AT_ONCE = 1 << 16  # bytes of a request for headers of archives
_OWN_SUFFIXES = (".json", ".lock", ".part")
# Files of the cache by their names: whatever else lies in the folder is somebody's, neither counted nor removed.
_CACHED_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}(-\d+)?\.[a-z0-9]+")


class CachedFile:
    """A file of the cache that nobody takes away until `close`, or until nothing refers to this object any more.

    Args:
        path (`str`): where it lies.
        lock (`int`): descriptor of its lock.
    """

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    def close(self) -> None:
        """Allow that the file is taken away."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> CachedFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("A file of the cache is held by the process that opened it: pass its address on.")


def open_cached(address: str, max_bytes: int | None = None) -> CachedFile:
    """Return a file of the cache, fetched now if it is not there or another one lies at its address.

    Args:
        address (`str`): one that [`current_access`] allows; its `cache_dir` is set.
        max_bytes (`int`, *optional*): a larger file is refused before it is fetched.

    Raises:
        RemoteError: it cannot be fetched, or does not fit into the cache.
    """
    access = current_access()
    check_allowed(address, access)
    for _ in range(_NUM_RESTARTS):
        identity, about = _current_identity(address, access)
        if max_bytes is not None and identity.size > max_bytes:
            raise RemoteError(
                f"it is {identity.size} bytes, above the limit of {max_bytes} (`max_file_bytes`)",
                source=shown(address),
            )
        try:
            return _open_version(address, identity, about, access)
        except FileChanged:
            about.unlink(missing_ok=True)
    raise RemoteError("it changes again and again while it is fetched", source=shown(address))


def open_file(name: str, is_read_whole: bool = False) -> Any:
    """Open a file of this machine, or one at an address that is allowed, for reading bytes; through the cache if set.

    Args:
        name (`str`): path or address.
        is_read_whole (`bool`, defaults to `False`): most of it will be read, from its beginning to its end.

    Raises:
        OSError: as `open`.
        RemoteError: it cannot be fetched.
    """
    if not is_remote(name):
        return open(name, "rb")
    if current_access().cache_dir is None:
        return io.BufferedReader(RemoteFile(name, is_read_whole), _READ_AT_ONCE)
    with open_cached(name) as held:
        return open(held.path, "rb")  # what is open stays readable when its name is taken away


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """Hold a small file, such as a list, as a file of this machine: of the cache, or one for this block alone."""
    if current_access().cache_dir is not None:
        with open_cached(address) as held:
            yield Path(held.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / posixpath.basename(urlsplit(address).path)
        path.write_bytes(read_bytes(address))
        yield path


def _current_identity(address: str, access: RemoteAccess) -> tuple[Identity, Path]:
    """Return what lies at an address by the last comparison, made now if that is too old; and where it is noted."""
    assert access.cache_dir is not None
    name = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
    about = Path(access.cache_dir) / name[:2] / f"{name}.json"
    try:
        if time.time() - about.stat().st_mtime < access.recheck_seconds:
            values = json.loads(about.read_text())
            return Identity(int(values["size"]), str(values["version"])), about
    except (OSError, ValueError, KeyError, TypeError):  # not there, or of another release
        pass
    identity = read_identity(address, access)
    about.parent.mkdir(parents=True, exist_ok=True)
    replace_file(about, json.dumps({"address": shown(address), **identity._asdict()}).encode())
    return identity, about


def _open_version(address: str, identity: Identity, about: Path, access: RemoteAccess) -> CachedFile:
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    base = about.with_name(f"{about.stem}-{digest}")
    suffix = os.path.splitext(urlsplit(address).path)[1].lower()
    is_plain = suffix[1:].isalnum() and len(suffix) <= 10 and suffix not in _OWN_SUFFIXES
    file = Path(f"{base}{suffix if is_plain else '.bin'}")
    while True:
        lock = _lock(Path(f"{base}.lock"), fcntl.LOCK_SH)
        if _is_whole(file, identity):
            if time.time() - file.stat().st_mtime > _SECONDS_BETWEEN_TOUCHES:
                os.utime(file)
            return CachedFile(str(file), lock)
        os.close(lock)
        # Between the two locks another process may fetch the file, or take it away: hence the loop.
        lock = _lock(Path(f"{base}.lock"), fcntl.LOCK_EX)
        try:
            if not _is_whole(file, identity):
                _fetch(address, identity, Path(f"{base}-{identity.size}.part"), file, access)
        finally:
            os.close(lock)


def _is_whole(file: Path, identity: Identity) -> bool:
    try:
        return file.stat().st_size == identity.size
    except FileNotFoundError:
        return False


def _lock(file: Path, kind: int) -> int:
    """Wait for a lock and return its descriptor."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, kind)
        if _is_there(descriptor, file):  # else it was taken away with its file while this process waited
            return descriptor
        os.close(descriptor)


def _is_there(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _fetch(address: str, identity: Identity, part: Path, file: Path, access: RemoteAccess) -> None:
    """Fetch what is missing of a file, under its exclusive lock."""
    file.unlink(missing_ok=True)
    start = part.stat().st_size if part.exists() else 0
    if start > identity.size:
        part.unlink()
        start = 0
    _make_room(address, identity.size - start, access)
    with open(part, "ab") as target:
        if start < identity.size:
            for chunk in RemoteStream(address, access, start, None, identity):
                target.write(chunk)
    part.replace(file)


# ---------------------------------------------------------------------------------------------------------------------
# The bound
# ---------------------------------------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    """A file of the cache, or the beginning of one."""

    last_used: float
    num_bytes: int
    path: str


def _make_room(address: str, num_bytes: int, access: RemoteAccess) -> None:
    """Count a file that is about to be fetched, and take others away where the bound would be exceeded."""
    assert access.cache_dir is not None
    cache, bound = Path(access.cache_dir), int(access.cache_gigabytes * 1e9)
    if num_bytes > bound:
        raise RemoteError(
            f"its {num_bytes} bytes do not fit into the cache of {bound}: raise `--cache_gigabytes`",
            source=shown(address),
        )
    with _usage(cache) as usage:
        usage.seek(0)
        text = usage.read()
        used = int(text) if text.isdecimal() else _scan(cache)[0]
        if used + num_bytes > bound:
            used, stored = _scan(cache)  # the exact number: processes that were killed have counted what never came
            for old in sorted(stored):
                if used + num_bytes <= bound * _FRACTION_LEFT:
                    break
                if _take_away(Path(old.path)):
                    used -= old.num_bytes
        if used + num_bytes > bound:
            raise RemoteError(
                f"the cache {cache} is full of files that are in use ({used} of {bound} bytes): raise "
                "`--cache_gigabytes`",
                source=shown(address),
            )
        usage.seek(0)
        usage.truncate()
        usage.write(str(used + num_bytes))


@contextmanager
def _usage(cache: Path) -> Iterator[Any]:
    with open(cache / "amd_hf_usage", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file  # closing unlocks


def _scan(cache: Path) -> tuple[int, list[_Stored]]:
    """Return the bytes of all files, and the files."""
    stored = []
    for folder in os.scandir(cache):
        for entry in os.scandir(folder.path) if folder.is_dir() else ():
            suffix = os.path.splitext(entry.name)[1]
            if suffix in (".json", ".lock") or not _CACHED_NAME.fullmatch(entry.name):
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            # What is being fetched counts whole: its process has made room for all of it.
            whole = os.path.splitext(entry.name)[0].rpartition("-")[2]
            is_fetched = suffix == ".part" and whole.isdecimal() and _is_locked(Path(entry.path))
            stored.append(_Stored(status.st_mtime, int(whole) if is_fetched else status.st_size, entry.path))
    return sum(file.num_bytes for file in stored), stored


def _lock_of(file: Path) -> Path:
    """Return the lock of a file, or of the beginning of one: both are named by address and version."""
    return file.with_name("-".join(file.name.split(".")[0].split("-")[:2]) + ".lock")


def _is_locked(file: Path) -> bool:
    try:
        descriptor = os.open(_lock_of(file), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take_away(file: Path) -> bool:
    """Remove a file that nobody uses; return whether it is gone."""
    lock = _lock_of(file)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_there(descriptor, lock):
            return False
        file.unlink(missing_ok=True)
        lock.unlink()
    except OSError:  # in use, or another user's
        return False
    finally:
        os.close(descriptor)
    return True
