"""A folder of teacher features: with the same views of every video each time, the teacher sees each of them once.

    FOLDER/teacher.json        whose features these are; another teacher is refused
    FOLDER/3f/3f9c...          features of one clip, float16: first (V, D) of each direct layer, then (X, D) of each
                               generation layer
    FOLDER/3f/.3f9c....e1f4    what a process is writing, or was when it was killed

A file's name is a hash of the teacher, of the clip's pixels and of its masks. So it does not matter how a clip came
about: other videos, crops, frames or masks have other names, and features of another input are never read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..modeling_amd import TokenSplit
from ..outputs.folders import replace_file
from .frozen import FrozenTeacher


IDENTITY_NAME = "teacher.json"

Features = tuple[list[torch.Tensor], list[torch.Tensor]]


class TeacherCache:
    """Features of a frozen teacher on disk, float16, one file per clip.

    Several processes and runs may share a folder: a file appears under its name when it is whole, and a process that
    is killed leaves at most one unfinished file behind, which nobody reads.

    Args:
        folder (`str` or `Path`): Where the files are: a cache of the same teacher, empty, or not there yet.
        teacher ([`FrozenTeacher`]): Whose features they are.
        fingerprint (`str`): Of its weights: `teacher.fingerprint()`.
        precision (`str`): Type that autocast computes in.

    Raises:
        ValueError: If the folder is of another teacher, or holds other files.
    """

    def __init__(self, folder: str | Path, teacher: FrozenTeacher, fingerprint: str, precision: str):
        self.folder = Path(folder)
        self._teacher = teacher
        identity = {"fingerprint": fingerprint, "precision": precision, **_other_facts(teacher), **teacher.settings()}
        self._claim({"source": teacher.source, **identity})
        self._identity = json.dumps(identity, sort_keys=True).encode()
        self._num_clips = self._num_found = 0

    def _claim(self, identity: dict[str, Any]) -> None:
        """Write down whose features these are, or compare with what is written."""
        file = self.folder / IDENTITY_NAME
        self.folder.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            # A process of the same run may be writing it at this moment.
            names = [path.name for path in self.folder.iterdir() if IDENTITY_NAME not in path.name]
            if names and not file.is_file():
                raise ValueError(
                    f"`teacher_cache` {self.folder} is no cache of a teacher's features, and not empty (it holds "
                    f"{names[0]}): give a new folder."
                )
            replace_file(file, json.dumps(identity, indent=2).encode())
        before = json.loads(file.read_text())
        # The source is for the reader: the same weights may lie elsewhere now.
        changed = [
            name for name in sorted({*before, *identity} - {"source"}) if before.get(name) != identity.get(name)
        ]
        if changed:
            differences = "; ".join(f"{name}: {before.get(name)}, now {identity.get(name)}" for name in changed)
            raise ValueError(
                f"`teacher_cache` {self.folder} holds features of another teacher, or of one used in another way "
                f"({differences}): give another folder, or the teacher and options of before."
            )

    def bytes_per_clip(self) -> int:
        """Return the size of a file."""
        teacher = self._teacher
        num_direct, num_generation = len(teacher.direct_layers), len(teacher.generation_layers)
        num_visible, num_more = teacher.num_visible, teacher.num_seen - teacher.num_visible
        assert teacher.width is not None
        return 2 * teacher.width * (num_visible * num_direct + num_more * num_generation)

    def describe(self, num_clips: int | None) -> str:
        """Return one line: how large the cache will be, what is there, and the space that is free.

        Args:
            num_clips (`int`, *optional*): Clips of the run, each counted once; `None` if that is not known.

        Raises:
            ValueError: If what is still to come does not fit on the disk.
        """
        size, free = self.bytes_per_clip(), shutil.disk_usage(self.folder).free
        held = sum(1 for path in self.folder.glob("??/[!.]*") if path.stat().st_size == size)
        ready = f"{held:,} clips are there, {free / 1e9:,.1f} GB free"
        if num_clips is None:
            return f"{self.folder}: {size:,} bytes per clip of a stream of unknown length; {ready}"
        total = f"{num_clips:,} clips x {size:,} bytes = {num_clips * size / 1e9:,.3g} GB"
        # Those that are there may be of other clips: believe that they are ours only where there is room anyway.
        if max(num_clips - held, 0) * size > free:
            raise ValueError(
                f"`teacher_cache` {self.folder}: {total}, of which {ready}. Lower `teacher_cache_views`, align fewer "
                "layers, or give a folder on a larger disk."
            )
        return f"{self.folder}: {total}; {ready}"

    def features(self, keys: Sequence[str], split: TokenSplit, compute: Callable[[], Features]) -> Features:
        """Return the features of a batch as [`FrozenTeacher`] does, rounded to float16, and keep those that are new.

        Args:
            keys (`Sequence[str]`): Hashes of the clips with their masks.
            split ([`TokenSplit`]): V and X of the clips.
            compute (`Callable`): Asks the teacher for the whole batch; called only if a clip is new.

        Raises:
            ValueError: If a feature is too large for float16.
        """
        assert split.teacher_only is not None
        teacher = self._teacher
        (batch, num_visible), num_more = split.visible.shape, split.teacher_only.shape[1]
        names = [self._name(key) for key in keys]
        rows = [_read_whole(self._file(name), self.bytes_per_clip()) for name in names]
        self._num_clips += batch
        self._num_found += sum(row is not None for row in rows)
        if any(row is None for row in rows):
            direct, generation = compute()
            computed = torch.cat([part.flatten(1) for part in (*direct, *generation)], dim=1).half().cpu()
            if not bool(computed.isfinite().all()):
                raise ValueError(
                    "The teacher's features do not fit float16 (largest 65,504), in which `teacher_cache` keeps them: "
                    "leave it out."
                )
            for index, row in enumerate(rows):
                if row is None:
                    rows[index] = computed[index].numpy()
                    file = self._file(names[index])
                    file.parent.mkdir(exist_ok=True)
                    replace_file(file, computed[index].numpy().tobytes())
        # One transfer for all layers: (B, layers * tokens * D). NumPy, since under autocast to bfloat16 torch refuses
        # to stack float16 on the CPU.
        flat = torch.from_numpy(np.stack([row for row in rows if row is not None])).to(split.visible.device)
        counts = [num_visible] * len(teacher.direct_layers) + [num_more] * len(teacher.generation_layers)
        parts = flat.unflatten(1, (-1, teacher.width)).split(counts, dim=1)
        return [*parts[: len(teacher.direct_layers)]], [*parts[len(teacher.direct_layers) :]]

    def found_ratio(self) -> float | None:
        """Return the fraction of clips found since it was last asked; `None` if there were none."""
        ratio = self._num_found / self._num_clips if self._num_clips else None
        self._num_clips = self._num_found = 0
        return ratio

    def _name(self, key: str) -> str:
        return hashlib.blake2b(self._identity + key.encode(), digest_size=16).hexdigest()

    def _file(self, name: str) -> Path:
        return self.folder / name[:2] / name  # a folder of hundreds of thousands of files is slow on some disks


def _other_facts(teacher: FrozenTeacher) -> dict[str, Any]:
    """Return what features depend on besides weights and view: layers, mean and std, and the encoder's config."""
    config = getattr(teacher.model, "config", None)
    options = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    for name in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"):
        options.pop(name, None)
    text = json.dumps([type(teacher.model).__name__, options], sort_keys=True, default=str)
    statistics = (teacher.mean, teacher.std) if teacher.facts is None else (teacher.facts.mean, teacher.facts.std)
    return {
        "config": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        "direct layers": [*teacher.direct_layers],
        "generation layers": [*teacher.generation_layers],
        "mean and std": [torch.as_tensor(values).flatten().tolist() for values in statistics],
    }


def _read_whole(file: Path, size: int) -> np.ndarray | None:
    """Return the numbers of a file; `None` if it is not there or was cut short by a crash of the machine."""
    try:
        content = np.fromfile(file, dtype=np.float16)
    except FileNotFoundError:
        return None
    return content if content.nbytes == size else None
