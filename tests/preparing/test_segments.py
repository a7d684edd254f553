"""Clips that a csv cuts out of longer videos by seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from amd_hf.data.loading import load_video_dataset
from amd_hf.data.video.decoding import open_video
from tests.helpers.videos import frame_numbers, write_list, write_video

from .conftest import Prepare


def _numbers(video: dict) -> list[int]:
    with open_video(video) as opened:
        return frame_numbers(opened.frames(range(len(opened))))


def test_kinetics_csv_cuts_downloads_and_takes_clips_that_are_cut(tmp_path: Path, prepare: Prepare) -> None:
    videos = tmp_path / "k/train"
    write_video(videos / "long.mp4", 60, fps=10)
    write_video(videos / "zumba" / "cut_000003_000004.mp4", 7, fps=10)
    (tmp_path / "k/annotations").mkdir()
    lines = ["zumba,long,1,3,train", "archery,long,4,5,train", "zumba,cut,3,4,train", "zumba,gone,0,9,train"]
    write_list(tmp_path / "k/annotations/train.csv", ["label,youtube_id,time_start,time_end,split", *lines])
    outcome = prepare(tmp_path / "k", tmp_path / "out", split=["train"], trim_by_times=True)
    assert [verdict.item.video_id for verdict in outcome.left_out] == ["train/gone_000000_000009.mp4"]
    rows = load_video_dataset(**outcome.loading[0])
    ids = ["train/long_000001_000003.mp4", "train/long_000004_000005.mp4", "train/zumba/cut_000003_000004.mp4"]
    assert rows["video_id"][:] == ids
    assert rows.features["label"].int2str(rows["label"][:]) == ["zumba", "archery", "zumba"]
    assert [_numbers(row["video"]) for row in rows] == [list(range(10, 30)), list(range(40, 50)), list(range(7))]
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out/train").rglob("*.mp4")}
    assert files == {
        "train/zumba/long_000001_000003.mp4", "train/archery/long_000004_000005.mp4",
        "train/zumba/cut_000003_000004.mp4",
    }  # fmt: skip


def test_table_cuts_several_clips_of_a_video(tmp_path: Path, prepare: Prepare) -> None:
    write_video(tmp_path / "own/a.mp4", 30, fps=10)
    lines = ["path,label,time_start,time_end", "a.mp4,0,0.5,1", "a.mp4,1,2,9"]
    outcome = prepare(
        write_list(tmp_path / "own/list.csv", lines), tmp_path / "out", trim_by_times=True, format="list"
    )
    rows = load_video_dataset(**outcome.loading[0])
    assert rows["video_id"][:] == ["a_0.5_1.mp4", "a_2_9.mp4"]
    assert rows["label"][:] == [0, 1]
    assert [_numbers(row["video"]) for row in rows] == [list(range(5, 10)), list(range(20, 30))]


def test_metadata_of_a_folder_cuts_its_videos(tmp_path: Path, prepare: Prepare) -> None:
    write_video(tmp_path / "own/a.mp4", 30, fps=10)
    write_list(tmp_path / "own/metadata.csv", ["file_name,time_start,time_end", "a.mp4,1.0,1.5"])
    outcome = prepare(tmp_path / "own", tmp_path / "out", trim_by_times=True)
    assert _numbers(load_video_dataset(**outcome.loading[0])[0]["video"]) == list(range(10, 15))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label,time_start,time_end", "a.mp4,0,2,1"], r"1 of 1 lines of .* have no start and end in seconds"),
        (["path,label,time_start,time_end", "a.mp4,0,0,1", "a.mp4,1,0,1"], "name a video that an earlier one names"),
        (["path,label", "a.mp4,0"], "has no column `time_end`, `time_start`"),
    ],
)
def test_times_that_say_nothing_are_refused(tmp_path: Path, prepare: Prepare, lines: list[str], message: str) -> None:
    write_video(tmp_path / "own/a.mp4", 5)
    with pytest.raises(ValueError, match=message):
        prepare(write_list(tmp_path / "own/list.csv", lines), tmp_path / "out", trim_by_times=True)


def test_data_without_times_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    write_video(tmp_path / "own/a.mp4", 5)
    with pytest.raises(
        ValueError, match="`trim_by_times` needs the columns time_start and time_end, which .* does not"
    ):
        prepare(tmp_path / "own", tmp_path / "out", trim_by_times=True)
    with pytest.raises(ValueError, match="`trim_by_times` takes the seconds from the data"):
        prepare(tmp_path / "own", tmp_path / "out", trim_by_times=True, trim_end=2.0)
