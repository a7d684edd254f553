"""The order of a stream's rows, and going on from any place in it."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import datasets
import datasets.distributed
import pytest

from amd_hf.data import streams
from amd_hf.data.loaders import StreamDataLoader, StreamIterator, iterate_once
from amd_hf.data.streams import SingleShards, StreamReader, stream_length


_SHARD_SIZES = (7, 1, 4, 12, 2)  # uneven, and as few as a stream of one's own may have
_NAMES = [f"{shard}-{row}" for shard, size in enumerate(_SHARD_SIZES) for row in range(size)]
_rows_made: Counter[str] = Counter()  # what the source was asked for


def _make_rows(shards: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for shard, size in shards:
        for row in range(size):
            _rows_made[f"{shard}-{row}"] += 1
            yield {"video_id": f"{shard}-{row}"}


def _stream(sizes: tuple[int, ...] = _SHARD_SIZES) -> datasets.IterableDataset:
    features = datasets.Features({"video_id": datasets.Value("string")})
    shards = list(enumerate(sizes))
    return datasets.IterableDataset.from_generator(_make_rows, features=features, gen_kwargs={"shards": shards})


def _table_stream() -> datasets.IterableDataset:
    rows = datasets.Dataset.from_dict({"video_id": _NAMES})
    return rows.to_iterable_dataset(num_shards=5).map(lambda row: {"video_id": row["video_id"]})


def _pass(reader: StreamReader, epoch: int = 0) -> list[str]:
    reader.start_pass(epoch)
    return [row["video_id"] for row in reader.rows()]


class _CountingList(list):
    """Sources of a stream that count how often one of them is looked at."""

    num_looks = 0

    def __getitem__(self, index: Any) -> Any:
        type(self).num_looks += 1
        return super().__getitem__(index)


class TestSingleShards:
    @pytest.mark.parametrize(
        "derive",
        [
            lambda stream: stream,
            lambda stream: stream.map(lambda row: {"video_id": row["video_id"] + "!"}),
            lambda stream: stream.filter(lambda row: not row["video_id"].endswith("1")).select_columns(["video_id"]),
            lambda stream: stream.take(150),
            lambda stream: stream.skip(7),
            lambda stream: datasets.interleave_datasets([stream, _stream((1,) * 75)]),
            lambda stream: datasets.concatenate_datasets([stream, _stream((2,) * 40)]),
            lambda stream: datasets.distributed.split_dataset_by_node(stream, 1, 2),
        ],
        ids=["plain", "map", "filter", "take", "skip", "interleave", "concatenate", "split_by_node"],
    )
    def test_each_is_the_shard_that_datasets_gives(self, derive):
        stream = derive(_stream(tuple(1 + number % 3 for number in range(101))))
        shards = SingleShards(stream)
        for index in (0, 1, 12, 13, 38, 39, stream.num_shards // 2, stream.num_shards - 1):
            expected = list(stream.shard(num_shards=stream.num_shards, index=index))
            assert list(shards[index]) == expected

    def test_work_of_a_pass_grows_with_the_shards_not_with_their_square(self):
        def looks(num_shards: int) -> int:
            features = datasets.Features({"video_id": datasets.Value("string")})
            shards = _CountingList((number, 1) for number in range(num_shards))
            stream = datasets.IterableDataset.from_generator(
                _make_rows, features=features, gen_kwargs={"shards": shards}
            )
            _CountingList.num_looks = 0
            assert len(_pass(StreamReader(stream.map(lambda row: row), 0))) == num_shards
            return _CountingList.num_looks

        assert 0 < looks(200) <= 10 * 200


class TestStreamReader:
    @pytest.mark.parametrize("num_processes", [1, 2, 3, 5, 7])
    def test_every_row_comes_once_over_all_processes(self, num_processes):
        shares = [_pass(StreamReader(_stream(), 0, num_processes, index)) for index in range(num_processes)]
        assert sorted(itertools.chain(*shares)) == sorted(_NAMES)
        assert all(shares)

    def test_order_is_drawn_from_seed_and_epoch(self):
        orders = {(seed, epoch): _pass(StreamReader(_stream(), seed), epoch) for seed in (0, 1) for epoch in (0, 1)}
        assert len({tuple(order) for order in orders.values()}) == 4
        assert _pass(StreamReader(_stream(), 1), 1) == orders[1, 1]
        assert orders[0, 0] != _NAMES

    def test_rows_know_their_epoch(self):
        reader = StreamReader(_stream(), 0)
        reader.start_pass(3)
        assert {row["epoch"] for row in reader.rows()} == {3}

    def test_rows_of_several_shards_are_mixed_in_a_block(self):
        first = _pass(StreamReader(_stream((50, 50, 50, 50)), 0, buffer_rows=40))[:20]
        assert Counter(name[0] for name in first).keys() == {"0", "1", "2", "3"}

    def test_unshuffled_rows_come_in_the_order_of_the_shards(self):
        assert _pass(StreamReader(_stream(), 0, shuffle=False, buffer_rows=1)) == _NAMES

    @pytest.mark.parametrize("stream", [_stream, _table_stream])
    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_going_on_from_any_place_gives_the_same_rows(self, stream, num_processes):
        def read(reader: StreamReader) -> Iterator[tuple[str, int]]:
            while True:
                yield from ((row["video_id"], row["epoch"]) for row in reader.rows())
                reader.start_pass(reader.epoch + 1)

        options = {"num_processes": num_processes, "process_index": num_processes - 1, "buffer_rows": 5}
        whole = list(itertools.islice(read(StreamReader(stream(), 3, **options)), 60))
        for stop in range(0, 50, 3):
            first = StreamReader(stream(), 3, **options)
            rows = list(itertools.islice(read(first), stop))
            second = StreamReader(stream(), 3, **options)
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            rows += itertools.islice(read(second), 7)
            third = StreamReader(stream(), 3, **options)  # stopped and resumed twice
            third.load_state_dict(json.loads(json.dumps(second.state_dict())))
            rows += itertools.islice(read(third), 60 - len(rows))
            assert rows == whole[: len(rows)], stop

    def test_shards_read_to_their_end_are_not_opened_again(self):
        options = {"buffer_rows": 4}
        sizes = (10,) * 12
        reader = StreamReader(_stream(sizes), 0, **options)
        read = [row["video_id"] for row in itertools.islice(reader.rows(), 80)]
        state = reader.state_dict()
        _rows_made.clear()
        resumed = StreamReader(_stream(sizes), 0, **options)
        resumed.load_state_dict(state)
        rest = [row["video_id"] for row in resumed.rows()]
        assert len(rest) == 40
        read_again = _rows_made.keys() & set(read)
        assert len(read_again) <= 10 * streams.NUM_OPEN_SHARDS  # those of the open shards, none of the others
        assert len({name.split("-")[0] for name in read_again}) <= streams.NUM_OPEN_SHARDS

    def test_only_a_block_is_read_ahead(self):
        _rows_made.clear()
        reader = StreamReader(_stream((1000,)), 0, buffer_rows=16)
        for _ in itertools.islice(reader.rows(), 40):
            assert sum(_rows_made.values()) <= 48

    @pytest.mark.parametrize(
        "change", [{"seed": 1}, {"num_processes": 2}, {"buffer_rows": 8}, {"dataset": _stream((3, 3))}]
    )
    def test_place_of_another_run_raises(self, change):
        options = {"dataset": _stream(), "seed": 0}
        state = StreamReader(**options).state_dict()
        with pytest.raises(ValueError, match=r"cannot go on.*now"):
            StreamReader(**{**options, **change}).load_state_dict(state)

    def test_empty_buffer_raises(self):
        with pytest.raises(ValueError, match="buffer_rows"):
            StreamReader(_stream(), 0, buffer_rows=0)

    def test_nobody_forks_while_a_row_is_read(self):
        held = threading.Event()

        def read() -> None:
            with streams._reading:
                held.set()
                time.sleep(0.3)

        thread = threading.Thread(target=read)
        thread.start()
        held.wait()
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(int(streams._reading.locked()))
        assert time.monotonic() - start > 0.2
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        assert not streams._reading.locked()


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["video_id"] for row in rows]


def _loader(num_workers: int = 0, **options: Any) -> StreamDataLoader:
    reader = StreamReader(_stream(), 0, buffer_rows=6, **options)
    return StreamDataLoader(reader, 4, _ids, num_batches=100, num_workers=num_workers)


def _take(iterator: StreamIterator, num_batches: int) -> list[list[str]]:
    batches = list(itertools.islice(iterator, num_batches))
    while len(batches) < num_batches:
        iterator.start_next_pass()
        batches += itertools.islice(iterator, num_batches - len(batches))
    return batches


class TestStreamDataLoader:
    @pytest.fixture(scope="class")
    def batches(self) -> list[list[str]]:
        return _take(iter(_loader()), 20)

    def test_a_pass_holds_each_row_once_and_ends_with_what_is_left(self, batches):
        assert [len(batch) for batch in batches[:14]] == 2 * [4, 4, 4, 4, 4, 4, 2]
        for start in (0, 7):
            assert sorted(itertools.chain(*batches[start : start + 7])) == sorted(_NAMES)
        assert batches[:7] != batches[7:14]

    @pytest.mark.parametrize("num_workers", [1, 4])
    def test_number_of_workers_changes_nothing(self, batches, num_workers):
        assert _take(iter(_loader(num_workers)), 20) == batches

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_going_on_behind_any_batch(self, batches, num_workers):
        for stop in (0, 1, 6, 7, 8, 15):
            first = _loader(num_workers)
            _take(iter(first), stop)
            second = _loader(num_workers)
            second.load_position(json.loads(json.dumps(first.position)))
            again = _take(iter(second), 2)
            third = _loader(num_workers)
            third.load_position(second.position)
            assert again + _take(iter(third), 3) == batches[stop : stop + 5]

    def test_end_of_a_pass_stays_until_the_next_is_started(self):
        loader = _loader()
        iterator = iter(loader)
        for _ in range(7):
            assert iterator.next_batch() is not None
        assert iterator.next_batch() is None
        assert iterator.next_batch() is None
        assert loader.position["epoch"] == 0  # not over before it is left behind
        again = _loader()
        again.load_position(loader.position)
        assert iter(again).next_batch() is None
        iterator.start_next_pass()
        assert loader.position["epoch"] == 1
        assert iterator.next_batch() is not None

    def test_pass_cannot_be_left_before_its_end(self):
        iterator = iter(_loader())
        with pytest.raises(RuntimeError, match="not ended"):
            iterator.start_next_pass()

    def test_error_of_the_source_comes_out(self):
        def fail(row: dict[str, Any]) -> dict[str, Any]:
            if row["video_id"] == "3-2":
                raise OSError("the connection is gone")
            return row

        loader = StreamDataLoader(StreamReader(_stream().map(fail), 0, buffer_rows=2), 2, _ids, num_batches=9)
        with pytest.raises(OSError, match="the connection is gone"):
            _take(iter(loader), 20)

    def test_no_thread_is_left_behind(self):
        before = threading.active_count()
        iterator = iter(_loader())
        iterator.next_batch()
        assert threading.active_count() == before + 1
        del iterator
        assert threading.active_count() == before

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_evaluation_takes_every_row_once(self, num_workers):
        shares = []
        for index in range(2):
            reader = StreamReader(_stream(), 0, 2, index, shuffle=False, buffer_rows=1)
            shares += list(iterate_once(reader, 4, _ids, num_workers=num_workers))
        assert sorted(itertools.chain(*shares)) == sorted(_NAMES)


class TestStreamLength:
    def test_known_and_unknown(self):
        stream = _stream()
        assert stream_length(stream) is None
        stream.info.splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=26)})
        assert stream_length(stream) == 26
        stream.info.splits = datasets.SplitDict({"test": datasets.SplitInfo("test", num_examples=3)})
        assert stream_length(stream) is None  # the stream is of another split
