"""A model as a program of another runtime: ONNX, OpenVINO, ExecuTorch, `torch.export`. By `transformers.exporters`.

What is exported takes the clips that the model takes: raw uint8, which it normalises itself, or normalised floats.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from ..configuration_amd import AMDConfig
from ..modeling_amd import AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDPreTrainedModel
from ..modeling_amd_detection import AMDActionDetectionOutput, AMDForActionDetection


INPUT_TYPES = ("uint8", "float")


@dataclass(frozen=True)
class Format:
    """A format to export to.

    Args:
        title (`str`): Its name for people.
        exporter, config (`str`): Classes of `transformers.exporters`.
        key (`str`): What Transformers calls it in `export.json`.
        files (`tuple[str, ...]`): The files of a program.
        packages (`tuple[str, ...]`): What has to be installed to export and to run it.
        takes_any_batch (`bool`): Whether a program can take any number of clips.
    """

    title: str
    exporter: str
    config: str
    key: str
    files: tuple[str, ...]
    packages: tuple[str, ...]
    takes_any_batch: bool = True


FORMATS = {
    "onnx": Format(
        "ONNX", "OnnxExporter", "OnnxConfig", "onnx", ("model.onnx", "model.onnx.data"),
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "openvino": Format(
        "OpenVINO", "OpenVINOExporter", "OpenVINOConfig", "openvino", ("openvino_model.xml", "openvino_model.bin"),
        ("openvino",),
    ),
    "executorch": Format(
        "ExecuTorch", "ExecutorchExporter", "ExecutorchConfig", "executorch", ("model.pte",), ("executorch",),
        takes_any_batch=False,
    ),
    "torch_export": Format("torch.export", "DynamoExporter", "DynamoConfig", "dynamo", ("model.pt2",), ()),
}  # fmt: skip
"""The formats by the names of `--format`."""

INT8_FORMATS = {"onnx": ("onnxruntime",), "openvino": ("nncf",)}
"""The formats that have an int8 form, and the packages that make it."""


class OneClipDetector(nn.Module):
    """A detector on one clip, whose boxes are one tensor: `pixel_values` `(1, T, C, H, W)`, `boxes` `(n, 4)`."""

    def __init__(self, detector: AMDForActionDetection):
        super().__init__()
        self.detector = detector
        self.config = detector.config

    def forward(self, pixel_values: torch.Tensor, boxes: torch.Tensor) -> AMDActionDetectionOutput:
        encoder = self.detector.amd
        outputs = encoder(pixel_values, interpolate_pos_encoding=True, return_dict=True)
        grid = encoder.embeddings.grid_of(pixel_values)
        # The detector's own `forward` counts boxes in Python, which would make their number a constant.
        features = self.detector.pool_regions(encoder.patch_tokens(outputs.last_hidden_state), grid, [boxes])
        return AMDActionDetectionOutput(logits=self.detector.classifier(features), roi_features=features)


class EncoderWithLayers(nn.Module):
    """An encoder that gives the features of some of its layers too."""

    def __init__(self, encoder: AMDModel, layers: Sequence[int]):
        super().__init__()
        self.encoder, self.layers = encoder, list(layers)
        self.config = encoder.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.encoder(pixel_values, feature_layers=self.layers, return_dict=True)
        features = outputs.layer_features
        # Names and not numbers: they become parts of the names of the program's outputs.
        return {"last_hidden_state": outputs.last_hidden_state, **{f"layer_{n}": features[n] for n in self.layers}}


def kind_of(model: nn.Module) -> str:
    """Return `classifier`, `image classifier`, `detector` or `encoder`: what is exported of a model."""
    if isinstance(model, AMDForActionDetection):
        return "detector"
    if isinstance(model, AMDForVideoClassification):
        return "image classifier" if model.config.num_frames == 1 else "classifier"
    return "encoder"


def part_to_export(model: AMDPreTrainedModel) -> AMDPreTrainedModel:
    """Return the model itself; of one for pre-training its encoder, the part that anybody deploys."""
    return model.base_model if isinstance(model, AMDForPreTraining) else model


def default_input_type(kind: str) -> str:
    """Return what a program takes unless somebody says otherwise.

    A detector's frames are padded to whole patches after they were normalised, so it takes floats.
    """
    return "float" if kind == "detector" else "uint8"


def random_inputs(config: AMDConfig, kind: str, input_type: str, batch_size: int, seed: int = 0) -> dict[str, Any]:
    """Return inputs of the right shape: noise, brighter in some clips than in others, so that their scores differ."""
    generator = torch.Generator().manual_seed(seed)
    height, width = config.image_height_width
    shape = (batch_size, config.num_frames, config.num_channels, height, width)
    # A smooth picture under the noise: from noise alone all clips look the same to a model.
    coarse = torch.rand(batch_size * config.num_frames, config.num_channels, 4, 4, generator=generator)
    clips = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").view(shape)
    clips = (255 * (0.8 * clips + 0.2 * torch.rand(shape, generator=generator))).to(torch.uint8)
    if input_type == "float":
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.image_mean, config.image_std))
        clips = (clips.float() / 255 - mean) / std
    if kind == "image classifier":
        clips = clips[:, 0]
    if kind != "detector":
        return {"pixel_values": clips}
    corners = torch.tensor([[0.1, 0.1, 0.5, 0.9], [0.4, 0.2, 0.9, 0.8], [0.0, 0.0, 0.99, 0.99]])
    return {"pixel_values": clips, "boxes": corners * torch.tensor([width, height, width, height])}


def export_program(
    model: AMDPreTrainedModel,
    format: str,
    *,
    input_type: str = "uint8",
    batch_size: int | None = None,
    calibration: Iterable[Mapping[str, torch.Tensor]] | None = None,
    layers: Sequence[int] = (),
) -> Any:
    """Export a model to a program in memory.

    Args:
        model ([`AMDPreTrainedModel`]): In float32, on the CPU, in eval mode.
        format (`str`): One of `FORMATS`.
        input_type (`str`, *optional*, defaults to `"uint8"`): `uint8` or `float`.
        batch_size (`int`, *optional*): Clips that the program takes; by default any number, where the format can.
        calibration (iterable of mappings, *optional*): Inputs of the program; with them it becomes int8.
        layers (`Sequence[int]`, *optional*): Of an encoder: layers, from 1, whose features the program gives too.

    Returns:
        A `transformers.exporters.ExportedModel`, which runs and saves itself.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the format cannot do what is asked for.
    """
    kind = kind_of(model)
    check_request(kind, format, input_type, batch_size, calibration is not None)
    check_packages(format, calibration is not None)
    from transformers import exporters  # not in earlier releases

    chosen = FORMATS[format]
    if kind == "detector" or not chosen.takes_any_batch:
        batch_size = batch_size or 1
    inputs = random_inputs(model.config, kind, input_type, batch_size or 2)
    shapes: dict[str, Any] | None = None
    if kind == "detector" and chosen.takes_any_batch:
        # Frames of any size in whole patches, and any number of persons.
        shapes = {"pixel_values": {3: Dim.DYNAMIC, 4: Dim.DYNAMIC}, "boxes": {0: Dim.DYNAMIC}}
        patch = model.config.patch_size  # another size than the config's, and no square, or the trace takes it so
        height, width = model.config.image_height_width
        inputs["pixel_values"] = nn.functional.pad(inputs["pixel_values"], (0, 2 * patch, 0, patch))
    elif batch_size is None:
        shapes = {"pixel_values": {0: Dim("batch", min=1)}}
    options: dict[str, Any] = {"dynamic_shapes": shapes}
    if calibration is not None:
        options["quantizer"] = _int8_quantizer(format, calibration)
    network: nn.Module = model
    if kind == "detector":
        network = OneClipDetector(model)
    elif layers:
        network = EncoderWithLayers(model, layers)
    with _quietly():
        exporter = getattr(exporters, chosen.exporter)()
        exported = exporter.export(network.eval(), inputs, getattr(exporters, chosen.config)(**options))
    exported.config = model.config
    return exported


def check_request(kind: str, format: str, input_type: str, batch_size: int | None, int8: bool) -> None:
    """Refuse what a format cannot do, before anything is loaded.

    Raises:
        ValueError: Says what cannot be done and what can.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}.")
    if input_type not in INPUT_TYPES:
        raise ValueError(f"`input_type` must be one of {', '.join(INPUT_TYPES)}, got {input_type!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    title = FORMATS[format].title
    if int8 and format not in INT8_FORMATS:
        raise ValueError(f"int8 is made for {' and '.join(INT8_FORMATS)}, not for {title}.")
    if kind != "detector":
        return
    if int8:
        raise ValueError("A detector is exported in float32: leave out `int8`.")
    if not FORMATS[format].takes_any_batch:
        raise ValueError(f"{title} has no RoIAlign, which a detector needs: export it to onnx or openvino.")
    if input_type != "float":
        raise ValueError(
            "A detector's clips are padded to whole patches after normalisation: export it with `input_type` float."
        )
    if batch_size not in (None, 1):
        raise ValueError(f"A detector is exported for one clip at a time, not for {batch_size}.")


def check_packages(format: str, int8: bool = False) -> None:
    """Raise `ImportError` with the line that installs what is missing."""
    packages = [*FORMATS[format].packages, *(INT8_FORMATS.get(format, ()) if int8 else ())]
    found = {
        "onnx": find_spec("onnx"),
        "onnxscript": find_spec("onnxscript"),
        "onnxruntime": find_spec("onnxruntime"),
        "openvino": find_spec("openvino"),
        "nncf": find_spec("nncf"),
        "executorch": find_spec("executorch"),
    }
    missing = [name for name in packages if found[name] is None]
    if missing:
        extra = "" if format == "executorch" else ', or all formats but ExecuTorch: `pip install "amd_hf[export]"`'
        what = f"{FORMATS[format].title}{' in int8' if int8 else ''}"
        raise ImportError(f"{what} needs {', '.join(missing)}: `pip install {' '.join(missing)}`{extra}.")
    if find_spec("transformers.exporters") is None:
        raise ImportError('Exporting needs Transformers 5.24 or later: `pip install "transformers>=5.24"`.')


def _int8_quantizer(format: str, calibration: Iterable[Mapping[str, torch.Tensor]]) -> Any:
    """Return what makes weights and activations of linear layers int8.

    Softmax, norms and the products of attention stay in float32. Ranges are static, found on the calibration clips;
    weights have one scale per output channel.
    """
    from transformers import exporters

    samples = [dict(sample) for sample in calibration]
    if format == "openvino":
        # NNCF takes 300 samples unless it is told; its recipe for transformers keeps what attention adds up in float.
        return exporters.NNCFOpenVINOQuantizer(exporters.NNCFQuantizationConfig(subset_size=len(samples)), samples)
    from onnxruntime.quantization import QuantType

    return exporters.OnnxRuntimeQuantizer(
        exporters.OnnxRuntimeStaticConfig(
            per_channel=True,
            activation_type=QuantType.QUInt8,  # uint8 x int8 is what VNNI multiplies
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},  # not the products of attention
        ),
        samples,
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what the exporters print of their progress and of versions that they were not tested with.

    Some of it goes to the root logger, so that no logger of theirs is asked.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
