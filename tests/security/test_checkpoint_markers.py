"""A checkpoint counts only with a marker that says what a marker says: size and hash of every file that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amd_hf.training.checkpoints import MARKER_NAME, find_checkpoint, mark_checkpoint, problem_of
from tests.helpers.training import pretraining_args


Marker = dict[str, Any]


def _checkpoint(folder: Path) -> Path:
    (folder / "below").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "below/shard.distcp"):
        (folder / name).write_bytes(name.encode())
    (folder / "trainer_state.json").write_text("{}")
    mark_checkpoint(folder)
    assert problem_of(folder) is None
    return folder


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "true", "3", '"checkpoint"', "NaN", "", "[" * 100_000, "\0", "{}{}"]
)
def test_marker_that_is_no_record_of_files_is_no_marker(text: str, tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "checkpoint-3")
    (checkpoint / MARKER_NAME).write_text(text)
    assert "is damaged" in str(problem_of(checkpoint))
    assert find_checkpoint(pretraining_args(tmp_path, resume_from_checkpoint="last")) is None
    with pytest.raises(FileNotFoundError, match="Cannot resume from .*is damaged"):
        find_checkpoint(pretraining_args(tmp_path, resume_from_checkpoint=str(checkpoint)))


def _all(change: Callable[[Marker], Any]) -> Callable[[Marker], Any]:
    return lambda marker: {name: change(entry) for name, entry in marker.items()}


@pytest.mark.parametrize(
    "change",
    [
        _all(lambda entry: {}),
        _all(lambda entry: None),
        _all(lambda entry: []),
        _all(lambda entry: entry["blake2b"]),
        _all(lambda entry: {"size": entry["size"]}),
        _all(lambda entry: {"blake2b": entry["blake2b"]}),
        _all(lambda entry: {**entry, "size": str(entry["size"])}),
        _all(lambda entry: {**entry, "size": float(entry["size"])}),
        _all(lambda entry: {**entry, "size": float("nan")}),
        _all(lambda entry: {**entry, "size": True}),
        _all(lambda entry: {**entry, "size": -1}),
        _all(lambda entry: {**entry, "blake2b": None}),
        _all(lambda entry: {**entry, "blake2b": entry["blake2b"][:8]}),
        _all(lambda entry: {**entry, "more": 1}),
        lambda marker: list(marker),
        lambda marker: {"files": marker},
        lambda marker: {**marker, "../elsewhere.pt": marker["optimizer.pt"]},
        lambda marker: {**marker, "/etc/hostname": marker["optimizer.pt"]},
        lambda marker: {**marker, "": marker["optimizer.pt"]},
        lambda marker: {name: entry for name, entry in marker.items() if name != "trainer_state.json"},
    ],
)  # fmt: skip
def test_entries_of_other_types_or_without_a_part_make_no_marker(
    change: Callable[[Marker], Any], tmp_path: Path
) -> None:
    checkpoint = _checkpoint(tmp_path)
    marker = json.loads((checkpoint / MARKER_NAME).read_text())
    (checkpoint / MARKER_NAME).write_text(json.dumps(change(marker)))
    assert "is damaged" in str(problem_of(checkpoint))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "below/shard.distcp"])
def test_file_that_the_marker_does_not_list_is_not_read_unseen(name: str, tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path)
    marker = json.loads((checkpoint / MARKER_NAME).read_text())
    del marker[name]
    (checkpoint / MARKER_NAME).write_text(json.dumps(marker))
    assert f"its file {name} was not there" in str(problem_of(checkpoint))


def test_notes_of_ones_own_in_a_checkpoint_are_no_fault(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path)
    (checkpoint / "notes.txt").write_text("the good one")
    assert problem_of(checkpoint) is None
