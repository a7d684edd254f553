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
import yaml

from tests.helpers.training import ROOT, load_script


_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands(page: Path) -> list[list[str]]:
    """The words of each shell command of a page that runs one of our programs, from the program on."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found = []
    for command in words:
        programs = [
            number
            for number, word in enumerate(command)
            if word.startswith(("scripts/", "studies/", "tools/", "benchmarks/"))
        ]
        if programs:
            found.append(command[programs[0] :])
    return found


@functools.cache
def _help(program: str, task: str | None) -> str:
    """What a program of ours prints for `--help`."""
    with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit):
        load_script(program).main([*(["--task", task] if task else []), "--help"])
    return said.getvalue()


def _task(words: list[str]) -> str | None:
    """The task that a command names, itself or by its recipe."""
    if "--task" in words:
        return words[words.index("--task") + 1]
    recipes = [ROOT / word for word in words if word.startswith("configs/") and "accelerate" not in word]
    return yaml.safe_load(recipes[0].read_text()).get("task") if recipes else None


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_commands_name_programs_recipes_and_options_that_exist(page: Path) -> None:
    for program, *words in _commands(page):
        assert (ROOT / program).is_file(), f"{page.name}: there is no {program}"
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), f"{page.name}: there is no {word}"
        if not program.startswith("benchmarks/"):
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            known = set(re.findall(r"--[\w.]+", _help(Path(program).stem, _task(words))))
            unknown = {name for name in options - known if not name.startswith("--model.")}
            assert not unknown, f"{page.name}: {program} has no {', '.join(sorted(unknown))}"


def test_pages_have_commands_to_check() -> None:
    assert {Path(program).stem for page in _PAGES for program, *_ in _commands(page)} >= {
        "pretrain", "finetune", "evaluate", "predict", "convert_checkpoint", "extract_features", "push_to_hub",
    }  # fmt: skip


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: there is no {target}"


def test_guide_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in _PAGES[1:] if f"docs/{page.name}" not in readme] == []
