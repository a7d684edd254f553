"""Reading other people's checkpoint files: safely, out of their wrappers, and without key prefixes."""

from __future__ import annotations

import argparse
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


# Beside the tensors in official files that we write; the authors' code ignores them.
CONFIG_ENTRY = "amd_config"
VIEWS_ENTRY = "amd_views"
_WRAPPERS = ("model", "module", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_TENSORS = 100_000  # a ViT-g has 600
# Tensors may share storage (tied weights) or be expanded (a bias of zeros), as long as a file of a few bytes does not
# become terabytes of memory: all together they may be so many times what the file holds, and so many bytes more.
_MOST_TIMES_HELD = 4
_MOST_BYTES_MORE = 64 * 2**20
# What unpickling strangers' bytes raises: the unpickler trusts the order of its instructions.
_UNPICKLING_ERRORS = (
    RuntimeError, EOFError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    OverflowError, MemoryError, struct.error,
)  # fmt: skip


@dataclass
class Checkpoint:
    """Tensors of a checkpoint by their bare official names, and where they were found.

    Args:
        tensors (`dict[str, torch.Tensor]`): Named without wrappers and prefixes.
        source (`str`): The file, or "state dict".
        wrapper (`str`, *optional*): Key of the file that held them.
        prefixes (`list[str]`): Prefixes taken off the names, in order.
        left_out (`list[str]`): Other entries of the file (optimizer, epoch, ...).
        run_arguments (`dict`): What the authors' training script was called with, where the file says.
        views (`dict`): Fields of `ViewSettings`, where the file is an export of our own.
    """

    tensors: dict[str, torch.Tensor]
    source: str
    wrapper: str | None = None
    prefixes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    run_arguments: dict[str, Any] = field(default_factory=dict)
    views: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Reads a `.pth` or `.safetensors` file or takes a state dict, wrapped as the authors save them or bare.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, needs unsafe unpickling, holds no tensors, tensors that are no dense
            floating-point arrays or would take far more memory than the file holds, or NaN or infinite values.
    """
    content = source if isinstance(source, Mapping) else load_tensor_file(Path(source))
    name = "state dict" if isinstance(source, Mapping) else str(source)
    checkpoint = _unwrap(content, name)
    _check_sizes(checkpoint)  # before anything touches their values
    _strip_prefixes(checkpoint)
    _check_values(checkpoint)
    return checkpoint


def load_tensor_file(path: Path) -> Mapping[str, Any]:
    """What a `.pth`, `.bin` or `.safetensors` file holds, as it is: nothing in it is run.

    Raises:
        FileNotFoundError, ValueError: As for [`read_checkpoint`].
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: the download or copy was cut off.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_compression(path)
        # Authors' files hold the arguments of their run: a plain record, and the only class that is let through.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        if not _looks_like_pickle(path):
            raise ValueError(f"{path} is not a readable checkpoint: check what you downloaded.") from error
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} cannot be loaded safely: {reason} A checkpoint may hold tensors and plain values only, because "
            "unpickling anything else can run code. If you trust its author, load it yourself with "
            "`torch.load(path, weights_only=False)`, keep the state dict, `torch.save` that, and convert the new "
            "file."
        ) from error
    except _UNPICKLING_ERRORS as error:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict.")
    return content


def _looks_like_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2)[:1] == b"\x80" or _is_zip(path)  # pickles since protocol 2 start with this byte


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check_compression(path: Path) -> None:
    """Raises where a zip file would grow as it is read: `torch.save` stores, it never compresses."""
    if not zipfile.is_zipfile(path):
        return  # an older file, or a damaged one, which is said elsewhere
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its entry {packed[0]!r} is compressed, which no program that saves checkpoints does.")


def _unwrap(content: Mapping[str, Any], name: str) -> Checkpoint:
    wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    inner = content if wrapper is None else content[wrapper]
    strangers = [key for key, value in inner.items() if not isinstance(value, torch.Tensor)]
    unnamed = [key for key in inner if not isinstance(key, str)]
    if strangers or unnamed or not inner:
        names = ", ".join(str(key)[:100] for key in (strangers or unnamed)[:5])
        kind = "entries that are no tensors" if strangers else "tensors whose names are no text"
        found = f"{kind} ({names})" if names else "nothing"
        raise ValueError(
            f"{name} holds {found} where a state dict was expected, looked for bare or under {', '.join(_WRAPPERS)}."
        )
    return Checkpoint(
        tensors=dict(inner),
        source=name,
        wrapper=wrapper,
        left_out=[key for key in content if key not in (wrapper, CONFIG_ENTRY, VIEWS_ENTRY)] if wrapper else [],
        run_arguments=_run_arguments(content),
        views=dict(content[VIEWS_ENTRY]) if isinstance(content.get(VIEWS_ENTRY), Mapping) else {},
    )


def _run_arguments(content: Mapping[str, Any]) -> dict[str, Any]:
    """The config that our own export leaves in a file, or the arguments of the authors' run."""
    if isinstance(content.get(CONFIG_ENTRY), Mapping):
        return dict(content[CONFIG_ENTRY])
    return vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}


def _strip_prefixes(checkpoint: Checkpoint) -> None:
    """Takes off wrappers' prefixes that every key has, and `encoder.` where there is no decoder to tell it from."""
    prefixes = list(_PREFIXES)
    if not any(".encoder_to_decoder." in f".{key}" or ".decoder." in f".{key}" for key in checkpoint.tensors):
        prefixes.append("encoder.")
    found = True
    while found:
        found = False
        for prefix in prefixes:
            encoder_only = prefix == "encoder."
            num_matching = sum(key.startswith(prefix) for key in checkpoint.tensors)
            if num_matching and (encoder_only or num_matching == len(checkpoint.tensors)):
                bare = {key.removeprefix(prefix): value for key, value in checkpoint.tensors.items()}
                if len(bare) < len(checkpoint.tensors):
                    raise ValueError(
                        f"{checkpoint.source} holds tensors with and without the prefix `{prefix}` under the same "
                        "names: it is unclear which are meant. Save only one of the two models."
                    )
                checkpoint.tensors = bare
                checkpoint.prefixes.append(prefix)
                found = True


def _check_sizes(checkpoint: Checkpoint) -> None:
    """Raises for tensors that are no plain arrays, or that would fill the memory as soon as they are looked at."""
    if len(checkpoint.tensors) > _MOST_TENSORS:
        raise ValueError(
            f"{checkpoint.source} holds {len(checkpoint.tensors):,} tensors; no model of this kind has more than "
            f"{_MOST_TENSORS:,}."
        )
    held: dict[int, int] = {}  # bytes by place in memory: a storage that several tensors share counts once
    claimed: dict[str, int] = {}
    for key, tensor in checkpoint.tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else str(tensor.layout)
            raise ValueError(f"{checkpoint.source}: `{key}` is {kind}; weights are dense arrays of numbers.")
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{checkpoint.source}: `{key}` has dtype {tensor.dtype}; weights are floating point.")
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = max(held.get(storage.data_ptr(), 0), storage.nbytes())
        claimed[key] = tensor.numel() * tensor.element_size()
    total, limit = sum(claimed.values()), _MOST_TIMES_HELD * sum(held.values()) + _MOST_BYTES_MORE
    if total > limit:
        key = max(claimed, key=lambda name: claimed[name])
        tensor = checkpoint.tensors[key]
        raise ValueError(
            f"{checkpoint.source}: `{key}` of shape {tuple(tensor.shape)} takes {claimed[key]:,} bytes, all tensors "
            f"together {total:,}, while the file holds only {sum(held.values()):,}: they repeat the same numbers "
            "(expanded tensors). Save them with `.clone()` if that is what they should be."
        )


def _check_values(checkpoint: Checkpoint) -> None:
    for key, tensor in checkpoint.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{checkpoint.source}: `{key}` holds NaN or infinite values.")
