"""Data sets of one's own as `datasets` makes them: without `video_id`, decoded, split, shuffled, streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.data.checking import OK, CheckOptions, check_videos
from amd_hf.data.datasets.own import as_video_rows
from amd_hf.data.loading import load_video_dataset
from amd_hf.data.video.decoding import open_video
from amd_hf.evaluation.multiview import ViewOptions, run_multi_view_test
from tests.helpers.models import tiny_config
from tests.helpers.training import finetuning_args
from tests.helpers.videos import frame_numbers, write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_video(folder / f"{number}.mp4", 8 + number, 32, 32)) for number in range(4)]


def tiny_classifier(num_labels: int) -> AMDForVideoClassification:
    return AMDForVideoClassification(tiny_config(num_labels=num_labels, image_size=16))


def _decoded(rows: dict[str, Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(rows).cast_column("video", datasets.Video())


def _check(rows: Any, clips: list[str], places: list[int]) -> list[str]:
    """That rows are those of clips at these places and open; returns their ids, which are unique."""
    listed = list(rows)
    assert [row["label"] for row in listed] == [place % 2 for place in places]
    for row, place in zip(listed, places, strict=True):
        with open_video(row["video"], "pyav") as video:
            assert len(video) == 8 + place
            assert frame_numbers(video.frames([5])) == [5]
    ids = [row["video_id"] for row in listed]
    assert len(set(ids)) == len(ids)
    assert ids == [row["video_id"] for row in rows]  # the same when read again
    return ids


@pytest.mark.parametrize("kind", ["paths", "decoded", "bytes", "structs"])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_kind_of_column_is_read(clips: list[str], kind: str, streaming: bool) -> None:
    rows: dict[str, Any] = {"video": clips, "label": [0, 1, 0, 1]}
    if kind == "bytes":
        rows["video"] = [Path(clip).read_bytes() for clip in clips]
    if kind == "structs":
        rows["video"] = [{"path": clip, "bytes": None} for clip in clips]
    own = _decoded(rows) if kind == "decoded" else datasets.Dataset.from_dict(rows)
    own = own.add_column("note", list("abcd"))
    ids = _check(as_video_rows(own.to_iterable_dataset(2) if streaming else own), clips, [0, 1, 2, 3])
    if kind != "bytes" and not streaming:
        assert ids == clips
        assert as_video_rows(own)["note"][:] == list("abcd")
    assert _check(load_video_dataset(own), clips, [0, 1, 2, 3])
    assert len(list(load_video_dataset(own, streaming=True))) == 4


def test_ids_of_one_video_many_times_are_unique_in_streams_too(clips: list[str]) -> None:
    own = datasets.Dataset.from_dict({"video": [clips[0]] * 6, "label": [0] * 6})
    for rows in (own, own.to_iterable_dataset(3)):
        ids = [row["video_id"] for row in as_video_rows(rows)]
        assert len(set(ids)) == 6


def test_selected_and_shuffled_rows_keep_their_ids(clips: list[str]) -> None:
    own = _decoded({"video": clips, "label": [0, 1, 0, 1]})
    assert _check(as_video_rows(own.select([3, 1])), clips, [3, 1]) == [clips[3], clips[1]]
    assert _check(as_video_rows(own.select([3, 1, 3])), clips, [3, 1, 3])[1] == clips[1]
    half = own.train_test_split(0.5, seed=0)["test"]
    assert set(as_video_rows(half)["video_id"]) < set(clips)


def test_rows_that_are_ready_and_other_objects_stay_what_they_are(clips: list[str]) -> None:
    ready = as_video_rows(_decoded({"video": clips, "label": [0, 1, 0, 1]}))
    assert as_video_rows(ready) is ready
    other = [{"anything": 1}]
    assert as_video_rows(other) is other


def test_any_column_of_labels_serves(clips: list[str]) -> None:
    classes = datasets.ClassLabel(names=["jump", "run"])
    rows = {"clip": clips, "label": [7.5] * 4, "action": [0, 1, 0, 1], "name": ["run", "jump", "run", "run"]}
    own = datasets.Dataset.from_dict(rows).cast_column("clip", datasets.Video()).cast_column("action", classes)
    dataset = load_video_dataset(own, label_column="action")
    assert dataset.features["label"] == classes
    _check(dataset, clips, [0, 1, 2, 3])
    assert load_video_dataset(own, label_column="name", label_names=["jump", "run"])["label"][:] == [1, 0, 1, 1]
    stream = load_video_dataset(own.to_iterable_dataset(), label_column="action")
    assert stream.features["label"] == classes
    with pytest.raises(ValueError, match="no column 'actions' .did you mean 'action'"):
        load_video_dataset(own, label_column="actions")
    with pytest.raises(ValueError, match=r"type float64, not numbers of classes.*class_encode_column"):
        load_video_dataset(own)
    with pytest.raises(ValueError, match="are names: give all of them"):
        load_video_dataset(own, label_column="name")


def test_several_splits_are_to_be_chosen_from(clips: list[str]) -> None:
    own = datasets.DatasetDict(train=datasets.Dataset.from_dict({"video": clips, "label": [0, 1, 0, 1]}))
    assert len(load_video_dataset(own, split="train")) == 4
    with pytest.raises(TypeError, match=r"splits \['train'\]"):
        as_video_rows(own)
    with pytest.raises(ValueError, match="has the splits"):
        load_video_dataset(own, split="tarin")
    with pytest.raises(TypeError, match="a path, a Hub id or a data set"):
        load_video_dataset(7)


@pytest.mark.parametrize("streaming", [False, True])
def test_trainer_takes_them_for_training_and_evaluation(clips: list[str], tmp_path: Path, streaming: bool) -> None:
    own = _decoded({"video": clips, "label": [0, 1, 0, 1]})
    model = tiny_classifier(num_labels=2)
    args = finetuning_args(tmp_path, max_steps=2, per_device_train_batch_size=2)
    rows = own.to_iterable_dataset(2) if streaming else own
    trainer = AMDFineTuningTrainer(model, args, train_dataset=rows, eval_dataset=own)
    assert trainer.train().training_loss > 0
    assert trainer.evaluate()["eval_videos_read"] == 4
    assert trainer.evaluate(own.select([0, 2]))["eval_videos_read"] == 2


def test_evaluation_and_checks_take_them(clips: list[str]) -> None:
    from accelerate import Accelerator

    own = _decoded({"video": clips, "label": [0, 1, 0, 1]})
    model = tiny_classifier(num_labels=2)
    views = ViewOptions.for_model(model.config, sampling_rate=1, num_segments=1, num_crops=1)
    result = run_multi_view_test(model, own, views, Accelerator(cpu=True))
    assert [outcome["video_id"] for outcome in result.predictions] == clips
    checks = list(check_videos(own, CheckOptions(min_frames=1), num_threads=1))
    assert [check.status for check in checks] == [OK] * 4


@pytest.mark.parametrize(("num_labels", "names"), [(3, ["a", "b"]), (2, ["a", "b", "c"]), (2, None)])
def test_num_labels_that_disagrees_with_the_data_is_an_error(
    clips: list[str], tmp_path: Path, num_labels: int, names: list[str] | None
) -> None:
    own = datasets.Dataset.from_dict({"video": clips, "label": [0, 1, 0, 2 if names is None or len(names) > 2 else 1]})
    if names is not None:
        own = own.cast_column("label", datasets.ClassLabel(names=names))
    said = rf"The data has {len(names or 'abc')} classes, the model .*{num_labels} .`num_labels`"
    with pytest.raises(ValueError, match=said):
        AMDFineTuningTrainer(tiny_classifier(num_labels=num_labels), finetuning_args(tmp_path), train_dataset=own)


# ---------------------------------------------------------------------------------------------------------------------
# WebDataset repositories, read by `datasets`
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("label", ["cls", "json"])
def test_webdataset_repository_gives_its_labels(clips: list[str], tmp_path: Path, label: str, streaming: bool) -> None:
    from tests.helpers.miniatures import write_tar

    members = []
    for number, clip in enumerate(clips):
        text = str(number % 2) if label == "cls" else f'{{"label": {number % 2}, "action": {1 - number % 2}}}'
        members += [(f"{number}.mp4", Path(clip).read_bytes()), (f"{number}.{label}", text.encode())]
    write_tar(tmp_path / "repo" / "train-0.tar", members)
    datasets.config.HF_DATASETS_CACHE, before = tmp_path / "cache", datasets.config.HF_DATASETS_CACHE
    try:
        rows = load_video_dataset(tmp_path / "repo", split="train", layout="hub", streaming=streaming)
        assert _check(rows, clips, [0, 1, 2, 3])[1].endswith("train-0.tar/1")
        if label == "json":
            other = load_video_dataset(tmp_path / "repo", "train", streaming, "hub", label_column="action")
            assert [row["label"] for row in other] == [1, 0, 1, 0]
    finally:
        datasets.config.HF_DATASETS_CACHE = before
