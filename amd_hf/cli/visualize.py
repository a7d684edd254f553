"""Pictures of a pre-trained model on held-out clips: what it reconstructs, and how alike its teacher's features are.

amd-hf visualize --model_name_or_path my_student --teacher MCG-NJU/videomae-large --data videos/ \
    --split validation --output_dir pictures

Without a teacher: reconstructions.png alone. With one also similarity.png and similarity.json: linear CKA of every
student layer with every teacher layer. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .. import AMDForPreTraining
from ..data.clips import ClipLoader, PreTrainingCollator
from ..models import load_model, view_settings
from ..options.commands import parse_command
from ..options.parsing import check_model_source
from ..options.shared import DecodingOptions, DeviceOptions, OverwriteOptions
from ..outputs.files import OutputFiles
from ..pretraining.distillation import MaskGenerator
from ..pretraining.similarity import layer_similarity
from ..pretraining.visualization import (
    draw_reconstructions,
    reconstruct_clips,
    save_similarity,
    spread_over_classes,
)
from ..teachers.frozen import FrozenTeacher
from ..training.precision import start_accelerator
from ..video_sampling_amd import SAMPLING_MODES


@dataclass
class VisualizeOptions(OverwriteOptions, DecodingOptions, DeviceOptions):
    """The model and its teacher, and where to write the pictures."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id, folder or official file of the model."}
    )
    teacher: str | None = field(default=None, metadata={"help": "Hub id, folder or official file of its teacher."})
    split: str | None = field(default=None, metadata={"help": "Split of `data` to read."})
    output_dir: str = field(default="pictures", metadata={"help": "Folder for the pictures."})
    num_clips: int = field(
        default=32, metadata={"help": "Clips to compare by CKA; they are spread evenly over the data."}
    )
    num_shown: int = field(default=3, metadata={"help": "Number of clips to draw; from as many classes as possible."})
    sampling_mode: str | None = field(
        default=None,
        metadata={
            "help": "How frames are sampled; by default the model's way.",
            "choices": list(SAMPLING_MODES),
        },
    )
    sampling_rate: int | None = field(default=None, metadata={"help": "Step between frames; by default the model's."})
    seed: int = field(default=0, metadata={"help": "Seed of the masks."})


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Draw a pre-trained model's reconstructions; return its similarity to its teacher."""
    data, options, model_options, teacher_options = parse_command("visualize", argv)
    if options.model_name_or_path is None or data.data is None:
        raise ValueError("Say whose pictures of what: `--model_name_or_path MODEL --data FOLDER_OR_FILE`.")
    folder = Path(options.output_dir)
    names = ["reconstructions.png", *(["similarity.json", "similarity.png"] if options.teacher else [])]
    outputs = OutputFiles([folder / name for name in names], "amd-hf visualize", options.overwrite, folder=folder)
    check_model_source(options.model_name_or_path, "model_name_or_path")
    check_model_source(options.teacher, "teacher")
    model = load_model(options.model_name_or_path, **model_options)
    if not isinstance(model, AMDForPreTraining):
        raise ValueError(f"{options.model_name_or_path} holds {type(model).__name__}: take a pre-trained model.")
    accelerator = start_accelerator(options.use_cpu, options.mixed_precision)
    rows, collator = data.load(options.split), _collator(model, options)
    # Chosen by class, since neighbouring rows often show the same one.
    shown = collator([rows[index] for index in spread_over_classes(rows["label"], options.num_shown)])
    if shown["pixel_values"] is None:
        raise ValueError(f"None of the {shown['num_tried']} videos chosen can be read: {shown['unreadable'][:1]}.")
    inputs = ("pixel_values", "bool_masked_pos", "teacher_bool_masked_pos")
    clips, mask, teacher_mask = (None if shown.get(name) is None else shown[name] for name in inputs)
    frames = reconstruct_clips(model, clips, mask, teacher_mask)
    with outputs:
        print(f"Reconstructions: {draw_reconstructions(frames, folder / 'reconstructions.png')}")
        if options.teacher is None:
            return {}
        teacher = FrozenTeacher.fit(options.teacher, model.config, teacher_options).to(accelerator.device)
        return _compare(model.to(accelerator.device), teacher, rows, collator, options, accelerator, folder)


def _collator(model: AMDForPreTraining, options: VisualizeOptions) -> PreTrainingCollator:
    """Return a collator of the clips of validation, centre crops, with masks that depend on seed and video alone."""
    config = model.config
    overrides = {"sampling_mode": options.sampling_mode, "sampling_rate": options.sampling_rate}
    settings, notes = view_settings(str(options.model_name_or_path), config, overrides)
    for note in notes:
        print(note)
    loader = ClipLoader.for_settings(
        config, settings, seed=options.seed, decoder=options.decoder, decode_time_limit=options.decode_time_limit
    )
    return PreTrainingCollator(loader, MaskGenerator(config, options.teacher is not None), training=False)


def _compare(
    model: AMDForPreTraining,
    teacher: FrozenTeacher,
    rows: Any,
    collator: PreTrainingCollator,
    options: VisualizeOptions,
    accelerator: Accelerator,
    folder: Path,
) -> dict[str, float]:
    found = layer_similarity(model, teacher, rows, collator, accelerator, max_clips=options.num_clips)
    for video_id, reason in found.unreadable:
        print(f"unreadable, left out: {video_id}: {reason}")
    print(f"Student and teacher, layer by layer: {save_similarity(found, folder)}")
    for name, value in found.metrics().items():
        print(f"{name}: {value:.4f}")
    return found.metrics()


if __name__ == "__main__":
    from . import start

    start("visualize")
