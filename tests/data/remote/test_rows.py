"""Rows whose videos lie at addresses: read where the user allowed it, unreadable like a local file otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amd_hf.data import open_video
from amd_hf.data.clips import ClassificationCollator, ClipLoader, load_batch
from amd_hf.data.loaders import build_eval_loader
from amd_hf.data.remote.files import RemoteAccess
from amd_hf.video_reading_amd import VideoReadError
from tests.helpers.shaky_server import ShakyServer
from tests.helpers.videos import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "a.mp4"
    write_video(path, num_frames=20)
    return path


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("time_limit", [None, 30.0])
def test_video_at_an_address_has_the_frames_of_the_file(
    tmp_path: Path, video: Path, is_cached: bool, time_limit: float | None
) -> None:
    body = video.read_bytes()
    with ShakyServer({"v/a.mp4": body, "shard.tar": b"x" * 512 + body + b"y"}, cuts={"v/a.mp4": [1000]}) as server:
        cache = str(tmp_path / "cache") if is_cached else None
        RemoteAccess(allowed=(server.address,), cache_dir=cache, first_wait=0.01).use()
        member = {"archive": f"{server.address}/shard.tar", "offset": 512, "size": len(body), "fault": None}
        with open_video(video) as reader:
            expected = reader.frames([0, 7, 19])
        for source in (f"{server.address}/v/a.mp4", {"path": f"{server.address}/v/a.mp4", "bytes": None}, member):
            with open_video(source, time_limit=time_limit) as reader:
                np.testing.assert_array_equal(reader.frames([0, 7, 19]), expected)


def test_row_of_a_stranger_that_names_an_address_is_not_fetched(video: Path) -> None:
    with ShakyServer({"a.mp4": video.read_bytes()}) as server:
        RemoteAccess(allowed=("https://elsewhere/videos",)).use()
        rows: list[Any] = [
            {"path": f"{server.address}/a.mp4", "bytes": None},
            {"archive": f"{server.address}/a.mp4", "offset": 0, "size": 10},
        ]
        for row in rows:
            with pytest.raises(VideoReadError, match="addresses are not opened|nobody allowed"):
                open_video(row)
        assert server.requests == []


def test_file_that_fails_for_good_counts_as_unreadable(video: Path) -> None:
    with ShakyServer({"a.mp4": video.read_bytes()}, statuses={"b.mp4": [500] * 9}) as server:
        RemoteAccess(allowed=(server.address,), attempts=2, first_wait=0.01).use()
        loader = ClipLoader(num_frames=4, sampling_rate=1, image_size=16)
        rows = [{"video": {"path": f"{server.address}/{name}"}, "video_id": name} for name in ("a.mp4", "b.mp4", "c")]
        batch = load_batch(loader, rows, training=True)
        assert [name for name, _ in batch.unreadable] == ["b.mp4", "c"]
        assert "answers 500 (2 attempts)" in batch.unreadable[0][1]
        assert len(batch.samples) == 3  # filled up with others, as for local files


def test_workers_of_a_loader_fetch_by_the_same_rules_and_share_the_cache(tmp_path: Path, video: Path) -> None:
    with ShakyServer({"a.mp4": video.read_bytes()}) as server:
        RemoteAccess(allowed=(server.address,), cache_dir=str(tmp_path), attempts=2, first_wait=0.01).use()
        rows = [
            {"video": {"path": f"{server.address}/a.mp4", "bytes": None}, "label": 0, "video_id": str(number)}
            for number in range(8)
        ]
        collator = ClassificationCollator(ClipLoader(num_frames=4, sampling_rate=1, image_size=16))
        batches = list(build_eval_loader(rows, 2, collator, num_workers=2))
        assert [len(batch["pixel_values"]) for batch in batches] == [2, 2, 2, 2]
        assert [batch["unreadable"] for batch in batches] == [[]] * 4
        assert sum(request.num_sent > 1 for request in server.requests) == 1
