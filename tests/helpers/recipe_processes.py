"""Fine-tuning by the whole recipe in this process or, started by `torchrun`, in several; writes OUTPUT/RANK.pt.

torchrun --nproc_per_node 2 tests/helpers/recipe_processes.py OUTPUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification
from tests.helpers.finetuning import MIXED, PLAIN
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows, logged, weights_of


def play(output: Path, num_processes: int) -> dict[str, Any]:
    """Three steps of two device batches of two clips: accumulated by one process, or one on each of two."""
    torch.manual_seed(0)
    model = randomize(AMDForVideoClassification(tiny_config()))
    args = finetuning_args(
        output, per_device_train_batch_size=2, gradient_accumulation_steps=2 // num_processes, max_steps=3,
        base_learning_rate=1.0, adam_epsilon=1e-4, ema_decay=0.6, per_device_eval_batch_size=2, eval_strategy="steps",
        eval_steps=1, save_strategy="steps", save_steps=1, metric_for_best_model="loss",
        load_best_model_at_end=True, **{**PLAIN, **MIXED},
    )  # fmt: skip
    trainer = AMDFineTuningTrainer(
        model, args, data_collator=StackRows(), train_dataset=labelled_rows(model.config, 8),
        eval_dataset=labelled_rows(model.config, 5, seed=1),
    )  # fmt: skip
    trainer.train()
    with trainer.weight_average.in_place():
        average = weights_of(trainer.model)
    logs = {name: logged(trainer, name) for name in ("loss", "eval_loss", "eval_accuracy")}
    return {"logs": logs, "average": average, "best": trainer.state.best_global_step, "world_size": args.world_size}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = play(Path(sys.argv[1]), int(os.environ["WORLD_SIZE"]))
    torch.save(found, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
    dist.destroy_process_group()
