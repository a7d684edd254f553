"""Test a fine-tuned video classifier over several views of each video.

python scripts/evaluate.py --model_name_or_path finetuned/ --data videos/ --split test --output_dir results/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from amd_hf import load_video_dataset
from amd_hf.classifiers import check_labels_fit, load_trained_classifier
from amd_hf.evaluation.multiview import MultiViewResult, ViewOptions, run_multi_view_test
from amd_hf.recipes import check_model_source, parse_recipe, run_program
from amd_hf.sources import load_processor
from amd_hf.training.summary import describe_model


@dataclass
class EvaluateOptions:
    """What to test, on what, and how many views of it."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the classifier."})
    allow_untrained_head: bool = field(
        default=False, metadata={"help": "Test although the head was never trained: chance is what to expect."}
    )
    data: str | None = field(default=None, metadata={"help": "Class folders or list file `path label`."})
    data_root: str | None = field(default=None, metadata={"help": "Folder that paths in a list file start from."})
    split: str | None = field(default=None, metadata={"help": "Sub-folder of `data` to test on."})
    output_dir: str = field(default="results", metadata={"help": "Where metrics and unreadable videos are written."})
    num_segments: int = field(default=5, metadata={"help": "Test clips along the video."})
    num_crops: int = field(default=3, metadata={"help": "Test crops along the long side."})
    mode: str = field(default="dense", metadata={"help": "Frames of a clip.", "choices": ["dense", "uniform"]})
    sampling_rate: int | None = field(default=None, metadata={"help": "Step between frames; the processor's own."})
    batch_size: int = field(default=8, metadata={"help": "Videos decoded and classified together."})
    num_workers: int = field(default=0, metadata={"help": "Decoding processes."})
    decoder: str | None = field(default=None, metadata={"help": "Video decoder by name."})
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU although there is a GPU."})


def main(argv: Sequence[str] | None = None) -> MultiViewResult:
    options, model_options = parse_recipe((EvaluateOptions,), argv, __doc__)
    if options.model_name_or_path is None or options.data is None:
        raise ValueError("Say what to test and on what: `--model_name_or_path MODEL --data FOLDER_OR_LIST`.")
    check_model_source(options.model_name_or_path, "model_name_or_path")
    accelerator = Accelerator(cpu=options.use_cpu, mixed_precision=options.mixed_precision)
    model = load_trained_classifier(options.model_name_or_path, options.allow_untrained_head, **model_options).to(
        accelerator.device
    )
    rows = load_video_dataset(options.data, split=options.split, root=options.data_root)
    check_labels_fit(rows, model.config)
    processor = load_processor(options.model_name_or_path, model.config)
    views = ViewOptions.for_model(
        model.config,
        sampling_rate=options.sampling_rate or processor.sampling_rate,
        num_segments=options.num_segments,
        num_crops=options.num_crops,
        mode=options.mode,
    )
    if accelerator.is_main_process:
        print(f"model: {describe_model(model)}")
        print(f"test: {len(rows):,} videos x {views.num_views} views of {views.num_frames} frames", flush=True)
    result = run_multi_view_test(
        model, rows, views, accelerator, videos_per_batch=options.batch_size, num_workers=options.num_workers,
        decoder=options.decoder,
    )  # fmt: skip
    if accelerator.is_main_process:
        report(result, Path(options.output_dir))
    return result


def report(result: MultiViewResult, folder: Path) -> None:
    """Prints the metrics and writes them, with the videos that could not be read, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = result.metrics()
    unreadable = [{"video_id": video_id, "reason": reason} for video_id, reason in result.unreadable]
    (folder / "test_results.json").write_text(json.dumps({**metrics, "unreadable": unreadable}, indent=2) + "\n")
    for name, value in metrics.items():
        print(f"{name:>16}: {value:.4f}" if isinstance(value, float) else f"{name:>16}: {value:,}")
    for entry in unreadable:
        print(f"unreadable, counted as wrong: {entry['video_id']}: {entry['reason']}")
    print(f"The results are in {folder / 'test_results.json'}")


if __name__ == "__main__":
    run_program(main)
