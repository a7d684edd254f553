"""Bytes and names choose no demuxer and no protocol: no port is opened, and no file but the one that was named."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amd_hf import AMDVideoProcessor
from amd_hf.data.video.decoding import VideoReadError, open_video
from tests.helpers.decoders import DECODER_NAMES
from tests.helpers.media_attacks import ADDRESSES, CANARY, LOCAL_NAMES, write_attacks
from tests.helpers.videos import frame_numbers, write_video


_ROOT = Path(__file__).parents[2]

# Everything that opens media, on every attack, in one process that is watched; JSON of what came out.
_WATCHED = """
import importlib.util, json, os, sys
from pathlib import Path
from amd_hf import AMDVideoProcessor
from amd_hf.data.video.decoding import open_video
from amd_hf.data.video.key_frames import times_of
from amd_hf.data.video.decoding import available_decoders
processor = AMDVideoProcessor()

def by_decoder(decoder):
    def read(source):
        with open_video(source, decoder) as video:
            return len(video.frames(range(len(video))))
    return read

ways = {name: by_decoder(name) for name in available_decoders()}
ways["processor"] = lambda name: len(processor.fetch_videos(name)[0])
ways["times"] = lambda name: len(times_of(name)) - 1
for name in available_decoders():  # whatever is imported late is imported now
    ways[name](sys.argv[1])
ways["processor"](sys.argv[1])
os.chdir(sys.argv[2])
outcome = {}
for name in json.loads(sys.argv[3]):
    tries = {way: (read, name) for way, read in ways.items()}
    if os.path.isfile(name):
        data = Path(name).read_bytes()
        tries |= {f"{way} bytes": (ways[way], data) for way in available_decoders()}
    for way, (read, source) in tries.items():
        try:
            outcome[f"{name} by {way}"] = read(source)
        except Exception as error:
            outcome[f"{name} by {way}"] = f"{type(error).__name__}: {error}"
print("OUTCOME" + json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What each way of opening made of each attack, and the system calls that open files and sockets meanwhile."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: what is opened cannot be watched")
    folder = tmp_path_factory.mktemp("attacks")
    sound = write_video(tmp_path_factory.mktemp("sound") / "warm_up.mp4")
    names = [*write_attacks(folder), *LOCAL_NAMES, *(name for name in ADDRESSES if not name.startswith("http"))]
    log = folder.parent / "calls.txt"
    done = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", str(log), "-e", "trace=open,openat,openat2,socket,connect,bind",
         sys.executable, "-c", _WATCHED, str(sound), str(folder), json.dumps(names)],
        cwd=_ROOT, env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("OUTCOME")[1]), log.read_text(errors="replace")


def _refused(outcome: dict[str, Any]) -> dict[str, Any]:
    return {case: end for case, end in outcome.items() if case.split(" by ")[0] not in LOCAL_NAMES}


def test_every_attack_is_refused_as_an_unreadable_video(watched: tuple[dict[str, Any], str]) -> None:
    outcome = _refused(watched[0])
    assert len(outcome) > 150
    assert {case: end for case, end in outcome.items() if not str(end).startswith("VideoReadError")} == {}


def test_no_socket_of_the_network_is_opened(watched: tuple[dict[str, Any], str]) -> None:
    assert re.findall(r".*AF_INET.*", watched[1]) == []


def test_no_file_is_opened_that_was_not_named(watched: tuple[dict[str, Any], str]) -> None:
    opened = [line for line in watched[1].splitlines() if CANARY in line]
    assert opened == []


def test_file_whose_name_looks_like_an_address_is_a_file(watched: tuple[dict[str, Any], str]) -> None:
    ends = {case: end for case, end in watched[0].items() if case.split(" by ")[0] in LOCAL_NAMES}
    assert len(ends) > 5 * len(LOCAL_NAMES)
    assert {case: end for case, end in ends.items() if end not in (20, 25.0)} == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [("hls.m3u8", "HLS playlist"), ("concat.mp4", "ffconcat"), ("sdp.mp4", "SDP"), ("dash.mpd", "XML file")],
)
def test_playlist_is_refused_by_name(tmp_path: Path, name: str, words: str) -> None:
    write_attacks(tmp_path)
    with pytest.raises(VideoReadError, match=f"it is .*{words}.*give the video itself"):
        open_video(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------------------
# Addresses
# ---------------------------------------------------------------------------------------------------------------------


class _Server:
    """Answers each path with what `pages` holds: a body, or an address to go to."""

    def __init__(self, pages: dict[str, bytes | str]) -> None:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                asked.append(self.path)
                page = pages.get(self.path)
                self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
                if isinstance(page, str):
                    self.send_header("Location", page)
                self.end_headers()
                if isinstance(page, bytes):
                    self.wfile.write(page)

            def log_message(self, *args: object) -> None:
                pass

        self.asked = asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, bytes | str]], _Server]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[_Server] = []

    def start(pages: dict[str, bytes | str]) -> _Server:
        servers.append(_Server(pages))
        return servers[-1]

    yield start
    for server in servers:
        server.server.shutdown()
        server.server.server_close()


def test_processor_fetches_the_address_that_it_is_given(tmp_path: Path, serve: Callable[..., _Server]) -> None:
    server = serve({"/a.mp4": write_video(tmp_path / "a.mp4", 40, 48, 64).read_bytes()})
    frames, metadata = AMDVideoProcessor().fetch_videos(f"{server.address}/a.mp4")
    assert frame_numbers(frames) == list(range(40))
    assert metadata.total_num_frames == 40
    plain = AMDVideoProcessor(num_frames=4, do_normalize=False, do_rescale=False, sampling_mode="dense")
    pixels = plain(f"{server.address}/a.mp4", return_tensors="pt")["pixel_values"]
    assert frame_numbers(pixels[0].numpy(), channel_axis=1) == [12, 16, 20, 24]


@pytest.mark.parametrize("decoder", DECODER_NAMES)
def test_open_video_fetches_nothing(tmp_path: Path, serve: Callable[..., _Server], decoder: str) -> None:
    server = serve({"/a.mp4": write_video(tmp_path / "a.mp4").read_bytes()})
    with pytest.raises(VideoReadError, match="addresses are not opened"):
        open_video(f"{server.address}/a.mp4", decoder)
    assert server.asked == []


def test_redirect_into_the_own_network_is_refused_unless_allowed(
    tmp_path: Path, serve: Callable[..., _Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = serve({"/secret.mp4": write_video(tmp_path / "a.mp4").read_bytes()})
    outside = serve({"/a.mp4": f"{inside.address}/secret.mp4"})
    with pytest.raises(VideoReadError, match=r"it leads to 127\.0\.0\.1, which lies in a private network"):
        AMDVideoProcessor().fetch_videos(f"{outside.address}/a.mp4")
    assert inside.asked == []
    monkeypatch.setenv("AMD_HF_ALLOW_PRIVATE_REDIRECTS", "1")
    assert len(AMDVideoProcessor().fetch_videos(f"{outside.address}/a.mp4")[0]) == 20


def test_name_that_means_another_machine_once_it_was_looked_up_is_refused(
    tmp_path: Path, serve: Callable[..., _Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = serve({"/secret.mp4": write_video(tmp_path / "a.mp4").read_bytes()})
    port = inside.server.server_port
    outside = serve({"/a.mp4": f"http://rebinding.invalid:{port}/secret.mp4"})
    answers = iter(["93.184.215.14", "127.0.0.1", "127.0.0.1"])
    real = __import__("socket").getaddrinfo

    def lookup(host: str, *args: Any, **kwargs: Any) -> Any:
        return real(next(answers) if host == "rebinding.invalid" else host, *args, **kwargs)

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    with pytest.raises(VideoReadError, match="private network"):
        AMDVideoProcessor().fetch_videos(f"{outside.address}/a.mp4")
    assert inside.asked == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/hostname", "file:///etc/hostname' is not allowed"),
        ("ftp://127.0.0.1/a.mp4", "neither http nor https"),
        ("http://169.254.169.254/latest", "private network"),
        ("http://[::1]:9/a.mp4", "private network"),
        ("http://[::ffff:10.0.0.1]/a.mp4", "private network"),
        ("/a.mp4", "private network|infinite loop"),
    ],
)
def test_redirect_elsewhere_is_refused(serve: Callable[..., _Server], target: str, words: str) -> None:
    server = serve({"/a.mp4": target})
    with pytest.raises(VideoReadError, match=words):
        AMDVideoProcessor().fetch_videos(f"{server.address}/a.mp4")


@pytest.mark.parametrize("name", ["hls.m3u8", "sdp.mp4", "concat.mp4"])
def test_playlist_from_an_address_is_refused(tmp_path: Path, serve: Callable[..., _Server], name: str) -> None:
    write_attacks(tmp_path)
    server = serve({f"/{name}": (tmp_path / name).read_bytes()})
    with pytest.raises(VideoReadError, match="give the video itself"):
        AMDVideoProcessor().fetch_videos(f"{server.address}/{name}")
    assert server.asked == [f"/{name}"]


def test_what_cannot_be_fetched_is_named(serve: Callable[..., _Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve({"/big.mp4": b"x" * 5000})
    with pytest.raises(VideoReadError, match=r"Cannot read video 'http://.*/none\.mp4': it cannot be fetched: .*404"):
        AMDVideoProcessor().fetch_videos(f"{server.address}/none.mp4")
    with pytest.raises(VideoReadError, match="user name or password") as caught:
        AMDVideoProcessor().fetch_videos("http://me:secret@127.0.0.1/a.mp4")
    assert "secret" not in str(caught.value)
    from amd_hf.video_fetching_amd import fetch_video

    with pytest.raises(VideoReadError, match="larger than the limit of 4999 bytes"):
        fetch_video(f"{server.address}/big.mp4", max_bytes=4999)
