"""Fine-tuning of a classifier and its multi-view test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from ..data.clips import ClipAugmentation
from ..evaluation.multiview import MultiViewResult, ViewOptions, run_multi_view_test
from ..modeling_amd import AMDForVideoClassification
from .base import VideoTrainer
from .collators import classification_collator, process_cache
from .finetuning_args import AMDFineTuningArguments
from .optim import parameter_groups


class AMDFineTuningTrainer(VideoTrainer):
    """Fine-tunes an [`AMDForVideoClassification`] with cross-entropy and tests it over several views.

    Args:
        model ([`AMDForVideoClassification`]): The classifier.
        args ([`AMDFineTuningArguments`]): Arguments.
        clip_augmentation (`Callable`, *optional*):
            `(clip, label, generator) -> (clip, label)` on uint8 clips `(T, C, H, W)` before the random crop.
        data_collator, eval_collator (`Callable`, *optional*): Replace the built-in ones, which decode and crop;
            `data_collator` alone serves evaluation too.
        train_dataset, eval_dataset (`datasets.Dataset`, *optional*): Labelled rows from [`load_video_dataset`].
    """

    args: AMDFineTuningArguments

    def __init__(
        self,
        model: AMDForVideoClassification,
        args: AMDFineTuningArguments,
        clip_augmentation: ClipAugmentation | None = None,
        data_collator: Callable | None = None,
        eval_collator: Callable | None = None,
        **kwargs: Any,
    ):
        options = {
            "augmentation": args.train_crop,
            "sampling_mode": args.sampling_mode,
            "flip_probability": args.flip_probability,
            "clip_augmentation": clip_augmentation,
        }
        super().__init__(
            model,
            args,
            data_collator or classification_collator(model.config, args, training=True, **options),
            eval_collator or data_collator or classification_collator(model.config, args, training=False, **options),
            **kwargs,
        )

    def optimizer_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        args = self.args
        return parameter_groups(model, args.weight_decay, args.learning_rate, args.layer_decay)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ImageClassifierOutput]:
        """Mean cross-entropy of the batch."""
        outputs = model(**inputs)
        if model.training:
            self._record_losses(outputs.loss, {})
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluation_parts(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        hits = outputs.logits.argmax(dim=-1) == inputs["labels"]
        return {"loss": loss, "accuracy": hits.float().mean()}

    def evaluation_names(self) -> list[str]:
        return ["loss", "accuracy"]

    def finish_metrics(self, metrics: dict[str, float], expected: int, read: int) -> dict[str, float]:
        """Counts unreadable videos as wrong."""
        return {**metrics, "accuracy": metrics["accuracy"] * read / expected if read else 0.0}

    def view_options(self) -> ViewOptions:
        """The views of the test, from the model's config and the arguments."""
        args = self.args
        return ViewOptions.for_model(
            self.model.config,
            sampling_rate=args.sampling_rate,
            num_segments=args.test_num_segments,
            num_crops=args.test_num_crops,
            mode=args.test_mode,
        )

    def test(self, rows: Any) -> MultiViewResult:
        """Tests the model over `test_num_segments` x `test_num_crops` views of every video of `rows`."""
        return run_multi_view_test(
            self.model,
            rows,
            self.view_options(),
            self.accelerator,
            videos_per_batch=max(1, self.args.eval_batch_size // self.view_options().num_views),
            num_workers=self.args.dataloader_num_workers,
            decoder=self.args.decoder,
            cache=process_cache(self.args.cache_decoded_bytes),
        )
