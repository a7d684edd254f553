"""Weights from strangers: values that are no numbers, tensors that are no arrays, sizes that are only claimed."""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amd_hf import (
    AMDConfig,
    AMDForActionDetection,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    convert_checkpoint,
    load_teacher,
)
from amd_hf.checkpoints.reading import read_checkpoint
from amd_hf.models import build_classifier, load_model, load_trained_classifier
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import load_script
from tests.helpers.videos import write_video


# ---------------------------------------------------------------------------------------------------------------------
# NaN and infinite weights in folders of our own
# ---------------------------------------------------------------------------------------------------------------------

_NAME = "layers.1.mlp.fc1.weight"
_SPOILT = r"NaN or infinite values in .*layers\.1\.mlp\.fc1\.weight"


def _save(folder: Path, kind: Any, value: float, max_shard_size: str = "1GB", dtype: Any = torch.float32) -> Path:
    """A model one of whose weights is spoilt behind `save_pretrained`'s back, as by a training that diverged."""
    model = randomize(kind(tiny_config(image_size=16, teacher_hidden_size=None))).to(dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    spoilt = 0
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name in tensors:
            if name.removeprefix("amd.") == _NAME:
                tensors[name][3, 1] = value
                spoilt += 1
        save_file(tensors, path, metadata={"format": "pt"})
    assert spoilt == 1
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "load",
    [
        lambda folder: load_model(folder),
        lambda folder: AMDForVideoClassification.from_pretrained(folder),
        lambda folder: AMDModel.from_pretrained(str(folder), output_loading_info=True),
        lambda folder: load_teacher(folder, layers=[2]),
        lambda folder: build_classifier(str(folder), ["a", "b"]),
        lambda folder: load_trained_classifier(str(folder)),
    ],
    ids=["load_model", "from_pretrained", "encoder", "load_teacher", "build_classifier", "load_trained_classifier"],
)
def test_weights_that_are_no_numbers_are_refused_by_name(
    load: Callable[[Path], Any], value: float, tmp_path: Path
) -> None:
    folder = _save(tmp_path, AMDForVideoClassification, value)
    with pytest.raises(ValueError, match=_SPOILT):
        load(folder)


@pytest.mark.parametrize("kind", [AMDForPreTraining, AMDForActionDetection, AMDModel])
def test_every_kind_of_model_and_a_sharded_one_is_looked_through(kind: Any, tmp_path: Path) -> None:
    folder = _save(tmp_path, kind, float("nan"), max_shard_size="30KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    with pytest.raises(ValueError, match=_SPOILT):
        load_model(folder)


def test_half_precision_whose_sum_overflows_is_no_fault(tmp_path: Path) -> None:
    model = AMDModel(tiny_config(image_size=16, teacher_hidden_size=None)).to(torch.float16)
    with torch.no_grad():
        model.layers[0].mlp.fc1.weight.fill_(6e4)  # their sum is far beyond float16, each is a number
    model.save_pretrained(tmp_path)
    loaded = AMDModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.layers[0].mlp.fc1.weight, model.layers[0].mlp.fc1.weight)


def test_predict_ends_with_an_error_and_prints_no_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _save(tmp_path / "model", AMDForVideoClassification, float("nan"))
    video = write_video(tmp_path / "a.mp4", 20, 48, 64)
    arguments = ["--model_name_or_path", str(folder), "--videos", str(video), "--use_cpu"]
    with pytest.raises(ValueError, match=_SPOILT):
        load_script("predict").main(arguments)
    assert "%" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# Files whose tensors are larger, or other things, than the file
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Files that would take gigabytes or the stack, read in one process of its own: what it says of each, and the
    bytes by which its memory grew. It may take some gigabytes and no more."""
    folder = tmp_path_factory.mktemp("hostile")
    shared = torch.zeros(1)
    torch.save({f"k{i}": shared.expand(1000, 1000) for i in range(500)}, folder / "shared")  # 4 MB each, 2 GB in all
    _write_zip(folder / "bomb", pickle.dumps({}) + bytes(1 << 30), zipfile.ZIP_DEFLATED)
    assert (folder / "bomb").stat().st_size < 2e6
    for depth in (1_000, 200_000):
        pickled = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"}" + b"s" * depth + b"."
        _write_zip(folder / f"deep_{depth}", pickled)
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(folder)], capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: tuple(found) for name, found in json.loads(done.stdout).items()}


_READ_ALL = """
import json, pathlib, resource, sys
from amd_hf.checkpoints.reading import read_checkpoint
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_checkpoint(path)
        said = "loaded"
    except ValueError as error:
        said = str(error)
    found[path.name] = said, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(json.dumps(found))
"""


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_expanded_tensor_counts_by_its_full_size_before_it_is_looked_at(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "expanded.pth"
    tensors = {"blocks.0.norm1.weight": torch.ones(1).expand(2_000_000_000_000), "fc_norm.weight": torch.ones(24)}
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"`blocks.0.norm1.weight` .*8,000,000,000,000 bytes.*holds only"):
        read_checkpoint(path)


def test_many_tensors_that_share_a_few_numbers_count_all_together(hostile: dict[str, tuple[str, int]]) -> None:
    said, grown = hostile["shared"]
    assert "expanded tensors" in said
    assert grown < 100e6


def test_small_expanded_and_tied_tensors_load(tmp_path: Path) -> None:
    path = tmp_path / "tied.pth"
    weight = torch.rand(64, 64)
    torch.save({"a": weight, "b": weight, "c": torch.ones(1).expand(384)}, path)
    tensors = read_checkpoint(path).tensors
    assert torch.equal(tensors["b"], weight)
    assert tensors["c"].shape == (384,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            lambda: torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0), (10**6, 10**6)),
            "sparse",
        ),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.zeros(10**9, 10**3, device="meta"), "without values"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "quantized|qint8"),
        (lambda: torch.zeros(3, dtype=torch.complex64), "complex64"),
        (lambda: torch.zeros(3, dtype=torch.float8_e4m3fn), "float8"),
    ],
    ids=["sparse", "csr", "meta", "quantized", "complex", "float8"],
)
def test_tensors_that_are_no_dense_arrays_are_refused_by_name(
    tensor: Callable[[], torch.Tensor], message: str, tmp_path: Path
) -> None:
    torch.save({"model": {"head.weight": tensor()}}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=f"`head.weight`.*({message})"):
        read_checkpoint(tmp_path / "odd.pth")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    torch.save({7: torch.zeros(3)}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match=r"names are no text \(7\)"):
        read_checkpoint(tmp_path / "numbers.pth")


def test_prefix_that_only_some_names_have_overwrites_nothing() -> None:
    tensors = {"encoder.blocks.0.norm1.weight": torch.zeros(3), "blocks.0.norm1.weight": torch.ones(3)}
    with pytest.raises(ValueError, match="with and without the prefix `encoder.`"):
        read_checkpoint(tensors)


def _write_zip(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A `.pth` whose record of tensors is made by hand."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/version", "3\n")
    return path


def test_compressed_record_is_refused_before_it_is_unpacked(hostile: dict[str, tuple[str, int]]) -> None:
    said, grown = hostile["bomb"]
    assert "compressed" in said
    assert grown < 100e6


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_nesting_without_end_is_an_error_not_a_crash(depth: int, hostile: dict[str, tuple[str, int]]) -> None:
    assert f"deep_{depth}" in hostile[f"deep_{depth}"][0]


def test_thousands_of_prefixed_names_take_no_quadratic_time() -> None:
    tensors = {f"module.blocks.{i}.norm1.weight": torch.zeros(1) for i in range(20_000)}
    assert "blocks.19999.norm1.weight" in read_checkpoint(tensors).tensors


def test_more_tensors_than_any_model_has_are_refused() -> None:
    shared = torch.zeros(1)
    with pytest.raises(ValueError, match="100,001 tensors"):
        read_checkpoint({f"a{i}": shared for i in range(100_001)})


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","shape":[2000000000000],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[1],"data_offsets":[0,8000000000000]}',
        '{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}',
        '{"dtype":"F32","shape":[0,2000000000000],"data_offsets":[4,4]}',
    ],
    ids=["huge", "overflow", "beyond the file", "negative", "hole"],
)
@pytest.mark.parametrize("where", ["file", "folder of ours", "folder of videomae"])
def test_sizes_that_a_safetensors_header_only_claims_are_refused(entry: str, where: str, tmp_path: Path) -> None:
    header = f'{{"head.weight":{entry}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    if where == "file":
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            convert_checkpoint(tmp_path / "model.safetensors")
        return
    if where == "folder of ours":
        AMDConfig(**tiny_config().to_diff_dict(), architectures=["AMDForVideoClassification"]).save_pretrained(
            tmp_path
        )
    else:
        (tmp_path / "config.json").write_text('{"model_type": "videomae"}')
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_model(tmp_path)
