"""Write the API reference, docs/api/, from the docstrings of the package's public names.

python tools/make_api_reference.py
python tools/make_api_reference.py --check
"""

from __future__ import annotations

import argparse
import ast
import logging
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import griffe


ROOT = Path(__file__).resolve().parents[1]
FOLDER = "docs/api"
_NO_RESULT = {"None", "Any"}  # annotations that tell a reader nothing


@dataclass(frozen=True)
class Page:
    """A page of the reference: its title, what it holds in a sentence, and the public names on it."""

    title: str
    about: str
    names: tuple[str, ...]


# Names as they are imported; every one of `amd_hf.__all__` stands here (a test compares).
PAGES = {
    "models": Page(
        "Models",
        "The config, the models and the processor. `import amd_hf` tells Transformers' Auto classes of them.",
        (
            "amd_hf.AMDConfig",
            "amd_hf.AMDModel",
            "amd_hf.AMDForPreTraining",
            "amd_hf.AMDForVideoClassification",
            "amd_hf.AMDForImageClassification",
            "amd_hf.AMDForActionDetection",
            "amd_hf.AMDVideoProcessor",
            "amd_hf.modeling_amd.AMDModelOutput",
            "amd_hf.modeling_amd.AMDForPreTrainingOutput",
            "amd_hf.modeling_amd_detection.AMDActionDetectionOutput",
            "amd_hf.optimize_for_cpu",
        ),
    ),
    "training": Page(
        "Training",
        "Trainers and their arguments. All are Transformers' `Trainer` and `TrainingArguments` with more.",
        (
            "amd_hf.AMDTrainer",
            "amd_hf.AMDTrainingArguments",
            "amd_hf.AMDFineTuningTrainer",
            "amd_hf.AMDFineTuningArguments",
            "amd_hf.AMDDetectionTrainer",
            "amd_hf.AMDDetectionArguments",
            "amd_hf.training.arguments.VideoTrainingArguments",
        ),
    ),
    "checkpoints": Page(
        "Teachers and checkpoints",
        "Files of others as models of this package, and back.",
        ("amd_hf.load_teacher", "amd_hf.convert_checkpoint", "amd_hf.export_checkpoint", "amd_hf.export_model"),
    ),
    "data": Page(
        "Data",
        "Datasets of videos and images, and the one way of reading a video.",
        (
            "amd_hf.load_video_dataset",
            "amd_hf.load_image_dataset",
            "amd_hf.load_action_dataset",
            "amd_hf.data.open_video",
            "amd_hf.data.evaluation_views",
        ),
    ),
    "detection": Page(
        "Action detection",
        "Boxes and the metric of AVA; the model and its trainer stand on the pages before.",
        ("amd_hf.detection.extend_boxes", "amd_hf.detection.score_submission"),
    ),
}


def main(argv: Sequence[str] | None = None) -> list[Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the repository")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page would change")
    options = parser.parse_args(argv)
    texts = {options.root / FOLDER / name: text for name, text in pages(options.root).items()}
    changed = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    if options.check and changed:
        names = ", ".join(path.name for path in changed)
        raise SystemExit(f"Not up to date: {names}. Run `python tools/make_api_reference.py`.")
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path])
        print(f"written: {path.relative_to(options.root)}")
    return changed


def pages(root: Path) -> dict[str, str]:
    """The text of every page by its file's name. The source is read, not imported.

    Raises:
        KeyError: If a public name is not in the package.
        ValueError: If one has no docstring.
    """
    logging.getLogger("griffe").setLevel(logging.ERROR)  # it warns where one line describes two arguments
    package = griffe.load("amd_hf", search_paths=[root], try_relative_path=False, allow_inspection=False)
    objects = {name: _find(package, name) for page in PAGES.values() for name in page.names}
    places = {name.rpartition(".")[2]: f"{file}.md" for file, page in PAGES.items() for name in page.names}
    texts = {"README.md": _index(objects)}
    for file, page in PAGES.items():
        sections = [_section(name, objects[name]) for name in page.names]
        text = "\n\n".join([f"# {page.title}", page.about, *sections])
        texts[f"{file}.md"] = f"{_with_links(text, places, f'{file}.md')}\n"
    return texts


def _find(package: griffe.Module, name: str) -> griffe.Object:
    """The definition behind a public name, wherever the lazy tables of `__init__` files take it from."""
    found: griffe.Object | griffe.Alias = package
    for part in name.split(".")[1:]:
        found = found[part]
    definition = found.final_target if isinstance(found, griffe.Alias) else found
    if definition.docstring is None:
        raise ValueError(f"{definition.path} has no docstring.")
    return definition


def _index(objects: dict[str, griffe.Object]) -> str:
    lines = [
        "# API reference",
        "",
        "Made from the docstrings by `python tools/make_api_reference.py`. Names that are not listed may change.",
    ]
    for file, page in PAGES.items():
        lines += ["", f"## [{page.title}]({file}.md)", "", page.about, "", "| name | |", "|---|---|"]
        for name in page.names:
            first = _inline(str(objects[name].docstring.value).split("\n\n")[0])  # type: ignore[union-attr]
            lines.append(f"| [`{name}`]({file}.md#{_anchor(name)}) | {_plain(first)} |")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# One name
# ---------------------------------------------------------------------------------------------------------------------


def _section(name: str, definition: griffe.Object) -> str:
    module, _, last = name.rpartition(".")
    lead = f"from {module} import {last}"
    if isinstance(definition, griffe.Function):
        lead += f"\n\n{_call(definition)}"
    parts = [f"## {last}", f"```python\n{lead}\n```", *_described(definition)]
    if not isinstance(definition, griffe.Class):
        return "\n\n".join(parts)
    if options := list(_options(definition)):
        parts.append("\n".join(["| option | default | |", "|---|---|---|", *options]))
    for member in definition.members.values():
        if member.name.startswith("_") or member.docstring is None or member.is_alias:
            continue
        if isinstance(member, griffe.Function):
            code = f"```python\n{_call(member)}\n```"
            parts += [f"### {definition.name}.{member.name}", code, *_described(member)]
        elif isinstance(member, griffe.Attribute) and "property" in member.labels:
            parts += [f"### {definition.name}.{member.name}", *_described(member)]
    return "\n\n".join(parts)


def _call(function: griffe.Function) -> str:
    """A call with all arguments and their defaults; types stand with the arguments below it."""
    words, is_keyword_only = [], False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not is_keyword_only:
            words.append("*")
        is_keyword_only = is_keyword_only or kind in (
            griffe.ParameterKind.keyword_only,
            griffe.ParameterKind.var_positional,
        )
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        default = f"={_value(function, str(parameter.default))}" if parameter.default is not None and not stars else ""
        words.append(f"{stars}{parameter.name}{default}")
    call = f"{function.name}({', '.join(words)})"
    return call if len(call) <= 100 else f"{function.name}(\n    " + ",\n    ".join(words) + ",\n)"


def _value(definition: griffe.Object, code: str) -> str:
    """A default as a reader wants to see it: the value of a constant of ours, not its name."""
    if not re.fullmatch(r"_?[A-Z][A-Z0-9_]+", code):
        return re.sub(r"^'([^'\"]*)'$", r'"\1"', code)
    found = _resolved(definition, code)
    return str(found.value) if isinstance(found, griffe.Attribute) else code


def _resolved(scope: griffe.Object, name: str) -> griffe.Object:
    """The definition behind a name that is used in a module, function or class of ours."""
    found = scope.modules_collection[scope.resolve(name)]
    return found.final_target if isinstance(found, griffe.Alias) else found


def _described(definition: griffe.Object) -> list[str]:
    """The docstring as Markdown: text as it is, arguments and errors as lists."""
    assert definition.docstring is not None
    parts = []
    sections = definition.docstring.parse("google", returns_named_value=False, returns_multiple_items=False)
    for section in sections:
        if isinstance(section, griffe.DocstringSectionText):
            parts.append(re.sub(r"^Example:$", "**Example**", section.value, flags=re.MULTILINE))
        elif isinstance(section, griffe.DocstringSectionParameters | griffe.DocstringSectionAttributes):
            title = "Arguments" if isinstance(section, griffe.DocstringSectionParameters) else "Attributes"
            items = [_item(f"`{item.name}`".replace(", ", "`, `"), item) for item in section.value]
            parts.append("\n".join([f"**{title}**", "", *items]))
        elif isinstance(section, griffe.DocstringSectionRaises):
            items = []
            for item in section.value:  # "(A, B)" where one line tells when either is raised
                names = ", ".join(f"`{name}`" for name in re.findall(r"[\w.]+", str(item.annotation)))
                items.append(f"- {names}: {_sentence(item.description)}")
            parts.append("\n".join(["**Raises**", "", *items]))
        elif isinstance(section, griffe.DocstringSectionReturns | griffe.DocstringSectionYields):
            title = "Returns" if isinstance(section, griffe.DocstringSectionReturns) else "Yields"
            (item,) = section.value
            parts.append(f"**{title}** {_kind(item)}: {_sentence(item.description)}")
        elif isinstance(section, griffe.DocstringSectionAdmonition) and section.title == "Example":
            parts.append(f"**Example**\n\n```python\n{section.value.description}\n```")
        else:
            raise ValueError(f"{definition.path}: a section of the docstring that pages do not know: {section.kind}.")
    kinds = {section.kind.value for section in sections}
    if (
        isinstance(definition, griffe.Function)
        and "returns" not in kinds
        and str(definition.returns) not in _NO_RESULT
    ):
        parts.append(f"**Returns** `{definition.returns}`")  # the docstring's first line says what it is
    return parts


def _item(name: str, item: griffe.DocstringNamedElement) -> str:
    return f"- {name}{f' ({_kind(item)})' if item.annotation else ''}: {_sentence(item.description)}"


def _kind(item: griffe.DocstringNamedElement | griffe.DocstringElement) -> str:
    """The type of an argument or a result as code, if its author has not marked it so, and what is said behind it."""
    kind, comma, rest = str(item.annotation).partition(", *")
    is_type = "`" not in kind and (" " not in kind or any(sign in kind for sign in "[|"))
    return f"{f'`{kind}`' if is_type else kind}{comma}{rest}"


def _options(definition: griffe.Class) -> Iterator[str]:
    """Rows of the options that a class of arguments adds: name, default and the help that the programs print."""
    for member in definition.members.values():
        if not isinstance(member, griffe.Attribute) or member.value is None or member.name.startswith("_"):
            continue
        call, scope = ast.parse(str(member.value), mode="eval").body, definition
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("_option"):  # one option of several classes
            scope = _resolved(definition, ast.unparse(call.func))
            call = ast.parse(textwrap.dedent(scope.source).split("return ", 1)[1].strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("field", "dataclasses.field")):
            continue
        words = {word.arg: word.value for word in call.keywords}
        metadata = ast.parse(_value(scope, ast.unparse(words.get("metadata", ast.Dict()))), mode="eval").body
        if not isinstance(metadata, ast.Dict):
            raise ValueError(f"{member.path}: its metadata is not written out: {ast.unparse(metadata)}.")
        entries = {
            ast.literal_eval(key): value for key, value in zip(metadata.keys, metadata.values, strict=True) if key
        }
        text = _inline(ast.literal_eval(entries["help"])) if "help" in entries else ""
        if "choices" in entries:
            text += f" One of {', '.join(f'`{choice}`' for choice in _choices(scope, entries['choices']))}."
        default = words.get("default", words.get("default_factory"))
        shown = _value(scope, ast.unparse(default).removeprefix("lambda: ")) if default is not None else ""
        yield f"| `{member.name}` | `{shown}` | {text.replace('|', '&#124;')} |"


def _choices(definition: griffe.Object, choices: ast.expr) -> list[str]:
    """The words of a list, or of `list(TABLE)`: the keys of a table of ours."""
    if isinstance(choices, ast.Call):
        choices = ast.parse(_value(definition, ast.unparse(choices.args[0])), mode="eval").body
    words = choices.keys if isinstance(choices, ast.Dict) else getattr(choices, "elts", [])
    return [ast.literal_eval(word) for word in words if word is not None]


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------


def _inline(text: str) -> str:
    """Several lines as one, as lists and tables want it."""
    return re.sub(r"\s+", " ", text).strip()


def _sentence(text: str) -> str:
    """A description in one line that starts with a capital letter, unless with a name."""
    text = _inline(text)
    return text[:1].upper() + text[1:]


def _anchor(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _plain(text: str) -> str:
    """Text whose references are names only, for places that link by themselves."""
    return re.sub(r"\[`~?([\w.]+)`\](?!\()", lambda match: f"`{match[1].rpartition('.')[2]}`", text)


def _with_links(text: str, places: dict[str, str], here: str) -> str:
    """Text in which [`Name`] leads to the page of the name, or is just code where it has none."""

    def link(match: re.Match[str]) -> str:
        name = match[1].rpartition(".")[2]
        if name not in places:
            return f"`{name}`"
        page = "" if places[name] == here else places[name]
        return f"[`{name}`]({page}#{name.lower()})"

    return re.sub(r"\[`~?([\w.]+)`\](?!\()", link, text)


if __name__ == "__main__":
    main()
