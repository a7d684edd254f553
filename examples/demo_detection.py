"""Action detection on rendered films in AVA's formats: a small detector, its frame mAP, a drawn video.

Renders MotionPeople (several moving shapes at a time, each with its own actions), fine-tunes a small detector on them
on the CPU and tests it on other films, with boxes as a person detector finds them. Beside its mAP stand that of
constant scores and that of the same detector with shuffled boxes: it must look at each box, not at the clip.

python examples/demo_detection.py --output_dir demo_detection_output

Exit code 1 where the detector does not reach 0.8, or shuffled boxes gain more than 0.1 over constant scores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from amd_hf.cli import finetune, predict
from amd_hf.detection.clips import boxes_to_test
from amd_hf.detection.evaluation import DetectionResult
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.programs import run_program
from amd_hf.outputs.folders import claim_folder, noting
from examples.motion_people import PEOPLE_ACTIONS, PeopleFiles, write_motion_people


PROGRAM = "demo_detection.py"
RECIPE = Path(__file__).resolve().parents[1] / "configs" / "demo" / "detection.yaml"
LOWEST_MAP, HIGHEST_GAIN = 0.8, 0.1


@dataclass
class DemoOptions:
    """Where everything goes, and how large it is."""

    output_dir: str = field(default="demo_detection_output", metadata={"help": "Everything is written here."})
    seed: int = field(default=0, metadata={"help": "Of data, weights and order."})
    num_films: int = field(default=100, metadata={"help": "Films to train on."})
    num_validation: int = field(default=10, metadata={"help": "Films to test on."})
    seconds: int = field(default=20, metadata={"help": "Key frames of a film."})
    max_steps: int | None = field(default=None, metadata={"help": "Optimizer steps; the recipe's."})


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    options, _ = parse_recipe((DemoOptions,), argv, __doc__, has_model_options=False)
    folder = Path(options.output_dir)
    if replaced := claim_folder(folder, PROGRAM):
        print(f"Replacing the outcome of an earlier demo in {folder}: {len(replaced)} files")
    start = time.perf_counter()
    with noting(folder, PROGRAM):
        train, validation = (
            write_motion_people(folder / "data", split, number, options.seconds, seed=options.seed)
            for split, number in (("train", options.num_films), ("validation", options.num_validation))
        )
    rendered = time.perf_counter()
    print(f"{options.num_films + options.num_validation} films rendered in {rendered - start:.0f} s", flush=True)
    with noting(folder, PROGRAM):
        trainer = finetune.main(training_arguments(options, folder, train, validation))
        rows = trainer.eval_dataset
        results = {
            "detector": trainer.test(rows),
            "the same with boxes shuffled within each key frame": unshuffle_boxes(trainer.test(shuffle_boxes(rows))),
        }
        results["constant scores"] = constant_scores(results["detector"])
    found = {name: result.average_precisions() for name, result in results.items()}
    seconds = time.perf_counter() - rendered
    print(f"\n{'frame mAP at IoU 0.5':<54}{'mean':>6}" + "".join(f"{action:>9}" for action in PEOPLE_ACTIONS))
    for name, values in found.items():
        of_classes = "".join(f"{values['average_precision'][action]:>9.3f}" for action in PEOPLE_ACTIONS)
        print(f"{name:<54}{values['map']:>6.3f}{of_classes}")
    print(f"\ntraining and tests: {seconds:.0f} s")
    means = {name: values["map"] for name, values in found.items()}
    with noting(folder, PROGRAM):
        draw(folder, validation)
        (folder / "results.json").write_text(json.dumps({**means, "seconds": seconds}, indent=2) + "\n")
    return means


def training_arguments(options: DemoOptions, folder: Path, train: PeopleFiles, validation: PeopleFiles) -> list[str]:
    """The command line of finetune.py."""
    files = {
        "recipe": RECIPE, "video_root": train.videos, "annotations": train.annotations,
        "action_list": train.action_list, "eval_annotations": validation.annotations,
        "person_boxes": validation.person_boxes, "output_dir": folder / "detector", "seed": options.seed,
    }  # fmt: skip
    steps = ["--max_steps", str(options.max_steps), "--warmup_steps", "1"] if options.max_steps else []
    return [*(part for name, value in files.items() for part in (f"--{name}", str(value))), *steps]


def draw(folder: Path, validation: PeopleFiles) -> None:
    """What predict.py makes of the first validation film."""
    video = sorted(validation.videos.glob("validation*.mp4"))[0]
    outputs = {"output_json": folder / "actions.json", "output_video": folder / "actions.mp4"}
    arguments = {
        "task": "detection", "model_name_or_path": folder / "detector", "video": video,
        "person_boxes": validation.person_boxes, **outputs,
    }  # fmt: skip
    predict.main(["--use_cpu", *(part for name, value in arguments.items() for part in (f"--{name}", str(value)))])
    print(f"The detector: {folder / 'detector'}\nA film with its actions: {outputs['output_video']}")


# ---------------------------------------------------------------------------------------------------------------------
# What a detector that looks at its boxes must beat
# ---------------------------------------------------------------------------------------------------------------------


def constant_scores(result: DetectionResult) -> DetectionResult:
    """Return the same detections, every one with the score 1 for every class: what boxes alone are worth."""
    outcomes = [outcome | {"scores": np.ones_like(outcome["scores"])} for outcome in result.outcomes]
    return DetectionResult(outcomes, result.class_names, result.scored)


def shuffle_boxes(rows: datasets.Dataset) -> datasets.Dataset:
    """Return rows whose tested boxes are shuffled within each key frame: each gets the content of the next one.

    Tested like any others; [`unshuffle_boxes`] puts the boxes back, so that each has the scores of another one.
    """

    def rotate(row: dict[str, Any]) -> dict[str, Any]:
        boxes, scores = boxes_to_test(row)
        return {"person_boxes": np.roll(boxes, -1, axis=0).tolist(), "person_scores": np.roll(scores, -1).tolist()}

    return rows.map(rotate, load_from_cache_file=False, keep_in_memory=True)


def unshuffle_boxes(result: DetectionResult) -> DetectionResult:
    """Return the outcome of [`shuffle_boxes`] with the boxes where they were, and the scores where they are."""
    outcomes = [o | {"test_boxes": np.roll(o["test_boxes"], 1, axis=0)} for o in result.outcomes]
    return DetectionResult(outcomes, result.class_names, result.scored)


def program() -> None:
    """Run `main`; exit code 1 where the detector does not do what it should."""
    means = main()
    gain = means["the same with boxes shuffled within each key frame"] - means["constant scores"]
    if means["detector"] < LOWEST_MAP or gain > HIGHEST_GAIN:
        print(f"FAILED: the mAP must be at least {LOWEST_MAP}, shuffled boxes may gain {HIGHEST_GAIN} at most.")
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(program)
