"""Each layout, read from a miniature copy in its true format: labels, names, ids, counts, and every video decodes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from amd_hf.data.loading import load_video_dataset
from amd_hf.data.streams import stream_length
from amd_hf.data.video.decoding import open_video
from tests.helpers import miniatures
from tests.helpers.miniatures import Miniature, Sample
from tests.helpers.videos import frame_numbers


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`datasets` writes its copies of Parquet files here, not into the home directory."""
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


def _kinetics_folders(folder: Path) -> Miniature:
    return miniatures.kinetics(folder, class_folders=True)


def _newer_something(folder: Path) -> Miniature:
    return miniatures.something_something(folder, newer_release=True)


def _tar_with_names(folder: Path) -> Miniature:
    return miniatures.webdataset(folder, "json")


def _tar_with_texts(folder: Path) -> Miniature:
    return miniatures.webdataset(folder, "txt")


_SPLITS = ("train", "validation", "test")
_NAMES = {"label_names": miniatures.OWN_LABELS}

# (what makes the copy, path inside it, arguments, whether the labels have names); {split} stands for the split
_CASES: dict[str, tuple[Callable[[Path], Miniature], str, dict[str, Any], bool]] = {
    "class folders": (miniatures.class_folders, "", {"split": "{split}"}, True),
    "csv": (miniatures.tables, "{split}.csv", {}, True),
    "jsonl": (miniatures.tables, "{split}.jsonl", {}, True),
    "list": (miniatures.tables, "{split}.txt", {}, False),
    "list with names": (miniatures.tables, "{split}.txt", {"label_names": "{folder}/label_names.txt"}, True),
    "kinetics": (miniatures.kinetics, "", {"split": "{split}"}, True),
    "kinetics in class folders": (_kinetics_folders, "", {"split": "{split}"}, True),
    "something": (miniatures.something_something, "", {"split": "{split}"}, True),
    "something, one file": (miniatures.something_something, "something-something-v2-{split}.json", {}, True),
    "something, newer": (_newer_something, "", {"split": "{split}"}, True),
    "something, newer file": (_newer_something, "labels/{split}.json", {}, True),
    "frames": (
        miniatures.something_something_frames,
        "{split}.txt",
        {"label_names": "{folder}/label_names.txt"},
        True,
    ),
    "tar": (miniatures.webdataset, "", {"split": "{split}"}, False),
    "tar glob": (miniatures.webdataset, "{split}-*.tar", _NAMES, True),
    "tar, names": (_tar_with_names, "", {"split": "{split}", **_NAMES}, True),
    "tar, texts": (_tar_with_texts, "", {"split": "{split}", **_NAMES}, True),
    "parquet": (miniatures.parquet, "", {"split": "{split}"}, True),
    "parquet file": (miniatures.parquet, "data/{split}-00000-of-00001.parquet", {}, True),
}


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Miniature]:
    """Each copy, made once per run."""
    made: dict[Any, Miniature] = {}

    def get(make: Any) -> Miniature:
        if make not in made:
            made[make] = make(tmp_path_factory.mktemp("copy") / "data")
        return made[make]

    return get


def _check(dataset: Any, samples: list[Sample], names: list[str], has_names: bool) -> None:
    rows = list(dataset)
    if isinstance(dataset, datasets.IterableDataset):  # its order mixes the classes
        position = {sample.video_id: number for number, sample in enumerate(samples)}
        rows.sort(key=lambda row: position[row["video_id"]])
    assert set(rows[0]) == {"video", "label", "video_id"}
    labels = [None if sample.label is None else names.index(sample.label) for sample in samples]
    assert [(row["video_id"], row["label"]) for row in rows] == [
        (sample.video_id, label) for sample, label in zip(samples, labels, strict=True)
    ]
    assert getattr(dataset.features["label"], "names", None) == (names if has_names else None)
    for row, sample in zip(rows, samples, strict=True):
        with open_video(row["video"], "pyav") as video:
            assert frame_numbers(video.frames(range(sample.num_frames))) == list(range(sample.num_frames))
            assert len(video) == sample.num_frames


@pytest.mark.parametrize("split", _SPLITS)
@pytest.mark.parametrize("name", list(_CASES))
def test_layout_is_read_from_its_true_format_alike_map_style_and_streaming(
    copies: Callable[[Any], Miniature], name: str, split: str
) -> None:
    make, path, arguments, has_names = _CASES[name]
    if name == "parquet file" and split == "train":
        pytest.skip("the training set has two files")
    copy = copies(make)
    source = str(copy.folder / path.format(split=split))
    arguments = {
        key: value.format(split=split, folder=copy.folder) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    dataset = load_video_dataset(source, **arguments)
    assert isinstance(dataset, datasets.Dataset)
    _check(dataset, copy.samples[split], copy.label_names, has_names)
    stream = load_video_dataset(source, streaming=True, **arguments)
    assert isinstance(stream, datasets.IterableDataset)
    _check(stream, copy.samples[split], copy.label_names, has_names)
    assert stream_length(stream) == (None if name.startswith("tar") else len(dataset))
    assert stream.features == dataset.features or name.startswith("parquet")


@pytest.mark.parametrize("make", [miniatures.ucf101, miniatures.hmdb51])
@pytest.mark.parametrize("fold", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_official_split_is_read(copies: Callable[[Any], Miniature], make: Any, fold: int, split: str) -> None:
    copy = copies(make)
    for streaming in (False, True):
        dataset = load_video_dataset(copy.folder, split=split, fold=fold, streaming=streaming)
        _check(dataset, copy.samples[f"{split}0{fold}"], copy.label_names, True)


@pytest.mark.parametrize("make", [miniatures.ucf101, miniatures.hmdb51])
def test_data_set_without_validation_set_reads_its_test_list_and_says_so(
    copies: Callable[[Any], Miniature], make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    copy = copies(make)
    dataset = load_video_dataset(copy.folder, split="validation", fold=2)
    assert [row["video_id"] for row in dataset] == [sample.video_id for sample in copy.samples["test02"]]
    assert "has no validation set: reading its test list" in caplog.text


def test_unlabelled_list_is_read(copies: Callable[[Any], Miniature]) -> None:
    copy = copies(miniatures.tables)
    dataset = load_video_dataset(copy.folder / "train_unlabelled.txt")
    samples = [Sample(sample.video_id, None, sample.num_frames) for sample in copy.samples["train"]]
    _check(dataset, samples, [], False)


def test_videos_have_the_codecs_of_the_true_data_sets(copies: Callable[[Any], Miniature]) -> None:
    import av

    found = {}
    for make in (miniatures.kinetics, miniatures.something_something, miniatures.ucf101):
        path = next(path for path in sorted(copies(make).folder.rglob("*.*")) if path.suffix in miniatures.CODECS)
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            found[path.suffix] = (context.name, context.codec_tag)
    assert found[".mp4"][0] == "h264"
    assert found[".webm"][0] in ("vp9", "libvpx-vp9")
    assert found[".avi"] == ("mpeg4", "XVID")


# ---------------------------------------------------------------------------------------------------------------------
# What the layouts leave to choose
# ---------------------------------------------------------------------------------------------------------------------


def test_kinetics_csv_by_itself_reads_the_lines_of_a_split_from_root(copies: Callable[[Any], Miniature]) -> None:
    copy = copies(miniatures.kinetics)
    csv_file = copy.folder / "annotations" / "val.csv"
    for arguments in ({}, {"split": "val"}):
        dataset = load_video_dataset(csv_file, root=copy.folder, label_names=copy.label_names, **arguments)
        _check(dataset, copy.samples["validation"], copy.label_names, True)
    with pytest.raises(ValueError, match=r"No line of .*val\.csv belongs to the split 'train'"):
        load_video_dataset(csv_file, root=copy.folder, split="train")


def test_kinetics_video_that_is_not_there_keeps_its_row(tmp_path: Path) -> None:
    copy = miniatures.kinetics(tmp_path)
    gone = tmp_path / copy.samples["train"][1].video_id
    gone.unlink()
    dataset = load_video_dataset(tmp_path, split="train")
    assert len(dataset) == 4
    assert dataset[1]["video"]["path"] == str(gone)


def test_label_names_fix_the_numbers_where_a_file_lacks_classes(copies: Callable[[Any], Miniature]) -> None:
    copy = copies(miniatures.tables)
    lines = (copy.folder / "train.csv").read_text().splitlines()
    only_right = copy.folder / "only_right.csv"
    only_right.write_text("\n".join([lines[0], *(line for line in lines if line.endswith("right"))]))
    assert load_video_dataset(only_right)["label"][:] == [0]
    dataset = load_video_dataset(only_right, label_names=copy.label_names)
    assert dataset["label"][:] == [1]
    assert dataset.features["label"].names == copy.label_names


def test_class_folders_take_their_order_from_label_names(copies: Callable[[Any], Miniature]) -> None:
    folder = copies(miniatures.class_folders).folder
    dataset = load_video_dataset(folder, split="test", label_names=["up", "right", "left"])
    assert dataset["label"][:] == [2, 2, 2, 1, 1, 1]
    with pytest.raises(ValueError, match=r"1 class folder\(s\) of .* are none of the 2 label names: right"):
        load_video_dataset(folder, split="test", label_names=["up", "left"])


def test_frames_may_have_other_names(tmp_path: Path) -> None:
    copy = miniatures.something_something_frames(tmp_path)
    for file in tmp_path.rglob("img_*.jpg"):
        file.rename(file.with_name(file.name.replace("img_0", "frame")))
    dataset = load_video_dataset(tmp_path / "test.txt", frame_pattern="frame%04d.jpg")
    with open_video(dataset[0]["video"]) as video:
        assert frame_numbers(video.frames([2])) == [2]
    assert len(video) == copy.samples["test"][0].num_frames
    for pattern in ("img.jpg", "img_%s_%d.jpg", "img_{:05d}.jpg"):
        with pytest.raises(ValueError, match="`frame_pattern` must hold a number"):
            load_video_dataset(tmp_path / "test.txt", frame_pattern=pattern)


@pytest.mark.parametrize("layout", ["ucf101", "hmdb51"])
def test_wrong_split_or_fold_raises_with_the_choices(copies: Callable[[Any], Miniature], layout: str) -> None:
    copy = copies(getattr(miniatures, layout))
    with pytest.raises(ValueError, match="has the splits 'train' and 'test', not None: choose one"):
        load_video_dataset(copy.folder)
    with pytest.raises(ValueError, match=r"has the folds \[1, 2, 3\], not 4"):
        load_video_dataset(copy.folder, split="train", fold=4)


@pytest.mark.parametrize("make", [miniatures.something_something, miniatures.kinetics, miniatures.parquet])
def test_missing_split_raises_with_the_choices(copies: Callable[[Any], Miniature], make: Any) -> None:
    with pytest.raises(ValueError, match=r"choose one (of them|with `split`)"):
        load_video_dataset(copies(make).folder)


def test_stream_can_be_pickled_for_workers(copies: Callable[[Any], Miniature]) -> None:
    for make in (miniatures.webdataset, miniatures.parquet, miniatures.class_folders):
        stream = load_video_dataset(copies(make).folder, split="train", streaming=True)
        assert list(pickle.loads(pickle.dumps(stream))) == list(stream)
