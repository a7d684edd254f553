"""What lies in a folder of videos: one walk over everything below it, and an account of what was left out, and why."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets

from .problems import printable
from .rows import MEDIA_SUFFIXES, is_video_file


logger = logging.getLogger(__name__)

HIDDEN = "hidden"
OTHER_KIND = "another kind of file"
SIDE_FILE = "a side file"
BAD_NAME = "a name that is no UTF-8"
LOOP = "a link that loops or leads nowhere"
SPECIAL = "no regular file"
CLOSED = "a folder that cannot be opened"
UNNAMED = "a video that the metadata does not name"
NO_VIDEOS = "a folder without videos"

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files beside the videos of a `videofolder`, as `datasets` names them."""

_MAX_EXAMPLES = 3
_BAR_DELAY = 2.0  # seconds
_SIDE_SUFFIXES = frozenset(
    ".txt .md .rst .json .jsonl .csv .tsv .xml .yaml .yml .toml .ini .cfg .log .html .pdf .srt .vtt .ass .sub .url "
    ".nfo .md5 .sha1 .sha256 .py .sh".split()
)
_JUNK = frozenset(("thumbs.db", "desktop.ini", "license", "licence", "readme"))
_Parts = tuple[str, ...]


@dataclass
class _LeftOut:
    count: int = 0
    examples: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)


class Account:
    """What was left out of a listing, by reason: how many, and a few examples of each."""

    def __init__(self) -> None:
        self.reasons: dict[str, _LeftOut] = {}

    def add(self, reason: str, name: str, suffix: str = "") -> None:
        entry = self.reasons.setdefault(reason, _LeftOut())
        entry.count += 1
        entry.suffixes[suffix] += 1
        if len(entry.examples) < _MAX_EXAMPLES:
            entry.examples.append(printable(name))

    def describe(self) -> str:
        """Return `left out: 2 x another kind of file (1 .gif, 1 .xyz: right/2.xyz, ...)`; empty where nothing was."""
        parts = []
        for reason, entry in self.reasons.items():
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in entry.suffixes.most_common(5) if suffix)
            shown = ", ".join(entry.examples) + (", ..." if entry.count > len(entry.examples) else "")
            parts.append(f"{entry.count:,} x {reason} ({f'{kinds}: ' if kinds else ''}{shown})")
        return f"left out: {'; '.join(parts)}" if parts else ""


@dataclass
class Listing:
    """The videos (or images) below a folder.

    Args:
        folder (`str`): the folder.
        files (list of tuples of `str`): path of each relative to it, as its parts, in sorted order.
        folders (list of `str`): names of the sub-folders right below it, without hidden ones, sorted.
        metadata (list of tuples of `str`): the files named `metadata.csv`, `.jsonl` or `.parquet`, likewise.
        account (`Account`): what was left out.
    """

    folder: str
    files: list[_Parts]
    folders: list[str]
    metadata: list[_Parts]
    account: Account

    @property
    def loose(self) -> list[_Parts]:
        """The videos that lie in the folder itself."""
        return [parts for parts in self.files if len(parts) == 1]

    @property
    def filled_folders(self) -> list[str]:
        """The sub-folders with a video in or below them, sorted."""
        return sorted({parts[0] for parts in self.files if len(parts) > 1})

    def report(self, used: str) -> None:
        """Log one line: what was listed, and what was left out and why; nothing where nothing was left out."""
        text = self.account.describe()
        if text:
            # Notes and captions beside the videos were not meant to be listed; whatever else there is may have been.
            level = logging.WARNING if set(self.account.reasons) - {SIDE_FILE} else logging.INFO
            logger.log(level, "%s: %s listed; %s.", printable(self.folder), used, text)


def list_folder(folder: str | os.PathLike[str], media: str = "video") -> Listing:
    """Walk everything below a folder, once.

    A folder or file that cannot be used costs itself alone: names that are no UTF-8, links that lead back to where
    they lie or nowhere, folders that may not be opened. Links to other folders are followed.

    Args:
        folder (path): where to begin.
        media (`str`, defaults to `"video"`): which files count, `video` or `image`.

    Raises:
        OSError: `folder` itself cannot be opened.
    """
    top = os.fspath(folder)
    account = Account()
    files: list[_Parts] = []
    metadata: list[_Parts] = []
    suffixes = frozenset(MEDIA_SUFFIXES[media])
    for parts, name, entry in listing_bar(f"Listing {printable(top)}", _walk(top, account), unit=" files"):
        suffix = os.path.splitext(name)[1].lower()
        shown = "/".join((*parts, name))
        if name.startswith("."):
            if suffix in suffixes:
                account.add(HIDDEN, shown)
        elif suffix not in suffixes:
            if name in METADATA_NAMES:
                metadata.append((*parts, name))
            elif name.lower() not in _JUNK:
                account.add(SIDE_FILE if suffix in _SIDE_SUFFIXES else OTHER_KIND, shown, suffix or "without suffix")
        elif not is_utf8(name):  # the walk enters no folder of another name
            account.add(BAD_NAME, shown)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            account.add(LOOP, shown)
        elif not _is_file(entry):
            account.add(SPECIAL, shown)
        else:
            files.append((*parts, name))
    files.sort()
    return Listing(top, files, folder_names(top), sorted(metadata), account)


def listing_bar(name: str, *args: Any, **options: Any) -> Any:
    """Return a progress bar of `tqdm` for what takes more than two seconds, shown by the first process alone."""
    is_first = os.environ.get("RANK", "0") == "0"
    # None: not where the output is no terminal.
    disable = None if is_first else True
    return datasets.utils.tqdm(*args, desc=name, delay=_BAR_DELAY, leave=False, disable=disable, **options)


class _Folder(NamedTuple):
    """A folder to open, and how the walk came there."""

    path: str
    parts: _Parts  # its path below the top
    above: frozenset[tuple[int, int]]  # it and the folders it lies in, by device and inode
    is_linked: bool  # whether there is a link on the way


def _walk(top: str, account: Account) -> Iterator[tuple[_Parts, str, os.DirEntry[str]]]:
    """Yield (parts of the folder, name, entry) of everything that is no folder."""
    entered: set[tuple[int, int]] = set()  # folders reached through links
    waiting = [_Folder(top, (), frozenset((_identity(top),)), False)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder.path) as entries:
                found = list(entries)
        except OSError as error:
            if not folder.parts:
                raise
            account.add(CLOSED, f"{'/'.join(folder.parts)}: {error.strerror}")
            continue
        for entry in found:
            if not _is_folder(entry):
                yield folder.parts, entry.name, entry
            elif not entry.name.startswith(".") and (inside := _enter(entry, folder, entered, account)) is not None:
                waiting.append(inside)


def _enter(
    entry: os.DirEntry[str], parent: _Folder, entered: set[tuple[int, int]], account: Account
) -> _Folder | None:
    """Return the folder that an entry is; None, with a note in the account, if the walk must not enter it."""
    parts = (*parent.parts, entry.name)
    if not is_utf8(entry.name):
        account.add(BAD_NAME, "/".join(parts))
        return None
    is_link = entry.is_symlink()
    try:
        identity = _identity(entry.path)
    except OSError:
        account.add(CLOSED, "/".join(parts))
        return None
    # Links below links are entered once: many that point at each other would make endless paths.
    if is_link and (identity in parent.above or (parent.is_linked and identity in entered)):
        account.add(LOOP, "/".join(parts))
        return None
    if is_link:
        entered.add(identity)
    return _Folder(entry.path, parts, parent.above | {identity}, parent.is_linked or is_link)


def folder_names(folder: str | os.PathLike[str]) -> list[str]:
    """Return sorted names of the sub-folders, without hidden ones and those whose name is no UTF-8."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_folder(entry)]
    return sorted(name for name in names if not name.startswith(".") and is_utf8(name))


def video_names(folder: str | os.PathLike[str], media: str = "video") -> list[str]:
    """Return sorted names of the videos, or images, that lie directly in `folder`."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_video_file(entry.name, media) and _is_file(entry)]
    return sorted(name for name in names if is_utf8(name))


def is_utf8(name: str) -> bool:
    """Return whether the bytes of a name are UTF-8; others come out of the file system with surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that loops
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
