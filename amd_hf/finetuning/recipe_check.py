"""Where a run differs from its recipe."""

from __future__ import annotations

from typing import Any

from ..options.recipe_files import Recipe, as_number
from ..training.arguments import VideoTrainingArguments
from ..training.trainer import VideoTrainer
from .arguments import AMDFineTuningArguments


# Options that change how a recipe runs, not its result: a run may set these as its machine needs.
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


def departures(trainer: VideoTrainer, recipe: Recipe) -> list[str]:
    """Describe each difference between a run and its recipe in a sentence: the recipe's results may not hold then."""
    args, config = trainer.args, trainer.model.config
    found = []
    wanted = args.recipe_videos_per_step
    if wanted is not None and wanted != args.videos_per_step:
        found.append(
            f"{args.videos_per_step} videos per step, the recipe is made for {wanted}: the learning rate was scaled "
            f"to {args.learning_rate:g}; {_how_to_reach(wanted, args)}."
        )
    if args.max_steps > 0 and "max_steps" not in recipe.options and trainer.steps_per_epoch is not None:
        found.append(
            f"`max_steps` ends the run after {args.max_steps / trainer.steps_per_epoch:.3g} epochs, the recipe takes "
            f"{args.num_train_epochs:g}."
        )
    if args.warmup_steps and "warmup_steps" not in recipe.options:
        found.append(f"`warmup_steps` {args.warmup_steps:g} replaces the recipe's {args.warmup_epochs:g} epochs.")
    if args.base_learning_rate is None and recipe.options.get("base_learning_rate") is not None:
        found.append(f"`learning_rate` {args.learning_rate:g} replaces the recipe's rate.")
    for name, value in recipe.options.items():
        if hasattr(args, name) and not name.startswith(_RUNNING) and not _is_same(getattr(args, name), value):
            found.append(f"`{name}` is {getattr(args, name)}, in the recipe {value}.")
    for name, value in recipe.sections.get("model", {}).items():
        if hasattr(config, name) and not _is_same(getattr(config, name), value):
            found.append(f"`model.{name}` is {getattr(config, name)}, in the recipe {value}.")
    if (
        isinstance(args, AMDFineTuningArguments)
        and args.mix_probability > 0
        and (args.mixup_alpha > 0 or args.cutmix_alpha > 0)
        and args.per_device_train_batch_size * args.num_repetitions == 1
    ):
        # A clip's partner in a micro-batch of one is the clip itself.
        found.append("A micro-batch holds one clip, which mixup and cutmix can only mix with itself.")
    return found


def _how_to_reach(wanted: int, args: VideoTrainingArguments) -> str:
    """Say which accumulation restores the recipe's batch: what all processes take at once must divide it."""
    per_round = args.videos_per_step // args.gradient_accumulation_steps
    if wanted % per_round == 0:
        return f"`--gradient_accumulation_steps {wanted // per_round}` restores the batch"
    return f"no number of accumulation steps gives the recipe's batch: {per_round} videos at a time do not divide it"


def _is_same(value: Any, wanted: Any) -> bool:
    # The arguments turn some strings into enums, and a recipe may spell a number as text: compare values, then texts.
    value, wanted = getattr(value, "value", value), as_number(wanted)
    return value == wanted or str(value) == str(wanted)
