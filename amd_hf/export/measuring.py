"""What an exported model loses and gains: its scores beside PyTorch's, its time and its memory.

`python -m amd_hf.export.measuring FOLDER` times a folder in a process of its own, so that the peak of its memory is
its own, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..evaluation.multiview import ViewCollator
from ..models import load_model
from .formats import default_input_type, kind_of, random_inputs
from .running import is_exported, load_exported


_TIME_LIMIT = 20.0  # seconds of passes that are timed


# ---------------------------------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """What a model and what was exported of it say of the same clips.

    Args:
        expected, found (`list[np.ndarray]`): Logits `(classes,)` of each clip; of an encoder its features.
        labels (`list[int | None]`): The model's number of each clip's class, where it is known.
        num_unreadable (`int`): Videos that could not be read.
    """

    expected: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    num_unreadable: int = 0

    def add(self, expected: torch.Tensor, found: torch.Tensor, labels: Sequence[int | None] = ()) -> None:
        """Take in the scores of a batch."""
        self.expected += list(expected.float().cpu().numpy())
        self.found += list(found.float().cpu().numpy())
        self.labels += list(labels) or [None] * len(expected)

    def summary(self, has_classes: bool) -> dict[str, Any]:
        """Return the largest and the mean difference, in stds of the scores, and with classes what they change.

        `top1_agreement` is the fraction of clips of which both name the same class, and `accuracy_before` and
        `accuracy_after` are over the clips whose label is known.
        """
        expected, found = np.stack(self.expected), np.stack(self.found)
        std = float(expected.std())
        differences = np.abs(found - expected)
        if not np.isfinite(found).all() or std == 0:
            raise ValueError("The scores are not finite, or all the same: there is nothing to compare.")
        result: dict[str, Any] = {
            "clips": len(expected),
            "unreadable": self.num_unreadable,
            "std_of_scores": std,
            "largest_difference": float(differences.max()) / std,
            "mean_difference": float(differences.mean()) / std,
        }
        if not has_classes:
            return result
        before, after = expected.argmax(axis=-1), found.argmax(axis=-1)
        result["top1_agreement"] = float((before == after).mean())
        known = [number for number, label in enumerate(self.labels) if label is not None]
        if known:
            labels = np.array([self.labels[number] for number in known])
            result["labelled_clips"] = len(known)
            result["accuracy_before"] = float((before[known] == labels).mean())
            result["accuracy_after"] = float((after[known] == labels).mean())
        return result


@torch.no_grad()
def compare_on_random_inputs(model: nn.Module, network: Any, num_clips: int = 4) -> Comparison:
    """Compare the scores of a model and of what was exported of it on clips of noise, where there are no videos."""
    comparison = Comparison()
    for seed in range(num_clips):
        inputs = random_inputs(model.config, network.kind, network.input_type, 1, seed)
        if network.kind == "detector":
            inputs["boxes"] = [inputs["boxes"]]
        comparison.add(scores_of(model(**inputs)), scores_of(network(**inputs)))
    return comparison


@torch.no_grad()
def compare_on_videos(
    model: nn.Module,
    network: Any,
    rows: Any,
    collator: ViewCollator,
    numbers: Sequence[int] | None,
    batch_size: int = 4,
) -> Comparison:
    """Compare the scores of a model and of what was exported of it on the views of videos.

    Args:
        model, network (`nn.Module`): The model and its [`ExportedNetwork`].
        rows (sequence of rows): Videos.
        collator ([`ViewCollator`]): Makes their views.
        numbers (`Sequence[int]`, *optional*): For each label of the rows the model's number; see `match_labels`.
        batch_size (`int`, *optional*, defaults to 4): Videos at a time.

    Raises:
        ValueError: If none of the videos can be read.
    """
    comparison = Comparison()
    for samples in read_views(rows, collator, batch_size):
        readable = [sample for sample in samples if "views" in sample]
        comparison.num_unreadable += len(samples) - len(readable)
        if not readable:
            continue
        clips = torch.cat([sample["views"] for sample in readable])
        labels = [
            None if numbers is None or sample["label"] is None else numbers[sample["label"]]
            for sample in readable
            for _ in sample["views"]
        ]
        comparison.add(scores_of(model(pixel_values=clips)), scores_of(network(pixel_values=clips)), labels)
    if not comparison.expected:
        raise ValueError(f"None of the {len(rows)} videos can be read: there is nothing to compare on.")
    return comparison


def read_views(rows: Any, collator: ViewCollator, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield what a collator makes of the rows, batch by batch."""
    for start in range(0, len(rows), batch_size):
        yield collator([rows[number] for number in range(start, min(start + batch_size, len(rows)))])


def scores_of(outputs: Any) -> torch.Tensor:
    """Return the logits of a model's outputs, or an encoder's mean token."""
    logits = getattr(outputs, "logits", None)
    return outputs.last_hidden_state.mean(dim=1) if logits is None else logits


# ---------------------------------------------------------------------------------------------------------------------
# Time and memory
# ---------------------------------------------------------------------------------------------------------------------


def measure_speed(folders: Iterable[str | Path], num_passes: int = 10) -> list[dict[str, float]]:
    """Time folders of models, exported or not, each in a process of its own, on one clip at a time.

    Returns:
        For each `milliseconds` of the fastest pass and `peak_mebibytes` of the process.

    Raises:
        RuntimeError: If a process ends with an error.
    """
    found = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for folder in folders:
        words = [sys.executable, "-m", __name__, str(folder), "--num_passes", str(num_passes)]
        words += ["--threads", str(torch.get_num_threads())]
        with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody reads would fill up
            done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
            errors.seek(0)
            if done.returncode:
                raise RuntimeError(f"{folder} could not be timed: {errors.read()[-2000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def machine_name() -> str:
    """Return the CPU's name and the number of PyTorch's threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return f"{cpu}, {torch.get_num_threads()} threads"


def peak_mebibytes() -> float:
    """Return the most memory that this process has held."""
    try:
        # Not `ru_maxrss`: on Linux that begins with what the process held that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main(argv: Sequence[str] | None = None) -> None:
    """Time one folder in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--num_passes", type=int, default=10)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    network: Any = load_exported(options.folder) if is_exported(options.folder) else load_model(options.folder)
    kind = network.kind if is_exported(options.folder) else kind_of(network)
    inputs = random_inputs(network.config, kind, default_input_type(kind), 1)
    if kind == "detector":
        inputs["boxes"] = [inputs["boxes"]]
    best, started = float("inf"), time.perf_counter()
    with torch.inference_mode():
        network(**inputs)  # the first pass makes what the others use
        for _ in range(options.num_passes):
            start = time.perf_counter()
            network(**inputs)
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() - started > _TIME_LIMIT:
                break
    sys.stdout.write(json.dumps({"milliseconds": 1000 * best, "peak_mebibytes": peak_mebibytes()}) + "\n")


if __name__ == "__main__":
    main()
