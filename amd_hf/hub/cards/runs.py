"""Cards of one's own runs: what a Trainer did and measured, written beside the model it made."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn
from transformers.trainer_pt_utils import AcceleratorConfig

from ...configuration_amd import AMDConfig
from ...models import read_settings
from ...outputs.figures import plot_losses
from .escaping import Markdown, code_block, code_span, escape_markdown, python_string, read_template
from .metadata import LIBRARY_NAME, TAGS, hub_id_or_none, reported_result
from .privacy import is_secret_name, known_secrets, redact, redact_command, redact_values
from .zoo import NOT_STATED, load_zoo


CARD_NAME = "README.md"
PLOT_NAME = "losses.png"

# What the run sets by itself, or where it was written.
_UNTOLD_ARGUMENTS = {"output_dir", "hub_token", "disable_tqdm", "logging_dir", "run_name", "local_rank"}
_NOTHING: tuple[Any, ...] = (None, False, "", "none", [], {}, ())
_SOURCES = ("model_name_or_path", "init_from")
_VERSIONS = ("amd_hf", "torch", "torchvision", "transformers", "accelerate", "datasets")


def write_run_card(
    trainer: Any,
    output_dir: str | Path | None = None,
    *,
    options: Sequence[Any] = (),
    test_metrics: Mapping[str, float] | None = None,
    command: Sequence[str] | None = None,
) -> Path:
    """Writes the card of a run and, where matplotlib is installed, the picture of its losses.

    Everything on it comes from the Trainer (its log, arguments, model and data) and from what is given here.

    Args:
        trainer (`VideoTrainer`): The Trainer of the run.
        output_dir (`str` or `Path`, *optional*): Folder of the card; the Trainer's own when not given.
        options (`Sequence` of dataclasses, *optional*): Further options of the run, as its data arguments.
        test_metrics (`Mapping[str, float]`, *optional*):
            Metrics of a multi-view test; those of the Trainer's `test_metrics` when not given.
        command (`Sequence[str]`, *optional*): What started the run; `sys.argv` when not given.

    Returns:
        The card.
    """
    folder = Path(trainer.args.output_dir if output_dir is None else output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if test_metrics is None:
        test_metrics = getattr(trainer, "test_metrics", None)
    words, secret_options, secrets = redact_command(sys.argv if command is None else command)
    secrets |= known_secrets()
    facts = _RunFacts(trainer, options, test_metrics or {}, secrets)
    why_no_plot = _draw_losses(trainer.state.log_history, folder / PLOT_NAME)
    name = redact(Path(trainer.args.hub_model_id or folder.resolve()).name, secrets)
    shell_command = _shell_command(words, trainer.args.world_size, secrets)
    text = read_template("run_card.md.jinja").render(
        **facts.context(),
        name=name,
        name_in_python=python_string(name),
        metadata=Markdown(facts.metadata(name).to_yaml()),
        command=None if shell_command is None else code_block(shell_command, "bash"),
        secret_options=Markdown(", ".join(map(code_span, secret_options))),
        plot_name=PLOT_NAME,
        has_plot=why_no_plot is None,
        why_no_plot=why_no_plot,
    )
    card = folder / CARD_NAME
    card.write_text(text, encoding="utf-8")
    return card


class _RunFacts:
    """What a card says of one run; `secrets` are left out of it, with all others that look like some."""

    def __init__(self, trainer: Any, options: Sequence[Any], test_metrics: Mapping[str, float], secrets: set[str]):
        self.secrets = secrets
        self.trainer = trainer
        self.args = trainer.args
        self.config: AMDConfig = trainer.model.config
        self.history = trainer.state.log_history
        self.options = [item for option in options for item in changed_options(option).items()]
        self.test = dict(test_metrics)
        self.evaluation: dict[str, Any] = next(
            (entry for entry in reversed(self.history) if _is_evaluation(entry)), {}
        )
        told = dict(self.options)
        # Redacted first: the last part of an address may hold what its rest says of it.
        self.data_name = Path(redact(str(told["data"]), secrets)).name if "data" in told else None
        self.start = next((str(told[name]) for name in _SOURCES if name in told), None)
        teacher = getattr(trainer, "teacher", None)
        self.teacher: str | None = None if teacher is None else str(teacher.source)
        self.teacher_description = None if teacher is None else teacher.describe()
        self.model = _plain_model(trainer.model)
        self.is_classifier = hasattr(self.model, "classifier") and self.config.num_labels > 0

    def context(self) -> dict[str, Any]:
        """What the template asks for: paths shortened, nothing private, all text escaped but what is Markdown."""
        results = [
            *((f"test {_title(name)}", value) for name, value in self.test.items()),
            *(
                (f"evaluation {_title(name)}", value)
                for name, value in self.evaluation.items()
                if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second"))
            ),
        ]
        context: dict[str, Any] = {
            "arxiv": load_zoo().paper["arxiv"],
            "class_name": type(self.model).__name__,
            "is_classifier": self.is_classifier,
            "results": [{"metric": metric, "value": _number(value)} for metric, value in results],
            "counted": self._counted(),
            "data": self._data(),
            "model": self._model(),
            "training": self._training(),
            "arguments": [(code_span(name), value) for name, value in self._arguments()],
            "versions": _versions(),
            "teacher": self.teacher,
            "teacher_licence": licence_of(self.teacher),
            "start": self.start,
            "start_licence": licence_of(self.start),
        }
        return {name: redact_values(value, self.secrets) for name, value in context.items()}

    def _arguments(self) -> list[tuple[str, Any]]:
        return redact_values([*changed_options(self.args).items(), *self.options], self.secrets)

    def _counted(self) -> str:
        sentences = []
        for title, counts, prefix in (("test", self.test, ""), ("evaluation", self.evaluation, "eval_")):
            expected, read = counts.get(f"{prefix}videos_expected"), counts.get(f"{prefix}videos_read")
            if expected is not None:
                sentences.append(
                    f"The {title} counts {_number(expected)} videos, of which {_number(read)} could be read."
                )
        return " ".join(sentences)

    def _data(self) -> list[tuple[str, str]]:
        trainer = self.trainer
        evaluated = trainer.eval_dataset
        log = trainer.reading_log
        rows = [
            ("name", self.data_name or "not recorded"),
            ("training videos", _count_training_videos(trainer)),
            ("evaluation videos", _number(len(evaluated)) if hasattr(evaluated, "__len__") else "none"),
        ]
        if self.is_classifier:
            rows.append(("classes", _number(self.config.num_labels)))
        tried = f"{log.num_unreadable} of {log.num_tried} tried" if log.num_tried else "not measured"
        return [*rows, ("unreadable in training", tried)]

    def _model(self) -> list[tuple[str, str]]:
        config, parameters = self.config, list(self.model.parameters())
        height, width = config.image_height_width
        defaults = AMDConfig()
        changed = {
            name: getattr(config, name)
            for name in config.__dataclass_fields__
            if hasattr(defaults, name) and name in AMDConfig.__annotations__
            if getattr(config, name) != getattr(defaults, name)
        }
        return [
            ("class", type(self.model).__name__),
            ("parameters", f"{sum(p.numel() for p in parameters):,}"),
            ("input", f"{config.num_frames} frames of {height} x {width} pixels, {config.num_patches} tokens"),
            ("start", self.start or "not recorded, or new weights"),
            ("teacher", self.teacher_description or "none"),
            ("frames of a clip", self._views()),
            ("options that differ from their defaults", _listed(changed)),
        ]

    def _views(self) -> str:
        """How the model looks at videos, by the processor that is saved beside it."""
        processor = getattr(self.trainer, "processing_class", None)
        if not hasattr(processor, "size") or not hasattr(processor, "resample"):
            return "not recorded"
        settings = read_settings(processor)
        resized = f"short side {settings.short_side}, {settings.interpolation}"
        return f"{settings.describe(self.config.num_frames)}; {resized}"

    def _training(self) -> list[tuple[str, str]]:
        args, state = self.args, self.trainer.state
        losses = [entry for entry in self.history if "loss" in entry]
        summary: dict[str, Any] = next((entry for entry in reversed(self.history) if "train_runtime" in entry), {})
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
        clips = f"{args.videos_per_step} videos x {args.num_repetitions} repetitions"
        last = {name: value for name, value in losses[-1].items() if name.startswith("loss")} if losses else {}
        return [
            ("steps", f"{state.global_step} of {state.max_steps}" if state.max_steps > 0 else "none"),
            ("epochs", _number(state.epoch) if state.epoch is not None else "not measured"),
            ("batch", f"{clips} per step, {args.world_size} processes"),
            ("highest learning rate", _number(args.learning_rate)),
            ("precision, device", f"{precision}, {args.device.type}"),
            ("losses at the first log", _number(losses[0]["loss"]) if losses else "not measured"),
            ("losses at the last log", _listed(last) if last else "not measured"),
            ("seconds", _number(summary["train_runtime"]) if summary else "not measured"),
        ]

    def metadata(self, name: str) -> ModelCardData:
        """The card's metadata; the licence is left to the one who publishes."""
        sources = [hub_id for hub_id in map(hub_id_or_none, (self.teacher, self.start)) if hub_id]
        return ModelCardData(
            library_name=LIBRARY_NAME,
            pipeline_tag="video-classification" if self.is_classifier else "feature-extraction",
            tags=[*TAGS, "video", "generated-by-amd_hf"],
            base_model=list(dict.fromkeys(sources)) or None,
            model_name=name,
            eval_results=self._eval_results() or None,
        )

    def _eval_results(self) -> list[EvalResult]:
        title = self.data_name or "data of the run"
        results = []
        for split, values, prefix in (("test", self.test, ""), ("evaluation", self.evaluation, "eval_")):
            for metric in ("accuracy", "top5_accuracy", "mAP"):
                value = values.get(f"{prefix}{metric}")
                if value is not None:
                    results.append(
                        reported_result(
                            round(100 * value, 6), f"{split} {_title(metric)}", task="video-classification",
                            dataset=(title, title), split=split, source=None,
                        )
                    )  # fmt: skip
        return results


def changed_options(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that differ from their defaults, as they would stand in a recipe."""
    values = options.to_dict() if hasattr(options, "to_dict") else dataclasses.asdict(options)
    changed = {}
    for field in dataclasses.fields(options):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = default.value if isinstance(default, Enum) else default
        value = values.get(field.name)
        if field.name in _UNTOLD_ARGUMENTS or value == default or (value in _NOTHING and default in _NOTHING):
            continue
        changed[field.name] = "a secret, left out" if is_secret_name(field.name) else value
    if getattr(options, "accelerator_config", None) == AcceleratorConfig():
        changed.pop("accelerator_config", None)
    if getattr(options, "base_learning_rate", None) is not None:
        changed.pop("learning_rate", None)  # it follows from the base rate
    if getattr(options, "use_cpu", False):
        changed.pop("dataloader_pin_memory", None)  # switched off by itself there
    return changed


def licence_of(source: str | None) -> str:
    """The licence of a model as the zoo's facts or its own card state it."""
    if source is None:
        return NOT_STATED
    for model in load_zoo().models.values():
        if source == model.teacher.hub_id:
            return model.teacher.licence
    card = Path(source) / CARD_NAME
    if card.is_file():
        return ModelCard.load(card, ignore_metadata_errors=True).data.get("license") or NOT_STATED
    return NOT_STATED


def _draw_losses(history: Sequence[Mapping[str, Any]], path: Path) -> str | None:
    """Draws the losses, or says why there is no picture."""
    if not any("loss" in entry for entry in history):
        return "no loss was logged"
    try:
        plot_losses({"training": history}, path)
    except ImportError:
        return "matplotlib is not installed"
    return None


def _shell_command(words: list[str], num_processes: int, secrets: set[str]) -> str | None:
    """How to start the run again from the shell; `None` where it was no program that did."""
    if not words or not words[0].endswith(".py"):
        return None
    program = Path(words[0])
    if program.is_absolute():
        inside = program.is_relative_to(Path.cwd())
        name = str(program.relative_to(Path.cwd())) if inside else f"{program.parent.name}/{program.name}"
        words = [name, *words[1:]]
    launcher = ["accelerate", "launch", "--num_processes", str(num_processes)] if num_processes > 1 else ["python"]
    return shlex.join([*launcher, *(redact(word, secrets) for word in words)])


def _count_training_videos(trainer: Any) -> str:
    if trainer.train_dataset is None:
        return "none"
    return "not known (a stream)" if trainer.num_train_videos is None else _number(trainer.num_train_videos)


def _plain_model(model: nn.Module) -> nn.Module:
    """The model without what wraps it for adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _is_evaluation(entry: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in entry)


def _title(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ")


def _number(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.6g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _listed(values: Mapping[str, Any]) -> str:
    listed = [f"{code_span(name)} {escape_markdown(redact(_number(value)))}" for name, value in values.items()]
    return Markdown(", ".join(listed) or "none")


def _versions() -> list[tuple[str, str]]:
    versions = [("Python", platform.python_version())]
    for name in _VERSIONS:
        try:
            versions.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return versions
