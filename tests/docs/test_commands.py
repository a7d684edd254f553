"""Every command of the README, the guide, programs' headers and recipes runs as it stands, on small stand-ins.

A list of the commands and their run times is printed at the end (`pytest -s`, or in the summary of the test).
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from amd_hf.cli import main as amd_hf_command
from tests.helpers.docs_world import EXEMPT, SIZES, Command, all_commands, build_world, enter_world, prepare
from tests.helpers.training import ROOT, load_script, script_environment


_COMMANDS = list(all_commands())
_PAGES = list(dict.fromkeys(command.page for command in _COMMANDS if command.exempt is None))
# Pages whose commands take longer than a few seconds.
_SLOW_PAGES = ("evidence.md", "ablate.py", "configs/ablations/playback.yaml")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("docs") / "base")


def _run(command: Command, folder: Path) -> None:
    """Runs a command in this process; only `cp` and `> FILE` are the shell's."""
    words = shlex.split(command.text)
    if words[0] == "cp":
        shutil.copy(folder / words[1], folder / words[2])
        return
    if command.program in ("recipes", "--help", "--version"):
        said = io.StringIO()
        with redirect_stdout(said):
            amd_hf_command(words[words.index("amd-hf") + 1 :][: -2 if ">" in words else None])
        if ">" in words:
            (folder / words[-1]).write_text(said.getvalue())
        return
    program, arguments = prepare(command, folder)
    outcome = load_script(program).main(arguments)
    problems = getattr(outcome, "found", None) if program == "validate" else None
    assert not problems, f"{command.text}: {problems}"
    if program == "predict":
        assert outcome
        assert not any("error" in result for result in outcome), outcome


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in _SLOW_PAGES else []) for page in _PAGES]
)
def test_commands_run_as_they_stand(
    page: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = enter_world(world, tmp_path / "world")
    monkeypatch.chdir(folder)
    times = []
    for command in [command for command in _COMMANDS if command.page == page and command.exempt is None]:
        started = time.perf_counter()
        try:
            _run(command, folder)
        except Exception as error:
            raise AssertionError(f"{page}: does not run as written: {command.text}\n{error}") from error
        times.append((time.perf_counter() - started, command.text))
    with capsys.disabled():
        for seconds, text in times:
            print(f"\n{seconds:6.1f} s  {page}: {text}", end="")  # noqa: T201


def test_every_command_is_run_or_exempt_for_a_reason_that_counts() -> None:
    texts = [command.text for command in _COMMANDS]
    assert len(texts) > 60
    assert len({command.program for command in _COMMANDS} - {None}) >= 14
    for pattern in EXEMPT:
        exempt = [command for command in _COMMANDS if command.exempt == EXEMPT[pattern]]
        assert len(exempt) < 8, f"{pattern} exempts too much: {exempt}"
    assert sum(command.exempt is None for command in _COMMANDS) >= 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "accelerate launch",
        "accelerate launch --quiet",
        "accelerate launch --config_file configs/accelerate/cpu.yaml",
        "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2",
    ],
)
def test_launchers_start_the_programs(
    launcher: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's command of fine-tuning, behind each launcher that a CPU has."""
    folder = enter_world(world, tmp_path / "world")
    command = next(c for c in _COMMANDS if c.page == "README.md" and c.program == "finetune" and c.exempt is None)
    _, arguments = prepare(command, folder)
    words = shlex.split(launcher)
    settings = dict(word.split("=") for word in words if "=" in word)
    started = time.perf_counter()
    # The interpreter's own launchers, whatever lies on the path.
    tools = Path(sys.executable).parent
    program = [str(tools / word) if word in ("accelerate", "torchrun") else word for word in words if "=" not in word]
    run = subprocess.run(
        [*program, "scripts/finetune.py", *arguments], cwd=folder, capture_output=True, text=True, timeout=400,
        env={**script_environment(), **settings, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert (folder / "my_model" / "model.safetensors").is_file()
    with capsys.disabled():
        print(f"\n{time.perf_counter() - started:6.1f} s  {launcher} scripts/finetune.py ...", end="")  # noqa: T201


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/export.md",
        "docs/finetuning.md",
        "docs/publishing.md",
        "docs/quantisation.md",
        "docs/teachers.md",
        "docs/testing.md",
    ],
)
def test_python_of_the_pages_runs(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code blocks as they stand, but for the sizes of the student and the name of the teacher."""
    folder = enter_world(world, tmp_path / "world")
    (folder / "videos").symlink_to("videos_plain")
    monkeypatch.chdir(folder)
    if page == "README.md":
        shutil.rmtree(folder / "my_student")  # the output of its example
    if page == "docs/testing.md":
        command = next(command for command in _COMMANDS if command.program == "features")
        program, arguments = prepare(command, folder)
        load_script(program).main(arguments)
    sizes = ", ".join(f"{name}={value!r}" for name, value in SIZES.items())
    settings = "per_device_train_batch_size=2, max_steps=1, warmup_steps=1, use_cpu=True, report_to=[]"
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        code = block.replace("teacher_hidden_size=1024", sizes).replace("MCG-NJU/videomae-large", "hub/videomae-large")
        code = code.replace("per_device_train_batch_size=16, bf16=None, dataloader_num_workers=8", settings)
        if "write_run_card" in code:
            continue  # tests/hub/test_cards.py: it needs a Trainer
        if "quantization_config" in code:
            continue  # tests/test_quantisation.py: it needs packages that few have
        exec(code, names)
