"""An optimizer step: its batches, in which all processes take part alike, its groups of parameters and its rate."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.utils import logging

from ..data.loaders import StreamIterator
from ..errors import RunStopped
from .monitoring import ReadingLog


logger = logging.get_logger(__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slot:
    """What this process trains on at one place of the step, and how many clips all of them train on there."""

    batch: dict[str, Any]  # empty where there is nothing to train on
    num_clips: int
    total_clips: int
    has_ended_everywhere: bool = False  # the pass over a stream
    clips_to_count: int = 0  # where `total_clips` counts batches


class StepBatches:
    """The batches of each optimizer step, and by what each loss is to be divided.

    The gradient of a step is the mean over its clips on all processes: the mean of means where every batch is full.
    Batches may be smaller or missing in two cases. No video of a batch could be read on some process: then all leave
    theirs out. A stream ends, on some processes earlier than on others: then those wait for the rest.

    Args:
        reading_log (`ReadingLog`): counts the videos of all processes.
        num_processes (`int`): how many train together.
        host_group (`torch.distributed.ProcessGroup`, *optional*): of the processes' hosts; None for one process.
    """

    def __init__(self, reading_log: ReadingLog, num_processes: int, host_group: dist.ProcessGroup | None) -> None:
        self._reading_log = reading_log
        self._num_processes = num_processes
        self._host_group = host_group
        self._plan: deque[tuple[int, float]] = deque()
        self._stand_in: dict[str, Any] = {}
        self.num_clips = 0
        """Clips of the step fetched last that count, on all processes together."""

    def fetch(self, iterator: Iterator[Any], num_batches: int) -> list[dict[str, Any]]:
        """Fetch the batches of one step; empty ones have nothing to train on, but count as batches of the step."""
        if isinstance(iterator, StreamIterator):
            slots = [self._next_of_stream(iterator) for _ in range(num_batches)]
        else:
            slots = [self._next_of_rows(batch) for batch in islice(iterator, num_batches)]
        total_clips = sum(slot.total_clips for slot in slots)
        self.num_clips = sum(slot.clips_to_count or slot.total_clips for slot in slots)
        # Empty ones first: gradients are exchanged between processes with the last batch of a step.
        slots.sort(key=lambda slot: bool(slot.batch))
        self._plan = deque(
            (slot.num_clips, total_clips / (slot.num_clips * self._num_processes) if slot.num_clips else math.inf)
            for slot in slots
        )
        return [slot.batch for slot in slots]

    def next_weight(self) -> tuple[int, float]:
        """Return the clips of the next batch (0 where it does not count) and by what its mean loss is divided."""
        return self._plan.popleft()

    def _next_of_rows(self, batch: dict[str, Any]) -> _Slot:
        if "num_tried" not in batch:  # a collator of the user's own
            num_clips = _count_clips(batch) * self._num_processes
            return _Slot(batch, 1, self._num_processes, clips_to_count=num_clips)
        return self._agree(batch)

    def _next_of_stream(self, iterator: StreamIterator) -> _Slot:
        for _ in range(2):
            batch = iterator.next_batch()
            slot = self._agree(batch or {}, has_ended=batch is None)
            if slot.batch:
                self._stand_in = slot.batch
            if not slot.has_ended_everywhere:
                if slot.batch or not slot.total_clips:
                    return slot
                # A batch of before, of no weight: this process must take part in the exchange of gradients.
                if not self._stand_in:
                    raise RunStopped(
                        "This process got no video of the stream at all: use fewer processes or more shards."
                    )
                return _Slot(self._stand_in, 0, slot.total_clips)
            iterator.start_next_pass()
        raise RunStopped("The stream gives no videos: look at the data set's shards and its `split`.")

    def _agree(self, batch: dict[str, Any], has_ended: bool = False) -> _Slot:
        """Take the reading report out of a batch and agree with the other processes on what is trained on."""
        num_tried, unreadable = batch.pop("num_tried", 0), batch.pop("unreadable", [])
        self._reading_log.name(unreadable)
        num_clips = _count_clips(batch)
        is_unreadable = not has_ended and num_clips == 0
        counts = torch.tensor([num_tried, len(unreadable), num_clips, int(is_unreadable), int(has_ended)])
        if self._host_group is not None:
            dist.all_reduce(counts, group=self._host_group)
        num_tried, num_unreadable, total_clips, num_without, num_ended = counts.tolist()
        self._reading_log.count(num_tried, num_unreadable)
        if num_without:
            return _Slot({}, 0, 0)
        return _Slot(batch if num_clips else {}, num_clips, total_clips, num_ended == self._num_processes)


def _count_clips(batch: dict[str, Any]) -> int:
    return next((len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim), 0)


# ---------------------------------------------------------------------------------------------------------------------
# Parameters
# ---------------------------------------------------------------------------------------------------------------------


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is decayed: biases, 1-D weights, mask and class tokens are not, as released."""
    last = name.rsplit(".", 1)[-1]
    return parameter.ndim > 1 and not last.endswith("bias") and last not in ("mask_token", "class_token")


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float | None = None, layer_decay: float = 1.0
) -> list[dict]:
    """Group the trainable parameters of `model` by weight decay and, with `layer_decay`, by layer.

    Args:
        model (`torch.nn.Module`): An AMD model.
        weight_decay (`float`): For the parameters of [`has_weight_decay`]; the others get 0.
        learning_rate (`float`, *optional*): Rate of the last layer; needed with `layer_decay`.
        layer_decay (`float`, *optional*, defaults to 1.0):
            The rate of layer i is `learning_rate * layer_decay ** (num_hidden_layers + 1 - i)`: layer 0 is the patch
            embedding, i the i-th block, and `num_hidden_layers + 1` all that follows.

    Returns:
        `list[dict]`: Groups for a `torch.optim` optimizer, early layers first.
    """
    num_layers = model.config.num_hidden_layers
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_number(name, num_layers) if layer_decay != 1.0 else num_layers + 1
        is_decayed = has_weight_decay(name, parameter)
        group = groups.setdefault((layer, not is_decayed), {"params": []})
        group["params"].append(parameter)
        group["weight_decay"] = weight_decay if is_decayed else 0.0
        if layer_decay != 1.0:
            group["lr"] = learning_rate * layer_decay ** (num_layers + 1 - layer)
    return [groups[key] for key in sorted(groups)]


def layer_number(name: str, num_layers: int) -> int:
    """Return a parameter's layer: 0 for the patch embedding, i for block i, `num_layers + 1` for all that follows."""
    name = name.split("amd.", 1)[-1]  # adapters put prefixes of their own in front
    if name.startswith("embeddings."):
        return 0
    match = re.match(r"layers\.(\d+)\.", name)
    return int(match[1]) + 1 if match else num_layers + 1


def keep_key_biases(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Have an optimizer leave the biases of the attention's keys as they are: 0, as in every official checkpoint.

    The softmax is blind to them, so their gradient is rounding alone, which Adam would make steps of full size of.

    Args:
        optimizer (`torch.optim.Optimizer`): Of the model's parameters.
        model (`torch.nn.Module`): An AMD model; FSDP2 may split its parameters later.
    """
    products = [module for name, module in model.named_modules() if name.endswith("attention.qkv")]

    def clear(*_: Any) -> None:
        for product in products:
            gradient = getattr(getattr(product, "bias", None), "grad", None)
            if gradient is None:
                continue
            if not hasattr(gradient, "device_mesh"):
                gradient.chunk(3)[1].zero_()
                continue
            # FSDP2: each process has a part of it. Imported here since it takes a second.
            from torch.distributed.tensor import distribute_tensor

            mask = torch.ones(gradient.shape, dtype=gradient.dtype, device=gradient.device)
            mask.chunk(3)[1].zero_()
            gradient.mul_(distribute_tensor(mask, gradient.device_mesh, gradient.placements))

    optimizer.register_step_pre_hook(clear)


# ---------------------------------------------------------------------------------------------------------------------
# Rate
# ---------------------------------------------------------------------------------------------------------------------


def cosine_factor(num_training_steps: int, num_warmup_steps: int, final_share: float) -> Callable[[int], float]:
    """Return the factor on the learning rate by step: linear warm-up from 0, then cosine to `final_share`.

    As the released code counts: the last warm-up step and the first cosine step both have the full rate, and the last
    step of all stays one step above the final rate.
    """

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(num_warmup_steps - 1, 1)
        progress = min((step - num_warmup_steps) / max(num_training_steps - num_warmup_steps, 1), 1.0)
        return final_share + 0.5 * (1 - final_share) * (1 + math.cos(math.pi * progress))

    return factor


def cosine_schedule(
    optimizer: torch.optim.Optimizer, num_training_steps: int, num_warmup_steps: int, final_share: float
) -> LambdaLR:
    """Make a schedule by [`cosine_factor`] for each parameter group: it ends at its own fraction of its own rate."""
    if num_warmup_steps > num_training_steps:
        logger.warning(
            f"The warm-up takes {num_warmup_steps} steps, but the run has only {num_training_steps}: the learning "
            "rate never reaches its full height. Lower `warmup_epochs` (or `warmup_steps`) or train longer."
        )
    return LambdaLR(optimizer, cosine_factor(num_training_steps, num_warmup_steps, final_share))
