"""The package as a whole: what an import costs, which way imports point, how large files are."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import amd_hf
from amd_hf.moved_modules import MOVED_MODULES


_ROOT = Path(__file__).parents[1]
_PACKAGE = _ROOT / "amd_hf"

# Layers (CONTRIBUTING.md has their table), lowest first: a module imports from layers below its own, or from its own.
_LAYERS = (
    (
        "errors",
        "moved_modules",
        "configuration_amd",
        "outputs",
        "video_codecs_amd",
        "video_fetching_amd",
        "video_index_amd",
        "view_settings",
        "video_packets_amd",
        "video_reading_amd",
        "video_sampling_amd",
    ),
    ("data",),
    ("modeling_amd", "cpu", "modeling_amd_detection", "video_processing_amd"),
    ("checkpoints",),
    ("models", "flops"),
    ("teachers",),
    ("evaluation", "preparing"),
    ("hub",),  # `Trainer.push_to_hub` publishes through it
    ("options",),
    ("training",),
    ("pretraining", "finetuning"),
    ("benchmarking",),
    ("detection",),  # builds on fine-tuning
    ("export",),
    ("registration",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
_BESIDE = ("benchmarks", "examples", "scripts", "studies", "tests", "tools")
_RANKS = {name: rank for rank, names in enumerate(_LAYERS) for name in names}
# What `data` may look at beside itself: a model's configuration, reading, and what everything reports by.
_BELOW_DATA = {
    "configuration_amd", "errors", "outputs", "video_fetching_amd", "video_packets_amd", "video_reading_amd",
    "video_sampling_amd", "view_settings",
}  # fmt: skip
_SELF_CONTAINED = {  # they travel with checkpoints as Hub remote code
    "configuration_amd": set(),
    "modeling_amd": {"configuration_amd"},
    "modeling_amd_detection": {"configuration_amd", "modeling_amd"},
    "video_codecs_amd": {"video_packets_amd"},
    "video_index_amd": {"video_packets_amd"},
    "video_packets_amd": set(),
    "video_fetching_amd": {"video_reading_amd"},
    "video_processing_amd": {"video_fetching_amd", "video_reading_amd", "video_sampling_amd"},
    "video_reading_amd": {"video_codecs_amd", "video_index_amd", "video_packets_amd"},
    "video_sampling_amd": set(),
}


# ---------------------------------------------------------------------------------------------------------------------
# Importing
# ---------------------------------------------------------------------------------------------------------------------

_UNWANTED = ("torch", "transformers", "datasets", "evaluate", "decord", "av", "torchcodec", "numpy")


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_import_is_light() -> None:
    # Without torch and its kind an import takes a hundredth of a second of CPU.
    code = (
        "import sys, time; start = time.process_time(); import amd_hf; seconds = time.process_time() - start;"
        f"print([name for name in {_UNWANTED} if name in sys.modules], seconds < 0.25)"
    )
    assert _run(code) == "[] True"


@pytest.mark.parametrize(
    "imports",
    [
        "import amd_hf; from transformers import AutoModelForVideoClassification",
        "from transformers import AutoModelForVideoClassification; import amd_hf",
        "import amd_hf.modeling_amd; from transformers import AutoModelForVideoClassification",
        "from amd_hf import AMDVideoProcessor; from transformers import AutoModelForVideoClassification",
    ],
)
def test_auto_classes_know_the_models_whatever_is_imported_first(imports: str) -> None:
    folder = _ROOT / "tests/fixtures/saved_before_plain_qkv/classifier"
    ask = (
        "from transformers import AutoConfig, AutoImageProcessor, AutoVideoProcessor;"
        f"found = [Auto.from_pretrained({str(folder)!r}) for Auto in"
        " (AutoConfig, AutoModelForVideoClassification, AutoVideoProcessor)];"
        "print(*[f'{type(it).__module__}.{type(it).__name__}' for it in found])"
    )
    assert _run(f"{imports}; {ask}") == (
        "amd_hf.configuration_amd.AMDConfig amd_hf.modeling_amd.AMDForVideoClassification "
        "amd_hf.video_processing_amd.AMDVideoProcessor"
    )


def test_names_for_type_checkers_are_those_of_run_time() -> None:
    tree = ast.parse((_PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert shown == amd_hf._LAZY_NAMES


@pytest.mark.parametrize("name", sorted(amd_hf.__all__))
def test_public_name_is_importable_and_listed(name: str) -> None:
    value = getattr(amd_hf, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(amd_hf)


def test_public_names_are_those_agreed() -> None:
    agreed = {
        "AMDConfig",
        "AMDModel",
        "AMDForPreTraining",
        "AMDForVideoClassification",
        "AMDForActionDetection",
        "AMDForImageClassification",
        "AMDVideoProcessor",
        "AMDTrainer",
        "AMDTrainingArguments",
        "AMDFineTuningTrainer",
        "AMDFineTuningArguments",
        "AMDDetectionTrainer",
        "AMDDetectionArguments",
        "load_action_dataset",
        "load_teacher",
        "convert_checkpoint",
        "export_checkpoint",
        "load_video_dataset",
    }
    assert agreed <= set(amd_hf.__all__)


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="module 'amd_hf' has no attribute 'AMDModle'"):
        amd_hf.AMDModle  # noqa: B018


@pytest.mark.parametrize("old", list(MOVED_MODULES))
def test_old_import_path_leads_to_modules_that_exist(old: str) -> None:
    for new in MOVED_MODULES[old].split():
        path = (_ROOT if new.startswith("/") else _PACKAGE).joinpath(*new.removeprefix("/").split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), new
    assert not _PACKAGE.joinpath(*old.split(".")).with_suffix(".py").exists(), "it is still there"


def test_names_of_a_module_taken_apart_are_found_under_its_old_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "amd_hf.classifiers", raising=False)
    with pytest.warns(DeprecationWarning, match=r"`amd_hf.classifiers` is now `amd_hf.models`"):
        old = importlib.import_module("amd_hf.classifiers")
    assert old.build_classifier.__module__ == "amd_hf.models"
    assert old.label_names_of.__module__ == "amd_hf.data.datasets.label_names"
    with pytest.raises(AttributeError, match="no_such_name"):
        old.no_such_name  # noqa: B018


# ---------------------------------------------------------------------------------------------------------------------
# Direction of imports
# ---------------------------------------------------------------------------------------------------------------------


def _modules() -> dict[str, Path]:
    """Dotted name inside the package -> file; a folder's `__init__` has the folder's name."""
    modules = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return modules


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, also inside functions and `if TYPE_CHECKING`."""
    folder = path.parent.relative_to(_PACKAGE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] or "__init__" for alias in node.names if _is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0:
                if not _is_ours(module):
                    continue
                base = module.split(".")[1:]
            else:
                base = [*folder[: len(folder) - node.level + 1], *filter(None, module.split("."))]
            # `from . import x` names modules, or things in the package's own `__init__`; `from .x import y` in one.
            modules = {alias.name if alias.name in _RANKS else "__init__" for alias in node.names}
            found |= {".".join(base)} if base else modules
    return found


def _is_ours(name: str) -> bool:
    return name.split(".")[0] == "amd_hf"


def test_every_module_has_a_layer() -> None:
    unknown = {name.split(".")[0] for name in _modules()} - _RANKS.keys()
    assert not unknown, f"say in _LAYERS which layer these belong to: {sorted(unknown)}"


@pytest.mark.parametrize("name", list(_modules()))
def test_imports_point_downwards(name: str) -> None:
    rank = _RANKS[name.split(".")[0]]
    upwards = {other for other in _imports(_modules()[name]) if _RANKS[other.split(".")[0]] > rank}
    assert not upwards, f"{name} imports {sorted(upwards)}, which stand above it (_LAYERS)"


@pytest.mark.parametrize("name", [name for name in _modules() if name.split(".")[0] == "data"])
def test_data_looks_at_configuration_and_reading_alone(name: str) -> None:
    others = {other.split(".")[0] for other in _imports(_modules()[name])} - {"data"}
    assert others <= _BELOW_DATA


@pytest.mark.parametrize("name", list(_SELF_CONTAINED))
def test_remote_code_imports_nothing_else_of_ours(name: str) -> None:
    assert _imports(_modules()[name]) <= _SELF_CONTAINED[name]


def test_no_import_cycle_within_a_layer() -> None:
    graph = {name: _imports(path) & _modules().keys() for name, path in _modules().items() if name != "__init__"}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for other in graph.get(name, ()):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_walking_imports_finds_them_all() -> None:
    found = {"checkpoints.conversion", "checkpoints.reading", "configuration_amd", "errors", "modeling_amd", "models"}
    assert _imports(_PACKAGE / "teachers/loading.py") == {*found, "teachers.encoders", "teachers.geometry"}
    assert {"data.loaders", "training.steps"} <= _imports(_PACKAGE / "training/trainer.py")
    assert "modeling_amd" in _imports(_PACKAGE / "__init__.py")


def test_package_does_not_import_what_lies_beside_it() -> None:
    for path in _modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] in _BESIDE for name in names), path


# ---------------------------------------------------------------------------------------------------------------------
# Sizes
# ---------------------------------------------------------------------------------------------------------------------


def _limit(path: Path) -> int:
    if path.parts[0] == "tests":
        return 600
    # All heads that a folder's `auto_map` names are in one file: a saved model brings the file of its own class only.
    # And reading travels as one file. Elsewhere a file is one idea.
    return {"modeling_amd.py": 1050, "video_reading_amd.py": 1000}.get(path.name, 700)


@pytest.mark.parametrize("folder", ["amd_hf", *_BESIDE])
def test_files_stay_readable(folder: str) -> None:
    too_long = {}
    for path in sorted((_ROOT / folder).rglob("*.py")):
        relative, lines = path.relative_to(_ROOT), len(path.read_text().splitlines())
        if lines > _limit(relative):
            too_long[str(relative)] = lines
    assert not too_long, f"split these files (lines): {too_long}"


# ---------------------------------------------------------------------------------------------------------------------
# Docstrings
# ---------------------------------------------------------------------------------------------------------------------

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# How a summary begins that describes instead of saying what to do.
_NOT_IMPERATIVE = set("a an the as of by in like each every around what whether which who why how when where".split())
_PLURALS = {"checks", "names", "streams", "views"}  # nouns that are verbs too, with which modules and classes begin


def _first_words() -> list[tuple[str, str, str]]:
    """Where a docstring stands, what it describes (function, property, or class and module), its first word."""
    found = []
    for path in _modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS)) or not ast.get_docstring(node):
                continue
            decorators = " ".join(map(ast.unparse, getattr(node, "decorator_list", [])))
            kind = "property" if "property" in decorators else "function"
            word = str(ast.get_docstring(node)).split()[0].strip("`[]().,:;").lower()
            where = f"{path.relative_to(_ROOT)} {getattr(node, 'name', '')}: {word}"
            found.append((where, kind if isinstance(node, _FUNCTIONS) else "thing", word))
    return found


def test_docstrings_of_functions_say_what_to_do() -> None:
    faults = [
        where
        for where, kind, word in _first_words()
        if kind == "function" and (word in _NOT_IMPERATIVE or (word.endswith("s") and not word.endswith("ss")))
    ]
    assert not faults, f"begin with a verb in the imperative (Return, Read, ...): {faults}"


def test_docstrings_of_modules_and_classes_do_not_speak_in_the_third_person() -> None:
    words = _first_words()
    verbs = {word for _, kind, word in words if kind == "function"}
    faults = [
        where
        for where, kind, word in words
        if kind == "thing" and word not in _PLURALS and word.endswith("s") and {word[:-1], word[:-2]} & verbs
    ]
    assert not faults, f"say what it is (`Reader of ...`) or what to do (`Read ...`): {faults}"
