"""The command `amd-hf` itself: its help, the recipes in the package, and what it says of names it does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from amd_hf.cli import main
from amd_hf.options.recipe_files import find_recipe, list_recipes


_ROOT = Path(__file__).parents[2]


def test_every_recipe_of_the_repository_is_listed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    on_disk = {
        f"{path.parent.name}/{path.stem}"
        for group in ("pretrain", "finetune", "detect", "demo")
        for path in (_ROOT / "configs" / group).glob("*.yaml")
    }
    assert {line.split()[0] for line in lines} == on_disk
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_printed_recipe_is_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "finetune/custom"])
    printed = capsys.readouterr().out
    assert printed == (_ROOT / "configs/finetune/custom.yaml").read_text()
    assert isinstance(yaml.safe_load(printed), dict)


@pytest.mark.parametrize(
    ("name", "command", "found"),
    [
        ("custom", "finetune", "finetune/custom.yaml"),
        ("custom", "pretrain", "pretrain/custom.yaml"),
        ("amd_vit_base_ava", None, "detect/amd_vit_base_ava.yaml"),
        ("configs/finetune/lora.yaml", None, "finetune/lora.yaml"),
        ("finetune/lora", "pretrain", "finetune/lora.yaml"),
    ],
)
def test_recipe_is_found_by_name_from_any_folder(
    name: str, command: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name, command) == _ROOT / "configs" / found


def test_own_file_wins_over_a_recipe_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "custom").write_text("seed: 1\n")
    assert find_recipe("custom", "finetune") == Path("custom")


def test_unknown_recipe_names_what_is_near() -> None:
    with pytest.raises(FileNotFoundError, match="no recipe finetune/custm, .*did you mean finetune/custom"):
        find_recipe("finetune/custm")


def test_name_in_several_folders_is_refused_where_no_command_decides() -> None:
    with pytest.raises(ValueError, match="say which of pretrain/custom, finetune/custom"):
        find_recipe("custom")


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["recips"])
    assert stopped.value.code == 2
    assert "did you mean `recipes`?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["--version"]])
def test_command_answers_before_anything_heavy_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys, time; from amd_hf.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else time.process_time() > 0.5)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "amd" in done.stdout


def test_listing_into_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "amd_hf", "recipes"]
    done = subprocess.run(command, cwd=_ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert list_recipes()
