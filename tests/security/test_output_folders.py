"""Nothing is deleted or overwritten that this package did not make."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amd_hf import (
    AMDFineTuningTrainer,
    AMDForActionDetection,
    AMDForImageClassification,
    AMDForPreTraining,
    AMDForVideoClassification,
    AMDModel,
    load_video_dataset,
)
from amd_hf.evaluation.features import _prepare_folder
from amd_hf.hub.checks import code_files
from amd_hf.outputs.files import OutputFiles
from amd_hf.outputs.folders import (
    MARKER_NAME,
    RUN_FILES,
    claim_folder,
    main,
    marker_beside,
    noting,
    remove_folder,
)
from examples.motion_people import write_motion_people
from examples.motion_shapes import write_motion_shapes
from examples.shape_images import write_shape_images
from tests.helpers.models import tiny_config
from tests.helpers.training import ROOT, finetuning_args, load_script
from tests.helpers.writing import PLACES_THAT_WRITE


def _contents(folder: Path) -> dict[str, bytes | str]:
    """Every entry below a folder and what it holds; of links where they point."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")


def _made_by(folder: Path) -> str:
    return json.loads((folder / MARKER_NAME).read_text())["made_by"]


class _Started(Exception):
    """A demo began its work."""


@pytest.fixture(params=["demo", "demo_images", "demo_detection"])
def demo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """The programs that empty their folder, up to where they begin to work."""
    module = load_script(request.param)

    def begin(*args: Any, **kwargs: Any) -> None:
        raise _Started

    if request.param == "demo_detection":
        monkeypatch.setattr(module, "write_motion_people", begin)
        return lambda folder: module.main(["--output_dir", str(folder)])
    if request.param == "demo":
        monkeypatch.setattr(module.Demo, "run", begin)
        return lambda folder: module.main(["--output_dir", str(folder)])
    monkeypatch.setattr(module.demo.Demo, "run", begin)
    kind = (module.ImageDemo, module.ImageDemoOptions, module.__doc__)
    return lambda folder: module.demo.main(["--output_dir", str(folder)], *kind)


@pytest.mark.parametrize(
    "names",
    [
        ("thesis.tex", "photos/1.jpg", ".git/HEAD"),
        ("notes.txt",),
        (".hidden",),
        ("data/train/mine.mp4", "thesis.tex"),
        ("data/mine.csv",),  # `data` alone is not ours either
        ("results.json", "results.txt"),  # names that a demo writes, too
        ("teacher/config.json", "teacher/model.safetensors"),
        (f"{MARKER_NAME}/note.txt",),
    ],
    ids=lambda names: names[0],
)
def test_demo_refuses_a_folder_of_others_and_changes_nothing(
    names: tuple[str, ...], demo: Callable[[Path], Any], tmp_path: Path
) -> None:
    _write(tmp_path, *names)
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match=r"--output_dir|no marker of this package"):
        demo(tmp_path)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("text", ["{}", "[]", "null", "demo", '{"made_by": "demo.py"}', ""])
def test_file_that_only_has_the_name_of_a_marker_is_none(
    text: str, demo: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / MARKER_NAME).write_text(text)
    _write(tmp_path, "results.json")
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match=r"results\.json"):
        demo(tmp_path)
    assert _contents(tmp_path) == before


def test_demo_takes_a_new_and_an_empty_folder_and_its_own(demo: Callable[[Path], Any], tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        with pytest.raises(_Started):
            demo(folder)
        with noting(folder, _made_by(folder)):
            _write(folder, "results.json")
        with pytest.raises(_Started):
            demo(folder)
        assert not (folder / "results.json").exists()


@pytest.mark.parametrize(
    "strange", ["thesis.tex", "distilled/thesis.tex", "detector/notes/a.txt", "results.json.bak", ".git/HEAD"]
)
def test_what_somebody_put_into_the_outcome_of_a_demo_stays(
    strange: str, demo: Callable[[Path], Any], tmp_path: Path
) -> None:
    with pytest.raises(_Started):
        demo(tmp_path)
    with noting(tmp_path, _made_by(tmp_path)):
        _write(tmp_path, "results.json", strange)
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match=strange.rpartition("/")[2] if "/" not in strange else strange.split("/")[0]):
        demo(tmp_path)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("demo.py", "my_classifier/model.safetensors"),
        ("demo.py", "scratch_classifier/model.safetensors"),
        ("demo.py", "losses.png"),
        ("demo_images.py", "teacher/README.md"),
        ("demo_detection.py", "data/videos/holiday.mp4"),
        ("demo_detection.py", "data/videos/train007.mp4"),
        ("demo_detection.py", "data/my_boxes.csv"),
        ("demo_detection.py", "detector/README.md"),
        ("publishing", "mine.png"),
        ("publishing", "LICENSE"),
    ],
)
def test_file_of_a_name_that_a_program_writes_is_its_users_unless_it_is_noted(
    program: str, name: str, tmp_path: Path
) -> None:
    first = "config.json" if program == "publishing" else "results.json"
    claim_folder(tmp_path, program)
    with noting(tmp_path, program):
        _write(tmp_path, first)
    _write(tmp_path, name)
    before = _contents(tmp_path)
    for remove in (lambda: claim_folder(tmp_path, program), lambda: remove_folder(tmp_path)):
        with pytest.raises(ValueError, match=name.split("/")[0]):
            remove()
        assert _contents(tmp_path) == before
    (tmp_path / name).unlink()
    (tmp_path / first).write_text("edited")
    with pytest.raises(ValueError, match=rf"{first} \(changed since it was written\)"):
        claim_folder(tmp_path, program)
    assert (tmp_path / first).read_text() == "edited"


def test_stage_that_fails_notes_what_it_wrote(tmp_path: Path) -> None:
    claim_folder(tmp_path, "demo.py")

    def fail() -> None:
        with noting(tmp_path, "demo.py"):
            _write(tmp_path, "teacher/config.json")
            raise _Started

    with pytest.raises(_Started):
        fail()
    assert claim_folder(tmp_path, "demo.py") == ["teacher/config.json"]


def test_what_others_put_into_data_that_stays_is_never_taken_for_the_demos(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    mine = folder / "data" / "train" / "mine.mp4"
    for number in range(3):
        claim_folder(folder, "demo.py", keep=("data",))
        with noting(folder, "demo.py"):
            _write(folder, f"data/train/{number:06d}.mp4")
        _write(folder, "data/train/mine.mp4")
    with pytest.raises(ValueError, match=r"data/train/mine\.mp4"):
        remove_folder(folder)
    assert len(_contents(folder)) == 5
    mine.unlink()
    remove_folder(folder)
    assert not folder.exists()


def test_folder_that_is_not_claimed_gets_no_notes(tmp_path: Path) -> None:
    with noting(tmp_path, "demo.py"):
        _write(tmp_path, "results.json")
    assert set(_contents(tmp_path)) == {"results.json"}


def test_links_are_neither_followed_nor_removed(demo: Callable[[Path], Any], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _write(photos, "config.json", "1.jpg")
    folder = tmp_path / "out"
    with pytest.raises(_Started):
        demo(folder)
    for name in ("teacher", "detector"):
        (folder / name).symlink_to(photos, target_is_directory=True)
    (folder / "results.json").symlink_to(photos / "1.jpg")
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match="detector"):
        demo(folder)
    assert _contents(tmp_path) == before


def test_folder_of_one_program_is_not_emptied_by_another(tmp_path: Path) -> None:
    claim_folder(tmp_path, "demo.py")
    _write(tmp_path, "results.json")
    with pytest.raises(ValueError, match=r"not the marked outcome of demo_detection\.py"):
        claim_folder(tmp_path, "demo_detection.py")


def test_make_clean_removes_what_a_demo_made_and_nothing_else(tmp_path: Path) -> None:
    ours, others, mixed = tmp_path / "ours", tmp_path / "others", tmp_path / "mixed"
    for folder in (ours, mixed):
        claim_folder(folder, "demo.py")
        with noting(folder, "demo.py"):
            _write(folder, "results.json", "teacher/model.safetensors", "data/train/up/000001.mp4", "data/train.json")
    _write(others, "results.json")
    _write(mixed, "teacher/thesis.tex")
    program = [sys.executable, "-S", str(ROOT / "amd_hf" / "outputs" / "folders.py")]  # -S: without any package
    done = subprocess.run(
        [*program, str(ours), str(others), str(mixed), str(tmp_path / "none")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no marker" in done.stderr
    assert "teacher/thesis.tex" in done.stderr
    assert not ours.exists()
    assert set(_contents(others)) == {"results.json"}
    assert len(_contents(mixed)) == 6
    assert main([]) == 0
    with pytest.raises(ValueError, match="no marker"):
        remove_folder(others)


# ---------------------------------------------------------------------------------------------------------------------
# Single files
# ---------------------------------------------------------------------------------------------------------------------


def test_ones_own_unchanged_file_is_replaced_and_any_other_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "report.json"
    for number in range(2):
        with OutputFiles([path], "a.py", overwrite=False):
            path.write_text(str(number))
    assert f"Replacing the outcome of an earlier run: {path}" in capsys.readouterr().err
    path.write_text("edited")
    with pytest.raises(ValueError, match=r"report\.json exists and is not, or no longer.*--overwrite true"):
        OutputFiles([path], "a.py", overwrite=False)
    with OutputFiles([path], "a.py", overwrite=True):
        path.write_text("new")
    OutputFiles([path], "a.py", overwrite=False)


def test_run_that_dies_while_it_writes_leaves_files_that_are_known_as_ours(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    outputs = OutputFiles([path], "a.py", overwrite=False)
    outputs.__enter__()
    path.write_text("half")  # and here it is killed
    OutputFiles([path], "a.py", overwrite=False)


def test_links_and_folders_in_place_of_a_file_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "photo.jpg")
    (tmp_path / "link.json").symlink_to(tmp_path / "photo.jpg")
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.json").mkdir()
    for name, reason in (("link", "not, or no longer"), ("dangling", "not, or no longer"), ("folder", "is a folder")):
        with pytest.raises(ValueError, match=reason):
            OutputFiles([tmp_path / f"{name}.json"], "a.py", overwrite=False)


def test_devices_and_pipes_are_written_to_as_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with OutputFiles(["/dev/null", "/dev/stdout", tmp_path / "pipe"], "a.py", overwrite=False):
        Path("/dev/null").write_text("x")
    assert not (tmp_path / MARKER_NAME).exists()


@pytest.mark.parametrize(
    ("script", "arguments", "name"),
    [
        ("predict", ["--task", "detection", "--model_name_or_path", "m", "--video", "v", "--person_boxes", "b",
                     "--output_json", "{}/a.json"], "a.json"),
        ("predict", ["--task", "detection", "--model_name_or_path", "m", "--video", "v", "--person_boxes", "b",
                     "--output_video", "{}/a.mp4"], "a.mp4"),
        ("evaluate", ["--model_name_or_path", "m", "--data", "d", "--output_dir", "{}"], "per_class.csv"),
        ("evaluate", ["--model_name_or_path", "m", "--data", "d", "--linear_probe", "true", "--output_dir", "{}"],
         "test_results.json"),
        ("evaluate", ["--model_name_or_path", "m{{fold}}", "--data", "d", "--all_folds", "true", "--output_dir", "{}"],
         "fold_2/predictions.parquet"),
        ("evaluate", ["--task", "detection", "--model_name_or_path", "m", "--annotations", "a", "--output_dir", "{}"],
         "detections.csv"),
        ("check_videos", ["--data", "d", "--output_dir", "{}"], "clean.csv"),
        ("export", ["--model_name_or_path", "m", "--output_dir", "{}"], "model.onnx"),
        ("visualize", ["--model_name_or_path", "m", "--data", "d", "--output_dir", "{}"], "reconstructions.png"),
        ("ablate", ["--grid", str(ROOT / "configs/ablations/main.yaml"), "--output_dir", "{}"],
         "reports/main/report.md"),
    ],
    ids=["json", "video", "test", "probe", "folds", "detector", "check", "export", "pictures", "study"],
)  # fmt: skip
def test_programs_refuse_to_overwrite_others_files_before_they_do_anything(
    script: str, arguments: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, name)
    with pytest.raises(ValueError, match=rf"{name.rpartition('/')[2]} exists and is not, or no longer"):
        load_script(script).main([argument.format(tmp_path) for argument in arguments])
    assert set(_contents(tmp_path)) == {name}


def test_marker_of_results_lies_beside_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with OutputFiles([tmp_path / "out" / "a.csv"], "a.py", overwrite=False, folder=tmp_path / "out"):
            (tmp_path / "out" / "a.csv").write_text("x")
    assert os.listdir(tmp_path / "out") == ["a.csv"]
    (tmp_path / "out" / "a.csv").write_text("mine")
    with pytest.raises(ValueError, match="no longer"):
        OutputFiles([tmp_path / "out" / "a.csv"], "a.py", overwrite=False, folder=tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), tmp_path, Path("/")):  # nothing is written above the current folder
        assert marker_beside(folder).parent == folder.absolute()


def test_outcome_of_the_detection_demo_is_replaced_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    sizes = ["--num_films", "4", "--num_validation", "1", "--seconds", "5", "--max_steps", "2"]
    load_script("demo_detection").main(["--output_dir", str(folder), *sizes])
    left = set(_contents(folder)) - {MARKER_NAME}
    assert {"actions.mp4", "results.json", "detector/model.safetensors", "detector/video_reading_amd.py"} <= left
    program = [sys.executable, "-S", str(ROOT / "amd_hf" / "outputs" / "folders.py"), str(folder)]
    (folder / "detector" / "README.md").open("a").write("My words.")
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1
    assert "detector/README.md (changed" in done.stderr
    assert set(_contents(folder)) - {MARKER_NAME} == left
    (folder / "detector" / "README.md").unlink()
    shutil.copytree(folder, tmp_path / "copy")
    assert set(claim_folder(tmp_path / "copy", "demo_detection.py")) == left - {"detector/README.md"}
    assert subprocess.run(program).returncode == 0
    assert not folder.exists()


def test_what_the_parts_of_a_demo_really_leave_is_known_as_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    claim_folder(folder, "demo.py")
    with noting(folder, "demo.py"):
        write_motion_shapes(folder / "data", "train", 8, seed=0, num_frames=8, size=16, num_workers=0)
    rows = load_video_dataset(folder / "data", split="train")
    config = tiny_config(image_size=16, num_labels=8, teacher_hidden_size=None)
    args = finetuning_args(folder / "scratch_classifier", max_steps=1, per_device_train_batch_size=2, sampling_rate=1)
    with noting(folder, "demo.py"):
        trainer = AMDFineTuningTrainer(AMDForVideoClassification(config), args, train_dataset=rows)
        trainer.train()
        trainer.save_model()
        trainer.save_state()
        trainer.finish_run()
    assert len(claim_folder(folder, "demo.py", keep=("data",))) > 5
    remove_folder(folder)
    assert not folder.exists()


def test_run_refuses_to_replace_exactly_the_code_that_travels() -> None:
    kinds = (AMDForPreTraining, AMDForVideoClassification, AMDForActionDetection, AMDForImageClassification, AMDModel)
    travelling = {path.name for kind in kinds for path in code_files(kind)}
    assert {name for name in RUN_FILES if name.endswith(".py")} == travelling


# ---------------------------------------------------------------------------------------------------------------------
# Rendered data, features
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (lambda root: write_motion_shapes(root, "train", 8, seed=0), ["train/mine.avi"]),
        (lambda root: write_motion_shapes(root, "train", 8, seed=0), ["train.json"]),
        (lambda root: write_shape_images(root, "train", 1, seed=0), ["train/mine.png"]),
        (lambda root: write_shape_images(root, "train", 2, seed=0), ["train/notes.txt"]),
        (lambda root: write_motion_people(root, "train", 1, 1, seed=0), ["train.csv"]),
        (lambda root: write_motion_people(root, "train", 1, 1, seed=0), ["videos/train000.mp4"]),
        (lambda root: write_motion_people(root, "train", 1, 1, seed=0), ["actions.pbtxt"]),
    ],
)
def test_rendered_data_never_mixes_with_or_replaces_others_files(
    write: Callable[[Path], Any], names: list[str], tmp_path: Path
) -> None:
    _write(tmp_path, *names)
    before = _contents(tmp_path)
    with pytest.raises(ValueError, match=r"did not write|other settings|not, or no longer"):
        write(tmp_path)
    assert _contents(tmp_path) == before


def test_rendered_people_of_the_same_program_are_written_anew(tmp_path: Path) -> None:
    for split in ("train", "val", "train"):
        write_motion_people(tmp_path, split, 1, 1, seed=0, size=32)


@pytest.mark.parametrize("name", ["features-000-00001.safetensors", "unreadable.json", "features.json"])
def test_features_are_not_written_over_others_files(name: str, tmp_path: Path) -> None:
    _write(tmp_path, name)
    before = _contents(tmp_path)
    for resume in (False, True):
        with pytest.raises((FileExistsError, ValueError), match=name.partition(".")[0]):
            _prepare_folder(tmp_path, None, None, resume)  # type: ignore[arg-type]
    assert _contents(tmp_path) == before


# ---------------------------------------------------------------------------------------------------------------------
# Where the package may delete and write at all
# ---------------------------------------------------------------------------------------------------------------------

_ALWAYS = {"rmtree", "unlink", "rmdir", "removedirs", "replace", "rename", "renames", "move", "copyfile", "copy2",
           "copytree", "write_text", "write_bytes", "touch", "truncate", "savefig", "save", "save_pretrained",
           "save_file", "replace_file", "write_table", "to_csv", "to_parquet", "to_json",
           "rotate_checkpoints"}  # fmt: skip
_OF_MODULES = {("os", "remove"), ("torch", "save"), ("shutil", "copy"), ("np", "save"), ("np", "savez")}


def _changes_files(call: ast.Call) -> bool:
    """Whether a call deletes, renames or writes files, as far as names tell."""
    function = call.func
    if isinstance(function, ast.Name):
        name, owner = function.id, None
    elif isinstance(function, ast.Attribute):
        name = function.attr
        owner = function.value.id if isinstance(function.value, ast.Name) else None
    else:
        return False
    if (owner, name) in _OF_MODULES:
        return True
    if name == "rename" and owner is None and isinstance(function, ast.Name):  # a function of ours, for keys
        return False
    if name == "replace":  # of a text or a dataclass it takes two arguments or keywords, of a path one
        return owner == "os" or (len(call.args) == 1 and not call.keywords and isinstance(function, ast.Attribute))
    if name in _ALWAYS:
        return True
    if name != "open":
        return False
    place = 0 if isinstance(function, ast.Attribute) and owner not in ("av", "io", "os", "container") else 1
    modes = [*call.args[place : place + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    return any(set(text) & set("wax+") and set(text) <= set("rwaxbt+") for text in texts)


def _places() -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for folder in ("amd_hf", "scripts", "examples", "studies", "tools", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                for child in ast.iter_child_nodes(node):
                    child.parent = node  # type: ignore[attr-defined]
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call) or not _changes_files(node):
                    continue
                inside: Any = node
                while not isinstance(inside, ast.FunctionDef | ast.Module):
                    inside = inside.parent
                name = getattr(inside, "name", "<module>")
                found.setdefault((path.relative_to(ROOT).as_posix(), name), []).append(node.lineno)
    return found


def test_files_are_deleted_and_written_in_these_places_only() -> None:
    strange = {place: lines for place, lines in _places().items() if place not in PLACES_THAT_WRITE}
    assert not strange, "claim what is written there by amd_hf.outputs.folders, then add the place to the list"


def test_list_of_places_names_none_that_is_gone() -> None:
    assert not PLACES_THAT_WRITE.keys() - _places().keys()


@pytest.mark.parametrize(
    "code",
    [
        "shutil.rmtree(x)", "rmtree(x)", "Path(x).unlink()", "os.remove(x)", "os.replace(x, y)", "path.replace(other)",
        "x.rename(y)", "open(x, 'w')", "open(x, mode='wb')", "path.open('a')", "p.write_text('')", "torch.save(a, b)",
        "av.open(x, 'w')", "shutil.move(a, b)",
    ],
)  # fmt: skip
def test_walk_sees_every_way_to_delete_and_write(code: str) -> None:
    assert _changes_files(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["open(x)", "open(x, 'rb')", "text.replace('a', 'b')", "replace(options, a=1)"])
def test_walk_lets_reading_pass(code: str) -> None:
    assert not _changes_files(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]
