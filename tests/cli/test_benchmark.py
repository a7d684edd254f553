"""`amd-hf benchmark data`, whole, on tiny videos: pre-training, fine-tuning and the test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amd_hf.cli import benchmark
from amd_hf.options.commands import check_command_line
from tests.helpers.videos import textured_rows


_TINY = (
    "--model.image_size 32 --model.hidden_size 32 --model.num_hidden_layers 2 --model.num_attention_heads 2 "
    "--model.intermediate_size 64 --model.num_frames 4 --model.decoder_hidden_size 32 "
    "--model.decoder_num_attention_heads 2 --sampling_rate 2 --seconds 1.5 --workers 1 --decoders pyav "
    "--use_cpu --decode_time_limit null"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("videos")
    for name in ("left", "right"):
        (top / name).mkdir()
        textured_rows(top / name, num_videos=2, num_frames=12)
    return top


@pytest.mark.parametrize("task", ["pretraining", "finetuning", "test"])
def test_report_holds_what_was_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    file = tmp_path / "speed.json"
    words = ["data", "--data", str(folder), "--task", task, "--gpu", "H100", "--output_json", str(file), *_TINY]
    assert check_command_line("benchmark", words)["task"] == task
    report = benchmark.main([*words, "--output_dir", str(tmp_path / "run")])
    assert json.loads(file.read_text()) == report
    measured = report["decoders"]["pyav"]
    clips_per_video = {"pretraining": 4, "finetuning": 2, "test": 15}[task]
    assert measured["num_clips"] == clips_per_video * measured["num_videos"] > 0
    assert report["needs"][0]["num_cores"] == pytest.approx(
        0.45 * 989e12 / (report["gflops_per_clip"] * 1e9) / measured["clips_per_core"]
    )
    assert [one["num_workers"] for one in report["workers"]] == [1]
    assert report["workers"][0]["num_clips"] > 0
    assert not (tmp_path / "run").exists()  # nothing is trained
    text = capsys.readouterr().out
    assert "One process, by decoder" in text
    assert "cores to feed it" in text
    assert "What would help:" in text


def test_wrong_use_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Say what to benchmark: `amd-hf benchmark data ...`"):
        check_command_line("benchmark", ["--data", str(folder)])
    with pytest.raises(ValueError, match="Say what to load: `--data FOLDER_OR_FILE`"):
        benchmark.main(["data", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="`seconds` must be above 0"):
        benchmark.BenchmarkOptions(seconds=0)
    with pytest.raises(ValueError, match="`num_videos` and `workers` must be at least 1"):
        benchmark.BenchmarkOptions(workers=[0])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="None of 1 videos of .* can be read: `amd-hf check` says why"):
        benchmark.main(["data", "--data", str(tmp_path / "bad"), *_TINY])
