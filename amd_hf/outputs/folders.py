"""The rule for which files this package made: it never deletes or overwrites others.

`.amd_hf_output.json` in a folder is our marker. It says which program claimed the folder (`made_by`), and for single
files which program wrote them and their size and hash at that time (`files`). The rules:

- `claim_folder` empties a folder only if it has our marker and holds nothing but files that `noting` recorded, that
  have not changed since, and whose names the program writes. It does not follow links and treats them as foreign.
- `OutputFiles` (files.py) replaces an existing file only if it is still what we wrote, or with `--overwrite`.
- `claim_split` adds to a split of rendered data only with the settings that the split began with.

All of them refuse before they change anything, and say what is in the way. As a program (`make clean`) this file
removes folders that demos have made; it needs nothing but Python.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


MARKER_NAME = ".amd_hf_output.json"
LOCK_NAME = ".amd_hf_run.lock"
_FORMAT = "amd_hf output"

# What travels with a model: the files on the top level of the package that are named so.
CODE_FILES = tuple(sorted(path.name for path in Path(__file__).parents[1].glob("*_amd*.py")))
_WEIGHTS = ("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
RUN_FILES = (
    *_WEIGHTS, *_PROCESSORS, *CODE_FILES, "README.md", "losses.png", "training_args.bin", "trainer_state.json",
    "all_results.json", "train_results.json", "eval_results.json", "test_results.json", "per_class.csv",
    "detections.csv", "similarity.json", "similarity.png",
)  # fmt: skip
"""What a run of pre-training or fine-tuning leaves in its output folder, beside `checkpoint-*` and `adapter`."""

_RUN = (
    *RUN_FILES,
    *(f"adapter/{name}" for name in (*RUN_FILES, "adapter_*")),
    "runs/*/events.out.tfevents.*",
    LOCK_NAME,
    MARKER_NAME,
)
_ARMS = (
    "teacher", "distilled", "no_teacher",
    *(f"{start}_classifier" for start in ("distilled", "no_teacher", "scratch", "one_frame")),
)  # fmt: skip
_DEMO = (
    "results.json", "results.txt", "losses.png", "reconstructions.png", "similarity.json", "similarity.png",
    *(f"{arm}/{name}" for arm in _ARMS for name in _RUN),
    *(
        f"data/{split}{name}"
        for split in ("unlabelled", "train", "tuning", "validation")
        for name in (".json", "/*.mp4", "/*/*.mp4", "/*.png", "/*/*.png")
    ),
)  # fmt: skip
_KINDS: dict[str, tuple[str, ...]] = {
    "demo.py": _DEMO,
    "demo_images.py": _DEMO,
    "demo_detection.py": (
        "results.json", "actions.json", "actions.mp4", "data/actions.pbtxt", f".data{MARKER_NAME}",
        *(f"data/{split}{name}.csv" for split in ("train", "validation") for name in ("", "_persons", "_excluded")),
        *(f"data/videos/{split}[0-9]*.mp4" for split in ("train", "validation")),
        *(f"detector/{name}" for name in _RUN),
    ),
    "publishing": (*_WEIGHTS, *_PROCESSORS, *CODE_FILES, "README.md", "*.png", "LICENSE*", "NOTICE*"),
}  # fmt: skip
"""Per program the names that it writes, `*` standing for a part of a name: all else in its folder is strange."""

_OTHERS = {"made_by": "others", "written": {}}  # the note of a file that is not ours: equal to no fingerprint


# ---------------------------------------------------------------------------------------------------------------------
# The marker
# ---------------------------------------------------------------------------------------------------------------------


def fingerprint(path: Path) -> dict[str, Any]:
    """Return size and BLAKE2b hash of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "blake2b": digest.hexdigest()}


def marker_beside(folder: str | Path) -> Path:
    """Return `.NAME.amd_hf_output.json` beside a folder, which is its user's; inside where none can be beside it."""
    path = Path(os.path.abspath(folder))
    is_writable = os.access(path.parent, os.W_OK) or not path.parent.exists()
    is_inside = path == Path.cwd() or path == path.parent or not is_writable
    return path / MARKER_NAME if is_inside else path.with_name(f".{path.name}{MARKER_NAME}")


def read_marker(path: Path) -> dict[str, Any]:
    """Read what a marker says; `{}` where there is none, or none of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    is_ours = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if is_ours and isinstance(content.get("files"), dict) else {}


def _notes(marker: Path) -> dict[str, dict[str, Any]]:
    """Read what a marker says of single files."""
    return {name: entry for name, entry in read_marker(marker).get("files", {}).items() if isinstance(entry, dict)}


def write_marker(path: Path, content: dict[str, Any]) -> None:
    """Write a marker; a file of that name that is none of ours is never replaced."""
    if os.path.lexists(path) and not read_marker(path):
        refuse_false_marker(path)
    replace_file(path, (json.dumps({"format": _FORMAT, **content}, indent=1, sort_keys=True) + "\n").encode())


def refuse_false_marker(path: Path) -> NoReturn:
    raise ValueError(f"{path} is no marker of this package, though it has its name: move it away, or remove it.")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under another name first, which no other thread, process or machine takes."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


# ---------------------------------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------------------------------


def claim_folder(
    folder: str | Path,
    made_by: str,
    *,
    keep: Sequence[str] = (),
    more: Sequence[str] = (),
    marker: Path | None = None,
    option: str = "output_dir",
) -> list[str]:
    """Make a folder, or empty the one that an earlier run of the same program left, and mark it as ours.

    What the program writes into it then is to be written inside `with noting(...)`: else it counts as others'.

    Args:
        folder (`str` or `Path`): The folder.
        made_by (`str`): The program, whose names of files are known here.
        keep (`Sequence[str]`): Entries of the folder that stay, whatever they hold.
        more (`Sequence[str]`): Names that the program writes beside those known here.
        marker (`Path`, *optional*): The marker where it must not lie in the folder itself.
        option (`str`): The option that names the folder, for the message.

    Returns:
        What was there of an earlier run, by relative name.

    Raises:
        ValueError: If anything is there that the program did not make, or that was changed since. Nothing is changed
            then.
    """
    folder = Path(folder)
    marker = marker or folder / MARKER_NAME
    found: list[str] = []
    kept: dict[str, dict[str, Any]] = {}
    if os.path.lexists(folder):
        found = _earlier_files(folder, made_by, keep, more, marker, option)
        known = _notes(marker)
        names, _ = _sort_out(folder, (*_KINDS[made_by], *more))
        kept = {name: known.get(name, _OTHERS) for name in names if name.split("/")[0] in keep}
    if os.path.lexists(marker) and not read_marker(marker):
        refuse_false_marker(marker)
    _remove_files(folder, found)
    folder.mkdir(parents=True, exist_ok=True)
    write_marker(marker, {"made_by": made_by, "files": kept})
    return found


@contextmanager
def noting(
    folder: str | Path, made_by: str, *, more: Sequence[str] = (), marker: Path | None = None
) -> Iterator[None]:
    """Note at the end of a stage that writes into a claimed folder, also after an error, what its new files are.

    Only what is noted, and is still what it was, is ever removed. A folder that this program has not claimed is left
    without notes.
    """
    folder = Path(folder)
    marker = marker or folder / MARKER_NAME
    try:
        yield
    finally:
        content = read_marker(marker)
        if content.get("made_by") == made_by:
            files = content["files"]
            for name in _sort_out(folder, (*_KINDS[made_by], *more))[0]:
                if name not in files:
                    files[name] = {"made_by": made_by, "written": fingerprint(folder / name)}
            write_marker(marker, content)


def _earlier_files(
    folder: Path, made_by: str, keep: Sequence[str], more: Sequence[str], marker: Path, option: str
) -> list[str]:
    """Return the files in a folder that an earlier run made; refuse a folder with anything else."""
    if not folder.is_dir():
        raise ValueError(f"`--{option}` {folder} is no folder: nothing was changed. Choose another name.")
    entries = sorted(entry.name for entry in os.scandir(folder) if entry.name != MARKER_NAME)
    advice = f"Nothing was changed: give `--{option}` a new folder, or move that away."
    if entries and read_marker(marker).get("made_by") != made_by:
        raise ValueError(
            f"{folder} holds other things ({some_of(entries)}), not the marked outcome of {made_by}. {advice}"
        )
    files, strange = _sort_out(folder, (*_KINDS[made_by], *more), keep)
    known = _notes(marker)
    for name in files:
        if known.get(name, _OTHERS).get("made_by") == _OTHERS["made_by"]:
            strange.append(f"{name} (not noted as its own)")
        elif known[name].get("written") != fingerprint(folder / name):
            strange.append(f"{name} (changed since it was written)")
    if strange:
        raise ValueError(f"{folder} holds other things ({some_of(strange)}) beside the outcome of {made_by}. {advice}")
    return files


def _sort_out(folder: Path, kinds: Sequence[str], keep: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Sort the entries below a folder: files whose names are among `kinds`, and all others. Links are not followed."""
    files, strange = [], []
    patterns = [kind.split("/") for kind in (*kinds, MARKER_NAME)]

    def look(below: tuple[str, ...]) -> None:
        for entry in sorted(os.scandir(folder.joinpath(*below)), key=lambda entry: entry.name):
            parts = (*below, entry.name)
            if not below and entry.name in keep:
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and any(len(kind) > len(parts) and _fits(parts, kind) for kind in patterns):
                look(parts)
            elif entry.is_file(follow_symlinks=False) and any(
                len(kind) == len(parts) and _fits(parts, kind) for kind in patterns
            ):
                if parts != (MARKER_NAME,):  # it goes last
                    files.append("/".join(parts))
            else:
                strange.append("/".join(parts) + ("/" if is_folder else ""))

    look(())
    return files, strange


def _fits(parts: Sequence[str], kind: Sequence[str]) -> bool:  # `*` does not reach beyond a folder
    return all(fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(parts, kind, strict=False))


def _remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files by name, and the folders that are empty then."""
    parents = set()
    for name in names:
        path = folder / name
        path.unlink()
        parents |= {parent for parent in path.parents if folder in parent.parents}
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        if not any(os.scandir(parent)):
            parent.rmdir()


def remove_listed(folder: Path, names: Iterable[str]) -> list[str]:
    """Remove files of a folder by name, those that are there and no links, then the folder where it is empty.

    Returns:
        What is left in it, by name.
    """
    paths = [folder / name for name in names]
    _remove_files(folder, [str(path.relative_to(folder)) for path in paths if _is_plain(path, folder)])
    left = sorted(entry.name for entry in os.scandir(folder))
    if not left:
        folder.rmdir()
    return left


def _is_plain(path: Path, folder: Path) -> bool:
    """Return whether a path below `folder` is a file to which no link leads."""
    between = [path, *(parent for parent in path.parents if folder in parent.parents)]
    return path.is_file() and not any(part.is_symlink() for part in between)


def some_of(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# ---------------------------------------------------------------------------------------------------------------------
# Rendered data
# ---------------------------------------------------------------------------------------------------------------------


def claim_split(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings of a rendered split beside its folder, or check that they are those of the files in it.

    Raises:
        ValueError: If the folder holds anything and there is no such note, or the note is of other settings.
    """
    note = folder.with_name(folder.name + ".json")
    text = json.dumps(settings, indent=2) + "\n"
    if os.path.lexists(note):
        if not note.is_file() or note.read_text() != text:
            raise ValueError(
                f"{folder} was rendered with other settings, see {note}; delete both or choose another folder."
            )
    elif os.path.lexists(folder) and (not folder.is_dir() or any(os.scandir(folder))):
        raise ValueError(f"{folder} holds files that this program did not write; choose another folder.")
    else:
        note.parent.mkdir(parents=True, exist_ok=True)
        replace_file(note, text.encode())


# ---------------------------------------------------------------------------------------------------------------------
# make clean
# ---------------------------------------------------------------------------------------------------------------------


def remove_folder(folder: Path) -> None:
    """Remove a folder that one of our programs made, its rendered data too.

    Raises:
        ValueError: If it carries no marker of ours, or holds anything else. Nothing is changed then.
    """
    made_by = read_marker(folder / MARKER_NAME).get("made_by")
    if made_by not in _KINDS:
        raise ValueError(f"{folder} carries no marker ({MARKER_NAME}): it is left as it is.")
    files = _earlier_files(folder, made_by, (), (), folder / MARKER_NAME, "output_dir")
    remove_listed(folder, [*files, MARKER_NAME])


def main(folders: Sequence[str]) -> int:  # the exit code: 1 where one was left
    code = 0
    for folder in folders:
        try:
            if os.path.lexists(folder):
                remove_folder(Path(folder))
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            code = 1
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
