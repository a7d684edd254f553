"""Folders that somebody wants to publish, before anything in them is loaded: links, and code of others."""

from __future__ import annotations

import json
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .. import configuration_amd


CONFIG_NAME = "config.json"
PROCESSOR_NAME = "video_preprocessor_config.json"
PROCESSOR_CODE = {"AutoVideoProcessor": "video_processing_amd.AMDVideoProcessor"}


def source_problems(source: Path, published: Collection[str]) -> list[str]:
    """Links, special files, and code of others in a folder; nothing of it has been loaded yet."""
    problems = [problem for name in published if (problem := _link_problem(source, name, published))]
    if problems:
        return problems
    own = {path.name for path in Path(configuration_amd.__file__).parent.glob("*_amd*.py")}
    problems += [
        f"{ascii(path.name)[1:-1]} is code that is not this package's, which whoever loads the model could run: move "
        "it away"
        for path in sorted(source.iterdir())
        if path.suffix.lower() in (".py", ".pyc", ".so", ".pyd") and path.name not in own
    ]
    for name in published:
        if name.endswith(".json"):
            problems += settings_problems(source / name, published)
    return problems


def _link_problem(source: Path, name: str, published: Collection[str]) -> str | None:
    path = source / name
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return None
    if not stat.S_ISLNK(mode):
        return f"{name} is no file but a {'folder' if stat.S_ISDIR(mode) else 'pipe, socket or device'}: move it away"
    try:
        end = path.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or in a circle
        return f"{name} is a link that leads to no file: put the file itself there"
    if end.parent == source.resolve() and end.name in published and end.is_file():
        return None
    return f"{name} is a link to what is not published from this folder: put the file itself there"


def settings_problems(path: Path, published: Collection[str]) -> list[str]:
    """Foreign code that a JSON file names at any depth, and files outside of the folder."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return [f"{path.name} is no JSON that can be read: {error}"]
    allowed = {CONFIG_NAME: configuration_amd.OUR_CODE, PROCESSOR_NAME: PROCESSOR_CODE}.get(path.name, {})
    problems = [
        f"{path.name} names code that is not this package's, which whoever loads the model would run: {where} = "
        f"{ascii(value)[:200]}. Load and save the model with this version of amd_hf, or delete the entry"
        for where, value in _named_code(settings)
        if not (where.startswith("auto_map.") and allowed.get(where.removeprefix("auto_map.")) == value)
    ]
    shards = settings.get("weight_map") if isinstance(settings, dict) else None
    if isinstance(shards, dict):
        strange = sorted({str(shard) for shard in shards.values()} - set(published))
        problems += [f"{path.name} names weights that are no file of this folder: {ascii(name)}" for name in strange]
    return problems


def _named_code(settings: Any) -> Iterator[tuple[str, Any]]:
    """Every entry of `auto_map` and `custom_pipelines` in settings, at any depth, by its dotted key."""
    pending: list[tuple[str, Any]] = [("", settings)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, list):
            pending += [(f"{where}.{index}", item) for index, item in enumerate(value)]
        for key, item in value.items() if isinstance(value, dict) else ():
            name = f"{where}.{key}".removeprefix(".")
            if key not in configuration_amd.CODE_KEYS:
                pending.append((name, item))
            elif isinstance(item, dict):
                yield from ((f"{name}.{entry}", reference) for entry, reference in item.items())
            elif item:
                yield name, item


__all__ = ["CONFIG_NAME", "PROCESSOR_CODE", "PROCESSOR_NAME", "settings_problems", "source_problems"]
