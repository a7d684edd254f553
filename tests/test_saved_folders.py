"""Folders that earlier releases saved load with the results they had then."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from amd_hf import AMDForPreTraining, AMDForVideoClassification


_SAVED = Path(__file__).parent / "fixtures/saved_before_plain_qkv"


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
