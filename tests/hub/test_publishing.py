"""What a folder must be like to be published, and what of it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amd_hf import AMDForPreTraining, AMDForVideoClassification, AMDModel, AMDVideoProcessor
from amd_hf.hub.publishing import prepare_folder
from tests.helpers.hub import CARD, CODE, PUBLISHED, save_classifier
from tests.helpers.models import randomize, tiny_config


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder as a run leaves it: the model, its card, and what is not to be published."""
    folder = tmp_path / "out"
    save_classifier(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "losses.png").write_bytes(b"\x89PNG")
    (folder / "checkpoint-3").mkdir()
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "checkpoint-3/optimizer.pt"):
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the last check, a process that takes seconds, where a test is of files alone."""
    monkeypatch.setattr("amd_hf.hub.checks._other_answers", lambda *_: [])


def _prepare(saved: Path) -> Path:
    return prepare_folder(saved, saved.parent / "ready", "me/model").folder


def _refused(saved: Path) -> str:
    with pytest.raises(ValueError, match="is not fit to be published:") as caught:
        _prepare(saved)
    return str(caught.value)


def test_prepared_folder_holds_what_is_to_be_published_and_no_more(saved: Path) -> None:
    prepared = prepare_folder(saved, saved.parent / "ready", "me/model")
    assert prepared.files.keys() == PUBLISHED | {"losses.png"}
    assert {path.name for path in prepared.folder.iterdir()} == prepared.files.keys()
    assert prepared.left_out == ["checkpoint-3", "optimizer.pt", "trainer_state.json", "training_args.bin"]
    assert prepared.warnings == []
    for name, size in prepared.files.items():
        assert (prepared.folder / name).stat().st_size == size
        assert f"{size:,}  {name}" in str(prepared)
    assert f"{sum(prepared.files.values()):,}  bytes in {len(prepared.files)} files" in str(prepared)


@pytest.mark.usefixtures("unread")
def test_preparing_again_replaces_what_was_there(saved: Path) -> None:
    target = _prepare(saved)
    (saved / "losses.png").unlink()
    (saved / "README.md").write_text(CARD + "new\n")
    assert _prepare(saved) == target
    assert {path.name for path in target.iterdir()} == PUBLISHED
    assert "new" in (target / "README.md").read_text()


def test_folder_with_other_things_is_left_alone(saved: Path) -> None:
    (saved.parent / "ready").mkdir()
    precious = saved.parent / "ready" / "thesis.tex"
    precious.write_text("mine")
    with pytest.raises(ValueError, match=r"holds other things \(thesis.tex\)"):
        _prepare(saved)
    assert precious.read_text() == "mine"


def test_folder_of_an_earlier_version_gets_the_code(saved: Path) -> None:
    for name in CODE:
        (saved / name).unlink()
    for name in ("config.json", "video_preprocessor_config.json"):
        settings = json.loads((saved / name).read_text())
        del settings["auto_map"]
        (saved / name).write_text(json.dumps(settings))
    target = _prepare(saved)
    assert CODE <= {path.name for path in target.iterdir()}
    auto_map = json.loads((target / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForVideoClassification"] == "modeling_amd.AMDForVideoClassification"
    processor = json.loads((target / "video_preprocessor_config.json").read_text())
    assert processor["auto_map"] == {"AutoVideoProcessor": "video_processing_amd.AMDVideoProcessor"}


@pytest.mark.parametrize("kind", [AMDModel, AMDForPreTraining])
def test_encoders_and_pretraining_models_can_be_published(kind: type, tmp_path: Path) -> None:
    model = randomize(kind(tiny_config(image_size=16)))
    model.save_pretrained(tmp_path / "out")
    AMDVideoProcessor.for_model(model.config).save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text(CARD)
    assert {path.name for path in _prepare(tmp_path / "out").iterdir()} == PUBLISHED


def test_absolute_path_in_the_config_is_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["name_or_path"] = "/home/somebody/models/teacher"
    (saved / "config.json").write_text(json.dumps(config))
    assert "config.json tells the absolute path /home/somebody/models/teacher" in _refused(saved)


def test_absolute_paths_in_card_and_weights_are_refused(saved: Path) -> None:
    (saved / "README.md").write_text(CARD + "Trained on /mnt/videos/k400.\n")
    weights = load_file(saved / "model.safetensors")
    save_file(weights, saved / "model.safetensors", {"format": "pt", "source": "/data/runs/7"})
    message = _refused(saved)
    assert "README.md tells the absolute path /mnt/videos/k400" in message
    assert "model.safetensors tells the absolute path /data/runs/7" in message


@pytest.mark.usefixtures("unread")
def test_user_name_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "marypoppins")
    assert _prepare(saved)
    (saved / "README.md").write_text(CARD + "By marypoppins.\n")
    assert "README.md tells the user name marypoppins" in _refused(saved)


def test_card_is_asked_for_and_checked(saved: Path) -> None:
    (saved / "README.md").write_text(CARD.replace("video-classification", "videos"))
    assert "README.md: `pipeline_tag` 'videos' is no pipeline" in _refused(saved)
    (saved / "README.md").unlink()
    assert "there is no README.md" in _refused(saved)


def test_missing_processor_is_named(saved: Path) -> None:
    (saved / "video_preprocessor_config.json").unlink()
    assert "there is no video_preprocessor_config.json" in _refused(saved)


def test_tensors_of_an_optimizer_are_refused(saved: Path) -> None:
    save_file({"state.0.exp_avg": torch.zeros(3)}, saved / "optimizer.safetensors")
    message = _refused(saved)
    assert "1 tensors are no weights of AMDForVideoClassification: state.0.exp_avg" in message


def test_missing_weight_is_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of AMDForVideoClassification: classifier\.weight"):
        _prepare(saved)


def test_code_that_answers_otherwise_is_refused(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amd_hf.hub import checks, publishing

    other = tmp_path / "code"
    other.mkdir()
    for path in checks.code_files(AMDForVideoClassification):
        text = path.read_text().replace("self.norm1(hidden_states)", "hidden_states")
        (other / path.name).write_text(text)
    for module in (checks, publishing):
        monkeypatch.setattr(module, "code_files", lambda kind: sorted(other.iterdir()))
    assert "loaded by its own code it answers otherwise" in _refused(saved)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it has no config.json"):
        prepare_folder(tmp_path, tmp_path / "ready", "me/model")
    (tmp_path / "config.json").write_text('{"model_type": "videomae"}')
    with pytest.raises(ValueError, match="holds no `amd` model: convert it first"):
        prepare_folder(tmp_path, tmp_path / "ready", "me/model")
    with pytest.raises(ValueError, match="'me/a/b' is no id of the Hub"):
        prepare_folder(tmp_path, tmp_path / "ready", "me/a/b")


@pytest.mark.usefixtures("unread")
def test_authors_weights_are_warned_of(saved: Path) -> None:
    page = Path(__file__).parents[2] / "model_cards" / "amd-vit-small-k400-finetuned.md"
    (saved / "README.md").write_text(page.read_text())
    (warning,) = prepare_folder(saved, saved.parent / "ready", "me/model").warnings
    assert "who state no licence for them: ask them before you publish" in warning
    (saved / "README.md").write_text(CARD.replace("license: mit\n", ""))
    (warning,) = prepare_folder(saved, saved.parent / "ready", "me/model").warnings
    assert warning == "README.md names no `license` for the weights"
