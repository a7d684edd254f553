"""What a prepared folder holds, and how far its making has come: a marker with the settings, and a journal of files.

    OUT/.amd_hf_output.json        made_by, settings: written first, never changed
    OUT/.amd_hf_prepare.jsonl      a line for each file that is whole: its source, size and hash; sorted at the end
    OUT/.amd_hf_prepare/           files that are being made

A file gets its name when it is whole, then its line in the journal. A run that is killed in between finds the file
without its line: it makes it again, and the bytes are the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..outputs.folders import MARKER_NAME, fingerprint, read_marker, refuse_false_marker, some_of, write_marker


MADE_BY = "amd-hf prepare"
JOURNAL_NAME = ".amd_hf_prepare.jsonl"
WORK_NAME = ".amd_hf_prepare"


class Manifest:
    """The record of a folder that `amd-hf prepare` makes; at most one process has it open.

    Args:
        folder (`Path`): the output folder, made if it is not there.
        settings (mapping): what the bytes of the output depend on, as JSON.

    Attributes:
        videos (`dict`): what is known of each video that is made, by its key.
        files (`dict`): size and hash of each file that was written, by its name in the folder.

    Raises:
        ValueError: the folder holds other things, was made with other settings, or another process is making it.
            Nothing is changed then.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.work = folder / WORK_NAME
        self.videos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self._in_shards: dict[str, frozenset[str]] = {}  # keys of the videos of shards, as the journal began
        self._claim(settings)
        self.work.mkdir(exist_ok=True)
        self._journal = open(folder / JOURNAL_NAME, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._journal.close()
            raise ValueError(
                f"Another process is preparing {folder}: wait for it, or choose another folder."
            ) from error
        self._read_journal()

    def _claim(self, settings: Mapping[str, Any]) -> None:
        folder, marker = self.folder, self.folder / MARKER_NAME
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(f"`--output_dir` {folder} is no folder: nothing was changed. Choose another name.")
        entries = sorted(os.listdir(folder)) if folder.is_dir() else []
        if not entries:
            folder.mkdir(parents=True, exist_ok=True)
            write_marker(marker, {"made_by": MADE_BY, "files": {}, "settings": dict(settings)})
            return
        if os.path.lexists(marker) and not read_marker(marker):
            refuse_false_marker(marker)
        content = read_marker(marker)
        if content.get("made_by") != MADE_BY:
            raise ValueError(
                f"{folder} holds other things ({some_of(entries)}), not what {MADE_BY} has made. Nothing was changed: "
                "give `--output_dir` a new folder."
            )
        before = content.get("settings", {})
        changed = [name for name in (*settings, *before) if settings.get(name) != before.get(name)]
        if changed:
            names = [f"`--{name}` {_short(before.get(name))}, not {_short(settings.get(name))}" for name in settings]
            told = [text for name, text in zip(settings, names, strict=True) if name in changed]
            raise ValueError(
                f"{folder} was prepared with {', '.join(told) or 'other settings'}. Nothing was changed: give the "
                "same options to go on with it, or `--output_dir` a new folder."
            )

    def _read_journal(self) -> None:
        self._journal.seek(0)
        text = self._journal.read()
        whole = text[: text.rfind("\n") + 1]
        if len(whole) < len(text):  # killed while it wrote: the rest of a line would spoil the next one
            self._journal.truncate(len(whole.encode()))
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        if "key" in entry:
            self.videos[entry["key"]] = entry
        else:
            self.files[entry["file"]] = entry

    def close(self) -> None:
        self._journal.close()

    def note(self, entry: dict[str, Any]) -> None:
        """Write a line to the journal: a video by its `key`, or a file by its name as `file`."""
        self._take(entry)
        self._journal.write(json.dumps(entry, sort_keys=True) + "\n")
        self._journal.flush()

    def has_file(self, name: str) -> bool:
        """Return whether a file is there as it was written, by its size."""
        path = self.folder / name
        known = self.files.get(name)
        if known is not None and path.is_dir():  # of frames: it got its name when it was whole
            return True
        return known is not None and path.is_file() and path.stat().st_size == known["size"]

    def has_video(self, shard: str | None, key: str) -> bool:
        """Return whether a shard is there and was written with a video."""
        if shard is None or not self.has_file(shard):
            return False
        if shard not in self._in_shards:
            self._in_shards[shard] = frozenset(self.files[shard].get("videos", ()))
        return key in self._in_shards[shard]

    def place(self, made: Path, name: str, **more: Any) -> None:
        """Give a whole file its name in the folder, and note it; never replace what this command has not written.

        `more` is what the note says of it beside size and hash.

        Raises:
            ValueError: another file is in the way, or the one that was written has been changed.
        """
        target = self.folder / name
        written = _fingerprint(made)
        assert written is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            there = _fingerprint(target)
            known = self.files.get(name)
            is_ours = known is not None and there == {"size": known["size"], "blake2b": known["blake2b"]}
            if there != written and not is_ours:
                raise ValueError(f"{target} is in the way: it is not what {MADE_BY} has written. Move it away.")
            if target.is_dir():
                remove_part(target)
        os.replace(made, target)
        self.note({"file": name, **written, **more})

    def place_text(self, text: str, name: str) -> None:
        """Write a text file; see `place`."""
        made = self.work / "text.part"
        made.write_text(text, encoding="utf-8", newline="")
        self.place(made, name)

    def remove(self, name: str) -> None:
        """Remove a file of the work folder that has become part of another one."""
        (self.folder / name).unlink(missing_ok=True)
        self.files.pop(name, None)

    def finish(self) -> None:
        """Sort the journal, so that it does not tell how often the run was killed, and remove the work folder."""
        lines = [json.dumps(entry, sort_keys=True) for entry in (*self.videos.values(), *self.files.values())]
        part = self.work / "journal.part"
        part.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
        os.replace(part, self.folder / JOURNAL_NAME)
        for path in self.work.iterdir():  # left by runs that were killed: nobody else writes here
            if path.suffix in (".part", ".mp4") and not path.is_symlink():
                remove_part(path)
        if not any(self.work.iterdir()):
            self.work.rmdir()


def remove_part(path: Path) -> None:
    """Remove a file, or a folder of images, that this command has made; one that holds other things stays."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for image in path.glob("img_*.jpg"):
        image.unlink()
    path.rmdir()


def _fingerprint(path: Path) -> dict[str, Any] | None:
    """Return size and hash of a file, or of all images of a folder; None for what this command does not write."""
    if path.is_symlink():
        return None
    if path.is_file():
        return fingerprint(path)
    digest, size = hashlib.blake2b(digest_size=16), 0
    for image in sorted(path.iterdir()) if path.is_dir() else ():
        if image.is_symlink() or not image.is_file():
            return None
        of_image = fingerprint(image)
        size += of_image["size"]
        digest.update(f"{image.name} {of_image['blake2b']}\n".encode("utf-8", "surrogateescape"))
    return {"size": size, "blake2b": digest.hexdigest()}


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) < 60 else f"{text[:60]}..."


__all__ = ["WORK_NAME", "Manifest", "remove_part"]
