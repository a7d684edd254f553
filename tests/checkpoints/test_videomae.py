"""Folders of Transformers' `videomae` models: the hidden states of Transformers' own model, in both bias spellings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amd_hf import AMDForPreTraining, AMDForVideoClassification, convert_checkpoint, load_teacher
from tests.helpers.models import nested_masks, random_clips, tiny_config
from tests.helpers.videomae import SPELLINGS, hidden_states, save_videomae


def _clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Raw clips, and normalised for Transformers' model in code of its own."""
    clips = random_clips(tiny_config())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return clips, (clips / 255 - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("task", ["pretraining", "classification"])
@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_teacher_gives_the_hidden_states_of_transformers(
    spelling: str, task: str, is_masked: bool, tmp_path: Path
) -> None:
    theirs = save_videomae(tmp_path, task, spelling)
    teacher = load_teacher(tmp_path, layers=[2, 5])
    clips, frames = _clips()
    mask = nested_masks(12, 8, 4)[1] if is_masked else None
    expected = hidden_states(theirs, frames, mask)
    with torch.no_grad():
        outputs = teacher(clips, mask, output_hidden_states=True)
    assert len(outputs.hidden_states) == 6
    for ours, want in zip(outputs.hidden_states[1:], expected, strict=True):
        torch.testing.assert_close(ours, want, atol=2e-4, rtol=0)
    assert {module.eps for module in teacher.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-12}


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_pretraining_folder_gives_the_prediction_and_loss_of_transformers(spelling: str, tmp_path: Path) -> None:
    theirs = save_videomae(tmp_path, spelling=spelling)
    model = convert_checkpoint(tmp_path)
    assert type(model) is AMDForPreTraining
    assert model.alignment is None
    clips, frames = _clips()
    mask, _ = nested_masks(12, 8, 4)
    expected = theirs(frames, bool_masked_pos=mask)
    outputs = model(clips, mask)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=2e-4, rtol=0)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-4, atol=0)


def test_folder_without_normalised_targets_keeps_its_loss(tmp_path: Path) -> None:
    theirs = save_videomae(tmp_path, norm_pix_loss=False)
    clips, frames = _clips()
    mask, _ = nested_masks(12, 8, 4)
    loss = convert_checkpoint(tmp_path)(clips, mask).loss
    torch.testing.assert_close(loss, theirs(frames, bool_masked_pos=mask).loss, rtol=1e-4, atol=0)


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_classification_folder_gives_the_logits_and_names_of_transformers(spelling: str, tmp_path: Path) -> None:
    theirs = save_videomae(tmp_path, "classification", spelling)
    model = convert_checkpoint(tmp_path)
    assert type(model) is AMDForVideoClassification
    assert model.config.id2label == {0: "left", 1: "right", 2: "up"}
    clips, frames = _clips()
    # Transformers' `fc_norm` has eps 1e-5 where its blocks, and the released code everywhere, have less.
    torch.testing.assert_close(model(clips).logits, theirs(frames).logits, atol=2e-4, rtol=0)


def test_report_says_that_sizes_come_from_the_folders_config(tmp_path: Path) -> None:
    save_videomae(tmp_path)
    report = convert_checkpoint(tmp_path).conversion_report
    assert report.source == str(tmp_path)
    assert report.sizes["layer_norm_eps"] == "1e-12 (from the file's own record)"
    assert report.sizes["num_attention_heads"] == "3 (from the file's own record)"
    assert report.sizes["image_size"] == "[16, 24] (from the file's own record)"
    assert report.sizes["hidden_size"] == "48 (read from the tensors)"
    assert not report.new


def test_tensors_without_their_config_still_get_the_epsilon_of_videomae(tmp_path: Path) -> None:
    save_videomae(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    given = {"num_attention_heads": 3, "decoder_num_attention_heads": 2, "image_size": [16, 24], "num_frames": 4}
    assert convert_checkpoint(tensors, **given).config.layer_norm_eps == 1e-12
    assert convert_checkpoint(tmp_path / "model.safetensors", **given).config.layer_norm_eps == 1e-12


@pytest.mark.parametrize("name", ["preprocessor_config.json", "video_preprocessor_config.json"])
def test_mean_and_deviation_come_from_the_folders_preprocessor(name: str, tmp_path: Path) -> None:
    save_videomae(tmp_path)
    assert convert_checkpoint(tmp_path).config.image_mean == [0.485, 0.456, 0.406]
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.6, 0.7, 0.8], "do_resize": True}
    (tmp_path / name).write_text(json.dumps(statistics))
    model = convert_checkpoint(tmp_path)
    assert (model.config.image_mean, model.config.image_std) == ([0.5, 0.4, 0.3], [0.6, 0.7, 0.8])
    torch.testing.assert_close(model.amd.embeddings.mean, torch.tensor([0.5, 0.4, 0.3]))


def test_sharded_and_pickled_folders_load(tmp_path: Path) -> None:
    theirs = save_videomae(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    (tmp_path / "pickle").mkdir()
    shutil.copy(tmp_path / "one/config.json", tmp_path / "pickle")
    torch.save(load_file(tmp_path / "one/model.safetensors"), tmp_path / "pickle/pytorch_model.bin")
    expected = convert_checkpoint(tmp_path / "one").state_dict()
    for folder in ("shards", "pickle"):
        state_dict = convert_checkpoint(tmp_path / folder).state_dict()
        assert all(torch.equal(state_dict[name], tensor) for name, tensor in expected.items()), folder


def _edit(
    folder: Path, rename: dict[str, str | None] | None = None, add: dict[str, torch.Tensor] | None = None
) -> None:
    tensors = load_file(folder / "model.safetensors")
    for old, new in (rename or {}).items():
        tensor = tensors.pop(old)
        if new is not None:
            tensors[new] = tensor
    save_file({**tensors, **(add or {})}, folder / "model.safetensors", metadata={"format": "pt"})


_LAYER = "videomae.encoder.layer.1.attention.attention."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rename": {f"{_LAYER}q_bias": None}}, r"layers\.1\.attention\..*q_bias is missing"),
        ({"rename": {f"{_LAYER}key.weight": None}}, r"encoder\.blocks\.1\.attn\.(query|value)\.weight"),
        ({"rename": {f"{_LAYER}value.weight": f"{_LAYER}val.weight"}}, r"encoder\.blocks\.1\.attn\."),
        ({"add": {f"{_LAYER}query.bias": torch.ones(48)}}, r"encoder\.blocks\.1\.attn\.query\.bias"),
        ({"add": {"videomae.surplus": torch.ones(1)}}, r"no place for 1 tensor\(s\).*surplus"),
        ({"rename": {"videomae.layernorm.weight": None}}, r"amd\.norm\.weight is missing"),
    ],
)
def test_folder_whose_tensors_do_not_fit_raises(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_videomae(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path)


def test_key_bias_is_dropped_as_the_softmax_ignores_it(tmp_path: Path) -> None:
    save_videomae(tmp_path)
    _edit(tmp_path, add={f"{_LAYER}key.bias": torch.ones(48)})
    report = convert_checkpoint(tmp_path).conversion_report
    assert "encoder.blocks.1.attn.k_bias" in report.dropped
    assert all(key.endswith("attn.k_bias") for key in report.dropped)  # Transformers 5.17 writes zeros for all of them


def test_folder_of_another_model_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ValueError, match="holds a `vit` model; only `VideoMAEv2`, `videomae`, `vit_mae` folders are"):
        convert_checkpoint(tmp_path)


def test_folder_without_weights_or_config_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        convert_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    with pytest.raises(FileNotFoundError, match=r"neither \*\.safetensors nor pytorch_model"):
        convert_checkpoint(tmp_path)
