"""Arguments of both pre-training and fine-tuning: rate per 256 videos, warm-up in epochs, sampling, bad videos."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from typing import Any

from datasets import IterableDataset
from transformers import SchedulerType, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import is_torch_tf32_available

from ..data.streams import stream_length
from ..data.video.decoding import check_decode_time_limit, decode_time_limit_option
from ..hub.privacy import hide_identity, is_secret_name
from ..view_settings import ViewSettings
from .launching import check_processes
from .precision import Precision, choose_precision, has_no_accelerator, launcher_precision, precision_before


_DEFAULT_LEARNING_RATE = next(f.default for f in fields(TrainingArguments) if f.name == "learning_rate")

# Trackers of the Trainer, and the package to install for each.
_TRACKERS = {
    "azure_ml": "azureml-core",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub mlflow",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}


@dataclass
class VideoTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] for clips drawn from videos; not used by itself.

    `per_device_train_batch_size` counts videos: a video stands for `num_repetitions` clips in the batch. These
    defaults differ from those of `TrainingArguments`: `weight_decay` 0.05, `remove_unused_columns` False (rows hold
    videos, which no model's `forward` names), `logging_nan_inf_filter` False (a loss that is not finite stops the
    run), `average_tokens_across_devices` False (losses are means), `ddp_find_unused_parameters` False,
    `lr_scheduler_type` cosine, and `use_cpu` True on machines without an accelerator. `bf16=None` lets the machine
    choose the precision; the commands do so unless told otherwise. `precision` holds the choice and its reason.

    Raises:
        ValueError: If a value is out of range, two learning rates contradict each other, or this process did not find
            the other processes of the run.
        ImportError: If `report_to` names a tracker whose package is not installed.
    """

    learning_rate: float = field(  # type: ignore[assignment]
        default=_DEFAULT_LEARNING_RATE,
        metadata={"help": "Highest learning rate; computed from `base_learning_rate` unless that is None."},
    )
    base_learning_rate: float | None = field(
        default=1e-3,
        metadata={
            "help": "Learning rate per 256 videos in an optimizer step; a video counts once however often it is "
            "repeated. The rate is base * videos per step / 256. `null` uses `learning_rate` as it is."
        },
    )
    min_base_learning_rate: float = field(
        default=1e-6, metadata={"help": "Rate at the end of the cosine, scaled like `base_learning_rate`."}
    )
    lr_scheduler_type: SchedulerType = field(
        default=SchedulerType.COSINE, metadata={"help": "Must stay cosine, down to `min_base_learning_rate`."}
    )
    warmup_epochs: float = field(
        default=5.0, metadata={"help": "Epochs of linear warm-up from 0; `warmup_steps` above 0 overrides it."}
    )
    recipe_videos_per_step: int | None = field(
        default=None,
        metadata={"help": "Videos per optimizer step that a recipe is made for; a run with another number warns."},
    )
    num_repetitions: int = field(
        default=1, metadata={"help": "Clips drawn from a video each time it is decoded (repeated augmentation)."}
    )
    repetitions_share_frames: bool = field(
        default=True,
        metadata={
            "help": "The repetitions of a video use the same frames, as in the released code, each with its own crop, "
            "augmentation and masks; this decodes fewer frames. False draws new frames for each repetition."
        },
    )
    augment_on_device: bool = field(
        default=False,
        metadata={
            "help": "Augment, crop and resize training clips on the device that trains, as the workers drew it, which "
            "then only decode. Clips differ from those of the CPU by 1 of 255 here and there."
        },
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=False,
        metadata={
            "help": "Train in bf16 mixed precision, with weights in float32. Left out, a command uses bf16 where it "
            "pays: on GPUs that support it and on CPUs that are faster in it. A resumed run keeps its precision."
        },
    )
    use_cpu: bool = field(
        default=False, metadata={"help": "Train on the CPU even if there is a GPU; true anyway without a GPU."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Replace the finished model of another run in `output_dir`, which is an error otherwise. "
            "Checkpoints are never overwritten: resume from them or choose another folder."
        },
    )
    data_changed_ok: bool = field(
        default=False,
        metadata={
            "help": "Resume even if the training data differ from the checkpoint's (other rows, labels or order). "
            "Otherwise that is an error which says what differs."
        },
    )
    sampling_rate: int = field(default=4, metadata={"help": "Step between the frames of a clip, in video frames."})
    min_crop_area: float = field(
        default=0.08, metadata={"help": "Smallest area of a random_resized_crop, as a fraction of the frame."}
    )
    interpolation: str = field(
        default="bilinear", metadata={"help": "How frames are resized.", "choices": ["bilinear", "bicubic"]}
    )
    short_side: int | None = field(
        default=None,
        metadata={
            "help": "Resize frames to this short side before a centre crop, also in the test; by default the crop's "
            "size."
        },
    )
    decoder: str | None = field(
        default=None, metadata={"help": "Name of the video decoder; by default the first that is installed."}
    )
    decode_time_limit: float | None = decode_time_limit_option()
    cache_decoded_bytes: int = field(
        default=0,
        metadata={"help": "Cache decoded videos in memory, up to this many bytes per loading process (small data)."},
    )
    stream_buffer_rows: int = field(default=256, metadata={"help": "Size of the shuffle buffer of a stream, in rows."})
    max_unreadable_fraction: float = field(
        default=0.01,
        metadata={
            "help": "Stop when a larger fraction of the videos tried cannot be read; checked from 100 videos on."
        },
    )
    max_unreadable_share: float | None = field(
        default=None, metadata={"help": "Old name of `max_unreadable_fraction`, to be removed in the next release."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay; none on biases and 1-D weights."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: rows hold videos."})
    greater_is_better: bool | None = field(
        default=None,
        metadata={
            "help": "Whether a larger `metric_for_best_model` is better; by default false for the loss and its parts."
        },
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay False: a NaN stops the run."})
    average_tokens_across_devices: bool = field(default=False, metadata={"help": "Must stay False: losses are means."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Leave it off: a step uses every parameter."}
    )

    def __post_init__(self) -> None:
        is_direction_given = self.greater_is_better is not None
        if not self.use_cpu and has_no_accelerator():
            self.use_cpu = True
        super().__post_init__()
        take_old_names(self, max_unreadable_share="max_unreadable_fraction")
        check_processes(self)
        self._choose_precision()
        self._check_trackers()
        metric = (self.metric_for_best_model or "").removeprefix("eval_")
        if metric.startswith("loss_") and not is_direction_given:
            # TrainingArguments knows that smaller is better by the ending "loss", which parts of the loss do not have.
            self.greater_is_better = False
        if self.lr_scheduler_type != SchedulerType.COSINE or self.lr_scheduler_kwargs:
            raise ValueError(
                "The schedule is always the released code's warm-up and cosine: leave `lr_scheduler_type` and "
                "`lr_scheduler_kwargs` out and set `warmup_epochs` and `min_base_learning_rate`."
            )
        self._check_values()
        self._check_rates()
        self._scale_learning_rate()

    def _check_values(self) -> None:
        for name in ("remove_unused_columns", "logging_nan_inf_filter", "average_tokens_across_devices"):
            if getattr(self, name):
                raise ValueError(f"`{name}=True` is not supported: {type(self).__name__} needs it False.")
        for name in (
            "num_repetitions",
            "sampling_rate",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "stream_buffer_rows",
            "recipe_videos_per_step",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for name in ("warmup_epochs", "cache_decoded_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.max_unreadable_fraction <= 1:
            raise ValueError(f"`max_unreadable_fraction` must be between 0 and 1, got {self.max_unreadable_fraction}.")
        check_decode_time_limit(self.decode_time_limit)
        if self.augment_on_device and self.device.type == "mps":
            raise ValueError("`augment_on_device` needs float64, which Apple's GPUs lack: leave it out.")

    def _choose_precision(self) -> None:
        """Set `bf16` where it is None, and `precision` to what the run computes in and why."""
        asked = "fp16" if self.fp16 else "bf16" if self.bf16 else launcher_precision()
        if asked is None and self.bf16 is not None:
            asked = "no"
        if asked is None and (self.deepspeed or self.deepspeed_plugin is not None):
            asked = "no"  # DeepSpeed's own config decides
        begun_in = precision_before(self.output_dir, self.resume_from_checkpoint) if asked is None else None
        self.precision: Precision = choose_precision(self.device, asked, begun_in)
        self.bf16 = self.precision.name == "bf16"
        if not self.deepspeed:
            self.mixed_precision = self.precision.name

    @classmethod
    def fit_recipe(
        cls, recipe: Mapping[str, Any], values: Mapping[str, Any], given: Set[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Ignore a recipe's `bf16: true` unless the command line sets the precision: the machine decides.

        Args:
            recipe (`Mapping`): Options of the recipe.
            values (`Mapping`): All options, with the recipe's values filled in.
            given (set of `str`): Options that the command line sets; these are never ignored.

        Returns:
            The recipe's options that apply, and no notes, since every run prints its precision and why.
        """
        recipe = dict(recipe)
        if not given & {"bf16", "fp16"} and recipe.get("bf16") is not False and not recipe.get("fp16"):
            recipe["bf16"] = None  # chosen by the machine
        if recipe.get("tf32") and "tf32" not in given and (values.get("use_cpu") or not is_torch_tf32_available()):
            del recipe["tf32"]
        return recipe, []

    # ---- What leaves this process: in a pickle (`training_args.bin`), in trackers and logs ----

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, as in `training_args.bin`, without tokens, home folders and user names."""
        secrets = {field.name for field in fields(self) if is_secret_name(field.name)}
        return {name: None if name in secrets else hide_identity(value) for name, value in vars(self).items()}

    def __copy__(self) -> VideoTrainingArguments:
        """Copy every attribute; without this method `copy` would go through `__getstate__` and lose the secrets."""
        copied = object.__new__(type(self))
        copied.__dict__.update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> VideoTrainingArguments:
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments for logs and trackers, like [`~transformers.TrainingArguments`], without secrets."""
        return hide_identity(super().to_dict())

    def _check_trackers(self) -> None:
        available = get_available_reporting_integrations()
        for name in self.report_to or []:
            if name in _TRACKERS and name not in available:
                raise ImportError(
                    f"`report_to` names {name}, whose package is not installed: `pip install {_TRACKERS[name]}`, or "
                    "`--report_to none`."
                )

    def _check_rates(self) -> None:
        name = "learning_rate" if self.base_learning_rate is None else "base_learning_rate"
        highest = getattr(self, name)
        if highest <= 0:
            raise ValueError(f"`{name}` must be above 0, got {highest}.")
        if not 0 <= self.min_base_learning_rate <= highest:
            raise ValueError(
                f"`min_base_learning_rate` {self.min_base_learning_rate} must lie between 0 and `{name}` {highest}: "
                "the rate would rise towards the end."
            )

    def _scale_learning_rate(self) -> None:
        if self.base_learning_rate is None:
            return
        scaled = self.base_learning_rate * self.videos_per_step / 256
        if self.learning_rate not in (_DEFAULT_LEARNING_RATE, scaled):
            raise ValueError(
                f"Got both `learning_rate` {self.learning_rate} and `base_learning_rate` {self.base_learning_rate} "
                f"(= {scaled:g} at {self.videos_per_step} videos per step). Leave `learning_rate` out, or set "
                "`base_learning_rate` to None to use it as it is."
            )
        self.learning_rate = scaled

    @property
    def videos_per_step(self) -> int:
        """Return the number of videos in an optimizer step, over accumulation and all processes."""
        return (
            self.per_device_train_batch_size * max(self.n_gpu, 1) * self.gradient_accumulation_steps * self.world_size
        )

    @property
    def final_learning_rate_ratio(self) -> float:
        """Return the learning rate at the end of the schedule, divided by the highest."""
        if self.base_learning_rate is None:
            return self.min_base_learning_rate / self.learning_rate
        return self.min_base_learning_rate / self.base_learning_rate

    def count_warmup_steps(self, num_training_steps: int, steps_per_epoch: int | None) -> int:
        """Return the number of warm-up steps: `warmup_steps` if set, else `warmup_epochs` epochs.

        Raises:
            ValueError: If the warm-up is given in epochs and the length of an epoch is unknown.
        """
        if self.warmup_steps:
            return self.get_warmup_steps(num_training_steps)
        if steps_per_epoch is None and self.warmup_epochs:
            raise ValueError(
                f"`warmup_epochs` {self.warmup_epochs} cannot be counted: the stream does not say how many videos it "
                "has. Give `warmup_steps` (below 1: a fraction of all steps), or set `warmup_epochs` to 0."
            )
        return int(self.warmup_epochs * (steps_per_epoch or 0))

    def view_settings(self) -> ViewSettings:
        """Return how a model trained with these arguments samples, resizes and crops videos."""
        return ViewSettings(
            sampling_mode=getattr(self, "sampling_mode", "dense"),
            sampling_rate=self.sampling_rate,
            short_side=self.short_side,
            interpolation=self.interpolation,
        )


def take_old_names(arguments: Any, **new_name_of: str) -> None:
    """Move the values of renamed options to their new names, each with a warning.

    A renamed option stays a field under its old name for one release, with default None: command line, recipes and
    Python accept it alike.

    Args:
        arguments: A dataclass of options; changed in place.
        new_name_of (`str`): The new name, by the old one.
    """
    for old, new in new_name_of.items():
        if (value := getattr(arguments, old)) is None:
            continue
        warnings.warn(f"`{old}` is now `{new}`; the old name goes with the next release.", FutureWarning, stacklevel=4)
        setattr(arguments, new, value)
        setattr(arguments, old, None)  # a copy or a saved file holds the value once, and does not warn again


def prepare_for_stream(args: VideoTrainingArguments, stream: IterableDataset) -> None:
    """Set `args.max_steps` for a run over a stream, and `args.ignore_data_skip`, since the stream resumes by itself.

    Raises:
        ValueError: If `max_steps` is not given and the length of the stream is unknown, or if a strategy is `epoch`:
            the Trainer sees the whole run as one epoch.
    """
    for name in ("save_strategy", "eval_strategy", "logging_strategy"):
        if getattr(args, name) == IntervalStrategy.EPOCH:
            raise ValueError(f"`{name}` cannot be epoch with a stream: use steps.")
    args.ignore_data_skip = True  # the position in the stream is saved with each checkpoint
    if args.max_steps > 0:
        return
    length = stream_length(stream)
    if length is None:
        raise ValueError(
            "The stream does not say how many videos it has, so `num_train_epochs` cannot be counted. Give "
            f"`max_steps` (passes x videos / {args.videos_per_step} videos per step)."
        )
    if length < args.videos_per_step:
        raise ValueError(
            f"The stream has {length} videos, fewer than the {args.videos_per_step} of one optimizer step. Lower "
            "`per_device_train_batch_size` or `gradient_accumulation_steps`."
        )
    args.max_steps = round(args.num_train_epochs * (length // args.videos_per_step))
