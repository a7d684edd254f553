"""An http server on this machine that knows ranges and ETags, and breaks as it is told to."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What was asked for: path, the header `Range`, and how many bytes were sent."""

    path: str
    range: str | None
    num_sent: int = 0


@dataclass
class ShakyServer:
    """Serves `files` (path below the root: bytes).

    Args:
        statuses: by path, statuses to answer the next requests with instead.
        cuts: by path, after how many bytes of a body the next connections are cut.
        rates: by path, bytes per second.
        has_ranges: whether it answers with ranges.
        on_request: called with each request before it is answered.
    """

    files: dict[str, bytes]
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    has_ranges: bool = True
    on_request: Callable[[Request], None] = lambda request: None
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> ShakyServer:
        shaky = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shaky._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def num_sent(self) -> int:
        """Bytes of bodies sent so far."""
        return sum(request.num_sent for request in self.requests)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        request = Request(path, handler.headers.get("Range"))
        self.requests.append(request)
        self.on_request(request)
        status = self.statuses[path].pop(0) if self.statuses.get(path) else 200 if path in self.files else 404
        if status != 200:
            handler.send_error(status)
            return
        body = self.files[path]
        etag = '"' + hashlib.sha256(body).hexdigest()[:16] + '"'
        start, end = 0, len(body)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
        is_same = handler.headers.get("If-Range") in (None, etag)
        if asked is not None and self.has_ranges and is_same:
            start, end = int(asked[1]), min(int(asked[2] or end) + (1 if asked[2] else 0), end)
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                handler.send_header("ETag", etag)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        else:
            handler.send_response(200)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(end - start))
        handler.end_headers()
        self._send(handler, request, body[start:end])

    def _send(self, handler: BaseHTTPRequestHandler, request: Request, body: bytes) -> None:
        cuts = self.cuts.get(request.path)
        if cuts:
            body = body[: cuts.pop(0)]  # the connection ends after it
        rate = self.rates.get(request.path)
        step = len(body) if rate is None else max(int(rate / 20), 1)
        for offset in range(0, len(body), step or 1):
            request.num_sent += len(body[offset : offset + step])  # before the other side can go on
            try:
                handler.wfile.write(body[offset : offset + step])
            except OSError:  # the other side has gone
                return
            if rate is not None:
                time.sleep(0.05)
