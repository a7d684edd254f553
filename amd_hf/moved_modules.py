"""Modules under the names that they had in earlier releases: importing one still works, and says where it is now."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any


# Old name -> new name, both below `amd_hf`, or with `/` in front beside it in a clone; several new names where a
# module was taken apart. A folder that is gone stands here too. To be emptied one release after 0.1.
MOVED_MODULES = {
    "cards": "hub.cards",
    "cards.escaping": "hub.cards",
    "cards.file_texts": "hub.checks",
    "cards.metadata": "hub.cards",
    "cards.pages": "/tools.zoo",
    "cards.privacy": "hub.privacy",
    "cards.runs": "hub.cards",
    "cards.zoo": "/tools.zoo",
    "checkpoint_files": "checkpoints.reading",
    "checkpoint_geometry": "checkpoints.conversion",
    "checkpoint_keys": "checkpoints.conversion",
    "checkpoint_layouts": "checkpoints.reading",
    "checkpoint_mae": "checkpoints.reading",
    "checkpoint_positions": "checkpoints.conversion",
    "checkpoint_report": "checkpoints.report",
    "checkpoint_views": "checkpoints.report",
    "classifiers": "models data.datasets.label_names",
    "conversion": "checkpoints.conversion",
    "csv_text": "outputs.csv_text",
    "data.action_arguments": "detection.arguments",
    "data.boxes": "detection.boxes",
    "data.clip_operations": "data.augment.clip_operations",
    "data.collators": "data.clips",
    "data.container_ends": "data.checking",
    "data.decode_server": "data.video.decoding_process",
    "data.decoders": "data.video.decoders",
    "data.decoders.decord_reader": "data.video.decoders",
    "data.decoders.guarded": "data.video.decoders",
    "data.decoders.images": "data.video.decoders",
    "data.decoders.torchcodec_reader": "data.video.decoders",
    "data.decoding": "data.video.decoding",
    "data.detection_clips": "detection.clips",
    "data.detection_collator": "detection.clips",
    "data.erasing": "data.augment.erasing",
    "data.hsv": "data.augment.hsv",
    "data.key_frames": "data.video.key_frames",
    "data.loader": "data.loaders",
    "data.motion_people": "/examples.motion_people",
    "data.motion_shapes": "/examples.motion_shapes",
    "data.own_datasets": "data.datasets.own",
    "data.rand_augment": "data.augment.rand_augment",
    "data.readers": "data.datasets",
    "data.readers.action_videos": "detection.datasets.action_videos",
    "data.readers.ava": "detection.datasets.ava",
    "data.readers.ava_files": "detection.datasets.ava_files",
    "data.readers.class_folders": "data.datasets.layouts.class_folders",
    "data.readers.entries": "data.datasets.rows",
    "data.readers.guess": "data.datasets.layouts",
    "data.readers.hmdb51": "data.datasets.layouts.hmdb51",
    "data.readers.kinetics": "data.datasets.layouts.kinetics",
    "data.readers.label_names": "data.datasets.label_names",
    "data.readers.list_file": "data.datasets.layouts.list_file",
    "data.readers.listing": "data.datasets.listing",
    "data.readers.parquet": "data.datasets.layouts.parquet",
    "data.readers.problems": "data.datasets.problems",
    "data.readers.rows": "data.datasets.rows",
    "data.readers.something_something": "data.datasets.layouts.something_something",
    "data.readers.splits": "data.datasets.layouts",
    "data.readers.table": "data.datasets.layouts.table",
    "data.readers.text_files": "data.datasets.text_files",
    "data.readers.ucf101": "data.datasets.layouts.ucf101",
    "data.readers.videofolder": "data.datasets.layouts.videofolder",
    "data.readers.webdataset": "data.datasets.layouts.webdataset",
    "data.shape_images": "/examples.shape_images",
    "data.stream_loader": "data.loaders",
    "data.supervised": "data.video.decoding_process",
    "data.transforms": "data.augment.transforms",
    "data.video_pointers": "data.video.source",
    "data.video_readers": "data.video.decoding",
    "data.video_source": "data.video.source",
    "detection_video": "detection.drawing",
    "detectors": "models",
    "evaluation.ava_files": "detection.mean_average_precision",
    "evaluation.ava_map": "detection.mean_average_precision",
    "evaluation.detection": "detection.evaluation",
    "evaluation.detection_prediction": "detection.prediction",
    "evaluation.detection_report": "detection.evaluation",
    "evaluation.prediction_formats": "evaluation.prediction",
    "evaluation.similarity": "pretraining.similarity",
    "evaluation.windows": "evaluation.prediction",
    "hub_reader": "hub.reader",
    "hub_sources": "hub.checks",
    "image_processing": "models",
    "masking": "pretraining.distillation",
    "options_files": "options.recipe_files",
    "output_files": "outputs.files",
    "output_folders": "outputs.folders",
    "programs": "options.programs",
    "recipes": "options.parsing",
    "processors": "models",
    "saved_layouts": "checkpoints.saved_layouts",
    "sources": "models",
    "teacher": "teachers.loading teachers.frozen",
    "training.base": "training.trainer",
    "training.base_args": "training.arguments",
    "training.detection": "detection.trainer",
    "training.detection_args": "detection.training_arguments",
    "training.ema": "finetuning.ema",
    "training.finetuning": "finetuning.trainer",
    "training.finetuning_args": "finetuning.arguments",
    "training.losses": "pretraining.distillation",
    "training.collators": "training.views",
    "training.metrics": "training.monitoring",
    "training.mixing": "finetuning.mixing",
    "training.processors": "training.views",
    "training.publishing": "training.trainer",
    "training.optim": "training.steps",
    "training.pretraining": "pretraining.trainer",
    "training.pretraining_args": "pretraining.arguments",
    "training.reading_log": "training.monitoring",
    "training.recipe_check": "finetuning.recipe_check",
    "training.resumable": "training.trainer",
    "training.step_batches": "training.steps",
    "training.stream_runs": "training.checkpoints",
    "training.throughput": "training.monitoring",
    "training.trained_parts": "finetuning.trained_parts",
    "visualization": "pretraining.visualization",
}


class _MovedModule(ModuleType):
    """Stand-in for a module under its old name; whatever is asked of it comes from the module itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # the import system asks for `__path__` and the like
            raise AttributeError(name)
        parts = [importlib.import_module(part) for part in self.__dict__["_parts"]]
        return getattr(next((part for part in parts if hasattr(part, name)), parts[0]), name)


class _MovedModulesFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finder of the modules of the table."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != __package__ or old not in MOVED_MODULES:
            return None
        is_folder = any(name.startswith(f"{old}.") for name in MOVED_MODULES)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=is_folder)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        parts = MOVED_MODULES[spec.name.partition(".")[2]].split()
        module = _MovedModule(spec.name)
        module.__dict__["_parts"] = [
            part.removeprefix("/") if part.startswith("/") else f"{__package__}.{part}" for part in parts
        ]
        return module

    def exec_module(self, module: ModuleType) -> None:
        now = module.__dict__["_parts"][0]
        try:
            importlib.import_module(now)
        except ModuleNotFoundError as error:
            if error.name not in (now, now.partition(".")[0]):
                raise
            raise ModuleNotFoundError(
                f"`{module.__name__}` is now `{now}`, which the wheel does not have: run from a clone.",
                name=module.__name__,
            ) from None
        # The caller's line is beyond the frames of the import system, which warnings leave out of the count.
        warnings.warn(f"`{module.__name__}` is now `{now}`", DeprecationWarning, stacklevel=2)


def find_moved_modules() -> None:
    """Let Python's imports find modules under their old names too. Calling it again does nothing."""
    if not any(isinstance(finder, _MovedModulesFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModulesFinder())


__all__ = ["MOVED_MODULES", "find_moved_modules"]
