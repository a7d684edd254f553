"""A Trainer whose runs may end at any moment: checkpoints are whole or do not count, SIGTERM is heeded."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ...errors import RunStopped
from .checkpoints import (
    begin_checkpoint,
    check_checkpoints_are_ours,
    last_whole_checkpoint,
    problem_of,
    remove_old_checkpoints,
    remove_unfinished,
    seal_checkpoint,
)
from .run_folders import RunLock, claim_output_folder


_SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class ResumableTrainer(Trainer):
    """Base of [`VideoTrainer`]; not used by itself.

    A checkpoint is sealed after its last file is written on every process, and only then are old ones deleted. SIGTERM
    (what clusters send before they take a machine away) ends the run after the step under way and a checkpoint of it.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Flags and counts travel between hosts, so that the accelerator is never waited for.
        self.host_group = dist.new_group(backend="gloo") if self.args.world_size > 1 else None
        self.run_lock = RunLock(self.args.output_dir)  # held from `train` to `finish_run`, or as long as this lives
        self._sigterm_received = False  # by this process
        self._is_stopping = False  # agreed on by all
        self.add_callback(_StopAfterSaving(self))

    # ---- To be defined by subclasses ----

    def save_extras(self, checkpoint: Path) -> None:
        """Writes more files into a checkpoint; called on every process before it is sealed."""

    def check_resumable(self, checkpoint: Path) -> None:
        """Raises if the run of a checkpoint is not the one that this Trainer would go on with."""

    # ---- Running ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As for [`~transformers.Trainer`]; `True` takes the newest checkpoint that is whole.

        Raises:
            FileNotFoundError: If there is no whole checkpoint to resume from.
            RunStopped: If the run was ended by SIGTERM, after a checkpoint was written, or another process died.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise FileNotFoundError(f"There is no whole checkpoint in {self.args.output_dir} to resume from.")
        elif resume_from_checkpoint and (problem := problem_of(resume_from_checkpoint)):
            raise FileNotFoundError(f"Cannot resume from {resume_from_checkpoint}: {problem}.")
        self._take_folder(resume_from_checkpoint or None)
        if resume_from_checkpoint:
            self.check_resumable(Path(resume_from_checkpoint))
        try:
            with _HandlerFor(self):
                output = super().train(resume_from_checkpoint or None, *args, **kwargs)
        except BaseException as error:
            self.run_lock.release()
            if not isinstance(error, RuntimeError) or not _is_loss_of_a_process(error):
                raise
            raise RunStopped(
                f"Another process of this run has ended or no longer answers ({' '.join(str(error).split())}): see "
                "what it said last, then go on with `--resume_from_checkpoint`."
            ) from error
        if self._is_stopping and self.state.global_step < self.state.max_steps:
            raise RunStopped(
                f"Stopped by SIGTERM after step {self.state.global_step} of {self.state.max_steps}, which is saved in "
                f"{self.args.output_dir}. Go on with `--resume_from_checkpoint`.",
                exit_code=_SIGTERM_EXIT_CODE,
            )
        return output

    def _take_folder(self, checkpoint: str | None) -> None:
        """Claims and locks the output folder on the first process, for all of them; they learn what came of it."""
        outcome: list[Exception | None] = [None]
        if self.is_world_process_zero():
            try:
                self.run_lock.acquire()
                claim_output_folder(self.args, checkpoint)
                check_checkpoints_are_ours(self.args.output_dir)
            except (RunStopped, ValueError, OSError) as error:
                self.run_lock.release()
                outcome = [error]
        if self.host_group is not None:
            dist.broadcast_object_list(outcome, src=0, group=self.host_group)
        if outcome[0] is not None:
            raise outcome[0]

    def agree_on_stopping(self) -> None:
        """Learns whether any process was told to stop; every process must call it once per step."""
        flag = torch.tensor(int(self._sigterm_received))
        if self.host_group is not None:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.host_group)
        self._is_stopping = bool(flag)

    # ---- Saving ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_folder = Path(self._get_output_dir(trial=trial))
        checkpoint = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            begin_checkpoint(checkpoint)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # old ones stay until this one is whole
        try:
            super()._save_checkpoint(model, trial)
            checkpoint.mkdir(parents=True, exist_ok=True)
            self.save_extras(checkpoint)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RunStopped) or _is_loss_of_a_process(error):
                raise
            raise self._cannot_save(checkpoint, error) from error
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            try:
                seal_checkpoint(checkpoint)
            except OSError as error:
                raise self._cannot_save(checkpoint, error) from error
            remove_old_checkpoints(run_folder, limit, self.state.best_model_checkpoint)

    def _cannot_save(self, checkpoint: Path, error: Exception) -> RunStopped:
        free = shutil.disk_usage(checkpoint.parent).free / 2**20
        with contextlib.suppress(OSError, RunStopped):  # it counts for nothing anyway
            remove_unfinished(checkpoint)
        last = last_whole_checkpoint(str(checkpoint.parent))
        kept = f"{last} is whole" if last else "there is no earlier one"
        return RunStopped(
            f"{checkpoint} could not be written ({' '.join(str(error).split())}; {free:.0f} MiB are free on that "
            f"disk); what there was of it is deleted, {kept}. Make room, then go on with `--resume_from_checkpoint`."
        )


def _is_loss_of_a_process(error: Exception) -> bool:
    """Whether communication failed; gloo has no type of error of its own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class _HandlerFor:
    """Takes note of SIGTERM while a Trainer trains; outside of the main thread, which alone may, it does nothing."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer
        self._is_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        self._trainer._sigterm_received = self._trainer._is_stopping = False
        if self._is_main_thread:
            self._previous = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._trainer._sigterm_received = True

    def __exit__(self, *exception: object) -> None:
        if self._is_main_thread:
            signal.signal(signal.SIGTERM, self._previous)


class _StopAfterSaving(TrainerCallback):
    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._trainer._is_stopping:
            control.should_save = control.should_training_stop = True
        return control
