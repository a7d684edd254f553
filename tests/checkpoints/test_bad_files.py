"""Checkpoint files that are no good: damaged, unsafe, cut off, or something else; each error says what and where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amd_hf import convert_checkpoint
from tests.helpers.checkpoints import TINY_CLASSIFIER


Tensors = dict[str, torch.Tensor]


def _remove(tensors: Tensors) -> None:
    del tensors["blocks.1.mlp.fc1.bias"]


def _rename(tensors: Tensors) -> None:
    tensors["blocks.1.mlp.fc_one.bias"] = tensors.pop("blocks.1.mlp.fc1.bias")


def _rename_outside(tensors: Tensors) -> None:
    tensors["fc_normal.bias"] = tensors.pop("fc_norm.bias")


def _reshape(tensors: Tensors) -> None:
    tensors["blocks.1.attn.proj.weight"] = torch.ones(24, 25)


def _spoil(tensors: Tensors) -> None:
    tensors["blocks.2.norm1.bias"][7] = float("nan")


def _overflow(tensors: Tensors) -> None:
    tensors["blocks.2.norm1.bias"][7] = float("inf")


def _round(tensors: Tensors) -> None:
    tensors["head.bias"] = torch.ones(5, dtype=torch.int64)


def _lose_a_block(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("blocks.1.")]:
        del tensors[name]


def _rename_the_embedding(tensors: Tensors) -> None:
    tensors["patch_embedding.proj.weight"] = tensors.pop("patch_embed.proj.weight")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, r"amd\.layers\.1\.mlp\.fc1\.bias is missing"),
        (_rename, r"fc1\.bias is missing; blocks\.1\.mlp\.fc_one\.bias has no place in this model"),
        (_rename_outside, r"no place for 1 tensor\(s\) of a classification checkpoint: fc_normal\.bias"),
        (_reshape, r"blocks\.1\.attn\.proj\.weight has shape \(24, 25\), \(24, 24\) needed"),
        (_spoil, r"`blocks\.2\.norm1\.bias` holds NaN or infinite values"),
        (_overflow, r"`blocks\.2\.norm1\.bias` holds NaN or infinite values"),
        (_round, r"`head\.bias` has dtype torch\.int64"),
        (_lose_a_block, r"not numbered without gaps: \[0, 2\]"),
        (_rename_the_embedding, r"no `patch_embed\.proj\.weight`, which gives the sizes"),
    ],
)
def test_damaged_checkpoint_raises_and_names_the_tensor(
    damage: Callable[[Tensors], None], message: str, classifier_file: Tensors, tmp_path: Path
) -> None:
    damage(classifier_file)
    file = tmp_path / "damaged.pth"
    torch.save({"model": classifier_file}, file)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(file, **TINY_CLASSIFIER)
    assert "damaged.pth" in str(error.value) or damage in (_lose_a_block, _rename_the_embedding)


class _RunsCode:
    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_pickle_with_code_is_refused_and_not_run(where: str, classifier_file: Tensors, tmp_path: Path) -> None:
    file, witness = tmp_path / "evil.pth", tmp_path / "witness"
    evil = _RunsCode(witness)
    content = (
        {"model": classifier_file, "args": evil} if where == "beside" else {"model": {**classifier_file, "x": evil}}
    )
    torch.save(content, file)
    with pytest.raises(
        ValueError, match=r"evil\.pth cannot be loaded safely: .*weights_only=False.*keep the state dict"
    ):
        convert_checkpoint(file, **TINY_CLASSIFIER)
    assert not witness.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: the download or copy was cut off"),
        (b"This is not a checkpoint.\n" * 20, "(cannot be loaded safely|is not a readable checkpoint)"),
        (b"PK\x03\x04" + b"\0" * 300, "(cannot be loaded safely|is not a readable checkpoint)"),
    ],
    ids=["empty", "text", "broken zip"],
)
def test_file_that_is_no_checkpoint_raises(content: bytes, message: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"bad{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(file)
    assert f"bad{suffix}" in str(error.value)


def test_truncated_file_raises(classifier_file: Tensors, tmp_path: Path) -> None:
    file = tmp_path / "cut.pth"
    torch.save(classifier_file, file)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cut\.pth is not a readable checkpoint"):
        convert_checkpoint(file, **TINY_CLASSIFIER)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds nothing where a state dict was expected"),
        ({"model": {}}, "holds nothing where a state dict was expected"),
        (
            {"weights": {"a": torch.ones(1)}, "epoch": 3},
            r"entries that are no tensors \(weights, epoch\).*model, module",
        ),
    ],
)
def test_file_without_a_state_dict_raises(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(file)


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*nothing\.pth"):
        convert_checkpoint(tmp_path / "nothing.pth")
