"""The cache of teacher features: what is trained from it, what it refuses, and what is left after a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer, load_video_dataset
from amd_hf.pretraining.distillation import MaskGenerator
from amd_hf.teachers.cache import TeacherCache
from tests.helpers.models import randomize, tiny_config, tiny_teacher_config
from tests.helpers.training import logged, pretraining_args


MakeTrainer = Callable[..., AMDTrainer]


class RoundingTeacher(nn.Module):
    """A teacher whose features are rounded as the cache rounds them; it counts the clips that it sees."""

    def __init__(self, model: AMDModel, is_rounding: bool = True):
        super().__init__()
        self.model, self.is_rounding = model, is_rounding
        self.seen: list[int] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> RoundingTeacher:
        return self  # so that the test can look at what it saw

    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor) -> dict[int, torch.Tensor]:
        self.seen.append(len(pixel_values))
        layers = range(1, len(self.model.layers) + 1)
        found = self.model(pixel_values, bool_masked_pos, feature_layers=layers).layer_features
        return {layer: value.half().float() if self.is_rounding else value for layer, value in found.items()}


@pytest.fixture
def teacher() -> AMDModel:
    return randomize(AMDModel(tiny_teacher_config(image_size=16)))


@pytest.fixture
def make_trainer(motion_videos: Path, tmp_path: Path, teacher: AMDModel) -> MakeTrainer:
    """Builds a trainer on 16 videos: epochs of 2 steps of 8 videos, twice each; two epochs' clips in turn."""
    rows = load_video_dataset(motion_videos, split="train")

    def make(teacher_model: Any = teacher, **options: Any) -> AMDTrainer:
        options = {
            "per_device_train_batch_size": 8, "num_repetitions": 2, "sampling_rate": 2, "max_steps": 6,
            "base_learning_rate": 0.1, "teacher_cache_views": 4, "flip_probability": 0.5, **options,
        }  # fmt: skip
        torch.manual_seed(0)
        args = pretraining_args(tmp_path / "out", overwrite_output_dir=True, **options)
        return AMDTrainer(AMDForPreTraining(tiny_config(image_size=16)), args, teacher_model, train_dataset=rows)

    return make


def _train(trainer: AMDTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    trainer.finish_run()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def _cached(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/[!.]*"))


def test_a_student_of_the_cache_gets_the_weights_of_one_whose_teacher_is_asked_every_time(
    make_trainer: MakeTrainer, teacher: AMDModel, tmp_path: Path
) -> None:
    folder = str(tmp_path / "cache")
    asked = RoundingTeacher(teacher)
    expected = _train(make_trainer(asked))
    exact = _train(make_trainer())
    assert sum(asked.seen) == 6 * 16

    counting = RoundingTeacher(teacher, is_rounding=False)
    filling = make_trainer(counting, teacher_cache=folder)
    filled = _train(filling)
    assert sum(counting.seen) == 4 * 16  # of 6 steps the last 2 show the clips of the first epoch again
    assert logged(filling, "teacher_cached") == [0.0] * 4 + [1.0] * 2
    again = make_trainer(counting, teacher_cache=folder)
    read = _train(again)
    assert sum(counting.seen) == 4 * 16
    assert logged(again, "teacher_cached") == [1.0] * 6

    # 16 videos, 4 views each; float16 of width 48: 2 x (V x direct layers + X x generation layers) numbers.
    files = _cached(tmp_path / "cache")
    assert len(files) == 16 * 4
    assert {path.stat().st_size for path in files} == {again.teacher_cache.bytes_per_clip()}  # type: ignore[union-attr]
    start = make_trainer().model.state_dict()
    for name, value in expected.items():
        assert torch.equal(read[name], filled[name]), name  # whether a feature was new does not matter
        torch.testing.assert_close(read[name], value, atol=1e-6, rtol=0, msg=name)
    # Rounding to float16 is the only difference from a run without a cache: 0.16% of what the run changed.
    drift, moved = (sum((read[name] - other[name]).square().sum() for name in read) for other in (exact, start))
    assert 0 < drift < 1e-5 * moved


def test_views_are_shown_again_and_differ_from_one_another(make_trainer: MakeTrainer) -> None:
    collator = make_trainer(teacher_cache_views=4).data_collator
    row = make_trainer().train_dataset[0]
    clips = [collator([{**row, "epoch": epoch}]) for epoch in range(5)]
    for name in ("pixel_values", "bool_masked_pos", "teacher_bool_masked_pos"):
        assert torch.equal(clips[0][name], clips[2][name])
        assert torch.equal(clips[1][name], clips[3][name])
        assert not torch.equal(clips[0][name], clips[1][name])
    new = make_trainer(teacher_cache_views=None).data_collator([{**row, "epoch": 2}])
    assert not torch.equal(new["bool_masked_pos"], clips[2]["bool_masked_pos"])


def test_the_same_pixels_under_other_masks_are_another_clip(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(teacher_cache=str(tmp_path / "cache"))
    collator, rows = trainer.data_collator, [trainer.train_dataset[0]]
    assert collator(rows)["teacher_keys"] == collator(rows)["teacher_keys"]
    ratios = {"student_mask_ratio": 0.9, "teacher_mask_ratio": 0.2}  # of 4 patches 3 instead of 2, 0 instead of 1
    for ratio in ratios:
        config = tiny_config(image_size=16, **{ratio: ratios[ratio]})
        other = replace(collator, mask_generator=MaskGenerator(config))(rows)
        assert torch.equal(other["pixel_values"], collator(rows)["pixel_values"])
        assert not {*other["teacher_keys"]} & {*collator(rows)["teacher_keys"]}


def test_files_cut_short_and_left_behind_are_made_anew(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    options = {"teacher_cache": str(folder), "max_steps": 2, "teacher_cache_views": 2}
    expected = _train(make_trainer(**options))
    files = _cached(folder)
    content = {path: path.read_bytes() for path in files}
    files[0].write_bytes(content[files[0]][:7])  # a crash of the machine
    files[1].write_bytes(b"")
    files[2].rename(files[2].with_name(f".{files[2].name}.0"))  # kill -9 before the file got its name
    trainer = make_trainer(**options)
    assert f"{len(files) - 3} clips are there" in trainer.teacher_cache.describe(None)  # type: ignore[union-attr]
    weights = _train(trainer)
    assert _cached(folder) == files
    for path in files:
        # Another batch around a clip may change its last bit.
        now, before = (
            torch.frombuffer(bytearray(data), dtype=torch.float16) for data in (path.read_bytes(), content[path])
        )
        torch.testing.assert_close(now, before)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=0, msg=name)


def test_a_run_in_bfloat16_fills_its_cache_and_reads_it(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    options = {"teacher_cache": str(tmp_path / "cache"), "bf16": True, "max_steps": 1}
    filled = _train(make_trainer(**options))
    again = make_trainer(**options)
    read = _train(again)
    assert logged(again, "teacher_cached") == [1.0]
    for name, value in filled.items():
        assert torch.equal(read[name], value), name
    with pytest.raises(ValueError, match="precision: bf16, now no"):
        make_trainer(teacher_cache=options["teacher_cache"])


def test_another_teacher_or_use_of_it_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    options = {"teacher_cache": str(tmp_path / "cache")}
    make_trainer(**options)
    make_trainer(**options)
    other = randomize(AMDModel(tiny_teacher_config(image_size=16)), seed=1)
    with pytest.raises(
        ValueError, match=r"holds features of another teacher.*fingerprint: \w+, now \w+.*another folder"
    ):
        make_trainer(other, **options)
    with pytest.raises(ValueError, match="used in another way .*teacher_view: asymmetric, now full"):
        make_trainer(teacher_view="full", **options)
    with pytest.raises(ValueError, match="teacher_dtype: float32, now bfloat16"):
        make_trainer(teacher_dtype="bfloat16", **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match="is no cache of a teacher's features, and not empty .it holds thesis.txt"):
        make_trainer(teacher_cache=str(tmp_path / "mine"))


def test_options_that_no_cache_goes_with_are_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    for views in (0, 3):
        with pytest.raises(ValueError, match="`teacher_cache_views` must be a multiple of `num_repetitions` 2"):
            make_trainer(teacher_cache_views=views)
    with pytest.raises(ValueError, match="leave `augment_on_device` out"):
        make_trainer(teacher_cache=folder, augment_on_device=True)
    with pytest.raises(ValueError, match="`shard_teacher` needs the teacher on all processes at once"):
        make_trainer(teacher_cache=folder, shard_teacher=True)
    with pytest.raises(ValueError, match="`teacher_cache` needs a teacher"):
        make_trainer(None, teacher_cache=folder)
    trainer = make_trainer()
    with pytest.raises(ValueError, match="`teacher_cache` needs the built-in collator"):
        AMDTrainer(
            trainer.model,
            pretraining_args(tmp_path / "own", teacher_cache=folder),
            RoundingTeacher(AMDModel(tiny_teacher_config(image_size=16))),
            data_collator=lambda rows: {},
            train_dataset=trainer.train_dataset,
        )


def test_a_cache_that_does_not_fit_the_disk_is_refused_before_the_start(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    cache = make_trainer(teacher_cache=str(tmp_path / "cache")).teacher_cache
    assert isinstance(cache, TeacherCache)
    size = cache.bytes_per_clip()
    assert f"64 clips x {size:,} bytes = " in cache.describe(64)
    assert "per clip of a stream of unknown length" in cache.describe(None)
    with pytest.raises(ValueError, match="of which 0 clips are there.*GB free. Lower `teacher_cache_views`"):
        cache.describe(10**15)


def test_features_too_large_for_float16_are_refused(
    make_trainer: MakeTrainer, teacher: AMDModel, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in teacher.layers[3].parameters():  # the last that is aligned
            parameter.mul_(1e4)
    with pytest.raises(ValueError, match="do not fit float16 .largest 65,504"):
        make_trainer(teacher, teacher_cache=str(tmp_path / "cache"), max_steps=1).train()
    assert _cached(tmp_path / "cache") == []
