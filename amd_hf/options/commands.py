"""The sub-commands of `amd-hf`: which dataclasses declare their options, and which of these their help shows first."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .declared import Option, class_options, declared_options, description_of
from .help import format_help
from .parsing import RECIPE_OPTION, check_model_source, parse, parse_recipe, print_help, read_task


_DATA = "data.arguments:DataArguments"
_ACTIONS = "detection.arguments:ActionDataArguments"
# The options of every training that most people set.
_TRAINING = (
    "resume_from_checkpoint", "gradient_accumulation_steps", "warmup_epochs", "bf16", "use_cpu",
    "gradient_checkpointing", "dataloader_num_workers", "save_steps", "eval_strategy",
)  # fmt: skip
# Options of data that only the full help of a training shows.
_SELDOM = ("cache_gigabytes", "allowed_addresses")
# One-line help for options whose full text is too long for a line.
_IN_A_LINE = {
    "recipe": "YAML file, or recipe's name (`amd-hf recipes`)",
    "data": "Folder, annotation file, shards or Hub data set",
    "cache_dir": "Folder to keep files of addresses in",
    "cache_gigabytes": "Bound on the size of `cache_dir`",
    "allowed_addresses": "Folders below which a list may name videos",
    "data_root": "Folder of the videos of an annotation file",
    "class_names": "File with the class names, one per line",
    "label_column": "Name of the column of labels",
    "eval_data": "Videos to evaluate on, if not a split of `data`",
    "test_data": "Videos to test on, if not a split of `data`",
    "streaming": "Read the training set as a stream",
    "validation_fraction": "Fraction held out for evaluation",
    "decoder": "Name of the video decoder",
    "decode_time_limit": "Seconds that a video may take",
    "engine": "Engine that runs the model",
    "overwrite": "Replace existing files that are not ours, too",
    "sampling_mode": "How frames of a clip are sampled",
    "linear_probe": "Fit and test a linear probe instead",
    "all_folds": "Test one model per official split, and average",
    "decode_all": "Decode every frame",
    "trim_by_times": "Cut clips by `time_start`, `time_end`",
    "keep_damaged": "Keep damaged but readable videos in the list",
    "projection_by_position": "Copy one projection to all layers that use it",
    "include_generator_mask_tokens": "Write the mask tokens, too",
    "output_dir": "Folder for all output",
    "num_shown": "Number of clips to draw",
    "generation_weight": "Weight of generation alignment",
    "per_device_train_batch_size": "Videos on each device at a time",
    "base_learning_rate": "Learning rate per 256 videos",
    "num_processes": "Processes on this machine: one per GPU",
    "resume_from_checkpoint": "Resume from the last checkpoint, or a folder",
    "gradient_accumulation_steps": "Micro-batches per optimizer step",
    "max_steps": "Optimizer steps; overrides the epochs",
    "bf16": "bf16 mixed precision; by default where it pays",
    "use_cpu": "Use the CPU even if there is a GPU",
    "gradient_checkpointing": "Save memory by computing more",
    "dataloader_num_workers": "Processes that read videos",
    "save_steps": "Optimizer steps between checkpoints",
    "eval_strategy": "When to evaluate: no, steps, epoch",
    "report_to": "Trackers: tensorboard, wandb, ...",
    "layer_decay": "Factor on the rate per layer",
    "freeze": "Freeze the `encoder`, or this many first layers",
    "lora_rank": "Train LoRA adapters of this rank (PEFT)",
    "clip_augmentation": "Your own function on clips, `module:function`",
    "unlabelled": "Take all videos of a folder, without labels",
    "layout": "Layout of the data, if it is not recognised",
    "int8": "Compute linear layers in int8 (onnx, openvino)",
    "num_calibration_videos": "Videos to calibrate int8 on",
    "num_videos": "Videos to compare both models on",
    "measure_speed": "Time both models",
    "allow_untrained_head": "Accept a classifier with an untrained head",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A sub-command.

    Args:
        tasks (mapping of `str` to `tuple` of `str`): The dataclasses of options of each task, as `module:Class`, the
            default task first. A command with one task has it under the empty name.
        first (`tuple` of `str`): The options that matter most, in order; the help starts with ten of them.
        often (`tuple` of `str`): Options of a training that most people set. If there are any, only `--help_all` shows
            the rest.
        has_model_options (`bool`): Whether it takes `--model.NAME`.
        has_teacher_options (`bool`): Whether it takes `--teacher_config.NAME`.
        starts_processes (`bool`): Whether it takes `--num_processes`.
        subject (`str`): The word that follows its name, as in `amd-hf benchmark data`.
    """

    tasks: Mapping[str, tuple[str, ...]]
    first: tuple[str, ...] = ()
    often: tuple[str, ...] = ()
    has_model_options: bool = True
    has_teacher_options: bool = False
    starts_processes: bool = False
    subject: str = ""

    def without_subject(self, arguments: Sequence[str], name: str) -> list[str]:
        """Return the arguments behind the subject.

        Raises:
            ValueError: another word stands there.
        """
        if self.subject and arguments[:1] == [self.subject]:
            return list(arguments[1:])
        if self.subject and not {"--help", "-h", "--help_all"} & {*arguments}:
            raise ValueError(f"Say what to {name}: `amd-hf {name} {self.subject} ...`.")
        return list(arguments)


COMMANDS = {
    "pretrain": Command(
        {"": ("data.arguments:PreTrainingDataArguments", "cli.pretrain:PretrainOptions",
              "pretraining.arguments:AMDTrainingArguments")},
        first=("recipe", "data", "teacher", "output_dir", "init_from", "num_train_epochs",
               "per_device_train_batch_size", "base_learning_rate", "resume_from_checkpoint", "num_processes"),
        often=(*_TRAINING, "direct_weight", "generation_weight"),
        has_teacher_options=True,
        starts_processes=True,
    ),
    "finetune": Command(
        {"classification": ("data.arguments:FineTuningDataArguments", "cli.finetune:FineTuneOptions",
                            "finetuning.arguments:AMDFineTuningArguments"),
         "detection": ("detection.arguments:ActionTrainingArguments", "cli.finetune:StartOptions",
                       "detection.training_arguments:AMDDetectionArguments")},
        first=("recipe", "data", "annotations", "video_root", "action_list", "model_name_or_path", "output_dir",
               "num_train_epochs", "per_device_train_batch_size", "base_learning_rate", "num_processes",
               "resume_from_checkpoint"),
        often=(*_TRAINING, "layer_decay", "freeze", "lora_rank"),
        starts_processes=True,
    ),
    "evaluate": Command(
        {"classification": (_DATA, "cli.evaluate:EvaluateOptions"),
         "detection": (_ACTIONS, "cli.evaluate:DetectionOptions")},
        first=("model_name_or_path", "data", "split", "annotations", "video_root", "action_list", "person_boxes",
               "output_dir", "batch_size", "num_workers", "use_cpu", "num_processes"),
        starts_processes=True,
    ),
    "predict": Command(
        {"classification": ("cli.predict:PredictOptions",), "detection": ("cli.predict:DetectOptions",)},
        first=("model_name_or_path", "videos", "video", "person_boxes", "format", "top_k", "window_seconds",
               "stride_seconds", "output_json", "output_video", "batch_size", "use_cpu"),
    ),
    "features": Command(
        {"": (_DATA, "cli.features:ExtractOptions")},
        first=("model_name_or_path", "data", "split", "tensors", "output_dir", "format", "batch_size", "num_workers",
               "use_cpu", "num_processes"),
        starts_processes=True,
    ),
    "export": Command(
        {"": (_DATA, "cli.export:ExportOptions")},
        first=("model_name_or_path", "format", "int8", "data", "train_split", "split", "output_dir", "batch_size",
               "input_type"),
    ),
    "convert": Command({"": ("cli.convert:ConvertOptions",)}, first=("source", "output_dir", "to_official", "task")),
    "check": Command(
        {"": (_DATA, "cli.check:CheckVideosOptions")}, first=("data", "split", "output_dir"), has_model_options=False
    ),
    "prepare": Command(
        {"": (_DATA, "preparing.arguments:PreparingArguments")},
        first=("data", "split", "output_dir", "format", "short_side", "key_frame_interval", "trim_by_times",
               "num_workers", "keep_damaged", "dry_run"),
        has_model_options=False,
    ),
    "benchmark": Command(
        {"pretraining": ("data.arguments:PreTrainingDataArguments", "cli.benchmark:PretrainingBenchmarkOptions",
                         "pretraining.arguments:AMDTrainingArguments"),
         "finetuning": ("data.arguments:FineTuningDataArguments", "cli.benchmark:FineTuningBenchmarkOptions",
                        "finetuning.arguments:AMDFineTuningArguments"),
         "test": ("data.arguments:FineTuningDataArguments", "cli.benchmark:FineTuningBenchmarkOptions",
                  "finetuning.arguments:AMDFineTuningArguments")},
        first=("data", "train_split", "task", "recipe", "model_name_or_path", "decoders", "workers", "seconds", "gpu",
               "device_tflops", "output_json"),
        often=("decoder", "num_repetitions", "repetitions_share_frames", "sampling_rate", "rand_augment",
               "decode_time_limit"),
        subject="data",
    ),
    "validate": Command(
        {"classification": (_DATA, "cli.validate:ValidateOptions"),
         "detection": (_ACTIONS, "options.shared:TaskOptions")},
        first=("data", "split", "data_root", "annotations", "video_root", "action_list", "person_boxes"),
        has_model_options=False,
    ),
    "visualize": Command(
        {"": (_DATA, "cli.visualize:VisualizeOptions")},
        first=("model_name_or_path", "teacher", "data", "split", "output_dir", "num_clips", "num_shown", "use_cpu"),
        has_teacher_options=True,
    ),
    "push": Command(
        {"": ("cli.push:PushOptions",)}, first=("model_name_or_path", "repo_id", "dry_run"), has_model_options=False
    ),
}  # fmt: skip

PROCESSES_OPTION = Option(
    "num_processes", "int", None, "Processes to start on this machine; by default one. On GPUs: one for each."
)
# Options that name files or folders of videos. With `--layout` they may name something else.
_DATA_OPTIONS = ("data", "eval_data", "test_data")
_MODEL_OPTIONS = ("model_name_or_path", "teacher", "init_from")


def options_of(command: str, task: str) -> dict[str, dict[str, Option]]:
    """Return the options of a command by the dataclass that declares them (`module:Class`), without importing it."""
    found = {}
    for reference in COMMANDS[command].tasks[task]:
        try:
            found[reference] = dict(declared_options(reference))
        except (LookupError, OSError):  # an installation without sources
            found[reference] = class_options(load_class(reference))
    return found


def load_class(reference: str) -> type:
    """Import a dataclass named as `module:Class`, the module below `amd_hf`."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(f"..{module}", __package__), name)


def parse_command(command: str, argv: Sequence[str] | None = None, task: str = "") -> tuple[Any, ...]:
    """Read the command line of a sub-command into its dataclasses, as [`parse_recipe`] does.

    Args:
        command (`str`): The sub-command.
        argv (sequence of `str`, *optional*): Its arguments; by default those of the process.
        task (`str`): Which of its tasks.
    """
    chosen = COMMANDS[command]
    arguments = chosen.without_subject(sys.argv[1:] if argv is None else argv, command)
    if {"--help", "-h", "--help_all"} & {*arguments}:
        print_help(help_of(command, task, in_full="--help_all" in arguments))
    types = [load_class(reference) for reference in chosen.tasks[task]]
    words = arguments if chosen.subject else argv
    return parse_recipe(
        types, words, None, chosen.has_model_options, chosen.has_teacher_options, command=command
    )  # fmt: skip


def check_command_line(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Find mistakes of a command line before anything heavy is imported; `--help` is answered here too.

    Returns:
        The options that the recipe and the command line give.

    Raises:
        FileNotFoundError: If the recipe, model folder or data do not exist.
        ValueError: If an option is unknown, or a value does not fit.
    """
    chosen = COMMANDS[command]
    arguments = chosen.without_subject(arguments, command)
    task = "" if "" in chosen.tasks else read_task(arguments, list(chosen.tasks), command)
    if {"--help", "-h", "--help_all"} & {*arguments}:
        print_help(help_of(command, task, in_full="--help_all" in arguments))
    options = [option for found in options_of(command, task).values() for option in found.values()]
    if chosen.starts_processes:
        options.append(PROCESSES_OPTION)
    of_recipe, given, _, _ = parse(
        options, arguments, command, chosen.has_model_options, chosen.has_teacher_options
    )  # fmt: skip
    values = {**of_recipe, **given}
    check_addresses(values)
    for name in _DATA_OPTIONS:
        data = values.get(name)
        if (
            data is not None
            and "://" not in data
            and values.get("layout") is None
            and not data.endswith(".tar")
            and not Path(data).exists()
        ):
            raise FileNotFoundError(
                f"There is no file or folder {data!r}, given as `--{name}`. Give a folder of class folders, a folder "
                "of videos, a list file with one `path label` per line, or another layout of docs/data.md; for a data "
                "set of the Hub say `--layout hub`."
            )
    for name in _MODEL_OPTIONS:
        if "{fold}" not in (values.get(name) or ""):
            check_model_source(values.get(name), name)
    return values


def check_addresses(values: Mapping[str, Any]) -> None:
    """Refuse addresses that hold credentials before a run can write them anywhere.

    Raises:
        ValueError: names the option.
    """
    for name in (*_DATA_OPTIONS, "data_root", "allowed_addresses"):
        given = values.get(name) or []
        for address in [given] if isinstance(given, str) else given:
            if "://" in address:
                from ..data.remote.files import check_address

                try:
                    check_address(address)
                except ValueError as error:
                    raise ValueError(f"`--{name}`: {error}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Help
# ---------------------------------------------------------------------------------------------------------------------


def help_groups(command: str, task: str, in_full: bool) -> dict[str, list[Option]]:
    """Return the options of a command as its help shows them, by heading."""
    chosen = COMMANDS[command]
    declared = options_of(command, task)
    options = {option.name: option for found in declared.values() for option in found.values()}
    options |= {RECIPE_OPTION.name: RECIPE_OPTION}
    if chosen.starts_processes:
        options |= {PROCESSES_OPTION.name: PROCESSES_OPTION}
    groups: dict[str, list[str]] = {
        "the options that matter most": [name for name in chosen.first if name in options][:10]
    }
    for reference, found in declared.items():
        if reference.startswith(("data.", "detection.arguments")):
            groups["data"] = [name for name in found if in_full or not chosen.often or name not in _SELDOM]
        elif not chosen.often:
            groups["model and output"] = list(found)
        elif reference.startswith("cli."):
            groups["model"] = list(found)
        else:
            groups["training, what most people set"] = [name for name in chosen.often if name in found]
            groups["everything else"] = list(found) if in_full else []
    groups.setdefault("defaults", [RECIPE_OPTION.name])
    shown: set[str] = set()
    result = {}
    for heading, names in groups.items():
        result[heading] = [options[name] for name in names if name not in shown]
        shown |= {*names}
    return {heading: found for heading, found in result.items() if found}


def help_of(command: str, task: str, in_full: bool = False) -> str:
    """Return the help of a command: what most people need, or everything."""
    chosen = COMMANDS[command]
    notes = []
    if chosen.has_model_options:
        teacher = ", those of the teacher's as --teacher_config.NAME VALUE" if chosen.has_teacher_options else ""
        notes.append(f"Options of the model's config (AMDConfig) are given as --model.NAME VALUE{teacher}.")
    if not in_full:
        more = "every option" if chosen.often else "all that each option says"
        notes.append(f"`amd-hf {command} --help_all` has {more}.")
    notes += [f"`amd-hf {command} --task {name} --help` has those of {name}." for name in chosen.tasks if name != task]
    groups = help_groups(command, task, in_full)
    if not in_full:
        groups = {
            heading: [dataclasses.replace(option, help=_IN_A_LINE.get(option.name, option.help)) for option in found]
            for heading, found in groups.items()
        }
    return format_help(
        f"amd-hf {command} {chosen.subject}".strip(), description_of(f"cli.{command}"), groups, notes, in_full=in_full
    )


__all__ = ["COMMANDS", "Command", "check_command_line", "help_groups", "help_of", "load_class", "options_of",
           "parse_command"]  # fmt: skip
