"""What `pip install amd_hf` gives: files, declared packages, and the command `amd-hf`, away from the repository."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.docs_world import all_commands, build_world, prepare


_ROOT = Path(__file__).parents[1]
# Extras for those who work on the package, and earlier names.
_NOT_FOR_USERS = {"dev", "studies", "demo", "ablations"}
# Folders of `configs/` for programs that lie in a clone alone.
_CONFIGS_OF_A_CLONE = {"demo", "ablations"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = WheelBuilder(str(_ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    return Path(path)


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_the_package_with_its_recipes_and_nothing_beside_it(wheel: Path) -> None:
    files = [path for folder in ("amd_hf", "configs") for path in (_ROOT / folder).rglob("*") if path.is_file()]
    of_a_clone = {"__pycache__", *_CONFIGS_OF_A_CLONE}
    here = {path.relative_to(_ROOT).as_posix() for path in files if not of_a_clone & {*path.parts}}
    expected = {re.sub("^configs/", "amd_hf/configs/", name) for name in here}
    assert {name for name in _names(wheel) if ".dist-info/" not in name} == expected
    needed = {"amd_hf/py.typed", "amd_hf/hub/run_card.md.jinja"}
    assert needed | {"amd_hf/configs/finetune/custom.yaml", "amd_hf/configs/pretrain/custom.yaml"} <= expected


def test_wheel_made_from_the_source_archive_is_the_same(wheel: Path, tmp_path: Path) -> None:
    (archive,) = SdistBuilder(str(_ROOT)).build(directory=str(tmp_path / "sdist"))
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("amd_hf-*")
    (again,) = WheelBuilder(str(folder)).build(directory=str(tmp_path / "wheel"))
    assert _names(Path(again)) == _names(wheel)


# ---------------------------------------------------------------------------------------------------------------------
# Declared packages
# ---------------------------------------------------------------------------------------------------------------------


def _third_party_imports() -> Iterator[tuple[str, bool, Path]]:
    """Each package that amd_hf imports, whether it is needed always (not in a function or a `try`), and where."""
    for path in sorted((_ROOT / "amd_hf").rglob("*.py")):
        waiting: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), True)]
        while waiting:
            node, always = waiting.pop()
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "find_spec")):
                names = [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
            for name in names:
                package = name.split(".")[0]
                if package not in sys.stdlib_module_names | {"amd_hf", ""}:
                    yield package, always, path
            is_guarded = isinstance(node, ast.FunctionDef | ast.Try) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            )
            waiting += [(child, always and not is_guarded) for child in ast.iter_child_nodes(node)]


def _declared(wheel: Path) -> dict[str, set[str]]:
    """Names of the packages that the wheel requires, by extra; under "" those that it always requires."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    extras = ["", *metadata.get_all("Provides-Extra", [])]
    declared: dict[str, set[str]] = {extra: set() for extra in extras}
    for requirement in map(Requirement, metadata.get_all("Requires-Dist", [])):
        marker = str(requirement.marker or "")
        extra = re.search(r'extra == ["\']([\w-]+)["\']', marker)
        declared[extra[1] if extra else ""].add(canonicalize_name(requirement.name))
    return declared


def test_every_imported_package_is_declared_and_every_required_one_imported(wheel: Path) -> None:
    declared, distributions = _declared(wheel), packages_distributions()
    optional = set().union(*(names for extra, names in declared.items() if extra not in _NOT_FOR_USERS))
    missing, used = set(), set()
    for package, always, path in _third_party_imports():
        names = {canonicalize_name(name) for name in distributions.get(package, [package])}
        used |= names
        if not names & (declared[""] if always else optional):
            missing.add(f"{path.relative_to(_ROOT)} imports {package}")
    assert not missing, f"declare these in pyproject.toml: {sorted(missing)}"
    assert {"pillow", "jinja2", "pyarrow", "peft", "evaluate"} <= used, "the walk misses some"
    assert declared[""] <= used, f"nothing imports {sorted(declared[''] - used)}"
    assert optional - {"amd-hf"} <= used


# ---------------------------------------------------------------------------------------------------------------------
# The command, from the wheel's files
# ---------------------------------------------------------------------------------------------------------------------


def _run_installed(unpacked: Path, folder: Path, *arguments: str) -> str:
    """What the command's entry point prints in a folder, with the wheel's files alone."""
    (entry,) = re.findall(
        r"^amd-hf = (\S+):(\S+)$", next(unpacked.glob("*.dist-info/entry_points.txt")).read_text(), re.M
    )
    code = (
        f"import sys, amd_hf; assert amd_hf.__file__.startswith({str(unpacked)!r}), amd_hf.__file__;"
        f"from {entry[0]} import {entry[1]} as command; sys.exit(command())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_command_of_the_wheel_helps_and_lists_its_recipes(unpacked: Path, tmp_path: Path) -> None:
    said = _run_installed(unpacked, tmp_path, "--help")
    for name in ("pretrain", "finetune", "evaluate", "predict", "features", "convert", "recipes"):
        assert re.search(rf"^ +{name} ", said, re.M), said
    listed = _run_installed(unpacked, tmp_path, "recipes")
    assert {"finetune/custom", "pretrain/custom", "detect/amd_vit_base_ava"} <= {
        line.split()[0] for line in listed.splitlines()
    }
    assert "demo/" not in listed
    recipe = (_ROOT / "configs/finetune/custom.yaml").read_text()
    assert _run_installed(unpacked, tmp_path, "recipes", "finetune/custom") == recipe
    assert not list(tmp_path.iterdir())


def test_recipes_of_the_wheel_name_code_of_the_wheel_alone(unpacked: Path) -> None:
    recipes = sorted((unpacked / "amd_hf/configs").rglob("*.yaml"))
    named = {module for path in recipes for module in re.findall(r"^\w+: ([\w.]+):\w+", path.read_text(), re.M)}
    assert recipes
    assert not [name for name in named if not (unpacked / f"{name.replace('.', '/')}.py").is_file()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_first_commands_of_the_readme_run_in_an_empty_environment(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pip install`, classify, fine-tune, distil: as they stand, but for small stand-ins of the Hub's models."""
    world, folder = build_world(tmp_path / "world"), tmp_path / "user"
    for name in ("hub", "videos_plain"):
        shutil.copytree(world / name, folder / name)
    shutil.copy(world / "clip.mp4", folder)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    tools = environment / "bin"
    settings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    settings |= {"HF_HUB_OFFLINE": "1", "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=settings)
        assert done.returncode == 0, f"{shlex.join(map(str, words))}\n{done.stderr[-3000:]}"
        return done.stdout

    commands = [command for command in all_commands() if command.page == "README.md"]
    assert commands[0].text == "pip install amd_hf"
    run(tools / "python", "-m", "pip", "install", "--quiet", wheel)
    said = {}
    for command in [command for command in commands if command.program is not None][:3]:
        assert command.text.startswith("amd-hf ")
        program, arguments = prepare(command, folder)
        said[program] = run(tools / "amd-hf", program, *arguments)
    with capsys.disabled():
        print(*said.values(), sep="\n")  # noqa: T201
    assert list(said) == ["predict", "finetune", "pretrain"]
    assert re.search(r"clip\.mp4\n +[\d.]+%  (left|right)\n", said["predict"])
    for name in ("my_model", "my_student"):
        assert (folder / name / "model.safetensors").is_file()
    classify = re.findall(r"```python\n(.*?)```", (_ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert re.search(r"'label': '(left|right)'", run(tools / "python", "-c", classify))
