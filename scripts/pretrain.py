"""Pre-train a video transformer by masked distillation from a frozen teacher, or without one.

python scripts/pretrain.py --recipe configs/pretrain/custom.yaml --data videos/ --teacher folder --output_dir out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import set_seed

from amd_hf import (
    AMDConfig,
    AMDForPreTraining,
    AMDTrainer,
    AMDTrainingArguments,
)
from amd_hf.data.arguments import TrainingDataArguments
from amd_hf.recipes import check_model_source, parse_recipe, run_program
from amd_hf.sources import build_processor
from amd_hf.training.checkpoints import find_checkpoint
from amd_hf.training.summary import describe_metrics, describe_run


@dataclass
class PretrainOptions:
    """From whom to learn, and where to start."""

    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher; none: plain masked autoencoding."}
    )
    init_from: str | None = field(default=None, metadata={"help": "Start from this pre-training checkpoint."})


def main(argv: Sequence[str] | None = None) -> AMDTrainer:
    types = (TrainingDataArguments, PretrainOptions, AMDTrainingArguments)
    data, options, args, model_options = parse_recipe(types, argv, __doc__)
    if data.data is None:
        raise ValueError("Say what to train on: `--data FOLDER_OR_FILE` (labels are not needed).")
    checkpoint = find_checkpoint(args)
    check_model_source(options.teacher, "teacher")
    check_model_source(options.init_from, "init_from")

    evaluation = data.load_evaluation()
    set_seed(args.seed)  # before the weights are drawn, which the Trainer would not see to
    if options.init_from:
        model = AMDForPreTraining.from_pretrained(options.init_from, **model_options)
    else:
        model = AMDForPreTraining(AMDConfig(**model_options))
    trainer = AMDTrainer(
        model,
        args,
        teacher_model=options.teacher,
        train_dataset=data.load_training(),
        eval_dataset=evaluation,
        processing_class=build_processor(model.config, args.sampling_rate, args.short_side),
    )
    if args.process_index == 0:
        teacher = "none: plain masked autoencoding" if trainer.teacher is None else trainer.teacher.describe()
        print(describe_run(trainer, teacher=teacher), flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if evaluation is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if args.process_index == 0:
        if evaluation is not None:
            print(f"evaluation: {describe_metrics(metrics)}")
        print(f"The pre-trained model is in {args.output_dir}", flush=True)
    return trainer


if __name__ == "__main__":
    run_program(main)
