"""Runs that train on a stream: how many steps they take, and the file that says where they stopped reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers.trainer_utils import IntervalStrategy

from ...data.streams import stream_length
from ..arguments import VideoTrainingArguments


def prepare_arguments(args: VideoTrainingArguments, stream: IterableDataset) -> None:
    """Count the steps of a run over a stream into `args.max_steps`, and keep the Trainer from skipping batches itself.

    Raises:
        ValueError: If the length of the stream is unknown and `max_steps` is not given, or if something is to be done
            at the end of each epoch: the Trainer sees the whole run as one.
    """
    for name in ("save_strategy", "eval_strategy", "logging_strategy"):
        if getattr(args, name) == IntervalStrategy.EPOCH:
            raise ValueError(f"`{name}` cannot be epoch with a stream: use steps.")
    args.ignore_data_skip = True  # the place in the stream is saved with each checkpoint
    if args.max_steps > 0:
        return
    length = stream_length(stream)
    if length is None:
        raise ValueError(
            "The stream does not say how many videos it has, so `num_train_epochs` cannot be counted. Give "
            f"`max_steps` (passes x videos / {args.videos_per_step} videos per step)."
        )
    if length < args.videos_per_step:
        raise ValueError(
            f"The stream has {length} videos, fewer than the {args.videos_per_step} of one optimizer step. Lower "
            "`per_device_train_batch_size` or `gradient_accumulation_steps`."
        )
    args.max_steps = round(args.num_train_epochs * (length // args.videos_per_step))


def save_position(checkpoint: Path, process_index: int, position: dict[str, Any]) -> None:
    """Write where a process stopped reading into a checkpoint."""
    _file(checkpoint, process_index).write_text(json.dumps(position))


def load_position(checkpoint: str | Path, process_index: int) -> dict[str, Any]:
    """Read what `save_position` wrote.

    Raises:
        FileNotFoundError: If the checkpoint is of a run without a stream, or of fewer processes.
    """
    file = _file(checkpoint, process_index)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing, so the place in the stream is unknown: the checkpoint is of a run without a stream "
            "or of fewer processes. Resume as that run was started."
        )
    return json.loads(file.read_text())


def _file(checkpoint: str | Path, process_index: int) -> Path:
    return Path(checkpoint) / f"stream_position_{process_index}.json"
