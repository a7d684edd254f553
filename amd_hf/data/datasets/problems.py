"""What is wrong with an annotation file: collected line by line, then raised (loading) or listed (the validator)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


MAX_LINES_NAMED = 20
_MAX_VALUE_LENGTH = 500


class Kind(NamedTuple):
    """One kind of fault: how it is said of one line and of several, and what to do about it."""

    singular: str
    plural: str
    advice: str


NO_LABEL = Kind("has no label", "have no label", "Add it, or take the labels off all others for pre-training.")
MISSING = Kind("names a missing file", "name a missing file", "Correct the path, set `root`, or remove them.")
DUPLICATE = Kind(
    "names a video that an earlier one names",
    "name a video that an earlier one names",
    "Remove one of each: a video counts once.",
)


class Problem(NamedTuple):
    """A fault of one line: `number` counts from 1, as the file's `unit` says; `value` is what stands there."""

    file: str
    number: int
    kind: Kind
    value: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.kind.singular}: {self.value}"


@dataclass
class _File:
    total: int
    unit: str


class Problems:
    """The faults found so far, over one or several annotation files.

    Args:
        check_files (`bool`, defaults to `False`): whether readers should look for every video file. They do so for
            the validator; a missing one is otherwise for the data loader to count.
    """

    def __init__(self, check_files: bool = False) -> None:
        self.check_files = check_files
        self.found: list[Problem] = []
        self._files: dict[str, _File] = {}

    def start(self, file: object, total: int, unit: str = "line") -> None:
        """Say how many lines (or entries) `file` has, before any of them is faulted."""
        self._files[str(file)] = _File(total, unit)

    def add(self, file: object, number: int, kind: Kind, value: object) -> None:
        """Note a fault of a line (or entry) of `file`, which `start` has introduced."""
        assert str(file) in self._files, f"call `problems.start({str(file)!r}, total)` before its first fault"
        try:
            text = str(value)
        except (ValueError, RecursionError):  # endless digits, lists in lists without end
            text = f"a value of type {type(value).__name__}"
        self.found.append(Problem(str(file), number, kind, printable(text, _MAX_VALUE_LENGTH)))

    @property
    def num_checked(self) -> int:
        """Lines, rows, samples and entries of all files."""
        return sum(file.total for file in self._files.values())

    def summary(self) -> str:
        """Return how much was checked, in the unit of the files, and how much of it is bad, whatever the faults."""
        units = {file.unit for file in self._files.values()}
        unit = units.pop() if len(units) == 1 else "entry"
        num_bad = len({(problem.file, problem.number) for problem in self.found})
        unit = unit if self.num_checked == 1 else _plural(unit)
        return f"{self.num_checked:,} {unit} checked, {num_bad:,} of them bad"

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            ValueError: names the first 20 lines, those with the same fault together.
        """
        if not self.found:
            return
        groups: dict[tuple[str, Kind], list[Problem]] = {}
        for problem in self.found:
            groups.setdefault((problem.file, problem.kind), []).append(problem)
        parts, budget = [], MAX_LINES_NAMED
        for problems in groups.values():
            if budget == 0:
                break
            parts.append(self._describe(problems, budget))
            budget -= min(budget, len(problems))
        if len(parts) < len(groups):
            parts.append("`amd-hf validate` lists all of them.")
        raise ValueError(" ".join(parts))

    def _describe(self, problems: Sequence[Problem], max_named: int) -> str:
        file, _, kind, value = problems[0]
        known = self._files[file]
        numbers = [problem.number for problem in problems]
        return (
            f"{len(problems)} of {known.total} {_plural(known.unit)} of {file} {kind.plural}: "
            f"{known.unit} {number_list(numbers, max_named)}; the first is {value!r}. {kind.advice}"
        )


def _plural(unit: str) -> str:
    return "entries" if unit == "entry" else f"{unit}s"


def number_list(numbers: Sequence[int], max_named: int = MAX_LINES_NAMED) -> str:
    """Return `1, 4, 5 and 2 more`."""
    more = f" and {len(numbers) - max_named} more" if len(numbers) > max_named else ""
    return ", ".join(map(str, numbers[:max_named])) + more


# ---------------------------------------------------------------------------------------------------------------------
# Words of strangers, as a message may show them
# ---------------------------------------------------------------------------------------------------------------------


def printable(name: str, length: int = 200) -> str:
    """Return a name as it can be written anywhere: no other bytes than UTF-8, no line breaks, cut where long."""
    try:
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates of another origin, as JSON can write them
        text = name.encode("utf-8", "backslashreplace").decode()
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return text if len(text) <= length else f"{text[:length]}..."


def shorten(value: object, length: int = 100) -> str:
    """Return a value as an error may show it: what rows hold may be of any length."""
    try:
        text = value if isinstance(value, str) and len(value) > length else repr(value)
    except (ValueError, RecursionError):  # numbers of more digits than Python writes, lists in lists without end
        return f"of type {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."
