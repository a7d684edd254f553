"""From a data set in any layout to a prepared folder, and the account of it."""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.arguments import DataArguments
from ..data.loading import load_video_dataset
from ..errors import RunStopped
from ..outputs.csv_text import csv_line
from .arguments import PreparingArguments
from .formats import (
    LABEL_NAMES,
    file_name,
    is_sharded,
    loading_arguments,
    metadata_name,
    metadata_text,
    read_back,
    read_parquet_labels,
    shard_name,
    write_shard,
)
from .manifest import Manifest
from .planning import Item, check_apart, frame_folder, plan_items
from .running import Encoder, Verdict
from .segments import TIME_COLUMNS, load_segments
from .speed import clips_per_second


REPORT_NAME = "report.csv"
"""The videos that are damaged or could not be used, and why."""

_MIN_TRIED = 100  # before a fraction of bad videos means anything

Progress = Callable[[Iterator[Verdict], int], Iterator[Verdict]]


@dataclass
class Outcome:
    """What became of a data set.

    Args:
        made (list of `Item`): the videos in the output, in the order of the data.
        faulty (list of `Verdict`): the videos with a fault, left out of the output or not.
        num_new (`int`): how many were encoded by this run; the others were there.
        bytes_before, bytes_after (`int`): of the videos in the output, as they were and as they are.
        loading (list of `dict`): arguments of `load_video_dataset` for each split of the output.
        files (list of `str`): all files of the folder that load it, by their names in it.
    """

    made: list[Item] = field(default_factory=list)
    faulty: list[Verdict] = field(default_factory=list)
    num_new: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    loading: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[Verdict]:
        """The videos that are not in the output."""
        return [verdict for verdict in self.faulty if not verdict.is_made]


class Preparation:
    """A data set that is to be prepared: its videos are listed, and nothing is written yet.

    Args:
        data ([`~data.arguments.DataArguments`]): the originals.
        arguments ([`PreparingArguments`]): what to make of them, with an `output_dir`.

    Raises:
        ValueError, FileNotFoundError: the data cannot be listed, or the output does not lie apart from it.
    """

    def __init__(self, data: DataArguments, arguments: PreparingArguments) -> None:
        if data.data is None or arguments.output_dir is None:
            raise ValueError("Say what to prepare, and where to write it: `--data FOLDER_OR_FILE --output_dir DIR`.")
        self.data = data
        self.arguments = arguments
        self.folder = Path(arguments.output_dir).expanduser()
        self.splits: list[str | None] = [*arguments.split] if arguments.split else [None]
        load = load_segments if arguments.trim_by_times else DataArguments.load
        rows = {split: load(data, split) for split in self.splits}
        check_apart(self.folder, [folder for folder in (data.data, data.data_root) if folder], list(rows.values()))
        names = [getattr(of_split.features["label"], "names", None) for of_split in rows.values()]
        if any(name != names[0] for name in names):
            raise ValueError("The splits have other label names each: give all of them by `--class_names FILE`.")
        self.label_names: list[str] | None = names[0]
        self.items = {
            split: plan_items(rows[split], split, self.label_names, self._times_of(rows[split]))
            for split in self.splits
        }

    def _times_of(self, rows: Any) -> list[tuple[float | None, float | None]]:
        if self.arguments.trim_by_times:
            return list(zip(*(rows[name][:] for name in TIME_COLUMNS), strict=True))
        return [(self.arguments.trim_start, self.arguments.trim_end)] * len(rows)

    def settings(self) -> dict[str, Any]:
        """Return what the bytes of the output depend on; a later run in the same folder must have the same."""
        return {
            "data": os.path.abspath(str(self.data.data)),
            "format": self.arguments.format,
            **self.arguments.encoding(),
            "trim_start": self.arguments.trim_start,
            "trim_end": self.arguments.trim_end,
            "trim_by_times": self.arguments.trim_by_times,
            "class_names": self.label_names,
            **(self._settings_of_shards() if is_sharded(self.arguments.format) else {}),
        }

    def _settings_of_shards(self) -> dict[str, Any]:
        """Return what decides which video is in which shard."""
        digest = hashlib.blake2b(digest_size=16)
        for split in self.splits:
            digest.update("\n".join(item.key for item in self.items[split]).encode("utf-8", "surrogatepass"))
        return {"videos_per_shard": self.arguments.videos_per_shard, "listed_videos": digest.hexdigest()}

    def run(self, progress: Progress) -> Outcome:
        """Encode what is not there yet, write the lists, and check that the output loads as the originals do.

        Args:
            progress (callable): `(verdicts, their number) -> verdicts`, to show them.

        Raises:
            RunStopped: too large a fraction of the videos is bad; what is made stays.
            ValueError: the output folder holds other things, or was made with other settings.
        """
        manifest = Manifest(self.folder, self.settings())
        try:
            outcome = Outcome()
            self._encode(manifest, outcome, progress)
            self._write_lists(manifest, outcome)
            self._write_report(manifest, outcome)
            manifest.finish()
            outcome.files = sorted(name for name in manifest.files if name != REPORT_NAME)
        finally:
            manifest.close()
        self._check_loading(outcome)
        return outcome

    def _encode(self, manifest: Manifest, outcome: Outcome, progress: Progress) -> None:
        arguments = self.arguments
        encoder = Encoder(manifest, arguments)
        items = [item for split in self.splits for item in self.items[split]]
        names = [file_name(item, arguments.format) for item in items]
        shards = [self._shard_of(item) for item in items]
        is_done = [
            encoder.is_known(item, name, manifest.has_file(name) or manifest.has_video(shard, item.key))
            for item, name, shard in zip(items, names, shards, strict=True)
        ]
        verdicts = progress(encoder.encode_all(items, names, is_done), len(items))
        num_tried = 0
        for shard, of_shard in itertools.groupby(zip(verdicts, shards, strict=True), key=lambda pair: pair[1]):
            in_shard = []
            for verdict, _ in of_shard:
                num_tried += 1
                self._count(verdict, manifest, outcome)
                self._check_fraction(num_tried, manifest, outcome)
                if verdict.is_made:
                    in_shard.append(verdict.item)
            if shard is not None and in_shard:
                self._write_shard(shard, in_shard, manifest, encoder)

    def _shard_of(self, item: Item) -> str | None:
        arguments = self.arguments
        if not is_sharded(arguments.format):
            return None
        return shard_name(item, arguments.format, len(self.items[item.split]), arguments.videos_per_shard)

    def _write_shard(self, shard: str, items: Sequence[Item], manifest: Manifest, encoder: Encoder) -> None:
        """Write a shard where it is not there with these videos already; their own files go then."""
        names = [file_name(item, self.arguments.format) for item in items]
        keys = [item.key for item in items]
        is_written = manifest.has_file(shard) and manifest.files[shard].get("videos") == keys
        if not is_written or any(map(manifest.has_file, names)):
            for item, name in zip(items, names, strict=True):
                if not manifest.has_file(name):  # it is in the shard as it was, which another video has left or joined
                    encoder.place(item, name, encoder.encode(item))
            part = manifest.work / "shard.part"
            write_shard(part, self.arguments.format, items, [self.folder / name for name in names], self.label_names)
            manifest.place(part, shard, videos=keys)
        for name in names:
            manifest.remove(name)

    def _check_fraction(self, num_tried: int, manifest: Manifest, outcome: Outcome) -> None:
        num_bad, allowed = len(outcome.left_out), self.arguments.max_unreadable_fraction
        if num_tried >= _MIN_TRIED and num_bad > allowed * num_tried:
            self._write_report(manifest, outcome)
            raise RunStopped(
                f"{num_bad} of {num_tried} videos are bad, more than `max_unreadable_fraction` {allowed:.2%} allows; "
                f"{self.folder / REPORT_NAME} names them. Repair the files or raise the fraction; the same command "
                "goes on."
            )

    def _count(self, verdict: Verdict, manifest: Manifest, outcome: Outcome) -> None:
        outcome.num_new += verdict.is_new and verdict.is_made
        if verdict.fault is not None:
            outcome.faulty.append(verdict)
        if verdict.is_made:
            outcome.made.append(verdict.item)
            known = manifest.videos[verdict.item.key]
            outcome.bytes_before += known["bytes_before"]
            outcome.bytes_after += known["num_bytes"]

    def _write_lists(self, manifest: Manifest, outcome: Outcome) -> None:
        if not outcome.made:
            self._write_report(manifest, outcome)
            raise RunStopped(f"No video could be prepared: {self.folder / REPORT_NAME} says why.")
        if self.label_names is not None:
            manifest.place_text("".join(f"{name}\n" for name in self.label_names), LABEL_NAMES)
        for split in self.splits:
            of_split = [item for item in outcome.made if item.split == split]
            if not of_split:
                continue
            name = self.arguments.format
            if not is_sharded(name):
                counts = [manifest.videos[item.key]["num_frames"] for item in of_split]
                manifest.place_text(metadata_text(of_split, counts, name), metadata_name(split, name))
            outcome.loading.append(loading_arguments(self.folder, split, name, self.label_names))

    def _write_report(self, manifest: Manifest, outcome: Outcome) -> None:
        lines = [csv_line(["split", "video_id", "path", "in_output", "reason"])]
        for verdict in outcome.faulty:
            item, video = verdict.item, verdict.item.video
            path = video.get("path") or video.get("archive") or video.get("frame_folder") or ""
            is_kept = "yes" if verdict.is_made else "no"
            lines.append(csv_line([item.split or "", item.video_id, path, is_kept, verdict.fault]))
        manifest.place_text("".join(lines), REPORT_NAME)

    def measure_speed(self, outcome: Outcome) -> tuple[float, float]:
        """Return clips that a core loads a second, of the originals and of what was made of them.

        A sample is read, evenly spaced over the data; the first videos of a split where they lie in shards.
        """
        made, count = outcome.made, self.arguments.speed_sample
        if is_sharded(self.arguments.format) or self.arguments.format == "frames":
            sample = [item for item in made if item.split == made[0].split][:count]
        else:
            sample = made[:: max(1, len(made) // count)][:count]
        after = read_back(self.folder, self.arguments.format, sample, outcome.loading[0])
        return (
            clips_per_second([(item, item.video) for item in sample]),
            clips_per_second(list(zip(sample, after, strict=True))),
        )

    def _check_loading(self, outcome: Outcome) -> None:
        """Load the output, and compare what is to be the same: labels, ids, order.

        Raises:
            RuntimeError: it differs, which is a fault of this package.
        """
        is_cut = self.arguments.format == "frames"  # folders name themselves
        expected = [
            (frame_folder(item.video_id, item.name) if is_cut else item.video_id, item.label) for item in outcome.made
        ]
        found: list[tuple[str, Any]] = []
        for arguments in outcome.loading:
            if self.arguments.format == "parquet":  # loading it would copy all videos to the cache of `datasets`
                found += read_parquet_labels(self.folder, arguments.get("split"))
            else:
                rows = load_video_dataset(**arguments)
                found += zip(rows["video_id"][:], rows["label"][:], strict=True)
        if found != expected:
            differing = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
            raise RuntimeError(
                f"{self.folder} does not load as the originals do: {len(found)} videos for {len(expected)}, the first "
                f"difference is {differing}."
            )


def describe_loading(arguments: Sequence[dict[str, Any]]) -> list[str]:
    """Return the options of the commands that read each split of a prepared folder."""
    options = {
        "name_or_path": "data", "split": "split", "label_names": "class_names", "layout": "layout",
        "root": "data_root",
    }  # fmt: skip
    return [
        " ".join(f"--{options[name]} {shlex.quote(value)}" for name, value in of_split.items())
        for of_split in arguments
    ]


__all__ = ["REPORT_NAME", "Outcome", "Preparation", "describe_loading"]
