"""How the code of the package is cut: lines and entries by folder, lengths of functions, comments, documented names.

python tools/code_shape.py                  # a table of the folders
python tools/code_shape.py --short training # functions of under 8 lines there, with how often their name is used
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
SHORT = 8


@dataclass
class Shape:
    """Of one folder of the package, without those inside it."""

    num_lines: int = 0
    num_code_lines: int = 0
    num_comments: int = 0
    bodies: list[tuple[int, str]] = field(default_factory=list)
    documented: list[bool] = field(default_factory=list)

    def __add__(self, other: Shape) -> Shape:
        return Shape(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def row(self, name: str) -> str:
        """A line of the table; comments are per 100 lines of code."""
        lengths = sorted(length for length, _ in self.bodies) or [0]
        comments = 100 * self.num_comments / max(self.num_code_lines, 1)
        documented = sum(self.documented) / max(len(self.documented), 1)
        return (
            f"{name:28}{self.num_lines:7}{len(self.bodies):7}{statistics.median(lengths):8g}"
            f"{lengths[int(0.9 * len(lengths))]:6}{lengths[-1]:6}{comments:10.1f}{documented:12.0%}"
        )


def shape_of(path: Path) -> Shape:
    """The shape of one file."""
    text = path.read_text()
    tree, shape = ast.parse(text), Shape(num_lines=text.count("\n"))
    for function, is_public in functions_of(tree):
        shape.bodies.append((body_length(function), f"{path.relative_to(ROOT)}:{function.name}"))
        if is_public:
            shape.documented.append(ast.get_docstring(function) is not None)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    shape.num_comments = len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    shape.num_code_lines = sum(
        bool(line.strip()) and number not in docstrings for number, line in enumerate(text.split("\n"), start=1)
    )
    return shape


def functions_of(node: ast.AST, is_public: bool = True) -> Iterator[tuple[ast.FunctionDef, bool]]:
    """Functions and methods, without those inside functions, and whether no part of their name is private."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child, is_public and not child.name.startswith("_")
        elif isinstance(child, ast.ClassDef):
            yield from functions_of(child, is_public and not child.name.startswith("_"))
        elif isinstance(child, ast.If | ast.Try):
            yield from functions_of(child, is_public)


def body_length(function: ast.FunctionDef) -> int:
    """Lines of a function from its `def` on, without its docstring."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    hidden = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - hidden


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", metavar="FOLDER", help="list the short functions below this folder of the package")
    options = parser.parse_args(argv)
    files = sorted((ROOT / "amd_hf").rglob("*.py"))
    if options.short is not None:
        used = Counter(re.findall(r"\w+", "\n".join(path.read_text() for path in files)))
        for path in files:
            if path.is_relative_to(ROOT / "amd_hf" / options.short):
                for function, _ in functions_of(ast.parse(path.read_text())):
                    if (length := body_length(function)) < SHORT:
                        times = used[function.name] - 1
                        print(
                            f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {length} lines, {times} uses"
                        )
        return
    folders: dict[str, Shape] = {}
    for path in files:
        name = str(path.parent.relative_to(ROOT / "amd_hf"))
        folders[name] = folders.get(name, Shape()) + shape_of(path)
    print(
        f"{'folder':28}{'lines':>7}{'bodies':>7}{'median':>8}{'9/10':>6}{'max':>6}{'comments':>10}{'documented':>12}"
    )
    for name, shape in folders.items():
        print(shape.row(name))
    print(sum(folders.values(), Shape()).row("all"))


if __name__ == "__main__":
    main()
