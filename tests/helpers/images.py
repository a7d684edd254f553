"""Small image data sets in the layouts of ImageNet-1K: class folders, Parquet of the Hub, WebDataset shards.

Every image is a colour of its own, so that its pixels tell which one it is; JPEG and PNG, of several sizes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from amd_hf import AMDConfig
from tests.helpers.miniatures import write_tar
from tests.helpers.models import tiny_config


NAMES = ["goldfish", "great white shark", "hen"]
SPLITS = {"train": 9, "validation": 6}
_SIZES = ((40, 56), (48, 36), (64, 64))


def image_config(**changes: object) -> AMDConfig:
    """One frame of 16 x 16 in patches of 4: 16 tokens, 12 hidden from the student and 8 from the teacher."""
    options: dict[str, object] = {
        "image_size": 16,
        "patch_size": 4,
        "num_frames": 1,
        "tubelet_size": 1,
        "position_embedding": "sincos_2d",
        "use_class_token": True,
        "mask_type": "random",
        "student_mask_ratio": 0.75,
        "teacher_mask_ratio": 0.5,
        "reconstruction_target": "mae",
        "num_labels": 3,
    }
    return tiny_config(**{**options, **changes})


def picture(number: int) -> np.ndarray:
    """Image `number`: uint8 (H, W, 3), of one colour with a darker left half."""
    height, width = _SIZES[number % len(_SIZES)]
    pixels = np.full((height, width, 3), (20 * number % 250, 250 - 20 * number % 250, 120), dtype=np.uint8)
    pixels[:, : width // 2] //= 2
    return pixels


def encoded(number: int) -> tuple[str, bytes]:
    """Suffix and file of image `number`; every third is a PNG."""
    buffer = io.BytesIO()
    if number % 3 == 2:
        Image.fromarray(picture(number)).save(buffer, "PNG")
        return ".png", buffer.getvalue()
    Image.fromarray(picture(number)).save(buffer, "JPEG", quality=98)
    return ".JPEG", buffer.getvalue()


def _numbers(split: str) -> range:
    start = 0 if split == "train" else SPLITS["train"]
    return range(start, start + SPLITS[split])


def class_folders(folder: Path) -> Path:
    """`<split>/<class>/<number>.JPEG`; image i is of class i % 3."""
    for split in SPLITS:
        for number in _numbers(split):
            suffix, data = encoded(number)
            path = folder / split / NAMES[number % 3] / f"n{number:05d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def parquet(folder: Path) -> Path:
    """`data/<split>-0000k-of-0000n.parquet`: the columns `image` and `label` of imagenet-1k."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    (folder / "data").mkdir(parents=True)
    for split in SPLITS:
        rows = [
            {"image": {"path": f"n{number:05d}.JPEG", "bytes": encoded(number)[1]}, "label": number % 3}
            for number in _numbers(split)
        ]
        for shard in range(2):
            table = datasets.Dataset.from_list(rows[shard::2], features=features)
            table.to_parquet(str(folder / "data" / f"{split}-{shard:05d}-of-00002.parquet"), batch_size=2)
    return folder


def webdataset(folder: Path) -> Path:
    """`<split>-0000k.tar` of `<number>.jpg` or `.png` and `.cls`."""
    for split in SPLITS:
        for shard in range(2):
            members = []
            for number in list(_numbers(split))[shard::2]:
                suffix, data = encoded(number)
                suffix = ".jpg" if suffix == ".JPEG" else suffix
                members += [(f"{number:05d}{suffix}", data), (f"{number:05d}.cls", str(number % 3).encode())]
            write_tar(folder / f"{split}-{shard:05d}.tar", members)
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "class_folders": class_folders,
    "parquet": parquet,
    "webdataset": webdataset,
}
