"""Commands in the README and the guide: programs and recipes that exist, with options that they have; links that lead
somewhere."""

from __future__ import annotations

import functools
import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from amd_hf.cli import COMMANDS
from tests.helpers.docs_world import named_recipe, split_command
from tests.helpers.training import ROOT, load_script


_FOLDERS = ("examples", "studies", "tools", "benchmarks")
# Folders of ours whose comments are read.
_OURS = ("amd_hf", "scripts", *_FOLDERS)
_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each shell command of a page that runs one of our programs: the program and its arguments."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [split_command(shlex.split(line, comments=True)) for line in lines]
    return [command for command in commands if command is not None]


@functools.cache
def _help(program: str, task: str | None) -> str:
    """What a program of ours prints for `--help_all`."""
    with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit):
        load_script(program).main([*(["--task", task] if task else []), "--help_all"])
    return said.getvalue()


def _task(program: str, words: list[str]) -> str | None:
    """The task that a command names, itself or by its recipe."""
    if "--task" in words:
        return words[words.index("--task") + 1]
    return named_recipe(program, words).get("task")


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_commands_name_programs_recipes_and_options_that_exist(page: Path) -> None:
    for program, words in _commands(page):
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), f"{page.name}: there is no {word}"
        if program.startswith("--") or program == "recipes":
            continue
        is_program = program in COMMANDS or any((ROOT / folder / f"{program}.py").is_file() for folder in _FOLDERS)
        assert is_program, f"{page.name}: there is no program {program}"
        if not (ROOT / "benchmarks" / f"{program}.py").is_file():
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            known = set(re.findall(r"--[\w.]+", _help(program, _task(program, words))))
            unknown = {name for name in options - known if not name.startswith("--model.")}
            assert not unknown, f"{page.name}: {program} has no {', '.join(sorted(unknown))}"


def test_pages_have_commands_to_check() -> None:
    assert {program for page in _PAGES for program, _ in _commands(page)} >= {
        "pretrain", "finetune", "evaluate", "predict", "convert", "features", "push",
    }  # fmt: skip


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: there is no {target}"


def test_guide_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme] == []


def test_files_that_texts_and_comments_name_are_there() -> None:
    folders = "amd_hf|tests|docs|tools|scripts|configs|studies|examples|benchmarks|model_cards"
    texts = [*_PAGES, ROOT / "CONTRIBUTING.md", *(path for name in _OURS for path in (ROOT / name).rglob("*.py"))]
    missing = {
        f"{text.relative_to(ROOT)}: {path}"
        for text in texts
        for path in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*\w)", text.read_text())
        if not (ROOT / path).exists()
    }
    assert missing == {"CONTRIBUTING.md: amd_hf/configs"}  # which the wheel has


def test_nothing_refers_to_papers_that_readers_do_not_have() -> None:
    texts = [*ROOT.glob("*.md"), *(path for name in (*_OURS, "docs", "configs") for path in (ROOT / name).rglob("*"))]
    kinds = (".py", ".md", ".yaml", ".jinja", ".sbatch")
    assert not [text for text in texts if text.suffix in kinds and re.search(r"\b(DESIGN|STYLE)\b", text.read_text())]
