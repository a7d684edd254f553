# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Fetching a video that the user named by its address: http and https alone, bounded, with guarded redirects.

This file travels with published checkpoints as Hub remote code, beside the video processor, the only part that takes
addresses. Names in data sets are always files.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .video_reading_amd import VideoReadError


MAX_BYTES = 1024**3
"""Of a video that is fetched: it is held in memory."""

ALLOW_VARIABLE = "AMD_HF_ALLOW_PRIVATE_REDIRECTS"
"""Environment variable; `1` lets an address lead to one of the own network."""

_SECONDS_OF_SILENCE = 30.0
_SECONDS_IN_ALL = 600.0
_BYTES_AT_ONCE = 1024**2


def is_url(name: str) -> bool:
    """Return whether a name is an address that is fetched. A file of that name would come first."""
    return name.lower().startswith(("http://", "https://")) and not os.path.exists(name)


def fetch_video(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Fetch a file by http or https.

    The address itself may lie in the own network, since the user gave it. What it redirects to may not, or a
    stranger's server would have this machine ask its neighbours; `AMD_HF_ALLOW_PRIVATE_REDIRECTS=1` in the environment
    allows it.

    Args:
        url (`str`): The address.
        max_bytes (`int`): A larger file is refused.

    Raises:
        VideoReadError: It cannot be fetched, is too large or takes too long, or leads where it may not.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise VideoReadError("addresses with a user name or password are not fetched", source=parts.hostname)
    deadline = time.monotonic() + _SECONDS_IN_ALL
    try:
        with open_address(url, {}, _SECONDS_OF_SILENCE) as response:
            parts_read = []
            left = max_bytes
            if int(response.headers.get("Content-Length") or 0) > max_bytes:
                raise VideoReadError(f"it is larger than the limit of {max_bytes} bytes", source=url)
            while data := response.read(min(_BYTES_AT_ONCE, left + 1)):
                left -= len(data)
                if left < 0:
                    raise VideoReadError(f"it is larger than the limit of {max_bytes} bytes", source=url)
                if time.monotonic() > deadline:
                    raise VideoReadError(f"it takes more than {_SECONDS_IN_ALL:g} seconds", source=url)
                parts_read.append(data)
    except VideoReadError as error:
        raise VideoReadError(error.reason, source=url) from error.__cause__
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise VideoReadError(f"it cannot be fetched: {error or type(error).__name__}", source=url) from error
    return b"".join(parts_read)


def open_address(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """Ask for an http or https address; redirects are guarded as [`fetch_video`] says.

    Args:
        url (`str`): The address.
        headers (mapping of `str`): Further headers of the request.
        timeout (`float`): Seconds that the other side may be silent.

    Returns:
        `http.client.HTTPResponse`, to be closed.

    Raises:
        urllib.error.HTTPError, OSError, VideoReadError: It cannot be opened, or leads where it may not.
    """
    # Not `build_opener`: that brings handlers of ftp, file and data too.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), _HTTPHandler(), _HTTPSHandler(), _RedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "amd_hf")]
    return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https"):
            raise VideoReadError(f"it leads to an address that is neither http nor https ({parts.scheme}:)")
        if os.environ.get(ALLOW_VARIABLE) != "1":
            # A first look; the connection is looked at again, since a name may mean another machine by then.
            for *_, address in socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM):
                _refuse_private(str(address[0]))
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.is_redirected = True  # type: ignore[attr-defined]
        return request


def _refuse_private(address: str) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    # ::ffff:10.0.0.1 leads to 10.0.0.1.
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if not ip.is_global or ip.is_multicast:
        raise VideoReadError(
            f"it leads to {ip}, which lies in a private network: refused unless {ALLOW_VARIABLE}=1 is set"
        )


class _GuardedHTTPConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_private(self.sock.getpeername()[0])


class _GuardedHTTPSConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_private(self.sock.getpeername()[0])


def _is_guarded(request: Any) -> bool:
    """Return whether the other end must be public; through a proxy it is the proxy, which the user chose."""
    is_redirected = getattr(request, "is_redirected", False) and os.environ.get(ALLOW_VARIABLE) != "1"
    return is_redirected and not request.has_proxy()


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_GuardedHTTPConnection if _is_guarded(req) else http.client.HTTPConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        return self.do_open(_GuardedHTTPSConnection if _is_guarded(req) else http.client.HTTPSConnection, req)


__all__ = ["fetch_video", "is_url", "open_address"]
