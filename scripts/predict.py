"""Classify video files.

python scripts/predict.py --model_name_or_path finetuned/ --videos clip.mp4 other.mp4
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from accelerate import Accelerator
from tqdm.auto import tqdm

from amd_hf.classifiers import load_trained_classifier
from amd_hf.data.decoding import VideoReadError
from amd_hf.evaluation.multiview import ViewCollator, ViewOptions, class_probabilities
from amd_hf.recipes import check_model_source, parse_recipe, run_program
from amd_hf.sources import load_processor


@dataclass
class PredictOptions:
    """What to classify, and with what."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder of the classifier."})
    videos: list[str] = field(default_factory=list, metadata={"help": "Video files."})
    top_k: int = field(default=5, metadata={"help": "Classes shown per video."})
    num_segments: int = field(default=1, metadata={"help": "Clips along the video, averaged."})
    num_crops: int = field(default=1, metadata={"help": "Crops along the long side, averaged."})
    json: bool = field(default=False, metadata={"help": "Print one JSON object per video instead of text."})
    decoder: str | None = field(default=None, metadata={"help": "Video decoder by name."})
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU although there is a GPU."})


def main(argv: Sequence[str] | None = None) -> list[dict]:
    options, model_options = parse_recipe((PredictOptions,), argv, __doc__)
    if options.model_name_or_path is None or not options.videos:
        raise ValueError("Say what to classify: `--model_name_or_path MODEL --videos FILE ...`.")
    if options.top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, got {options.top_k}.")
    check_model_source(options.model_name_or_path, "model_name_or_path")
    accelerator = Accelerator(cpu=options.use_cpu)
    model = load_trained_classifier(options.model_name_or_path, **model_options).to(accelerator.device)
    processor = load_processor(options.model_name_or_path, model.config)
    reader = ViewCollator(
        ViewOptions.for_model(
            model.config,
            sampling_rate=processor.sampling_rate,
            num_segments=options.num_segments,
            num_crops=options.num_crops,
        ),
        options.decoder,
    )
    results = []
    for path in tqdm(options.videos, desc="predict", unit="video", disable=len(options.videos) == 1):
        try:
            views = reader.views(path)
        except VideoReadError as error:
            results.append({"video": path, "error": error.reason})
            continue
        probabilities = class_probabilities(model, views.to(accelerator.device), accelerator).mean(dim=0)
        scores, classes = probabilities.topk(min(options.top_k, model.config.num_labels))
        names = [model.config.id2label[number] for number in classes.tolist()]
        results.append({"video": path, "predictions": dict(zip(names, scores.tolist(), strict=True))})
    for result in results:
        print(json.dumps(result) if options.json else as_text(result))
    if all("error" in result for result in results):
        raise ValueError("None of the videos could be read.")
    return results


def as_text(result: dict) -> str:
    """One video's result for people."""
    if "error" in result:
        return f"{result['video']}: cannot be read: {result['error']}"
    scores = "".join(f"\n  {score:6.1%}  {name}" for name, score in result["predictions"].items())
    return f"{result['video']}{scores}"


if __name__ == "__main__":
    run_program(main)
