"""The trainer under pre-training and fine-tuning: data, optimizer, logs, saving, resuming, evaluation, publishing."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from datasets import IterableDataset
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, IntervalStrategy, TrainOutput
from transformers.utils import logging

from ..data.augment.on_device import PlannedClips
from ..data.clips import BUILT_IN_COLLATORS, ClipLoader
from ..data.datasets.own import as_video_rows
from ..data.loaders import EpochBatchSampler, StreamDataLoader, build_eval_loader, build_train_loader, iterate_once
from ..data.streams import StreamReader, stream_length
from ..errors import RunStopped
from ..hub.cards import write_run_card
from ..hub.publishing import PreparedFolder, prepare_folder, upload
from .arguments import VideoTrainingArguments, prepare_for_stream
from .checkpoints import (
    RunState,
    begin_checkpoint,
    check_checkpoints_are_ours,
    last_whole_checkpoint,
    load_position,
    mark_checkpoint,
    problem_of,
    remove_old_checkpoints,
    remove_unfinished,
    save_position,
)
from .data_listing import DataListing, check_same_data, list_data, save_listing
from .launching import check_sharding, whole_weights
from .monitoring import FiniteLossGuard, LossMeter, ReadingLog, ThroughputMeter, print_time_left
from .precision import load_precision, save_precision
from .run_folders import RunLock, claim_output_folder
from .steps import StepBatches, cosine_schedule, keep_key_biases, parameter_groups
from .views import processor_of_run


logger = logging.get_logger(__name__)

_SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class VideoTrainer(Trainer):
    """Base of [`AMDTrainer`] and [`AMDFineTuningTrainer`]; not used by itself.

    The collators decode videos inside the loading workers. Each process loads its own videos; none reads for another.
    A subclass defines `evaluation_parts` and `evaluation_names`.

    A checkpoint is marked as whole once every process has written its last file, and only then are old checkpoints
    deleted. On SIGTERM, which clusters send before they take a machine away, the run finishes the current step, saves
    a checkpoint and ends.

    `save_model` writes the card of the run beside the model. With `push_to_hub` nothing contacts the Hub before
    [`push_to_hub`] is called, which the programs do last: a run needs no network, and publishes the model that was
    tested.

    Args:
        model, args, data_collator, train_dataset, eval_dataset and more: See [`~transformers.Trainer`]. The datasets
            hold rows of videos (see [`load_video_dataset`]) or whatever `data_collator` takes. With the built-in
            collators, your own datasets may have decoded columns and no `video_id`: see
            [`~amd_hf.data.datasets.own.as_video_rows`].
        eval_collator (`Callable`, *optional*): Collator of the evaluation set; `data_collator` when not given.
        processing_class (*optional*): The processor to save beside the model; it says how the model reads videos. By
            default it is made from the model's config and the arguments. Where a given processor differs from the
            run, the run's setting replaces the processor's, with a warning.

    Raises:
        ValueError: If one process would have to drive several GPUs, FSDP was requested but is not active, or
            `metric_for_best_model` is unknown.
        TypeError: If the training set is a stream but no `datasets.IterableDataset`.
    """

    args: VideoTrainingArguments
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
    control: TrainerControl
    eval_collator: Callable
    clip_loader_type: type = ClipLoader
    """Class of the built-in collators' `loader`."""
    program_options: Sequence[Any] = ()
    """Dataclasses of options besides the arguments, for the card."""
    test_metrics: Mapping[str, float] | None = None
    """Metrics of the last test."""
    loss_is_scaled_for_ga = False  # losses are means: the Trainer divides them by the accumulation steps

    def __init__(
        self,
        model: nn.Module,
        args: VideoTrainingArguments,
        data_collator: Callable | None = None,
        eval_collator: Callable | None = None,
        **kwargs: Any,
    ):
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process are not supported: start one process per GPU with "
                f"`accelerate launch` or `torchrun --nproc_per_node {args.n_gpu}`."
            )
        kwargs["processing_class"] = processor_of_run(
            kwargs.get("processing_class"), model.config, args, eval_collator or data_collator, self.clip_loader_type
        )
        metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in self.evaluation_names():
            raise ValueError(
                f"`metric_for_best_model` must be one of {', '.join(self.evaluation_names())}, got {metric!r}."
            )
        if isinstance(data_collator, BUILT_IN_COLLATORS):
            kwargs["train_dataset"] = as_video_rows(kwargs.get("train_dataset"))
        if isinstance(eval_collator or data_collator, BUILT_IN_COLLATORS):
            kwargs["eval_dataset"] = as_video_rows(kwargs.get("eval_dataset"))
        _check_rows(args, kwargs.get("train_dataset"), kwargs.get("eval_dataset"))
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        # Flags and counts travel between hosts over gloo, so that no one waits for the accelerator.
        self.host_group = dist.new_group(backend="gloo") if args.world_size > 1 else None
        self.run_lock = RunLock(args.output_dir)  # held from `train` to `finish_run`, or as long as this lives
        self._sigterm_received = False  # by this process
        self._is_stopping = False  # agreed on by all
        self.add_callback(_StopAfterSaving(self))
        print_time_left(self)
        check_sharding(args, self.accelerator)
        self.eval_collator = eval_collator or self.data_collator
        self.reading_log = ReadingLog(args.max_unreadable_fraction)
        self._stream_loader: StreamDataLoader | None = None
        self._listing: DataListing | None = None
        self._meter = LossMeter()
        self._finite_guard = FiniteLossGuard()
        self._step_batches = StepBatches(self.reading_log, args.world_size, self.host_group)
        self._num_clips = 1  # clips of the current batch that count
        self._throughput = ThroughputMeter()
        self.add_callback(self._throughput)

    # ---- To be defined by subclasses ----

    def evaluation_parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the scalars of one evaluation batch by name, each a mean over the batch."""
        raise NotImplementedError

    def evaluation_names(self) -> list[str]:
        """Return the names of `evaluation_parts`, the same on all processes."""
        raise NotImplementedError

    def flops_per_clip(self) -> int | None:
        """Return the FLOPs of a training step per clip, forward and backward; None if there is no formula."""
        return None

    def modules_used(self) -> list[nn.Module]:
        """Return the modules that `evaluation_parts` runs, any of which may be sharded."""
        return [self.model]

    def finish_metrics(self, metrics: dict[str, float], expected: int, read: int) -> dict[str, float]:
        """Correct the means over the videos that were read where a metric counts unreadable videos too."""
        return metrics

    # ---- Data ----

    @property
    def num_train_videos(self) -> int | None:
        """Return the number of videos in the training set; None for a stream of unknown length."""
        rows = self.train_dataset
        return stream_length(rows) if isinstance(rows, IterableDataset) else len(rows)

    @property
    def steps_per_epoch(self) -> int | None:
        """Return the number of optimizer steps in an epoch; None for a stream of unknown length."""
        num_videos = self.num_train_videos
        return None if num_videos is None else max(num_videos // self.args.videos_per_step, 1)

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        if self.train_dataset is None:
            raise ValueError("Training needs a `train_dataset`.")
        seed = args.seed if args.data_seed is None else args.data_seed
        processes = {"num_processes": args.world_size, "process_index": args.process_index}
        if isinstance(self.train_dataset, IterableDataset):
            reader = StreamReader(self.train_dataset, seed, buffer_rows=args.stream_buffer_rows, **processes)
            num_batches = args.max_steps * args.gradient_accumulation_steps
            self._stream_loader = StreamDataLoader(
                reader, self._train_batch_size, self.data_collator, num_batches, **self._loader_options()
            )
            return self._stream_loader
        batch_sampler = EpochBatchSampler(
            len(self.train_dataset),
            self._train_batch_size,
            seed=seed,
            batches_per_step=args.gradient_accumulation_steps,
            **processes,
        )
        return build_train_loader(self.train_dataset, batch_sampler, self.data_collator, **self._loader_options())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        args = self.args
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None:
            raise ValueError("Evaluation needs an `eval_dataset`.")
        if isinstance(self.eval_collator, BUILT_IN_COLLATORS):
            rows = as_video_rows(rows)
        processes = {"num_processes": args.world_size, "process_index": args.process_index}
        if isinstance(rows, IterableDataset):
            reader = StreamReader(rows, args.seed, shuffle=False, buffer_rows=1, **processes)
            return iterate_once(reader, args.eval_batch_size, self.eval_collator, **self._loader_options())
        return build_eval_loader(rows, args.eval_batch_size, self.eval_collator, **processes, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        args = self.args
        return {
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
            "persistent_workers": args.dataloader_persistent_workers and args.dataloader_num_workers > 0,
            "prefetch_factor": args.dataloader_prefetch_factor,
        }

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """Return the batches of one optimizer step, on which all processes agree; see [`StepBatches`]."""
        self.agree_on_stopping()
        with self._throughput.waiting(self.state.global_step):
            batches = self._step_batches.fetch(epoch_iterator, num_batches)
        self._throughput.count(self._step_batches.num_clips)
        return batches, None

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Send a batch to the device, and make its clips there if the workers only planned them."""
        inputs = super()._prepare_inputs(inputs)
        if isinstance(planned := inputs.get("pixel_values"), PlannedClips):
            inputs["pixel_values"] = planned.make(self.args.device)
        return inputs

    # ---- Optimizer and schedule ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.optimizer_groups(model), **options)
            # The softmax ignores key biases: Adam would turn the rounding in their gradients into full steps.
            keep_key_biases(self.optimizer, model)
        return self.optimizer

    def optimizer_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the groups of parameters to train."""
        return parameter_groups(model, self.args.weight_decay)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            args = self.args
            self.lr_scheduler = cosine_schedule(
                optimizer or self.optimizer,
                num_training_steps,
                args.count_warmup_steps(num_training_steps, self.steps_per_epoch),
                args.final_learning_rate_ratio,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """Return the rate to log: the last layer's. The first group's rate is the smallest under layer decay."""
        return max(self.lr_scheduler.get_last_lr()) if self.lr_scheduler is not None else 0.0

    # ---- Losses and logs ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute loss and gradients of one batch; an empty batch, whose videos are all unreadable, has none."""
        self._num_clips, self.current_gradient_accumulation_steps = self._step_batches.next_weight()
        # A process without a video still takes part in the exchange of gradients.
        if not inputs:
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def _record_losses(self, total: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
        """Check that a training loss is finite, and add it and its parts to the next log."""
        self._finite_guard.watch(self.state.global_step + 1, {**parts, "total": total})
        self._meter.add({"loss": total, **{f"loss_{name}": value for name, value in parts.items()}}, self._num_clips)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self._finite_guard.check()
            # The Trainer's own "loss" would count a skipped batch as one with loss 0.
            means = self._meter.reduce(self.accelerator) if self._meter else {"loss": float("nan")}
            speed = self._throughput.read(
                self.state.global_step, self.state.max_steps, self.flops_per_clip(), self.args.world_size
            )
            logs = {**logs, **means, **speed, **self.reading_log.summary()}
        if self._stream_loader is not None:
            # Epochs so far; only whole ones if the length of the stream is unknown.
            length = stream_length(self.train_dataset)
            passes = self.state.global_step * self.args.videos_per_step / length if length is not None else None
            self.state.epoch = float(self._stream_loader.position["epoch"]) if passes is None else passes
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as [`~transformers.Trainer`] does, without counting the time as training."""
        with self._throughput.paused():
            return super().evaluate(*args, **kwargs)

    # ---- Running ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as [`~transformers.Trainer`] does; `True` resumes from the newest checkpoint that is whole.

        Raises:
            FileNotFoundError: If there is no whole checkpoint to resume from.
            RunStopped: If SIGTERM ended the run, after a checkpoint was saved, or another process died.
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
            with self._catching_sigterm():
                output = super().train(resume_from_checkpoint or None, *args, **kwargs)
        except BaseException as error:
            self.run_lock.release()
            if not isinstance(error, RuntimeError) or not _is_loss_of_a_process(error):
                raise
            raise RunStopped(
                f"Another process of this run has ended or no longer answers ({' '.join(str(error).split())}): look "
                "at its last messages, then continue with `--resume_from_checkpoint`."
            ) from error
        if self._is_stopping and self.state.global_step < self.state.max_steps:
            raise RunStopped(
                f"Stopped by SIGTERM after step {self.state.global_step} of {self.state.max_steps}, which is saved in "
                f"{self.args.output_dir}. Continue with `--resume_from_checkpoint`.",
                exit_code=_SIGTERM_EXIT_CODE,
            )
        return output

    def _take_folder(self, checkpoint: str | None) -> None:
        """Claim and lock the output folder on the first process; an error is raised on every process."""
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

    @contextmanager
    def _catching_sigterm(self) -> Iterator[None]:
        """Note SIGTERM instead of dying of it. Python has handlers in the main thread only: elsewhere do nothing."""
        self._sigterm_received = self._is_stopping = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note_signal(number: int, frame: FrameType | None) -> None:
            self._sigterm_received = True

        previous = signal.signal(signal.SIGTERM, note_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def agree_on_stopping(self) -> None:
        """Find out whether any process received SIGTERM; every process must call this once per step."""
        flag = torch.tensor(int(self._sigterm_received))
        if self.host_group is not None:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.host_group)
        self._is_stopping = bool(flag)

    # ---- Saving and resuming ----

    @property
    def state(self) -> TrainerState:
        """Return the state of the run; see [`RunState`]."""
        return self._state

    @state.setter
    def state(self, state: TrainerState) -> None:
        # The Trainer creates its states itself, new and from files, and has no other hook to choose their class.
        self._state = RunState(**vars(state))
        best = state.best_model_checkpoint
        if best is not None and Path(best).name == best and not Path(best).is_dir():
            self._state.best_model_checkpoint = str(Path(self.args.output_dir, best))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model as [`~transformers.Trainer`] does, and the card of the run; publish nothing.

        Raises:
            RunStopped: If the last loss was not finite: the weights may be spoilt.
        """
        self._finite_guard.check()
        super().save_model(output_dir, _internal_call=True)
        if self.args.should_save and Path(output_dir or self.args.output_dir) == Path(self.args.output_dir):
            self.create_model_card()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_folder = Path(self._get_output_dir(trial=trial))
        checkpoint = run_folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        limit = self.args.save_total_limit
        with self._throughput.paused():
            if self.args.should_save:
                begin_checkpoint(checkpoint)
            self.accelerator.wait_for_everyone()
            try:
                # The Trainer would delete old checkpoints before this one is marked as whole: we do it below.
                self.args.save_total_limit = None
                super()._save_checkpoint(model, trial)
                checkpoint.mkdir(parents=True, exist_ok=True)
                self.save_extras(checkpoint)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    mark_checkpoint(checkpoint)
            except (OSError, RuntimeError, SafetensorError) as error:
                if isinstance(error, RunStopped) or _is_loss_of_a_process(error):
                    raise
                raise self._cannot_save(checkpoint, error) from error
            finally:
                self.args.save_total_limit = limit
            if self.args.should_save:
                remove_old_checkpoints(run_folder, limit, self.state.best_model_checkpoint)

    def _cannot_save(self, checkpoint: Path, error: Exception) -> RunStopped:
        free = shutil.disk_usage(checkpoint.parent).free / 2**20
        with contextlib.suppress(OSError, RunStopped):  # what stays has no marker, so nothing will resume from it
            remove_unfinished(checkpoint)
        last = last_whole_checkpoint(str(checkpoint.parent))
        kept = f"{last} is whole" if last else "there is no earlier one"
        return RunStopped(
            f"{checkpoint} could not be written ({' '.join(str(error).split())}; {free:.0f} MiB are free on that "
            f"disk); its files are deleted, {kept}. Free some space, then continue with `--resume_from_checkpoint`."
        )

    def training_listing(self) -> DataListing:
        """Return the listing of the training set, which is made once."""
        if self._listing is None:
            self._listing = list_data(self.train_dataset)
        return self._listing

    def check_resumable(self, checkpoint: Path) -> None:
        """Raise `ValueError` if the run of a checkpoint was trained on other data, unless `data_changed_ok`."""
        before, now = load_precision(checkpoint), self.args.precision.name
        if before not in (None, now):
            logger.warning(f"The run of {checkpoint} began in precision {before!r} and continues in {now!r}.")
        different = check_same_data(checkpoint, self.training_listing())
        if different is None:
            return
        if not self.args.data_changed_ok:
            raise ValueError(
                f"The training data are not those that {checkpoint} was trained on: {different}. Use the same data, "
                "or set `--data_changed_ok true` to continue with these."
            )
        logger.warning(f"The training data are not those that {checkpoint} was trained on: {different}.")

    def save_extras(self, checkpoint: Path) -> None:
        """Write more files into a checkpoint. Every process calls this before the checkpoint is marked as whole."""
        if self.args.should_save:
            save_listing(checkpoint, self.training_listing())
            save_precision(checkpoint, self.args.precision)
        if self._stream_loader is not None:
            save_position(checkpoint, self.args.process_index, self._stream_loader.position)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the position in the stream with the random state; the Trainer calls this before the first batch."""
        super()._load_rng_state(checkpoint)
        if self._stream_loader is not None and checkpoint is not None:
            self._stream_loader.load_position(load_position(checkpoint, self.args.process_index))

    # ---- Evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Compute exact means over the evaluation set: every clip counts once, for any batch size and processes."""
        self.model.eval()
        meter = LossMeter()
        counts = torch.zeros(2, dtype=torch.float64)  # videos expected, videos read
        with whole_weights(*self.modules_used()):
            for batch in dataloader:
                self.reading_log.name(batch.pop("unreadable", []))
                num_read = 0 if batch["pixel_values"] is None else len(batch["pixel_values"])
                counts += torch.tensor([batch.pop("num_tried", num_read), num_read])
                if num_read:
                    with torch.no_grad(), self.accelerator.autocast():
                        parts = self.evaluation_parts(self.model, self._prepare_inputs(batch))
                    meter.add(parts, weight=num_read)
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        metrics = meter.reduce(self.accelerator, self.evaluation_names())
        expected, read = self.accelerator.reduce(counts.to(self.args.device), "sum").tolist()
        metrics = self.finish_metrics(metrics, int(expected), int(read))
        metrics |= {"videos_expected": int(expected), "videos_read": int(read)}
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=prefixed, num_samples=int(expected))

    # ---- Publishing ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Set the name of the repository, which is created when the model is published."""
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.push_in_progress = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the run into the output folder; see [`~amd_hf.hub.cards.write_run_card`]."""
        if self.is_world_process_zero():
            write_run_card(self, options=self.program_options)

    def finish_run(self) -> None:
        """Write the card with every result and, with `push_to_hub`, publish the model. Call this last."""
        self.create_model_card()
        if self.args.push_to_hub:
            self.push_to_hub()
        self.run_lock.release()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing: checkpoints are not published."""

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Save the model, check its folder, print what will be uploaded, and upload it; see [`prepare_folder`].

        This always waits for the end of the upload; the other arguments are those of [`~transformers.Trainer`].

        Returns:
            The address of the commit; `None` on processes other than the first.

        Raises:
            ValueError: If the folder fails a check.
            ConnectionError: If the Hub cannot be reached; everything is then ready on disk.
        """
        if self.hub_model_id is None:
            self.init_hf_repo()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        args = self.args
        folder = Path(args.output_dir)
        prepared: PreparedFolder = prepare_folder(folder, f"{folder}-hub", self.hub_model_id)
        print(f"To be uploaded to {self.hub_model_id}:\n{prepared}", flush=True)  # noqa: T201
        private = args.hub_private_repo if private is None else private
        return upload(
            prepared,
            self.hub_model_id,
            private=private,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            commit_message=commit_message,
        )


class _StopAfterSaving(TrainerCallback):
    def __init__(self, trainer: VideoTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self._trainer._is_stopping:
            control.should_save = control.should_training_stop = True
        return control


def _check_rows(args: VideoTrainingArguments, train: Any, evaluation: Any) -> None:
    """Check that the position in the training set can be saved, and that there are videos if there are evaluations."""
    if isinstance(train, IterableDataset):
        prepare_for_stream(args, train)
    elif train is not None and not hasattr(train, "__len__"):
        raise TypeError(
            f"`train_dataset` is a stream of a kind ({type(train).__name__}) whose position cannot be saved: pass a "
            "`datasets.IterableDataset`, as `load_video_dataset(..., streaming=True)` returns, or rows with a length."
        )
    if args.eval_strategy != IntervalStrategy.NO and evaluation is None:
        raise ValueError(
            f"`eval_strategy` is {args.eval_strategy.value}, but there are no videos to evaluate on: set "
            "`--eval_split` or `--eval_data` (in Python `eval_dataset=...`), or leave `eval_strategy` out."
        )


def _is_loss_of_a_process(error: Exception) -> bool:
    """Return whether communication between processes failed; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
