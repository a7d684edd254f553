"""AVA's evaluation from files: a submission against the ground truth, in the official formats."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ..data.datasets.problems import Problems
from ..outputs.csv_text import original_cell
from .datasets.ava_files import format_timestamp, read_action_list, read_excluded
from .mean_average_precision import FrameBoxes, average_precisions, mean_of


_SIDES = ("x1", "y1", "x2", "y2")


def score_submission(
    detections: str | os.PathLike[str],
    ground_truth: str | os.PathLike[str],
    action_list: str | os.PathLike[str],
    excluded: str | os.PathLike[str] | None = None,
    max_per_frame: int | None = None,
) -> dict[str, Any]:
    """Frame mAP at IoU 0.5 of a submission, as the official program gives it.

    Args:
        detections (path): csv of `video,time stamp,x1,y1,x2,y2,action,score`.
        ground_truth (path): csv of the same without the score; a person after the action is ignored.
        action_list (path): `.pbtxt` list of the actions that are scored; others in the files are left out.
        excluded (path, *optional*): csv of key frames to leave out.
        max_per_frame (`int`, *optional*): Detections of a key frame that count, best first; the current official
            program takes 50, by default all count.

    Returns:
        `map`, and `average_precision` by the names of the actions, as [`FrameMeanAveragePrecision`].

    Raises:
        FileNotFoundError, ValueError: A file is missing or has lines of another form.
    """
    names = read_action_list(Path(action_list))
    problems = Problems()
    left_out = {str(key) for key in read_excluded(Path(excluded), problems)} if excluded is not None else set()
    problems.raise_if_any()
    tables = [
        _read(Path(file), list(names), left_out, has_scores)
        for file, has_scores in ((detections, True), (ground_truth, False))
    ]
    frames = sorted({name for table in tables for name in pc.unique(table["key_frame"]).to_pylist()})
    detected, true = (_frame_boxes(table, pa.array(frames, pa.string())) for table in tables)
    return mean_of(average_precisions(detected, true, max_per_frame), names)


def _read(file: Path, actions: list[int], left_out: set[str], has_scores: bool) -> pa.Table:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    columns = ["video", "timestamp", *_SIDES, "action"]
    with open(file, encoding="utf-8-sig", newline="") as stream:
        width = len(next(csv.reader(stream), [""]))
    if has_scores and width != 8 or width not in (7, 8):
        raise ValueError(f"{file} has {width} fields a line, {8 if has_scores else '7 or 8'} are needed.")
    columns += (["score"] if has_scores else ["person"])[: width - 7]
    types = {"video": pa.string(), "timestamp": pa.float64(), "action": pa.int64(), "person": pa.string()}
    types |= dict.fromkeys((*_SIDES, "score"), pa.float64())
    try:
        table = arrow_csv.read_csv(
            file,
            read_options=arrow_csv.ReadOptions(column_names=columns),
            convert_options=arrow_csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no file of AVA's form: {error}") from error
    if has_scores:  # written by us, perhaps with names guarded
        names = table["video"].combine_chunks().dictionary_encode()
        originals = pa.array([original_cell(name) for name in names.dictionary.to_pylist()], pa.string())
        table = table.set_column(0, "video", originals.take(names.indices))
    table = table.filter(pc.is_in(table["action"], pa.array(actions, pa.int64())))
    times = table["timestamp"].to_numpy()
    unique, places = np.unique(times, return_inverse=True)
    texts = pa.array([format_timestamp(float(time)) for time in unique], pa.string()).take(pa.array(places))
    keys = pc.binary_join_element_wise(table["video"], pa.chunked_array([texts]), ",")
    table = table.append_column("key_frame", keys)
    return table.filter(pc.invert(pc.is_in(table["key_frame"], pa.array(sorted(left_out), pa.string()))))


def _frame_boxes(table: pa.Table, frames: pa.Array) -> FrameBoxes:
    numbers = pc.index_in(table["key_frame"], frames).to_numpy().astype(np.int64)
    boxes = np.stack([table[side].to_numpy() for side in _SIDES], axis=1)
    scores = table["score"].to_numpy() if "score" in table.column_names else None
    # Lines of one box with several actions usually follow each other: it is compared once.
    is_new = np.ones(len(numbers), dtype=bool)
    is_new[1:] = (numbers[1:] != numbers[:-1]) | (boxes[1:] != boxes[:-1]).any(axis=1)
    box_of_entry = np.cumsum(is_new) - 1
    return FrameBoxes(numbers[is_new], boxes[is_new], box_of_entry, table["action"].to_numpy(), scores)
