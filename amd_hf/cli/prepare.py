"""Prepare a data set for training: every video once, as a small file that decodes fast.

amd-hf prepare --data k400 --split train validation --output_dir k400_320
amd-hf prepare --data videos/ --output_dir prepared/ --format parquet

Originals are only read. A run that was killed goes on by the same command; bad videos are named in report.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from ..hub.publishing import check_data_set, upload_data_set
from ..options.commands import parse_command
from ..preparing.data_set import REPORT_NAME, Outcome, Preparation, describe_loading
from ..preparing.running import Verdict


def main(argv: Sequence[str] | None = None) -> Outcome | None:
    """Prepare a data set; return what became of it, nothing after `--dry_run`."""
    data, arguments, _ = parse_command("prepare", argv)
    preparation = Preparation(data, arguments)
    if arguments.dry_run:
        for split, items in preparation.items.items():
            print(f"{split or 'all'}: {len(items):,} videos, from {items[0].video_id} to {items[-1].name}")
        print("nothing was made: leave `--dry_run` out")
        return None
    if arguments.push_to_hub is not None:
        ids = (item.video_id for items in preparation.items.values() for item in items)
        check_data_set(arguments.push_to_hub, ids)
    outcome = preparation.run(_show_progress)
    folder = Path(arguments.output_dir)
    faults = Counter("damaged, kept" if verdict.is_made else "left out" for verdict in outcome.faulty)
    print(", ".join([f"{len(outcome.made):,} videos prepared ({outcome.num_new:,} now)", *_counts(faults)]))
    if outcome.faulty:
        print(f"report: {folder / REPORT_NAME}")
    print(f"bytes: {_size(outcome.bytes_before)} before, {_size(outcome.bytes_after)} after")
    if arguments.speed_sample:
        before, after = preparation.measure_speed(outcome)
        print(f"loading on one core: {before:.1f} clips/s before, {after:.1f} after ({after / before:.1f} times)")
    for options in describe_loading(outcome.loading):
        print(f"to load them: {options}")
    if arguments.push_to_hub is not None:
        address = upload_data_set(folder, outcome.files, arguments.push_to_hub, private=arguments.private or None)
        print(f"Published: {address}")
    return outcome


def _show_progress(verdicts: Iterator[Verdict], total: int) -> Iterator[Verdict]:
    progress = tqdm(verdicts, total=total, desc="prepare", unit="video")
    num_left_out = 0
    for verdict in progress:
        if not verdict.is_made:
            num_left_out += 1
            progress.set_postfix(left_out=num_left_out)
        yield verdict


def _counts(faults: Counter[str]) -> list[str]:
    return [f"{count:,} {name}" for name, count in sorted(faults.items())]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"


if __name__ == "__main__":
    from . import start

    start("prepare")
