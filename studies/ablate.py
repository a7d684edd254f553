"""Run a grid of arms and seeds and report what helps: means, paired differences, 95% intervals, pictures.

python studies/ablate.py --grid configs/ablations/main.yaml --output_dir ablation_output

Killed and started again, it goes on where it was: every stage is kept under a hash of its settings. Each core works on
a stage of its own. All arms are printed, whatever they are. See docs/evidence.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import concatenate_datasets

from amd_hf import AMDConfig, AMDForPreTraining, AMDModel, load_video_dataset
from amd_hf.cli import finetune, pretrain
from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.evaluation.probes import run_linear_probe
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.programs import run_program
from amd_hf.training.views import process_cache
from examples.motion_shapes import SceneLaw, write_motion_shapes
from studies.grid import LABELLED_SPLITS, Stage, read_grid
from studies.playback import write_playback_clips
from studies.report import report_files, write_report
from studies.store import StageStore
from studies.workers import compute_study, missing_stages


HELD_OUT_CLIPS = 32
"""On which student and teacher are compared."""


@dataclass
class AblationOptions:
    """Which study, and where it goes."""

    grid: str = field(default="configs/ablations/main.yaml", metadata={"help": "Arms, seeds and recipes, in YAML."})
    output_dir: str = field(default="ablation_output", metadata={"help": "Results, tables and pictures go here."})
    source: str | None = field(
        default=None, metadata={"help": "Cut the clips from this folder of videos, whatever the grid says."}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace files that are there, whoever wrote them; our own unchanged ones are."},
    )
    max_steps: int | None = field(default=None, metadata={"help": "Steps of every training, for a quick trial."})
    num_seeds: int | None = field(default=None, metadata={"help": "Only the first seeds of the grid."})
    num_processes: int = field(
        default=0, metadata={"help": "Stages computed side by side, a thread each; 0: one per core, at most 8."}
    )


def main(argv: Sequence[str] | None = None) -> None:
    options, _ = parse_recipe((AblationOptions,), argv, __doc__, has_model_options=False)
    if options.num_processes < 0:
        raise ValueError(f"`--num_processes` must be 0 or more, got {options.num_processes}.")
    changes = {} if options.max_steps is None else {
        "max_steps": options.max_steps, "warmup_steps": 0, "logging_steps": options.max_steps,
    }  # fmt: skip
    grid = read_grid(options.grid, changes, options.num_seeds)
    if options.source is not None:
        grid = replace(grid, data={**grid.data, "source": options.source})
    folder = Path(options.output_dir)
    reports = folder / "reports" / Path(options.grid).stem
    report_files(reports, options.overwrite)  # refuses before hours of work, not after them
    store = StageStore(folder, {
        "unlabelled": write_data, "labelled": write_data, "teacher": train_encoder, "student": train_encoder,
        "finetune": train_classifier, "probe": probe,
    })  # fmt: skip
    stages = grid.stages()
    num_missing = len(missing_stages(stages, store))
    print(f"{grid.title}\n{len(grid.arms)} arms, {len(grid.seeds)} seeds: {len(stages)} stages, {num_missing} to do")
    compute_study(stages, store, options.num_processes)
    print(write_report(grid, store, reports, options.overwrite))


def write_data(stage: Stage, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Render the splits of a seed, or cut them from one's own videos."""
    settings = json.loads(stage.settings)
    sizes = {name: settings[name] for name in ("unlabelled", *LABELLED_SPLITS) if name in settings}
    if stage.kind == "unlabelled":
        sizes["held_out"] = HELD_OUT_CLIPS
    for split, size in sizes.items():
        is_labelled = stage.kind == "labelled"
        if settings["source"] == "motion_shapes":
            law = SceneLaw(**settings.get("law", {}))
            write_motion_shapes(folder, split, size, settings["seed"], is_labelled, law=law, num_workers=0)
        else:
            write_playback_clips(settings["source"], folder, split, size, settings["seed"], is_labelled)
    return dict(sizes)


def train_encoder(stage: Stage, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Pre-train a teacher or a student; return the last losses, and how alike student and teacher became."""
    process_cache.cache_clear()  # the videos of another stage
    teacher = ["--teacher", str(inputs["teacher"])] if "teacher" in inputs else []
    data = ["--data", str(inputs["unlabelled"]), "--train_split", "unlabelled"]
    trainer = pretrain.main([*_as_arguments(stage, folder), *data, *teacher])
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {name: value for name, value in logs[-1].items() if name.startswith("loss")}
    if teacher:
        held_out = load_video_dataset(inputs["unlabelled"], split="held_out")
        result |= trainer.compare_features(held_out).metrics()
    return result


def train_classifier(stage: Stage, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Fine-tune a student with few labels and test it on the tuning and on the validation split."""
    process_cache.cache_clear()  # the videos of another stage
    data = ["--data", str(inputs["labelled"]), "--train_split", "train"]
    start = inputs.get("student", folder / "untrained")
    if "student" not in inputs:
        untrained_student(stage).save_pretrained(start)
    trainer = finetune.main([*_as_arguments(stage, folder), *data, "--model_name_or_path", str(start)])
    return {
        split: trainer.test(load_video_dataset(inputs["labelled"], split=split)).metrics()["accuracy"]
        for split in ("tuning", "validation")
    }


def untrained_student(stage: Stage) -> AMDForPreTraining:
    """Return what an arm from scratch starts from: a student before its first step, with the weights of pre-training.

    Those of a new classifier are several times smaller, and learn later.
    """
    settings = json.loads(stage.settings)
    set_seed(settings["seed"])
    return AMDForPreTraining(AMDConfig(**settings["model"]))


def probe(stage: Stage, folder: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Fit a linear classifier on the frozen encoder, from the labels of both splits that are not tested on."""
    encoder = AMDModel.from_pretrained(inputs["student"]) if "student" in inputs else untrained_student(stage).amd
    config = encoder.config
    loader = ClipLoader(num_frames=config.num_frames, image_size=config.image_height_width[0], sampling_rate=1)
    splits = {split: load_video_dataset(inputs["labelled"], split=split) for split in LABELLED_SPLITS}
    train = concatenate_datasets([splits["train"], splits["tuning"]])
    collator = ClassificationCollator(loader, training=False)
    found = run_linear_probe(
        encoder, train, splits["validation"], collator, Accelerator(cpu=not torch.cuda.is_available())
    )
    return {"accuracy": found["accuracy"]}


def _as_arguments(stage: Stage, folder: Path) -> list[str]:
    """Return the options of a stage as those of a program: its settings are the recipe."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(stage.settings)  # JSON is YAML
    return ["--recipe", str(recipe), "--output_dir", str(folder)]


if __name__ == "__main__":
    run_program(main)
