"""Folders that earlier releases saved load with the results they had then."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from amd_hf import AMDForPreTraining, AMDForVideoClassification


_SAVED = Path(__file__).parents[1] / "fixtures/saved_before_plain_qkv"


def test_classifier_saved_with_separate_biases_gives_its_logits() -> None:
    model = AMDForVideoClassification.from_pretrained(_SAVED / "classifier").eval()
    expected = load_file(_SAVED / "classifier/expected.safetensors")
    with torch.no_grad():
        logits = model(expected["pixel_values"]).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=1e-5, atol=1e-5)


def test_pretraining_model_saved_with_separate_biases_gives_its_outputs() -> None:
    model = AMDForPreTraining.from_pretrained(_SAVED / "pretraining").eval()
    expected = load_file(_SAVED / "pretraining/expected.safetensors")
    masks = expected["bool_masked_pos"], expected["teacher_bool_masked_pos"]
    with torch.no_grad():
        outputs = model(expected["pixel_values"], *masks)
    torch.testing.assert_close(outputs.logits, expected["logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.direct_features[-1], expected["direct"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.generated_features[0], expected["generated"], rtol=1e-5, atol=1e-5)


def test_folder_saved_again_has_the_names_of_today(tmp_path: Path) -> None:
    model = AMDForVideoClassification.from_pretrained(_SAVED / "classifier").eval()
    model.save_pretrained(tmp_path)
    saved, old = load_file(tmp_path / "model.safetensors"), load_file(_SAVED / "classifier/model.safetensors")
    assert not [name for name in saved if name.endswith(("q_bias", "v_bias"))]
    for layer in range(2):
        prefix = f"amd.layers.{layer}.attention.qkv."
        query, key, value = saved[f"{prefix}bias"].chunk(3)
        assert torch.equal(query, old[f"{prefix}q_bias"])
        assert not key.any()
        assert torch.equal(value, old[f"{prefix}v_bias"])
    again = AMDForVideoClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
