"""Reading other people's checkpoint files: safely, out of their wrappers, and without key prefixes."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


CONFIG_ENTRY = "amd_config"  # beside the tensors in official files that we write; the authors' code ignores it
_WRAPPERS = ("model", "module", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")


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
    """

    tensors: dict[str, torch.Tensor]
    source: str
    wrapper: str | None = None
    prefixes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    run_arguments: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Reads a `.pth` or `.safetensors` file or takes a state dict, wrapped as the authors save them or bare.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, needs unsafe unpickling, holds no tensors, or holds NaN or infinite
            values.
    """
    content = source if isinstance(source, Mapping) else _load_file(Path(source))
    name = "state dict" if isinstance(source, Mapping) else str(source)
    checkpoint = _unwrap(content, name)
    _strip_prefixes(checkpoint)
    _check_tensors(checkpoint)
    return checkpoint


def _load_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: the download or copy was cut off.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
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
    except (RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict.")
    return content


def _looks_like_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2)[:1] == b"\x80" or _is_zip(path)  # pickles since protocol 2 start with this byte


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _unwrap(content: Mapping[str, Any], name: str) -> Checkpoint:
    wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    inner = content if wrapper is None else content[wrapper]
    strangers = [key for key, value in inner.items() if not isinstance(value, torch.Tensor)]
    if strangers or not inner:
        found = f"entries that are no tensors ({', '.join(map(str, strangers[:5]))})" if strangers else "nothing"
        raise ValueError(
            f"{name} holds {found} where a state dict was expected, looked for bare or under {', '.join(_WRAPPERS)}."
        )
    return Checkpoint(
        tensors=dict(inner),
        source=name,
        wrapper=wrapper,
        left_out=[key for key in content if key not in (wrapper, CONFIG_ENTRY)] if wrapper else [],
        run_arguments=_run_arguments(content),
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
            matching = [key for key in checkpoint.tensors if key.startswith(prefix)]
            if matching and (encoder_only or len(matching) == len(checkpoint.tensors)):
                checkpoint.tensors = {
                    key.removeprefix(prefix) if key in set(matching) else key: value
                    for key, value in checkpoint.tensors.items()
                }
                checkpoint.prefixes.append(prefix)
                found = True


def _check_tensors(checkpoint: Checkpoint) -> None:
    for key, tensor in checkpoint.tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{checkpoint.source}: `{key}` has dtype {tensor.dtype}; weights are floating point.")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{checkpoint.source}: `{key}` holds NaN or infinite values.")
