"""Fine-tune a video classifier on labelled videos and test it over several views, or an action detector on boxes.

amd-hf finetune --recipe custom --model_name_or_path pretrained/ --data videos/ \
    --output_dir out
amd-hf finetune --task detection --recipe amd_vit_base_ava --model_name_or_path MODEL \
    --video_root videos/ --annotations train.csv --action_list actions.pbtxt --output_dir out
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import set_seed

from .. import AMDDetectionTrainer, AMDFineTuningTrainer
from ..data.arguments import FineTuningDataArguments, count_common_videos, training_label_names
from ..data.datasets.label_names import check_labels_fit
from ..detection.datasets.ava import action_names
from ..detection.evaluation import write_detection_report
from ..evaluation.report import describe_test
from ..finetuning.recipe_check import departures
from ..models import build_classifier, build_detector, import_function
from ..options.commands import parse_command
from ..options.parsing import check_model_source, read_task
from ..options.recipe_files import read_recipe
from ..options.shared import TaskOptions
from ..training.checkpoints import find_checkpoint
from ..training.summary import describe_metrics, describe_run


@dataclass
class StartOptions(TaskOptions):
    """The model to train."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of the pre-trained model; by default from scratch, as `--model.*` say."},
    )


@dataclass
class FineTuneOptions(StartOptions):
    """The model to train, and its clips."""

    clip_augmentation: str | None = field(
        default=None,
        metadata={"help": "Your own augmentation, `module:function`: (clip, label, generator) -> (clip, label)."},
    )


def main(argv: Sequence[str] | None = None) -> AMDFineTuningTrainer:
    """Fine-tune and test a classifier or a detector; return its trainer."""
    return _TASKS[read_task(argv, list(_TASKS), "finetune")](argv)


def train_classifier(argv: Sequence[str] | None) -> AMDFineTuningTrainer:
    """Fine-tune a classifier, evaluate it and test it over several views."""
    data, options, args, model_options = parse_command("finetune", argv, "classification")
    if data.data is None:
        raise ValueError("Say what to train on: `--data FOLDER_OR_FILE`.")
    # Cheap checks first: a used output folder or a mistyped model should not wait for the data.
    checkpoint = find_checkpoint(args)
    check_model_source(options.model_name_or_path, "model_name_or_path")

    data.find_splits()
    train = data.load_training()
    # The training set decides which index a class has; evaluation and test sets must use the same ones.
    label_names = training_label_names(train)
    evaluation, test = data.load_evaluation(label_names), data.load_test(label_names)
    set_seed(args.seed)  # the Trainer seeds too late: the weights are drawn here, before it exists
    model = build_classifier(options.model_name_or_path, label_names, **model_options)
    # Now, not after hours of training: the Trainer only looks at the labels that it trains and evaluates on.
    for rows in [rows for rows in (evaluation, test) if rows is not None]:
        check_labels_fit(rows, model.config)
    trainer = AMDFineTuningTrainer(
        model,
        args,
        clip_augmentation=import_function(options.clip_augmentation) if options.clip_augmentation else None,
        train_dataset=train,
        eval_dataset=evaluation,
    )
    trainer.program_options = (data, options)
    # Before training, so that its warnings of training videos come while the run can still be stopped.
    of_eval, of_test = (describe_rows(trainer, data, *it) for it in (("eval", evaluation), ("test", test)))
    train_model(trainer, options.model_name_or_path, checkpoint, argv)
    if evaluation is not None:
        metrics = trainer.evaluate()
        # Which videos these are is part of the result: figures of held-out and training videos look alike.
        trainer.save_metrics("eval", {**metrics, "tested": of_eval | {"num_views": 1}})
        if args.process_index == 0:
            print(f"evaluation: {describe_metrics(metrics)}")
    trainer.save_state()  # before the test, which may take longer than a job's time limit
    if test is not None:
        result = trainer.test(test)
        report_test(trainer, result.metrics(), of_test | {"num_views": trainer.view_options().num_views})
    return finish(trainer)


def describe_rows(
    trainer: AMDFineTuningTrainer, data: FineTuningDataArguments, part: str, rows: Any
) -> dict[str, Any]:
    """Describe the videos of `eval` or `test`; warn loudly if the model is trained on some of them."""
    if rows is None:
        return {}
    split = data.train_split if data.holds_out() else getattr(data, f"{part}_split")
    name = getattr(data, f"{part}_data") or data.data
    held_out = {"validation_fraction": data.validation_fraction} if data.holds_out() else {}
    described = describe_test(trainer.args.output_dir, name, split, None, num_videos=len(rows), **held_out)
    if num_common := count_common_videos(trainer.train_dataset, rows):
        described["training_videos"] = num_common
        if trainer.args.process_index == 0:
            where = f"{num_common} of the {len(rows)} videos of `{part}` are TRAINING VIDEOS"
            print(f"WARNING: {where}: results on them say nothing about other videos.", flush=True)
    return described


def train_detector(argv: Sequence[str] | None) -> AMDDetectionTrainer:
    """Fine-tune an action detector, and test it if there are `eval_annotations`."""
    data, options, args, model_options = parse_command("finetune", argv, "detection")
    checkpoint = find_checkpoint(args)
    check_model_source(options.model_name_or_path, "model_name_or_path")

    train, evaluation = data.load_training(), data.load_evaluation()
    # There is no separate evaluation while training unless `eval_strategy` asks for it; the test comes at the end.
    set_seed(args.seed)  # as above: the weights are drawn here
    model = build_detector(options.model_name_or_path, action_names(train), **model_options)
    trainer = AMDDetectionTrainer(
        model,
        args,
        scored_actions=data.scored_actions(),
        train_dataset=train,
        eval_dataset=evaluation,
    )
    trainer.program_options = (data, options)
    train_model(trainer, options.model_name_or_path, checkpoint, argv)
    trainer.save_state()
    if evaluation is not None:
        # Every process tests its part of the key frames, and only then does the first one write.
        result = trainer.test(evaluation)
        if args.process_index == 0:
            summary = write_detection_report(result, args.output_dir)
            print(f"test: {describe_metrics({k: v for k, v in summary.items() if k not in ('tested', 'unreadable')})}")
    return finish(trainer)


_TASKS: dict[str, Callable[..., Any]] = {"classification": train_classifier, "detection": train_detector}


def train_model(
    trainer: AMDFineTuningTrainer, source: str | None, checkpoint: str | None, argv: Sequence[str] | None
) -> None:
    """Print what the run will do, then train and save the model."""
    # One process speaks for all of them: their arguments and data are the same.
    if trainer.args.process_index == 0:
        start = source or "from scratch"
        more = {"start": start, "classes": trainer.model.config.num_labels}
        data = trainer.program_options[0]
        if isinstance(data, FineTuningDataArguments) and data.found_splits is not None:
            more["splits found"] = data.found_splits
        elif isinstance(data, FineTuningDataArguments) and data.holds_out() and trainer.eval_dataset is not None:
            more["held out"] = f"{len(trainer.eval_dataset):,}, by `validation_fraction` {data.validation_fraction:g}"
        print(describe_run(trainer, **more), flush=True)
        notes = getattr(trainer.program_options[0], "notes", [])
        for departure in [*notes, *departures(trainer, read_recipe(argv, "finetune"))]:
            print(f"warning: {departure}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()


def report_test(trainer: AMDFineTuningTrainer, metrics: dict[str, float | int], tested: dict[str, Any]) -> None:
    """Print the metrics of the multi-view test and write them to the output folder."""
    if trainer.args.process_index == 0:
        Path(trainer.args.output_dir, "test_results.json").write_text(
            json.dumps({"tested": tested, **metrics}, indent=2) + "\n"
        )
        print(f"test: {describe_metrics(metrics)}")


def finish(trainer: Any) -> Any:
    """Write the card of the run, publish the model if asked to, and print where it is."""
    trainer.finish_run()
    if trainer.args.process_index == 0:
        print(f"The fine-tuned model is in {trainer.args.output_dir}", flush=True)
    return trainer


if __name__ == "__main__":
    from . import start

    start("finetune")
