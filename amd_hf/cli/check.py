"""Check the videos of a data set: decode them all and name those that are damaged, too short or no videos at all.

amd-hf check --data videos/ --split train --output_dir checked/

With `--output_dir` the outcome is written there, as report.json and as a list of the good videos; the last line then
says how to give that list to other programs (`--data checked/clean.csv --data_root ...`). Else nothing is written.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.checking import FAULTS, OK, CheckOptions, CleanList, VideoCheck, check_videos, write_clean_list
from ..options.commands import parse_command
from ..options.shared import OverwriteOptions
from ..outputs.files import OutputFiles


_OUTPUT_FILES = ("report.json", "clean.csv", "clean.txt", "label_names.txt")


@dataclass
class CheckVideosOptions(OverwriteOptions):
    """What to look for, and where to write the outcome."""

    split: str | None = field(default=None, metadata={"help": "Split of `data` to check."})
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for report.json, clean.csv (clean.txt for frames) and label names; by default nothing is "
            "written."
        },
    )
    min_frames: int = field(
        default=16, metadata={"help": "Least number of frames; a video with fewer counts as too short."}
    )
    decode_all: bool = field(
        default=True,
        metadata={
            "help": "Decode every frame, which also finds damage that decoders hide. False decodes three frames: it "
            "is faster but finds little more than files that cannot be opened."
        },
    )
    keep_damaged: bool = field(
        default=False, metadata={"help": "Keep damaged videos in the clean list if they can be read."}
    )
    time_limit: float = field(
        default=300.0, metadata={"help": "Seconds per video; one that takes longer counts as unreadable."}
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "Videos to check at the same time; by default one per processor."}
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Decode all videos of a data set; return the report."""
    data, options, _ = parse_command("check", argv)
    if data.data is None:
        raise ValueError("Say what to check: `--data FOLDER_OR_FILE`.")
    outputs = None
    if options.output_dir is not None:
        files = [Path(options.output_dir) / name for name in _OUTPUT_FILES]
        outputs = OutputFiles(files, "amd-hf check", options.overwrite, folder=options.output_dir)
    rows = data.load(options.split)
    looking_for = CheckOptions(
        min_frames=options.min_frames, decode_all=options.decode_all, time_limit=options.time_limit
    )
    started = time.monotonic()
    good: list[Mapping[str, Any]] = []
    bad: list[VideoCheck] = []
    counts: Counter[str] = Counter()
    progress = tqdm(
        check_videos(rows, looking_for, options.num_threads),
        total=len(rows) if hasattr(rows, "__len__") else None,
        desc="check",
        unit="video",
    )
    for check in progress:
        counts[check.status] += 1
        if check.status != OK:
            bad.append(check)
            progress.set_postfix(bad=len(bad))
        # A damaged video that still decodes may be kept on request; unreadable and short ones never are.
        is_usable = check.status == "damaged" and (check.num_frames or 0) >= options.min_frames
        if check.status == OK or (options.keep_damaged and is_usable):
            # Drop the bytes of a video inside a shard: those of a whole data set would fill the memory.
            has_bytes = check.row["video"].get("bytes") is not None
            good.append({**check.row, "video": {**check.row["video"], **({"bytes": b""} if has_bytes else {})}})
    report = {
        "data": data.data,
        "split": options.split,
        "num_videos": counts.total(),
        "num_clean": len(good),
        "counts": {status: counts[status] for status in (OK, *FAULTS)},
        "decode_all": options.decode_all,
        "seconds": round(time.monotonic() - started, 1),
        "bad": [_entry(check) for check in bad],
    }
    # Grouped by fault: the videos arrive in the order in which they are done.
    for status in FAULTS:
        for check in bad:
            if check.status == status:
                print(f"{status}: {check.row['video_id']}: {check.reason}")
    print(", ".join(f"{counts[status]:,} {status}" for status in (OK, *FAULTS)))
    if outputs is None:
        print("nothing was written: `--output_dir FOLDER` keeps this report and a list of the good videos")
    else:
        write_outcome(outputs, Path(options.output_dir), report, good, rows)
    return report


def write_outcome(
    outputs: OutputFiles, folder: Path, report: Mapping[str, Any], good: list[Mapping[str, Any]], rows: Any
) -> None:
    """Write the report and the list of the good videos, and say where they are."""
    label_names = getattr((rows.features or {}).get("label"), "names", None)
    with outputs:
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        try:
            clean: CleanList | str = write_clean_list(good, folder, label_names)
        except ValueError as error:
            clean = str(error)
    print(f"report: {folder / 'report.json'}")
    if isinstance(clean, str):
        print(clean)
    else:
        root = f" --data_root {clean.root}" if clean.root is not None else ""
        names = f" --class_names {clean.label_names}" if clean.label_names is not None else ""
        print(f"clean list: --data {clean.file}{root}{names}")


def _entry(check: VideoCheck) -> dict[str, Any]:
    video = check.row["video"]
    return {
        "video_id": check.row["video_id"],
        "path": video.get("path") or video.get("frame_folder") or video.get("archive"),
        "status": check.status,
        "reason": check.reason,
        "num_frames": check.num_frames,
    }


if __name__ == "__main__":
    from . import start

    start("check")
