"""Videos kept apart from training where nobody names others: by their ids alone."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import datasets
import pytest

from amd_hf.data.arguments import FineTuningDataArguments, count_common_videos, is_held_out, keep_apart
from amd_hf.data.streams import StreamReader, stream_length


def _rows(ids: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"video_id": ids, "label": [0] * len(ids), "video": [f"{i}.mp4" for i in ids]})


def _oracle(ids: list[str], fraction: float) -> set[str]:
    """The same by the digits of the hash: as a binary fraction it lies below `fraction`."""
    found = set()
    for video_id in ids:
        digits = "".join(f"{byte:08b}" for byte in hashlib.blake2b(video_id.encode(), digest_size=8).digest())
        if sum(int(digit) * 0.5**place for place, digit in enumerate(digits, start=1)) < fraction:
            found.add(video_id)
    return found


IDS = [f"class {number % 7}/video_{number}.mp4" for number in range(2000)]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_what_is_held_out_is_a_fraction_of_the_ids_and_depends_on_each_alone(fraction: float) -> None:
    train, held_out = keep_apart(_rows(IDS), fraction)
    assert set(held_out["video_id"]) == _oracle(IDS, fraction)
    assert abs(len(held_out) - fraction * len(IDS)) < 4 * (len(IDS) * fraction * (1 - fraction)) ** 0.5
    assert sorted([*train["video_id"], *held_out["video_id"]]) == sorted(IDS)
    few = random.Random(0).sample(IDS, 300)  # fewer of them, in another order
    assert set(keep_apart(_rows(few), fraction)[1]["video_id"]) == set(held_out["video_id"]) & set(few)


def test_more_is_held_out_with_a_larger_fraction_and_nothing_with_none() -> None:
    small, large = ({i for i in IDS if is_held_out(i, fraction)} for fraction in (0.1, 0.3))
    assert small < large
    assert not any(is_held_out(i, 0.0) for i in IDS)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_stream_leaves_out_the_same_videos(num_processes: int) -> None:
    train, held_out = keep_apart(_rows(IDS).to_iterable_dataset(num_shards=3), 0.1)
    read: list[str] = []
    for index in range(num_processes):
        reader = StreamReader(train, 0, num_processes, index)
        read += [row["video_id"] for row in reader.rows()]
    assert sorted(read) == sorted(set(IDS) - _oracle(IDS, 0.1))
    assert {row["video_id"] for row in held_out} == _oracle(IDS, 0.1)


def test_length_of_a_stream_is_counted_without_what_is_held_out() -> None:
    stream = _rows(IDS).to_iterable_dataset(num_shards=2)
    stream.info.splits = datasets.SplitDict()
    stream.info.splits["train"] = datasets.SplitInfo("train", num_examples=len(IDS))
    assert stream_length(stream) == 2000
    assert stream_length(keep_apart(stream, 0.1)[0]) == 1800


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 3.0])
def test_fraction_out_of_its_range_raises(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"`validation_fraction` must be at least 0 and below 1, got"):
        FineTuningDataArguments(validation_fraction=fraction)


def _write_list(folder: Path, name: str, ids: list[str]) -> str:
    (folder / ids[0]).parent.mkdir()
    (folder / ids[0]).write_bytes(b"")  # of ten none may be there, which would be a wrong root
    (folder / name).write_text("path,label\n" + "".join(f"{i},{i.split('/')[0]}\n" for i in ids))
    return str(folder / name)


@pytest.mark.parametrize(
    ("named", "holds_out"),
    [
        ({}, True),
        ({"validation_fraction": 0.0}, False),
        ({"eval_data": "other.csv"}, False),
        ({"test_data": "other.csv"}, False),
        ({"eval_split": "validation"}, False),
        ({"test_split": "test"}, False),
    ],
)
def test_only_one_split_without_others_named_is_divided(
    named: dict[str, Any], holds_out: bool, tmp_path: Path
) -> None:
    data = FineTuningDataArguments(data=_write_list(tmp_path, "videos.csv", IDS[:100]), **named)
    assert data.holds_out() == holds_out
    train = data.load_training()
    if not holds_out:
        assert len(train) == 100
    else:
        evaluation, test = data.load_evaluation(), data.load_test()
        assert evaluation["video_id"] == test["video_id"]
        assert len(train) + len(evaluation) == 100
        assert 0 < len(evaluation) < 30
        assert count_common_videos(train, evaluation) == 0


def test_folder_with_other_splits_is_trained_on_as_named(tmp_path: Path) -> None:
    for name in ("train/a/1.mp4", "train/b/2.mp4", "validation/a/3.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not FineTuningDataArguments(data=str(tmp_path), train_split="train").holds_out()
    assert FineTuningDataArguments(data=str(tmp_path / "train")).holds_out()


@pytest.mark.parametrize(
    ("folders", "named", "expected"),
    [
        (["train", "val"], {}, ("train", "val", "val")),
        (["Train", "test"], {}, ("Train", "test", "test")),
        (["train", "validation", "test"], {}, ("train", "validation", "test")),
        (["train", "val", "valid"], {}, (None, None, None)),  # which of the two?
        (["train", "val", "run"], {}, (None, None, None)),  # classes, perhaps
        (["train"], {}, (None, None, None)),
        (["train", "val"], {"train_split": "train"}, ("train", None, None)),
        (["train", "val"], {"eval_data": "other"}, (None, None, None)),
    ],
)
def test_splits_of_a_folder_are_found_if_nothing_else_is_named(
    folders: list[str], named: dict[str, str], expected: tuple[str | None, ...], tmp_path: Path
) -> None:
    for name in folders:
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "1.mp4").write_bytes(b"")
    data = FineTuningDataArguments(data=str(tmp_path), **named)
    data.find_splits()
    assert (data.train_split, data.eval_split, data.test_split) == expected
    assert (data.found_splits is None) == (expected[1] is None)
    if data.found_splits is not None:
        assert data.load_training()["video_id"] == [f"{folders[0]}/a/1.mp4"]
        assert not data.holds_out()


def test_recipe_with_splits_of_its_own_keeps_all_training_videos(tmp_path: Path) -> None:
    values = {"data": _write_list(tmp_path, "train.csv", IDS[:10]), "layout": None, "eval_data": None}
    recipe, notes = FineTuningDataArguments.fit_recipe({"eval_split": "validation"}, values, set())
    assert recipe == {"validation_fraction": 0.0}
    assert len(notes) == 1
    assert FineTuningDataArguments.fit_recipe({"flip_probability": 0.5}, values, set())[0] == {"flip_probability": 0.5}


def test_training_videos_among_others_are_counted_by_their_files(tmp_path: Path) -> None:
    train = _rows(IDS[:20])
    assert count_common_videos(train, _rows(IDS[15:40])) == 5
    assert count_common_videos(train, _rows(IDS[20:40])) == 0
