"""Clips per second, memory and arithmetic of the pre-training step, beside a step that works like the released code.

python benchmarks/train_step.py --student small --teacher large --batch_size 8

Each arm lives in a process of its own, so that its peak memory is its own; the arms take turns, step by step, so that
whatever else the machine does falls on all of them. Prints one table and writes it, with the machine's name, to
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from common import DTYPES, MatrixProductRates, Turns, Work, keep, machine_line, take_turns
from reference_step import ReferenceStep

from amd_hf import AMDConfig, AMDForPreTraining, AMDModel, AMDTrainer, AMDTrainingArguments
from amd_hf.flops import pretraining_flops
from amd_hf.pretraining.distillation import MaskGenerator


SIZES = {
    "small": (384, 12, 6, 192, 3), "base": (768, 12, 12, 384, 6), "large": (1024, 24, 16, 512, 8),
}  # fmt: skip
ARMS = ("reference fp32", "fp32", "bf16", "fp32 compiled", "bf16 compiled", "reference fp16")


def configs(student: str, teacher: str) -> tuple[AMDConfig, AMDConfig]:
    """The configs of the paper's models at 16 x 224 x 224."""
    width, layers, heads, decoder_width, decoder_heads = SIZES[student]
    teacher_width, teacher_layers, teacher_heads, *_ = SIZES[teacher]
    student_config = AMDConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        decoder_hidden_size=decoder_width, decoder_num_attention_heads=decoder_heads,
        teacher_hidden_size=teacher_width, teacher_direct_layers=[teacher_layers // 2, teacher_layers],
        teacher_generation_layers=[teacher_layers // 2, teacher_layers],
    )  # fmt: skip
    teacher_config = AMDConfig(
        hidden_size=teacher_width, num_hidden_layers=teacher_layers, num_attention_heads=teacher_heads,
        intermediate_size=4 * teacher_width, teacher_hidden_size=None,
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
        )  # fmt: skip
        student, teacher = AMDForPreTraining(configs[0]), AMDModel(configs[1])
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
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.model, self.inputs)
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
    return make(configs(options.student, options.teacher), options, _precision(arm), "compiled" in arm)


def _precision(arm: str) -> str:
    return next(word for word in arm.split() if word in DTYPES)


def table(options: argparse.Namespace, turns: Turns, rates: dict[str, float]) -> str:
    """One line an arm. Ratios are medians over rounds of this arm against the first one, paired."""
    flops = pretraining_flops(*configs(options.student, options.teacher)) * options.batch_size
    lines = [
        "| step | clips/s | against the first | peak memory, GiB | TFLOP/s | share of PyTorch's product rate |",
        "|---|---|---|---|---|---|",
    ]
    for arm in options.arms:
        if arm in turns.failures:
            lines.append(f"| {arm} | {turns.failures[arm]} | | | | |")
            continue
        seconds = statistics.median(turns.seconds[arm])
        first = options.arms[0]
        ratio = "" if first in turns.failures else f"{statistics.median(turns.ratio(arm, first)):.2f}"
        lines.append(
            f"| {arm} | {options.batch_size / seconds:.3f} | {ratio} | {turns.peak_bytes[arm] / 2**30:.2f} | "
            f"{flops / seconds / 1e12:.3f} | {flops / seconds / rates[_precision(arm)]:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=list(SIZES), default="small")
    parser.add_argument("--teacher", choices=list(SIZES), default="large")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["reference fp32", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that are not counted; 3 for compiled arms")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; by default its own choice")
    parser.add_argument("--attn_implementation", help="eager, sdpa, ...; by default the model's own choice")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--name", help="name of the result files; by default student, teacher and device")
    options = parser.parse_args()
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
    keep(
        options.name or f"train_step_{options.student}_{options.teacher}_{options.device}",
        f"Student {options.student}, teacher {options.teacher}, {options.batch_size} clips a step, {options.rounds} "
        f"rounds, {machine_line(options.device)}",
        table(options, turns, rates.medians()),
        {**vars(options), **vars(turns), "matrix_product_rate": rates.medians()},
    )


if __name__ == "__main__":
    main()
