"""Single files that a program writes: others' are refused before it starts, its own are known by their hash."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from .folders import MARKER_NAME, fingerprint, marker_beside, read_marker, refuse_false_marker, some_of, write_marker


class OutputFiles:
    """Files that a program will write: checked when this is made, remembered as ours when they are written.

    A program makes it first, does its work, and writes the files inside `with outputs:`.

    Args:
        paths (`Iterable` of `str` or `Path`): The files; their folders are made on entering.
        made_by (`str`): The program.
        overwrite (`bool`, *optional*): Replace existing files of others too; `None` if the user has no such option.
        folder (`str` or `Path`, *optional*): The output folder that all of them are in: their marker then lies beside
            it, see `marker_beside`; otherwise in the folder of each.

    Raises:
        ValueError: If one of them exists and is not, or no longer, what this package wrote there, and `overwrite` is
            false; or is no file at all. Names them; nothing is changed then.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        made_by: str,
        overwrite: bool | None = None,
        folder: str | Path | None = None,
    ) -> None:
        # Devices (`/dev/stdout`), pipes: nothing is lost there, and there is nothing to remember.
        named = [Path(path) for path in paths]
        self._paths = [path for path in named if path.parts[:2] != ("/", "dev") and not path.is_fifo()]
        self._made_by = made_by
        self._markers: dict[Path, list[tuple[str, Path]]] = {}  # of each marker the files, and their names in it
        for path in self._paths:
            marker = path.parent / MARKER_NAME if folder is None else marker_beside(folder)
            name = path.name if folder is None else path.relative_to(folder).as_posix()
            self._markers.setdefault(marker, []).append((name, path))
        self.replaced = [path for path in self._paths if os.path.lexists(path)]
        for path in self.replaced:
            if path.is_dir():
                raise ValueError(f"{path}, where a file is to be written, is a folder: choose another name.")
        foreign = sorted(map(str, {*self.replaced} - self._unchanged()))
        if foreign and not overwrite:
            exist = "exists and is" if len(foreign) == 1 else "exist and are"
            advice = "" if overwrite is None else ", or say `--overwrite true`"
            raise ValueError(
                f"{some_of(foreign)} {exist} not, or no longer, what this package wrote there: "
                f"nothing was changed. Choose another name or folder{advice}."
            )
        for marker in self._markers:
            if os.path.lexists(marker) and not read_marker(marker):
                refuse_false_marker(marker)

    def _unchanged(self) -> set[Path]:
        """Return the files that are what their marker says that we wrote."""
        found = set()
        for marker, files in self._markers.items():
            known = read_marker(marker).get("files", {})
            for name, path in files:
                entry = known.get(name)
                if isinstance(entry, dict) and "written" in entry and path.is_file() and not path.is_symlink():
                    if entry["written"] is None or entry["written"] == fingerprint(path):
                        found.add(path)
        return found

    def __enter__(self) -> OutputFiles:
        if self.replaced:
            names = [str(path) for path in self.replaced]
            sys.stderr.write(f"Replacing the outcome of an earlier run: {some_of(names)}\n")
        for path in self._paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._remember(is_written=False)  # ours whatever becomes of us
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remember(is_written=True)

    def _remember(self, is_written: bool) -> None:
        """Note in the markers what the files are; those that were not written in the end are forgotten."""
        for marker, files in self._markers.items():
            content = read_marker(marker) or {"files": {}}
            for name, path in files:
                content["files"].pop(name, None)
                if not is_written or path.is_file():
                    written = fingerprint(path) if is_written else None
                    content["files"][name] = {"made_by": self._made_by, "written": written}
            write_marker(marker, content)
