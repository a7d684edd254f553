"""Decoding in a process of its own, which can be killed: for a decoder that hangs, crashes or takes all memory.

    this process                                                 decoding process
    SupervisedDecoder -> _Pool -> _DecodingProcess  <- socket ->  main -> _Server -> any VideoDecoder
                                        ^------- shared memory for frames -------^

A process of a data loader (or any other) starts one decoding process when it first needs one, keeps it for the next
videos, and replaces it when it had to be killed. It is an ordinary child (`subprocess`), since the workers of a data
loader may not start `multiprocessing` ones, and dies with its parent. It is started without `amd_hf/__init__.py`, so
that it imports neither PyTorch nor Transformers: this module and the decoders must not need them.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import json
import logging
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import numpy as np

from ...video_reading_amd import Inspection, VideoDecoder, VideoLimits
from .source import FrameFolder, VideoReadError, VideoSource


logger = logging.getLogger(__name__)

DEFAULT_TIME_LIMIT = 60.0
"""Default for the seconds that a video may take: about a thousand times the usual."""

_START_LIMIT = 300.0  # seconds for imports, which may come over a slow network
_CLOSE_LIMIT = 5.0
_SPARE_MEMORY = 1024**3  # what a decoder may take for its own work, beyond frames and file


# ---------------------------------------------------------------------------------------------------------------------
# What travels between the two
# ---------------------------------------------------------------------------------------------------------------------

# A message is the length of its header (4 bytes) and of its payload (8 bytes), the header as JSON, and the payload.
#
#     request                                                       answer
#     {"do": "load", "decoder": "module:Class"}                     {}
#     {"do": "open", "decoder", "path", ...}, the file's bytes      {"num_frames": n}
#     {"do": "frames", "indices": [...], "is_shared": bool}         {"shape": [n, H, W, 3]}, RGB bytes
#                                                                   or {"shape", "is_shared": true}: in shared memory
#     {"do": "frame_times"}                                         {"shape": [8 * (n + 1)]}, float64 as bytes
#     {"do": "inspect"}                                             {"inspection": [fields of `Inspection`]}
#     {"do": "run", "function": "module:function", "arguments"}     {"result": what it returns}
#     {"do": "close"}                                               {}
#
# Instead of an answer there may be {"unreadable": reason}, {"not_installed": message} or {"failure": traceback}.
_LENGTHS = struct.Struct("!IQ")
_MAX_HEADER_BYTES = 64 * 1024**2  # a header may list the image files of a video
# Frames that take more go through the socket, where each byte is copied twice more: shared memory is kept for the next
# video.
_MAX_SHARED_BYTES = 256 * 1024**2


def send_message(connection: socket.socket, header: dict[str, Any], payload: Any = b"") -> None:
    """Send a header and the bytes of any buffer."""
    data = memoryview(payload).cast("B")
    encoded = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(encoded), len(data)) + encoded)
    if len(data):
        connection.sendall(data)


def receive_header(connection: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], int]:
    """Receive a header, and the length of the payload that follows; raises as `receive_into`."""
    lengths = bytearray(_LENGTHS.size)
    receive_into(connection, memoryview(lengths), deadline)
    header_bytes, payload_bytes = _LENGTHS.unpack(lengths)
    if header_bytes > _MAX_HEADER_BYTES:  # the other side went wild: no memory for what it says
        raise EOFError(f"a header of {header_bytes} bytes")
    header = bytearray(header_bytes)
    receive_into(connection, memoryview(header), deadline)
    return json.loads(header), payload_bytes


def receive_into(connection: socket.socket, buffer: memoryview, deadline: float | None = None) -> None:
    """Fill `buffer` before `deadline` (of `time.monotonic`).

    Raises:
        TimeoutError: the deadline is over.
        EOFError: the other side is gone.
    """
    while len(buffer):
        if deadline is not None:  # anew for each part: a decoder that sends a byte a second must not live on
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        num_bytes = connection.recv_into(buffer)
        if num_bytes == 0:
            raise EOFError("the other side is gone")
        buffer = buffer[num_bytes:]


class SharedFrames:
    """Shared memory for frames, behind a file descriptor; it grows to the largest size that was needed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._mapping: mmap.mmap | None = None

    def put(self, frames: np.ndarray) -> None:
        """Write contiguous frames to the beginning."""
        if os.fstat(self.descriptor).st_size < frames.nbytes:
            os.ftruncate(self.descriptor, frames.nbytes)
        self.view(frames.shape)[...] = frames

    def view(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the uint8 array of this shape at the beginning; it keeps its mapping alive.

        Raises:
            ValueError: there is not so much memory.
        """
        num_bytes = int(np.prod(shape))
        if self._mapping is None or len(self._mapping) < num_bytes:
            # Reading a mapping beyond the end of its file kills a process (SIGBUS): the file is asked first.
            if not 0 < num_bytes <= os.fstat(self.descriptor).st_size:
                raise ValueError(f"{num_bytes} bytes of shared memory")
            self._mapping = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(self._mapping, dtype=np.uint8, count=num_bytes).reshape(shape)

    def close(self) -> None:
        """Close the descriptor; arrays that were given out stay whole."""
        os.close(self.descriptor)


# ---------------------------------------------------------------------------------------------------------------------
# The decoding process
# ---------------------------------------------------------------------------------------------------------------------


def main(descriptor: int, parent: int, shared: int | None = None) -> None:
    """Serve the process that holds the other end of the socket until it closes it or dies.

    Args:
        descriptor (`int`): the socket.
        parent (`int`): the other process.
        shared (`int`, *optional*): descriptor of the memory for frames.
    """
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: die with the parent, also while a decoder hangs and nothing is read from the socket.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that
            return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    with socket.socket(fileno=descriptor) as connection:
        server = _Server(connection, None if shared is None else SharedFrames(shared))
        try:
            while True:
                server.answer(*receive_header(connection))
        except (EOFError, ConnectionError):
            pass
        finally:
            server.do_close(None)


class _Server:
    """Server of requests about one video at a time: each `do_*` takes a payload and fields, and gives an answer."""

    def __init__(self, connection: socket.socket, shared: SharedFrames | None) -> None:
        self._connection = connection
        self._shared = shared
        self._video: VideoDecoder | None = None
        self._memory_at_start = 0

    def answer(self, request: dict[str, Any], payload_bytes: int) -> None:
        """Receive the payload of a request, do what it asks, and send the answer."""
        payload: bytearray | None = None
        if payload_bytes:
            payload = bytearray(payload_bytes)
            receive_into(self._connection, memoryview(payload))
        frames: Any = b""
        try:
            answer, frames = getattr(self, f"do_{request.pop('do')}")(payload, **request)
        except VideoReadError as error:
            answer = {"unreadable": error.reason}
        except ImportError as error:
            answer = {"not_installed": str(error)}
        except Exception:  # noqa: BLE001  # sent to the parent, which raises it
            answer = {"failure": traceback.format_exc()}
        send_message(self._connection, answer, frames)

    def do_load(self, _payload: None, decoder: str) -> tuple[dict[str, Any], Any]:
        """Import what the decoder needs: that is no time spent on a video, nor memory taken by one."""
        self.do_close(None)
        self._bound_memory(None)
        resolve_name(decoder).import_decoder()
        if sys.platform == "linux":
            with open("/proc/self/statm") as file:  # its sixth number is what RLIMIT_DATA bounds, in pages
                self._memory_at_start = int(file.read().split()[5]) * resource.getpagesize()
        return {}, b""

    def do_open(
        self,
        payload: bytearray | None,
        decoder: str,
        path: str | None,
        frame_paths: list[str] | dict[str, Any] | None,
        video_id: str | None,
        limits: dict[str, int],
        num_threads: int,
        working_folder: str | None,
    ) -> tuple[dict[str, Any], Any]:
        self.do_close(None)
        if working_folder is not None:  # where relative paths start from: the parent may have changed it since
            os.chdir(working_folder)
        data = None if payload is None else bytes(payload)
        frames = FrameFolder(**frame_paths) if isinstance(frame_paths, dict) else frame_paths
        bounds = VideoLimits(**limits)
        # Frames and file are held twice at times: by the decoder, and on their way here or there.
        self._bound_memory(2 * bounds.max_decoded_bytes + 2 * len(data or b"") + _SPARE_MEMORY)
        self._video = resolve_name(decoder)(VideoSource(path, data, frames), video_id, bounds, num_threads)
        return {"num_frames": len(self._video)}, b""

    def do_frames(self, _payload: None, indices: list[int], is_shared: bool) -> tuple[dict[str, Any], Any]:
        assert self._video is not None
        frames = self._video.frames(indices)
        # Through the socket each byte is copied twice more; memory for the next video is kept small all the same.
        if is_shared and self._shared is not None and frames.nbytes <= _MAX_SHARED_BYTES:
            self._shared.put(frames)
            return {"shape": frames.shape, "is_shared": True}, b""
        return {"shape": frames.shape}, frames.reshape(-1)

    def do_frame_times(self, _payload: None) -> tuple[dict[str, Any], Any]:
        assert self._video is not None
        times = self._video.frame_times
        return {"shape": [times.nbytes]}, times

    def do_inspect(self, _payload: None) -> tuple[dict[str, Any], Any]:
        assert self._video is not None
        return {"inspection": list(self._video.inspect())}, b""

    def do_run(self, _payload: None, function: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        return {"result": resolve_name(function)(self._video, **arguments)}, b""

    def do_close(self, _payload: None) -> tuple[dict[str, Any], Any]:
        video, self._video = self._video, None
        if video is not None:
            video.close()
        return {}, b""

    def _bound_memory(self, num_bytes: int | None) -> None:
        """Let a file that makes its decoder take more than `num_bytes` fail here, not in the whole machine."""
        if sys.platform == "linux":
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            soft = hard if num_bytes is None else self._memory_at_start + num_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (soft if hard < 0 else min(soft, hard), hard))


# ---------------------------------------------------------------------------------------------------------------------
# The side of those who want frames
# ---------------------------------------------------------------------------------------------------------------------


class SupervisedDecoder(VideoDecoder):
    """A decoder that stands for another one, which runs in a decoding process.

    Args:
        decoder (`str`): `module:Class` of that decoder.
        source, video_id, limits, num_threads: as for that decoder.
        time_limit (`float`): seconds that opening and reading the video may take together.
        is_limit_per_read (`bool`, defaults to `False`): the limit counts anew for each call of `frames`.

    Raises:
        VideoReadError: what the decoder raises; the time is over; or the decoder crashed its process, twice if the
            first time an earlier video may have been to blame.
        ImportError: the decoder is not installed.
    """

    source: VideoSource

    def __init__(
        self,
        decoder: str,
        source: VideoSource,
        video_id: str | None,
        limits: VideoLimits,
        num_threads: int,
        time_limit: float,
        is_limit_per_read: bool = False,
    ) -> None:
        super().__init__(source, video_id, limits, num_threads)
        if not time_limit > 0:
            raise ValueError(f"`time_limit` must be above 0 seconds, not {time_limit}.")
        self._decoder = decoder
        self._time_limit = time_limit
        self._is_limit_per_read = is_limit_per_read
        self._time_spent = 0.0
        self._process: _DecodingProcess | None = None
        try:
            self._num_frames = self._call({"do": "open"})["num_frames"]
        except VideoReadError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._num_frames

    @property
    def frame_times(self) -> np.ndarray:
        return self._call({"do": "frame_times"}).view(np.float64)

    def inspect(self) -> Inspection:
        return Inspection(*self._call({"do": "inspect"})["inspection"])

    def run(self, function: str, arguments: dict[str, Any]) -> Any:
        """Call `function` (`module:function`) in the decoding process, with the open video as its first argument.

        Its other arguments and its result are what JSON can write. It runs again if an earlier video has damaged the
        process; what it raises for the file's fault, and a crash, is a `VideoReadError` as for any reading.
        """
        return self._call({"do": "run", "function": function, "arguments": arguments})["result"]

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.call({"do": "close"}, b"", _CLOSE_LIMIT)
        except (TimeoutError, OSError, EOFError, ValueError):
            process.kill()
            logger.warning("%s was read, but its decoder did not end in order: its process was replaced.", self.source)
        else:
            _POOL.give_back(process)

    def __del__(self, is_finalizing: Any = sys.is_finalizing) -> None:
        process = getattr(self, "_process", None)
        if process is not None and not is_finalizing():  # at the end of the interpreter the pool has ended it
            process.kill()

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._is_limit_per_read:
            self._time_spent = 0.0
        return self._call({"do": "frames", "indices": indices.tolist()})

    def _call(self, request: dict[str, Any]) -> Any:
        """Send a request and return its answer, frames as an array; open the video first in a process that is new."""
        while True:
            process = self._process or _POOL.take(self._decoder)
            try:
                if self._process is None:
                    self._process = process
                    process.num_videos += 1
                    answer = self._ask(process, self._open_request(), self.source.data or b"")
                    if request["do"] == "open":
                        return answer
                return self._ask(process, request)
            except VideoReadError:
                raise
            except (EOFError, OSError, ValueError) as error:
                self._process = None
                exit_code = process.kill()
                if isinstance(error, TimeoutError):
                    raise self._error(
                        f"its decoder took more than {self._time_limit:g} seconds (`time_limit`) and was ended"
                    ) from None
                if process.num_videos <= 1:
                    raise self._error(f"its decoder crashed ({_describe(exit_code)})") from error
                # An earlier video may have left the process damaged: only a fresh one shows whose fault it is.

    def _ask(self, process: _DecodingProcess, request: dict[str, Any], payload: bytes = b"") -> Any:
        """Return the answer of a process, or raise its fault; only its time counts, not the caller's."""
        started = time.monotonic()
        time_left = max(self._time_limit - self._time_spent, 0.001)
        try:
            answer = process.call(request, payload, time_left, self.limits.max_decoded_bytes)
        finally:
            self._time_spent += time.monotonic() - started
        if isinstance(answer, dict) and "unreadable" in answer:
            raise self._error(answer["unreadable"])
        if isinstance(answer, dict) and "failure" in answer:
            raise RuntimeError(f"The decoding process failed on {self.source}:\n{answer['failure']}")
        return answer

    def _open_request(self) -> dict[str, Any]:
        try:
            working_folder = os.getcwd()
        except FileNotFoundError:  # it has been deleted
            working_folder = None
        paths = self.source.frame_paths
        return {
            "do": "open",
            "decoder": self._decoder,
            "path": self.source.path,
            "frame_paths": vars(paths) if isinstance(paths, FrameFolder) else None if paths is None else list(paths),
            "video_id": self.video_id,
            "limits": dataclasses.asdict(self.limits),
            "num_threads": self.num_threads,
            "working_folder": working_folder,
        }


# The package of this process, wherever the new one would look for it, and nothing of it but what decoding needs.
_START = """
import sys, types
package = types.ModuleType("amd_hf")
package.__path__ = [sys.argv[1]]
sys.modules["amd_hf"] = package
from amd_hf.data.video.decoding_process import main
main(*map(int, sys.argv[2:]))
"""


class _DecodingProcess:
    """A process that runs `main`, and the socket to it."""

    def __init__(self) -> None:
        self.num_videos = 0
        self._owner = os.getpid()
        self._loaded: set[str] = set()
        self._memory = _new_memory()
        self._frames_in_memory: weakref.ref[np.ndarray] | None = None
        self._connection, theirs = socket.socketpair()
        package = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        memory = [] if self._memory is None else [self._memory.descriptor]
        with theirs, _sigint_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, package, *map(str, (theirs.fileno(), os.getpid(), *memory))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *memory],
                env=environment,
            )
        _PROCESSES.add(self)

    def load(self, decoder: str) -> None:
        """Have the modules of a decoder imported."""
        if decoder in self._loaded:
            return
        try:
            answer = self.call({"do": "load", "decoder": decoder}, b"", _START_LIMIT)
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"The decoding process does not start ({_describe(self.kill())}); see its messages above."
            ) from error
        if "not_installed" in answer:
            self.kill()
            raise ImportError(answer["not_installed"])
        if answer:
            self.kill()
            raise RuntimeError(f"The decoding process cannot import {decoder}:\n{answer['failure']}")
        self._loaded.add(decoder)

    def call(self, request: dict[str, Any], payload: Any, limit: float, max_bytes: int = 0) -> Any:
        """Send a request and wait for its answer: a dict, or an array where it holds frames.

        Raises:
            TimeoutError: no whole answer within `limit` seconds.
            EOFError, OSError, ValueError: the process died, or sent what is no answer.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("A video was opened in one process and used in another: open it where it is used.")
        if request["do"] == "frames":
            request = request | {"is_shared": self._memory is not None and not self.holds_frames()}
        deadline = time.monotonic() + limit
        self._connection.settimeout(limit)
        send_message(self._connection, request, payload)
        answer, num_bytes = receive_header(self._connection, deadline)
        if "shape" not in answer:
            return answer
        # A decoder that went wild may promise anything: no memory is taken for more than was asked for.
        shape = tuple(answer["shape"])
        size = int(np.prod(shape))
        if size > max_bytes or (num_bytes != size and "is_shared" not in answer):
            raise ValueError(f"an answer of {num_bytes} bytes and shape {shape}")
        if "is_shared" not in answer:
            frames = np.empty(shape, dtype=np.uint8)
            receive_into(self._connection, frames.data.cast("B"), deadline)
            return frames
        if self._memory is None:
            raise ValueError("frames in memory that is not shared")
        frames = self._memory.view(shape)
        # Views of an array that does not own its memory have it as their base: it lives as long as any of them.
        assert frames.base is not None
        self._frames_in_memory = weakref.ref(frames.base)
        return frames

    def holds_frames(self) -> bool:
        """Return whether somebody still uses frames that lie in the shared memory, which must not change meanwhile."""
        return self._frames_in_memory is not None and self._frames_in_memory() is not None

    def kill(self) -> int | None:
        """End the process at once and return its exit code; None where the system cannot end it (a dead disk)."""
        self.forget()
        if os.getpid() != self._owner:
            return None
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_LIMIT)
        return self._process.returncode

    def forget(self) -> None:
        """Close this side of the socket; the process ends when nobody else holds it."""
        self._connection.close()
        self.forget_memory()

    def forget_memory(self) -> None:
        """Have no more frames written to the shared memory; those that are there stay as they are."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Have processes that start inside inherit a blocked SIGINT: Ctrl-C reaches them before they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _new_memory() -> SharedFrames | None:
    """Make memory for frames that a child can be given; None where the system has no nameless kind."""
    return SharedFrames(os.memfd_create("amd_hf frames")) if sys.platform == "linux" else None


class _Pool:
    """The decoding processes of this process that wait for a video: as many as were ever used at the same time."""

    def __init__(self) -> None:
        self._idle: list[_DecodingProcess] = []
        self._lock = threading.Lock()

    def take(self, decoder: str) -> _DecodingProcess:
        """Return a living process that has imported `decoder`."""
        process = None
        while process is None:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                process = _DecodingProcess()
            elif process._process.poll() is not None:
                process.kill()
                process = None
        try:
            process.load(decoder)
        except BaseException:  # Ctrl-C too: nobody else would end it before it has imported all that it needs
            process.kill()
            raise
        return process

    def give_back(self, process: _DecodingProcess) -> None:
        with self._lock:
            self._idle.append(process)

    def close(self) -> None:
        """End all processes, those in use too."""
        with self._lock:
            self._idle = []
        for process in list(_PROCESSES):
            process.kill()

    def forget_after_fork(self) -> None:
        """Leave the processes to the parent; its threads, one of which may hold the lock, were not forked."""
        self._lock = threading.Lock()
        for process in self._idle:
            process.forget()
        self._idle = []


def _describe(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def _retire_memory_after_fork() -> None:
    """Write no more to memory with frames in use: the process that was forked off may use them on."""
    for process in list(_PROCESSES):
        if process.holds_frames():
            process.forget_memory()


_POOL = _Pool()
_PROCESSES: weakref.WeakSet[_DecodingProcess] = weakref.WeakSet()
atexit.register(_POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget_after_fork, after_in_parent=_retire_memory_after_fork)


__all__ = ["DEFAULT_TIME_LIMIT", "SupervisedDecoder"]
