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
from ..hub.cards import licence_of
from ..models import load_pretraining_start
from ..options.commands import parse_command
from ..options.parsing import check_model_source, is_on_command_line
from ..options.recipe_files import read_recipe
from ..pretraining.visualization import save_similarity
from ..teachers.encoders import TeacherFacts
from ..teachers.geometry import student_options
from ..teachers.loading import read_teacher
from ..training.checkpoints import find_checkpoint
from ..training.summary import describe_metrics, describe_run


logger = logging.get_logger("amd_hf.pretrain")

# What a recipe says of the model only because of its teacher.
_OF_THE_TEACHER = (
    "teacher_hidden_size",
    "teacher_direct_layers",
    "teacher_generation_layers",
    "generator_num_attention_heads",
)


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
    teacher = None if options.teacher is None else read_teacher(options.teacher, teacher_options or None)
    facts = None if teacher is None else teacher.facts
    model_options = _without_another_teacher(model_options, options.teacher, argv)
    set_seed(args.seed)  # the Trainer seeds too late: the weights are drawn here, before it exists
    model, fitted = build_student(options.init_from, model_options, facts)
    trainer = AMDTrainer(
        model,
        args,
        teacher_model=teacher,
        train_dataset=data.load_training(),
        eval_dataset=evaluation,
    )
    del teacher  # and with it the layers that are not aligned
    if args.process_index == 0:
        lines = {"teacher": "none: plain masked autoencoding"}
        if trainer.teacher is not None:
            lines["teacher"] = trainer.teacher.describe()
            licence = licence_of(options.teacher)
            lines["its licence"] = f"{licence}: no commercial use" if "BY-NC" in licence.upper() else licence
            if trainer.teacher_cache is not None:
                lines["its cache"] = trainer.teacher_cache.describe(trainer.num_cached_clips)
            lines["fitted to it"] = ", ".join(f"`model.{name}` {value}" for name, value in fitted.items()) or "nothing"
        print(describe_run(trainer, **lines), flush=True)
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


def _without_another_teacher(
    model_options: dict[str, Any], named: str | None, argv: Sequence[str] | None
) -> dict[str, Any]:
    """Return the model's options without those that the recipe has for its own teacher, if another one is named."""
    recipe = read_recipe(argv, "pretrain")
    if named is None or recipe.options.get("teacher") in (None, named):
        return model_options
    return {
        name: value
        for name, value in model_options.items()
        if name not in _OF_THE_TEACHER or is_on_command_line(f"model.{name}", argv)
    }


def build_student(
    init_from: str | None, model_options: dict[str, Any], facts: TeacherFacts | None
) -> tuple[AMDForPreTraining, dict[str, Any]]:
    """Build the student, new or from a source; what its options leave open fits the teacher.

    Returns:
        The student, and the options that were chosen for the teacher.
    """
    if init_from is None:
        fitted = {} if facts is None else student_options(facts, model_options)
        return AMDForPreTraining(AMDConfig(**model_options, **fitted)), fitted
    model = load_pretraining_start(init_from, **model_options)
    if facts is None or model.config.teacher_hidden_size is not None:
        return model, {}
    # Its size is what it is, and its layers are not yet aligned with any teacher's.
    kept = ("num_hidden_layers", "num_channels", "image_size", "patch_size", "num_frames", "tubelet_size")
    fitted = student_options(facts, {**{name: getattr(model.config, name) for name in kept}, **model_options})
    return load_pretraining_start(init_from, **model_options, **fitted), fitted


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
