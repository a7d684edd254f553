"""`push_to_hub.py` and `Trainer.push_to_hub` against a stand-in for the Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.hub import CARD, PUBLISHED, hub_stand_in, save_classifier
from tests.helpers.training import ROOT, one_error_line


_NO_HUB = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "my_model"
    save_classifier(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "optimizer.pt").write_bytes(b"state")
    return folder


def _run(endpoint: str, tmp_path: Path, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": str(int(offline)), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, cwd=tmp_path)


def _push(endpoint: str, folder: Path, *more: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    program = str(ROOT / "scripts" / "push_to_hub.py")
    arguments = ("--model_name_or_path", str(folder), "--repo_id", "me/model", *more)
    return _run(endpoint, folder.parent, program, *arguments, offline=offline)


def test_exactly_the_expected_files_are_uploaded(saved: Path) -> None:
    with hub_stand_in() as hub:
        outcome = _push(hub.address, saved, "--private")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert hub.files.keys() == PUBLISHED
    for name, content in hub.files.items():
        assert content == (saved.parent / "my_model-hub" / name).read_bytes()
    assert hub.files["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    (created,) = hub.created
    assert (created["organization"], created["name"], created["visibility"]) == ("me", "model", "private")
    asked = [call for call in hub.calls if call.startswith("POST")]
    assert asked[0] == "POST /api/repos/create"
    assert asked[-1] == "POST /api/models/me/model/commit/main"
    assert "left out: optimizer.pt" in outcome.stdout
    for name in PUBLISHED:
        assert f"{len(hub.files[name]):,}  {name}" in outcome.stdout
    assert "Published: " in outcome.stdout


def test_dry_run_asks_the_hub_for_nothing(saved: Path, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    push = program("push_to_hub")
    monkeypatch.setattr(push, "upload", lambda *_, **__: pytest.fail("asked the Hub"))
    push.main(["--model_name_or_path", str(saved), "--repo_id", "me/model", "--dry_run"])
    assert {path.name for path in (saved.parent / "my_model-hub").iterdir()} == PUBLISHED


@pytest.mark.parametrize("offline", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_a_network_everything_is_ready_and_one_line_says_so(saved: Path, offline: bool) -> None:
    outcome = _push(_NO_HUB, saved, offline=offline)
    assert outcome.returncode == 2
    line = one_error_line(outcome.stderr)
    assert "The Hub cannot be reached" in line
    assert "Everything is ready in" in line
    assert {path.name for path in (saved.parent / "my_model-hub").iterdir()} == PUBLISHED


def test_folder_with_an_absolute_path_is_refused_before_the_hub_is_asked(saved: Path) -> None:
    config = saved / "config.json"
    config.write_text(config.read_text().replace("{", '{"name_or_path": "/home/somebody/teacher",', 1))
    with hub_stand_in() as hub:
        outcome = _push(hub.address, saved)
    assert outcome.returncode == 2
    assert "config.json tells the absolute path /home/somebody/teacher" in one_error_line(outcome.stderr)
    assert hub.calls == []


@pytest.mark.slow
def test_refusal_of_the_hub_is_one_line(saved: Path) -> None:
    with hub_stand_in(refuses=True) as hub:
        outcome = _push(hub.address, saved)
    assert outcome.returncode == 2
    assert "The Hub refused (" in one_error_line(outcome.stderr)


def test_missing_options_are_named(program: Any) -> None:
    with pytest.raises(ValueError, match="--model_name_or_path FOLDER --repo_id OWNER/NAME"):
        program("push_to_hub").main(["--repo_id", "me/model"])


_TRAINING = """
from pathlib import Path
from amd_hf import AMDForVideoClassification, AMDFineTuningTrainer, AMDVideoProcessor
from tests.helpers.models import tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows

config = tiny_config(image_size=16)
args = finetuning_args("run", max_steps=2, per_device_train_batch_size=2, push_to_hub=True, hub_model_id="me/run",
                       save_strategy="steps", save_steps=1)
trainer = AMDFineTuningTrainer(AMDForVideoClassification(config), args, data_collator=StackRows(),
                  train_dataset=labelled_rows(config, 4), eval_dataset=labelled_rows(config, 3),
                  processing_class=AMDVideoProcessor.for_model(config))
trainer.train()
trainer.save_model()
assert Path("run/README.md").is_file()
accuracy = trainer.evaluate()["eval_accuracy"]
print("accuracy", accuracy)
Path("before").write_text("the Hub was asked for nothing so far")
print(trainer.push_to_hub())
"""


def test_trainer_publishes_the_checked_folder_when_asked_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_TRAINING)
    with hub_stand_in() as hub:
        outcome = _run(hub.address, tmp_path, "train.py")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert hub.files.keys() == PUBLISHED | {"losses.png"}
    card = hub.files["README.md"].decode()
    accuracy = float(outcome.stdout.split("accuracy ")[1].split()[0])
    assert f"| evaluation accuracy | {accuracy:.6g} |" in card or f"| evaluation accuracy | {accuracy:,.0f} |" in card
    assert "left out: " in outcome.stdout
    assert "checkpoint-2" in outcome.stdout


@pytest.mark.slow
def test_trainer_without_a_network_trains_and_says_so_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_TRAINING)
    outcome = _run(_NO_HUB, tmp_path, "train.py")
    assert outcome.returncode == 1
    assert (tmp_path / "before").is_file()
    assert "ConnectionError: The Hub cannot be reached" in outcome.stderr
    assert (tmp_path / "run-hub" / "README.md").is_file()
