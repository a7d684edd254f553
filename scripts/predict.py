"""Classify video files: whole, or window by window with times.

python scripts/predict.py --model_name_or_path finetuned/ --videos clip.mp4 folder/ "more/*.webm" --window_seconds 2

Exit code: 0 when every file was read, 1 when some could not be, 2 when nothing was done (bad options, or no file could
be read).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from amd_hf.classifiers import load_trained_classifier
from amd_hf.evaluation.checks import check_head_is_trained
from amd_hf.evaluation.multiview import ViewOptions
from amd_hf.evaluation.prediction import VideoPrediction, find_videos, predict_videos
from amd_hf.evaluation.windows import WindowOptions
from amd_hf.recipes import check_model_source, parse_recipe, run_program
from amd_hf.sources import view_settings


@dataclass
class PredictOptions:
    """What to classify, and with what."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the classifier."})
    videos: list[str] = field(
        default_factory=list, metadata={"help": "Files, folders (with all below them) and quoted glob patterns."}
    )
    media: str = field(default="video", metadata={"help": "What folders hold.", "choices": ["video", "image"]})
    format: str = field(
        default="table",
        metadata={"help": "What is printed; json: one object per video.", "choices": ["table", "json", "csv"]},
    )
    top_k: int = field(default=5, metadata={"help": "Classes shown per video or window."})
    window_seconds: float | None = field(default=None, metadata={"help": "Length of sliding windows."})
    stride_seconds: float | None = field(
        default=None, metadata={"help": "From window to window; by default the length."}
    )
    window_frames: int | None = field(default=None, metadata={"help": "The same in frames."})
    stride_frames: int | None = field(default=None, metadata={"help": "The same in frames."})
    num_segments: int = field(
        default=1, metadata={"help": "Clips along the video or window, averaged; 1: its middle."}
    )
    num_crops: int = field(default=1, metadata={"help": "Crops along the long side, averaged."})
    sampling_rate: int | None = field(default=None, metadata={"help": "Step between frames; the processor's own."})
    batch_size: int = field(default=8, metadata={"help": "Clips classified together."})
    num_workers: int = field(default=0, metadata={"help": "Decoding processes, among which the files are shared."})
    decoder: str | None = field(default=None, metadata={"help": "Video decoder by name."})
    decode_time_limit: float | None = field(
        default=None, metadata={"help": "Seconds one video may take; decoding then runs in a process of its own."}
    )
    mixed_precision: str = field(default="no", metadata={"help": "Precision.", "choices": ["no", "bf16", "fp16"]})
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU although there is a GPU."})

    def windows(self) -> WindowOptions | None:
        """The sliding windows that were asked for."""
        given = {
            unit: (getattr(self, f"window_{unit}"), getattr(self, f"stride_{unit}")) for unit in ("seconds", "frames")
        }
        used = [unit for unit, values in given.items() if values != (None, None)]
        if not used:
            return None
        if len(used) == 2:
            raise ValueError("Give windows in seconds or in frames, not in both.")
        length, stride = given[used[0]]
        if length is None:
            raise ValueError(f"`stride_{used[0]}` needs `window_{used[0]}`, the length of a window.")
        return WindowOptions(length, stride or length, used[0])


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    options, model_options = parse_recipe((PredictOptions,), argv, __doc__)
    if options.model_name_or_path is None or not options.videos:
        raise ValueError("Say what to classify: `--model_name_or_path MODEL --videos FILE_OR_FOLDER ...`.")
    for name in ("top_k", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(options, name)}.")
    windows = options.windows()
    videos = find_videos(options.videos, options.media)
    check_model_source(options.model_name_or_path, "model_name_or_path")
    accelerator = Accelerator(cpu=options.use_cpu, mixed_precision=options.mixed_precision)
    model = load_trained_classifier(options.model_name_or_path, **model_options).to(accelerator.device)
    check_head_is_trained(model, options.model_name_or_path)
    views = ViewOptions.for_model(
        model.config,
        **view_settings(options.model_name_or_path, model.config, options.sampling_rate),
        num_segments=options.num_segments,
        num_crops=options.num_crops,
        mode="middle" if options.num_segments == 1 else "dense",
    )
    predictions = predict_videos(
        model, videos, views, accelerator, windows=windows, clips_per_batch=options.batch_size,
        num_workers=options.num_workers, decoder=options.decoder, time_limit=options.decode_time_limit,
    )  # fmt: skip
    show = _PRINTERS[options.format]()
    results = []
    for prediction in tqdm(predictions, desc="predict", unit="video", total=len(videos), disable=len(videos) == 1):
        results.append(as_dict(prediction, model.config.id2label, options.top_k))
        show(results[-1])
    if all("error" in result for result in results):
        raise ValueError("None of the videos could be read.")
    return results


def as_dict(prediction: VideoPrediction, names: dict[int, str], top_k: int) -> dict[str, Any]:
    """One video's result as it goes into JSON."""
    result: dict[str, Any] = {"video": prediction.video}
    windows = []
    for window, probabilities in prediction.windows:
        order = (-probabilities).argsort(kind="stable")[:top_k]
        top = [{"label": names[int(number)], "score": float(probabilities[number])} for number in order]
        windows.append({**(vars(window) if window else {}), "predictions": top})
    if windows and "start_seconds" in windows[0]:
        result["windows"] = windows
    elif windows:
        result |= windows[0]
    return result | ({"error": prediction.error} if prediction.error is not None else {})


def table_printer() -> Callable[[dict], None]:
    """Prints results for people."""

    def show(result: dict) -> None:
        if len(result) > 1 + ("error" in result):
            print(result["video"])
        for entry in result.get("predictions", []):
            print(f"  {entry['score']:6.1%}  {entry['label']}")
        for window in result.get("windows", []):
            scores = ", ".join(f"{entry['score']:.1%} {entry['label']}" for entry in window["predictions"])
            print(f"  {window['start_seconds']:9.3f} s to {window['end_seconds']:9.3f} s  {scores}")
        if "error" in result:
            print(f"{result['video']}: cannot be read: {result['error']}", flush=True)

    return show


def json_printer() -> Callable[[dict], None]:
    """Prints one JSON object per video and line."""
    return lambda result: print(json.dumps(result), flush=True)


def csv_printer() -> Callable[[dict], None]:
    """Prints one line per video, window and class."""
    columns = ["video", "start_seconds", "end_seconds", "start_frame", "stop_frame", "rank", "label", "score", "error"]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()

    def show(result: dict) -> None:
        for part in result.get("windows", [result]):
            times = {name: part[name] for name in columns[1:5] if name in part}
            for rank, entry in enumerate(part.get("predictions", []), start=1):
                writer.writerow({"video": result["video"], **times, "rank": rank, **entry})
        if "error" in result:
            writer.writerow({"video": result["video"], "error": result["error"]})

    return show


_PRINTERS = {"table": table_printer, "json": json_printer, "csv": csv_printer}


def program() -> None:
    """Runs `main`; exit code 1 when some files could not be read."""
    if any("error" in result for result in main()):
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(program)
