"""docs/upstream.md: its table names every class that is tested, and every excuse."""

from __future__ import annotations

import re

from tests.helpers.training import ROOT
from tools.library_tests import EXCUSED


_PAGE = (ROOT / "docs" / "upstream.md").read_text()
_ROWS = {
    name: [int(count) for count in counts.split("|")]
    for name, counts in re.findall(r"^\| (\w+) \|((?: \d+ \|){3} \d+) \|$", _PAGE, re.M)
}


def test_table_has_every_class_and_no_failure() -> None:
    tested = {
        name
        for file in (ROOT / "tests" / "library").glob("test_*.py")
        for name in re.findall(r"^class ([A-Z]\w+)Test\(", file.read_text(), re.M)
    }
    assert _ROWS.keys() == tested
    assert len(tested) == 11
    assert [failed for _, failed, _, _ in _ROWS.values()] == [0] * 11


def test_every_excuse_is_told_and_counted() -> None:
    for name, (_, _, excused, _) in _ROWS.items():
        is_model_of_ours = name.startswith("AMD") and "Processor" not in name
        of_class = [test for kind, test in EXCUSED if kind == f"{name}Test" or (kind == "*" and is_model_of_ours)]
        assert excused == len(of_class), name
        assert excused <= (4 if name.endswith("WithTeacher") else 2), name
    for _, test in EXCUSED:
        assert test in _PAGE or (
            test.startswith("test_training_gradient_checkpointing") and f"...{test[36:]}" in _PAGE
        )
