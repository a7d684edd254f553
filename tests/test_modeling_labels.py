"""What labels mean: `config.problem_type` with the losses of Transformers' own classifiers, soft targets, faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from transformers import (
    AutoImageProcessor,
    Trainer,
    TrainingArguments,
    VideoMAEForVideoClassification,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from amd_hf import (
    AMDConfig,
    AMDFineTuningArguments,
    AMDFineTuningTrainer,
    AMDForImageClassification,
    AMDForVideoClassification,
    convert_checkpoint,
)
from amd_hf.evaluation.multiview import ViewOptions, run_multi_view_test
from amd_hf.evaluation.prediction import predict_videos
from amd_hf.models import build_classifier, build_processor
from tests.helpers.images import image_config
from tests.helpers.models import random_clips, randomize, tiny_config
from tests.helpers.videomae import twin_classifiers
from tests.helpers.videos import write_video


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
_SEVERAL = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
_LABELS = [
    (None, 5, torch.tensor([3, 0])),
    (SINGLE, 5, torch.tensor([3, 0])),
    (SINGLE, 5, torch.tensor([[3], [-100]])),
    (MULTI, 5, _SEVERAL),
    (REGRESSION, 5, torch.tensor([[0.5, -2.0, 3.0, 0.0, 1.0], [4.0, 0.25, -1.0, 2.0, 0.0]])),
    (REGRESSION, 1, torch.tensor([0.5, -2.0])),
    (None, 1, torch.tensor([[0.5], [-2.0]])),
]


_VIEWS = ViewOptions(num_frames=4, crop_size=16, sampling_rate=2, num_segments=2, num_crops=1)


def _classifier(**changes: Any) -> AMDForVideoClassification:
    return randomize(AMDForVideoClassification(tiny_config(teacher_hidden_size=None, **changes))).eval()


@pytest.mark.parametrize(("problem_type", "num_labels", "labels"), _LABELS)
def test_video_classifier_has_the_loss_and_the_gradient_of_videomae(
    tmp_path: Path, problem_type: str | None, num_labels: int, labels: torch.Tensor
) -> None:
    theirs, ours = twin_classifiers(tmp_path, num_labels=num_labels, problem_type=problem_type)
    assert isinstance(theirs, VideoMAEForVideoClassification)
    clips = torch.randn(2, 4, 3, 16, 24)
    expected, outputs = theirs(clips, labels=labels), ours(clips, labels=labels)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-4, atol=1e-5)
    expected.loss.backward()
    outputs.loss.backward()
    torch.testing.assert_close(ours.classifier.weight.grad, theirs.classifier.weight.grad, rtol=1e-3, atol=1e-5)
    # What `pipeline` reads of a model trained on numbers. (Theirs notes what it saw of the others too.)
    assert ours.config.problem_type == (theirs.config.problem_type if num_labels == 1 else problem_type)


@pytest.mark.parametrize(("problem_type", "num_labels", "labels"), _LABELS)
def test_image_classifier_has_the_loss_of_vit(problem_type: str | None, num_labels: int, labels: torch.Tensor) -> None:
    config = image_config(teacher_hidden_size=None, num_labels=num_labels, problem_type=problem_type)
    model = randomize(AMDForImageClassification(config)).eval()
    outputs = model(random_clips(config)[:, 0], labels=labels)
    vit = ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=0, num_attention_heads=1, num_labels=num_labels,
                  problem_type=problem_type)
    )  # fmt: skip
    torch.testing.assert_close(outputs.loss, vit.loss_function(labels, outputs.logits, vit.config))


def test_soft_targets_stay_possible_and_are_told_from_several_right_classes() -> None:
    soft = torch.tensor([[0.75, 0.25, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    for problem_type in (None, SINGLE):
        model = _classifier(problem_type=problem_type)
        outputs = model(random_clips(model.config), labels=soft)
        by_hand = -(soft * outputs.logits.log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(outputs.loss, by_hand)
        with torch.no_grad():
            assert model(random_clips(model.config), labels=soft.bfloat16()).loss.isfinite()
    with pytest.raises(ValueError, match=r"one sums to 2.* set `problem_type=\"multi_label_classification\"`"):
        _classifier()(random_clips(model.config), labels=_SEVERAL)
    outputs = model(random_clips(model.config), labels=_SEVERAL)  # said to be of single labels: as it is
    torch.testing.assert_close(outputs.loss, -(_SEVERAL * outputs.logits.log_softmax(dim=1)).sum(dim=1).mean())


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "message"),
    [
        (
            None,
            5,
            torch.tensor([0.0, 1.0]),
            r"must be class numbers of shape \(2,\) or soft targets of shape \(2, 5\), got",
        ),
        (SINGLE, 5, _SEVERAL.long(), r"`problem_type` 'single_label_classification' must be class .* got torch.int64"),
        (MULTI, 5, torch.tensor([3, 0]), r"'multi_label_classification' must be \(2, 5\), got torch.int64 \(2,\)"),
        (REGRESSION, 5, torch.tensor([0.5, 1.0]), r"'regression' must be \(2, 5\), got torch.float32 \(2,\)"),
        (None, 1, torch.ones(2, 2), r"'regression' must be \(2, 1\), got torch.float32 \(2, 2\)"),
    ],
)
def test_labels_of_another_shape_are_refused_where_broadcasting_would_hide_them(
    problem_type: str | None, num_labels: int, labels: torch.Tensor, message: str
) -> None:
    model = _classifier(num_labels=num_labels, problem_type=problem_type)
    with pytest.raises(ValueError, match=message):
        model(random_clips(model.config), labels=labels)


def test_whole_numbers_serve_as_marks_and_as_values() -> None:
    for problem_type, num_labels, labels in ((MULTI, 5, _SEVERAL), (REGRESSION, 1, torch.tensor([3.0, 0.0]))):
        model = _classifier(num_labels=num_labels, problem_type=problem_type)
        clips = random_clips(model.config)
        assert torch.equal(model(clips, labels=labels.long()).loss, model(clips, labels=labels).loss)


def test_ones_own_loss_function_takes_the_place_of_the_library_s() -> None:
    model = _classifier()
    model.loss_function = lambda labels, logits, config, **_: logits.sum() * config.num_labels + labels.sum()
    outputs = model(random_clips(model.config), labels=torch.tensor([3, 4]))
    torch.testing.assert_close(outputs.loss, outputs.logits.sum() * 5 + 7)


def test_config_given_stays_as_it_is_where_one_label_means_regression() -> None:
    config: AMDConfig = tiny_config(num_labels=1)
    assert AMDForVideoClassification(config).config.problem_type == REGRESSION
    assert config.problem_type is None


@pytest.mark.parametrize(("problem_type", "num_labels"), [(MULTI, 5), (REGRESSION, 1)])
def test_transformers_trainer_trains_it_and_pipeline_says_what_it_learnt(
    tmp_path: Path, problem_type: str, num_labels: int
) -> None:
    config = image_config(teacher_hidden_size=None, num_labels=num_labels, problem_type=problem_type)
    model = randomize(AMDForImageClassification(config))
    images = random_clips(config, batch_size=4)[:, 0]
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]] * 4) if problem_type == MULTI else torch.full((4,), 3.0)
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    args = TrainingArguments(
        str(tmp_path / "run"), max_steps=60, learning_rate=1e-2, use_cpu=True, report_to=[], save_strategy="no"
    )
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    build_processor(config).save_pretrained(tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    loaded = AMDForImageClassification.from_pretrained(tmp_path / "model")
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    answers = pipeline("image-classification", model=loaded, image_processor=processor, device="cpu")(picture, top_k=5)
    scores = {answer["label"]: answer["score"] for answer in answers}
    if problem_type == MULTI:  # two of the five are right at once
        assert [scores[f"LABEL_{number}"] > 0.5 for number in range(5)] == [True, False, True, False, False]
    else:
        assert scores["LABEL_0"] == pytest.approx(3, abs=0.5)


def test_predictions_of_several_classes_are_sigmoids_and_of_numbers_refused(tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "video.mp4", 12, 32, 48))
    accelerator = Accelerator(cpu=True)
    model = _classifier(image_size=16, problem_type=MULTI)
    (outcome,) = predict_videos(model, [video], _VIEWS, accelerator)
    model.config.problem_type = None
    (exclusive,) = predict_videos(model, [video], _VIEWS, accelerator)
    marks, probabilities = (torch.tensor(found.windows[0][1]) for found in (outcome, exclusive))
    assert probabilities.sum() == pytest.approx(1)
    assert marks.sum() > 1.5  # of five sigmoids near a half
    answers = pipeline(
        "video-classification", _classifier(image_size=16, problem_type=MULTI),
        video_processor=build_processor(model.config), device="cpu",
    )(video, top_k=5, function_to_apply=None)  # fmt: skip
    assert sum(answer["score"] for answer in answers) > 1.5
    with pytest.raises(ValueError, match="its scores are numbers, no probabilities of classes"):
        next(predict_videos(_classifier(image_size=16, num_labels=1), [video], _VIEWS, accelerator))


@pytest.mark.parametrize(("problem_type", "num_labels"), [(MULTI, 5), (REGRESSION, 1)])
def test_what_counts_right_classes_refuses_other_models(tmp_path: Path, problem_type: str, num_labels: int) -> None:
    model = _classifier(num_labels=num_labels, problem_type=problem_type)
    message = f"`problem_type` is '{problem_type}', but .* one class"
    with pytest.raises(ValueError, match=message):
        run_multi_view_test(model, [], _VIEWS, Accelerator(cpu=True))
    with pytest.raises(ValueError, match=message):
        AMDFineTuningTrainer(model, AMDFineTuningArguments(str(tmp_path), use_cpu=True))


def test_problem_type_travels_with_its_head_and_ends_with_it(tmp_path: Path) -> None:
    twin_classifiers(tmp_path / "theirs", problem_type=MULTI)
    convert_checkpoint(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    for folder in ("theirs", "ours"):
        same = build_classifier(str(tmp_path / folder), [f"LABEL_{number}" for number in range(5)])
        assert same.config.problem_type == MULTI
        assert build_classifier(str(tmp_path / folder), ["left", "right"]).config.problem_type is None
