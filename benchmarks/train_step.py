"""Clips per second, memory and arithmetic of the pre-training step, beside a step that works like the released code.

    python benchmarks/train_step.py --student small --teacher large --batch_size 8
    python benchmarks/train_step.py --student small --teacher vjepa2-large --batch_size 8 --arms fp32 bf16

    python benchmarks/train_step.py --device cuda --arms bf16 "bf16 compiled" --warmup 3 --batch_size 64 \\
        --data videos/ --num_workers 15                             # and the same steps fed from videos
    python benchmarks/train_step.py --device cpu --student tiny --teacher tiny --image_size 64 --data videos/  # trial

Each arm lives in a process of its own, so that its peak memory is its own; the arms take turns, step by step, so that
whatever else the machine does falls on all of them. With `--data` each arm then runs alone with the loader of
`amd-hf pretrain`, and the time that it waits for batches is told apart. Prints one table and writes it, with the
machine's name, to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from common import (
    DTYPES,
    MatrixProductRates,
    Turns,
    Work,
    keep,
    machine_line,
    peak_bytes,
    synchronize,
    take_turns,
)
from reference_step import ReferenceStep
from transformers import VJEPA2Config, VJEPA2Model

from amd_hf import AMDConfig, AMDForPreTraining, AMDModel, AMDTrainer, AMDTrainingArguments
from amd_hf.data.arguments import PreTrainingDataArguments
from amd_hf.data.loaders import EpochBatchSampler, build_train_loader
from amd_hf.flops import pretraining_flops
from amd_hf.pretraining.distillation import MaskGenerator
from amd_hf.pretraining.trainer import pretraining_collator


SIZES = {
    "tiny": (64, 12, 1, 64, 1),  # for trials
    "small": (384, 12, 6, 192, 3), "base": (768, 12, 12, 384, 6), "large": (1024, 24, 16, 512, 8),
}  # fmt: skip
TEACHERS = (*SIZES, "vjepa2-large")
ARMS = ("reference fp32", "fp32", "bf16", "fp32 compiled", "bf16 compiled", "reference fp16")


def configs(student: str, teacher: str, image_size: int = 224) -> tuple[AMDConfig, AMDConfig]:
    """The configs of the paper's models at 16 x 224 x 224, or at another size of image."""
    width, layers, heads, decoder_width, decoder_heads = SIZES[student]
    # V-JEPA 2's blocks are as wide and as many as VideoMAE's: the same products.
    teacher_width, teacher_layers, teacher_heads, *_ = SIZES[teacher.removeprefix("vjepa2-")]
    student_config = AMDConfig(
        image_size=image_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_width, decoder_num_attention_heads=decoder_heads,
        teacher_hidden_size=teacher_width, teacher_direct_layers=[teacher_layers // 2, teacher_layers],
        teacher_generation_layers=[teacher_layers // 2, teacher_layers],
    )  # fmt: skip
    teacher_config = AMDConfig(
        image_size=image_size, hidden_size=teacher_width, num_hidden_layers=teacher_layers,
        num_attention_heads=teacher_heads, intermediate_size=4 * teacher_width, teacher_hidden_size=None,
    )  # fmt: skip
    return student_config, teacher_config


def _batch(config: AMDConfig, batch_size: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config.num_frames, config.num_channels, *config.image_height_width)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    masks = MaskGenerator(config, has_teacher=True)
    drawn = [masks(np.random.default_rng(row)) for row in range(batch_size)]
    return {
        "pixel_values": clips,
        "bool_masked_pos": torch.stack([student for student, _ in drawn]),
        "teacher_bool_masked_pos": torch.stack([teacher for _, teacher in drawn]),
        "num_masked": masks.num_masked,
        "num_teacher_masked": masks.num_teacher_masked,
    }


class _OurStep:
    """The step of `AMDTrainer`, with the optimizer that it makes."""

    def __init__(self, configs: tuple[Any, Any], options: argparse.Namespace, precision: str, compiled: bool):
        torch.manual_seed(0)
        args = AMDTrainingArguments(
            output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=options.device == "cpu", bf16=precision == "bf16",
            torch_compile=compiled, gradient_checkpointing=options.gradient_checkpointing,
            num_repetitions=options.repetitions, decoder=options.decoder,
        )  # fmt: skip
        student = AMDForPreTraining(configs[0])
        is_vjepa2 = options.teacher.startswith("vjepa2")  # whose config is that of its ViT-L
        teacher = VJEPA2Model(VJEPA2Config()) if is_vjepa2 else AMDModel(configs[1])
        if options.gradient_checkpointing:
            student.gradient_checkpointing_enable()
        if options.attn_implementation:
            student.set_attn_implementation(options.attn_implementation)
            teacher.set_attn_implementation(options.attn_implementation)
        self.trainer = AMDTrainer(student, args, teacher, data_collator=list)
        self.optimizer = self.trainer.create_optimizer()
        self.model = self.trainer.accelerator.prepare_model(self.trainer.model).train()
        self.inputs = self.trainer._prepare_inputs(_batch(configs[0], options.batch_size))

    def __call__(self) -> None:
        self.step(self.inputs)

    def step(self, inputs: dict[str, Any]) -> None:
        """Train on a batch that lies on the device."""
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class _ReferenceStep:
    """The released code's way, with its optimizer and, on a GPU, its fp16 autocast and loss scaling."""

    def __init__(self, configs: tuple[Any, Any], options: argparse.Namespace, precision: str, compiled: bool):
        torch.manual_seed(0)
        device = torch.device(options.device)
        self.step = ReferenceStep.build(*configs)
        self.step.student.to(device), self.step.teacher.to(device)
        self.optimizer = torch.optim.AdamW(self.step.student.parameters(), lr=1e-4, betas=(0.9, 0.95))
        batch = _batch(configs[0], options.batch_size)
        mean = torch.tensor(configs[0].image_mean).view(-1, 1, 1)
        std = torch.tensor(configs[0].image_std).view(-1, 1, 1)
        self.inputs = [
            ((batch["pixel_values"] / 255 - mean) / std).to(device),
            batch["bool_masked_pos"].to(device),
            batch["teacher_bool_masked_pos"].to(device),
        ]
        is_half = precision == "fp16"
        self.autocast = torch.autocast(options.device, dtype=torch.float16) if is_half else nullcontext()
        self.scaler = torch.amp.GradScaler(options.device, enabled=is_half)

    def __call__(self) -> None:
        with self.autocast:
            loss = self.step.loss(*self.inputs)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.step.student.parameters(), 0.02)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def _make_step(arm: str, options: argparse.Namespace) -> Work:
    make = _ReferenceStep if arm.startswith("reference") else _OurStep
    return make(_configs(options), options, _precision(arm), "compiled" in arm)


def _configs(options: argparse.Namespace) -> tuple[AMDConfig, AMDConfig]:
    return configs(options.student, options.teacher, options.image_size)


def _precision(arm: str) -> str:
    return next(word for word in arm.split() if word in DTYPES)


# ---------------------------------------------------------------------------------------------------------------------
# The same steps, fed from videos
# ---------------------------------------------------------------------------------------------------------------------


def fed_run(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train on batches that the workers of a loader make, measure each step and what it waits for its batch."""
    if options.threads:
        torch.set_num_threads(options.threads)
    work = _OurStep(_configs(options), options, _precision(arm), "compiled" in arm)
    batches = _endless_batches(work, options)
    waits, seconds, num_unreadable = [], [], 0
    for number in range(options.warmup + options.fed_steps):
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        num_unreadable += len(batch["unreadable"])
        inputs = {name: batch[name] for name in work.inputs}
        work.step(work.trainer._prepare_inputs(inputs))
        synchronize(options.device)  # each step alone: the loader's workers go on meanwhile, as in a training
        if number >= options.warmup:
            waits.append(waited)
            seconds.append(time.perf_counter() - start)
    return {
        "waits": waits, "seconds": seconds, "num_unreadable": num_unreadable, "peak_bytes": peak_bytes(options.device),
    }  # fmt: skip


def _endless_batches(work: _OurStep, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    config, args = work.trainer.model.config, work.trainer.args
    rows = PreTrainingDataArguments(data=options.data, train_split=options.train_split).load_training()
    sampler = EpochBatchSampler(len(rows), options.batch_size // options.repetitions, seed=0)
    loader = build_train_loader(
        rows, sampler, pretraining_collator(config, args, has_teacher=True, training=True),
        num_workers=options.num_workers, persistent_workers=options.num_workers > 0,
        pin_memory=options.device == "cuda",
    )  # fmt: skip
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        for batch in loader:
            if batch["pixel_values"] is None:
                raise SystemExit(f"No video of a batch can be read: {batch['unreadable'][0]}")
            yield batch


def _fed_runs(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run the arms of our own step one after the other, each in a process that has the machine to itself."""
    found = {}
    for arm in [arm for arm in options.arms if not arm.startswith("reference")]:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[arm] = pool.submit(fed_run, arm, options).result()
    return found


def fed_lines(options: argparse.Namespace, fed: dict[str, dict[str, Any]], rates: dict[str, float]) -> list[str]:
    """One line a fed run, with the ratio of its time that it waits for data."""
    flops = pretraining_flops(*_configs(options)) * options.batch_size
    lines = []
    for arm, run in fed.items():
        # Means: one step in a dozen that waits long is what starving looks like.
        seconds = statistics.mean(run["seconds"])
        lines.append(
            f"| {arm}, fed by {options.num_workers} workers | {options.batch_size / seconds:.3f} | | "
            f"{run['peak_bytes'] / 2**30:.2f} | {flops / seconds / 1e12:.3f} | "
            f"{flops / seconds / rates[_precision(arm)]:.0%} | {sum(run['waits']) / sum(run['seconds']):.1%} |"
        )
    return lines


def table(options: argparse.Namespace, turns: Turns, rates: dict[str, float], fed: dict[str, dict[str, Any]]) -> str:
    """One line an arm. Ratios are medians over rounds of this arm against the first one, paired."""
    flops = pretraining_flops(*_configs(options)) * options.batch_size
    lines = [
        "| step | clips/s | against the first | peak memory, GiB | TFLOP/s | share of PyTorch's product rate "
        "| waiting for data |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in options.arms:
        if arm in turns.failures:
            lines.append(f"| {arm} | {turns.failures[arm]} | | | | | |")
            continue
        seconds = statistics.median(turns.seconds[arm])
        first = options.arms[0]
        ratio = "" if first in turns.failures else f"{statistics.median(turns.ratio(arm, first)):.2f}"
        lines.append(
            f"| {arm} | {options.batch_size / seconds:.3f} | {ratio} | {turns.peak_bytes[arm] / 2**30:.2f} | "
            f"{flops / seconds / 1e12:.3f} | {flops / seconds / rates[_precision(arm)]:.0%} | |"
        )
    return "\n".join([*lines, *fed_lines(options, fed, rates)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=list(SIZES), default="small")
    parser.add_argument("--teacher", choices=TEACHERS, default="large")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["reference fp32", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that are not counted; 3 for compiled arms")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; by default its own choice")
    parser.add_argument("--attn_implementation", help="eager, sdpa, ...; by default the model's own choice")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--data", help="videos to feed our arms from, as for `amd-hf pretrain`")
    parser.add_argument("--train_split", help="split of `data`")
    parser.add_argument("--num_workers", type=int, default=max((os.cpu_count() or 2) - 1, 1), help="of the fed runs")
    parser.add_argument("--repetitions", type=int, default=4, help="clips of each video, of the fed runs")
    parser.add_argument("--decoder", help="of the fed runs; by default the first that works")
    parser.add_argument("--fed_steps", type=int, default=30, help="steps of a fed run that count")
    parser.add_argument("--name", help="name of the result files; by default student, teacher and device")
    options = parser.parse_args()
    if options.batch_size % options.repetitions:
        parser.error(f"--batch_size must be a multiple of --repetitions, {options.repetitions}")
    if options.teacher.startswith("vjepa2") and any(arm.startswith("reference") for arm in options.arms):
        parser.error("the released code has no V-JEPA 2: leave the arms `reference ...` out (`--arms fp32 bf16`)")
    if options.threads:
        torch.set_num_threads(options.threads)
    rates = MatrixProductRates(options.device, {_precision(arm) for arm in options.arms})
    turns = take_turns(
        {arm: partial(_make_step, arm, options) for arm in options.arms},
        device=options.device,
        threads=options.threads,
        rounds=options.rounds,
        warmup=options.warmup,
        between=rates.measure,
    )
    fed = _fed_runs(options) if options.data else {}
    size = "" if options.image_size == 224 else f" at {options.image_size} pixels"
    keep(
        options.name or f"train_step_{options.student}_{options.teacher}_{options.device}",
        f"Student {options.student}, teacher {options.teacher}{size}, {options.batch_size} clips a step, "
        f"{options.rounds} rounds, {machine_line(options.device)}",
        table(options, turns, rates.medians(), fed),
        {**vars(options), **vars(turns), "fed": fed, "matrix_product_rate": rates.medians()},
    )


if __name__ == "__main__":
    main()
