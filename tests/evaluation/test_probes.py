"""Linear probes: against a plain fit by gradient descent, and on data whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from amd_hf import AMDConfig, AMDModel, load_video_dataset
from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.evaluation.probes import linear_probe_accuracy, pooled_features
from tests.helpers.models import randomize, tiny_config
from tests.helpers.videos import text_file, write_video


def _blobs(num_rows: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes around corners of a plane in eight dimensions of very different scale."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_rows) % 3
    centres = torch.eye(8)[:3] * 4
    features = centres[labels] + spread * torch.randn(num_rows, 8, generator=generator)
    return features * torch.logspace(-3, 3, 8) + 5, labels


def test_separable_classes_are_all_told_apart() -> None:
    assert linear_probe_accuracy(_blobs(60, 0.3, seed=0), _blobs(30, 0.3, seed=1), num_classes=3) == 1.0


def test_features_without_information_stay_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (
        (torch.randn(300, 8, generator=generator), torch.randint(3, (300,), generator=generator)) for _ in range(2)
    )
    assert linear_probe_accuracy(train, test, num_classes=3) == pytest.approx(1 / 3, abs=0.1)


def test_constant_feature_does_no_harm() -> None:
    train, test = (
        (torch.cat([features, torch.full((len(features), 1), 7.0)], dim=1), labels)
        for features, labels in (_blobs(60, 0.3, seed=0), _blobs(30, 0.3, seed=1))
    )
    assert linear_probe_accuracy(train, test, num_classes=3) == 1.0


def test_fit_equals_plain_gradient_descent() -> None:
    train, test = _blobs(90, 3.0, seed=2), _blobs(300, 3.0, seed=3)
    mean, deviation = train[0].mean(dim=0), train[0].std(dim=0)
    features, test_features = (((part - mean) / deviation).double() for part in (train[0], test[0]))
    weight = torch.zeros(3, 8, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.double, requires_grad=True)
    target = torch.eye(3, dtype=torch.double)[train[1]]
    for _ in range(3000):
        log_odds = (features @ weight.T + bias).log_softmax(dim=1)
        loss = -(log_odds * target).sum(dim=1).mean() + 1e-3 / 2 * weight.square().sum()
        gradients = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            for parameter, gradient in zip((weight, bias), gradients, strict=True):
                parameter -= 0.5 * gradient
    expected = ((test_features @ weight.T + bias).argmax(dim=1) == test[1]).double().mean().item()
    assert 0.5 < expected < 0.95  # neither chance nor all: a difference would show
    assert linear_probe_accuracy(train, test, num_classes=3) == pytest.approx(expected, abs=1 / 300 + 1e-9)


@pytest.fixture
def labelled_videos(tmp_path: Path) -> Path:
    for number in range(5):
        write_video(tmp_path / "ab"[number % 2] / f"{number}.mp4", 8 + number, 32, 48)
    text_file(tmp_path / "a" / "text.mp4")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 4])
def test_features_are_the_mean_over_tokens_of_every_readable_video(labelled_videos: Path, batch_size: int) -> None:
    config: AMDConfig = tiny_config(image_size=16)
    encoder = randomize(AMDModel(config))
    collator = ClassificationCollator(ClipLoader(num_frames=4, sampling_rate=2, image_size=16), training=False)
    rows = load_video_dataset(labelled_videos)
    features, labels = pooled_features(encoder, rows, collator, Accelerator(cpu=True), batch_size=batch_size)
    readable = [row for row in rows if row["video_id"] != "a/text.mp4"]
    assert labels.tolist() == [row["label"] for row in readable]
    for ours, row in zip(features, readable, strict=True):
        with torch.no_grad():
            tokens = encoder(collator([row])["pixel_values"]).last_hidden_state[0]
        torch.testing.assert_close(ours, tokens.sum(dim=0) / len(tokens), atol=1e-6, rtol=1e-5)
