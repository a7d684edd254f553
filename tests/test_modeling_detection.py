"""The action detector: golden figures of VideoMAE's code for AVA, and the same computation clip by clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from amd_hf import (
    AMDForActionDetection,
    AMDForPreTraining,
    AMDForVideoClassification,
    convert_checkpoint,
    export_checkpoint,
)
from amd_hf.detection.boxes import extend_boxes
from amd_hf.models import build_detector, detection_processor, load_trained_detector
from tests.helpers.models import random_clips, randomize, tiny_config


def _detector(**changes: Any) -> AMDForActionDetection:
    return randomize(AMDForActionDetection(tiny_config(**changes))).eval()


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    return load_file(request.getfixturevalue("golden_dir") / "ava_detector_tiny.safetensors")


@pytest.fixture(scope="module")
def golden_model(golden: dict[str, torch.Tensor]) -> AMDForActionDetection:
    state_dict = {name.removeprefix("checkpoint/"): value for name, value in golden.items() if "checkpoint/" in name}
    return convert_checkpoint(state_dict, num_attention_heads=3, image_size=64)


# ---------------------------------------------------------------------------------------------------------------------
# Golden figures
# ---------------------------------------------------------------------------------------------------------------------


def test_golden_boxes_features_and_logits(
    golden: dict[str, torch.Tensor], golden_model: AMDForActionDetection
) -> None:
    assert isinstance(golden_model, AMDForActionDetection)
    boxes = [golden["input/boxes/0"], golden["input/boxes/1"]]
    extended = golden_model.extend_boxes(boxes, [(64, 96)] * 2)
    for number, of_clip in enumerate(extended):
        torch.testing.assert_close(of_clip, golden[f"output/boxes_extended/{number}"], atol=1e-5, rtol=0)
    with torch.no_grad():
        outputs = golden_model(golden["input/frames_uint8"], extended)
    torch.testing.assert_close(outputs.roi_features, golden["output/roi_features"], atol=2e-4, rtol=0)
    logits = golden["output/logits"]
    torch.testing.assert_close(outputs.logits, logits, atol=1e-5 * logits.abs().max().item(), rtol=0)


def test_golden_checkpoint_is_told_apart_and_exported_bit_for_bit(
    golden: dict[str, torch.Tensor], golden_model: AMDForActionDetection
) -> None:
    exported = export_checkpoint(golden_model)
    checkpoint = {name.removeprefix("checkpoint/"): v for name, v in golden.items() if "checkpoint/" in name}
    assert exported.keys() == checkpoint.keys()
    assert all(torch.equal(exported[name], value) for name, value in checkpoint.items())
    report = golden_model.conversion_report
    assert report.task == "detection"
    assert not report.new
    assert not report.dropped
    # On the 0-255 scale, as that code has them.
    assert [255 * mean for mean in golden_model.config.image_mean] == pytest.approx([122.7717, 115.9465, 102.9801])
    assert [255 * std for std in golden_model.config.image_std] == pytest.approx([57.375] * 3)


# ---------------------------------------------------------------------------------------------------------------------
# The computation
# ---------------------------------------------------------------------------------------------------------------------


def _bilinear(plane: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Value of (D, rows, columns) at a point, 0 further than a pixel outside."""
    rows, columns = plane.shape[1:]
    if not -1 <= y <= rows or not -1 <= x <= columns:
        return torch.zeros(len(plane))
    y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    b, r = y - top, x - left
    upper = plane[:, top, left] * (1 - r) + plane[:, top, right] * r
    lower = plane[:, bottom, left] * (1 - r) + plane[:, bottom, right] * r
    return upper * (1 - b) + lower * b


def _region(plane: torch.Tensor, box: list[float], scale: float) -> torch.Tensor:
    """RoIAlign as Detectron's first version has it (no half-pixel shift), 7 x 7, then the maximum."""
    x1, y1, x2, y2 = (side * scale for side in box)
    height, width = max(y2 - y1, 1.0) / 7, max(x2 - x1, 1.0) / 7
    cells = []
    for row in range(7):
        for column in range(7):
            num_y, num_x = -int(-height // 1), -int(-width // 1)  # rounded up
            points = [
                _bilinear(plane, y1 + (row + (i + 0.5) / num_y) * height, x1 + (column + (j + 0.5) / num_x) * width)
                for i in range(num_y)
                for j in range(num_x)
            ]
            cells.append(torch.stack(points).mean(dim=0))
    return torch.stack(cells).amax(dim=0)


def test_regions_equal_a_plain_computation_on_larger_clips_than_the_config() -> None:
    model = _detector(image_size=32)
    clips = random_clips(tiny_config(image_size=[32, 88]))
    boxes = [torch.tensor([[3.0, 2.0, 80.0, 30.0], [10.5, 4.25, 12.0, 6.0]]), torch.tensor([[40.0, 0.0, 87.0, 31.0]])]
    with torch.no_grad():
        outputs = model(clips, boxes)
        tokens = model.amd(clips, interpolate_pos_encoding=True).last_hidden_state
    planes = tokens.view(2, 2, 4, 11, 32).mean(dim=1).permute(0, 3, 1, 2)
    wanted = [_region(planes[number], box, 1 / 8) for number in range(2) for box in boxes[number].tolist()]
    torch.testing.assert_close(outputs.roi_features, torch.stack(wanted), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.logits, model.classifier(torch.stack(wanted)), atol=1e-5, rtol=0)


def test_loss_is_mean_over_classes_and_sum_over_boxes() -> None:
    model = _detector()
    clips = random_clips(model.config, 3)
    boxes = [torch.tensor([1.0, 1.0, 20.0, 12.0]).expand(n, 4) + torch.arange(n)[:, None] for n in (2, 0, 1)]
    labels = [torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]), torch.zeros(0, 5), torch.tensor([[0.0, 1, 0, 0, 1]])]
    outputs = model(clips, boxes, labels)
    p, y = outputs.logits.sigmoid(), torch.cat(labels)
    wanted = -(y * p.log() + (1 - y) * (1 - p).log()).sum() / 5
    torch.testing.assert_close(outputs.loss, wanted, atol=1e-5, rtol=1e-5)
    single = [model(clips[i : i + 1], boxes[i : i + 1], labels[i : i + 1]).loss for i in range(3)]
    torch.testing.assert_close(torch.stack(single).sum(), outputs.loss, atol=1e-5, rtol=1e-5)


def test_batch_without_boxes_gives_zero_gradients_to_all_parameters() -> None:
    model = _detector().train()
    loss = model(random_clips(model.config), [torch.zeros(0, 4)] * 2, [torch.zeros(0, 5)] * 2).loss
    loss.backward()
    assert loss.item() == 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_extended_boxes_stay_in_the_frame_and_count_the_last_pixel() -> None:
    boxes = torch.tensor([[0.0, 0.0, 49.0, 19.0], [30.0, 10.0, 89.0, 49.0], [99.0, 59.0, 99.0, 59.0]])
    wanted = [[0.0, 0.0, 51.5, 19.5], [27.0, 9.0, 92.0, 50.0], [98.95, 58.975, 99.0, 59.0]]
    torch.testing.assert_close(extend_boxes(boxes, 60, 100), torch.tensor(wanted))


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([torch.zeros(1, 4)], None, "one tensor for each of the 2 clips, got 1"),
        ([torch.zeros(1, 4), torch.zeros(4)], None, r"`boxes` of clip 1 must have shape \(4 boxes, 4\)"),
        ([torch.zeros(1, 4)] * 2, [torch.zeros(1, 5), torch.zeros(1, 4)], r"`labels` of clip 1 must have shape"),
    ],
)
def test_wrong_boxes_and_labels_are_refused(boxes: Any, labels: Any, message: str) -> None:
    model = _detector()
    with pytest.raises(ValueError, match=message):
        model(random_clips(model.config), boxes, labels)


def test_half_precision_keeps_the_logits_near() -> None:
    model = _detector()
    clips, boxes = random_clips(model.config), [torch.tensor([[1.0, 2.0, 20.0, 14.0]])] * 2
    with torch.no_grad():
        exact = model(clips, boxes).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(clips, boxes).logits
    assert F.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.99


# ---------------------------------------------------------------------------------------------------------------------
# Saving, loading, starting from other models
# ---------------------------------------------------------------------------------------------------------------------


def test_saved_detector_loads_with_the_same_logits(tmp_path: Path) -> None:
    model = _detector()
    model.save_pretrained(tmp_path)
    detection_processor(model.config).save_pretrained(tmp_path)
    clips, boxes = random_clips(model.config), [torch.tensor([[1.0, 2.0, 20.0, 14.0]])] * 2
    for loaded in (AMDForActionDetection.from_pretrained(tmp_path), load_trained_detector(str(tmp_path))):
        with torch.no_grad():
            assert torch.equal(loaded.eval()(clips, boxes).logits, model(clips, boxes).logits)


@pytest.mark.parametrize("kind", [AMDForPreTraining, AMDForVideoClassification, AMDForActionDetection])
def test_detector_takes_the_encoder_of_other_models(kind: type, tmp_path: Path) -> None:
    source = randomize(kind(tiny_config()))
    source.save_pretrained(tmp_path)
    detector = build_detector(str(tmp_path), ["run", "jump"], drop_path_rate=0.2)
    for name, value in source.amd.state_dict().items():
        assert torch.equal(detector.amd.state_dict()[name], value), name
    assert detector.config.id2label == {0: "run", 1: "jump"}
    assert detector.config.drop_path_rate == 0.2
    assert detector.classifier.weight.shape == (2, 32)
    assert not detector.classifier.bias.any()
    if kind is AMDForVideoClassification:
        assert torch.equal(detector.amd.norm.weight, torch.ones(32))


def test_head_of_the_same_actions_is_kept(tmp_path: Path) -> None:
    source = _detector()
    source.save_pretrained(tmp_path)
    names = [source.config.id2label[number] for number in range(5)]
    assert torch.equal(build_detector(str(tmp_path), names).classifier.weight, source.classifier.weight)


def test_official_file_of_the_ava_code_loads_for_testing_and_training(
    golden: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file({name.removeprefix("checkpoint/"): v for name, v in golden.items() if "checkpoint/" in name}, path)
    told = {"num_attention_heads": 3, "image_size": 64}
    detector = load_trained_detector(str(path), **told)
    built = build_detector(str(path), ["run"], **told)
    assert torch.equal(built.amd.norm.weight, detector.amd.norm.weight)
    assert built.config.image_std == detector.config.image_std


def test_untrained_head_and_other_models_are_refused_for_testing(tmp_path: Path) -> None:
    AMDForActionDetection(tiny_config()).save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="head of .* was never trained"):
        load_trained_detector(str(tmp_path / "new"))
    AMDForVideoClassification(tiny_config()).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="is no action detector, it is a AMDForVideoClassification"):
        load_trained_detector(str(tmp_path / "classifier"))


def test_encoder_of_another_size_is_refused(tmp_path: Path) -> None:
    _detector().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fill the encoder"):
        build_detector(str(tmp_path), ["run"], num_hidden_layers=4)


def test_classifier_checkpoints_stay_classifiers() -> None:
    tensors = export_checkpoint(randomize(AMDForVideoClassification(tiny_config())))
    converted = convert_checkpoint(tensors, num_attention_heads=4, image_size=[16, 24], num_frames=4)
    assert isinstance(converted, AMDForVideoClassification)


def test_encoder_alone_becomes_a_detector_where_that_is_asked_for() -> None:
    tensors = export_checkpoint(_detector())
    encoder = {name: value for name, value in tensors.items() if not name.startswith("head.")}
    converted = convert_checkpoint(
        encoder, task="detection", num_attention_heads=4, image_size=[16, 24], num_frames=4, num_labels=3
    )
    assert isinstance(converted, AMDForActionDetection)
    assert sorted(converted.conversion_report.new) == ["classifier.bias", "classifier.weight"]
    assert torch.equal(converted.amd.norm.weight, tensors["norm.weight"])
    # ImageNet's, as for every other encoder.
    assert converted.config.image_mean == [0.485, 0.456, 0.406]
