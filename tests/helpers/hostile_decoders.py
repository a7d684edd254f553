"""Decoders that do what no decoder may do. The name of the video says what."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from amd_hf.video_reading_amd import PyAVDecoder, VideoDecoder


HOSTILE = ("tests.helpers.hostile_decoders:HostileDecoder", "av")
"""An entry for `decoding.DECODERS`."""

_IS_DAMAGED = False


class HostileDecoder(PyAVDecoder):
    """Reads like PyAV, except the videos whose names begin with what it does to them."""

    def __init__(self, source, *args, **kwargs) -> None:  # noqa: ANN001, ANN002, ANN003
        global _IS_DAMAGED
        name = Path(source.path or "").name
        if _IS_DAMAGED:
            os.abort()
        if name.startswith("abort_on_open"):
            os.abort()
        if name.startswith("damages_its_process"):
            _IS_DAMAGED = True
        if name.startswith("takes_all_memory"):
            VideoDecoder.__init__(self, source, *args, **kwargs)
            self.packets = None
            with self._faults_of_the_file("hostile"):
                np.ones(16 * 1024**3, dtype=np.uint8)
        super().__init__(source, *args, **kwargs)
        self._name = name

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._name.startswith("abort_on_read"):
            os.abort()
        if self._name.startswith("sleep"):
            sleep_in_c()
        if self._name.startswith("bug"):
            raise KeyError("a mistake in the reader")
        if self._name.startswith("slow"):
            time.sleep(0.4)
        return super()._read(indices)


def sleep_in_c() -> None:
    """Sleep for ten minutes in a C function, with the interpreter locked and every signal blocked that can be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter's lock, as a decoder may
