"""Bad videos, killed runs, folders of others: the same bytes as undisturbed, and nothing of anybody's is touched."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amd_hf.data.arguments import DataArguments
from amd_hf.data.loading import load_video_dataset
from amd_hf.data.video import decoding
from amd_hf.errors import RunStopped
from amd_hf.preparing.arguments import PreparingArguments
from amd_hf.preparing.data_set import Preparation
from amd_hf.preparing.running import Verdict
from tests.helpers.damage import sound_videos
from tests.helpers.hostile_decoders import HOSTILE
from tests.helpers.training import ROOT
from tests.helpers.videos import mark_rotated, text_file, truncate, write_video
from tests.helpers.warm import start_warm

from .conftest import Prepare


_COMMAND = "import sys; from amd_hf.cli import main; main(sys.argv[1:])"
_JOURNAL = ".amd_hf_prepare.jsonl"


class _Killed(BaseException):
    pass


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _mixed_videos(folder: Path, count: int) -> set[str]:
    """`count` videos of two classes and several kinds, of which a part is bad; the ids of the bad ones."""
    sound = {name: path.read_bytes() for name, path in sound_videos(folder.parent / "sound").items()}
    phone = mark_rotated(write_video(folder.parent / "phone.mp4", 8, 48, 64), 90).read_bytes()
    good = [(".mp4", sound["mp4_moov_last"]), (".webm", sound["webm"]), (".avi", sound["avi"]), (".MOV", phone)]
    cut = len(sound["mp4_moov_first"]) * 2 // 3
    bad = [
        (".mp4", b""), (".mp4", b"<html>404</html>" * 9), (".mp4", sound["mp4_moov_first"][:cut]),
        (".avi", sound["avi"][: len(sound["avi"]) * 2 // 3]), (".webm", sound["webm"][: len(sound["webm"]) // 2]),
    ]  # fmt: skip
    ids = set()
    for number in range(count):
        is_bad = number % 25 == 3
        suffix, content = bad[number // 25 % len(bad)] if is_bad else good[number % len(good)]
        name = f"{'left' if number % 2 else 'right'}/{number:03d}{suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        ids |= {name} if is_bad else set()
    return ids


def _reported(folder: Path) -> set[str]:
    with open(folder / "report.csv", newline="") as file:
        return {row["video_id"] for row in csv.DictReader(file) if row["in_output"] == "no" and row["reason"]}


@pytest.mark.parametrize("format_name", ["class_folders", "webdataset", "frames"])
def test_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, prepare: Prepare, format_name: str) -> None:
    bad = _mixed_videos(tmp_path / "source", 12)
    before = _tree(tmp_path / "source")
    options = {"format": format_name, "videos_per_shard": 5, "max_unreadable_fraction": 0.5}
    undisturbed = prepare(tmp_path / "source", tmp_path / "undisturbed", **options)

    arguments = PreparingArguments(output_dir=str(tmp_path / "out"), num_workers=1, preset="ultrafast", **options)
    for num_verdicts in (2, 7):

        def stop(verdicts: Iterator[Verdict], total: int, num_verdicts: int = num_verdicts) -> Iterator[Verdict]:
            for number, verdict in enumerate(verdicts):
                if number == num_verdicts:
                    raise _Killed
                yield verdict

        with pytest.raises(_Killed):
            Preparation(DataArguments(data=str(tmp_path / "source")), arguments).run(stop)
        # In the midst of a line, after a file got its name: what `kill -9` leaves.
        lines = (tmp_path / "out" / _JOURNAL).read_text().splitlines(keepends=True)
        (tmp_path / "out" / _JOURNAL).write_text("".join(lines[:-2]) + lines[-2][:9])
        for name in ("0.part", "1.part"):
            part = tmp_path / "out" / ".amd_hf_prepare" / name
            if format_name == "frames":
                part.mkdir(exist_ok=True)
                part = part / "img_00099.jpg"
            part.write_bytes(b"half a video")
    resumed = prepare(tmp_path / "source", tmp_path / "out", **options)

    assert _tree(tmp_path / "out") == _tree(tmp_path / "undisturbed")
    assert _tree(tmp_path / "source") == before
    assert 0 < resumed.num_new < undisturbed.num_new == 12 - len(bad)
    assert _reported(tmp_path / "out") == bad == {verdict.item.video_id for verdict in resumed.left_out}
    rows = load_video_dataset(**resumed.loading[0])
    assert rows["video_id"][:] == sorted(set(before) - bad)
    again = prepare(tmp_path / "source", tmp_path / "out", **options)
    assert again.num_new == 0
    assert _tree(tmp_path / "out") == _tree(tmp_path / "undisturbed")


def _run_killed(source: Path, output: Path, seconds: list[float], *options: str) -> str:
    """Runs the command, killing it (`kill -9`) after each of the times; then to its end. What it printed."""
    arguments = ["prepare", "--data", str(source), "--output_dir", str(output), "--num_workers", "2", *options]
    for wait in seconds:
        process = start_warm(_COMMAND, *arguments, cwd=ROOT)
        deadline = time.monotonic() + 100
        while not (output / _JOURNAL).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(wait)
        assert process.poll() is None, "it had ended before it was killed"
        process.kill()
    outcome = start_warm(_COMMAND, *arguments, cwd=ROOT).wait(500)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return outcome.stdout


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["class_folders", "webdataset"])
def test_500_mixed_videos_killed_twice(tmp_path: Path, format_name: str) -> None:
    bad = _mixed_videos(tmp_path / "source", 500)
    before = _tree(tmp_path / "source")
    options = ["--format", format_name, "--videos_per_shard", "60", "--speed_sample", "0", "--short_side", "32"]
    _run_killed(tmp_path / "source", tmp_path / "undisturbed", [], *options)
    said = _run_killed(tmp_path / "source", tmp_path / "out", [1.0, 1.5], *options)
    assert len(bad) == 20
    assert "480 videos prepared" in said
    assert "20 left out" in said
    assert _tree(tmp_path / "out") == _tree(tmp_path / "undisturbed")
    assert _tree(tmp_path / "source") == before
    assert _reported(tmp_path / "out") == bad


def test_changed_originals_are_made_anew_and_others_are_not(tmp_path: Path, prepare: Prepare) -> None:
    for name in ("a/0", "a/1", "b/2"):
        write_video(tmp_path / "source" / f"{name}.mp4", 4)
    prepare(tmp_path / "source", tmp_path / "out")
    write_video(tmp_path / "source/a/1.mp4", 9)
    outcome = prepare(tmp_path / "source", tmp_path / "out")
    assert outcome.num_new == 1
    with decoding.open_video(tmp_path / "out/a/1.mp4") as video:
        assert len(video) == 9


def test_damaged_videos_are_kept_on_request(tmp_path: Path, prepare: Prepare) -> None:
    write_video(tmp_path / "source/0.mp4", 4)
    (tmp_path / "source/1.avi").write_bytes(truncate(sound_videos(tmp_path / "sound")["avi"], 0.7).read_bytes())
    outcome = prepare(tmp_path / "source", tmp_path / "out")
    assert [verdict.item.video_id for verdict in outcome.left_out] == ["1.avi"]
    assert "missing at the end of the file" in str(outcome.faulty[0].fault)
    outcome = prepare(tmp_path / "source", tmp_path / "out", keep_damaged=True)
    assert outcome.num_new == 1
    assert [item.video_id for item in outcome.made] == ["0.mp4", "1.avi"]
    assert outcome.faulty[0].is_made


def test_video_that_crashes_its_process_is_one_bad_video(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoding.DECODERS, "pyav", HOSTILE)
    for name in ("abort_on_open", "good", "later"):
        write_video(tmp_path / "source" / f"{name}.mp4", 4)
    outcome = prepare(tmp_path / "source", tmp_path / "out")
    assert [item.video_id for item in outcome.made] == ["good.mp4", "later.mp4"]
    assert "its decoder crashed (SIGABRT)" in str(outcome.faulty[0].fault)


def test_too_many_bad_videos_stop_the_run_and_are_named(tmp_path: Path, prepare: Prepare) -> None:
    write_video(tmp_path / "source/000.mp4", 3)
    for number in range(1, 110):
        text_file(tmp_path / f"source/{number:03d}.mp4")
    with pytest.raises(
        RunStopped, match=r"99 of 100 videos are bad, more than `max_unreadable_fraction` 10.00% allows"
    ):
        prepare(tmp_path / "source", tmp_path / "out")
    assert len(_reported(tmp_path / "out")) == 99


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_video(tmp_path / "source/0.mp4", 3)
    return tmp_path / "source"


def test_other_settings_are_refused(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    prepare(source, tmp_path / "out")
    before = _tree(tmp_path / "out")
    with pytest.raises(ValueError, match=r"was prepared with `--crf` 20, not 30. Nothing was changed: give the same"):
        prepare(source, tmp_path / "out", crf=30)
    assert _tree(tmp_path / "out") == before


@pytest.mark.parametrize("inside", ["source", "source/out", "link/out"])
def test_output_among_the_originals_is_refused(source: Path, tmp_path: Path, prepare: Prepare, inside: str) -> None:
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ValueError, match="the folder of the originals, and would be listed"):
        prepare(source, tmp_path / inside)
    assert os.listdir(source) == ["0.mp4"]


def test_originals_inside_of_the_output_are_refused(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "list.txt").write_text("source/0.mp4 0\n")
    with pytest.raises(ValueError, match=r"Originals lie in .*source, inside of `--output_dir`"):
        prepare(tmp_path / "list.txt", tmp_path)


def test_files_of_others_are_refused_and_stay(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other things \(notes.txt\), not what amd-hf prepare has made"):
        prepare(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["notes.txt"]
    prepare(source, tmp_path / "made")
    (tmp_path / "made/0.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"0.mp4 is in the way: it is not what amd-hf prepare has written"):
        prepare(source, tmp_path / "made")
    assert (tmp_path / "made/0.mp4").read_bytes() == b"mine"


def test_second_process_is_refused(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    prepare(source, tmp_path / "out")
    with open(tmp_path / "out" / _JOURNAL) as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"Another process is preparing .*out"):
            prepare(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crf": 52}, "`crf` must be at most 51, not 52"),
        ({"key_frame_interval": 0}, "`key_frame_interval` must be at least 1, not 0"),
        ({"fps": -1.0}, "`fps` must be above 0"),
        ({"trim_start": 5.0, "trim_end": 4.0}, "`trim_end` must be above `trim_start`"),
        ({"preset": "quick"}, "`preset` must be one of"),
        ({"max_unreadable_fraction": 2.0}, "`max_unreadable_fraction` must be between 0 and 1"),
        ({"split": ["train", "train"]}, "`split` names a split twice"),
        ({"split": ["a/b"], "format": "parquet"}, "`split` must be plain names for shards"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreparingArguments(**options)


def test_marker_tells_the_settings(source: Path, tmp_path: Path, prepare: Prepare) -> None:
    prepare(source, tmp_path / "out", short_side=48)
    marker = json.loads((tmp_path / "out/.amd_hf_output.json").read_text())
    assert marker["made_by"] == "amd-hf prepare"
    assert marker["settings"]["short_side"] == 48
