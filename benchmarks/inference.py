"""Clips per second of the classifier beside Transformers' VideoMAE: same weights, same clips, same attention.

python benchmarks/inference.py

ViT-B at 16 x 224 x 224, batches of 1 and 8, float32 and bf16. The two take turns, pass by pass, each in a process of
its own; a ratio is that of two passes one after the other. Several pairs of processes, one after the other: where the
system puts a process' memory makes it faster or slower by a per cent or two as long as it lives. Prints one table and
writes it, with the machine's name, to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import DTYPES, MatrixProductRates, Turns, Work, keep, machine_line, take_turns
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from amd_hf import AMDForVideoClassification, convert_checkpoint, optimize_for_cpu
from amd_hf.flops import encoder_flops


OURS, THEIRS = "amd_hf", "transformers"
CLASSES = {OURS: AMDForVideoClassification, THEIRS: VideoMAEForVideoClassification}
_SIZES = {"base": {}, "tiny": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}}


def make_models(folder: Path, size: str) -> None:
    """Saves one classifier with weights at random in both forms and checks that they give the same logits.

    Raises:
        RuntimeError: If they do not.
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


def _clips(batch_size: int, dtype: torch.dtype) -> torch.Tensor:
    """Normalised clips (B, 16, 3, 224, 224), the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, 16, 3, 224, 224, generator=generator).to(dtype)


def _make_pass(arm: str, folder: Path, batch_size: int, precision: str, options: argparse.Namespace) -> Work:
    dtype = DTYPES[precision]
    model = CLASSES[arm].from_pretrained(folder / arm, dtype=dtype, attn_implementation=options.attn_implementation)
    model = model.eval().to(options.device)
    if arm == OURS and options.device == "cpu" and not (options.plain or options.torch_compile):
        model = optimize_for_cpu(model)
    clips = _clips(batch_size, dtype).to(options.device)
    run = torch.compile(model) if options.torch_compile else model

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return run(clips).logits

    return forward


def row(batch_size: int, precision: str, turns: Turns, flops: int, rate: float) -> str:
    """The line of one cell. The ratio is ours to theirs in clips per second, the median over pairs."""
    ratios = sorted(turns.ratio(OURS, THEIRS))
    ours, theirs = (batch_size / statistics.median(turns.seconds[arm]) for arm in (OURS, THEIRS))
    memory = " / ".join(f"{turns.peak_bytes[arm] / 2**30:.2f}" for arm in (OURS, THEIRS))
    return (
        f"| {precision} | {batch_size} | {ours:.3f} | {theirs:.3f} | {statistics.median(ratios):.3f} | "
        f"{ratios[len(ratios) // 4]:.2f} to {ratios[-1 - len(ratios) // 4]:.2f} | {memory} | "
        f"{flops * ours / 1e12:.3f} | {flops * ours / rate:.0%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(_SIZES), default="base", help="tiny: to try the benchmark itself")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--processes", type=int, default=3, help="pairs of processes")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of passes that count, in each pair of processes")
    parser.add_argument("--warmup", type=int, default=2, help="pairs of passes before them")
    parser.add_argument("--attn_implementation", default="sdpa", help="of both: sdpa, eager, ...")
    parser.add_argument("--plain", action="store_true", help="ours without `optimize_for_cpu`")
    parser.add_argument("--torch_compile", action="store_true", help="compile both")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; by default its own choice")
    parser.add_argument("--name", help="name of the result files; by default size, attention and device")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    lines = [
        "| precision | clips a batch | amd_hf, clips/s | transformers, clips/s | ratio, median | its middle half | "
        "peak memory, GiB | TFLOP/s | share of PyTorch's product rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder), options.size)
        config = AMDForVideoClassification.config_class.from_pretrained(Path(folder) / OURS)
        flops = encoder_flops(config, config.num_patches)
        for precision in options.precisions:
            for batch_size in options.batch_sizes:
                rates = MatrixProductRates(options.device, {precision})
                makers = {
                    arm: partial(_make_pass, arm, Path(folder), batch_size, precision, options) for arm in CLASSES
                }
                turns = Turns({})
                for _ in range(options.processes):
                    more = take_turns(
                        makers,
                        device=options.device,
                        threads=options.threads,
                        rounds=options.rounds,
                        warmup=options.warmup,
                        between=rates.measure,
                    )
                    turns.add(more)
                lines.append(row(batch_size, precision, turns, flops, rates.medians()[precision]))
                found[f"{precision}, {batch_size}"] = {**vars(turns), "matrix_product_rate": rates.medians()}
    compiled = ", compiled" if options.torch_compile else ""
    keep(
        options.name or f"inference_{options.size}_{options.attn_implementation}_{options.device}",
        f"Classifier ViT-{options.size} against Transformers' VideoMAE, attention {options.attn_implementation}"
        f"{compiled}, {options.processes} x {options.rounds} pairs, {machine_line(options.device)}",
        "\n".join(lines),
        {**vars(options), "cells": found},
    )


if __name__ == "__main__":
    main()
