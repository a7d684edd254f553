"""One table per family of checkpoints: how it names its tensors, and what is known of its models beside them.

`reading.py` brings every family to the official names of AMD and VideoMAE by its entry in `FAMILIES`, `conversion.py`
brings those to this package's models and back. To add a family, add an entry.

Transformers has such tables too (`WeightRenaming` in `core_model_loading`). They pass names that no rule knows through
in silence, take one capturing group each, and have no operation for biases that are joined around zeros or for patches
that are permuted before they are flattened; a conversion that accounts for every tensor needs rules of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch


# ---------------------------------------------------------------------------------------------------------------------
# AMD and VideoMAE, official <-> ours: read both ways
# ---------------------------------------------------------------------------------------------------------------------

PLACEHOLDERS = {"leaf": "weight|bias", "rest": ".+", "layer": r"\d+", "position": r"\d+"}
# How the {rest} of a block's names begins; all others are the same.
IN_BLOCKS = (
    ("attn.q_bias", "attention.qkv.q_bias"),
    ("attn.v_bias", "attention.qkv.v_bias"),
    ("attn.", "attention."),
)
_ENCODER = (
    ("cls_token", "amd.embeddings.class_token"),
    ("patch_embed.proj.{leaf}", "amd.embeddings.projection.{leaf}"),
    ("blocks.{layer}.{rest}", "amd.layers.{layer}.{rest}"),
)
_FINAL_NORM = (("norm.{leaf}", "amd.norm.{leaf}"),)
_HEAD = (("head.{leaf}", "classifier.{leaf}"),)
NAMES = {
    "encoder": _ENCODER + _FINAL_NORM,
    "classification": (*_ENCODER, ("fc_norm.{leaf}", "fc_norm.{leaf}"), *_HEAD),
    "detection": _ENCODER + _FINAL_NORM + _HEAD,
    "pretraining": (
        *((f"encoder.{official}", ours) for official, ours in _ENCODER + _FINAL_NORM),
        ("encoder_to_decoder.{leaf}", "decoder.embed.{leaf}"),
        ("mask_token", "decoder.mask_token"),
        ("decoder.blocks.{layer}.{rest}", "decoder.layers.{layer}.{rest}"),
        ("decoder.norm.{leaf}", "decoder.norm.{leaf}"),
        ("decoder.head.{leaf}", "decoder.head.{leaf}"),
        # The official files count projections and generators by position, ours by the student's layer.
        ("encoder.projection_heads.{position}.weight", "alignment.projections.{position}.weight"),
        ("generators.{position}.blocks.{layer}.{rest}", "alignment.generators.{position}.layers.{layer}.{rest}"),
        ("generator_mask_tokens.{position}", "alignment.generators.{position}.mask_token"),
    ),
}
"""Task -> (official name, our name)."""
BESIDE_THE_ENCODER = (
    r"(decoder|encoder_to_decoder|generators|generator_mask_tokens|encoder\.projection_heads|fc_norm|head)\..+"
    r"|mask_token"
)
UNUSED_NORM = r"generators\.\d+\.norm\.(weight|bias)"
DROPPED_NAMES = (
    (UNUSED_NORM, "in every official file, used and trained by nothing"),
    (r".*attn\.k_bias", "a key bias adds the same number to all scores of a query: the softmax ignores it"),
)
DROPPED_NAMES_OF_TASK = {
    "classification": ((r"norm\.(weight|bias)", "a classifier takes the encoder without its final norm"),),
}

# ---------------------------------------------------------------------------------------------------------------------
# Other families -> official: read one way
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A family of checkpoints that becomes models of ours: how it is recognised, its names, and what it leaves open.

    One of these in `FAMILIES` is all that a new family needs, if its models compute what ours do. Names that no rule
    leads anywhere are an error that names them; parts that no model of ours has (a `pooler.`) get a name of
    `BESIDE_THE_ENCODER`, such as `head.`, so that teachers leave them out, or `adapt` removes them.

    Args:
        model_type (`str`): What the `config.json` of its folders says, and what its files' records get.
        recognised_by (`Mapping[str, int | None]`):
            Pattern of a whole name -> number of dimensions, or None for any. A checkpoint that has such a tensor for
            each pattern is of this family; the first family that fits is taken, so a special one stands before a
            general one. The names come without wrappers such as `module.`, and without `encoder.` if none says
            `decoder`.
        names (sequence of `(str, str)`):
            Patterns and replacements for `re.sub`, applied to each name in order. For names of blocks they only need
            to produce `{encoder}blocks.N.`, where `BLOCK_NAMES` knows the rest. `{encoder}` is `encoder.` if some name
            begins with `decoder`, else empty.
        settings (`Mapping`, *optional*):
            What its records leave open, since its code says it: by the names of the records, else by ours.
        record (`Mapping[str, str]`, *optional*): Option in its records (`config.json`) -> option of ours.
        adapt (`Callable`, *optional*): Changes in the renamed tensors and the record what no rule says.
    """

    model_type: str
    recognised_by: Mapping[str, int | None]
    names: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, str] = field(default_factory=dict)
    adapt: Callable[[dict[str, torch.Tensor], dict[str, Any]], None] | None = None


# How the names of a block begin in Transformers, as files have them or as releases since 5 have them in memory. The
# published `videomae` files call the biases of query and value `q_bias` and `v_bias`.
BLOCK_NAMES = (
    (r"attention\.attention\.(query|key|value)\.", r"attn.\1."),
    (r"attention\.q_proj\.", "attn.query."),
    (r"attention\.k_proj\.", "attn.key."),
    (r"attention\.v_proj\.", "attn.value."),
    (r"attention\.attention\.([qv])_bias$", r"attn.\1_bias"),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"output\.dense\.", "mlp.fc2."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
)
# What other families' records say of an encoder by the names that we have.
_SAME_OF_ENCODER = ("image_mean", "image_size", "image_std", "layer_norm_eps", "num_attention_heads", "num_frames")
OF_ENCODER = {*_SAME_OF_ENCODER, "position_embedding"}
"""Options of ours that a record may set of an encoder alone: the others belong to the parts that are left out."""
_SAME = (*_SAME_OF_ENCODER, "decoder_num_attention_heads", "norm_pix_loss")
_OF_IMAGES = ("reconstruction_target", "mask_type", "teacher_mask_ratio", "pooling")
# What a state dict of Transformers' leaves open and its config says; the official code has 1e-6.
_TRANSFORMERS_SETTINGS = {"layer_norm_eps": 1e-12}
_VIDEOMAE = Family(
    model_type="videomae",
    recognised_by={r"(.*\.)?layer\.0\.attention\.attention\.query\.weight": None},
    names=(
        (r"^videomae\.", ""),
        (r"^(?:encoder\.)?layer\.(?=\d)", "{encoder}blocks."),
        (r"^decoder\.decoder_layers\.", "decoder.blocks."),
        (r"^embeddings\.patch_embeddings\.projection\.", "{encoder}patch_embed.proj."),
        (r"^layernorm\.", "{encoder}norm."),
        (r"^classifier\.", "head."),
    ),
    settings=_TRANSFORMERS_SETTINGS,
    record={name: name for name in (*_SAME, "id2label", "label2id", "problem_type")},
)


def _adapt_mae(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Add what MAE's models have alike and no file says: pre-trained, with a decoder or not, or fine-tuned."""
    if "encoder_to_decoder.weight" in tensors and len(tensors["encoder_to_decoder.weight"]) == 512:
        record.setdefault("decoder_num_attention_heads", 16)  # of all of MAE's models; VideoMAE has 8 at this width
    # A classifier by the class token has a norm in front of its head where one by the mean has `fc_norm`: it gets that
    # name, since a LayerNorm of all tokens gives each the same as of it alone.
    if "head.weight" in tensors and "fc_norm.weight" not in tensors:
        record.setdefault("pooling", "class_token")
        for key in [key for key in tensors if key.startswith("norm.")]:
            tensors[f"fc_{key}"] = tensors.pop(key)
    # A mask for a teacher is our addition: it hides no more than the student's, whatever that is.
    record["teacher_mask_ratio"] = min(record["teacher_mask_ratio"], record["mask_ratio"])


_MAE = Family(
    model_type="vit_mae",
    recognised_by={r"patch_embed\.proj\.weight": 4},  # a 2-D convolution
    names=(
        (r"^decoder_embed\.", "encoder_to_decoder."),
        (r"^decoder_blocks\.", "decoder.blocks."),
        (r"^decoder_norm\.", "decoder.norm."),
        (r"^decoder_pred\.", "decoder.head."),
        (r"^decoder_pos_embed$", "decoder.pos_embed"),
        # All else is the encoder's. (Generators are of AMD's students.)
        (r"^(?!encoder_to_decoder\.|decoder\.|mask_token$|generators\.)", "{encoder}"),
    ),
    settings={
        "num_frames": 1,
        "reconstruction_target": "mae",
        "mask_type": "random",
        "mask_ratio": 0.75,
        "teacher_mask_ratio": 0.5,
    },
    record={name: name for name in (*_SAME, *_OF_IMAGES)} | {"mask_ratio": "student_mask_ratio"},
    adapt=_adapt_mae,
)
_VIT_MAE = replace(
    _MAE,
    recognised_by={r"(vit\.)?embeddings\.cls_token": None, r"(vit\.)?embeddings\.position_embeddings": None},
    names=(  # to the names in MAE's files, and on
        (r"^vit\.", ""),
        (r"^decoder\.(?=decoder_|mask_token)", ""),
        (r"^(?:(?:encoder\.)?layer|layers)\.", "blocks."),
        (r"^decoder_(?:layers|encoder\.layer)\.", "decoder_blocks."),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^layernorm\.", "norm."),
        *_MAE.names,
    ),
    settings={**_MAE.settings, **_TRANSFORMERS_SETTINGS},
)


def _adapt_videomae_v2(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Refuse what its code can do and no published model does."""
    if record.get("cos_attn"):
        raise ValueError("This VideoMAE V2 has cosine attention (`cos_attn`), which no encoder here computes.")


# Folders of the Hub whose code lies beside them. It is not run: the tensors have the official names, inside `model.`.
_VIDEOMAE_V2 = Family(
    model_type="VideoMAEv2",
    recognised_by={r"model\.blocks\.0\.attn\.qkv\.weight": 2},
    names=((r"^model\.", ""),),
    record={name: name for name in ("num_frames", "layer_norm_eps", "image_mean", "image_std")}
    | {"img_size": "image_size", "num_heads": "num_attention_heads"},
    adapt=_adapt_videomae_v2,
)
FAMILIES = [_VIT_MAE, _MAE, _VIDEOMAE, _VIDEOMAE_V2]
"""All families but AMD's and VideoMAE's official files, in the order in which they are tried."""

# ---------------------------------------------------------------------------------------------------------------------
# What cannot be inferred from any tensor
# ---------------------------------------------------------------------------------------------------------------------

# The number of heads cannot be inferred from tensors; every published ViT of these widths has these.
ENCODER_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
# Mean and std of VideoMAE's code for AVA, which count from 0 to 255: no file of it says so.
AVA_STATISTICS = {
    "image_mean": [value / 255 for value in (122.7717, 115.9465, 102.9801)],
    "image_std": [57.375 / 255] * 3,
}
# What the arguments in files of the released scripts are called, and here.
RELEASED_RECORD = {
    "num_frames": "num_frames",
    "input_size": "image_size",
    "mask_ratio": "student_mask_ratio",
    "mask_ratio_teacher": "teacher_mask_ratio",
    "student_layer_direct_align": "student_direct_layers",
    "student_layer_gen_align": "student_generation_layers",
    "teacher_layer_direct_align": "teacher_direct_layers",
    "teacher_layer_gen_align": "teacher_generation_layers",
}
_BY_WIDTH = "what published models of this width have"
_USUAL_CLIP = "VideoMAE's and AMD's"
# Options that cannot be inferred from the tensors of an official file, for every task or for one, with the reason for
# the value that is assumed.
ASSUMED = {
    "num_attention_heads": _BY_WIDTH,
    "layer_norm_eps": "the official code's; Transformers' models have 1e-12",
    "position_embedding": "VideoMAE's and AMD's table, over all tokens in a row; MVD's models have sincos_3d_mvd",
    "image_size": _USUAL_CLIP,
    "num_frames": _USUAL_CLIP,
    "image_mean": "ImageNet's",
    "image_std": "ImageNet's",
}
ASSUMED_OF_TASK = {
    "classification": {"pooling": "the head looks at the mean over all tokens"},
    "pretraining": {
        "decoder_num_attention_heads": _BY_WIDTH,
        "decoder_position_embedding": "as the encoder's",
        "student_mask_ratio": "AMD's",
        "mask_type": "AMD's and VideoMAE's",
        "norm_pix_loss": "AMD's and VideoMAE's",
    },
}
ASSUMED_OF_ALIGNMENT = {
    "student_direct_layers": "AMD's",
    "student_generation_layers": "AMD's",
    "teacher_direct_layers": "AMD's",
    "teacher_generation_layers": "AMD's",
    "teacher_mask_ratio": "AMD's",
}
