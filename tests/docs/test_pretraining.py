"""docs/pretraining.md: its code and its commands run, on small models, and its tables are what the package does."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import torch

from amd_hf import AMDConfig, AMDForPreTraining, AMDModel
from amd_hf.flops import pretraining_flops
from tests.helpers import miniatures
from tests.helpers.models import randomize
from tests.helpers.training import ROOT, load_script
from tests.helpers.videos import write_video


_TEXT = (ROOT / "docs" / "pretraining.md").read_text()
_PYTHON = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
_COMMANDS = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", _TEXT, re.DOTALL)]

_SIZES: dict[str, Any] = {
    "image_size": 32, "patch_size": 16, "num_frames": 4, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "teacher_hidden_size": 64, "student_direct_layers": [1, 2],
    "student_generation_layers": [1, 2], "teacher_direct_layers": [1, 3], "teacher_generation_layers": [1, 3],
    "student_mask_ratio": 0.75, "teacher_mask_ratio": 0.5,
}  # fmt: skip
_SMALL = [
    "--use_cpu", "true", "--bf16", "false", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "2",
    "--max_steps", "2", "--warmup_steps", "1", "--num_repetitions", "1", "--logging_steps", "1",
    "--teacher", "teacher", *(f"--model.{name}={value}" for name, value in _SIZES.items()),
]  # fmt: skip


def _table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its first two lines."""
    lines = _TEXT.split(f"## {heading}\n")[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every command of the page, run in its order in one folder, with a tiny model and teacher: command -> outcome."""
    folder = tmp_path_factory.mktemp("docs")
    for number in range(3):
        write_video(folder / "videos" / f"{number}.mp4", 20, 48, 48)
    miniatures.kinetics(folder / "k400")
    (folder / "configs").symlink_to(ROOT / "configs")
    torch.manual_seed(0)
    teacher = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "teacher_hidden_size": None}
    randomize(AMDModel(AMDConfig(**{**_SIZES, **teacher}))).save_pretrained(folder / "teacher")
    outcomes: dict[str, Any] = {"folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in _COMMANDS:
            start, program, *arguments = shlex.split(command)
            assert start == "amd-hf"
            arguments = ["teacher" if word == "MCG-NJU/videomae-large" else word for word in arguments]
            small = _SMALL if program == "pretrain" else ["--use_cpu"]
            outcomes[command] = load_script(program).main([*arguments, *small])
    return outcomes


@pytest.mark.parametrize("code", _PYTHON)
def test_code_runs(code: str) -> None:
    names: dict[str, Any] = {}
    exec(code, names)
    if "student = AMDForPreTraining" in code:
        config = names["student"].config
        assert (config.num_hidden_layers, config.teacher_generation_layers) == (8, [6, 12])
        assert isinstance(names["student"], AMDForPreTraining)
    else:
        assert names["gflops_per_clip"] == pytest.approx(444, abs=0.5)


def test_commands_run(runs: dict[str, Any]) -> None:
    assert len(_COMMANDS) == 3
    folder = runs["folder"]
    assert (folder / "my_student" / "model.safetensors").is_file()
    assert (folder / "speed" / "trainer_state.json").is_file()
    written = {path.name for path in (folder / "pictures").iterdir()}
    assert written == {"reconstructions.png", "similarity.json", "similarity.png"}


def test_entries_of_the_log_are_those_of_the_table(runs: dict[str, Any]) -> None:
    documented = {name for row in _table("Reading the log") for name in re.findall(r"`(\w+)`", row[0])}
    (entry,) = [log for log in runs[_COMMANDS[0]].state.log_history if log.get("loss") and log["step"] == 2]
    logged = entry.keys() - {"epoch", "step"}
    assert logged | {"unreadable_videos"} == documented


def test_table_of_recipes_names_them_all() -> None:
    named = {row[0].strip("`") for row in _table("The paper's recipes")}
    recipes = {path.name for path in (ROOT / "configs" / "pretrain").glob("amd_*.yaml")}
    assert named == {name for name in recipes if "in1k" not in name}  # images have a page of their own


def test_costs_are_those_of_the_formula() -> None:
    sizes = {"ViT-S": (384, 12, 6), "ViT-B": (768, 12, 12), "ViT-L": (1024, 24, 16)}
    teachers = (None, "ViT-B", "ViT-L")
    for student, *costs in _table("What it costs"):
        for teacher, cost in zip(teachers, costs, strict=True):
            width, layers, heads = sizes[student]
            decoder = {"decoder_hidden_size": width // 2, "decoder_num_attention_heads": heads // 2}
            config = AMDConfig(
                hidden_size=width, num_attention_heads=heads, **decoder, **_alignment(teacher, sizes)
            )  # fmt: skip
            other = None
            if teacher is not None:
                width, layers, heads = sizes[teacher]
                other = AMDConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
            assert cost == f"{pretraining_flops(config, other) / 1e9:.0f} GFLOPs"
    hours = 240_000 * 200 * 4 / 3600
    assert f"{hours:,.0f} GPU-hours" in _TEXT


def _alignment(teacher: str | None, sizes: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    if teacher is None:
        return {}
    width, layers, _ = sizes[teacher]
    aligned = [layers // 2, layers]
    return {"teacher_hidden_size": width, "teacher_direct_layers": aligned, "teacher_generation_layers": aligned}


def test_layers_to_align_are_the_middle_and_the_last() -> None:
    for student, teacher, ours, theirs in _table("Which layers to align"):
        for depth, aligned in ((student, ours), (teacher, theirs)):
            number = int(re.findall(r"\d+", depth)[0])
            assert aligned == f"[{number // 2}, {number}]"


def test_accumulation_steps_keep_the_batch() -> None:
    lines = [line for line in _TEXT.splitlines() if line.startswith(("| GPUs", "| `--gradient_accumulation_steps`"))]
    gpus, steps = ([int(cell) for cell in line.strip("| ").split("|")[1:]] for line in lines)
    assert [16 * a * b for a, b in zip(gpus, steps, strict=True)] == [512] * len(gpus)
