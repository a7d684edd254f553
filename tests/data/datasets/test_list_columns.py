"""Lists that are read as columns give what the reader of single lines gives: the same rows, the same words."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from amd_hf.data.datasets import list_columns, listing
from amd_hf.data.datasets.layouts import list_file, table
from amd_hf.data.datasets.layouts.list_file import read_list_file
from amd_hf.data.datasets.layouts.table import read_table
from amd_hf.data.datasets.problems import Problems


_VIDEOS = [
    "a.mp4", "b c.mp4", "d/e.MP4", "./f.avi", "g//h.mp4", "../i.mp4", "/j/k.mp4", "\u00e9.mp4", "\u3000l.mp4",
    "m\tn.mp4", "o  p.mp4", "q/./r.mp4", ".s.mp4", "t", "u/v.mp4/", "w.mp4 1", "x.mp4 y", "https://h/z.mp4",
    "a\u2028b.mp4", "c\x1cd.mp4", "#e.mp4", "f,g.mp4", 'h"i.mp4', '"j.mp4"', '"k,l.mp4"', '"m\nn.mp4"',
    "\udcff.mp4", "o\0.mp4", "", " ", "..mp4", "p.",
]  # fmt: skip
_LABELS = ["0", "1", "2", "007", "1.5", "-1", "left", " right ", "", "9999999", "\u0663", "nan", '"1"', "1 "]
_ENDS = ["\n", "\r\n", "\r", "\n\n", " \n", "\n \t\n"]


def _outcome(read: Any, file: Path, quick: bool, **options: Any) -> Any:
    problems = Problems()
    with pytest.MonkeyPatch.context() as patch:
        if not quick:
            patch.setattr(list_file, "list_columns", lambda *_: None)
            patch.setattr(table, "csv_columns", lambda *_: None)
        try:
            rows = read(file, problems, **options)
            problems.raise_if_any()
        except (ValueError, FileNotFoundError) as error:
            return type(error), str(error)
    made = rows.to_dataset()
    return problems.num_checked, made.features, made.data.to_pylist()


def _check_same(read: Any, file: Path, text: str, **options: Any) -> bool:
    """Compare both readers on a list; return whether it could be read."""
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    quick, single = (_outcome(read, file, is_quick, **options) for is_quick in (True, False))
    assert quick == single, repr(text)
    return isinstance(single[0], int)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(list_columns, "_BLOCK", 40)  # a few lines
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "first.mp4").touch()
    return tmp_path / "in"


def _lines(draw: random.Random, oddness: float, with_labels: bool, separator: str) -> str:
    lines = []
    for number in range(draw.randrange(1, 12)):
        is_odd = draw.random() < oddness
        video = draw.choice(_VIDEOS) if is_odd else f"clip {number}.mp4"
        label = draw.choice(_LABELS) if draw.random() < oddness else str(number % 3)
        end = draw.choice(_ENDS) if draw.random() < oddness else "\n"
        lines.append((video + separator + label if with_labels else video) + end)
    return "".join(lines)


@pytest.mark.parametrize("seed", range(2))
def test_list_files_are_read_as_line_by_line(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    num_read = 0
    for number in range(150):
        oddness = (0.0, 0.1, 0.3)[number % 3]
        with_labels = draw.random() < 0.7
        text = _lines(draw, oddness, with_labels, draw.choice(" \t"))
        text = ("\ufeff" if draw.random() < 0.1 else "") + ("first.mp4 0\n" if with_labels else "first.mp4\n") + text
        text = text.rstrip("\n") if draw.random() < 0.3 else text
        names = ["a", "b", "c"] if draw.random() < 0.3 else None
        num_read += _check_same(read_list_file, folder / "list.txt", text, label_names=names)
    assert 50 < num_read < 150


@pytest.mark.parametrize("seed", range(2))
def test_tables_are_read_as_line_by_line(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    num_read = 0
    for number in range(150):
        oddness = (0.0, 0.1, 0.3)[number % 3]
        with_labels = draw.random() < 0.7
        header = draw.choice(
            ["path,label", " path , label", "path,video_id", '"path",label', "path,path", "file,label"]
        )
        header = header if with_labels else draw.choice(["path", "path ", "\ufeffpath"])
        text = header + "\n" + ("first.mp4,0\n" if with_labels else "first.mp4\n")
        text += _lines(draw, oddness, with_labels, ",")
        names = draw.choice([None, None, ["0", "1", "2"], ["left", "right", "x"]])
        num_read += _check_same(read_table, folder / "table.csv", text, label_names=names)
    assert 20 < num_read < 150


def test_most_lists_take_the_quick_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One odd line costs its block alone; a label that is none costs all."""
    seen: list[str] = []
    parse = list_file._video_entry
    monkeypatch.setattr(list_file, "_video_entry", lambda number, line: seen.append(line) or parse(number, line))
    lines = [f"a b/{number:06d}.mp4 {number % 3}" for number in range(100)]
    lines[0] = "./first.mp4 2"
    assert _check_same(read_list_file, folder / "list.txt", "\n".join(lines))
    assert len(seen) == 100  # of the other reader
    lines[50] = "\u3000x\u3000.mp4 1"
    seen.clear()
    assert _check_same(read_list_file, folder / "list.txt", "\n".join(lines))
    assert 100 < len(seen) < 105
    lines[50] = "x.mp4 z"
    seen.clear()
    assert not _check_same(read_list_file, folder / "list.txt", "\n".join(lines))
    assert len(seen) > 200
    csv = "path,label,video_id\n" + "".join(f"a b/{n}.mp4,{'left' if n % 2 else 'right'},id {n}\n" for n in range(100))
    monkeypatch.setattr(table, "csv_records", lambda *_: pytest.fail("read line by line"))
    (folder / "a b").mkdir()
    (folder / "a b" / "0.mp4").touch()
    (folder / "table.csv").write_text(csv)
    rows = read_table(folder / "table.csv", Problems()).to_dataset()
    assert rows[1] == {
        "video": {"bytes": None, "path": str(folder / "a b" / "1.mp4")}, "label": 0, "video_id": "id 1"
    }  # fmt: skip


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("rank", "delay", "is_shown"), [("0", 0.0, True), ("1", 0.0, False), ("0", 60.0, False)])
def test_what_takes_long_shows_a_bar_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, delay: float, is_shown: bool
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(listing, "_BAR_DELAY", delay)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "stderr", terminal)
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("left/a.mp4 0\n")
    read_list_file(tmp_path / "list.txt", Problems())
    listing.list_folder(tmp_path)
    assert ("Reading list.txt" in terminal.getvalue()) == is_shown
    assert (f"Listing {tmp_path}" in terminal.getvalue()) == is_shown
