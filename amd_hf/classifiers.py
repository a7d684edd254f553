"""Classifiers for one's own labels: a new head on a pre-trained encoder, or a trained one, checked before use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .checkpoints.conversion import without_load_report
from .checkpoints.keys import PATCH_EMBEDDING, adapt_input_channels
from .configuration_amd import AMDConfig
from .data.datasets.label_names import label_names_of
from .modeling_amd import AMDForImageClassification, AMDForVideoClassification
from .sources import load_model, load_start


logger = logging.get_logger(__name__)

_CHANNEL_OPTIONS = ("num_channels", "image_mean", "image_std")  # the embedding is adapted after it has been read


def check_labels_fit(rows: Any, config: AMDConfig) -> None:
    """Checks that the labels of a dataset mean to the model what they mean in the data.

    Rows that say nothing of their labels beforehand (a stream of numbers, rows that are no `datasets` object) pass:
    each is looked at when it is read.

    Raises:
        ValueError: If the rows have another number of classes than the model, or classes of other names or order.
    """
    features = getattr(rows, "features", None)
    if not isinstance(features, Mapping) or "label" not in features:
        return
    has_names = getattr(features["label"], "names", None) is not None
    if not has_names and (not hasattr(rows, "__len__") or any(label is None for label in rows["label"])):
        return
    names = label_names_of(rows)
    ours = [config.id2label[number] for number in range(config.num_labels)]
    is_nameless = ours == [f"LABEL_{number}" for number in range(config.num_labels)]
    # Numbers without names may lack the last classes, as a small evaluation set does.
    if len(names) > config.num_labels or (has_names and is_nameless and len(names) != config.num_labels):
        only = "only " if len(names) > config.num_labels else ""
        raise ValueError(
            f"The data has {len(names)} classes, the model {only}{config.num_labels} (`num_labels`): leave the option "
            "out where the model is new, or give the data the names of all classes the model knows (`label_names`)."
        )
    if not has_names:
        return  # there is no name to compare
    if is_nameless:
        logger.warning("The model does not name its classes: they are taken to be those of the data, in their order.")
    elif names != ours:
        number = next(i for i, (one, other) in enumerate(zip([*names, None], ours, strict=False)) if one != other)
        raise ValueError(
            f"The classes of the data are not those of the model: class {number} is "
            f"{repr(names[number]) if number < len(names) else 'missing'} in the data and {ours[number]!r} in the "
            f"model ({len(names)} and {len(ours)} classes). Give the data the model's class folders, all of them, or "
            "a list file with the model's numbers."
        )


def build_classifier(
    source: str | None, label_names: Sequence[str], **config_options: Any
) -> AMDForVideoClassification:
    """A classifier of these labels on a pre-trained encoder: [`AMDForImageClassification`] for clips of one frame.

    Its head is new, unless the source is a classifier of the very same classes, which is then trained on.

    Args:
        source (`str`, *optional*):
            Hub id or folder of an `amd` model or of Transformers' `videomae` or `vit_mae`, pre-trained or a
            classifier, or an official file; `None`: from scratch.
        label_names (`Sequence[str]`): Names of the classes in the order of their numbers.
        **config_options: Options of [`AMDConfig`] that differ from the source's: drop path, but also `num_frames`,
            `image_size` (the position table is computed for the new grid) or `num_channels` (with `image_mean` and
            `image_std`; the patch embedding is adapted).

    Raises:
        ValueError: For fewer than two classes, an unknown option, or options with which the source's weights do not
            fill the encoder.
        OSError: If there is no model at `source`.
    """
    if len(label_names) < 2:
        raise ValueError(f"A classifier needs at least two classes, the data has {list(label_names)}.")
    labels = {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}
    if source is None:
        config = AMDConfig(**config_options, **labels)
        return classifier_class(config)(config)
    # An official file needs to be told what leaves no trace in its tensors.
    told = {name: value for name, value in config_options.items() if name not in _CHANNEL_OPTIONS}
    model = load_start(source, **(told if Path(source).is_file() else {}))
    config = AMDConfig.from_dict({**model.config.to_dict(), **config_options, **labels, "use_final_norm": False})
    # The final norm stays behind: a classifier has none.
    encoder = model.base_model.state_dict()
    state_dict = {f"amd.{name}": value for name, value in encoder.items() if not name.startswith("norm.")}
    if config.num_channels != model.config.num_channels:
        channels = (model.config.num_channels, config.num_channels)
        state_dict[PATCH_EMBEDDING] = adapt_input_channels(state_dict[PATCH_EMBEDDING], *channels)
    keeps_head = isinstance(model, AMDForVideoClassification) and model.config.id2label == labels["id2label"]
    if keeps_head:
        logger.warning(f"{source} is a classifier of the same classes: training goes on from its head.")
        state_dict |= {name: value for name, value in model.state_dict().items() if not name.startswith("amd.")}
    with without_load_report():
        classifier, info = classifier_class(config).from_pretrained(
            None, config=config, state_dict=state_dict, ignore_mismatched_sizes=True, output_loading_info=True
        )
    unfilled = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    unfilled = [name for name in unfilled if not name.startswith(("classifier.", "fc_norm."))]
    if unfilled or info["unexpected_keys"]:
        raise ValueError(
            f"{source} does not fill the encoder: {len(unfilled)} weights are missing or of another size and "
            f"{len(info['unexpected_keys'])} have no place, the first is {[*unfilled, *info['unexpected_keys']][0]}. "
            "Leave out the model options that change its size, or train from scratch."
        )
    return classifier


def classifier_class(config: AMDConfig) -> type[AMDForVideoClassification]:
    """The class of a classifier with this config."""
    return AMDForImageClassification if config.num_frames == 1 else AMDForVideoClassification


def load_trained_classifier(
    source: str, allow_untrained_head: bool = False, **config_options: Any
) -> AMDForVideoClassification:
    """A classifier whose weights are all in the checkpoint.

    Args:
        source (`str`): Hub id or folder of an `amd` or Transformers `videomae` classifier, or an official file.
        allow_untrained_head (`bool`, *optional*, defaults to `False`): Take a new head where there is none.
        **config_options: Options of [`AMDConfig`] that the source does not tell.

    Raises:
        ValueError: If its head was never trained: the checkpoint holds a pre-trained encoder only.
        OSError: If there is no model at `source`.
    """
    model = load_model(source, **config_options)
    report = getattr(model, "conversion_report", None)
    has_head = isinstance(model, AMDForVideoClassification) and not (report and report.new)
    if has_head:
        return model
    if not allow_untrained_head:
        raise ValueError(
            f"{source} is no trained classifier: it holds a pre-trained encoder without a head. Fine-tune it first; "
            "testing a head of random numbers says nothing."
        )
    return build_classifier(source, [str(number) for number in range(model.config.num_labels)], **config_options)


def import_function(name: str) -> Callable:
    """The function that `module:function` names.

    Raises:
        ValueError: If the name has another form or the module has no such function.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise ValueError(f"Name a function as `module:function`, got {name!r}.")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if not callable(function):
        raise ValueError(f"Module {module_name} has no function {function_name!r}.")
    return function
