"""Rows of strangers that claim what is not so: each costs itself, is counted and named, and takes no memory."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.data.datasets.problems import Problems
from amd_hf.data.loaders import build_eval_loader, iterate_once
from amd_hf.data.loading import load_video_dataset, validate_annotations
from amd_hf.data.streams import StreamReader
from amd_hf.data.video.decoding import VideoReadError, open_video
from amd_hf.detection.datasets.ava_files import read_action_list, read_actions, read_person_boxes
from tests.helpers.videos import write_list, write_video


_MAX_BYTES = 64 * 1024**2  # what a run over these small files may take in Python


@contextmanager
def _bounded() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < _MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 8, 32, 32).read_bytes()


def _collator() -> ClassificationCollator:
    loader = ClipLoader(num_frames=4, sampling_rate=1, image_size=32, augmentation="center_crop")
    return ClassificationCollator(loader, training=False, num_labels=2)


def _train_on(rows: Any, num_workers: int = 0) -> tuple[int, dict[str, str]]:
    """Loads every row as training does; returns the clips read, and the reasons of the others by their ids."""
    if isinstance(rows, datasets.IterableDataset):
        batches = iterate_once(
            StreamReader(rows, 0, shuffle=False, buffer_rows=4), 2, _collator(), num_workers=num_workers
        )
    else:
        batches = build_eval_loader(rows, 2, _collator(), num_workers=num_workers)
    num_read, unreadable = 0, {}
    for batch in batches:
        num_read += 0 if batch["pixel_values"] is None else len(batch["pixel_values"])
        unreadable |= dict(batch["unreadable"])
    return num_read, unreadable


# ---------------------------------------------------------------------------------------------------------------------
# Tar shards
# ---------------------------------------------------------------------------------------------------------------------


def _member(name: str, data: bytes = b"", **fields: Any) -> bytes:
    """A member as it stands in a tar; the fields may lie."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    header = info.tobuf(fields.pop("format", tarfile.PAX_FORMAT))
    return header + data + b"\0" * (-len(data) % 512)


def _pax(records: dict[str, str], name: str, data: bytes) -> bytes:
    lines = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        lines += str(length).encode() + body
    return _member("PaxHeader", lines, type=tarfile.XHDTYPE) + _member(name, data)


def _shard(path: Path, *members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members) + b"\0" * 1024)
    return path


def _sample(name: str, clip: bytes, label: bytes = b"0") -> bytes:
    return _member(f"{name}.mp4", clip) + _member(f"{name}.cls", label)


_DEEP = b'{"label":' + b"[" * 5000 + b"]" * 5000 + b"}"

# name: (what stands between two good samples, whether the archive can be read on behind it, what is said)
_TAR: dict[str, tuple[Callable[[bytes], bytes], bool, str]] = {
    "a header that claims 8 TB": (lambda c: _member("bad.mp4", size=8 * 1024**4), False, "damaged after"),
    "a label that claims 8 TB": (
        lambda c: _member("bad.mp4", c) + _member("bad.cls", size=8 * 1024**4),
        False, "damaged",
    ),
    "a PAX size of -5": (lambda c: _pax({"size": "-5"}, "bad.mp4", c), False, "claims -5 bytes"),
    "a PAX size of 10^30": (lambda c: _pax({"size": "1" + "0" * 30}, "bad.mp4", c), False, "damaged after"),
    "a PAX size that is no number": (lambda c: _pax({"size": "x"}, "bad.mp4", c), False, "damaged after"),
    "PAX records of 1 GB": (
        lambda c: _member("PaxHeader", type=tarfile.XHDTYPE, size=1 << 30), False, "takes 1073741824 bytes",
    ),
    "a long name of 1 GB": (
        lambda c: _member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 30),
        False, "takes 1073741824 bytes",
    ),
    "two thousand headers in a chain": (
        lambda c: _member("PaxHeader", b"6 a=b\n", type=tarfile.XHDTYPE) * 2000, False, "damaged after",
    ),
    "json nested deep": (lambda c: _member("bad.mp4", c) + _member("bad.json", _DEEP), True, "nested too deep"),
    "json of a million digits": (
        lambda c: _member("bad.mp4", c) + _member("bad.json", b'{"label": ' + b"9" * 10**6 + b"}"), True, "",
    ),
    "json that names a key twice": (
        lambda c: _member("bad.mp4", c) + _member("bad.json", b'{"label": 0, "label": 1}'), True, "'label' twice",
    ),
    "a label of 10^20": (lambda c: _sample("bad", c, b"1" + b"0" * 20), True, "no number from 0 to"),
    "a label of 10^20 in json": (
        lambda c: _member("bad.mp4", c) + _member("bad.json", b'{"label": 100000000000000000000}'),
        True, "no number from",
    ),
    "a label of ten thousand digits": (lambda c: _sample("bad", c, b"1" * 10**4), True, "characters"),
    "a label of 2 MB": (lambda c: _sample("bad", c, b"x" * 2 * 1024**2), True, "takes 2097152 bytes"),
    **{
        f"a label of {label}": (
            lambda c, label=label: _member("bad.mp4", c) + _member("bad.json", f'{{"label": {label}}}'.encode()),
            True,
            "the label",
        )
        for label in ("NaN", "Infinity", "-Infinity", "0.5", "true", "-1", "[0]", '{"a": 0}', '"\\ud800"', "5")
    },
    "a label that is no UTF-8": (lambda c: _sample("bad", c, b"\xff\xfe"), True, "decode"),
    "a video that is a link": (
        lambda c: _member("bad.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd") + _member("bad.cls", b"0"),
        True, "link",
    ),
    "a video that is a hard link": (
        lambda c: _member("bad.mp4", type=tarfile.LNKTYPE, linkname="first.mp4") + _member("bad.cls", b"0"),
        True, "link",
    ),
    "a video that is a device": (
        lambda c: _member("bad.mp4", type=tarfile.CHRTYPE) + _member("bad.cls", b"0"), True, "device",
    ),
    "two videos of one name": (lambda c: _member("bad.mp4", c) * 2 + _member("bad.cls", b"0"), True, "two members"),
    "five thousand members": (
        lambda c: b"".join(_member(f"bad.{n}") for n in range(5000)) + _member("bad.cls", b"0"),
        True, "more than 1000",
    ),
    "a key that came before": (lambda c: _sample("other", c) + _sample("first", c), True, "the same name first"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(_TAR))
def test_hostile_sample_of_a_tar_costs_itself(tmp_path: Path, clip: bytes, case: str) -> None:
    make, goes_on, said = _TAR[case]
    _shard(tmp_path / "a.tar", _sample("first", clip), make(clip), _sample("last", clip, b"1"))
    _shard(tmp_path / "b.tar", _sample("next", clip))
    with _bounded():
        num_read, unreadable = _train_on(load_video_dataset(tmp_path, streaming=True))
    good = {"a.tar/first", "b.tar/next"} | ({"a.tar/last"} if goes_on else set())
    assert num_read == len(good) + (case == "a key that came before")
    assert not good & set(unreadable)
    assert unreadable
    assert any(said in reason for reason in unreadable.values()), unreadable
    for name, reason in unreadable.items():
        (name + reason).encode()
        assert len(name + reason) < 2000


def test_names_in_a_tar_that_are_no_utf8_or_lead_away_are_only_names(tmp_path: Path, clip: bytes) -> None:
    names = ["../../up", "/etc/x", "a\udcff"]
    members = [_sample(name, clip) for name in names[:2]]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for suffix, data in ((".mp4", clip), (".cls", b"1")):
            info = tarfile.TarInfo(names[2] + suffix)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    _shard(tmp_path / "a.tar", *members, buffer.getvalue())
    num_read, unreadable = _train_on(load_video_dataset(tmp_path / "a.tar", streaming=True), num_workers=1)
    assert (num_read, unreadable) == (3, {})


def test_sparse_members_are_refused(tmp_path: Path, clip: bytes) -> None:
    sparse = tmp_path / "bad.mp4"
    with open(sparse, "wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["tar", "-S", "--format=gnu", "-cf", "a.tar", "bad.mp4"], cwd=tmp_path, check=True)
    _shard(tmp_path / "b" / "a.tar", _sample("first", clip), (tmp_path / "a.tar").read_bytes())
    with _bounded():
        num_read, unreadable = _train_on(load_video_dataset(tmp_path / "b", streaming=True))
    assert num_read == 1
    assert "sparse" in unreadable["a.tar/bad"]


def test_archive_members_are_measured_before_they_are_read(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "a.tar", _sample("first", b"x"))
    with _bounded():
        for offset, size in ((0, 1 << 43), (-1, 5), (1 << 62, 1), (0, -1), (0, 2**70), ("0", 5), (None, None)):
            with pytest.raises(VideoReadError):
                open_video({"archive": str(shard), "offset": offset, "size": size, "fault": None})


# ---------------------------------------------------------------------------------------------------------------------
# Lists and tables
# ---------------------------------------------------------------------------------------------------------------------


def test_list_line_of_a_billion_frames_is_one_unreadable_video(tmp_path: Path) -> None:
    from PIL import Image

    for folder in ("good", "x"):
        (tmp_path / folder).mkdir()
        for number in range(1, 9):
            Image.new("RGB", (32, 32)).save(tmp_path / folder / f"img_{number:05d}.jpg")
    lines = ["good 8 0", "x 999999999 0", "good/../x/ 9000000000000000000 1", "x/. 9 1"]
    file = write_list(tmp_path / "l.txt", [lines[0], lines[1]])
    with _bounded():
        num_read, unreadable = _train_on(load_video_dataset(file), num_workers=1)
        assert num_read == 1
        assert "999999999 frames, above the limit" in unreadable["x"]
        assert [problem.number for problem in validate_annotations(file).found] == []
        with pytest.raises(VideoReadError, match="above the limit"):
            open_video(load_video_dataset(file)[1]["video"], time_limit=60)
    file = write_list(tmp_path / "m.txt", ["good 8 0", "x 99999999999999999999999 0"])
    with pytest.raises(ValueError, match="1 of 2 lines .*line 2"):
        load_video_dataset(file, layout="frame_list")


_LINES = {
    "label of 10^20": "b.mp4 100000000000000000000",
    "label of 5000 digits": "b.mp4 " + "9" * 5000,
    "NUL": "b\0.mp4 1",
    "line of 3 MB": "b" * 3 * 1024**2 + ".mp4 1",
}


@pytest.mark.parametrize("case", list(_LINES))
def test_hostile_line_of_a_list_is_named(tmp_path: Path, case: str) -> None:
    (tmp_path / "a.mp4").touch()
    file = write_list(tmp_path / "l.txt", ["a.mp4 0", _LINES[case], "c.mp4 0"])
    with _bounded(), pytest.raises(ValueError, match="1 of 3 lines .*line 2;") as error:
        load_video_dataset(file)
    assert len(str(error.value)) < 5000


def test_line_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "l.txt").write_bytes(b"a.mp4 0\n\xff\xfe.mp4 1\n")
    with pytest.raises(ValueError, match="1 of 2 lines .*no UTF-8 text.*line 2;") as error:
        load_video_dataset(tmp_path / "l.txt")
    str(error.value).encode()


_RECORDS = {
    "deep": '{"path": "b.mp4", "label": ' + "[" * 5000 + "]" * 5000 + "}",
    "digits": '{"path": "b.mp4", "label": ' + "9" * 10**6 + "}",
    "huge": '{"path": "b.mp4", "label": 1e400}',
    "NaN": '{"path": "b.mp4", "label": NaN}',
    "10^20": '{"path": "b.mp4", "label": 100000000000000000000}',
    "list": '{"path": "b.mp4", "label": [1]}',
    "true": '{"path": "b.mp4", "label": true}',
    "surrogate": '{"path": "b.mp4", "label": "\\ud800"}',
    "path surrogate": '{"path": "\\ud800.mp4", "label": 1}',
    "path NUL": '{"path": "b\\u0000.mp4", "label": 1}',
    "path list": '{"path": ["b.mp4"], "label": 1}',
    "two labels": '{"path": "b.mp4", "label": 1, "label": 0}',
}


@pytest.mark.parametrize("case", list(_RECORDS))
def test_hostile_json_line_is_named(tmp_path: Path, case: str) -> None:
    (tmp_path / "a.mp4").touch()
    file = write_list(tmp_path / "t.jsonl", ['{"path": "a.mp4", "label": 0}', _RECORDS[case]])
    with _bounded(), pytest.raises(ValueError, match="1 of 2 lines .*line 2;") as error:
        load_video_dataset(file)
    assert len(str(error.value)) < 5000
    assert [problem.number for problem in validate_annotations(file).found] == [2]


@pytest.mark.parametrize("field", ["b" * 200_000, "b\0", "9" * 5000], ids=["above the csv limit", "NUL", "digits"])
def test_hostile_csv_field_is_named(tmp_path: Path, field: str) -> None:
    for name in ("a.mp4", "c.mp4"):
        (tmp_path / name).touch()
    file = write_list(tmp_path / "t.csv", ["path,label", "a.mp4,0", f"b.mp4,{field}", "c.mp4,1"])
    with _bounded(), pytest.raises(ValueError, match="1 of 3 lines .*line 3;"):
        load_video_dataset(file)


def test_hostile_json_file_of_a_benchmark_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is no JSON file: the JSON is nested too deep"):
        load_video_dataset(tmp_path / "a.json")


# ---------------------------------------------------------------------------------------------------------------------
# Parquet
# ---------------------------------------------------------------------------------------------------------------------

_VALUES = {
    "NaN": pa.array([0.0, float("nan"), 1.0]),
    "infinite": pa.array([0.0, float("inf"), 1.0]),
    "a fraction": pa.array([0.0, 0.5, 1.0]),
    "10^18": pa.array([0, 10**18, 1]),
    "2^64 - 1": pa.array([0, 2**64 - 1, 1], pa.uint64()),
    "negative": pa.array([0, -1, 1]),
    "none": pa.array([0, None, 1]),
    "a class the model lacks": pa.array([0, 7, 1]),
}


@pytest.mark.parametrize("case", list(_VALUES))
@pytest.mark.parametrize("num_workers", [0, 1])
def test_hostile_label_of_parquet_costs_its_row(tmp_path: Path, clip: bytes, case: str, num_workers: int) -> None:
    if num_workers and case != "NaN":
        pytest.skip("one case through a worker is enough")
    table = pa.table({"video": pa.array([clip] * 3, pa.binary()), "label": _VALUES[case], "video_id": list("abc")})
    pq.write_table(table, tmp_path / "a.parquet")
    num_read, unreadable = _train_on(load_video_dataset(tmp_path / "a.parquet", streaming=True), num_workers)
    assert (num_read, list(unreadable)) == (2, ["b"])
    assert "the label" in unreadable["b"]


@pytest.mark.parametrize("kind", ["bool", "list", "struct"])
def test_labels_of_other_types_are_one_clear_error(tmp_path: Path, clip: bytes, kind: str) -> None:
    labels = {"bool": [True, False], "list": [[0], [1]], "struct": [{"a": 0}, {"a": 1}]}[kind]
    pq.write_table(pa.table({"video": pa.array([clip] * 2, pa.binary()), "label": labels}), tmp_path / "a.parquet")
    if kind == "bool":
        assert _train_on(load_video_dataset(tmp_path / "a.parquet", streaming=True))[0] == 0
    else:
        with pytest.raises(ValueError, match="is no label of one class"):
            load_video_dataset(tmp_path / "a.parquet", streaming=True)


def _damaged(path: Path, clip: bytes, case: str) -> None:
    """Two row groups, of which the first holds something that cannot be read."""
    ids = pa.array(["a", "b", "c", "d"])
    if case == "no UTF-8":
        offsets, data = pa.py_buffer(struct.pack("<5i", 0, 2, 3, 4, 5)), pa.py_buffer(b"\xff\xfebcd")
        ids = pa.StringArray.from_buffers(4, offsets, data)
    table = pa.table({"video": pa.array([clip] * 4, pa.binary()), "label": [0] * 4, "video_id": ids})
    pq.write_table(table, path, row_group_size=2, compression="snappy", use_dictionary=False)
    if case == "page":
        start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
        data = bytearray(path.read_bytes())
        data[start : start + 400] = b"\xff" * 400
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("case", ["no UTF-8", "page"])
def test_damaged_parquet_costs_the_rest_of_its_row_group(tmp_path: Path, clip: bytes, case: str) -> None:
    _damaged(tmp_path / "a.parquet", clip, case)
    num_read, unreadable = _train_on(load_video_dataset(tmp_path / "a.parquet", streaming=True))
    assert num_read >= 2
    assert len(unreadable) >= 1
    assert "the shard is damaged after its row" in " ".join(unreadable.values())


# ---------------------------------------------------------------------------------------------------------------------
# Values of `video`
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "video",
    [
        None, 7, 1.5, [], ["a.mp4"], {}, {"path": None, "bytes": None}, {"path": 7}, {"path": ["a"]},
        {"bytes": 10**13},
        {"bytes": "text"}, {"frames": [["a", "b"]]}, {"frames": [1]}, {"frames": "abc"}, {"frames": []},
        {"path": "a\0b"},
        {"frame_folder": "x", "num_frames": 10**30, "frame_pattern": "%d"},
        {"frame_folder": "x", "num_frames": -3, "frame_pattern": "%d"},
        {"frame_folder": "x", "num_frames": 3, "frame_pattern": "%s%s"},
        {"frame_folder": "x", "num_frames": 3, "frame_pattern": "%999999999d"},
        {"frame_folder": "x", "num_frames": "3", "frame_pattern": "%d"},
        {"archive": "x", "offset": 0, "size": 1}, {"archive": 7, "offset": 0, "size": 1}, {"fault": 7},
    ],
    ids=repr,
)  # fmt: skip
def test_row_whose_video_is_nothing_is_one_unreadable_video(tmp_path: Path, clip: bytes, video: Any) -> None:
    rows: Sequence[dict[str, Any]] = [
        {"video": clip, "label": 0, "video_id": "good"}, {"video": video, "label": 1, "video_id": "bad"},
    ]  # fmt: skip
    with _bounded():
        num_read, unreadable = _train_on(rows)
    assert (num_read, list(unreadable)) == (1, ["bad"])


@pytest.mark.parametrize("label", [2, -1, 10**20, float("nan"), 0.5, True, "0", [0]], ids=repr)
def test_row_whose_label_is_none_of_the_models_is_one_unreadable_video(clip: bytes, label: Any) -> None:
    rows = [{"video": clip, "label": 0, "video_id": "good"}, {"video": clip, "label": label, "video_id": "bad"}]
    num_read, unreadable = _train_on(rows)
    assert (num_read, list(unreadable)) == (1, ["bad"])
    assert "is none of 2 classes" in unreadable["bad"]


def test_hostile_list_is_read_in_little_memory(tmp_path: Path) -> None:
    """The whole way in a process that may not take more than 2 GB."""
    write_list(tmp_path / "l.txt", [f"f{number} 999999999 0" for number in range(4)])
    for number in range(4):
        (tmp_path / f"f{number}").mkdir()
    write_list(tmp_path / "t.jsonl", [json.dumps({"path": "f0", "label": 1}), _RECORDS["digits"]])
    program = f"""
import resource
from amd_hf.data.checking import CheckOptions, check_videos
from amd_hf import load_video_dataset
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
rows = load_video_dataset({str(tmp_path / "l.txt")!r})
print([check.status for check in check_videos(rows, CheckOptions(), num_threads=1)])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.strip() == "['unreadable', 'unreadable', 'unreadable', 'unreadable']", run.stderr
    assert resource.getrlimit(resource.RLIMIT_DATA)


# ---------------------------------------------------------------------------------------------------------------------
# Files of action detection
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("v,1,0,0,1,1," + "9" * 5000 + ",0", "does not know"),
        ("v,1,0,0,1,1,\u00b2,0", "does not know"),
        ("v," + "9" * 400 + ",0,0,1,1,1,0", "no number"),
        ("v" * 200_000 + ",1,0,0,1,1,1,0", "no UTF-8 text of usual length"),
        ("v\0,1,0,0,1,1,1,0", "no UTF-8 text of usual length"),
    ],
    ids=["digits", "superscript", "infinite time", "long field", "NUL"],
)
def test_hostile_line_of_boxes_is_named(tmp_path: Path, line: str, said: str) -> None:
    problems = Problems()
    file = write_list(tmp_path / "a.csv", ["v,1,0,0,1,1,1,0", line])
    assert len(read_actions(file, [1], problems)) == 1
    (problem,) = problems.found
    assert problem.number == 2
    assert said in str(problem)
    assert len(str(problem)) < 2000


def test_hostile_boxes_in_json_are_named(tmp_path: Path) -> None:
    box = {"video": "v", "timestamp": 1, "box": [0, 0, 1, 1], "score": 0.5}
    (tmp_path / "a.json").write_text(json.dumps([box, {**box, "timestamp": 10**400}, {**box, "score": float("nan")}]))
    problems = Problems()
    assert len(read_person_boxes(tmp_path / "a.json", problems)) == 1
    assert [problem.number for problem in problems.found] == [2, 3]
    (tmp_path / "a.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match="nested too deep"):
        read_person_boxes(tmp_path / "a.json", problems)


def test_action_of_a_huge_number_is_an_error_before_the_classes_are_made(tmp_path: Path) -> None:
    (tmp_path / "a.pbtxt").write_text('item { name: "run" id: 99999999999 }')
    with _bounded(), pytest.raises(ValueError, match="has an action without a name or a number"):
        read_action_list(tmp_path / "a.pbtxt")
