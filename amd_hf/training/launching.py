"""A run gets the processes and the sharding it was started with, or does not start."""

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


# Where launchers (torchrun and accelerate; MPI's, which accelerate reads on CPUs) say how many processes they started.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_processes(args: TrainingArguments) -> None:
    """Check that this process found the others that were started, or were to be started, together with it.

    Raises:
        ValueError: If it did not: each process would train by itself, on all of the data, into the same folder.
    """
    for name in _COUNTS:
        if (asked := int(os.environ.get(name) or 1)) != 1 and asked != args.world_size:
            raise ValueError(
                f"{asked} processes were started ({name}={asked}), but this one knows of {args.world_size}, itself "
                f"included, on device {args.device}. On a machine without GPUs say `--use_cpu true`; with GPUs start "
                "one process per GPU."
            )
    # `accelerate launch` on CPUs starts one process, whatever `--num_processes` says; the only trace is an address.
    is_launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if is_launched and args.world_size == 1 and not any(name in os.environ for name in _COUNTS):
        raise ValueError(
            "`accelerate launch` was asked for several processes (it set MASTER_ADDR) and started one: on CPUs it "
            "does so without a word. Start them with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N SCRIPT ... "
            "--use_cpu true`, or ask for one (`--num_processes 1 --num_machines 1`)."
        )


def check_sharding(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Check that FSDP2 is in use where it was asked for by `args.fsdp` or `accelerate launch`.

    Raises:
        ValueError: If the model would be copied to each process instead (DDP), as accelerate does on CPUs without a
            word, or sharded by the first version of FSDP.
    """
    is_asked = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if not is_asked:
        return
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            f"FSDP was asked for, but accelerate gives {accelerator.distributed_type.value} on device "
            f"{accelerator.device}: nothing would be sharded. FSDP needs GPUs and a launcher (`torchrun`, `accelerate "
            "launch`); leave it out to copy the model to each process."
        )
    version = accelerator.state.fsdp_plugin.fsdp_version
    if version != 2:
        raise ValueError(f"FSDP version {version} is not supported: set `fsdp_version: 2`.")


def shard_module(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Shard the weights of `module` over the processes of a 1-D `mesh` (FSDP2), in place.

    Each of its `blocks` is gathered when it is needed and given up again; what lies outside of them stays gathered
    from the first forward pass on.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def whole_weights(*modules: nn.Module) -> Iterator[None]:
    """Gather the weights that FSDP2 has sharded, on each process, for as long as the context lasts.

    A forward pass inside of it waits for no other process: the numbers of passes may differ. Weights that are not
    sharded stay as they are.
    """
    sharded = [[part for part in module.modules() if isinstance(part, FSDPModule)] for module in modules]
    for parts in sharded:
        for number, part in enumerate(parts):
            if number == 0:  # the root, which knows the others after its first forward pass: it may not have come yet
                part._get_fsdp_state()._lazy_init()
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
    try:
        yield
    finally:
        for parts in sharded:
            for number, part in enumerate(parts):
                part.set_reshard_after_forward(number > 0, recurse=False)  # as PyTorch does: the root keeps its own
                part.reshard()
