"""How programs behave where a user errs or leaves: readers that go, Ctrl-C, full disks, names of other programs."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from amd_hf import AMDForPreTraining, AMDModel, AMDVideoProcessor
from amd_hf.data.video.decoding import VideoReadError, open_video
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.programs import run_program
from amd_hf.pretraining.visualization import spread_over_classes
from amd_hf.training.monitoring import format_duration
from tests.cli.conftest import Work
from tests.helpers import miniatures
from tests.helpers.models import tiny_config
from tests.helpers.training import (
    ROOT,
    ends_with_one_line,
    load_script,
    pretraining_args,
    script_environment,
)
from tests.helpers.videos import write_list, write_video


Program = Callable[[str], Any]


# ---------------------------------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "hint"),
    [
        ("predict", ["--device", "cuda"], "`--use_cpu true` stays on the CPU"),
        ("finetune", ["--device=cpu"], "`--use_cpu true` stays on the CPU"),
        ("finetune", ["--epochs", "3"], "did you mean `--num_train_epochs`?"),
        ("finetune", ["--lr", "3"], "did you mean `--base_learning_rate`?"),
        ("pretrain", ["--data-path", "x"], "did you mean `--data`?"),
        ("pretrain", ["--teacher_dim", "3"], "did you mean `--model.teacher_hidden_size`?"),
        ("evaluate", ["--finetune", "x"], "did you mean `--model_name_or_path`?"),
        ("evaluate", ["--label_names", "x"], "did you mean `--class_names`?"),
        ("predict", ["--input", "x"], "did you mean `--videos`?"),
        ("extract_features", ["--num_frames", "3"], "did you mean `--model.num_frames`?"),
    ],
)
def test_names_of_other_programs_are_led_to_ours(
    program: Program, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str], hint: str
) -> None:
    output = ["--output_dir", "out"] if name in ("pretrain", "finetune") else []
    line = ends_with_one_line(lambda: program(name).main([*arguments, *output]), capsys)
    assert hint in line
    assert arguments[0].partition("=")[0] in line


def test_errors_name_the_options_of_the_program_and_not_the_arguments_of_python(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/a/1.mp4", "train/b/1.mp4"):
        write_video(tmp_path / "videos" / name, 2, 32, 32)
    write_list(tmp_path / "names.txt", ["a"])
    folder = str(tmp_path / "videos")

    def refused(*arguments: str) -> str:
        return ends_with_one_line(lambda: program("check_videos").main(list(arguments)), capsys)

    miniatures.kinetics(tmp_path / "k400")
    assert "`--split`" in refused("--data", folder)
    assert "`--fold` has no meaning" in refused("--data", folder, "--split", "train", "--fold", "2")
    assert "`--data_root` has no meaning" in refused("--data", folder, "--split", "train", "--data_root", folder)
    ucf101 = str(miniatures.ucf101(tmp_path / "ucf101").folder)
    names = ["--class_names", str(tmp_path / "names.txt")]
    assert "`--class_names` has no meaning" in refused("--data", ucf101, "--split", "train", *names)
    write_list(tmp_path / "labels.csv", ["path,label", f"{folder}/train/a/1.mp4,a", f"{folder}/train/b/1.mp4,c"])
    assert "`--model.hidden_size` 18 must be a multiple" in ends_with_one_line(
        lambda: program("pretrain").main(
            ["--data", folder, "--output_dir", str(tmp_path / "out"), "--model.hidden_size", "18",
             "--model.num_attention_heads", "4"]
        ),
        capsys,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Output that nobody reads, interruptions
# ---------------------------------------------------------------------------------------------------------------------


def _prints_for_ever() -> None:
    while True:
        sys.stdout.write("a line of output\n" * 20)


@pytest.mark.parametrize("is_flushed", [True, False])
def test_reader_that_goes_ends_a_program_silently(is_flushed: bool) -> None:
    # Short output is still in Python's buffer when `main` ends: the pipe breaks only when it is flushed.
    main = "_prints_for_ever" if is_flushed else "lambda: print('short')"
    code = f"""
import sys
from amd_hf.options.programs import run_program
from tests.cli.test_manners import _prints_for_ever
sys.stdin.readline()
run_program({main})
"""
    environment = {**script_environment(), "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdin is not None
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=100) == 141
    assert said == ""


def test_a_broken_pipe_that_is_not_the_output_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise BrokenPipeError("a worker has gone")

    assert ends_with_one_line(main, capsys) == "error: a worker has gone"


def test_interruption_says_how_to_go_on_only_where_that_is_possible(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*types: type) -> str:
        def main() -> None:
            parse_recipe(types, ["--output_dir", "out"] if types else [])
            raise KeyboardInterrupt

        with pytest.raises(SystemExit) as outcome:
            run_program(main)
        assert outcome.value.code == 130
        return capsys.readouterr().err

    from amd_hf import AMDTrainingArguments

    assert interrupted() == "\ninterrupted\n"
    assert "goes on by the same command and --resume_from_checkpoint" in interrupted(AMDTrainingArguments)


# A program as light as can be: what it is doing when Ctrl-C comes is its only argument.
_BUSY_PROGRAM = """
import signal, sys, time
from amd_hf.options.programs import run_program

class Destroyed:
    def __del__(self):  # Python ignores exceptions in here: the interrupt is lost
        wait()

def wait():
    print("waiting", flush=True)
    time.sleep(60)

def main():
    what = sys.argv[1]
    if what == "destroys":
        Destroyed()
        time.sleep(60)
    elif what == "is deaf":  # as in C++: other threads get the signal, and this one never looks
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        wait()
    except KeyboardInterrupt:
        if what == "breaks off":
            raise ImportError("it was broken off")
        while what == "does not end":
            time.sleep(60)
        raise

run_program((lambda: run_program(main)) if sys.argv[1] == "waits in another" else main)
"""


@pytest.mark.parametrize(
    ("what", "num_presses", "seconds"),
    [("waits", 1, 3), ("waits in another", 1, 3), ("destroys", 1, 3), ("breaks off", 1, 3), ("is deaf", 2, 3),
     ("does not end", 2, 3), ("does not end", 1, 10)],
)  # fmt: skip
def test_ctrl_c_ends_a_program_soon_whatever_it_does(what: str, num_presses: int, seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _BUSY_PROGRAM, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=script_environment(), start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    started = time.monotonic()
    for press in range(num_presses):
        time.sleep(0.1 + 0.6 * press)
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=50)
    assert time.monotonic() - started < seconds
    assert (process.returncode, said) == (130, "\ninterrupted\n")


def test_ctrl_c_after_the_work_is_done_changes_nothing() -> None:
    code = """
import atexit, time
from amd_hf.options.programs import run_program
atexit.register(lambda: (print("ending", flush=True), time.sleep(1)))  # after all that the program has registered
run_program(lambda: None)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=script_environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=50) == ("", "")
    assert process.returncode == 0


def test_ctrl_c_in_a_training_with_workers_leaves_one_line(work: Work, tmp_path: Path) -> None:
    arguments = work.pretraining("--output_dir", str(tmp_path / "out"), "--max_steps", "100000")
    command = [sys.executable, str(ROOT / "scripts/pretrain.py"), *arguments, "--dataloader_num_workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=script_environment(),
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "'loss'" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the program and its workers
    _, said = process.communicate(timeout=50)  # nor does a worker that is left hold the pipes open
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.count("interrupted; with checkpoints it goes on") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "last_words"),
    [
        ("accelerate launch --quiet --num_processes 1", r"nowhere.*\n\(set AMD_HF_TRACEBACK=1 .*\)\n$"),
        ("accelerate launch --num_processes 1", r"\(the traceback below, if any, is that of `accelerate launch`"),
        ("torchrun --nproc_per_node 2", r"traceback : error: There is no file or folder 'nowhere'[^\n]*\n=+\s*$"),
    ],
)
def test_error_is_among_the_last_words_of_a_launcher(launcher: str, last_words: str, tmp_path: Path) -> None:
    tools = Path(sys.executable).parent
    words = launcher.split()
    command = [str(tools / words[0]), *words[1:], str(ROOT / "scripts/pretrain.py"), "--data", "nowhere"]
    run = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"], capture_output=True, text=True,
        env={**script_environment(), "ACCELERATE_USE_CPU": "true"}, timeout=300,
    )  # fmt: skip
    assert run.returncode != 0
    assert re.search(last_words, run.stderr), run.stderr[-2000:]
    assert ("CalledProcessError" in run.stderr) == (launcher == "accelerate launch --num_processes 1")


def test_error_is_left_where_torchrun_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    line = ends_with_one_line(lambda: (tmp_path / "gone").read_text(), capsys)
    assert json.loads((tmp_path / "error.json").read_text())["message"] == line


# ---------------------------------------------------------------------------------------------------------------------
# Places that cannot be written, files and folders confused
# ---------------------------------------------------------------------------------------------------------------------


def _write_below_a_file(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "file" / "below").mkdir()


def _make_a_folder_of_a_file(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "file").mkdir(exist_ok=True)


def _fill_the_disk(folder: Path) -> None:
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def _with_a_limit_on_files(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    """`write`, where no file may be larger than 1,000 bytes: what a full disk looks like, without one."""

    def write_with_limit(folder: Path) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            write(folder / "file")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return write_with_limit


_WEIGHTS = {"weight": torch.zeros(100_000)}


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (lambda folder: (folder / "gone").read_text(), r"error: There is no \S+/gone\.$"),
        (lambda folder: folder.read_text(), r"error: \S+ is a folder where a file is wanted\.$"),
        (_write_below_a_file, r"error: \S+/file/below cannot be made or read: .* a file where a folder is wanted\.$"),
        (_make_a_folder_of_a_file, r"error: \S+/file exists already and is a file where a folder is wanted"),
        (_fill_the_disk, r"error: .* cannot be written: the disk is full\. Make room, or choose another place"),
        (
            _with_a_limit_on_files(lambda file: save_file(_WEIGHTS, file)),
            r"error: A file cannot be written: the disk is full",
        ),
        (
            _with_a_limit_on_files(lambda file: torch.save(_WEIGHTS, file)),
            r"error: A file cannot be written: the disk is full",
        ),
        (
            _with_a_limit_on_files(lambda file: file.write_text("x" * 100_000)),
            r"error: .* larger than the system allows\.$",
        ),
        (lambda folder: (Path("/proc") / "here").mkdir(), r"error: "),
        (lambda folder: __import__("no_such_package"), r"No module named 'no_such_package': `pip install no_such_pa"),
    ],
)
def test_errors_of_the_system_are_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: Any, message: str
) -> None:
    line = ends_with_one_line(lambda: main(tmp_path), capsys)
    assert re.search(message, line), line
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("predict", ["--model_name_or_path", "{work}/classifier", "--videos", "{video}", "--recipe", "{tmp}"]),
        ("evaluate", ["--model_name_or_path", "{work}/classifier", "--data", "{video}"]),
        ("evaluate", ["--model_name_or_path", "{video}", "--data", "{work}/data", "--split", "validation"]),
        ("extract_features", ["--model_name_or_path", "{work}/student", "--data", "{video}"]),
        ("check_videos", ["--data", "{work}/data", "--split", "train", "--class_names", "{tmp}"]),
        ("check_videos", ["--data", "{work}/data", "--split", "train", "--output_dir", "{video}"]),
        ("convert_checkpoint", ["--source", "{tmp}", "--output_dir", "{tmp}/new"]),
        ("convert_checkpoint", ["--source", "{video}", "--output_dir", "{tmp}/new"]),
        ("convert_checkpoint", ["--source", "{work}/student", "--to_official", "{tmp}/file/new"]),
        ("push_to_hub", ["--model_name_or_path", "{video}", "--repo_id", "me/x", "--dry_run"]),
        ("visualize", ["--model_name_or_path", "{work}/student", "--data", "{work}/data", "--split", "validation",
                       "--output_dir", "{video}"]),
        ("visualize", ["--model_name_or_path", "{tmp}", "--data", "{work}/data"]),
        ("pretrain", ["--data", "{work}/data", "--output_dir", "{video}", "--train_split", "train"]),
        ("pretrain", ["--data", "{work}/data", "--teacher", "{video}", "--output_dir", "{tmp}/out"]),
        ("validate_annotations", ["--data", "{video}"]),
    ],
)  # fmt: skip
def test_a_file_for_a_folder_or_a_folder_for_a_file_is_one_clear_line(
    work: Work, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str]
) -> None:
    (tmp_path / "file").write_text("text\n")
    places = {"work": work.root, "tmp": tmp_path, "video": work.video()}
    words = [word.format(**places) for word in arguments]
    if name in ("evaluate", "extract_features") and "--output_dir" not in words:
        words += ["--output_dir", str(tmp_path / "out")]
    line = ends_with_one_line(lambda: program(name).main(words), capsys)
    assert "Errno" not in line
    assert len(line) < 400, line
    assert any(str(place) in line for place in places.values()), line


# ---------------------------------------------------------------------------------------------------------------------
# What is missing, what is said
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "trackio"])
def test_tracker_that_is_not_installed_is_named_before_anything_is_loaded(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr("amd_hf.training.arguments.get_available_reporting_integrations", lambda: [])
    arguments = ["--data", "nowhere", "--output_dir", str(tmp_path / "out"), "--report_to", tracker]
    line = ends_with_one_line(lambda: program("pretrain").main(arguments), capsys)
    assert line == (
        f"error: `--report_to` names {tracker}, whose package is not installed: `pip install {tracker}`, or "
        "`--report_to none`."
    )


@pytest.mark.parametrize(
    ("hours", "words"),
    [(0.0036, "13 s"), (0, "0 s"), (0.02, "72 s"), (0.5, "30 min"), (1.5, "90 min"), (5.117, "5 h 07 min"),
     (47.9, "47 h 54 min"), (76.2, "3 days 4 h")],
)  # fmt: skip
def test_time_left_is_said_in_words(hours: float, words: str) -> None:
    assert format_duration(hours) == words


def test_printed_logs_say_the_time_left_in_words_and_kept_ones_in_hours(work: Work, tmp_path: Path) -> None:
    for options in ([], ["--disable_tqdm", "true"]):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            trainer = load_script("pretrain").main(work.pretraining("--output_dir", str(tmp_path / "x"), *options))
        assert re.search(r"'time_left': '\d+ s'", said.getvalue())
        assert "hours_left" not in said.getvalue()
        assert any("hours_left" in entry for entry in trainer.state.log_history)
        (tmp_path / "x").rename(tmp_path / f"x{len(options)}")


def test_loading_prints_no_report_of_missing_weights_beside_our_own(
    work: Work, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = AMDForPreTraining(tiny_config(teacher_hidden_size=None))
    from amd_hf import convert_checkpoint, export_checkpoint
    from amd_hf.models import build_classifier

    convert_checkpoint(export_checkpoint(model), config=model.config)
    model.save_pretrained(tmp_path / "model")
    build_classifier(str(tmp_path / "model"), ["a", "b"])
    assert "LOAD REPORT" not in caplog.text


def test_verbosity_of_transformers_governs_our_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
import logging, transformers, amd_hf, amd_hf.data.video.decoding, amd_hf.teachers.loading, amd_hf.evaluation.prediction
ours = [logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict) if name.startswith("amd_hf.")]
assert {"amd_hf.data.video.decoding", "amd_hf.teachers.loading"} <= {logger.name for logger in ours}
for level, set_level in (("ERROR", transformers.logging.set_verbosity_error),
                         ("WARNING", transformers.logging.set_verbosity_warning),
                         ("INFO", transformers.logging.set_verbosity_info),
                         ("DEBUG", transformers.logging.set_verbosity_debug)):
    set_level()
    for logger in ours:
        for word in ("debug", "info", "warning", "error"):
            getattr(logger, word)(f"says {word}")
    import sys; print("END", level, file=sys.stderr, flush=True)
print(len(ours))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=script_environment())
    assert run.returncode == 0, run.stderr
    number = int(run.stdout)
    parts = dict(zip(("ERROR", "WARNING", "INFO", "DEBUG"), re.split(r"END \w+\n", run.stderr), strict=False))
    expected = {"ERROR": (0, 0, 0, 1), "WARNING": (0, 0, 1, 1), "INFO": (0, 1, 1, 1), "DEBUG": (1, 1, 1, 1)}
    for level, wanted in expected.items():
        counts = [parts[level].count(f"says {word}\n") for word in ("debug", "info", "warning", "error")]
        assert counts == [number * count for count in wanted], (level, counts)


def test_handlers_of_transformers_get_what_we_log() -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    transformers.logging.add_handler(handler)
    try:
        logging.getLogger("amd_hf.anything").warning("something")
    finally:
        transformers.logging.remove_handler(handler)
    assert [record.getMessage() for record in records] == ["something"]


@pytest.mark.parametrize(
    ("labels", "num_shown", "expected_labels"),
    [
        ([0] * 50 + [1] * 50 + [2] * 50, 3, [0, 1, 2]),
        ([0] * 50 + [1] * 50, 3, [0, 0, 1]),
        ([number // 10 for number in range(80)], 3, [0, 2, 5]),
        ([0, 1], 5, [0, 1]),
        ([], 3, []),
    ],
)
def test_pictures_are_spread_over_the_classes(labels: list[int], num_shown: int, expected_labels: list[int]) -> None:
    rows = spread_over_classes(labels, num_shown)
    assert [labels[row] for row in rows] == expected_labels
    assert len(set(rows)) == len(rows)


def test_pictures_without_labels_are_spread_over_the_videos() -> None:
    assert spread_over_classes([None] * 30, 3) == [0, 10, 20]


def test_visualize_draws_clips_of_as_many_classes_as_there_are(
    work: Work, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = program("visualize")
    seen: list[str] = []
    build = script._collator

    def watched(*arguments: Any) -> Any:
        collator = build(*arguments)

        def collate(rows: list[dict[str, Any]]) -> Any:
            seen.extend(Path(row["video_id"]).parent.name for row in rows)
            return collator(rows)

        return collate

    monkeypatch.setattr(script, "_collator", watched)
    arguments = ["--model_name_or_path", str(work.root / "student"), "--data", str(work.data), "--split", "validation"]
    script.main([*arguments, "--output_dir", str(tmp_path), "--use_cpu", "--num_shown", "4"])
    assert len(seen) == len(set(seen)) == 4


def test_check_writes_only_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", 20 + number, 32, 32)
    monkeypatch.chdir(tmp_path)
    load_script("check_videos").main(["--data", "videos", "--num_threads", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
    assert "nothing was written: `--output_dir FOLDER`" in capsys.readouterr().out
    load_script("check_videos").main(["--data", "videos", "--num_threads", "1", "--output_dir", "checked"])
    assert {path.name for path in (tmp_path / "checked").iterdir()} >= {"report.json", "clean.csv"}


@pytest.mark.parametrize("name", ["photo.jpg", "photo.PNG", "photo.mp4"])
def test_image_that_is_given_as_a_video_is_named(work: Work, program: Program, tmp_path: Path, name: str) -> None:
    Image.new("RGB", (40, 32), (200, 30, 30)).save(tmp_path / name, "PNG" if name.endswith("PNG") else "JPEG")
    arguments = ["--model_name_or_path", str(work.root / "classifier"), "--use_cpu", "--videos", str(tmp_path / name)]
    good, bad = program("predict").main([*arguments, work.video()])[::-1]
    assert "predictions" in good
    assert bad["error"].startswith("it is an image, and the model looks at clips of 4 frames")


@pytest.mark.parametrize("name", ["song.mp3", "song.m4a", "song.flac"])
def test_sound_with_a_cover_is_no_video(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "cover.jpg")
    codec = {"mp3": "libmp3lame", "m4a": "aac", "flac": "flac"}[name.rpartition(".")[2]]
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=0.2", "-i", "cover.jpg", "-map", "0", "-map", "1",
               "-c:a", codec, "-c:v", "copy", "-disposition:v", "attached_pic", name]  # fmt: skip
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg")
    subprocess.run(command, cwd=tmp_path, check=True)
    with pytest.raises(VideoReadError, match="no video stream: its only picture is the cover of a sound file"):
        open_video(tmp_path / name)
    with pytest.raises(VideoReadError, match="no video stream: its only picture is the cover of a sound file"):
        AMDVideoProcessor()(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------------------
# Paths
# ---------------------------------------------------------------------------------------------------------------------


def test_paths_are_taken_wherever_names_are(tmp_path: Path) -> None:
    from amd_hf import AMDTrainer, convert_checkpoint, export_checkpoint, load_teacher, load_video_dataset
    from amd_hf.models import load_model

    video = write_video(tmp_path / "videos" / "1.mp4", 6, 32, 32)
    with open_video(video) as reader:
        assert len(reader) == 6
    rows = load_video_dataset(tmp_path / "videos")
    assert len(rows) == 1
    names = write_list(tmp_path / "names.txt", ["a", "b"])
    listed = load_video_dataset(write_list(tmp_path / "list.txt", ["1.mp4 1"]), root=tmp_path / "videos",
                                label_names=Path(names))  # fmt: skip
    assert listed.features["label"].names == ["a", "b"]
    teacher = AMDModel(tiny_config(image_size=16, num_hidden_layers=5))
    teacher.save_pretrained(tmp_path / "teacher")
    assert load_teacher(tmp_path / "teacher", layers=[1]) is not None
    assert isinstance(load_model(tmp_path / "teacher"), AMDModel)
    trainer = AMDTrainer(
        AMDForPreTraining(tiny_config(image_size=16, teacher_hidden_size=32, generator_num_attention_heads=4)),
        pretraining_args(tmp_path / "out"),
        teacher_model=tmp_path / "teacher",
        train_dataset=rows,
    )
    assert trainer.teacher is not None
    student = AMDForPreTraining(tiny_config(teacher_hidden_size=None))
    torch.save(export_checkpoint(student), tmp_path / "official.pth")
    assert convert_checkpoint(tmp_path / "official.pth", config=student.config).config.hidden_size == 32
    student.save_pretrained(tmp_path / "student")
