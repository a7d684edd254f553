"""Names of labels: given as a list, or as a file with one name per line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_label_names(label_names: str | Path | Sequence[str] | None) -> list[str] | None:
    """Return the names in the order of their labels, or None where there are none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, or a name appears twice.
    """
    if label_names is None:
        return None
    if not isinstance(label_names, str | Path):
        names, source = list(label_names), "`label_names`"
    else:
        file = Path(label_names).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"There is no file of label names {str(file)!r}.")
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        source = f"The file of label names {file}"
    if not names:
        raise ValueError(f"{source} holds no name. Write one per line, in the order of the labels.")
    if len(set(names)) < len(names):
        raise ValueError(f"{source} names {len(names) - len(set(names))} label(s) twice.")
    return names
