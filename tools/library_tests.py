"""Run the common tests of the installed Transformers over our classes, and over VideoMAE to compare with.

python tools/library_tests.py

The tests come from the library's source distribution (its wheel has none), which pip fetches once. A failure that
cannot be ours is named in `EXCUSED` with its reason; any other one, and an excuse that is not needed, ends with exit
code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
import transformers


ROOT = Path(__file__).resolve().parents[1]
# What the common tests import and the source distribution leaves out: tests of exporters need a network, those of
# generation have nothing to run on models that generate nothing, and one file lists options that every config has. The
# tests of pipelines import the library from its sources; with an empty file there they find the installed one.
MISSING = {
    "../src/transformers/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "architectures": ["Model"],
    "id2label": {0: "one", 1: "two"},
    "label2id": {"one": 0, "two": 1},
    "problem_type": "regression",
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
}
""",
}


_LOSS_OF_THE_TRAINER = (
    "wants a gradient of every parameter from the model's own loss; that of the alignment modules comes from the "
    "alignment loss, which is the trainer's, since it needs the teacher"
)
# (class or "*" for all, test) -> why it cannot be ours to mend.
EXCUSED = {
    ("*", "test_can_load_ignoring_mismatched_shapes"): "sets every option with `std` in its name to 1e-10, also "
    "`image_std`, which is a list of one number per channel",
    ("AMDForPreTrainingWithTeacherTest", "test_training_gradient_checkpointing"): _LOSS_OF_THE_TRAINER,
    (
        "AMDForPreTrainingWithTeacherTest",
        "test_training_gradient_checkpointing_use_reentrant_false",
    ): _LOSS_OF_THE_TRAINER,
    (
        "AMDForPreTrainingWithTeacherTest",
        "test_training_gradient_checkpointing_use_reentrant_true",
    ): _LOSS_OF_THE_TRAINER,
}


def fetch(target: Path) -> Path:
    """Unpack the common tests below `target` as a package `library_tests`, unless they are there.

    Returns:
        The folder to put on the search path.

    Raises:
        RuntimeError: If pip cannot fetch the source distribution.
    """
    folder = target / transformers.__version__
    package = folder / "library_tests"
    if (package / "whole").exists():
        return folder
    package.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        requirement = f"transformers=={transformers.__version__}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation",
                   "--no-binary", "transformers", "--dest", work, requirement]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(work).glob("*.tar.gz"))
        if done.returncode or not archives:
            raise RuntimeError(f"pip cannot fetch the source of {requirement}:\n{done.stderr[-1000:]}")
        with tarfile.open(archives[0]) as archive:
            for member in archive.getmembers():
                path = Path(member.name)
                if member.isfile() and path.parts[1:2] == ("tests",) and len(path.parts) == 3:
                    source = archive.extractfile(member)
                    assert source is not None
                    (package / path.name).write_bytes(source.read())
    for name, text in MISSING.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
        (package / name).with_name("__init__.py").touch()  # each folder is a package
    (package / "__init__.py").touch()
    (package / "whole").touch()  # written last: an interrupted download is fetched again
    return folder


def run(folder: Path, results: Path) -> None:
    """Run `tests/library` with the fetched tests on the search path; outcomes go to `results` as JUnit's XML."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, "-m", "pytest", "-c", "tests/library/pytest.ini", "--rootdir", str(ROOT), "-q",
               "-p", "no:cacheprovider", "--tb=short", f"--junit-xml={results}", "tests/library"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=environment, check=False)


def report(results: Path) -> int:
    """Print a row for each class, then what failed without an excuse. Returns the number of unexpected outcomes."""
    outcomes: dict[str, Counter[str]] = {}
    failed: set[tuple[str, str]] = set()
    for case in ElementTree.parse(results).iter("testcase"):
        kind = (case.get("classname") or "").rpartition(".")[2]
        name = re.sub(r"_\d\d_.*", "", case.get("name") or "")  # one test with many parameters is one excuse
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        if outcome == "failed":
            failed.add((kind, name))
            outcome = "excused" if (kind, name) in EXCUSED or ("*", name) in EXCUSED else "failed"
        outcomes.setdefault(kind, Counter())[outcome] += 1
    # In Markdown, as docs/upstream.md has it.
    columns = ("passed", "failed", "excused", "skipped")
    print(f"\nTransformers {transformers.__version__}, PyTorch {torch.__version__}\n")
    print(f"| class | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for kind, counts in outcomes.items():
        print(f"| {kind.removesuffix('Test')} | {' | '.join(str(counts[column]) for column in columns)} |")
    print()
    ours = {(kind, name) for kind, name in failed if not kind.startswith("VideoMAE")}
    unexpected = sorted(ours - EXCUSED.keys() - {pair for pair in ours if ("*", pair[1]) in EXCUSED})
    names = {name for _, name in failed}
    idle = [
        (kind, name) for kind, name in EXCUSED if (kind, name) not in failed and (kind != "*" or name not in names)
    ]
    for kind, name in unexpected:
        print(f"FAILED {kind}::{name}")
    for kind, name in idle:
        print(f"no excuse needed: {kind}::{name}")
    return len(unexpected) + len(idle)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".library_tests", help="where the tests are kept")
    folder = parser.parse_args(argv).folder
    run(fetch(folder), folder / "results.xml")
    raise SystemExit(1 if report(folder / "results.xml") else 0)


if __name__ == "__main__":
    main()
