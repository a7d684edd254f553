"""Check the annotation files of a data set: every bad line with its number, missing videos too.

amd-hf validate --data train.csv --data_root videos/
amd-hf validate --data ucf101/ --split train --fold 1
amd-hf validate --task detection --annotations train.csv --video_root videos/ \
    --action_list actions.pbtxt --person_boxes persons.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..data.datasets.problems import Problems
from ..options.commands import parse_command
from ..options.parsing import read_task
from ..options.programs import run_program
from ..options.shared import TaskOptions


@dataclass
class ValidateOptions(TaskOptions):
    """What to check."""

    split: str | None = field(default=None, metadata={"help": "Split of `data` to check."})


def find_problems(argv: Sequence[str] | None) -> Problems:
    """Read all annotations that the options name, and collect what is wrong with them."""
    if read_task(argv, ["classification", "detection"], "validate") == "detection":
        actions, _, _ = parse_command("validate", argv, "detection")
        return actions.validate()
    data, options, _ = parse_command("validate", argv, "classification")
    if data.data is None:
        raise ValueError("Say what to check: `--data FOLDER_OR_FILE`.")
    return data.validate(options.split)


def main(argv: Sequence[str] | None = None) -> Problems:
    """Check annotations; return what is wrong with them."""
    problems = find_problems(argv)
    for problem in problems.found:
        print(problem)
    print(problems.summary())
    return problems


def run(argv: Sequence[str] | None = None) -> None:
    """Run the command from a shell: exit code 0 if all is well, 1 if lines are bad, 2 if nothing could be checked."""

    def validate() -> None:
        # 2 is the code of `run_program` for errors, such as a file that does not exist.
        if main(argv).found:
            raise SystemExit(1)

    run_program(validate)


if __name__ == "__main__":
    from . import start

    start("validate")
