"""Nothing in a data folder vanishes without a word: what is listed, what is left out, and what is said of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest

from amd_hf.data.arguments import FineTuningDataArguments, PreTrainingDataArguments
from amd_hf.data.datasets.label_names import label_names_of
from amd_hf.data.loading import load_video_dataset, validate_annotations
from amd_hf.evaluation.prediction import find_videos
from tests.helpers.training import run_script
from tests.helpers.videos import write_list, write_video


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _ids(dataset: datasets.Dataset) -> list[str]:
    return list(dataset["video_id"])


# ---------------------------------------------------------------------------------------------------------------------
# What is found
# ---------------------------------------------------------------------------------------------------------------------

_SUFFIXES = ["ts", "mts", "m2ts", "gif", "ogv", "asf", "3g2", "mxf", "vob", "m2t", "f4v", "qt", "divx", "dv", "m2v"]


@pytest.mark.parametrize("suffix", [*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES)])
def test_usual_suffixes_are_videos(tmp_path: Path, suffix: str) -> None:
    _touch(tmp_path, "left/0.mp4", f"right/1.{suffix}")
    assert _ids(load_video_dataset(tmp_path)) == ["left/0.mp4", f"right/1.{suffix}"]


def test_class_is_the_first_folder_whatever_lies_below(tmp_path: Path) -> None:
    _touch(tmp_path, "walk/0.mp4", "run/v01/0.mp4", "run/v02/deep/er/1.mp4")
    dataset = load_video_dataset(tmp_path)
    assert dataset.features["label"].names == ["run", "walk"]
    assert list(zip(_ids(dataset), dataset["label"], strict=True)) == [
        ("run/v01/0.mp4", 0), ("run/v02/deep/er/1.mp4", 0), ("walk/0.mp4", 1),
    ]  # fmt: skip
    assert dataset[1]["video"]["path"] == str(tmp_path / "run/v02/deep/er/1.mp4")


def test_classes_of_sub_folders_alone_are_classes(tmp_path: Path) -> None:
    """As UCF11 lays them out."""
    _touch(tmp_path, "golf/g01/0.mpg", "golf/g02/0.mpg", "dive/d01/0.mpg")
    assert load_video_dataset(tmp_path).features["label"].names == ["dive", "golf"]


def test_nested_splits_keep_their_classes_apart(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/x/0.mp4", "train/b/1.mp4", "val/a/y/z/2.mp4", "val/b/3.mp4")
    dataset = load_video_dataset(tmp_path, split="val")
    assert _ids(dataset) == ["val/a/y/z/2.mp4", "val/b/3.mp4"]
    assert dataset["label"][:] == [0, 1]


@pytest.mark.parametrize("names", [("Train/a/0.mp4", "TEST/a/1.mp4"), ("train/a/0.mp4", "Val/a/1.mp4", "x/b/2.mp4")])
def test_splits_are_not_taken_for_classes(tmp_path: Path, names: Sequence[str]) -> None:
    with pytest.raises(ValueError, match="Choose one with `split`"):
        load_video_dataset(_touch(tmp_path, *names))


def test_unlabelled_folder_is_walked_whole(tmp_path: Path) -> None:
    _touch(tmp_path, "0.mp4", "films/1.mp4", "2024/june/2.mp4", "2024/june/day/3.TS")
    with pytest.raises(ValueError, match="unlabelled=True"):
        load_video_dataset(tmp_path)
    dataset = load_video_dataset(tmp_path, unlabelled=True)
    assert _ids(dataset) == ["0.mp4", "2024/june/2.mp4", "2024/june/day/3.TS", "films/1.mp4"]
    assert dataset["label"][:] == [None] * 4


# ---------------------------------------------------------------------------------------------------------------------
# What is left out costs itself alone, and is said
# ---------------------------------------------------------------------------------------------------------------------


def _load_good(root: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Lists a folder whose only videos are `a/1.mp4` and `b/2.mp4`, and returns the line that was logged."""
    _touch(root, "a/1.mp4", "b/2.mp4")
    caplog.clear()
    dataset = load_video_dataset(root)
    assert _ids(dataset) == ["a/1.mp4", "b/2.mp4"]
    assert dataset.features["label"].names == ["a", "b"]
    assert len(caplog.records) <= 1
    return caplog.text


def test_nothing_left_out_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, ".DS_Store", "a/Thumbs.db", ".cache/x.bin")
    assert _load_good(tmp_path, caplog) == ""


def test_other_kinds_of_files_are_counted_with_examples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/1.blend", "a/2.blend", "b/cover", "b/3.blend")
    said = _load_good(tmp_path, caplog)
    assert "2 videos of 2 classes listed" in said
    assert "4 x another kind of file (3 .blend, 1 without suffix: a/1.blend" in said


def test_class_that_is_lost_whole_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "up/3.xyz")
    (tmp_path / "down").mkdir()
    said = _load_good(tmp_path, caplog)
    assert "2 x a folder without videos (down, up)" in said
    assert "up/3.xyz" in said


def test_hidden_videos_are_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/._1.mp4", "b/.2.mp4")
    assert "2 x hidden (" in _load_good(tmp_path, caplog)


def test_links_that_loop_or_lead_nowhere_cost_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/1.mp4")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self.mp4").symlink_to(tmp_path / "a" / "self.mp4")
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    said = _load_good(tmp_path, caplog)
    assert "3 x a link that loops or leads nowhere" in said
    for name in ("a/up", "a/self.mp4", "a/gone.mp4"):
        assert name in said


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    _touch(tmp_path / "pool", "one/1.mp4", "two/x/2.mp4")
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "pool" / name)
    dataset = load_video_dataset(tmp_path / "data")
    assert _ids(dataset) == ["one/1.mp4", "two/x/2.mp4"]


def test_folders_that_link_to_each_other_do_not_multiply(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(12)]
    for name in names:
        _touch(tmp_path, f"{name}/0.mp4")
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    started = time.monotonic()
    dataset = load_video_dataset(tmp_path)
    assert time.monotonic() - started < 5
    assert len(dataset) < 1000


def test_names_that_are_no_utf8_cost_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/1.mp4")
    open(os.fsencode(tmp_path) + b"/a/\xff\xfe.mp4", "w").close()
    os.mkdir(os.fsencode(tmp_path) + b"/\xe9t\xe9")
    open(os.fsencode(tmp_path) + b"/\xe9t\xe9/3.mp4", "w").close()
    said = _load_good(tmp_path, caplog)
    assert "2 x a name that is no UTF-8" in said
    assert r"\xe9t\xe9" in said
    said.encode()  # it can be printed


def test_pipes_and_closed_folders_cost_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/closed/3.mp4")
    os.mkfifo(tmp_path / "a" / "pipe.mp4")
    (tmp_path / "a" / "closed").chmod(0)
    if os.access(tmp_path / "a" / "closed", os.R_OK):  # root reads everything
        (tmp_path / "a" / "closed" / "3.mp4").unlink()
    said = _load_good(tmp_path, caplog)
    assert "1 x no regular file (a/pipe.mp4)" in said
    assert "closed" in said or os.geteuid() == 0


def test_folder_of_100000_files_is_listed_in_seconds(tmp_path: Path) -> None:
    num_folders, num_files = 100, 200  # a fifth of them: making the files takes longer than listing them
    for folder in range(num_folders):
        (tmp_path / f"class_{folder:03d}").mkdir()
        for number in range(num_files):
            os.close(os.open(tmp_path / f"class_{folder:03d}" / f"{number:04d}.mp4", os.O_CREAT | os.O_WRONLY))
    started = time.process_time()
    assert len(load_video_dataset(tmp_path)) == num_folders * num_files
    assert time.process_time() - started < 3


# ---------------------------------------------------------------------------------------------------------------------
# Classes that disagree
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation"])
def test_class_that_the_training_split_lacks_is_an_error_with_the_near_name(tmp_path: Path, split: str) -> None:
    _touch(tmp_path, "train/left/0.mp4", "train/right/1.mp4", "validation/left/2.mp4", "validation/rihgt/3.mp4")
    with pytest.raises(ValueError, match=r"split 'validation' .* 'train': 'rihgt' \(did you mean 'right'\?\)"):
        load_video_dataset(tmp_path, split=split)
    names = ["left", "right", "rihgt"]
    assert load_video_dataset(tmp_path, split=split, label_names=names).features["label"].names == names


def test_class_misspelt_in_the_training_split_is_an_error(tmp_path: Path) -> None:
    _touch(tmp_path, "train/left/0.mp4", "train/rihgt/1.mp4", "test/left/2.mp4", "test/right/3.mp4")
    with pytest.raises(ValueError, match=r"'right' \(did you mean 'rihgt'\?\)"):
        load_video_dataset(tmp_path, split="train")


def test_third_spelling_in_the_training_split_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(
        tmp_path, "train/left/0.mp4", "train/right/1.mp4", "train/rihgt/2.mp4", "test/left/3.mp4", "test/right/4.mp4"
    )
    assert len(load_video_dataset(tmp_path, split="train").features["label"].names) == 3
    assert "class 'rihgt' of" in caplog.text


@pytest.mark.parametrize(("lines", "number"), [(["left", "right", "2"], 4), (["0", "1", "left"], 4)])
def test_table_of_names_and_numbers_is_an_error(tmp_path: Path, lines: list[str], number: int) -> None:
    _touch(tmp_path, *(f"{name}.mp4" for name in lines))
    table = write_list(tmp_path / "t.csv", ["path,label", *(f"{name}.mp4,{name}" for name in lines)])
    with pytest.raises(ValueError, match=rf"1 of 3 lines .*names and numbers are mixed\): line {number}"):
        load_video_dataset(table)
    assert [problem.number for problem in validate_annotations(table).found] == [number]
    jsonl = [{"path": f"{name}.mp4", "label": int(name) if name.isdecimal() else name} for name in lines]
    with pytest.raises(ValueError, match="names and numbers are mixed"):
        load_video_dataset(write_list(tmp_path / "t.jsonl", list(map(json.dumps, jsonl))))


def test_numbers_among_names_are_names_where_the_names_are_given(tmp_path: Path) -> None:
    table = write_list(tmp_path / "t.csv", ["path,label", "a.mp4,left", "b.mp4,7"])
    _touch(tmp_path, "a.mp4", "b.mp4")
    assert load_video_dataset(table, label_names=["7", "left"])["label"][:] == [1, 0]


@pytest.mark.parametrize("label", ["1.0", "-1", "nan", "inf", "1e3", "99999999999999999999"])
def test_labels_that_are_no_numbers_and_no_names_are_bad_lines(tmp_path: Path, label: str) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    table = write_list(tmp_path / "t.csv", ["path,label", "a.mp4,0", f"b.mp4,{label}"])
    with pytest.raises(ValueError, match="neither a name nor an integer from 0: line 3"):
        load_video_dataset(table)


# ---------------------------------------------------------------------------------------------------------------------
# Metadata of a `videofolder`
# ---------------------------------------------------------------------------------------------------------------------

_RECORDS = [
    {"file_name": "clips/1.mp4", "label": "left", "caption": "a, b", "score": 3, "weight": 0.5},
    {"file_name": "clips/0.mp4", "label": "right", "caption": None, "score": 4, "weight": None},
]


def _write_metadata(file: Path, records: Sequence[dict[str, object]]) -> None:
    if file.suffix == ".parquet":
        datasets.Dataset.from_list(list(records)).to_parquet(str(file))
    elif file.suffix == ".csv":
        datasets.Dataset.from_list(list(records)).to_csv(str(file))
    else:
        write_list(file, list(map(json.dumps, records)))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_of_a_videofolder_is_read_as_datasets_reads_it(tmp_path: Path, suffix: str) -> None:
    for name in ("clips/0.mp4", "clips/1.mp4"):
        write_video(tmp_path / "data" / name, 2)
    _write_metadata(tmp_path / "data" / f"metadata.{suffix}", _RECORDS)
    reference = datasets.load_dataset("videofolder", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "c"))
    reference = reference["train"].cast_column("video", datasets.Video(decode=False))
    dataset = load_video_dataset(tmp_path / "data")
    assert [row["video"]["path"] for row in dataset] == [row["video"]["path"] for row in reference]
    for name in ("caption", "score", "weight"):
        assert dataset[name][:] == reference[name][:], name
    assert [dataset.features["label"].int2str(label) for label in dataset["label"]] == reference["label"][:]
    assert _ids(dataset) == ["clips/1.mp4", "clips/0.mp4"]
    stream = load_video_dataset(tmp_path / "data", streaming=True)
    assert sorted(row["caption"] or "" for row in stream) == ["", "a, b"]


def test_metadata_names_its_own_label_column_and_video_column(tmp_path: Path) -> None:
    _touch(tmp_path, "0.mp4", "1.mp4", "0.wav", "1.wav")
    _write_metadata(
        tmp_path / "metadata.jsonl",
        [
            {"video_file_name": f"{n}.mp4", "sound_file_name": f"{n}.wav", "action": n, "video_id": f"v{n}"}
            for n in (0, 1)
        ],
    )
    dataset = load_video_dataset(tmp_path, label_column="action")
    assert (_ids(dataset), dataset["label"][:]) == (["v0", "v1"], [0, 1])
    assert dataset[1]["sound"]["path"] == str(tmp_path / "1.wav")
    with pytest.raises(ValueError, match=r"no column 'actoin' \(did you mean 'action'\?\), given as `label_column`"):
        load_video_dataset(tmp_path, label_column="actoin")


def test_metadata_of_splits_number_their_names_alike(tmp_path: Path) -> None:
    for split, labels in (("train", ["b", "a", "c"]), ("validation", ["c"])):
        _touch(tmp_path / split, *(f"{n}.mp4" for n in range(len(labels))))
        records = [{"file_name": f"{n}.mp4", "label": label} for n, label in enumerate(labels)]
        _write_metadata(tmp_path / split / "metadata.csv", records)
    dataset = load_video_dataset(tmp_path, split="validation")
    assert (dataset["label"][:], _ids(dataset)) == ([2], ["validation/0.mp4"])
    with pytest.raises(ValueError, match="Choose one with `split`"):
        load_video_dataset(tmp_path)
    _write_metadata(tmp_path / "validation" / "metadata.csv", [{"file_name": "0.mp4", "label": "cc"}])
    with pytest.raises(ValueError, match=r"'cc' \(did you mean 'c'\?\)|'cc'"):
        load_video_dataset(tmp_path, split="train")


def test_metadata_above_the_splits_is_shared_out(tmp_path: Path) -> None:
    names = ["train/0.mp4", "train/1.mp4", "test/0.mp4"]
    _touch(tmp_path, *names)
    _write_metadata(tmp_path / "metadata.csv", [{"file_name": n, "label": str(i)} for i, n in enumerate(names)])
    assert _ids(load_video_dataset(tmp_path, split="train")) == names[:2]
    assert load_video_dataset(tmp_path, split="test")["label"][:] == [2]


def test_videos_that_the_metadata_does_not_name_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "0.mp4", "deep/1.mp4", "deep/2.mp4")
    _write_metadata(tmp_path / "metadata.csv", [{"file_name": "0.mp4"}])
    assert _ids(load_video_dataset(tmp_path)) == ["0.mp4"]
    assert "2 x a video that the metadata does not name (deep/1.mp4, deep/2.mp4)" in caplog.text


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "http://h/v.mp4", "..\\x.mp4"])
def test_metadata_does_not_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = _touch(tmp_path / "data", "0.mp4")
    _write_metadata(folder / "metadata.jsonl", [{"file_name": "0.mp4"}, {"file_name": name}])
    with pytest.raises(ValueError, match="names? a file outside of (its|their) folder: line 2"):
        load_video_dataset(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "file_name;label\na.mp4;x\n",
            r"its columns are \['file_name;label'\]. Its columns are separated by semicolons",
        ),
        ("\ufefffile_name;label\na.mp4;x\n", r"\['file_name;label'\]. Its columns are separated by semicolons"),
        ("file_name\tlabel\na.mp4\tx\n", "Its columns are separated by tabs: write them with commas"),
        ("File_Name,label\na.mp4,x\n", r"its columns are \['File_Name', 'label'\]. Rename 'File_Name'"),
        ("filename,label\na.mp4,x\n", r"its columns are \['filename', 'label'\]. Rename 'filename'"),
        ("path,label\na.mp4,x\n", "To read it as a table, give the file itself"),
        ("", "it is empty"),
    ],
)
def test_metadata_that_cannot_be_used_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    for options in ({}, {"layout": "videofolder"}):
        with pytest.raises(ValueError, match=words) as caught:
            load_video_dataset(tmp_path, **options)
        assert str(tmp_path / "metadata.csv") in str(caught.value)
        assert "Expected is a column `file_name` (or one `..._file_name`)" in str(caught.value)
        assert "separated by commas" in str(caught.value)
    for options in ({"layout": "class_folders"}, {"unlabelled": True}):
        assert load_video_dataset(tmp_path, **options)["label"][:] == [None, None]
    assert len(PreTrainingDataArguments(data=str(tmp_path)).load()) == 2
    with pytest.raises(ValueError, match=words):
        FineTuningDataArguments(data=str(tmp_path)).load()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_unusable_metadata_of_other_forms_and_of_splits_is_an_error(tmp_path: Path, suffix: str) -> None:
    _touch(tmp_path, "train/a.mp4", "train/b.mp4")
    _write_metadata(tmp_path / "train" / f"metadata.{suffix}", [{"name": "a.mp4", "label": "x"}])
    for split in ("train", None):
        with pytest.raises(
            ValueError, match=rf"metadata.{suffix} cannot be used: its columns are \['name', 'label'\]"
        ):
            load_video_dataset(tmp_path, split=split)
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\na.mp4,x\nb.mp4,y\n")
    with pytest.raises(ValueError, match=rf"metadata.{suffix} cannot be used"):
        load_video_dataset(tmp_path, split="train")


@pytest.mark.parametrize("name", ["Label", "labels", "action", "class_name"])
@pytest.mark.parametrize("path", ["file_name", "path"])
def test_labels_in_another_column_are_hinted_at(
    tmp_path: Path, name: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    file = tmp_path / ("metadata.csv" if path == "file_name" else "list.csv")
    file.write_text(f"{path},{name}\na.mp4,x\nb.mp4,y\n")
    source = tmp_path if path == "file_name" else file
    rows = load_video_dataset(source)
    hints = [record.getMessage() for record in caplog.records if "--label_column NAME" in record.getMessage()]
    assert len(hints) == 1
    assert f"its columns are ['{path}', '{name}']" in hints[0]
    with pytest.raises(ValueError, match=r"`--label_column NAME` \(Python: `label_column=`\)") as caught:
        label_names_of(rows)
    assert path == "path" or f"the other columns are ['{name}']" in str(caught.value)
    caplog.clear()
    assert label_names_of(load_video_dataset(source, label_column=name)) == ["x", "y"]
    assert "--label_column" not in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path;label\na.mp4;x\n", "first line is 'path;label'. Its columns are separated by semicolons"),
        ("path\tlabel\na.mp4\tx\n", "separated by tabs"),
        ("Path,Label\na.mp4,x\n", "has no column `path`: its first line is 'Path,Label'"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_table_with_another_separator_is_told(tmp_path: Path, text: str, words: str, suffix: str) -> None:
    _touch(tmp_path, "a.mp4")
    (tmp_path / f"list.{suffix}").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_video_dataset(tmp_path / f"list.{suffix}")


def test_validator_reads_metadata(tmp_path: Path) -> None:
    _touch(tmp_path, "0.mp4")
    _write_metadata(tmp_path / "metadata.jsonl", [{"file_name": "0.mp4"}, {"file_name": "gone.mp4"}, {"x": 1}])
    assert [problem.number for problem in validate_annotations(tmp_path).found] == [2, 3]


# ---------------------------------------------------------------------------------------------------------------------
# Columns of labels
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_label_column_of_a_table(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    lines = ["path,label,action", "a.mp4,0,x", "b.mp4,0,y"]
    if name.endswith("l"):
        lines = [json.dumps({"path": f"{n}.mp4", "label": 0, "action": a}) for n, a in (("a", "x"), ("b", "y"))]
    dataset = load_video_dataset(write_list(tmp_path / name, lines), label_column="action")
    assert dataset["label"][:] == [0, 1]
    assert dataset.features["label"].names == ["x", "y"]


# ---------------------------------------------------------------------------------------------------------------------
# The programs list alike
# ---------------------------------------------------------------------------------------------------------------------


def test_pretraining_walks_a_folder_whole(tmp_path: Path) -> None:
    _touch(tmp_path, "0.mp4", "films/1.mp4", "2024/june/2.mp4")
    rows = PreTrainingDataArguments(data=str(tmp_path)).load_training()
    assert (len(rows), set(rows["label"])) == (3, {None})
    _touch(tmp_path / "splits", "train/a/0.mp4", "validation/a/1.mp4")
    with pytest.raises(ValueError, match="splits, not classes: train, validation"):
        PreTrainingDataArguments(data=str(tmp_path / "splits")).load_training()


def test_prediction_and_data_sets_list_a_folder_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/1.mp4", "a/b/2.TS", "c/.3.mp4", "c/4.gif", "c/5.blend")
    (tmp_path / "c" / "up").symlink_to(tmp_path)
    listed = [row["video"]["path"] for row in load_video_dataset(tmp_path)]
    said = caplog.text
    assert find_videos([str(tmp_path)]) == listed
    assert len(listed) == 3
    assert "5.blend" in said
    assert caplog.text.count("5.blend") == 2


def test_program_says_what_was_left_out(tmp_path: Path) -> None:
    write_video(tmp_path / "data" / "a" / "1.mp4", 2)
    _touch(tmp_path, "data/a/2.xyz")
    run = run_script("check_videos", "--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"))
    assert "left out: 1 x another kind of file (1 .xyz: a/2.xyz)" in run.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["num_videos"] == 1
