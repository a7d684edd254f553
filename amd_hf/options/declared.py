"""Options as dataclasses declare them, read from a class or, to avoid importing it, from its source.

The option classes of a training derive from `TrainingArguments`, whose import takes seconds: too long for `--help` or
a mistyped name. Reading their source is instant. A test compares the two for every option of every command.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any


_ROOT = Path(__file__).parents[2]
_PACKAGE = __name__.partition(".")[0]
# Files that declare the base classes from other packages, which only re-export them.
_BASES_ELSEWHERE = {("transformers", "TrainingArguments"): ("transformers", "training_args.py")}


class Unknown:
    """Marker for a default that the class computes, so that the source does not have it."""

    def __repr__(self) -> str:
        return "computed"


UNKNOWN = Unknown()


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command: a field of a dataclass.

    Args:
        name (`str`): Name of the field; on the command line with `--` in front.
        kind (`str`): `bool`, `int`, `float`, or `str` for all else: the type that text is converted to.
        default (`Any`): The field's default, `UNKNOWN` where only the class knows it.
        help (`str`): What the option does.
        choices (`tuple`, *optional*): The only values it takes.
        is_list (`bool`): Whether it takes several words.
        is_nullable (`bool`): Whether `null` unsets it.
        is_structured (`bool`): Whether a recipe may give it as a list or a mapping, though it is one word here.
        nargs, const: As for `argparse`, where the field says so itself.
    """

    name: str
    kind: str
    default: Any
    help: str = ""
    choices: tuple[Any, ...] | None = None
    is_list: bool = False
    is_nullable: bool = False
    is_structured: bool = False
    nargs: str | None = None
    const: Any = None


def class_options(option_type: type) -> dict[str, Option]:
    """Return the options of a dataclass, by name."""
    options = {}
    for field in dataclasses.fields(option_type):
        if not field.init:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        annotation = field.type
        if not isinstance(annotation, str):  # a module without `from __future__ import annotations` has types here
            is_plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
            annotation = annotation.__name__ if is_plain else str(annotation).replace("NoneType", "None")
        options[field.name] = _make_option(field.name, annotation, default, field.metadata)
    return options


def _make_option(name: str, annotation: str, default: Any, metadata: Mapping[str, Any]) -> Option:
    union = re.fullmatch(r"(?:typing\.)?(?:Optional|Union)\[(.*)\]", annotation)
    if union is not None:
        annotation = union[1].replace(",", "|") + ("|None" if "Optional[" in annotation else "")
    parts = [part.strip() for part in re.split(r"\|(?![^\[]*\])", annotation)]
    is_nullable = "None" in parts
    parts = [part for part in parts if part != "None"]
    if len(parts) == 2 and "str" in parts and not is_nullable:  # `bool | str`: the more specific type decides
        parts.remove("str")
    is_list = len(parts) == 1 and parts[0].startswith("list[")
    kind = parts[0].removeprefix("list[").removesuffix("]") if len(parts) == 1 else "str"
    choices = metadata.get("choices")
    choices = None if choices is UNKNOWN else choices
    return Option(
        name,
        kind if kind in ("bool", "int", "float") else "str",
        default,
        " ".join(str(metadata.get("help", "")).split()),
        None if choices is None else tuple(choices),
        is_list,
        is_nullable,
        not is_list and any(part.startswith(("dict", "list")) for part in parts),
        metadata.get("nargs"),
        metadata.get("const"),
    )


# ---------------------------------------------------------------------------------------------------------------------
# From source
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def declared_options(reference: str) -> Mapping[str, Option]:
    """Return the options of a dataclass of this package, by name, without importing it.

    Args:
        reference (`str`): Module below `amd_hf` and class, as `data.arguments:DataArguments`.

    Raises:
        LookupError: If there is no such class.
    """
    module, _, name = reference.partition(":")
    return MappingProxyType(_Source.of_module(f"{_PACKAGE}.{module}").options(name))


def description_of(module: str) -> str:
    """Return the docstring of a module below `amd_hf`, without importing it."""
    return ast.get_docstring(_Source.of_module(f"{_PACKAGE}.{module}").tree) or ""


class _Source:
    """A module's source: its classes, functions and constants, and those that it imports from modules of ours."""

    def __init__(self, path: Path, package: str) -> None:
        self.package = package
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self._names: dict[str, ast.AST] = {}
        self._imports: dict[str, tuple[str, str]] = {}
        for node in self.tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self._names[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._names[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self._names[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                source = importlib.util.resolve_name(module, package) if node.level else module
                self._imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}

    @staticmethod
    @functools.cache
    def of_module(name: str) -> _Source:
        path = _ROOT.joinpath(*name.split("."))
        if path.is_dir():
            return _Source(path / "__init__.py", name)
        return _Source(path.with_suffix(".py"), name.rpartition(".")[0])

    def find(self, name: str) -> tuple[_Source, ast.AST]:
        """Return what `name` stands for in this module, and the source that says so."""
        if name in self._names:
            return self, self._names[name]
        module, original = self._imports[name]  # KeyError is a LookupError
        if (module, original) in _BASES_ELSEWHERE:
            return _source_elsewhere(*_BASES_ELSEWHERE[module, original]).find(original)
        if module.partition(".")[0] != _PACKAGE:
            raise LookupError(f"{name} is of {module}")
        return _Source.of_module(module).find(original)

    def options(self, class_name: str) -> dict[str, Option]:
        source, node = self.find(class_name)
        if not isinstance(node, ast.ClassDef):
            raise LookupError(f"{class_name} is no class")
        found: dict[str, Option] = {}
        for base in reversed(node.bases):  # as dataclasses do: of two bases the first one wins
            if isinstance(base, ast.Name):
                found |= source.options(base.id)
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            annotation = ast.unparse(field.annotation)
            value = field.value
            settings: dict[str, Any] = {"default": source.value(value)}
            if isinstance(value, ast.Call):
                settings = source.field(value)
            if not annotation.startswith("ClassVar") and settings.get("init", True):
                name = field.target.id
                default = settings.get("default", UNKNOWN)
                found[name] = _make_option(name, annotation, default, settings.get("metadata") or {})
        return found

    def field(self, call: ast.Call) -> dict[str, Any]:
        """Return the arguments of `field(...)`, which a function of ours may return."""
        if isinstance(call.func, ast.Name) and call.func.id != "field":
            source, function = self.find(call.func.id)
            if isinstance(function, ast.FunctionDef) and isinstance(function.body[-1], ast.Return):
                returned = function.body[-1].value
                return source.field(returned) if isinstance(returned, ast.Call) else {}
        settings: dict[str, Any] = {}
        for keyword in call.keywords:
            value = keyword.value
            if keyword.arg == "default_factory":
                is_lambda = isinstance(value, ast.Lambda)
                settings["default"] = self.value(value.body) if is_lambda else []  # type: ignore[attr-defined]
            elif keyword.arg is not None:
                settings[keyword.arg] = self.value(value)
        return settings

    def value(self, node: ast.AST | None) -> Any:
        """Return the value of an expression; `UNKNOWN` where it takes more than reading."""
        if isinstance(node, ast.Dict):
            keys = [self.value(key) for key in node.keys]
            return dict(zip(keys, (self.value(value) for value in node.values), strict=True))
        if isinstance(node, (ast.List, ast.Tuple)):
            items: list[Any] = []
            for item in node.elts:
                items += list(self.value(item.value)) if isinstance(item, ast.Starred) else [self.value(item)]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("list", "tuple"):
            return list(self.value(node.args[0]))
        if isinstance(node, ast.Name):
            try:
                source, found = self.find(node.id)
            except LookupError:
                return UNKNOWN
            return source.value(found)
        try:
            return ast.literal_eval(node)  # type: ignore[arg-type]
        except ValueError:
            return UNKNOWN


@functools.cache
def _source_elsewhere(package: str, file: str) -> _Source:
    spec = importlib.util.find_spec(package)  # finds the folder, imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return _Source(Path(spec.submodule_search_locations[0]) / file, package)


__all__ = ["UNKNOWN", "Option", "class_options", "declared_options", "description_of"]
