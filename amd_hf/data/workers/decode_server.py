"""The process that decodes on behalf of another one, which may end it at any moment: see `supervised`.

It is started without `amd_hf/__init__.py`, which imports PyTorch and Transformers: this module and the readers must
not need them.

A message is the length of its header and of its payload, the header as JSON, and the payload (a file or RGB frames).
Frames travel in memory that both processes share, where the system has it and the other side asks for it: through the
socket each byte is copied twice more.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any

import numpy as np

from ...video_reading_amd import BaseVideoReader, VideoLimits
from ..video.pointers import FrameFolder
from ..video.readers import load_reader
from ..video.source import VideoReadError, VideoSource


_LENGTHS = struct.Struct("!IQ")
_MAX_HEADER_BYTES = 64 * 1024**2  # a header may list the image files of a video
_PR_SET_PDEATHSIG = 1
_SPARE_MEMORY = 1024**3  # what a decoder may take for its own work, beyond frames and file
MAX_SHARED_BYTES = 256 * 1024**2
"""Frames that take more go through the socket: the shared memory is kept for the next video."""


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
    if header_bytes > _MAX_HEADER_BYTES:
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
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        num_bytes = connection.recv_into(buffer)
        if num_bytes == 0:
            raise EOFError("the other side is gone")
        buffer = buffer[num_bytes:]


class SharedFrames:
    """Memory for frames that two processes see, behind a file descriptor: it grows to the largest that was needed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._mapping: mmap.mmap | None = None

    def put(self, frames: np.ndarray) -> None:
        """Write contiguous frames to the beginning."""
        if os.fstat(self.descriptor).st_size < frames.nbytes:
            os.ftruncate(self.descriptor, frames.nbytes)
        self.view(frames.shape)[...] = frames

    def view(self, shape: tuple[int, ...]) -> np.ndarray:
        """The uint8 array of this shape at the beginning; it keeps its mapping alive.

        Raises:
            ValueError: there is not so much memory.
        """
        num_bytes = int(np.prod(shape))
        if self._mapping is None or len(self._mapping) < num_bytes:
            if not 0 < num_bytes <= os.fstat(self.descriptor).st_size:
                raise ValueError(f"{num_bytes} bytes of shared memory")
            self._mapping = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(self._mapping, dtype=np.uint8, count=num_bytes).reshape(shape)

    def close(self) -> None:
        """Close the descriptor; arrays that were given out stay whole."""
        os.close(self.descriptor)


def main(descriptor: int, parent: int, shared: int | None = None) -> None:
    """Serve the process that holds the other end of the socket until it closes it or dies.

    Args:
        descriptor (`int`): the socket.
        parent (`int`): the other process.
        shared (`int`, *optional*): descriptor of the memory for frames.
    """
    if sys.platform == "linux":  # also while a decoder hangs and nothing is read from the socket
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
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
            server.close_reader()


class _Server:
    def __init__(self, connection: socket.socket, shared: SharedFrames | None) -> None:
        self._connection = connection
        self._shared = shared
        self._reader: BaseVideoReader | None = None
        self._memory_at_start = 0

    def answer(self, request: dict[str, Any], payload_bytes: int) -> None:
        payload: bytearray | None = None
        if payload_bytes:
            payload = bytearray(payload_bytes)
            receive_into(self._connection, memoryview(payload))
        frames: Any = b""
        try:
            answer, frames = getattr(self, f"_do_{request.pop('do')}")(payload, **request)
        except VideoReadError as error:
            answer = {"unreadable": error.reason}
        except ImportError as error:
            answer = {"not_installed": str(error)}
        except Exception:  # noqa: BLE001  # told to the parent, which raises it
            answer = {"failure": traceback.format_exc()}
        send_message(self._connection, answer, frames)

    def _do_load(self, _payload: None, reader: str) -> tuple[dict[str, Any], Any]:
        """Import what the reader needs: that is no time spent on a video, nor memory taken by one."""
        self.close_reader()
        self._bound_memory(None)
        load_reader(reader).import_decoder()
        self._memory_at_start = _data_bytes()
        return {}, b""

    def _do_open(
        self,
        payload: bytearray | None,
        reader: str,
        path: str | None,
        frame_paths: list[str] | dict[str, Any] | None,
        video_id: str | None,
        limits: dict[str, int],
        num_threads: int,
        working_folder: str | None,
    ) -> tuple[dict[str, Any], Any]:
        self.close_reader()
        if working_folder is not None:  # where relative paths start from: the parent may have changed it since
            os.chdir(working_folder)
        data = None if payload is None else bytes(payload)
        frames = FrameFolder(**frame_paths) if isinstance(frame_paths, dict) else frame_paths
        source = VideoSource(path, data, frames)
        bounds = VideoLimits(**limits)
        self._bound_memory(2 * bounds.max_decoded_bytes + 2 * len(data or b"") + _SPARE_MEMORY)
        self._reader = load_reader(reader)(source, video_id, bounds, num_threads)
        return {"num_frames": len(self._reader)}, b""

    def _do_frames(self, _payload: None, indices: list[int], is_shared: bool) -> tuple[dict[str, Any], Any]:
        assert self._reader is not None
        frames = self._reader.frames(indices)
        if is_shared and self._shared is not None and frames.nbytes <= MAX_SHARED_BYTES:
            self._shared.put(frames)
            return {"shape": frames.shape, "is_shared": True}, b""
        return {"shape": frames.shape}, frames.reshape(-1)

    def _do_frame_times(self, _payload: None) -> tuple[dict[str, Any], Any]:
        assert self._reader is not None
        times = self._reader.frame_times
        return {"shape": [times.nbytes]}, times

    def _do_inspect(self, _payload: None) -> tuple[dict[str, Any], Any]:
        assert self._reader is not None
        return {"inspection": list(self._reader.inspect())}, b""

    def _do_close(self, _payload: None) -> tuple[dict[str, Any], Any]:
        self.close_reader()
        return {}, b""

    def close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _bound_memory(self, num_bytes: int | None) -> None:
        """A file that makes its decoder take more than `num_bytes` fails here, not in the whole machine."""
        if sys.platform == "linux":
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            soft = hard if num_bytes is None else self._memory_at_start + num_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (soft if hard < 0 else min(soft, hard), hard))


def _data_bytes() -> int:
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
