"""Fine-tuning of a classifier and its multi-view test."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from ..configuration_amd import AMDConfig
from ..data.augment.erasing import erase_clips
from ..data.clips import ClassificationCollator, ClipAugmentation
from ..data.datasets.label_names import check_labels_fit
from ..evaluation.checks import check_exclusive_classes
from ..evaluation.multiview import MultiViewResult, ViewOptions, run_multi_view_test
from ..flops import finetuning_flops
from ..modeling_amd import AMDForVideoClassification, AMDPatchEmbeddings
from ..modeling_amd_detection import AMDForActionDetection
from ..training.steps import parameter_groups
from ..training.trainer import VideoTrainer
from ..training.views import clip_loader, process_cache
from .arguments import AMDFineTuningArguments
from .ema import TRAINED_WEIGHTS_NAME, AverageWeights, WeightAverage
from .mixing import BatchMixer, MixDraw, mix_clips, mix_generator, soft_targets
from .trained_parts import add_lora, freeze_modules


class AMDFineTuningTrainer(VideoTrainer):
    """Trainer of an [`AMDForVideoClassification`] with cross-entropy, which tests it over several views.

    Layer-wise rates, frozen parts and adapters, the average of the weights, saving, resuming, logs and unreadable
    videos work the same for every head. [`AMDDetectionTrainer`] is this trainer for [`AMDForActionDetection`], with
    another loss, other collators and another test.

    Clips travel to the device as uint8. There a training batch is normalised, then boxes are erased, then clips and
    their targets are mixed; evaluation uses clips as they are.

    With `ema_decay`, `evaluate`, `test` and `save_model` use the average of the weights; `model` itself keeps the
    weights under training. With `lora_rank`, PEFT wraps the model; `save_model` merges the adapters into the
    classifier, which then loads like any other, and writes the adapters alone into the sub-folder `adapter`.

    Args:
        model ([`AMDForVideoClassification`]): The classifier.
        args ([`AMDFineTuningArguments`]): Arguments.
        clip_augmentation (`Callable`, *optional*):
            `(clip, label, generator) -> (clip, label)` on uint8 clips `(T, C, H, W)` before RandAugment and the crop.
        data_collator, eval_collator (`Callable`, *optional*): Replace the built-in collators, which decode and crop;
            `data_collator` alone is used for evaluation too.
        train_dataset, eval_dataset (`datasets.Dataset`, *optional*): Labelled rows from [`load_video_dataset`].

    Raises:
        ValueError: If `freeze` is more than the model's layers, or `ema_decay` is used with weights that are not
            float32 or are sharded over processes, or the model's `problem_type` is not that of one class per video.
        TypeError: If the model is a detector.
    """

    args: AMDFineTuningArguments
    _trains_detectors = False

    def __init__(
        self,
        model: AMDForVideoClassification,
        args: AMDFineTuningArguments,
        clip_augmentation: ClipAugmentation | None = None,
        data_collator: Callable | None = None,
        eval_collator: Callable | None = None,
        **kwargs: Any,
    ):
        if isinstance(model, AMDForActionDetection) != self._trains_detectors:
            ours, theirs = ("Detection", "FineTuning") if self._trains_detectors else ("FineTuning", "Detection")
            raise TypeError(
                f"AMD{ours}Trainer does not train an {type(model).__name__}: take AMD{theirs}Trainer with "
                f"AMD{theirs}Arguments."
            )
        if not self._trains_detectors:
            check_exclusive_classes(
                model.config, "AMDFineTuningTrainer mixes and smooths labels, and counts hits, of one class per video"
            )
        if args.lora_rank is not None:
            model = add_lora(model, args.lora_rank, args.lora_alpha, args.lora_targets, args.lora_dropout)
        self._frozen = freeze_modules(model, args.freeze) if args.freeze is not None else []
        super().__init__(
            model,
            args,
            data_collator or finetuning_collator(model.config, args, True, clip_augmentation),
            eval_collator or data_collator or finetuning_collator(model.config, args, False),
            **kwargs,
        )
        # A custom collator may make labels of its own, so only rows of the built-in one are checked.
        for rows in (
            (self.train_dataset, self.eval_dataset) if isinstance(self.data_collator, ClassificationCollator) else ()
        ):
            check_labels_fit(rows, self.model.config)
        self._embeddings = next(part for part in model.modules() if isinstance(part, AMDPatchEmbeddings))
        self._mixer = BatchMixer(
            mixup_alpha=args.mixup_alpha,
            cutmix_alpha=args.cutmix_alpha,
            probability=args.mix_probability,
            switch_probability=args.mix_switch_probability,
        )
        self._last_micro_batch = (-1, 0)  # its step, and its index in that step on this process
        self.weight_average: WeightAverage | None = None
        if args.ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(
                    "`ema_decay` needs whole weights on each process: leave it out with FSDP and DeepSpeed."
                )
            self.add_callback(AverageWeights(self))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def optimizer_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        args = self.args
        return parameter_groups(model, args.weight_decay, args.learning_rate, args.layer_decay)

    # ---- Training ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ImageClassifierOutput]:
        """Return the mean cross-entropy of the batch in float32; in training against smoothed and mixed targets."""
        if model.training:
            # The Trainer sets the whole model to training mode in every step: no drop path and no dropout in modules
            # that learn nothing.
            for module in self._frozen:
                module.eval()
            inputs = self._augment(inputs)
        outputs = model(**inputs)
        if model.training:
            self._record_losses(outputs.loss, {})
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    @torch.no_grad()
    def _augment(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Erase and mix a training batch on the device, and make its targets."""
        inputs = dict(inputs)
        boxes, seeds = inputs.pop("erase_boxes", None), inputs.pop("erase_seeds", None)
        # Erasing fills boxes with standard normal noise, so it needs normalised clips; mixing needs floats.
        if boxes is not None:
            inputs["pixel_values"] = erase_clips(self._normalized(inputs["pixel_values"]), boxes, seeds)
        draw = self._draw_mix(*inputs["pixel_values"].shape[-2:])
        if draw != MixDraw():
            inputs["pixel_values"] = mix_clips(self._normalized(inputs["pixel_values"]), draw)
        if draw != MixDraw() or self.args.label_smoothing_factor > 0:
            num_labels = self.model.config.num_labels
            inputs["labels"] = soft_targets(inputs["labels"], num_labels, self.args.label_smoothing_factor, draw)
        return inputs

    def _normalized(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 clips `(B, T, C, H, W)` as the model does; return floats as they are."""
        return self._embeddings.normalize(pixel_values.movedim(2, -1)).movedim(-1, 2)

    def _draw_mix(self, height: int, width: int) -> MixDraw:
        """Draw the mix of the current micro-batch from its index in the step, over accumulation and processes."""
        step, index = self._last_micro_batch
        index = index + 1 if step == self.state.global_step else 0
        self._last_micro_batch = (self.state.global_step, index)
        if not self._mixer:
            return MixDraw()
        args = self.args
        # Processes take turns: the first micro-batch of each, then the second of each. The index depends on nothing
        # but the step, so a resumed run draws the same.
        micro_batch = index * args.world_size + args.process_index
        seed = args.seed if args.data_seed is None else args.data_seed
        return self._mixer.draw(mix_generator(seed, self.state.global_step, micro_batch), height, width)

    def flops_per_clip(self) -> int | None:
        """Return [`~amd_hf.flops.finetuning_flops`]; None if only a part of the model is trained."""
        args = self.args
        is_whole = args.freeze is None and args.lora_rank is None and isinstance(self.model, AMDForVideoClassification)
        return finetuning_flops(self.model.config) if is_whole else None

    # ---- The average of the weights ----

    def start_average(self) -> WeightAverage:
        """Start the average of the weights at their current values."""
        assert self.args.ema_decay is not None
        self.weight_average = WeightAverage(self.model, self.args.ema_decay)
        return self.weight_average

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the model have the averaged weights inside, if there are any."""
        if self.weight_average is None:
            yield
            return
        with self.weight_average.in_place():
            yield

    def save_extras(self, checkpoint: Path) -> None:
        super().save_extras(checkpoint)
        if self.weight_average is not None and self.args.should_save:
            self.weight_average.save_weights(checkpoint)

    def check_resumable(self, checkpoint: Path) -> None:
        """Raise `ValueError` if either the checkpoint or this run averages the weights, and the other does not."""
        super().check_resumable(checkpoint)
        was_averaged = (checkpoint / TRAINED_WEIGHTS_NAME).is_file()
        if was_averaged and self.args.ema_decay is None:
            raise ValueError(f"{checkpoint} was written with `ema_decay`: resume it with the same value.")
        if self.args.ema_decay is not None and not was_averaged:
            raise ValueError(f"{checkpoint} was written without `ema_decay`: resume it without.")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.ema_decay is not None:
            self.start_average().resume(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.weight_average is not None:
            # The best model's file holds an average: without this, saving would swap in the average of the last step.
            self.weight_average.reset()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the classifier, with averaged weights and merged adapters if it has them.

        Checkpoints of a run hold the adapters alone, from which the run resumes.
        """
        folder = Path(output_dir or self.args.output_dir)
        is_checkpoint = folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")
        with self._averaged():
            is_lora = hasattr(self.model, "peft_config")
            if not is_lora or is_checkpoint:
                super().save_model(output_dir, _internal_call)
                return
            super().save_model(str(folder / "adapter"), _internal_call=True)
            if self.args.should_save:
                # On a copy: merging would end the training of the adapters.
                copy.deepcopy(self.model).merge_and_unload().save_pretrained(folder)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
                self.create_model_card()

    # ---- Evaluation ----

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate as [`VideoTrainer`] does, with the averaged weights if there are any."""
        with self._averaged():
            return super().evaluation_loop(*args, **kwargs)

    def evaluation_parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        hits = outputs.logits.argmax(dim=-1) == inputs["labels"]
        return {"loss": loss, "accuracy": hits.float().mean()}

    def evaluation_names(self) -> list[str]:
        return ["loss", "accuracy"]

    def finish_metrics(self, metrics: dict[str, float], expected: int, read: int) -> dict[str, float]:
        """Count unreadable videos as wrong."""
        return {**metrics, "accuracy": metrics["accuracy"] * read / expected if read else 0.0}

    def view_options(self) -> ViewOptions:
        """Return the views of the test, from the model's config and the arguments."""
        args = self.args
        return ViewOptions.for_model(
            self.model.config,
            sampling_rate=args.sampling_rate,
            short_side=args.short_side,
            interpolation=args.interpolation,
            num_segments=args.test_num_segments,
            num_crops=args.test_num_crops,
            mode=args.test_mode,
        )

    def test(self, rows: Any) -> MultiViewResult:
        """Test the model on `test_num_segments` x `test_num_crops` views of every video of `rows`."""
        with self._averaged():
            result = run_multi_view_test(
                self.model,
                rows,
                self.view_options(),
                self.accelerator,
                videos_per_batch=max(1, self.args.eval_batch_size // self.view_options().num_views),
                num_workers=self.args.dataloader_num_workers,
                decoder=self.args.decoder,
                cache=process_cache(self.args.cache_decoded_bytes),
                time_limit=self.args.decode_time_limit,
            )
        self.test_metrics = result.metrics()
        return result


def finetuning_collator(
    config: AMDConfig,
    args: AMDFineTuningArguments,
    training: bool,
    clip_augmentation: ClipAugmentation | None = None,
) -> ClassificationCollator:
    """Return a collator of labelled clips: in training augmented, in evaluation the middle clip with a centre crop."""
    loader = clip_loader(
        config,
        args,
        sampling_mode=args.sampling_mode,
        augmentation=args.train_crop,
        flip_probability=args.flip_probability,
        rand_augment=args.rand_augment,
        erase_probability=args.erase_probability,
        clip_augmentation=clip_augmentation,
    )
    return ClassificationCollator(loader, training=training, num_labels=config.num_labels)
