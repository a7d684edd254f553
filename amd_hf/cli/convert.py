"""Convert an official AMD, VideoMAE or MAE checkpoint, or a Transformers folder of theirs, to our format, or back.

amd-hf convert --source checkpoint.pth --output_dir converted/
amd-hf convert --source converted/ --to_official checkpoint.pth
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from .. import AMDConfig, AMDForPreTraining, convert_checkpoint, export_checkpoint
from ..checkpoints.reading import CONFIG_ENTRY, VIEWS_ENTRY
from ..models import build_processor, classifier_class, load_processor, override_notes, read_settings
from ..options.commands import parse_command
from ..training.summary import describe_model
from ..video_sampling_amd import SAMPLING_MODES
from ..view_settings import DATA_SETS


@dataclass
class ConvertOptions:
    """The checkpoint to convert, and where to write the result."""

    source: str | None = field(default=None, metadata={"help": "File or folder to convert."})
    output_dir: str | None = field(default=None, metadata={"help": "New folder for the converted model."})
    to_official: str | None = field(
        default=None,
        metadata={"help": "Write an official file of this name instead; `source` is an `amd` folder then."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Kind of model, if the file does not decide it; `pretraining`, `classification` or `detection`, "
            "or `encoder` to leave the head out."
        },
    )
    projection_by_position: bool = field(
        default=False, metadata={"help": "Copy a projection that serves several student layers to each of them."}
    )
    include_generator_mask_tokens: bool = field(
        default=False,
        metadata={"help": "With `to_official`: also write the generators' mask tokens, under our own name for them."},
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Data set that the model was trained on; it decides how the saved processor reads videos. By "
            "default read from the file.",
            "choices": list(DATA_SETS),
        },
    )
    sampling_mode: str | None = field(
        default=None,
        metadata={
            "help": "How frames of a clip are sampled; by default the data set's way.",
            "choices": list(SAMPLING_MODES),
        },
    )
    sampling_rate: int | None = field(
        default=None, metadata={"help": "Step between frames; by default the data set's."}
    )


def main(argv: Sequence[str] | None = None) -> Path:
    """Convert a checkpoint; return the path of the result."""
    options, model_options = parse_command("convert", argv)
    if options.source is None or (options.output_dir is None) == (options.to_official is None):
        raise ValueError("Set `--source` and either `--output_dir` (to our format) or `--to_official` (back).")
    target = Path(options.output_dir or options.to_official)
    # Never into an existing folder: a model would be a mixture of old and new files.
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{target} exists already: choose another name, or remove it first.")
    if options.to_official:
        write_official(options, target)
    else:
        model = convert_checkpoint(
            options.source,
            task=options.task,
            projection_by_position=options.projection_by_position,
            dataset=options.dataset,
            **model_options,
        )
        print(model.conversion_report)
        views = model.conversion_report.views
        given = {"sampling_mode": options.sampling_mode, "sampling_rate": options.sampling_rate}
        for note in override_notes(views, given):
            print(note)
        views = replace(views, **{name: value for name, value in given.items() if value is not None})
        # The processor holds how the model reads videos: without it users would have to know the authors' settings.
        model.save_pretrained(target)
        build_processor(model.config, views).save_pretrained(target)
        print(f"{describe_model(model)}\nThe converted model is in {target}")
    return target


def write_official(options: ConvertOptions, target: Path) -> None:
    """Write an `amd` folder in the format of the authors' code, under the key `model`."""
    config = AMDConfig.from_pretrained(options.source)
    is_pretraining = "AMDForPreTraining" in (config.architectures or [])
    kind = AMDForPreTraining if is_pretraining else classifier_class(config)
    state_dict = export_checkpoint(kind.from_pretrained(options.source), options.include_generator_mask_tokens)
    target.parent.mkdir(parents=True, exist_ok=True)
    views = asdict(read_settings(load_processor(str(options.source), config)))
    # With config and settings in the file, converting it back needs no options.
    torch.save({"model": state_dict, CONFIG_ENTRY: config.to_dict(), VIEWS_ENTRY: views}, target)
    print(f"{len(state_dict)} tensors under official names are in {target}")


if __name__ == "__main__":
    from . import start

    start("convert")
