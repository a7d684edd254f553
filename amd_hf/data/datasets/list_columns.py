"""Long lists and csv tables as Arrow columns, a block of bytes at a time: no Python object for each line.

Ten million lines as Python objects take 8 GB. Here a plain line (one whose bytes say by themselves where its fields
are) is split by numpy, and the lines of a block that has any other are read by the code that reads them everywhere
else. Whatever is wrong with a list, and whatever needs more than its own text (addresses), is nothing for this module:
its functions return None then, and the reader of single lines says what is the matter.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..remote.files import is_remote
from .label_names import as_label
from .listing import listing_bar
from .problems import printable
from .rows import VIDEO_SUFFIXES, VideoRows, check_first_files, find_root
from .text_files import MAX_LINE_LENGTH, is_text


_BLOCK = 8 << 20
_BOM = b"\xef\xbb\xbf"
_NEWLINE, _SPACE, _COMMA = b"\n ,"
_LONGEST_HASHED = 4096
_MOST_SPACES = 64  # beside each other, that are taken off one by one
# Python takes these off the ends of a text, and numpy here only spaces; of the first kind some end a line for csv.
_ODD_BYTES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_ODD_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_VIDEO_NAME = rf"(^|/)[^/.][^/]*\.({'|'.join(suffix[1:] for suffix in VIDEO_SUFFIXES)})$"
_NO_NORMAL_PATH = r"//|/\.{0,2}$|^\.{1,2}$|(^|/)\.{1,2}/"


class _Columns(NamedTuple):
    """Fields of the lines of a block; of unlabelled lines `labels` is None."""

    paths: pa.Array
    labels: pa.Array | None
    ids: pa.Array | None = None


class _CannotReadError(Exception):
    """The list is for the reader of single lines."""


def list_columns(
    file: Path,
    root: Path | str | None,
    label_names: Sequence[str] | None,
    parse_line: Callable[[int, str], Any],
    read_label: Callable[[str], int | None],
) -> tuple[VideoRows, int] | None:
    """Return the rows of a list file of videos and the number of its lines; None where there is more to say of it.

    Args:
        file, root, label_names: as `read_list_file` takes them.
        parse_line: makes the entry of a line that is not plain.
        read_label: the number that a text of digits is as a label.
    """

    def columns_of(block: bytes) -> _Columns:
        plain = _plain_list_block(block)
        if plain is not None:
            return plain
        lines = [line.strip() for line in re.split("\r\n|\r|\n", _decoded(block))]
        entries = [parse_line(0, line) for line in lines if line and _checked(is_text(line))]
        if None in entries:
            raise _CannotReadError
        paths = pa.array([entry.path for entry in entries], pa.string())
        labels = pa.array([None if entry.label is None else str(entry.label) for entry in entries], pa.string())
        return _Columns(paths, None if labels.null_count == len(labels) else labels)

    def label_of(text: str | None) -> int:
        number = None if text is None else read_label(text)
        if number is None:
            raise _CannotReadError
        return number

    try:
        return _rows_of(map(columns_of, _blocks(file)), file, root, label_names, label_of)
    except _CannotReadError:
        return None


def csv_columns(
    file: Path, header: Sequence[str], label_column: str, root: Path | str | None, label_names: Sequence[str] | None
) -> tuple[VideoRows, int] | None:
    """Return the rows of a csv file with a header, and their number; None where there is more to say of it.

    Args:
        file, root, label_names: as `read_table` takes them.
        header (sequence of `str`): names of the columns, `path` among them.
        label_column (`str`): the column of the labels, if there is one of this name.
    """
    if "path" not in header or len(set(header)) < len(header):
        return None
    used = [header.index(name) if name in header else None for name in ("path", label_column, "video_id")]
    is_first = True

    def columns_of(block: bytes) -> _Columns:
        nonlocal is_first
        plain = _plain_csv_block(block, len(header))
        fields = _csv_block(block, len(header)) if plain is None else plain
        if is_first:
            fields, is_first = [field[1:] for field in fields], False
        paths, labels, ids = (pa.nulls(0) if number is None else fields[number] for number in used)
        if plain is not None:
            paths = pc.ascii_trim_whitespace(paths)
        else:  # other spaces too
            paths = pa.array([path.strip() for path in paths.to_pylist()], pa.string())
        _checked(not len(paths) or pc.min(pc.binary_length(paths)).as_py() > 0)
        return _Columns(paths, None if used[1] is None else labels, None if used[2] is None else ids)

    known = None if label_names is None else set(label_names)

    def label_of(text: str | None) -> int | str | None:
        try:
            return as_label(text, known)
        except ValueError:
            raise _CannotReadError from None

    try:
        return _rows_of(map(columns_of, _blocks(file)), file, root, label_names, label_of)
    except _CannotReadError:
        return None


def _checked(is_so: bool) -> bool:
    if not is_so:
        raise _CannotReadError
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Blocks and their fields
# ---------------------------------------------------------------------------------------------------------------------


def _blocks(file: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks of whole lines, each with a newline at its end."""
    is_first = True
    size = file.stat().st_size
    bar = listing_bar(f"Reading {printable(file.name)}", total=size, unit="B", unit_scale=True)
    with bar, open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            block += stream.readline(4 * MAX_LINE_LENGTH + 1)
            if is_first:
                block, is_first = block.removeprefix(_BOM), False
            if not block.endswith(b"\n"):
                _checked(not stream.read(1))  # else a line without end
                block += b"\n"
            yield block
            bar.update(stream.tell() - bar.n)


def _decoded(block: bytes) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError:
        raise _CannotReadError from None


def _has_odd_characters(block: bytes) -> bool:
    return bool(_ODD_BYTES.search(block)) or (not block.isascii() and bool(_ODD_SPACES.search(_decoded(block))))


def _line_ranges(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last byte (exclusive) of each line."""
    ends = np.flatnonzero(data == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    _checked(bool((ends - starts).max() <= MAX_LINE_LENGTH))
    return starts, ends


def _trimmed(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for _ in range(_MOST_SPACES):
        at_end = (starts < ends) & (data[ends - 1] == _SPACE)
        ends = ends - at_end
        at_start = (starts < ends) & (data[np.minimum(starts, len(data) - 1)] == _SPACE)
        starts = starts + at_start
        if not at_end.any() and not at_start.any():
            return starts, ends
    raise _CannotReadError


def _taken(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Return the texts of ranges of bytes that are in order and do not overlap."""
    lengths = ends - starts
    offsets = np.zeros(len(starts) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    change = np.zeros(len(data) + 1, dtype=np.int8)  # +1 where a range begins, -1 where it ends
    change[starts[lengths > 0]] = 1
    change[ends[lengths > 0]] = -1
    kept = data[np.cumsum(change[:-1], dtype=np.int8).view(bool)]
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(kept))


def _plain_list_block(block: bytes) -> _Columns | None:
    """Return the fields of a block whose lines all end in digits, or none; None where its lines are not plain."""
    has_tabs = b"\t" in block
    block = block.replace(b"\r\n", b"\n").replace(b"\t", b" ")
    if _has_odd_characters(block):
        return None
    data = np.frombuffer(block, np.uint8)
    starts, ends = _trimmed(data, *_line_ranges(data))
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not len(starts):
        return _Columns(pa.array([], pa.string()), None)
    spaces = np.concatenate(([-1], np.flatnonzero(data == _SPACE)))
    last = spaces[
        np.searchsorted(spaces, ends) - 1
    ]  # the last space of each line, if it is not one of an earlier line
    is_split = last > starts
    labels = _taken(data, last[is_split] + 1, ends[is_split])
    are_numbers = pc.match_substring_regex(labels, "^[0-9]+$").to_numpy(False)
    if is_split.all() and are_numbers.all():
        return _Columns(_taken(data, *_trimmed(data, starts, last)), labels)
    if has_tabs or are_numbers.any():
        return None
    lines = _taken(data, starts, ends)
    are_videos = pc.all(pc.match_substring_regex(pc.ascii_lower(lines), _VIDEO_NAME)).as_py()
    return _Columns(lines, None) if are_videos else None


def _plain_csv_block(block: bytes, width: int) -> list[pa.Array] | None:
    """Return the columns of a block without quotes; None where its lines are not plain, or of another width."""
    block = block.replace(b"\r\n", b"\n")
    if b'"' in block or b"\t" in block or _has_odd_characters(block):
        return None
    data = np.frombuffer(block, np.uint8)
    starts, ends = _line_ranges(data)
    inner = _trimmed(data, starts, ends)
    starts, ends = starts[inner[0] < inner[1]], ends[inner[0] < inner[1]]
    commas = np.flatnonzero(data == _COMMA)
    if len(commas) != len(starts) * (width - 1):
        return None
    edges = commas.reshape(len(starts), width - 1)
    if width > 1 and not ((edges[:, 0] >= starts).all() and (edges[:, -1] < ends).all()):
        return None
    begins, stops = np.column_stack((starts, edges + 1)), np.column_stack((edges, ends))
    return [_taken(data, begins[:, number], stops[:, number]) for number in range(width)]


def _csv_block(block: bytes, width: int) -> list[pa.Array]:
    """Return the columns of a block as the csv module reads it, if it ends where a record does."""
    end = "the end of the block"
    try:
        records = list(csv.reader([*io.StringIO(_decoded(block), newline=""), end]))
    except csv.Error:
        raise _CannotReadError from None
    _checked(records.pop() == [end])
    records = [record for record in records if any(field.strip() for field in record)]
    _checked(all(len(record) == width and all(map(is_text, record)) for record in records))
    return [pa.array([record[number] for record in records], pa.string()) for number in range(width)]


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------


def _rows_of(
    blocks: Iterator[_Columns],
    file: Path,
    root: Path | str | None,
    label_names: Sequence[str] | None,
    label_of: Callable[[str | None], int | str | None],
) -> tuple[VideoRows, int]:
    paths: list[pa.Array] = []
    ids: list[pa.Array] = []
    own_ids: list[pa.Array] = []
    codes: list[np.ndarray] = []
    index_of: dict[str | None, int] = {}  # of each text that is a label of any line
    top, has_labels = "", False
    for block in blocks:
        if not len(block.paths):
            continue
        if not paths:
            top, has_labels = find_root(root, file), block.labels is not None
            _checked(not is_remote(top) and is_text(top) and os.sep == "/")
        _checked(has_labels == (block.labels is not None))
        for column, values in zip((paths, ids), _placed(block.paths, top), strict=True):
            column.append(values)
        if block.labels is not None:
            found = block.labels.dictionary_encode("encode")
            numbers = [index_of.setdefault(text, len(index_of)) for text in found.dictionary.to_pylist()]
            codes.append(np.array(numbers, dtype=np.int32)[found.indices.to_numpy()])
        if block.ids is not None:
            own_ids.append(block.ids)
    _checked(bool(paths))
    video_ids = pa.chunked_array(ids)
    _checked(_are_unique(video_ids))
    values = [label_of(text) for text in index_of]
    labels = None
    if any(value is not None for value in values):
        numbers, label_names = _numbered(values, label_names)
        labels = np.array(numbers, dtype=np.int64)[np.concatenate(codes)]
    check_first_files(paths[0], len(video_ids), file, top)
    named = pa.chunked_array(own_ids, pa.string())
    if own_ids and pc.min(pc.binary_length(named)).as_py() > 0 and _are_unique(named):
        video_ids = named  # else the paths name the videos
    return VideoRows(pa.chunked_array(paths), video_ids, labels, label_names), len(video_ids)


def _placed(paths: pa.Array, top: str) -> tuple[pa.Array, pa.Array]:
    """Return absolute paths, and the ids of their videos."""
    inside = top.rstrip("/") + "/"
    odd = pc.match_substring_regex(paths, _NO_NORMAL_PATH)
    if pc.any(odd).as_py():
        given = paths.filter(odd).to_pylist()
        _checked(not any("://" in path and is_remote(path) for path in given))
        normal = [os.path.normpath(os.path.join(top, path)) for path in given]
        paths = pc.replace_with_mask(paths, odd, pa.array(normal, pa.string()))
    is_absolute = pc.starts_with(paths, "/")
    placed = pc.binary_join_element_wise(pa.scalar(inside), paths, pa.scalar(""))
    if not pc.any(is_absolute).as_py():
        return placed, paths
    placed = pc.if_else(is_absolute, paths, placed)
    below = pc.utf8_slice_codeunits(placed, len(inside))
    return placed, pc.if_else(pc.starts_with(placed, inside), below, placed)


def _are_unique(texts: pa.ChunkedArray) -> bool:
    """Return whether all texts, none of them empty, differ.

    By hashes of 8 bytes, sums of random numbers: a table of the texts themselves takes 120 bytes each.
    """
    if not len(texts) or pc.max(pc.binary_length(texts)).as_py() > _LONGEST_HASHED:
        return pc.count_distinct(texts).as_py() == len(texts)
    random = np.random.default_rng(0)
    of_byte, of_index = (random.integers(1 << 64, size=size, dtype=np.uint64) for size in (256, _LONGEST_HASHED))
    hashes = []
    for chunk in texts.chunks:
        _, offsets, data = chunk.buffers()
        starts = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths = np.diff(starts)
        letters = np.frombuffer(data, np.uint8)[starts[0] : starts[-1]]
        index = np.arange(len(letters), dtype=np.int32) - np.repeat(starts[:-1] - starts[0], lengths)
        hashes.append(np.add.reduceat(of_byte[letters] * of_index[index], starts[:-1] - starts[0]))
    found = np.concatenate(hashes)
    found.sort()
    return bool((found[1:] != found[:-1]).all()) or pc.count_distinct(texts).as_py() == len(texts)


def _numbered(values: Sequence[int | str | None], names: Sequence[str] | None) -> tuple[list[int], Any]:
    """Return the number of each label, and the names of the labels."""
    _checked(None not in values)
    if not any(isinstance(value, str) for value in values):
        numbers = [int(value or 0) for value in values]
        _checked(names is None or max(numbers) < len(names))
        return numbers, names
    if names is None:
        _checked(all(isinstance(value, str) for value in values))
        names = sorted({str(value) for value in values})
    number_of = {name: number for number, name in enumerate(names)}
    _checked(all(str(value) in number_of for value in values))
    return [number_of[str(value)] for value in values], names
