"""What pre-training and fine-tuning share: loaders, unreadable videos, optimizer, schedule, logs, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl
from transformers.trainer_utils import EvalLoopOutput

from ..data.loader import EpochBatchSampler, build_eval_loader, build_train_loader
from ..sources import check_processor
from ..video_processing_amd import AMDVideoProcessor
from .base_args import VideoTrainingArguments
from .metrics import FiniteLossGuard, LossMeter
from .optim import cosine_schedule, parameter_groups
from .reading_log import ReadingLog


class VideoTrainer(Trainer):
    """Base of [`AMDTrainer`] and [`AMDFineTuningTrainer`]; not used by itself.

    Videos are decoded by the collators inside the loading workers, and each process loads its own share: nothing is
    read on one process for another. A subclass defines `evaluation_parts` and `evaluation_names`.

    Args:
        model, args, data_collator, train_dataset, eval_dataset and more: As for [`~transformers.Trainer`]; the
            datasets hold rows of videos (see [`load_video_dataset`]) or whatever `data_collator` takes.
        eval_collator (`Callable`, *optional*): Collator of the evaluation set; `data_collator` when not given.

    Raises:
        ValueError: If one process is to drive several GPUs, or there is no such `metric_for_best_model`.
        TypeError: If the training set is a stream.
    """

    args: VideoTrainingArguments
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
    control: TrainerControl
    eval_collator: Callable
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
        if isinstance(kwargs.get("processing_class"), AMDVideoProcessor):
            check_processor(kwargs["processing_class"], model.config)
        metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in self.evaluation_names():
            raise ValueError(
                f"`metric_for_best_model` must be one of {', '.join(self.evaluation_names())}, got {metric!r}."
            )
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        if self.train_dataset is not None and not hasattr(self.train_dataset, "__len__"):
            raise TypeError(
                f"`train_dataset` is a stream ({type(self.train_dataset).__name__}): training needs a set of known "
                "length, such as `load_video_dataset` gives with `streaming=False`."
            )
        self.eval_collator = eval_collator or self.data_collator
        self.reading_log = ReadingLog(args.max_unreadable_share)
        self._meter = LossMeter()
        self._finite_guard = FiniteLossGuard()
        self._num_usable_batches = 0  # of the optimizer step under way
        # Counts of unreadable videos travel between hosts, so that the accelerator is never waited for.
        self._host_group = dist.new_group(backend="gloo") if args.world_size > 1 else None

    # ---- To be defined by subclasses ----

    def evaluation_parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Scalars of one evaluation batch by name, each a mean over the batch."""
        raise NotImplementedError

    def evaluation_names(self) -> list[str]:
        """The names that `evaluation_parts` gives, the same on all processes."""
        raise NotImplementedError

    def finish_metrics(self, metrics: dict[str, float], expected: int, read: int) -> dict[str, float]:
        """Last word on the means over the videos read; some metrics count the unreadable ones too."""
        return metrics

    # ---- Data ----

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        if self.train_dataset is None:
            raise ValueError("Training needs a `train_dataset`.")
        batch_sampler = EpochBatchSampler(
            len(self.train_dataset),
            self._train_batch_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            batches_per_step=args.gradient_accumulation_steps,
            num_processes=args.world_size,
            process_index=args.process_index,
        )
        return build_train_loader(self.train_dataset, batch_sampler, self.data_collator, **self._loader_options())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        args = self.args
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None:
            raise ValueError("Evaluation needs an `eval_dataset`.")
        return build_eval_loader(
            rows,
            args.eval_batch_size,
            self.eval_collator,
            num_processes=args.world_size,
            process_index=args.process_index,
            **self._loader_options(),
        )

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
        """Batches of one optimizer step; one in which no video could be read is emptied on all processes alike.

        An empty batch keeps its place in the count of steps, so that schedule, epochs and resuming stay in line.
        """
        batches = [batch if self._is_usable_everywhere(batch) else {} for batch in islice(epoch_iterator, num_batches)]
        self._num_usable_batches = sum(map(bool, batches))
        # Empty ones first: gradients are exchanged between processes with the last batch of a step.
        return sorted(batches, key=bool), None

    def _is_usable_everywhere(self, batch: dict[str, Any]) -> bool:
        """Takes the reading report out of a batch and says whether every process has clips to train on."""
        if "num_tried" not in batch:
            return True
        num_tried, unreadable = batch.pop("num_tried"), batch.pop("unreadable")
        self.reading_log.name(unreadable)
        counts = torch.tensor([num_tried, len(unreadable), int(batch["pixel_values"] is None)])
        if self._host_group is not None:
            dist.all_reduce(counts, group=self._host_group)
        num_tried, num_unreadable, num_empty = counts.tolist()
        self.reading_log.count(num_tried, num_unreadable)
        return num_empty == 0

    # ---- Optimizer and schedule ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.optimizer_groups(model), **options)
        return self.optimizer

    def optimizer_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The parameters to train, in groups."""
        return parameter_groups(model, self.args.weight_decay)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            args = self.args
            steps_per_epoch = max(len(self.train_dataset) // args.videos_per_step, 1)
            self.lr_scheduler = cosine_schedule(
                optimizer or self.optimizer,
                num_training_steps,
                args.count_warmup_steps(num_training_steps, steps_per_epoch),
                args.final_learning_rate_share,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """The rate that is logged: the last layer's, not that of the first group, which layer decay makes smallest."""
        return max(self.lr_scheduler.get_last_lr()) if self.lr_scheduler is not None else 0.0

    # ---- Losses and logs ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Loss and gradients of one batch; an empty one (no video could be read) has none."""
        if not inputs:
            return torch.zeros((), device=self.args.device)
        self.current_gradient_accumulation_steps = self._num_usable_batches
        return super().training_step(model, inputs, num_items_in_batch)

    def _record_losses(self, total: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
        """Watches a training loss and adds it and its parts to the next log."""
        self._finite_guard.watch(self.state.global_step + 1, {**parts, "total": total})
        self._meter.add({"loss": total, **{f"loss_{name}": value for name, value in parts.items()}})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self._finite_guard.check()
            # The Trainer's own "loss" would count a skipped batch as one with loss 0.
            means = self._meter.reduce(self.accelerator) if self._meter else {"loss": float("nan")}
            logs = {**logs, **means, **self.reading_log.summary()}
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As for [`~transformers.Trainer`]; weights spoilt by a loss that is not finite are not saved."""
        self._finite_guard.check()
        super().save_model(output_dir, _internal_call)

    # ---- Evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Exact means over the evaluation set: every clip counts once, whatever the batch size and the processes."""
        self.model.eval()
        meter = LossMeter()
        counts = torch.zeros(2, dtype=torch.float64)  # videos expected, videos read
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
