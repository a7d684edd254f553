"""Whether a folder may be published: links and code of others, private texts in any form, tensors, its answers.

In three steps, as [`~amd_hf.hub.publishing.prepare_folder`] takes them: the source before anything of it is loaded,
what its files say (text, JSON, metadata of pictures, archives, pickles, weights), and the prepared copy as a reader
would load it.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from .. import configuration_amd, video_processing_amd
from ..modeling_amd import AMDPreTrainedModel
from . import reader as hub_reader
from .cards import CARD_NAME, card_problems
from .privacy import is_secret_name, known_secrets, private_parts, secret_parts


CONFIG_NAME = "config.json"
PROCESSOR_NAME = "video_preprocessor_config.json"
IMAGE_PROCESSOR_NAME = "preprocessor_config.json"  # of models of one frame
PROCESSOR_CODE = {"AutoVideoProcessor": "video_processing_amd.AMDVideoProcessor"}

_GPS_MARK = "GPS position"  # stands in front of where a picture was taken
# As the program `strings` finds them: in ASCII, and as Windows and EXIF write them, with a zero after each letter.
_ASCII = re.compile(rb"[\x20-\x7e\t\r\n]{6,}")
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){6,}|(?:\x00[\x20-\x7e]){6,}")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
_NOISE = re.compile(r"(?:^|/)data/\d+$|\.(?:npy|bin)$")  # members of checkpoints that hold numbers
_MAX_DEPTH = 3
_MAX_UNPACKED = 64 * 2**30
_MAX_SECONDS = 1800  # for another process to load a model and answer


# ---------------------------------------------------------------------------------------------------------------------
# The source, before anything of it is loaded
# ---------------------------------------------------------------------------------------------------------------------


def source_problems(source: Path, published: Collection[str]) -> list[str]:
    """List links, special files and code of others in a folder; nothing of it has been loaded yet."""
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
    """List foreign code that a JSON file names at any depth, and files outside of the folder."""
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
    """Yield every entry of `auto_map` and `custom_pipelines` in settings, at any depth, by its dotted key."""
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


# ---------------------------------------------------------------------------------------------------------------------
# What files say
# ---------------------------------------------------------------------------------------------------------------------


class FileText(NamedTuple):
    """A piece of text in a file.

    Args:
        where (`str`): The file, and what of it.
        text (`str`): The text.
        is_noise (`bool`): Whether it was found among numbers or pixels, where short words mean nothing.
    """

    where: str
    text: str
    is_noise: bool = False


def texts_of(path: Path) -> Iterator[FileText]:
    """Yield everything in a file that can be read as text.

    Raises:
        ValueError: If it holds an archive that cannot be unpacked, or a picture that cannot be read: nobody knows then
            what else is in it.
    """
    with open(path, "rb") as file:
        yield from _texts_in(path.name, file.read(), 0)


def _texts_in(where: str, data: bytes, depth: int) -> Iterator[FileText]:
    is_archive = zipfile.is_zipfile(io.BytesIO(data))
    if is_archive:
        yield from _in_archive(where, data, depth)
    if where.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        yield FileText(where, data[8 : 8 + size].decode("utf-8", "replace"))
        yield from _strings(where, data[8 + size :], is_noise=True)
    elif data.startswith(_PICTURES):
        yield from _in_picture(where, data)
        yield from _strings(where, data, is_noise=True)
    elif is_archive or _NOISE.search(where):
        yield from _strings(where, data, is_noise=True)
    else:
        yield from _in_text(where, data)


def _in_text(where: str, data: bytes) -> Iterator[FileText]:
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # a pickle, or something else that is no text
        yield from _strings(where, data)
        return
    yield FileText(where, text)
    if text.lstrip()[:1] in ("{", "["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            return
        # Escapes are undone: "\u0068f_..." is a token too.
        yield FileText(where, "\n".join(_leaves(values)))


def _leaves(value: Any, key: str = "") -> Iterator[str]:
    """Yield the texts of JSON, each behind its key."""
    pending = [(key, value)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += value.items()
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, str) and value:
            yield f'"{key}": "{value}"'


def _strings(where: str, data: bytes, is_noise: bool = False) -> Iterator[FileText]:
    found = [match.group().decode("ascii") for match in _ASCII.finditer(data)]
    found += [match.group().replace(b"\0", b"").decode("ascii") for match in _WIDE.finditer(data)]
    if found:
        yield FileText(where, "\n".join(found), is_noise)


def _in_archive(where: str, data: bytes, depth: int) -> Iterator[FileText]:
    """Yield the texts of the members of a zip file, as checkpoints of PyTorch are."""
    if depth == _MAX_DEPTH:
        raise ValueError(f"{where} holds archives inside archives, deeper than can be checked")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > min(_MAX_UNPACKED, 1000 * len(data) + 2**20):
                raise ValueError(f"{where} is much larger when it is unpacked: it cannot be checked")
            yield from _in_text(f"{where}, its comment", archive.comment)
            for member in members:
                inside = f"{where}, member {member.filename}"
                yield FileText(inside, member.filename)
                yield from _in_text(f"{inside}, its comment", member.comment + b"\n" + member.extra)
                yield from _texts_in(inside, archive.read(member), depth + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(f"{where} is an archive that cannot be unpacked: {error}") from error


def _in_picture(where: str, data: bytes) -> Iterator[FileText]:
    """Yield text chunks, comments, EXIF and XMP of a picture, and whether it reveals where it was taken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()  # text may come behind the pixels
                exif = picture.getexif()
                found: list[Any] = [*picture.info.items(), *exif.items(), *getattr(picture, "private_chunks", [])]
                found += [
                    item for kind in (ExifTags.IFD.Exif, ExifTags.IFD.IFD1) for item in exif.get_ifd(kind).items()
                ]
                position = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except UnidentifiedImageError:
        yield from _strings(where, data)  # it only begins like one
        return
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where} is a picture that cannot be read: {error}") from error
    texts: list[str] = []
    pending = found
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, bytes):
            texts += [piece.text for piece in _in_text(where, value)]
        elif isinstance(value, str):
            texts.append(value)
    yield FileText(f"{where}, its metadata", "\n".join(texts))
    if position:
        yield FileText(f"{where}, its metadata", f"{_GPS_MARK} {dict(position)}")


# ---------------------------------------------------------------------------------------------------------------------
# What is prepared
# ---------------------------------------------------------------------------------------------------------------------


def folder_problems(folder: Path, model: AMDPreTrainedModel, repo_id: str) -> list[str]:
    """List what speaks against publishing a folder that should answer as `model` does."""
    problems = []
    card = folder / CARD_NAME
    if card.is_file():
        problems += [f"{CARD_NAME}: {problem}" for problem in card_problems(card)]
    else:
        problems.append(f"there is no {CARD_NAME}: a page must say what the model is (docs/publishing.md)")
    kind, processor = ("image", IMAGE_PROCESSOR_NAME) if model.config.num_frames == 1 else ("video", PROCESSOR_NAME)
    if not (folder / processor).is_file():
        problems.append(f"there is no {processor}: save the {kind} processor beside the model")
    problems += _foreign_code(folder, type(model))
    problems += _private_problems(folder, repo_id)
    problems += _foreign_tensors(folder, model)
    # Last, and only of a folder that is whole otherwise: it takes longest, and runs the code that is in it.
    return problems or _other_answers(folder, model)


def _foreign_code(folder: Path, kind: type) -> list[str]:
    """List code that is not, byte for byte, the package's own, and settings that name such."""
    ours = {path.name: path for path in code_files(kind)}
    names = [path.name for path in folder.iterdir()]
    problems = [
        f"{name} is not the code of this package"
        for name in sorted(names)
        if name.endswith(".py") and (name not in ours or (folder / name).read_bytes() != ours[name].read_bytes())
    ]
    return problems + [
        problem for name in names if name.endswith(".json") for problem in settings_problems(folder / name, names)
    ]


def _private_problems(folder: Path, repo_id: str) -> list[str]:
    """List secrets, absolute paths and user names in any file and its name; the code is the package's own."""
    problems: dict[str, None] = {}
    known = known_secrets()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            continue
        problems.update((f"the name of {path.name} tells {part}", None) for part in private_parts(path.name, repo_id))
        try:
            for where, text, is_noise in texts_of(path):
                parts = secret_parts(text, known) if is_noise else private_parts(text, repo_id, known)
                if text.startswith(_GPS_MARK):
                    parts.append("the place where it was taken")
                problems.update((f"{where} tells {part}", None) for part in parts)
        except ValueError as error:
            problems[str(error)] = None
    return list(problems)


def _foreign_tensors(folder: Path, model: AMDPreTrainedModel) -> list[str]:
    """List tensors that are no weights of the model, as those of an optimizer."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    foreign = sorted(names - model.state_dict().keys())
    if not foreign:
        return []
    return [f"{len(foreign)} tensors are no weights of {type(model).__name__}: {', '.join(foreign[:5])}"]


def _other_answers(folder: Path, model: AMDPreTrainedModel) -> list[str]:
    """Load the folder as a reader does and compare its answers to a clip of noise.

    A reader has not installed this package, trusts the code in the folder, and here has no network and no secrets.
    """
    reference = f"{type(model).__module__.rpartition('.')[2]}.{type(model).__name__}"
    auto_class = next(name for name, code in configuration_amd.OUR_CODE.items() if code == reference)
    inputs = _noise(model)
    environment = {name: value for name, value in os.environ.items() if not is_secret_name(name)}
    with tempfile.TemporaryDirectory() as scratch:
        torch.save({**inputs, "num_threads": torch.get_num_threads()}, Path(scratch, "inputs.pt"))
        environment |= {"HF_HOME": scratch, "HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-", str(folder.resolve()), auto_class, scratch],
            input=Path(hub_reader.__file__).read_text(encoding="utf-8"),
            env=environment,
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=_MAX_SECONDS,
            check=False,
        )
        if done.returncode:
            last = next(
                (line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no word of why"
            )
            return [f"it cannot be loaded where this package is not installed: {last}"]
        theirs = torch.load(Path(scratch, "answer.pt"), weights_only=True)
    ours = hub_reader.answer(model, inputs)
    if torch.equal(ours, theirs):
        return []
    return [f"loaded by its own code it answers otherwise: by up to {(ours - theirs).abs().max():.2g}"]


def _noise(model: AMDPreTrainedModel) -> dict[str, Any]:
    """Return a fixed clip of noise, and what a model of its kind needs beside it."""
    config = model.config
    shape = (1, config.num_frames, config.num_channels, *config.image_height_width)
    clip = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"pixel_values": clip}
    if hasattr(model, "decoder"):
        inputs["bool_masked_pos"] = (torch.arange(config.num_patches) % 2 == 1)[None]
    elif "boxes" in inspect.signature(model.forward).parameters:
        height, width = config.image_height_width
        inputs["boxes"] = [torch.tensor([[0.0, 0.0, width / 2, height / 2]])]
    return inputs


def code_files(kind: type) -> list[Path]:
    """Return the files that load a class of model as remote code, and its config and processor."""
    files: set[str] = set()
    for module in (sys.modules[kind.__module__], configuration_amd, video_processing_amd):
        path = str(module.__file__)
        files |= {path, *get_relative_import_files(path)}
    return sorted(map(Path, files))


__all__ = ["code_files", "folder_problems", "source_problems", "texts_of"]
