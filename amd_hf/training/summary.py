"""A summary of a run, printed before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from .trainer import VideoTrainer


def count_parameters(model: nn.Module, only_trainable: bool = False) -> int:
    """Return the number of parameters of a module."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not only_trainable)


def describe_model(model: nn.Module) -> str:
    """Describe class, parameters and input of a model in one line."""
    config = model.config
    height, width = config.image_height_width
    return (
        f"{type(model).__name__}, {count_parameters(model) / 1e6:.2f}M parameters "
        f"({count_parameters(model, only_trainable=True) / 1e6:.2f}M trained), {config.num_hidden_layers} layers of "
        f"width {config.hidden_size}, {config.num_frames} x {height} x {width} frames, {config.num_patches} tokens"
    )


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Format metrics in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def describe_run(trainer: VideoTrainer, **more: Any) -> str:
    """Describe data, model, effective batch, steps and learning rate of a run, one item per line.

    Args:
        trainer ([`VideoTrainer`]): The run.
        more: Further lines, by name.

    Raises:
        ValueError: If the training set does not fill one optimizer step.
    """
    args = trainer.args
    num_videos, steps_per_epoch = trainer.num_train_videos, trainer.steps_per_epoch
    if hasattr(trainer.train_dataset, "__len__"):
        trainer.get_train_dataloader()  # raises if the set is too small
    num_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * (steps_per_epoch or 0))
    warmup = args.count_warmup_steps(num_steps, steps_per_epoch)
    epochs = f"{num_steps / steps_per_epoch:g} epochs of {steps_per_epoch}" if steps_per_epoch else "of a stream"
    flops = trainer.flops_per_clip()
    clips_per_step = args.videos_per_step * args.num_repetitions
    lines = {
        "training videos": "unknown (a stream)" if num_videos is None else f"{num_videos:,}",
        **({"evaluation videos": _count(trainer.eval_dataset)} if trainer.eval_dataset is not None else {}),
        "model": describe_model(trainer.model),
        **more,
        "batch": (
            f"{args.videos_per_step} videos x {args.num_repetitions} repetitions = "
            f"{clips_per_step} clips per step ({args.per_device_train_batch_size} per "
            f"device x {args.gradient_accumulation_steps} accumulation steps x {args.world_size} processes)"
        ),
        "steps": f"{num_steps:,} ({epochs}), {warmup} of warm-up",
        "learning rate": f"{args.learning_rate:g} down to {args.learning_rate * args.final_learning_rate_ratio:g}",
        **(
            {}
            if flops is None
            else {
                "arithmetic": f"{flops / 1e9:,.4g} GFLOPs per clip, forward and backward, "
                f"{flops * clips_per_step * num_steps:.3g} in all"
            }
        ),
        "device": str(args.precision),
        "output": args.output_dir,
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:>{width}}: {value}" for name, value in lines.items())


def _count(rows: Any) -> str:
    return f"{len(rows):,}" if hasattr(rows, "__len__") else "unknown (a stream)"
