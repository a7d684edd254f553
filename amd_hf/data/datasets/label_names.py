"""Labels and their names: what a label may be, and the names given as a list or as a file with one name per line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...configuration_amd import AMDConfig
from .problems import shorten


logger = logging.get_logger(__name__)

MAX_LABEL = 999_999
"""The largest number of a label: a list of names is as long as the largest one, so it is bounded before it is made."""

_MAX_NAME_LENGTH = 1000


def as_label(value: Any, names: Collection[str] | None = None) -> int | str | None:
    """Read a label as it stands in a file: a number from 0, a name, or None where there is none.

    Args:
        value: text (digits are a number, nothing is no label), a number, or None.
        names (collection of `str`, *optional*): known names; a text such as `1.5` or `nan` is a name only if it is
            one of them.

    Raises:
        ValueError: anything else: true and false, fractions, NaN, negative or huge numbers, lists, endless texts.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _label_of_text(value.strip(), names)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the label {shorten(value)} is neither a number nor a name")
    if not math.isfinite(value) or value != int(value):
        raise ValueError(f"the label {value} is no integer from 0")
    if not 0 <= value <= MAX_LABEL:
        raise ValueError(f"the label {shorten(value)} is no number from 0 to {MAX_LABEL}")
    return int(value)


def _label_of_text(text: str, names: Collection[str] | None) -> int | str | None:
    if not text:
        return None
    if len(text) > _MAX_NAME_LENGTH:
        raise ValueError(f"the label has {len(text)} characters: {shorten(text)}")
    if text.isascii() and text.isdecimal():
        digits = text.lstrip("0") or "0"
        if len(digits) > len(str(MAX_LABEL)):
            raise ValueError(f"the label {shorten(text)} is no number from 0 to {MAX_LABEL}")
        return int(digits)
    if names is None or text not in names:
        if _is_number(text):
            raise ValueError(f"the label {text!r} is none: labels are names, or integers from 0")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the label {text!r} is no UTF-8") from None
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def label_number(label: int | str, number_of: Mapping[str, int] | None) -> int:
    """Return the number of a label that `as_label` gave.

    Args:
        label: a number or a name.
        number_of (mapping, *optional*): the number of each known name.

    Raises:
        ValueError: a name that is none of them, or a number above theirs.
    """
    if isinstance(label, str) and number_of is not None and label in number_of:
        return number_of[label]
    if isinstance(label, str):
        raise ValueError(f"the label {shorten(label)} is none of the label names")
    if number_of is not None and label >= len(number_of):
        raise ValueError(f"the label {label} is no number from 0 to {len(number_of) - 1}")
    return label


def check_label_column(label_column: str | None, columns: Set[str], source: object) -> None:
    """Check that a column of labels that was asked for is there.

    Raises:
        ValueError: it is not; names the columns there are, and the nearest.
    """
    if label_column is not None and label_column not in columns:
        raise ValueError(
            f"{source} has no column {label_column!r}{near_name(label_column, columns)}, given as `label_column`; its "
            f"columns are {sorted(columns)[:50]}."
        )


def near_name(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'right'?)` where one of the known names is near, else nothing."""
    near = difflib.get_close_matches(name, [other for other in known if other != name], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


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


def label_names_of(rows: Any) -> list[str]:
    """Return the names of the classes of a dataset of labelled rows; "0", "1", ... where they are numbers only.

    Raises:
        ValueError: the rows have no labels.
    """
    names = getattr(rows.features["label"], "names", None)
    if names is not None:
        return list(names)
    labels = rows["label"]
    if len(labels) == 0 or any(label is None for label in labels):
        others = [name for name in rows.features if name not in ("video", "label", "video_id")]
        raise ValueError(
            "The videos have no labels: give class folders or a list file of lines `path label`, or name the "
            "column of the labels of a table or of metadata: `--label_column NAME` (Python: `label_column=`)"
            + (f"; the other columns are {others[:50]}." if others else ".")
        )
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label <= MAX_LABEL:
            raise ValueError(f"The label {label!r:.100} is no number of a class, from 0 to {MAX_LABEL}.")
    return [str(number) for number in range(max(labels) + 1)]


def check_labels_fit(rows: Any, config: AMDConfig) -> None:
    """Check that the labels of a dataset mean to the model what they mean in the data.

    Rows that say nothing of their labels beforehand (a stream of numbers, rows that are no `datasets` object) pass:
    each is looked at when it is read.

    Raises:
        ValueError: If the rows have another number of classes than the model, or classes of other names or order.
    """
    features = getattr(rows, "features", None)
    if not isinstance(features, Mapping) or "label" not in features:
        return
    has_names = getattr(features["label"], "names", None) is not None
    if not has_names and (not hasattr(rows, "__len__") or any(label is None for label in rows["label"])):
        return
    names = label_names_of(rows)
    ours = [config.id2label[number] for number in range(config.num_labels)]
    is_nameless = ours == [f"LABEL_{number}" for number in range(config.num_labels)]
    # Numbers without names may lack the last classes, as a small evaluation set does.
    if len(names) > config.num_labels or (has_names and is_nameless and len(names) != config.num_labels):
        only = "only " if len(names) > config.num_labels else ""
        raise ValueError(
            f"The data has {len(names)} classes, the model {only}{config.num_labels} (`num_labels`): leave the option "
            "out where the model is new, or give the data the names of all classes the model knows (`label_names`)."
        )
    if not has_names:
        return  # there is no name to compare
    if is_nameless:
        logger.warning("The model does not name its classes: they are taken to be those of the data, in their order.")
    elif names != ours:
        number = next(i for i, (one, other) in enumerate(zip([*names, None], ours, strict=False)) if one != other)
        raise ValueError(
            f"The classes of the data are not those of the model: class {number} is "
            f"{repr(names[number]) if number < len(names) else 'missing'} in the data and {ours[number]!r} in the "
            f"model ({len(names)} and {len(ours)} classes). Give the data the model's class folders, all of them, or "
            "a list file with the model's numbers."
        )
