"""The memory of a data loader's worker does not grow with the videos that it reads. The long form: `make stress`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.data.loaders import build_eval_loader
from amd_hf.data.video import decoding_process
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.videos import truncate, write_video


_SIZE_OF_PAGE = 4096
_MAX_GROWTH = 1.05


class _Measuring:
    """A collator that tells the resident memory of its process and of the one that decodes for it."""

    def __init__(self, collator: ClassificationCollator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        pids = [os.getpid(), *(process._process.pid for process in decoding_process._POOL._idle)]
        return {"memory": sum(_resident_bytes(pid) for pid in pids), "num_unreadable": len(batch["unreadable"])}


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _SIZE_OF_PAGE


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten videos of several sizes, one of them cut off."""
    folder = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(9):
        height, width = 12 + 2 * (number % 3), 16 + 2 * (number % 2)
        frames = rng.integers(0, 256, (32, height, width, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        suffix, codec = ((".mp4", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mpeg4"))[number % 3]
        paths.append(write_video(folder / f"{number}{suffix}", frames=frames, codec=codec))
    return [*paths, truncate(write_video(folder / "cut.mp4", 32, moov_first=True), 0.7)]


def _check_growth(paths: list[Path], num_videos: int, settled: int, decoder: str, time_limit: float | None) -> None:
    """Read `num_videos` by one worker; from number `settled` on its memory must not grow by 5%."""
    rows = [
        {"video": str(paths[number % len(paths)]), "label": 0, "video_id": str(number)} for number in range(num_videos)
    ]
    loader = ClipLoader(num_frames=8, sampling_rate=2, image_size=64, decoder=decoder, decode_time_limit=time_limit)
    collator = _Measuring(ClassificationCollator(loader, training=False))
    batches = list(build_eval_loader(rows, 10, collator, num_workers=1))
    memory = [batch["memory"] for batch in batches]
    assert all(batch["num_unreadable"] == 1 for batch in batches)
    first, last = memory[settled // 10 - 1], max(memory[-3:])
    print(f"{decoder}, {time_limit=}: {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB")  # noqa: T201
    assert last < _MAX_GROWTH * first


@pytest.mark.parametrize(("decoder", "time_limit"), [("decord", None), ("torchcodec", None), ("pyav", 60.0)])
def test_memory_is_flat_over_some_hundred_videos(paths: list[Path], decoder: str, time_limit: float | None) -> None:
    require_decoder(decoder)
    _check_growth(paths, 300, 60, decoder, time_limit)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("time_limit", [None, 60.0], ids=["direct", "supervised"])
@pytest.mark.parametrize("decoder", DECODER_NAMES)
def test_memory_is_flat_from_the_200th_to_the_2000th_video(
    paths: list[Path], decoder: str, time_limit: float | None
) -> None:
    require_decoder(decoder)
    _check_growth(paths, 2000, 200, decoder, time_limit)
