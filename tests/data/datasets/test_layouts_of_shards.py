"""Streams of tar and Parquet shards: sharding, going on from a saved place, and samples that cannot be used."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from amd_hf.data.datasets.layouts import parquet as parquet_reader
from amd_hf.data.loading import load_video_dataset
from amd_hf.data.remote import cache as remote_cache
from amd_hf.data.streams import StreamReader
from amd_hf.data.video.decoding import VideoReadError, open_video
from tests.helpers import miniatures
from tests.helpers.miniatures import OWN_LABELS, write_tar


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


def _folders(folder: Path, samples: int = 7) -> Path:
    for number in range(samples):
        (folder / "train" / OWN_LABELS[number % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "train" / OWN_LABELS[number % 2] / f"{number}.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, datasets.IterableDataset]:
    folder = tmp_path_factory.mktemp("streams")
    miniatures.webdataset(folder / "tar", shard_sizes=(3, 1, 2))
    miniatures.parquet(folder / "parquet", shard_sizes=(5, 2), rows_per_group=2)
    _folders(folder / "files")
    names = ("tar", "parquet", "files")
    return {name: load_video_dataset(folder / name, split="train", streaming=True) for name in names}


# ---------------------------------------------------------------------------------------------------------------------
# Shards and saved places
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sizes"), [("tar", [3, 1, 2]), ("parquet", [2, 2, 1, 2]), ("files", [1] * 7)])
def test_shards_are_disjoint_and_complete(
    streams: dict[str, datasets.IterableDataset], name: str, sizes: list[int]
) -> None:
    stream = streams[name]
    shards = [list(stream.shard(num_shards=stream.num_shards, index=i)) for i in range(stream.num_shards)]
    assert [len(shard) for shard in shards] == sizes
    assert [row for shard in shards for row in shard] == list(stream)


@pytest.mark.parametrize("name", ["tar", "parquet", "files"])
def test_stream_goes_on_from_each_place_twice_in_a_row(
    streams: dict[str, datasets.IterableDataset], name: str
) -> None:
    expected = [row["video_id"] for row in streams[name]]
    # Before its first row a stream of `datasets` calls its beginning its place, whatever was loaded: so take one row.
    for first in range(1, len(expected)):
        second = first + (len(expected) - first + 1) // 2
        found, state = [], None
        for stop in (first, second, len(expected)):
            stream = streams[name].shard(num_shards=1, index=0)
            if state is not None:
                stream.load_state_dict(json.loads(json.dumps(state)))
            rows = iter(stream)
            found += [next(rows)["video_id"] for _ in range(stop - len(found))]
            state = stream.state_dict()
        assert found == expected
        assert next(rows, None) is None


def test_going_on_in_a_tar_reads_no_video_that_was_consumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.webdataset(tmp_path, shard_sizes=(6,))
    stream = load_video_dataset(tmp_path, split="train", streaming=True)
    rows = iter(stream)
    for _ in range(4):
        next(rows)
    state = stream.state_dict()
    num_bytes = 0
    opened: list[str] = []

    class CountingFile:
        def __init__(self, *args: Any) -> None:
            self.file = open(*args)  # noqa: SIM115
            opened.append(Path(args[0]).name)

        def __enter__(self) -> CountingFile:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def read(self, size: int = -1) -> bytes:
            nonlocal num_bytes
            data = self.file.read(size)
            num_bytes += len(data)
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(remote_cache, "open", CountingFile, raising=False)
    again = load_video_dataset(tmp_path, split="train", streaming=True)
    num_bytes = 0
    opened.clear()
    again.load_state_dict(state)
    rest = list(again)
    assert len(rest) == 2
    # Headers of 512 bytes and one byte at the end of each member, for the archive as it is opened and walked.
    assert 0 < num_bytes < 12 * 2 * 1024
    assert len(opened) == 1  # not once for each label
    assert num_bytes < sum(row["video"]["size"] for row in load_video_dataset(tmp_path, split="train"))


def test_start_with_parquet_that_has_ids_reads_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos: list[Any] = [
        {"bytes": b"a", "path": "a.mp4"},
        {"bytes": b"b", "path": "b.mp4"},
        {"bytes": b"c", "path": None},
    ]
    features = datasets.Features({"video": datasets.Video(decode=False), "video_id": datasets.Value("string")})
    columns = {"video": videos, "video_id": ["x", "y\n", "z"]}  # only one that is not plain is looked at by itself
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "a.parquet"), batch_size=9)
    seen: list[Any] = []

    class SeeingMaker(parquet_reader.RowMaker):
        def __call__(self, row: Any) -> dict[str, Any]:
            seen.append(row["video"]["bytes"])
            return super().__call__(row)

    monkeypatch.setattr(parquet_reader, "RowMaker", SeeingMaker)
    rows = load_video_dataset(tmp_path / "a.parquet")
    assert seen == [b""]
    assert [row["video"] for row in rows] == videos
    assert rows["video_id"][:] == ["x", "y\\n", "z"]
    columns["video"][1] = None
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(ValueError, match=r"1 of 3 rows of .*b\.parquet cannot be used: row 2; .*holds no video"):
        load_video_dataset(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 1, 1, 0, 1, 0], datasets.Value("int32")),
        ([0, 1, 1, 0, 1, 0], datasets.ClassLabel(names=OWN_LABELS)),
        (["right", "left", "left", "right", "left", "left"], datasets.Value("string")),
        (["1", "left", "0", "right", "left", " 1 "], datasets.Value("string")),
        ([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], datasets.Value("float32")),
    ],
)
@pytest.mark.parametrize(
    "ids", [["a", "b c", "\u00e9", "x" * 1001, "", "t\tb"], [7, 3, 5, -1, 0, 2], ["a", None, "b", "c", "d", "e"]]
)
def test_rows_of_parquet_are_those_of_its_stream(tmp_path: Path, labels: list[Any], kind: Any, ids: list[Any]) -> None:
    """The stream makes row by row what a start makes of whole columns."""
    videos = [{"bytes": b"video", "path": None if number == 1 else f"{number}.mp4"} for number in range(6)]
    videos[4]["bytes"] = None
    features = datasets.Features(
        {
            "video": datasets.Video(decode=False),
            "label": kind,
            "video_id": datasets.Value("int64" if ids[0] == 7 else "string"),
        }
    )
    rows = datasets.Dataset.from_dict({"video": videos, "label": labels, "video_id": ids}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"), batch_size=4)
    names = OWN_LABELS if kind.dtype == "string" else None
    started, streamed = (
        list(load_video_dataset(tmp_path / "a.parquet", streaming=streaming, label_names=names))
        for streaming in (False, True)
    )
    assert [row["video"] for row in started] == videos
    for name in ("label", "video_id"):
        assert [row[name] for row in started] == [row[name] for row in streamed]


@pytest.mark.parametrize(
    ("label", "kind"),
    [(-1, "int64"), (2, "int64"), (10**6, "int64"), (None, "int64"), ("up", "string"), (0.5, "float64")],
)
def test_label_of_parquet_that_is_none_is_said_with_its_row(tmp_path: Path, label: Any, kind: str) -> None:
    good = OWN_LABELS if kind == "string" else [0, 1]
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.Value(kind), "video_id": datasets.Value("string")}
    )
    columns = {
        "video": [{"bytes": None, "path": f"{number}.mp4"} for number in range(3)],
        "label": [good[0], label, good[1]],
        "video_id": ["a", "b", "c"],
    }
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "a.parquet"), batch_size=9)
    with pytest.raises(ValueError, match=r"1 of 3 rows of .* cannot be used: row 2; the first is .b: the label"):
        load_video_dataset(tmp_path / "a.parquet", label_names=OWN_LABELS)


def _parquet_of_groups(path: Path, num_groups: int) -> Path:
    rows = {"video": [f"{number}.mp4".encode() for number in range(2 * num_groups)], "other": [0] * 2 * num_groups}
    datasets.Dataset.from_dict(rows).to_parquet(str(path), batch_size=2)
    assert pq.read_metadata(path).num_row_groups == num_groups
    return path


def test_metadata_of_a_parquet_file_are_parsed_once_not_for_each_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = load_video_dataset(_parquet_of_groups(tmp_path / "a.parquet", 40), streaming=True)
    parsed = []

    class CountingFile(pq.ParquetFile):
        def __init__(self, source: Any, *, metadata: Any = None) -> None:
            parsed.append(metadata is None)
            super().__init__(source, metadata=metadata)

    monkeypatch.setattr(parquet_reader.pq, "ParquetFile", CountingFile)
    assert len(list(StreamReader(stream, 0).rows())) == 80
    assert (len(parsed), sum(parsed)) == (40, 1)


def test_position_that_an_earlier_release_saved_is_found_by_counting_rows(tmp_path: Path) -> None:
    path = _parquet_of_groups(tmp_path / "a.parquet", 5)
    stream = load_video_dataset(path, streaming=True)
    # 0.1 read row groups through `datasets` and `map`.
    read = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True).reshard()
    former = StreamReader(read.map(lambda row: row), 3, buffer_rows=3)
    rows = former.rows()
    expected = list(StreamReader(stream, 3, buffer_rows=3).rows())
    for row in expected[:4]:
        assert next(rows)["video"] == row["video"]["bytes"]
    resumed = StreamReader(stream, 3, buffer_rows=3)
    resumed.load_state_dict(json.loads(json.dumps(former.state_dict())))
    assert list(resumed.rows()) == expected[4:]


# ---------------------------------------------------------------------------------------------------------------------
# Samples that cannot be used: a row that says why, in its place; nothing ends and nothing vanishes
# ---------------------------------------------------------------------------------------------------------------------

_BAD_TAR = [
    ("0.mp4", b"a"),
    ("0.cls", b"1"),
    ("1.cls", b"0"),
    ("2.mp4", b"a"),
    ("2.cls", b"cat"),
    ("3.mp4", b"a"),
    ("4.mp4", b"a"),
    ("4.cls", b"7"),
    ("5.mp4", b"a"),
    ("5.webm", b"a"),
    ("5.cls", b"1"),
    ("6.mp4", b"a"),
    ("6.json", b'{"label": '),
    ("7.mp4", b"a"),
    ("7.cls", b"-1"),
    ("8.mp4", b"a"),
    ("8.json", b'{"label": "left"}'),
]
_BAD_TAR_FAULTS = {
    "1": "holds 0 videos; its members are cls",
    "2": "the label 'cat' is none of the label names",
    "3": "holds no label; its members are mp4",
    "4": "the label 7 is no number from 0 to 1",
    "5": "holds 2 videos",
    "6": "Expecting value",
    "7": "the label '-1' is none",
}


def _fault(row: dict[str, Any]) -> str:
    with pytest.raises(VideoReadError) as error:
        open_video(row["video"], video_id=row["video_id"])
    return error.value.reason


def test_bad_samples_of_a_tar_stream_are_rows_that_cannot_be_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _BAD_TAR)
    rows = list(load_video_dataset(tmp_path / "a.tar", streaming=True, label_names=OWN_LABELS))
    assert [row["video_id"] for row in rows] == [f"a.tar/{number}" for number in range(9)]
    assert [row["label"] for row in rows] == [1, -1, -1, -1, -1, -1, -1, -1, 0]
    for number, fault in _BAD_TAR_FAULTS.items():
        assert fault in _fault(rows[int(number)])


def test_bad_samples_of_a_tar_are_raised_map_style_with_their_numbers(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", _BAD_TAR)
    with pytest.raises(ValueError, match=r"7 of 9 samples of .*a\.tar cannot be used: sample 2, 3, 4, 5, 6, 7, 8; "):
        load_video_dataset(tmp_path / "a.tar", label_names=OWN_LABELS)


def test_labels_as_names_need_label_names_and_captions_are_no_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.mp4", b"a"), ("0.json", b'{"label": "left"}')])
    with pytest.raises(ValueError, match=r"labels of .*a\.tar are names such as 'left': give all names"):
        load_video_dataset(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", [("0.mp4", b"a"), ("0.txt", b"a cat"), ("1.mp4", b"a"), ("1.json", b'{"fps": 3}')])
    for streaming in (False, True):
        rows = list(load_video_dataset(tmp_path / "b.tar", streaming=streaming))
        assert [(row["video_id"], row["label"]) for row in rows] == [("b.tar/0", None), ("b.tar/1", None)]


@pytest.mark.parametrize("damage", ["cut in a video", "cut in a header", "bad header", "no tar", "empty"])
def test_damaged_tar_gives_what_is_before_the_damage_and_a_row_that_says_so(tmp_path: Path, damage: str) -> None:
    members = [(f"{number}.mp4", bytes([number + 1]) * 1024) for number in range(4)]
    path = write_tar(tmp_path / "a.tar", members)
    data = bytearray(path.read_bytes())
    third = 2 * (512 + 1024)
    if damage == "bad header":
        data[third : third + 512] = b"\xff" * 512
    cut = {"cut in a video": third + 800, "cut in a header": third + 100, "empty": 0}.get(damage, len(data))
    path.write_bytes(b"no tar file " * 100 if damage == "no tar" else bytes(data[:cut]))
    write_tar(tmp_path / "b.tar", members[:1])
    rows = list(load_video_dataset(tmp_path, streaming=True))
    kept = {"no tar": 0, "empty": 0, "cut in a video": 3}.get(damage, 2)
    ids = [f"a.tar/{number}" for number in range(kept)]
    assert [row["video_id"] for row in rows] == [*ids, "a.tar/damaged", "b.tar/0"]
    place = f"after the sample {kept - 1}" if kept else "before its first sample"
    assert f"the archive is damaged {place}" in _fault(rows[-2])
    if damage == "cut in a video":
        assert "ends 736 bytes before the end of the video" in _fault(rows[2])
    with pytest.raises(ValueError, match=r"1 of \d samples of .*a\.tar cannot be used"):
        load_video_dataset(tmp_path)


def test_archive_that_has_gone_is_a_video_that_cannot_be_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.mp4", b"a")])
    row = load_video_dataset(tmp_path / "a.tar")[0]
    (tmp_path / "a.tar").unlink()
    assert "No such file" in _fault(row)


def _bad_parquet(path: Path) -> Path:
    features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("int64")})
    rows = {"video": [{"bytes": b"a", "path": "a.mp4"}, None, {"bytes": b"b", "path": None}], "label": [0, 1, None]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


def test_bad_rows_of_parquet(tmp_path: Path) -> None:
    path = _bad_parquet(tmp_path / "a.parquet")
    rows = list(load_video_dataset(path, streaming=True, label_names=OWN_LABELS))
    assert [row["label"] for row in rows] == [0, 1, -1]
    assert rows[0]["video"] == {"bytes": b"a", "path": "a.mp4", "fault": None}
    assert _fault(rows[1]) == "the row holds no video"
    assert "the label None is none of the 2 labels" in _fault(rows[2])
    with pytest.raises(ValueError, match=r"2 of 3 rows of .*a\.parquet cannot be used: row 2, 3; .*holds no video"):
        load_video_dataset(path, label_names=OWN_LABELS)


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_of_plain_bytes_and_names_without_ids(tmp_path: Path, streaming: bool) -> None:
    columns = {"video": [b"one", b"two", b"one"], "label": ["right", "left", "left"]}
    features = datasets.Features({"video": datasets.Value("binary"), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(ValueError, match="are names: give all of them, in the order of their numbers"):
        load_video_dataset(tmp_path, streaming=streaming)
    rows = list(load_video_dataset(tmp_path, streaming=streaming, label_names=OWN_LABELS))
    assert [(row["video"]["bytes"], row["label"]) for row in rows] == [(b"one", 1), (b"two", 0), (b"one", 0)]
    ids = [row["video_id"] for row in rows]
    assert ids[0] == ids[2] != ids[1]


def test_parquet_names_that_differ_from_its_own_raise(tmp_path: Path) -> None:
    miniatures.parquet(tmp_path)
    with pytest.raises(ValueError, match=r"have other names, \['left', 'right'\].*leave `label_names` out"):
        load_video_dataset(tmp_path, split="test", label_names=["right", "left"])
    assert load_video_dataset(tmp_path, split="test", label_names=OWN_LABELS).features["label"].names == OWN_LABELS
    with pytest.raises(ValueError, match=r"has the splits \['train', 'validation', 'test'\], not 'dev'"):
        load_video_dataset(tmp_path, split="dev")


@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_tar_is_called_so(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    path = write_tar(tmp_path / "a.tar", [("0.mp4", b"a"), ("0.cls", b"1")])
    path.write_bytes(compress(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"the archive is compressed \({name}\): uncompress it") as caught:
        load_video_dataset(path)
    assert "None" not in str(caught.value)


def test_tar_without_any_sample_names_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 2048)
    with pytest.raises(ValueError, match="the archive is damaged before its first sample: "):
        load_video_dataset(tmp_path / "a.tar")
