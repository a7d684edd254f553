"""Arguments of fine-tuning and of the multi-view test at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..training.arguments import VideoTrainingArguments
from ..view_settings import ViewSettings


# Groups of arguments, the test that their values must pass, and how an error describes it.
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
    """Arguments of [`AMDFineTuningTrainer`], on top of those of [`~transformers.TrainingArguments`] and
    `VideoTrainingArguments`.

    The defaults are those of the released recipe for a ViT-S on Kinetics-400: base rate 1e-3 down to 1e-6 with 5
    epochs of warm-up, AdamW betas (0.9, 0.999), no gradient clipping, 2 repetitions of each video, RandAugment, random
    erasing, mixup / cutmix, label smoothing 0.1 (`TrainingArguments` has 0), 5 x 3 test views. Drop path, head dropout
    and the scale of the new head belong to the model: `AMDConfig.drop_path_rate`, `head_dropout`,
    `classifier_init_scale`.

    Raises:
        ValueError: If a value is out of range, or options contradict each other.
    """

    layer_decay: float = field(
        default=0.75, metadata={"help": "Factor on the learning rate from each layer to the one before it."}
    )
    sampling_mode: str = field(
        default="spread",
        metadata={
            "help": "How frames of a training clip are sampled: at a fixed rate (dense), spread evenly over its "
            "window, or one per segment of the video.",
            "choices": ["dense", "spread", "segments"],
        },
    )
    train_crop: str = field(
        default="random_resized_crop",
        metadata={
            "help": "How training clips are cropped.",
            "choices": ["random_resized_crop", "multi_scale_crop", "center_crop"],
        },
    )
    flip_probability: float = field(
        default=0.5,
        metadata={"help": "Probability of mirroring a clip; 0 if left and right matter, as in Something-Something."},
    )
    rand_augment: str | None = field(
        default="rand-m7-n4-mstd0.5-inc1",
        metadata={"help": "RandAugment on whole frames, in timm's notation; null turns it off."},
    )
    erase_probability: float = field(
        default=0.25, metadata={"help": "Probability of random erasing: a box of the clip becomes noise."}
    )
    mixup_alpha: float = field(
        default=0.8,
        metadata={"help": "Mixup: parameter of the beta distribution of the blending ratio; 0 turns it off."},
    )
    cutmix_alpha: float = field(
        default=1.0,
        metadata={"help": "Cutmix: parameter of the beta distribution of the pasted area; 0 turns it off."},
    )
    mix_probability: float = field(
        default=1.0, metadata={"help": "Probability that mixup or cutmix applies to a micro-batch."}
    )
    mix_switch_probability: float = field(
        default=0.5, metadata={"help": "Probability of cutmix instead of mixup, if both are on."}
    )
    label_smoothing_factor: float = field(
        default=0.1, metadata={"help": "Fraction of the target that is spread over all classes."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Keep a moving average of the weights with this decay per step (for example 0.9999); evaluate, "
            "test and save the average. Off by default, as in the released recipe."
        },
    )
    freeze: str | None = field(
        default=None,
        metadata={
            "help": "What to freeze: `encoder` (only the head is trained, a linear probe), or a number: the patch "
            "embedding and that many of the first blocks."
        },
    )
    lora_rank: int | None = field(
        default=None, metadata={"help": "Train only LoRA adapters of this rank (PEFT) and the head."}
    )
    lora_alpha: int = field(default=16, metadata={"help": "Adapters are scaled by `lora_alpha` / `lora_rank`."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["qkv", "proj"],
        metadata={"help": "Linear layers of each block that get adapters: some of qkv, proj, fc1, fc2."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations in which `metric_for_best_model` did not improve."},
    )
    test_mode: str = field(
        default="dense",
        metadata={
            "help": "How frames of a test clip are sampled: at a fixed rate (dense) or spread over the whole video.",
            "choices": ["dense", "uniform"],
        },
    )
    test_num_segments: int = field(default=5, metadata={"help": "Number of test clips along the video."})
    test_num_crops: int = field(default=3, metadata={"help": "Number of test crops along the long side."})
    num_train_epochs: float = field(default=150.0, metadata={"help": "Number of epochs."})
    num_repetitions: int = field(
        default=2, metadata={"help": "Clips drawn from a video each time it is decoded (repeated augmentation)."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clip gradients to this norm; 0 turns it off."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for names, is_allowed, allowed in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_allowed(value):
                    raise ValueError(f"`{name}` must be {allowed}, got {value}.")
        if self.freeze is not None and self.freeze != "encoder" and not str(self.freeze).isdecimal():
            raise ValueError(f"`freeze` must be `encoder` or a number of layers, got {self.freeze!r}.")
        if self.lora_rank is not None:
            if self.freeze is not None:
                raise ValueError("`lora_rank` freezes all but its adapters and the head: leave `freeze` out.")
            if not self.lora_targets or {*self.lora_targets} - {"qkv", "proj", "fc1", "fc2"}:
                raise ValueError(f"`lora_targets` must be some of qkv, proj, fc1, fc2, got {self.lora_targets}.")
        # The Trainer would assert this only once training begins, after the model and the data are loaded.
        if self.early_stopping_patience is not None and (
            self.eval_strategy == "no" or not self.load_best_model_at_end
        ):
            raise ValueError(
                "`early_stopping_patience` needs evaluations and a best model to return to: set `eval_strategy` and "
                "`save_strategy` (both to epoch, for example), `load_best_model_at_end` and `metric_for_best_model`."
            )

    def view_settings(self) -> ViewSettings:
        return replace(
            super().view_settings(),
            test_mode=self.test_mode,
            test_num_segments=self.test_num_segments,
            test_num_crops=self.test_num_crops,
        )
