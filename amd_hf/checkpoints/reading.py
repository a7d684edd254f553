"""Reading other people's checkpoints: safely, out of their wrappers, and under the official names of AMD and VideoMAE.

In the order of reading: a file or a folder of any family (`read_source`), its tensors checked before anything touches
their values (`read_checkpoint`, `load_tensor_file`), then renamed family by family (`families.py`).
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .families import BESIDE_THE_ENCODER, BLOCK_NAMES, FAMILIES, Family


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
_PATCH_EMBEDDING = "patch_embed.proj.weight"
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


def read_source(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint for [`convert_checkpoint`]: tensors under official names, whatever the family.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        ValueError: As for [`convert_checkpoint`].
    """
    if isinstance(source, str | Path) and Path(source).is_dir():
        checkpoint = _read_folder(Path(source))
    else:
        checkpoint = read_checkpoint(source)
    family = next((family for family in FAMILIES if _is_of(family, checkpoint.tensors)), None)
    if family is not None:
        record = {"model_type": family.model_type, **family.settings, **checkpoint.run_arguments}
        checkpoint.tensors = _rename(checkpoint.tensors, family.names)
        if family.adapt is not None:
            family.adapt(checkpoint.tensors, record)
        checkpoint.run_arguments = record
    return checkpoint


def _is_of(family: Family, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Return whether tensors are of a family: each of its patterns is the name of one with so many dimensions."""
    return all(
        any(num_dims in (None, tensor.ndim) and re.fullmatch(pattern, key) for key, tensor in tensors.items())
        for pattern, num_dims in family.recognised_by.items()
    )


def model_types() -> list[str]:
    """Return the model types of Transformers whose folders are converted."""
    return sorted({family.model_type for family in FAMILIES})


def model_type_of(settings: Mapping[str, Any]) -> str | None:
    """Return the model type that a `config.json` names; VideoMAE V2's, which end in a size, without it."""
    model_type = settings.get("model_type")
    return "VideoMAEv2" if str(model_type).startswith("VideoMAEv2") else model_type


def _read_folder(folder: Path) -> Checkpoint:
    """Read a Transformers folder from its files: some releases lose biases when they load the model."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is no folder of a Transformers model.")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": model_type_of(settings), **settings.pop("model_config", {})}
    if settings["model_type"] not in model_types():
        raise ValueError(
            f"{folder} holds a `{settings['model_type']}` model; only `{'`, `'.join(model_types())}` folders "
            "are converted (`amd` folders load with `from_pretrained`)."
        )
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        tensors |= load_tensor_file(path)
    if not tensors:
        raise FileNotFoundError(f"{folder} has neither *.safetensors nor pytorch_model*.bin.")
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (folder / name).is_file():  # it says with which mean and std the input is normalised
            processor = json.loads((folder / name).read_text())
            settings |= {key: processor[key] for key in ("image_mean", "image_std") if key in processor}
            break
    checkpoint = read_checkpoint(tensors)
    checkpoint.source, checkpoint.run_arguments = str(folder), settings
    return checkpoint


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> Checkpoint:
    """Read a `.pth` or `.safetensors` file or take a state dict, wrapped as the authors save them or bare.

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
    for key, tensor in checkpoint.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{checkpoint.source}: `{key}` holds NaN or infinite values.")
    return checkpoint


def load_tensor_file(path: Path) -> Mapping[str, Any]:
    """Return what a `.pth`, `.bin` or `.safetensors` file holds, as it is: nothing in it is run.

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
        with path.open("rb") as file:
            start = file.read(4)
        # A compressed zip file would grow as it is read. `torch.save` stores, it never compresses. What is no zip file
        # is an older file, or a damaged one, which is said below.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise ValueError(
                    f"its entry {packed[0]!r} is compressed, which no program that saves checkpoints does."
                )
        # Authors' files hold the arguments of their run: a plain record, and the only class that is let through.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=start == b"PK\x03\x04")
    except pickle.UnpicklingError as error:
        if start[:1] != b"\x80" and start != b"PK\x03\x04":  # no pickle (since protocol 2), no zip file
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
    record: dict[str, Any] = {}
    if isinstance(content.get(CONFIG_ENTRY), Mapping):  # left by our own export
        record = dict(content[CONFIG_ENTRY])
    elif isinstance(content.get("args"), argparse.Namespace):  # of the authors' run
        record = dict(vars(content["args"]))
    return Checkpoint(
        tensors=dict(inner),
        source=name,
        wrapper=wrapper,
        left_out=[key for key in content if key not in (wrapper, CONFIG_ENTRY, VIEWS_ENTRY)] if wrapper else [],
        run_arguments=record,
        views=dict(content[VIEWS_ENTRY]) if isinstance(content.get(VIEWS_ENTRY), Mapping) else {},
    )


def _strip_prefixes(checkpoint: Checkpoint) -> None:
    """Take off wrappers' prefixes that every key has, and `encoder.` where there is no decoder to distinguish."""
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
    """Refuse tensors that are no plain arrays, or that would fill the memory as soon as they are looked at."""
    if len(checkpoint.tensors) > _MOST_TENSORS:
        raise ValueError(
            f"{checkpoint.source} holds {len(checkpoint.tensors):,} tensors; no model of this kind has more than "
            f"{_MOST_TENSORS:,}."
        )
    held: dict[int, int] = {}  # bytes by address: a storage that several tensors share counts once
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


def _rename(tensors: Mapping[str, torch.Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Rename tensors by the rules of a family, and in Transformers' blocks, and give them the official form.

    Names that no rule knows stay, so that the caller sees them. The weights of query, key and value are joined, their
    biases are apart; an image is a clip of one frame, so the 2-D convolution of its patches becomes a 3-D one.
    """
    encoder = "encoder." if any(key.startswith(("decoder.", "decoder_")) for key in tensors) else ""
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        for pattern, name in rules:
            key = re.sub(pattern, name.replace("{encoder}", encoder), key)
        if block := re.match(r".*blocks\.\d+\.", key):
            rest = key[block.end() :]
            for pattern, name in BLOCK_NAMES:
                if re.match(pattern, rest):
                    key = block[0] + re.sub(pattern, name, rest, count=1)
                    break
        if key.endswith(_PATCH_EMBEDDING) and tensor.ndim == 4:
            tensor = tensor.unsqueeze(2)  # (D, channels, 1 frame, rows, columns)
        if key.endswith("attn.qkv.bias"):
            parts = zip(("q_bias", "k_bias", "v_bias"), tensor.chunk(3), strict=True)
            renamed |= {key.replace("qkv.bias", part): bias for part, bias in parts}
        else:
            renamed[key] = tensor
    return _join_attention(renamed)


def _join_attention(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fuse the weights of query, key and value, and name their biases, all under `attn.`, as the official files do."""
    for start in [key.removesuffix("query.weight") for key in tensors if key.endswith(".attn.query.weight")]:
        names = [f"{start}{part}.weight" for part in ("query", "key", "value")]
        if all(name in tensors for name in names):
            tensors[f"{start}qkv.weight"] = torch.cat([tensors.pop(name) for name in names])
    # Two spellings of the biases: where a file has both, the second one stays as it is and will be refused.
    for key in list(tensors):
        if bias := re.fullmatch(r"(.*\.attn\.)(query|key|value)\.bias", key):
            name = f"{bias[1]}{bias[2][0]}_bias"  # q_bias, k_bias, v_bias
            if name not in tensors:
                tensors[name] = tensors.pop(key)
    return tensors


def infer_task(checkpoint: Checkpoint) -> str | None:
    """Return what the keys say the checkpoint is, or `None` for an encoder alone."""
    if any(key.startswith(("decoder.", "encoder_to_decoder.")) for key in checkpoint.tensors):
        return "pretraining"
    if "head.weight" not in checkpoint.tensors:
        return None
    # The code for AVA ends its encoder in a norm; classifiers have theirs behind the mean. (A classifier of
    # Transformers by its first token looks alike, and is refused as one that lacks `fc_norm`.)
    is_detector = "norm.weight" in checkpoint.tensors and "fc_norm.weight" not in checkpoint.tensors
    is_transformers = checkpoint.run_arguments.get("model_type") in model_types()
    return "detection" if is_detector and not is_transformers else "classification"


def is_by_first_token(checkpoint: Checkpoint) -> bool:
    """Return whether it is a VideoMAE classifier that looks at its first token instead of the mean over all."""
    names = {"head.weight", "norm.weight"}
    is_transformers = checkpoint.run_arguments.get("model_type") == "videomae"
    return is_transformers and names <= checkpoint.tensors.keys() and "fc_norm.weight" not in checkpoint.tensors


def keep_encoder(checkpoint: Checkpoint) -> dict[str, str]:
    """Take all that is no part of the encoder out of a checkpoint under official names, and return why, by name.

    Names that are no part of any known model stay, so that the caller sees them.
    """
    beside = [key for key in checkpoint.tensors if re.fullmatch(BESIDE_THE_ENCODER, key)]
    is_pretraining = any(key.startswith("encoder.") for key in checkpoint.tensors)
    checkpoint.tensors = {
        key.removeprefix("encoder.") if is_pretraining else key: tensor
        for key, tensor in checkpoint.tensors.items()
        if key not in beside
    }
    return dict.fromkeys(beside, "no part of the encoder, which alone is wanted")
