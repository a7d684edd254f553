"""How a data set is prepared: the options of `amd-hf prepare` beside those of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


FORMATS = ("class_folders", "list", "webdataset", "parquet", "frames")
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass
class PreparingArguments:
    """What to make of each video, and where to write it."""

    split: list[str] | None = field(
        default=None, metadata={"help": "Splits of `data` to prepare, such as `train validation`."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "New folder for what is made, or the one of a run that was killed."}
    )
    format: str = field(
        default="class_folders",
        metadata={
            "help": "Class folders, a list (jsonl), tar shards, Parquet, or JPEG images.",
            "choices": FORMATS,
        },
    )
    short_side: int | None = field(
        default=320,
        metadata={"help": "Short side of the output in pixels; nothing is enlarged. null keeps the size."},
    )
    key_frame_interval: int = field(
        default=32, metadata={"help": "Frames from one key frame to the next; fewer read faster and take more bytes."}
    )
    crf: int = field(default=20, metadata={"help": "Quality of x264, 0 to 51; lower is better and larger."})
    preset: str = field(
        default="medium", metadata={"help": "Speed of x264: slower ones make smaller files.", "choices": _PRESETS}
    )
    jpeg_quality: int = field(default=90, metadata={"help": "Quality of the images of `frames`, 1 to 95."})
    fps: float | None = field(
        default=None, metadata={"help": "Constant frame rate; by default frames keep their timestamps."}
    )
    deinterlace: bool = field(default=False, metadata={"help": "Deinterlace interlaced frames."})
    trim_start: float | None = field(
        default=None, metadata={"help": "Second at which to begin each video (AVA: 900)."}
    )
    trim_end: float | None = field(default=None, metadata={"help": "Second at which to end each video (AVA: 1800)."})
    trim_by_times: bool = field(
        default=False,
        metadata={
            "help": "Cut clips out of longer videos by the columns `time_start` and `time_end` of a csv (Kinetics, "
            "path,label,time_start,time_end) or of metadata."
        },
    )
    keep_damaged: bool = field(
        default=False, metadata={"help": "Keep videos that can be read although their files are damaged."}
    )
    max_unreadable_fraction: float = field(
        default=0.1,
        metadata={
            # Training stops at 1%. Data sets from YouTube lack more than that before they are prepared.
            "help": "Stop if more than this fraction of the videos tried (at least 100) is bad."
        },
    )
    time_limit: float = field(
        default=1800.0, metadata={"help": "Seconds that a video may take; one that takes longer is bad."}
    )
    num_workers: int | None = field(
        default=None, metadata={"help": "Videos to encode at the same time; by default one per processor."}
    )
    videos_per_shard: int = field(default=1000, metadata={"help": "Videos in a tar or Parquet file."})
    speed_sample: int = field(
        default=16, metadata={"help": "Videos to load before and after, to compare the speed; 0 for none."}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Id of a data set on the Hub, `owner/name`, to publish what was made."}
    )
    private: bool = field(default=False, metadata={"help": "Make a new data set on the Hub private."})
    dry_run: bool = field(default=False, metadata={"help": "Say what would be made, and make nothing."})

    def __post_init__(self) -> None:
        least = {
            "short_side": 2, "key_frame_interval": 1, "crf": 0, "num_workers": 1, "trim_start": 0,
            "videos_per_shard": 1, "speed_sample": 0, "jpeg_quality": 1,
        }  # fmt: skip
        at_least = [(name, getattr(self, name), smallest) for name, smallest in least.items()]
        for name, value, smallest in at_least:
            if value is not None and value < smallest:
                raise ValueError(f"`{name}` must be at least {smallest}, not {value}.")
        positive = {name: getattr(self, name) for name in ("fps", "time_limit", "trim_end")}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0, not {value}.")
        for name, largest in (("crf", 51), ("jpeg_quality", 95)):
            if getattr(self, name) > largest:
                raise ValueError(f"`{name}` must be at most {largest}, not {getattr(self, name)}.")
        if self.trim_end is not None and self.trim_end <= (self.trim_start or 0):
            raise ValueError(f"`trim_end` must be above `trim_start`, not {self.trim_end}.")
        if self.trim_by_times and (self.trim_start is not None or self.trim_end is not None):
            raise ValueError("`trim_by_times` takes the seconds from the data: leave `trim_start` and `trim_end` out.")
        if not 0 <= self.max_unreadable_fraction <= 1:
            raise ValueError(f"`max_unreadable_fraction` must be between 0 and 1, got {self.max_unreadable_fraction}.")
        self._check_words()

    def _check_words(self) -> None:
        for name, choices in (("format", FORMATS), ("preset", _PRESETS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {list(choices)}, not {getattr(self, name)!r}.")
        if self.split is not None and len(set(self.split)) < len(self.split):
            raise ValueError(f"`split` names a split twice: {' '.join(self.split)}.")
        if self.format in ("webdataset", "parquet") and any("/" in split for split in self.split or ()):
            raise ValueError(
                f"`split` must be plain names for shards, which are named so: {' '.join(self.split or ())}."
            )

    def encoding(self) -> dict[str, Any]:
        """Return the fields of [`~preparing.encoding.EncodingSettings`]."""
        names = ("short_side", "crf", "key_frame_interval", "preset", "fps", "deinterlace")
        jpeg_quality = self.jpeg_quality if self.format == "frames" else None
        return {**{name: getattr(self, name) for name in names}, "jpeg_quality": jpeg_quality}


__all__ = ["FORMATS", "PreparingArguments"]
