"""Write the features of a frozen encoder for every video of a data set.

amd-hf features --model_name_or_path student/ --data videos/ --tensors pooled layer_6_pooled \
    --output_dir features/

What the tensors hold: amd_hf/evaluation/features.py. Unreadable videos are listed in unreadable.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.features import FeatureOptions, extract_features
from ..evaluation.multiview import ViewOptions
from ..export.running import describe_engine, load_for_inference, precision_for
from ..models import load_model, view_settings
from ..options.commands import parse_command
from ..options.parsing import check_model_source
from ..options.shared import InferenceOptions
from ..training.precision import start_accelerator
from ..video_sampling_amd import SAMPLING_MODES


@dataclass
class ExtractOptions(InferenceOptions):
    """The encoder, its features, and where to write them."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id, folder or official file; a classifier is used without its head."}
    )
    split: str | None = field(default=None, metadata={"help": "Split of `data` to read."})
    output_dir: str = field(default="features", metadata={"help": "Folder for the features."})
    resume: bool = field(default=False, metadata={"help": "Continue in a folder that already holds features."})
    tensors: list[str] = field(
        default_factory=lambda: ["pooled"],
        metadata={"help": "Features to write: pooled, tokens, layer_I, layer_I_pooled (I counts blocks from 1)."},
    )
    format: str = field(
        default="safetensors", metadata={"help": "File format.", "choices": ["safetensors", "parquet"]}
    )
    dtype: str = field(
        default="float32", metadata={"help": "Data type of the features.", "choices": ["float32", "float16"]}
    )
    num_segments: int = field(
        default=1, metadata={"help": "Number of clips along the video; 1 takes a representative one."}
    )
    num_crops: int = field(default=1, metadata={"help": "Number of crops along the long side."})
    sampling_mode: str | None = field(
        default=None,
        metadata={
            "help": "How frames are sampled; by default the model's way.",
            "choices": list(SAMPLING_MODES),
        },
    )
    batch_size: int = field(default=8, metadata={"help": "Videos per batch."})
    videos_per_file: int = field(
        default=512, metadata={"help": "Videos per file; features stay in memory until a file is written."}
    )
    num_workers: int = field(default=0, metadata={"help": "Number of processes that decode videos."})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Write the features of all videos of a data set; return a summary."""
    data, options, model_options = parse_command("features", argv)
    if options.model_name_or_path is None or data.data is None:
        raise ValueError("Say what to extract from what: `--model_name_or_path MODEL --data FOLDER_OR_FILE`.")
    check_model_source(options.model_name_or_path, "model_name_or_path")
    # Before the model is loaded: a mistyped tensor should not wait for the weights.
    features = FeatureOptions(
        options.model_name_or_path, tuple(options.tensors), format=options.format, dtype=options.dtype
    )
    source = options.model_name_or_path
    precision = precision_for(source, options.engine, options.mixed_precision)
    accelerator = start_accelerator(options.use_cpu, precision)
    # A classifier's base model is its encoder; an exported encoder must hold the layers that are read.
    encoder: Any = load_for_inference(
        source, lambda *args, **kwargs: load_model(*args, **kwargs).base_model, accelerator, options.engine,
        features.layers, **model_options,
    )  # fmt: skip
    overrides = {"sampling_mode": options.sampling_mode, "sampling_rate": options.sampling_rate}
    settings, notes = view_settings(
        options.model_name_or_path, encoder.config, overrides, for_test=options.num_segments > 1
    )
    views = ViewOptions.of_clip(encoder.config, settings, options.num_segments, options.num_crops)
    rows = data.load(options.split)
    if accelerator.is_main_process:
        for note in notes:
            print(note)
        print(f"encoder: {describe_engine(encoder)}")
        print(f"{len(rows):,} videos x {views.num_views} views, tensors: {', '.join(features.tensors)}", flush=True)
    summary = extract_features(
        encoder, rows, views, features, options.output_dir, accelerator, resume=options.resume,
        videos_per_batch=options.batch_size, videos_per_file=options.videos_per_file,
        num_workers=options.num_workers, decoder=options.decoder, time_limit=options.decode_time_limit,
    )  # fmt: skip
    if accelerator.is_main_process:
        for entry in summary["unreadable"]:
            print(f"unreadable, without features: {entry['video_id']}: {entry['reason']}")
        print(
            f"{summary['written']:,} of {summary['videos']:,} videos written to {options.output_dir}, "
            f"{summary['already_done']:,} were there, {len(summary['unreadable']):,} cannot be read"
        )
    return summary


if __name__ == "__main__":
    from . import start

    start("features")
