"""Ctrl-C ends a program soon, whatever it is doing.

Python raises `KeyboardInterrupt` between two instructions of the main thread, which is not enough here. The interrupt
is lost where exceptions are ignored (a destructor, a hook around `fork`: of a training that forks workers each epoch,
one Ctrl-C in some tens), and it never comes while the main thread waits in C++ (a collective operation whose other
process has gone). So a thread is told of each SIGINT by the system itself. It raises a lost interrupt again, and ends
the process where clean-up takes too long or the user presses Ctrl-C once more.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as the shell reports programs that SIGINT ends."""

SECONDS_TO_CLEAN_UP = 5.0
"""After Ctrl-C; then the process ends as it is, which a checkpoint survives: it survives `kill -9`."""

_SECONDS_BETWEEN_LOOKS = 0.1
# A terminal and a launcher may both hand on the same Ctrl-C: SIGINTs closer than this are one.
_SECONDS_OF_ONE_PRESS = 0.5
_PR_SET_PDEATHSIG = 1
_STOP = b"\0"  # no signal has this number


class Interruption:
    """What is known of Ctrl-C in the program that runs.

    Args:
        line (`Callable`): Returns what the program says when it is interrupted; "" to say nothing.
        seconds_to_clean_up (`float`): From the first Ctrl-C until the process is ended.
    """

    def __init__(self, line: Callable[[], str], seconds_to_clean_up: float = SECONDS_TO_CLEAN_UP) -> None:
        self.seconds_to_clean_up = seconds_to_clean_up
        self.is_received = False
        self._line = line
        self._is_raised = self._is_lost = False
        self._process = os.getpid()
        self._saying = threading.Lock()
        self._main_thread = threading.get_ident()

    def say(self, write: Callable[[str], Any] | None = None) -> None:
        """Write the line, once; by default to the `sys.stderr` of the main thread, which has caught the interrupt."""
        with self._saying:
            line, self._line = self._line(), lambda: ""
        if line:
            (write or sys.stderr.write)(line)

    def raise_once(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt`, as the handler of SIGINT; not again while the first one cleans up."""
        if self._is_raised and not self._is_lost:
            return
        self.is_received = self._is_raised = True
        self._is_lost = False
        raise KeyboardInterrupt

    def note_if_lost(self, ignored: Any) -> None:
        """Notice interrupts among the exceptions that Python ignores, as `sys.unraisablehook`."""
        if isinstance(ignored.exc_value, KeyboardInterrupt):
            self._is_lost = True
        else:
            sys.__unraisablehook__(ignored)

    def watch(self, signals: int) -> None:
        """Read the numbers of signals from a pipe, until `_STOP`; runs in a thread of its own."""
        first, num_own = 0.0, 0
        while True:
            wait = _SECONDS_BETWEEN_LOOKS if first else None
            numbers = os.read(signals, 1) if select.select([signals], [], [], wait)[0] else b""
            now = time.monotonic()
            if numbers == _STOP:
                os.close(signals)
                return
            if numbers == bytes([signal.SIGINT]) and num_own:
                num_own -= 1
            elif numbers == bytes([signal.SIGINT]):
                if first and now - first > _SECONDS_OF_ONE_PRESS:
                    self._end()
                first, self.is_received = first or now, True
            if first and now - first > self.seconds_to_clean_up:
                self._end()
            if self._is_lost and not num_own:  # a signal, since it also wakes a main thread that waits for something
                num_own += 1
                signal.pthread_kill(self._main_thread, signal.SIGINT)

    def end_quickly(self) -> None:
        """End the process as the last thing at its exit; after Ctrl-C nobody waits seconds until all is freed."""
        if self.is_received and os.getpid() == self._process:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            self._end()

    def _end(self) -> None:
        """End the process as it is, and the workers of its data loaders."""
        self.say(_write_without_waiting)
        if (processes := sys.modules.get("multiprocessing")) is not None:
            for worker in processes.active_children():
                worker.kill()
        os._exit(INTERRUPTED)


def _write_without_waiting(line: str) -> None:
    # The main thread may hold the lock of `sys.stderr`, and a pipe may be full because nobody reads it.
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, line.encode(errors="replace"))


_heeding: list[Interruption] = []  # of this process; at most one


def heeded_interruption() -> Interruption | None:
    """Return what a program around this one heeds: both say one line together."""
    return _heeding[0] if _heeding else None


@contextlib.contextmanager
def heed_interrupts(interruption: Interruption) -> Iterator[None]:
    """End this process soon after Ctrl-C, as `interruption` says; what runs inside may leave by `KeyboardInterrupt`.

    Nothing is changed where SIGINT is ignored (a job in the background) or handled by others (a notebook), and outside
    of the main thread.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signals, told = os.pipe()
    os.set_blocking(told, False)
    _heeding.append(interruption)
    atexit.register(interruption.end_quickly)  # before those of others are registered, so that it comes after them
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False), sys.unraisablehook
    sys.unraisablehook = interruption.note_if_lost
    threading.Thread(target=interruption.watch, args=(signals,), name="Ctrl-C", daemon=True).start()
    signal.signal(signal.SIGINT, interruption.raise_once)
    try:
        yield
    finally:
        # After Ctrl-C the watch goes on until the process has ended.
        if not interruption.is_received:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.set_wakeup_fd(before[0])
            sys.unraisablehook = before[1]
            os.write(told, _STOP)
            os.close(told)
            atexit.unregister(interruption.end_quickly)
            atexit.unregister(_ignore_interrupts)
            atexit.register(_ignore_interrupts)
            _heeding.clear()


def _ignore_interrupts() -> None:
    """Let Ctrl-C come too late: a process that has done its work and frees its memory would end with a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_it_to_the_parent() -> None:
    """Tell no signals of a process that was forked off to the thread of its parent."""
    if _heeding:
        with contextlib.suppress(ValueError):  # it was not forked by the main thread
            signal.set_wakeup_fd(-1)
        _heeding.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_it_to_the_parent)


def wait_for_processes() -> None:
    """Give this program longer to clean up than the programs that it has started, which Ctrl-C reaches too."""
    for interruption in _heeding:
        interruption.seconds_to_clean_up = SECONDS_TO_CLEAN_UP + 3


def die_with_parent() -> None:
    """Have the system kill this process when the one that started it has gone, however it ended (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def hurry_at_exit() -> None:
    """Have the process end without a search for garbage, which takes 1.5 s after PyTorch and Transformers."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


__all__ = [
    "INTERRUPTED",
    "Interruption",
    "die_with_parent",
    "heed_interrupts",
    "heeded_interruption",
    "hurry_at_exit",
    "wait_for_processes",
]
