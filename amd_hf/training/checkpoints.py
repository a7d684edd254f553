"""Which checkpoint a run starts from."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging


logger = logging.get_logger(__name__)


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint that `args.resume_from_checkpoint` means: a folder, `"last"` / `"true"`, or none.

    The last one is the newest that is complete: a run killed while it saved leaves a part of one behind.

    Raises:
        FileNotFoundError: If the folder named is no checkpoint.
        ValueError: If the output folder holds a run and nothing was said of resuming: it would be overwritten.
    """
    checkpoints = [Path(folder) for folder in sort_checkpoints(args.output_dir)]
    wanted = args.resume_from_checkpoint
    if wanted in (None, False, "false", "False"):
        if checkpoints:
            raise ValueError(
                f"{args.output_dir} already holds checkpoints of a run ({checkpoints[-1].name}). Go on with it by "
                "`--resume_from_checkpoint`, or choose another `--output_dir`."
            )
        return None
    if wanted in (True, "last", "true", "True"):
        return _last_complete(checkpoints, args.output_dir)
    if not _is_complete(Path(wanted)):
        raise FileNotFoundError(f"{wanted} is no complete checkpoint: it has no readable trainer_state.json.")
    return str(wanted)


def _last_complete(checkpoints: list[Path], output_dir: str) -> str | None:
    for checkpoint in reversed(checkpoints):
        if _is_complete(checkpoint):
            return str(checkpoint)
        logger.warning(f"{checkpoint} is incomplete (the run ended while it was written): an earlier one is taken.")
    logger.warning(f"There is no checkpoint in {output_dir} yet: training starts from the beginning.")
    return None


def _is_complete(checkpoint: Path) -> bool:
    """Whether the file that the Trainer writes last is there and whole."""
    state = checkpoint / "trainer_state.json"
    if not state.is_file():
        return False
    try:
        json.loads(state.read_text())
    except json.JSONDecodeError:
        return False
    return True
