"""Check the annotation files of a data set: every bad line with its number, missing videos too.

python scripts/validate_annotations.py --data train.csv --data_root videos/
python scripts/validate_annotations.py --data ucf101/ --split train --fold 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from amd_hf.data.arguments import DataArguments
from amd_hf.data.readers.problems import Problems
from amd_hf.recipes import parse_recipe, run_program


@dataclass
class ValidateOptions:
    """What to check."""

    split: str | None = field(default=None, metadata={"help": "Split of `data` to check."})


def main(argv: Sequence[str] | None = None) -> Problems:
    data, options, _ = parse_recipe((DataArguments, ValidateOptions), argv, __doc__, has_model_options=False)
    if data.data is None:
        raise ValueError("Say what to check: `--data FOLDER_OR_FILE`.")
    problems = data.validate(options.split)
    for problem in problems.found:
        print(problem)
    lines = len({(problem.file, problem.number) for problem in problems.found})
    print(f"{problems.num_checked:,} lines checked, {lines:,} of them bad")
    return problems


def exit_with_result() -> None:
    """Exit code 0 where all is well, 1 where lines are bad, 2 where nothing could be checked."""
    if main().found:
        raise SystemExit(1)


if __name__ == "__main__":
    run_program(exit_with_result)
