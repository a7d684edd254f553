"""Pages of the paper's model zoo and the table of its models, rendered from `zoo.yaml`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .escaping import Markdown, escape_markdown, read_template
from .metadata import LIBRARY_NAME, TAGS, reported_result
from .zoo import NOT_STATED, Zoo, ZooModel, measure


_PROGRAMS = {
    "pretraining": "scripts/pretrain.py",
    "classification": "scripts/finetune.py",
    "detection": "scripts/finetune.py",
}
_LICENCE_NAME = "weights-licence-not-stated"


def render_page(model: ZooModel, zoo: Zoo, root: Path, classes: Collection[str]) -> str:
    """The page of a model, Markdown with metadata.

    Args:
        model ([`ZooModel`]): Whose page.
        zoo ([`Zoo`]): All models.
        root (`Path`): Folder of the repository: a recipe or a program is named only if it is there.
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
    program = _PROGRAMS[model.task]
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
        "config_options": ", ".join(f"{name}={value}" for name, value in _encoder_options(model).items()),
        "has_recipe": (root / model.recipe).is_file(),
        "program": program if (root / program).is_file() else None,
        "epochs": f"{passes}.",
        "sizes": measure(model),
        "authors": " and ".join(zoo.paper["authors"].split(", ")),
    }
    return read_template("zoo_page.md.jinja").render(context)


def _encoder_options(model: ZooModel) -> dict[str, int]:
    options = {name: model.size[name] for name in ("hidden_size", "num_attention_heads")}
    return options | ({"num_frames": 1, "tubelet_size": 1} if model.is_image else {})


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
        license_name=_LICENCE_NAME,
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


def is_weights_licence_unknown(card_data: ModelCardData) -> bool:
    """Whether a card says that nobody stated the licence of the weights, as the pages of the zoo do."""
    return card_data.get("weights_license") == NOT_STATED or card_data.license_name == _LICENCE_NAME


def model_table(zoo: Zoo, root: Path) -> str:
    """The README's table: every model, its data, checkpoint, reported figure, recipe and page."""
    lines = [
        "| model | data | checkpoint | reported by the authors | recipe | page |",
        "|---|---|---|---|---|---|",
    ]
    for model in zoo.models.values():
        checkpoint = f"[authors' file]({model.checkpoint})" if model.checkpoint else "not published"
        checkpoint += f", [log]({model.log})" if model.log else ""
        figures = [f"{metric} {value}" for metric, value in model.results.items()]
        recipe = f"[{Path(model.recipe).name}]({model.recipe})" if (root / model.recipe).is_file() else "not yet"
        task = "pre-trained" if model.task == "pretraining" else "fine-tuned"
        cells = (
            escape_markdown(f"{model.size['title']}, {task}"),
            escape_markdown(model.data.title),
            checkpoint,
            escape_markdown(", ".join(figures) or "see fine-tuned"),
            recipe,
            f"[{model.name}](model_cards/{model.name}.md)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
