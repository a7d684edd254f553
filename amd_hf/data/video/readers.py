"""Which decoders there are, which of them are installed, and the reader of each."""

from __future__ import annotations

import importlib
import importlib.util
from typing import NamedTuple

from ...video_reading_amd import BaseVideoReader
from .decoders.torchcodec_reader import why_torchcodec_is_unusable


class Decoder(NamedTuple):
    """Where the reader of a decoder is, `module:Class`, and which package it needs (as imported, as installed)."""

    reader: str
    package: str
    pip_name: str


_HERE = __package__ + ".decoders"

# The preferred one first. PyAV takes the least CPU to open and read 16 frames (105 ms, torchcodec 109, decord 123) and
# the least memory in a decoding process (25 MB, torchcodec 380), and what others read wrongly comes to it anyway.
DECODERS = {
    "pyav": Decoder("amd_hf.video_reading_amd:PyAVVideoReader", "av", "av"),
    "torchcodec": Decoder(f"{_HERE}.torchcodec_reader:TorchCodecVideoReader", "torchcodec", "torchcodec"),
    "decord": Decoder(f"{_HERE}.decord_reader:DecordVideoReader", "decord", "decord"),
}
IMAGE_READER = f"{_HERE}.images:ImageReader"


def available_decoders() -> list[str]:
    """Names of the decoders that are installed and work, the preferred one first."""
    return [name for name in DECODERS if _is_available(name)]


def reader_path(decoder: str | None) -> str:
    """Find `module:Class` of the reader for `decoder`, or of the preferred installed one for None.

    Raises:
        ValueError: an unknown name.
        ImportError: the decoder is not installed, or torchcodec finds no FFmpeg libraries.
    """
    if decoder is None:
        decoder = next((name for name in DECODERS if _is_available(name)), None)
        if decoder is None:
            raise ImportError("No video decoder is installed: run `pip install av`.")
    if decoder not in DECODERS:
        raise ValueError(f"`decoder` must be one of {sorted(DECODERS)} or None, not {decoder!r}.")
    entry = DECODERS[decoder]
    if importlib.util.find_spec(entry.package) is None:
        raise ImportError(
            f"The decoder {decoder!r} is not installed: run `pip install {entry.pip_name}`, or use "
            f"{available_decoders()}."
        )
    if not _is_available(decoder):
        raise ImportError(
            f"The decoder {decoder!r} is installed, but {why_torchcodec_is_unusable()}. Or use {available_decoders()}."
        )
    return entry.reader


def reader_class(decoder: str | None) -> type[BaseVideoReader]:
    """Find the reader for `decoder`, or for the preferred installed one; raises as `reader_path` does."""
    return load_reader(reader_path(decoder))


def load_reader(path: str) -> type[BaseVideoReader]:
    """Import `module:Class`."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def _is_available(name: str) -> bool:
    if importlib.util.find_spec(DECODERS[name].package) is None:
        return False
    return name != "torchcodec" or why_torchcodec_is_unusable() is None
