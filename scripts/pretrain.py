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
    AMDVideoProcessor,
    load_video_dataset,
)
from amd_hf.recipes import check_model_source, parse_recipe, run_program
from amd_hf.training.checkpoints import find_checkpoint
from amd_hf.training.summary import describe_metrics, describe_run


@dataclass
class PretrainOptions:
    """What to train on, and from whom."""

    data: str | None = field(default=None, metadata={"help": "Folder of videos or list file; labels are not needed."})
    data_root: str | None = field(default=None, metadata={"help": "Folder that paths in a list file start from."})
    train_split: str | None = field(default=None, metadata={"help": "Sub-folder of `data` to train on."})
    eval_split: str | None = field(default=None, metadata={"help": "Sub-folder of `data` to evaluate the losses on."})
    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher; none: plain masked autoencoding."}
    )
    init_from: str | None = field(default=None, metadata={"help": "Start from this pre-training checkpoint."})


def main(argv: Sequence[str] | None = None) -> AMDTrainer:
    options, args, model_options = parse_recipe((PretrainOptions, AMDTrainingArguments), argv, __doc__)
    if options.data is None:
        raise ValueError("Say what to train on: `--data FOLDER_OR_LIST`.")
    checkpoint = find_checkpoint(args)
    check_model_source(options.teacher, "teacher")
    check_model_source(options.init_from, "init_from")

    def load(split: str | None) -> object:
        return load_video_dataset(options.data, split=split, root=options.data_root)

    set_seed(args.seed)  # before the weights are drawn, which the Trainer would not see to
    if options.init_from:
        model = AMDForPreTraining.from_pretrained(options.init_from, **model_options)
    else:
        model = AMDForPreTraining(AMDConfig(**model_options))
    trainer = AMDTrainer(
        model,
        args,
        teacher_model=options.teacher,
        train_dataset=load(options.train_split),
        eval_dataset=load(options.eval_split) if options.eval_split else None,
        processing_class=AMDVideoProcessor.for_model(model.config, sampling_rate=args.sampling_rate),
    )
    if args.process_index == 0:
        teacher = "none: plain masked autoencoding" if trainer.teacher is None else trainer.teacher.describe()
        print(describe_run(trainer, teacher=teacher), flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if options.eval_split:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if args.process_index == 0:
        if options.eval_split:
            print(f"evaluation: {describe_metrics(metrics)}")
        print(f"The pre-trained model is in {args.output_dir}", flush=True)
    return trainer


if __name__ == "__main__":
    run_program(main)
