"""Splits that a recipe names count where the data has splits; list files are splits by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amd_hf.data.arguments import FineTuningDataArguments
from amd_hf.data.loading import takes_split
from amd_hf.options.parsing import parse_recipe
from tests.cli.conftest import Work
from tests.helpers import miniatures
from tests.helpers.training import ROOT, ends_with_one_line
from tests.helpers.videos import write_list, write_video


Program = Callable[[str], Any]


_RECIPE = ["--recipe", str(ROOT / "configs/finetune/amd_vit_small_k400.yaml")]


def _data(*arguments: str, recipe: list[str] = _RECIPE) -> FineTuningDataArguments:
    """What the paper's recipe makes of options that name data."""
    kept = ("train_split", "eval_split", "test_split", "eval_strategy")
    lines = [line for line in Path(recipe[1]).read_text().splitlines() if line.startswith(kept[:3])]
    file = Path(arguments[1]).parent / "splits.yaml"
    file.write_text("\n".join(lines) + "\n")
    data, _ = parse_recipe((FineTuningDataArguments,), ["--recipe", str(file), *arguments], has_model_options=False)
    return data


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_recipe_with_splits_reads_lists_that_are_splits_by_themselves(suffix: str, tmp_path: Path) -> None:
    copy = miniatures.tables(tmp_path)
    files = {name: str(tmp_path / f"{name}.{suffix}") for name in ("train", "validation", "test")}
    data = _data("--data", files["train"], "--eval_data", files["validation"], "--test_data", files["test"])
    assert data.notes == []
    sets = {"train": data.load_training(), "validation": data.load_evaluation(), "test": data.load_test()}
    for name, rows in sets.items():
        assert [row["video_id"] for row in rows] == [sample.video_id for sample in copy.samples[name]]


def test_recipe_with_splits_reads_the_released_lists_of_frames(tmp_path: Path) -> None:
    copy = miniatures.something_something_frames(tmp_path)
    data = _data("--data", str(tmp_path / "train.txt"), "--eval_data", str(tmp_path / "validation.txt"))
    assert [len(data.load_training()), len(data.load_evaluation())] == [3, 2]
    assert data.load_test() is None
    (note,) = data.notes
    assert "train.txt has no splits" in note
    assert "`--test_data`" in note
    assert copy.label_names


@pytest.mark.parametrize("make", ["flat", "class_folders", "json", "one_csv"])
def test_recipe_with_splits_reads_data_without_splits_whole(make: str, tmp_path: Path) -> None:
    if make in ("flat", "class_folders"):
        for name in ("a/1.mp4", "b/2.mp4") if make == "class_folders" else ("1.mp4", "2.mp4"):
            write_video(tmp_path / "videos" / name, 2, 32, 32)
        data, expected = tmp_path / "videos", 2
    elif make == "json":
        miniatures.something_something(tmp_path / "ssv2")
        data, expected = tmp_path / "ssv2" / "something-something-v2-train.json", 4
    else:
        miniatures.kinetics(tmp_path / "k400")
        data, expected = tmp_path / "k400" / "annotations" / "train.csv", 4
    options = _data("--data", str(data), *(["--data_root", str(tmp_path / "k400")] if make == "one_csv" else []))
    assert len(options.load_training()) == expected
    assert options.load_evaluation() is None
    assert len(options.notes) == 2


def test_splits_of_a_recipe_count_where_the_layout_has_them(tmp_path: Path) -> None:
    copy = miniatures.class_folders(tmp_path / "videos")
    data = _data("--data", str(copy.folder))
    assert [len(data.load_training()), len(data.load_evaluation()), len(data.load_test())] == [6, 6, 6]
    for name in ("Train/a/1.mp4", "Val/a/2.mp4"):
        write_video(tmp_path / "other" / name, 2, 32, 32)
    with pytest.raises(FileNotFoundError, match=r"no split 'train'.*\['Train', 'Val'\].*`train_split`"):
        _data("--data", str(tmp_path / "other")).load_training()


def test_split_that_the_user_gives_for_a_list_is_refused_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miniatures.tables(tmp_path)
    for option, load in (("train_split", "load_training"), ("eval_split", "load_evaluation")):
        data = _data("--data", str(tmp_path / "train.txt"), f"--{option}", "train")
        line = ends_with_one_line(lambda load=load, data=data: getattr(data, load)(), capsys)  # type: ignore[misc]
        assert f"`--{option}` has no meaning for the layout 'list_file'" in line


@pytest.mark.parametrize(
    ("make", "place", "expected"),
    [
        (miniatures.webdataset, "", True),
        (miniatures.webdataset, "train-*.tar", False),
        (miniatures.parquet, "", True),
        (miniatures.kinetics, "", True),
        (miniatures.ucf101, "", True),
        (miniatures.class_folders, "", True),
        (miniatures.class_folders, "train", False),
        (miniatures.tables, "train.csv", False),
    ],
)
def test_layouts_say_whether_they_have_splits(make: Any, place: str, expected: bool, tmp_path: Path) -> None:
    make(tmp_path)
    assert takes_split(tmp_path / place) is expected


def test_fine_tuning_by_the_papers_recipe_takes_a_list_file(
    work: Work, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted((work.data / "train").rglob("*.mp4"))
    lines = [f"{video} {number % 2}" for number, video in enumerate(videos)]
    recipe = (work.root / "finetune.yaml").read_text() + "eval_strategy: epoch\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--data", str(write_list(tmp_path / "train.txt", lines))]
    arguments += ["--model_name_or_path", str(work.root / "student"), "--output_dir", str(tmp_path / "out")]
    program("finetune").main([*arguments, "--max_steps", "1"])
    said = capsys.readouterr().out
    assert re.search(r"warning: .*train.txt has no splits, .*evaluation while training.*`--eval_data`", said)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    capsys.readouterr()
    line = ends_with_one_line(
        lambda: program("finetune").main([*arguments[:-1], str(tmp_path / "other"), "--eval_strategy", "epoch"]),
        capsys,
    )
    assert "`--eval_strategy` is epoch, but there are no videos to evaluate on" in line
