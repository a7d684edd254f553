"""An environment in which everything is installed but this package: what a reader of a published model has."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path


def python_without_package(folder: Path) -> Path:
    """The Python of a new virtual environment in which everything is installed but `amd_hf`."""
    is_fresh = os.environ.get("AMD_FRESH_INSTALL") == "1"
    venv.create(folder, with_pip=is_fresh, symlinks=True)
    python = folder / "bin" / "python"
    if is_fresh:
        libraries = ["transformers>=5.17", "torch>=2.9", "torchvision>=0.24", "av>=17.0"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *libraries], check=True, timeout=3000)
        return python
    (packages,) = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        # Editable installs are found through such files; both spellings of the name.
        if path.name.replace("-", "_").lstrip("_").startswith("amd_hf") or "editable" in path.name:
            continue
        if path.suffix != ".pth" and not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    return python
