"""Device and precision of a program where nobody says otherwise: a GPU in bf16, else the CPU in what it is fast in."""

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


PRECISION_NAME = "precision.json"
"""File of a checkpoint that says what its run is computed in."""
_NAMES = {"no": "float32", "bf16": "bf16", "fp16": "fp16"}  # accelerate's, and what people call them
_LEAST_SPEEDUP = 1.2  # bf16 rounds to 8 bits: that must be worth something


@dataclass(frozen=True)
class Precision:
    """What a program computes in.

    Args:
        name (`str`): `no` (float32), `bf16` or `fp16`, as accelerate names them; weights stay in float32.
        device (`str`): The device.
        reason (`str`): Why, in words; empty where somebody asked for it.
    """

    name: str
    device: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.device}, {_NAMES[self.name]}" + (f" ({self.reason})" if self.reason else "")


def choose_precision(device: torch.device, asked: str | None = None, begun_in: str | None = None) -> Precision:
    """Choose the precision on a device; all processes choose the same and must call this together.

    Args:
        device (`torch.device`): Where to compute.
        asked (`str`, *optional*): What the user, or who launches the program, asks for: it is taken.
        begun_in (`str`, *optional*): What the run that is resumed was begun in: it is kept where nothing is asked for.

    Returns:
        [`Precision`]: `bf16` on GPUs that have it and on CPUs that multiply it faster than float32, else float32.
    """
    if asked is not None:
        is_slow = asked == "bf16" and device.type == "cpu" and cpu_bf16_speedup() < 1
        slower = f"{1 / cpu_bf16_speedup():.0f} times slower than float32 here: leave it out" if is_slow else ""
        return Precision(asked, str(device), slower)
    if begun_in is not None and (begun_in != "fp16" or device.type != "cpu"):
        choice = Precision(begun_in, str(device), "as the run was begun")
    elif device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        choice = Precision("bf16", str(device)) if has_bf16 else Precision("no", str(device), "this GPU has no bf16")
    elif device.type == "cpu":
        speedup = cpu_bf16_speedup()
        if speedup >= _LEAST_SPEEDUP:
            choice = Precision("bf16", str(device), f"{speedup:.1f} times as fast as float32 here")
        else:
            slower = f"{1 / speedup:.0f} times slower" if speedup < 0.7 else "hardly faster"
            choice = Precision("no", str(device), f"bf16 is {slower} here")
    else:
        choice = Precision("no", str(device))
    if dist.is_initialized() and dist.get_world_size() > 1:
        # Processes measure for themselves, on a busy machine not the same; gradients must come from one precision.
        if len({*gather_object([choice.name])}) > 1:
            choice = replace(choice, name="no", reason="bf16 does not pay on all processes")
    return choice


def has_no_accelerator() -> bool:
    """Return whether this process computes on the CPU, for want of anything else or because its launcher says so."""
    says_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "on")
    return says_cpu or not (torch.accelerator.is_available() or is_torch_xla_available())


def launcher_precision() -> str | None:
    """Return what `accelerate launch --mixed_precision` asks for; None for `no`, which it says unasked too."""
    name = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    return name if name in ("bf16", "fp16") else None


def start_accelerator(use_cpu: bool, mixed_precision: str | None, stream: TextIO | None = None) -> Accelerator:
    """Return an `Accelerator` on the device and in the precision asked for, or chosen, and say which in one line.

    Args:
        use_cpu (`bool`): Whether to stay on the CPU although there is a GPU.
        mixed_precision (`str`, *optional*): `no`, `bf16` or `fp16`; None: [`choose_precision`].
        stream (*optional*): Where the line goes; standard output by default.
    """
    state = PartialState(cpu=use_cpu or has_no_accelerator())
    precision = choose_precision(state.device, mixed_precision or launcher_precision())
    if state.is_main_process:
        (stream or sys.stdout).write(f"device: {precision}\n")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision.name:
        # An earlier run or command of this process computed in another: begin anew, as `TrainingArguments` does each
        # time. accelerate (1.x) has no public door for it.
        AcceleratorState._reset_state()
    return Accelerator(cpu=state.device.type == "cpu", mixed_precision=precision.name)


# ---------------------------------------------------------------------------------------------------------------------
# Of a run, from its checkpoints
# ---------------------------------------------------------------------------------------------------------------------


def save_precision(checkpoint: Path, precision: Precision) -> None:
    """Write what a run is computed in into a checkpoint."""
    (checkpoint / PRECISION_NAME).write_text(json.dumps({"precision": precision.name}) + "\n")


def load_precision(checkpoint: str | Path) -> str | None:
    """Read what `save_precision` wrote; None where there is nothing to read, as in checkpoints of earlier releases."""
    try:
        name = json.loads((Path(checkpoint) / PRECISION_NAME).read_text())["precision"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return name if isinstance(name, str) and name in _NAMES else None


def precision_before(output_dir: str, resume_from_checkpoint: str | bool | None) -> str | None:
    """Return the precision of the run that is to be resumed; None where nobody knows it, or none is resumed."""
    if resume_from_checkpoint in (None, False, "false", "False"):
        return None
    if resume_from_checkpoint not in (True, "last", "true", "True"):
        return load_precision(str(resume_from_checkpoint))
    checkpoints = sort_checkpoints(output_dir)
    return load_precision(checkpoints[-1]) if checkpoints else None


# ---------------------------------------------------------------------------------------------------------------------
# Of a CPU
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def cpu_bf16_speedup(size: int = 512) -> float:
    """Return how many times faster than in float32 matrix products are in bf16 on this CPU; measured once, in 0.1 s.

    Some CPUs multiply bf16 five times as fast, others emulate it, many times slower.

    Args:
        size (`int`, *optional*, defaults to 512): Rows and columns of the matrices.
    """
    matrices = [torch.ones(size, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    start_of_all = time.perf_counter()
    for _ in range(12):  # in turns, and the best of many: other programs take their time from both alike
        for number, matrix in enumerate(matrices):
            start = time.perf_counter()
            matrix @ matrix
            best[number] = min(best[number], time.perf_counter() - start)
        if time.perf_counter() - start_of_all > 0.5:  # emulation
            break
    return best[0] / best[1]


__all__ = ["Precision", "choose_precision", "cpu_bf16_speedup", "start_accelerator"]
