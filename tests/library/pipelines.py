"""What the library's tests of pipelines take from the Hub and from files that its source distribution leaves out.

They load tiny models by name, and tell by classes of each task how to make a pipeline and what must come out.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedModel, VideoMAEImageProcessor, VideoMAEVideoProcessor, pipeline

from amd_hf import AMDVideoProcessor
from amd_hf.models import build_processor
from tests.helpers.videos import write_video


_FOLDER = Path(tempfile.mkdtemp(prefix="tiny_models_"))


def save_tiny_models(models: list[PreTrainedModel]) -> None:
    """Save models where the library's tests look for them, which must not be imported before."""
    summary = {}
    for model in models:
        kind, config = type(model).__name__, model.config
        folder = _FOLDER / config.model_type / kind
        model.save_pretrained(folder)
        processor = VideoMAEImageProcessor() if config.model_type == "videomae" else _image_processor(config)
        processor.save_pretrained(folder)
        summary[kind] = {"tokenizer_classes": [], "processor_classes": [type(processor).__name__]}
    (_FOLDER / "reports").mkdir()
    (_FOLDER / "reports/tiny_model_summary.json").write_text(json.dumps(summary))
    os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = str(_FOLDER)


def _image_processor(config: Any) -> Any:
    return build_processor(config.with_options(num_frames=1, tubelet_size=1))


def _check_answers(answers: list[dict[str, Any]], labels: dict[int, str], top_k: int) -> None:
    scores = [answer["score"] for answer in answers]
    assert len(answers) == top_k
    assert {answer["label"] for answer in answers} <= set(labels.values())
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


class VideoClassificationPipelineTests:
    """Files in, the best labels out."""

    def get_test_pipeline(
        self, model: PreTrainedModel, *_: Any, image_processor: Any, dtype: str, **__: Any
    ) -> tuple[Any, list[str]]:
        config = model.config
        if config.model_type == "amd":
            processor = AMDVideoProcessor.for_model(config)
        else:
            size = {"height": config.image_size, "width": config.image_size}
            processor = VideoMAEVideoProcessor(size={"shortest_edge": config.image_size}, crop_size=size)
        names = [str(write_video(_FOLDER / f"{count}.mp4", count, 48, 64)) for count in (20, 9)]
        # The library makes batches only where there is an image processor too, which is not asked for videos then.
        processors = {"video_processor": processor, "image_processor": image_processor}
        return pipeline("video-classification", model=model, dtype=dtype, top_k=2, **processors), names

    def run_pipeline_test(self, made: Any, examples: list[str]) -> None:
        labels = made.model.config.id2label
        for answers in (made(examples[0]), *made(examples)):
            _check_answers(answers, labels, top_k=2)
        _check_answers(made(examples[1], top_k=1), labels, top_k=1)


class ImageClassificationPipelineTests:
    """Images of any mode and files in, the best labels out."""

    def get_test_pipeline(
        self, model: PreTrainedModel, *_: Any, image_processor: Any, dtype: str, **__: Any
    ) -> tuple[Any, list[Any]]:
        noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8))
        noise.save(_FOLDER / "noise.png")
        images = [noise, *(noise.convert(mode) for mode in ("L", "RGBA", "LA")), str(_FOLDER / "noise.png")]
        made = pipeline("image-classification", model=model, image_processor=image_processor, dtype=dtype, top_k=2)
        return made, images

    def run_pipeline_test(self, made: Any, examples: list[Any]) -> None:
        answers = made(examples)
        assert answers[0] == answers[-1]  # the same image as an object and as a file
        for found in answers:
            _check_answers(found, made.model.config.id2label, top_k=2)
