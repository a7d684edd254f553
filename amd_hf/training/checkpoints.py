"""Checkpoints that count only when they are whole: marked after the last file, checked before one is read."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import logging

from ..errors import RunStopped
from ..hub.privacy import hide_identity
from ..outputs.folders import fingerprint, remove_listed
from .run_folders import check_no_run_in, check_output_folder


logger = logging.get_logger(__name__)

MARKER_NAME = "checkpoint_marker.json"
"""Written last: size and BLAKE2b hash of each file of a checkpoint. Without it a checkpoint is not whole."""
BEGUN_NAME = ".amd_hf_checkpoint_begun"
"""Written first, and gone when the marker is there: what a killed save leaves can be told from others' files."""
_FORMER_MARKER_NAME = "checkpoint_seal.json"  # in checkpoints of 0.1; to be read for one release more
_OUR_NAMES = (MARKER_NAME, _FORMER_MARKER_NAME, f".{MARKER_NAME}.part", f".{_FORMER_MARKER_NAME}.part", BEGUN_NAME)
_WRITTEN_ENDINGS = (
    ".safetensors", ".bin", ".pt", ".pth", ".distcp", ".json", ".json.gz", ".py", ".md", ".metadata", ".part", ".tmp",
)  # fmt: skip
_LOADED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".distcp", ".json")  # of files that resuming reads


_CLOCK_TICK = 2_000_000_000  # nanoseconds; generous, as the clock may be another machine's

# What this process has found whole: folder -> its marker, and size and times of each file as they were then.
_found_whole: dict[Path, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {}


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def mark_checkpoint(checkpoint: str | Path) -> None:
    """Mark a checkpoint as whole, at once and for good: it survives a crash of the machine right after."""
    folder = Path(checkpoint)
    names = sorted(_listed_files(folder) - _others(folder))
    marker = {name: fingerprint(folder / name) for name in names}
    for name in names:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    unfinished = folder / f".{MARKER_NAME}.part"
    with open(unfinished, "w") as file:
        json.dump(marker, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MARKER_NAME)
    for name in (BEGUN_NAME, _FORMER_MARKER_NAME):
        (folder / name).unlink(missing_ok=True)


def begin_checkpoint(checkpoint: str | Path) -> None:
    """Make the folder of a checkpoint and mark it as begun; what a save that was cut short has left there goes first.

    Raises:
        RunStopped: If something of that name is there that this package did not write.
    """
    folder = Path(checkpoint)
    marker = read_marker(folder)
    if isinstance(marker, str):
        remove_unfinished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # An earlier checkpoint of this step is written over; what somebody laid into it is no part of the new one.
    others = sorted(_listed_files(folder) - (marker.keys() if isinstance(marker, dict) else set()))
    (folder / BEGUN_NAME).write_text(json.dumps(others))


def _others(folder: Path) -> set[str]:
    """Return the files that lay in a checkpoint's folder when it was begun."""
    try:
        return set(json.loads((folder / BEGUN_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return set()


def remove_unfinished(folder: Path) -> None:
    """Delete a checkpoint that was begun and never marked as whole, file by file.

    Raises:
        RunStopped: If it was not begun by us, or holds files that no checkpoint holds. Those stay.
    """
    if not folder.is_dir():
        return
    if not is_ours(folder):
        raise RunStopped(f"{folder} is in the way and was not written by this package: move it away.")
    names = [name for name in _listed_files(folder) - _others(folder) if name.endswith(_WRITTEN_ENDINGS)]
    left = remove_listed(folder, [*names, *_OUR_NAMES])
    if left:
        raise RunStopped(f"{folder} holds what no checkpoint holds ({', '.join(left[:5])}): move that away.")


def is_ours(folder: Path) -> bool:
    """Return whether a folder was begun, or written, as a checkpoint by this package, or is empty."""
    is_marked = any((folder / name).is_file() for name in _OUR_NAMES)
    return not folder.is_symlink() and (is_marked or not any(os.scandir(folder)))


def check_checkpoints_are_ours(output_dir: str | Path) -> None:
    """Raise `ValueError` for a folder named like a checkpoint that is none: this run may have to write there."""
    if foreign := [name for name in sort_checkpoints(str(output_dir)) if not is_ours(Path(name))]:
        raise ValueError(
            f"{foreign[0]} was not written by this package, or by a release before it marked what it writes: move it "
            "away, or choose another `--output_dir`."
        )


def remove_old_checkpoints(output_dir: Path, most: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints until there are `most`; the newest and the best stay, and so does what is no
    checkpoint of ours, or lies in one without being listed by its marker."""
    if not most or most < 0:
        return
    checkpoints = [Path(name) for name in sort_checkpoints(str(output_dir), use_mtime=True)]
    markers = {folder: marker for folder in checkpoints if isinstance(marker := read_marker(folder), dict)}
    kept = {checkpoints[-1], *([Path(best)] if best else [])}
    removable = [folder for folder in checkpoints if folder in markers and folder not in kept]
    for folder in removable[: max(len(markers) - max(most, len(kept)), 0)]:
        if left := remove_listed(folder, [*markers[folder], MARKER_NAME, _FORMER_MARKER_NAME]):
            logger.warning(f"{folder} was an old checkpoint and is deleted, but for {', '.join(left[:5])}.")


# ---------------------------------------------------------------------------------------------------------------------
# Checking
# ---------------------------------------------------------------------------------------------------------------------


def problem_of(checkpoint: str | Path) -> str | None:
    """Return why a checkpoint cannot be resumed from; None for one that is whole.

    All of its bytes are read for that, once in a process as long as neither the marker nor size and times of a file
    change.
    """
    folder = Path(checkpoint)
    marker = read_marker(folder)
    if isinstance(marker, str):
        return marker
    unlisted = sorted(_listed_files(folder) - marker.keys())
    if loaded := [name for name in unlisted if Path(name).suffix in _LOADED_SUFFIXES]:
        return f"its file {loaded[0]} was not there when it was written"
    for name in marker:
        if not (folder / name).is_file():
            return f"its file {name} is missing"
    # Taken before the bytes are read: a change in between is noticed the next time.
    states = {name: _state_of(folder / name) for name in marker}
    if _found_whole.get(folder.resolve()) == (marker, states):
        return None
    for name, expected in marker.items():
        if fingerprint(folder / name) != expected:
            return f"its file {name} is damaged (another size or hash than when it was written)"
    # Clocks of file systems tick every few milliseconds: a file as young as that could change and keep its times.
    if max(times[-1] for times in states.values()) < time.time_ns() - _CLOCK_TICK:
        _found_whole[folder.resolve()] = (marker, states)
    return None


def _state_of(path: Path) -> tuple[int, ...]:
    # The time of the last change of the inode cannot be set back by a program, as that of the content can.
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_marker(folder: Path) -> dict[str, dict[str, Any]] | str:
    """Read a checkpoint's marker, by file name, or say why it is none: parsing alone makes no marker."""
    is_former = not (folder / MARKER_NAME).exists() and (folder / _FORMER_MARKER_NAME).exists()
    file_name = _FORMER_MARKER_NAME if is_former else MARKER_NAME
    try:
        marker = json.loads((folder / file_name).read_text())
    except FileNotFoundError:
        return f"it is incomplete (no {file_name}: the run ended while it was written)"
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or nested without end
        return f"its {file_name} is damaged"
    if not isinstance(marker, dict) or TRAINER_STATE_NAME not in marker:
        return f"its {file_name} is damaged (it lists no {TRAINER_STATE_NAME}, which every checkpoint has)"
    for name, entry in marker.items():
        if not _is_inside(name) or not _is_fingerprint(entry):
            return f"its {file_name} is damaged (its entry {name[:100]!r} is no file with size and hash)"
    return marker


def _is_inside(name: str) -> bool:
    """Return whether a name is that of a file in the folder or below, as `mark_checkpoint` writes them."""
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
    """Return the names of a checkpoint's files; marker and notes of ours are no part of it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _OUR_NAMES
    }


def find_checkpoint(args: TrainingArguments) -> str | None:
    """Return the checkpoint that `args.resume_from_checkpoint` means: a folder, `"last"` / `"true"`, or none.

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
    """Return the newest checkpoint of a run that is whole; those passed over are named in the log."""
    # A crash during a save leaves the one before it.
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        problem = problem_of(checkpoint)
        if problem is None:
            return str(checkpoint)
        logger.warning(f"{checkpoint} is passed over: {problem}.")
    return None


# ---------------------------------------------------------------------------------------------------------------------
# What a checkpoint holds beside the weights
# ---------------------------------------------------------------------------------------------------------------------


class RunState(TrainerState):
    """A Trainer's state whose file does not tell whose home folder it lies in.

    The best checkpoint is written by its name alone where its path tells; the Trainer looks for it in its output
    folder when it reads the state again.
    """

    best_model_checkpoint: str | None

    def save_to_json(self, json_path: str) -> None:
        """Write the state to a file."""
        best = self.best_model_checkpoint
        if best is not None and hide_identity(str(best)) != str(best):
            self.best_model_checkpoint = Path(best).name
        try:
            super().save_to_json(json_path)
        finally:
            self.best_model_checkpoint = best


def save_position(checkpoint: Path, process_index: int, position: dict[str, Any]) -> None:
    """Write where in a stream a process stopped reading into a checkpoint."""
    _position_file(checkpoint, process_index).write_text(json.dumps(position))


def load_position(checkpoint: str | Path, process_index: int) -> dict[str, Any]:
    """Read what `save_position` wrote.

    Raises:
        FileNotFoundError: If the checkpoint is of a run without a stream, or of fewer processes.
    """
    file = _position_file(checkpoint, process_index)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing, so the position in the stream is unknown: the checkpoint is of a run without a "
            "stream or of fewer processes. Resume as that run was started."
        )
    return json.loads(file.read_text())


def _position_file(checkpoint: str | Path, process_index: int) -> Path:
    return Path(checkpoint) / f"stream_position_{process_index}.json"
