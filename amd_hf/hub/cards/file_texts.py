"""What files say, in whatever form: text, JSON, metadata of pictures, archives, pickles, weights."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError


# As the program `strings` finds them: in ASCII, and as Windows and EXIF write them, with a zero after each letter.
_ASCII = re.compile(rb"[\x20-\x7e\t\r\n]{6,}")
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){6,}|(?:\x00[\x20-\x7e]){6,}")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
_NOISE = re.compile(r"(?:^|/)data/\d+$|\.(?:npy|bin)$")  # members of checkpoints that hold numbers
_MAX_DEPTH = 3
_MAX_UNPACKED = 64 * 2**30


class FileText(NamedTuple):
    """A piece of text in a file.

    Args:
        where (`str`): The file, and what of it.
        text (`str`): The text.
        is_noise (`bool`): Whether it was found among numbers or pixels, where short words mean nothing.
    """

    where: str
    text: str
    is_noise: bool = False


def texts_of(path: Path) -> Iterator[FileText]:
    """Everything in a file that can be read as text.

    Raises:
        ValueError: If it holds an archive that cannot be unpacked, or a picture that cannot be read: nobody knows then
            what else is in it.
    """
    with open(path, "rb") as file:
        yield from _texts_in(path.name, file.read(), 0)


def _texts_in(where: str, data: bytes, depth: int) -> Iterator[FileText]:
    is_archive = zipfile.is_zipfile(io.BytesIO(data))
    if is_archive:
        yield from _in_archive(where, data, depth)
    if where.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        yield FileText(where, data[8 : 8 + size].decode("utf-8", "replace"))
        yield from _strings(where, data[8 + size :], is_noise=True)
    elif data.startswith(_PICTURES):
        yield from _in_picture(where, data)
        yield from _strings(where, data, is_noise=True)
    elif is_archive or _NOISE.search(where):
        yield from _strings(where, data, is_noise=True)
    else:
        yield from _in_text(where, data)


def _in_text(where: str, data: bytes) -> Iterator[FileText]:
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # a pickle, or something else that is no text
        yield from _strings(where, data)
        return
    yield FileText(where, text)
    if text.lstrip()[:1] in ("{", "["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return
        # Escapes are undone: "\u0068f_..." is a token too.
        yield FileText(where, "\n".join(_leaves(values)))


def _leaves(value: Any, key: str = "") -> Iterator[str]:
    """Keys and texts of JSON, a text behind its key."""
    pending = [(key, value)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += value.items()
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, str) and value:
            yield f'"{key}": "{value}"'


def _strings(where: str, data: bytes, is_noise: bool = False) -> Iterator[FileText]:
    found = [match.group().decode("ascii") for match in _ASCII.finditer(data)]
    found += [match.group().replace(b"\0", b"").decode("ascii") for match in _WIDE.finditer(data)]
    if found:
        yield FileText(where, "\n".join(found), is_noise)


def _in_archive(where: str, data: bytes, depth: int) -> Iterator[FileText]:
    """Members of a zip file, as checkpoints of PyTorch are."""
    if depth == _MAX_DEPTH:
        raise ValueError(f"{where} holds archives inside archives, deeper than can be checked")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > min(_MAX_UNPACKED, 1000 * len(data) + 2**20):
                raise ValueError(f"{where} is much larger when it is unpacked: it cannot be checked")
            yield from _in_text(f"{where}, its comment", archive.comment)
            for member in members:
                inside = f"{where}, member {member.filename}"
                yield FileText(inside, member.filename)
                yield from _in_text(f"{inside}, its comment", member.comment + b"\n" + member.extra)
                yield from _texts_in(inside, archive.read(member), depth + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(f"{where} is an archive that cannot be unpacked: {error}") from error


def _in_picture(where: str, data: bytes) -> Iterator[FileText]:
    """Text chunks, comments, EXIF and XMP of a picture, and whether it tells where it was taken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()  # text may come behind the pixels
                exif = picture.getexif()
                found: list[Any] = [*picture.info.items(), *exif.items(), *getattr(picture, "private_chunks", [])]
                found += [
                    item for kind in (ExifTags.IFD.Exif, ExifTags.IFD.IFD1) for item in exif.get_ifd(kind).items()
                ]
                place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except UnidentifiedImageError:
        yield from _strings(where, data)  # it only begins like one
        return
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where} is a picture that cannot be read: {error}") from error
    texts: list[str] = []
    pending = found
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, bytes):
            texts += [piece.text for piece in _in_text(where, value)]
        elif isinstance(value, str):
            texts.append(value)
    yield FileText(f"{where}, its metadata", "\n".join(texts))
    if place:
        yield FileText(f"{where}, its metadata", f"{PLACE_MARK} {dict(place)}")


PLACE_MARK = "GPS place"
"""Stands in front of the place where a picture was taken."""

__all__ = ["PLACE_MARK", "FileText", "texts_of"]
