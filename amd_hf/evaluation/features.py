"""Features of a frozen encoder for each video, written to several files so that a run can be resumed.

The encoder sees the views of the multi-view test, by default one: the middle clip with a centre crop. Tensors are
named by their content (V views, N tokens in raster order (time, row, column), D the encoder's width):

    pooled              (V, D)     mean of `tokens` over the tokens
    tokens              (V, N, D)  output of the encoder, without a class token: after its final LayerNorm where it
                                   has one (pre-trained encoders), else of its last block (classifiers)
    layer_<i>           (V, N, D)  raw output of block i, counted from 1
    layer_<i>_pooled    (V, D)     its mean over the tokens
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..data.datasets.own import as_video_rows
from ..data.loaders import build_eval_loader
from ..modeling_amd import AMDModel
from ..outputs.folders import replace_file
from .multiview import ViewCollator, ViewOptions


FORMATS = ("safetensors", "parquet")
DTYPES = {"float32": torch.float32, "float16": torch.float16}
SETTINGS_FILE = "features.json"
UNREADABLE_FILE = "unreadable.json"


@dataclass(frozen=True)
class FeatureOptions:
    """The tensors to extract from an encoder, and their file format.

    Args:
        model (`str`): Where the encoder comes from; noted beside the features.
        tensors (`tuple[str, ...]`): Names as above.
        format (`str`): `safetensors` or `parquet`.
        dtype (`str`): `float32` or `float16`.

    Raises:
        ValueError: If a name is unknown, or none is given.
    """

    model: str
    tensors: tuple[str, ...] = ("pooled",)
    format: str = "safetensors"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        unknown = [name for name in self.tensors if not re.fullmatch(r"pooled|tokens|layer_[1-9]\d*(_pooled)?", name)]
        if unknown or not self.tensors:
            raise ValueError(
                f"Tensors are `pooled`, `tokens`, `layer_I` and `layer_I_pooled`, I from 1, not {unknown or 'none'}."
            )
        if len(set(self.tensors)) < len(self.tensors):
            raise ValueError(f"A tensor is named twice: {list(self.tensors)}.")
        if self.format not in FORMATS or self.dtype not in DTYPES:
            raise ValueError(
                f"`format` must be one of {list(FORMATS)} and `dtype` one of {list(DTYPES)}, not {self.format!r} and "
                f"{self.dtype!r}."
            )

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the blocks whose outputs are requested."""
        return sorted({int(name.split("_")[1]) for name in self.tensors if name.startswith("layer_")})


@torch.no_grad()
def encode_clips(
    encoder: AMDModel, clips: torch.Tensor, options: FeatureOptions, accelerator: Accelerator
) -> dict[str, torch.Tensor]:
    """Return the features of uint8 clips `(B, T, C, H, W)` by name, on the CPU, each with a first dimension B.

    The encoder is put into eval mode.

    Raises:
        ValueError: If the encoder lacks a requested layer.
    """
    if options.layers and options.layers[-1] > len(encoder.layers):
        raise ValueError(f"Layer {options.layers[-1]} was requested, but the encoder has {len(encoder.layers)}.")
    encoder.eval()
    with accelerator.autocast():
        outputs = encoder(clips.to(accelerator.device), feature_layers=options.layers, return_dict=True)
    found = {"tokens": encoder.patch_tokens(outputs.last_hidden_state)}
    found |= {f"layer_{number}": value for number, value in (outputs.layer_features or {}).items()}
    found |= {f"{name}_pooled": value.float().mean(dim=1) for name, value in found.items()}
    found["pooled"] = found.pop("tokens_pooled")
    return {name: found[name].to(DTYPES[options.dtype]).cpu() for name in options.tensors}


def extract_features(
    encoder: AMDModel,
    rows: Any,
    views: ViewOptions,
    options: FeatureOptions,
    folder: str | Path,
    accelerator: Accelerator,
    *,
    resume: bool = False,
    videos_per_batch: int = 8,
    videos_per_file: int = 512,
    num_workers: int = 0,
    decoder: str | None = None,
    time_limit: float | None = None,
) -> dict[str, Any]:
    """Write the features of all readable videos to files `features-<process>-<number>` in a folder.

    A file appears only when it is whole, so a killed run can be resumed. Each process writes its own files.

    Args:
        encoder ([`AMDModel`]): The frozen encoder.
        rows (`datasets.Dataset`): As [`load_video_dataset`] gives them; labels are not needed.
        views ([`ViewOptions`]): The views of each video.
        options ([`FeatureOptions`]): Tensors and form.
        folder (`str` or `Path`): Made where it does not exist.
        accelerator (`accelerate.Accelerator`): Device, precision and processes.
        resume (`bool`, *optional*, defaults to `False`): Continue in a folder with features of the same settings.
        videos_per_batch, num_workers, decoder, time_limit (*optional*): As in the multi-view test.
        videos_per_file (`int`, *optional*, defaults to 512): Videos in memory at most, and videos that a kill loses.

    Returns:
        Counts over all processes: `videos` in the list, `already_done` before, `written` and `unreadable` in this run.
        `unreadable.json` lists the videos that could not be read; a resumed run tries them again.

    Raises:
        FileExistsError: If the folder holds features and `resume` is not set.
        ValueError: If it holds features of other settings, or a video_id occurs twice.
    """
    folder = Path(folder)
    rows = as_video_rows(rows)
    video_ids = list(rows["video_id"])
    if len(set(video_ids)) < len(video_ids):
        raise ValueError("A video_id occurs twice: its features would be ambiguous.")
    done = _prepare_folder(folder, views, options, resume)
    accelerator.wait_for_everyone()  # no process writes before all have checked the folder
    if accelerator.is_main_process:
        settings = {**asdict(options), "views": asdict(views)}
        _write_json(folder / SETTINGS_FILE, settings)
    left = torch.utils.data.Subset(rows, [n for n, video_id in enumerate(video_ids) if video_id not in done])
    loader = build_eval_loader(
        left,
        videos_per_batch,
        ViewCollator(views, decoder, time_limit=time_limit),
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        num_workers=num_workers,
    )
    writer = _Writer(folder, options, accelerator.process_index, videos_per_file)
    unreadable: list[dict[str, str]] = []
    progress = tqdm(loader, desc="features", unit="batch", disable=not accelerator.is_main_process)
    for batch in progress:
        readable = [sample for sample in batch if "views" in sample]
        unreadable += [{"video_id": s["video_id"], "reason": s["reason"]} for s in batch if "views" not in s]
        if readable:
            clips = torch.cat([sample["views"] for sample in readable])
            features = encode_clips(encoder, clips, options, accelerator)
            writer.add(readable, {name: value.unflatten(0, (len(readable), -1)) for name, value in features.items()})
    writer.flush()
    written = writer.num_written
    if accelerator.num_processes > 1:
        unreadable = gather_object(unreadable)
        written = sum(gather_object([written]))
    if accelerator.is_main_process:
        _write_json(folder / UNREADABLE_FILE, unreadable)
    return {"videos": len(video_ids), "already_done": len(done), "written": written, "unreadable": unreadable}


def _prepare_folder(folder: Path, views: ViewOptions, options: FeatureOptions, resume: bool) -> set[str]:
    """Check what a folder holds and return the videos whose features it has."""
    folder.mkdir(parents=True, exist_ok=True)
    settings_file = folder / SETTINGS_FILE
    if not os.path.lexists(settings_file):
        others = [path.name for path in (*_feature_files(folder), folder / UNREADABLE_FILE) if os.path.lexists(path)]
        if others:
            raise FileExistsError(
                f"{folder} holds {others[0]}, which this program would write, but no {SETTINGS_FILE} that says where "
                "it comes from: choose another folder."
            )
        return set()
    if not resume:
        raise FileExistsError(f"{folder} holds features already: resume (`--resume true`), or choose another folder.")
    try:
        settings = json.loads(settings_file.read_text())
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("views"), dict):
        raise ValueError(f"{settings_file} does not say which features the folder holds: choose another folder.")
    # Earlier releases did not write how the one clip was sampled (always dense), nor a short side equal to the crop's.
    old = {"sampling_mode": "dense", **settings["views"]}
    settings["views"] = old | {"short_side": old.get("short_side") or old.get("crop_size")}
    views = replace(views, short_side=views.resized_to)
    asked = json.loads(json.dumps({**asdict(options), "views": asdict(views)}))
    other = [name for name in asked if settings.get(name) != asked[name]]
    if other:
        raise ValueError(
            f"The features in {folder} are of other settings: {other[0]} is {settings.get(other[0])!r} there and "
            f"{asked[other[0]]!r} here. Resume with the same settings, or choose another folder."
        )
    return _written_ids(folder)


def _write_json(path: Path, value: Any) -> None:
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


class _Writer:
    """Collector of features that writes a file whenever it has enough of them."""

    def __init__(self, folder: Path, options: FeatureOptions, process_index: int, videos_per_file: int) -> None:
        self._folder = folder
        self._options = options
        self._prefix = f"features-{process_index:03d}"
        self._number = len(list(folder.glob(f"{self._prefix}-*.{options.format}")))
        self._videos_per_file = videos_per_file
        self._samples: list[Mapping[str, Any]] = []
        self._tensors: list[dict[str, torch.Tensor]] = []
        self.num_written = 0

    def add(self, samples: Sequence[Mapping[str, Any]], features: Mapping[str, torch.Tensor]) -> None:
        self._samples += [{"video_id": sample["video_id"], "label": sample["label"]} for sample in samples]
        self._tensors.append(dict(features))
        if len(self._samples) >= self._videos_per_file:
            self.flush()

    def flush(self) -> None:
        """Write the features that are held in memory."""
        if not self._samples:
            return
        tensors = {name: torch.cat([part[name] for part in self._tensors]) for name in self._options.tensors}
        path = self._folder / f"{self._prefix}-{self._number:05d}.{self._options.format}"
        temporary = path.with_name(f".{path.name}.part")
        if self._options.format == "safetensors":
            # A safetensors file holds only tensors and text metadata: ids and labels are JSON in the metadata.
            metadata = {
                "video_ids": json.dumps([sample["video_id"] for sample in self._samples]),
                "labels": json.dumps([sample["label"] for sample in self._samples]),
            }
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)
        else:
            _write_parquet(temporary, self._samples, tensors)
        os.replace(temporary, path)
        self.num_written += len(self._samples)
        self._number += 1
        self._samples, self._tensors = [], []


def _write_parquet(path: Path, samples: Sequence[Mapping[str, Any]], tensors: dict[str, torch.Tensor]) -> None:
    schema = {"video_id": pa.string(), "label": pa.int64()}
    columns = {name: pa.array([sample[name] for sample in samples], kind) for name, kind in schema.items()}
    for name, value in tensors.items():
        # A plain list of fixed length, which pandas and `datasets` read; its shape is in the metadata of the file.
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(value.numpy().ravel()), value[0].numel())
    shapes = {name: list(value.shape[1:]) for name, value in tensors.items()}
    pq.write_table(pa.table(columns, metadata={"shapes": json.dumps(shapes)}), path)


def _feature_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("features-*") if path.suffix[1:] in FORMATS)


def _written_ids(folder: Path) -> set[str]:
    """Return the videos whose features are in a folder, without reading tensors."""
    found: set[str] = set()
    for path in _feature_files(folder):
        if path.suffix == ".parquet":
            found.update(pq.read_table(path, columns=["video_id"])["video_id"].to_pylist())
        else:
            with safe_open(path, framework="pt") as file:
                found.update(json.loads(file.metadata()["video_ids"]))
    return found


def read_features(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Read features back, video by video.

    Yields:
        `video_id`, `label` (`None` where there was none) and each tensor by its name, as `torch.Tensor`.

    Raises:
        FileNotFoundError: If the folder holds no features.
    """
    files = _feature_files(Path(folder))
    if not files:
        raise FileNotFoundError(f"{folder} holds no features.")
    for path in files:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            ids, labels = table["video_id"].to_pylist(), table["label"].to_pylist()
            tensors = {
                name: torch.from_numpy(np.array(table[name].combine_chunks().flatten()).reshape(len(ids), *shape))
                for name, shape in json.loads(table.schema.metadata[b"shapes"]).items()
            }
        else:
            with safe_open(path, framework="pt") as file:
                ids, labels = (json.loads(file.metadata()[name]) for name in ("video_ids", "labels"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for row, (video_id, label) in enumerate(zip(ids, labels, strict=True)):
            yield {"video_id": video_id, "label": label, **{name: value[row] for name, value in tensors.items()}}


__all__ = ["FeatureOptions", "encode_clips", "extract_features", "read_features"]
