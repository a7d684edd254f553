"""Write the pages of the paper's model zoo and the table of docs/models.md from the package's one file of facts.

python tools/make_model_cards.py
python tools/make_model_cards.py --check
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import amd_hf
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.programs import run_program
from tools.zoo import load_zoo, model_table, render_page


ROOT = Path(__file__).resolve().parents[1]
TABLE_MARKS = ("<!-- model table: start (tools/make_model_cards.py) -->", "<!-- model table: end -->")


@dataclass
class CardOptions:
    """What to do with the pages."""

    root: str = field(default=str(ROOT), metadata={"help": "Folder of the repository."})
    check: bool = field(default=False, metadata={"help": "Write nothing; fail where a file would change."})


def main(argv: Sequence[str] | None = None) -> list[Path]:
    options, _ = parse_recipe((CardOptions,), argv, __doc__, has_model_options=False)
    root = Path(options.root)
    texts = pages(root)
    changed = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    stale = sorted({*(root / "model_cards").glob("*.md")} - texts.keys())
    if options.check and (changed or stale):
        raise ValueError(f"Not up to date: {', '.join(str(path.relative_to(root)) for path in [*changed, *stale])}.")
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_text(texts[path])
        print(f"written: {path.relative_to(root)}")
    for path in stale:
        print(f"of no model: {path.relative_to(root)}")
    return changed


def pages(root: Path) -> dict[Path, str]:
    """Every generated file and its text: the pages, and the page of the guide with their table."""
    zoo = load_zoo()
    texts = {
        root / "model_cards" / f"{name}.md": render_page(model, zoo, root, amd_hf.__all__)
        for name, model in zoo.models.items()
    }
    guide = root / "docs" / "models.md"
    return {**texts, guide: with_table(guide.read_text(), model_table(zoo, root))}


def with_table(text: str, table: str) -> str:
    """A text in which the table stands between its two marks.

    Raises:
        ValueError: If a mark is missing or there twice.
    """
    start, end = TABLE_MARKS
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"docs/models.md must hold the lines {start!r} and {end!r} once each, in this order.")
    return f"{text[: text.index(start) + len(start)]}\n\n{table}\n\n{text[text.index(end) :]}"


if __name__ == "__main__":
    run_program(main)
