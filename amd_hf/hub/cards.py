"""Cards of runs: what a Trainer did and measured, written beside the model it made.

Three parts: text of others inside a card (whatever a name says, it is shown as that text and is no Markdown, HTML or
code), the metadata of cards and their checks, and the card itself.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shlex
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id
from transformers.pipelines import get_supported_tasks
from transformers.trainer_pt_utils import AcceleratorConfig

from ..configuration_amd import AMDConfig
from ..models import read_settings
from ..outputs.figures import plot_losses
from .privacy import is_secret_name, known_secrets, redact, redact_command, redact_values


CARD_NAME = "README.md"
PLOT_NAME = "losses.png"
LIBRARY_NAME = "transformers"
TAGS = ("amd", "asymmetric-masked-distillation")
ARXIV = "2311.03149"
"""The paper."""

NOT_STATED = "not stated"
"""The text of a card for facts that are not stated."""

UNKNOWN_LICENCE = "weights-licence-not-stated"
"""The name of the licence of weights without a stated one."""

TEACHER_LICENCES = {
    "MCG-NJU/videomae-large": "CC-BY-NC 4.0 (its Hub page and the VideoMAE repository)",
    "MCG-NJU/videomae-base": "CC-BY-NC 4.0 (its Hub page and the VideoMAE repository)",
    "facebook/vit-mae-large": "CC-BY-NC 4.0 (facebookresearch/mae), apache-2.0 on the Hub page",
    "OpenGVLab/VideoMAEv2-Base": "CC-BY-NC 4.0 (its Hub page)",
    "OpenGVLab/VideoMAEv2-Huge": "CC-BY-NC 4.0 (its Hub page)",
    "facebook/vjepa2-vitg-fpc64-384": "Apache 2.0 (its Hub page)",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "DINOv3 License, to be accepted on its Hub page",
    "google/siglip-base-patch16-224": "Apache 2.0 (its Hub page)",
}
"""Licences of teachers by their Hub ids, as their pages and repositories state them."""

# What the run sets by itself, or where it was written.
_UNTOLD_ARGUMENTS = {"output_dir", "hub_token", "disable_tqdm", "logging_dir", "run_name", "local_rank"}
_NOTHING: tuple[Any, ...] = (None, False, "", "none", [], {}, ())
_SOURCES = ("model_name_or_path", "init_from")
_VERSIONS = ("amd_hf", "torch", "torchvision", "transformers", "accelerate", "datasets")


# ---------------------------------------------------------------------------------------------------------------------
# Text of others
# ---------------------------------------------------------------------------------------------------------------------


class Markdown(str):
    """Text that is Markdown already: a template takes it as it is."""

    __slots__ = ()


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;"}
# Underscores inside of words mean nothing, and names are full of them; "#" counts only behind a blank or first.
_SIGNS = re.compile(r"[\\`*~\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<!\S)#")
_JOINERS = "\u200c\u200d"  # inside words of some scripts, and of emoji


def escape_markdown(value: Any) -> Markdown:
    """Return a value as text of one line, for running text, list items, headings and cells of tables.

    Characters that cannot be seen (control characters, changes of direction) are written as `\\u202e`, line breaks as
    blanks.
    """
    if isinstance(value, Markdown):
        return value
    text = _SIGNS.sub(r"\\\g<0>", _visible(re.sub(r"\s+", " ", str(value))))
    return Markdown("".join(_ENTITIES.get(letter, letter) for letter in text))


def _visible(text: str) -> str:
    return "".join(
        f"\\u{ord(letter):04x}"
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS
        else letter
        for letter in text
    )


def code_span(value: Any) -> Markdown:
    """Return a name in code type; any other text escaped, since code in a table cannot hold every sign."""
    text = str(value)
    return Markdown(f"`{text}`") if re.fullmatch(r"[\w.+/-]+", text, re.ASCII) else escape_markdown(text)


def code_block(text: str, language: str) -> Markdown:
    """Return a fenced block whose fence is longer than any that the text holds."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def python_string(text: str) -> Markdown:
    """Return a text as a literal of Python, in double quotes, for a block of code."""
    return Markdown(json.dumps(_visible(text), ensure_ascii=False))


def template(text: str) -> jinja2.Template:
    """Return a text as a template; a name that it does not know is an error, not an empty string.

    Whatever stands between its braces is escaped by [`escape_markdown`], but for [`Markdown`].
    """

    def escape(value: Any) -> Any:
        # An undefined name must reach Jinja, which raises.
        return value if isinstance(value, jinja2.Undefined) else escape_markdown(value)

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=escape)
    return environment.from_string(text)


# ---------------------------------------------------------------------------------------------------------------------
# Metadata
# ---------------------------------------------------------------------------------------------------------------------


def reported_result(
    value: float,
    metric: str,
    *,
    task: str,
    dataset: tuple[str, str],
    split: str | None,
    source: tuple[str, str] | None,
) -> EvalResult:
    """Return an entry of a card's `model-index`.

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
    """Return the source of a model where it is an id of the Hub, `owner/name`, and no folder or file here."""
    if source is None or source.count("/") != 1 or Path(source).exists():
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def card_problems(card: str | Path) -> list[str]:
    """List what is wrong with a card, its text or its file: an empty list for a valid one."""
    text = card.read_text(encoding="utf-8") if isinstance(card, Path) else card
    if REGEX_YAML_BLOCK.search(text) is None:
        return ["it does not start with a metadata block between two lines `---`"]
    try:
        data = ModelCard(text).data
    except (ValueError, TypeError, yaml.YAMLError) as error:
        return [f"its metadata cannot be read: {' '.join(str(error).split())}"]
    problems = []
    if data.library_name != LIBRARY_NAME:
        problems.append(f"`library_name` must be {LIBRARY_NAME}, it is {data.library_name!r}")
    if data.pipeline_tag not in get_supported_tasks():
        problems.append(f"`pipeline_tag` {data.pipeline_tag!r} is no pipeline of Transformers")
    if data.license == "other" and not (data.license_name and data.license_link):
        problems.append("`license: other` needs `license_name` and `license_link`")
    for name in ("tags", "datasets"):
        values = data.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            problems.append(f"`{name}` must be a list of names, it is {values!r}")
    base_models = data.get("base_model", [])
    for name in [base_models] if isinstance(base_models, str) else base_models:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            problems.append(f"`base_model` {name!r} is no id of the Hub: {error}")
    return problems + [
        f"the result {result.metric_name!r} is no number: {result.metric_value!r}"
        for result in data.get("eval_results", [])
        if not isinstance(result.metric_value, int | float)
    ]


def is_weights_licence_unknown(card_data: ModelCardData) -> bool:
    """Return whether a card says that the weights have no stated licence, as on the pages of the paper's models."""
    return card_data.get("weights_license") == NOT_STATED or card_data.license_name == UNKNOWN_LICENCE


# ---------------------------------------------------------------------------------------------------------------------
# The card of a run
# ---------------------------------------------------------------------------------------------------------------------


def write_run_card(
    trainer: Any,
    output_dir: str | Path | None = None,
    *,
    options: Sequence[Any] = (),
    test_metrics: Mapping[str, float] | None = None,
    command: Sequence[str] | None = None,
) -> Path:
    """Write the card of a run and, where matplotlib is installed, the picture of its losses.

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
    why_no_plot = None
    if not any("loss" in entry for entry in trainer.state.log_history):
        why_no_plot = "no loss was logged"
    else:
        try:
            plot_losses({"training": trainer.state.log_history}, folder / PLOT_NAME)
        except ImportError:
            why_no_plot = "matplotlib is not installed"
    name = redact(Path(trainer.args.hub_model_id or folder.resolve()).name, secrets)
    shell_command = _shell_command(words, trainer.args.world_size, secrets)
    text = template(files(__package__).joinpath("run_card.md.jinja").read_text(encoding="utf-8")).render(
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
        evaluations = (entry for entry in reversed(self.history) if any(name.startswith("eval_") for name in entry))
        self.evaluation: dict[str, Any] = next(evaluations, {})
        given = dict(self.options)
        # Redacted first: the last part of an address may hold what its rest says of it.
        self.data_name = Path(redact(str(given["data"]), secrets)).name if "data" in given else None
        self.start = next((str(given[name]) for name in _SOURCES if name in given), None)
        teacher = getattr(trainer, "teacher", None)
        self.teacher: str | None = None if teacher is None else str(teacher.source)
        # What was measured on; None where the options do not say.
        self.splits = {part: _measured_split(options, part, secrets) for part in ("test", "eval")}
        self.teacher_description = None if teacher is None else teacher.describe()
        wrapped = trainer.model  # an adapter's wrapper knows the model inside
        self.model = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
        self.is_classifier = hasattr(self.model, "classifier") and self.config.num_labels > 0

    def context(self) -> dict[str, Any]:
        """Return what the template asks for: nothing private, paths shortened, all text escaped but Markdown."""
        results = [(self._metric("test", name), value) for name, value in self.test.items()]
        results += [
            (self._metric("eval", name.removeprefix("eval_")), value)
            for name, value in self.evaluation.items()
            if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second"))
        ]
        counted = []
        parts = ("test", "test", self.test, ""), ("eval", "evaluation", self.evaluation, "eval_")
        for part, title, counts, prefix in parts:
            expected, read = (counts.get(f"{prefix}videos_{name}") for name in ("expected", "read"))
            if expected is not None:
                where = "" if self.splits[part] is None else f" on the split {self.splits[part]}"
                counted.append(
                    f"The {title}{where} counts {_number(expected)} videos, of which {_number(read)} could be read."
                )
        arguments = redact_values([*changed_options(self.args).items(), *self.options], self.secrets)
        versions = [("Python", platform.python_version())]
        for name in _VERSIONS:
            try:
                versions.append((name, version(name)))
            except PackageNotFoundError:
                continue
        context: dict[str, Any] = {
            "arxiv": ARXIV,
            "class_name": type(self.model).__name__,
            "is_classifier": self.is_classifier,
            "results": [{"metric": metric, "value": _number(value)} for metric, value in results],
            "counted": " ".join(counted),
            "data": self._data(),
            "model": self._model(),
            "training": self._training(),
            "arguments": [(code_span(name), value) for name, value in arguments],
            "versions": versions,
            "teacher": self.teacher,
            "teacher_licence": licence_of(self.teacher),
            "start": self.start,
            "start_licence": licence_of(self.start),
        }
        return {name: redact_values(value, self.secrets) for name, value in context.items()}

    def _metric(self, part: str, name: str) -> str:
        """Name a metric: the test's by its split, since `test` says something else where that is `validation`."""
        words, split = name.replace("_", " "), self.splits[part]
        if part == "eval":
            return f"evaluation {words}"
        return f"test {words}" if split is None or split.startswith("test") else f"{split} {words} (final test)"

    def _data(self) -> list[tuple[str, str]]:
        trainer = self.trainer
        evaluated = trainer.eval_dataset
        log = trainer.reading_log
        training = "none"
        if trainer.train_dataset is not None:
            count = trainer.num_train_videos
            training = "not known (a stream)" if count is None else _number(count)
        rows = [
            ("name", self.data_name or "not recorded"),
            ("training videos", training),
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
        # How the model looks at videos, by the processor that is saved beside it.
        views = "not recorded"
        processor = getattr(self.trainer, "processing_class", None)
        if hasattr(processor, "size") and hasattr(processor, "resample"):
            settings = read_settings(processor)
            resized = f"short side {settings.short_side}, {settings.interpolation}"
            views = f"{settings.describe(config.num_frames)}; {resized}"
        return [
            ("class", type(self.model).__name__),
            ("parameters", f"{sum(p.numel() for p in parameters):,}"),
            ("input", f"{config.num_frames} frames of {height} x {width} pixels, {config.num_patches} tokens"),
            ("start", self.start or "not recorded, or new weights"),
            ("teacher", self.teacher_description or "none"),
            ("frames of a clip", views),
            ("options that differ from their defaults", _listed(changed)),
        ]

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
        """Return the card's metadata; the licence is left to the one who publishes."""
        sources = [hub_id for hub_id in map(hub_id_or_none, (self.teacher, self.start)) if hub_id]
        title = self.data_name or "data of the run"
        results = []
        for part, values, prefix in (("test", self.test, ""), ("eval", self.evaluation, "eval_")):
            for metric in ("accuracy", "top5_accuracy", "mAP"):
                value = values.get(f"{prefix}{metric}")
                if value is not None:
                    results.append(
                        reported_result(
                            round(100 * value, 6), self._metric(part, metric), task="video-classification",
                            dataset=(title, title), split=self.splits[part], source=None,
                        )
                    )  # fmt: skip
        return ModelCardData(
            library_name=LIBRARY_NAME,
            pipeline_tag="video-classification" if self.is_classifier else "feature-extraction",
            tags=[*TAGS, "video", "generated-by-amd_hf"],
            base_model=list(dict.fromkeys(sources)) or None,
            model_name=name,
            eval_results=results or None,
        )


def _measured_split(options: Sequence[Any], part: str, secrets: set[str]) -> str | None:
    """Return the split that `test` or `eval` of a run was measured on, as its data arguments name it."""
    for each in options:
        if hasattr(each, "holds_out") and each.holds_out():
            return "validation"  # a fraction of the training videos that was kept apart
        if split := getattr(each, f"{part}_split", None):
            return redact(str(split), secrets)
    return None


def changed_options(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of options that differ from their defaults, as they would stand in a recipe."""
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
    """Return the licence of a model: that of a known teacher, or what its own card states."""
    if source is None:
        return NOT_STATED
    if source in TEACHER_LICENCES:
        return TEACHER_LICENCES[source]
    card = Path(source) / CARD_NAME
    if card.is_file():
        return ModelCard.load(card, ignore_metadata_errors=True).data.get("license") or NOT_STATED
    return NOT_STATED


def _shell_command(words: list[str], num_processes: int, secrets: set[str]) -> str | None:
    """Return how to start the run again from the shell; `None` where it was no program that did."""
    program = Path(words[0]) if words else Path()
    arguments = [redact(word, secrets) for word in words[1:]]
    if program.parts[-3:-1] == ("amd_hf", "cli"):  # `python -m amd_hf.cli.pretrain`, as launchers start it
        command = [program.stem, *arguments]
    elif program.stem == "amd-hf" or program.parts[-2:] == ("amd_hf", "__main__.py"):
        command = arguments
    elif program.suffix == ".py":
        if program.is_absolute():
            inside = program.is_relative_to(Path.cwd())
            program = program.relative_to(Path.cwd()) if inside else Path(program.parent.name, program.name)
        launcher = ["accelerate", "launch", "--num_processes", str(num_processes)] if num_processes > 1 else ["python"]
        return shlex.join([*launcher, redact(str(program), secrets), *arguments])
    else:
        return None
    if num_processes == 1 or not command:
        return shlex.join(["amd-hf", *command])
    launcher = ["accelerate", "launch", "--num_processes", str(num_processes), "-m"]
    return shlex.join([*launcher, f"amd_hf.cli.{command[0]}", *command[1:]])


def _number(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.6g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def _listed(values: Mapping[str, Any]) -> str:
    listed = [f"{code_span(name)} {escape_markdown(redact(_number(value)))}" for name, value in values.items()]
    return Markdown(", ".join(listed) or "none")
