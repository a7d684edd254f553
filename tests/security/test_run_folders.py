"""A run's output folder is its own: no other run's model is replaced, no second run gets in, no data change unseen."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification, load_video_dataset
from amd_hf.errors import RunStopped
from amd_hf.outputs.folders import LOCK_NAME
from amd_hf.training import run_folders
from amd_hf.training.checkpoints import BEGUN_NAME, MARKER_NAME, find_checkpoint, mark_checkpoint, problem_of
from amd_hf.training.data_listing import LISTING_NAME
from amd_hf.training.run_folders import RunLock, check_no_run_in
from examples.motion_shapes import write_motion_shapes
from tests.helpers.models import tiny_config
from tests.helpers.training import ROOT, finetuning_args, load_script, logged


# ---------------------------------------------------------------------------------------------------------------------
# Another run's model
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "README.md", "modeling_amd.py", "test_results.json"]
)
def test_folder_with_what_a_run_would_replace_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    for resume in (None, "last"):
        with pytest.raises(ValueError, match=rf"already holds {name}.*--overwrite_output_dir true"):
            find_checkpoint(finetuning_args(tmp_path, resume_from_checkpoint=resume))
    assert find_checkpoint(finetuning_args(tmp_path, overwrite_output_dir=True)) is None


def test_folder_with_other_things_is_taken_and_they_stay(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert find_checkpoint(finetuning_args(tmp_path)) is None


def _checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    mark_checkpoint(folder)
    return folder


def test_run_goes_on_beside_its_own_model_and_not_beside_another(tmp_path: Path) -> None:
    own, other = _checkpoint(tmp_path / "a" / "checkpoint-3"), _checkpoint(tmp_path / "b" / "checkpoint-3")
    (tmp_path / "a" / "model.safetensors").write_text("of run a")
    assert find_checkpoint(finetuning_args(tmp_path / "a", resume_from_checkpoint="last")) == str(own)
    with pytest.raises(ValueError, match="already holds model.safetensors"):
        find_checkpoint(finetuning_args(tmp_path / "a", resume_from_checkpoint=str(other)))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_motion_shapes(root, "train", 8, seed=0, num_frames=8, size=16, num_workers=0)
    return root


def _trainer(rows: Any, output_dir: Path, **options: Any) -> AMDFineTuningTrainer:
    torch.manual_seed(0)
    model = AMDForVideoClassification(tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None))
    chosen = {"per_device_train_batch_size": 2, "max_steps": 3, "save_strategy": "steps", "save_steps": 1,
              "sampling_rate": 1, **options}  # fmt: skip
    return AMDFineTuningTrainer(model, finetuning_args(output_dir, **chosen), train_dataset=rows)


def _rows(videos: Path, **options: Any) -> Any:
    return load_video_dataset(videos, split="train", **options)


def test_trainer_from_python_refuses_too_and_the_same_process_may_train_again(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.safetensors").write_text("another's")
    trainer = _trainer(_rows(videos), tmp_path, save_strategy="no", max_steps=1)
    with pytest.raises(ValueError, match="already holds model.safetensors"):
        trainer.train()
    assert (tmp_path / "model.safetensors").read_text() == "another's"
    trainer = _trainer(_rows(videos), tmp_path / "own", save_strategy="no", max_steps=1)
    trainer.train()
    trainer.save_model()
    _trainer(_rows(videos), tmp_path / "own", save_strategy="no", max_steps=1).train()
    assert "which this run will replace" in caplog.text


def test_program_run_twice_refuses_the_second_time_before_it_loads_anything(videos: Path, tmp_path: Path) -> None:
    model = ["--model.image_size=16", "--model.patch_size=8", "--model.num_frames=4", "--model.hidden_size=32",
             "--model.num_hidden_layers=1", "--model.num_attention_heads=2", "--model.teacher_hidden_size=null",
             "--model.decoder_hidden_size=16", "--model.decoder_num_hidden_layers=1",
             "--model.decoder_num_attention_heads=2"]  # fmt: skip
    arguments = [
        *model, "--data", str(videos), "--train_split", "train", "--output_dir", str(tmp_path), "--max_steps", "1",
        "--warmup_epochs", "0", "--per_device_train_batch_size", "2", "--save_strategy", "no", "--use_cpu", "true",
        "--report_to", "none", "--sampling_rate", "1",
    ]  # fmt: skip
    program = load_script("pretrain")
    program.main(arguments)
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"already holds .*--overwrite_output_dir true"):
        program.main([*arguments, "--seed", "5"])
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    program.main([*arguments, "--seed", "5", "--overwrite_output_dir", "true"])
    assert (tmp_path / "model.safetensors").read_bytes() != weights
    assert not (tmp_path / LOCK_NAME).exists()


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints of others, and what lies in ours
# ---------------------------------------------------------------------------------------------------------------------


def test_folders_named_like_checkpoints_that_are_none_of_ours_stay(videos: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "checkpoint-2"
    foreign.mkdir()
    (foreign / "pytorch_model.bin").write_text("of another program")
    with pytest.raises(ValueError, match=r"checkpoint-2 was not written by this package"):
        _trainer(_rows(videos), tmp_path).train()
    assert (foreign / "pytorch_model.bin").read_text() == "of another program"


def test_old_checkpoints_go_but_not_what_somebody_laid_into_them(videos: Path, tmp_path: Path) -> None:
    trainer = _trainer(_rows(videos), tmp_path, save_total_limit=1)
    trainer.args.max_steps = 1
    trainer.train()
    (tmp_path / "checkpoint-1" / "notes.json").write_text("mine")
    (tmp_path / "checkpoint-1" / "link").symlink_to(videos)
    resumed = _trainer(_rows(videos), tmp_path, save_total_limit=1)
    # Notes with an ending that a checkpoint's files have would be read with it: they must go elsewhere first.
    assert "notes.json was not there" in str(problem_of(tmp_path / "checkpoint-1"))
    (tmp_path / "checkpoint-1" / "notes.json").rename(tmp_path / "checkpoint-1" / "notes.txt")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-3"]
    assert sorted(os.listdir(tmp_path / "checkpoint-1")) == ["link", "notes.txt"]
    assert (videos / "train").is_dir()


def test_unfinished_checkpoint_is_written_anew_and_leaves_no_trace(videos: Path, tmp_path: Path) -> None:
    begun = tmp_path / "checkpoint-1"
    begun.mkdir()
    (begun / BEGUN_NAME).write_text("[]")
    (begun / "optimizer.pt").write_bytes(b"half")
    (begun / "old.safetensors").write_bytes(b"half")
    _trainer(_rows(videos), tmp_path).train()
    assert problem_of(begun) is None
    assert not (begun / BEGUN_NAME).exists()
    assert not (begun / "old.safetensors").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Changed data
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Checkpoints of a run over rows and of one over a stream."""
    folder = tmp_path_factory.mktemp("runs")
    _trainer(_rows(videos), folder / "rows").train()
    _trainer(_rows(videos, streaming=True), folder / "stream").train()
    return folder


Change = Callable[[datasets.Dataset], datasets.Dataset]


def _relabel(rows: datasets.Dataset) -> datasets.Dataset:
    labels = [rows.features["label"].int2str(label) for label in rows["label"]]
    labels[2], labels[3] = labels[3], labels[2]
    kept = rows.features
    return rows.remove_columns("label").add_column("label", [kept["label"].str2int(x) for x in labels]).cast(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.select(range(7)), r"8 rows before, 7 rows now; 1 gone \('train/up/.*mp4'\)"),
        (
            lambda rows: datasets.concatenate_datasets([rows, rows.select([0])]),
            r"8 rows before, 9 rows now; 1 new",
        ),
        (
            lambda rows: rows.select([0, 2, 1, 3, 4, 5, 6, 7]),
            r"another order: row 1 was 'train/cl.*' and is 'train/do",
        ),
        (_relabel, r"2 with other labels or sizes \('train/down/.*'train/farther/"),
        (
            lambda rows: rows.map(lambda row: {"video_id": row["video_id"].replace("up", "UP")}),
            "1 gone .*; 1 new",
        ),
        (
            lambda rows: rows.cast_column(
                "label", datasets.ClassLabel(names=["x", *rows.features["label"].names[1:]])
            ),
            "class 0 was 'anticlockwise' and is 'x'",
        ),
    ],
    ids=["fewer", "more", "order", "labels", "names", "classes"],
)
def test_resuming_over_other_data_is_refused_with_what_differs(
    change: Change, message: str, run: Path, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = str(run / "rows" / "checkpoint-1")
    trainer = _trainer(change(_rows(videos)), tmp_path)
    with pytest.raises(ValueError, match=rf"(?s){message}.*--data_changed_ok true"):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer = _trainer(change(_rows(videos)), tmp_path, data_changed_ok=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 3
    assert "are not those that" in caplog.text


def test_same_data_in_another_place_go_on_bit_for_bit(run: Path, videos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    os.symlink(videos, moved)
    resumed = _trainer(_rows(moved), tmp_path / "out")
    resumed.train(resume_from_checkpoint=str(run / "rows" / "checkpoint-1"))
    whole = run / "rows" / "checkpoint-3" / "model.safetensors"
    assert (tmp_path / "out" / "checkpoint-3" / "model.safetensors").read_bytes() == whole.read_bytes()
    assert len(logged(resumed, "loss")) == 3


def test_streams_tell_their_rows_and_shards_too(run: Path, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "videos"
    write_motion_shapes(other, "train", 16, seed=0, num_frames=8, size=16, num_workers=0)
    trainer = _trainer(_rows(other, streaming=True), tmp_path / "out")
    with pytest.raises(ValueError, match=r"8 rows before, 16 rows now; 8 new"):
        trainer.train(resume_from_checkpoint=str(run / "stream" / "checkpoint-1"))
    same = _trainer(_rows(videos, streaming=True), tmp_path / "same")
    same.train(resume_from_checkpoint=str(run / "stream" / "checkpoint-1"))


def test_checkpoint_of_an_earlier_release_goes_on_and_a_false_listing_does_not(
    run: Path, videos: Path, tmp_path: Path
) -> None:
    trainer = _trainer(_rows(videos), tmp_path, max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-1"
    for content in (b"", b"no gzip", b"\x1f\x8b"):
        (checkpoint / LISTING_NAME).write_bytes(content)
        with pytest.raises(ValueError, match="no listing of training data"):
            trainer.check_resumable(checkpoint)
    (checkpoint / LISTING_NAME).unlink()
    trainer.check_resumable(checkpoint)


# ---------------------------------------------------------------------------------------------------------------------
# Two runs at a time
# ---------------------------------------------------------------------------------------------------------------------

_HOLD = """
import multiprocessing, sys, time
sys.path.insert(0, {root!r})
from amd_hf.training.run_folders import RunLock
lock = RunLock({folder!r})
lock.acquire()
context = multiprocessing.get_context("fork")
child = context.Process(target=time.sleep, args=(600,), daemon=False)  # a loading worker that does not notice
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A real process that runs in a folder, and a worker of it."""
    code = _HOLD.format(root=str(ROOT), folder=str(tmp_path / "out"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    yield process, worker, tmp_path / "out"
    process.kill()
    os.kill(worker, signal.SIGKILL)
    process.wait()


def test_second_run_is_refused_until_the_first_is_killed_although_its_worker_lives_on(
    holder: tuple[subprocess.Popen[str], int, Path], videos: Path
) -> None:
    process, worker, folder = holder
    said = rf"Another run is writing into .*: process {process.pid} on .*--output_dir"
    with pytest.raises(RunStopped, match=said):
        RunLock(folder).acquire()
    with pytest.raises(RunStopped, match=said):
        find_checkpoint(finetuning_args(folder))
    with pytest.raises(RunStopped, match=said):
        _trainer(_rows(videos), folder, max_steps=1).train()
    assert sorted(os.listdir(folder)) == [LOCK_NAME]
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.kill(worker, 0)  # it lives
    lock = RunLock(folder)
    lock.acquire()
    lock.release()
    assert os.listdir(folder) == []


def _try(folder: str, queue: Any) -> None:
    try:
        RunLock(folder).acquire()
        queue.put("got it")
    except RunStopped:
        queue.put("refused")
    time.sleep(0.2)


def _outcome_in(context: str, folder: Path) -> str:
    processes = multiprocessing.get_context(context)
    queue = processes.Queue()
    child = processes.Process(target=_try, args=(str(folder), queue))
    child.start()
    outcome = queue.get(timeout=120)
    child.join()
    return outcome


def test_forked_copy_neither_holds_nor_frees_the_lock_of_its_parent(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    assert _outcome_in("fork", tmp_path) == "refused"
    assert _outcome_in("fork", tmp_path) == "refused"  # the first one's end has freed nothing
    lock.release()
    assert _outcome_in("fork", tmp_path) == "got it"


def test_runs_of_one_process_share_the_lock_and_the_last_one_frees_it(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    second.acquire()
    first.release()
    first.release()
    assert _outcome_in("fork", tmp_path) == "refused"
    del second  # as a trainer that goes out of scope
    assert _outcome_in("fork", tmp_path) == "got it"


def test_lock_file_that_a_dead_run_left_or_somebody_wrote_keeps_nobody_out(tmp_path: Path) -> None:
    for text in ("", "{}", json.dumps({"process": 1, "host": "x", "since": "y"})):
        (tmp_path / LOCK_NAME).write_text(text)
        check_no_run_in(tmp_path)
    assert not (tmp_path / LOCK_NAME).exists()


def test_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(OSError, match=LOCK_NAME):
        RunLock(tmp_path).acquire()
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_file_system_without_locks_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(run_folders.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folders.fcntl, "lockf", refuse)
    RunLock(tmp_path).acquire()
    assert "without locks" in caplog.text


def test_run_that_fails_frees_its_folder(videos: Path, tmp_path: Path) -> None:
    trainer = _trainer(_rows(videos), tmp_path)
    trainer.save_extras = lambda checkpoint: (_ for _ in ()).throw(KeyError("of one's own"))  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        trainer.train()
    assert not (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / "checkpoint-1" / MARKER_NAME).exists()
