"""A published encoder on real videos: DINOv2 ViT-S/14, in the folder that `../shared/tools/dino_small.py` writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2Model

from amd_hf import AMDConfig, AMDForPreTraining, AMDTrainer, load_teacher, load_video_dataset
from amd_hf.data import open_video
from amd_hf.teachers.geometry import student_options
from amd_hf.teachers.loading import read_teacher
from tests.helpers.training import logged, pretraining_args


_SHARED = Path(__file__).parents[3] / "shared"
_DINO = Path(os.environ.get("AMD_DINO_DIR", _SHARED / "dino"))
_VIDEOS = _SHARED / "real" / "grid"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _DINO.is_dir() or not _VIDEOS.is_dir(), reason=f"needs {_DINO} and {_VIDEOS}"),
]


def test_features_are_those_of_its_class_and_a_few_channels_are_far_larger_than_the_rest() -> None:
    clips = []
    for path in sorted(_VIDEOS.rglob("*.mp4"))[:4]:
        with open_video(path) as video:
            frames = torch.from_numpy(video.frames([0, 2, 4, 6])).permute(0, 3, 1, 2) / 255
        clips.append(F.interpolate(frames, (196, 196), mode="bilinear", antialias=True))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (torch.stack(clips) - mean) / std
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(_DINO).eval()(pixels.flatten(0, 1), output_hidden_states=True)
        found = load_teacher(_DINO, layers=[6, 12])(pixels)
    for layer in (6, 12):
        states = expected.hidden_states[layer][:, 1:].reshape(found[layer].shape)
        torch.testing.assert_close(found[layer], states, atol=1e-4, rtol=1e-4)
    energy = found[12].flatten(0, 1).square().mean(dim=0).sort(descending=True).values
    assert energy[:4].sum() / energy.sum() > 0.2  # 4 of 384 channels: why `teacher_feature_norm` is on


def test_student_learns_from_it_on_real_videos(tmp_path: Path) -> None:
    teacher = read_teacher(_DINO)
    assert teacher.facts is not None
    size = {"image_size": 96, "num_frames": 8, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
            "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    student = AMDForPreTraining(AMDConfig(**size, **student_options(teacher.facts, size)))
    args = pretraining_args(
        tmp_path, max_steps=20, per_device_train_batch_size=4, sampling_rate=2, base_learning_rate=0.1
    )
    trainer = AMDTrainer(student, args, teacher_model=teacher, train_dataset=load_video_dataset(_VIDEOS))
    assert trainer.teacher is not None
    assert "sees 8 frames of 84 x 84 as 4 x 6 x 6 tokens, the student's grid" in trainer.teacher.describe()
    trainer.train()
    for part in ("direct", "generation"):
        losses = logged(trainer, f"loss_{part}")
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_student_gets_the_same_weights_from_the_cache(tmp_path: Path) -> None:
    size = {"image_size": 96, "num_frames": 8, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
            "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}  # fmt: skip

    def train(name: str, **options: str) -> tuple[AMDTrainer, dict[str, torch.Tensor]]:
        teacher = read_teacher(_DINO)
        assert teacher.facts is not None
        torch.manual_seed(0)
        student = AMDForPreTraining(AMDConfig(**size, **student_options(teacher.facts, size)))
        args = pretraining_args(
            tmp_path / name, max_steps=4, per_device_train_batch_size=4, sampling_rate=2, base_learning_rate=0.1,
            teacher_cache_views=1, **options,
        )  # fmt: skip
        trainer = AMDTrainer(student, args, teacher_model=teacher, train_dataset=load_video_dataset(_VIDEOS))
        start = {key: value.clone() for key, value in student.state_dict().items()}
        trainer.train()
        return trainer, start

    without, start = train("without")
    cache = str(tmp_path / "cache")
    filling, _ = train("filling", teacher_cache=cache)
    reading, _ = train("reading", teacher_cache=cache)
    assert logged(reading, "teacher_cached") == [1.0] * 4
    found, expected = reading.model.state_dict(), without.model.state_dict()
    for name, value in filling.model.state_dict().items():
        assert torch.equal(found[name], value), name
    # Features in float16 are the only difference from a run without a cache.
    drift, moved = (sum((found[name] - other[name]).square().sum() for name in found) for other in (expected, start))
    assert drift < 1e-5 * moved
