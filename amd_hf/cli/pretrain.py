"""Pre-train a video transformer by masked distillation from a frozen teacher, or without one.

amd-hf pretrain --recipe custom --data videos/ --teacher folder --output_dir out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from .. import (
    AMDConfig,
    AMDForPreTraining,
    AMDTrainer,
)
from ..finetuning.recipe_check import departures
from ..models import load_pretraining_start
from ..options.commands import parse_command
from ..options.parsing import check_model_source, is_on_command_line
from ..options.recipe_files import read_recipe
from ..pretraining.visualization import save_similarity
from ..training.checkpoints import find_checkpoint
from ..training.summary import describe_metrics, describe_run


logger = logging.get_logger("amd_hf.pretrain")


@dataclass
class PretrainOptions:
    """The teacher, and where to start."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder or official file of the teacher; without one: plain masked autoencoding."},
    )
    init_from: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder or official file to start from; a pre-trained model or an encoder."},
    )


def main(argv: Sequence[str] | None = None) -> AMDTrainer:
    """Pre-train a student; return its trainer."""
    data, options, args, model_options, teacher_options = parse_command("pretrain", argv)
    if data.data is None:
        raise ValueError("Say what to train on: `--data FOLDER_OR_FILE` (labels are not needed).")
    options.teacher = choose_teacher(options.teacher, model_options, argv)
    # Cheap checks first: a used output folder or a mistyped name should not wait for data and teacher.
    checkpoint = find_checkpoint(args)
    check_model_source(options.teacher, "teacher")
    check_model_source(options.init_from, "init_from")

    evaluation = data.load_evaluation()
    set_seed(args.seed)  # the Trainer seeds too late: the weights are drawn here, before it exists
    if options.init_from:
        model = load_pretraining_start(options.init_from, **model_options)
    else:
        model = AMDForPreTraining(AMDConfig(**model_options))
    trainer = AMDTrainer(
        model,
        args,
        teacher_model=options.teacher,
        teacher_config=teacher_options,
        train_dataset=data.load_training(),
        eval_dataset=evaluation,
    )
    if args.process_index == 0:
        teacher = "none: plain masked autoencoding" if trainer.teacher is None else trainer.teacher.describe()
        print(describe_run(trainer, teacher=teacher), flush=True)
        for departure in [*data.notes, *departures(trainer, read_recipe(argv, "pretrain"))]:
            print(f"warning: {departure}", flush=True)
    trainer.program_options = (data, options)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()  # before the evaluation: its failure must not cost the model
    if evaluation is not None:
        evaluate(trainer)
    trainer.save_state()
    trainer.finish_run()
    if args.process_index == 0:
        print(f"The pre-trained model is in {args.output_dir}", flush=True)
    return trainer


def choose_teacher(named: str | None, model_options: dict[str, Any], argv: Sequence[str] | None) -> str | None:
    """Return the teacher, after checking that the options agree on whether there is one.

    `--model.teacher_hidden_size null` on the command line turns off a recipe's teacher.

    Raises:
        ValueError: If the command line both names a teacher and turns it off, or the student has alignment modules
            and no teacher is named.
    """
    width = model_options.get("teacher_hidden_size")
    # A recipe's null says nothing about a teacher on the command line; only the user's own null turns it off.
    is_unwanted = is_on_command_line("model.teacher_hidden_size", argv) and width is None
    if named is not None and is_unwanted:
        if is_on_command_line("teacher", argv):
            raise ValueError(
                f"`--teacher {named}` and `--model.teacher_hidden_size null` contradict each other: leave the teacher "
                "out to learn from pixels alone, or set the teacher's width."
            )
        logger.warning(f"The recipe's teacher {named} is left out, as `model.teacher_hidden_size` is null.")
        return None
    if named is None and width is not None:
        raise ValueError(
            f"The model is to be aligned with a teacher of width {width}: name it with `--teacher`, or set "
            "`--model.teacher_hidden_size null` to learn from pixels alone."
        )
    return named


def evaluate(trainer: AMDTrainer) -> None:
    """Print and write the losses on held-out videos and, with a teacher, its similarity to the student."""
    metrics = trainer.evaluate()
    # Every process takes part, with its own videos.
    similarity = trainer.compare_features() if trainer.teacher is not None else None
    if similarity is not None:
        metrics |= {f"eval_{name}": value for name, value in similarity.metrics().items()}
    trainer.save_metrics("eval", metrics)
    if trainer.args.process_index == 0:
        print(f"evaluation: {describe_metrics(metrics)}")
        if similarity is not None:
            picture = save_similarity(similarity, trainer.args.output_dir)
            print(f"student and teacher, layer by layer: {picture or 'similarity.json (no picture: no matplotlib)'}")


if __name__ == "__main__":
    from . import start

    start("pretrain")
