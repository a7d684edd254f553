"""Decoding in a process of its own: same frames, and a decoder that hangs or crashes loses its video, nothing else."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.data.loaders import build_eval_loader
from amd_hf.data.video import decoding, decoding_process
from amd_hf.data.video.decoding import DecodedVideoCache, VideoLimits, VideoReadError, open_video
from tests.helpers.decoders import DECODER_NAMES, require_decoder
from tests.helpers.hostile_decoders import HOSTILE
from tests.helpers.videos import frame_numbers, numbered_frames, text_file


@pytest.fixture(autouse=True)
def _hostile_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(decoding.DECODERS, "hostile", HOSTILE)
    yield
    decoding_process._POOL.close()


@pytest.fixture
def copy_as(video_40: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies the video of 40 frames under a name that tells the hostile reader what to do."""
    return lambda name: Path(shutil.copy(video_40, tmp_path / f"{name}.mp4"))


def _decoding_processes() -> list[int]:
    return [process._process.pid for process in decoding_process._POOL._idle]


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# ---------------------------------------------------------------------------------------------------------------------
# The same as without supervision
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODER_NAMES)
def test_supervised_reader_gives_the_same_frames(video_40: Path, decoder: str) -> None:
    require_decoder(decoder)
    for source in (video_40, video_40.read_bytes()):
        with open_video(source, decoder) as direct, open_video(source, decoder, time_limit=60) as video:
            assert (len(video), video.height, video.width) == (40, 48, 64)
            for indices in ([0, 5, 9], [39, 2, 2]):
                np.testing.assert_array_equal(video.frames(indices), direct.frames(indices))


def test_frame_folder_is_read_under_supervision(tmp_path: Path) -> None:
    for number, frame in enumerate(numbered_frames(5, 24, 32)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    with open_video({"frames": sorted(tmp_path.iterdir())}, time_limit=60) as video:
        assert frame_numbers(video.frames([4, 0, 0])) == [4, 0, 0]


def test_cache_keeps_videos_read_under_supervision(video_40: Path) -> None:
    cache = DecodedVideoCache(10**6)
    for _ in range(2):
        with open_video(video_40, "pyav", time_limit=60, cache=cache) as video:
            assert frame_numbers(video.frames([7])) == [7]
    assert len(cache) == 1


def test_videos_one_after_the_other_share_a_process(video_40: Path) -> None:
    for _ in range(3):
        open_video(video_40, "pyav", time_limit=60).close()
    (process,) = decoding_process._POOL._idle
    assert process.num_videos == 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_interrupt_never_reaches_the_process_that_decodes(video_40: Path) -> None:
    with open_video(video_40, time_limit=60):
        pass
    (pid,) = _decoding_processes()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    blocked, ignored = (int(status[name], 16) >> (signal.SIGINT - 1) & 1 for name in ("SigBlk", "SigIgn"))
    assert (blocked, ignored) == (1, 1)  # the first from its very beginning, when it cannot ignore anything yet
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_interrupt_while_the_process_starts_ends_it(video_40: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupt(process: Any, decoder: str) -> None:
        started.append(process._process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding_process._DecodingProcess, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_video(video_40, time_limit=60)
    assert [_is_running(pid) for pid in started] == [False]


def test_two_videos_open_at_once_do_not_mix(video_40: Path, video_1: Path) -> None:
    with open_video(video_40, "pyav", time_limit=60) as long, open_video(video_1, "pyav", time_limit=60) as short:
        assert (len(long), len(short)) == (40, 1)
        assert frame_numbers(long.frames([30])) == [30]
        assert frame_numbers(short.frames([0])) == [0]


def test_faults_arrive_as_those_of_the_reader(tmp_path: Path, video_40: Path) -> None:
    with pytest.raises(VideoReadError, match=r"Cannot read video 'my id': pyav: .*Invalid data") as caught:
        open_video(text_file(tmp_path / "a.mp4"), "pyav", video_id="my id", time_limit=60)
    assert caught.value.video_id == "my id"
    with open_video(video_40, "pyav", time_limit=60, limits=VideoLimits(max_decoded_bytes=48 * 64 * 3)) as video:
        assert len(video.frames([3])) == 1
        with pytest.raises(VideoReadError, match="max_decoded_bytes"):
            video.frames([3, 4])
        with pytest.raises(IndexError, match="which has 40"):
            video.frames([40])


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_time_limit_that_is_no_time_raises(video_40: Path, limit: float) -> None:
    with pytest.raises(ValueError, match="`time_limit` must be above 0 seconds"):
        open_video(video_40, time_limit=limit)


# ---------------------------------------------------------------------------------------------------------------------
# Crashes and hangs
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["open", "read"])
def test_decoder_that_aborts_loses_its_video_only(copy_as: Callable[[str], Path], when: str) -> None:
    good, bad = copy_as("good"), copy_as(f"abort_on_{when}")
    for _ in range(2):  # in a process that has read others before, too
        with (
            pytest.raises(VideoReadError, match=r"its decoder crashed \(SIGABRT\)"),
            open_video(bad, "hostile", time_limit=60) as video,
        ):
            video.frames([0])
        with open_video(good, "hostile", time_limit=60) as video:
            assert frame_numbers(video.frames([5])) == [5]


def test_hanging_decoder_is_ended_after_the_time_limit(copy_as: Callable[[str], Path]) -> None:
    open_video(copy_as("good"), "hostile", time_limit=60).close()
    (pid,) = _decoding_processes()
    started = time.monotonic()
    with (
        open_video(copy_as("sleep"), "hostile", time_limit=0.5) as video,
        pytest.raises(VideoReadError, match=r"took more than 0.5 seconds \(`time_limit`\) and was ended"),
    ):
        video.frames([0])
    assert 0.4 < time.monotonic() - started < 5
    assert not _is_running(pid)


def test_time_limit_counts_the_whole_video_and_no_pause(copy_as: Callable[[str], Path]) -> None:
    path = copy_as("slow")  # 0.4 seconds per call
    with open_video(path, "hostile", time_limit=1.0) as video:
        time.sleep(1.1)  # the caller's time
        video.frames([0])
        video.frames([1])
        with pytest.raises(VideoReadError, match="took more than 1 seconds"):
            video.frames([2])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded on Linux only")
def test_decoder_that_takes_all_memory_fails_alone(copy_as: Callable[[str], Path]) -> None:
    with pytest.raises(VideoReadError, match="hostile: .*allocate"):
        open_video(copy_as("takes_all_memory"), "hostile", time_limit=60)


def test_crash_that_an_earlier_video_caused_is_not_blamed_on_the_next(copy_as: Callable[[str], Path]) -> None:
    for name in ("damages_its_process", "good"):
        with open_video(copy_as(name), "hostile", time_limit=60) as video:
            assert frame_numbers(video.frames([8])) == [8]


def test_idle_process_that_died_is_replaced(video_40: Path) -> None:
    open_video(video_40, "pyav", time_limit=60).close()
    (pid,) = _decoding_processes()
    os.kill(pid, signal.SIGKILL)
    with open_video(video_40, "pyav", time_limit=60) as video:
        assert frame_numbers(video.frames([3])) == [3]


def test_mistake_in_a_reader_is_no_fault_of_the_video(copy_as: Callable[[str], Path]) -> None:
    with (
        open_video(copy_as("bug"), "hostile", time_limit=60) as video,
        pytest.raises(RuntimeError, match=r"(?s)failed on .*bug\.mp4.*KeyError: 'a mistake in the reader'") as caught,
    ):
        video.frames([0])
    assert not isinstance(caught.value, VideoReadError)


def test_decoder_that_hangs_on_closing_does_not_lose_the_video(
    video_40: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding_process, "_CLOSE_LIMIT", 0.5)
    with open_video(video_40, "pyav", time_limit=60) as video:
        os.kill(video._process._process.pid, signal.SIGSTOP)
        with caplog.at_level(logging.WARNING, logger=decoding_process.__name__):
            video.close()
    assert "did not end in order" in caplog.text
    assert _decoding_processes() == []


# ---------------------------------------------------------------------------------------------------------------------
# Frames in shared memory
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared on Linux only")
def test_frames_in_use_are_not_overwritten(video_40: Path) -> None:
    with open_video(video_40, "pyav", time_limit=60) as video:
        process = video._process  # type: ignore[attr-defined]
        kept = torch.from_numpy(video.frames([3, 4]))[1:]
        assert process.holds_frames()
        later = video.frames([20, 21])
        assert frame_numbers(kept.numpy()) == [4]
        assert frame_numbers(later) == [20, 21]
        del kept
        assert not process.holds_frames()
        video.frames([30])
        assert frame_numbers(later) == [20, 21]  # came through the socket: it has memory of its own
    with open_video(video_40, "pyav", time_limit=60) as video:
        frames = video.frames([7])
    with open_video(video_40, "pyav", time_limit=60) as video:
        video.frames([8])
    assert frame_numbers(frames) == [7]
    frames[:] = 0  # it may be written to


def test_frames_too_large_to_be_shared_come_through_the_socket(
    video_40: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_process, "_new_memory", lambda: None)  # as where the system has none
    with open_video(video_40, "pyav", time_limit=60) as video:
        frames = video.frames(range(40))
        assert not video._process.holds_frames()  # type: ignore[attr-defined]
    assert frame_numbers(frames) == list(range(40))


def _keep(frames: np.ndarray, told: Any, answers: Any) -> None:
    told.recv()
    answers.send(frame_numbers(frames))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared on Linux only")
def test_frames_kept_by_a_forked_process_are_not_overwritten(video_40: Path) -> None:
    context = multiprocessing.get_context("fork")
    (told, tell), (answers, answer) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    with open_video(video_40, "pyav", time_limit=60) as video:
        frames = video.frames([5])
        child = context.Process(target=_keep, args=(frames, told, answer))
        child.start()
        del frames
        assert frame_numbers(video.frames([9])) == [9]
        tell.send(None)
        assert answers.recv() == [5]
        child.join(10)


def test_limit_per_read_counts_each_read_alone(copy_as: Callable[[str], Path]) -> None:
    with open_video(copy_as("slow"), "hostile", time_limit=1.0, is_limit_per_read=True) as video:
        for index in range(4):  # 0.4 seconds each
            assert frame_numbers(video.frames([index])) == [index]


# ---------------------------------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------------------------------


def _hang(path: str, answers: Any) -> None:
    video = open_video(path, "hostile", time_limit=600)
    answers.send(video._process._process.pid)  # type: ignore[attr-defined]
    video.frames([0])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="bound to the parent's life on Linux only")
def test_hanging_decoding_process_dies_with_its_parent(copy_as: Callable[[str], Path]) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=_hang, args=(str(copy_as("sleep")), theirs), daemon=True)
    parent.start()
    pid = ours.recv()
    time.sleep(0.3)
    assert _is_running(pid)
    parent.kill()
    parent.join(5)
    deadline = time.monotonic() + 5
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(pid)


def _read_in_fork(path: str, inherited: Any, answers: Any) -> None:
    with open_video(path, "pyav", time_limit=60) as video:
        own = frame_numbers(video.frames([6]))
    try:
        inherited.frames([0])
    except RuntimeError as error:
        answers.send((own, str(error)))


def test_forked_process_starts_its_own_and_leaves_those_of_its_parent(video_40: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    open_video(video_40, "pyav", time_limit=60).close()
    with open_video(video_40, "pyav", time_limit=60) as video:
        child = context.Process(target=_read_in_fork, args=(str(video_40), video, theirs))
        child.start()
        frames, message = ours.recv()
        child.join(10)
        assert frames == [6]
        assert "open it where it is used" in message
        assert frame_numbers(video.frames([7])) == [7]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_loader_survives_crashes_and_hangs_and_names_each(
    copy_as: Callable[[str], Path], num_workers: int
) -> None:
    names = ["good_0", "abort_on_open_0", "sleep_0", "abort_on_read_0", "good_1", "abort_on_open_1", "abort_on_read_1"]
    names += ["good_2", "good_3", "sleep_1"]
    rows = [{"video": str(copy_as(name)), "label": 0, "video_id": name} for name in names]
    collator = ClassificationCollator(
        ClipLoader(num_frames=2, sampling_rate=2, image_size=32, decoder="hostile", decode_time_limit=1.0),
        training=False,
    )
    loader = build_eval_loader(rows, 5, collator, num_workers=num_workers)
    batches = list(loader)
    lost = {name: reason for batch in batches for name, reason in batch["unreadable"]}
    assert sum(batch["num_tried"] for batch in batches) == 10
    assert sum(len(batch["pixel_values"]) for batch in batches) == 4
    assert sorted(lost) == sorted(name for name in names if not name.startswith("good"))
    for name, reason in lost.items():
        assert ("SIGABRT" if name.startswith("abort") else "time_limit") in reason


def test_relative_paths_start_from_the_folder_of_now(
    video_40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoding process lives on from video to video; where this one goes, it goes too."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(video_40, tmp_path / name / f"{name}.mp4")
        monkeypatch.chdir(tmp_path / name)
        with open_video(f"{name}.mp4", time_limit=60) as reader:
            assert len(reader.frames([0, 39])) == 2
