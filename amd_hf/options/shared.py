"""Options of several commands, each declared once: dataclasses to inherit from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data.video.decoding import check_decode_time_limit, decode_time_limit_option


@dataclass
class TaskOptions:
    """The task of a command."""

    task: str = field(
        default="classification",
        metadata={"help": "Task; it decides which options there are.", "choices": ["classification", "detection"]},
    )


@dataclass
class OverwriteOptions:
    """Replacement of existing files."""

    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Replace existing files even if you changed them or another program wrote them. Our own unchanged "
            "files are always replaced."
        },
    )


@dataclass
class DecodingOptions:
    """Decoding of videos."""

    decoder: str | None = field(
        default=None, metadata={"help": "Name of the video decoder; by default the first that is installed."}
    )
    decode_time_limit: float | None = decode_time_limit_option()

    def __post_init__(self) -> None:
        check_decode_time_limit(self.decode_time_limit)


@dataclass
class DeviceOptions:
    """Device and precision of a model."""

    mixed_precision: str | None = field(
        default=None,
        metadata={"help": "Precision; by default bf16 where it is faster.", "choices": ["no", "bf16", "fp16"]},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU even if there is a GPU."})


@dataclass
class InferenceOptions(DecodingOptions, DeviceOptions):
    """Decoding for a trained model, and the engine that runs it."""

    sampling_rate: int | None = field(default=None, metadata={"help": "Step between frames; by default the model's."})
    engine: str | None = field(
        default=None,
        metadata={
            "help": "Engine that runs the model; by default PyTorch, or the one it was exported for.",
            "choices": ["pytorch", "onnx", "openvino", "zentorch"],
        },
    )


__all__ = ["DecodingOptions", "DeviceOptions", "InferenceOptions", "OverwriteOptions", "TaskOptions"]
