"""Exported models in the place of the PyTorch models that they were made of; any model by another engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..cpu import prepare_for_inference
from ..modeling_amd import AMDPatchEmbeddings, AMDPreTrainedModel
from ..models import EXPORT_MANIFEST_NAME
from ..training.summary import describe_model
from .formats import FORMATS, check_packages, default_input_type, export_program, kind_of, part_to_export


logger = logging.get_logger(__name__)

REPORT_FILE = "export_report.json"
"""What we write beside them."""
ENGINES = ("pytorch", "onnx", "openvino", "zentorch")


class ExportedNetwork(nn.Module):
    """An exported program under the signature of the model that it was made of.

    Clips may be as many as one likes, and uint8 or normalised, whatever the program takes.

    Args:
        exported (`transformers.exporters.ExportedModel`): The program, loaded.
        config ([`AMDConfig`]): The model's.
        kind (`str`): What it is: see `kind_of`.
        input_type (`str`): What the program takes, `uint8` or `float`.
        batch_size (`int`, *optional*): How many clips it takes; None for any number.
        title (`str`): What it is for people.
        layers (`Sequence[int]`): Of an encoder, the layers whose features it gives.
        is_int8 (`bool`): Whether it computes in int8.
    """

    def __init__(
        self,
        exported: Any,
        config: AMDConfig,
        kind: str,
        input_type: str = "uint8",
        batch_size: int | None = None,
        title: str = "",
        layers: Sequence[int] = (),
        is_int8: bool = False,
    ) -> None:
        super().__init__()
        self.exported, self.config, self.kind, self.title = exported, config, kind, title
        self.input_type, self.batch_size, self.is_int8 = input_type, batch_size, is_int8
        self.feature_layers = list(layers)
        self.layers = range(config.num_hidden_layers)  # as many as the encoder had
        self.embeddings = AMDPatchEmbeddings(config).requires_grad_(False)  # for its normalisation

    def patch_tokens(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the hidden states `(B, n, D)` of the patches alone; see [`AMDModel`]."""
        return hidden_states[:, int(self.config.use_class_token) :]

    @torch.no_grad()
    def forward(
        self,
        pixel_values: torch.Tensor,
        boxes: Sequence[torch.Tensor] | None = None,
        feature_layers: Sequence[int] = (),
        **_: Any,
    ) -> SimpleNamespace:
        """Compute what the model would: `logits`, or of an encoder `last_hidden_state` and `layer_features`.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, T, C, H, W)`): Normalised floats, or raw uint8.
            boxes (`Sequence[torch.Tensor]`, *optional*): For each clip of a detector `(n, 4)`.
            feature_layers (`Sequence[int]`, *optional*): Layers of an encoder, of those that the program gives.
        """
        if not {*feature_layers} <= {*self.feature_layers}:
            raise ValueError(
                f"This exported encoder gives the features of its last layer alone, not of layers "
                f"{list(feature_layers)}: take the model that it was exported from."
            )
        clips = pixel_values.cpu()
        if clips.dtype == torch.uint8 and self.input_type == "float":
            clips = self.embeddings.normalize(clips.movedim(-3, -1)).movedim(-1, -3)
        if clips.dtype != torch.uint8 and self.input_type == "uint8":
            raise ValueError("This exported model takes raw uint8 clips, which it normalises itself; got floats.")
        if self.kind == "image classifier" and clips.ndim == 5:
            clips = clips[:, 0]
        if self.kind == "detector":
            found = [self._run(clip[None], boxes=of_clip) for clip, of_clip in zip(clips, boxes or (), strict=True)]
        elif self.batch_size is None:
            found = [self._run(clips)]
        else:
            found = [self._run_padded(part) for part in clips.split(self.batch_size)]
        joined = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        features = {number: self.patch_tokens(joined.pop(f"layer_{number}")) for number in self.feature_layers}
        return SimpleNamespace(**joined, layer_features=features or None)

    def _run(self, clips: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.exported(pixel_values=clips.contiguous(), **more)
        return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}

    def _run_padded(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a program of a fixed batch on as many clips or fewer."""
        missing = self.batch_size - len(clips)  # type: ignore[operator]
        filled = torch.cat([clips, clips[-1:].expand(missing, *clips.shape[1:])]) if missing else clips
        return {name: value[: len(clips)] for name, value in self._run(filled).items()}


def is_exported(source: str | Path) -> bool:
    """Say whether a folder is one that `amd-hf export` wrote."""
    return (Path(source) / EXPORT_MANIFEST_NAME).is_file()


def runs_on_pytorch(source: str, engine: str | None) -> bool:
    """Say whether it is PyTorch that runs a source: it alone has a choice of device and precision."""
    return engine in (None, "pytorch") and not is_exported(source)


def precision_for(source: str, engine: str | None, asked: str | None) -> str | None:
    """Return the precision to start an accelerator with: `no` where it is not PyTorch that computes."""
    return asked if asked is not None or runs_on_pytorch(source, engine) else "no"


def load_exported(folder: str | Path, program: Any = None) -> ExportedNetwork:
    """Load what [`export_model`] wrote, to be run on the CPU.

    Args:
        folder (`str` or `Path`): The folder.
        program (`transformers.exporters.ExportedModel`, *optional*): The program that lies there, where the caller has
            just made it.

    Raises:
        ImportError: If the runtime is not installed.
        ValueError: If the folder is not whole, or holds a program that is not run here.
    """
    folder = Path(folder)
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        format = report["format"]
        settings = {name: report[name] for name in ("kind", "input_type", "batch_size")}
        missing = [name for name in FORMATS[format].files if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} was not written by `amd-hf export`: {REPORT_FILE} says {error}.") from error
    if missing:
        raise ValueError(f"{folder} is not whole: it lacks {', '.join(missing)}. Export the model again.")
    if format == "torch_export" and program is None:
        raise ValueError(
            f"{folder} holds a program of torch.export, a pickle, which runs code when it is loaded: load it yourself "
            "by `torch.export.load`, or export the model to onnx or openvino."
        )
    check_packages(format)
    from transformers.exporters import ExportedModel

    config = AMDConfig.from_pretrained(folder)
    if program is None:
        program = ExportedModel.from_pretrained(folder, device="cpu", **runtime_options(format, report["int8"]))
    title = f"{FORMATS[format].title}, {'int8' if report['int8'] else 'float32'}"
    return ExportedNetwork(program, config, **settings, title=title, is_int8=report["int8"])


def runtime_options(format: str, int8: bool) -> dict[str, Any]:
    """Return how a runtime is started: with PyTorch's number of threads, and in float32 where that was asked for."""
    threads = torch.get_num_threads()
    if format == "onnx":
        from onnxruntime import SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = threads
        return {"session_options": options}
    if format == "openvino":
        # By default it computes in bf16 where the CPU can.
        precision = {} if int8 else {"INFERENCE_PRECISION_HINT": "f32"}
        return {"config": {"INFERENCE_NUM_THREADS": threads, **precision}}
    return {}


def load_for_inference(
    source: str,
    load: Callable[..., AMDPreTrainedModel],
    accelerator: Accelerator,
    engine: str | None = None,
    layers: Sequence[int] = (),
    **config_options: Any,
) -> nn.Module:
    """Load a model, or what was exported of it, ready to be run by an engine.

    Args:
        source (`str`): Hub id, folder or file of a model, or a folder that `amd-hf export` wrote.
        load (callable): Loads the model: `load(source, **config_options)`.
        accelerator (`accelerate.Accelerator`): Device and precision.
        engine (`str`, *optional*): One of `ENGINES`; by default the runtime of an exported folder, else PyTorch, on
            CPUs in float32 with [`optimize_for_cpu`].
        layers (`Sequence[int]`, *optional*): Layers of an encoder whose features will be asked for.
        **config_options: Options of [`AMDConfig`].

    Raises:
        ValueError: If the engine cannot run this source, or not in this precision.
        ImportError: If it is not installed.
    """
    if engine not in (None, *ENGINES):
        raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if not runs_on_pytorch(source, engine) and accelerator.mixed_precision != "no":
        raise ValueError(
            f"`mixed_precision` {accelerator.mixed_precision} is PyTorch's alone: leave it out, or take "
            "`--engine pytorch`."
        )
    if is_exported(source):
        if config_options:
            raise ValueError(
                f"{source} is exported: its config cannot be changed any more ({', '.join(config_options)})."
            )
        network = load_exported(source)
        if engine not in (None, network.exported.export_format):
            raise ValueError(f"{source} holds {network.title}, which `--engine {engine}` does not run: leave it out.")
        return network
    model = load(source, **config_options)
    if engine in (None, "pytorch"):
        return prepare_for_inference(model, accelerator)
    return run_by_engine(model, str(engine), layers)


def run_by_engine(model: AMDPreTrainedModel, engine: str, layers: Sequence[int] = ()) -> nn.Module:
    """Return a model of PyTorch as another engine runs it in float32 on the CPU, on clips of any number.

    Args:
        model ([`AMDPreTrainedModel`]): The model.
        engine (`str`): `onnx`, `openvino` or `zentorch`.
        layers (`Sequence[int]`, *optional*): Of an encoder, the layers whose features will be asked for.

    Raises:
        ImportError: If the engine is not installed.
    """
    model = model.to("cpu", torch.float32).eval()
    if engine == "zentorch":
        try:
            import zentorch  # noqa: F401  # registers itself with `torch.compile`
        except ImportError as error:
            raise ImportError("`--engine zentorch` needs zentorch, for AMD CPUs: `pip install zentorch`.") from error
        return torch.compile(model, backend="zentorch")
    model = part_to_export(model)
    kind = kind_of(model)
    input_type = default_input_type(kind)
    exported = export_program(model, engine, input_type=input_type, layers=layers)
    exported.to("cpu", **runtime_options(engine, int8=False))
    return ExportedNetwork(
        exported, model.config, kind, input_type, title=f"{FORMATS[engine].title}, float32", layers=layers
    )


def describe_engine(model: nn.Module) -> str:
    """Return a model, or an exported one, in one line."""
    if not isinstance(model, ExportedNetwork):
        return describe_model(getattr(model, "_orig_mod", model))
    config = model.config
    height, width = config.image_height_width
    return f"{model.kind} by {model.title}, {config.num_frames} x {height} x {width} frames"
