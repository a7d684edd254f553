"""An optimizer step: its batches, on which all processes agree, its groups of parameters and its learning rate."""

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
    """One micro-batch of the step: what this process trains on, and how many clips all processes train on."""

    batch: dict[str, Any]  # empty where there is nothing to train on
    num_clips: int
    total_clips: int
    has_ended_everywhere: bool = False  # the pass over a stream
    clips_to_count: int = 0  # where `total_clips` counts batches


class StepBatches:
    """Source of the micro-batches of each optimizer step and of the divisor of each loss.

    The gradient of a step is the mean over its clips on all processes. That is the mean of the micro-batches' means
    when all are full. They may be smaller or missing in two cases. If a process cannot read any video of its
    micro-batch, all processes skip theirs. If a stream ends on some processes earlier than on others, those repeat a
    batch with weight 0 until the others are done.

    Args:
        reading_log (`ReadingLog`): Counts the videos of all processes.
        num_processes (`int`): Number of processes that train together.
        host_group (`torch.distributed.ProcessGroup`, *optional*): The processes' group on the CPU; None for one.
    """

    def __init__(self, reading_log: ReadingLog, num_processes: int, host_group: dist.ProcessGroup | None) -> None:
        self._reading_log = reading_log
        self._num_processes = num_processes
        self._host_group = host_group
        self._plan: deque[tuple[int, float]] = deque()
        self._stand_in: dict[str, Any] = {}
        self.num_clips = 0
        """Clips that count in the last step fetched, on all processes together."""

    def fetch(self, iterator: Iterator[Any], num_batches: int) -> list[dict[str, Any]]:
        """Return the micro-batches of one step; the list has an empty one for each that is skipped."""
        if isinstance(iterator, StreamIterator):
            slots = [self._next_of_stream(iterator) for _ in range(num_batches)]
        else:
            slots = [self._next_of_rows(batch) for batch in islice(iterator, num_batches)]
        total_clips = sum(slot.total_clips for slot in slots)
        self.num_clips = sum(slot.clips_to_count or slot.total_clips for slot in slots)
        # Empty ones first: processes exchange gradients in the backward pass of the last micro-batch, which must
        # therefore not be an empty one.
        slots.sort(key=lambda slot: bool(slot.batch))
        self._plan = deque(
            (slot.num_clips, total_clips / (slot.num_clips * self._num_processes) if slot.num_clips else math.inf)
            for slot in slots
        )
        return [slot.batch for slot in slots]

    def next_weight(self) -> tuple[int, float]:
        """Return the number of clips in the next micro-batch (0: no weight) and the divisor of its mean loss."""
        return self._plan.popleft()

    def _next_of_rows(self, batch: dict[str, Any]) -> _Slot:
        if "num_tried" not in batch:  # from a custom collator: every batch counts the same
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
                # An earlier batch with weight 0: this process must take part in the exchange of gradients, or the
                # others wait for it forever.
                if not self._stand_in:
                    raise RunStopped("This process got no video of the stream: use fewer processes or more shards.")
                return _Slot(self._stand_in, 0, slot.total_clips)
            iterator.start_next_pass()
        raise RunStopped("The stream gives no videos: look at the data set's shards and its `split`.")

    def _agree(self, batch: dict[str, Any], has_ended: bool = False) -> _Slot:
        """Take the reading report out of a batch, and decide with the other processes whether to train on it."""
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
    """Return whether a parameter is decayed: biases, 1-D weights, mask tokens and class tokens are not."""
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
            The rate of layer i is `learning_rate * layer_decay ** (num_hidden_layers + 1 - i)`. Layer 0 is the patch
            embedding, layer i the i-th block, and layer `num_hidden_layers + 1` everything after the blocks.

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
    """Return the layer of a parameter: 0 for the patch embedding, i for block i, else `num_layers + 1`."""
    name = name.split("amd.", 1)[-1]  # adapters add prefixes of their own
    if name.startswith("embeddings."):
        return 0
    match = re.match(r"layers\.(\d+)\.", name)
    return int(match[1]) + 1 if match else num_layers + 1


def keep_key_biases(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Keep the key biases of the attention at 0, as in every official checkpoint, by clearing their gradients.

    A key bias adds the same amount to all scores of a query, which the softmax cancels. Its gradient is rounding
    noise, which Adam would scale up to full steps.

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
            # FSDP2: each process holds a slice of the gradient. Imported here because the import takes a second.
            from torch.distributed.tensor import distribute_tensor

            mask = torch.ones(gradient.shape, dtype=gradient.dtype, device=gradient.device)
            mask.chunk(3)[1].zero_()
            gradient.mul_(distribute_tensor(mask, gradient.device_mesh, gradient.placements))

    optimizer.register_step_pre_hook(clear)


# ---------------------------------------------------------------------------------------------------------------------
# Rate
# ---------------------------------------------------------------------------------------------------------------------


def cosine_factor(num_training_steps: int, num_warmup_steps: int, final_ratio: float) -> Callable[[int], float]:
    """Return the factor on the learning rate as a function of the step: linear warm-up, then cosine to `final_ratio`.

    It counts steps as the released code does: the last warm-up step and the first cosine step both have the full
    rate, and the last step of the run ends just above the final rate.
    """

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(num_warmup_steps - 1, 1)
        progress = min((step - num_warmup_steps) / max(num_training_steps - num_warmup_steps, 1), 1.0)
        return final_ratio + 0.5 * (1 - final_ratio) * (1 + math.cos(math.pi * progress))

    return factor


def cosine_schedule(
    optimizer: torch.optim.Optimizer, num_training_steps: int, num_warmup_steps: int, final_ratio: float
) -> LambdaLR:
    """Return the schedule of [`cosine_factor`]; the factor multiplies the rate of each parameter group."""
    if num_warmup_steps > num_training_steps:
        logger.warning(
            f"The warm-up takes {num_warmup_steps} steps, but the run has only {num_training_steps}: the learning "
            "rate never reaches its maximum. Lower `warmup_epochs` (or `warmup_steps`) or train longer."
        )
    return LambdaLR(optimizer, cosine_factor(num_training_steps, num_warmup_steps, final_ratio))
