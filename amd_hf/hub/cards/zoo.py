"""The paper's models: what is known of each, read from `zoo.yaml`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import torch
import yaml

from ...configuration_amd import AMDConfig
from ...flops import count_flops
from ...modeling_amd import AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDPreTrainedModel


NOT_STATED = "not stated"
"""What a page says where nobody states a fact."""

CLASSES = {
    "pretraining": "AMDForPreTraining",
    "classification": "AMDForVideoClassification",
    "detection": "AMDForActionDetection",
    "image classification": "AMDForImageClassification",
}


@dataclass(frozen=True)
class ZooDataset:
    """A data set: name (of `view_settings.DATA_SETS`), title, id on the Hub or a plain name, classes, tested split,
    whose settings its recipes take.
    """

    name: str
    title: str
    hub_id: str
    num_labels: int
    split: str | None
    settings_of: str | None


@dataclass(frozen=True)
class ZooTeacher:
    """A teacher: name, id on the Hub where it has one, where to find it, licence, width."""

    title: str
    hub_id: str | None
    where: str
    licence: str
    hidden_size: int


@dataclass(frozen=True, eq=False)  # each is one object of the zoo, compared as such
class ZooModel:
    """One model of the paper; `checkpoint` is the authors' file, `log` that of its training, `results` their figures
    in percent by metric."""

    name: str
    task: str
    size: Mapping[str, Any]
    data: ZooDataset
    teacher: ZooTeacher
    epochs: int
    recipe: str
    checkpoint: str | None
    log: str | None = None
    sampling_rate: int | None = None
    pretrained: str | None = None
    finetuned: str | None = None
    test: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Whether it takes single images instead of clips."""
        return self.sampling_rate is None

    @property
    def class_name(self) -> str:
        """The class that loads it."""
        is_image_classifier = self.is_image and self.task == "classification"
        return CLASSES["image classification" if is_image_classifier else self.task]

    def config(self) -> AMDConfig:
        """Its configuration."""
        options = {name: value for name, value in self.size.items() if name != "title"}
        if self.is_image:
            options |= {"num_frames": 1, "tubelet_size": 1, "position_embedding": "sincos_2d", "use_class_token": True}
        if self.task == "pretraining":
            options["teacher_hidden_size"] = self.teacher.hidden_size
        else:
            options["num_labels"] = self.data.num_labels
        # The way attention is computed changes no count; eager is the one that the meta device knows everywhere.
        return AMDConfig(**options, attn_implementation="eager")


@dataclass(frozen=True)
class Zoo:
    """All models of the paper, by name, and the paper itself."""

    paper: Mapping[str, Any]
    models: Mapping[str, ZooModel]


@functools.cache
def load_zoo() -> Zoo:
    """Reads the facts.

    Raises:
        TypeError, KeyError: If an entry has an unknown field, lacks one, or names what is not there.
    """
    facts = yaml.safe_load(files(__package__).joinpath("zoo.yaml").read_text(encoding="utf-8"))
    datasets = {name: ZooDataset(name=name, **entry) for name, entry in facts["datasets"].items()}
    teachers = {name: ZooTeacher(**entry) for name, entry in facts["teachers"].items()}
    models = {}
    for entry in facts["models"]:
        entry |= {
            "size": facts["sizes"][entry["size"]],
            "data": datasets[entry["data"]],
            "teacher": teachers[entry["teacher"]],
        }
        models[entry["name"]] = ZooModel(**entry)
    return Zoo(facts["paper"], models)


@dataclass(frozen=True)
class ModelSizes:
    """Parameters of the model and of its encoder, and operations of the encoder (or classifier) on one input."""

    parameters: int
    encoder_parameters: int
    flops: int


@functools.cache
def measure(model: ZooModel) -> ModelSizes:
    """Counts a model's parameters and operations; no weights are made, so it takes no memory."""
    config = model.config()
    kinds: dict[str, type[AMDPreTrainedModel]] = {
        "pretraining": AMDForPreTraining,
        "classification": AMDForVideoClassification,
    }
    with torch.device("meta"):
        encoder = AMDModel(config)
        # A detector is an encoder with its final norm and one linear layer.
        head_size = (config.hidden_size + 1) * model.data.num_labels
        whole = kinds[model.task](config) if model.task in kinds else None
    encoder_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    if whole is None:
        return ModelSizes(encoder_parameters + head_size, encoder_parameters, count_flops(encoder))
    measured = encoder if model.task == "pretraining" else whole
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    return ModelSizes(parameters, encoder_parameters, count_flops(measured))
