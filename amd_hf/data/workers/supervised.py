"""Decoding in a process of its own, which can be killed: for a decoder that hangs, crashes or takes all memory.

A process of a data loader (or any other) starts one decoding process when it first needs one, keeps it for the next
videos, and replaces it when it had to be killed. It is an ordinary child (`subprocess`), since the workers of a data
loader may not start `multiprocessing` ones, and dies with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np

from ...video_reading_amd import BaseVideoReader, Inspection, VideoLimits
from ..video.pointers import FrameFolder
from ..video.source import VideoReadError, VideoSource
from .decode_server import SharedFrames, receive_header, receive_into, send_message


logger = logging.getLogger(__name__)

DEFAULT_TIME_LIMIT = 60.0
"""Seconds that a video may take unless told otherwise: about a thousand times the usual."""

_START_LIMIT = 300.0  # seconds for imports, which may come over a slow network
_CLOSE_LIMIT = 5.0

# The package of this process, wherever the new one would look for it, and nothing of it but what decoding needs.
_START = """
import sys, types
package = types.ModuleType("amd_hf")
package.__path__ = [sys.argv[1]]
sys.modules["amd_hf"] = package
from amd_hf.data.workers.decode_server import main
main(*map(int, sys.argv[2:]))
"""


class SupervisedReader(BaseVideoReader):
    """Reads through another reader that runs in a decoding process.

    Args:
        reader (`str`): `module:Class` of that reader.
        source, video_id, limits, num_threads: as for that reader.
        time_limit (`float`): seconds that opening and reading the video may take together.
        is_limit_per_read (`bool`, defaults to `False`): the limit counts anew for each call of `frames`.

    Raises:
        VideoReadError: what the reader raises; the time is over; or the decoder crashed its process, twice if the
            first time an earlier video may have been to blame.
        ImportError: the decoder is not installed.
    """

    source: VideoSource

    def __init__(
        self,
        reader: str,
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
        self._reader = reader
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
        """Send a request and return its answer, frames as an array."""
        while True:
            process = self._process or self._start()
            try:
                if self._process is None:
                    self._process = process
                    answer = self._timed(process, self._open_request(), self.source.data or b"")
                    if request["do"] == "open" or isinstance(answer, dict) and "num_frames" not in answer:
                        return self._checked(answer)
                return self._checked(self._timed(process, request))
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
                # An earlier video may have left the process damaged: only a fresh one tells whose fault it is.

    def _start(self) -> _DecodingProcess:
        process = _POOL.take(self._reader)
        process.num_videos += 1
        return process

    def _timed(self, process: _DecodingProcess, request: dict[str, Any], payload: bytes = b"") -> Any:
        started = time.monotonic()
        try:
            return process.call(request, payload, self._time_left(), self.limits.max_decoded_bytes)
        finally:
            self._time_spent += time.monotonic() - started

    def _time_left(self) -> float:
        return max(self._time_limit - self._time_spent, 0.001)

    def _open_request(self) -> dict[str, Any]:
        paths = self.source.frame_paths
        frames = vars(paths) if isinstance(paths, FrameFolder) else None if paths is None else list(paths)
        return {
            "do": "open",
            "reader": self._reader,
            "path": self.source.path,
            "frame_paths": frames,
            "video_id": self.video_id,
            "limits": dataclasses.asdict(self.limits),
            "num_threads": self.num_threads,
            "working_folder": _working_folder(),
        }

    def _checked(self, answer: Any) -> Any:
        """Return an answer, or raise the fault that it tells."""
        if isinstance(answer, np.ndarray):
            return answer
        if "unreadable" in answer:
            raise self._error(answer["unreadable"])
        if "failure" in answer:
            raise RuntimeError(f"The decoding process failed on {self.source}:\n{answer['failure']}")
        return answer


def _working_folder() -> str | None:
    """The folder that relative paths start from; None where it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


class _DecodingProcess:
    """A process that runs `decode_server.main`, and the socket to it."""

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
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, package, *map(str, (theirs.fileno(), os.getpid(), *memory))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *memory],
                env=environment,
            )
        _PROCESSES.add(self)

    def load(self, reader: str) -> None:
        """Have the modules of a reader imported."""
        if reader in self._loaded:
            return
        try:
            answer = self.call({"do": "load", "reader": reader}, b"", _START_LIMIT)
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"The decoding process does not start ({_describe(self.kill())}); see its messages above."
            ) from error
        if "not_installed" in answer:
            self.kill()
            raise ImportError(answer["not_installed"])
        if answer:
            self.kill()
            raise RuntimeError(f"The decoding process cannot import {reader}:\n{answer['failure']}")
        self._loaded.add(reader)

    def is_alive(self) -> bool:
        return self._process.poll() is None

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
        if num_bytes == 0:
            return self._shared_frames(answer, max_bytes) if "is_shared" in answer else answer
        if num_bytes > max_bytes or int(np.prod(answer["shape"])) != num_bytes:
            raise ValueError(f"an answer of {num_bytes} bytes")
        frames = np.empty(answer["shape"], dtype=np.uint8)
        receive_into(self._connection, frames.data.cast("B"), deadline)
        return frames

    def holds_frames(self) -> bool:
        """Whether somebody still uses frames that lie in the shared memory, which must not change meanwhile."""
        return self._frames_in_memory is not None and self._frames_in_memory() is not None

    def _shared_frames(self, answer: dict[str, Any], max_bytes: int) -> np.ndarray:
        if self._memory is None or int(np.prod(answer["shape"])) > max_bytes:
            raise ValueError(f"an answer of shape {answer['shape']}")
        frames = self._memory.view(tuple(answer["shape"]))
        # Views of an array that does not own its memory have it as their base: it lives as long as any of them.
        assert frames.base is not None
        self._frames_in_memory = weakref.ref(frames.base)
        return frames

    def retire_after_fork(self) -> None:
        """Frames in use may be used on in a process forked off: this one's memory is not written to any more."""
        if self.holds_frames() and self._memory is not None:
            self._memory.close()
            self._memory = None

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
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _new_memory() -> SharedFrames | None:
    """Memory for frames that a child can be given; None where the system has no nameless kind."""
    return SharedFrames(os.memfd_create("amd_hf frames")) if sys.platform == "linux" else None


class _Pool:
    """The decoding processes of this process that wait for a video: as many as were ever used at the same time."""

    def __init__(self) -> None:
        self._idle: list[_DecodingProcess] = []
        self._lock = threading.Lock()

    def take(self, reader: str) -> _DecodingProcess:
        process = None
        while process is None:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                process = _DecodingProcess()
            elif not process.is_alive():
                process.kill()
                process = None
        process.load(reader)
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
        """The processes belong to the parent."""
        self._lock = threading.Lock()
        for process in self._idle:
            process.forget()
        self._idle = []


def _describe(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def _retire_after_fork() -> None:
    for process in list(_PROCESSES):
        process.retire_after_fork()


_POOL = _Pool()
_PROCESSES: weakref.WeakSet[_DecodingProcess] = weakref.WeakSet()
atexit.register(_POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget_after_fork, after_in_parent=_retire_after_fork)
