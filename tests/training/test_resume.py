"""Runs that end too early and go on: killed, resumed, and never started over by mistake."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from amd_hf import (
    AMDConfig,
    AMDFineTuningTrainer,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDTrainer,
    load_video_dataset,
)
from amd_hf.errors import RunStopped
from amd_hf.training.checkpoints import MARKER_NAME, find_checkpoint, mark_checkpoint, problem_of
from tests.helpers.models import randomize, tiny_config, tiny_teacher_config
from tests.helpers.training import (
    finetuning_args,
    load_script,
    logged,
    pretraining_args,
    run_script,
    script_path,
)
from tests.helpers.warm import WarmProcess, start_warm


# ---------------------------------------------------------------------------------------------------------------------
# The weights after resuming
# ---------------------------------------------------------------------------------------------------------------------


def _trainer(stage: str, config: AMDConfig, rows: Any, output_dir: Path, teacher: Any = None, **options: Any) -> Any:
    options = {
        "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_repetitions": 2, "sampling_rate": 2,
        "max_steps": 6, "base_learning_rate": 0.1, "save_strategy": "steps", "save_steps": 1, **options,
    }  # fmt: skip
    torch.manual_seed(0)
    if stage == "pretraining":
        model = AMDForPreTraining(config)
        return AMDTrainer(model, pretraining_args(output_dir, **options), teacher, train_dataset=rows)
    model = AMDForVideoClassification(config)
    return AMDFineTuningTrainer(model, finetuning_args(output_dir, **options), train_dataset=rows)


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
@pytest.mark.parametrize("step", [2, 3], ids=["at the end of an epoch", "within an epoch"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_gives_the_weights_of_one_never_stopped_bit_for_bit(
    motion_videos: Path, tmp_path: Path, stage: str, step: int, workers: int
) -> None:
    # 16 videos, 6 in a step: epochs of 2 steps. Drop path and dropout draw from the global generator.
    config = tiny_config(
        image_size=16, num_labels=8, teacher_hidden_size=None, drop_path_rate=0.3, head_dropout=0.2
    )  # fmt: skip
    rows = load_video_dataset(motion_videos, split="train")
    whole = _trainer(stage, config, rows, tmp_path / "out")
    whole.train()
    resumed = _trainer(stage, config, rows, tmp_path / "again", dataloader_num_workers=workers)
    torch.manual_seed(123)  # what happened before must not matter
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
    assert resumed.state.global_step == 6
    assert logged(resumed, "loss") == logged(whole, "loss")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_stream_gives_the_weights_of_one_never_stopped_bit_for_bit(
    motion_videos: Path, tmp_path: Path, stage: str, workers: int
) -> None:
    # 16 videos in batches of 3, 2 in a step: passes end with a batch of 1, and within a step. Stopped in two of them.
    config = tiny_config(
        image_size=16, num_labels=8, teacher_hidden_size=None, drop_path_rate=0.3, head_dropout=0.2
    )  # fmt: skip
    options = {"stream_buffer_rows": 5, "max_steps": 7}

    def stream() -> Any:
        return load_video_dataset(motion_videos, split="train", streaming=True)

    whole = _trainer(stage, config, stream(), tmp_path / "out", **options)
    whole.train()
    for step, output in ((2, "again"), (5, "third")):
        resumed = _trainer(stage, config, stream(), tmp_path / output, dataloader_num_workers=workers, **options)
        torch.manual_seed(123)
        source = "out" if output == "again" else "again"
        resumed.train(resume_from_checkpoint=str(tmp_path / source / f"checkpoint-{step}"))
        assert resumed.state.global_step == 7
        assert logged(resumed, "loss") == logged(whole, "loss")
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


def test_checkpoint_without_a_place_in_the_stream_is_refused(motion_videos: Path, tmp_path: Path) -> None:
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    _trainer("finetuning", config, load_video_dataset(motion_videos, split="train"), tmp_path / "rows").train()
    stream = load_video_dataset(motion_videos, split="train", streaming=True)
    resumed = _trainer("finetuning", config, stream, tmp_path / "stream")
    with pytest.raises(FileNotFoundError, match="stream_position_0.json is missing"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "rows" / "checkpoint-3"))


# ---------------------------------------------------------------------------------------------------------------------
# A killed process
# ---------------------------------------------------------------------------------------------------------------------

_TINY_MODEL = {
    "image_size": 16, "patch_size": 4, "num_frames": 4, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}  # fmt: skip


def _wait_for(path: Path, process: WarmProcess, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the program ended before it could be killed"
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.005)


def test_killed_program_goes_on_to_the_end_and_to_the_same_weights(motion_videos: Path, tmp_path: Path) -> None:
    model = [f"--model.{name}={value}" for name, value in _TINY_MODEL.items()]
    options = {
        "data": motion_videos, "train_split": "train", "sampling_rate": 2, "per_device_train_batch_size": 4,
        "num_repetitions": 1, "max_steps": 30, "warmup_epochs": 0, "save_steps": 5, "use_cpu": True,
    }  # fmt: skip
    arguments = [*model, *(f"--{name}={value}" for name, value in options.items())]
    killed = tmp_path / "killed"
    run = start_warm(script_path("pretrain"), *arguments, f"--output_dir={killed}")
    try:
        _wait_for(killed / "checkpoint-5" / MARKER_NAME, run)
    finally:
        run.kill()
    assert run.poll() == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()

    resumed = run_script("pretrain", *arguments, f"--output_dir={killed}", "--resume_from_checkpoint")
    assert f"The pre-trained model is in {killed}" in resumed.stdout
    assert (killed / "checkpoint-30").is_dir()
    whole = tmp_path / "whole"
    expected = load_script("pretrain").main([*arguments, f"--output_dir={whole}"]).model.state_dict()
    for name, value in load_file(killed / "model.safetensors").items():
        assert torch.equal(value, expected[name]), name


_FAILING_RUN = """if True:
    import sys
    from pathlib import Path
    from transformers import TrainerCallback
    from amd_hf import load_video_dataset
    from tests.helpers.models import tiny_config
    from tests.training.test_resume import _trainer

    class Failing(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if resumed and state.global_step == 4:
                raise OSError("the disk is gone")

    folder, streaming, resumed = Path(sys.argv[2]), sys.argv[3] == "stream", sys.argv[4:]
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    rows = load_video_dataset(Path(sys.argv[1]), split="train", streaming=streaming)
    options = {"per_device_train_batch_size": 1, "max_steps": 3 + 3 * bool(resumed), "save_strategy": "steps"}
    trainer = _trainer("finetuning", config, rows, folder, dataloader_num_workers=2 * bool(resumed), **options)
    trainer.add_callback(Failing())
    trainer.train(*resumed)
"""


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_run_resumed_in_mid_epoch_ends_at_once_with_its_error(motion_videos: Path, tmp_path: Path, kind: str) -> None:
    # accelerate makes another loader then, of the options of ours. Workers that get SIGTERM live on for a minute.
    arguments = [str(motion_videos), str(tmp_path), kind]
    assert start_warm(_FAILING_RUN, *arguments).wait(100).returncode == 0
    run = start_warm(_FAILING_RUN, *arguments, str(tmp_path / "checkpoint-3"))
    begun = time.monotonic()
    outcome = run.wait(100)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1] == "OSError: the disk is gone"
    assert time.monotonic() - begun < 15


# ---------------------------------------------------------------------------------------------------------------------
# Which checkpoint is taken
# ---------------------------------------------------------------------------------------------------------------------


def _checkpoint(folder: Path, step: int, is_marked: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(range(200)))
    (path / "trainer_state.json").write_text("{}")
    if is_marked:
        mark_checkpoint(path)
    return path


def _flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[77] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("wanted", ["last", "true", True])
def test_last_whole_checkpoint_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: Any) -> None:
    expected = _checkpoint(tmp_path, 9)
    _checkpoint(tmp_path, 5)
    _checkpoint(tmp_path, 10, is_marked=False)
    _flip_a_byte(_checkpoint(tmp_path, 11) / "model.safetensors")
    (_checkpoint(tmp_path, 12) / "trainer_state.json").unlink()
    (_checkpoint(tmp_path, 13) / "model.safetensors").write_bytes(b"")
    (_checkpoint(tmp_path, 14) / MARKER_NAME).write_text('{"model')
    assert find_checkpoint(pretraining_args(tmp_path, resume_from_checkpoint=wanted)) == str(expected)
    for step, problem in (
        (10, "it is incomplete"), (11, "its file model.safetensors is damaged"),
        (12, "its file trainer_state.json is missing"), (13, "model.safetensors is damaged"), (14, "is damaged"),
    ):  # fmt: skip
        assert re.search(rf"checkpoint-{step} is skipped: .*{problem}", caplog.text), step


def test_resuming_with_nothing_to_resume_starts_from_the_beginning_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_checkpoint(pretraining_args(tmp_path / "new", resume_from_checkpoint="last")) is None
    assert "no whole checkpoint in" in caplog.text


@pytest.mark.parametrize("wanted", [None, "false", False])
def test_output_folder_of_a_run_is_refused_without_the_flag(tmp_path: Path, wanted: Any) -> None:
    _checkpoint(tmp_path, 5, is_marked=False)  # even an incomplete one: it is somebody's run
    args = pretraining_args(tmp_path, resume_from_checkpoint=wanted)
    with pytest.raises(
        ValueError, match=r"already holds checkpoints of a run \(checkpoint-5\).*--resume_from_checkpoint"
    ):
        find_checkpoint(args)


def test_new_output_folder_needs_no_flag(tmp_path: Path) -> None:
    assert find_checkpoint(pretraining_args(tmp_path / "new")) is None


def test_named_checkpoint_is_taken_from_wherever_it_lies(tmp_path: Path) -> None:
    named = _checkpoint(tmp_path / "elsewhere", 7)
    _checkpoint(tmp_path / "out", 9)
    assert find_checkpoint(pretraining_args(tmp_path / "out", resume_from_checkpoint=str(named))) == str(named)


def test_named_folder_that_is_no_checkpoint_raises(tmp_path: Path) -> None:
    args = pretraining_args(tmp_path / "out", resume_from_checkpoint=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Cannot resume from .*: it is incomplete"):
        find_checkpoint(args)


def test_trainer_itself_takes_only_whole_checkpoints(motion_videos: Path, tmp_path: Path) -> None:
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    rows = load_video_dataset(motion_videos, split="train")
    _trainer("finetuning", config, rows, tmp_path, max_steps=3).train()
    _flip_a_byte(tmp_path / "checkpoint-3" / "model.safetensors")
    resumed = _trainer("finetuning", config, rows, tmp_path, max_steps=3)
    with pytest.raises(FileNotFoundError, match="model.safetensors is damaged"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    resumed.train(resume_from_checkpoint=True)
    assert resumed._initial_global_step == 2
    assert problem_of(tmp_path / "checkpoint-3") is None  # written anew, over the damaged one


def test_old_checkpoints_go_only_when_the_new_one_is_whole(motion_videos: Path, tmp_path: Path) -> None:
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    rows = load_video_dataset(motion_videos, split="train")
    trainer = _trainer("finetuning", config, rows, tmp_path, save_total_limit=1, max_steps=3)
    seen = []

    def save_extras(checkpoint: Path) -> None:
        seen.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))

    trainer.save_extras = save_extras
    trainer.train()
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert trainer.args.save_total_limit == 1


def test_full_disk_keeps_the_checkpoint_of_before_and_says_so(motion_videos: Path, tmp_path: Path) -> None:
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    rows = load_video_dataset(motion_videos, split="train")
    trainer = _trainer("finetuning", config, rows, tmp_path, max_steps=3)
    save_optimizer, limits = trainer._save_optimizer_and_scheduler, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(folder: str) -> None:
        if folder.endswith("-2"):  # files cannot grow beyond a few bytes, as on a disk with no room
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            save_optimizer(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    trainer._save_optimizer_and_scheduler = save_on_a_full_disk
    with pytest.raises(
        RunStopped, match=r"checkpoint-2 could not be written .*checkpoint-1 is whole.*Free some space"
    ):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert problem_of(tmp_path / "checkpoint-1") is None


# ---------------------------------------------------------------------------------------------------------------------
# Signals and teachers
# ---------------------------------------------------------------------------------------------------------------------


class _SignalAt(TrainerCallback):
    """Sends this process SIGTERM in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_first_and_the_run_goes_on_as_if_nothing_had_happened(
    motion_videos: Path, tmp_path: Path, workers: int
) -> None:
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None, drop_path_rate=0.3)
    rows = load_video_dataset(motion_videos, split="train")
    options = {"save_strategy": "no", "dataloader_num_workers": workers}
    whole = _trainer("pretraining", config, rows, tmp_path / "whole", **options)
    whole.train()
    stopped = _trainer("pretraining", config, rows, tmp_path / "out", **options)
    stopped.add_callback(_SignalAt(3))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped, match=r"Stopped by SIGTERM after step [34] of 6, which is saved") as stop:
        stopped.train()
    assert stop.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = _trainer("pretraining", config, rows, tmp_path / "out", **options)
    resumed.train(resume_from_checkpoint=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_resuming_with_another_teacher_is_refused(motion_videos: Path, tmp_path: Path) -> None:
    config = tiny_config(image_size=16, num_labels=8)
    teacher = randomize(AMDModel(tiny_teacher_config(image_size=16)))
    other = randomize(AMDModel(tiny_teacher_config(image_size=16)), seed=1)
    rows = load_video_dataset(motion_videos, split="train")
    _trainer("pretraining", config, rows, tmp_path, teacher=teacher, max_steps=2).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    for wrong in (other, None):
        with pytest.raises(ValueError, match="is of a run with another teacher: given as a module"):
            _trainer("pretraining", config, rows, tmp_path, teacher=wrong).train(resume_from_checkpoint=checkpoint)
    assert not any("teacher" in name for name in load_file(tmp_path / "checkpoint-1" / "model.safetensors"))
    for name, value in (("teacher_view", "full"), ("teacher_dtype", "bfloat16")):
        with pytest.raises(
            ValueError, match=f"teacher was used in another way .`{name}`: .*, now {value}.*Resume with"
        ):
            _trainer("pretraining", config, rows, tmp_path, teacher=teacher, **{name: value}).train(checkpoint)
    _trainer("pretraining", config, rows, tmp_path, teacher=teacher, max_steps=2).train(checkpoint)
