"""Mixup and cutmix against timm's, and against the description number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from amd_hf.finetuning.mixing import BatchMixer, MixDraw, mix_clips, mix_generator, soft_targets
from tests.helpers.finetuning import NumpyLegacyDraws, plain_mix


RECIPE = BatchMixer(mixup_alpha=0.8, cutmix_alpha=1.0)


def _box_of_the_recipes_timm(shape: tuple[int, ...], share: float, count: None = None) -> tuple[int, int, int, int]:
    """As timm 0.4.12, which the released code asks for: an odd side loses a pixel, unlike in later versions."""
    center = [np.random.randint(0, side) for side in shape[-2:]]
    halves = [int(side * math.sqrt(1 - share)) // 2 for side in shape[-2:]]
    ends = [(max(c - h, 0), min(c + h, side)) for c, h, side in zip(center, halves, shape[-2:], strict=True)]
    return (*ends[0], *ends[1])


@pytest.mark.parametrize(
    "options",
    [
        {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
        {"mixup_alpha": 0.8, "cutmix_alpha": 0.0},
        {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
        {"mixup_alpha": 0.3, "cutmix_alpha": 2.0, "probability": 0.6, "switch_probability": 0.2},
    ],
)
def test_same_draws_give_the_clips_and_targets_of_timm(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    timm_mixup = pytest.importorskip("timm.data.mixup", reason="timm is a development dependency")
    monkeypatch.setattr(timm_mixup, "rand_bbox", _box_of_the_recipes_timm)
    mixer = BatchMixer(**options)
    theirs = timm_mixup.Mixup(
        mixup_alpha=mixer.mixup_alpha, cutmix_alpha=mixer.cutmix_alpha, prob=mixer.probability,
        switch_prob=mixer.switch_probability, mode="batch", label_smoothing=0.1, num_classes=5,
    )  # fmt: skip
    clips, labels = torch.randn(4, 2, 3, 17, 24), torch.tensor([4, 0, 2, 2])
    kinds = set()
    for seed in range(40):
        draw = mixer.draw(NumpyLegacyDraws(seed), 17, 24)
        kinds.add("box" if draw.box else "blend" if draw.ratio < 1 else "none")
        np.random.seed(seed)
        # The released code views (B, C, T, H, W) as (B, C * T, H, W): all frames of a clip are treated alike.
        expected, targets = theirs(clips.clone().flatten(1, 2), labels.to("cpu"))
        torch.testing.assert_close(mix_clips(clips, draw).flatten(1, 2), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(soft_targets(labels, 5, 0.1, draw), targets, atol=1e-6, rtol=0)
    assert len(kinds) == 1 + (mixer.mixup_alpha > 0 < mixer.cutmix_alpha) + (mixer.probability < 1)


@pytest.mark.parametrize("draw", [MixDraw(0.3), MixDraw(1 - 12 / 96, (2, 5, 7, 11)), MixDraw()])
@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_clips_and_targets_are_mixed_as_described(draw: MixDraw, batch_size: int) -> None:
    clips, labels = torch.randn(batch_size, 3, 3, 8, 12), torch.randint(4, (batch_size,))
    before = clips.clone()
    expected, targets = plain_mix(clips, labels.tolist(), 4, 0.2, draw)
    torch.testing.assert_close(mix_clips(clips, draw), expected)
    torch.testing.assert_close(soft_targets(labels, 4, 0.2, draw), targets)
    assert torch.equal(clips, before)


def test_share_and_kind_have_the_recipes_distribution() -> None:
    draws = [RECIPE.draw(mix_generator(0, step, 0), 224, 224) for step in range(4000)]
    boxes = [draw for draw in draws if draw.box is not None]
    blends = [draw.ratio for draw in draws if draw.box is None]
    assert len(boxes) / len(draws) == pytest.approx(0.5, abs=0.03)
    assert np.mean(blends) == pytest.approx(0.5, abs=0.02)
    assert np.var(blends) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)  # of a beta distribution
    for draw in boxes:
        top, bottom, left, right = draw.box
        assert 0 <= top <= bottom <= 224
        assert 0 <= left <= right <= 224
        assert draw.ratio == pytest.approx(1 - (bottom - top) * (right - left) / 224**2, abs=1e-12)
    # A box of side s * 224 around a centre anywhere: on average s * (1 - s / 4) of a side lies inside the frame.
    shares = np.random.default_rng(0).beta(1, 1, 20000)
    sides = np.sqrt(1 - shares)
    assert np.mean([draw.ratio for draw in boxes]) == pytest.approx(
        1 - np.mean((sides * (1 - sides / 4)) ** 2), abs=0.02
    )


def test_draw_depends_on_seed_step_and_device_batch_alone() -> None:
    def draw(*place: int) -> MixDraw:
        return RECIPE.draw(mix_generator(*place), 32, 32)

    expected = draw(3, 7, 1)
    np.random.seed(9)
    torch.manual_seed(9)
    assert draw(3, 7, 1) == expected
    assert all(draw(*other) != expected for other in [(4, 7, 1), (3, 8, 1), (3, 7, 0)])


def test_targets_of_a_batch_sum_to_one_and_favour_the_own_label() -> None:
    targets = soft_targets(torch.tensor([1, 0]), 3, 0.1, MixDraw(0.75))
    assert targets.dtype == torch.float32
    assert targets.sum(dim=1).tolist() == pytest.approx([1, 1])
    smooth = 0.1 / 3
    assert targets[0].tolist() == pytest.approx([0.25 * 0.9 + smooth, 0.75 * 0.9 + smooth, smooth])


@pytest.mark.parametrize(
    ("mixer", "is_on"),
    [
        (RECIPE, True),
        (BatchMixer(mixup_alpha=0.0, cutmix_alpha=0.0), False),
        (BatchMixer(mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.0), False),
    ],
)
def test_mixer_knows_whether_it_does_anything(mixer: BatchMixer, is_on: bool) -> None:
    assert bool(mixer) is is_on
    draws = [mixer.draw(mix_generator(0, step, 0), 9, 9) for step in range(5)]
    assert any(draw != MixDraw() for draw in draws) is is_on
