from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture(autouse=True)
def access_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves rules, or files in memory, to the next one."""
    monkeypatch.setenv("AMD_HF_REMOTE_ACCESS", "{}")
    yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
