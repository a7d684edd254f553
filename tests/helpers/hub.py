"""A stand-in for the Hub's HTTP API: records what is asked of it, and keeps the files of a commit."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from amd_hf import AMDForVideoClassification, AMDVideoProcessor
from tests.helpers.models import randomize, tiny_config


CODE = {
    "configuration_amd.py",
    "modeling_amd.py",
    "video_codecs_amd.py",
    "video_fetching_amd.py",
    "video_index_amd.py",
    "video_packets_amd.py",
    "video_processing_amd.py",
    "video_reading_amd.py",
    "video_sampling_amd.py",
}
"""What `save_pretrained` writes beside a model of `modeling_amd.py` and its processor."""

PUBLISHED = {*CODE, "config.json", "model.safetensors", "video_preprocessor_config.json", "README.md"}
CARD = "---\nlibrary_name: transformers\npipeline_tag: video-classification\nlicense: mit\n---\n# A model\n"


def save_classifier(folder: Path) -> None:
    """Writes a tiny classifier with random weights and its processor, as a run leaves them."""
    model = randomize(AMDForVideoClassification(tiny_config(image_size=16)))
    model.save_pretrained(folder)
    AMDVideoProcessor.for_model(model.config).save_pretrained(folder)


class HubStandIn:
    """What the Hub was asked (`calls`: method and path), the files it was given, the payload of the new repository."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.calls: list[str] = []
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and answer to a call."""
        path = path.partition("?")[0]
        self.calls.append(f"{method} {path}")
        if self.refuses:
            return 401, {"error": "Invalid credentials"}
        if path == "/api/repos/create":
            request = json.loads(body)
            self.created.append(request)
            name = f"{request['organization']}/{request['name']}" if request["organization"] else request["name"]
            return 200, {"url": f"{self.address}/{name}", "name": name, "id": "1"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return 200, {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": f"{self.address}/me/model/commit/{'0' * 40}",
            }
        if "/revision/" in path or path.startswith("/api/models/"):
            return 200, {"id": "me/model", "sha": "0" * 40, "siblings": [], "private": False}
        return 404, {"error": f"no {path} here"}


@contextmanager
def hub_stand_in(refuses: bool = False) -> Iterator[HubStandIn]:
    """Serves a [`HubStandIn`] on this machine; its `address` is for the environment variable `HF_ENDPOINT`."""
    hub = HubStandIn(refuses)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = hub.answer(self.command, self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_HEAD = _serve

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
