"""Tests of each decoder: skipped where it is not installed, failing where everything must be (AMD_REQUIRE_ALL=1)."""

from __future__ import annotations

import os

import pytest

from amd_hf.data.video.decoding import DECODERS, available_decoders


DECODER_NAMES = tuple(DECODERS)


def require_decoder(name: str) -> str:
    """Return `name` if that decoder can be used here."""
    if name not in available_decoders():
        reason = f"the decoder {name} is not installed, or finds no FFmpeg"
        if os.environ.get("AMD_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return name
