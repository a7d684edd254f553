"""predict.py as a program: its three forms of output, bad files and exit codes, and a long video in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from amd_hf import AMDForVideoClassification, AMDVideoProcessor
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import ROOT, load_script, run_script, script_environment
from tests.helpers.videos import text_file, write_video


NAMES = ["left", "right", "up", "down", "odd, one"]
Predict = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(image_size=16)
    config.id2label = dict(enumerate(NAMES))
    folder = tmp_path_factory.mktemp("classifier")
    randomize(AMDForVideoClassification(config), std=0.2).save_pretrained(folder)
    AMDVideoProcessor.for_model(config, sampling_rate=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of 2 seconds, one of 5 frames below it, and a text file that calls itself a video."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 50, 48, 64)
    write_video(folder / "more" / "b.webm", 5, 48, 64, codec="libvpx-vp9")
    text_file(folder / "more" / "text.mp4")
    return folder


@pytest.fixture
def predict(classifier_folder: Path) -> Predict:
    """The program in this process."""

    def run(*arguments: object) -> list[dict[str, Any]]:
        start = ["--model_name_or_path", str(classifier_folder), "--use_cpu"]
        return load_script("predict").main([*start, "--videos", *map(str, arguments)])

    return run


def test_json_holds_a_line_per_video_of_a_folder(
    predict: Predict, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = predict(videos, "--format", "json", "--top_k", 2)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == results
    assert [Path(line["video"]).name for line in lines] == ["a.mp4", "b.webm", "text.mp4"]
    for line in lines[:2]:
        scores = [entry["score"] for entry in line["predictions"]]
        assert scores == sorted(scores, reverse=True)
        assert {entry["label"] for entry in line["predictions"]} <= set(NAMES)
        assert len(scores) == 2
    assert "predictions" not in lines[2]
    assert lines[2]["error"]


def test_csv_reads_back_with_times_and_commas_in_names(
    predict: Predict, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = predict(videos, "--format", "csv", "--window_seconds", 0.8, "--stride_seconds", 0.4)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    windows = results[0]["windows"]
    of_first = [row for row in rows if row["video"].endswith("a.mp4")]
    assert [(row["start_frame"], row["stop_frame"]) for row in of_first[::5]] == [
        ("0", "20"), ("10", "30"), ("20", "40"), ("30", "50")
    ]  # fmt: skip
    assert [float(row["start_seconds"]) for row in of_first[::5]] == pytest.approx([0, 0.4, 0.8, 1.2])
    assert [float(row["end_seconds"]) for row in of_first[::5]] == pytest.approx([0.8, 1.2, 1.6, 2.0])
    assert {row["label"] for row in of_first} == set(NAMES)
    first = windows[0]["predictions"]
    assert [float(row["score"]) for row in of_first[:5]] == [entry["score"] for entry in first]
    assert [row["rank"] for row in of_first[:5]] == ["1", "2", "3", "4", "5"]
    assert [bool(row["error"]) for row in rows] == [False] * 25 + [True]


def test_table_names_windows_by_their_times(
    predict: Predict, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(videos / "a.mp4", "--window_frames", 25, "--top_k", 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(videos / "a.mp4")
    assert lines[1].startswith("      0.000 s to     1.000 s  ")
    assert lines[2].startswith("      1.000 s to     2.000 s  ")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window_seconds", "1", "--window_frames", "4"], "Set windows in seconds or in frames, not in both"),
        (["--stride_frames", "4"], "`stride_frames` needs `window_frames`"),
        (["--window_seconds", "0"], "The length of a window must be above 0 seconds"),
        (["--top_k", "0"], "`top_k` must be at least 1"),
        (["--batch_size", "0"], "`batch_size` must be at least 1"),
        (["--format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    predict: Predict, videos: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(videos / "a.mp4", *arguments)


def test_head_that_was_saved_untrained_is_refused(videos: Path, tmp_path: Path) -> None:
    AMDForVideoClassification(tiny_config(image_size=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was never trained"):
        load_script("predict").main(["--model_name_or_path", str(tmp_path), "--videos", str(videos), "--use_cpu"])


@pytest.mark.parametrize(
    ("names", "code"), [(["a.mp4"], None), (["a.mp4", "more/text.mp4"], 1), (["more/text.mp4"], 2)]
)
def test_exit_code_tells_whether_all_some_or_no_files_were_read(
    classifier_folder: Path,
    videos: Path,
    names: list[str],
    code: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [str(videos / name) for name in names]
    arguments = ["predict.py", "--model_name_or_path", str(classifier_folder), "--use_cpu", "--videos", *files]
    monkeypatch.setattr(sys, "argv", arguments)
    found = None
    try:
        load_script("predict").run()
    except SystemExit as ending:
        found = ending.code
    assert found == code
    assert ("text.mp4: cannot be read: " in capsys.readouterr().out) == (code is not None)


def test_program_started_as_a_process_is_not_confused_by_the_library_evaluate(
    classifier_folder: Path, videos: Path
) -> None:
    files = [str(videos / name) for name in ("a.mp4", "more/text.mp4")]
    arguments = ["--model_name_or_path", str(classifier_folder), "--use_cpu", "--videos", *files]
    run = run_script("predict", *arguments, check=False, is_warm=False)
    assert run.returncode == 1, run.stderr
    assert run.stdout.startswith(str(videos / "a.mp4"))


# ---------------------------------------------------------------------------------------------------------------------
# A long video
# ---------------------------------------------------------------------------------------------------------------------


def _loop(source: Path, target: Path, times: int) -> Path:
    """The packets of a video again and again, their times moved on."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        packets = [packet for packet in reader.demux(stream) if packet.size]
        output = writer.add_stream_from_template(stream)
        length = stream.duration
        original = [(packet.pts, packet.dts) for packet in packets]
        for number in range(times):
            for packet, (pts, dts) in zip(packets, original, strict=True):
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.stream = output
                writer.mux(packet)
    return target


def _peak_megabytes(*arguments: str) -> tuple[float, str]:
    """Peak resident memory of the program and what it prints."""
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "sys.stderr.write(f'PEAK{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}')"
    )
    command = [sys.executable, "-c", code, str(ROOT / "scripts" / "predict.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=script_environment(), timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    return int(run.stderr.partition("PEAK")[2]) / 1024, run.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_ten_minutes_take_the_memory_of_two_and_have_the_right_times(
    classifier_folder: Path, tmp_path: Path, decoder: str
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (250, 15, 20, 3), dtype=np.uint8)
    short = write_video(tmp_path / "short.mp4", frames=frames.repeat(16, axis=1).repeat(16, axis=2))
    two_minutes, long = (_loop(short, tmp_path / f"{times}.mp4", times) for times in (12, 60))
    assert os.path.getsize(long) > 50 * os.path.getsize(short)
    options = ["--model_name_or_path", str(classifier_folder), "--use_cpu", "--decoder", decoder, "--format", "json"]
    options += ["--window_seconds", "2", "--stride_seconds", "1", "--top_k", "1"]
    usual_peak, _ = _peak_megabytes(*options, "--videos", str(two_minutes))
    long_peak, printed = _peak_megabytes(*options, "--videos", str(long))
    # The other eight minutes hold 2.8 GB of frames; peaks of equal runs differ by 50 MB.
    assert long_peak < usual_peak + 100, f"{usual_peak:.0f} MB for 2 minutes, {long_peak:.0f} MB for 10"
    windows = json.loads(printed)["windows"]
    assert len(windows) == 599
    for number, window in enumerate(windows):
        assert (window["start_frame"], window["stop_frame"]) == (25 * number, 25 * number + 50)
        assert window["start_seconds"] == pytest.approx(number, abs=1e-6)
        assert window["end_seconds"] == pytest.approx(number + 2, abs=1e-6)
    # What is seen repeats with the loop: windows 10 seconds apart are the same frames.
    for number in range(500):
        assert windows[number]["predictions"][0]["score"] == pytest.approx(
            windows[number + 10]["predictions"][0]["score"], abs=1e-4
        )
