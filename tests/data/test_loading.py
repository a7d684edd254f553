"""From folders and list files to rows: what is found, how it is labelled, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest

from amd_hf.data.loading import load_video_dataset
from amd_hf.data.video.decoding import open_video
from tests.helpers.videos import frame_numbers, write_list, write_video


def _touch(root: Path, names: Sequence[str]) -> Path:
    """Empty files: a data set is listed by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def _rows(dataset: datasets.Dataset | datasets.IterableDataset) -> list[tuple[str, int | None]]:
    return [(row["video_id"], row["label"]) for row in dataset]


# ---------------------------------------------------------------------------------------------------------------------
# Class folders
# ---------------------------------------------------------------------------------------------------------------------


def test_class_folders_give_rows_labelled_by_sorted_folder_names(tmp_path: Path) -> None:
    _touch(tmp_path, ["right/b.mp4", "right/a.MP4", "left/c d.avi", "Up/e.webm"])
    dataset = load_video_dataset(tmp_path)
    assert dataset.features["label"].names == ["Up", "left", "right"]
    assert _rows(dataset) == [("Up/e.webm", 0), ("left/c d.avi", 1), ("right/a.MP4", 2), ("right/b.mp4", 2)]
    assert dataset[0]["video"] == {"path": str(tmp_path / "Up" / "e.webm"), "bytes": None}


def test_class_folders_agree_with_videofolder(tmp_path: Path) -> None:
    names = ["b/1.mp4", "b/2.mp4", "a/1.mp4", "c/x.mp4"]
    for name in names:
        write_video(tmp_path / name, 2)
    reference = datasets.load_dataset("videofolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / ".cache"))[
        "train"
    ]
    reference = reference.cast_column("video", datasets.Video(decode=False))
    dataset = load_video_dataset(tmp_path)
    assert dataset.features["label"] == reference.features["label"]
    assert sorted((row["video"]["path"], row["label"]) for row in dataset) == sorted(
        (row["video"]["path"], row["label"]) for row in reference
    )


def test_row_of_a_dataset_opens_as_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "left" / "a.mp4", 10)
    with open_video(load_video_dataset(tmp_path)[0]["video"]) as video:
        assert frame_numbers(video.frames([4])) == [4]


def test_split_reads_its_own_videos_with_the_labels_of_all_splits(tmp_path: Path) -> None:
    _touch(tmp_path, ["train/a/1.mp4", "train/b/2.mp4", "train/c/3.mp4", "validation/a/4.mp4", "validation/c/5.mp4"])
    dataset = load_video_dataset(tmp_path, split="validation")
    assert dataset.features["label"].names == ["a", "b", "c"]
    assert _rows(dataset) == [("validation/a/4.mp4", 0), ("validation/c/5.mp4", 2)]


def test_split_does_not_take_classes_from_folders_that_are_no_splits(tmp_path: Path) -> None:
    _touch(tmp_path, ["train/b/2.mp4", "other_data/a/1.mp4"])
    assert load_video_dataset(tmp_path, split="train").features["label"].names == ["b"]


def test_split_of_an_own_name_has_its_own_classes(tmp_path: Path) -> None:
    _touch(tmp_path, ["mine/b/2.mp4", "train/a/1.mp4"])
    assert load_video_dataset(tmp_path, split="mine").features["label"].names == ["b"]


@pytest.mark.parametrize("split", [None, "train"])
def test_flat_folder_of_videos_is_unlabelled(tmp_path: Path, split: str | None) -> None:
    _touch(tmp_path / (split or ""), ["b.mp4", "a.mp4", "notes.txt", "._a.mp4"])
    prefix = f"{split}/" if split else ""
    assert _rows(load_video_dataset(tmp_path, split=split)) == [(f"{prefix}a.mp4", None), (f"{prefix}b.mp4", None)]


def test_files_that_are_no_videos_and_empty_folders_are_passed_over(tmp_path: Path) -> None:
    _touch(tmp_path, ["a/1.mp4", "a/1.json", "a/.hidden.mp4", "docs/readme.md", ".cache/x.mp4"])
    dataset = load_video_dataset(tmp_path)
    assert dataset.features["label"].names == ["a"]
    assert _rows(dataset) == [("a/1.mp4", 0)]


@pytest.mark.parametrize("streaming", [False, True])
def test_streaming_gives_the_same_rows_and_features(tmp_path: Path, streaming: bool) -> None:
    _touch(tmp_path, [f"{label}/{number}.mp4" for label in "ab" for number in range(100)])
    reference = load_video_dataset(tmp_path)
    dataset = load_video_dataset(tmp_path, streaming=streaming)
    assert isinstance(dataset, datasets.IterableDataset) == streaming
    assert sorted(dataset, key=lambda row: row["video_id"]) == sorted(reference, key=lambda row: row["video_id"])
    if streaming:  # each shard holds some of every class
        first = dataset.shard(num_shards=dataset.num_shards, index=0)
        assert dataset.num_shards > 1
        order = [row["label"] for row in dataset]
        assert order != sorted(order)
        assert [row["video_id"] for row in first] == [row["video_id"] for row in dataset][: len(list(first))]
    assert dataset.features == reference.features
    assert not streaming or dataset.num_shards == 128


def test_missing_folder_raises_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*nowhere'\. Give a folder"):
        load_video_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        load_video_dataset(tmp_path / "nowhere", layout="class_folders")


def test_missing_split_raises_with_the_folders_there_are(tmp_path: Path) -> None:
    _touch(tmp_path, ["train/a/1.mp4", "val/a/2.mp4"])
    with pytest.raises(FileNotFoundError, match=r"no split 'test' in .*\['train', 'val'\]"):
        load_video_dataset(tmp_path, split="test")


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["a/readme.txt"]], ids=["nothing", "text", "folder of text"])
def test_folder_without_videos_raises_with_what_was_looked_for(tmp_path: Path, names: list[str]) -> None:
    _touch(tmp_path, names)
    with pytest.raises(ValueError, match=r"Found no video in .*\.mp4.*Expected <class>/<video>"):
        load_video_dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.mp4", "my_split/b/2.mp4"], r"folders \['my_split', 'train'\] hold class folders.*`split`"),
        (["train/1.mp4", "test/2.mp4"], r"are splits, not classes: test, train.*`split`"),
        (["a/1.mp4", "2.mp4"], r"holds videos \(2\.mp4, \.\.\.\) and folders of videos \(a, \.\.\.\)"),
    ],
    ids=["splits of classes", "flat splits", "loose videos beside classes"],
)
def test_layout_that_reads_in_two_ways_raises(tmp_path: Path, names: list[str], message: str) -> None:
    _touch(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        load_video_dataset(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# List files
# ---------------------------------------------------------------------------------------------------------------------


def test_list_file_gives_its_rows_in_order(tmp_path: Path) -> None:
    _touch(tmp_path, ["b.mp4", "a/clip one.mp4", "frames_of_c"])
    lines = ["b.mp4 3", "", "a/clip one.mp4  0", "frames_of_c\t12"]
    dataset = load_video_dataset(write_list(tmp_path / "train.txt", lines))
    assert _rows(dataset) == [("b.mp4", 3), ("a/clip one.mp4", 0), ("frames_of_c", 12)]
    assert dataset[1]["video"] == {"path": str(tmp_path / "a" / "clip one.mp4"), "bytes": None}
    assert dataset.features["label"] == datasets.Value("int64")


def test_list_file_with_windows_line_ends_and_byte_order_mark_is_read(tmp_path: Path) -> None:
    _touch(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfa.mp4 0\r\nb.mp4 1\r\n")
    assert _rows(load_video_dataset(tmp_path / "list.csv")) == [("a.mp4", 0), ("b.mp4", 1)]


def test_list_file_paths_start_from_root(tmp_path: Path) -> None:
    videos = _touch(tmp_path / "videos", ["a.mp4"])
    outside = _touch(tmp_path / "elsewhere", ["b.mp4"]) / "b.mp4"
    (tmp_path / "lists").mkdir()
    lines = ["./a.mp4 0", f"{videos}/sub/../c.mp4 1", f"{outside} 2"]
    dataset = load_video_dataset(write_list(tmp_path / "lists" / "l.txt", lines), root=videos)
    assert _rows(dataset) == [("a.mp4", 0), ("c.mp4", 1), (outside.as_posix(), 2)]
    assert dataset[0]["video"]["path"] == str(videos / "a.mp4")


def test_list_file_without_any_label_gives_unlabelled_rows(tmp_path: Path) -> None:
    _touch(tmp_path, ["a.mp4", "b 1.mp4"])
    dataset = load_video_dataset(write_list(tmp_path / "l.txt", ["a.mp4", "b 1.mp4"]), streaming=True)
    assert _rows(dataset) == [("a.mp4", None), ("b 1.mp4", None)]


@pytest.mark.parametrize("as_file", [False, True])
def test_label_names_come_along(tmp_path: Path, as_file: bool) -> None:
    _touch(tmp_path, ["a.mp4"])
    names: Sequence[str] | Path = ["left hand", "right hand"]
    if as_file:
        names = write_list(tmp_path / "names.txt", names)
    dataset = load_video_dataset(write_list(tmp_path / "l.txt", ["a.mp4 1"]), label_names=names)
    assert dataset.features["label"].names == ["left hand", "right hand"]
    assert _rows(dataset) == [("a.mp4", 1)]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_list_raises(tmp_path: Path, content: str) -> None:
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(ValueError, match=r"list file .*l\.txt is empty. Write one `path label` per line"):
        load_video_dataset(tmp_path / "l.txt")


def test_list_with_some_labels_missing_raises_with_the_line_numbers(tmp_path: Path) -> None:
    lines = [f"{number}.mp4" + (" 1" if number % 2 else "") for number in range(60)]
    numbers = ", ".join(str(number) for number in range(1, 40, 2))
    with pytest.raises(ValueError, match=f"30 of 60 lines .* have no label: line {numbers} and 10 more; .* Add it"):
        load_video_dataset(write_list(tmp_path / "l.txt", lines))


@pytest.mark.parametrize("bad", ["a.mp4 cat", "a.mp4 1.5", "a.mp4 -1", "a.mp4,1", "17"])
def test_list_line_with_a_bad_label_raises_with_its_number(tmp_path: Path, bad: str) -> None:
    with pytest.raises(
        ValueError, match=f"1 of 2 lines .*: line 2; the first is '{bad}'. Expected a path and an integer"
    ):
        load_video_dataset(write_list(tmp_path / "l.txt", ["b.mp4 0", bad]))


def test_list_label_without_a_name_raises_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 2 lines .* have a label above 1, the last one with a name: line 2"):
        load_video_dataset(write_list(tmp_path / "l.txt", ["a.mp4 0", "b.mp4 2"]), label_names=["x", "y"])


def test_list_naming_a_video_twice_raises_with_both_lines(tmp_path: Path) -> None:
    _touch(tmp_path, ["a.mp4", "b.mp4"])
    lines = ["a.mp4 0", "b.mp4 1", "./a.mp4 1"]
    with pytest.raises(ValueError, match=r"1 of 3 lines .* earlier one names: line 3; .*'a\.mp4 \(first: 1\)'"):
        load_video_dataset(write_list(tmp_path / "l.txt", lines))


def test_list_with_a_wrong_root_raises_with_the_path_tried(tmp_path: Path) -> None:
    list_file = write_list(tmp_path / "l.txt", [f"{number}.mp4 0" for number in range(50)])
    with pytest.raises(FileNotFoundError, match=r"None of the first 10 videos .*/0\.mp4'.*set `root`"):
        load_video_dataset(list_file)
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere', given as `root`"):
        load_video_dataset(list_file, root=tmp_path / "nowhere")


def test_missing_list_and_missing_names_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no list file '.*l\.txt'"):
        load_video_dataset(tmp_path / "l.txt", layout="list_file")
    with pytest.raises(FileNotFoundError, match=r"no file of label names '.*names\.txt'"):
        load_video_dataset(write_list(tmp_path / "l.txt", ["a.mp4 0"]), label_names=tmp_path / "names.txt")


def test_label_names_that_repeat_raise(tmp_path: Path) -> None:
    names = write_list(tmp_path / "names.txt", ["x", "y", "x"])
    with pytest.raises(ValueError, match=r"names\.txt names 1 label\(s\) twice"):
        load_video_dataset(write_list(tmp_path / "l.txt", ["a.mp4 0"]), label_names=names)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("archive", "layout"), [("all.tar", "webdataset"), ("all.parquet", "parquet")])
def test_archive_beside_videos_raises_with_the_choice(tmp_path: Path, archive: str, layout: str) -> None:
    _touch(tmp_path, [archive, "train/a/1.mp4"])
    with pytest.raises(
        ValueError, match=f"holds {archive} and videos: .* layout='{layout}' or layout='class_folders'"
    ):
        load_video_dataset(tmp_path, split="train")
    assert _rows(load_video_dataset(tmp_path, split="train", layout="class_folders")) == [("train/a/1.mp4", 0)]


def test_unknown_layout_raises_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of \['class_folders', 'list_file', .*\] or None, not 'tar'"):
        load_video_dataset(tmp_path, layout="tar")


@pytest.mark.parametrize(
    ("layout", "argument"),
    [("class_folders", {"root": "x"}), ("class_folders", {"fold": 1}), ("list_file", {"split": "train"})],
)
def test_argument_without_meaning_for_the_layout_raises(
    tmp_path: Path, layout: str, argument: dict[str, str | list[str]]
) -> None:
    _touch(tmp_path, ["a/1.mp4"])
    path = tmp_path if layout == "class_folders" else write_list(tmp_path / "l.txt", ["a/1.mp4 0"])
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}` has no meaning for the layout '{layout}'"):
        load_video_dataset(path, **argument)
