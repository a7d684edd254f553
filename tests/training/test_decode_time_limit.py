"""`decode_time_limit` is an option of everything that reads videos: one whose decoder hangs is lost, nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amd_hf import (
    AMDDetectionTrainer,
    AMDFineTuningTrainer,
    AMDForActionDetection,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDTrainer,
    AMDVideoProcessor,
    load_video_dataset,
)
from amd_hf.data.video import decoding, decoding_process
from tests.helpers.ava import detection_args
from tests.helpers.detection_scene import people_rows
from tests.helpers.hostile_decoders import HOSTILE
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import finetuning_args, load_script, pretraining_args
from tests.helpers.videos import write_video


_LIMITED = {"decoder": "hostile", "decode_time_limit": 0.7, "max_unreadable_fraction": 1.0, "sampling_rate": 1}


@pytest.fixture(autouse=True)
def _hostile_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(decoding.DECODERS, "hostile", HOSTILE)
    yield
    decoding_process._POOL.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of three sound videos and one whose decoder hangs."""
    folder = tmp_path_factory.mktemp("hanging")
    original = write_video(folder / "up" / "good.mp4", 25, 32, 32)
    for name in ("up/sleep.mp4", "down/good.mp4", "down/better.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(original, folder / name)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    config = tiny_config(image_size=16, num_labels=2)
    config.id2label = {0: "down", 1: "up"}
    randomize(AMDForVideoClassification(config)).save_pretrained(folder)
    AMDVideoProcessor.for_model(config, sampling_rate=1).save_pretrained(folder)
    return folder


def test_training_goes_on_without_a_video_that_hangs(tmp_path: Path, videos: Path) -> None:
    rows = load_video_dataset(videos)
    args = pretraining_args(tmp_path / "a", max_steps=1, per_device_train_batch_size=4, **_LIMITED)
    trainer = AMDTrainer(AMDForPreTraining(tiny_config(image_size=16)), args, train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == 1
    assert _lost(trainer) == {"sleep"}


def test_fine_tuning_and_its_test_go_on_without_a_video_that_hangs(tmp_path: Path, videos: Path) -> None:
    rows = load_video_dataset(videos)
    options = {**_LIMITED, "test_num_segments": 1, "test_num_crops": 1, "per_device_train_batch_size": 4}
    args = finetuning_args(tmp_path / "b", max_steps=1, **options)
    model = AMDForVideoClassification(tiny_config(image_size=16, num_labels=2))
    trainer = AMDFineTuningTrainer(model, args, train_dataset=rows)
    trainer.train()
    assert _lost(trainer) == {"sleep"}
    ((video_id, reason),) = trainer.test(rows).unreadable
    assert "sleep" in video_id
    assert "`time_limit`" in reason


def test_detection_goes_on_without_a_video_that_hangs(tmp_path: Path, videos: Path) -> None:
    config = tiny_config(image_size=16, num_labels=3)
    config.id2label = {0: "run", 1: "jump", 2: "sit"}
    args = detection_args(tmp_path / "c", max_steps=1, per_device_train_batch_size=4, short_side=16, **_LIMITED)
    trainer = AMDDetectionTrainer(AMDForActionDetection(config), args, train_dataset=people_rows(videos))
    trainer.train()
    assert _lost(trainer) == {"sleep"}


def _lost(trainer: Any) -> set[str]:
    assert all("time_limit" in reason for reason in trainer.reading_log.reasons.values())
    return {Path(name.partition(",")[0]).stem for name in trainer.reading_log.reasons}


def test_programs_go_on_without_a_video_that_hangs(tmp_path: Path, videos: Path, classifier: Path) -> None:
    options = ["--model_name_or_path", str(classifier), "--use_cpu", "--decoder", "hostile"]
    options += ["--decode_time_limit", "0.7"]
    data = ["--data", str(videos), "--output_dir", str(tmp_path / "results")]

    (result,) = load_script("evaluate").main([*options, *data, "--num_segments", "1", "--num_crops", "1"])
    assert [Path(video_id).stem for video_id, _ in result.unreadable] == ["sleep"]

    summary = load_script("extract_features").main([*options, *data[:2], "--output_dir", str(tmp_path / "features")])
    assert [Path(entry["video_id"]).stem for entry in summary["unreadable"]] == ["sleep"]

    found = load_script("predict").main([*options, "--videos", str(videos / "up")])
    assert {Path(result["video"]).stem: "time_limit" in result.get("error", "") for result in found} == {
        "good": False,
        "sleep": True,
    }


def test_limit_is_on_by_default_and_null_turns_it_off() -> None:
    for name in ("evaluate", "predict", "extract_features", "visualize"):
        program = load_script(name)
        kinds = [kind for kind in vars(program).values() if getattr(kind, "__module__", "") == program.__name__]
        fields = [kind.__dataclass_fields__ for kind in kinds if hasattr(kind, "__dataclass_fields__")]
        assert {found["decode_time_limit"].default for found in fields} == {60}, name
    assert pretraining_args(Path("out")).decode_time_limit == 60
    assert pretraining_args(Path("out"), decode_time_limit=None).decode_time_limit is None
    with pytest.raises(ValueError, match="`decode_time_limit` must be above 0 seconds, or null for no limit, got 0"):
        pretraining_args(Path("out"), decode_time_limit=0)
    with pytest.raises(ValueError, match="`decode_time_limit` must be above 0"):
        load_script("predict").main(["--videos", "a.mp4", "--model_name_or_path", "b", "--decode_time_limit", "-1"])


def test_repetitions_share_frames_unless_told_otherwise(tmp_path: Path, videos: Path) -> None:
    config = tiny_config(image_size=16)
    for given, expected in (({}, True), ({"repetitions_share_frames": False}, False)):
        args = pretraining_args(tmp_path, num_repetitions=3, **given)
        collator = AMDTrainer(AMDForPreTraining(config), args, train_dataset=[{}]).data_collator
        assert collator.loader.repetitions_share_frames is expected
        row = {"video": str(videos / "up" / "good.mp4"), "video_id": "good"}
        indices = {tuple(collator.loader._frame_indices(25, row, number, True)) for number in range(3)}
        assert (len(indices) == 1) is expected
        masks = collator([row])["bool_masked_pos"]
        assert len({tuple(mask.tolist()) for mask in masks}) == 3  # drawn per repetition
    with pytest.raises(ValueError, match="`repetitions_share_frames` has no meaning for action detection"):
        detection_args(tmp_path, repetitions_share_frames=False)
