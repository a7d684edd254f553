"""How a model looks at a video travels with it: whoever uses it takes the frames of its training and test."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoVideoProcessor, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from amd_hf import (
    AMDDetectionArguments,
    AMDDetectionTrainer,
    AMDFineTuningArguments,
    AMDFineTuningTrainer,
    AMDForActionDetection,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDTrainer,
    AMDTrainingArguments,
    AMDVideoProcessor,
    load_video_dataset,
)
from amd_hf.data.clips import ClassificationCollator, ClipLoader
from amd_hf.evaluation.features import read_features
from amd_hf.evaluation.multiview import ViewOptions
from amd_hf.models import load_processor, read_settings, view_settings
from amd_hf.view_settings import ViewSettings
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import load_script
from tests.helpers.videos import write_video


_OLD_FOLDER = Path(__file__).parent / "fixtures" / "saved_before_sampling_law"
_LAWS: dict[str, dict[str, Any]] = {
    "segments": {"sampling_mode": "segments", "test_mode": "uniform", "test_num_segments": 2, "test_num_crops": 3},
    "spread": {
        "sampling_mode": "spread", "sampling_rate": 3, "test_mode": "dense", "test_num_segments": 3,
        "test_num_crops": 1, "short_side": 40,
    },
    "dense": {
        "sampling_mode": "dense", "sampling_rate": 2, "test_mode": "dense", "test_num_segments": 2,
        "test_num_crops": 2, "short_side": 37, "interpolation": "bicubic",
    },
}  # fmt: skip


def _config(**changes: Any) -> Any:
    config = tiny_config(image_size=32, **changes)
    config.id2label = dict(enumerate(["early", "late"]))
    config.label2id = {"early": 0, "late": 1}
    return config


def _arguments(folder: Path, **changes: Any) -> AMDFineTuningArguments:
    return AMDFineTuningArguments(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", num_repetitions=1, max_steps=1,
        warmup_epochs=0, per_device_train_batch_size=2, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 61 to 67 frames, each frame noise of its own brightness: other frames or crops, other scores."""
    folder = tmp_path_factory.mktemp("videos")
    generator = np.random.default_rng(0)
    for number, (name, height, width) in enumerate(
        [("early", 50, 71), ("early", 64, 48), ("late", 48, 48), ("late", 39, 66)]
    ):
        count = 61 + 2 * number
        frames = generator.integers(0, 120, (count, height // 8 + 1, width // 8 + 1, 3))
        frames = frames + generator.integers(0, 120, (count, 1, 1, 3))
        frames = frames.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width].astype(np.uint8)
        write_video(folder / name / f"{number}.mp4", frames=frames[:, : height // 2 * 2, : width // 2 * 2])
    return folder


@pytest.fixture(scope="module", params=list(_LAWS))
def trained(
    request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> AMDFineTuningTrainer:
    """A trainer that was not given any processor, and has saved its model."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    rows = load_video_dataset(videos)
    model = randomize(AMDForVideoClassification(_config()), std=0.3)
    trainer = AMDFineTuningTrainer(
        model, _arguments(folder, **_LAWS[request.param]), train_dataset=rows, eval_dataset=rows
    )
    trainer.save_model()
    model.eval()
    return trainer


def _paths(videos: Path) -> list[str]:
    return sorted(map(str, videos.rglob("*.mp4")))


def _scores(model: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(pixel_values=pixel_values).logits.softmax(-1).numpy()


def _validation_scores(trainer: AMDFineTuningTrainer) -> np.ndarray:
    """What the run itself validates by."""
    batches = list(trainer.get_eval_dataloader())
    return np.concatenate([_scores(trainer.model, batch["pixel_values"]) for batch in batches])


# ---------------------------------------------------------------------------------------------------------------------
# Every way of using a model
# ---------------------------------------------------------------------------------------------------------------------


def test_pipeline_predict_and_remote_code_see_the_clips_of_validation(
    trained: AMDFineTuningTrainer, videos: Path
) -> None:
    folder, paths = trained.args.output_dir, _paths(videos)
    expected = _validation_scores(trained)
    assert np.ptp(expected[:, 0]) > 0.01  # the videos differ, so that other frames would show

    classify = pipeline("video-classification", model=folder, device="cpu")
    by_pipeline = [{entry["label"]: entry["score"] for entry in classify(path)}["early"] for path in paths]
    assert by_pipeline == pytest.approx(expected[:, 0], abs=1e-5)

    arguments = [
        "--model_name_or_path",
        folder,
        "--videos",
        *paths,
        "--use_cpu",
        "--mixed_precision",
        "no",
        "--format",
        "json",
    ]
    predicted = load_script("predict").main(arguments)
    by_predict = [{entry["label"]: entry["score"] for entry in found["predictions"]}["early"] for found in predicted]
    assert by_predict == pytest.approx(expected[:, 0], abs=1e-5)

    remote = get_class_from_dynamic_module("video_processing_amd.AMDVideoProcessor", folder).from_pretrained(folder)
    assert type(remote) is not AMDVideoProcessor
    pixels = torch.cat([remote(path, return_tensors="pt")["pixel_values"] for path in paths])
    assert _scores(trained.model, pixels) == pytest.approx(expected, abs=1e-5)


def test_features_and_probe_see_the_clips_of_validation(
    trained: AMDFineTuningTrainer, videos: Path, tmp_path: Path
) -> None:
    folder, model = trained.args.output_dir, trained.model
    clips = torch.cat([batch["pixel_values"] for batch in trained.get_eval_dataloader()])
    load_script("extract_features").main(
        [
            "--model_name_or_path",
            folder,
            "--data",
            str(videos),
            "--output_dir",
            str(tmp_path / "f"),
            "--use_cpu",
            "--mixed_precision",
            "no",
        ]
    )
    found = torch.cat([entry["pooled"] for entry in read_features(tmp_path / "f")])
    with torch.no_grad():
        expected = model.amd.patch_tokens(model.amd(clips).last_hidden_state).mean(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    settings, notes = view_settings(folder, model.config)
    assert notes == []
    loader = ClipLoader.for_settings(model.config, settings)
    rows = load_video_dataset(videos)
    probed = torch.cat([loader.load(row, training=False) for row in rows])
    assert torch.equal(probed, clips)


def test_evaluate_and_predict_take_the_views_of_the_runs_own_test(
    trained: AMDFineTuningTrainer, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained.args.output_dir
    expected = [outcome["probabilities"] for outcome in trained.test(load_video_dataset(videos)).outcomes]
    arguments = [
        "--model_name_or_path",
        folder,
        "--data",
        str(videos),
        "--output_dir",
        str(tmp_path),
        "--use_cpu",
        "--mixed_precision",
        "no",
    ]
    (result,) = load_script("evaluate").main(arguments)
    for found, own in zip(result.outcomes, expected, strict=True):
        assert found["probabilities"] == pytest.approx(own, abs=1e-6)
    said = capsys.readouterr().out
    assert "overrides" not in said
    assert "assumed" not in said

    arguments = [
        "--model_name_or_path",
        folder,
        "--videos",
        *_paths(videos),
        "--use_cpu",
        "--mixed_precision",
        "no",
        "--test_views",
    ]
    predicted = load_script("predict").main(arguments)
    by_predict = [{entry["label"]: entry["score"] for entry in found["predictions"]}["early"] for found in predicted]
    assert by_predict == pytest.approx([own[0] for own in expected], abs=1e-5)


def test_saved_file_holds_what_the_arguments_say(trained: AMDFineTuningTrainer) -> None:
    args = trained.args
    settings = read_settings(AutoVideoProcessor.from_pretrained(args.output_dir))
    for name in (
        "sampling_mode",
        "sampling_rate",
        "interpolation",
        "test_mode",
        "test_num_segments",
        "test_num_crops",
    ):
        assert getattr(settings, name) == getattr(args, name), name
    assert settings.short_side == (args.short_side or 32)
    assert ViewOptions.of_test(trained.model.config, settings).views(70, 50, 71) == trained.view_options().views(
        70, 50, 71
    )


# ---------------------------------------------------------------------------------------------------------------------
# What overrides it is printed
# ---------------------------------------------------------------------------------------------------------------------


def test_options_that_override_the_models_own_are_printed(
    trained: AMDFineTuningTrainer, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, args = trained.args.output_dir, trained.args
    other = "dense" if args.test_mode == "uniform" else "uniform"
    model = ["--model_name_or_path", folder, "--use_cpu", "--mixed_precision", "no"]
    load_script("evaluate").main(
        [*model, "--data", str(videos), "--output_dir", str(tmp_path), "--mode", other, "--num_segments", "4",
         "--num_crops", str(args.test_num_crops)]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert f"mode {other} overrides the model's own {args.test_mode}\n" in said
    assert f"num_segments 4 overrides the model's own {args.test_num_segments}\n" in said
    assert said.count("overrides") == 2  # `num_crops` is given as it is anyway

    load_script("predict").main([*model, "--videos", _paths(videos)[0], "--sampling_rate", "7", "--format", "json"])
    said = capsys.readouterr()
    assert f"sampling_rate 7 overrides the model's own {args.sampling_rate}\n" in said.err
    assert len(json.loads(said.out)["predictions"]) == 2  # nothing but the result


def test_options_that_a_probe_or_a_test_does_not_read_are_refused(trained: AMDFineTuningTrainer, videos: Path) -> None:
    start = [
        "--model_name_or_path",
        trained.args.output_dir,
        "--data",
        str(videos),
        "--use_cpu",
        "--mixed_precision",
        "no",
    ]
    with pytest.raises(ValueError, match="`--sampling_mode dense` has no meaning here: a test takes `--mode`"):
        load_script("evaluate").main([*start, "--sampling_mode", "dense"])
    with pytest.raises(ValueError, match="`--num_segments 3` has no meaning here: a linear probe sees one clip"):
        load_script("evaluate").main([*start, "--linear_probe", "true", "--num_segments", "3"])


# ---------------------------------------------------------------------------------------------------------------------
# Every trainer
# ---------------------------------------------------------------------------------------------------------------------


def test_checkpoints_of_a_run_hold_the_law(videos: Path, tmp_path: Path) -> None:
    args = _arguments(tmp_path, sampling_mode="segments", save_strategy="steps", save_steps=1)
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(_config()), args, train_dataset=load_video_dataset(videos)
    )
    trainer.train()
    saved = AutoVideoProcessor.from_pretrained(tmp_path / "checkpoint-1")
    assert (saved.sampling_mode, saved.num_frames) == ("segments", 4)
    assert pipeline("video-classification", model=str(tmp_path / "checkpoint-1"))(_paths(videos)[0])


def test_pretraining_saves_the_law_of_its_clips(videos: Path, tmp_path: Path) -> None:
    args = AMDTrainingArguments(
        str(tmp_path), use_cpu=True, report_to="none", sampling_mode="spread", sampling_rate=2, interpolation="bicubic"
    )
    trainer = AMDTrainer(AMDForPreTraining(_config(teacher_hidden_size=None)), args)
    trainer.save_model()
    settings = read_settings(AutoVideoProcessor.from_pretrained(tmp_path))
    assert settings == ViewSettings(sampling_mode="spread", sampling_rate=2, short_side=32, interpolation="bicubic")


def test_detection_saves_the_law_of_its_clips(tmp_path: Path) -> None:
    config = _config(use_final_norm=True)
    args = AMDDetectionArguments(str(tmp_path), use_cpu=True, report_to="none", sampling_rate=3, short_side=40)
    AMDDetectionTrainer(AMDForActionDetection(config), args).save_model()
    settings = read_settings(load_processor(tmp_path, config))
    assert settings == ViewSettings(sampling_mode="dense", sampling_rate=3, short_side=40, center_crop=False)


@pytest.mark.parametrize("option", [{"interpolation": "bicubic"}, {"min_crop_area": 0.5}])
def test_detection_refuses_options_of_the_clip_that_it_does_not_read(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no meaning for action detection"):
        AMDDetectionArguments(str(tmp_path), use_cpu=True, **option)


def test_image_models_save_resizing_and_test_in_their_image_processor(tmp_path: Path) -> None:
    config = _config(num_frames=1, tubelet_size=1)
    args = _arguments(
        tmp_path, interpolation="bicubic", short_side=36, sampling_rate=1, test_num_segments=1, test_num_crops=1
    )
    AMDFineTuningTrainer(AMDForImageClassification(config), args).save_model()
    saved = AutoImageProcessor.from_pretrained(tmp_path)
    assert (saved.size["shortest_edge"], saved.resample, saved.crop_size["height"]) == (36, 3, 32)
    settings, notes = view_settings(tmp_path, config, for_test=True)
    assert notes == []
    views = ViewOptions.of_test(config, settings)
    assert (views.num_views, views.mode, views.resized_to, views.interpolation) == (1, "dense", 36, "bicubic")


def test_processor_that_disagrees_with_the_arguments_gives_way(tmp_path: Path) -> None:
    config = _config()
    given = AMDVideoProcessor.for_model(config, sampling_rate=8, do_convert_rgb=True)
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), _arguments(tmp_path, **_LAWS["segments"]), processing_class=given
    )
    saved = trainer.processing_class
    assert (saved.sampling_mode, saved.sampling_rate, saved.test_mode) == ("segments", 4, "uniform")
    assert saved.do_convert_rgb  # what the run says nothing of stays
    assert (given.sampling_mode, given.sampling_rate) == ("dense", 8)  # the user's own is not touched


def test_warning_names_both_values(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("amd_hf"), "propagate", True)
    config = _config()
    given = AMDVideoProcessor.for_model(config, sampling_rate=8)
    with caplog.at_level(logging.WARNING):
        AMDFineTuningTrainer(
            AMDForVideoClassification(config), _arguments(tmp_path, **_LAWS["segments"]), processing_class=given
        )
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "`sampling_mode` is 'dense' in it and 'segments' in the run" in said
    assert "`sampling_rate` is 8 in it and 4 in the run" in said


def test_processor_stays_where_clips_come_from_the_users_own_collator(tmp_path: Path) -> None:
    config = _config()
    given = AMDVideoProcessor.for_model(config, sampling_rate=8)
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), _arguments(tmp_path), data_collator=list, processing_class=given
    )
    assert trainer.processing_class is given


def test_collator_of_ours_with_other_clips_says_the_law(tmp_path: Path) -> None:
    config = _config()
    loader = ClipLoader(num_frames=4, sampling_rate=5, image_size=32, sampling_mode="segments", short_side=44)
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), _arguments(tmp_path),
        data_collator=ClassificationCollator(loader, training=False),
    )  # fmt: skip
    settings = read_settings(trainer.processing_class)
    assert (settings.sampling_mode, settings.sampling_rate, settings.short_side) == ("segments", 5, 44)


# ---------------------------------------------------------------------------------------------------------------------
# Folders of earlier releases
# ---------------------------------------------------------------------------------------------------------------------


def test_old_folder_is_used_as_before_and_says_what_is_assumed(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--model_name_or_path", str(_OLD_FOLDER), "--use_cpu", "--mixed_precision", "no"]
    path = _paths(videos)[0]
    (found,) = load_script("predict").main([*start, "--videos", path, "--format", "json"])
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if "assumed" in line] == [
        f"assumed, as nothing beside {_OLD_FOLDER} says how it samples videos: sampling_mode dense"
    ]
    model = AMDForVideoClassification.from_pretrained(_OLD_FOLDER).eval()
    # 61 frames, of which the 8 in the middle, every second, were taken.
    dense = AMDVideoProcessor.for_model(model.config, sampling_mode="dense", sampling_rate=2)
    scores = _scores(model, dense(path, return_tensors="pt")["pixel_values"])[0]
    assert {entry["label"]: entry["score"] for entry in found["predictions"]} == pytest.approx(
        {"early": scores[0], "late": scores[1]}, abs=1e-5
    )
    load_script("evaluate").main([*start, "--data", str(videos), "--output_dir", str(tmp_path)])
    said = capsys.readouterr()
    assert (
        f"assumed, as nothing beside {_OLD_FOLDER} says how it samples videos: mode dense, num_segments 5, "
        in said.out
    )
    assert "4 videos x 15 views of 4 frames: dense, 5 x 3" in said.out
    settings, notes = view_settings(_OLD_FOLDER, model.config, {"sampling_mode": "segments"})
    assert (settings.sampling_mode, notes) == ("segments", [])  # said by the user: nothing to assume or override


def test_folder_without_a_processor_is_read_by_the_config(videos: Path, tmp_path: Path) -> None:
    """As trainers used from Python left them."""
    AMDForVideoClassification(_config()).save_pretrained(tmp_path)
    settings, notes = view_settings(tmp_path, _config())
    assert (settings.sampling_mode, settings.sampling_rate, settings.short_side) == ("dense", 4, 32)
    assert len(notes) == 1


def test_old_features_are_resumed(trained: AMDFineTuningTrainer, videos: Path, tmp_path: Path) -> None:
    """Their settings were written before the law of the one clip was among them."""
    if trained.args.sampling_mode != "dense":
        pytest.skip("features of earlier releases were of dense clips")
    command = ["--model_name_or_path", trained.args.output_dir, "--data", str(videos), "--output_dir", str(tmp_path)]
    load_script("extract_features").main([*command, "--use_cpu", "--mixed_precision", "no"])
    file = tmp_path / "features.json"
    settings = json.loads(file.read_text())
    del settings["views"]["sampling_mode"]
    file.write_text(json.dumps(settings))
    summary = load_script("extract_features").main(
        [*command, "--use_cpu", "--mixed_precision", "no", "--resume", "true"]
    )
    assert summary["already_done"] == 4
