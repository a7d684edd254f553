"""What one process and two must agree on. Run by `torchrun`, each process writes what it found to OUTPUT/RANK.pt.

torchrun --nproc_per_node 2 tests/helpers/processes.py VIDEOS OUTPUT
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Features, IterableDataset, Value
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from amd_hf import (
    AMDFineTuningTrainer,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    AMDTrainer,
    load_video_dataset,
)
from amd_hf.options.programs import run_program
from amd_hf.training.launching import shard_module
from tests.helpers.detection_scene import detection
from tests.helpers.encoders import tiny_encoder
from tests.helpers.models import randomize, tiny_config, tiny_teacher_config
from tests.helpers.training import (
    StackRows,
    finetuning_args,
    labelled_rows,
    logged,
    masked_rows,
    pretraining_args,
    weights_of,
)


GLOBAL_BATCH = 4
_MODEL = {"image_size": 16, "num_labels": 8}
_RUN = {"max_steps": 3, "base_learning_rate": 0.1, "adam_epsilon": 1e-4, "sampling_rate": 2}


def _outcome(trainer: Any) -> dict[str, Any]:
    names = ("loss", "loss_reconstruction", "loss_direct", "loss_generation", "learning_rate")
    logs = {name: logged(trainer, name) for name in names}
    return {"logs": logs, "weights": weights_of(trainer.model), "steps": trainer.state.global_step}


def _distillation(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Training on real videos with accumulation, then evaluation of an odd number of them, one of which is bad."""
    student = randomize(AMDForPreTraining(tiny_config(**_MODEL)))
    teacher = randomize(AMDModel(tiny_teacher_config(**_MODEL)))
    options = {"per_device_train_batch_size": batch_size // 2, "gradient_accumulation_steps": 2, **_RUN}
    args = pretraining_args(output / "distilled", per_device_eval_batch_size=2, num_repetitions=2, **options)
    rows = load_video_dataset(videos, split="train")
    trainer = AMDTrainer(student, args, teacher_model=teacher, train_dataset=rows)
    trainer.train()
    metrics = trainer.evaluate(load_video_dataset(videos, split="test"))
    return _outcome(trainer) | {"metrics": metrics, "world_size": args.world_size}


def _fine_tuning(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Training with labels in the batch, augmented on the device, evaluation, and the multi-view test."""
    model = randomize(AMDForVideoClassification(tiny_config(**_MODEL)))
    args = finetuning_args(
        output / "fine_tuned", per_device_train_batch_size=batch_size, test_num_segments=2, test_num_crops=1,
        augment_on_device=True, rand_augment="rand-m7-n4-mstd0.5-inc1", flip_probability=0.5, **_RUN,
    )  # fmt: skip
    trainer = AMDFineTuningTrainer(model, args, train_dataset=load_video_dataset(videos, split="train"))
    trainer.train()
    rows = load_video_dataset(videos, split="test")
    return _outcome(trainer) | {"metrics": trainer.evaluate(rows), "test": trainer.test(rows)}


class OneUnreadable:
    """Collator of ready rows, of which that with number 0 cannot be read."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        good = [row for row in rows if row["number"] != 0]
        report = {"num_tried": len(rows), "unreadable": [("0", "bad") for _ in range(len(rows) - len(good))]}
        if not good:
            return {"pixel_values": None, **report}
        return {name: torch.stack([row[name] for row in good]) for name in ("pixel_values", "labels")} | report


def _unreadable_on_one(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """A batch that one process alone cannot read: 4 videos, one per process and step."""
    model = randomize(AMDForVideoClassification(tiny_config()))
    args = finetuning_args(output / "skipped", per_device_train_batch_size=1, **{**_RUN, "max_steps": 4})
    trainer = AMDFineTuningTrainer(
        model, args, data_collator=OneUnreadable(), train_dataset=labelled_rows(model.config, 4)
    )
    trainer.train()
    log = trainer.reading_log
    counts = (log.num_tried, log.num_unreadable, sorted(log.reasons))
    return _outcome(trainer) | {"counts": counts}


def _equal_masks(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Nothing to generate: parameters that no loss reaches would make the processes wait for each other."""
    config = tiny_config(**_MODEL, teacher_mask_ratio=0.7)
    teacher = randomize(AMDModel(tiny_teacher_config(**_MODEL)))
    args = pretraining_args(output / "equal", per_device_train_batch_size=batch_size, **_RUN)
    rows = load_video_dataset(videos, split="train")
    trainer = AMDTrainer(randomize(AMDForPreTraining(config)), args, teacher_model=teacher, train_dataset=rows)
    trainer.train()
    return _outcome(trainer)


class NumberedClips:
    """Collator of the rows of a stream: clip and label by the number that is the row's id; keeps what it was given."""

    def __init__(self, num_rows: int) -> None:
        self.rows = labelled_rows(tiny_config(), num_rows)
        self.seen: list[tuple[int, int]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        self.seen += [(row["epoch"], int(row["video_id"])) for row in rows]
        ready = [self.rows[int(row["video_id"])] for row in rows]
        batch = {name: torch.stack([row[name] for row in ready]) for name in ("pixel_values", "labels")}
        return batch | {"num_tried": len(rows), "unreadable": []}


def shards_of_rows(shards: list[list[int]]) -> Iterator[dict[str, str]]:
    """Rows of numbered clips, for `datasets.IterableDataset.from_generator`."""
    for shard in shards:
        yield from ({"video_id": str(number)} for number in shard)


def numbered_stream(*shards: list[int]) -> IterableDataset:
    """A stream of numbered clips in these shards."""
    features = Features({"video_id": Value("string")})
    return IterableDataset.from_generator(shards_of_rows, features=features, gen_kwargs={"shards": list(shards)})


def _stream_passes(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Two passes and more over 5 shards of uneven size: one process ends long before the other."""
    stream = numbered_stream([0, 1, 2, 3, 4, 5, 6], [7], [8, 9], [10, 11, 12], [13, 14, 15, 16, 17, 18])
    collator = NumberedClips(19)
    model = randomize(AMDForVideoClassification(tiny_config()))
    options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 2, "save_strategy": "steps"}
    args = finetuning_args(output / "stream", **{**_RUN, "max_steps": 9, "save_steps": 2, **options})
    trainer = AMDFineTuningTrainer(model, args, data_collator=collator, train_dataset=stream)
    trainer.train()
    found = _outcome(trainer) | {"seen": list(collator.seen)}
    again = AMDFineTuningTrainer(
        randomize(AMDForVideoClassification(tiny_config())), args, data_collator=collator, train_dataset=stream
    )
    again.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-4")
    evaluation = trainer.evaluate(numbered_stream([0, 1, 2], [3], [4, 5, 6, 7, 8]))
    return found | {"resumed_weights": weights_of(again.model), "metrics": evaluation}


def _uneven_step(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """A step of 3 clips: 2 on one process and 1 on the other; then one of 2 clips on one process alone."""
    shards = ([0, 1], [2]) if batch_size < GLOBAL_BATCH else ([0, 1, 2],)
    outcomes = []
    for rows in (shards, ([0, 1, 3, 4], [2])):
        model = randomize(AMDForVideoClassification(tiny_config()))
        args = finetuning_args(
            output / "uneven", per_device_train_batch_size=batch_size, **{**_RUN, "max_steps": len(outcomes) + 1}
        )
        trainer = AMDFineTuningTrainer(
            model, args, data_collator=NumberedClips(5), train_dataset=numbered_stream(*rows)
        )
        trainer.train()
        outcomes.append(_outcome(trainer))
    return {"first": outcomes[0], "second": outcomes[1]}


def _distilling_trainer(output: Path, batch_size: int, **options: Any) -> AMDTrainer:
    """A trainer on 12 ready clips and their masks, 7 of them to evaluate on, one at a time."""
    student = randomize(AMDForPreTraining(tiny_config()))
    teacher = randomize(AMDModel(tiny_teacher_config()))
    rows = masked_rows(student.config, 12)
    args = pretraining_args(
        output, per_device_train_batch_size=batch_size, per_device_eval_batch_size=1, **{**_RUN, **options}
    )
    return AMDTrainer(
        student, args, teacher_model=teacher, data_collator=StackRows(), train_dataset=rows, eval_dataset=rows[:7]
    )


def _sharded_teacher(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Training with the teacher shared out over two processes, or whole on one; evaluation of uneven shares first."""
    is_shared = batch_size < GLOBAL_BATCH
    options = {"shard_teacher": is_shared, "save_strategy": "steps", "save_steps": 2}
    trainer = _distilling_trainer(output / "sharded_teacher", batch_size, **options)
    before = trainer.evaluate()
    trainer.train()
    trainer.check_resumable(output / "sharded_teacher" / "checkpoint-2")
    identity = json.loads((output / "sharded_teacher" / "checkpoint-2" / "teacher.json").read_text())
    metrics = {"before": before["eval_loss"], "after": trainer.evaluate()["eval_loss"]}
    return _outcome(trainer) | {"metrics": metrics, "identity": identity, "share_held": _share_held(trainer.teacher)}


def _vjepa2_teacher(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Training with V-JEPA 2 shared out over two processes, or whole on one."""
    is_shared = batch_size < GLOBAL_BATCH
    return _taught_by("vjepa2", videos, output, batch_size, shard_teacher=is_shared)


def _dinov2_teacher(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Training with an encoder of images, whole on each process."""
    return _taught_by("dinov2", videos, output, batch_size)


def _taught_by(model_type: str, videos: Path, output: Path, batch_size: int, **options: Any) -> dict[str, Any]:
    student = randomize(AMDForPreTraining(tiny_config(**_MODEL)))
    args = pretraining_args(output / model_type, per_device_train_batch_size=batch_size, **_RUN, **options)
    rows = load_video_dataset(videos, split="train")
    trainer = AMDTrainer(student, args, teacher_model=tiny_encoder(model_type), train_dataset=rows)
    trainer.train()
    return _outcome(trainer) | {"share_held": _share_held(trainer.teacher)}


def _share_held(module: torch.nn.Module | None) -> float:
    """The share of its weights that this process holds."""
    assert module is not None
    parameters = list(module.parameters())
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    return held / sum(p.numel() for p in parameters)


def _sharded_student(videos: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """Steps of student and teacher, both sharded by FSDP2 on two processes, whole on one; then evaluation."""
    is_sharded = batch_size < GLOBAL_BATCH
    trainer = _distilling_trainer(output / "sharded_student", batch_size, shard_teacher=is_sharded)
    student, args, rows = trainer.model, trainer.args, trainer.train_dataset
    if is_sharded:
        blocks = [part for part in student.modules() if type(part).__name__ in student._no_split_modules]
        shard_module(student, reversed(blocks), init_device_mesh("cpu", (args.world_size,)))  # inner ones first
    optimizer = trainer.create_optimizer()
    losses = []
    student.train()
    for step in range(3):
        start = step * GLOBAL_BATCH + args.process_index * batch_size
        loss = trainer.compute_loss(student, StackRows()(rows[start : start + batch_size]))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append((trainer.accelerator.reduce(loss.detach(), "mean").item(), float(_whole(norm))))
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in student.parameters()}  # and none of the teacher's
    return {
        "losses": losses,
        "weights": {name: _whole(value) for name, value in weights_of(student).items()},
        "eval_loss": trainer.evaluate()["eval_loss"],
        "share_held": _share_held(student),
    }


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _refusals(videos: Path, output: Path, batch_size: int) -> dict[str, str]:
    """What a run says that asks for FSDP where accelerate copies the model instead."""
    said = {}
    for name, options, variable in (
        ("argument", {"fsdp": True}, "false"),
        ("launcher", {}, "true"),
    ):
        os.environ["ACCELERATE_USE_FSDP"] = variable
        try:
            _distilling_trainer(output / "refused", batch_size, **options)
        except ValueError as error:
            said[name] = str(error)
        finally:
            del os.environ["ACCELERATE_USE_FSDP"]
    return said


SCENES: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "distillation": _distillation,
    "fine_tuning": _fine_tuning,
    "unreadable_on_one": _unreadable_on_one,
    "equal_masks": _equal_masks,
    "stream_passes": _stream_passes,
    "uneven_step": _uneven_step,
    "detection": detection,
    "sharded_teacher": _sharded_teacher,
    "sharded_student": _sharded_student,
    "vjepa2_teacher": _vjepa2_teacher,
    "dinov2_teacher": _dinov2_teacher,
    "refusals": _refusals,
}


def play(videos: Path, output: Path, num_processes: int, names: tuple[str, ...] = tuple(SCENES)) -> dict[str, Any]:
    """The outcome of every scene in this process; the batch of a step is the same for any number of processes."""
    outcomes = {}
    for name in names:
        torch.manual_seed(0)
        outcomes[name] = SCENES[name](videos, output, GLOBAL_BATCH // num_processes)
    return outcomes


class _DieAt(TrainerCallback):
    """Kills the second process in the middle of a step, after a note of when."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == 1 and state.global_step == 1:
            self._note.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


def last_act(output: Path) -> None:
    """A run of which one process dies; the other must not wait for it."""
    trainer = _distilling_trainer(output / "death", 2, dataloader_num_workers=1)
    trainer.add_callback(_DieAt(output / "time_of_death"))
    run_program(trainer.train)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = play(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["WORLD_SIZE"]))
    torch.save(found, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
    last_act(Path(sys.argv[2]))
