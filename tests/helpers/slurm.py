"""Scripts for Slurm, run without it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def play_slurm(
    script: Path, folder: Path, nodes: Sequence[str], gpus: int, cwd: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Run a script of `sbatch` on two pretended nodes, with `recipe.yaml --data "two words"`.

    `srun` starts its command on each node, `accelerate` writes down what it was given.

    Returns:
        What `accelerate` was given, a line a node, words separated by `|`; and the environment of the script.
    """
    tools = {
        "scontrol": f"echo {nodes[0]}; echo {nodes[1]}",
        "srun": 'shift; for id in 0 1; do SLURM_NODEID=$id "$@"; done',
        "accelerate": f'printf "%s|" "$@" >> {folder}/calls; echo >> {folder}/calls',
    }
    for name, body in tools.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin", "SLURM_GPUS_ON_NODE": str(gpus), "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "nodes",
    }  # fmt: skip
    command = ["bash", str(script), "recipe.yaml", "--data", "two words"]
    subprocess.run(command, env=environment, check=True, timeout=60, cwd=cwd)
    return (folder / "calls").read_text().splitlines(), environment
