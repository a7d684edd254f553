"""Masked pre-training with or without a teacher (paper, section 3)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..data.clips import PreTrainingCollator
from ..flops import pretraining_flops
from ..modeling_amd import AMDForPreTraining, AMDForPreTrainingOutput, AMDModel
from ..teachers.cache import TeacherCache
from ..teachers.encoders import TeacherEncoder
from ..teachers.frozen import FrozenTeacher
from ..teachers.loading import ReadTeacher
from ..training.launching import shard_module
from ..training.trainer import VideoTrainer
from ..training.views import clip_loader
from .arguments import AMDTrainingArguments
from .distillation import LOSS_PARTS, MaskGenerator, alignment_loss, weighted_sum
from .similarity import LayerSimilarity, layer_similarity


logger = logging.get_logger(__name__)

TEACHER_NAME = "teacher.json"
"""File of a checkpoint that says who the teacher was."""


class AMDTrainer(VideoTrainer):
    """Trainer of an [`AMDForPreTraining`] student, guided by a frozen teacher that sees more of each clip.

    Loss = `reconstruction_weight` * pixels + `direct_weight` * direct alignment + `generation_weight` * generation
    alignment, each part logged by name. The teacher is no part of the model: it is neither optimised nor saved.

    Args:
        model ([`AMDForPreTraining`]): The student. Its `config.teacher_hidden_size` is the teacher's width.
        args ([`AMDTrainingArguments`]): Arguments.
        teacher_model (`AMDModel`, `torch.nn.Module`, `str`, `Path` or `ReadTeacher`, *optional*):
            An encoder, your own module behind the protocol of [`load_teacher`], or what [`load_teacher`] loads.
            Without one this is plain masked-autoencoder pre-training (VideoMAE). A module is copied, so that it can be
            used on as it was; the student, or what shares parameters with it, is refused.
        teacher_config (`Mapping`, *optional*):
            Options of [`AMDConfig`] that the teacher's file does not say, as `num_attention_heads`.
        train_dataset, eval_dataset (`datasets.Dataset`, *optional*): Rows from [`load_video_dataset`].
        data_collator, eval_collator (`Callable`, *optional*): Replace the built-in ones, which decode, crop and mask;
            `data_collator` alone serves evaluation too.

    Raises:
        ValueError: If student and teacher do not fit (widths, layers, grids of tokens), the teacher shares parameters
            with the student, or one process is to shard the teacher.
    """

    args: AMDTrainingArguments

    def __init__(
        self,
        model: AMDForPreTraining,
        args: AMDTrainingArguments,
        teacher_model: nn.Module | str | Path | ReadTeacher | None = None,
        data_collator: Callable | None = None,
        eval_collator: Callable | None = None,
        teacher_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        if isinstance(teacher_model, nn.Module):
            _check_is_no_student(teacher_model, model)
        self.teacher = None
        if teacher_model is not None:
            self.teacher = FrozenTeacher.fit(
                teacher_model,
                model.config,
                teacher_config,
                dtype=getattr(torch, args.teacher_dtype) if args.teacher_dtype else None,
                view=args.teacher_view,
                frames=args.teacher_frames,
                grid=args.teacher_grid,
            )
        self._teacher_fingerprint: str | None = None
        norm = args.teacher_feature_norm
        self._teacher_feature_norm = isinstance(self._encoder, TeacherEncoder) if norm is None else norm
        has_teacher = self.teacher is not None
        _freeze_what_no_loss_reaches(model, has_teacher)
        super().__init__(
            model,
            args,
            data_collator or pretraining_collator(model.config, args, has_teacher, training=True),
            eval_collator or data_collator or pretraining_collator(model.config, args, has_teacher, training=False),
            **kwargs,
        )
        self._alignment_loss = alignment_loss
        self.teacher_cache: TeacherCache | None = None
        if self.teacher is None and args.teacher_cache is not None:
            raise ValueError("`teacher_cache` needs a teacher: name one, or leave the option out.")
        if self.teacher is not None:
            self.teacher_cache = self._open_teacher_cache(self.teacher)
            self._place_teacher(self.teacher)
            if args.torch_compile:  # the rest of the step, with the options by which accelerate compiles the student
                options = self.accelerator.state.dynamo_plugin.to_kwargs()
                self._alignment_loss = torch.compile(alignment_loss, **options)
                if not args.shard_teacher:  # gathering its weights is not for the compiler
                    self.teacher.compile(**options)

    def _open_teacher_cache(self, teacher: FrozenTeacher) -> TeacherCache | None:
        if self.args.teacher_cache is None:
            return None
        if not (isinstance(self.data_collator, PreTrainingCollator) and self.data_collator.with_keys):
            raise ValueError(
                "`teacher_cache` needs the built-in collator, which names each clip: leave `data_collator` out, or "
                "give a `PreTrainingCollator` with `with_keys=True`."
            )
        fingerprint = str(self._teacher_identity()["fingerprint"])
        cache = TeacherCache(self.args.teacher_cache, teacher, fingerprint, self.args.precision.name)
        logger.info(f"Teacher cache: {cache.describe(self.num_cached_clips)}")
        return cache

    @property
    def num_cached_clips(self) -> int | None:
        """Return the number of clips that the cache will hold; `None` for a stream of unknown length."""
        views = self.args.num_repetitions * (self.args.view_epochs or 0)
        return None if self.num_train_videos is None else self.num_train_videos * views

    def _place_teacher(self, teacher: FrozenTeacher) -> None:
        """Move the teacher to the device, whole or, with `shard_teacher`, a part of it to each process."""
        args = self.args
        teacher.to(args.device)
        if not args.shard_teacher:
            return
        if args.world_size == 1:
            raise ValueError("`shard_teacher` needs several processes to spread the teacher over, there is one.")
        self._teacher_identity()  # hashes the weights while they are whole
        blocks = teacher.model.layers if isinstance(teacher.model, AMDModel | TeacherEncoder) else ()
        shard_module(teacher.model, blocks, init_device_mesh(args.device.type, (args.world_size,)))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, AMDForPreTrainingOutput]:
        """Return the weighted sum of the losses; `outputs.losses` holds the parts, unweighted, by name.

        See `distillation.py` for the method and the loss of the paper.
        """
        if self.teacher is None:
            inputs = {name: value for name, value in inputs.items() if "teacher" not in name}
        elif inputs.get("teacher_bool_masked_pos") is None:
            raise ValueError("Distillation needs `teacher_bool_masked_pos` in the batch: the collator left it out.")
        keys = inputs.get("teacher_keys")
        outputs = model(**{name: value for name, value in inputs.items() if name != "teacher_keys"})
        if (teacher := self.teacher) is not None:
            clips, split = inputs["pixel_values"], outputs.token_split
            with torch.no_grad(), self.accelerator.autocast():
                if self.teacher_cache is None or keys is None:
                    direct, generation = teacher(clips, split)
                else:
                    direct, generation = self.teacher_cache.features(keys, split, lambda: teacher(clips, split))
            options = (self.args.alignment_loss, self._teacher_feature_norm)
            outputs.losses |= {
                "direct": self._alignment_loss(outputs.direct_features or (), direct, *options),
                "generation": self._alignment_loss(outputs.generated_features or (), generation, *options),
            }
        total = weighted_sum(outputs.losses, {name: getattr(self.args, f"{name}_weight") for name in LOSS_PARTS})
        if model.training:
            self._record_losses(total, outputs.losses)
        return (total, outputs) if return_outputs else total

    def flops_per_clip(self) -> int | None:
        """Return [`~amd_hf.flops.pretraining_flops`]; `None` if the teacher is your own module, or has a cache."""
        config, encoder = self.model.config, self._encoder
        if self.teacher_cache is not None:  # it works on new clips only
            return None
        if isinstance(encoder, TeacherEncoder):
            assert self.teacher is not None
            return pretraining_flops(config, teacher_flops=self.teacher.flops_per_clip())
        if isinstance(encoder, AMDModel):
            return pretraining_flops(config, encoder.config)
        return pretraining_flops(config) if encoder is None else None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.teacher_cache is not None:
            ratio = self.teacher_cache.found_ratio()
            logs = logs if ratio is None else {**logs, "teacher_cached": ratio}
        super().log(logs, start_time)

    @property
    def _encoder(self) -> nn.Module | None:
        return None if self.teacher is None else self.teacher.model

    # ---- Resuming ----

    def save_extras(self, checkpoint: Path) -> None:
        """Add who the teacher is: its source, what it sees and a hash of its weights, which are not saved."""
        super().save_extras(checkpoint)
        if self.args.should_save:
            (checkpoint / TEACHER_NAME).write_text(json.dumps(self._teacher_identity(), indent=2))

    def check_resumable(self, checkpoint: Path) -> None:
        """Raise `ValueError` if the checkpoint's run had another teacher, or one that saw clips in another way."""
        super().check_resumable(checkpoint)
        file = checkpoint / TEACHER_NAME
        if not file.is_file():
            return
        before, now = json.loads(file.read_text()), self._teacher_identity()
        # Those of checkpoints of earlier releases do not say what the teacher saw.
        settings = {name: value for name, value in now.items() if name.startswith("teacher_") and name in before}
        changed = {name: value for name, value in settings.items() if before[name] != value}
        # Weights of another type have another hash, whoever the teacher is.
        if before["fingerprint"] != now["fingerprint"] and "teacher_dtype" not in changed:
            raise ValueError(
                f"{checkpoint} is of a run with another teacher: {before['source']} (weights "
                f"{before['fingerprint']}), now {now['source']} ({now['fingerprint']}). Resume with the teacher of "
                "before, or start a new run with `--init_from`."
            )
        if changed:
            differences = "; ".join(f"`{name}`: {before[name]}, now {value}" for name, value in changed.items())
            raise ValueError(
                f"{checkpoint} is of a run whose teacher was used in another way ({differences}). Resume with the "
                "options of before, or start a new run with `--init_from`."
            )

    def _teacher_identity(self) -> dict[str, str | None]:
        if self.teacher is None:
            return {"source": "no teacher", "fingerprint": None}
        if self._teacher_fingerprint is None:
            self._teacher_fingerprint = self.teacher.fingerprint()
        return {
            "source": self.teacher.source,
            "fingerprint": self._teacher_fingerprint,
            **self.teacher.settings(),
        }

    # ---- Evaluation ----

    def evaluation_parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        total, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return {"loss": total, **{f"loss_{name}": value for name, value in (outputs.losses or {}).items()}}

    def modules_used(self) -> list[nn.Module]:
        return [self.model] if self.teacher is None else [self.model, self.teacher]

    def evaluation_names(self) -> list[str]:
        parts = LOSS_PARTS[:1] if self.teacher is None else LOSS_PARTS
        return ["loss", *(f"loss_{name}" for name in parts)]

    def compare_features(self, rows: Any = None, max_clips: int = 32) -> LayerSimilarity:
        """Compare how student and teacher see held-out clips, layer by layer.

        See [`~amd_hf.pretraining.similarity.layer_similarity`].

        Args:
            rows (`datasets.Dataset`, *optional*): The clips; those of `eval_dataset` by default.
            max_clips (`int`, *optional*, defaults to 32): How many of them, spread evenly.

        Raises:
            ValueError: If there is no teacher, or there are no rows.
        """
        rows = self.eval_dataset if rows is None else rows
        if self.teacher is None or rows is None:
            raise ValueError("Comparing features needs a `teacher_model` and an `eval_dataset`.")
        return layer_similarity(
            self.model,
            self.teacher,
            rows,
            self.eval_collator,
            self.accelerator,
            max_clips=max_clips,
            batch_size=self.args.eval_batch_size,
        )


def _check_is_no_student(teacher: nn.Module, student: nn.Module) -> None:
    """Refuse a teacher that is the student itself or shares some of its parameters."""

    def address(parameter: torch.Tensor) -> int:  # 0 for those whose numbers lie nowhere
        return 0 if parameter.is_meta else parameter.untyped_storage().data_ptr()

    addresses = {address(parameter) for parameter in student.parameters()} - {0}
    shared = [name for name, parameter in teacher.named_parameters() if address(parameter) in addresses]
    if shared:
        who = "is the student itself" if teacher is student else f"shares {len(shared)} parameters with the student"
        raise ValueError(
            f"The teacher {who} ({', '.join([*shared[:3], *(['...'] if shared[3:] else [])])}): it would be frozen, "
            "or learn with it. Give another model, or `copy.deepcopy` of the student as it is now."
        )


def _freeze_what_no_loss_reaches(model: AMDForPreTraining, has_teacher: bool) -> None:
    """Freeze alignment modules that get no gradient, which several processes would wait for, and say so."""
    alignment, config = model.alignment, model.config
    if alignment is None:
        return
    alignment.requires_grad_(has_teacher)  # true again after an earlier run of the same model without a teacher
    if not has_teacher:
        logger.warning(
            "The student has alignment modules but there is no `teacher_model`: they stay as they are and only pixels "
            "are learnt. Build the student with `teacher_hidden_size=None` if no teacher will follow."
        )
    elif config.num_masked_patches(config.teacher_mask_ratio) == config.num_masked_patches(config.student_mask_ratio):
        logger.warning(
            f"Teacher and student see the same tokens (`teacher_mask_ratio` {config.teacher_mask_ratio}, "
            f"`student_mask_ratio` {config.student_mask_ratio}; rounded to whole patches both hide "
            f"{config.num_masked_patches(config.student_mask_ratio)} of {config.num_patches} tokens): "
            "there is nothing to generate and the generators stay as they are."
        )
        alignment.generators.requires_grad_(False)
        if alignment.generation_projections is not None:
            alignment.generation_projections.requires_grad_(False)
        else:
            for layer in {*alignment.generation_layers} - {*alignment.direct_layers}:
                alignment.projections[str(layer)].requires_grad_(False)


def pretraining_collator(
    config: AMDConfig, args: AMDTrainingArguments, has_teacher: bool, training: bool
) -> PreTrainingCollator:
    """Return a collator of the arguments' clips and the config's masks; in evaluation the middle clip, centred."""
    loader = clip_loader(
        config,
        args,
        sampling_mode=args.sampling_mode,
        augmentation=args.train_crop,
        flip_probability=args.flip_probability,
        view_epochs=args.view_epochs,
    )
    with_keys = has_teacher and training and args.teacher_cache is not None
    return PreTrainingCollator(loader, MaskGenerator(config, has_teacher), training=training, with_keys=with_keys)
