# Copyright 2026 The amd_hf contributors. Licensed under the Apache License, Version 2.0, which you find at
# http://www.apache.org/licenses/LICENSE-2.0
# This file is of amd_hf 0.1.0.dev0. It travels with saved models, as remote code for those who have no amd_hf.
"""Configuration of AMD models: encoder, pixel decoder, alignment modules and heads in one flat config.

This file is self-contained on purpose: it travels with published checkpoints as Hub remote code.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)

AMD_HF_VERSION = "0.1.0.dev0"
"""The release that this code is of: `__version__` of the package, which does not travel. Saved as `amd_hf_version`."""

# Left over by `PreTrainedConfig` and by `from_pretrained`; everything else unknown is a misspelt option.
_ALLOWED_EXTRA_KEYS = {
    "amd_hf_version",
    "model_type",
    "num_labels",
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "torch_dtype",
    "transformers_version",
    "output_attentions",
    "custom_pipelines",
    "use_cache",
}


# Where the Auto classes find the code in a saved folder. All of them in every folder: a pre-training checkpoint is
# loaded as an encoder or a classifier too.
_AUTO_MAP = {
    "AutoConfig": "configuration_amd.AMDConfig",
    "AutoModel": "modeling_amd.AMDModel",
    "AutoModelForPreTraining": "modeling_amd.AMDForPreTraining",
    "AutoModelForVideoClassification": "modeling_amd.AMDForVideoClassification",
    "AutoModelForImageClassification": "modeling_amd.AMDForImageClassification",
}
OUR_CODE = {**_AUTO_MAP, "AMDForActionDetection": "modeling_amd_detection.AMDForActionDetection"}
CODE_KEYS = ("auto_map", "custom_pipelines")  # what a reader with `trust_remote_code=True` runs


def _without_code(value: Any) -> Any:
    """Return settings in which nothing names code, at whatever depth."""
    if isinstance(value, dict):
        return {key: _without_code(item) for key, item in value.items() if key not in CODE_KEYS}
    return [_without_code(item) for item in value] if isinstance(value, list) else value


_LAYER_LISTS = (
    "student_direct_layers",
    "student_generation_layers",
    "teacher_direct_layers",
    "teacher_generation_layers",
)


@strict
class AMDConfig(PreTrainedConfig):
    r"""Configuration of every `AMD...` model. Defaults are the paper's ViT-S student.

    Args:
        image_size (`int` or `list[int]`, *optional*, defaults to 224):
            Height and width of a frame in pixels; a pair is (height, width).
        patch_size (`int`, *optional*, defaults to 16): Side of a square patch in pixels.
        num_frames (`int`, *optional*, defaults to 16): Frames in a clip.
        tubelet_size (`int`, *optional*, defaults to 2): Frames in a patch.
        num_channels (`int`, *optional*, defaults to 3): Channels of a frame.
        hidden_size (`int`, *optional*, defaults to 384): Width of the encoder.
        num_hidden_layers (`int`, *optional*, defaults to 12): Blocks of the encoder.
        num_attention_heads (`int`, *optional*, defaults to 6): Heads of the encoder's attention.
        intermediate_size (`int`, *optional*): Width of the encoder's MLP; 4 x `hidden_size` when not given.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Stochastic depth of the last encoder block; it grows linearly from 0 at the first.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6): Epsilon of every LayerNorm.
        use_final_norm (`bool`, *optional*, defaults to `True`):
            Whether the encoder ends in a LayerNorm: pre-training and detection. Classifiers switch it off.
        position_embedding (`str`, *optional*, defaults to `"sincos_1d"`):
            Position table of the encoder: `"sincos_1d"`, VideoMAE's, over all tokens; `"sincos_2d"`, MAE's, over rows
            and columns (of one frame); `"sincos_3d"`, V-JEPA's, over time, rows and columns, with which small models
            learn in a third of the steps (`docs/evidence.md`); `"sincos_3d_mvd"`, MVD's; or `"stored"` with the
            weights. None is learned.
        use_class_token (`bool`, *optional*, defaults to `False`):
            Whether a class token stands in front of the patch tokens, as in image models. It takes part in attention
            and is left out of alignment.
        initializer_range (`float`, *optional*, defaults to 0.02): Std of the truncated normal initialisation.
        decoder_hidden_size (`int`, *optional*, defaults to 192): Width of the pixel decoder.
        decoder_num_hidden_layers (`int`, *optional*, defaults to 4): Blocks of the pixel decoder.
        decoder_num_attention_heads (`int`, *optional*, defaults to 3): Heads of the pixel decoder.
        decoder_position_embedding (*optional*, defaults to `"sincos_1d"`):
            Position table of the decoder, as `position_embedding`.
        use_decoder_class_token (`bool`, *optional*, defaults to `False`):
            Whether the encoder's class token goes through the decoder too, as in MAE.
        decoder_embed_bias (`bool`, *optional*, defaults to `False`):
            Whether the map from the encoder's width to the decoder's has a bias, as in MAE.
        teacher_hidden_size (`int`, *optional*):
            Width of the teacher. `None` builds no alignment modules (plain masked-autoencoder pre-training).
        generator_num_hidden_layers (`int`, *optional*, defaults to 2): Blocks of each generator.
        generator_num_attention_heads (`int`, *optional*):
            Heads of each generator; heads of size 64 when not given (paper, section 3.3).
        student_direct_layers, teacher_direct_layers (`list[int]`, *optional*, default to [6, 12] and [12, 24]):
            Layers compared on the tokens both models see. Layers count from 1.
        student_generation_layers, teacher_generation_layers (`list[int]`, *optional*):
            As above ([6, 12] and [12, 24]): layers compared on the tokens only the teacher sees.
        alignment_mode (`"serial"` or `"parallel"`, *optional*, defaults to `"serial"`):
            Whether generation starts from the features that are aligned directly, as in AMD, or from projections of
            its own, so that the two losses share no more than the encoder (the paper's ablation).
        mask_type (`"tube"` or `"random"`, *optional*, defaults to `"tube"`):
            `"tube"` hides the same patches in every frame, `"random"` draws over all tokens.
        student_mask_ratio (`float`, *optional*, defaults to 0.9): Fraction of the tokens hidden from the student.
        teacher_mask_ratio (`float`, *optional*, defaults to 0.75): Fraction of the tokens hidden from the teacher;
            all of them are hidden from the student too.
        norm_pix_loss (`bool`, *optional*, defaults to `True`):
            Whether the reconstruction target is normalised patch by patch.
        reconstruction_target (`"videomae"` or `"mae"`, *optional*, defaults to `"videomae"`):
            Pixels in [0, 1], normalised channel by channel, or normalised pixels, normalised over all channels
            together: see [`AMDForPreTraining.reconstruction_target`].
        image_mean, image_std (`list[float]`, *optional*, default to ImageNet's):
            Mean and std of the input, in units of [0, 1], one per channel.
        pooling (`"mean"` or `"class_token"`, *optional*, defaults to `"mean"`):
            What classifiers look at: the mean of the patch tokens, or the class token.
        head_dropout (`float`, *optional*, defaults to 0.0): Dropout in front of the classification head.
        classifier_init_scale (`float`, *optional*, defaults to 0.001): Factor on the initial weights of that head.
        problem_type (`str`, *optional*):
            Transformers' own option, which says what a classifier's labels are: `"single_label_classification"` (what
            `None` means with several labels), `"multi_label_classification"` or `"regression"` (what it means with
            `num_labels=1`). `pipeline` reads it too.

    Raises:
        ValueError: For an unknown option, sizes that do not divide, layer lists that do not fit, or mask ratios
            outside 0 <= teacher <= student < 1.

    Example:

    ```python
    >>> from amd_hf import AMDConfig, AMDModel

    >>> config = AMDConfig(hidden_size=768, num_attention_heads=12)  # ViT-B
    >>> model = AMDModel(config)
    ```"""

    model_type = "amd"
    _auto_class = "AutoConfig"  # `save_pretrained` writes this file beside the config, for use as remote code

    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int = 16
    num_frames: int = 16
    tubelet_size: int = 2
    num_channels: int = 3
    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    intermediate_size: int | None = None
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    use_final_norm: bool = True
    position_embedding: Literal["sincos_1d", "sincos_2d", "sincos_3d", "sincos_3d_mvd", "stored"] = "sincos_1d"
    use_class_token: bool = False
    initializer_range: float = 0.02
    decoder_hidden_size: int = 192
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 3
    decoder_position_embedding: Literal["sincos_1d", "sincos_2d", "sincos_3d", "sincos_3d_mvd", "stored"] = "sincos_1d"
    use_decoder_class_token: bool = False
    decoder_embed_bias: bool = False
    teacher_hidden_size: int | None = None
    generator_num_hidden_layers: int = 2
    generator_num_attention_heads: int | None = None
    student_direct_layers: list[int] | tuple[int, ...] = (6, 12)
    student_generation_layers: list[int] | tuple[int, ...] = (6, 12)
    teacher_direct_layers: list[int] | tuple[int, ...] = (12, 24)
    teacher_generation_layers: list[int] | tuple[int, ...] = (12, 24)
    alignment_mode: Literal["serial", "parallel"] = "serial"
    mask_type: Literal["tube", "random"] = "tube"
    student_mask_ratio: float | int = 0.9
    teacher_mask_ratio: float | int = 0.75
    norm_pix_loss: bool = True
    reconstruction_target: Literal["videomae", "mae"] = "videomae"
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    pooling: Literal["mean", "class_token"] = "mean"
    head_dropout: float | int = 0.0
    classifier_init_scale: float | int = 0.001

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_unknown(kwargs)
        for name in ("image_size", "image_mean", "image_std", *_LAYER_LISTS):
            value = getattr(self, name)
            if isinstance(value, tuple):  # JSON has lists only: keep one type before and after saving
                setattr(self, name, list(value))
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        # Checked here and not in `validate_...` methods, whose errors reach the user as another type than ValueError.
        self._check_geometry()
        self._check_widths()
        self._check_positions()
        self._check_layers()
        if not 0 <= self.teacher_mask_ratio <= self.student_mask_ratio < 1:
            raise ValueError(
                "Mask ratios must satisfy 0 <= `teacher_mask_ratio` <= `student_mask_ratio` < 1 (the teacher sees "
                f"more than the student), got teacher {self.teacher_mask_ratio} and student {self.student_mask_ratio}."
            )
        # Only our code is named, whatever the file said that this config was read from: a model that was fine-tuned
        # from somebody's folder must not send its readers to that folder's code. A class of one's own that registers
        # itself (`register_for_auto_class`) is entered when it is saved.
        named = kwargs.get("auto_map")
        named = named.items() if isinstance(named, dict) else ()
        ours = {key: name for key, name in named if OUR_CODE.get(key) == name}
        kwargs = {**_without_code(kwargs), "auto_map": {**_AUTO_MAP, **ours}}
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a config from the content of a file, as `from_pretrained` does.

        Keys that this release does not know are kept as attributes, and saved again, with one warning: later releases
        and other tools write some. Where people type an option, in `AMDConfig(...)`, such a key is an error.
        """
        known = {*cls.__dataclass_fields__, *_ALLOWED_EXTRA_KEYS}
        # Arguments that override the file: others than options are the library's own, or handed back to who asked.
        likely = (key for key in kwargs if difflib.get_close_matches(key, cls.__dataclass_fields__, n=1, cutoff=0.8))
        if not kwargs.get("return_unused_kwargs"):
            cls._refuse_unknown(likely)
        unknown = {name: value for name, value in config_dict.items() if name not in known}
        loaded = super().from_dict({key: config_dict[key] for key in config_dict if key not in unknown}, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded  # a pair where unused arguments are asked for
        for name, value in _without_code(unknown).items():
            setattr(config, name, value)
        if unknown:
            logger.warning_once(
                f"The config holds key(s) that this release of amd_hf does not know and does not use: "
                f"{cls._with_hints(unknown)}. Was the file edited by hand, or made by a later release?"
            )
        return loaded

    def to_dict(self) -> dict[str, Any]:
        """Return all options, and the release of the code that wrote them (`amd_hf_version`)."""
        return {**super().to_dict(), "amd_hf_version": AMD_HF_VERSION}

    def with_options(self, **options: Any) -> "AMDConfig":
        """Return a config that differs from this one in some options, which are checked as in `AMDConfig(...)`.

        Raises:
            ValueError: If there is no such option, or a value does not fit.
        """
        self._refuse_unknown(options)
        return AMDConfig.from_dict({**self.to_dict(), **options})

    @classmethod
    def _refuse_unknown(cls, options: Iterable[str]) -> None:
        if unknown := [key for key in options if key not in {*cls.__dataclass_fields__, *_ALLOWED_EXTRA_KEYS}]:
            raise ValueError(f"AMDConfig got unknown option(s): {cls._with_hints(unknown)}.")

    @classmethod
    def _with_hints(cls, unknown: Iterable[str]) -> str:
        """Name unknown options, each with the known one that it resembles."""
        known = list(cls.__dataclass_fields__)
        hints = []
        for key in unknown:
            match = difflib.get_close_matches(key, known, n=1)
            hints.append(f"`{key}`" + (f" (did you mean `{match[0]}`?)" if match else ""))
        return ", ".join(hints)

    def _check_geometry(self) -> None:
        for name in ("patch_size", "num_frames", "tubelet_size", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError(f"`image_size` must be one number or (height, width), got {self.image_size}.")
        for size in self.image_height_width:
            if size < 1 or size % self.patch_size:
                raise ValueError(
                    f"`image_size` {self.image_size} must be a multiple of `patch_size` {self.patch_size}."
                )
        if self.num_frames % self.tubelet_size:
            raise ValueError(
                f"`num_frames` {self.num_frames} must be a multiple of `tubelet_size` {self.tubelet_size}."
            )
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != self.num_channels:
                raise ValueError(
                    f"`{name}` must have one number per channel: got {len(getattr(self, name))}"
                    f" for `num_channels` {self.num_channels}."
                )
        if min(self.image_std) <= 0:
            raise ValueError(f"`image_std` must be positive, got {self.image_std}.")

    def _check_widths(self) -> None:
        pairs = [("hidden_size", "num_attention_heads"), ("decoder_hidden_size", "decoder_num_attention_heads")]
        for width_name, heads_name in pairs:
            width, heads = getattr(self, width_name), getattr(self, heads_name)
            if width < 2 or width % 2:
                raise ValueError(f"`{width_name}` must be even and positive (sine-cosine positions), got {width}.")
            if heads < 1 or width % heads:
                raise ValueError(f"`{width_name}` {width} must be a multiple of `{heads_name}` {heads}.")
        for name in ("num_hidden_layers", "intermediate_size", "teacher_hidden_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.teacher_hidden_size is not None and self.teacher_hidden_size % self.generator_heads:
            raise ValueError(
                f"`teacher_hidden_size` {self.teacher_hidden_size} must be a multiple of the generators' heads "
                f"({self.generator_heads}); give `generator_num_attention_heads`."
            )
        if not 0 <= self.drop_path_rate < 1 or not 0 <= self.head_dropout < 1:
            raise ValueError(
                f"`drop_path_rate` {self.drop_path_rate} and `head_dropout` {self.head_dropout} must be in [0, 1)."
            )

    def _check_positions(self) -> None:
        tables = [("position_embedding", "hidden_size"), ("decoder_position_embedding", "decoder_hidden_size")]
        if self.teacher_hidden_size is not None:
            tables.append(("position_embedding", "teacher_hidden_size"))
        for name, width_name in tables:
            kind, width = getattr(self, name), getattr(self, width_name)
            if kind == "sincos_2d" and self.grid_size[0] != 1:
                raise ValueError(f"`{name}` 'sincos_2d' is for one frame, but a clip has {self.grid_size[0]} in time.")
            multiple = {"sincos_2d": 4, "sincos_3d": 8, "sincos_3d_mvd": 16}.get(kind, 1)
            if width % multiple:
                raise ValueError(
                    f"`{name}` {kind!r} needs `{width_name}` to be a multiple of {multiple}, got {width}."
                )
        for name in ("use_decoder_class_token", "pooling"):
            if getattr(self, name) in (True, "class_token") and not self.use_class_token:
                raise ValueError(f"`{name}` {getattr(self, name)!r} needs `use_class_token`.")

    def _check_layers(self) -> None:
        for name in _LAYER_LISTS:
            layers = getattr(self, name)
            if any(layer < 1 for layer in layers) or any(b <= a for a, b in zip(layers, layers[1:], strict=False)):
                raise ValueError(f"`{name}` must count from 1 and be strictly increasing, got {layers}.")
        for kind in ("direct", "generation"):
            student, teacher = getattr(self, f"student_{kind}_layers"), getattr(self, f"teacher_{kind}_layers")
            if len(student) != len(teacher):
                raise ValueError(
                    f"`student_{kind}_layers` {student} and `teacher_{kind}_layers` {teacher} must be equally long."
                )
            if self.teacher_hidden_size is not None and student and student[-1] > self.num_hidden_layers:
                raise ValueError(
                    f"`student_{kind}_layers` {student} go beyond `num_hidden_layers` {self.num_hidden_layers}."
                )

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size[0], self.image_size[1]

    @property
    def grid_size(self) -> tuple[int, int, int]:
        """Tokens along time, rows and columns."""
        height, width = self.image_height_width
        return self.num_frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """Tokens of a clip."""
        time, rows, columns = self.grid_size
        return time * rows * columns

    @property
    def patch_dim(self) -> int:
        """Numbers in a patch, flattened as (frame, row, column, channel)."""
        return self.tubelet_size * self.patch_size**2 * self.num_channels

    @property
    def generator_heads(self) -> int:
        """Attention heads of each generator."""
        if self.generator_num_attention_heads is not None:
            return self.generator_num_attention_heads
        return max(1, (self.teacher_hidden_size or 64) // 64)

    def num_masked_patches(self, ratio: float) -> int:
        """Return how many tokens a mask of this ratio hides in a clip (`mask_type` decides what is rounded)."""
        time, rows, columns = self.grid_size
        if self.mask_type == "tube":
            return int(ratio * rows * columns) * time
        return int(ratio * self.num_patches)


__all__ = ["AMDConfig"]
