"""docs/differences.md: the places that it names exist, and what it claims of our code is so."""

from __future__ import annotations

import re

import yaml

from tests.helpers.training import ROOT
from tools.zoo import load_zoo


_PAGE = (ROOT / "docs" / "differences.md").read_text()


def test_every_difference_has_a_reason_and_a_place_that_exists() -> None:
    rows = [
        line
        for line in _PAGE.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| the", "| there"))
    ]
    assert len(rows) > 35
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert all(cells), row
        places = re.findall(r"`([^`]+)`", cells[-1])
        assert places, row
        for place in places:
            assert (ROOT / place).is_file(), place
    assert "docs/differences.md" in (ROOT / "README.md").read_text()


def test_known_differences_are_on_the_page() -> None:
    for known in (
        "encoder_to_decoder", "true box outside of the training crop", "fills with ImageNet's mean colour",
        "class token", "patch embedding", "sum the alignment losses over layers", "never published", "sincos_3d_mvd",
    ):  # fmt: skip
        assert known in _PAGE, known


def test_nothing_calls_the_unpublished_teacher_an_official_file() -> None:
    pages = [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("model_cards/*.md"),
        *ROOT.glob("configs/*/*.yaml"),
    ]
    named = [page for page in pages if "ssv2_pt_2400e" in page.read_text()]
    assert named
    for page in named:
        text = " ".join(page.read_text().replace("\n#", "\n").split())
        assert "never published" in text, page
        assert not re.search(r"official (file|`VideoMAEv1)", text.split("ssv2_pt_2400e")[0][-200:]), page


def test_authors_logs_are_linked_where_they_publish_them() -> None:
    facts = yaml.safe_load((ROOT / "tools/zoo.yaml").read_text())["models"]
    assert all(("log" in entry) == bool(entry["checkpoint"]) for entry in facts)
    logs = [model.log for model in load_zoo().models.values() if model.log]
    assert len(set(logs)) == len(logs) == 12
    table = (ROOT / "docs" / "models.md").read_text()
    for model in load_zoo().models.values():
        page = (ROOT / "model_cards" / f"{model.name}.md").read_text()
        if model.log:
            assert f"[log]({model.log})" in table
            assert f"<{model.log}>" in page
