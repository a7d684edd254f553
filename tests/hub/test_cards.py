"""Cards of one's own runs: what they say is what the run's log, arguments, data and model say."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from amd_hf import AMDFineTuningTrainer, AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDTrainer
from amd_hf.data.arguments import FineTuningDataArguments
from amd_hf.hub.cards import card_problems, changed_options, licence_of, write_run_card
from amd_hf.hub.privacy import absolute_paths
from tests.helpers.models import tiny_config
from tests.helpers.training import (
    StackRows,
    finetuning_args,
    labelled_rows,
    masked_rows,
    pretraining_args,
)


@dataclass
class _Options:
    data: str | None = None
    train_split: str | None = None
    model_name_or_path: str | None = None
    class_names: list[str] = field(default_factory=list)


def _pretrained(folder: Path, teacher: Any, **changes: Any) -> AMDTrainer:
    config = tiny_config()
    args = pretraining_args(folder, max_steps=3, per_device_train_batch_size=2, **changes)
    trainer = AMDTrainer(
        AMDForPreTraining(config),
        args,
        teacher_model=teacher,
        data_collator=StackRows(),
        train_dataset=masked_rows(config, 6),
        eval_dataset=masked_rows(config, 4),
    )
    trainer.train()
    return trainer


def _finetuned(folder: Path) -> AMDFineTuningTrainer:
    config = tiny_config()
    args = finetuning_args(folder, max_steps=2, per_device_train_batch_size=2, weight_decay=0.1)
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config),
        args,
        data_collator=StackRows(),
        train_dataset=labelled_rows(config, 6),
        eval_dataset=labelled_rows(config, 5),
    )
    trainer.train()
    return trainer


def _cell(card: str, title: str) -> str:
    """What a card's table says under a title."""
    (value,) = re.findall(rf"^\| {re.escape(title)} \| (.+) \|$", card, flags=re.MULTILINE)
    return value


def test_card_of_pretraining_holds_the_figures_of_the_run(tmp_path: Path, teacher_model: AMDModel) -> None:
    teacher_model.save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# teacher\n")
    trainer = _pretrained(tmp_path / "out", str(tmp_path / "teacher"), base_learning_rate=0.128)
    metrics = trainer.evaluate()
    options = _Options(data=str(tmp_path / "my_videos"), train_split="train")
    command = ["scripts/pretrain.py", "--data", str(tmp_path / "my_videos"), "--output_dir", "out"]
    card = write_run_card(trainer, options=[options], command=command).read_text()

    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 3
    assert _cell(card, "losses at the first log") == f"{logs[0]['loss']:.6g}"
    last = _cell(card, "losses at the last log")
    for name in ("loss", "loss_reconstruction", "loss_direct", "loss_generation"):
        assert f"`{name}` {logs[-1][name]:.6g}" in last
    assert _cell(card, "evaluation loss") == f"{metrics['eval_loss']:.6g}"
    assert "The evaluation counts 4 videos, of which 4 could be read." in card
    assert _cell(card, "steps") == "3 of 3"
    assert _cell(card, "training videos") == "6"
    assert _cell(card, "name") == "my_videos"
    assert _cell(card, "highest learning rate") == f"{0.128 * 2 / 256:g}"
    assert "- `base_learning_rate`: 0.128\n" in card
    assert "- `train_split`: train\n" in card
    assert "`hidden_size` 32" in _cell(card, "options that differ from their defaults")
    assert "- Teacher (PATH/teacher): cc-by-nc-4.0." in card
    assert "python scripts/pretrain.py --data PATH/my_videos --output_dir out" in card
    assert "![losses](losses.png)" in card
    assert (tmp_path / "out" / "losses.png").stat().st_size > 1000
    assert card_problems(card) == []
    assert absolute_paths(card) == []


def test_other_figure_in_the_log_is_another_figure_on_the_card(tmp_path: Path, teacher_model: AMDModel) -> None:
    trainer = _pretrained(tmp_path, teacher_model)
    before = write_run_card(trainer).read_text()
    last = next(entry for entry in reversed(trainer.state.log_history) if "loss" in entry)
    true_value = f"`loss_direct` {last['loss_direct']:.6g}"
    assert true_value in before
    last["loss_direct"] = 0.123457
    after = write_run_card(trainer).read_text()
    assert "`loss_direct` 0.123457" in after
    assert true_value not in after


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    config = tiny_config(teacher_hidden_size=None)
    args = pretraining_args(tmp_path)
    trainer = AMDTrainer(
        AMDForPreTraining(config), args, data_collator=StackRows(), train_dataset=masked_rows(config, 4)
    )
    card = write_run_card(trainer, command=["/usr/bin/ipython"]).read_text()
    assert "Not measured: the run had no evaluation and no test." in card
    assert _cell(card, "losses at the last log") == "not measured"
    assert _cell(card, "steps") == "none"
    assert _cell(card, "teacher") == "none"
    assert _cell(card, "name") == "not recorded"
    assert "No picture of the losses: no loss was logged." in card
    assert "The command was not recorded" in card
    assert "- Teacher" not in card
    assert card_problems(card) == []


def test_card_of_a_classifier_has_its_accuracies_in_the_metadata(tmp_path: Path) -> None:
    trainer = _finetuned(tmp_path)
    metrics = trainer.evaluate()
    test = {"accuracy": 0.4375, "videos_expected": 16, "videos_read": 15}
    options = _Options(data="videos", model_name_or_path="MCG-NJU/videomae-large")
    card = write_run_card(trainer, options=[options], test_metrics=test).read_text()
    assert card_problems(card) == []
    data = ModelCard(card).data
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {
        "test accuracy (%)": 43.75,
        "evaluation accuracy (%)": round(100 * metrics["eval_accuracy"], 6),
    }
    assert data.pipeline_tag == "video-classification"
    assert data.base_model == ["MCG-NJU/videomae-large"]
    assert data.license is None
    assert "The test counts 16 videos, of which 15 could be read." in card
    assert "- Start (MCG-NJU/videomae-large): CC-BY-NC 4.0" in card
    assert _cell(card, "classes") == "5"


@pytest.mark.parametrize(
    ("options", "split", "name"),
    [
        ({"test_split": "validation"}, "validation", "validation accuracy (final test)"),
        ({"test_split": "test"}, "test", "test accuracy"),
        ({"validation_fraction": 0.25}, "validation", "validation accuracy (final test)"),
        ({"test_data": "others"}, None, "test accuracy"),
    ],
    ids=["validation", "test", "held out", "not known"],
)
def test_card_calls_a_split_by_its_name(tmp_path: Path, options: dict[str, Any], split: str | None, name: str) -> None:
    data = FineTuningDataArguments(data="videos", **options)
    test = {"accuracy": 0.4375, "videos_expected": 16, "videos_read": 15}
    card = write_run_card(_finetuned(tmp_path), options=[data], test_metrics=test).read_text()
    assert card_problems(card) == []
    (result,) = [result for result in ModelCard(card).data.eval_results if "evaluation" not in result.metric_name]
    assert (result.metric_name, result.dataset_split) == (f"{name} (%)", split)
    assert f"| {name} | 0.4375 |" in card
    where = "The test counts" if split is None else f"The test on the split {split} counts"
    assert f"{where} 16 videos, of which 15 could be read." in card


def test_command_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _finetuned(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/examples/demo.py", "--output_dir", "/mnt/a/my run"])
    card = write_run_card(trainer).read_text()
    (command,) = re.findall(r"```bash\n(.+)\n```", card)
    assert shlex.split(command)[:3] == ["python", "examples/demo.py", "--output_dir"]
    assert "/mnt" not in card


def test_missing_matplotlib_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = _finetuned(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "No picture of the losses: matplotlib is not installed." in write_run_card(trainer).read_text()


def test_only_options_that_differ_are_listed(tmp_path: Path) -> None:
    assert changed_options(_Options()) == {}
    assert changed_options(_Options(class_names=["a"])) == {"class_names": ["a"]}
    changed = changed_options(pretraining_args(tmp_path, num_train_epochs=7, direct_weight=0.5))
    assert changed["num_train_epochs"] == 7
    assert changed["direct_weight"] == 0.5
    given = {"num_train_epochs", "direct_weight", "num_repetitions", "warmup_epochs", "max_grad_norm"}
    assert changed.keys() <= given | {"use_cpu", "save_strategy", "logging_steps"}
    assert changed["use_cpu"] is True


def test_licences_come_from_facts_and_cards_only(tmp_path: Path) -> None:
    assert licence_of("MCG-NJU/videomae-large").startswith("CC-BY-NC 4.0")
    assert licence_of("somebody/something") == "not stated"
    assert licence_of(str(tmp_path)) == "not stated"
    assert licence_of(None) == "not stated"


def test_command_on_the_card_is_the_one_that_starts_the_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _finetuned(tmp_path)
    module = "/env/lib/amd_hf/cli/finetune.py"  # `python -m amd_hf.cli.finetune`
    for program, num_processes, shown in (
        ("/env/bin/amd-hf finetune", 1, "amd-hf finetune --data x"),
        ("/env/lib/amd_hf/__main__.py finetune", 1, "amd-hf finetune --data x"),
        (module, 1, "amd-hf finetune --data x"),
        (module, 4, "accelerate launch --num_processes 4 -m amd_hf.cli.finetune --data x"),
        ("/clone/scripts/finetune.py", 1, "python scripts/finetune.py --data x"),
        ("/clone/scripts/finetune.py", 4, "accelerate launch --num_processes 4 scripts/finetune.py --data x"),
        ("/env/bin/jupyter", 1, None),
    ):
        monkeypatch.setattr(type(trainer.args), "world_size", num_processes)
        card = write_run_card(trainer, command=[*program.split(), "--data", "x"]).read_text()
        assert (f"```bash\n{shown}\n```" in card) == (shown is not None), program
        assert ("The command was not recorded" in card) == (shown is None), program
