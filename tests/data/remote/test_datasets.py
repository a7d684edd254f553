"""Data sets at addresses: lists, tables and tar shards give the rows and the frames that the same files give here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest

from amd_hf.data import open_video
from amd_hf.data.loading import load_video_dataset, takes_split, validate_annotations
from amd_hf.data.remote.files import RemoteAccess
from tests.helpers.shaky_server import ShakyServer
from tests.helpers.videos import write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("videos")
    names = ["left/a b.mp4", "left/c.mp4", "right/d#1.mp4", "right/e.mp4"]
    for number in range(len(names)):
        write_video(folder / f"{number}.mp4", num_frames=8 + number)
    return {name: (folder / f"{number}.mp4").read_bytes() for number, name in enumerate(names)}


def _tar(videos: dict[str, bytes], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, name in enumerate(names):
            for suffix, body in ((".mp4", videos[name]), (".cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:04d}{suffix}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def _num_frames(row: dict[str, Any]) -> int:
    with open_video(row["video"]) as reader:
        return len(reader)


_PATIENCE = RemoteAccess(attempts=3, first_wait=0.01, timeout=5.0)


@pytest.mark.parametrize("is_cached", [False, True])
def test_list_at_an_address_with_its_videos_beside_it(
    tmp_path: Path, videos: dict[str, bytes], is_cached: bool
) -> None:
    lines = "".join(f"{name} {number // 2}\n" for number, name in enumerate(videos))
    files = {f"data/{name}".replace(" ", "%20").replace("#", "%23"): body for name, body in videos.items()}
    with ShakyServer({**files, "data/train.txt": lines.encode()}, statuses={"data/train.txt": [500]}) as server:
        remote = RemoteAccess(cache_dir=str(tmp_path) if is_cached else None, first_wait=0.01)
        rows = load_video_dataset(f"{server.address}/data/train.txt", remote=remote)
        assert rows["video_id"][:] == list(videos)
        assert rows["label"][:] == [0, 0, 1, 1]
        assert [_num_frames(row) for row in rows] == [8, 9, 10, 11]
        assert not takes_split(f"{server.address}/data/train.txt")
        stream = load_video_dataset(f"{server.address}/data/train.txt", streaming=True, remote=remote)
        assert sorted(_num_frames(row) for row in stream) == [8, 9, 10, 11]


def test_table_at_an_address_of_any_file_system(videos: dict[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    for name, body in videos.items():
        memory.pipe(f"/bucket/v/{name}", body)
    memory.pipe("/bucket/lists/train.csv", ("path,label\n" + "".join(f"{n},x\n" for n in videos)).encode())
    rows = load_video_dataset("memory://bucket/lists/train.csv", root="memory://bucket/v", remote=_PATIENCE)
    assert [_num_frames(row) for row in rows] == [8, 9, 10, 11]
    assert rows.features["label"].names == ["x"]
    with pytest.raises(FileNotFoundError, match=r"None of the first 4 videos of memory://bucket/lists/train.csv"):
        load_video_dataset("memory://bucket/lists/train.csv", remote=_PATIENCE)
    memory.rm("/bucket/v/right/e.mp4")
    problems = validate_annotations("memory://bucket/lists/train.csv", root="memory://bucket/v", remote=_PATIENCE)
    assert [str(problem) for problem in problems.found] == [
        "memory://bucket/lists/train.csv:5: names a missing file: memory://bucket/v/right/e.mp4"
    ]


def test_list_of_this_machine_may_name_addresses_where_they_are_allowed(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    with ShakyServer({"a.mp4": videos["left/c.mp4"], "x/a.mp4": b""}) as server:
        path = tmp_path / "train.txt"
        path.write_text(f"{server.address}/a.mp4 0\n")
        with pytest.raises(ValueError, match="1 of 1 lines .*not allowed.*line 1.*--allowed_addresses"):
            load_video_dataset(path)
        assert server.requests == []
        rows = load_video_dataset(path, remote=RemoteAccess(allowed=(server.address,)))
        assert [_num_frames(row) for row in rows] == [9]
    path.write_text("https://me:secret99@host/a.mp4 0\n")
    with pytest.raises(ValueError, match="not allowed") as caught:
        load_video_dataset(path, remote=RemoteAccess(allowed=("https://host",)))
    assert "secret99" not in str(caught.value)
    with pytest.raises(ValueError, match="holds a user name, password or token") as caught:
        load_video_dataset("https://me:secret99@host/train.txt")
    assert "secret99" not in str(caught.value)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_shards_at_addresses(tmp_path: Path, videos: dict[str, bytes], is_cached: bool, is_streamed: bool) -> None:
    names = list(videos)
    shards = {"t-0.tar": _tar(videos, names[:2]), "t-1.tar": _tar(videos, names[2:])}
    with ShakyServer(dict(shards), cuts={"t-1.tar": [1, 5000]}) as server:
        remote = RemoteAccess(cache_dir=str(tmp_path) if is_cached else None, first_wait=0.01)
        rows = load_video_dataset(f"{server.address}/t-{{0..1}}.tar", streaming=is_streamed, remote=remote)
        before = server.num_sent
        found = {row["video_id"]: (row["label"], _num_frames(row)) for row in rows}
        assert found == {
            "t-0.tar/0000": (0, 8), "t-0.tar/0001": (1, 9), "t-1.tar/0000": (0, 10), "t-1.tar/0001": (1, 11),
        }  # fmt: skip
        if is_streamed and not is_cached:
            assert server.num_sent - before < 1.02 * sum(map(len, shards.values()))  # each shard is read once


def test_shard_that_fails_for_good_is_an_unreadable_row(videos: dict[str, bytes]) -> None:
    names = list(videos)
    with ShakyServer({"t-0.tar": _tar(videos, names)}) as server:
        rows = load_video_dataset(f"{server.address}/t-{{0..1}}.tar", streaming=True, remote=_PATIENCE)
        found = [row["video"]["fault"] for row in rows]
        assert found[:4] == [None] * 4
        assert "there is no file at this address" in found[4]


def test_folder_of_shards_and_its_splits(videos: dict[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    names = list(videos)
    memory.pipe("/b/s/train-0.tar", _tar(videos, names[:3]))
    memory.pipe("/b/s/val-0.tar", _tar(videos, names[3:]))
    assert takes_split("memory://b/s")
    rows = load_video_dataset("memory://b/s", split="val", streaming=True, remote=_PATIENCE)
    assert [_num_frames(row) for row in rows] == [11]
    with pytest.raises(FileNotFoundError, match="none of the split"):
        load_video_dataset("memory://b/s", split="test", remote=_PATIENCE)
    with pytest.raises(ValueError, match="'ucf101' is not read at an address"):
        load_video_dataset("memory://b/s", layout="ucf101", remote=_PATIENCE)
    with pytest.raises(FileNotFoundError, match="no list, tar or Parquet file at memory://b/none"):
        load_video_dataset("memory://b/none", remote=_PATIENCE)


def _parquet(videos: dict[str, bytes], names: list[str], label: str) -> bytes:
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    columns = {"video": [{"bytes": videos[name], "path": name} for name in names], "label": [label] * len(names)}
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(buffer, batch_size=1)
    return buffer.getvalue()


@pytest.mark.parametrize("is_cached", [False, True])
def test_parquet_at_an_address(
    tmp_path: Path, videos: dict[str, bytes], is_cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    names = list(videos)
    files = {"p-0.parquet": _parquet(videos, names[:2], "x"), "p-1.parquet": _parquet(videos, names[2:], "y")}
    with ShakyServer(dict(files), cuts={"p-1.parquet": [1, 5000]}, statuses={"p-0.parquet": [503]}) as server:
        address = f"{server.address}/p-{{0..1}}.parquet"
        remote = RemoteAccess(cache_dir=str(tmp_path / "cache") if is_cached else None, first_wait=0.01)
        stream = load_video_dataset(address, streaming=True, remote=remote)
        assert isinstance(stream, datasets.IterableDataset)
        assert stream.num_shards == 4  # one per row group
        assert [(row["label"], _num_frames(row)) for row in stream] == [(0, 8), (0, 9), (1, 10), (1, 11)]
        assert stream.features["label"].names == ["x", "y"]
        if is_cached:
            rows = load_video_dataset(address, remote=remote)
            assert [(row["label"], _num_frames(row)) for row in rows] == [(0, 8), (0, 9), (1, 10), (1, 11)]
        else:
            with pytest.raises(ValueError, match="`--cache_dir FOLDER` fetches them"):
                load_video_dataset(address, remote=remote)
        server.statuses["p-1.parquet"] = [500] * 99
        RemoteAccess(allowed=(server.address,), attempts=2, first_wait=0.01, recheck_seconds=0).use()
        faults = [row["video"]["fault"] for row in stream]
        assert faults[:2] == [None, None]
        assert all("answers 500 (2 attempts)" in fault for fault in faults[2:])


def test_parquet_in_a_folder_of_splits(videos: dict[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    names = list(videos)
    memory.pipe("/b/data/train-0.parquet", _parquet(videos, names[:3], "x"))
    memory.pipe("/b/data/test-0.parquet", _parquet(videos, names[3:], "y"))
    rows = load_video_dataset("memory://b/data", split="test", streaming=True, remote=_PATIENCE)
    assert [_num_frames(row) for row in rows] == [11]
    with pytest.raises(ValueError, match="has the splits .'test', 'train'.: choose one"):
        load_video_dataset("memory://b/data", streaming=True, remote=_PATIENCE)
