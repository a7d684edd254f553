"""The numbers of the authors' code: golden figures, and more cases against the plain reference in tests/helpers.

Tolerances are those of golden/README: losses 1e-5 relative, logits 1e-5 of the largest, intermediates 2e-4 absolute,
gradient norms 1e-3 relative, in float32 on the CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amd_hf import AMDForPreTraining, AMDTrainer, AMDTrainingArguments, convert_checkpoint
from amd_hf.checkpoints.conversion import split_biases
from amd_hf.modeling_amd import AMDForPreTrainingOutput
from tests.helpers.checkpoints import (
    classifier_shapes,
    formula_state_dict,
    official_name,
    pretraining_shapes,
    random_state_dict,
    strip,
)
from tests.helpers.formula_figures import FIGURES
from tests.helpers.models import nested_masks, token_split
from tests.helpers.reference import Sizes, Step, pretraining_step


_GOLDEN_STUDENT = {
    "num_attention_heads": 3,
    "decoder_num_attention_heads": 2,
    "image_size": 64,
    "student_direct_layers": [2, 4],
    "student_generation_layers": [2, 4],
    "teacher_direct_layers": [3, 6],
    "teacher_generation_layers": [3, 6],
}
_GOLDEN_TEACHER = {"num_attention_heads": 2, "image_size": 64}
_GOLDEN_LISTS = {"projections": [2, 4], "generators": [2, 4]}


def _trainer(student: AMDForPreTraining, teacher: torch.nn.Module, folder: Path, **arguments: Any) -> AMDTrainer:
    arguments = AMDTrainingArguments(str(folder), use_cpu=True, **arguments)
    # Batches are made here: no collator is used, and the built-in ones take square frames only.
    return AMDTrainer(student.train(), arguments, teacher, data_collator=list, eval_collator=list)


def _run_step(
    trainer: AMDTrainer, clips: torch.Tensor, student_masks: torch.Tensor, teacher_masks: torch.Tensor
) -> tuple[torch.Tensor, AMDForPreTrainingOutput, dict[str, torch.Tensor]]:
    """Loss, outputs, and gradients by our names."""
    inputs = {
        "pixel_values": clips,
        "bool_masked_pos": student_masks,
        "teacher_bool_masked_pos": teacher_masks,
    }
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
    return loss, outputs, split_biases(gradients)  # as the official files hold them


def _teacher_features(
    trainer: AMDTrainer, clips: torch.Tensor, masks: tuple[torch.Tensor, torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    with torch.no_grad():
        return trainer.teacher(clips, token_split(*masks))


def _target(model: AMDForPreTraining, clips: torch.Tensor, student_masks: torch.Tensor) -> torch.Tensor:
    patches = model.amd.embeddings.patchify(clips)
    return model.reconstruction_target(
        torch.stack([row[mask] for row, mask in zip(patches, student_masks, strict=True)])
    )


def _assert_near(ours: torch.Tensor, theirs: torch.Tensor, absolute: float = 2e-4) -> None:
    torch.testing.assert_close(ours, theirs, atol=absolute, rtol=0)


def _assert_logits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    _assert_near(ours, theirs, 1e-5 * theirs.abs().max().item())


# ---------------------------------------------------------------------------------------------------------------------
# Golden figures
# ---------------------------------------------------------------------------------------------------------------------


def test_golden_pretraining_step(golden_dir: Path, tmp_path: Path) -> None:
    tensors = load_file(golden_dir / "amd_pretrain_tiny.safetensors")
    figures = json.loads((golden_dir / "amd_pretrain_tiny.json").read_text())
    state_dict = strip("student_checkpoint/", tensors)
    state_dict |= {f"generator_mask_tokens.{i}": tensors[f"generator_mask_tokens/{i}"] for i in range(2)}
    student = convert_checkpoint(state_dict, **_GOLDEN_STUDENT)
    teacher = convert_checkpoint(strip("teacher_checkpoint/", tensors), **_GOLDEN_TEACHER)
    trainer = _trainer(student, teacher, tmp_path)
    clips, masks = (
        tensors["input/frames_uint8"],
        (tensors["input/student_masked"], tensors["input/teacher_masked"]),
    )
    assert torch.equal(masks[0] & ~masks[1], tensors["input/student_masked_teacher_visible"])
    loss, outputs, gradients = _run_step(trainer, clips, *masks)

    for i in range(2):
        _assert_near(outputs.direct_features[i], tensors[f"output/direct_student/{i}"])
        _assert_near(outputs.generated_features[i], tensors[f"output/generated_student/{i}"])
    direct, generation = _teacher_features(trainer, clips, masks)
    for i in range(2):
        _assert_near(direct[i], tensors[f"output/direct_teacher/{i}"])
        _assert_near(generation[i], tensors[f"output/generated_teacher/{i}"])
    _assert_logits(outputs.logits, tensors["output/pixel_prediction"])
    _assert_near(_target(student, clips, masks[0]), tensors["output/pixel_target"])

    for name, value in {**outputs.losses, "total": loss}.items():
        assert value.item() == pytest.approx(figures["losses"][name], rel=1e-5), name
    norms = {official_name(name, _GOLDEN_LISTS): gradient.norm().item() for name, gradient in gradients.items()}
    tokens = {f"generator_mask_tokens.{i}" for i in range(2)}
    assert norms.keys() - tokens == figures["grad_norms"].keys()
    for name, value in figures["grad_norms"].items():
        assert norms[name] == pytest.approx(value, rel=1e-3), name
    assert all(norms[name] > 0 for name in tokens)  # never trained by the released code


def test_golden_classifier(golden_dir: Path) -> None:
    tensors = load_file(golden_dir / "amd_finetune_tiny.safetensors")
    model = convert_checkpoint(strip("checkpoint/", tensors), num_attention_heads=3, image_size=64)
    assert not model.training
    _assert_logits(model(tensors["input/frames_uint8"]).logits, tensors["output/logits"])


# ---------------------------------------------------------------------------------------------------------------------
# The same from formulas, so that no file but the figures is needed
# ---------------------------------------------------------------------------------------------------------------------


def _formula_clips() -> torch.Tensor:
    index = torch.arange(2 * 16 * 3 * 64 * 64)
    values = torch.floor(127.5 * (1 + torch.sin(0.731 * index.double() + (index // 977).double())))
    return values.to(torch.uint8).reshape(2, 16, 3, 64, 64)


def _formula_mask(num_visible: int) -> torch.Tensor:
    mask = torch.ones(2, 8, 16, dtype=torch.bool)
    for sample in range(2):
        for k in range(num_visible):
            mask[sample, :, (5 * k + 3 * sample) % 16] = False
    return mask.reshape(2, 128)


def _assert_figures(ours: torch.Tensor, figures: dict[str, Any], absolute: float) -> None:
    values = ours.detach()
    assert list(values.shape) == figures["shape"]
    assert values.mean().item() == pytest.approx(figures["mean"], abs=absolute)
    assert values.square().mean().sqrt().item() == pytest.approx(figures["rms"], rel=1e-5)
    # Written with six decimals.
    assert values.flatten()[:6].tolist() == pytest.approx(figures["first"], abs=absolute + 1e-6)
    assert values.flatten()[-6:].tolist() == pytest.approx(figures["last"], abs=absolute + 1e-6)


def test_formula_figures_are_the_golden_ones(golden_dir: Path) -> None:
    assert json.loads((golden_dir / "formula_cases.json").read_text()) == FIGURES


def test_formula_pretraining_step(tmp_path: Path) -> None:
    figures = FIGURES["pretrain"]
    state_dict = formula_state_dict(pretraining_shapes(48, 4, 32, 2, teacher_width=128))
    index = torch.arange(128, dtype=torch.float64)
    for j in range(2):
        token = 0.08 * torch.sin(0.37 * index + 1000 + j)
        state_dict[f"generator_mask_tokens.{j}"] = token.float().view(1, 1, 128)
    student = convert_checkpoint(state_dict, **_GOLDEN_STUDENT)
    teacher = convert_checkpoint(formula_state_dict(classifier_shapes(128, 6, 7)), **_GOLDEN_TEACHER)
    trainer = _trainer(student, teacher, tmp_path)
    clips, masks = _formula_clips(), (_formula_mask(2), _formula_mask(4))
    loss, outputs, gradients = _run_step(trainer, clips, *masks)

    for name, value in {**outputs.losses, "total": loss}.items():
        assert value.item() == pytest.approx(figures["losses"][name], rel=1e-5), name
    direct, generation = _teacher_features(trainer, clips, masks)
    for name, features in (
        ("direct_student", outputs.direct_features),
        ("generated_student", outputs.generated_features),
        ("direct_teacher", direct),
        ("generated_teacher", generation),
    ):
        for ours, theirs in zip(features, figures[name], strict=True):
            _assert_figures(ours, theirs, 2e-4)
    _assert_figures(outputs.logits, figures["pixel_prediction"], 1e-5)
    _assert_figures(_target(student, clips, masks[0]), figures["pixel_target"], 2e-4)

    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        official = official_name(name, _GOLDEN_LISTS)
        if not official.startswith("generator_mask_tokens"):  # no parameters in the released code
            squares[official] = gradient.double().square().sum().item()
    for part, norm in figures["grad_norm_by_part"].items():
        ours = sum(value for name, value in squares.items() if name == part or name.startswith(f"{part}."))
        assert ours**0.5 == pytest.approx(norm, rel=1e-3), part
    assert sum(squares.values()) ** 0.5 == pytest.approx(figures["grad_norm_total"], rel=1e-3)


def test_formula_classifier() -> None:
    model = convert_checkpoint(formula_state_dict(classifier_shapes(48, 4, 7)), num_attention_heads=3, image_size=64)
    _assert_logits(model(_formula_clips()).logits, torch.tensor(FIGURES["finetune"]["logits"]))


# ---------------------------------------------------------------------------------------------------------------------
# Other sizes, ratios, layers, losses and weights, against the plain reference
# ---------------------------------------------------------------------------------------------------------------------

_CASES: dict[str, dict[str, Any]] = {
    # Non-square frames, frames as tubelets, three projections and one generator, L1, no weight 1.
    "l1": {
        "shapes": {
            "width": 40,
            "depth": 5,
            "decoder_width": 12,
            "decoder_depth": 1,
            "teacher_width": 60,
            "num_projections": 3,
            "num_generators": 1,
            "generator_depth": 3,
            "patch": (3, 1, 4, 4),
        },
        "teacher_depth": 7,
        "geometry": {"image_size": [8, 16], "num_frames": 3},
        "ratios": {"mask_type": "random", "student_mask_ratio": 0.875, "teacher_mask_ratio": 0.42},
        "masked": (21, 10),
        "sizes": Sizes(
            heads=5,
            decoder_heads=3,
            generator_heads=4,
            teacher_heads=6,
            student_direct=[1, 3, 5],
            student_generation=[1],
            teacher_direct=[2, 4, 6],
            teacher_generation=[5],
            loss="l1",
            weights=(0.5, 2.0, 1.5),
        ),
    },
    # Smooth L1 on normalised teacher features, grey clips, raw pixels, another epsilon, fewer layers direct.
    "smooth_l1": {
        "shapes": {
            "width": 24,
            "depth": 3,
            "decoder_width": 16,
            "decoder_depth": 3,
            "teacher_width": 32,
            "num_projections": 2,
            "num_generators": 2,
            "generator_depth": 1,
            "patch": (1, 2, 8, 8),
        },
        "teacher_depth": 4,
        "geometry": {"image_size": [16, 16], "num_frames": 8, "layer_norm_eps": 1e-3},
        "ratios": {"mask_type": "random", "student_mask_ratio": 0.5625, "teacher_mask_ratio": 0.3125},
        "masked": (9, 5),
        "sizes": Sizes(
            heads=2,
            decoder_heads=4,
            generator_heads=2,
            teacher_heads=1,
            student_direct=[2],
            student_generation=[2, 3],
            teacher_direct=[4],
            teacher_generation=[1, 4],
            loss="smooth_l1",
            weights=(3.0, 0.0, 0.25),
            norm_pix_loss=False,
            teacher_feature_norm=True,
            mean=(0.3,),
            std=(0.4,),
            eps=1e-3,
        ),
    },
}


def _reference(
    student: dict[str, torch.Tensor],
    teacher: dict[str, torch.Tensor],
    clips: torch.Tensor,
    masks: tuple[torch.Tensor, torch.Tensor],
    sizes: Sizes,
) -> tuple[Step, dict[str, torch.Tensor]]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in student.items()}
    step = pretraining_step(leaves, teacher, clips, *masks, sizes)
    step.total.backward()
    return step, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("name", list(_CASES))
def test_step_of_other_sizes_equals_the_plain_reference(name: str, tmp_path: Path) -> None:
    case, sizes = _CASES[name], _CASES[name]["sizes"]
    shapes = case["shapes"]
    student = random_state_dict(pretraining_shapes(**shapes), seed=1)
    for i in range(shapes["num_generators"]):
        student[f"generator_mask_tokens.{i}"] = torch.randn(1, 1, shapes["teacher_width"])
    teacher = random_state_dict(
        classifier_shapes(shapes["teacher_width"], case["teacher_depth"], 2, shapes["patch"]), seed=2
    )
    options = {**case["geometry"], "image_mean": list(sizes.mean), "image_std": list(sizes.std)}
    model = convert_checkpoint(
        student,
        num_attention_heads=sizes.heads,
        decoder_num_attention_heads=sizes.decoder_heads,
        generator_num_attention_heads=sizes.generator_heads,
        student_direct_layers=sizes.student_direct,
        student_generation_layers=sizes.student_generation,
        teacher_direct_layers=sizes.teacher_direct,
        teacher_generation_layers=sizes.teacher_generation,
        norm_pix_loss=sizes.norm_pix_loss,
        **case["ratios"],
        **options,
    )
    teacher_model = convert_checkpoint(teacher, num_attention_heads=sizes.teacher_heads, **options)
    trainer = _trainer(
        model,
        teacher_model,
        tmp_path,
        reconstruction_weight=sizes.weights[0],
        direct_weight=sizes.weights[1],
        generation_weight=sizes.weights[2],
        alignment_loss=sizes.loss,
        teacher_feature_norm=sizes.teacher_feature_norm,
    )
    config = model.config
    clips = torch.randint(
        256, (2, config.num_frames, config.num_channels, *config.image_height_width), dtype=torch.uint8
    )
    masks = nested_masks(config.num_patches, *case["masked"])
    loss, outputs, gradients = _run_step(trainer, clips, *masks)
    step, expected_gradients = _reference(student, teacher, clips, masks, sizes)

    for ours, theirs in zip(
        outputs.direct_features + outputs.generated_features,
        step.direct_student + step.generated_student,
        strict=True,
    ):
        _assert_near(ours, theirs)
    _assert_logits(outputs.logits, step.prediction)
    _assert_near(_target(model, clips, masks[0]), step.target)
    for part, value in {**outputs.losses, "total": loss}.items():
        expected = step.total if part == "total" else step.losses[part]
        assert value.item() == pytest.approx(expected.item(), rel=1e-5), part

    lists = {
        "projections": max(sizes.student_direct, sizes.student_generation, key=len),
        "generators": sizes.student_generation,
    }
    used = {official_name(ours, lists) for ours in gradients}
    assert used == {key for key in student if ".norm." not in key or not key.startswith("generators.")}
    for ours, gradient in gradients.items():
        official = official_name(ours, lists)
        expected = expected_gradients[official]
        if official.endswith("patch_embed.proj.weight"):
            expected = expected.permute(0, 2, 3, 4, 1).flatten(1)
        torch.testing.assert_close(
            gradient,
            expected,
            atol=1e-3 * expected.norm().item() + 1e-9,
            rtol=0,
            msg=lambda text, n=ours: f"{n}: {text}",
        )


def test_projection_by_position_equals_the_released_choice(tmp_path: Path) -> None:
    """Direct layers 1 and 3, generation layers 2 and 3: position 0 serves layers 1 and 2, position 1 layer 3."""
    student = random_state_dict(pretraining_shapes(24, 3, 16, 1, teacher_width=32, patch=(3, 2, 8, 8)), seed=1)
    student |= {f"generator_mask_tokens.{i}": torch.randn(1, 1, 32) for i in range(2)}
    teacher = random_state_dict(classifier_shapes(32, 4, 2, (3, 2, 8, 8)), seed=2)
    layers = {
        "student_direct_layers": [1, 3],
        "student_generation_layers": [2, 3],
        "teacher_direct_layers": [2, 4],
        "teacher_generation_layers": [3, 4],
    }
    heads = {"num_attention_heads": 2, "decoder_num_attention_heads": 2, "generator_num_attention_heads": 2}
    geometry = {"image_size": [16, 24], "num_frames": 4}
    with pytest.raises(ValueError, match=r"serves several student layers \(\[1, 2\]\).*projection_by_position=True"):
        convert_checkpoint(student, **layers, **heads, **geometry)
    model = convert_checkpoint(student, projection_by_position=True, **layers, **heads, **geometry)
    weights = {layer: model.alignment.projections[str(layer)].weight for layer in (1, 2, 3)}
    assert torch.equal(weights[1], student["encoder.projection_heads.0.weight"])
    assert torch.equal(weights[2], student["encoder.projection_heads.0.weight"])
    assert torch.equal(weights[3], student["encoder.projection_heads.1.weight"])

    sizes = Sizes(2, 2, 2, 2, [1, 3], [2, 3], [2, 4], [3, 4])
    trainer = _trainer(model, convert_checkpoint(teacher, num_attention_heads=2, **geometry), tmp_path)
    clips = torch.randint(256, (2, 4, 3, 16, 24), dtype=torch.uint8)
    masks = nested_masks(12, 8, 4)
    loss, outputs, gradients = _run_step(trainer, clips, *masks)
    step, expected = _reference(student, teacher, clips, masks, sizes)
    assert loss.item() == pytest.approx(step.total.item(), rel=1e-5)
    for part, value in outputs.losses.items():
        assert value.item() == pytest.approx(step.losses[part].item(), rel=1e-5), part
    shared = gradients["alignment.projections.1.weight"] + gradients["alignment.projections.2.weight"]
    _assert_near(shared, expected["encoder.projection_heads.0.weight"], 1e-5)


def test_projection_that_no_position_can_give_raises() -> None:
    """Layer 2 stands at position 1 for direct and 0 for generation alignment: it would need two projections."""
    student = random_state_dict(pretraining_shapes(24, 3, 16, 1, teacher_width=32, patch=(3, 2, 8, 8)))
    with pytest.raises(ValueError, match=r"Student layer\(s\) \[2\] would need two projections"):
        convert_checkpoint(
            student,
            projection_by_position=True,
            num_attention_heads=2,
            decoder_num_attention_heads=2,
            image_size=16,
            student_direct_layers=[1, 2],
            student_generation_layers=[2, 3],
            teacher_direct_layers=[1, 2],
            teacher_generation_layers=[1, 2],
        )
