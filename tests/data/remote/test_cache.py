"""The cache of files at addresses: whole or absent, bounded, shared by processes, never away while in use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from amd_hf.data.remote.cache import open_cached
from amd_hf.data.remote.files import RemoteAccess, RemoteError
from tests.helpers.shaky_server import Request, ShakyServer


_BODIES = {f"{name}.mp4": np.random.default_rng(index).bytes(100_000) for index, name in enumerate("abcdef")}


def _use(server: ShakyServer, folder: Path, **changes: float) -> None:
    values: dict[str, float] = {"attempts": 3, "first_wait": 0.01, "timeout": 2.0, **changes}
    RemoteAccess(allowed=(server.address,), cache_dir=str(folder), **values).use()  # type: ignore[arg-type]


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*/*") if file.suffix not in (".json", ".lock"))


def test_second_reading_asks_for_nothing(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES)) as server:
        _use(server, tmp_path)
        with open_cached(f"{server.address}/a.mp4") as file:
            assert Path(file.path).read_bytes() == _BODIES["a.mp4"]
            assert file.path.endswith(".mp4")
        num_requests = len(server.requests)
        with open_cached(f"{server.address}/a.mp4"):
            pass
        assert len(server.requests) == num_requests


def test_other_file_at_the_address_is_noticed_when_the_comparison_is_old(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES)) as server:
        _use(server, tmp_path, recheck_seconds=0)
        with open_cached(f"{server.address}/a.mp4") as held:
            num_sent = server.num_sent
            with open_cached(f"{server.address}/a.mp4") as again:  # the same ETag: nothing but a question
                assert again.path == held.path
            assert server.num_sent <= num_sent + 1
            server.files["a.mp4"] = _BODIES["b.mp4"]  # of the same size
            with open_cached(f"{server.address}/a.mp4") as other:
                assert Path(other.path).read_bytes() == _BODIES["b.mp4"]
            assert Path(held.path).read_bytes() == _BODIES["a.mp4"]  # whoever reads the old one goes on


def test_file_that_changes_while_it_is_fetched_comes_whole(tmp_path: Path) -> None:
    def change(request: Request) -> None:
        if len(server.requests) == 3:  # the question, the body that is cut, and now the rest
            server.files["a.mp4"] = _BODIES["b.mp4"]

    with ShakyServer(dict(_BODIES), cuts={"a.mp4": [1, 50_000]}, on_request=change) as server:
        _use(server, tmp_path)
        with open_cached(f"{server.address}/a.mp4") as file:
            assert Path(file.path).read_bytes() == _BODIES["b.mp4"]


def test_damaged_cached_file_is_fetched_anew(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES)) as server:
        _use(server, tmp_path)
        with open_cached(f"{server.address}/a.mp4") as file:
            os.truncate(file.path, 10)
        with open_cached(f"{server.address}/a.mp4") as file:
            assert Path(file.path).read_bytes() == _BODIES["a.mp4"]


def test_least_recently_used_files_go_and_those_in_use_stay(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES)) as server:
        _use(server, tmp_path, cache_gigabytes=350_000 / 1e9)
        held = open_cached(f"{server.address}/a.mp4")
        os.utime(held.path, (0, 0))  # the longest unused of all
        for name in ("b", "c", "d", "e", "f"):
            with open_cached(f"{server.address}/{name}.mp4") as file:
                assert Path(file.path).read_bytes() == _BODIES[f"{name}.mp4"]
            assert _bytes_in(tmp_path) <= 350_000
        assert Path(held.path).read_bytes() == _BODIES["a.mp4"]
        held.close()
        with open_cached(f"{server.address}/b.mp4"), open_cached(f"{server.address}/c.mp4"):
            assert not Path(held.path).exists()


def test_files_of_others_in_the_folder_stay_and_do_not_count(tmp_path: Path) -> None:
    theirs = [tmp_path / "holiday" / "a.mp4", tmp_path / "ab" / "clip-1.mp4", tmp_path / "usage"]
    for file in theirs:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(250_000))
    with ShakyServer(_BODIES) as server:
        _use(server, tmp_path, cache_gigabytes=250_000e-9)
        for name in _BODIES:
            with open_cached(f"{server.address}/{name}"):
                pass
    assert all(file.read_bytes() == bytes(250_000) for file in theirs)


def test_what_does_not_fit_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES)) as server:
        _use(server, tmp_path, cache_gigabytes=50_000 / 1e9)
        with pytest.raises(RemoteError, match="100000 bytes do not fit .* 50000: raise `--cache_gigabytes`"):
            open_cached(f"{server.address}/a.mp4")
        _use(server, tmp_path, cache_gigabytes=150_000 / 1e9)
        held = open_cached(f"{server.address}/a.mp4")
        with pytest.raises(RemoteError, match="full of files that are in use"):
            open_cached(f"{server.address}/b.mp4")
        held.close()
        with open_cached(f"{server.address}/b.mp4"):
            pass
        with pytest.raises(RemoteError, match="above the limit of 7"):
            open_cached(f"{server.address}/c.mp4", max_bytes=7)


_FETCH = """
import sys, hashlib
from pathlib import Path
from amd_hf.data.remote.cache import open_cached
for address in sys.argv[1:]:
    with open_cached(address) as file:
        print(hashlib.sha256(Path(file.path).read_bytes()).hexdigest(), flush=True)
"""


def _start(*addresses: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", _FETCH, *addresses], stdout=subprocess.PIPE, text=True)


def test_processes_fetch_each_file_once_and_hold_it_for_each_other(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES), rates={"a.mp4": 400_000}) as server:
        _use(server, tmp_path)
        ranks = [_start(f"{server.address}/a.mp4", f"{server.address}/b.mp4") for _ in range(3)]
        outputs = {rank.communicate(timeout=60)[0] for rank in ranks}
        assert len(outputs) == 1
        assert len(outputs.pop().split()) == 2
        assert 200_000 <= server.num_sent < 200_100  # and a byte of each question


def test_process_killed_in_mid_transfer_leaves_nothing_half_and_the_next_goes_on(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES), rates={"a.mp4": 50_000}) as server:
        _use(server, tmp_path)
        killed = _start(f"{server.address}/a.mp4")
        while server.num_sent < 40_000 and killed.poll() is None:
            time.sleep(0.02)
        killed.kill()
        killed.wait()
        assert not list(tmp_path.glob("*/*.mp4"))
        server.rates.clear()
        time.sleep(0.2)
        before = server.num_sent
        with open_cached(f"{server.address}/a.mp4") as file:
            assert Path(file.path).read_bytes() == _BODIES["a.mp4"]
        assert server.num_sent - before < 100_000


def test_threads_of_one_process_share_it_too(tmp_path: Path) -> None:
    with ShakyServer(dict(_BODIES), rates={"a.mp4": 1_000_000}) as server:
        _use(server, tmp_path, recheck_seconds=0)
        found: list[bytes] = []

        def read() -> None:
            with open_cached(f"{server.address}/a.mp4") as file:
                found.append(Path(file.path).read_bytes())

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [_BODIES["a.mp4"]] * 4
        assert server.num_sent < 100_020


def test_any_file_system_is_cached_and_its_changes_noticed(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.mp4", b"one")
    RemoteAccess(allowed=("memory://bucket",), cache_dir=str(tmp_path), recheck_seconds=0).use()
    with open_cached("memory://bucket/a.mp4") as file:
        assert Path(file.path).read_bytes() == b"one"
    memory.pipe("/bucket/a.mp4", b"two")
    with open_cached("memory://bucket/a.mp4") as file:
        assert Path(file.path).read_bytes() == b"two"
        with pytest.raises(TypeError, match="pass its address on"):
            pickle.dumps(file)
