"""A family of checkpoints that nobody has heard of: one table makes teachers of it, from a folder and from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from amd_hf import convert_checkpoint, load_teacher
from amd_hf.checkpoints.families import FAMILIES, Family
from amd_hf.teachers.frozen import FrozenTeacher
from tests.helpers.checkpoints import classifier_shapes, random_state_dict
from tests.helpers.models import nested_masks, random_clips, tiny_config, tiny_teacher_config, token_split


# Official name -> that of the family, written out: the other direction than the family's table.
_FOREIGN = {"patch_embed.proj": "trunk.stem", "fc_norm": "top.ln", "head": "top.logits"}
_IN_BLOCK = {"norm1": "ln_a", "attn.proj": "mix.out", "norm2": "ln_b", "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}


def _foreign(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Separate query, key and value, all biases, and other names for everything."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in official.items():
        name, _, leaf = key.rpartition(".")
        if not key.startswith("blocks."):
            tensors[f"{_FOREIGN[name]}.{leaf}"] = tensor
            continue
        _, number, rest = key.split(".", 2)
        start = f"trunk.stage{number}."
        if rest == "attn.qkv.weight":
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                tensors[f"{start}mix.{part}.weight"] = rows.clone()
        elif rest in ("attn.q_bias", "attn.v_bias"):
            tensors[f"{start}mix.{rest[5]}.bias"] = tensor
        else:
            tensors[f"{start}{_IN_BLOCK[rest.rpartition('.')[0]]}.{leaf}"] = tensor
    return tensors


@pytest.fixture
def family() -> Iterator[Family]:
    """The table, and nothing else."""
    made_up = Family(
        model_type="made_up",
        recognised_by={r"trunk\.stem\.weight": 5, r"trunk\.stage0\.mix\.q\.weight": 2},
        names=(
            (r"^trunk\.stem\.", "{encoder}patch_embed.proj."),
            (r"^trunk\.stage(\d+)\.", r"{encoder}blocks.\1."),
            (r"ln_a\.", "norm1."),
            (r"ln_b\.", "norm2."),
            (r"mix\.out\.", "attn.proj."),
            (r"mix\.q\.", "attn.query."),
            (r"mix\.k\.", "attn.key."),
            (r"mix\.v\.", "attn.value."),
            (r"mlp\.up\.", "mlp.fc1."),
            (r"mlp\.down\.", "mlp.fc2."),
            (r"^top\.ln\.", "fc_norm."),
            (r"^top\.logits\.", "head."),
        ),
        settings={"layer_norm_eps": 1e-3, "position_embedding": "sincos_3d"},
        record={"heads": "num_attention_heads", "clip_length": "num_frames", "picture": "image_size"},
    )
    FAMILIES.append(made_up)
    yield made_up
    FAMILIES.remove(made_up)


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    return random_state_dict(classifier_shapes(48, 5, 7, (3, 2, 8, 8)))


def _folder(path: Path, official: dict[str, torch.Tensor]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"model_type": "made_up", "heads": 3, "clip_length": 4, "picture": [16, 24]})
    )
    save_file(_foreign(official), path / "model.safetensors")
    return path


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_teacher_of_a_family_that_is_one_table(
    kind: str, family: Family, official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    config = tiny_teacher_config(layer_norm_eps=1e-3, position_embedding="sincos_3d")
    if kind == "folder":
        teacher = load_teacher(_folder(tmp_path / "model", official), layers=[2, 4])
    else:
        torch.save({"model": _foreign(official)}, tmp_path / "model.pth")
        options = {"num_attention_heads": 3, "num_frames": 4, "image_size": [16, 24]}
        teacher = load_teacher(tmp_path / "model.pth", layers=[2, 4], config=options)
    expected = load_teacher(official, layers=[2, 4], config=config)
    clips, (_, mask) = random_clips(config), nested_masks(12, 8, 4)
    ours, theirs = (model(clips, mask, feature_layers=[2, 4]).layer_features for model in (teacher, expected))
    assert teacher.config.layer_norm_eps == 1e-3
    for layer in (2, 4):
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=0, atol=0)


def test_whole_model_of_the_family_converts(family: Family, official: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = convert_checkpoint(_folder(tmp_path / "model", official))
    assert torch.equal(model.classifier.weight, official["head.weight"])
    assert model.config.num_attention_heads == 3


def test_without_its_table_the_folder_is_refused_by_the_families_that_are_known(
    official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"holds a `made_up` model, and teachers are `amd`, .*`vjepa2`"):
        load_teacher(_folder(tmp_path / "model", official), layers=[2])


def test_files_with_the_names_of_another_family_are_not_taken_for_it(family: Family) -> None:
    stem = {"trunk.stem.weight": torch.zeros(48, 3, 8, 8)}  # of images: one dimension too few
    with pytest.raises(ValueError, match="no `patch_embed.proj.weight`"):
        load_teacher(stem, layers=[2])


# ---------------------------------------------------------------------------------------------------------------------
# VideoMAE V2: official names behind code of its own, which is not run
# ---------------------------------------------------------------------------------------------------------------------


def _videomae_v2(path: Path, tensors: dict[str, torch.Tensor], **changes: object) -> Path:
    """A folder as OpenGVLab publishes them."""
    path.mkdir()
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 5, "num_heads": 3, "num_frames": 4}
    options |= {"layer_norm_eps": 1e-5, "cos_attn": False, "use_learnable_pos_emb": False, **changes}
    code = {"AutoModel": "modeling_videomaev2.VideoMAEv2", "AutoConfig": "modeling_config.VideoMAEv2Config"}
    config = {"model_type": "VideoMAEv2_Base", "auto_map": code, "model_config": options}
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    for name in ("modeling_videomaev2.py", "modeling_config.py"):
        (path / name).write_text("raise RuntimeError('this code was run')")
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


def test_videomae_v2_teaches_without_its_code_being_run(official: dict[str, torch.Tensor], tmp_path: Path) -> None:
    encoder = {name: tensor for name, tensor in official.items() if not name.startswith("head.")}
    teacher = load_teacher(_videomae_v2(tmp_path / "v2", encoder), layers=[2, 4])
    config = tiny_teacher_config(image_size=32, layer_norm_eps=1e-5, image_mean=[0.1, 0.2, 0.3])
    expected = load_teacher(official, layers=[2, 4], config=config)
    clips, (_, mask) = random_clips(config), nested_masks(32, 20, 12)
    ours, theirs = (model(clips, mask, feature_layers=[2, 4]).layer_features for model in (teacher, expected))
    for layer in (2, 4):
        assert torch.equal(ours[layer], theirs[layer])
    assert convert_checkpoint(tmp_path / "v2", task="encoder").config.num_attention_heads == 3


def test_videomae_v2_of_another_attention_is_refused(official: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cosine attention"):
        load_teacher(_videomae_v2(tmp_path / "v2", official, cos_attn=True), layers=[2])


def test_official_file_of_videomae_v2_giant_has_patches_of_its_own_for_the_students_grid(tmp_path: Path) -> None:
    """Patches of 14 in frames of 224 are 16 x 16 tokens; here of 6 in 24, for a student of 3 x 3 patches of 8."""
    tensors = random_state_dict(classifier_shapes(48, 5, 7, (3, 2, 6, 6)))
    torch.save({"module": tensors}, tmp_path / "vit_g.pth")
    student = tiny_config(image_size=24)
    options = {"num_attention_heads": 3, "image_size": 24, "num_frames": 4}
    frozen = FrozenTeacher.fit(str(tmp_path / "vit_g.pth"), student, options)
    assert "as 2 x 4 x 4 tokens, averaged by area to the student's 2 x 3 x 3, all of every clip" in frozen.describe()
    direct, generation = frozen(random_clips(student), token_split(*nested_masks(18, 12, 7)))
    assert (direct[0].shape, generation[0].shape) == ((2, 6, 48), (2, 5, 48))
