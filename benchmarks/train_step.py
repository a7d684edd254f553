"""Clips per second, memory and arithmetic of the pre-training step, beside a step that works like the released code.

python benchmarks/train_step.py --student small --teacher large --batch_size 8

Each arm lives in a process of its own, so that its peak memory is its own; the arms take turns, step by step, so that
whatever else the machine does falls on all of them. Prints one table and writes it, with the machine's name, to
`benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm


SIZES = {
    "small": (384, 12, 6, 192, 3), "base": (768, 12, 12, 384, 6), "large": (1024, 24, 16, 512, 8),
}  # fmt: skip
ARMS = ("reference fp32", "fp32", "bf16", "fp32 compiled", "bf16 compiled", "reference fp16")
RESULTS = Path(__file__).parent / "results"


def configs(student: str, teacher: str) -> tuple[Any, Any]:
    """The configs of the paper's models at 16 x 224 x 224."""
    from amd_hf import AMDConfig

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


def _batch(config: Any, batch_size: int) -> dict[str, Any]:
    from amd_hf.masking import MaskGenerator

    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config.num_frames, config.num_channels, *config.image_height_width)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    masks = MaskGenerator(config, has_teacher=True)
    import numpy as np

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
        from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer, AMDTrainingArguments

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
        from benchmarks.reference_step import ReferenceStep

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


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _live(arm: str, options: argparse.Namespace, channel: Connection) -> None:
    """A process that takes one step each time it is asked to and says how long it took."""
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        precision = next(word for word in arm.split() if word in ("fp32", "bf16", "fp16"))
        make = _ReferenceStep if arm.startswith("reference") else _OurStep
        step = make(configs(options.student, options.teacher), options, precision, "compiled" in arm)
        while channel.recv() == "step":
            _synchronize(options.device)
            start = time.perf_counter()
            step()
            _synchronize(options.device)
            channel.send((time.perf_counter() - start, _peak_bytes(options.device)))
    except torch.OutOfMemoryError as error:
        channel.send(error)


def matrix_product_rate(device: str, dtype: torch.dtype) -> float:
    """The best rate of square matrix products on this machine, in operations per second."""
    best = 0.0
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(6):
            _synchronize(device)
            start = time.perf_counter()
            a @ b
            _synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times the arms in turn. Seconds per step and peak bytes by arm, and the rates of matrix products."""
    context = multiprocessing.get_context("spawn")
    channels, processes = {}, []
    for arm in options.arms:
        channels[arm], theirs = context.Pipe()
        processes.append(context.Process(target=_live, args=(arm, options, theirs), daemon=True))
        processes[-1].start()
    seconds: dict[str, list[float]] = {arm: [] for arm in options.arms}
    peaks: dict[str, int] = {}
    failures: dict[str, str] = {}
    if options.threads:
        torch.set_num_threads(options.threads)
    rates: dict[str, list[float]] = {"fp32": [], "bf16": [], "fp16": []}
    needed = {word for arm in options.arms for word in arm.split() if word in rates}
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for round_number in tqdm(range(options.warmup + options.rounds), desc="rounds"):
        for name in sorted(needed):
            rates[name].append(matrix_product_rate(options.device, dtypes[name]))
        for arm, channel in channels.items():
            if arm in failures:
                continue
            channel.send("step")
            answer = channel.recv()
            if isinstance(answer, Exception):
                failures[arm] = "out of memory"
                continue
            if round_number >= options.warmup:
                seconds[arm].append(answer[0])
            peaks[arm] = answer[1]
    for channel in channels.values():
        channel.send("stop")
    rate = {name: statistics.median(values) for name, values in rates.items() if values}
    return {"seconds": seconds, "peak_bytes": peaks, "failures": failures, "matrix_product_rate": rate}


def table(options: argparse.Namespace, found: dict[str, Any]) -> str:
    """One line an arm. Ratios are medians over rounds of this arm against the first one, paired."""
    from amd_hf.flops import pretraining_flops

    flops = pretraining_flops(*configs(options.student, options.teacher)) * options.batch_size
    first = options.arms[0]
    lines = [
        "| step | clips/s | against the first | peak memory, GiB | TFLOP/s | share of matrix-product rate |",
        "|---|---|---|---|---|---|",
    ]
    for arm in options.arms:
        if arm in found["failures"]:
            lines.append(f"| {arm} | {found['failures'][arm]} | | | | |")
            continue
        times = found["seconds"][arm]
        precision = next(word for word in arm.split() if word in found["matrix_product_rate"])
        speed = flops / statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(found["seconds"][first], times, strict=True))
        lines.append(
            f"| {arm} | {options.batch_size / statistics.median(times):.3f} | {ratio:.2f} | "
            f"{found['peak_bytes'][arm] / 2**30:.2f} | {speed / 1e12:.3f} | "
            f"{speed / found['matrix_product_rate'][precision]:.0%} |"
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
    found = measure(options)
    text = table(options, found)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else _cpu_name()
    title = (
        f"Student {options.student}, teacher {options.teacher}, {options.batch_size} clips a step, {options.rounds} "
        f"rounds, {machine}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    print(f"\n{title}\n\n{text}")
    name = options.name or f"train_step_{options.student}_{options.teacher}_{options.device}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"{title}\n\n{text}\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"title": title, **vars(options), **found}, indent=1) + "\n")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
