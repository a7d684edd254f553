"""Cores that a GPU needs, by hand; and advice, each where its cause is and not elsewhere."""

from __future__ import annotations

import dataclasses

import pytest

from amd_hf import AMDConfig
from amd_hf.benchmarking.loading import STAGES, Profile
from amd_hf.benchmarking.needs import Setting, advice, devices, flops_per_clip, needs


_SMALL_FROM_LARGE = AMDConfig(
    hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, decoder_hidden_size=192,
    decoder_num_attention_heads=3, teacher_hidden_size=1024, teacher_direct_layers=[12, 24],
    teacher_generation_layers=[12, 24],
)  # fmt: skip


def test_an_h100_eats_a_thousand_clips_a_second_of_small_from_large() -> None:
    flops = flops_per_clip(_SMALL_FROM_LARGE, "pretraining")
    assert flops / 1e9 == pytest.approx(444, abs=1)  # the figure of benchmarks/results/
    (need,) = needs(devices("NVIDIA H100 80GB HBM3", None), flops, clips_per_core=50.0)
    assert need.clips_per_second == pytest.approx(1002, abs=3)
    assert need.num_cores == pytest.approx(20, abs=0.1)


def test_test_takes_a_third_of_training_and_a_model_without_teacher_less() -> None:
    training, testing = (flops_per_clip(_SMALL_FROM_LARGE, task) for task in ("finetuning", "test"))
    assert training / testing == pytest.approx(3, rel=0.02)
    alone = AMDConfig(**{**_SMALL_FROM_LARGE.to_dict(), "teacher_hidden_size": None})
    assert flops_per_clip(alone, "pretraining") < flops_per_clip(_SMALL_FROM_LARGE, "pretraining") / 4


def test_rate_is_that_of_the_longest_name_or_the_users_own() -> None:
    assert devices("NVIDIA H100 PCIe", None) == {"NVIDIA H100 PCIe": 756.0}
    assert devices("nvidia l40s", None) == {"nvidia l40s": 362.0}
    assert devices("Mine", 12.5) == {"Mine": 12.5}
    with pytest.raises(ValueError, match="'Mine' is not known here: give it as `--device_tflops N`"):
        devices("Mine", None)


_SETTING = Setting("finetuning", "pyav", 2, True, 224, True)


def _profile(speed: float = 1.0, **stages: float) -> Profile:
    taken = dict.fromkeys(STAGES, 0.0) | {name.replace("_", " "): value for name, value in stages.items()}
    return Profile(num_clips=100, num_videos=50, cpu_seconds=1 / speed, stages=taken)


def _options(setting: Setting, short_side: int = 256, **profiles: Profile) -> list[str]:
    return [text.split("`")[1] for text in advice(setting, profiles, {"short_side": short_side})]


def test_advice_names_what_is_slow() -> None:
    fast = _profile(batch=1.0)
    assert _options(_SETTING, pyav=fast) == []
    assert _options(_SETTING, pyav=fast, decord=_profile(2.0, batch=1.0)) == ["--decoder decord"]
    assert _options(_SETTING, pyav=_profile(augment=0.5, batch=0.5)) == ["--augment_on_device true"]
    assert _options(_SETTING, pyav=_profile(decode=0.9, batch=0.1)) == ["--num_repetitions 4"]
    slow = _profile(decode=0.9, batch=0.1)
    assert _options(_SETTING, 1080, pyav=slow) == ["amd-hf prepare --short_side 256", "--num_repetitions 4"]
    assert "amd-hf prepare" in _options(_SETTING, pyav=_profile(open=0.5, batch=0.5))
    assert "--cache_dir FOLDER" in _options(_SETTING, pyav=_profile(fetch=0.5, batch=0.5))
    apart = dataclasses.replace(_SETTING, are_frames_shared=False, repetitions=4)
    assert _options(apart, pyav=slow) == ["--repetitions_share_frames true"]
    assert _options(dataclasses.replace(_SETTING, task="test", can_augment_on_device=False), pyav=slow) == []
