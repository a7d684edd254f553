"""Where a run leaves the recipe it was started from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..training.trainer import VideoTrainer
from .arguments import AMDFineTuningArguments


# Options of a recipe that say how it is run, not what is trained: changing them leaves the result what it is.
_RUNNING = (
    "per_device_",
    "gradient_",
    "dataloader_",
    "logging_",
    "save_",
    "eval_",
    "report_to",
    "bf16",
    "fp16",
    "tf32",
)


def read_recipe(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The options in the file that `--recipe` names on a command line; empty without one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", type=Path)
    path = parser.parse_known_args(argv)[0].recipe
    return {} if path is None else yaml.safe_load(path.read_text())


def departures(trainer: VideoTrainer, recipe: Mapping[str, Any]) -> list[str]:
    """What of a run differs from its recipe, a sentence each: for these the recipe's results are not promised."""
    args, config = trainer.args, trainer.model.config
    found = []
    wanted = args.recipe_videos_per_step
    if wanted is not None and wanted != args.videos_per_step:
        found.append(
            f"{args.videos_per_step} videos per step, the recipe is made for {wanted}: the learning rate was scaled "
            f"to {args.learning_rate:g}; {_how_to_reach(wanted, args.videos_per_step, args)}."
        )
    if args.max_steps > 0 and "max_steps" not in recipe and trainer.steps_per_epoch is not None:
        found.append(
            f"`max_steps` ends the run after {args.max_steps / trainer.steps_per_epoch:.3g} epochs, the recipe takes "
            f"{args.num_train_epochs:g}."
        )
    if args.warmup_steps and "warmup_steps" not in recipe:
        found.append(f"`warmup_steps` {args.warmup_steps:g} replaces the recipe's {args.warmup_epochs:g} epochs.")
    if args.base_learning_rate is None and recipe.get("base_learning_rate") is not None:
        found.append(f"`learning_rate` {args.learning_rate:g} replaces the recipe's rate.")
    for name, value in recipe.items():
        if hasattr(args, name) and not name.startswith(_RUNNING) and not _is_same(getattr(args, name), value):
            found.append(f"`{name}` is {getattr(args, name)}, in the recipe {value}.")
    for name, value in (recipe.get("model") or {}).items():
        if hasattr(config, name) and not _is_same(getattr(config, name), value):
            found.append(f"`model.{name}` is {getattr(config, name)}, in the recipe {value}.")
    if isinstance(args, AMDFineTuningArguments) and _mixes_one_clip(args):
        found.append("A device batch holds one clip, which mixup and cutmix can only mix with itself.")
    return found


def _mixes_one_clip(args: AMDFineTuningArguments) -> bool:
    mixes = args.mix_probability > 0 and (args.mixup_alpha > 0 or args.cutmix_alpha > 0)
    return mixes and args.per_device_train_batch_size * args.num_repetitions == 1


def _how_to_reach(wanted: int, videos: int, args: Any) -> str:
    per_round = videos // args.gradient_accumulation_steps
    if wanted % per_round == 0:
        return f"`--gradient_accumulation_steps {wanted // per_round}` restores the batch"
    return f"no number of accumulation steps gives the recipe's batch: {per_round} videos at a time do not divide it"


def _is_same(value: Any, wanted: Any) -> bool:
    try:
        return float(value) == float(wanted)  # YAML reads 1e-6 as text
    except (TypeError, ValueError):
        return str(getattr(value, "value", value)) == str(wanted)
