"""The formula of a step's operations against PyTorch's own count."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from amd_hf import AMDConfig, AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDTrainer
from amd_hf.flops import count_flops, encoder_flops, finetuning_flops, pretraining_flops
from tests.helpers.models import tiny_config, tiny_teacher_config
from tests.helpers.training import masked_rows, pretraining_args


def _batch(config):
    (row,) = masked_rows(config, 1)
    return {name: value[None] for name, value in row.items() if name != "number"}


@pytest.mark.parametrize("changes", [{}, {"teacher_mask_ratio": 0.0}, {"alignment_mode": "parallel"}])
def test_step_with_a_teacher(tmp_path, changes):
    config, teacher_config = tiny_config(**changes), tiny_teacher_config(**changes)
    student = AMDForPreTraining(config)
    student.set_attn_implementation("eager")  # fused attention computes its scores again in the backward pass
    teacher = AMDModel(teacher_config)
    teacher.set_attn_implementation("eager")  # PyTorch does not count every kind of fused attention
    trainer = AMDTrainer(student, pretraining_args(tmp_path), teacher, data_collator=list)
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(student.train(), _batch(config)).backward()
    assert counter.get_total_flops() == pretraining_flops(config, teacher_config)


def test_step_without_a_teacher(tmp_path):
    config = tiny_config(teacher_hidden_size=None)
    student = AMDForPreTraining(config)
    student.set_attn_implementation("eager")
    trainer = AMDTrainer(student, pretraining_args(tmp_path), data_collator=list)
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(student.train(), _batch(config)).backward()
    assert counter.get_total_flops() == pretraining_flops(config)


def test_fine_tuning():
    config = tiny_config(num_labels=7)
    model = AMDForVideoClassification(config)
    model.set_attn_implementation("eager")
    batch = {"pixel_values": _batch(config)["pixel_values"], "labels": torch.tensor([1])}
    with FlopCounterMode(display=False) as counter:
        model.train()(**batch).loss.backward()
    assert counter.get_total_flops() == finetuning_flops(model.config)


def test_encoder():
    config = tiny_config(teacher_hidden_size=None)
    assert count_flops(AMDModel(config)) == encoder_flops(config, config.num_patches)


def test_known_figure():
    # The paper's table of video models lists 57 GFLOPs for a view of ViT-S and 180 for ViT-B, a multiply-add as one.
    for width, heads, expected in ((384, 6, 57e9), (768, 12, 180e9)):
        config = AMDConfig(hidden_size=width, num_attention_heads=heads, teacher_hidden_size=None)
        assert encoder_flops(config, config.num_patches) / 2 == pytest.approx(expected, rel=0.01)
