"""Arguments of fine-tuning and of the multi-view test that ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..training.arguments import VideoTrainingArguments
from ..view_settings import ViewSettings


_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("test_num_segments", "test_num_crops", "early_stopping_patience", "lora_rank"),
        lambda value: value >= 1,
        "at least 1",
    ),
    (("mixup_alpha", "cutmix_alpha"), lambda value: value >= 0, "at least 0"),
    (
        ("flip_probability", "erase_probability", "mix_probability", "mix_switch_probability"),
        lambda value: 0 <= value <= 1,
        "between 0 and 1",
    ),
    (("label_smoothing_factor", "lora_dropout"), lambda value: 0 <= value < 1, "at least 0 and below 1"),
    (("layer_decay",), lambda value: 0 < value <= 1, "above 0 and at most 1"),
    (("ema_decay",), lambda value: 0 < value < 1, "above 0 and below 1"),
)


@dataclass
class AMDFineTuningArguments(VideoTrainingArguments):
    """Arguments of [`AMDFineTuningTrainer`]: those of [`~transformers.TrainingArguments`], of `VideoTrainingArguments`
    and these.

    The defaults are the released recipe's for a ViT-S on Kinetics-400: base rate 1e-3 down to 1e-6 with 5 epochs of
    warm-up, AdamW betas (0.9, 0.999), no gradient clipping, 2 repetitions of each video, RandAugment, random erasing,
    mixup / cutmix, label smoothing 0.1 (`TrainingArguments` has 0), 5 x 3 test views. Drop path, head dropout and the
    scale of the new head belong to the model: `AMDConfig.drop_path_rate`, `head_dropout`, `classifier_init_scale`.

    Raises:
        ValueError: For a value out of its range, or options that contradict each other.
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
    rand_augment: str | None = field(
        default="rand-m7-n4-mstd0.5-inc1",
        metadata={"help": "RandAugment on whole frames, in timm's notation; null: none."},
    )
    erase_probability: float = field(
        default=0.25, metadata={"help": "Share of clips in which a box is replaced by noise."}
    )
    mixup_alpha: float = field(
        default=0.8, metadata={"help": "Parameter of the beta distribution that blends two clips; 0: no mixup."}
    )
    cutmix_alpha: float = field(
        default=1.0, metadata={"help": "The same for the box pasted from another clip; 0: no cutmix."}
    )
    mix_probability: float = field(default=1.0, metadata={"help": "Share of batches that are mixed at all."})
    mix_switch_probability: float = field(
        default=0.5, metadata={"help": "Share of cutmix among them where mixup is on too."}
    )
    label_smoothing_factor: float = field(
        default=0.1, metadata={"help": "Part of the target that is spread over all classes."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Keep an average of the weights, of which this part remains in each step (say 0.9999), and "
            "evaluate, test and save it. Off by default, as in the released recipe."
        },
    )
    freeze: str | None = field(
        default=None,
        metadata={
            "help": "What stays as it is: `encoder` (a linear probe is trained), or a number: the patch embedding and "
            "that many of the first blocks."
        },
    )
    lora_rank: int | None = field(
        default=None, metadata={"help": "Train low-rank adapters of this rank (PEFT) and the head, nothing else."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "Adapters are scaled by `lora_alpha` / `lora_rank`."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapters."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["qkv", "proj"],
        metadata={"help": "Linear layers of each block with adapters: qkv, proj, fc1, fc2."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations in which `metric_for_best_model` did not improve."},
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
        for names, is_allowed, allowed in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_allowed(value):
                    raise ValueError(f"`{name}` must be {allowed}, got {value}.")
        self._check_trained_part()
        self._check_early_stopping()

    def _check_trained_part(self) -> None:
        if self.freeze is not None and self.freeze != "encoder" and not str(self.freeze).isdecimal():
            raise ValueError(f"`freeze` must be `encoder` or a number of layers, got {self.freeze!r}.")
        if self.lora_rank is None:
            return
        if self.freeze is not None:
            raise ValueError("`lora_rank` freezes all but its adapters and the head: leave `freeze` out.")
        unknown = sorted({*self.lora_targets} - {"qkv", "proj", "fc1", "fc2"})
        if unknown or not self.lora_targets:
            raise ValueError(f"`lora_targets` must be some of qkv, proj, fc1, fc2, got {self.lora_targets}.")

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience is None:
            return
        if self.eval_strategy == "no" or not self.load_best_model_at_end:
            raise ValueError(
                "`early_stopping_patience` needs evaluations and a best model to return to: set `eval_strategy` and "
                "`save_strategy` (say both to epoch), `load_best_model_at_end` and `metric_for_best_model`."
            )

    def view_settings(self) -> ViewSettings:
        return replace(
            super().view_settings(),
            test_mode=self.test_mode,
            test_num_segments=self.test_num_segments,
            test_num_crops=self.test_num_crops,
        )
