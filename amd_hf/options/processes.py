"""`--num_processes N`: a command in several processes on this machine, through accelerate's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from .interruption import wait_for_processes
from .programs import LAUNCHED


def start_processes(module: str, arguments: Sequence[str], num_processes: int, use_cpu: bool = False) -> None:
    """Run a module in several processes that find each other, and end as they end.

    On GPUs it is `accelerate launch --num_processes N -m MODULE`, with what `accelerate config` says. On a CPU that
    would start one process, whatever is asked for: there the launcher's way for GPUs is taken, with gloo in it.

    Args:
        module (`str`): Name of the module.
        arguments (sequence of `str`): Its command line.
        num_processes (`int`): How many.
        use_cpu (`bool`): Whether to leave GPUs alone.

    Raises:
        ValueError: If there are fewer GPUs than processes, or a launcher has started this one already.
        KeyboardInterrupt: If Ctrl-C ends it.
        SystemExit: If a process fails: with its exit code, after the line that says why.
    """
    if "LOCAL_RANK" in os.environ:
        raise ValueError(
            "A launcher started this process already: give `--num_processes` to it, in front of the program, "
            "or leave the launcher out."
        )
    import torch
    import torch.distributed.run
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    num_gpus = 0 if use_cpu else torch.cuda.device_count()
    if 0 < num_gpus < num_processes:
        raise ValueError(
            f"`--num_processes {num_processes}` needs as many GPUs, there are {num_gpus}: ask for {num_gpus}, or add "
            "`--use_cpu true`."
        )
    # A free port, and nothing that the launcher would warn of as chosen by itself.
    launcher = ["--num_processes", str(num_processes), "--num_machines", "1", "--main_process_port", "0"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    if num_gpus == 0:
        launcher += ["--multi_gpu"]
        os.environ["ACCELERATE_USE_CPU"] = "true"
        arguments = [*arguments, *([] if use_cpu else ["--use_cpu", "true"])]
    # As many threads as there are cores in all; PyTorch's launcher would warn and take one each.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    os.environ[LAUNCHED] = "true"  # the processes leave it to this one to say what went wrong, once
    wait_for_processes()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed."):  # they report a failure in 30 lines, at several levels
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args([*launcher, "-m", module, *arguments]))
    except ChildFailedError as error:
        _say_what_failed(failure := error.get_first_failure()[1], num_processes)
        raise SystemExit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode) from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.stderr.write("\nterminated\n")
        raise SystemExit(128 + error.sigval) from None


def _say_what_failed(failure: Any, num_processes: int) -> None:
    """Write one line about the first process that failed, unless it ended with an exit code of its own choice."""
    if failure.message.startswith("error: "):
        sys.stderr.write(f"\n{failure.message}\n(set AMD_HF_TRACEBACK=1 to see where it was raised)\n")
    elif failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        sys.stderr.write(f"\nerror: process {failure.local_rank} of {num_processes} was killed by {name}\n")


__all__ = ["start_processes"]
