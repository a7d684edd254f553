"""Arguments of masked pre-training, distilled or not. Defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..teachers.geometry import TEACHER_FRAMES, TEACHER_GRIDS, TEACHER_VIEWS
from ..training.arguments import VideoTrainingArguments
from .distillation import ALIGNMENT_LOSSES, LOSS_PARTS


@dataclass
class AMDTrainingArguments(VideoTrainingArguments):
    """Arguments of [`AMDTrainer`]: those of [`~transformers.TrainingArguments`], `VideoTrainingArguments` and these.

    The defaults are the released recipe's for Kinetics-400 and Something-Something V2: base rate 1.2e-3 down to 1e-5
    with 10 epochs of warm-up, AdamW betas (0.9, 0.95), gradients clipped to norm 0.02, 4 repetitions of each video.

    Raises:
        ValueError: For an unknown `alignment_loss`, a negative weight, or no weight above 0; `teacher_cache_views`
            that are no multiple of `num_repetitions`; or options that `teacher_cache` does not go with.
    """

    reconstruction_weight: float = field(default=1.0, metadata={"help": "Weight of the pixel loss."})
    direct_weight: float = field(default=1.0, metadata={"help": "Weight of the direct alignment loss."})
    generation_weight: float = field(default=1.0, metadata={"help": "Weight of the generation alignment loss."})
    alignment_loss: str = field(
        default="l2", metadata={"help": "Distance of features.", "choices": list(ALIGNMENT_LOSSES)}
    )
    teacher_feature_norm: bool | None = field(
        default=None,
        metadata={
            "help": "Normalise the teacher's features (LayerNorm without parameters) before comparing. By default for "
            "V-JEPA 2, DINO, SigLIP, CLIP and VideoPrism, some of whose channels are far larger than the others, and "
            "not for VideoMAE's and MAE's."
        },
    )
    teacher_view: str | None = field(
        default=None,
        metadata={
            "help": "What the teacher sees of a clip: `asymmetric`, what its mask leaves (the paper's), or `full`, "
            "all of it. By default the first, where the teacher can do without the rest.",
            "choices": list(TEACHER_VIEWS),
        },
    )
    teacher_grid: str | None = field(
        default=None,
        metadata={
            "help": "Size at which the teacher runs: the one that gives the `student`'s grid of tokens (by default, "
            "where it can), or its `own`, whose tokens are averaged by area.",
            "choices": list(TEACHER_GRIDS),
        },
    )
    teacher_frames: str = field(
        default="mean",
        metadata={
            "help": "For teachers that look at single frames: features of a token are the `mean` over its frames, or "
            "those of the `middle` one.",
            "choices": list(TEACHER_FRAMES),
        },
    )
    teacher_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type of the teacher's weights; by default as they are stored.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    shard_teacher: bool = field(
        default=False,
        metadata={
            "help": "Spread the teacher's weights over the processes (FSDP2), each block gathered when it is "
            "needed: less memory, more communication. By default each process has all of it."
        },
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps the teacher's features of every training clip (float16), so that the teacher "
            "sees each clip once. Clips are then drawn for as many views as `teacher_cache_views` and shown again."
        },
    )
    teacher_cache_views: int | None = field(
        default=None,
        metadata={
            "help": "Training clips with their masks that are drawn of each video, and shown again when all were "
            "seen: a multiple of `num_repetitions`. By default new ones in every epoch; with `teacher_cache` as many "
            "as `num_repetitions`."
        },
    )
    sampling_mode: str = field(
        default="dense",
        metadata={
            "help": "Frames of a training clip: `dense` at `sampling_rate`; `spread` over the window it spans.",
            "choices": ["dense", "spread", "segments"],
        },
    )
    train_crop: str = field(
        default="multi_scale_crop",
        metadata={
            "help": "Crop of training clips.",
            "choices": ["multi_scale_crop", "random_resized_crop", "center_crop"],
        },
    )
    flip_probability: float = field(default=0.0, metadata={"help": "Fraction of clips mirrored left to right."})
    base_learning_rate: float | None = field(default=1.2e-3, metadata={"help": "Learning rate per 256 videos."})
    min_base_learning_rate: float = field(default=1e-5, metadata={"help": "Rate at the end, per 256 videos."})
    warmup_epochs: float = field(default=10.0, metadata={"help": "Epochs of linear warm-up from 0."})
    num_train_epochs: float = field(default=200.0, metadata={"help": "Passes over the videos."})
    num_repetitions: int = field(default=4, metadata={"help": "Clips drawn from each video it decodes."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second beta of AdamW."})
    max_grad_norm: float = field(default=0.02, metadata={"help": "Gradients are clipped to this norm."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alignment_loss not in ALIGNMENT_LOSSES:
            raise ValueError(
                f"`alignment_loss` must be one of {', '.join(ALIGNMENT_LOSSES)}, got {self.alignment_loss!r}."
            )
        weights = {name: getattr(self, f"{name}_weight") for name in LOSS_PARTS}
        if min(weights.values()) < 0 or max(weights.values()) == 0:
            raise ValueError(f"Loss weights must be at least 0 and not all 0, got {weights}.")
        self._check_teacher_cache()

    @property
    def view_epochs(self) -> int | None:
        """Return the number of epochs whose clips are drawn, the others show them again; `None` for all."""
        views = self.teacher_cache_views
        if views is None:
            return None if self.teacher_cache is None else 1
        return views // self.num_repetitions

    def _check_teacher_cache(self) -> None:
        views = self.teacher_cache_views
        if views is not None and (views < 1 or views % self.num_repetitions):
            raise ValueError(
                f"`teacher_cache_views` must be a multiple of `num_repetitions` {self.num_repetitions}, the clips of "
                f"a video in an epoch, got {views}."
            )
        if self.teacher_cache is None:
            return
        if self.augment_on_device:
            raise ValueError(
                "`teacher_cache` finds features by the clips that the loading processes make: leave "
                "`augment_on_device` out."
            )
        if self.shard_teacher:
            raise ValueError(
                "`shard_teacher` needs the teacher on all processes at once, and with `teacher_cache` each asks it "
                "only for clips that are new to it: leave one of them out."
            )
