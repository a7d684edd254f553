"""Fine-tuning of an action detector and its test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..configuration_amd import AMDConfig
from ..finetuning.trainer import AMDFineTuningTrainer
from ..modeling_amd_detection import AMDActionDetectionOutput, AMDForActionDetection
from ..training.views import common_options, square_size
from .clips import DetectionClipLoader, DetectionCollator, DetectionTestCollator
from .evaluation import DetectionResult, check_action_names, check_scored_names, collect, detect
from .training_arguments import AMDDetectionArguments


class AMDDetectionTrainer(AMDFineTuningTrainer):
    """Trainer of an [`AMDForActionDetection`] on true boxes, which tests it on those of a person detector.

    The gradient of a step is that of the loss summed over all of its boxes, whatever the accumulation steps and
    processes; logs show the loss per box.

    Args:
        model ([`AMDForActionDetection`]): The detector.
        args ([`AMDDetectionArguments`]): Arguments.
        scored_actions (`Sequence[str]`, *optional*): Names of the actions that the mAP counts; by default all.
        data_collator, eval_collator (`Callable`, *optional*):
            Replace the built-in [`~amd_hf.detection.clips.DetectionCollator`] and `DetectionTestCollator`.
        train_dataset, eval_dataset (`datasets.Dataset`, *optional*): Rows from [`load_action_dataset`].

    Raises:
        ValueError: See [`AMDFineTuningTrainer`]; also if a scored action is none of the model's.
        TypeError: If the model is no detector, or the arguments are for classification.
    """

    args: AMDDetectionArguments
    clip_loader_type = DetectionClipLoader
    _trains_detectors = True

    def __init__(
        self,
        model: AMDForActionDetection,
        args: AMDDetectionArguments,
        scored_actions: Sequence[str] | None = None,
        data_collator: Callable | None = None,
        eval_collator: Callable | None = None,
        **kwargs: Any,
    ):
        if not isinstance(args, AMDDetectionArguments):
            raise TypeError(f"AMDDetectionTrainer takes AMDDetectionArguments, got {type(args).__name__}.")
        check_scored_names(scored_actions, class_names_of(model.config))
        self.scored_actions = scored_actions
        super().__init__(
            model,  # type: ignore[arg-type]  # another head
            args,
            data_collator=data_collator or DetectionCollator(detection_clip_loader(model.config, args)),
            eval_collator=eval_collator or DetectionTestCollator(detection_clip_loader(model.config, args)),
            **kwargs,
        )

    # ---- Training ----

    def compute_loss(  # type: ignore[override]  # another output
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, AMDActionDetectionOutput]:
        """Sum the cross-entropy over the boxes of the batch; in training, multiply by what the Trainer divides by."""
        if model.training:
            for module in self._frozen:
                module.eval()
        outputs = model(**inputs)
        loss = outputs.loss
        if model.training:
            num_boxes = len(outputs.logits) if self._num_clips else 0
            self._finite_guard.watch(self.state.global_step + 1, {"total": loss})
            self._meter.add({"loss": loss / max(len(outputs.logits), 1)}, num_boxes)
            # The Trainer divides the loss by the accumulation steps, and averages the gradients of the processes: both
            # factors are undone here, since this loss is a sum over boxes.
            divisor = self.current_gradient_accumulation_steps
            loss = loss * divisor * self.args.world_size if math.isfinite(divisor) else loss
        return (loss, outputs) if return_outputs else loss

    # ---- Evaluation ----

    def evaluation_names(self) -> list[str]:
        return ["map"]

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return `map` and the counts of key frames, each counted once; use the averaged weights if there are any."""
        metrics = self._run(dataloader).metrics()
        prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        count = int(metrics["videos_expected"])
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=prefixed, num_samples=count)

    def test(self, rows: Any) -> DetectionResult:  # type: ignore[override]  # another result
        """Test the model on every key frame of `rows`: on person boxes if there are any, else on true boxes.

        Raises:
            ValueError: If the actions of the data are not the model's.
        """
        check_action_names(rows, class_names_of(self.model.config))
        result = self._run(self.get_eval_dataloader(rows))
        self.test_metrics = result.metrics()
        return result

    def _run(self, dataloader: DataLoader) -> DetectionResult:
        outcomes: list[dict[str, Any]] = []
        with self._averaged():
            for of_batch in detect(self.model, self._reported(dataloader), self.accelerator):
                outcomes += of_batch
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        return DetectionResult(
            collect(outcomes, self.accelerator), class_names_of(self.model.config), self.scored_actions
        )

    def _reported(self, dataloader: DataLoader) -> Iterator[dict[str, Any]]:
        """Yield the batches, and log the key frames that cannot be read."""
        for batch in dataloader:
            self.reading_log.name(batch["unreadable"])
            yield batch


def class_names_of(config: AMDConfig) -> list[str]:
    """Return a model's class names, by index."""
    return [config.id2label[number] for number in range(config.num_labels)]


def detection_clip_loader(config: AMDConfig, args: AMDDetectionArguments) -> DetectionClipLoader:
    """Return the loader of clips for a model's config and the arguments.

    Raises:
        ValueError: If training clips are not square, larger than the short side, or there is no such decoder.
        ImportError: If the decoder is not installed.
    """
    return DetectionClipLoader(
        num_labels=config.num_labels,
        crop_size=square_size(config),
        flip_probability=args.flip_probability,
        hue_shift=args.hue_shift,
        saturation_shift=args.saturation_shift,
        value_shift=args.value_shift,
        **common_options(config, args),
    )
