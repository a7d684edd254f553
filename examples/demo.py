"""The whole workflow on rendered videos: distil a small video model, fine-tune it, test it, use it.

Renders MotionShapes (eight classes that differ only in motion) as real mp4 files, pre-trains a teacher without
labels, distils a student from it, fine-tunes the student with few labels and tests it over several views. Beside it,
with the same steps and settings: the student pre-trained without a teacher, and the student from scratch.

python examples/demo.py --output_dir demo_output
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed

from amd_hf import AMDConfig, AMDForPreTraining, AMDModel, load_video_dataset
from amd_hf.cli import finetune, pretrain
from amd_hf.data.clips import ClassificationCollator
from amd_hf.evaluation.probes import linear_probe_accuracy, pooled_features
from amd_hf.flops import count_flops
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.programs import run_program
from amd_hf.outputs.figures import plot_losses
from amd_hf.outputs.folders import claim_folder, noting
from amd_hf.pretraining.visualization import draw_reconstructions, reconstruct_clips, save_similarity
from amd_hf.training.precision import cpu_bf16_speedup
from amd_hf.training.summary import count_parameters
from amd_hf.training.views import clip_loader
from examples.motion_shapes import MOTION_CLASSES, write_motion_shapes


RECIPES = Path(__file__).resolve().parents[1] / "configs" / "demo"
SPLITS = ("unlabelled", "train", "tuning", "validation")
ARMS = {
    "distilled": "distilled from the teacher",
    "no_teacher": "pre-trained without a teacher",
    "scratch": "from scratch",
}


@dataclass
class DemoOptions:
    """Folder and sizes of the demo."""

    output_dir: str = field(default="demo_output", metadata={"help": "Everything is written here."})
    seed: int = field(default=0, metadata={"help": "Of data, weights and order."})
    num_unlabelled: int = field(default=4000, metadata={"help": "Clips or images to pre-train on."})
    num_labelled: int = field(default=320, metadata={"help": "Clips or images to fine-tune on."})
    num_validation: int = field(default=400, metadata={"help": "Clips or images to test on."})
    smoke: bool = field(
        default=False, metadata={"help": "A few steps of everything: shows that it runs, learns nothing."}
    )


class Demo:
    """The stages, their times and their results; on videos, unless a subclass says otherwise."""

    program = "demo.py"
    recipe_prefix = ""  # of the recipes' names
    class_names: Sequence[str] = MOTION_CLASSES
    media = "video"
    examples = "*/*.mp4"  # of a split
    # More runs of fine-tuning from scratch: name -> (title, options).
    controls: Mapping[str, tuple[str, tuple[str, ...]]] = {
        # Beyond the end of the video: its first frame, repeated.
        "one_frame": ("from scratch, one frame repeated", ("--sampling_rate", "1000"))
    }

    def __init__(self, options: DemoOptions):
        self.options = options
        self.folder = Path(options.output_dir)
        self.data = self.folder / "data"
        self.has_bf16 = cpu_bf16_speedup() > 1
        self.seconds: dict[str, float] = {}
        self.trainers: dict[str, pretrain.AMDTrainer] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def timed(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        """Run a stage under a headline and note its time."""
        print(f"\n=== {name} ===", flush=True)
        start = time.perf_counter()
        with noting(self.folder, self.program):
            outcome = stage(*arguments)
        self.seconds[name] = time.perf_counter() - start
        return outcome

    def render(self) -> None:
        """Write the splits, each from seeds of its own."""
        options = self.options
        sizes = (options.num_unlabelled, options.num_labelled, options.num_validation, options.num_validation)
        for number, (split, size) in enumerate(zip(SPLITS, sizes, strict=True)):
            self.write_split(split, size, 1000 * options.seed + number)

    def write_split(self, split: str, size: int, seed: int) -> None:
        write_motion_shapes(self.data, split, size, seed=seed, labelled=split != "unlabelled")

    def pretrain(self, name: str, recipe: str, *overrides: str) -> None:
        arguments = self._arguments(recipe, name, "--train_split", "unlabelled", *overrides)
        self.trainers[name] = pretrain.main(arguments)

    def fine_tune(self, name: str, start: Path | None, *overrides: str) -> dict[str, float]:
        recipe = yaml.safe_load(self._recipe("student").read_text())["model"]
        model = [f"--model.{key}={json.dumps(value)}" for key, value in recipe.items()]
        where = ["--model_name_or_path", str(start)] if start else model
        splits = ["--train_split", "train", "--test_split", "validation"]
        finetune.main(self._arguments("finetune", f"{name}_classifier", *splits, *where, *overrides))
        return json.loads((self.folder / f"{name}_classifier" / "test_results.json").read_text())

    def _arguments(self, recipe: str, name: str, *more: str) -> list[str]:
        smoke = ["--max_steps", "4", "--warmup_steps", "1", "--logging_steps", "2"] if self.options.smoke else []
        output = ["--output_dir", str(self.folder / name), "--seed", str(self.options.seed)]
        precision = ["--bf16", json.dumps(self.has_bf16)]
        where = ["--recipe", str(self._recipe(recipe)), "--data", str(self.data)]
        return [*where, *output, *precision, *more, *smoke]

    def _recipe(self, name: str) -> Path:
        return RECIPES / f"{self.recipe_prefix}{name}.yaml"

    def _rows(self, split: str) -> Any:
        return load_video_dataset(self.data, split=split, media=self.media)

    def probe(self, name: str) -> float:
        """Accuracy of a linear classifier on the frozen encoder of an arm."""
        if name == "scratch":
            set_seed(self.options.seed)
            encoder = AMDForPreTraining(AMDConfig.from_pretrained(self.folder / "no_teacher")).amd
        else:
            encoder = AMDModel.from_pretrained(self.folder / name)
        loader = clip_loader(encoder.config, self.trainers["distilled"].args)
        collator = ClassificationCollator(loader, training=False)
        accelerator = Accelerator(cpu=True, mixed_precision="bf16" if self.has_bf16 else "no")
        train, test = (
            pooled_features(encoder, self._rows(split), collator, accelerator) for split in ("train", "validation")
        )
        return linear_probe_accuracy(train, test, len(self.class_names))

    def draw(self) -> None:
        """Loss curves, what student and teacher see of a few validation clips, and how alike their features are."""
        histories = {name: trainer.state.log_history for name, trainer in self.trainers.items()}
        plot_losses(histories, self.folder / "losses.png")
        student = AMDForPreTraining.from_pretrained(self.folder / "distilled")
        rows = self._rows("validation")
        batch = self.trainers["distilled"].eval_collator(
            [rows[index] for index in range(0, len(rows), max(len(rows) // 3, 1))][:3]
        )
        masks = batch["bool_masked_pos"], batch["teacher_bool_masked_pos"]
        frames = reconstruct_clips(student, batch["pixel_values"], *masks)
        draw_reconstructions(frames, self.folder / "reconstructions.png")
        save_similarity(self.trainers["distilled"].compare_features(rows), self.folder)

    def predict(self) -> str:
        """What `amd-hf predict` says of one example of the validation set, in a process of its own."""
        video = sorted((self.data / "validation").glob(self.examples))[0]
        model = self.folder / "distilled_classifier"
        command = [
            sys.executable,
            "-m",
            "amd_hf",
            "predict",
            "--model_name_or_path",
            str(model),
            "--videos",
            str(video),
            "--top_k",
            "3",
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def table(self) -> str:
        """Accuracies of all arms, sizes of both models, times."""
        lines = [f"{'student':<32}{'fine-tuned':>12}{'per view':>10}{'linear probe':>14}"]
        for name, title in ARMS.items():
            result = self.results[name]
            lines.append(
                f"{title:<32}{result['accuracy']:>12.1%}{result['clip_accuracy']:>10.1%}{result['probe']:>14.1%}"
            )
        lines += [f"{title:<32}{self.results[name]['accuracy']:>12.1%}" for name, (title, _) in self.controls.items()]
        lines.append(f"{'(chance)':<32}{1 / len(self.class_names):>12.1%}")
        lines.append("")
        lines.append(f"{'model':<32}{'parameters':>12}{f'GFLOPs per {self.media}':>18}")
        for name, sizes in self.results["sizes"].items():
            lines.append(f"{name:<32}{sizes['parameters'] / 1e6:>11.2f}M{sizes['flops'] / 1e9:>18.2f}")
        lines.append("")
        lines += [f"{name:<44}{seconds:>7.0f} s" for name, seconds in self.seconds.items()]
        lines.append(f"{'all':<44}{sum(self.seconds.values()):>7.0f} s")
        return "\n".join(lines)

    def run(self) -> None:
        self.timed("rendering", self.render)
        self.timed("teacher", self.pretrain, "teacher", "teacher")
        teacher = str(self.folder / "teacher")
        self.timed("student, distilled", self.pretrain, "distilled", "student", "--teacher", teacher)
        without = ("--model.teacher_hidden_size=null",)
        self.timed("student, without a teacher", self.pretrain, "no_teacher", "student", *without)
        for name, title in ARMS.items():
            start = None if name == "scratch" else self.folder / name
            self.results[name] = self.timed(f"fine-tuning, {title}", self.fine_tune, name, start)
            self.results[name]["probe"] = self.timed(f"linear probe, {title}", self.probe, name)
        for name, (title, overrides) in self.controls.items():
            self.results[name] = self.timed(f"fine-tuning, {title}", self.fine_tune, name, None, *overrides)
        self.results["sizes"] = {
            name: {"parameters": count_parameters(encoder), "flops": count_flops(encoder)}
            for name in ("teacher", "distilled")
            for encoder in [AMDModel.from_pretrained(self.folder / name)]
        }
        self.timed("pictures", self.draw)


def main(
    argv: Sequence[str] | None = None,
    kind: type[Demo] = Demo,
    options_type: type[DemoOptions] = DemoOptions,
    description: str | None = __doc__,
) -> Demo:
    options, _ = parse_recipe((options_type,), argv, description, has_model_options=False)
    demo = kind(options)
    # Rendered data stays: it is added to where its settings are the same, else refused.
    if replaced := claim_folder(demo.folder, demo.program, keep=("data",)):
        print(f"Replacing the outcome of an earlier demo in {demo.folder}: {len(replaced)} files")
    demo.run()
    report = f"{demo.table()}\n"
    prediction = demo.predict()
    with noting(demo.folder, demo.program):
        (demo.folder / "results.json").write_text(
            json.dumps({**demo.results, "seconds": demo.seconds}, indent=2) + "\n"
        )
        (demo.folder / "results.txt").write_text(report)
    print(f"\n=== results ===\n{report}\n=== amd-hf predict, on one example of the validation set ===\n{prediction}")
    print(f"The distilled, fine-tuned model: {demo.folder / 'distilled_classifier'}")
    print(f"Loss curves: {demo.folder / 'losses.png'}")
    print(f"What student and teacher see: {demo.folder / 'reconstructions.png'}")
    print(f"Student and teacher, layer by layer: {demo.folder / 'similarity.png'}")
    return demo


if __name__ == "__main__":
    run_program(main)
