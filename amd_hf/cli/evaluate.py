"""Test a fine-tuned classifier over several views of each video, an action detector by AVA's frame mAP, or a linear
probe on an encoder's frozen features.

amd-hf evaluate --model_name_or_path finetuned/ --data videos/ --split test --output_dir results/
amd-hf evaluate --model_name_or_path pretrained/ --linear_probe true --data videos/ --train_split train \
    --split test
amd-hf evaluate --task detection --model_name_or_path detector/ --video_root videos/ --annotations val.csv \
    --action_list actions.pbtxt --person_boxes persons.csv --output_dir results/
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..data.arguments import DataArguments
from ..data.clips import ClassificationCollator, ClipLoader
from ..detection.evaluation import (
    DETECTIONS_FILE,
    DetectionResult,
    evaluation_clip_loader,
    run_detection_test,
    write_detection_report,
)
from ..evaluation.checks import load_tested_classifier
from ..evaluation.multiview import MultiViewResult, ViewOptions, run_multi_view_test
from ..evaluation.probes import run_linear_probe
from ..evaluation.report import (
    CLASSES_FILE,
    MATRIX_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    describe_test,
    draw_confusion_matrix,
    write_report,
)
from ..export.running import describe_engine, load_for_inference, precision_for
from ..models import (
    load_detection_processor,
    load_model,
    load_trained_detector,
    override_notes,
    read_settings,
    view_settings,
)
from ..options.commands import parse_command
from ..options.parsing import check_model_source, read_task
from ..options.shared import InferenceOptions, OverwriteOptions, TaskOptions
from ..outputs.files import OutputFiles
from ..training.precision import start_accelerator
from ..training.summary import describe_model
from ..video_sampling_amd import SAMPLING_MODES


@dataclass
class TestOptions(TaskOptions, OverwriteOptions, InferenceOptions):
    """The model to test, and where to write the results."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the model; `{fold}` stands for the fold's number."}
    )
    output_dir: str = field(default="results", metadata={"help": "Folder for the results."})
    batch_size: int = field(default=8, metadata={"help": "Videos or key frames per batch."})
    num_workers: int = field(default=0, metadata={"help": "Number of processes that decode videos."})


@dataclass
class EvaluateOptions(TestOptions):
    """The data to test on, and the views of each video."""

    linear_probe: bool = field(
        default=False,
        metadata={"help": "Instead, fit and test a linear classifier on the frozen encoder's mean patch token."},
    )
    train_split: str | None = field(default=None, metadata={"help": "Split of `data` to fit the linear probe on."})
    allow_untrained_head: bool = field(
        default=False, metadata={"help": "Test a model whose head was never trained; expect chance."}
    )
    split: str | None = field(default=None, metadata={"help": "Split of `data` to test on."})
    all_folds: bool = field(
        default=False,
        metadata={
            "help": "Test one model per official split 1, 2 and 3 (UCF101, HMDB51), each on its split, and average."
        },
    )
    num_segments: int | None = field(
        default=None, metadata={"help": "Number of test clips along the video; by default the model's."}
    )
    num_crops: int | None = field(
        default=None, metadata={"help": "Number of test crops along the long side; by default the model's."}
    )
    mode: str | None = field(
        default=None,
        metadata={
            "help": "How frames of a test clip are sampled; by default the model's way.",
            "choices": ["dense", "uniform"],
        },
    )
    sampling_mode: str | None = field(
        default=None,
        metadata={
            "help": "How frames of the linear probe's clip are sampled; by default the model's way.",
            "choices": list(SAMPLING_MODES),
        },
    )
    save_view_logits: bool = field(default=False, metadata={"help": "Save the logits of every view too."})


@dataclass
class DetectionOptions(TestOptions):
    """The detections that count."""

    max_per_frame: int | None = field(
        default=None,
        metadata={"help": "Count only this many detections per key frame, best first (the official program: 50)."},
    )


def main(argv: Sequence[str] | None = None) -> list[MultiViewResult] | DetectionResult:
    """Test a classifier, or one per fold, or a detector; return the results."""
    return _TASKS[read_task(argv, list(_TASKS), "evaluate")](argv)


def test_detector(argv: Sequence[str] | None) -> DetectionResult:
    """Test a detector on every key frame and write the results."""
    data, options, model_options = parse_command("evaluate", argv, "detection")
    source = options.model_name_or_path
    if source is None or data.annotations is None:
        raise ValueError("Say what to test and on what: `--model_name_or_path MODEL --annotations FILE.csv`.")
    # Checks before the slow part: existing files of others, and a model that is not there.
    outputs = result_files(Path(options.output_dir), options, METRICS_FILE, CLASSES_FILE, DETECTIONS_FILE)
    check_model_source(source, "model_name_or_path")
    accelerator = start_accelerator(options.use_cpu, precision_for(source, options.engine, options.mixed_precision))
    model: Any = load_for_inference(source, load_trained_detector, accelerator, options.engine, **model_options)
    processor = load_detection_processor(source, model.config)
    loader = evaluation_clip_loader(
        model.config, processor, options.sampling_rate, options.decoder, options.decode_time_limit
    )
    rows = data.load()
    if accelerator.is_main_process:
        print_notes(override_notes(read_settings(processor), {"sampling_rate": options.sampling_rate}))
        print(f"model: {source}: {describe_engine(model)}\ntest: {len(rows):,} key frames", flush=True)
    result = run_detection_test(
        model, rows, loader, accelerator, clips_per_batch=options.batch_size, num_workers=options.num_workers,
        scored=data.scored_actions(),
    )  # fmt: skip
    # Every process has tested its part and gathered all results; one of them writes.
    if accelerator.is_main_process:
        with outputs:
            tested = describe_test(source, data.annotations, None, num_views=1, person_boxes=data.person_boxes)
            summary = write_detection_report(result, options.output_dir, options.max_per_frame, tested)
        unreadable = summary.pop("unreadable")
        del summary["tested"]
        print_metrics(summary)
        for entry in unreadable:
            print(f"unreadable, its actions counted as missed: {entry['video_id']}: {entry['reason']}")
        print(f"The results are in {options.output_dir}: test_results.json, per_class.csv, {DETECTIONS_FILE}")
    return result


def test_classifier(argv: Sequence[str] | None) -> list[Any]:
    """Test a classifier, or that of each fold."""
    data, options, model_options = parse_command("evaluate", argv, "classification")
    if options.model_name_or_path is None or data.data is None:
        raise ValueError("Say what to test and on what: `--model_name_or_path MODEL --data FOLDER_OR_FILE`.")
    check_views(options)
    tests = plan_tests(options, data)
    for source, _, _ in tests:
        check_model_source(source, "model_name_or_path")
    # Check the output files of all folds now, not after hours of testing the first ones.
    names = [METRICS_FILE, *([] if options.linear_probe else [CLASSES_FILE, MATRIX_FILE, PREDICTIONS_FILE])]
    outputs = {folder: result_files(folder, options, *names) for _, _, folder in tests}
    means = result_files(Path(options.output_dir), options, METRICS_FILE) if options.all_folds else None
    # One accelerator for all folds: its precision is a state of the process.
    precision = precision_for(tests[0][0], options.engine, options.mixed_precision)
    accelerator = start_accelerator(options.use_cpu, precision)
    if options.linear_probe:  # by one process, which it checks
        found = []
        for source, fold_data, folder in tests:
            found.append(probe_model(source, fold_data, options, model_options, accelerator))
            with outputs[folder]:
                tested = describe(source, fold_data, options, train_split=options.train_split)
                content = {"tested": tested, "linear_probe": found[-1]}
                (folder / METRICS_FILE).write_text(json.dumps(content, indent=2) + "\n")
        return found
    results = []
    for source, fold_data, folder in tests:
        results.append(test_model(source, fold_data, options, model_options, accelerator))
        if accelerator.is_main_process:
            with outputs[folder]:
                report(results[-1], folder, describe(source, fold_data, options, results[-1].views))
    if means is not None and accelerator.is_main_process:
        with means:
            tested = describe(str(options.model_name_or_path), data, options, results[0].views)
            report_folds(results, Path(options.output_dir), tested)
    return results


def describe(
    source: str, data: DataArguments, options: EvaluateOptions, views: ViewOptions | None = None, **more: Any
) -> dict[str, Any]:
    """Return the description of a test for its results; without `views` it used one clip per video."""
    more |= {} if data.fold is None else {"fold": data.fold}
    return describe_test(source, data.data, options.split, 1 if views is None else views.num_views, **more)


def result_files(folder: Path, options: TestOptions, *names: str) -> OutputFiles:
    """Return the files of a result; refuse now, before the test, to replace other people's files."""
    paths = [folder / name for name in names]
    return OutputFiles(paths, "amd-hf evaluate", options.overwrite, folder=options.output_dir)


_TASKS: dict[str, Callable[..., Any]] = {"classification": test_classifier, "detection": test_detector}


def check_views(options: EvaluateOptions) -> None:
    """Refuse options of views that this kind of test does not have."""
    unused = ("num_segments", "num_crops", "mode") if options.linear_probe else ("sampling_mode",)
    if given := [name for name in unused if getattr(options, name) is not None]:
        what = "a linear probe sees one clip: leave it out" if options.linear_probe else "a test takes `--mode`"
        raise ValueError(f"`--{given[0]} {getattr(options, given[0])}` has no meaning here: {what}.")


def plan_tests(options: EvaluateOptions, data: DataArguments) -> list[tuple[str, DataArguments, Path]]:
    """Return model, data and output folder of each test: one, or one per fold."""
    name, output = str(options.model_name_or_path), Path(options.output_dir)
    if not options.all_folds:
        return [(name.replace("{fold}", str(data.fold)), data, output)]
    if data.fold is not None:
        raise ValueError(f"`fold` {data.fold} and `all_folds` contradict each other: leave one of them out.")
    if "{fold}" not in name:
        raise ValueError(
            f"With `all_folds` write `{{fold}}` where the folders of the three models differ, got {name!r}. A model "
            "that was fine-tuned on one fold has seen test videos of the others."
        )
    return [
        (name.replace("{fold}", str(fold)), replace(data, fold=fold), output / f"fold_{fold}") for fold in (1, 2, 3)
    ]


def test_model(
    source: str, data: DataArguments, options: EvaluateOptions, model_options: dict, accelerator: Accelerator
) -> MultiViewResult:
    """Test one model on one data set."""
    load = partial(load_tested_classifier, allow_untrained_head=options.allow_untrained_head)
    model: Any = load_for_inference(source, load, accelerator, options.engine, **model_options)
    rows = data.load(options.split)
    overrides = {
        "sampling_rate": options.sampling_rate,
        "test_mode": options.mode,
        "test_num_segments": options.num_segments,
        "test_num_crops": options.num_crops,
    }
    settings, notes = view_settings(source, model.config, overrides, for_test=True)
    views = ViewOptions.of_test(model.config, settings)
    if accelerator.is_main_process:
        print_notes(notes)
        print(f"model: {source}: {describe_engine(model)}")
        kind = f"{views.mode}, {views.num_segments} x {views.num_crops}"
        print(f"test: {len(rows):,} videos x {views.num_views} views of {views.num_frames} frames: {kind}", flush=True)
    return run_multi_view_test(
        model, rows, views, accelerator, videos_per_batch=options.batch_size, num_workers=options.num_workers,
        decoder=options.decoder, time_limit=options.decode_time_limit, keep_view_logits=options.save_view_logits,
    )  # fmt: skip


def probe_model(
    source: str,
    data: DataArguments,
    options: EvaluateOptions,
    model_options: dict,
    accelerator: Accelerator,
) -> dict[str, float | int]:
    """Fit a linear probe on one clip of each video, centre crop, and test it."""
    if options.train_split is None:
        raise ValueError("The linear probe needs a split of `data` to fit it on: `--train_split train`.")
    model = load_model(source, **model_options)
    config = model.config
    overrides = {"sampling_rate": options.sampling_rate, "sampling_mode": options.sampling_mode}
    settings, notes = view_settings(source, config, overrides)
    loader = ClipLoader.for_settings(
        config, settings, decoder=options.decoder, decode_time_limit=options.decode_time_limit
    )
    print_notes(notes)
    print(f"encoder: {source}: {describe_model(model.base_model)}", flush=True)
    train, test = data.load(options.train_split), data.load(options.split)
    collator = ClassificationCollator(loader, training=False)
    metrics = run_linear_probe(model.base_model, train, test, collator, accelerator, options.batch_size)
    print_metrics(metrics)
    return metrics


def print_notes(notes: Sequence[str]) -> None:
    """Print the notes on how the model reads videos."""
    for note in notes:
        print(note, flush=True)


def report(result: MultiViewResult, folder: Path, tested: dict[str, Any]) -> None:
    """Print the metrics and write the results to `folder`."""
    summary = write_report(result, folder, tested)
    unreadable = summary.pop("unreadable")
    del summary["tested"]
    print_metrics(summary)
    for entry in unreadable:
        print(f"unreadable, counted as wrong: {entry['video_id']}: {entry['reason']}")
    # The picture is a bonus: matplotlib is an optional package, and the figures above are written already.
    try:
        draw_confusion_matrix(result, folder / MATRIX_FILE)
    except ImportError as error:
        print(f"There is no picture of the confusion matrix: {error}")
    print(f"The results are in {folder / METRICS_FILE}; beside it classes, predictions, confusion matrix")


def report_folds(results: Sequence[MultiViewResult], folder: Path, tested: dict[str, Any]) -> None:
    """Print and write the mean accuracies over the folds."""
    metrics = [result.metrics() for result in results]
    # Counts of videos differ from fold to fold, and their mean means nothing.
    means = {name: sum(values[name] for values in metrics) / len(metrics) for name in metrics[0] if "accuracy" in name}
    of_folds = {f"fold_{number}": values for number, values in enumerate(metrics, start=1)}
    (folder / METRICS_FILE).write_text(json.dumps({"tested": tested, **of_folds, "mean": means}, indent=2) + "\n")
    print(f"mean of {len(results)} folds:")
    print_metrics(means)
    print(f"The results of all folds are in {folder / METRICS_FILE}")


def print_metrics(metrics: dict[str, float | int]) -> None:
    for name, value in metrics.items():
        print(f"{name:>19}: {value:.4f}" if isinstance(value, float) else f"{name:>19}: {value:,}")


if __name__ == "__main__":
    from . import start

    start("evaluate")
