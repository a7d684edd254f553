"""Files at addresses (`https://`, `s3://`, `hf://`, any protocol of fsspec): which may be fetched, and their bytes.

A row of a data set may come from a stranger, and an address in it may lead into the own network. So nothing is
fetched that does not lie below an address that the user named: as the data, as the root of a list, or as allowed
([`RemoteAccess`]). What was named is noted in the environment, where the workers of a data loader and the processes of
a launcher find it. Credentials come from the environment too: an address that holds any is refused.

http and https go through `video_fetching_amd`, which guards redirects; all others through fsspec.
"""

from __future__ import annotations

import dataclasses
import http.client
import importlib.util
import io
import json
import logging
import os
import posixpath
import random
import re
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ...video_fetching_amd import open_address
from ...video_reading_amd import VideoReadError


logger = logging.getLogger(__name__)

_VARIABLE = "AMD_HF_REMOTE_ACCESS"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What is on this machine, or names files in other files: the user gives a path instead.
_LOCAL_SCHEMES = ("file", "local", "data", "reference", "zip", "tar", "dir")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_.-])(?:token|secret|password|passwd|pwd|key|apikey|auth|authorization|credentials?|sig|signature|sas)"
    r"(?:$|[_.-])|accesskeyid"
)
_SECRET_VALUE = re.compile(r"hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}")

_CHUNK = 1 << 20  # bytes asked of a connection at once
_RANGE = 8 << 20  # bytes of a request through fsspec, which answers with all of them or none
_PROGRESS = 1 << 16  # a connection that brought so many bytes was worth another round of attempts
_LOOK_BACK = 32 << 20  # bytes behind the place of reading that a file read whole still has in memory
_LEAST_RATE = 1024  # bytes per second; slower is broken
_TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_MAX_WAIT = 60.0


class RemoteError(VideoReadError):
    """A file at an address that cannot be read, for good: it names the address and says what to do."""


class _Broken(Exception):
    """A transfer that may go on with another attempt; `wait` is what the other side asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class FileChanged(Exception):
    """The file became another one while it was read."""


# ---------------------------------------------------------------------------------------------------------------------
# Which addresses
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RemoteAccess:
    """What may be fetched, how patiently, and where it is cached.

    Args:
        allowed (`tuple` of `str`): addresses of folders; what lies below them may be fetched.
        cache_dir (`str`, *optional*): folder of the cache, shared by all processes and runs that name it. Without it
            files are read anew each time.
        cache_gigabytes (`float`, defaults to 100): bound on the cache's size (10^9 bytes).
        recheck_seconds (`float`, defaults to 3600): a cached file is compared with the one at its address when the
            last comparison is older.
        attempts (`int`, defaults to 6): how often a file is asked for that does not come; each wait is twice as long.
        first_wait (`float`, defaults to 1): seconds before the second attempt.
        timeout (`float`, defaults to 30): seconds that a connection may be silent.

    Raises:
        ValueError: an address that may not be allowed, or a number out of range.
    """

    allowed: tuple[str, ...] = ()
    cache_dir: str | None = None
    cache_gigabytes: float = 100.0
    recheck_seconds: float = 3600.0
    attempts: int = 6
    first_wait: float = 1.0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for address in self.allowed:
            check_address(address)
        if self.attempts < 1:
            raise ValueError(f"`attempts` must be at least 1, got {self.attempts}.")
        for name in ("cache_gigabytes", "timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}.")
        for name in ("recheck_seconds", "first_wait"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")

    def allow(self, *addresses: str) -> RemoteAccess:
        """Return the same with further addresses allowed."""
        return dataclasses.replace(self, allowed=tuple(dict.fromkeys((*self.allowed, *addresses))))

    def is_allowed(self, address: str) -> bool:
        """Return whether an address lies below one that is allowed, whatever `..` it holds."""
        plain = _normal(address)
        return any(plain == _normal(above) or plain.startswith(_normal(above) + "/") for above in self.allowed)

    def use(self) -> None:
        """Let this process, and those that it starts, fetch by these rules from now on."""
        values = dataclasses.asdict(self)
        if self.cache_dir is not None:
            values["cache_dir"] = os.path.abspath(os.path.expanduser(self.cache_dir))
        os.environ[_VARIABLE] = json.dumps(values)


def current_access() -> RemoteAccess:
    """Return the rules that were last set by [`RemoteAccess.use`] here or where this process was started."""
    values = json.loads(os.environ.get(_VARIABLE) or "{}")
    return RemoteAccess(**{**values, "allowed": tuple(values.get("allowed", ()))})


def is_remote(name: Any) -> bool:
    """Return whether a name is an address and no file of that name."""
    return isinstance(name, str) and _SCHEME.match(name) is not None and not os.path.exists(name)


def check_address(address: str) -> None:
    """Refuse an address that holds credentials or is none that can be fetched, without repeating what is secret.

    Raises:
        ValueError: credentials, `file://`, several protocols at once.
    """
    if not _SCHEME.match(address):
        raise ValueError(f"{address!r} is no address: it begins with https://, s3:// or another protocol.")
    parts = urlsplit(address)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET_NAME.search(name)]
    if "@" in parts.netloc or names or _SECRET_VALUE.search(address):
        what = f"the parameter {names[0]!r}" if names else "a user name, password or token"
        raise ValueError(
            f"The address {shown(address)} holds {what}: addresses are written to logs and records of runs. Leave it "
            "out, and give credentials by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile "
            "for s3://, HF_TOKEN for hf://)."
        )
    if "::" in address or parts.scheme.lower() in _LOCAL_SCHEMES:
        raise ValueError(f"{shown(address)} is no address of a file elsewhere: give the path or one plain address.")


def shown(address: str) -> str:
    """Return an address as messages may show it: without user, password and parameters."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    path = path.partition("#")[0] if scheme.lower() not in ("http", "https") else re.split(r"[?#]", path)[0]
    return _SECRET_VALUE.sub("SECRET", f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"[:500])


def join_address(folder: str, name: str) -> str:
    """Return the address of a file by its name in a list that lies in `folder`; an address stays what it is."""
    if is_remote(name):
        return name
    is_http = folder.lower().startswith(("http://", "https://"))
    relative = name.replace("\\", "/").lstrip("/")
    return f"{folder.rstrip('/')}/{quote(relative, safe='/') if is_http else relative}"


def folder_of(address: str) -> str:
    """Return the address of the folder that a file lies in."""
    scheme, _, rest = address.partition("://")
    path = re.split(r"[?#]", rest)[0] if scheme.lower() in ("http", "https") else rest
    return f"{scheme}://{path.rpartition('/')[0] or path}"


def _normal(address: str) -> str:
    scheme, _, rest = address.partition("://")
    if scheme.lower() in ("http", "https"):
        # Servers may undo `%2e` before they resolve `..`.
        rest = unquote(re.split(r"[?#]", rest)[0])
    host, _, path = rest.partition("/")
    return f"{scheme.lower()}://{host}{posixpath.normpath('/' + path)}".rstrip("/")


# ---------------------------------------------------------------------------------------------------------------------
# Bytes
# ---------------------------------------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """What tells one content of a file from another: its size in bytes, and what else the other side says of it."""

    size: int
    version: str


def read_identity(address: str, access: RemoteAccess) -> Identity:
    """Ask for size and version of a file.

    Raises:
        RemoteError: it is not there, not readable or not reachable.
    """
    check_allowed(address, access)
    for attempt in _attempts(address, access):
        with attempt:
            if _is_http(address):
                return _open_http(address, 0, 1, access.timeout, is_closed=True)[0]
            return _fsspec_identity(address)
    raise AssertionError("the last attempt raises")


def read_bytes(address: str, start: int = 0, end: int | None = None, max_bytes: int | None = None) -> bytes:
    """Fetch a file, or its bytes from `start` to before `end`.

    Args:
        address (`str`): one that [`current_access`] allows.
        max_bytes (`int`, *optional*): a larger file or range is refused before it is fetched.

    Raises:
        RemoteError: it cannot be fetched.
    """
    access = current_access()
    for _ in range(access.attempts):
        stream = RemoteStream(address, access, start, end, max_bytes=max_bytes)
        try:
            return b"".join(stream)
        except FileChanged:
            logger.warning("%s changed while it was read: it is read anew", shown(address))
    raise RemoteError("it changes again and again while it is read: let what writes it finish", source=shown(address))


class RemoteStream:
    """The bytes of a file, or of a range of it, as an iterator of chunks: it reconnects and goes on where it stopped.

    Args:
        address (`str`): checked against `access`.
        access (`RemoteAccess`): the rules.
        start, end (`int`, *optional*): the range; to the end of the file where `end` is None.
        known (`Identity`, *optional*): what the file was before; another one is `FileChanged`.
        max_bytes (`int`, *optional*): more are refused before they are fetched.

    Iterating raises `RemoteError` where the file cannot be read for good, `FileChanged` where it becomes another one.
    """

    def __init__(
        self,
        address: str,
        access: RemoteAccess,
        start: int = 0,
        end: int | None = None,
        known: Identity | None = None,
        max_bytes: int | None = None,
    ) -> None:
        check_allowed(address, access)
        self.address, self.identity = address, known
        self._access, self._position, self._end, self._max_bytes = access, start, end, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        for attempt in _attempts(self.address, self._access):
            with attempt:
                before = self._position
                for chunk in self._connection():
                    self._position += len(chunk)
                    attempt.has_progressed |= self._position - before >= _PROGRESS
                    yield chunk
                return

    def _connection(self) -> Iterator[bytes]:
        """Yield chunks from the position on until the end or until the connection breaks."""
        open_stream = _open_http if _is_http(self.address) else _open_fsspec
        identity, chunks = open_stream(self.address, self._position, self._end, self._access.timeout)
        with closing(chunks):
            if self.identity is not None and identity != self.identity:
                raise FileChanged
            self.identity = identity
            end = identity.size if self._end is None else self._end
            if end > identity.size:
                raise RemoteError(
                    f"it has {identity.size} bytes, so it ends before byte {end}", source=shown(self.address)
                )
            if self._max_bytes is not None and end - self._position > self._max_bytes:
                raise RemoteError(
                    f"it is {end - self._position} bytes, above the limit of {self._max_bytes} (`max_file_bytes`)",
                    source=shown(self.address),
                )
            seconds, first = 0.0, self._position
            while self._position < end:
                started = time.monotonic()
                chunk = next(chunks, b"")
                seconds += time.monotonic() - started  # not what the reader takes between two chunks
                if not chunk:
                    break
                yield chunk[: end - self._position]
                if seconds > self._access.timeout and self._position - first < _LEAST_RATE * seconds:
                    raise _Broken(f"it comes at less than {_LEAST_RATE} bytes a second")
            if self._position < end:
                raise _Broken(f"the connection ended after byte {self._position} of {end}")


def check_allowed(address: str, access: RemoteAccess) -> None:
    """Raise `RemoteError` for an address that the user has not named, or that may not be fetched at all."""
    try:
        check_address(address)
    except ValueError as error:
        raise RemoteError(str(error), source=shown(address)) from None
    if not access.is_allowed(address):
        raise RemoteError(
            "it is an address that nobody allowed: what a data set names is fetched only below the address of the "
            f"data itself, or where you say so: `--allowed_addresses {folder_of(shown(address))}`",
            source=shown(address),
        )


class _Attempt:
    """One attempt as a `with` block: `_Broken` and errors of connections are noted for the next one, others raised."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.has_progressed = False
        self.fault: _Broken | None = None

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, VideoReadError | FileChanged | ImportError) or not isinstance(error, Exception):
            return False
        self.fault = error if isinstance(error, _Broken) else _judge(self.address, error)
        return True


def _attempts(address: str, access: RemoteAccess) -> Iterator[_Attempt]:
    """Yield attempts until one succeeds (the caller leaves), waiting longer and longer between them.

    Raises:
        RemoteError: the last one failed too.
    """
    failures = 0
    while True:
        attempt = _Attempt(address)
        yield attempt
        fault = attempt.fault
        assert fault is not None
        failures = 1 if attempt.has_progressed else failures + 1
        if failures >= access.attempts:
            raise RemoteError(
                f"it cannot be fetched: {fault} ({failures} attempts). Look whether the machine reaches the server, "
                "or cache the data near it",
                source=shown(address),
            )
        # The waits of many workers are spread, or they would all come back at the same time.
        wait = max(access.first_wait * 2 ** (failures - 1) * random.uniform(0.5, 1.0), fault.wait)
        logger.warning("%s: %s; attempt %d of %d follows", shown(address), fault, failures + 1, access.attempts)
        time.sleep(min(wait, _MAX_WAIT))


def _judge(address: str, error: Exception) -> _Broken:
    """Return what went wrong if another attempt may help.

    Raises:
        RemoteError: none helps.
    """
    text = _SECRET_VALUE.sub("SECRET", str(error).replace(address, shown(address)))[:300] or type(error).__name__
    if isinstance(error, HTTPError):
        error.close()
        if error.code in _TRANSIENT_STATUSES:
            asked = error.headers.get("Retry-After", "")
            return _Broken(f"the server answers {error.code}", float(asked) if asked.isdecimal() else 0.0)
    status = getattr(error, "code", None) if isinstance(error, HTTPError) else None
    status = status or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        raise RemoteError("there is no file at this address", source=shown(address)) from error
    is_forbidden = isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError"
    if is_forbidden or status in (401, 403):
        raise RemoteError(
            f"it may not be read ({text}): give credentials by the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or a profile for s3://, HF_TOKEN for hf://; there are none for https://)",
            source=shown(address),
        ) from error
    if isinstance(status, int) and 400 <= status < 500 and status not in _TRANSIENT_STATUSES:
        raise RemoteError(f"the server refuses it: {text}", source=shown(address)) from error
    if isinstance(error, ValueError | TypeError | IsADirectoryError | NotImplementedError):
        raise RemoteError(f"it cannot be fetched: {text}", source=shown(address)) from error
    # What file systems of fsspec raise for a broken connection has no common class.
    return _Broken(text)


# ---- http and https ----


def _is_http(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


def _open_http(
    address: str, start: int, end: int | None, timeout: float, is_closed: bool = False
) -> tuple[Identity, Generator[bytes, None, None]]:
    """Ask for bytes from `start` on. A server that knows no ranges sends all: what was had is read over."""
    url = quote(address.partition("#")[0], safe="/:?&=%+,;@!$'()*~[]")
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={start}-{'' if end is None else end - 1}"}
    try:
        response = open_address(url, headers, timeout)
    except HTTPError as error:
        if error.code == 416:  # no byte lies there: the file is empty, or shorter than it was
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
            if total.isdecimal():
                error.close()
                return _http_identity(error.headers, int(total)), _no_bytes()
        raise
    if is_closed:
        response.close()
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise _Broken("the server sends another range than it was asked for")
        return _http_identity(response.headers, int(found[2])), _http_chunks(response, 0)
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        response.close()
        raise RemoteError(
            "the server does not say how large it is, so that nobody would notice if its end were missing: download "
            "it, or serve it as a file",
            source=shown(address),
        )
    return _http_identity(response.headers, int(length)), _http_chunks(response, start)


def _http_identity(headers: Any, size: int) -> Identity:
    return Identity(size, headers.get("ETag") or headers.get("Last-Modified") or "")


def _http_chunks(response: Any, num_over: int) -> Generator[bytes, None, None]:
    with response:
        while num_over > 0:
            skipped = len(response.read(min(_CHUNK, num_over)))
            if skipped == 0:
                return
            num_over -= skipped
        try:
            # `read1` gives what has come: a slow connection shows its rate.
            while chunk := response.read1(_CHUNK):
                yield chunk
        except http.client.HTTPException as error:
            raise _Broken(f"the connection broke ({type(error).__name__})") from error


def _no_bytes() -> Generator[bytes, None, None]:
    yield from ()


# ---- All others ----


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of fsspec for an address, and the path in it.

    Raises:
        ImportError: its package is missing; names it.
        RemoteError: there is no such protocol.
    """
    import fsspec  # takes a tenth of a second, which programs without addresses need not wait for

    scheme = address.partition("://")[0].lower()
    if scheme in ("s3", "s3a") and importlib.util.find_spec("s3fs") is None:
        raise ImportError(
            f"Reading {scheme}:// needs a package that is not installed, s3fs: run `pip install amd_hf[s3]`."
        )
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise ImportError(f"Reading {scheme}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise RemoteError(f"fsspec knows no protocol {scheme}:// ({error})", source=shown(address)) from error


def _fsspec_identity(address: str) -> Identity:
    system, path = file_system(address)
    system.invalidate_cache()  # listings are cached for the life of a process
    info = system.info(path)
    if info.get("type") == "directory":
        raise IsADirectoryError("it is a folder: name the file")
    if info.get("size") is None:
        raise NotImplementedError("its file system does not say how large it is: download it")
    names = ("ETag", "etag", "lfs", "blob_id", "md5Hash", "VersionId", "mtime", "LastModified", "modified", "created")
    version = next((f"{name} {info[name]}" for name in names if info.get(name)), "")
    return Identity(int(info["size"]), version)


def _open_fsspec(
    address: str, start: int, end: int | None, timeout: float
) -> tuple[Identity, Generator[bytes, None, None]]:
    identity = _fsspec_identity(address)
    system, path = file_system(address)
    end = identity.size if end is None else min(end, identity.size)

    def chunks() -> Generator[bytes, None, None]:
        for position in range(start, end, _RANGE):
            if position > start and _fsspec_identity(address) != identity:
                raise FileChanged
            wanted = min(position + _RANGE, end)
            data = system.cat_file(path, start=position, end=wanted)
            if len(data) != wanted - position:
                raise _Broken(f"{len(data)} bytes came instead of {wanted - position}")
            yield data

    return identity, chunks()


# ---------------------------------------------------------------------------------------------------------------------
# Folders and patterns
# ---------------------------------------------------------------------------------------------------------------------


def expand_addresses(pattern: str, suffix: str, access: RemoteAccess, split: str | None = None) -> list[str]:
    """Return the sorted addresses of the files that an address, a pattern or a folder means.

    Args:
        pattern (`str`): a file; braces, as in `train-{000..127}.tar` or `{train,val}.tar`; or, where the file system
            can list, `*` and a folder, of which the files with this suffix count.
        suffix (`str`): `.tar` or `.parquet`.
        split (`str`, *optional*): of a folder: the folder inside it, or the beginning of the files' names.

    Raises:
        FileNotFoundError: nothing lies there.
        ValueError: a folder or a `*` where nothing can be listed.
    """
    found: list[str] = []
    for address in _expand_braces(pattern):
        check_address(address)
        if address.endswith(suffix) and "*" not in address:
            found.append(address)
        elif _is_http(address):
            raise ValueError(
                f"{shown(address)} is neither a file *{suffix} nor a pattern in braces, such as "
                f"train-{{000..127}}{suffix}: folders of http servers cannot be listed."
            )
        elif "*" in address:
            found += _glob(address, access)
        else:
            folder = address.rstrip("/")
            inside = _glob(f"{folder}/{split}/*{suffix}", access) if split is not None else []
            found += inside or [name for name in _glob(f"{folder}/*{suffix}", access) if is_of_split(name, split)]
            split = None  # it has had its meaning
    if split is not None:
        raise ValueError(f"`split` has no meaning for {shown(pattern)}, but is {split!r}. Leave it out.")
    if not found:
        raise FileNotFoundError(f"There is no file *{suffix} at {shown(pattern)}, or none of the split asked for.")
    return sorted(found)


def is_of_split(file: str, split: str | None) -> bool:
    """Return whether a file is named after a split: `val-0.tar` is of `val`, `validation-0.tar` is not."""
    name = posixpath.basename(file)
    return split is None or (name.startswith(split) and not name[len(split) :][:1].isalpha())


def _glob(pattern: str, access: RemoteAccess) -> list[str]:
    scheme = pattern.partition("://")[0]
    for attempt in _attempts(pattern, access):
        with attempt:
            system, path = file_system(pattern)
            return [f"{scheme}://{str(name).lstrip('/')}" for name in system.glob(path)]
    raise AssertionError("the last attempt raises")


def _expand_braces(pattern: str) -> Iterable[str]:
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    parts = found[1].split(",")
    if ends is not None:
        parts = [str(number).zfill(len(ends[1])) for number in range(int(ends[1]), int(ends[2]) + 1)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [whole for part in parts for whole in _expand_braces(f"{before}{part}{after}")]


class RemoteFile(io.RawIOBase):
    """A file at an address for readers that seek. Wrap it in `io.BufferedReader` for small reads.

    Args:
        address (`str`): one that [`current_access`] allows.
        is_read_whole (`bool`, defaults to `False`): read on with one connection, over what is skipped, and hold the
            last 32 MB for those who look back. Otherwise each read is a request of its own.
    """

    def __init__(self, address: str, is_read_whole: bool = False) -> None:
        self.address = address
        self.identity = read_identity(address, current_access())
        self._is_read_whole = is_read_whole
        self._position = 0
        self._stream: Iterator[bytes] | None = None
        self._window = bytearray()
        self._window_start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.identity.size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, end = self._position, min(self._position + len(view), self.identity.size)
        if start >= end:
            return 0
        try:
            if self._is_read_whole and start >= self._window_start:
                self._read_on(start, end)
                data: Any = memoryview(self._window)[start - self._window_start : end - self._window_start]
            else:
                data = b"".join(RemoteStream(self.address, current_access(), start, end, self.identity))
        except FileChanged:
            raise RemoteError("it changed while it was read: start again", source=shown(self.address)) from None
        view[: end - start] = data
        self._position = end
        return end - start

    def _read_on(self, start: int, end: int) -> None:
        """Read with the open connection until the window holds these bytes."""
        if self._stream is None:
            self._stream = iter(RemoteStream(self.address, current_access(), 0, None, self.identity))
        while self._window_start + len(self._window) < end:
            self._window += next(self._stream)
            num_old = len(self._window) - _LOOK_BACK - (end - start)
            if num_old > 0 and self._window_start + num_old <= start:
                del self._window[:num_old]
                self._window_start += num_old
