"""The paper's models: what is known of each, read from `zoo.yaml`, its page, and the table of all of them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData

from amd_hf import AMDConfig, AMDForPreTraining, AMDForVideoClassification, AMDModel
from amd_hf.flops import count_flops
from amd_hf.hub.cards import (
    ARXIV,
    LIBRARY_NAME,
    NOT_STATED,
    TAGS,
    TEACHER_LICENCES,
    UNKNOWN_LICENCE,
    Markdown,
    escape_markdown,
    reported_result,
    template,
)
from amd_hf.modeling_amd import AMDPreTrainedModel


FOLDER = Path(__file__).parent
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
    """Read the facts.

    Raises:
        TypeError, KeyError: If an entry has an unknown field, lacks one, or names what is not there.
    """
    facts = yaml.safe_load((FOLDER / "zoo.yaml").read_text(encoding="utf-8"))
    paper = {**facts["paper"], "arxiv": ARXIV}
    datasets = {name: ZooDataset(name=name, **entry) for name, entry in facts["datasets"].items()}
    # The package knows the licences of teachers that have an id on the Hub: cards of runs name them.
    teachers = {
        name: ZooTeacher(**{"licence": TEACHER_LICENCES.get(entry["hub_id"]), **entry})
        for name, entry in facts["teachers"].items()
    }
    models = {}
    for entry in facts["models"]:
        entry |= {
            "size": facts["sizes"][entry["size"]],
            "data": datasets[entry["data"]],
            "teacher": teachers[entry["teacher"]],
        }
        models[entry["name"]] = ZooModel(**entry)
    return Zoo(paper, models)


@dataclass(frozen=True)
class ModelSizes:
    """Parameters of the model and of its encoder, and operations of the encoder (or classifier) on one input."""

    parameters: int
    encoder_parameters: int
    flops: int


@functools.cache
def measure(model: ZooModel) -> ModelSizes:
    """Count a model's parameters and operations; no weights are made, so it takes no memory."""
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


# ---------------------------------------------------------------------------------------------------------------------
# Pages
# ---------------------------------------------------------------------------------------------------------------------

_COMMANDS = {"pretraining": "pretrain", "classification": "finetune", "detection": "finetune"}


def render_page(model: ZooModel, zoo: Zoo, root: Path, classes: Collection[str]) -> str:
    """Return the page of a model, Markdown with metadata.

    Args:
        model ([`ZooModel`]): Whose page.
        zoo ([`Zoo`]): All models.
        root (`Path`): Folder of the repository: a recipe is named only if it is there.
        classes (`Collection[str]`): Public classes of the package: the page says so where the model's is missing.
    """
    is_image, is_pretraining = model.is_image, model.task == "pretraining"
    trained = {
        "pretraining": f"pre-trained on {model.data.title}",
        "classification": f"fine-tuned on {model.data.title}",
        "detection": f"fine-tuned for action detection on {model.data.title}",
    }[model.task]
    passes = f"{model.epochs} effective epochs" if is_pretraining else f"{model.epochs} epochs"
    if model.data.settings_of and not is_pretraining:
        passes += f", as {model.data.settings_of} published them; the authors state none"
    options = {name: model.size[name] for name in ("hidden_size", "num_attention_heads")}
    options |= {"num_frames": 1, "tubelet_size": 1} if is_image else {}
    context: dict[str, Any] = {
        "model": model,
        "paper": zoo.paper,
        "log": Markdown(model.log or ""),  # these three are Markdown in the file of facts
        "checkpoint": Markdown(model.checkpoint or ""),
        "teacher_where": Markdown(model.teacher.where),
        "metadata": Markdown(_metadata(model, zoo).to_yaml()),
        "size": model.size["title"],
        "input": "images of 224 x 224 pixels" if is_image else "clips of 16 frames of 224 x 224 pixels",
        "input_of": "image" if is_image else "clip",
        "trained": trained,
        "figures": _figures(model, zoo),
        "is_supported": model.class_name in classes and (not is_image or "AMDForImageClassification" in classes),
        "config_options": ", ".join(f"{name}={value}" for name, value in options.items()),
        "has_recipe": (root / model.recipe).is_file(),
        "command": _COMMANDS[model.task],
        "recipe_name": Path(model.recipe).stem,
        "epochs": f"{passes}.",
        "sizes": measure(model),
        "authors": " and ".join(zoo.paper["authors"].split(", ")),
    }
    return template((FOLDER / "zoo_page.md.jinja").read_text(encoding="utf-8")).render(context)


def _figures(model: ZooModel, zoo: Zoo) -> list[dict[str, Any]]:
    """Rows of the results: a pre-trained model has those of the model that was fine-tuned from it."""
    tested = zoo.models[model.finetuned] if model.finetuned else model
    views = f"{tested.test['num_segments']} x {tested.test['num_crops']}"
    return [
        {"data": tested.data.title, "metric": metric, "value": value, "views": views}
        for metric, value in tested.results.items()
    ]


def _metadata(model: ZooModel, zoo: Zoo) -> ModelCardData:
    medium = "image" if model.is_image else "video"
    task = f"{medium}-classification"
    tags = [*TAGS, medium, "masked-autoencoder", "distillation", f"arxiv:{zoo.paper['arxiv']}"]
    if model.task == "detection":
        tags.append("action-detection")
    return ModelCardData(
        library_name=LIBRARY_NAME,
        pipeline_tag=_pipeline_tag(model),
        tags=tags,
        datasets=_dataset_ids(model, zoo),
        base_model=model.teacher.hub_id,
        license="other",
        license_name=UNKNOWN_LICENCE,
        license_link=zoo.paper["repository"],
        model_name=model.name,
        eval_results=_eval_results(model, zoo, task),
        code_license="apache-2.0",
        weights_license=zoo.paper["weights_licence"] or NOT_STATED,
    )


def _dataset_ids(model: ZooModel, zoo: Zoo) -> list[str]:
    """The data that it learnt from, that of its pre-training first."""
    start = zoo.models[model.pretrained].data if model.pretrained else model.data
    return list(dict.fromkeys([start.hub_id, model.data.hub_id]))


def _pipeline_tag(model: ZooModel) -> str:
    if model.task == "pretraining":
        return "image-feature-extraction" if model.is_image else "feature-extraction"
    return "image-classification" if model.is_image else "video-classification"


def _eval_results(model: ZooModel, zoo: Zoo, task: str) -> list[EvalResult]:
    tested = zoo.models[model.finetuned] if model.finetuned else model
    suffix = " after fine-tuning" if model.finetuned else ""
    source = ("Reported by the authors", f"https://arxiv.org/abs/{zoo.paper['arxiv']}")
    dataset = (tested.data.hub_id, tested.data.title)
    return [
        reported_result(value, f"{metric}{suffix}", task=task, dataset=dataset, split=tested.data.split, source=source)
        for metric, value in tested.results.items()
    ]


def model_table(zoo: Zoo, root: Path) -> str:
    """Return the table of docs/models.md: every model, its data, checkpoint, reported figure, recipe and page."""
    lines = [
        "| model | data | checkpoint | reported by the authors | recipe | page |",
        "|---|---|---|---|---|---|",
    ]
    for model in zoo.models.values():
        checkpoint = f"[authors' file]({model.checkpoint})" if model.checkpoint else "not published"
        checkpoint += f", [log]({model.log})" if model.log else ""
        figures = [f"{metric} {value}" for metric, value in model.results.items()]
        recipe = f"[{Path(model.recipe).name}](../{model.recipe})" if (root / model.recipe).is_file() else "not yet"
        task = "pre-trained" if model.task == "pretraining" else "fine-tuned"
        cells = (
            escape_markdown(f"{model.size['title']}, {task}"),
            escape_markdown(model.data.title),
            checkpoint,
            escape_markdown(", ".join(figures) or "see fine-tuned"),
            recipe,
            f"[{model.name}](../model_cards/{model.name}.md)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
