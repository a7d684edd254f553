"""Loss parts: summed on the device, read only when logged, and watched for values that are not finite."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator

from ...errors import RunStopped


class LossMeter:
    """Running weighted means by name, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, values: dict[str, torch.Tensor], weight: int = 1) -> None:
        """Adds scalars, each counted `weight` times; nothing is read back from the device."""
        for name, value in values.items():
            entry = torch.stack([value.detach().double() * weight, value.new_tensor(weight, dtype=torch.float64)])
            self._sums[name] = self._sums[name] + entry if name in self._sums else entry

    def reduce(self, accelerator: Accelerator, names: list[str] | None = None) -> dict[str, float]:
        """Means over everything added on all processes since the last call; every process must call it.

        `names` must be given where a process may have added nothing; a name that nobody added has no mean (NaN).
        """
        names = sorted(self._sums) if names is None else names
        nothing = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        sums = accelerator.reduce(torch.stack([self._sums.get(name, nothing) for name in names]), "sum")
        self._sums.clear()
        return {
            name: total / count if count else float("nan")
            for name, (total, count) in zip(names, sums.tolist(), strict=True)
        }


class FiniteLossGuard:
    """Stops a run whose loss is not finite, naming the step and the parts.

    On an accelerator the values are copied to the host without waiting and looked at one step later, so that the check
    does not stall the device; on the CPU they are looked at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, list[str], torch.Tensor, torch.cuda.Event | None] | None = None

    def watch(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        """Remembers the losses of a step after checking those remembered before."""
        self.check()
        values = torch.stack([loss.detach() for loss in losses.values()])
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending = (step, list(losses), values, event)
        if event is None:
            self.check()

    def check(self) -> None:
        """Looks at what is remembered.

        Raises:
            RunStopped: If a loss is NaN or infinite.
        """
        if self._pending is None:
            return
        step, names, values, event = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        bad = [
            f"{name} = {value}" for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)
        ]
        if bad:
            raise RunStopped(
                f"The loss is not finite at step {step}: {', '.join(bad)}. Training stops before weights are saved. "
                "Lower the learning rate, lengthen the warm-up, or check the data and the teacher."
            )
