"""Fine-tune a video classifier on labelled videos and test it over several views.

python scripts/finetune.py --recipe configs/finetune/custom.yaml --model_name_or_path pretrained/ --data videos/ \
    --output_dir out
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from amd_hf import AMDFineTuningArguments, AMDFineTuningTrainer
from amd_hf.classifiers import build_classifier, check_labels_fit, import_function
from amd_hf.data.arguments import FineTuningDataArguments, training_label_names
from amd_hf.recipes import check_model_source, parse_recipe, run_program
from amd_hf.sources import build_processor
from amd_hf.training.checkpoints import find_checkpoint
from amd_hf.training.recipe_check import departures, read_recipe
from amd_hf.training.summary import describe_metrics, describe_run


@dataclass
class FineTuneOptions:
    """What to train."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pre-trained model: Hub id or folder; none: from scratch, by `--model.*`."}
    )
    clip_augmentation: str | None = field(
        default=None, metadata={"help": "Your own `module:function` (clip, label, generator) -> (clip, label)."}
    )


def main(argv: Sequence[str] | None = None) -> AMDFineTuningTrainer:
    types = (FineTuningDataArguments, FineTuneOptions, AMDFineTuningArguments)
    data, options, args, model_options = parse_recipe(types, argv, __doc__)
    if data.data is None:
        raise ValueError("Say what to train on: `--data FOLDER_OR_FILE`.")
    checkpoint = find_checkpoint(args)
    check_model_source(options.model_name_or_path, "model_name_or_path")

    train = data.load_training()
    label_names = training_label_names(train)
    evaluation, test = data.load_evaluation(label_names), data.load_test(label_names)
    set_seed(args.seed)  # before the weights are drawn, which the Trainer would not see to
    model = build_classifier(options.model_name_or_path, label_names, **model_options)
    for rows in [rows for rows in (evaluation, test) if rows is not None]:
        check_labels_fit(rows, model.config)
    trainer = AMDFineTuningTrainer(
        model,
        args,
        clip_augmentation=import_function(options.clip_augmentation) if options.clip_augmentation else None,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=build_processor(model.config, args.sampling_rate, args.short_side),
    )
    if args.process_index == 0:
        start = options.model_name_or_path or "from scratch"
        print(describe_run(trainer, start=start, classes=model.config.num_labels), flush=True)
        for departure in departures(trainer, read_recipe(argv)):
            print(f"warning: {departure}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if evaluation is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
        if args.process_index == 0:
            print(f"evaluation: {describe_metrics(metrics)}")
    trainer.save_state()
    if test is not None:
        report_test(trainer, trainer.test(test).metrics())
    if args.process_index == 0:
        print(f"The fine-tuned model is in {args.output_dir}", flush=True)
    return trainer


def report_test(trainer: AMDFineTuningTrainer, metrics: dict[str, float | int]) -> None:
    """Prints the metrics of the multi-view test and writes them to the output folder."""
    if trainer.args.process_index == 0:
        Path(trainer.args.output_dir, "test_results.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"test: {describe_metrics(metrics)}")


if __name__ == "__main__":
    run_program(main)
