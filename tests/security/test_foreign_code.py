"""Code of others: not named by what we save, refused where it would be published, never run unasked."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoImageProcessor

from amd_hf import (
    AMDConfig,
    AMDFineTuningTrainer,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDVideoProcessor,
    load_teacher,
)
from amd_hf.configuration_amd import OUR_CODE
from amd_hf.hub.publishing import prepare_folder, upload
from amd_hf.models import build_classifier, build_processor, load_model, load_processor
from tests.helpers.hub import CARD
from tests.helpers.images import image_config
from tests.helpers.models import randomize, tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows


STRANGERS = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForVideoClassification": "somebody/else--evil.Model",
    "AutoModelForPreTraining": "../evil.Model",
    "AutoTokenizer": ["evil.Slow", "evil.Fast"],
    "AMDForActionDetection": "evil.Detector",
}
PIPELINES = {"video-classification": {"impl": "evil.Pipeline", "pt": ["AutoModel"], "type": "video"}}


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that only a stranger's code makes."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "canary"


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    build_processor(model.config).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def strangers_folder(tmp_path: Path, canary: Path) -> Path:
    """A model whose config and processor send readers to code that leaves a canary."""
    folder = _save(randomize(AMDForVideoClassification(tiny_config(image_size=16, num_labels=5))), tmp_path / "theirs")
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Model: pass\nConfig = Model\n")
    _change(folder / "config.json", auto_map=STRANGERS, custom_pipelines=PIPELINES)
    _change(folder / "video_preprocessor_config.json", auto_map={"AutoVideoProcessor": "evil.Model"})
    return folder


def _named(value: Any) -> set[str]:
    """Whatever settings say under the keys that name code."""
    if isinstance(value, list):
        return set().union(*map(_named, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    found: set[str] = set()
    for key, item in value.items():
        if key in ("auto_map", "custom_pipelines"):
            found |= set(map(str, item.values()))
        else:
            found |= _named(item)
    return found


def _check_only_ours(folder: Path) -> None:
    ours = {*OUR_CODE.values(), "video_processing_amd.AMDVideoProcessor"}
    for path in folder.rglob("*.json"):
        assert _named(json.loads(path.read_text())) <= ours, path
        assert "evil" not in path.read_text(), path
    assert not list(folder.rglob("evil.py"))


def test_fine_tuned_model_names_only_our_code(strangers_folder: Path, tmp_path: Path, canary: Path) -> None:
    model = build_classifier(str(strangers_folder), ["a", "b", "c", "d", "e"])
    args = finetuning_args(tmp_path / "out", max_steps=1, per_device_train_batch_size=2, save_strategy="steps")
    trainer = AMDFineTuningTrainer(
        model, args, data_collator=StackRows(), train_dataset=labelled_rows(model.config, 4),
        processing_class=AMDVideoProcessor.from_pretrained(strangers_folder),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    _check_only_ours(tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["auto_map"] == {key: name for key, name in OUR_CODE.items() if key != "AMDForActionDetection"}
    assert not canary.exists()


@pytest.mark.parametrize("kind", [AMDForVideoClassification, AMDForPreTraining])
def test_model_saved_again_names_only_our_code(kind: Any, strangers_folder: Path, tmp_path: Path) -> None:
    model = kind.from_pretrained(strangers_folder, config=AMDConfig.from_pretrained(strangers_folder))
    model.save_pretrained(tmp_path / "again")
    AMDConfig.from_pretrained(strangers_folder).save_pretrained(tmp_path / "config_alone")
    AutoConfig.from_pretrained(strangers_folder).save_pretrained(tmp_path / "config_by_auto_class")
    AMDVideoProcessor.from_pretrained(strangers_folder).save_pretrained(tmp_path / "again")
    for name in ("again", "config_alone", "config_by_auto_class"):
        _check_only_ours(tmp_path / name)


def test_image_processor_saved_again_names_no_code(tmp_path: Path, canary: Path) -> None:
    folder = _save(AMDForImageClassification(image_config()), tmp_path / "theirs")
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    _change(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Model"})
    processor = load_processor(folder, AMDConfig.from_pretrained(folder))
    processor.save_pretrained(tmp_path / "again")
    _check_only_ours(tmp_path / "again")
    assert type(processor) is type(AutoImageProcessor.from_pretrained(tmp_path / "again"))
    assert not canary.exists()


def test_class_of_ones_own_is_entered_when_it_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model.py").write_text(
        "from amd_hf import AMDForVideoClassification\nclass MyModel(AMDForVideoClassification):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_model  # type: ignore[import-not-found]

    my_model.MyModel.register_for_auto_class("AutoModelForVideoClassification")
    my_model.MyModel(tiny_config()).save_pretrained(tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["auto_map"]["AutoModelForVideoClassification"] == "my_model.MyModel"
    sys.modules.pop("my_model")


READERS: dict[str, Callable[[Path], Any]] = {
    "load_model": load_model,
    "load_teacher": lambda folder: load_teacher(str(folder), layers=[2]),
    "build_classifier": lambda folder: build_classifier(str(folder), list("abcde")),
    "processor": lambda folder: load_processor(folder, AMDConfig.from_pretrained(folder)),
    "config": AMDConfig.from_pretrained,
    "model": AMDForVideoClassification.from_pretrained,
}


@pytest.mark.parametrize("reader", READERS)
def test_code_beside_a_model_is_never_run_unasked(reader: str, strangers_folder: Path, canary: Path) -> None:
    READERS[reader](strangers_folder)
    assert not canary.exists()


# ---- Publishing ----


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return _save(randomize(AMDForVideoClassification(tiny_config(image_size=16))), tmp_path / "out")


def _prepare(saved: Path) -> Any:
    return prepare_folder(saved, saved.parent / "ready", "me/model")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the last check, a process that takes seconds, where a test is of files alone."""
    monkeypatch.setattr("amd_hf.hub.checks._other_answers", lambda *_: [])


def _refused(saved: Path) -> str:
    with pytest.raises(ValueError, match="is not fit to be published:") as caught:
        _prepare(saved)
    return str(caught.value)


@pytest.mark.parametrize("entry", STRANGERS.items(), ids=STRANGERS)
def test_foreign_entry_is_refused_by_name(entry: tuple[str, Any], saved: Path) -> None:
    name, code = entry
    _change(saved / "config.json", auto_map={name: code})
    message = _refused(saved)
    assert "config.json names code that is not this package's, which whoever loads the model would run" in message
    assert f"auto_map.{name} = " in message
    assert not (saved.parent / "ready").exists()


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"custom_pipelines": PIPELINES}),
        ("config.json", {"task_specific_params": {"x": [{"auto_map": {"AutoModel": "evil.Model"}}]}}),
        ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "evil.Model"}}),
        ("video_preprocessor_config.json", {"auto_map": {"AutoModel": "modeling_amd.AMDModel"}}),
        ("processor_config.json", {"video_processor": {"auto_map": {"AutoVideoProcessor": "a/b--c.D"}}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.Model"}}),
    ],
)
def test_foreign_code_in_any_settings_is_refused(file: str, changes: dict[str, Any], saved: Path) -> None:
    if not (saved / file).exists():
        (saved / file).write_text("{}")
    _change(saved / file, **changes)
    assert f"{file} names code that is not this package's" in _refused(saved)


@pytest.mark.usefixtures("unread")
def test_foreign_program_is_refused_and_ours_is_written_anew(saved: Path) -> None:
    (saved / "modeling_amd.py").write_text("raise SystemExit('changed')\n")
    prepared = _prepare(saved)
    assert "raise SystemExit" not in (prepared.folder / "modeling_amd.py").read_text()
    (saved / "evil.py").write_text("print(1)\n")
    assert "evil.py is code that is not this package's" in _refused(saved)


def test_shards_outside_of_the_folder_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved / "model.safetensors", tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.weight": "../elsewhere.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names weights that are no file of this folder: '../elsewhere.safetensors'" in _refused(saved)


def test_folder_that_only_this_machine_can_load_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader has no amd_hf: code that imports it fails there."""
    from amd_hf.hub import checks, publishing

    other = saved.parent / "code"
    other.mkdir()
    for path in checks.code_files(AMDForVideoClassification):
        shutil.copy(path, other)
    text = (other / "modeling_amd.py").read_text()
    (other / "modeling_amd.py").write_text(text.replace("import torch\n", "import torch\nimport amd_hf\n", 1))
    for module in (checks, publishing):
        monkeypatch.setattr(module, "code_files", lambda kind: sorted(other.iterdir()))
    assert "it cannot be loaded where this package is not installed" in _refused(saved)


# ---- Links and other surprises ----


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere"
    path.mkdir()
    (path / "secret.txt").write_text("outside of the folder")
    return path


def _absolute(saved: Path, outside: Path) -> str:
    (saved / "LICENSE").symlink_to(outside / "secret.txt")
    return "LICENSE"


def _relative(saved: Path, outside: Path) -> str:
    (saved / "LICENSE").symlink_to("../elsewhere/secret.txt")
    return "LICENSE"


def _chain(saved: Path, outside: Path) -> str:
    (saved / "LICENSE.txt").symlink_to(outside / "secret.txt")
    (saved / "LICENSE").symlink_to("LICENSE.txt")
    return "LICENSE"


def _to_folder(saved: Path, outside: Path) -> str:
    (saved / "losses.png").symlink_to(outside)
    return "losses.png"


def _to_what_stays(saved: Path, outside: Path) -> str:
    (saved / "notes.txt").write_text("stays here")
    (saved / "LICENSE").symlink_to("notes.txt")
    return "LICENSE"


def _circle(saved: Path, outside: Path) -> str:
    (saved / "LICENSE").symlink_to("NOTICE")
    (saved / "NOTICE").symlink_to("LICENSE")
    return "LICENSE"


def _nowhere(saved: Path, outside: Path) -> str:
    (saved / "LICENSE").symlink_to("gone")
    return "LICENSE"


def _pipe(saved: Path, outside: Path) -> str:
    os.mkfifo(saved / "losses.png")
    return "losses.png"


def _device(saved: Path, outside: Path) -> str:
    (saved / "losses.png").symlink_to("/dev/zero")
    return "losses.png"


def _folder(saved: Path, outside: Path) -> str:
    (saved / "losses.png").mkdir()
    return "losses.png"


def _weights(saved: Path, outside: Path) -> str:
    shutil.move(saved / "model.safetensors", outside)
    (saved / "model.safetensors").symlink_to(outside / "model.safetensors")
    return "model.safetensors"


SURPRISES = [
    _absolute,
    _relative,
    _chain,
    _to_folder,
    _to_what_stays,
    _circle,
    _nowhere,
    _pipe,
    _device,
    _folder,
    _weights,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("surprise", SURPRISES, ids=lambda make: make.__name__)
def test_link_out_of_the_folder_is_refused(surprise: Any, saved: Path, outside: Path) -> None:
    name = surprise(saved, outside)
    message = _refused(saved)
    assert f"- {name} is a link" in message or f"- {name} is no file" in message
    assert not (saved.parent / "ready").exists()


@pytest.mark.usefixtures("unread")
def test_only_files_of_the_list_go_and_the_rest_is_named(saved: Path, outside: Path) -> None:
    for name in (".git", ".cache", "checkpoint-3", "__pycache__", "wandb", "runs"):
        (saved / name).mkdir()
        (saved / name / "config").write_text("x")
    for name in (
        ".env",
        "training_args.bin",
        "optimizer.pt",
        "trainer_state.json",
        "notes.txt",
        "a.csv",
        "LICENSE_KEY",
    ):
        (saved / name).write_text("x")
    (saved / "data").symlink_to(outside)
    (saved / "LICENSE-weights.txt").write_text("MIT")
    (saved / "LICENSE").symlink_to("LICENSE-weights.txt")  # a link that stays inside is a file to the reader
    prepared = _prepare(saved)
    assert {path.name for path in prepared.folder.iterdir()} == prepared.files.keys()
    assert not any(path.is_symlink() for path in prepared.folder.iterdir())
    assert (prepared.folder / "LICENSE").read_text() == "MIT"
    left = {
        ".git", ".cache", "checkpoint-3", "__pycache__", "wandb", "runs", ".env", "training_args.bin", "optimizer.pt",
        "trainer_state.json", "notes.txt", "a.csv", "LICENSE_KEY", "data",
    }  # fmt: skip
    assert set(prepared.left_out) == left
    assert f"left out: {', '.join(sorted(left))}" in str(prepared)


@pytest.mark.usefixtures("unread")
def test_folder_that_changes_after_the_check_is_not_uploaded(saved: Path, outside: Path) -> None:
    prepared = _prepare(saved)
    (prepared.folder / "README.md").unlink()
    (prepared.folder / "README.md").symlink_to(outside / "secret.txt")
    with pytest.raises(ValueError, match="has changed since it was checked"):
        upload(prepared, "me/model")
