"""Damaged videos through a data loader with workers: no crash, no hang, every loss counted and named.

The thousand of the slow test: `make stress`.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.data.loaders import build_eval_loader
from amd_hf.data.video.decoding import VideoReadError, open_video
from tests.helpers.damage import damaged_videos, huge_frames, huge_length, sound_videos
from tests.helpers.decoders import DECODER_NAMES, require_decoder


_TIME_LIMIT = 20.0


def _load(paths: list[Path], decoder: str, time_limit: float | None) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read all paths by two workers; returns the clips and the reasons of the lost ones, by video_id."""
    rows: list[dict[str, Any]] = [{"video": str(path), "label": 0, "video_id": path.name} for path in paths]
    loader = ClipLoader(num_frames=8, sampling_rate=2, image_size=32, decoder=decoder, decode_time_limit=time_limit)
    found: list[torch.Tensor] = []
    num_tried = 0
    lost: dict[str, str] = {}
    for batch in build_eval_loader(rows, 8, ClassificationCollator(loader, training=False), num_workers=2):
        num_tried += batch["num_tried"]
        found.extend([] if batch["pixel_values"] is None else batch["pixel_values"])
        for video_id, reason in batch["unreadable"]:
            assert video_id not in lost
            lost[video_id] = reason
    assert num_tried == len(paths)
    read = [path.name for path in paths if path.name not in lost]
    return dict(zip(read, found, strict=True)), lost


def _check_losses(paths: list[Path], found: dict[str, torch.Tensor], lost: dict[str, str]) -> None:
    assert all(lost.values())
    sound = next(path.name for path in paths if "moov_first_wrong_extension" in path.name)
    for path in paths:
        if "only_zeros" in path.name:
            assert path.name in lost
        if "wrong_extension" in path.name:  # nothing but the name is wrong
            assert path.name in found, lost[path.name]
        if "moov_first_cut" in path.name and path.name in found:  # behind the clip: its frames are all there
            difference = (found[path.name].int() - found[sound].int()).abs()
            assert difference.max() <= 3, path.name


@pytest.mark.parametrize(
    ("decoder", "time_limit"),
    [("decord", None), ("decord", _TIME_LIMIT), ("torchcodec", None), ("pyav", None), ("pyav", _TIME_LIMIT)],
)
def test_sixty_damaged_videos(tmp_path: Path, decoder: str, time_limit: float | None) -> None:
    require_decoder(decoder)
    paths = damaged_videos(tmp_path, 60)
    _check_losses(paths, *_load(paths, decoder, time_limit))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("decoder", DECODER_NAMES)
def test_thousand_damaged_videos(tmp_path: Path, decoder: str) -> None:
    require_decoder(decoder)
    paths = damaged_videos(tmp_path, 1000, seed=1)
    started = time.monotonic()
    found, lost = _load(paths, decoder, _TIME_LIMIT)
    seconds = time.monotonic() - started
    _check_losses(paths, found, lost)
    num_slow = sum("time_limit" in reason for reason in lost.values())
    num_crashed = sum("crashed" in reason for reason in lost.values())
    print(f"{decoder}: {len(found)} clips, {len(lost)} lost in {seconds:.0f} s, {num_crashed=}, {num_slow=}")  # noqa: T201
    assert seconds < 300 + num_slow * _TIME_LIMIT


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return sound_videos(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("decoder", DECODER_NAMES)
@pytest.mark.parametrize("container", ["mp4_moov_last", "mp4_moov_first", "webm", "avi"])
@pytest.mark.parametrize("damage", [huge_frames, huge_length], ids=lambda function: function.__name__)
def test_absurd_header_takes_no_memory(
    tmp_path: Path, sound: dict[str, Path], decoder: str, container: str, damage: Any
) -> None:
    require_decoder(decoder)
    original = sound[container].read_bytes()
    path = tmp_path / f"absurd{sound[container].suffix}"
    path.write_bytes(damage(original, container))
    assert path.read_bytes() != original
    before = _resident_bytes()
    # In this process: if it took the memory, it would show. Some of the headers are not believed, others refused.
    with contextlib.suppress(VideoReadError), open_video(path, decoder) as video:
        assert len(video) == 24
        video.frames([0, 23])
    assert _resident_bytes() - before < 150 * 1024**2  # the libraries themselves take some, once


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
