"""Checkpoints that count only when they are whole: sealed after the last file, checked before one is read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging

from ...errors import RunStopped
from ...outputs.folders import fingerprint, remove_listed
from .run_folders import check_no_run_in, check_output_folder


logger = logging.get_logger(__name__)

SEAL_NAME = "checkpoint_seal.json"
"""Written last: size and BLAKE2b hash of each file of a checkpoint. Without it a checkpoint is not whole."""
BEGUN_NAME = ".amd_hf_checkpoint_begun"
"""Written first, and gone when the seal is there: what a killed save leaves can be told from others' files."""
_WRITTEN_ENDINGS = (
    ".safetensors", ".bin", ".pt", ".pth", ".distcp", ".json", ".json.gz", ".py", ".md", ".metadata", ".part", ".tmp",
)  # fmt: skip
_LOADED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".distcp", ".json")  # of files that resuming reads


def seal_checkpoint(checkpoint: str | Path) -> None:
    """Mark a checkpoint as whole, at once and for good: it survives a crash of the machine right after."""
    folder = Path(checkpoint)
    names = sorted(_listed_files(folder) - _others(folder))
    seal = {name: fingerprint(folder / name) for name in names}
    for name in names:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    unfinished = folder / f".{SEAL_NAME}.part"
    with open(unfinished, "w") as file:
        json.dump(seal, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / SEAL_NAME)
    (folder / BEGUN_NAME).unlink(missing_ok=True)


def begin_checkpoint(checkpoint: str | Path) -> None:
    """Make the folder of a checkpoint and mark it as begun; what a save that was cut short has left there goes first.

    Raises:
        RunStopped: If something of that name is there that this package did not write.
    """
    folder = Path(checkpoint)
    seal = read_seal(folder)
    if isinstance(seal, str):
        remove_unfinished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # An earlier checkpoint of this step is written over; what somebody laid into it is no part of the new one.
    others = sorted(_listed_files(folder) - (seal.keys() if isinstance(seal, dict) else set()))
    (folder / BEGUN_NAME).write_text(json.dumps(others))


def _others(folder: Path) -> set[str]:
    """Files that lay in a checkpoint's folder when it was begun."""
    try:
        return set(json.loads((folder / BEGUN_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return set()


def remove_unfinished(folder: Path) -> None:
    """Delete a checkpoint that was begun and never sealed, file by file.

    Raises:
        RunStopped: If it was not begun by us, or holds files that no checkpoint holds. Those stay.
    """
    if not folder.is_dir():
        return
    if not is_ours(folder):
        raise RunStopped(f"{folder} is in the way and was not written by this package: move it away.")
    names = [name for name in _listed_files(folder) - _others(folder) if name.endswith(_WRITTEN_ENDINGS)]
    left = remove_listed(folder, [*names, SEAL_NAME, f".{SEAL_NAME}.part", BEGUN_NAME])
    if left:
        raise RunStopped(f"{folder} holds what no checkpoint holds ({', '.join(left[:5])}): move that away.")


def is_ours(folder: Path) -> bool:
    """Whether a folder was begun, or written, as a checkpoint by this package, or is empty."""
    is_marked = any((folder / name).is_file() for name in (BEGUN_NAME, SEAL_NAME))
    return not folder.is_symlink() and (is_marked or not any(os.scandir(folder)))


def check_checkpoints_are_ours(output_dir: str | Path) -> None:
    """Raises `ValueError` for a folder named like a checkpoint that is none: this run may have to write there."""
    if foreign := [name for name in sort_checkpoints(str(output_dir)) if not is_ours(Path(name))]:
        raise ValueError(
            f"{foreign[0]} was not written by this package, or by a release before it marked what it writes: move it "
            "away, or choose another `--output_dir`."
        )


def remove_old_checkpoints(output_dir: Path, most: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints until there are `most`; the newest and the best stay, and so does what is no
    checkpoint of ours, or lies in one without being listed by its seal."""
    if not most or most < 0:
        return
    checkpoints = [Path(name) for name in sort_checkpoints(str(output_dir), use_mtime=True)]
    seals = {folder: seal for folder in checkpoints if isinstance(seal := read_seal(folder), dict)}
    kept = {checkpoints[-1], *([Path(best)] if best else [])}
    removable = [folder for folder in checkpoints if folder in seals and folder not in kept]
    for folder in removable[: max(len(seals) - max(most, len(kept)), 0)]:
        if left := remove_listed(folder, [*seals[folder], SEAL_NAME]):
            logger.warning(f"{folder} was an old checkpoint and is deleted, but for {', '.join(left[:5])}.")


def problem_of(checkpoint: str | Path) -> str | None:
    """Why a checkpoint cannot be resumed from; None for one that is whole, which all of its bytes are read for."""
    folder = Path(checkpoint)
    seal = read_seal(folder)
    if isinstance(seal, str):
        return seal
    unlisted = sorted(_listed_files(folder) - seal.keys())
    if loaded := [name for name in unlisted if Path(name).suffix in _LOADED_SUFFIXES]:
        return f"its file {loaded[0]} was not there when it was written"
    for name, expected in seal.items():
        if not (folder / name).is_file():
            return f"its file {name} is missing"
        if fingerprint(folder / name) != expected:
            return f"its file {name} is damaged (another size or hash than when it was written)"
    return None


def read_seal(folder: Path) -> dict[str, dict[str, Any]] | str:
    """The seal of a checkpoint, by file name, or why it is none: it must say what a seal says, not only parse."""
    try:
        seal = json.loads((folder / SEAL_NAME).read_text())
    except FileNotFoundError:
        return f"it is incomplete (no {SEAL_NAME}: the run ended while it was written)"
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or nested without end
        return f"its {SEAL_NAME} is damaged"
    if not isinstance(seal, dict) or TRAINER_STATE_NAME not in seal:
        return f"its {SEAL_NAME} is damaged (it lists no {TRAINER_STATE_NAME}, which every checkpoint has)"
    for name, entry in seal.items():
        if not _is_inside(name) or not _is_fingerprint(entry):
            return f"its {SEAL_NAME} is damaged (its entry {name[:100]!r} is no file with size and hash)"
    return seal


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the folder or below, as `seal_checkpoint` writes them."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name and name not in ("", ".")


def _is_fingerprint(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"size", "blake2b"}:
        return False
    is_size = type(entry["size"]) is int and entry["size"] >= 0  # true and 3.0 equal 1 and 3, and are no sizes
    return (
        is_size and isinstance(entry["blake2b"], str) and re.fullmatch(r"[0-9a-f]{32}", entry["blake2b"]) is not None
    )


def _listed_files(folder: Path) -> set[str]:
    """Names of the files of a checkpoint; our own beginning with a dot are no part of it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (SEAL_NAME, f".{SEAL_NAME}.part", BEGUN_NAME)
    }


def find_checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint that `args.resume_from_checkpoint` means: a folder, `"last"` / `"true"`, or none.

    The last one is the newest that is whole: a run killed while it saved leaves a part of one behind.

    Raises:
        FileNotFoundError: If the folder named is no whole checkpoint.
        ValueError: If the output folder holds a run and nothing was said of resuming: it would be overwritten. Or the
            finished model of another run, without `overwrite_output_dir`.
        RunStopped: If a run of another process is going on there.
    """
    if args.process_index == 0:
        check_no_run_in(args.output_dir)  # at once, not after minutes of loading
    checkpoint = _choose_checkpoint(args)
    check_output_folder(args, checkpoint)
    return checkpoint


def _choose_checkpoint(args: TrainingArguments) -> str | None:
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
        newest = last_whole_checkpoint(args.output_dir)
        if newest is None:
            logger.warning(f"There is no whole checkpoint in {args.output_dir}: training starts from the beginning.")
        return newest
    if problem := problem_of(wanted):
        raise FileNotFoundError(f"Cannot resume from {wanted}: {problem}.")
    return str(wanted)


def last_whole_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint of a run that is whole; those passed over are named in the log."""
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        problem = problem_of(checkpoint)
        if problem is None:
            return str(checkpoint)
        logger.warning(f"{checkpoint} is passed over: {problem}.")
    return None
