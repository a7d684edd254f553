"""Default device and precision of a program: a GPU in bf16, else the CPU in the precision that is fast there."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import is_torch_xla_available

from .checkpoints import read_marker


PRECISION_NAME = "precision.json"
"""File of a checkpoint that holds the precision of its run."""
_NAMES = {"no": "float32", "bf16": "bf16", "fp16": "fp16"}  # accelerate's names, and those that we print
_LEAST_SPEEDUP = 1.2  # bf16 keeps 8 significant bits; less speed is not worth that


@dataclass(frozen=True)
class Precision:
    """Device and precision of a program.

    Args:
        name (`str`): `no` (float32), `bf16` or `fp16`, as in accelerate; weights stay in float32.
        device (`str`): The device.
        reason (`str`): Why it was chosen, or what speaks against it; empty if there is nothing to say.
    """

    name: str
    device: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.device}, {_NAMES[self.name]}" + (f" ({self.reason})" if self.reason else "")


def choose_precision(device: torch.device, asked: str | None = None, begun_in: str | None = None) -> Precision:
    """Choose the precision for a device. All processes must call this together; they get the same one.

    Args:
        device (`torch.device`): The device to compute on.
        asked (`str`, *optional*): Precision that the user or the launcher asks for; it is used as it is.
        begun_in (`str`, *optional*): Precision in which a resumed run began; used unless another one is asked for.

    Returns:
        [`Precision`]: By default `bf16` on GPUs that support it and on CPUs that are faster in it, else float32.
    """
    if asked is not None:
        is_slow = asked == "bf16" and device.type == "cpu" and cpu_bf16_speedup() < 1
        slower = f"{1 / cpu_bf16_speedup():.1f} times as slow as float32 here: leave it out" if is_slow else ""
        return Precision(asked, str(device), slower)
    if begun_in is not None and (begun_in != "fp16" or device.type != "cpu"):
        choice = Precision(begun_in, str(device), "as the run began")
    elif device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        choice = Precision("bf16", str(device)) if has_bf16 else Precision("no", str(device), "this GPU has no bf16")
    elif device.type == "cpu":
        speedup = cpu_bf16_speedup()
        if speedup >= _LEAST_SPEEDUP:
            choice = Precision("bf16", str(device), f"{speedup:.1f} times as fast as float32 here")
        else:
            pace = "hardly faster" if speedup >= 1 else f"{1 / speedup:.1f} times as slow"
            choice = Precision("no", str(device), f"bf16 is {pace} here")
    else:
        choice = Precision("no", str(device))
    if dist.is_initialized() and dist.get_world_size() > 1:
        # Each process measures for itself, and results differ on a busy machine; gradients need one precision.
        if len({*gather_object([choice.name])}) > 1:
            choice = replace(choice, name="no", reason="bf16 does not pay on all processes")
    return choice


def has_no_accelerator() -> bool:
    """Return whether this process must compute on the CPU: there is no accelerator, or the launcher demands it."""
    says_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "on")
    return says_cpu or not (torch.accelerator.is_available() or is_torch_xla_available())


def launcher_precision() -> str | None:
    """Return the value of `accelerate launch --mixed_precision`; None for `no`, which is also its default."""
    name = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    return name if name in ("bf16", "fp16") else None


def start_accelerator(use_cpu: bool, mixed_precision: str | None, stream: TextIO | None = None) -> Accelerator:
    """Return an `Accelerator` for the device and precision, asked for or chosen, and print them in one line.

    Args:
        use_cpu (`bool`): Whether to use the CPU even if there is a GPU.
        mixed_precision (`str`, *optional*): `no`, `bf16` or `fp16`; None lets [`choose_precision`] decide.
        stream (*optional*): Where to print; standard output by default.
    """
    state = PartialState(cpu=use_cpu or has_no_accelerator())
    precision = choose_precision(state.device, mixed_precision or launcher_precision())
    if state.is_main_process:
        (stream or sys.stdout).write(f"device: {precision}\n")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision.name:
        # An earlier run of this process used another precision: reset the state, as `TrainingArguments` always does.
        # accelerate (1.x) has no public function for it.
        AcceleratorState._reset_state()
    return Accelerator(cpu=state.device.type == "cpu", mixed_precision=precision.name)


# ---------------------------------------------------------------------------------------------------------------------
# The precision in checkpoints
# ---------------------------------------------------------------------------------------------------------------------


def save_precision(checkpoint: Path, precision: Precision) -> None:
    """Write the precision of a run into a checkpoint."""
    (checkpoint / PRECISION_NAME).write_text(json.dumps({"precision": precision.name}) + "\n")


def load_precision(checkpoint: str | Path) -> str | None:
    """Read the precision that `save_precision` wrote; None if there is none, as in earlier releases."""
    try:
        name = json.loads((Path(checkpoint) / PRECISION_NAME).read_text())["precision"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if isinstance(name, str) and name in _NAMES else None


def precision_before(output_dir: str, resume_from_checkpoint: str | bool | None) -> str | None:
    """Return the precision of the run to resume; None if it is unknown or no run is resumed."""
    if resume_from_checkpoint in (None, False, "false", "False"):
        return None
    if resume_from_checkpoint not in (True, "last", "true", "True"):
        return load_precision(str(resume_from_checkpoint))
    # A checkpoint that a kill left half written may not have it; the run then resumes from the one before.
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        if isinstance(read_marker(Path(checkpoint)), dict):
            return load_precision(checkpoint)
    return None


# ---------------------------------------------------------------------------------------------------------------------
# The speed of a CPU
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def cpu_bf16_speedup(size: int = 512) -> float:
    """Measure how many times faster matrix products are in bf16 than in float32 on this CPU; once, in 0.2 s.

    Some CPUs multiply bf16 five times as fast; others emulate it, many times slower.

    Args:
        size (`int`, *optional*, defaults to 512): Rows and columns of the matrices.
    """
    matrices = [torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    start_of_all = time.perf_counter()
    # The choice must be the same each time a run is started, on a busy machine too: seconds of the processor do not
    # count what other programs take, and of the times of both, which take turns, the best ones are kept.
    for _ in range(24):
        for number, matrix in enumerate(matrices):
            start = time.process_time()
            matrix @ matrix
            best[number] = min(best[number], time.process_time() - start)
        if time.perf_counter() - start_of_all > 0.5:  # emulated bf16 is slow: one round says enough
            break
    return best[0] / best[1]


__all__ = ["Precision", "choose_precision", "cpu_bf16_speedup", "start_accelerator"]
