"""Image models end to end: pooling, the pipeline, training by the video trainers, resume, the programs, the probe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

from amd_hf import (
    AMDConfig,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDModel,
    AMDTrainer,
    load_image_dataset,
)
from amd_hf.modeling_amd import sincos_grid_position_table
from amd_hf.models import build_processor
from tests.helpers.images import LAYOUTS, NAMES, class_folders, encoded, image_config
from tests.helpers.mae import MEAN, STD, mae_model
from tests.helpers.models import random_clips, randomize, tiny_config
from tests.helpers.training import ROOT, load_script, logged, pretraining_args, weights_of


def _classifier(**changes: Any) -> AMDForImageClassification:
    config = image_config(teacher_hidden_size=None, **changes)
    config.id2label = dict(enumerate(NAMES))
    return randomize(AMDForImageClassification(config), std=0.2).eval()


# ---------------------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_classifier_pools_patch_tokens_or_takes_the_class_token(pooling: str) -> None:
    model = _classifier(pooling=pooling)
    images = random_clips(model.config)[:, 0]
    with torch.no_grad():
        tokens = model.amd(images, output_hidden_states=True).hidden_states[-1]
        assert tokens.shape == (2, 17, 32)
        pooled = tokens[:, 1:].mean(dim=1) if pooling == "mean" else tokens[:, 0]
        expected = model.classifier(model.fc_norm(pooled))
        assert torch.equal(model(images).logits, expected)
        assert torch.equal(model(images.unsqueeze(1)).logits, expected)


def test_images_are_taken_by_models_of_one_frame_only() -> None:
    with pytest.raises(ValueError, match="An image is a clip of one frame: `num_frames` must be 1, got 4"):
        AMDForImageClassification(tiny_config())
    with pytest.raises(ValueError, match=r"`pixel_values` must have shape .* got \(4, 3, 16, 24\)"):
        AMDModel(tiny_config())(random_clips(tiny_config())[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position_embedding": "sincos_2d", "num_frames": 2}, "'sincos_2d' is for one frame, but a clip has 2"),
        ({"decoder_position_embedding": "sincos_2d", "decoder_hidden_size": 18}, "`decoder_hidden_size` to be a mult"),
        ({"decoder_position_embedding": "sincos_3d", "decoder_hidden_size": 12}, "to be a multiple of 8, got 12"),
        ({"use_decoder_class_token": True, "use_class_token": False}, "`use_decoder_class_token` True needs"),
        ({"pooling": "class_token", "use_class_token": False}, "`pooling` 'class_token' needs `use_class_token`"),
    ],
)
def test_options_that_do_not_fit_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_config(**options)


def test_2d_table_is_that_of_a_plain_loop() -> None:
    table = sincos_grid_position_table("sincos_2d", (1, 2, 3), 8)
    for position in range(6):
        row, column = divmod(position, 3)
        for j in range(2):
            rate = 10000.0 ** -(j / 2)
            want = [np.sin(column * rate), np.cos(column * rate), np.sin(row * rate), np.cos(row * rate)]
            assert table[position, j::2].tolist() == pytest.approx(want, abs=1e-6)


def test_saved_classifier_serves_the_auto_classes_and_the_pipeline(tmp_path: Path) -> None:
    model = _classifier()
    model.save_pretrained(tmp_path / "model")
    build_processor(model.config).save_pretrained(tmp_path / "model")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
    assert type(loaded) is AMDForImageClassification
    assert type(AutoConfig.from_pretrained(tmp_path / "model")) is AMDConfig
    suffix, data = encoded(0)
    (tmp_path / f"image{suffix}").write_bytes(data)
    image = Image.open(tmp_path / f"image{suffix}")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (18, 16)  # 256 / 224 of 16
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        scores = model(pixels).logits[0].softmax(dim=-1)
    answers = pipeline("image-classification", model=str(tmp_path / "model"))(str(tmp_path / f"image{suffix}"))
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(NAMES, scores.tolist(), strict=True)), abs=1e-5
    )


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def _student() -> AMDForPreTraining:
    torch.manual_seed(0)
    layers = {"teacher_direct_layers": [2, 3], "teacher_generation_layers": [1, 3]}
    return AMDForPreTraining(
        image_config(image_size=32, patch_size=8, use_decoder_class_token=True, decoder_embed_bias=True, **layers)
    )


def _distil(student: AMDForPreTraining, teacher: Any, rows: Any, folder: Path, **options: Any) -> AMDTrainer:
    args = pretraining_args(
        folder, per_device_train_batch_size=3, max_steps=4, save_strategy="steps", save_steps=2, sampling_rate=1,
        train_crop="random_resized_crop", min_crop_area=0.2, interpolation="bicubic", flip_probability=0.5, **options,
    )  # fmt: skip
    return AMDTrainer(student, args, teacher, train_dataset=rows)


@pytest.mark.parametrize("streaming", [False, True])
def test_student_is_distilled_from_vit_mae_and_resumes_bit_for_bit(streaming: bool, tmp_path: Path) -> None:
    mae_model().save_pretrained(tmp_path / "teacher")
    rows = load_image_dataset(LAYOUTS["parquet"](tmp_path / "data"), split="train", streaming=streaming)
    options = {"stream_buffer_rows": 4} if streaming else {}
    whole = _distil(_student(), tmp_path / "teacher", rows, tmp_path / "out", **options)
    before = weights_of(whole.model)
    teacher_before = weights_of(whole.teacher)
    whole.train()
    for name in ("loss_reconstruction", "loss_direct", "loss_generation"):
        assert len(logged(whole, name)) == 4
    after = weights_of(whole.model)
    assert all(torch.equal(value, weights_of(whole.teacher)[name]) for name, value in teacher_before.items())
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []
    resumed = _distil(_student(), tmp_path / "teacher", rows, tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert all(torch.equal(value, after[name]) for name, value in weights_of(resumed.model).items())


def test_direct_loss_compares_patch_tokens_of_the_images_that_vit_mae_sees(tmp_path: Path) -> None:
    """Against `vit_mae`'s own hidden states, picked row by row."""
    theirs = mae_model(mask_ratio=0.5)
    theirs.save_pretrained(tmp_path / "teacher")
    rows = list(load_image_dataset(class_folders(tmp_path / "data"), split="train"))
    trainer = _distil(_student().eval(), tmp_path / "teacher", rows, tmp_path / "out")
    batch = trainer.data_collator([{**row, "epoch": 0} for row in rows[:2]])
    model = trainer.model
    with torch.no_grad():
        outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)[1]
        images = (batch["pixel_values"][:, 0] / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        seen = batch["teacher_bool_masked_pos"]
        noise = seen.float() + torch.arange(16) / 1000
        states = theirs.vit(images, noise=noise, output_hidden_states=True).hidden_states
    distances = []
    for ours, layer in zip(outputs.direct_features, model.config.teacher_direct_layers, strict=True):
        per_row = [
            (ours[row] - states[layer][row, 1:][~batch["bool_masked_pos"][row][~seen[row]]]).square().mean()
            for row in range(2)
        ]
        distances.append(torch.stack(per_row).mean())
    torch.testing.assert_close(outputs.losses["direct"], torch.stack(distances).mean(), rtol=1e-4, atol=1e-6)


def test_programs_fine_tune_test_and_probe_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """finetune.py, evaluate.py, its linear probe, predict.py: what each says agrees with the others."""
    data = class_folders(tmp_path / "data")
    pretrained = AMDForPreTraining(image_config(teacher_hidden_size=None))
    pretrained.save_pretrained(tmp_path / "pretrained")
    build_processor(pretrained.config).save_pretrained(tmp_path / "pretrained")
    common = ["--data", str(data), "--media", "image", "--use_cpu", "true"]
    trainer = load_script("finetune").main(
        [
            *common, "--model_name_or_path", str(tmp_path / "pretrained"), "--output_dir", str(tmp_path / "out"),
            "--train_split", "train", "--test_split", "validation", "--max_steps", "2", "--warmup_epochs", "0",
            "--per_device_train_batch_size", "3", "--num_repetitions", "1", "--short_side", "18", "--interpolation",
            "bicubic", "--rand_augment", "rand-m9-mstd0.5-inc1", "--test_num_segments", "1", "--test_num_crops", "1",
            "--report_to", "none", "--save_strategy", "no",
        ]
    )  # fmt: skip
    assert type(trainer.model) is AMDForImageClassification
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert settings["size"] == {"shortest_edge": 18}
    tested = json.loads((tmp_path / "out" / "test_results.json").read_text())
    arguments = [*common, "--model_name_or_path", str(tmp_path / "out"), "--split", "validation"]
    views = ["--num_segments", "1", "--num_crops", "1", "--output_dir", str(tmp_path / "results")]
    (result,) = load_script("evaluate").main([*arguments, *views])
    assert result.metrics()["accuracy"] == tested["accuracy"]
    assert tested["videos_expected"] == tested["videos_read"] == 6
    probe = ["--linear_probe", "true", "--train_split", "train", "--output_dir", str(tmp_path / "probe")]
    arguments = [*common, "--model_name_or_path", str(tmp_path / "pretrained"), "--split", "validation"]
    (metrics,) = load_script("evaluate").main([*arguments, *probe])
    written = json.loads((tmp_path / "probe" / "test_results.json").read_text())
    assert written["linear_probe"] == metrics
    assert written["tested"]["model"] == str(tmp_path / "pretrained")
    assert (written["tested"]["train_split"], written["tested"]["split"]) == ("train", "validation")
    assert (metrics["videos_fitted"], metrics["videos_read"]) == (9, 6)
    with pytest.raises(ValueError, match="linear probe needs a split of `data` to fit it on"):
        load_script("evaluate").main([*arguments, "--linear_probe", "true"])
    folder = str(data / "validation" / NAMES[0])
    predictions = load_script("predict").main(
        ["--model_name_or_path", str(tmp_path / "out"), "--media", "image", "--videos", folder, "--use_cpu", "true"]
    )
    by_id = {outcome["video_id"]: outcome["probabilities"] for outcome in result.predictions}
    for prediction in predictions:
        video_id = str(Path(prediction["video"]).relative_to(data))
        best = prediction["predictions"][0]
        assert best["score"] == pytest.approx(float(by_id[video_id].max()), abs=1e-5)
    assert "accuracy" in capsys.readouterr().out
    assert load_file(tmp_path / "out" / "model.safetensors")["amd.embeddings.class_token"].shape == (1, 1, 32)


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "images.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for name, layout in (("folders", "class_folders"), ("parquet", "parquet"), ("shards", "webdataset")):
        LAYOUTS[layout](tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    for name in ("folders", "parquet", "shards"):
        assert next(iter(names[name]))["label"] in (0, 1, 2)
        assert names[name].features["label"].names == NAMES
    for path in re.findall(r"(?:configs|scripts)/[\w/.]+\.(?:yaml|py)", page):
        assert (ROOT / path).is_file(), path
