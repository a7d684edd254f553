"""Packages that only some tests need."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def optional_package(name: str) -> ModuleType:
    """The package; where it is not installed the test skips, or fails under `make test-quantisation`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"{name} is not installed ({error}): `make test-quantisation` installs what these tests need"
        if os.environ.get("AMD_REQUIRE_QUANTISERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
