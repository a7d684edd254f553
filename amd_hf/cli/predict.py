"""Classify video files, whole or window by window with times; or name the actions of the persons in one video.

amd-hf predict --model_name_or_path finetuned/ --videos clip.mp4 folder/ "more/*.webm" --window_seconds 2
amd-hf predict --task detection --model_name_or_path detector/ --video clip.mp4 \
    --person_boxes persons.json --output_json actions.json --output_video actions.mp4

Exit code: 0 when every file was read, 1 when some could not be, 2 when nothing was done (bad options, or no file could
be read).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .. import AMDConfig
from ..detection.drawing import draw_detections
from ..detection.evaluation import evaluation_clip_loader
from ..detection.prediction import as_json, detect_in_video, read_boxes_of_video
from ..evaluation.checks import load_tested_classifier
from ..evaluation.multiview import ViewOptions
from ..evaluation.prediction import FORMATS, HEADERS, WindowOptions, as_dict, find_videos, predict_videos
from ..export.running import load_for_inference, precision_for
from ..models import (
    load_detection_processor,
    load_trained_detector,
    override_notes,
    read_settings,
    view_settings,
)
from ..options.commands import parse_command
from ..options.parsing import check_model_source, read_task
from ..options.programs import run_program
from ..options.shared import InferenceOptions, OverwriteOptions, TaskOptions
from ..outputs.files import OutputFiles
from ..training.precision import start_accelerator
from ..video_sampling_amd import SAMPLING_MODES


@dataclass
class ModelOptions(TaskOptions, InferenceOptions):
    """The model, and how to run it."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the model."})
    batch_size: int = field(default=8, metadata={"help": "Clips per batch."})


@dataclass
class DetectOptions(ModelOptions, OverwriteOptions):
    """The video whose actions to detect, and the outputs."""

    video: str | None = field(default=None, metadata={"help": "The video file."})
    person_boxes: str | None = field(
        default=None, metadata={"help": "csv or JSON of boxes from any person detector (docs/detection.md)."}
    )
    min_person_score: float = field(default=0.8, metadata={"help": "Ignore person boxes with a lower score."})
    top_k: int = field(default=3, metadata={"help": "Most actions to show per person."})
    min_score: float = field(default=0.1, metadata={"help": "Leave out actions with a lower score."})
    output_json: str | None = field(default=None, metadata={"help": "JSON file to write; by default it is printed."})
    output_video: str | None = field(
        default=None, metadata={"help": "mp4 file to write, with boxes and actions drawn on the video."}
    )


@dataclass
class PredictOptions(ModelOptions):
    """The videos to classify, and their clips."""

    videos: list[str] = field(
        default_factory=list,
        metadata={"help": "Files, folders or quoted glob patterns; folders are searched with their sub-folders."},
    )
    media: str = field(
        default="video", metadata={"help": "What to look for in folders.", "choices": ["video", "image"]}
    )
    format: str = field(
        default="table",
        metadata={
            "help": "Output format; json prints one object per video.",
            "choices": ["table", "json", "csv"],
        },
    )
    top_k: int = field(default=5, metadata={"help": "Classes to show per video or window."})
    window_seconds: float | None = field(
        default=None, metadata={"help": "Classify sliding windows of this many seconds."}
    )
    stride_seconds: float | None = field(
        default=None, metadata={"help": "Step from window to window, in seconds; by default the length of a window."}
    )
    window_frames: int | None = field(default=None, metadata={"help": "Classify sliding windows of this many frames."})
    stride_frames: int | None = field(
        default=None, metadata={"help": "Step from window to window, in frames; by default the length of a window."}
    )
    num_segments: int | None = field(
        default=None,
        metadata={"help": "Clips along the video or window to average over; by default one representative clip."},
    )
    num_crops: int | None = field(
        default=None, metadata={"help": "Crops along the long side to average over; by default 1, the centre."}
    )
    test_views: bool = field(
        default=False, metadata={"help": "Average over the views of the model's test; `amd-hf evaluate` does so too."}
    )
    sampling_mode: str | None = field(
        default=None,
        metadata={
            "help": "How frames are sampled; by default the model's way.",
            "choices": list(SAMPLING_MODES),
        },
    )
    num_workers: int = field(default=0, metadata={"help": "Number of processes that decode videos."})

    def views(self, config: AMDConfig) -> tuple[ViewOptions, list[str]]:
        """Return which clips of a video or window to classify, and notes on that for the user."""
        overrides = {"sampling_mode": self.sampling_mode, "sampling_rate": self.sampling_rate}
        if self.test_views:
            overrides |= {"test_num_segments": self.num_segments, "test_num_crops": self.num_crops}
        num_segments = 1 if self.num_segments is None else self.num_segments
        num_crops = 1 if self.num_crops is None else self.num_crops
        # Several segments are sampled as in the model's test; one clip as in its validation.
        settings, notes = view_settings(
            str(self.model_name_or_path), config, overrides, for_test=self.test_views or num_segments > 1
        )
        if self.test_views:
            return ViewOptions.of_test(config, settings), notes
        return ViewOptions.of_clip(config, settings, num_segments, num_crops), notes

    def windows(self) -> WindowOptions | None:
        """Return the sliding windows, or None without `window_*`."""
        given = {
            unit: (getattr(self, f"window_{unit}"), getattr(self, f"stride_{unit}")) for unit in ("seconds", "frames")
        }
        used = [unit for unit, values in given.items() if values != (None, None)]
        if not used:
            return None
        if len(used) == 2:
            raise ValueError("Set windows in seconds or in frames, not in both.")
        length, stride = given[used[0]]
        if length is None:
            raise ValueError(f"`stride_{used[0]}` needs `window_{used[0]}`, the length of a window.")
        return WindowOptions(length, stride or length, used[0])


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Classify videos, or detect actions in one; return the results that are printed."""
    return _TASKS[read_task(argv, list(_TASKS), "predict")](argv)


def detect_actions(argv: Sequence[str] | None) -> list[dict[str, Any]]:
    """Find the actions of the persons in one video, timestamp by timestamp."""
    options, model_options = parse_command("predict", argv, "detection")
    source = options.model_name_or_path
    if source is None or options.video is None or options.person_boxes is None:
        raise ValueError("Say what to look at: `--model_name_or_path MODEL --video FILE --person_boxes FILE`.")
    for name in ("top_k", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(options, name)}.")
    # Refuse to replace other people's files now, before minutes of decoding.
    paths = [path for path in (options.output_json, options.output_video) if path is not None]
    outputs = OutputFiles(paths, "amd-hf predict", options.overwrite)
    boxes = read_boxes_of_video(options.person_boxes, options.video, options.min_person_score)
    check_model_source(source, "model_name_or_path")
    precision = precision_for(source, options.engine, options.mixed_precision)
    accelerator = start_accelerator(options.use_cpu, precision, sys.stderr)  # standard output is for results
    model: Any = load_for_inference(source, load_trained_detector, accelerator, options.engine, **model_options)
    processor = load_detection_processor(source, model.config)
    loader = evaluation_clip_loader(
        model.config, processor, options.sampling_rate, options.decoder, options.decode_time_limit
    )
    print_notes(override_notes(read_settings(processor), {"sampling_rate": options.sampling_rate}))
    results = [
        as_json(found, model.config.id2label, options.top_k, options.min_score)
        for found in detect_in_video(model, options.video, boxes, loader, accelerator, options.batch_size)
    ]
    if results and all("error" in result for result in results):
        raise ValueError(f"{options.video} cannot be read: {results[0]['error']}")
    text = json.dumps({"video": options.video, "moments": results}, indent=2)  # "moments": the key of earlier files
    with outputs:
        if options.output_json is None:
            print(text)
        else:
            Path(options.output_json).write_text(text + "\n")
        if options.output_video is not None:
            limit = options.decode_time_limit
            draw_detections(options.video, results, options.output_video, decoder=options.decoder, time_limit=limit)
    return results


def classify_videos(argv: Sequence[str] | None) -> list[dict[str, Any]]:
    """Find the classes of video files, whole or window by window."""
    options, model_options = parse_command("predict", argv, "classification")
    if options.model_name_or_path is None or not options.videos:
        raise ValueError("Say what to classify: `--model_name_or_path MODEL --videos FILE_OR_FOLDER ...`.")
    for name in ("top_k", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(options, name)}.")
    windows = options.windows()
    videos = find_videos(options.videos, options.media)
    check_model_source(options.model_name_or_path, "model_name_or_path")
    source = options.model_name_or_path
    precision = precision_for(source, options.engine, options.mixed_precision)
    accelerator = start_accelerator(options.use_cpu, precision, sys.stderr)
    model: Any = load_for_inference(source, load_tested_classifier, accelerator, options.engine, **model_options)
    views, notes = options.views(model.config)
    print_notes(notes)
    predictions = predict_videos(
        model, videos, views, accelerator, windows=windows, clips_per_batch=options.batch_size,
        num_workers=options.num_workers, decoder=options.decoder, time_limit=options.decode_time_limit,
    )  # fmt: skip
    # Each result is printed and flushed as soon as it is known: others may read them from a pipe.
    print(HEADERS[options.format], end="", flush=True)
    results = []
    for prediction in tqdm(predictions, desc="predict", unit="video", total=len(videos), disable=len(videos) == 1):
        results.append(as_dict(prediction, model.config.id2label, options.top_k))
        print(FORMATS[options.format](results[-1]), end="", flush=True)
    if all("error" in result for result in results):
        raise ValueError("None of the videos could be read.")
    return results


_TASKS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "classification": classify_videos,
    "detection": detect_actions,
}


def print_notes(notes: Sequence[str]) -> None:
    """Print the notes on how the model reads videos to standard error, since standard output holds the results."""
    for note in notes:
        print(note, file=sys.stderr, flush=True)


def run(argv: Sequence[str] | None = None) -> None:
    """Run the command from a shell: exit code 1 if some files could not be read."""

    def predict() -> None:
        # A Python caller of `main` gets the results instead. Code 2 is for errors, see `run_program`.
        if any("error" in result for result in main(argv)):
            raise SystemExit(1)

    run_program(predict)


if __name__ == "__main__":
    from . import start

    start("predict")
