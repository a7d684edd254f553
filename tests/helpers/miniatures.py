"""Miniature copies of the video data sets in their true formats, with real encoded files.

Every video is one of `numbered_frames`, so long that its length tells which one it is: sample i of a copy has
`NUM_FRAMES + i` frames. `expected` says what a reader must find, in the order of the annotation file.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from tests.helpers.videos import numbered_frames, write_video


NUM_FRAMES = 4
HEIGHT, WIDTH = 48, 64
CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}


@dataclass(frozen=True)
class Sample:
    """A video as a reader must report it."""

    video_id: str
    label: str | None
    num_frames: int


@dataclass
class Miniature:
    """A copy on disk: its folder, the names of its labels in order, and its samples by split."""

    folder: Path
    label_names: list[str]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    _count: int = 0

    def add(self, split: str, path: Path, video_id: str, label: str | None) -> Sample:
        """Encode the next video at `path`."""
        sample = Sample(video_id, label, NUM_FRAMES + self._count)
        self._count += 1
        self.samples.setdefault(split, []).append(sample)
        encode(path, sample.num_frames)
        return sample

    def add_frames(self, split: str, folder: Path, video_id: str, label: str) -> Sample:
        """Write the next video as image files `img_00001.jpg`, ..."""
        sample = Sample(video_id, label, NUM_FRAMES + self._count)
        self._count += 1
        self.samples.setdefault(split, []).append(sample)
        folder.mkdir(parents=True)
        for number, frame in enumerate(numbered_frames(sample.num_frames, HEIGHT, WIDTH), start=1):
            Image.fromarray(frame).save(folder / f"img_{number:05d}.jpg", quality=95)
        return sample


def encode(path: Path, num_frames: int) -> Path:
    """A video of `num_frames` numbered frames in the codec that the suffix of `path` stands for."""
    import av

    if path.suffix == ".mp4":
        return write_video(path, num_frames, HEIGHT, WIDTH)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"deadline": "realtime", "cpu-used": "8", "crf": "10"} if path.suffix == ".webm" else {"qscale": "2"}
        stream = container.add_stream(CODECS[path.suffix], rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.thread_count = 1
        if path.suffix == ".avi":
            stream.codec_context.codec_tag = "XVID"
        for frame in numbered_frames(num_frames, HEIGHT, WIDTH):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


# ---------------------------------------------------------------------------------------------------------------------
# The data sets of the paper
# ---------------------------------------------------------------------------------------------------------------------

_KINETICS_LABELS = ["abseiling", "air drumming", "zumba"]


def kinetics(folder: Path, class_folders: bool = False) -> Miniature:
    """Kinetics-400 as the CVDF scripts leave it: `annotations/*.csv`, `train/`, `val/`, `test/` flat.

    With `class_folders` the videos lie in folders named after the classes, `_` for a space.
    """
    copy = Miniature(folder, _KINETICS_LABELS)
    (folder / "annotations").mkdir(parents=True)
    parts = {"train": ("train", "train", 4), "validation": ("val", "validate", 2), "test": ("test", "test", 2)}
    for split, (name, word, num_videos) in parts.items():
        lines = []
        for number in range(num_videos):
            label = _KINETICS_LABELS[(2 * number) % 3] if split == "train" else _KINETICS_LABELS[number]
            youtube_id, start = f"-{name}_Id{number}", 7 * number
            stem = f"{youtube_id}_{start:06d}_{start + 10:06d}"
            place = f"{name}/{label.replace(' ', '_')}/{stem}.mp4" if class_folders else f"{name}/{stem}.mp4"
            copy.add(split, folder / place, place, label)
            lines.append([label, youtube_id, start, start + 10, word])
        with open(folder / "annotations" / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["label", "youtube_id", "time_start", "time_end", "split"], *lines])
    return copy


_SSV2_TEMPLATES = {  # name in labels.json: the template of an entry
    "Approaching something with your camera": "Approaching [something] with your camera",
    "Holding something next to something": "Holding [something] next to [something]",
    "Pushing something from left to right": "Pushing [something] from left to right",
}
_SSV2_LABELS = [  # as in the official file, the numbers are not in the order of the names
    "Pushing something from left to right",
    "Approaching something with your camera",
    "Holding something next to something",
]


def something_something(folder: Path, newer_release: bool = False) -> Miniature:
    """Something-Something V2: official JSON files and `.webm` (VP9) in `20bn-something-something-v2/`."""
    copy = Miniature(folder, _SSV2_LABELS)
    place = folder / "labels" if newer_release else folder
    prefix = "" if newer_release else "something-something-v2-"
    place.mkdir(parents=True, exist_ok=True)
    ids = iter(range(78687, 78700))
    for split, num_videos in (("train", 4), ("validation", 2), ("test", 2)):
        records: list[dict[str, Any]] = []
        for number in range(num_videos):
            label, name = _SSV2_LABELS[(number + 1) % 3], f"{next(ids)}"
            copy.add(
                split,
                folder / "20bn-something-something-v2" / f"{name}.webm",
                f"{name}.webm",
                label if split != "test" else None,
            )
            record: dict[str, Any] = {"id": name}
            if split != "test":
                record |= {"label": "what a person wrote", "template": _SSV2_TEMPLATES[label], "placeholders": ["x"]}
            records.append(record)
        (place / f"{prefix}{split}.json").write_text(json.dumps(records))
    numbers = {name: str(_SSV2_LABELS.index(name)) for name in sorted(_SSV2_LABELS)}
    (place / f"{prefix}labels.json").write_text(json.dumps(numbers))
    return copy


def something_something_frames(folder: Path) -> Miniature:
    """Something-Something V2 as raw frames: `<split>.txt` of `frame_dir total_frames label` and jpg files."""
    copy = Miniature(folder, _SSV2_LABELS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "label_names.txt").write_text("\n".join(_SSV2_LABELS) + "\n")
    for split, num_videos in (("train", 3), ("validation", 2), ("test", 1)):
        lines = []
        for number in range(num_videos):
            name, label = f"frames/{split}{number}", _SSV2_LABELS[2 - number]
            sample = copy.add_frames(split, folder / name, name, label)
            lines.append(f"{name} {sample.num_frames} {_SSV2_LABELS.index(label)}")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return copy


_UCF_CLASSES = ["ApplyEyeMakeup", "ApplyLipstick", "Archery"]


def ucf101(folder: Path) -> Miniature:
    """UCF101: `ucfTrainTestlist/` and `UCF-101/<class>/*.avi`; splits of `samples`: `train01`, ..., `test03`."""
    copy = Miniature(folder, _UCF_CLASSES)
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(_UCF_CLASSES, start=1)))
    clips = {}
    for name in _UCF_CLASSES:
        for group in (1, 2, 3):
            path = f"{name}/v_{name}_g{group:02d}_c01.avi"
            clips[path] = copy.add("all", folder / "UCF-101" / path, path, name)
    copy.samples = {}
    for fold in (1, 2, 3):  # the group of the fold's number is its test set
        test = [path for path in clips if f"_g{fold:02d}_" in path]
        train = [path for path in clips if path not in test]
        copy.samples[f"train0{fold}"] = [clips[path] for path in train]
        copy.samples[f"test0{fold}"] = [clips[path] for path in test]
        numbers = {path: _UCF_CLASSES.index(path.partition("/")[0]) + 1 for path in clips}
        (lists / f"trainlist0{fold}.txt").write_text("".join(f"{path} {numbers[path]}\r\n" for path in train))
        (lists / f"testlist0{fold}.txt").write_text("".join(f"{path}\r\n" for path in test))
    return copy


_HMDB_CLASSES = ["brush_hair", "cartwheel"]


def hmdb51(folder: Path) -> Miniature:
    """HMDB51: `testTrainMulti_7030_splits/` and `hmdb51_org/<class>/*.avi`; samples as in `ucf101`."""
    copy = Miniature(folder, _HMDB_CLASSES)
    lists = folder / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for name in _HMDB_CLASSES:
        clips = [f"#{i}_{name}! (a)_u_nm_np1_ba_med_{i}.avi" for i in range(4)]
        samples = [copy.add("all", folder / "hmdb51_org" / name / clip, f"{name}/{clip}", name) for clip in clips]
        for fold in (1, 2, 3):
            marks = [2 if i == fold - 1 else 0 if i == 3 and fold == 1 else 1 for i in range(4)]
            lines = [f"{clip} {mark} \n" for clip, mark in zip(clips, marks, strict=True)]
            (lists / f"{name}_test_split{fold}.txt").write_text("".join(lines))
            for split, mark in (("train", 1), ("test", 2)):
                chosen = [sample for sample, given in zip(samples, marks, strict=True) if given == mark]
                copy.samples.setdefault(f"{split}0{fold}", []).extend(chosen)
    del copy.samples["all"]
    return copy


# ---------------------------------------------------------------------------------------------------------------------
# One's own data
# ---------------------------------------------------------------------------------------------------------------------

OWN_LABELS = ["left", "right"]


def class_folders(folder: Path) -> Miniature:
    """`<split>/<class>/x.<suffix>`, of all three containers."""
    copy = Miniature(folder, OWN_LABELS)
    for split in ("train", "validation", "test"):
        for label in OWN_LABELS:
            for number, suffix in enumerate(CODECS):
                name = f"{split}/{label}/{number}{suffix}"
                copy.add(split, folder / name, name, label)
    return copy


def tables(folder: Path) -> Miniature:
    """Videos in `videos/`, and for each split the same list as `.csv`, `.jsonl`, `.txt` (numbers) and unlabelled."""
    copy = Miniature(folder, OWN_LABELS)
    for split in ("train", "validation", "test"):
        for number, suffix in enumerate(CODECS):
            name = f"videos/{split}, {number}{suffix}"
            copy.add(split, folder / name, name, OWN_LABELS[number % 2])
        samples = copy.samples[split]
        with open(folder / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["path", "label"], *([s.video_id, s.label] for s in samples)])
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps({"path": s.video_id, "label": s.label}) + "\n" for s in samples)
        )
        numbers = [OWN_LABELS.index(str(s.label)) for s in samples]
        pairs = zip(samples, numbers, strict=True)
        (folder / f"{split}.txt").write_text("".join(f"{s.video_id} {number}\n" for s, number in pairs))
        (folder / f"{split}_unlabelled.txt").write_text("".join(f"{s.video_id}\n" for s in samples))
    (folder / "label_names.txt").write_text("\n".join(OWN_LABELS) + "\n")
    return copy


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def webdataset(folder: Path, label_suffix: str = "cls", shard_sizes: Sequence[int] = (3, 1, 2)) -> Miniature:
    """`<split>-0000k.tar` shards of uneven size; labels as `cls` (number), `json` or `txt` (name)."""
    copy = Miniature(folder, OWN_LABELS)
    suffixes = list(CODECS)
    for split in ("train", "validation", "test"):
        for shard, size in enumerate(shard_sizes if split == "train" else (2,)):
            members = []
            for number in range(size):
                name = f"{split}-{shard:05d}.tar"
                key, label, suffix = f"clips/{number:04d}", OWN_LABELS[(number + shard) % 2], suffixes[number % 3]
                video = folder / "loose" / f"{split}{shard}{number}{suffix}"
                copy.add(split, video, f"{name}/{key}", label)
                contents = {"cls": str(OWN_LABELS.index(label)), "json": json.dumps({"label": label}), "txt": label}
                members += [
                    (f"{key}{suffix}", video.read_bytes()),
                    (f"{key}.{label_suffix}", contents[label_suffix].encode()),
                ]
                video.unlink()
            write_tar(folder / name, members)
    (folder / "loose").rmdir()
    return copy


def parquet(folder: Path, shard_sizes: Sequence[int] = (5, 2), rows_per_group: int = 2) -> Miniature:
    """`data/<split>-0000k-of-0000n.parquet` as `push_to_hub` writes it: a Video column of bytes and a ClassLabel."""
    copy = Miniature(folder, OWN_LABELS)
    suffixes = list(CODECS)
    features = datasets.Features(
        {
            "video": datasets.Video(),
            "label": datasets.ClassLabel(names=OWN_LABELS),
            "video_id": datasets.Value("string"),
        }
    )
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        sizes = shard_sizes if split == "train" else (2,)
        for shard, size in enumerate(sizes):
            rows: dict[str, list[Any]] = {"video": [], "label": [], "video_id": []}
            for number in range(size):
                video = folder / "loose" / f"{number}{suffixes[number % 3]}"
                sample = copy.add(split, video, f"{split}/{shard}/{number}", OWN_LABELS[(number + shard) % 2])
                rows["video"].append({"path": video.name, "bytes": video.read_bytes()})
                rows["label"].append(OWN_LABELS.index(str(sample.label)))
                rows["video_id"].append(sample.video_id)
                video.unlink()
            table = datasets.Dataset.from_dict(rows, features=features)
            file = folder / "data" / f"{split}-{shard:05d}-of-{len(sizes):05d}.parquet"
            table.to_parquet(str(file), batch_size=rows_per_group)
    (folder / "loose").rmdir()
    return copy
