"""Walks through the code: which files of the package run on the way, and which of them call one another back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import amd_hf


_PACKAGE = Path(amd_hf.__file__).parent


class Walk:
    """The files of the package whose functions were called, relative to it, in the order of the first call.

    A return is a call from one file into another that is still waiting for it: A calls B, and B calls A. Who reads
    along must then go back to a file that he had left.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.returns: list[str] = []
        self._waiting: list[tuple[FrameType, str]] = []
        self._names: dict[str, str | None] = {}

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "return" and self._waiting and self._waiting[-1][0] is frame:
            self._waiting.pop()
        if event != "call" or frame.f_code.co_name == "<module>":
            return
        path = frame.f_code.co_filename
        if path not in self._names:
            inside = Path(path).is_relative_to(_PACKAGE)
            self._names[path] = str(Path(path).relative_to(_PACKAGE)) if inside else None
        name = self._names[path]
        if name is None:
            return
        if name not in self.files:
            self.files.append(name)
        callers = [other for _, other in self._waiting]
        if name in callers and callers[-1] != name:
            self.returns.append(f"{callers[-1]} -> {name}:{frame.f_code.co_name}")
        self._waiting.append((frame, name))


@contextmanager
def walked() -> Iterator[Walk]:
    """Note the walk of what runs inside the `with`, in this thread."""
    walk = Walk()
    sys.setprofile(walk.note)
    try:
        yield walk
    finally:
        sys.setprofile(None)


def starts_package_hooks(name: str) -> bool:
    """Whether a file belongs to the import hooks of the package, which any first import of another library enters."""
    return name in ("registration.py", "moved_modules.py")
