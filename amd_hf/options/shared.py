"""Options that several commands have, each written once: dataclasses to inherit from."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data.video.decoding import check_decode_time_limit, decode_time_limit_option


@dataclass
class TaskOptions:
    """What the command is for."""

    task: str = field(
        default="classification",
        metadata={"help": "The task, whose options are listed.", "choices": ["classification", "detection"]},
    )


@dataclass
class OverwriteOptions:
    """What happens to files that are there."""

    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace files that are there, whoever wrote them; our own unchanged ones are."},
    )


@dataclass
class DecodingOptions:
    """How videos are decoded."""

    decoder: str | None = field(default=None, metadata={"help": "Video decoder by name."})
    decode_time_limit: float | None = decode_time_limit_option()

    def __post_init__(self) -> None:
        check_decode_time_limit(self.decode_time_limit)


@dataclass
class DeviceOptions:
    """Where and in which precision a model runs."""

    mixed_precision: str | None = field(
        default=None,
        metadata={"help": "Precision; by default bf16 where it pays.", "choices": ["no", "bf16", "fp16"]},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Use the CPU although there is a GPU."})


@dataclass
class InferenceOptions(DecodingOptions, DeviceOptions):
    """How videos are read for a trained model, and what runs it."""

    sampling_rate: int | None = field(default=None, metadata={"help": "Step between frames; the model's own."})
    engine: str | None = field(
        default=None,
        metadata={
            "help": "What runs the model; by default PyTorch, or what it was exported to.",
            "choices": ["pytorch", "onnx", "openvino", "zentorch"],
        },
    )


__all__ = ["DecodingOptions", "DeviceOptions", "InferenceOptions", "OverwriteOptions", "TaskOptions"]
