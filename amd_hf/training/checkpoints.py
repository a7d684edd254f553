"""Checkpoints that are whole or do not count: marked after the last file is written, checked before any is read."""

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
"""Written first and deleted once the marker exists: it distinguishes what a killed save leaves from others' files."""
_FORMER_MARKER_NAME = "checkpoint_seal.json"  # in checkpoints of 0.1; still read for one release
_OUR_NAMES = (MARKER_NAME, _FORMER_MARKER_NAME, f".{MARKER_NAME}.part", f".{_FORMER_MARKER_NAME}.part", BEGUN_NAME)
_WRITTEN_ENDINGS = (
    ".safetensors", ".bin", ".pt", ".pth", ".distcp", ".json", ".json.gz", ".py", ".md", ".metadata", ".part", ".tmp",
)  # fmt: skip
_LOADED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".distcp", ".json")  # of files that resuming reads


_CLOCK_TICK = 2_000_000_000  # nanoseconds; generous, as the clock may be another machine's

# Checkpoints that this process has found whole: folder -> its marker, and size and times of each file at that time.
_found_whole: dict[Path, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {}


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def mark_checkpoint(checkpoint: str | Path) -> None:
    """Mark a checkpoint as whole; the mark survives a crash of the machine right afterwards."""
    folder = Path(checkpoint)
    names = sorted(_listed_files(folder) - _others(folder))
    marker = {name: fingerprint(folder / name) for name in names}
    for name in names:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    # The marker is renamed into place only after all bytes are on the disk, so it never vouches for lost ones.
    unfinished = folder / f".{MARKER_NAME}.part"
    with open(unfinished, "w") as file:
        json.dump(marker, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MARKER_NAME)
    for name in (BEGUN_NAME, _FORMER_MARKER_NAME):
        (folder / name).unlink(missing_ok=True)


def begin_checkpoint(checkpoint: str | Path) -> None:
    """Make the folder of a checkpoint and mark it as begun, after deleting what an interrupted save has left there.

    Raises:
        RunStopped: If the folder exists and this package did not write it.
    """
    folder = Path(checkpoint)
    marker = read_marker(folder)
    if isinstance(marker, str):
        remove_unfinished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # An earlier checkpoint of this step is overwritten; files that somebody else put there do not belong to the new.
    others = sorted(_listed_files(folder) - (marker.keys() if isinstance(marker, dict) else set()))
    (folder / BEGUN_NAME).write_text(json.dumps(others))


def _others(folder: Path) -> set[str]:
    """Return the files that were in a checkpoint's folder before it was begun."""
    try:
        return set(json.loads((folder / BEGUN_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return set()


def remove_unfinished(folder: Path) -> None:
    """Delete a checkpoint that was begun but never marked as whole, file by file.

    Raises:
        RunStopped: If this package did not begin it, or it holds files that no checkpoint has. Those stay.
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
    """Return whether this package began or wrote a folder as a checkpoint, or the folder is empty."""
    is_marked = any((folder / name).is_file() for name in _OUR_NAMES)
    return not folder.is_symlink() and (is_marked or not any(os.scandir(folder)))


def check_checkpoints_are_ours(output_dir: str | Path) -> None:
    """Raise `ValueError` for a folder named like a checkpoint that is none: this run may need to write there."""
    if foreign := [name for name in sort_checkpoints(str(output_dir)) if not is_ours(Path(name))]:
        raise ValueError(
            f"{foreign[0]} was not written by this package, or by a release that did not mark its checkpoints yet: "
            "move it away, or choose another `--output_dir`."
        )


def remove_old_checkpoints(output_dir: Path, most: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints until `most` are left.

    The newest and the best stay. So do other people's folders, and files that no marker lists.
    """
    if not most or most < 0:
        return
    checkpoints = [Path(name) for name in sort_checkpoints(str(output_dir), use_mtime=True)]
    markers = {folder: marker for folder in checkpoints if isinstance(marker := read_marker(folder), dict)}
    kept = {checkpoints[-1], *([Path(best)] if best else [])}
    removable = [folder for folder in checkpoints if folder in markers and folder not in kept]
    for folder in removable[: max(len(markers) - max(most, len(kept)), 0)]:
        if left := remove_listed(folder, [*markers[folder], MARKER_NAME, _FORMER_MARKER_NAME]):
            logger.warning(f"The old checkpoint {folder} is deleted, except for {', '.join(left[:5])}.")


# ---------------------------------------------------------------------------------------------------------------------
# Checking
# ---------------------------------------------------------------------------------------------------------------------


def problem_of(checkpoint: str | Path) -> str | None:
    """Return why a checkpoint cannot be resumed from; None if it is whole.

    This reads all of its bytes, but only once per process while the marker and the files' sizes and times stay the
    same.
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
    # Taken before the bytes are read, so that a change in between is noticed the next time.
    states = {name: _state_of(folder / name) for name in marker}
    if _found_whole.get(folder.resolve()) == (marker, states):
        return None
    for name, expected in marker.items():
        if fingerprint(folder / name) != expected:
            return f"its file {name} is damaged (another size or hash than when it was written)"
    # Clocks of file systems tick every few milliseconds: a file younger than that could change and keep its times.
    if max(times[-1] for times in states.values()) < time.time_ns() - _CLOCK_TICK:
        _found_whole[folder.resolve()] = (marker, states)
    return None


def _state_of(path: Path) -> tuple[int, ...]:
    # Programs can set the time of the last change of the content back, but not that of the inode.
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_marker(folder: Path) -> dict[str, dict[str, Any]] | str:
    """Return a checkpoint's marker, entries by file name; or, as text, why it is no valid marker."""
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
    """Return whether a name is a relative path in the folder, in the form that `mark_checkpoint` writes."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name and name not in ("", ".")


def _is_fingerprint(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"size", "blake2b"}:
        return False
    is_size = type(entry["size"]) is int and entry["size"] >= 0  # true and 3.0 equal 1 and 3, but are no sizes
    return (
        is_size and isinstance(entry["blake2b"], str) and re.fullmatch(r"[0-9a-f]{32}", entry["blake2b"]) is not None
    )


def _listed_files(folder: Path) -> set[str]:
    """Return the names of a checkpoint's files, without our marker and notes."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _OUR_NAMES
    }


def find_checkpoint(args: TrainingArguments) -> str | None:
    """Return the checkpoint that `args.resume_from_checkpoint` names: a folder, `"last"` / `"true"`, or None.

    `last` is the newest checkpoint that is whole: a run killed while it saves leaves an incomplete one behind.

    Raises:
        FileNotFoundError: If the folder is not a whole checkpoint.
        ValueError: If the output folder holds checkpoints and `resume_from_checkpoint` is not set, since the run would
            overwrite them; or if it holds a finished model and `overwrite_output_dir` is not set.
        RunStopped: If another process is running there.
    """
    if args.process_index == 0:
        check_no_run_in(args.output_dir)  # now, not after minutes of loading
    checkpoint = _choose_checkpoint(args)
    check_output_folder(args, checkpoint)
    return checkpoint


def _choose_checkpoint(args: TrainingArguments) -> str | None:
    checkpoints = [Path(folder) for folder in sort_checkpoints(args.output_dir)]
    wanted = args.resume_from_checkpoint
    if wanted in (None, False, "false", "False"):
        if checkpoints:
            raise ValueError(
                f"{args.output_dir} already holds checkpoints of a run ({checkpoints[-1].name}). Continue it with "
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
    """Return the newest checkpoint of a run that is whole; the log names those that are skipped."""
    # A crash during a save leaves an incomplete newest checkpoint; the one before it is whole.
    for checkpoint in reversed(sort_checkpoints(output_dir)):
        problem = problem_of(checkpoint)
        if problem is None:
            return str(checkpoint)
        logger.warning(f"{checkpoint} is skipped: {problem}.")
    return None


# ---------------------------------------------------------------------------------------------------------------------
# What a checkpoint holds beside the weights
# ---------------------------------------------------------------------------------------------------------------------


class RunState(TrainerState):
    """A Trainer's state whose file does not reveal the user's home folder.

    If the path of the best checkpoint would, the file holds only its name; the Trainer then looks for it in its output
    folder when it reads the state.
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
    """Write a process's position in a stream into a checkpoint."""
    _position_file(checkpoint, process_index).write_text(json.dumps(position))


def load_position(checkpoint: str | Path, process_index: int) -> dict[str, Any]:
    """Read the position that `save_position` wrote.

    Raises:
        FileNotFoundError: If the checkpoint is of a run without a stream, or of fewer processes.
    """
    file = _position_file(checkpoint, process_index)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing, so the position in the stream is unknown: the checkpoint is from a run without a "
            "stream or with fewer processes. Resume with the same data and processes as that run."
        )
    return json.loads(file.read_text())


def _position_file(checkpoint: str | Path, process_index: int) -> Path:
    return Path(checkpoint) / f"stream_position_{process_index}.json"
