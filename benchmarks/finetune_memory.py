"""Peak memory of fine-tuning: ViT-S and ViT-B in bf16 at several batch sizes, with and without gradient checkpointing.

python benchmarks/finetune_memory.py --output benchmarks/results

Every cell is two optimizer steps of the Trainer on random clips of 16 x 224 x 224, of which the first has one clip and
is there for the state of the optimizer, in a process of its own: on a GPU
the most that PyTorch held of its memory, on the CPU the most that the process held (peak RSS, of which about half a
gigabyte is Python with its libraries). "out of memory" is a result like any other. Batch sizes count clips. A CPU
that emulates bf16 computes its products in float32, block by block (see float32_products.py): what is stored, and so
the memory, is the same but for some 20 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from float32_products import Float32Products

from amd_hf.export.measuring import peak_mebibytes


MODELS = {"ViT-S": (384, 6), "ViT-B": (768, 12)}
BATCH_SIZES = (1, 4, 16)
OUT_OF_MEMORY = "out of memory"


def measure(model_name: str, batch_size: int, checkpointing: bool, use_cpu: bool) -> dict[str, Any]:
    """Run one cell in this process: peak memory in GiB, or that it ran out of it."""
    try:
        _train(model_name, batch_size, checkpointing, use_cpu)
    except torch.OutOfMemoryError:
        return {"peak_gib": None}
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what the CPU allocator says
            raise
        return {"peak_gib": None}
    if use_cpu:
        return {"peak_gib": peak_mebibytes() / 2**10}
    return {"peak_gib": torch.cuda.max_memory_reserved() / 2**30}


def _train(model_name: str, batch_size: int, checkpointing: bool, use_cpu: bool) -> None:
    from amd_hf import AMDConfig, AMDFineTuningArguments, AMDFineTuningTrainer, AMDForVideoClassification
    from amd_hf.training.precision import cpu_bf16_speedup

    width, heads = MODELS[model_name]
    config = AMDConfig(hidden_size=width, num_attention_heads=heads, num_labels=174, drop_path_rate=0.1)
    clips = torch.randint(256, (batch_size, 16, 3, 224, 224), dtype=torch.uint8)

    counts = iter([1, batch_size])  # the first step is there for the optimizer's state alone

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        count = next(counts)
        return {"pixel_values": clips[:count], "labels": torch.arange(count)}

    emulated = use_cpu and cpu_bf16_speedup() < 1
    with tempfile.TemporaryDirectory() as folder, Float32Products() if emulated else contextlib.nullcontext():
        args = AMDFineTuningArguments(
            output_dir=folder, per_device_train_batch_size=batch_size, num_repetitions=1, max_steps=2, warmup_epochs=0,
            bf16=True, use_cpu=use_cpu, gradient_checkpointing=checkpointing, save_strategy="no", report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        rows = list(range(2 * batch_size))
        AMDFineTuningTrainer(
            AMDForVideoClassification(config), args, data_collator=collate, train_dataset=rows
        ).train()


def measure_apart(
    model_name: str, batch_size: int, checkpointing: bool, use_cpu: bool, limit_s: int
) -> dict[str, Any]:
    """The same in a process of its own, which the system may kill for its memory."""
    cell = json.dumps([model_name, batch_size, checkpointing, use_cpu])
    command = [sys.executable, __file__, "--cell", cell]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"peak_gib": None, "note": f"no result in {limit_s} s"}
    if run.returncode == -signal.SIGKILL:
        return {"peak_gib": None}
    if run.returncode:
        raise RuntimeError(f"{cell} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def as_table(cells: list[dict[str, Any]]) -> str:
    """The cells as a Markdown table."""
    sizes = sorted({cell["batch_size"] for cell in cells})
    lines = [f"| | {' | '.join(f'batch {size}' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for name in MODELS:
        for checkpointing in (False, True):
            row = {c["batch_size"]: c for c in cells if (c["model"], c["checkpointing"]) == (name, checkpointing)}
            if row:
                label = f"{name}{', gradient checkpointing' if checkpointing else ''}"
                lines.append(f"| {label} | {' | '.join(_entry(row[size]) for size in sizes)} |")
    return "\n".join(lines)


def _entry(cell: dict[str, Any]) -> str:
    return f"{cell['peak_gib']:.1f} GiB" if cell["peak_gib"] is not None else cell.get("note", OUT_OF_MEMORY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=list(BATCH_SIZES))
    parser.add_argument("--use_cpu", action="store_true", help="although there is a GPU")
    parser.add_argument("--limit_s", type=int, default=1800, help="seconds given to a cell")
    parser.add_argument("--output", type=Path, help="folder for finetune_memory.json and .md")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(*json.loads(options.cell))))
        return
    use_cpu = options.use_cpu or not torch.cuda.is_available()
    total = _system_memory_gib() if use_cpu else torch.cuda.get_device_properties(0).total_memory / 2**30
    where = platform.processor() or platform.machine() if use_cpu else torch.cuda.get_device_name()
    cells = []
    for name in options.models:
        for checkpointing in (False, True):
            for size in sorted(options.batch_sizes):
                found = measure_apart(name, size, checkpointing, use_cpu, options.limit_s)
                cells.append({"model": name, "batch_size": size, "checkpointing": checkpointing, **found})
                print(f"{name}, batch {size}, checkpointing {checkpointing}: {_entry(cells[-1])}", flush=True)
    what = "peak RSS of the process, CPU" if use_cpu else "peak memory held by PyTorch, GPU"
    header = f"{what}: {where}, {total:.0f} GiB; bf16, PyTorch {torch.__version__}"
    text = f"{header}\n\n{as_table(cells)}\n"
    print(f"\n{text}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "finetune_memory.md").write_text(text)
        outcome = {"measured": what, "machine": where, "memory_gib": total, "torch": torch.__version__, "cells": cells}
        (options.output / "finetune_memory.json").write_text(json.dumps(outcome, indent=2) + "\n")


def _system_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


if __name__ == "__main__":
    main()
