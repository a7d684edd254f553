"""The command itself: what it prints, what it publishes, how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amd_hf.data.arguments import DataArguments
from amd_hf.data.loading import load_video_dataset
from amd_hf.preparing.arguments import PreparingArguments
from amd_hf.preparing.data_set import Preparation
from benchmarks.videos import make_videos
from tests.helpers.hub import hub_stand_in
from tests.helpers.training import ends_with_one_line, load_script
from tests.helpers.videos import text_file, write_video


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("train/left/0.mp4", "train/right/1.mp4", "validation/left/2.mp4", "validation/right/3.mp4"):
        write_video(tmp_path / "source" / name, 24, 96, 128)
    text_file(tmp_path / "source/train/left/4.mp4")
    return tmp_path / "source"


def _arguments(source: Path, output: Path, *more: str) -> list[str]:
    splits = ["--split", "train", "validation"]
    return ["--data", str(source), *splits, "--output_dir", str(output), "--num_workers", "1", *more]


def test_command_says_what_it_made_and_how_to_load_it(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_script("prepare").main(_arguments(source, tmp_path / "out", "--short_side", "48"))
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "4 videos prepared (4 now), 1 left out"
    assert re.search(
        r"^loading on one core: [\d.]+ clips/s before, [\d.]+ after \([\d.]+ times\)$", said, re.MULTILINE
    )
    before = sum(path.stat().st_size for path in source.rglob("[0-3].mp4"))
    after = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.mp4"))
    assert f"bytes: {before / 1e6:.2f} MB before, {after / 1e6:.2f} MB after" in said
    options = re.findall(r"^to load them: --data (.*) --split (.*) --class_names (.*)$", said, re.MULTILINE)
    assert [split for _, split, _ in options] == ["train", "validation"]
    for folder, split, names in options:
        assert len(load_video_dataset(folder, split=split, label_names=names)) == 2


def test_dry_run_makes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_script("prepare").main(_arguments(source, tmp_path / "out", "--dry_run"))
    assert "train: 3 videos" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_published_are_the_files_that_load_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--format", "parquet", "--push_to_hub", "me/clips", "--private", "true", "--speed_sample", "0"]
    with hub_stand_in() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
        load_script("prepare").main(_arguments(source, tmp_path / "out", *options))
    (created,) = hub.created
    assert (created["type"], created["name"], created["visibility"]) == ("dataset", "clips", "private")
    assert set(hub.files) == {
        "data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet", "label_names.txt",
    }  # fmt: skip
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in hub.files.items())
    assert "Published: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--push_to_hub", "no id"], r"'no id' is no id of the Hub"),
        (["--crf", "99"], "`--crf` must be at most 51, not 99"),
        (["--split", "nowhere"], "There is no split 'nowhere'"),
        (["--format", "zip"], "zip"),
    ],
)
def test_mistakes_end_with_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    main = load_script("prepare").main
    assert re.search(message, ends_with_one_line(lambda: main(_arguments(source, tmp_path / "out", *options)), capsys))
    assert not (tmp_path / "out").exists()


def test_paths_of_this_machine_are_not_published(source: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.txt").write_text(f"{source}/train/left/0.mp4 0\n")
    with pytest.raises(ValueError, match="1 ids of videos are paths of this machine"):
        load_script("prepare").main(
            [
                "--data",
                str(tmp_path / "lists/list.txt"),
                "--output_dir",
                str(tmp_path / "out"),
                "--push_to_hub",
                "me/x",
            ]
        )


@pytest.mark.slow
def test_output_loads_at_least_two_and_a_half_times_as_fast_as_1080p(tmp_path: Path) -> None:
    make_videos(tmp_path / "source", 1, seconds=3, height=1080, width=1920)
    arguments = PreparingArguments(output_dir=str(tmp_path / "out"), num_workers=1)
    preparation = Preparation(DataArguments(data=str(tmp_path / "source")), arguments)
    outcome = preparation.run(lambda verdicts, total: verdicts)
    before, after = preparation.measure_speed(outcome)
    assert after > 2.5 * before  # CPU seconds; measured: 20 to 33 times
    assert outcome.bytes_after < outcome.bytes_before / 2.5
