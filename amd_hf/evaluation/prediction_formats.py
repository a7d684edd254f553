"""Predictions as people and programs read them: a table, one JSON object per line, csv."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..outputs.csv_text import csv_line
from .prediction import VideoPrediction


_CSV_COLUMNS = (
    "video", "start_seconds", "end_seconds", "start_frame", "stop_frame", "rank", "label", "score", "error",
)  # fmt: skip


def as_dict(prediction: VideoPrediction, names: dict[int, str], top_k: int) -> dict[str, Any]:
    """One video's result as it goes into JSON: `predictions`, or `windows` each with its own, and perhaps `error`."""
    result: dict[str, Any] = {"video": prediction.video}
    windows = []
    for window, probabilities in prediction.windows:
        order = (-probabilities).argsort(kind="stable")[:top_k]
        top = [{"label": names[int(number)], "score": float(probabilities[number])} for number in order]
        windows.append({**(vars(window) if window else {}), "predictions": top})
    if windows and "start_seconds" in windows[0]:
        result["windows"] = windows
    elif windows:
        result |= windows[0]
    return result | ({"error": prediction.error} if prediction.error is not None else {})


def as_table(result: dict[str, Any]) -> str:
    """A result of [`as_dict`] for people, in lines."""
    lines = []
    if len(result) > 1 + ("error" in result):
        lines.append(result["video"])
    lines += [f"  {entry['score']:6.1%}  {entry['label']}" for entry in result.get("predictions", [])]
    for window in result.get("windows", []):
        scores = ", ".join(f"{entry['score']:.1%} {entry['label']}" for entry in window["predictions"])
        lines.append(f"  {window['start_seconds']:9.3f} s to {window['end_seconds']:9.3f} s  {scores}")
    if "error" in result:
        lines.append(f"{result['video']}: cannot be read: {result['error']}")
    return "".join(f"{line}\n" for line in lines)


def as_json_line(result: dict[str, Any]) -> str:
    """A result of [`as_dict`] as one JSON object and line."""
    return json.dumps(result) + "\n"


def as_csv_lines(result: dict[str, Any]) -> str:
    """A result of [`as_dict`] as one csv line per window and class; [`HEADERS`] has the first line.

    Names that a spreadsheet could take for a formula have a `'` in front: see [`amd_hf.outputs.csv_text`].
    """
    rows: list[dict[str, Any]] = []
    for part in result.get("windows", [result]):
        times = {name: part[name] for name in _CSV_COLUMNS[1:5] if name in part}
        for rank, entry in enumerate(part.get("predictions", []), start=1):
            rows.append({"video": result["video"], **times, "rank": rank, **entry})
    if "error" in result:
        rows.append({"video": result["video"], "error": result["error"]})
    return "".join(csv_line(row.get(column, "") for column in _CSV_COLUMNS) for row in rows)


FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {
    "table": as_table,
    "json": as_json_line,
    "csv": as_csv_lines,
}
"""What makes text of a result, by the name of the form."""

HEADERS = {"table": "", "json": "", "csv": ",".join(_CSV_COLUMNS) + "\n"}
"""What stands above the results of each form."""
