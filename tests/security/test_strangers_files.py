"""Files of strangers run no code and reach no other file: an attack would leave a canary, or read or write outside."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amd_hf import (
    AMDFineTuningTrainer,
    AMDForVideoClassification,
    AMDModel,
    convert_checkpoint,
    load_teacher,
    load_video_dataset,
)
from amd_hf.data.datasets.label_names import read_label_names
from amd_hf.evaluation.multiview import MultiViewResult
from amd_hf.evaluation.report import write_report
from amd_hf.models import load_model
from amd_hf.options.parsing import parse_recipe
from amd_hf.options.recipe_files import load_yaml
from amd_hf.training.checkpoints import mark_checkpoint
from studies.grid import read_grid
from tests.helpers.hub import save_classifier
from tests.helpers.models import tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows
from tests.helpers.videos import write_video


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The file that an attack makes; it must not be there in the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the attack ran"


class _Payload:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def _hidden_payload(canary: Path) -> argparse.Namespace:
    """Inside the one class that is let through."""
    return argparse.Namespace(args={"deep": [_Payload(canary)]})


# ---- Pickles ----


def test_payload_works(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    path = tmp_path / "works"
    pickle.loads(pickle.dumps(_Payload(path)))
    assert path.exists()


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "plain pickle": lambda value, path: path.write_bytes(pickle.dumps(value)) and None,
}
CONTENTS: dict[str, Callable[[Path], Any]] = {
    "value": _Payload,
    "state dict": lambda canary: {"model": {"patch_embed.proj.weight": torch.zeros(3), "x": _Payload(canary)}},
    "beside the tensors": lambda canary: {
        "model": {"patch_embed.proj.weight": torch.zeros(3)},
        "args": _Payload(canary),
    },
    "arguments of the authors": lambda canary: {"model": {"x": torch.zeros(3)}, "args": _hidden_payload(canary)},
}
LOADERS: dict[str, Callable[[Path], Any]] = {
    "convert": lambda path: convert_checkpoint(path),
    "model": lambda path: load_model(path),
    "teacher": lambda path: load_teacher(path, layers=[1]),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("loader", LOADERS)
def test_pickle_given_as_a_checkpoint_runs_nothing(
    writer: str, content: str, loader: str, tmp_path: Path, canary: Path
) -> None:
    path = tmp_path / "stranger.pth"
    WRITERS[writer](CONTENTS[content](canary), path)
    with pytest.raises(ValueError, match="cannot be loaded safely|not a readable checkpoint"):
        LOADERS[loader](path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    save_classifier(path)
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin"])
def test_pickled_weights_of_a_folder_run_nothing(name: str, folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": _Payload(canary)}, folder / name)
    for load in (load_model, AMDForVideoClassification.from_pretrained, AMDModel.from_pretrained):
        with pytest.raises((OSError, ValueError, pickle.UnpicklingError, RuntimeError)):
            load(folder)


def test_pickles_beside_a_model_are_not_opened(folder: Path, canary: Path) -> None:
    names = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "scaler.pt")
    for name in names:
        torch.save(_Payload(canary), folder / name)
    for kind in (AMDForVideoClassification, AMDModel):
        kind.from_pretrained(folder)
    load_model(folder)
    load_teacher(str(folder), layers=[1])


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_pickle_in_a_checkpoint_of_a_run_runs_nothing(name: str, tmp_path: Path, canary: Path) -> None:
    def trainer() -> AMDFineTuningTrainer:
        config = tiny_config()
        args = finetuning_args(
            tmp_path / "out", max_steps=2, per_device_train_batch_size=2, save_strategy="steps", save_steps=1
        )
        return AMDFineTuningTrainer(
            AMDForVideoClassification(config), args, data_collator=StackRows(), train_dataset=labelled_rows(config, 4)
        )

    trainer().train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    torch.save(_Payload(canary), checkpoint / name)
    mark_checkpoint(checkpoint)  # by somebody who knows how: the hashes are right
    try:
        trainer().train(resume_from_checkpoint=str(checkpoint))
    except (pickle.UnpicklingError, ValueError, RuntimeError):
        assert name != "training_args.bin"  # which nobody opens
    else:
        assert name == "training_args.bin"


def test_state_of_a_checkpoint_is_data(tmp_path: Path, canary: Path) -> None:
    """Text in `trainer_state.json` that is a program anywhere else."""
    program = f"__import__('os').mkdir({str(canary)!r})"
    assert load_yaml(json.dumps({"log_history": [program]}), "it") == {"log_history": [program]}


# ---- YAML and templates ----

_YAML = [
    "!!python/object/apply:os.mkdir [{canary}]",
    "output_dir: !!python/object/apply:os.mkdir [{canary}]",
    "output_dir: !!python/object/new:os.mkdir [{canary}]",
    "output_dir: !!python/name:os.mkdir",
    "output_dir: !!python/module:os",
    "model: {{a: !!python/object/apply:os.mkdir [{canary}]}}",
]


@pytest.mark.parametrize("text", _YAML)
def test_yaml_recipe_makes_no_objects(text: str, tmp_path: Path, canary: Path) -> None:
    from amd_hf import AMDFineTuningArguments

    (tmp_path / "recipe.yaml").write_text(text.format(canary=canary))
    with pytest.raises(ValueError, match="is not valid YAML"):
        parse_recipe((AMDFineTuningArguments,), ["--recipe", str(tmp_path / "recipe.yaml")])
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_grid(tmp_path / "recipe.yaml")


def test_yaml_on_the_command_line_makes_no_objects(canary: Path) -> None:
    from amd_hf import AMDFineTuningArguments

    with pytest.raises(ValueError, match="is not valid YAML"):
        parse_recipe((AMDFineTuningArguments,), [f"--model.hidden_size=!!python/object/apply:os.mkdir [{canary}]"])


def test_metadata_of_a_teachers_card_makes_no_objects(folder: Path, canary: Path) -> None:
    from amd_hf.hub.cards import card_problems

    card = f"---\nlicense: !!python/object/apply:os.mkdir [{canary}]\n---\n"
    assert "metadata cannot be read" in card_problems(card)[0]


# ---- Paths ----


def test_index_of_weights_reaches_no_file_outside(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, tmp_path / "elsewhere.safetensors", {"format": "pt"})
    for outside in ("../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors")):
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, outside)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for load in (load_model, AMDForVideoClassification.from_pretrained):
            with pytest.raises(ValueError, match="names weights outside of the folder"):
                load(folder)


_MEMBERS = ["../../out.mp4", "/tmp/amd_hf_out.mp4", "a/../../out.mp4", "..\\out.mp4"]


@pytest.mark.parametrize("kind", ["file", "link", "hard link"])
@pytest.mark.parametrize("name", _MEMBERS)
def test_members_of_tar_shards_are_not_unpacked(name: str, kind: str, tmp_path: Path) -> None:
    shards = tmp_path / "data" / "train"
    shards.mkdir(parents=True)
    content = write_video(tmp_path / "v.mp4", num_frames=8, height=32, width=32).read_bytes()
    (tmp_path / "v.mp4").unlink()
    (tmp_path / "secret").write_text("outside")
    with tarfile.open(shards / "000.tar", "w") as archive:
        for member, data in (("good.mp4", content), ("good.cls", b"0"), (name, content), (f"{name[:-4]}.cls", b"0")):
            info = tarfile.TarInfo(member)
            if member == name and kind != "file":
                info.type = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
                info.linkname = str(tmp_path / "secret")
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    before = set(tmp_path.rglob("*"))
    rows = load_video_dataset(tmp_path / "data", split="train", streaming=True)
    try:
        found = list(rows)
    except ValueError:  # a member that is no file may be an error; it is never followed
        found = []
    assert all(b"outside" not in (row["video"].get("bytes") or b"") for row in found)
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/tmp/amd_hf_out.mp4").exists()


def test_names_of_classes_and_videos_choose_no_files(tmp_path: Path) -> None:
    names = ["../../evil", "/tmp/amd_hf_evil", "a/b", "..", "c\0d"]
    outcomes = [{"video_id": name, "label": number, "probabilities": np.eye(5)[number],
                 "view_predictions": np.array([number])}
                for number, name in enumerate(names)]  # fmt: skip
    (tmp_path / "in").mkdir()
    write_report(MultiViewResult(outcomes, names), tmp_path / "in" / "out")
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {f"in/out/{name}" for name in ("test_results.json", "per_class.csv", "predictions.parquet")}
    assert not Path("/tmp/amd_hf_evil").exists()


# ---- Programs that lie beside data ----


def test_script_beside_data_is_not_run(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "videos"
    for label in ("left", "right"):
        write_video(data / label / "a.mp4", num_frames=8, height=32, width=32)
    program = f"import os\nos.mkdir({str(canary)!r})\n"
    for name in ("videos.py", "dataset.py", "__init__.py", "conftest.py", "left/left.py"):
        (data / name).write_text(program)
    monkeypatch.chdir(data)
    assert len(load_video_dataset(data)) == 2


def test_label_names_are_text(tmp_path: Path, canary: Path) -> None:
    text = f"!!python/object/apply:os.mkdir [{canary}]\n__import__('os').mkdir({str(canary)!r})\n"
    (tmp_path / "names.txt").write_text(text)
    assert list(read_label_names(tmp_path / "names.txt")) == text.splitlines()


def test_reader_of_a_published_folder_starts_in_an_empty_one(
    folder: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.py` in the folder where somebody works would be imported by a process started there."""
    from amd_hf.hub.checks import _other_answers

    work = tmp_path / "work"
    work.mkdir()
    for name in ("torch.py", "transformers.py", "sitecustomize.py"):
        (work / name).write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(work)
    assert _other_answers(tmp_path / "copy", load_model(folder)) == []
