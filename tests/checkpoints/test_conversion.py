"""Official checkpoints to our models and back: every wrapper, every tensor, every size."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from amd_hf import (
    AMDConfig,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    convert_checkpoint,
    export_checkpoint,
)
from amd_hf.modeling_amd import AMDPreTrainedModel, sincos_grid_position_table, sincos_position_table
from tests.helpers.checkpoints import TINY_CLASSIFIER, classifier_shapes, pretraining_shapes, random_state_dict
from tests.helpers.models import tiny_config


Tensors = dict[str, torch.Tensor]

_PATCH = (3, 2, 8, 8)
_PRETRAINING = {
    **TINY_CLASSIFIER,
    "decoder_num_attention_heads": 2,
    "generator_num_attention_heads": 2,
    "student_direct_layers": [1, 3],
    "student_generation_layers": [1, 3],
    "teacher_direct_layers": [2, 4],
    "teacher_generation_layers": [2, 4],
}


@pytest.fixture
def pretraining_file() -> Tensors:
    return random_state_dict(pretraining_shapes(24, 3, 16, 2, teacher_width=32, patch=_PATCH))


@pytest.fixture
def videomae_file() -> Tensors:
    """The authors' teachers: a pre-training checkpoint without alignment modules."""
    return random_state_dict(pretraining_shapes(24, 3, 16, 2, patch=_PATCH))


def _assert_same(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


# ---------------------------------------------------------------------------------------------------------------------
# There and back
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("classifier_file", AMDForVideoClassification),
        ("pretraining_file", AMDForPreTraining),
        ("videomae_file", AMDForPreTraining),
    ],
)
def test_official_to_ours_and_back_is_bit_identical(
    kind: str, expected: type, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in request.getfixturevalue(kind).items()}
    options = TINY_CLASSIFIER if kind == "classifier_file" else _PRETRAINING
    model = convert_checkpoint(tensors, **options)
    assert type(model) is expected
    assert not model.training
    assert model.dtype == dtype
    _assert_same(export_checkpoint(model), tensors)


def test_ours_to_official_and_back_gives_the_same_outputs(
    pretraining_model: AMDForPreTraining, classifier: AMDForVideoClassification, clips: torch.Tensor
) -> None:
    back = convert_checkpoint(export_checkpoint(classifier), config=classifier.config)
    assert torch.equal(back(clips).logits, classifier(clips).logits)
    config = tiny_config(teacher_hidden_size=None)
    plain = AMDForPreTraining(config)
    mask = torch.arange(12).expand(2, -1) < 8
    assert torch.equal(convert_checkpoint(export_checkpoint(plain), config)(clips, mask).loss, plain(clips, mask).loss)


@pytest.mark.parametrize(
    ("direct", "generation", "num_projections", "num_generators"),
    [([1, 2, 3], [1], 3, 1), ([2], [2, 3], 2, 2), ([1, 3], [], 2, 0), ([], [3], 1, 1)],
)
def test_layer_lists_of_different_length_convert_and_export(
    direct: list[int], generation: list[int], num_projections: int, num_generators: int
) -> None:
    tensors = random_state_dict(
        pretraining_shapes(
            24, 3, 16, 2, 32, num_projections=num_projections, num_generators=num_generators, patch=_PATCH
        )
    )
    lists = {
        "student_direct_layers": direct,
        "student_generation_layers": generation,
        "teacher_direct_layers": [2, 3, 4][: len(direct)],
        "teacher_generation_layers": [2, 3, 4][: len(generation)],
    }
    model = convert_checkpoint(tensors, **{**_PRETRAINING, **lists})
    _assert_same(export_checkpoint(model), tensors)


def test_alignment_that_starts_with_different_layers_has_no_official_layout(
    pretraining_model: AMDForPreTraining,
) -> None:
    with pytest.raises(ValueError, match=r"start with the same student layers; they use \[1, 3\] and \[2, 3\]"):
        export_checkpoint(pretraining_model)


def test_parallel_alignment_is_not_exported() -> None:
    with pytest.raises(ValueError, match="aligns in parallel"):
        export_checkpoint(AMDForPreTraining(tiny_config(alignment_mode="parallel")))


def test_encoder_alone_is_not_exported(teacher_model: AMDModel) -> None:
    with pytest.raises(TypeError, match="AMDForPreTraining, .*AMDForVideoClassification"):
        export_checkpoint(teacher_model)


def test_parameter_without_official_name_is_not_exported(classifier: AMDForVideoClassification) -> None:
    classifier.register_parameter("adapter", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match="`adapter` has no official name"):
        export_checkpoint(classifier)


def test_generator_mask_tokens_are_left_out_of_the_export_unless_asked_for(
    pretraining_file: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    model = convert_checkpoint(pretraining_file, **_PRETRAINING)
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    logging.getLogger("amd_hf").addHandler(caplog.handler)
    try:
        without = export_checkpoint(model)
    finally:
        transformers_logger.removeHandler(caplog.handler)
        logging.getLogger("amd_hf").removeHandler(caplog.handler)
    assert not any("mask_tokens" in name for name in without)
    assert "generator_mask_tokens.0, generator_mask_tokens.1" in caplog.text
    with_tokens = export_checkpoint(model, include_generator_mask_tokens=True)
    tokens = {name: tensor for name, tensor in with_tokens.items() if name not in without}
    assert tokens.keys() == {"generator_mask_tokens.0", "generator_mask_tokens.1"}
    assert torch.equal(tokens["generator_mask_tokens.1"], model.alignment.generators["3"].mask_token)
    again = convert_checkpoint(with_tokens, **_PRETRAINING)
    assert not again.conversion_report.new
    _assert_same(again.state_dict(), model.state_dict())


# ---------------------------------------------------------------------------------------------------------------------
# Wrappers and prefixes
# ---------------------------------------------------------------------------------------------------------------------


def _with_prefix(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("kind", ["classifier_file", "pretraining_file"])
def test_wrapper_and_prefix_are_found_and_named(
    kind: str, prefix: str, wrapper: str | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tensors = request.getfixturevalue(kind)
    content: dict[str, Any] = _with_prefix(prefix, tensors)
    file = tmp_path / "checkpoint.pth"
    torch.save({wrapper: content} if wrapper else content, file)
    model = convert_checkpoint(file, **(TINY_CLASSIFIER if kind == "classifier_file" else _PRETRAINING))
    _assert_same(export_checkpoint(model), tensors)
    report = model.conversion_report
    assert report.wrapper == wrapper
    assert "".join(report.prefixes) == prefix
    assert report.source == str(file)


@pytest.mark.parametrize("prefix", ["encoder.", "module.encoder.", "backbone.encoder."])
@pytest.mark.parametrize("is_head_prefixed", [True, False])
def test_encoder_prefix_of_a_classifier_is_taken_off(
    prefix: str, is_head_prefixed: bool, classifier_file: Tensors
) -> None:
    outer = prefix.removesuffix("encoder.")
    heads = ("head.", "fc_norm.")
    wrapped = {
        (outer + name if name.startswith(heads) and not is_head_prefixed else prefix + name): tensor
        for name, tensor in classifier_file.items()
    }
    model = convert_checkpoint(wrapped, **TINY_CLASSIFIER)
    _assert_same(export_checkpoint(model), classifier_file)
    assert model.conversion_report.prefixes[-1] == "encoder."


def test_file_as_the_authors_save_it_loads(pretraining_file: Tensors, tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    weight.sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(
        model="pretrain_mae_small_patch16_224",
        num_frames=4,
        input_size=16,
        lr=1.2e-3,
        opt_betas=[0.9, 0.95],
        dist=None,
    )
    file = tmp_path / "checkpoint-199.pth"
    torch.save(
        {
            "model": pretraining_file,
            "optimizer": optimizer.state_dict(),
            "epoch": 199,
            "scaler": {"scale": 65536.0, "growth_factor": 2.0},
            "args": arguments,
        },
        file,
    )
    options = {name: value for name, value in _PRETRAINING.items() if name not in ("image_size", "num_frames")}
    model = convert_checkpoint(file, **options)
    assert (model.config.num_frames, model.config.image_size) == (4, 16)
    report = model.conversion_report
    assert report.ignored_entries == ["optimizer", "epoch", "scaler", "args"]
    assert report.sizes["image_size"] == "16 (from the file's own record)"
    _assert_same(export_checkpoint(model), pretraining_file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_model_does_not_depend_on_its_file_any_more(suffix: str, classifier_file: Tensors, tmp_path: Path) -> None:
    """A memory-mapped file that is overwritten later would change the weights, or end the process."""
    file = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        torch.save(classifier_file, file)
    else:
        save_file(classifier_file, file)
    model = convert_checkpoint(file, **TINY_CLASSIFIER)
    file.write_bytes(b"\x11" * file.stat().st_size)  # not shorter: reading beyond the end would end the process
    _assert_same(export_checkpoint(model), classifier_file)


def test_model_shares_no_memory_with_the_state_dict_or_between_layers(pretraining_file: Tensors) -> None:
    lists = {"student_direct_layers": [1, 3], "student_generation_layers": [2, 3]}
    model = convert_checkpoint(pretraining_file, projection_by_position=True, **{**_PRETRAINING, **lists})
    assert model.conversion_report.used["encoder.projection_heads.0.weight"]
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert not set(pointers) & {tensor.data_ptr() for tensor in pretraining_file.values()}


# ---------------------------------------------------------------------------------------------------------------------
# Report and sizes
# ---------------------------------------------------------------------------------------------------------------------


def test_report_accounts_for_every_tensor(pretraining_file: Tensors) -> None:
    report = convert_checkpoint(pretraining_file, **_PRETRAINING).conversion_report
    norms = {f"generators.{i}.norm.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    assert report.dropped.keys() == norms
    assert report.used.keys() == pretraining_file.keys() - norms
    assert report.new == {
        f"alignment.generators.{layer}.mask_token": "the released code never saves it" for layer in (1, 3)
    }
    text = str(report)
    for line in (
        "state dict: pretraining checkpoint",
        "  hidden_size = 24 (read from the tensors)",
        "  num_attention_heads = 2 (given)",
        "  student_direct_layers = [1, 3] (given)",
        f"tensors used: {len(report.used)}",
        "tensors dropped: 4",
        "  generators.0.norm.weight: in every official file, used and trained by nothing",
        "tensors newly initialised: 2",
    ):
        assert line in text.split("\n"), line


def test_unused_generator_norms_of_other_values_are_reported(pretraining_file: Tensors) -> None:
    pretraining_file["generators.1.norm.bias"][3] = 0.5
    report = convert_checkpoint(pretraining_file, **_PRETRAINING).conversion_report
    assert report.dropped["generators.1.norm.bias"].endswith("(here not 0 everywhere)")
    assert "here" not in report.dropped["generators.0.norm.bias"]


@pytest.mark.parametrize(
    ("width", "heads", "decoder_width", "decoder_heads"), [(384, 6, 192, 3), (768, 12, 384, 6), (1408, 16, 640, 8)]
)
def test_heads_are_looked_up_by_width(width: int, heads: int, decoder_width: int, decoder_heads: int) -> None:
    tensors = random_state_dict(pretraining_shapes(width, 1, decoder_width, 1, patch=(1, 1, 2, 2)))
    model = convert_checkpoint(tensors, image_size=4, num_frames=1, image_mean=[0.5], image_std=[0.5])
    config = model.config
    assert (config.num_attention_heads, config.decoder_num_attention_heads) == (heads, decoder_heads)
    sizes = model.conversion_report.sizes
    assert sizes["num_attention_heads"] == f"{heads} (looked up by width)"
    assert (config.patch_size, config.tubelet_size, config.num_channels) == (2, 1, 1)


def test_heads_of_another_width_must_be_given(classifier_file: Tensors) -> None:
    with pytest.raises(ValueError, match=r"width 24 is none of \[384, .*: give `num_attention_heads`"):
        convert_checkpoint(classifier_file, image_size=16, num_frames=4)


def test_sizes_that_tensors_do_not_tell_are_named_as_defaults(classifier_file: Tensors) -> None:
    model = convert_checkpoint(classifier_file, num_attention_heads=2)
    assert model.conversion_report.sizes["image_size"] == "224 (default: the tensors do not say)"
    assert model.conversion_report.sizes["num_labels"] == "5 (read from the tensors)"


def test_what_no_tensor_tells_is_named_as_assumed(
    classifier_file: Tensors, pretraining_file: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="amd_hf"):
        report = convert_checkpoint(classifier_file, num_attention_heads=2).conversion_report
    assert list(report.assumed) == [
        "layer_norm_eps", "position_embedding", "image_size", "num_frames", "image_mean", "image_std", "pooling",
    ]  # fmt: skip
    assert "MVD's models have sincos_3d_mvd" in report.assumed["position_embedding"]
    assert "ASSUMED, since no tensor says it" in str(report)
    assert "position_embedding 'sincos_1d', image_size 224, num_frames 16" in caplog.text
    told = {name: value for name, value in AMDConfig().to_dict().items() if name in report.assumed}
    assert convert_checkpoint(classifier_file, num_attention_heads=2, **told).conversion_report.assumed == {}
    report = convert_checkpoint(pretraining_file, **_PRETRAINING).conversion_report
    assert {"decoder_position_embedding", "norm_pix_loss", "mask_type"} <= report.assumed.keys()
    assert not report.assumed.keys() & _PRETRAINING.keys()


def _mvd_table(time: int, rows: int, columns: int, dim: int) -> np.ndarray:
    """MVD's positions: a quarter of the width tells the time, 3/8 the column, 3/8 the row; sines before cosines."""

    def waves(place: int, width: int) -> list[float]:
        angles = [place / 10000 ** (wave / (width // 2)) for wave in range(width // 2)]
        return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]

    return np.array(
        [
            waves(frame, dim // 4) + waves(column, dim // 8 * 3) + waves(row, dim // 8 * 3)
            for frame in range(time)
            for row in range(rows)
            for column in range(columns)
        ]
    )


def test_table_of_mvd_is_offered() -> None:
    file = random_state_dict(classifier_shapes(32, 3, 5, _PATCH))
    options = {"num_attention_heads": 2, "image_size": 24, "num_frames": 4}
    usual = convert_checkpoint(file, **options)
    model = convert_checkpoint(file, **options, position_embedding="sincos_3d_mvd")
    assert "position_embedding" not in model.conversion_report.assumed
    table = model.amd.embeddings.position.table
    np.testing.assert_allclose(table.numpy(), _mvd_table(*model.config.grid_size, 32), atol=1e-6)
    saved = convert_checkpoint({**file, "pos_embed": table[None]}, **options)  # where a file does hold its table
    assert saved.config.position_embedding == "sincos_3d_mvd"
    clips = torch.randn(1, model.config.num_frames, 3, *model.config.image_height_width)
    with torch.no_grad():  # both load whole: only the numbers tell
        assert not torch.allclose(model(clips).logits, usual(clips).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 32}, "`hidden_size` is 24 in the tensors, 32 was given"),
        ({"num_labels": 6}, "`num_labels` is 5 in the tensors, 6 was given"),
        ({"num_attention_heads": 5}, "`hidden_size` 24 must be a multiple of `num_attention_heads` 5"),
        ({"image_size": 20}, "`image_size` 20 must be a multiple of `patch_size` 8"),
        ({"num_head": 2}, r"unknown option\(s\): `num_head`"),
        ({"task": "pretraining"}, "is a classification checkpoint, but `task` is 'pretraining'"),
        ({"task": "detecting"}, "`task` must be one of .* got 'detecting'"),
    ],
)
def test_impossible_size_or_task_raises(options: dict[str, Any], message: str, classifier_file: Tensors) -> None:
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(classifier_file, **{**TINY_CLASSIFIER, **options})


def test_saved_position_table_is_dropped_only_if_it_is_the_fixed_one(classifier_file: Tensors) -> None:
    table = sincos_position_table(2 * 2 * 2, 24)[None]
    report = convert_checkpoint({**classifier_file, "pos_embed": table}, **TINY_CLASSIFIER).conversion_report
    assert "sine-cosine table" in report.dropped["pos_embed"]
    in_3d = convert_checkpoint(
        {**classifier_file, "pos_embed": sincos_grid_position_table("sincos_3d", (2, 2, 2), 24)[None]},
        **TINY_CLASSIFIER,
    )
    assert in_3d.config.position_embedding == "sincos_3d"
    other = convert_checkpoint({**classifier_file, "pos_embed": table + 0.01}, **TINY_CLASSIFIER)
    assert other.config.position_embedding == "stored"
    assert other.conversion_report.used["pos_embed"] == "amd.embeddings.position.table"
    torch.testing.assert_close(other.amd.embeddings.position.table, table[0] + 0.01, rtol=0, atol=0)
    with pytest.raises(ValueError, match="`pos_embed` has 7 positions, but the config's clip has 8 tokens"):
        convert_checkpoint({**classifier_file, "pos_embed": table[:, :7]}, **TINY_CLASSIFIER)


def test_converted_model_is_saved_and_loaded_as_ours(
    classifier_file: Tensors, clips: torch.Tensor, tmp_path: Path
) -> None:
    model: AMDPreTrainedModel = convert_checkpoint(classifier_file, **{**TINY_CLASSIFIER, "image_size": [16, 24]})
    model.save_pretrained(tmp_path)
    loaded = AMDForVideoClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(clips).logits, model(clips).logits)
