"""Long lists are read by one process; the others and later starts map what it wrote."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pytest

from amd_hf.data import loading
from amd_hf.data.datasets import listing_cache
from amd_hf.data.loading import load_video_dataset


_NUM_ROWS = 12_000
_TAIL = "x" * 200
_HOUR = 3600


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layouts of the lists that were read."""
    seen: list[str] = []
    for name in ("list_file", "table"):

        def reader(*args: Any, _name: str = name, _read: Callable = loading.LAYOUTS[name], **options: Any) -> Any:
            seen.append(_name)
            return _read(*args, **options)

        reader.__signature__ = inspect.signature(loading.LAYOUTS[name])
        monkeypatch.setitem(loading.LAYOUTS, name, reader)
    return seen


def _write(path: Path, number: int = _NUM_ROWS, label: int = 0) -> Path:
    lines = [f"{index:06d}{_TAIL}{_TAIL}.mp4" for index in range(number)]
    lines[0] = lines[0][:200] + ".mp4"
    (path.parent / lines[0]).touch()
    separator, head = (",", "path,label\n") if path.suffix == ".csv" else (" ", "")
    path.write_text(head + "".join(f"{line}{separator}{label + index % 3}\n" for index, line in enumerate(lines)))
    _age(path, _HOUR)
    return path


def _age(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


@pytest.mark.parametrize("name", ["train.txt", "train.csv"])
def test_second_start_maps_the_rows_of_the_first(tmp_path: Path, reads: list[str], name: str) -> None:
    path = _write(tmp_path / name)
    names = ["a", "b", "c"]
    first, second = (load_video_dataset(path, label_names=names) for _ in range(2))
    assert len(reads) == 1
    datasets.disable_caching()
    try:
        plain = load_video_dataset(path, label_names=names)
    finally:
        datasets.enable_caching()
    assert len(reads) == 2
    assert plain.cache_files == []
    assert len(second.cache_files) == 1
    assert first.features == second.features == plain.features
    for index in (0, 1, 2, _NUM_ROWS - 1):
        assert first[index] == second[index] == plain[index]
    assert first["label"][:] == second["label"][:] == plain["label"][:]


def test_rows_are_read_again_where_the_list_or_an_option_changed(tmp_path: Path, reads: list[str]) -> None:
    path = _write(tmp_path / "train.txt")
    load_video_dataset(path)
    names = tmp_path / "names.txt"
    for number, text in enumerate(("a\nb\nc\nd\n", "d\nb\nc\na\n"), start=2):
        names.write_text(text)  # the same size
        assert load_video_dataset(path, label_names=names).features["label"].names == text.split()
        assert len(reads) == number
    _write(path, label=1)
    _age(path, 7)
    assert load_video_dataset(path)["label"][:3] == [1, 2, 3]
    assert len(reads) == 4


def test_list_of_this_moment_and_short_ones_are_not_cached(tmp_path: Path, cache: Path) -> None:
    load_video_dataset(_write(tmp_path / "short.txt", 5))
    path = _write(tmp_path / "train.txt")
    os.utime(path)
    load_video_dataset(path)
    assert not cache.exists()


def test_cache_that_cannot_be_written_is_said_and_the_list_read(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        rows = load_video_dataset(_write(tmp_path / "train.txt"))
    assert len(rows) == _NUM_ROWS
    assert caplog.text.count("cannot be used, so each process reads the list at each start") == 1


def test_damaged_file_of_the_cache_is_made_anew(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    path = _write(tmp_path / "train.txt")
    load_video_dataset(path)
    (file,) = cache.rglob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert len(load_video_dataset(path)) == _NUM_ROWS
    assert len(reads) == 2


def test_processes_that_start_together_read_the_list_once(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    path = _write(tmp_path / "train.txt")
    with ThreadPoolExecutor(4) as pool:  # locks are of descriptors: threads take turns as processes do
        lengths = list(pool.map(lambda _: len(load_video_dataset(path)), range(4)))
    assert lengths == [_NUM_ROWS] * 4
    assert len(reads) == 1
    assert not list(cache.rglob("*.part"))


def test_list_whose_videos_have_gone_is_an_error_as_without_a_cache(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.txt")
    load_video_dataset(path)
    for video in tmp_path.glob("*.mp4"):
        video.unlink()
    with pytest.raises(FileNotFoundError, match="None of the first 10 videos of .* exists"):
        load_video_dataset(path)


def test_entries_used_longest_ago_are_removed_but_none_in_use(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = [_write(tmp_path / f"{name}.txt") for name in "abc"]
    monkeypatch.setattr(listing_cache, "_LARGEST_CACHE", 1)
    monkeypatch.setattr(listing_cache, "_held", {})
    held = load_video_dataset(lists[0])
    (of_first,) = cache.rglob("*.arrow")
    load_video_dataset(lists[1])
    of_second = next(file for file in cache.rglob("*.arrow") if file != of_first)
    listing_cache._held.pop(of_second).close()  # as its process ends
    load_video_dataset(lists[2])
    assert of_first.exists()
    assert not of_second.exists()
    assert len(list(cache.rglob("*.arrow"))) == 2
    assert held[3]["label"] == 0


def test_who_waits_says_once_for_what(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listing_cache, "_SILENT_SECONDS", 0.1)
    lock = tmp_path / "a.lock"
    has_begun, may_end = threading.Event(), threading.Event()

    def reader() -> None:
        with listing_cache._taking_turns(lock, "list.txt"):
            has_begun.set()
            may_end.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(reader)
        assert has_begun.wait(20)
        threading.Timer(0.5, may_end.set).start()
        with listing_cache._taking_turns(lock, "list.txt"):
            assert may_end.is_set()
    assert caplog.text.count("Waiting for another process, which is reading list.txt") == 1
