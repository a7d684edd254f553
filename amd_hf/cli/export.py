"""Export a model to ONNX, OpenVINO, ExecuTorch or `torch.export`, and compare what came out with what went in.

amd-hf export --model_name_or_path finetuned/ --format onnx --data videos/ --split test --output_dir exported/
amd-hf export --model_name_or_path finetuned/ --format openvino --int8 true --data videos/ --train_split train \
    --split test --output_dir exported_int8/

`--data` are videos of yours: int8 is calibrated on some, and both models are compared on others. The folder is a model
for `amd-hf predict` and `amd-hf evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import set_seed

from ..data.arguments import DataArguments
from ..evaluation.checks import check_head_is_trained
from ..export.exporting import export_model, output_files, table_lines
from ..export.formats import check_packages, check_request, default_input_type, kind_of, part_to_export
from ..modeling_amd import AMDForVideoClassification
from ..models import load_model, load_processor
from ..options.commands import parse_command
from ..options.parsing import check_model_source
from ..options.shared import DecodingOptions, OverwriteOptions
from ..training.summary import describe_model


@dataclass
class ExportOptions(OverwriteOptions, DecodingOptions):
    """What to export, to what, and on which videos it is calibrated and compared."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id, folder or official file."})
    format: str = field(
        default="onnx",
        metadata={
            "help": "What to export to.",
            "choices": ["onnx", "openvino", "executorch", "torch_export"],
        },
    )
    output_dir: str = field(default="exported", metadata={"help": "Folder for the exported model."})
    int8: bool = field(
        default=False, metadata={"help": "Weights and activations in int8 (onnx, openvino), calibrated on `data`."}
    )
    input_type: str | None = field(
        default=None,
        metadata={
            "help": "What it takes: raw clips or normalised ones; by default uint8, of detectors float.",
            "choices": ["uint8", "float"],
        },
    )
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Clips at a time; by default any number (ExecuTorch and detectors: 1)."},
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Split of `data` to calibrate int8 on; by default all of `data`."}
    )
    split: str | None = field(
        default=None, metadata={"help": "Split of `data` to compare both models on; by default all of `data`."}
    )
    num_calibration_videos: int = field(
        default=64, metadata={"help": "Videos that int8 is calibrated on, spread evenly over them."}
    )
    num_videos: int = field(
        default=256, metadata={"help": "Videos that both models are compared on, spread evenly; one clip of each."}
    )
    measure_speed: bool = field(
        default=True, metadata={"help": "Time the exported model beside PyTorch, each in a process of its own."}
    )
    allow_untrained_head: bool = field(
        default=False, metadata={"help": "Export a classifier although its head was never trained."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_calibration_videos", "num_videos"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Export a model; return the report."""
    data, options, model_options = parse_command("export", argv)
    source = options.model_name_or_path
    if source is None:
        raise ValueError("Say what to export: `--model_name_or_path MODEL`.")
    if options.int8 and data.data is None:
        raise ValueError("int8 is calibrated on videos of yours: `--data FOLDER_OR_FILE`.")
    output_files(options.output_dir, options.format, options.overwrite)  # refused before anything is loaded
    check_packages(options.format, options.int8)
    check_model_source(source, "model_name_or_path")
    model = load_model(source, **model_options)
    processor = load_processor(source, model.config)
    kind = kind_of(part_to_export(model))
    check_request(
        kind, options.format, options.input_type or default_input_type(kind), options.batch_size, options.int8
    )
    if isinstance(model, AMDForVideoClassification) and not options.allow_untrained_head:
        check_head_is_trained(model, source)
    print(f"{kind}: {source}: {describe_model(part_to_export(model))}", flush=True)
    calibration, comparison = load_videos(data, options)
    set_seed(0)
    report = export_model(
        model, options.output_dir, options.format, processor=processor, input_type=options.input_type,
        batch_size=options.batch_size, int8=options.int8, calibration=calibration, comparison=comparison,
        measure_speed=options.measure_speed, overwrite=options.overwrite, name=source.rstrip("/").split("/")[-1],
        decoder=options.decoder, decode_time_limit=options.decode_time_limit,
    )  # fmt: skip
    print("\n".join(table_lines(report)))
    print(f"The exported model is in {options.output_dir}")
    return report


def load_videos(data: DataArguments, options: ExportOptions) -> tuple[Any, Any]:
    """Return the videos that int8 is calibrated on and those to compare on; None for each that is not wanted."""
    if data.data is None:
        return None, None
    calibration = None
    if options.int8:
        split = options.train_split if options.train_split is not None else options.split
        calibration = spread(data.load(split, split_option="train_split"), options.num_calibration_videos)
    return calibration, spread(data.load(options.split), options.num_videos)


def spread(rows: Any, most: int) -> Any:
    """Return at most so many rows, spread evenly over all: they are often sorted by class."""
    if len(rows) <= most:
        return rows
    return rows.select([number * len(rows) // most for number in range(most)])


if __name__ == "__main__":
    from . import start

    start("export")
