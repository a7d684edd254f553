"""Asymmetric Masked Distillation (AMD, CVPR 2024) for Hugging Face Transformers.

Importing the package registers model type `amd` with the Auto classes and does nothing else; every public name is
loaded when it is first used.
"""

import importlib
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    BitImageProcessor,
)

from .configuration_amd import AMDConfig
from .modeling_amd import AMDForImageClassification, AMDForPreTraining, AMDForVideoClassification, AMDModel
from .modeling_amd_detection import AMDForActionDetection
from .video_processing_amd import AMDVideoProcessor


__version__ = "0.1.0.dev0"

# Loaded on first use: these pull in the Trainer, datasets or a decoder, which `import amd_hf` must not.
_LAZY_NAMES = {
    "AMDTrainer": "training.pretraining",
    "AMDTrainingArguments": "training.pretraining_args",
    "AMDFineTuningTrainer": "training.finetuning",
    "AMDFineTuningArguments": "training.finetuning_args",
    "load_teacher": "teacher",
    "convert_checkpoint": "conversion",
    "export_checkpoint": "conversion",
    "load_video_dataset": "data.loading",
    "load_image_dataset": "data.loading",
    "AMDDetectionTrainer": "training.detection",
    "AMDDetectionArguments": "training.detection_args",
    "load_action_dataset": "data.readers.ava",
}

__all__ = [
    "AMDConfig",
    "AMDForActionDetection",
    "AMDForImageClassification",
    "AMDForPreTraining",
    "AMDForVideoClassification",
    "AMDModel",
    "AMDVideoProcessor",
    *_LAZY_NAMES,
]

AutoConfig.register("amd", AMDConfig)
AutoModel.register(AMDConfig, AMDModel)
AutoModelForPreTraining.register(AMDConfig, AMDForPreTraining)
AutoModelForVideoClassification.register(AMDConfig, AMDForVideoClassification)
AutoModelForImageClassification.register(AMDConfig, AMDForImageClassification)
AutoImageProcessor.register(AMDConfig, BitImageProcessor)
AutoVideoProcessor.register(AMDConfig, AMDVideoProcessor)


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f".{_LAZY_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY_NAMES])
