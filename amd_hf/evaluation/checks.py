"""Checks before a test: data and model have the same labels, and the head was trained."""

from __future__ import annotations

import difflib
import re
from typing import Any

from transformers.utils import logging

from ..configuration_amd import AMDConfig
from ..data.datasets.label_names import label_names_of
from ..modeling_amd import AMDForVideoClassification
from ..models import load_trained_classifier


logger = logging.get_logger(__name__)

_NUM_NAMED = 10


def match_labels(rows: Any, config: AMDConfig) -> list[int]:
    """Find the model's class index for each label of a data set, by name.

    Args:
        rows (`datasets.Dataset`): Labelled rows. Where labels have names, `label` is a `ClassLabel`.
        config ([`AMDConfig`]): The model's, with `id2label`.

    Returns:
        `list[int]`: Entry i is the model's index of the data's class i. Labels without names, or of a model without
        names, keep their indices; a warning says so.

    Raises:
        ValueError: If the rows have no labels, a class that the model lacks, or more classes than the model.
    """
    names = label_names_of(rows)
    if len(names) > config.num_labels:
        raise ValueError(
            f"The data has {len(names)} classes, the model only {config.num_labels}: it was trained on other classes."
        )
    model_names = [config.id2label[number] for number in range(config.num_labels)]
    if getattr(rows.features["label"], "names", None) is None:
        if _are_names(model_names):
            logger.warning("The labels of the data are numbers without names: they are taken for those of the model.")
        return list(range(len(names)))
    if not _are_names(model_names):
        if len(names) != config.num_labels:
            raise ValueError(
                f"The data has {len(names)} classes with names, the model {config.num_labels} without: which is which "
                "is unknown. Set `id2label` in the model's config.json, or use a list file with the model's class "
                "indices."
            )
        logger.warning("The model does not name its classes: they are taken to be those of the data, in their order.")
        return list(range(len(names)))
    number_of = {name: number for number, name in enumerate(model_names)}
    unknown = [name for name in names if name not in number_of]
    if unknown:
        raise ValueError(_unknown_message(unknown, names, model_names))
    numbers = [number_of[name] for name in names]
    moved = [name for index, name in enumerate(names) if numbers[index] != index]
    if moved:
        logger.warning(
            f"{len(moved)} of the {len(names)} classes of the data have another number in the model, the first is "
            f"{moved[0]!r} ({names.index(moved[0])} in the data, {number_of[moved[0]]} in the model): labels are "
            "matched by name."
        )
    return numbers


def _are_names(names: list[str]) -> bool:
    """Return whether labels have real names, not placeholders such as `LABEL_3` or the index itself."""
    return not all(re.fullmatch(rf"(LABEL_)?{number}", name) for number, name in enumerate(names))


def _unknown_message(unknown: list[str], names: list[str], model_names: list[str]) -> str:
    listed = ", ".join(map(repr, unknown[:_NUM_NAMED])) + (", ..." if len(unknown) > _NUM_NAMED else "")
    near = difflib.get_close_matches(unknown[0], model_names, n=1)
    hint = f" (it has {near[0]!r})" if near else ""
    return (
        f"{len(unknown)} of the {len(names)} classes of the data are unknown to the model{hint}: {listed}. The "
        f"model has {len(model_names)} classes: {', '.join(map(repr, model_names[:_NUM_NAMED]))}"
        f"{', ...' if len(model_names) > _NUM_NAMED else ''}. Test on data with classes of these names, or give a "
        "list file with the model's numbers."
    )


def check_exclusive_classes(config: AMDConfig, what: str) -> None:
    """Refuse a classifier whose classes do not exclude each other, or whose scores are numbers.

    Args:
        config ([`AMDConfig`]): The classifier's.
        what (`str`): What needs exclusive classes, for the message: a whole clause.

    Raises:
        ValueError: If `config.problem_type` is another than that of one right class per video.
    """
    if config.problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"The model's `problem_type` is {config.problem_type!r}, but {what}. Train and judge such a model with "
            "`transformers.Trainer` and `pipeline`, which heed it (docs/finetuning.md); for one class per video set "
            '`problem_type="single_label_classification"`.'
        )


def check_head_is_trained(model: AMDForVideoClassification, source: str) -> None:
    """Refuse a head whose weights are in the checkpoint but were never trained.

    One step of any optimizer moves the biases of the classifier and of its norm away from 0.

    Args:
        model ([`AMDForVideoClassification`]): The classifier.
        source (`str`): Where it comes from, for the message.

    Raises:
        ValueError: If the head is still as it was initialised.
    """
    # By name: adapters and quantisers may have replaced the layers.
    norm = dict(model.fc_norm.named_parameters())
    biases = [part for name, part in [*norm.items(), *model.classifier.named_parameters()] if name.endswith("bias")]
    scales = [part for name, part in norm.items() if name.endswith("weight")]
    if biases and not any(part.any() for part in biases) and all(bool((part == 1).all()) for part in scales):
        raise ValueError(
            f"The classification head of {source} was never trained: its biases are all 0, as initialised. Fine-tune "
            "the model first; testing random weights is meaningless."
        )


def load_tested_classifier(
    source: str, allow_untrained_head: bool = False, **config_options: Any
) -> AMDForVideoClassification:
    """Load a classifier to test; its head must be trained, unless `allow_untrained_head` is set.

    Args:
        source (`str`): See [`~amd_hf.models.load_trained_classifier`].
        allow_untrained_head (`bool`, *optional*, defaults to `False`): Load it even if its head was never trained.
        **config_options: Options of [`AMDConfig`] that the source does not have.

    Raises:
        ValueError: If there is no head, or it is still as it was initialised.
    """
    model = load_trained_classifier(source, allow_untrained_head, **config_options)
    if not allow_untrained_head:
        check_head_is_trained(model, source)
    return model


__all__ = ["check_exclusive_classes", "check_head_is_trained", "load_tested_classifier", "match_labels"]
