"""`export_model`: a folder that runs without PyTorch, and a report of what the export changed."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME

from ..evaluation.checks import match_labels
from ..evaluation.multiview import ViewCollator, ViewOptions
from ..hub.cards import CARD_NAME, TAGS, code_span, escape_markdown
from ..modeling_amd import AMDPreTrainedModel
from ..models import EXPORT_MANIFEST_NAME, build_processor, read_settings
from ..outputs.files import OutputFiles
from ..outputs.folders import CODE_FILES
from .formats import (
    FORMATS,
    check_packages,
    check_request,
    default_input_type,
    export_program,
    kind_of,
    part_to_export,
)
from .measuring import compare_on_random_inputs, compare_on_videos, machine_name, measure_speed, read_views
from .running import REPORT_FILE, ExportedNetwork, load_exported


LABELS_FILE = "labels.txt"
"""The classes in the order of their numbers, one a line."""
_MOST_DIFFERENCE = 1e-3  # of float32 programs, in stds of the scores: rounding is some 1e-6, another model is 1
_WITH_CLASSES = ("classifier", "image classifier")
_TASKS = {"classifier": "video-classification", "image classifier": "image-classification",
          "detector": "video-classification", "encoder": "feature-extraction"}  # fmt: skip


def output_files(folder: str | Path, format: str, overwrite: bool | None = None) -> OutputFiles:
    """Return the files that an export writes; refused where others' are in their place.

    Raises:
        ValueError: If one exists that this package did not write, and `overwrite` is false.
    """
    names = (*FORMATS[format].files, EXPORT_MANIFEST_NAME, REPORT_FILE, CARD_NAME, LABELS_FILE, "config.json")
    # The processor (of images for a model of one frame), and the code that reads these files elsewhere.
    names += (VIDEO_PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, *CODE_FILES)
    return OutputFiles([Path(folder) / name for name in names], "amd-hf export", overwrite, folder=folder)


def export_model(
    model: AMDPreTrainedModel,
    folder: str | Path,
    format: str = "onnx",
    *,
    processor: Any = None,
    input_type: str | None = None,
    batch_size: int | None = None,
    int8: bool = False,
    calibration: Any = None,
    comparison: Any = None,
    measure_speed: bool = True,
    overwrite: bool | None = False,
    name: str | None = None,
    decoder: str | None = None,
    decode_time_limit: float | None = None,
) -> dict[str, Any]:
    """Export a model for another runtime, and compare what came out with what went in.

    The folder holds the program, the model's config, the processor's file that says how the model looks at videos, the
    names of the classes, a report and a card. `amd-hf predict` and `amd-hf evaluate` run it.

    Args:
        model ([`AMDPreTrainedModel`]): A classifier of videos or images, a detector, or an encoder; of a model for
            pre-training its encoder. It is put on the CPU, in float32.
        folder (`str` or `Path`): Where to write.
        format (`str`, *optional*, defaults to `"onnx"`): `onnx`, `openvino`, `executorch` or `torch_export`.
        processor (`AMDVideoProcessor` or `BitImageProcessor`, *optional*): How the model looks at videos; by default
            what [`AMDVideoProcessor.for_model`] makes of the config.
        input_type (`str`, *optional*): `uint8`: the program takes raw clips and normalises them; `float`: it takes
            normalised ones. By default uint8, of detectors float.
        batch_size (`int`, *optional*): Clips that the program takes; by default any number, in ExecuTorch and of
            detectors one.
        int8 (`bool`, *optional*, defaults to `False`): Weights and activations of linear layers in int8.
        calibration (`datasets.Dataset`, *optional*): Videos that int8 is calibrated on.
        comparison (`datasets.Dataset`, *optional*): Videos on which both are compared; by default clips of noise.
        measure_speed (`bool`, *optional*, defaults to `True`): Time both, each in a process of its own.
        overwrite (`bool`, *optional*, defaults to `False`): Replace files that are there, whoever wrote them.
        name (`str`, *optional*): The model's name, for report and card.
        decoder, decode_time_limit (*optional*): Reader of the videos, and seconds that one may take.

    Returns:
        `dict[str, Any]`: The report, which export_report.json holds too: see docs/export.md.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the format cannot do what is asked for, a file of others is in the way, int8 has no videos, or a
            float32 program gives other scores than the model.
    """
    model = part_to_export(model).to("cpu", torch.float32).eval()
    kind = kind_of(model)
    input_type = input_type or default_input_type(kind)
    check_request(kind, format, input_type, batch_size, int8)
    check_packages(format, int8)
    if int8 and calibration is None:
        raise ValueError("int8 is calibrated on videos: give `calibration` (on the command line `--data`).")
    outputs = output_files(folder, format, overwrite)
    numbers = None  # of the labels in the model, found before the work begins
    if kind in _WITH_CLASSES and comparison is not None and any(label is not None for label in comparison["label"]):
        numbers = match_labels(comparison, model.config)
    processor = build_processor(model.config) if processor is None else processor
    collator = None
    if kind != "detector":
        views = ViewOptions.of_clip(model.config, read_settings(processor))
        collator = ViewCollator(views, decoder, time_limit=decode_time_limit)
    samples = None
    if int8:
        samples = list(_calibration_inputs(model, calibration, collator, kind, input_type, batch_size))
    exported = export_program(model, format, input_type=input_type, batch_size=batch_size, calibration=samples)
    if kind == "detector" or not FORMATS[format].takes_any_batch:
        batch_size = batch_size or 1
    report: dict[str, Any] = {
        "amd_hf_version": sys.modules[__name__.partition(".")[0]].__version__,
        "model": name or type(model).__name__, "kind": kind, "format": format,
        "int8": int8, "input_type": input_type, "batch_size": batch_size, "calibration_videos": len(samples or ()),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="amd_hf_export_") as temporary:
        staging = Path(temporary) / "exported"
        exported.save_pretrained(staging)
        processor.save_pretrained(staging)
        (staging / REPORT_FILE).write_text(json.dumps(report), encoding="utf-8")  # what loading it has to know
        network = load_exported(staging, exported if format == "torch_export" else None)
        report["comparison"] = _compare(model, network, comparison, collator, numbers)
        report |= _sizes(model, [staging / name for name in FORMATS[format].files])
        if measure_speed and format != "torch_export":
            report["speed"] = _measure(model, staging, Path(temporary) / "pytorch")
        _describe(staging, model, report)
        with outputs:
            for path in sorted(staging.iterdir()):
                shutil.copyfile(path, Path(folder) / path.name)
    return report


def _calibration_inputs(
    model: AMDPreTrainedModel, rows: Any, collator: Any, kind: str, input_type: str, batch_size: int | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one clip of each video as the program takes it, repeated where it takes more than one."""
    num_found = 0
    for samples in read_views(rows, collator, batch_size=4):
        for sample in samples:
            if "views" not in sample:
                continue
            num_found += 1
            clips = sample["views"]
            if input_type == "float":
                clips = model.base_model.embeddings.normalize(clips.movedim(2, -1)).movedim(-1, 2)
            clips = clips[:, 0] if kind == "image classifier" else clips
            yield {"pixel_values": clips.expand(batch_size or 1, *clips.shape[1:]).contiguous()}
    if not num_found:
        raise ValueError(f"None of the {len(rows)} videos to calibrate int8 on can be read.")


def _compare(
    model: AMDPreTrainedModel, network: ExportedNetwork, rows: Any, collator: Any, numbers: list[int] | None
) -> dict[str, Any]:
    """Compare the program with the model; refuse one in float32 that is not the model."""
    if rows is None or network.kind == "detector":
        summary = compare_on_random_inputs(model, network).summary(has_classes=False)
        summary["clips_of"] = "noise"
    else:
        is_exclusive = model.config.problem_type in (None, "single_label_classification")
        has_classes = network.kind in _WITH_CLASSES and is_exclusive
        summary = compare_on_videos(model, network, rows, collator, numbers).summary(has_classes)
        summary["clips_of"] = "videos"
    if not network.is_int8 and summary["largest_difference"] > _MOST_DIFFERENCE:
        raise ValueError(
            f"The scores of the exported model differ from the model's by up to "
            f"{summary['largest_difference']:.2g} of their std: nothing was written. Another release of the runtime "
            "or of PyTorch may do better."
        )
    return summary


def _sizes(model: AMDPreTrainedModel, files: list[Path]) -> dict[str, float]:
    """Return the megabytes of a program's files, and those of the model's weights in float32."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    # A small program keeps its weights in itself: the file for them is not there then.
    program = sum(file.stat().st_size for file in files if file.is_file())
    return {"megabytes": round(program / 1e6, 2), "pytorch_megabytes": round(weights / 1e6, 2)}


def _measure(model: AMDPreTrainedModel, exported: Path, plain: Path) -> dict[str, Any]:
    """Time the program and the model; `plain` is where the model is saved for that."""
    model.save_pretrained(plain)
    before, after = measure_speed([plain, exported])
    return {"machine": machine_name(), "pytorch": before, "exported": after}


# ---------------------------------------------------------------------------------------------------------------------
# What stands beside the program
# ---------------------------------------------------------------------------------------------------------------------


def _describe(folder: Path, model: AMDPreTrainedModel, report: Mapping[str, Any]) -> None:
    """Write classes, report and card."""
    if report["kind"] != "encoder":
        names = [model.config.id2label[number] for number in range(model.config.num_labels)]
        (folder / LABELS_FILE).write_text("".join(f"{' '.join(name.split())}\n" for name in names), encoding="utf-8")
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / CARD_NAME).write_text(card_text(report), encoding="utf-8")


def card_text(report: Mapping[str, Any]) -> str:
    """Return the card of an exported model: what it is, what the export changed, how to run it."""
    title = FORMATS[report["format"]].title
    number = "any number of" if report["batch_size"] is None else str(report["batch_size"])
    pixels = "raw uint8 pixels, normalised inside" if report["input_type"] == "uint8" else "normalised floats"
    lines = [
        "---",
        f"library_name: {'onnx' if report['format'] == 'onnx' else 'amd_hf'}",
        f"pipeline_tag: {_TASKS[report['kind']]}",
        f"tags: [{', '.join((*TAGS, report['format']))}]",
        "---",
        "",
        f"# {escape_markdown(report['model'])}, exported to {title}",
        "",
        f"A {report['kind']} of amd_hf {report['amd_hf_version']} as a program of {title}"
        f"{' in int8' if report['int8'] else ''}. It takes {number} clips at a time: {pixels}. The licence of the "
        "weights is that of the model that was exported.",
        "",
        *table_lines(report),
        "",
        "`amd-hf predict --model_name_or_path FOLDER --videos clip.mp4` runs it, and `amd-hf evaluate` tests it,",
        "through the views that the model was trained for. All figures: " + code_span(REPORT_FILE) + ".",
    ]
    return "\n".join(lines) + "\n"


def table_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as a table of Markdown: the model beside what was exported of it."""
    found = report["comparison"]
    title = f"{FORMATS[report['format']].title}, {'int8' if report['int8'] else 'float32'}"
    on = f"{found['clips']} clips of {found['clips_of']}"
    lines = [
        f"| | PyTorch | {title} |", "|---|---|---|",
        f"| largest difference of the scores, in their std ({on}) | 0 | {found['largest_difference']:.1e} |",
    ]  # fmt: skip
    if "top1_agreement" in found:
        lines.append(f"| names the same class ({on}) | 100% | {found['top1_agreement']:.1%} |")
    if "accuracy_before" in found:
        before, after = found["accuracy_before"], found["accuracy_after"]
        lines.append(f"| accuracy ({found['labelled_clips']} labelled clips) | {before:.1%} | {after:.1%} |")
    lines.append(f"| size, MB | {report['pytorch_megabytes']:.1f} | {report['megabytes']:.1f} |")
    if speed := report.get("speed"):
        values = [speed["pytorch"], speed["exported"]]
        times, memory = zip(*((value["milliseconds"], value["peak_mebibytes"]) for value in values), strict=True)
        lines.append(f"| ms per clip ({speed['machine']}) | {times[0]:.1f} | {times[1]:.1f} |")
        lines.append(f"| peak memory of the process, MiB | {memory[0]:.0f} | {memory[1]:.0f} |")
    return lines


__all__ = ["export_model"]
