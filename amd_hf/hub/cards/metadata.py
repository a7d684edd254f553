"""Checks of a card's metadata that need no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id
from transformers.pipelines import get_supported_tasks


LIBRARY_NAME = "transformers"
TAGS = ("amd", "asymmetric-masked-distillation")


def reported_result(
    value: float,
    metric: str,
    *,
    task: str,
    dataset: tuple[str, str],
    split: str | None,
    source: tuple[str, str] | None,
) -> EvalResult:
    """An entry of a card's `model-index`.

    Args:
        value (`float`): The figure, in percent.
        metric (`str`): Its name, as `"top-1 accuracy"`; what mentions `mAP` is a mean average precision.
        task (`str`): A pipeline's name.
        dataset (`tuple[str, str]`): Id (or plain name) and title.
        split (`str`, *optional*): The split tested.
        source (`tuple[str, str]`, *optional*): Who says so: name and address.
    """
    return EvalResult(
        task_type=task,
        dataset_type=dataset[0],
        dataset_name=dataset[1],
        dataset_split=split,
        metric_type="mean_average_precision" if "mAP" in metric else "accuracy",
        metric_name=f"{metric} (%)",
        metric_value=value,
        source_name=source[0] if source else None,
        source_url=source[1] if source else None,
    )


def hub_id_or_none(source: str | None) -> str | None:
    """The source of a model where it is an id of the Hub, `owner/name`, and no folder or file here."""
    if source is None or source.count("/") != 1 or Path(source).exists():
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def card_problems(card: str | Path) -> list[str]:
    """What is wrong with a card, its text or its file: an empty list for a valid one."""
    text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card
    if REGEX_YAML_BLOCK.search(text) is None:
        return ["it does not start with a metadata block between two lines `---`"]
    try:
        data = ModelCard(text).data
    except (ValueError, TypeError, yaml.YAMLError) as error:
        return [f"its metadata cannot be read: {' '.join(str(error).split())}"]
    return [*_wrong_names(data), *_wrong_base_models(data), *_wrong_results(data)]


def _wrong_names(data: ModelCardData) -> Iterator[str]:
    if data.library_name != LIBRARY_NAME:
        yield f"`library_name` must be {LIBRARY_NAME}, it is {data.library_name!r}"
    if data.pipeline_tag not in get_supported_tasks():
        yield f"`pipeline_tag` {data.pipeline_tag!r} is no pipeline of Transformers"
    if data.license == "other" and not (data.license_name and data.license_link):
        yield "`license: other` needs `license_name` and `license_link`"
    for name in ("tags", "datasets"):
        values = data.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            yield f"`{name}` must be a list of names, it is {values!r}"


def _wrong_base_models(data: ModelCardData) -> Iterator[str]:
    names = data.get("base_model", [])
    for name in [names] if isinstance(names, str) else names:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            yield f"`base_model` {name!r} is no id of the Hub: {error}"


def _wrong_results(data: ModelCardData) -> Iterator[str]:
    for result in data.get("eval_results", []):
        if not isinstance(result.metric_value, int | float):
            yield f"the result {result.metric_name!r} is no number: {result.metric_value!r}"
