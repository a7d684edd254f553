"""Clips of a row, and batches of clips. All of it runs inside the workers of a data loader.

All repetitions of a video are made from one decode. In a training batch, further repetitions of the other videos
replace an unreadable video, so that the batch keeps its shape; in evaluation nothing is replaced. In training,
`VideoReadError` is caught and counted only in this module.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from ..configuration_amd import AMDConfig
from ..video_sampling_amd import SAMPLING_MODES, sample_clip
from ..view_settings import ViewSettings
from .augment.erasing import NO_BOX, draw_erase_box
from .augment.on_device import PlannedClip, PlannedClips
from .augment.rand_augment import RandAugment, apply_operations, parts_needed
from .augment.transforms import (
    INTERPOLATIONS,
    Box,
    ClipPlan,
    Part,
    center_box,
    cut,
    multi_scale_crop_box,
    random_resized_crop_box,
    resize,
    short_side_size,
)
from .video.decoding import DecodedVideoCache, VideoReadError, open_video


Row = Mapping[str, Any]
MaskFunction = Callable[[np.random.Generator], tuple[torch.Tensor, "torch.Tensor | None"]]

AUGMENTATIONS = ("multi_scale_crop", "random_resized_crop", "center_crop")

ClipAugmentation = Callable[[torch.Tensor, Any, np.random.Generator], tuple[torch.Tensor, Any]]
"""`(clip, label, generator) -> (clip, label)`, the clip uint8 (T, C, H, W) before the crop."""


def sample_generator(seed: int, epoch: int, video_id: str, repetition: int, purpose: str = "") -> np.random.Generator:
    """Make the random generator of one sample. It depends only on the arguments, not on process, worker or order.

    Args:
        seed (`int`): the run's seed.
        epoch (`int`): number of epochs before this one.
        video_id (`str`): the row's `video_id`.
        repetition (`int`): index of the repeated augmentation.
        purpose (`str`, defaults to `""`): what to draw (frames, crop, mask). Each purpose has its own random stream,
            so that one more draw for the crop does not change the mask.

    Returns:
        `np.random.Generator` on PCG64.
    """
    # JSON separates the fields ("a", 11 and "a1", 1 differ); Python's own hash differs from process to process.
    fields = json.dumps([int(seed), int(epoch), video_id, int(repetition), purpose])
    digest = hashlib.blake2b(fields.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


@dataclass(frozen=True, kw_only=True)
class ClipLoader:
    """From a row to uint8 clips, in the workers of a data loader. Holds no open file.

    What a training clip looks like depends on (`seed`, the row's `epoch` and `video_id`, the repetition) alone.

    Args:
        num_frames (`int`): frames of a clip.
        sampling_rate (`int`): distance between them; see `sampling`.
        image_size (`int`): height and width of the clips, in pixels.
        sampling_mode (`str`, defaults to `"dense"`): `dense`, `spread` or `segments`.
        augmentation (`str`, defaults to `"multi_scale_crop"`): crop of training clips: `multi_scale_crop`
            (pre-training), `random_resized_crop` (fine-tuning) or `center_crop` (none).
        min_crop_area (`float`, defaults to 0.08): smallest fraction of the frame that a `random_resized_crop` takes.
        interpolation (`str`, defaults to `"bilinear"`): of resizing, or `bicubic`.
        short_side (`int`, *optional*): what the short side is resized to before a centre crop; by default
            `image_size`. (ImageNet is tested on 224 of 256.)
        flip_probability (`float`, defaults to 0): fraction of training clips mirrored left to right, after the crop.
        clip_augmentation (callable, *optional*): `(clip, label, generator) -> (clip, label)`, applied to training
            clips first; may change the label, as a mirrored motion to the left is one to the right.
        rand_augment (`str`, *optional*): RandAugment of whole training frames, before the crop, in timm's notation:
            `"rand-m7-n4-mstd0.5-inc1"`; see `RandAugment.parse`.
        erase_probability (`float`, defaults to 0): fraction of training clips for which `draw_erasing` gives a box.
        repetitions (`int`, defaults to 1): training clips per video and epoch, K.
        augment_on_device (`bool`, defaults to `False`): give training clips as `on_device.PlannedClip`: what is drawn
            is done by the trainer, on its device.
        repetitions_share_frames (`bool`, defaults to `True`): the repetitions show the same frames, as in the
            released code, so that fewer are decoded; each has its own crop, augmentation and masks. False draws
            each repetition's frames anew.
        view_epochs (`int`, *optional*): draw the training clips of this many epochs, and show them again in the next
            ones, so that a video has this many times K views. By default each epoch draws its own.
        seed (`int`, defaults to 0): the run's seed.
        decoder (`str`, *optional*): see `decoding.open_video`.
        decode_time_limit (`float`, *optional*): seconds a video may take: `time_limit` of `decoding.open_video`.
        num_threads (`int`, defaults to 1): decoder threads.
        cache (`DecodedVideoCache`, *optional*): keeps the decoded videos of a small data set.
    """

    num_frames: int
    sampling_rate: int
    image_size: int
    sampling_mode: str = "dense"
    augmentation: str = "multi_scale_crop"
    min_crop_area: float = 0.08
    interpolation: str = "bilinear"
    short_side: int | None = None
    flip_probability: float = 0.0
    clip_augmentation: ClipAugmentation | None = None
    rand_augment: str | None = None
    erase_probability: float = 0.0
    augment_on_device: bool = False
    repetitions: int = 1
    repetitions_share_frames: bool = True
    view_epochs: int | None = None
    seed: int = 0
    decoder: str | None = None
    decode_time_limit: float | None = None
    num_threads: int = 1
    cache: DecodedVideoCache | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "sampling_rate", "image_size", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not {getattr(self, name)}.")
        for name, choices in (
            ("sampling_mode", SAMPLING_MODES), ("augmentation", AUGMENTATIONS), ("interpolation", INTERPOLATIONS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {list(choices)}, not {getattr(self, name)!r}.")
        for name in ("flip_probability", "erase_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, not {getattr(self, name)}.")
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"`min_crop_area` must be above 0 and at most 1, not {self.min_crop_area}.")
        if self.short_side is not None and self.short_side < self.image_size:
            raise ValueError(f"`short_side` {self.short_side} is smaller than the crop, {self.image_size}.")
        if self.rand_augment is not None:
            RandAugment.parse(self.rand_augment)  # raises for a wrong notation now, not in a worker

    @classmethod
    def for_settings(cls, config: AMDConfig, settings: ViewSettings, **options: Any) -> ClipLoader:
        """Return a loader of clips for inference, by a model's complete `settings`."""
        return cls(
            num_frames=config.num_frames,
            image_size=config.image_height_width[0],
            sampling_mode=settings.sampling_mode or "dense",
            sampling_rate=settings.sampling_rate,
            short_side=settings.short_side,
            interpolation=settings.interpolation,
            **options,
        )

    def load(
        self, row: Mapping[str, Any], repetitions: Sequence[int] | None = None, training: bool = True
    ) -> torch.Tensor:
        """Decode a row's video once and make its clips.

        Args:
            row (mapping): `video`, `video_id` and, if it is there, `label` and `epoch` (0 where absent).
            repetitions (sequence of `int`, *optional*): numbers of the repetitions; by default 0..K - 1.
            training (`bool`, defaults to `True`): draw frames and crop. False takes the middle clip and the centre
                crop, whatever the repetition.

        Returns:
            `torch.Tensor` of shape (K, T, C, H, W), uint8.

        Raises:
            VideoReadError: the video cannot be read.
        """
        clips = replace(self, augment_on_device=False).load_with_labels(row, repetitions, training)[0]
        return torch.stack(clips)  # type: ignore[arg-type]  # tensors

    def load_with_labels(
        self, row: Mapping[str, Any], repetitions: Sequence[int] | None = None, training: bool = True
    ) -> tuple[list[torch.Tensor | PlannedClip], list[Any]]:
        """Load clips as `load` does, with the label of each, which `clip_augmentation` may have changed.

        With `augment_on_device` training clips are not made, but planned.
        """
        if repetitions is None:
            repetitions = range(self.repetitions if training else 1)
        frames, picked = self._decode(row, repetitions, training)
        clips: list[torch.Tensor | PlannedClip] = []
        labels = []
        for own, repetition in zip(picked, repetitions, strict=True):
            label = row.get("label")
            if training:
                clip, label = self._plan_clip(frames, own, row, repetition)
            else:
                clip = PlannedClip(frames, own, self._centre_plan(frames.shape[1], frames.shape[2]))
            clips.append(clip if training and self.augment_on_device else make_clip(clip))
            labels.append(label)
        return clips, labels

    def draw_erasing(self, row: Mapping[str, Any], repetition: int) -> tuple[Box, int]:
        """Draw what `erasing.erase_clips` needs for a training clip: a box, `NO_BOX` for none, and a seed."""
        generator = self.generator(row, repetition, "erasing")
        box = draw_erase_box(self.image_size, self.image_size, self.erase_probability, generator)
        return box, 0 if box == NO_BOX else int(generator.integers(2**63))

    def generator(self, row: Mapping[str, Any], repetition: int, purpose: str) -> np.random.Generator:
        """Make the random generator of one repetition of a row for one purpose."""
        epoch = row.get("epoch", 0)
        if self.view_epochs is not None:
            epoch %= self.view_epochs
        return sample_generator(self.seed, epoch, row["video_id"], repetition, purpose)

    def _decode(
        self, row: Mapping[str, Any], repetitions: Sequence[int], training: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the frames of all repetitions together, uint8 (n, H, W, C), and say which of them each has, (K, T)."""
        with open_video(
            row["video"], self.decoder, self.num_threads, video_id=row["video_id"], cache=self.cache,
            time_limit=self.decode_time_limit,
        ) as video:  # fmt: skip
            indices = np.stack([self._frame_indices(len(video), row, number, training) for number in repetitions])
            unique, picked = np.unique(indices, return_inverse=True)
            return video.frames(unique), picked.reshape(indices.shape)

    def _frame_indices(self, total_frames: int, row: Mapping[str, Any], repetition: int, training: bool) -> np.ndarray:
        stream = 0 if self.repetitions_share_frames else repetition
        return sample_clip(
            total_frames,
            num_frames=self.num_frames,
            sampling_rate=self.sampling_rate,
            mode=self.sampling_mode,
            generator=self.generator(row, stream, "frames") if training else None,
        )

    def _plan_clip(
        self, frames: np.ndarray, picked: np.ndarray, row: Mapping[str, Any], repetition: int
    ) -> tuple[PlannedClip, Any]:
        label = row.get("label")
        if self.clip_augmentation is not None:
            generator = self.generator(row, repetition, "clip_augmentation")
            clip = torch.from_numpy(frames[picked]).permute(0, 3, 1, 2)
            clip, label = self.clip_augmentation(clip, label, generator)
            frames, picked = clip.permute(0, 2, 3, 1).contiguous().numpy(), np.arange(len(clip))
        return PlannedClip(frames, picked, self._draw_plan(frames.shape[1], frames.shape[2], row, repetition)), label

    def _draw_plan(self, height: int, width: int, row: Mapping[str, Any], repetition: int) -> ClipPlan:
        """Draw what is done to a training clip of frames of a size."""
        drawn: list[tuple[str, float]] = []
        if self.rand_augment is not None:
            drawn = RandAugment.parse(self.rand_augment).draw(self.generator(row, repetition, "rand_augment"))
        generator = self.generator(row, repetition, "crop")
        plan = self._centre_plan(height, width)
        if self.augmentation != "center_crop":
            if self.augmentation == "multi_scale_crop":
                box = multi_scale_crop_box(height, width, self.image_size, generator)
            else:
                box = random_resized_crop_box(height, width, generator, scale=(self.min_crop_area, 1.0))
            square = (self.image_size, self.image_size)
            # The released code resizes by PIL in pre-training, which is antialiased, by `interpolate` in fine-tuning.
            antialias = self.augmentation == "multi_scale_crop"
            plan = replace(plan, box=box, resized_to=square, crop=(0, 0, *square), antialias=antialias)
        return replace(plan, drawn=drawn, is_flipped=generator.random() < self.flip_probability)

    def _centre_plan(self, height: int, width: int) -> ClipPlan:
        size = short_side_size(height, width, self.image_size if self.short_side is None else self.short_side)
        return ClipPlan(
            height=height, width=width, drawn=[], box=(0, 0, height, width), resized_to=size,
            crop=center_box(*size, self.image_size), antialias=False, interpolation=self.interpolation,
            is_flipped=False,
        )  # fmt: skip


def make_clip(planned: PlannedClip) -> torch.Tensor:
    """Make a clip on the CPU, uint8 (T, 3, height, width)."""
    plan = planned.plan
    if plan.drawn:
        boxes = parts_needed(plan.drawn, plan.box, plan.height, plan.width)
        part = apply_operations(Part.of_frames(planned.frames, boxes[0], planned.picked), plan.drawn, boxes)
    else:
        part = Part.of_frames(planned.frames, plan.box, planned.picked)
    pixels = torch.from_numpy(part.pixels).permute(0, 3, 1, 2)
    resized = cut(resize(pixels, plan.resized_to, plan.antialias, plan.interpolation), plan.crop)
    return Part(resized.permute(0, 2, 3, 1).contiguous().numpy(), plan.crop, plan.resized_to).planes(plan.is_flipped)


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One clip of a batch and where it comes from."""

    row: Row
    repetition: int
    clip: torch.Tensor | PlannedClip  # (T, C, H, W), uint8
    label: Any


@dataclass
class Batch:
    """The clips of some rows, in their order, K of each; `unreadable` lists (video_id, reason)."""

    num_tried: int
    samples: list[Sample] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def outcome(self) -> dict[str, Any]:
        """Return the entries of every batch. `pixel_values` is None if nothing could be read: skip the batch then."""
        clips: torch.Tensor | PlannedClips | None = None
        if planned := [sample.clip for sample in self.samples if isinstance(sample.clip, PlannedClip)]:
            clips = PlannedClips.collate(planned)
        elif self.samples:
            # In a worker it stacks straight into the shared memory in which the batch travels.
            clips = default_collate([sample.clip for sample in self.samples])
        return {"pixel_values": clips, "num_tried": self.num_tried, "unreadable": self.unreadable}


def load_batch(loader: ClipLoader, rows: Sequence[Row], training: bool) -> Batch:
    """Load the clips of all rows; in training, replace unreadable videos. No samples if none could be read.

    Args:
        loader (`ClipLoader`): or another one with `repetitions` and `load_with_labels`.
        rows (sequence of mappings): the videos.
        training (`bool`): K clips per row; else one, and unreadable videos are left out.
    """
    batch = Batch(len(rows))

    def load(row: Row, repetitions: Sequence[int]) -> list[Sample]:
        try:
            clips, labels = loader.load_with_labels(row, repetitions, training)
        except VideoReadError as error:
            # Caught only here: counted now, replaced by repetitions of other videos below.
            batch.unreadable.append((row["video_id"], error.reason))
            return []
        return [Sample(row, *parts) for parts in zip(repetitions, clips, labels, strict=True)]

    num_clips = loader.repetitions if training else 1
    per_row = [load(row, range(num_clips)) for row in rows]
    if training:
        # Repetitions K, K + 1, ... of the readable videos, taken in turn, fill the empty lists.
        donors = deque((row, num_clips) for row, samples in zip(rows, per_row, strict=True) if samples)
        for samples in per_row:
            while len(samples) < num_clips and donors:
                row, repetition = donors.popleft()
                filling = load(row, [repetition])
                samples.extend(filling)
                if filling:  # a video may have become unreadable in the meantime
                    donors.append((row, repetition + 1))
    batch.samples = [sample for samples in per_row for sample in samples]
    if training and len(batch.samples) < len(rows) * num_clips:
        batch.samples = []
    return batch


@dataclass(frozen=True)
class PreTrainingCollator:
    """Collator of batches for masked pre-training: uint8 clips and their masks.

    Args:
        loader (`ClipLoader`): reads the clips.
        mask_generator (callable): `masking.MaskGenerator` or the like: `(generator) -> (student mask, teacher mask or
            None)`, bool (N,), True = masked, with the attributes `num_masked` and `num_teacher_masked`.
        training (`bool`, defaults to `True`): False takes the middle clip, the centre crop, and masks that stay the
            same from epoch to epoch, and does not replace unreadable videos.
        with_keys (`bool`, defaults to `False`): add `teacher_keys`, for a cache of the teacher's features.

    Calling it on rows returns a dict:
        - `pixel_values`: (B * K, T, C, H, W), uint8, or with `augment_on_device` the `PlannedClips` that `make` them.
          None when no video could be read; then only the counts follow.
        - `bool_masked_pos`: (B * K, N), bool; `teacher_bool_masked_pos` likewise, absent without a teacher.
        - `num_masked`, `num_teacher_masked`: `int`, masked tokens in each row of the masks.
        - `teacher_keys`: with `with_keys`, a hash of each clip with its masks.
        - `num_tried`: `int`, videos tried. `unreadable`: list of (video_id, reason).
    """

    loader: ClipLoader
    mask_generator: MaskFunction
    training: bool = True
    with_keys: bool = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch = load_batch(self.loader, rows, self.training)
        outcome = batch.outcome() | (self._masks(batch.samples) if batch.samples else {})
        if self.with_keys and batch.samples:
            names = ("pixel_values", "bool_masked_pos", "teacher_bool_masked_pos")
            clips = zip(*(outcome[name] for name in names), strict=True)
            outcome["teacher_keys"] = [_hash(parts) for parts in clips]
        return outcome

    def _masks(self, samples: list[Sample]) -> dict[str, Any]:
        # In evaluation masks stay the same from epoch to epoch.
        rows = [sample.row if self.training else {**sample.row, "epoch": 0} for sample in samples]
        generators = [self.loader.generator(row, s.repetition, "mask") for row, s in zip(rows, samples, strict=True)]
        student_masks, teacher_masks = zip(*map(self.mask_generator, generators), strict=True)
        masks: dict[str, Any] = {
            "bool_masked_pos": torch.stack(student_masks),
            "num_masked": self.mask_generator.num_masked,  # type: ignore[attr-defined]
        }
        _check_count("bool_masked_pos", masks["bool_masked_pos"], masks["num_masked"])
        if teacher_masks[0] is None:
            return masks
        masks["teacher_bool_masked_pos"] = torch.stack(teacher_masks)
        masks["num_teacher_masked"] = self.mask_generator.num_teacher_masked  # type: ignore[attr-defined]
        _check_count("teacher_bool_masked_pos", masks["teacher_bool_masked_pos"], masks["num_teacher_masked"])
        _check_nested(masks["bool_masked_pos"], masks["teacher_bool_masked_pos"])
        return masks


def _hash(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _check_count(name: str, masks: torch.Tensor, num_masked: int) -> None:
    for row, count in enumerate(masks.sum(dim=1).tolist()):
        if count != num_masked:
            raise ValueError(
                f"Row {row} of `{name}` masks {count} tokens, but the mask generator promises "
                f"{num_masked} in each row."
            )


def _check_nested(student_masks: torch.Tensor, teacher_masks: torch.Tensor) -> None:
    for row, count in enumerate((teacher_masks & ~student_masks).sum(dim=1).tolist()):
        if count:
            raise ValueError(
                f"Row {row} of `teacher_bool_masked_pos` masks {count} tokens that the student sees. What the teacher "
                "hides the student must hide too."
            )


@dataclass(frozen=True)
class ClassificationCollator:
    """Collator of batches for classification: uint8 clips and their labels.

    Args:
        loader (`ClipLoader`): reads the clips.
        training (`bool`, defaults to `True`): False takes the middle clip and the centre crop once per video, and
            leaves unreadable videos out.
        num_labels (`int`, *optional*): classes of the model. A row with another label counts as unreadable: in a
            stream nobody sees the labels beforehand.

    Calling it on rows returns a dict:
        - `pixel_values`: (B * K, T, C, H, W), uint8, or with `augment_on_device` the `PlannedClips` that `make` them.
          None when no video could be read; then only the counts follow.
        - `labels`: (B * K,), int64.
        - `erase_boxes`: (B * K, 4), int64, and `erase_seeds`: (B * K,), int64, for `erasing.erase_clips`; only when
          training with an `erase_probability`.
        - `num_tried`: `int`, videos tried. `unreadable`: list of (video_id, reason).

    Raises:
        ValueError: a row without a label.
    """

    loader: ClipLoader
    training: bool = True
    num_labels: int | None = None

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        unlabelled = [row["video_id"] for row in rows if row.get("label") is None]
        if unlabelled:
            raise ValueError(
                f"{len(unlabelled)} of {len(rows)} videos of a batch have no label, the first is {unlabelled[0]!r}. "
                "Classification needs class folders, a list file with labels, or the column that holds them: "
                "`--label_column NAME` (Python: `label_column=`)."
            )
        if self.num_labels is not None:
            rows = [_with_fault(row, self.num_labels) for row in rows]
        batch = load_batch(self.loader, rows, self.training)
        outcome = batch.outcome()
        if batch.samples:
            outcome["labels"] = torch.tensor([int(sample.label) for sample in batch.samples], dtype=torch.int64)
            if self.training and self.loader.erase_probability > 0:
                drawn = [self.loader.draw_erasing(sample.row, sample.repetition) for sample in batch.samples]
                outcome["erase_boxes"] = torch.tensor([box for box, _ in drawn], dtype=torch.int64)
                outcome["erase_seeds"] = torch.tensor([seed for _, seed in drawn], dtype=torch.int64)
        return outcome


def _with_fault(row: Row, num_labels: int) -> Row:
    """Return the row; if the model does not have its label, mark its video as unreadable."""
    label, video = row["label"], row["video"]
    if isinstance(video, Mapping) and video.get("fault") is not None:
        return row
    try:
        is_one = not isinstance(label, bool) and 0 <= operator.index(label) < num_labels
    except (TypeError, ValueError):  # a text, a fraction, a list
        is_one = False
    return row if is_one else {**row, "video": {"fault": f"the label {label!r:.100} is none of {num_labels} classes"}}


BUILT_IN_COLLATORS = (PreTrainingCollator, ClassificationCollator)
"""Those that take rows of videos; another one may want rows of its own."""
