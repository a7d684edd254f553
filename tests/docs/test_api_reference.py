"""docs/api/: the pages say what the docstrings say, name all that is public, and leave no argument out."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import pytest

import amd_hf
import amd_hf.data
import amd_hf.detection
from tests.helpers.training import ROOT
from tools.make_api_reference import FOLDER, PAGES, main


_TEXTS = {name: (ROOT / FOLDER / f"{name}.md").read_text() for name in PAGES}
_PUBLIC = {
    **{f"amd_hf.{name}": getattr(amd_hf, name) for name in amd_hf.__all__},
    **{f"amd_hf.data.{name}": getattr(amd_hf.data, name) for name in amd_hf.data.__all__},
    **{f"amd_hf.detection.{name}": getattr(amd_hf.detection, name) for name in amd_hf.detection.__all__},
}


def _section(name: str) -> str:
    (page,) = [page for page, entry in PAGES.items() if name in entry.names]
    (text,) = re.findall(rf"^## {name.rpartition('.')[2]}\n(.*?)(?=^## |\Z)", _TEXTS[page], re.M | re.S)
    return text


def test_pages_are_what_the_docstrings_say() -> None:
    main(["--check"])  # else run `make api`


def test_page_that_is_behind_the_code_is_named_and_written_anew(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "amd_hf", tmp_path / "amd_hf", ignore=shutil.ignore_patterns("__pycache__"))
    main(["--root", str(tmp_path)])
    module = tmp_path / "amd_hf" / "cpu.py"
    module.write_text(module.read_text().replace("in place, for inference", "on the spot, for inference"))
    with pytest.raises(SystemExit, match="README.md, models.md"):
        main(["--root", str(tmp_path), "--check"])
    assert {path.name for path in main(["--root", str(tmp_path)])} == {"README.md", "models.md"}
    assert "on the spot, for inference" in (tmp_path / FOLDER / "models.md").read_text()


@pytest.mark.parametrize("name", sorted(_PUBLIC))
def test_every_public_name_is_described_with_all_of_its_arguments(name: str) -> None:
    text = _section(name)
    index = (ROOT / FOLDER / "README.md").read_text()
    assert f"[`{name}`]" in index
    value = _PUBLIC[name]
    if inspect.isfunction(value):
        described = set(re.findall(r"`\*{0,2}(\w+)`", "\n".join(re.findall(r"^- .*?:", text, re.M))))
        assert set(inspect.signature(value).parameters) - described <= {"options"}
        assert "**Returns**" in text
    for method, function in vars(value).items() if inspect.isclass(value) else ():
        is_ours = inspect.isfunction(function) and function.__module__.startswith("amd_hf.")
        if is_ours and not method.startswith("_") and function.__doc__:
            assert f"### {name.rpartition('.')[2]}.{method}\n" in text


def test_references_between_pages_lead_to_headings() -> None:
    for page, text in [*_TEXTS.items(), ("README", (ROOT / FOLDER / "README.md").read_text())]:
        for file, anchor in re.findall(r"\]\(([\w.]*)#(\w+)\)", text):
            target = _TEXTS[file.removesuffix(".md") or page]
            assert anchor in {line[3:].lower() for line in target.splitlines() if line.startswith("## ")}, anchor
        assert not re.search(r"\[`[\w.~]+`\](?!\()", text), "a reference of a docstring was left as it is"
