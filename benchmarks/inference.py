"""Clips per second of the classifier by every engine, beside Transformers' VideoMAE: same weights, same clips.

python benchmarks/inference.py
python benchmarks/inference.py --arms amd_hf transformers --size base --batch_sizes 1 8 --precisions fp32 bf16

ViT-S and ViT-B at 16 x 224 x 224. The arms take turns, pass by pass, each in a process of its own: what else the
machine does falls on all of them, and a ratio is that of two passes of one round. `--processes` makes several sets of
processes, one after the other: where the system puts a process' memory makes it faster or slower by a per cent or two
as long as it lives. int8 is calibrated on clips of noise: it is timed here, not judged. Arms whose packages are not
installed are left out and named. Prints one table and writes it, with the machine's name, to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from common import DTYPES, Turns, Work, keep, machine_line, take_turns
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from amd_hf import AMDConfig, AMDForVideoClassification, convert_checkpoint, optimize_for_cpu
from amd_hf.export.formats import check_packages, export_program
from amd_hf.export.running import run_by_engine, runtime_options
from amd_hf.flops import encoder_flops
from amd_hf.modeling_amd import AMDMLP


OURS, THEIRS = "amd_hf", "transformers"
# What runs the classifier. Of the exported ones: format, int8 or not.
EXPORTED = {
    "onnx": ("onnx", False),
    "onnx int8": ("onnx", True),
    "openvino": ("openvino", False),
    "openvino int8": ("openvino", True),
}
ARMS = (THEIRS, OURS, "optimize_for_cpu", "zentorch", *EXPORTED)
_SIZES = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {},
    "tiny": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2},
}


def make_models(folder: Path, size: str, arms: list[str]) -> None:
    """Save one classifier with weights at random in both forms, and as programs of the runtimes.

    Raises:
        RuntimeError: If the two forms do not give the same logits.
    """
    torch.manual_seed(0)
    options = dict(_SIZES[size])
    if options:
        options["intermediate_size"] = 4 * options["hidden_size"]
    theirs = VideoMAEForVideoClassification(VideoMAEConfig(num_labels=400, use_mean_pooling=True, **options)).eval()
    theirs.save_pretrained(folder / THEIRS)
    convert_checkpoint(folder / THEIRS).save_pretrained(folder / OURS)
    ours = AMDForVideoClassification.from_pretrained(folder / OURS).eval()
    clip = _clips(1, torch.float32)
    with torch.inference_mode():
        expected, logits = theirs(clip).logits, ours(clip).logits
    if not torch.allclose(logits, expected, atol=1e-3 * float(expected.abs().max())):
        raise RuntimeError(
            f"The classifiers differ by up to {(logits - expected).abs().max():.2g}: nothing to compare."
        )
    noise = [{"pixel_values": torch.randn(1, 16, 3, 224, 224)} for _ in range(2)]
    for arm in [arm for arm in arms if arm in EXPORTED]:
        format, int8 = EXPORTED[arm]
        exported = export_program(ours, format, input_type="float", calibration=noise if int8 else None)
        exported.save_pretrained(folder / arm)


def left_out(arms: list[str], precisions: list[str], device: str) -> dict[str, str]:
    """Return the arms that cannot run here, and why."""
    found = {}
    for arm in arms:
        try:
            if arm in EXPORTED:
                check_packages(*EXPORTED[arm])
            if arm == "zentorch" and importlib.util.find_spec("zentorch") is None:
                raise ImportError("it is not installed: `pip install zentorch`")
        except ImportError as error:
            found[arm] = str(error)
        if arm not in (OURS, THEIRS) and (device != "cpu" or precisions != ["fp32"]):
            found[arm] = "it is compared on the CPU in float32 alone"
    return found


def _clips(batch_size: int, dtype: torch.dtype) -> torch.Tensor:
    """Normalised clips (B, 16, 3, 224, 224), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, 16, 3, 224, 224, generator=generator).to(dtype)


def _make_pass(arm: str, folder: Path, batch_size: int, precision: str, options: argparse.Namespace) -> Work:
    clips = _clips(batch_size, DTYPES[precision]).to(options.device)
    if arm in EXPORTED:
        from transformers.exporters import ExportedModel

        exported = ExportedModel.from_pretrained(folder / arm, device="cpu", **runtime_options(*EXPORTED[arm]))
        return lambda: exported(pixel_values=clips).logits
    kind = VideoMAEForVideoClassification if arm == THEIRS else AMDForVideoClassification
    model = kind.from_pretrained(
        folder / (THEIRS if arm == THEIRS else OURS),
        dtype=DTYPES[precision],
        attn_implementation=options.attn_implementation,
    )
    model = model.eval().to(options.device)
    if arm == "optimize_for_cpu":
        model = optimize_for_cpu(model)
    run = run_by_engine(model, arm) if arm == "zentorch" else torch.compile(model) if options.torch_compile else model

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return run(clips).logits

    return forward


def rows(cell: str, batch_size: int, turns: Turns, flops: int) -> list[str]:
    """Return the lines of one cell; ratios are to the first arm, best pass by best pass.

    CPU time is that of all threads. What else the machine does is not in it, so on a busy machine it is the figure to
    look at, with `--threads 1`: more threads wait for each other, which counts as work.
    """
    lines = []
    first = next(iter(turns.seconds))
    for arm, seconds in turns.seconds.items():
        if not seconds:
            lines.append(f"| {cell} | {arm} | {turns.failures.get(arm, 'failed')} |" + " |" * 6)
            continue
        best, cpu = min(seconds), min(turns.cpu_seconds[arm])
        median = statistics.median(seconds)
        lines.append(
            f"| {cell} | {arm} | {1000 * best / batch_size:.0f} | {1000 * median / batch_size:.0f} | "
            f"{min(turns.seconds[first]) / best:.2f} | {1000 * cpu / batch_size:.0f} | "
            f"{min(turns.cpu_seconds[first]) / cpu:.2f} | {turns.peak_bytes[arm] / 2**30:.2f} | "
            f"{flops * batch_size / cpu / 1e9:.0f} |"
        )
    return lines


def product_rate(config: AMDConfig, num_passes: int = 30) -> float:
    """Measure float32 products alone, in FLOP a second of CPU time: an MLP of the model, by oneDNN.

    No engine computes a model in float32 faster than its products, whatever it does about all else.
    """
    mlp = optimize_for_cpu(nn.Sequential(AMDMLP(config.hidden_size, config.intermediate_size))).eval()
    tokens = torch.randn(1, config.num_patches, config.hidden_size)
    flops = 2 * 2 * config.num_patches * config.hidden_size * config.intermediate_size
    best = float("inf")
    with torch.inference_mode():
        for _ in range(num_passes):
            start = time.process_time()
            mlp(tokens)
            best = min(best, time.process_time() - start)
    return flops / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(_SIZES), nargs="+", default=["small", "base"])
    parser.add_argument("--arms", choices=list(ARMS), nargs="+", default=list(ARMS), help="ratios are to the first")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--processes", type=int, default=1, help="sets of processes")
    parser.add_argument("--rounds", type=int, default=9, help="passes that count, in each set of processes")
    parser.add_argument("--warmup", type=int, default=2, help="passes before them")
    parser.add_argument("--attn_implementation", default="sdpa", help="of PyTorch's arms: sdpa, eager, ...")
    parser.add_argument("--torch_compile", action="store_true", help="compile PyTorch's arms")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; by default its own choice")
    parser.add_argument("--name", help="name of the result files; by default sizes, attention and device")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    missing = left_out(options.arms, options.precisions, options.device)
    arms = [arm for arm in options.arms if arm not in missing]
    lines = [
        "| clips | engine | ms a clip, best | median | times as fast, of the best | CPU ms a clip, best | "
        "times as fast by CPU time | peak memory, GiB | GFLOP a second of CPU time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found, notes = {}, []
    load_before = os.getloadavg()[0]
    for size in options.size:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make_models(folder, size, arms)
            config = AMDForVideoClassification.config_class.from_pretrained(folder / OURS)
            flops = encoder_flops(config, config.num_patches)
            if options.device == "cpu":
                rate = product_rate(config)
                notes.append(
                    f"ViT-{size}: float32 products alone run at {rate / 1e9:.0f} GFLOP a second of CPU time: no "
                    f"engine in float32 can take less than {1000 * flops / rate:.0f} ms a clip."
                )
            for precision in options.precisions:
                for batch_size in options.batch_sizes:
                    makers = {arm: partial(_make_pass, arm, folder, batch_size, precision, options) for arm in arms}
                    turns = Turns({})
                    for _ in range(options.processes):
                        more = take_turns(
                            makers, device=options.device, threads=options.threads, rounds=options.rounds,
                            warmup=options.warmup,
                        )  # fmt: skip
                        turns.add(more)
                    cell = f"ViT-{size}, {batch_size} x {precision}"
                    lines += rows(cell, batch_size, turns, flops)
                    found[cell] = vars(turns)
    notes += [f"{arm} is left out: {why}" for arm, why in missing.items()]
    compiled = ", compiled" if options.torch_compile else ""
    keep(
        options.name or f"inference_{'_'.join(options.size)}_{options.attn_implementation}_{options.device}",
        f"Classifiers by every engine, attention {options.attn_implementation} in PyTorch{compiled}, "
        f"{options.processes} x {options.rounds} rounds, {machine_line(options.device)}, load {load_before:.1f}",
        "\n".join([*lines, *(["", *notes] if notes else [])]),
        {**vars(options), "left_out": missing, "cells": found},
    )


if __name__ == "__main__":
    main()
