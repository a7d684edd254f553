"""Arguments of fine-tuning and of the multi-view test that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .base_args import VideoTrainingArguments


@dataclass
class AMDFineTuningArguments(VideoTrainingArguments):
    """Arguments of [`AMDFineTuningTrainer`]: those of [`~transformers.TrainingArguments`], of `VideoTrainingArguments`
    and these.

    The defaults are the released recipe's for Kinetics-400: base rate 1e-3 down to 1e-6 with 5 epochs of warm-up,
    AdamW betas (0.9, 0.999), no gradient clipping, 2 repetitions of each video, 5 x 3 test views.
    """

    layer_decay: float = field(
        default=0.75, metadata={"help": "The learning rate shrinks by this factor from each layer to the one before."}
    )
    sampling_mode: str = field(
        default="spread",
        metadata={"help": "Frames of a training clip.", "choices": ["dense", "spread", "segments"]},
    )
    train_crop: str = field(
        default="random_resized_crop",
        metadata={
            "help": "Crop of training clips.",
            "choices": ["random_resized_crop", "multi_scale_crop", "center_crop"],
        },
    )
    flip_probability: float = field(
        default=0.5, metadata={"help": "Share of clips mirrored; 0 where left and right matter (Something-Something)."}
    )
    test_mode: str = field(
        default="dense", metadata={"help": "Frames of a test clip.", "choices": ["dense", "uniform"]}
    )
    test_num_segments: int = field(default=5, metadata={"help": "Test clips along the video."})
    test_num_crops: int = field(default=3, metadata={"help": "Test crops along the long side."})
    num_train_epochs: float = field(default=150.0, metadata={"help": "Passes over the videos."})
    num_repetitions: int = field(default=2, metadata={"help": "Clips drawn from each video it decodes."})
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Gradients are clipped to this norm; 0 clips nothing."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("test_num_segments", "test_num_crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must be above 0 and at most 1, got {self.layer_decay}.")
