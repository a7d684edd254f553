"""Asymmetric Masked Distillation (AMD, CVPR 2024) for Hugging Face Transformers.

Importing the package registers model type `amd` with Transformers' Auto classes and does nothing else. It takes
milliseconds: every public name is loaded when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from .moved_modules import find_moved_modules
from .registration import register_with_transformers


if TYPE_CHECKING:  # what `_LAZY_NAMES` does at run time, for editors and type checkers; a test compares the two
    from .checkpoints.conversion import convert_checkpoint, export_checkpoint
    from .configuration_amd import AMDConfig
    from .cpu import optimize_for_cpu
    from .data.loading import load_image_dataset, load_video_dataset
    from .detection.datasets.ava import load_action_dataset
    from .detection.trainer import AMDDetectionTrainer
    from .detection.training_arguments import AMDDetectionArguments
    from .export.exporting import export_model
    from .finetuning.arguments import AMDFineTuningArguments
    from .finetuning.trainer import AMDFineTuningTrainer
    from .modeling_amd import AMDForImageClassification, AMDForPreTraining, AMDForVideoClassification, AMDModel
    from .modeling_amd_detection import AMDForActionDetection
    from .pretraining.arguments import AMDTrainingArguments
    from .pretraining.trainer import AMDTrainer
    from .teachers.loading import load_teacher
    from .video_processing_amd import AMDVideoProcessor

__version__ = "0.1.0.dev0"

# Where each public name lives. All are loaded on first use: PyTorch, the Trainer, datasets take seconds.
_LAZY_NAMES = {
    "AMDConfig": "configuration_amd",
    "AMDModel": "modeling_amd",
    "AMDForPreTraining": "modeling_amd",
    "AMDForVideoClassification": "modeling_amd",
    "AMDForImageClassification": "modeling_amd",
    "AMDForActionDetection": "modeling_amd_detection",
    "AMDVideoProcessor": "video_processing_amd",
    "AMDTrainer": "pretraining.trainer",
    "AMDTrainingArguments": "pretraining.arguments",
    "AMDFineTuningTrainer": "finetuning.trainer",
    "AMDFineTuningArguments": "finetuning.arguments",
    "load_teacher": "teachers.loading",
    "optimize_for_cpu": "cpu",
    "convert_checkpoint": "checkpoints.conversion",
    "export_checkpoint": "checkpoints.conversion",
    "export_model": "export.exporting",
    "load_video_dataset": "data.loading",
    "load_image_dataset": "data.loading",
    "AMDDetectionTrainer": "detection.trainer",
    "AMDDetectionArguments": "detection.training_arguments",
    "load_action_dataset": "detection.datasets.ava",
}

__all__ = list(_LAZY_NAMES)

register_with_transformers()
find_moved_modules()

# `transformers.logging` governs what this package logs too: level, handlers and propagation are those of its loggers.
logging.getLogger(__name__).parent = logging.getLogger("transformers")


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f".{_LAZY_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY_NAMES])
