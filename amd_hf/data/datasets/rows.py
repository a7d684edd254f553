"""What every reader of files returns, how it becomes a dataset, and what counts as a video file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa

from ..video.source import IMAGE_SUFFIXES


VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".ts", ".mts", ".m2ts", ".m2t", ".gif", ".ogv", ".ogm", ".asf", ".3g2", ".3gpp", ".mxf", ".vob", ".f4v", ".qt",
    ".divx", ".xvid", ".mpe", ".mpv", ".m1v", ".m2v", ".mp2v", ".m2p", ".mk3d", ".dv", ".mjpg", ".mjpeg", ".rm",
    ".rmvb", ".tod", ".trp", ".wtv", ".nut", ".y4m", ".ivf", ".h264", ".264", ".avc", ".h265", ".265", ".hevc",
)  # fmt: skip

MEDIA_SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
"""The files of each kind of data set, by `media`."""

FRAME_FOLDER_FEATURES = {
    "frame_folder": datasets.Value("string"),
    "num_frames": datasets.Value("int64"),
    "frame_pattern": datasets.Value("string"),
}
"""A video as a folder of image files, numbered from 1: `VideoSource.parse` names the files ."""


@dataclass(frozen=True)
class VideoRows:
    """The rows of a data set as columns.

    Args:
        paths (sequence of `str`): absolute paths of the videos, or of their folders of frames.
        video_ids (sequence of `str`): unique names.
        labels (sequence of `int`, *optional*): None where no video has a label.
        label_names (sequence of `str`, *optional*): name of each label, in their order.
        num_frames (sequence of `int`, *optional*): image files of each folder; None where the paths are video files.
        frame_pattern (`str`, *optional*): file name of a frame, such as `img_%05d.jpg`.
        columns (mapping, *optional*): further columns by name, as Arrow arrays.
    """

    paths: Sequence[str]
    video_ids: Sequence[str]
    labels: Sequence[int] | None = None
    label_names: Sequence[str] | None = None
    num_frames: Sequence[int] | None = None
    frame_pattern: str | None = None
    columns: Mapping[str, pa.Array] | None = None

    def to_dataset(self) -> datasets.Dataset:
        """Make a dataset of `video`, `label` (a `ClassLabel` where it has names), `video_id` and `columns`."""
        video_feature: Any = datasets.Video(decode=False)
        num_rows = len(self.paths)
        fields: dict[str, Any] = {"bytes": pa.nulls(num_rows, pa.binary()), "path": pa.array(self.paths, pa.string())}
        if self.num_frames is not None:
            video_feature = FRAME_FOLDER_FEATURES
            fields = {
                "frame_folder": fields["path"],
                "num_frames": pa.array(self.num_frames, pa.int64()),
                "frame_pattern": pa.array([self.frame_pattern] * num_rows, pa.string()),
            }
        labels = pa.nulls(num_rows, pa.int64()) if self.labels is None else pa.array(self.labels, pa.int64())
        features = row_features(video_feature, self.label_names)
        columns = self.columns or {}
        features |= datasets.Features.from_arrow_schema(pa.schema([(n, array.type) for n, array in columns.items()]))
        # Not `Dataset.from_dict`: that would look for each video on the disk.
        videos = pa.StructArray.from_arrays(list(fields.values()), list(fields))
        arrays = [videos, labels, pa.array(self.video_ids, pa.string()), *columns.values()]
        table = pa.table(arrays, names=list(features))
        table = table.cast(features.arrow_schema)
        return datasets.Dataset(datasets.table.InMemoryTable(table), info=datasets.DatasetInfo(features=features))


def row_features(video_feature: Any, label_names: Sequence[str] | None) -> datasets.Features:
    """The features of rows in the form of DESIGN section 5."""
    label = datasets.Value("int64") if label_names is None else datasets.ClassLabel(names=list(label_names))
    return datasets.Features({"video": video_feature, "label": label, "video_id": datasets.Value("string")})


def is_video_file(name: str, media: str = "video") -> bool:
    """Tell by its name whether a file is a video, or an image. Hidden files (`._clip.mp4`, of macOS) are neither."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES[media]
