"""Bytes at addresses, from a server that breaks: whole, or one clear error; and which addresses are fetched at all."""

from __future__ import annotations

import importlib.util
import time

import fsspec
import numpy as np
import pytest

from amd_hf.data.remote.files import (
    RemoteAccess,
    RemoteError,
    RemoteFile,
    check_address,
    current_access,
    expand_addresses,
    is_remote,
    join_address,
    read_bytes,
    shown,
)
from tests.helpers.shaky_server import Request, ShakyServer


_BODY = np.random.default_rng(0).bytes(300_000)
_QUICK = RemoteAccess(attempts=4, first_wait=0.01, timeout=2.0)


def _allow(*addresses: str, **changes: float) -> None:
    RemoteAccess(allowed=addresses, attempts=4, first_wait=0.01, **{"timeout": 2.0, **changes}).use()  # type: ignore[arg-type]


def test_whole_file_and_a_range_of_it() -> None:
    with ShakyServer({"a.mp4": _BODY}) as server:
        _allow(server.address)
        assert read_bytes(f"{server.address}/a.mp4") == _BODY
        assert read_bytes(f"{server.address}/a.mp4", 1000, 2000) == _BODY[1000:2000]
        assert server.num_sent == len(_BODY) + 1000


@pytest.mark.parametrize("has_ranges", [True, False])
def test_connection_cut_in_the_body_goes_on_where_it_broke(has_ranges: bool) -> None:
    with ShakyServer({"a.mp4": _BODY}, cuts={"a.mp4": [100_000, 70_000, 10]}, has_ranges=has_ranges) as server:
        _allow(server.address)
        assert read_bytes(f"{server.address}/a.mp4") == _BODY
        asked = [request.range for request in server.requests]
        assert asked[:2] == ["bytes=0-", "bytes=100000-"]
        if has_ranges:
            assert server.num_sent == len(_BODY)


def test_status_500_then_200() -> None:
    with ShakyServer({"a.mp4": _BODY}, statuses={"a.mp4": [500, 503, 429]}) as server:
        _allow(server.address)
        assert read_bytes(f"{server.address}/a.mp4") == _BODY
        assert len(server.requests) == 4


def test_file_that_never_comes_is_one_error_with_address_and_advice() -> None:
    with ShakyServer({"a.mp4": _BODY}, statuses={"a.mp4": [500] * 9}) as server:
        _allow(server.address)
        with pytest.raises(RemoteError, match=r"127.*a\.mp4.*answers 500 \(4 attempts\). Look whether"):
            read_bytes(f"{server.address}/a.mp4")
        assert len(server.requests) == 4
        with pytest.raises(RemoteError, match="there is no file at this address"):
            read_bytes(f"{server.address}/none.mp4")
        assert len(server.requests) == 5  # nobody asks again for what is not there
        server.statuses["a.mp4"] = [403]
        with pytest.raises(RemoteError, match="may not be read .*by the environment"):
            read_bytes(f"{server.address}/a.mp4")


def test_body_that_always_ends_early_is_noticed() -> None:
    with ShakyServer({"a.mp4": _BODY}, cuts={"a.mp4": [5, 5, 5, 5]}) as server:
        _allow(server.address)
        with pytest.raises(RemoteError, match="ended after byte 20 of 300000"):
            read_bytes(f"{server.address}/a.mp4")


def test_slow_connection_is_waited_for_and_a_dripping_one_is_not() -> None:
    with ShakyServer({"slow": _BODY[:100_000], "drip": _BODY}, rates={"slow": 200_000, "drip": 40}) as server:
        _allow(server.address, timeout=0.3)
        assert read_bytes(f"{server.address}/slow") == _BODY[:100_000]
        started = time.monotonic()
        with pytest.raises(RemoteError, match="less than 1024 bytes a second"):
            read_bytes(f"{server.address}/drip")
        assert time.monotonic() - started < 10


def test_server_that_is_silent_ends_at_the_time_limit() -> None:
    with ShakyServer({"a.mp4": _BODY}, on_request=lambda request: time.sleep(1.0)) as server:
        RemoteAccess(allowed=(server.address,), attempts=2, first_wait=0.01, timeout=0.2).use()
        with pytest.raises(RemoteError, match=r"timed out \(2 attempts\)"):
            read_bytes(f"{server.address}/a.mp4")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_file_that_changes_meanwhile_is_read_anew_and_never_mixed(has_ranges: bool) -> None:
    new = _BODY[::-1]

    def change(request: Request) -> None:
        if len(server.requests) == 2:
            server.files["a.mp4"] = new

    with ShakyServer({"a.mp4": _BODY}, cuts={"a.mp4": [100_000]}, has_ranges=has_ranges, on_request=change) as server:
        _allow(server.address)
        assert read_bytes(f"{server.address}/a.mp4") == new


def test_size_is_checked_before_anything_is_fetched() -> None:
    with ShakyServer({"a.mp4": _BODY}) as server:
        _allow(server.address)
        with pytest.raises(RemoteError, match="300000 bytes, above the limit of 1000"):
            read_bytes(f"{server.address}/a.mp4", max_bytes=1000)
        with pytest.raises(RemoteError, match="it has 300000 bytes, so it ends before byte 300001"):
            read_bytes(f"{server.address}/a.mp4", 10, 300_001)


def test_file_object_seeks_and_reads_what_is_asked_for() -> None:
    with ShakyServer({"a.tar": _BODY}, cuts={"a.tar": [7]}) as server:
        _allow(server.address)
        file = RemoteFile(f"{server.address}/a.tar")
        file.seek(-500, 2)
        assert file.read(100) == _BODY[-500:-400]
        assert file.read() == _BODY[-400:]
        assert file.read(1) == b""
        assert server.num_sent < 600


def test_any_file_system_of_fsspec() -> None:
    fsspec.filesystem("memory").pipe("/bucket/videos/a b.mp4", _BODY)
    _allow("memory://bucket/videos")
    assert read_bytes("memory://bucket/videos/a b.mp4") == _BODY
    assert read_bytes("memory://bucket/videos/a b.mp4", 5, 50) == _BODY[5:50]
    with pytest.raises(RemoteError, match="there is no file"):
        read_bytes("memory://bucket/videos/b.mp4")
    assert expand_addresses("memory://bucket/videos", ".mp4", _QUICK) == ["memory://bucket/videos/a b.mp4"]


def test_missing_package_is_one_clear_line() -> None:
    _allow("s3://bucket")
    if importlib.util.find_spec("s3fs") is not None:
        pytest.skip("s3fs is installed")
    with pytest.raises(ImportError, match=r"s3:// needs a package .* s3fs: run `pip install amd_hf\[s3\]`"):
        read_bytes("s3://bucket/a.mp4")


def test_patterns_in_braces_name_shards_and_folders_of_http_are_refused() -> None:
    assert expand_addresses("https://host/t-{08..11}.tar", ".tar", _QUICK) == [
        f"https://host/t-{number}.tar" for number in ("08", "09", "10", "11")
    ]
    assert expand_addresses("s3://b/{train,val}-0.tar", ".tar", _QUICK) == ["s3://b/train-0.tar", "s3://b/val-0.tar"]
    with pytest.raises(ValueError, match="folders of http servers cannot be listed"):
        expand_addresses("https://host/shards", ".tar", _QUICK)


# ---- Which addresses ----


def test_nothing_is_fetched_that_nobody_named() -> None:
    with ShakyServer({"data/a.mp4": _BODY, "secret": b"x", "data-2/a": b"y"}) as server:
        for address in ("data/a.mp4", "secret"):
            with pytest.raises(RemoteError, match="nobody allowed.*--allowed_addresses http"):
                read_bytes(f"{server.address}/{address}")
        _allow(f"{server.address}/data/")
        assert read_bytes(f"{server.address}/data/a.mp4") == _BODY
        for way in ("data/../secret", "data/%2e%2e/secret", "data-2/a", "secret"):
            with pytest.raises(RemoteError, match="nobody allowed"):
                read_bytes(f"{server.address}/{way}")
        assert [request.path for request in server.requests] == ["data/a.mp4"]


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("https://me:pass1234@host/a.mp4", "pass1234"),
        ("s3://AKIAABCDEFGHIJKLMNOP:s3cr3t@bucket/a.mp4", "s3cr3t"),
        ("https://host/a.mp4?token=abcdef123", "abcdef123"),
        ("https://host/a.mp4?X-Amz-Signature=abcdef123&x=1", "abcdef123"),
        ("https://host/a.mp4?sv=2&sig=abcdef123", "abcdef123"),
        ("https://host/hf_abcdefghijklmnopqrst/a.mp4", "hf_abcdefghijklmnopqrst"),
    ],
)
def test_address_with_credentials_is_refused_and_not_repeated(address: str, secret: str) -> None:
    with pytest.raises(ValueError, match="by the environment") as caught:
        check_address(address)
    assert secret not in str(caught.value)
    assert secret not in shown(address)


def test_ordinary_addresses_are_not_refused() -> None:
    for address in ("https://host/a.mp4?version=3", "hf://datasets/me/name@main/a.tar", "s3://bucket/keys/token.mp4"):
        check_address(address)
    for address in ("file:///etc/passwd", "simplecache::https://host/a", "zip://a::https://host/a.zip"):
        with pytest.raises(ValueError, match="no address"):
            check_address(address)


def test_names_of_a_list_become_addresses() -> None:
    assert join_address("https://host/v", "my clip #1.mp4") == "https://host/v/my%20clip%20%231.mp4"
    assert join_address("s3://b/v/", "my clip #1.mp4") == "s3://b/v/my clip #1.mp4"
    assert join_address("s3://b/v", "https://host/a.mp4") == "https://host/a.mp4"
    assert [is_remote(name) for name in ("S3://b/x", "a.mp4", "C:/x", 3)] == [True, False, False, False]


def test_rules_reach_processes_through_the_environment() -> None:
    given = RemoteAccess(allowed=("s3://b/x",), cache_dir="somewhere", cache_gigabytes=2.5)
    given.use()
    assert current_access().allowed == ("s3://b/x",)
    assert current_access().cache_gigabytes == 2.5
    assert current_access().cache_dir.endswith("/somewhere")  # type: ignore[union-attr]
    for name in ("attempts", "timeout", "cache_gigabytes"):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            RemoteAccess(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`first_wait` must be at least 0"):
        RemoteAccess(first_wait=-1)
