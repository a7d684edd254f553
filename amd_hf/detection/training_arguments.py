"""Arguments of fine-tuning an action detector."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..finetuning.arguments import AMDFineTuningArguments
from ..models import DETECTION_SHORT_SIDE
from ..view_settings import ViewSettings


# Options of classification that detection does not use.
_UNUSED = (
    "sampling_mode",
    "interpolation",
    "min_crop_area",
    "train_crop",
    "augment_on_device",
    "repetitions_share_frames",
    "mixup_alpha",
    "cutmix_alpha",
    "mix_probability",
    "mix_switch_probability",
    "test_mode",
    "test_num_segments",
    "test_num_crops",
)


@dataclass
class AMDDetectionArguments(AMDFineTuningArguments):
    """Arguments of [`AMDDetectionTrainer`], on top of those of [`AMDFineTuningArguments`].

    The defaults are those of VideoMAE's code for AVA with a ViT-B pre-trained on Kinetics-400 without its labels: base
    rate 2.5e-4, 30 epochs, one clip per key frame, colour shifts, and no RandAugment, erasing, mixing or label
    smoothing.

    Raises:
        ValueError: If a value is out of range, or an option is set that detection does not use.
    """

    short_side: int = field(
        default=DETECTION_SHORT_SIDE,
        metadata={"help": "Short side that frames are resized to, in pixels; training clips are cut out of them."},
    )
    hue_shift: float = field(default=20.0, metadata={"help": "Largest hue shift of training clips, in degrees."})
    saturation_shift: float = field(
        default=0.1, metadata={"help": "Largest saturation shift of training clips, as a fraction."}
    )
    value_shift: float = field(
        default=0.1, metadata={"help": "Largest shift of the value (brightness) of training clips, as a fraction."}
    )
    rand_augment: str | None = field(default=None, metadata={"help": "Must stay null."})
    erase_probability: float = field(default=0.0, metadata={"help": "Must stay 0."})
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "Must stay 0."})
    num_repetitions: int = field(
        default=1, metadata={"help": "Clips drawn around a key frame each time it is decoded (repeated augmentation)."}
    )
    num_train_epochs: float = field(default=30.0, metadata={"help": "Number of epochs over the key frames."})
    base_learning_rate: float | None = field(
        default=2.5e-4, metadata={"help": "Learning rate per 256 key frames in an optimizer step."}
    )
    metric_for_best_model: str | None = field(default="map", metadata={"help": "Must stay map."})

    def __post_init__(self) -> None:
        super().__post_init__()
        defaults = {option.name: option.default for option in fields(self)}
        for name in (*_UNUSED, "rand_augment", "erase_probability", "label_smoothing_factor"):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"`{name}` has no meaning for action detection: leave it out.")
        for name, highest in (("hue_shift", 180), ("saturation_shift", 1), ("value_shift", 1)):
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(f"`{name}` must be between 0 and {highest}, got {getattr(self, name)}.")
        if self.short_side < 1:
            raise ValueError(f"`short_side` must be at least 1, got {self.short_side}.")

    def view_settings(self) -> ViewSettings:
        return ViewSettings(sampling_rate=self.sampling_rate, short_side=self.short_side, center_crop=False)
