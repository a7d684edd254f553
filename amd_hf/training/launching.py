"""Checks that a run has the processes and the sharding that it was launched with; sharded weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import TrainingArguments


# Environment variables in which launchers say how many processes they started: torchrun and accelerate, and MPI's
# launchers, which accelerate reads on CPUs.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_processes(args: TrainingArguments) -> None:
    """Check that this process is connected to all others that the launcher started or was asked to start.

    Raises:
        ValueError: If it is not: each process would train alone, on all of the data, into the same folder.
    """
    for name in _COUNTS:
        if (asked := int(os.environ.get(name) or 1)) != 1 and asked != args.world_size:
            raise ValueError(
                f"{asked} processes were started ({name}={asked}), but this one knows of {args.world_size}, itself "
                f"included, on device {args.device}. On a machine without GPUs set `--use_cpu true`; with GPUs start "
                "one process per GPU."
            )
    # On CPUs `accelerate launch` starts one process, whatever `--num_processes` says. The only sign that several were
    # requested is the address that it sets.
    is_launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if is_launched and args.world_size == 1 and not any(name in os.environ for name in _COUNTS):
        raise ValueError(
            "`accelerate launch` was asked for several processes (it set MASTER_ADDR) but started one: on CPUs it "
            "does so silently. Start them with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N SCRIPT ... "
            "--use_cpu true`, or ask for one (`--num_processes 1 --num_machines 1`)."
        )


def check_sharding(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Check that FSDP2 is active if `args.fsdp` or `accelerate launch` requested it.

    Raises:
        ValueError: If accelerate would copy the model to each process instead (DDP), as it silently does on CPUs, or
            shard it with the first version of FSDP.
    """
    is_asked = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if not is_asked:
        return
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was requested, but accelerate uses {accelerator.distributed_type.value} on device "
            f"{accelerator.device}: nothing would be sharded. FSDP needs GPUs and a launcher (`torchrun`, `accelerate "
            "launch`); leave it out to copy the model to each process."
        )
    version = accelerator.state.fsdp_plugin.fsdp_version
    if version != 2:
        raise ValueError(f"FSDP version {version} is not supported: set `fsdp_version: 2`.")


def shard_module(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard the weights of `module` over the processes of a 1-D `mesh` (FSDP2), in place.

    Each of its `blocks` is gathered for its own forward pass and freed afterwards; weights outside of the blocks stay
    gathered from the first forward pass on.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def whole_weights(*modules: nn.Module) -> Iterator[None]:
    """Gather the weights that FSDP2 has sharded on every process, as long as the context lasts.

    Forward passes inside the context wait for no other process, so processes may run different numbers of them.
    Weights that are not sharded stay as they are.
    """
    sharded = [[part for part in module.modules() if isinstance(part, FSDPModule)] for module in modules]
    for parts in sharded:
        for number, part in enumerate(parts):
            if number == 0:  # the root finds the others in its first forward pass, which may not have run yet
                part._get_fsdp_state()._lazy_init()
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    try:
        yield
    finally:
        for parts in sharded:
            for number, part in enumerate(parts):
                part.set_reshard_after_forward(number > 0, recurse=False)  # PyTorch's default: the root stays gathered
                part.reshard()
